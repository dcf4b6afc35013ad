"""The command `ssmd`: finds the subcommand, runs it, and turns its end into an exit code and a readable message.

A subcommand is a module with `main(arguments) -> exit code`, named in `COMMANDS` and imported only when it is the one
that was asked for: `ssmd cat` must answer at once, whatever `ssmd run` needs. Errors end here and nowhere else: what a
user can mend is one message with its remedy, anything unexpected a traceback and exit code 4. docs/cli.md.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssmd.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, SsmdError
from ssmd.terminal import shown_lines

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand; `gevent`: `ssmd.__main__` patches the standard library before it is imported."""

    name: str
    module: str
    summary: str
    gevent: bool = False


COMMANDS = (
    Command("run", "ssmd.cli.run", "record a feed until it is told to stop", gevent=True),
    Command("cat", "ssmd.cli.cat", "print the records of a journal"),
    Command("verify", "ssmd.cli.verify", "recompute a journal from its bytes; say what is missing"),
    Command("tail", "ssmd.cli.tail", "print records as they are recorded or published"),
    Command("last", "ssmd.cli.last", "show what was last seen of each market"),
    Command("env", "ssmd.cli.env", "check an environment file; list those that there are"),
    Command("simulate", "ssmd.cli.simulate", "serve a Kalshi-compatible exchange on this machine"),
    Command("version", "ssmd.cli.version", "print the version"),
)


def available() -> list[Command]:
    """The commands whose module is there."""
    return [command for command in COMMANDS if importlib.util.find_spec(command.module)]


def usage() -> str:
    """What `ssmd --help` prints."""
    rows = "\n".join(f"  {command.name:<10} {command.summary}" for command in available())
    return f"""usage: ssmd COMMAND [options]

Records what an exchange sends, byte for byte, and proves what is missing.

commands:
{rows}

`ssmd COMMAND --help` explains one of them. A flag --some-flag may also be given as the environment variable
SSMD_SOME_FLAG. Exit codes: 0 fine, 1 a check failed or data is incomplete, 2 usage or configuration, 3 refused by the
exchange, 4 a part failed, or what is read from (a bus, an archive, Redis) cannot be reached.
"""


def find(arguments: Sequence[str]) -> Command | None:
    """The command that the arguments ask for, or None."""
    name = arguments[0] if arguments else ""
    return next((command for command in available() if command.name == name), None)


def main(arguments: Sequence[str]) -> int:
    """Runs `ssmd ARGUMENTS` and gives its exit code."""
    if arguments and arguments[0] in ("-h", "--help", "help"):
        return _guarded("ssmd", lambda: _print(usage()))
    if arguments and arguments[0] == "--version":
        arguments = ["version"]
    command = find(arguments)
    if command is None:
        sys.stderr.write(_unknown(arguments))
        return EXIT_USAGE
    return _guarded(f"ssmd {command.name}", lambda: _load(command)(arguments[1:]))


def _load(command: Command) -> Callable[[Sequence[str]], int]:
    entry: Callable[[Sequence[str]], int] = importlib.import_module(command.module).main
    if not command.gevent and callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on it is a KeyboardInterrupt
    return entry


def _print(text: str) -> int:
    sys.stdout.write(text)
    return EXIT_OK


def _unknown(arguments: Sequence[str]) -> str:
    if not arguments:
        return usage()
    close = difflib.get_close_matches(arguments[0], [command.name for command in available()], n=1)
    hint = f"did you mean `ssmd {close[0]}`?" if close else "`ssmd --help` lists the commands"
    return f"ssmd: there is no command {arguments[0]!r}\n  {hint}\n"


def _guarded(name: str, action: Callable[[], int]) -> int:
    """Runs the action; every way in which it may end becomes an exit code."""
    try:
        code = action()
        sys.stdout.flush()
        return code
    except SsmdError as error:
        sys.stderr.write(f"{name}: {shown_lines(str(error))}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Who read our output has enough. What is still buffered must not fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except ModuleNotFoundError as error:
        if error.name != "ssmd._native":
            traceback.print_exc()
            return EXIT_FAILED
        sys.stderr.write(f"{name}: ssmd is not built yet, or was cleaned away\n  run: make\n")
        return EXIT_USAGE
    except Exception:
        traceback.print_exc()
        return EXIT_FAILED
