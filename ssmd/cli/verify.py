"""`ssmd verify`: recomputes a journal from its bytes and says what is missing. docs/verify.md.

Prints the report of `ssmd.quality`; nothing is decided here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ssmd.cli import options
from ssmd.cli.hints import AGAINST, by_url
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, EXIT_USAGE, StorageError, UsageError
from ssmd.journal.account import Check, accounts
from ssmd.journal.paths import Segment, find, is_url
from ssmd.journal.source import GoneError
from ssmd.journal.strays import Stray, strays
from ssmd.journal.times import show_time
from ssmd.quality import Report, judge, merge
from ssmd.terminal import shown, shown_lines

if TYPE_CHECKING:
    from ssmd.cli.against import Comparison

LOOKS = 3  # at a journal whose segments are taken away meanwhile
LISTED = 20  # of each kind of trouble, in the human form; --json has all


def parser() -> argparse.ArgumentParser:
    """The options of `ssmd verify`."""
    p = options.parser("verify", "Recompute a journal from its bytes and say what is missing.")
    p.epilog = (
        "Exit codes: 0 complete (--allow-gaps: or every hole is a recorded gap); 1 holes or damage, each listed, or a\n"
        "copy (--against) that differs; 2 nothing to read, usage, or a target that refuses us; 4 an archive or a\n"
        "target of --against cannot be reached."
    )
    p.add_argument("paths", nargs="+", metavar="PATH", help="segment files, folders or globs, s3://BUCKET/PREFIX")
    p.add_argument("--json", action="store_true", help="the whole report as one JSON object")
    p.add_argument(
        "--allow-gaps",
        action="store_true",
        help="recorded gaps are listed, but exit with 0 unless there is damage, an unrecorded hole or a differing copy",
    )
    p.add_argument("--no-books", action="store_true", help="do not replay order books")
    p.add_argument(
        "--redecode", action="store_true", help="also decode every frame again and compare it with its record (slow)"
    )
    p.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="URL",
        help="also compare with what was published or uploaded: nats://HOST:PORT/STREAM?prefix=md, s3://BUCKET/PREFIX, "
        "file:///FOLDER; may be given several times",
    )
    return p


@by_url(AGAINST)
def main(arguments: Sequence[str]) -> int:
    """Runs the command; gives its exit code. Raises SsmdError for what the user can mend."""
    given = parser().parse_args(arguments)
    check = None
    if given.redecode:
        from ssmd.journal.redecode import Redecoder

        check = Redecoder().check
    try:
        report, comparisons = _examined(given, check)
    except StorageError as error:
        print(f"ssmd verify: {shown_lines(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    if given.json:
        against = {"against": [comparison.as_json() for comparison in comparisons]} if given.against else {}
        json.dump(report.as_json() | against, sys.stdout, indent=1)
        print()
    else:
        Page(sys.stdout, books=not given.no_books, allow_gaps=given.allow_gaps).print(report, comparisons)
    whole = report.accounted if given.allow_gaps else report.complete
    complete = whole and all(comparison.complete for comparison in comparisons)
    return EXIT_OK if complete else EXIT_INCOMPLETE


def _examined(given: argparse.Namespace, check: Check | None) -> tuple[Report, list[Comparison]]:
    """What the segments prove, and how copies compare. When retention takes one away meanwhile, all begins anew."""
    for look in range(1, LOOKS + 1):
        segments, astray = _located(given.paths)
        if not segments and not astray:
            raise UsageError(f"no segments under {' '.join(given.paths)}", hint="a journal's files end in .capnp")
        try:
            report = merge([judge(a) for a in accounts(segments, astray, books=not given.no_books, check=check)])
            return report, _compared(segments, given.against)
        except GoneError as error:
            if look == LOOKS:
                hint = (
                    f"segments were removed during each of {LOOKS} looks (storage.retain_days?): give their archive too"
                )
                raise StorageError(str(error.args[0]), hint=hint) from None
    raise AssertionError("the last look returns or raises")


def _located(paths: Sequence[str]) -> tuple[list[Segment], list[Stray]]:
    """Segments, and what lies astray. Archives are looked into where a URL names one, and nothing is imported else."""
    if any(map(is_url, paths)):
        from ssmd.cli.sources import located

        return located(paths)
    return find(paths), strays(paths)


def _compared(segments: list[Segment], urls: Sequence[str]) -> list[Comparison]:
    if not urls:
        return []
    from ssmd.cli.against import compare_all

    return compare_all(segments, urls)


class Page:
    """The report for a person: a short table, then every hole and every damage in a sentence."""

    def __init__(self, out: TextIO, *, books: bool = True, allow_gaps: bool = False) -> None:
        self._out = out
        self._books = books
        self._allow_gaps = allow_gaps
        self._colour = out.isatty() and "NO_COLOR" not in os.environ

    def print(self, report: Report, comparisons: Sequence[Comparison] = ()) -> None:
        self._summary(report)
        self._runs(report.runs)
        self._connections(report.connections)
        self._list("gap", map(_gap_line, report.gaps), len(report.gaps))
        self._list("damage", (f"{d.segment}: offset {d.offset}: {d.what}" for d in report.damage), len(report.damage))
        for entry in report.blind:
            self._line(f"blind    {entry['channel']}: {entry['why']}, so a loss there cannot be seen")
        self._verdict(report)
        self._against(comparisons)

    def _against(self, comparisons: Sequence[Comparison]) -> None:
        for comparison in comparisons:
            from ssmd.cli.against import lines

            for line in lines(comparison):
                self._line(line)
            name = comparison.journal.identity
            if comparison.complete and comparison.behind:
                waiting = f"{comparison.behind:,} record{'s are' if comparison.behind > 1 else ' is'} not there yet"
                self._line(f": journal {name}; {waiting}", "the same as far as published and uploaded", "32")
            elif comparison.complete:
                self._line("", f"the same everywhere: journal {name}", "32")
            else:
                self._line("", f"not the same everywhere: journal {name}", "31")

    def _line(self, text: str, title: str = "", colour: str = "") -> None:
        """`title` in colour; the rest may hold the words and names of others."""
        self._out.write((self._tint(title, colour) if colour else title) + shown(text) + "\n")

    def _summary(self, report: Report) -> None:
        totals = report.totals
        kinds = "  ".join(f"{name} {count:,}" for name, count in totals.kinds().items())
        self._line(f"segments {report.segments:,}   records {totals.records:,}   frames {totals.frames:,}")
        if totals.records:
            self._line(f"time     {show_time(totals.first_recv_ns)} to {show_time(totals.last_recv_ns)}")
            if totals.first_number:  # several journals have no numbers in common
                self._line(f"numbers  {totals.first_number} to {totals.last_number}")
        for entry in report.begins:
            self._line(f"begins   {_begin_line(entry, of_several=len(report.begins) > 1)}")
        self._line(f"kinds    {kinds or 'none'}")
        if report.unproved:
            self._line(
                f"tail     {report.unproved:,} records behind the last checkpoint of the open segment are whole, but "
                "no CRC vouches for them yet"
            )
            self._line(
                "         while it records that is the last second; after a kill the next start proves or cuts them"
            )
        if not self._books:
            self._line("books    not checked (--no-books)")
        elif totals.books:
            self._line(
                f"books    {totals.books:,} replayed, {totals.books_checked:,} snapshots compared, "
                f"{totals.books_mismatched:,} differ"
            )

    def _runs(self, runs: list[dict[str, Any]]) -> None:
        if len(runs) > LISTED:
            self._line(f"run      {len(runs) - LISTED} runs before these (--json lists all)")
        last: dict[str, dict[str, Any]] = {}  # run of each journal
        for run in runs[-LISTED:]:
            before = last.get(run.get("journal", ""))
            if before is not None and before["clean"] and run["started_ns"] and before["stopped_ns"]:
                paused_s = (run["started_ns"] - before["stopped_ns"]) / 1e9
                self._line(f"pause    {_of(run)}{_pause(paused_s)} between a stop as asked and the next start")
            self._line(f"run      {_of(run)}{_run_line(run)}")
            last[run.get("journal", "")] = run

    def _connections(self, connections: list[dict[str, Any]]) -> None:
        for connection in connections[-LISTED:]:
            opened = show_time(connection["opened_ns"]) if connection["opened_ns"] else "before the first record"
            if connection["closed_ns"]:
                closed = f"closed {show_time(connection['closed_ns'])} ({connection['reason'] or 'no reason given'})"
            else:
                closed = "not closed"
            self._line(f"connection {connection['id']}: {_of(connection)}opened {opened}, {closed}")
            for sid, entry in connection["by_sid"].items():
                self._line(f"  sid {sid} {entry['channel'] or 'unknown channel'}: {_range(entry)}")
        if len(connections) > LISTED:
            self._line(f"  and {len(connections) - LISTED} connections before (--json lists all)")

    def _list(self, title: str, lines: Iterable[str], count: int) -> None:
        for i, line in enumerate(lines):
            if i == LISTED:
                self._line(f"{title:<8} and {count - LISTED} more (--json lists all)")
                return
            self._line(f" {line}", f"{title:<8}", "31")

    def _verdict(self, report: Report) -> None:
        if report.complete:
            begins = ", from where it begins" if report.begins else ""
            self._line("", f"complete{begins}: nothing is missing that can be known to be missing", "32")
            return
        parts = []
        if report.gaps:
            parts.append(f"{len(report.gaps)} gap{'s' * (len(report.gaps) > 1)}")
        if report.damage:
            parts.append(f"{len(report.damage)} damaged or contradictory place{'s' * (len(report.damage) > 1)}")
        if self._allow_gaps and report.accounted:
            self._line(" recorded, nothing else is missing (--allow-gaps)", f"not complete: {parts[0]}", "33")
            return
        self._line("", f"not complete: {' and '.join(parts)}", "31")

    def _tint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _of(entry: dict[str, Any]) -> str:
    """Which journal an entry is of, where there are several."""
    return f"{entry['journal']}: " if "journal" in entry else ""


def _run_line(run: dict[str, Any]) -> str:
    began = show_time(run["started_ns"]) if run["started_ns"] else "before the first record"
    if run["clean"]:
        end = f"stopped as asked {show_time(run['stopped_ns'])}"
    elif run["clean"] is None:
        end = "no end is recorded: it records still, or was killed"
    else:
        end = "ended without saying so"
    return f"{run['environment'] or 'unknown environment'}: started {began}, {end}"


def _pause(seconds: float) -> str:
    if seconds < 0:
        return f"unknown (the clock was set back, {_duration(-seconds)} at least)"
    return _duration(seconds)


def _duration(seconds: float) -> str:
    """12.3 s, 5 min 7 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _begin_line(entry: dict[str, Any], *, of_several: bool) -> str:
    first, archive = entry["first_number"], entry["archive"]
    where = f"they are in {archive}" if archive else "nothing is said about them"
    journal = f"{entry['journal']}: " if of_several else ""
    return f"{journal}at record {first}; records 1 to {first - 1} are not here: {where}"


def _range(entry: dict[str, Any]) -> str:
    if not entry["frames"]:
        return "no frames"
    if not entry["first_seq"]:
        return f"{entry['frames']:,} frames without sequence numbers"
    missing = sum(last - first + 1 for first, last in entry["missing"])
    text = f"seq {entry['first_seq']} to {entry['last_seq']}, {entry['frames']:,} frames"
    return f"{text}, {missing} missing" if missing else text


def _gap_line(gap: dict[str, Any]) -> str:
    parts = [_of(gap) + gap["cause"]]
    if gap["connection"]:
        parts.append(f"on connection {gap['connection']}" + (f" sid {gap['sid']}" if gap["sid"] else ""))
    if gap["from_seq"]:
        parts.append(f"seq {gap['from_seq']} to {gap['to_seq']}")
    if gap["from_ns"]:
        parts.append(f"from {show_time(gap['from_ns'])}")
    if gap["to_ns"]:
        parts.append(f"to {show_time(gap['to_ns'])}")
    parts.append(f"resolved by record {gap['resolved_by']}" if gap["resolved_by"] else "not resolved")
    line = ", ".join(parts)
    return f"{line}: {gap['detail']}" if gap["detail"] else line
