"""`python -m ssmd.publisher -e ENV`: publishes a journal on the environment's bus, until SIGTERM or SIGINT.

`ssmd run` starts it where `transport.type` is nats; it may as well run by itself, beside the recorder or after it. One
`Report` line a second and log lines go to standard error. Asked to end, it publishes what is there for at most
FINISH_S, saves its cursor and ends; a bus that does not answer does not hold it up.

Exit codes: 0 stopped as asked (--once: all is published) · 1 records were gone before they could be published, or
(--once) not all is published: the bus could not be reached, or it was asked to end before · 2 usage, a cursor that does
not fit, a bus that refuses us, another publisher.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ssmd import host, publisher
from ssmd.cli import options as flags
from ssmd.environment import Environment
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, EXIT_USAGE, MiddlewareError, SsmdError, UsageError
from ssmd.helperlog import sayer, tell
from ssmd.journal.identity import known_identity
from ssmd.journal.paths import feed_root
from ssmd.middleware.factory import MiddlewareFactory
from ssmd.publisher import Options, Publisher
from ssmd.publisher.cursor import Target, locked
from ssmd.report import Report

ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
REPORT_EVERY_S = 1.0
FINISH_S = 1.3
END_S = 1.8  # whatever still runs then is cut short: the cursor file knows what may have been sent


def parser() -> argparse.ArgumentParser:
    made = flags.parser("publisher", (__doc__ or "").split("\n\n")[0])
    made.prog = "python -m ssmd.publisher"
    flags.add_environment(made)
    made.add_argument("--once", action="store_true", help="publish what there is, then end")
    made.add_argument(
        "--move-to", type=int, metavar="NUMBER", help="make this record the next to be published (1: all), then end"
    )
    return made


say = sayer("publisher")


class Watch:
    """Reports each second, and takes the signals: a thread of its own, for a step may wait for the bus."""

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self.stopping = threading.Event()
        self._publisher: Publisher | None = None
        self._over = False
        self._lock = threading.Lock()  # for the two above: a publisher is not closed while it reports
        self.waiting_for = ""  # while there is no publisher yet
        self.ended = threading.Event()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        while signal.sigtimedwait(ENDING, REPORT_EVERY_S) is None:
            self.report()
        self.stopping.set()
        if not self.ended.wait(END_S):
            self.report()
            with self._lock:
                code = exit_code(self._publisher.report() if self._publisher else None, once=self._once)
            os._exit(code)

    def show(self, publisher: Publisher) -> None:
        """Whose reports are told from now on."""
        with self._lock:
            self._publisher = publisher

    def last_report(self) -> None:
        """What is told last: the publisher may be closed then."""
        self.report()
        with self._lock:
            self._over = True

    def report(self) -> None:
        with self._lock:
            if self._over:
                return
            waiting = Report("publisher", trouble=self.waiting_for or None)
            tell((self._publisher.report() if self._publisher else waiting).line())


def await_identity(root: Path, watch: Watch, *, once: bool) -> str | None:
    """The journal's identity; waits for a journal that is not there yet. None: a stop was asked for."""
    while (found := known_identity(root)) is None:
        sentence = f"{root}: there is no journal here yet"
        if once:
            raise UsageError(sentence, hint="`ssmd run` makes it.")
        if not watch.waiting_for:
            say(sentence + ": waiting for it")
            watch.waiting_for = sentence
        if watch.stopping.wait(REPORT_EVERY_S / 2):
            return None
    return found


def work(publisher: Publisher, watch: Watch, *, once: bool) -> int:
    """Steps until a stop is asked for, or (`once`) all is published."""
    deadline = 0.0
    while True:
        nap_s = publisher.step(time.monotonic())
        if once and nap_s > 0:  # all is published, or the bus failed
            break
        if watch.stopping.is_set():
            deadline = deadline or time.monotonic() + FINISH_S
            if nap_s > 0 or time.monotonic() > deadline:
                break
        watch.stopping.wait(nap_s)
    publisher.finish()
    return exit_code(publisher.report(), once=once)


def exit_code(report: Report | None, *, once: bool) -> int:
    """What an end says. None: it had not begun to publish."""
    if report is None:
        return EXIT_INCOMPLETE if once else EXIT_OK
    return EXIT_INCOMPLETE if report.counters["missed"] or (once and report.lag_records) else EXIT_OK


def target_of(environment: Environment, journal: str) -> Target:
    bus = environment.transport
    return Target(journal, str(bus.url), bus.stream, bus.subject_prefix, bus.publish)


def run(environment: Environment, *, once: bool, move_to: int | None) -> int:
    section = environment.transport
    if section.type != "nats":
        raise UsageError(
            f"environment {environment.name} has no bus: transport.type is {section.type}",
            hint="Set transport.type nats and transport.url.",
        )
    root = feed_root(environment.storage.path, environment.feed)
    watch = Watch(once=once)
    journal = await_identity(root, watch, once=once or move_to is not None)
    if journal is None:
        return EXIT_OK
    target = target_of(environment, journal)
    with locked(root):
        if move_to is not None:
            publisher.move(root, target, max(move_to, 1))
            say("moved", next_record=max(move_to, 1), target=section.url)
            return EXIT_OK
        bus = MiddlewareFactory(environment, host.secret_reader(environment)).transport()
        options = Options(section.subject_prefix, section.publish, section.batch_records, section.durable_only)
        made = Publisher(root, bus, target, options, ring=environment.ring.path, log=say)
        watch.show(made)
        say("started", journal=journal, root=str(root), bus=section.url, stream=section.stream, publish=section.publish)
        code = work(made, watch, once=once)
        watch.last_report()
        made.close()
        bus.close()
    say("stopped")
    watch.ended.set()
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; see the exit codes above."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        given = parser().parse_args(arguments)
        os.nice(5)  # recording comes first
        return run(flags.load(given), once=given.once, move_to=given.move_to)
    except SsmdError as error:
        print(f"ssmd.publisher: {error}", file=sys.stderr)
        refused = isinstance(error, MiddlewareError) and not error.retryable  # whatever it was: the user's to mend
        return EXIT_USAGE if refused else error.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a bus that does not answer holds its thread, and that would hold the end up
