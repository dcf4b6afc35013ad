"""`python -m ssmd.lastvalues -e ENV`: keeps the last value of each market in the environment's cache, until SIGTERM.

`ssmd run` starts it where `cache.type` is redis. It follows the journal, so it may begin, be killed or wait for the
cache at any time: nothing is lost by that but the time. A stop writes what is read by then, for a second at most. Once
a second a line on standard error says how it is (ssmd/report.py).

Exit codes: 0 stopped as asked · 2 usage, or the cache refuses us.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence

from ssmd import host
from ssmd.cli import options as flags
from ssmd.errors import EXIT_OK, LimitError, MiddlewareError, SsmdError, UnavailableError, UsageError
from ssmd.helperlog import sayer, tell
from ssmd.journal.follow import Follower
from ssmd.journal.identity import known_identity
from ssmd.journal.paths import feed_root
from ssmd.lastvalues import LastValues
from ssmd.lastvalues.service import WRITE_EVERY_S, Clocks, Service, begin
from ssmd.middleware.factory import MiddlewareFactory
from ssmd.middleware.interfaces import Cache

REPORT_EVERY_S = 1.0
STOP_BUDGET_S = 1.0
ENDING = frozenset({signal.SIGTERM, signal.SIGINT})


def parser() -> argparse.ArgumentParser:
    """The flags; each can be an environment variable SSMD_..."""
    made = flags.parser("lastvalues", (__doc__ or "").split("\n\n")[0])
    made.prog = "python -m ssmd.lastvalues"
    flags.add_environment(made)
    return made


class Loop:
    """Runs a service until a signal comes. Signals are blocked and asked for, so that no step is cut short."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._report_at = 0.0
        self._ending = False

    def run(self) -> None:
        while not self._ends(0):
            began = time.monotonic()
            while self._service.read() and not self._ends(0):
                self._service.write()
                self._tell()
            self._service.write()
            self._tell()
            self._ends(max(WRITE_EVERY_S - (time.monotonic() - began), 0.001))
        self._finish()

    def _finish(self) -> None:
        """What is there by now, for a moment; then the last report."""
        deadline = time.monotonic() + STOP_BUDGET_S
        while time.monotonic() < deadline and self._service.read():
            pass
        if self._service.trouble is None:  # who is away costs seconds that a stop does not have
            self._service.write(now=True)
        say_report(self._service)

    def _tell(self) -> None:
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + REPORT_EVERY_S
            say_report(self._service)

    def _ends(self, wait_s: float) -> bool:
        self._ending = self._ending or signal.sigtimedwait(ENDING, wait_s) is not None
        return self._ending


def say_report(service: Service) -> None:
    tell(service.report().line())


say = sayer("lastvalues")


def make_service(given: argparse.Namespace) -> tuple[Service, Cache]:
    """What the environment asks for. Raises SsmdError where it cannot be."""
    environment = flags.load(given)
    if environment.cache.type != "redis":
        raise UsageError(
            f"cache.type of environment {environment.name} is {environment.cache.type}: no other program could read it",
            hint="set cache.type: redis and cache.url, or read a journal with `ssmd last --data DIR`",
        )
    cache = MiddlewareFactory(environment, host.secret_reader(environment)).cache()
    try:
        cache.check()
    except (UnavailableError, LimitError) as error:
        say("the cache cannot be written to yet", level="warning", reason=str(error))
    root = feed_root(environment.storage.path, environment.feed)
    journal = known_identity(root)
    shard = str(environment.shard.index) if environment.shard.count > 1 else None
    values = LastValues(environment.feed, journal=journal, shard=shard, max_markets=environment.cache.max_size)
    follower = Follower([root], start=begin(root))
    clocks = Clocks(time.time_ns, time.monotonic)
    say("started", root=str(root), journal=journal)
    return Service(values, follower, cache, clocks, journal=journal, ttl_s=environment.cache.ttl_s), cache


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; see the exit codes above."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    os.nice(10)  # recording comes first
    try:
        service, cache = make_service(parser().parse_args(arguments))
    except SsmdError as error:
        evidence = error.evidence if isinstance(error, MiddlewareError) else None
        print(f"ssmd.lastvalues: {error}{f' ({evidence})' if evidence else ''}", file=sys.stderr)
        return error.exit_code
    Loop(service).run()
    service.close()
    cache.close()
    say("stopped")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
