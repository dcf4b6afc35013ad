"""Flags that several commands share, and the one way in which they are read.

Precedence: flag, then environment variable (SSMD_ and the flag's name), then the environment file, then the default.
The only importer of ConfigArgParse.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import configargparse

if TYPE_CHECKING:
    from ssmd.environment import Environment

ENVIRONMENT_VARIABLE_PREFIX = "SSMD_"


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser for `ssmd COMMAND`, whose flags can also be given as environment variables."""
    made: argparse.ArgumentParser = configargparse.ArgumentParser(
        prog=f"ssmd {command}",
        description=description,
        auto_env_var_prefix=ENVIRONMENT_VARIABLE_PREFIX,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return made


def add_environment(made: argparse.ArgumentParser) -> None:
    """-e, --data and --set, for the programs that work in an environment."""
    made.add_argument(
        "-e", "--environment", required=True, metavar="ENV", help="name of an environment, or path of its file"
    )
    add_changes(made)


def add_changes(made: argparse.ArgumentParser) -> None:
    """--data and --set: what replaces keys of the environment file."""
    made.add_argument("--data", metavar="DIR", help="folder of the journal, in place of storage.path")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="change one key of the environment, such as flusher.sync_interval_ms=100; may be given several times",
    )


def load(options: argparse.Namespace) -> Environment:
    """The environment that -e, --data and --set ask for, to run in it. Raises UsageError."""
    from ssmd import environment, host  # brings pydantic, 0.1 s: not for commands that need no environment

    found = host.load(options.environment, options.set, data=options.data)
    if problems := environment.unserved(found):
        raise environment.InvalidEnvironment(f"environment {found.name}", problems)
    return found


def as_arguments(options: argparse.Namespace) -> list[str]:
    """The same choice as arguments for a helper process, whatever the flags or variables were."""
    arguments = ["-e", str(options.environment)]
    if options.data is not None:
        arguments += ["--data", str(options.data)]
    for setting in options.set:
        arguments += ["--set", setting]
    return arguments
