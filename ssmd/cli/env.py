"""`ssmd env`: checks environment files before a program depends on them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from ssmd import environment as env
from ssmd import host
from ssmd.cli import options
from ssmd.errors import EXIT_OK, EXIT_USAGE, SsmdError

EPILOG = """actions:
  check ENV   judge a file and print what it means: defaults filled in, paths absolute, secrets as references
  list        name the environments that can be given by name
"""


def main(arguments: Sequence[str]) -> int:
    made = options.parser("env", "Check an environment file, or list those that there are.")
    made.epilog = EPILOG
    made.add_argument("action", choices=["check", "list"])
    made.add_argument("environment", nargs="?", metavar="ENV", help="name of an environment, or path of its file")
    made.add_argument("--ready", action="store_true", help="check: exit 2 also if a secret is not set or not readable")
    made.add_argument(
        "--connect",
        action="store_true",
        help="check: ask bus, object store, cache and journal; exit 1 if one is not reachable, 2 if one refuses us",
    )
    options.add_changes(made)
    chosen = made.parse_args(list(arguments))
    if chosen.action == "list":
        return _list()
    if chosen.environment is None:
        made.error("check: name an environment or give the path of its file")
    return _check(chosen)


def _list() -> int:
    """A broken file is listed with its errors; it does not hide the others."""
    code = EXIT_OK
    for name, path in host.names().items():
        try:
            about = _about(host.load(path))
        except SsmdError as error:
            about, code = "broken", EXIT_USAGE
            sys.stderr.write(f"{error}\n")
        print(f"{name:<16} {about:<44} {path}")
    return code


def _about(environment: env.Environment) -> str:
    exchange = environment.exchange
    return "simulator on this machine" if exchange.simulator else (exchange.websocket_url or "").split("/")[2]


def _check(chosen: argparse.Namespace) -> int:
    environment = host.load(chosen.environment, chosen.set, data=chosen.data)
    print(env.describe(environment), end="")
    states = host.secret_states(environment)
    for path, source, state in states:
        print(f"# {path}: {source} is {state}")
    required = [name for name, key in environment.keys.items() if key.required]
    unset = [path for path, _, state in states if state == "not set" and path.split(".")[1] in required]
    refusals = [f"not set on this machine: {', '.join(unset)}"] if unset else []
    refusals += [str(problem) for problem in env.unserved(environment)]
    sys.stdout.flush()
    if refusals:
        sys.stderr.write("".join(f"ssmd run will refuse to start, {refusal}\n" for refusal in refusals))
    code = _connect(chosen) if chosen.connect else EXIT_OK
    return EXIT_USAGE if refusals and chosen.ready else code


def _connect(chosen: argparse.Namespace) -> int:
    """What `ssmd run` asks before it begins, in a process of its own: a part that hangs ends with it."""
    return subprocess.call([sys.executable, "-m", "ssmd.middleware", *options.as_arguments(chosen), "--check"])
