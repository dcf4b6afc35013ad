"""The C keeper of last values (csrc/latest.h): what was last seen of each market, at full speed.

For: `ssmd.lastvalues`, which says what it means. Its plain twin, the specification, is `ssmd.lastvalues.plain`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from ssmd._native import ffi, lib
from ssmd.native.failure import DAMAGED, FULL, MORE, OK
from ssmd.native.walk import Buffer, View, views_of

_VIEWS_A_CALL = 1024


class Sync(IntEnum):
    """Whether a book is known, and if not, why (`enum ssmd_sync`)."""

    NEVER = 0
    SYNCED = 1
    NO_SNAPSHOT = 2
    BELOW_ZERO = 3
    MISSED = 4
    CLOSED = 5
    STARTED = 6
    STOPPED = 7
    ENDED = 8
    LEFT = 9
    BREAK = 10
    DAMAGE = 11


class Quote(NamedTuple):
    """Best bid and ask of a book, and how many levels it has; without levels there is no best one."""

    bid_e4: int = 0
    bid_size_e2: int = 0
    ask_e4: int = 0
    ask_size_e2: int = 0
    bid_levels: int = 0
    ask_levels: int = 0


class Stamp(NamedTuple):
    """A record; number 0 = there was none."""

    number: int = 0
    recv_ns: int = 0
    exchange_ns: int = 0


class LastTrade(NamedTuple):
    price_e4: int = 0
    count_e2: int = 0
    side: int = 0  # enum Side of the schema
    block: bool = False
    trade_id: bytes | None = None


class Last(NamedTuple):
    """What was last seen of a market. `quote` is that of the book; where it is not synced and `was`: what it was."""

    market: bytes
    number: int = 0
    recv_ns: int = 0
    sync: int = Sync.NEVER
    was: bool = False
    quote: Quote = Quote()
    book_at: Stamp = Stamp()
    trade: LastTrade = LastTrade()
    trade_at: Stamp = Stamp()
    ticker_present: int = 0
    ticker: tuple[int, ...] = (0,) * 10  # TICKER_FIELDS of ssmd.records
    ticker_at: Stamp = Stamp()


class State(NamedTuple):
    """Where the keeper is."""

    number: int
    recv_ns: int
    waiting_ns: int  # receive time of the first change that is not done, 0 = none waits
    markets: int
    changed: int


_LAST = struct.Struct("<QQQQqQqqQqqQqq2qq7q2ii3iI2I2IHHBB6x")
if _LAST.size != ffi.sizeof("ssmd_last"):
    raise ImportError("ssmd_last of the C library has another layout: build it again (make)")


def _bytes(address: int, count: int) -> bytes:
    return bytes(ffi.buffer(ffi.cast("char *", address), count)) if count else b""


def _last(row: tuple[Any, ...]) -> Last:
    (_, market, trade_id, number, recv_ns) = row[:5]
    (bid_size, ask_size, count_e2) = row[14:17]
    (present, bid_levels, ask_levels, market_bytes, id_bytes, sync, side, block, was) = row[30:]
    return Last(
        _bytes(market, market_bytes),
        number,
        recv_ns,
        sync,
        bool(was),
        Quote(row[24], bid_size, row[25], ask_size, bid_levels, ask_levels),
        Stamp._make(row[5:8]),
        LastTrade(row[26], count_e2, side, bool(block), _bytes(trade_id, id_bytes) if trade_id else None),
        Stamp._make(row[8:11]),
        present,
        row[27:30] + row[17:24],
        Stamp._make(row[11:14]),
    )


class Latest:
    """Follows the records of one journal. One thread."""

    def __init__(self, max_markets: int) -> None:
        latest = lib.ssmd_latest_open(max_markets)
        if latest == ffi.NULL:
            raise MemoryError("ssmd_latest_open")
        self._latest = ffi.gc(latest, lib.ssmd_latest_close)
        self._views = ffi.new("ssmd_view[]", _VIEWS_A_CALL)
        self._count = ffi.new("uint64_t *")
        self._used = ffi.new("uint64_t *")
        self._state = ffi.new("ssmd_latest_state *")

    def add(self, data: Buffer, start: int, stop: int, offset: int) -> Iterator[View]:
        """Follows the whole, valid records data[start:stop], which begin at `offset` of their segment. Exhaust it.

        Gives views of status records, and of `ok` replies on a sid that keeps books: act on these before going on.
        """
        with ffi.from_buffer("uint8_t[]", data) as pointer:
            status = MORE
            while status == MORE:
                status = lib.ssmd_latest_add(
                    self._latest,
                    pointer + start,
                    stop - start,
                    offset,
                    self._views,
                    _VIEWS_A_CALL,
                    self._count,
                    self._used,
                )
                used = int(self._used[0])
                yield from views_of(self._views, self._count[0])
                start, offset = start + used, offset + used
        if status == DAMAGED:
            raise ValueError(f"no valid record at offset {offset}")
        if status != OK:
            raise MemoryError("ssmd_latest_add")

    def doubt(self, sync: Sync) -> None:
        """Every book may have missed something."""
        lib.ssmd_latest_doubt(self._latest, sync)

    def books(self, connection: int, sid: int) -> list[bytes]:
        """The markets whose books a sid keeps synced."""
        count = int(lib.ssmd_latest_books(self._latest, connection, sid, ffi.NULL, 0))
        out = ffi.new("ssmd_last[]", count)
        lib.ssmd_latest_books(self._latest, connection, sid, out, count)
        return [last.market for last in _lasts(out, count)]

    def unsync(self, market: bytes, sync: Sync) -> None:
        """The book of one market is not to be believed."""
        lib.ssmd_latest_unsync(self._latest, market, len(market), sync)

    def carry(self, value: Last) -> bool:
        """Adds a market known from elsewhere, or to a known one that its book was not seen here. False: no room."""
        name, raw = ffi.new("char[]", value.market), ffi.new("ssmd_last *")
        raw.market, raw.market_bytes = name, len(value.market)
        raw.number, raw.recv_ns = value.number, value.recv_ns
        raw.sync, raw.was = value.sync, value.was
        raw.book_number, raw.book_recv_ns, raw.book_exchange_ns = value.book_at
        quote = value.quote
        raw.bid_e4, raw.bid_size_e2, raw.ask_e4, raw.ask_size_e2 = quote[:4]
        raw.bid_levels, raw.ask_levels = quote.bid_levels, quote.ask_levels
        status = lib.ssmd_latest_carry(self._latest, raw)
        if status not in (OK, FULL):
            raise MemoryError("ssmd_latest_carry")
        return bool(status == OK)

    def changed(self, limit: int) -> list[Last]:
        """The first `limit` of the markets that changed, in the order in which they first did."""
        out = ffi.new("ssmd_last[]", min(limit, self.look().changed))
        return list(_lasts(out, int(lib.ssmd_latest_changed(self._latest, out, len(out)))))

    def done(self, count: int, now_ns: int) -> None:
        """The first `count` of those are done with."""
        lib.ssmd_latest_done(self._latest, count, now_ns)

    def again(self) -> None:
        """All markets count as changed."""
        lib.ssmd_latest_again(self._latest)

    def tend(self, now_ns: int, ttl_ns: int) -> None:
        """Renews markets that live, forgets those that nothing was seen of for the time to live."""
        lib.ssmd_latest_tend(self._latest, now_ns, ttl_ns)

    def look(self) -> State:
        lib.ssmd_latest_look(self._latest, self._state)
        state = self._state
        return State(state.number, state.recv_ns, state.waiting_ns, state.markets, state.changed)


def _lasts(out: Any, count: int) -> Iterator[Last]:
    return map(_last, _LAST.iter_unpack(ffi.buffer(out, count * _LAST.size)[:])) if count else iter(())
