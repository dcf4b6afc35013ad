"""`python -m ssmd.archiver`: archives sealed segments, and copies them to where the environment says, until a signal.

SIGTERM and SIGINT end it within two seconds: what was sealed just before is given its manifest first, then the rest as
far as the time reaches (the recorder seals its last segment just before it stops us). Log lines, and in an environment
a report a second (ssmd/report.py), are JSON on standard error.

Exit codes: 0 stopped as asked, or (--once) all is archived and copied · 1 (--once) a segment is damaged, or could not
be archived or copied · 2 usage, configuration, or (--once) the Storage refuses us · 4 it failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssmd import archiver
from ssmd.archiver.retention import Rule
from ssmd.archiver.service import ENDING, Destination, Service, say
from ssmd.cli import options as flags
from ssmd.errors import EXIT_FAILED, EXIT_INCOMPLETE, EXIT_OK, SsmdError, UsageError
from ssmd.journal.paths import feed_root

if TYPE_CHECKING:
    from ssmd.environment import Environment

WAIT_FOR_OTHER_S = 10.0  # one that is being stopped


def parser() -> argparse.ArgumentParser:
    """The flags; each can be an environment variable SSMD_..."""
    made = flags.parser("archiver", (__doc__ or "").split("\n\n")[0])
    made.prog = "python -m ssmd.archiver"
    made.add_argument("-e", "--environment", metavar="ENV", help="take everything from this environment")
    flags.add_changes(made)
    made.add_argument("--once", action="store_true", help="archive what there is, then end")
    made.add_argument("--keep-uncompressed", action="store_true", help="write manifests, do not compress")
    made.add_argument("--level", type=int, default=archiver.LEVEL, metavar="N", help="of zstd (default: %(default)s)")
    return made


def settings(given: argparse.Namespace) -> tuple[Path, archiver.Options, Destination | None]:
    """Where to look, what to do, and where to copy to. Raises UsageError."""
    if not 1 <= given.level <= 19:
        raise UsageError(f"--level {given.level}: zstd has levels 1 to 19")
    wanted = archiver.Options(compress=not given.keep_uncompressed, level=given.level)
    if given.environment is not None:
        environment = flags.load(given)
        if not environment.flusher.compress:
            wanted = replace(wanted, compress=False)
        return feed_root(environment.storage.path, environment.feed), wanted, destination(environment)
    if given.data is None:
        raise UsageError("where to look is not said", hint="give --data DIR, or -e ENV")
    return Path(given.data), wanted, None


def destination(environment: Environment) -> Destination | None:
    """What the environment's `storage` asks for; None: segments stay where they are."""
    from ssmd import host  # brings pydantic: not for --data
    from ssmd.middleware.factory import MiddlewareFactory

    section = environment.storage
    if environment.rehearsal:
        raise UsageError(
            f"environment {environment.name} is a rehearsal: its store is the memory of the process that has it",
            hint="python -m ssmd.rehearsal uploads to it and compares; `ssmd run` starts that",
        )
    made = MiddlewareFactory(environment, host.secret_reader(environment)).storage()
    if made is None:
        return None
    rule = None
    if section.retain_days is not None:
        rule = Rule(after_s=section.retain_days * 86_400, published=environment.transport.type == "nats")
    return Destination(made, place(environment), section.prefix, environment.feed, rule)


def place(environment: Environment) -> str:
    """How people call the Storage, and how marks name it."""
    section = environment.storage
    if section.type == "s3":
        return f"s3://{section.bucket}" + (f" at {section.endpoint}" if section.endpoint else "")
    return f"file://{section.archive}"


def once(service: Service) -> int:
    """Archives and copies what there is."""
    deadline = time.monotonic() + WAIT_FOR_OTHER_S
    while not service.is_ours():
        if time.monotonic() > deadline:
            raise UsageError(str(service.blocked), hint="stop the other one first: it does the same work")
        time.sleep(0.05)
    left = service.look()
    if service.refused is not None:
        raise service.refused
    return EXIT_INCOMPLETE if left else EXIT_OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; see the exit codes above."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        given = parser().parse_args(arguments)
        root, wanted, target = settings(given)
        service = Service(root, wanted, target)
        if given.once:
            return once(service)
        os.nice(10)  # recording comes first
        say("started", root=str(root), copies_to=target.place if target else None)
        service.run(reports=given.environment is not None)
    except SsmdError as error:
        print(f"ssmd.archiver: {error}", file=sys.stderr)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return EXIT_FAILED
    say("stopped")
    return EXIT_OK


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a worker that hangs in a Storage is not waited for: every step of it can be killed
