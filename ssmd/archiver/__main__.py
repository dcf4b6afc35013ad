"""`python -m ssmd.archiver`: looks for sealed segments and archives them, until SIGTERM or SIGINT.

A stop ends after the step in hand; sealed segments that have no manifest yet get one first, as far as two seconds
reach (the recorder seals its last segment just before it stops us). Log lines are JSON on standard error.

Exit codes: 0 stopped as asked, or (--once) all is archived · 1 (--once) a segment is damaged or could not be
archived · 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ssmd import archiver
from ssmd.cli import options as flags
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, DamageError, SsmdError, UsageError
from ssmd.journal.paths import Segment, feed_root

LOOK_EVERY_S = 1.0
LAST_LOOK_S = 2.0
ENDING = frozenset({signal.SIGTERM, signal.SIGINT})


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


def settings(given: argparse.Namespace) -> tuple[Path, archiver.Options]:
    """Where to look and what to do. Raises UsageError."""
    if not 1 <= given.level <= 19:
        raise UsageError(f"--level {given.level}: zstd has levels 1 to 19")
    wanted = archiver.Options(compress=not given.keep_uncompressed, level=given.level)
    if given.environment is not None:
        environment = flags.load(given)
        if not environment.flusher.compress:
            wanted = replace(wanted, compress=False)
        return feed_root(environment.storage.path, environment.feed), wanted
    if given.data is None:
        raise UsageError("where to look is not said", hint="give --data DIR, or -e ENV")
    return Path(given.data), wanted


class Service:
    """The loop around `archiver.archive`. Signals are blocked and asked for, so that no step is cut short."""

    def __init__(self, root: Path, wanted: archiver.Options) -> None:
        self._root = root
        self._wanted = wanted
        self._done: set[Path] = set()
        self._failed: dict[Path, SsmdError] = {}  # each told once; damaged segments are left as they are
        self._ending = False

    def run(self) -> None:
        """Until a signal comes."""
        while not self._ends(0):
            self.look()
            self._ends(LOOK_EVERY_S)
        self._last_look()

    def look(self) -> int:
        """Archives all that is waiting; gives how many segments could not be."""
        for segment in archiver.pending([self._root], self._wanted, known=self._done):
            if not self._is_damaged(segment) and not self._archive(segment):
                break
        return len(self._failed)

    def _is_damaged(self, segment: Segment) -> bool:
        return isinstance(self._failed.get(segment.path), DamageError)

    def _archive(self, segment: Segment) -> bool:
        began = time.monotonic()
        try:
            if not archiver.archive(segment, self._wanted, self._go_on):
                return False
        except SsmdError as error:
            self._tell(segment, error)
            return True
        self._failed.pop(segment.path, None)
        say("archived", segment=archiver.name_of(segment), seconds=round(time.monotonic() - began, 3))
        return True

    def _tell(self, segment: Segment, error: SsmdError) -> None:
        """A failure, unless it is the one that was told before: on a full disk it comes again each second."""
        if str(self._failed.get(segment.path)) != str(error):
            say("not archived", level="error", segment=str(segment.path), reason=str(error))
        self._failed[segment.path] = error

    def _last_look(self) -> None:
        """Manifests for what was sealed while we were being stopped."""
        deadline = time.monotonic() + LAST_LOOK_S
        only_manifests = replace(self._wanted, compress=False)
        for segment in reversed(archiver.pending([self._root], only_manifests, known=self._done)):
            if time.monotonic() > deadline or self._is_damaged(segment):
                continue
            try:
                archiver.archive(segment, only_manifests)
            except SsmdError as error:
                self._tell(segment, error)

    def _go_on(self, step: str, segment: Segment) -> bool:
        return not self._ends(0)

    def _ends(self, wait_s: float) -> bool:
        self._ending = self._ending or signal.sigtimedwait(ENDING, wait_s) is not None
        return self._ending


def say(event: str, *, level: str = "info", **fields: object) -> None:
    """One JSON line for the log."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"part": "archiver", **fields, "event": event, "level": level, "timestamp": now}
    print(json.dumps(line), file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; see the exit codes above."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        given = parser().parse_args(arguments)
        root, wanted = settings(given)
    except SsmdError as error:
        print(f"ssmd.archiver: {error}", file=sys.stderr)
        return error.exit_code
    service = Service(root, wanted)
    if given.once:
        return EXIT_INCOMPLETE if service.look() else EXIT_OK
    os.nice(10)  # recording comes first
    say("started", root=str(root))
    service.run()
    say("stopped")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
