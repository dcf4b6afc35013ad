"""Segments through the C walker (csrc/walk.h): records checked, batches proved, views filtered.

For: turning bytes of a segment into `View`s, thousands a call. Not for: files, paths, or what a record means.
Invariant: whatever the bytes are, the answer is views or a fault, never a crash; no buffer is kept after a call.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ssmd._native import ffi, lib

Buffer: TypeAlias = bytes | bytearray | memoryview

FAULT_NONE = 0
FAULT_INCOMPLETE = 1
FAULT_ZEROS = 2
FAULT_FRAMING = 3
FAULT_SIZE = 4
FAULT_ROOT = 5
FAULT_POINTER = 6
FAULT_BODY = 7
FAULT_FIELD = 8
FAULT_CRC = 9
FAULT_CHECKPOINT = 10
FAULT_TRAILING = 11
FAULT_UNSEALED = 12

FIRST_NS = -(1 << 63)
LAST_NS = (1 << 63) - 1

# What a reader may ask for, and its bits in ssmd_filter.kinds.
KIND_BITS = {
    "unparsed": 1 << 0,
    "trade": 1 << 1,
    "ticker": 1 << 2,
    "book_snapshot": 1 << 3,
    "book_delta": 1 << 32,
    "status": 1 << 4,
    "index": 1 << 5,
    "control": 1 << 6,
    "gap": 1 << 7,
    "connection": 1 << 8,
    "clock": 1 << 9,
    "checkpoint": 1 << 10,
    "entry": 1 << 11,
}
ALL_KINDS = (1 << 64) - 1

_VIEWS_A_CALL = 4096


class View(NamedTuple):
    """One record in its segment: `struct ssmd_view`. Places named *_at count from the record's first byte, 0 = null."""

    offset: int
    number: int
    recv_ns: int
    recv_ticks: int
    exchange_ns: int
    sent_ns: int
    seq: int
    connection: int
    sid: int
    length: int
    kind: int
    sub: int
    frame_at: int
    frame_bytes: int
    market_at: int
    market_bytes: int
    body_at: int
    pointers_at: int


_VIEW = struct.Struct("<QQqQqqQIIIHHIIIIII")
if _VIEW.size != ffi.sizeof("ssmd_view"):
    raise ImportError("ssmd_view of the C library has another layout: build it again (make)")


class Mark(NamedTuple):
    """What is known at a record boundary of a segment."""

    offset: int = 0
    records: int = 0  # numbered records of the segment before it
    last_number: int = 0
    last_recv_ns: int = 0
    max_connection: int = 0
    clean: bool = False  # the last numbered record says that a run stopped as asked


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records a reader wants; the default is all of them."""

    kinds: int = ALL_KINDS
    from_ns: int = FIRST_NS  # recv_ns >= from_ns
    to_ns: int = LAST_NS  # recv_ns < to_ns
    markets: tuple[str, ...] = ()  # empty = all records, those without a market too


def fault_text(fault: int) -> str:
    """What a fault means, in words."""
    text: bytes = ffi.string(lib.ssmd_fault_text(fault))
    return text.decode()


def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC-32C of `data` after `crc`."""
    return int(lib.ssmd_crc32c(crc, ffi.from_buffer(data), len(data)))


