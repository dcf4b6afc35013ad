"""`ssmd cat`: prints the records of a journal. Options, formats and exit codes: docs/cat.md.

Starts fast (no pycapnp for --format frame or capnp) and filters in C before anything is decoded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from ssmd.cli import options
from ssmd.cli.hints import S3, by_url
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, DamageError, UsageError
from ssmd.journal.follow import Follower
from ssmd.journal.paths import Segment, find, is_url
from ssmd.journal.reader import Damage, Reader, Record
from ssmd.journal.times import full_time, parse_time
from ssmd.native.walk import ALL_KINDS, FIRST_NS, KIND_BITS, LAST_NS, Filter
from ssmd.terminal import shown

_NAPS_S = (0.02, 0.05, 0.1, 0.25, 0.5)


def parser() -> argparse.ArgumentParser:
    """The options of `ssmd cat`."""
    p = options.parser("cat", "Print the records of a journal: sealed, compressed and open segments, in order.")
    p.epilog = (
        "Exit codes: 0 all was read; 1 damage was met (said on stderr; all before it was printed); 2 usage, or an\n"
        "archive that refuses us; 4 an archive cannot be reached."
    )
    p.add_argument("paths", nargs="+", metavar="PATH", help="segment files, folders or globs, s3://BUCKET/PREFIX")
    p.add_argument(
        "--kind",
        action="append",
        metavar="K",
        help=f"only records of this kind (may be repeated or a comma list): {' '.join(KIND_BITS)} book",
    )
    p.add_argument("--market", action="append", metavar="M", help="only records of this market (may be repeated)")
    p.add_argument("--from", dest="from_time", metavar="T", help="received at or after: ISO 8601 UTC, a date, or ns")
    p.add_argument("--to", dest="to_time", metavar="T", help="received before")
    p.add_argument("--format", choices=("json", "frame", "capnp"), default="json", help="default: json")
    p.add_argument(
        "--iso", action="store_true", help="json: recv_time and exchange_time too, as ISO 8601 with nanoseconds"
    )
    p.add_argument(
        "--follow",
        action="store_true",
        help="print what is stored, then go on with what is recorded from now on, until Ctrl-C (--from T: begin there)",
    )
    return p


def kind_mask(names: Sequence[str] | None) -> int:
    """Filter bits for kind names; `book` is both kinds of book record."""
    if not names:
        return ALL_KINDS
    mask = 0
    for name in ",".join(names).split(","):
        bits = KIND_BITS["book_snapshot"] | KIND_BITS["book_delta"] if name == "book" else KIND_BITS.get(name)
        if bits is None:
            raise UsageError(f"--kind {name}: there is no such kind", hint=f"known: {' '.join(KIND_BITS)} book")
        mask |= bits
    return mask


Printer = Callable[[Record], bytes]


def _as_json(record: Record) -> bytes:
    return _json_line(_fields(record))


def _as_json_with_times(record: Record) -> bytes:
    view = record.view
    times = {
        "recv_time": full_time(view.recv_ns),
        "exchange_time": full_time(view.exchange_ns) if view.exchange_ns else None,
    }
    fields = _fields(record)
    return _json_line({"number": fields.pop("number"), **times, **fields})


def _fields(record: Record) -> dict[str, Any]:
    try:
        return record.json()
    except DamageError as error:
        return {"number": record.view.number, "kind": record.kind, "problem": str(error)}


def _json_line(shown: dict[str, Any]) -> bytes:
    import ujson

    text: str = ujson.dumps(shown, ensure_ascii=False, escape_forward_slashes=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _as_frame(record: Record) -> bytes:
    frame = record.frame
    if not frame:
        return b""
    return frame if frame.endswith(b"\n") else frame + b"\n"


def _as_capnp(record: Record) -> bytes:
    return record.raw


PRINTERS: dict[str, Printer] = {"json": _as_json, "frame": _as_frame, "capnp": _as_capnp}


@by_url(S3)
def main(arguments: Sequence[str]) -> int:
    """Runs the command; gives its exit code. Raises SsmdError for what the user can mend."""
    given = parser().parse_args(arguments)
    wanted = Filter(
        kinds=kind_mask(given.kind),
        from_ns=parse_time(given.from_time) if given.from_time else FIRST_NS,
        to_ns=parse_time(given.to_time) if given.to_time else LAST_NS,
        markets=tuple(given.market or ()),
    )
    if given.iso and given.format != "json":
        raise UsageError(f"--iso does nothing with --format {given.format}", hint="only JSON has fields to add")
    printer = _as_json_with_times if given.iso else PRINTERS[given.format]
    if given.follow and any(map(is_url, given.paths)):
        raise UsageError("--follow: an archive does not grow by records", hint="follow the journal itself")
    damage: list[Damage] = []
    records = (_followed if given.follow else _stored)(given.paths, wanted, damage)
    try:
        if not _print(records, printer, sys.stdout.buffer) and wanted != Filter():
            print(f"ssmd cat: nothing matches {_asked(given)}", file=sys.stderr)
    except KeyboardInterrupt:
        if not given.follow:
            raise
    return EXIT_INCOMPLETE if damage else EXIT_OK


def _segments(paths: Sequence[str]) -> list[Segment]:
    """In order. Archives are looked into where a URL names one, and nothing is imported for them else."""
    if any(map(is_url, paths)):
        from ssmd.cli.sources import located

        return located(paths)[0]
    return find(paths)


def _stored(paths: Sequence[str], wanted: Filter, damage: list[Damage]) -> Iterator[Record]:
    reader = Reader(_segments(paths), wanted)
    told = 0
    for record in reader:
        told = _tell(reader.damage, told)
        yield record
    _tell(reader.damage, told)
    damage.extend(reader.damage)
    for segment in reader.gone:
        what = "it was removed before it was read: its records are left out"
        print(f"ssmd cat: {shown(str(segment.path))}: {what}", file=sys.stderr)
        damage.append(Damage(segment.path, 0, what))


def _followed(paths: Sequence[str], wanted: Filter, damage: list[Damage]) -> Iterator[Record]:
    follower = Follower(paths, wanted)
    told = idle = 0
    while True:
        count = 0
        for record in follower.step():
            count += 1
            yield record
        told = _tell(follower.damage, told)
        damage[:] = follower.damage
        sys.stdout.buffer.flush()
        idle = 0 if count else min(idle + 1, len(_NAPS_S) - 1)
        time.sleep(_NAPS_S[idle])


def _tell(damage: list[Damage], told: int) -> int:
    for one in damage[told:]:
        print(f"ssmd cat: damage: {shown(str(one))}", file=sys.stderr)
    return len(damage)


def _print(records: Iterator[Record], printer: Printer, out: BinaryIO) -> int:
    """Gives how many there were."""
    count = 0
    for record in records:
        out.write(printer(record))
        count += 1
    out.flush()
    return count


def _asked(given: argparse.Namespace) -> str:
    """The filters as they were given."""
    parts = [f"--kind {kind}" for kind in given.kind or ()] + [f"--market {name}" for name in given.market or ()]
    parts += [f"--from {given.from_time}"] if given.from_time else []
    parts += [f"--to {given.to_time}"] if given.to_time else []
    return shown(" ".join(parts))
