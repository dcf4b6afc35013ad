"""`python -m ssmd.flusher`: writes the ring of another process into segment files, until SIGTERM or SIGINT.

The C thread works; this main thread starts it, tells in JSON lines on standard error what changes (stalled,
recovered, sealed), and ends it. It may be stopped, killed, upgraded and started again while the recorder runs: the ring
holds the records meanwhile, and the commit line in the ring says where to go on.

Exit codes: 0 stopped as asked, all durable and sealed · 2 cannot start (ring in use, other version, no permission) ·
4 not all could be written within 5 s of the signal (the ring keeps the rest).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from ssmd.cli import options as flags
from ssmd.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, DamageError, SsmdError, UsageError
from ssmd.journal.paths import feed_root
from ssmd.journal.recover import recover
from ssmd.native.failure import InUseError, MissingError, StaleError
from ssmd.native.flusher import FlusherOptions, FlusherThread, Stop
from ssmd.native.ring import FlusherState, FlusherStatus
from ssmd.schedule import day_table

STOP_WITHIN_S = 4.5  # of the 5 s that a stop may take
OTHER_ENDS_WITHIN_S = 6.0  # one that was asked to end, and has 5 s for that
WATCH_EVERY_S = 0.2
ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to flush, from where, to where."""

    ring: Path
    options: FlusherOptions
    wait: bool  # for a ring that is not there yet


def parser() -> argparse.ArgumentParser:
    """The flags; each can be an environment variable SSMD_..."""
    made = flags.parser("flusher", (__doc__ or "").split("\n\n")[0])
    made.prog = "python -m ssmd.flusher"
    made.add_argument("-e", "--environment", metavar="ENV", help="take everything from this environment")
    flags.add_changes(made)
    made.add_argument("--ring", metavar="PATH", help="ring to read, with --data in place of an environment")
    made.add_argument(
        "--feed", default="kalshi", help="without an environment: the journal is DIR/FEED (default: kalshi)"
    )
    made.add_argument("--sync-interval-ms", type=_count, metavar="MS", help="sync this long after the first new byte")
    made.add_argument("--sync-bytes", type=_count, metavar="N", help="or after this many bytes")
    made.add_argument("--rotate-minutes", type=_count, metavar="MIN", help="a new segment at multiples of this, UTC")
    made.add_argument("--rotate-bytes", type=_count, metavar="N", help="or at this size")
    made.add_argument("--nap-us", type=_count, metavar="US", help="pause when the ring is empty")
    made.add_argument("--timezone", help="whose days the folders are (default: UTC)")
    made.add_argument("--day-start", metavar="HH:MM", help="when a day begins there (default: 00:00)")
    made.add_argument("--no-wait", action="store_true", help="end with an error if the ring is not there yet")
    return made


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def settings(asked: argparse.Namespace) -> Settings:
    """What the flags ask for; those that are given go before the environment. Raises UsageError."""
    given = {name: getattr(asked, name) for name in _TUNING if getattr(asked, name) is not None}
    if asked.environment is not None:
        environment = flags.load(asked)
        tuning = {name: getattr(environment.flushing, name) for name in _TUNING} | given
        ring, data, feed = environment.ring.path, environment.storage.path, environment.feed
        timezone, day_start = environment.schedule.timezone, environment.schedule.day_start
    elif asked.ring is not None and asked.data is not None:
        tuning, ring, data, feed = given, Path(asked.ring), Path(asked.data), asked.feed
        timezone, day_start = "UTC", "00:00"
    else:
        raise UsageError("what to flush is not said", hint="give -e ENV, or --ring PATH and --data DIR")
    if ring is None:
        raise UsageError(f"{asked.environment}: the environment has no ring.path")
    days = day_table(asked.timezone or timezone, asked.day_start or day_start, around_ns=time.time_ns())
    return Settings(ring, FlusherOptions(root=feed_root(data, feed), days=days, **tuning), not asked.no_wait)


_TUNING = ("sync_interval_ms", "sync_bytes", "rotate_minutes", "rotate_bytes", "nap_us")


def start(wanted: Settings, log: Any) -> FlusherThread | None:
    """A running flusher; None if a signal came while waiting for the ring, or for another flusher that is ending."""
    waiting = False
    deadline = time.monotonic() + OTHER_ENDS_WITHIN_S
    while True:
        try:
            return FlusherThread.start(wanted.ring, wanted.options)
        except (MissingError, StaleError, InUseError) as reason:
            if not wanted.wait or (isinstance(reason, InUseError) and time.monotonic() > deadline):
                raise
            if not waiting:
                log.info("waiting for the ring", ring=str(wanted.ring), reason=str(reason).splitlines()[0])
            waiting = True
        except DamageError as damage:
            return _start_after_damage(wanted, damage, log)
        if _asked_to_end():
            return None


def _start_after_damage(wanted: Settings, damage: DamageError, log: Any) -> FlusherThread:
    """Bytes that were committed are not on the disk: the files decide, and what the ring holds goes behind them."""
    log.error("the open segment is damaged: recovering the journal from its files", reason=str(damage))
    for cut in recover(Path(wanted.options.root)).cut:
        log.error("cut", segment=str(cut.segment), offset=cut.offset, bytes=cut.bytes, what=cut.what)
    options = replace(wanted.options, forget_segment=True)
    return FlusherThread.start(wanted.ring, options)


def watch(thread: FlusherThread, log: Any) -> None:
    """Tells what changes, until a signal asks to end."""
    before = thread.status()
    while not _asked_to_end():
        now = thread.status()
        _tell(before, now, log)
        before = now


def _asked_to_end() -> bool:
    """Waits a little for SIGTERM or SIGINT, which are blocked otherwise."""
    return signal.sigtimedwait(ENDING, WATCH_EVERY_S) is not None


def _tell(before: FlusherStatus, now: FlusherStatus, log: Any) -> None:
    if now.segments_sealed != before.segments_sealed:
        log.info("sealed", segments=now.segments_sealed - before.segments_sealed, total=now.segments_sealed)
    if now.losses != before.losses:
        log.error("files were taken away", first=now.lost_first, last=now.lost_last)
    if now.state == FlusherState.STALLED and (before.state != now.state or before.error != now.error):
        log.error("stalled: records stay in the ring", error=now.error, since_ns=now.error_since_ns)
    if before.state == FlusherState.STALLED and now.state == FlusherState.RUNNING:
        log.info("recovered", after=before.error)


def stop(thread: FlusherThread, log: Any) -> int:
    """Drains, syncs, seals; the exit code."""
    before = thread.status()
    if not thread.stop(STOP_WITHIN_S):
        thread.request_stop(Stop.NOW)
        thread.wait(0.4)
    now = thread.status()
    _tell(before, now, log)
    log.info("stopped", complete=thread.drained, records=now.written_records, bytes=now.written_bytes, error=now.error)
    return EXIT_OK if thread.drained else EXIT_FAILED


def configure_log() -> None:
    """JSON lines on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until a signal; see the exit codes above."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    configure_log()
    log = structlog.get_logger().bind(part="flusher")
    try:
        wanted = settings(parser().parse_args(arguments))
        thread = start(wanted, log)
    except SsmdError as error:
        print(f"ssmd.flusher: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else error.exit_code
    if thread is None:
        log.info("stopped", complete=True, records=0, bytes=0, error="")
        return EXIT_OK
    log.info("started", ring=str(wanted.ring), journal=str(wanted.options.root))
    watch(thread, log)
    return stop(thread, log)


if __name__ == "__main__":
    sys.exit(main())
