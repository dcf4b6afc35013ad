"""`ssmd tail`: prints records as they come, from journal files or from a bus. Options and exit codes: docs/tail.md.

What is missing or away is one line on standard error each, and reading goes on. What is printed is what `ssmd cat`
prints, and the journal that the record is of.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from ssmd.cli import hints, options
from ssmd.cli.cat import PRINTERS
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, SsmdError, UnavailableError, UsageError
from ssmd.journal.paths import is_url
from ssmd.native.walk import KIND_BITS
from ssmd.terminal import shown

if TYPE_CHECKING:
    from ssmd.api import Tail, TailRecord

QUIET_S = 1.0  # then a person at a terminal is told what is waited for


def parser() -> argparse.ArgumentParser:
    """The options of `ssmd tail`."""
    p = options.parser("tail", "Print records as they are recorded (files) or published (NATS), from any place on.")
    p.epilog = (
        "Exit codes: 0 ended as asked; 1 records were missing or damaged (said on stderr); 2 usage or a refusal.\n"
        "Without -e and --url, PATH is needed. With files and NATS both, records come from the files up to where\n"
        "the stream goes on. Credentials of a --url: NATS_USER and NATS_PASSWORD, NATS_TOKEN, or NATS_CREDS (a file)."
    )
    p.add_argument("paths", nargs="*", metavar="PATH", help="journals of this machine: files, folders or globs")
    p.add_argument("-e", "--environment", metavar="ENV", help="name of an environment, or path of its file")
    options.add_changes(p)
    p.add_argument("--url", metavar="URL", help="a NATS server: nats://HOST:PORT or tls://HOST:PORT")
    p.add_argument("--stream", default="SSMD", metavar="S", help="its stream, with --url (default: SSMD)")
    p.add_argument("--prefix", default="md", metavar="P", help="prefix of its subjects, with --url (default: md)")
    p.add_argument(
        "--from",
        dest="source",
        choices=("nats", "journal"),
        help="default: nats with --url, else the environment's journal.type, else journal",
    )
    p.add_argument(
        "--start",
        default="end",
        metavar="S",
        help="beginning, end (default), the number of a record, or a time: ISO 8601 UTC, a date, or ns",
    )
    p.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="K",
        help="only records of this kind (may be repeated or a comma list): "
        + " ".join([kind for kind in KIND_BITS if kind != "checkpoint"] + ["book"]),
    )
    p.add_argument("--market", action="append", default=[], metavar="M", help="only of this market (may be repeated)")
    p.add_argument("--journal", metavar="ID", help="only records of this journal, such as kalshi-5f0c9a1e22b4")
    p.add_argument("--format", choices=sorted(PRINTERS), default="json", help="as of ssmd cat (default: json)")
    p.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="T",
        help="with -e: entries of the journal under these topics (* is one word, > the rest), also those of programs",
    )
    p.add_argument("--topics", action="store_true", help="with -e: list the topics of the journal, with their counts")
    p.add_argument("--count", type=int, metavar="N", help="end after so many records")
    p.add_argument("--duration", type=float, metavar="S", help="end after so many seconds")
    return p


def main(arguments: Sequence[str]) -> int:
    """Runs the command; gives its exit code. Raises SsmdError for what the user can mend."""
    given = parser().parse_args(arguments)
    if (given.count is not None and given.count < 1) or (given.duration is not None and given.duration <= 0):
        raise UsageError("--count and --duration must be more than 0")
    for path in given.paths:
        if is_url(path):
            raise UsageError(f"{path}: an archive is not followed", hint="use ssmd cat: it prints what is there")
    words = hints.TAIL_NATS if given.url is not None else {}
    incomplete = False

    def told(trouble: SsmdError) -> None:
        nonlocal incomplete
        incomplete |= not isinstance(trouble, UnavailableError)
        hints.reworded(trouble, words)
        going_on = ": trying again" if isinstance(trouble, UnavailableError) else ""
        hint = f"; {trouble.hint}" if trouble.hint else ""
        print(f"ssmd tail: {shown(f'{trouble.args[0]}{going_on}{hint}')}", file=sys.stderr, flush=True)

    if given.topic or given.topics:
        _entries(given, told)
        return EXIT_INCOMPLETE if incomplete else EXIT_OK
    with hints.by_url(words), _opened(given, told) as made:
        signal.signal(signal.SIGTERM, lambda *_: made.close())
        try:
            _print(made, given, sys.stdout.buffer)
        except KeyboardInterrupt:
            sys.stdout.buffer.flush()
    return EXIT_INCOMPLETE if incomplete else EXIT_OK


def _opened(given: argparse.Namespace, told: Callable[[SsmdError], None]) -> Tail:
    from ssmd import api

    return api.tail(
        *given.paths,
        environment=given.environment,
        url=given.url,
        stream=given.stream,
        prefix=given.prefix,
        source=given.source,
        start=given.start,
        kinds=[kind for kinds in given.kind for kind in kinds.split(",")],
        markets=given.market,
        journal=given.journal,
        data=given.data,
        settings=given.set,
        on_trouble=told,
    )


def _entries(given: argparse.Namespace, told: Callable[[SsmdError], None]) -> None:
    from ssmd import api
    from ssmd.cli import entries

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with suppress(KeyboardInterrupt):
        entries.run(given, api.start_of(given.start), told, stopping.is_set)


def _first(made: Tail, given: argparse.Namespace) -> TailRecord | None:
    """The first record if it comes soon. If not, a person at a terminal is told why nothing is to be seen."""
    record = made.next(QUIET_S if given.duration is None else min(QUIET_S, given.duration))
    if record is None and sys.stderr.isatty():
        old = "; --start beginning shows the old ones" if given.start == "end" else ""
        print(f"ssmd tail: waiting for new records{old}", file=sys.stderr, flush=True)
    return record


def _print(made: Tail, given: argparse.Namespace, out: BinaryIO) -> None:
    printer, count = PRINTERS[given.format], given.count
    end = None if given.duration is None else time.monotonic() + given.duration
    printed = 0
    first = _first(made, given)
    while count is None or printed < count:
        record, first = first or made.next(0.0), None
        if record is None:
            out.flush()
            left_s = None if end is None else end - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            record = made.next(left_s)
            if record is None:
                return
        elif end is not None and time.monotonic() >= end:
            return
        out.write(printer(record))
        printed += 1