class Walk:
    """A walk through one segment, batch by batch (`struct ssmd_walk`)."""

    __slots__ = ("_place", "_walk")

    def __init__(self) -> None:
        self._walk = ffi.new("ssmd_walk *")
        self._place = ffi.new("uint64_t *")

    def next(self, data: Buffer, start: int) -> int:
        """Goes on over data[start:], the bytes after `at.offset`, to the next checkpoint: OK, EMPTY or DAMAGED."""
        with ffi.from_buffer("uint8_t[]", data) as pointer:
            return int(lib.ssmd_walk_next(self._walk, pointer + start, len(data) - start))

    def end(self, left: int, sealed: bool) -> int:
        """The segment ends `left` bytes after `at.offset`: OK or DAMAGED."""
        return int(lib.ssmd_walk_end(self._walk, left, sealed))

    def resync(self, data: Buffer, start: int, offset: int, place: int) -> int | None:
        """After damage: looks in data[start:], the bytes from `offset` on, for the first batch that proves itself.

        None: found, and the walk goes on at its beginning (`good_offset`). Else the place from which to look when more
        bytes are there; at first it is `good_offset`.
        """
        self._place[0] = place
        with ffi.from_buffer("uint8_t[]", data) as pointer:
            status = lib.ssmd_walk_resync(self._walk, pointer + start, len(data) - start, offset, self._place)
        return None if status == 0 else int(self._place[0])

    def rewind(self) -> None:
        """Back to the last good checkpoint, any fault forgotten."""
        walk = self._walk
        walk.at = walk.good
        walk.fault = FAULT_NONE
        walk.crc = 0

    @property
    def offset(self) -> int:
        """Whole, valid records up to here."""
        return int(self._walk.at.offset)

    @property
    def good_offset(self) -> int:
        """The end of the last checkpoint that checks out."""
        return int(self._walk.good.offset)

    @property
    def at(self) -> Mark:
        return _mark(self._walk.at)

    @property
    def good(self) -> Mark:
        return _mark(self._walk.good)

    @property
    def first_number(self) -> int:
        return int(self._walk.first_number)

    @property
    def final(self) -> bool:
        """The final checkpoint was read."""
        return bool(self._walk.final)

    @property
    def fault(self) -> int:
        return int(self._walk.fault)

    @property
    def fault_offset(self) -> int:
        return int(self._walk.fault_offset)


def _mark(mark: Any) -> Mark:
    return Mark(
        int(mark.offset),
        int(mark.records),
        int(mark.last_number),
        int(mark.last_recv_ns),
        int(mark.max_connection),
        bool(mark.clean),
    )


def views_of(array: object, count: int) -> list[View]:
    """The first `count` views of a C array."""
    return list(map(View._make, _VIEW.iter_unpack(ffi.buffer(array, count * _VIEW.size)))) if count else []


class ViewReader:
    """Fills views from buffers; keeps one array for all calls."""

    __slots__ = ("_count", "_filter", "_keep", "_used", "_views")

    def __init__(self, wanted: Filter | None = None) -> None:
        self._views = ffi.new("ssmd_view[]", _VIEWS_A_CALL)
        self._count = ffi.new("uint64_t *")
        self._used = ffi.new("uint64_t *")
        self._keep = None
        self._filter = ffi.NULL
        if wanted is not None and wanted != Filter():
            self._filter = ffi.new("ssmd_filter *")
            self._filter.kinds = wanted.kinds
            self._filter.from_ns = wanted.from_ns
            self._filter.to_ns = wanted.to_ns
            if wanted.markets:
                self._keep = _names(wanted.markets)
                self._filter.markets = self._keep
                self._filter.market_count = len(wanted.markets)

    def read(self, data: Buffer, start: int, stop: int, offset: int) -> tuple[list[View], int]:
        """Views of wanted records in data[start:stop], whose first byte stands at `offset` of its segment.

        Gives them with the number of bytes that are done with: fewer than stop - start when the array is full.
        """
        with ffi.from_buffer("uint8_t[]", data) as pointer:
            lib.ssmd_views_read(
                pointer + start, stop - start, offset, self._filter, self._views, _VIEWS_A_CALL, self._count, self._used
            )
        return views_of(self._views, self._count[0]), int(self._used[0])


def _names(markets: Sequence[str]) -> object:
    if any("\0" in market or not market for market in markets):
        markets = ["\1" if "\0" in market or not market else market for market in markets]  # matches no ticker
    return ffi.new("char[]", b"".join(market.encode() + b"\0" for market in markets))
