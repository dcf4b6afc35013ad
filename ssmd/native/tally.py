"""The C tally (csrc/tally.h): accounts for the records of a journal at full speed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from ssmd._native import ffi, lib
from ssmd.book import BELOW_ZERO, WITHOUT_SNAPSHOT, Suspect
from ssmd.native.failure import DAMAGED, MORE, OK
from ssmd.native.walk import Buffer, View, views_of
from ssmd.quality import KIND_NAMES, Channel, Finding, Hole, Totals

_EVENTS_A_CALL = 1024
_ITEMS_A_CALL = 4096
_NEGATIVE = 2  # SSMD_FINDING_NEGATIVE
_CHANNEL = struct.Struct("<IIQQQQQqqQ")
_HOLE = struct.Struct("<IIQQqqQ")
_FINDING = struct.Struct("<QQQII")


class Tally:
    """Counts of one journal so far."""

    def __init__(self, *, books: bool = True) -> None:
        tally = lib.ssmd_tally_open(books)
        if tally == ffi.NULL:
            raise MemoryError("ssmd_tally_open")
        self._tally = ffi.gc(tally, lib.ssmd_tally_close)
        self._events = ffi.new("ssmd_view[]", _EVENTS_A_CALL)
        self._count = ffi.new("uint64_t *")
        self._used = ffi.new("uint64_t *")

    def add(self, data: Buffer, start: int, stop: int, offset: int) -> Iterator[View]:
        """Accounts for the whole, valid records data[start:stop], which begin at `offset` of their segment.

        Gives the views of Control, Gap and ConnectionEvent records; exhaust it.
        """
        with ffi.from_buffer("uint8_t[]", data) as pointer:
            status = MORE
            while status == MORE:
                status = lib.ssmd_tally_add(
                    self._tally,
                    pointer + start,
                    stop - start,
                    offset,
                    self._events,
                    _EVENTS_A_CALL,
                    self._count,
                    self._used,
                )
                used = int(self._used[0])
                yield from views_of(self._events, self._count[0])
                start, offset = start + used, offset + used
        if status == DAMAGED:
            raise ValueError(f"no valid record at offset {offset}")
        if status != OK:
            raise MemoryError("ssmd_tally_add")

    def totals(self) -> Totals:
        out = ffi.new("ssmd_totals *")
        lib.ssmd_tally_totals(self._tally, out)
        fields = {name: int(getattr(out, name)) for name in Totals._fields if name != "by_kind"}
        return Totals(by_kind=tuple(int(out.by_kind[i]) for i in range(len(KIND_NAMES))), **fields)

    def channels(self) -> list[Channel]:
        return [Channel._make(item) for item in self._all(lib.ssmd_tally_channels, "ssmd_channel", _CHANNEL)]

    def holes(self) -> list[Hole]:
        return [Hole._make(item) for item in self._all(lib.ssmd_tally_holes, "ssmd_hole", _HOLE)]

    def findings(self, segment: str, first: int) -> list[Finding]:
        """Findings from the `first`-th on, all of them in `segment`."""
        items = self._all(lib.ssmd_tally_findings, "ssmd_finding", _FINDING, first)
        return [Finding(segment, *item) for item in items]

    def suspects(self) -> list[Suspect]:
        """The books that cannot be right now; at most 4096 of them."""
        if not lib.ssmd_tally_suspects(self._tally, ffi.NULL, 0):
            return []
        out = ffi.new("ssmd_suspect[]", _ITEMS_A_CALL)
        count = min(int(lib.ssmd_tally_suspects(self._tally, out, _ITEMS_A_CALL)), _ITEMS_A_CALL)
        return [
            Suspect(
                number=int(raw.number),
                connection=int(raw.connection),
                sid=int(raw.sid),
                market=bytes(ffi.buffer(raw.market, raw.market_bytes)).decode("utf-8", "replace"),
                recv_ns=int(raw.recv_ns),
                why=BELOW_ZERO if raw.why == _NEGATIVE else WITHOUT_SNAPSHOT,
            )
            for raw in (out[i] for i in range(count))
        ]

    def _all(self, get: Callable[..., int], name: str, layout: struct.Struct, first: int = 0) -> list[tuple[Any, ...]]:
        if ffi.sizeof(name) != layout.size:
            raise ImportError(f"{name} of the C library has another layout: build it again (make)")
        out = ffi.new(f"{name}[]", _ITEMS_A_CALL)
        items: list[tuple[Any, ...]] = []
        while count := int(get(self._tally, first + len(items), out, _ITEMS_A_CALL)):
            items += layout.iter_unpack(ffi.buffer(out, count * layout.size))
        return items
