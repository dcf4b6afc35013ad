"""`python -m ssmd.rehearsal -e ENV`: rehearses what an environment asks for behind its journal, until SIGTERM.

`ssmd run` starts it where `storage.type` is memory (docs/rehearsal.md). One `Report` line a second and log lines go to
standard error; the last report has the result. Asked to end, it compares what is left for at most FINISH_S.

Exit codes: 0 stopped as asked, and every record that there was is the same in every copy · 1 copies differ, or not all
could be compared · 2 usage, or another process does the same.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ssmd import host
from ssmd.cli import options as flags
from ssmd.environment import Environment
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, SsmdError, UsageError
from ssmd.helperlog import sayer, tell
from ssmd.journal.identity import known_identity
from ssmd.journal.paths import feed_root
from ssmd.middleware.factory import MiddlewareFactory
from ssmd.publisher.cursor import locked
from ssmd.rehearsal import SCRATCH_NOTE, Parts, Rehearsal

ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
REPORT_EVERY_S = 1.0
LOOK_S = 0.2
FINISH_S = 2.6  # of the 4 s that `ssmd run` has for all of its end

say = sayer("rehearsal")


def asked_to_end(wait_s: float) -> bool:
    """Waits at most so long for a signal; they are blocked otherwise, so that no step is cut short."""
    return signal.sigtimedwait(ENDING, wait_s) is not None


def parts_of(environment: Environment) -> Parts:
    """The four implementations, as the factory makes them. UsageError for an environment that is no rehearsal."""
    factory = MiddlewareFactory(environment, host.secret_reader(environment))
    storage = factory.storage() if environment.rehearsal else None
    if storage is None:
        raise UsageError(
            f"environment {environment.name} is no rehearsal: its storage.type is {environment.storage.type}",
            hint=f"ssmd run -e {environment.name} --rehearse",
        )
    return Parts(factory.transport(), storage, factory.cache(), factory.journal())


def work(rehearsal: Rehearsal) -> int:
    """Steps until a stop is asked for, then finishes."""
    report_at, nap_s = 0.0, 0.0
    while not asked_to_end(nap_s):
        nap_s = rehearsal.step()
        if time.monotonic() >= report_at:
            report_at = time.monotonic() + REPORT_EVERY_S
            tell(rehearsal.report().line())
    complete = rehearsal.finish(time.monotonic() + FINISH_S)
    report = rehearsal.report()
    tell(report.line())
    return EXIT_OK if complete and not report.trouble else EXIT_INCOMPLETE


def run(environment: Environment) -> int:
    parts = parts_of(environment)
    root = feed_root(Path(environment.storage.path), environment.feed)
    while (journal := known_identity(root)) is None:
        if asked_to_end(LOOK_S):
            return EXIT_OK
    scratch = (Path(environment.storage.path) / SCRATCH_NOTE).exists()
    with locked(root):
        rehearsal = Rehearsal(environment, root, journal, parts, scratch=scratch, log=say)
        say("started", root=str(root), journal=journal, publish=environment.transport.publish)
        code = work(rehearsal)
        rehearsal.close()
    say("stopped")
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; see the exit codes above."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    made = flags.parser("rehearsal", (__doc__ or "").split("\n\n")[0])
    made.prog = "python -m ssmd.rehearsal"
    flags.add_environment(made)
    try:
        given = made.parse_args(arguments)
        os.nice(5)  # recording comes first
        return run(flags.load(given))
    except SsmdError as error:
        print(f"ssmd.rehearsal: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
