"""`ssmd cat`: prints the records of a journal. Options, formats and exit codes: docs/cat.md.

Starts fast (no pycapnp for --format frame or capnp) and filters in C before anything is decoded.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import configargparse

from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, EXIT_USAGE, DamageError, SsmdError
from ssmd.journal.follow import Follower
from ssmd.journal.paths import find
from ssmd.journal.reader import Damage, Reader, Record
from ssmd.journal.times import parse_time
from ssmd.native.walk import ALL_KINDS, FIRST_NS, KIND_BITS, LAST_NS, Filter

_NAPS_S = (0.02, 0.05, 0.1, 0.25, 0.5)


def parser() -> configargparse.ArgumentParser:
    """The options of `ssmd cat`."""
    p = configargparse.ArgumentParser(
        prog="ssmd cat",
        description="Print the records of a journal: sealed, compressed and open segments, in order.",
        epilog="Exit codes: 0 all was read; 1 damage was met (said on stderr, all before it was printed); 2 usage.",
    )
    p.add_argument("paths", nargs="+", metavar="PATH", help="segment files, folders or globs")
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
    p.add_argument("--follow", action="store_true", help="go on with what is recorded from now on; ends at Ctrl-C")
    return p


def kind_mask(names: Sequence[str] | None) -> int:
    """Filter bits for kind names; `book` is both kinds of book record."""
    if not names:
        return ALL_KINDS
    mask = 0
    for name in ",".join(names).split(","):
        bits = KIND_BITS["book_snapshot"] | KIND_BITS["book_delta"] if name == "book" else KIND_BITS.get(name)
        if bits is None:
            raise UsageProblem(f"--kind {name}: there is no such kind; known: {' '.join(KIND_BITS)} book")
        mask |= bits
    return mask


class UsageProblem(SsmdError):
    """An option of the command line makes no sense."""

    exit_code = EXIT_USAGE


Printer = Callable[[Record], bytes]


def _as_json(record: Record) -> bytes:
    import ujson

    try:
        shown = record.json()
    except DamageError as error:
        shown = {"number": record.view.number, "kind": record.kind, "problem": str(error)}
    text: str = ujson.dumps(shown, ensure_ascii=False, escape_forward_slashes=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _as_frame(record: Record) -> bytes:
    frame = record.frame
    if not frame:
        return b""
    return frame if frame.endswith(b"\n") else frame + b"\n"


def _as_capnp(record: Record) -> bytes:
    return record.raw


_PRINTERS: dict[str, Printer] = {"json": _as_json, "frame": _as_frame, "capnp": _as_capnp}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    options = parser().parse_args(argv)
    try:
        wanted = Filter(
            kinds=kind_mask(options.kind),
            from_ns=parse_time(options.from_time) if options.from_time else FIRST_NS,
            to_ns=parse_time(options.to_time) if options.to_time else LAST_NS,
            markets=tuple(options.market or ()),
        )
        damage: list[Damage] = []
        if options.follow:
            records = _followed(options.paths, wanted, damage)
        else:
            records = _stored(options.paths, wanted, damage)
        _print(records, _PRINTERS[options.format], sys.stdout.buffer)
        return EXIT_INCOMPLETE if damage else EXIT_OK
    except BrokenPipeError:
        _mute_stdout()
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_OK
    except SsmdError as error:
        print(f"ssmd cat: {error}", file=sys.stderr)
        return error.exit_code


def _stored(paths: Sequence[str], wanted: Filter, damage: list[Damage]) -> Iterator[Record]:
    reader = Reader(find(paths), wanted)
    told = 0
    for record in reader:
        told = _tell(reader.damage, told)
        yield record
    _tell(reader.damage, told)
    damage.extend(reader.damage)


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
        print(f"ssmd cat: damage: {one}", file=sys.stderr)
    return len(damage)


def _print(records: Iterator[Record], printer: Printer, out: BinaryIO) -> None:
    for record in records:
        out.write(printer(record))
    out.flush()


def _mute_stdout() -> None:
    """The reader of our output left: what is still buffered must not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
