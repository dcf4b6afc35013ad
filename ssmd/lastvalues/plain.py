"""The plain twin of csrc/latest.c: the same answers, one record at a time, written to be read. Pure.

The specification of what was last seen of a market; the C does it at ten million records a second, and a test holds the
two equal over random journals. Facts: docs/records.md (layouts, sequence numbers), csrc/latest.h.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ssmd.book import ASK, BID, Book
from ssmd.native.latest import Last, LastTrade, Quote, Stamp, State, Sync
from ssmd.native.walk import Buffer, View, ViewReader
from ssmd.quality import SEQUENCE_JUMP
from ssmd.records import Change, ConnectionWhat, ControlType, GapCause, Kind

CHANNELS_LIMIT = 4096  # far more sids than any plan has; frames of further ones have no order and no books
_DELTA = 1  # BookKind
_NO_RECORD = Stamp()
_NO_TRADE = LastTrade()

# What the recorder says of itself that does not concern books: what was refused was never seen, and a book in a bad
# state is one market's matter, which is seen here anyway.
_HARMLESS_GAPS = (GapCause.REFUSED, GapCause.BOOK_STATE)
_OF_MARKETS = (Kind.TRADE, Kind.TICKER, Kind.BOOK, Kind.STATUS)
_OVER = (Change.DETERMINED, Change.SETTLED)
_NOT_OVER = (Change.CREATED, Change.ACTIVATED, Change.DEACTIVATED)

# Data sections of bodies.
_TRADE_BODY = struct.Struct("<iHBxq")  # priceE4, takerSide, block, countE2
_TICKER_BODY = struct.Struct("<I3i7q")  # present, then TICKER_FIELDS
_DELTA_BODY = struct.Struct("<2xH4xi4xq")  # side, priceE4, deltaE2
_POINTER = struct.Struct("<Q")
_LEVEL = struct.Struct("<i4xq")  # priceE4, countE2


@dataclass(slots=True, eq=False)
class _Channel:
    """One sid of one connection: its last sequence number, and the markets whose books it keeps synced."""

    connection: int
    sid: int
    seq: int = 0
    before: int = 0  # next number before a jump that nothing has confirmed yet (csrc/sequence.h)
    books: dict[bytes, _Market] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Market:
    name: bytes
    number: int = 0
    recv_ns: int = 0
    sync: int = Sync.NEVER
    was: Quote | None = None  # of a book that is not synced
    book: Book = field(default_factory=Book)
    keeper: _Channel | None = None  # None exactly when the book is not synced
    book_at: Stamp = _NO_RECORD
    trade: LastTrade = _NO_TRADE
    trade_at: Stamp = _NO_RECORD
    present: int = 0
    ticker: tuple[int, ...] = (0,) * 10
    ticker_at: Stamp = _NO_RECORD
    over: bool = False
    done_ns: int = 0

    def end(self, sync: int) -> None:
        """From now on the book is not synced."""
        if self.keeper is not None:
            self.was = _quote(self.book) if sync != Sync.BELOW_ZERO else None
            del self.keeper.books[self.name]
            self.keeper, self.book = None, Book()
        self.sync = sync

    @property
    def lives(self) -> bool:
        return self.keeper is not None and not self.book.empty and not self.over

    def last(self) -> Last:
        quote = _quote(self.book) if self.keeper is not None else self.was or Quote()
        return Last(
            self.name,
            self.number,
            self.recv_ns,
            self.sync,
            self.was is not None,
            quote,
            self.book_at,
            self.trade,
            self.trade_at,
            self.present,
            self.ticker,
            self.ticker_at,
        )


class PlainLatest:
    """Follows the records of one journal: `ssmd.native.latest.Latest`, and its docstrings."""

    def __init__(self, max_markets: int) -> None:
        self._max_markets = max(max_markets, 1)
        self._number = self._recv_ns = self._waiting_ns = 0
        self._markets: OrderedDict[bytes, _Market] = OrderedDict()  # the one that changed longest ago first
        self._changed: dict[bytes, _Market] = {}
        self._channels: dict[tuple[int, int], _Channel] = {}
        self._views = ViewReader()

    def add(self, data: Buffer, start: int, stop: int, offset: int) -> Iterator[View]:
        while start < stop:
            views, used = self._views.read(data, start, stop, offset)
            if not used:
                raise ValueError(f"no valid record at offset {offset}")
            for view in views:
                if self._record(data, start + view.offset - offset, view):
                    yield view
            start, offset = start + used, offset + used

    def _record(self, data: Buffer, at: int, view: View) -> bool:
        """True: it is one to hand out."""
        if view.kind == Kind.CHECKPOINT:
            return False
        self._recv_ns = view.recv_ns
        if self._number and view.number != self._number + 1:
            self.doubt(Sync.BREAK)
        self._number = view.number
        if view.kind in (Kind.GAP, Kind.CONNECTION, Kind.CLOCK):
            self._own(view)
            return False
        channel = self._channel(view.connection, view.sid) if view.sid else None
        if channel is not None and not self._rises(channel, view):
            return False  # says again what was said before
        if view.kind == Kind.CONTROL:
            return self._control(channel, view)
        if view.kind not in _OF_MARKETS or not view.market_at:
            return False
        self._market_record(channel, data, at, view)
        return view.kind == Kind.STATUS

    # ---- what the recorder says, and replies ------------------------------------------------------------------------

    def _own(self, view: View) -> None:
        if view.kind == Kind.GAP and view.sub not in _HARMLESS_GAPS:
            self._doubt(view.connection, view.sid, Sync.MISSED)
        elif view.kind == Kind.CONNECTION and view.sub == ConnectionWhat.CLOSED:
            self._doubt(view.connection, 0, Sync.CLOSED, gone=True)
        elif view.kind == Kind.CONNECTION and view.sub == ConnectionWhat.STARTED:
            self._doubt(0, 0, Sync.STARTED, gone=True)
        elif view.kind == Kind.CONNECTION and view.sub == ConnectionWhat.STOPPED:
            self._doubt(0, 0, Sync.STOPPED, gone=True)

    def _control(self, channel: _Channel | None, view: View) -> bool:
        if channel is None or not channel.books:
            return False
        if view.sub == ControlType.UNSUBSCRIBED:
            self._doubt(view.connection, view.sid, Sync.ENDED, gone=True)
        return view.sub == ControlType.OK and view.frame_at != 0

    # ---- channels ----------------------------------------------------------------------------------------------------

    def _channel(self, connection: int, sid: int) -> _Channel | None:
        key = (connection, sid)
        if key not in self._channels and len(self._channels) < CHANNELS_LIMIT:
            self._channels[key] = _Channel(connection, sid)
        return self._channels.get(key)

    def _rises(self, channel: _Channel, view: View) -> bool:
        if view.seq == 0:
            return True
        back = channel.before and channel.before <= view.seq < channel.before + SEQUENCE_JUMP
        last = channel.before - 1 if back else channel.seq
        if view.seq <= last:
            return False
        if channel.seq and view.seq != last + 1:
            self._end_all(channel.books.values(), Sync.MISSED)
        channel.before = last + 1 if channel.seq and view.seq - last > SEQUENCE_JUMP else 0
        channel.seq = view.seq
        return True

    def doubt(self, sync: Sync) -> None:
        self._doubt(0, 0, sync)

    def _doubt(self, connection: int, sid: int, sync: Sync, *, gone: bool = False) -> None:
        """The channels of a connection and sid, 0 = any. `gone`: nothing comes on them any more."""
        for key, channel in list(self._channels.items()):
            if connection in (0, channel.connection) and sid in (0, channel.sid):
                self._end_all(channel.books.values(), sync)
                if gone:
                    del self._channels[key]

    def _end_all(self, markets: Iterable[_Market], sync: Sync) -> None:
        for market in list(markets):
            market.end(sync)
            self._mark(market)

    def books(self, connection: int, sid: int) -> list[bytes]:
        channel = self._channels.get((connection, sid))
        return list(channel.books) if channel is not None else []

    def unsync(self, market: bytes, sync: Sync) -> None:
        found = self._markets.get(market)
        if found is not None and found.keeper is not None:
            self._end_all([found], sync)

    # ---- markets -----------------------------------------------------------------------------------------------------

    def _market_record(self, channel: _Channel | None, data: Buffer, at: int, view: View) -> None:
        market = self._market(bytes(data[at + view.market_at : at + view.market_at + view.market_bytes]))
        market.number, market.recv_ns = view.number, view.recv_ns
        self._mark(market)
        body, stamp = at + view.body_at, Stamp(view.number, view.recv_ns, view.exchange_ns)
        if view.kind == Kind.TRADE:
            price_e4, side, block, count_e2 = _TRADE_BODY.unpack_from(data, body)
            market.trade = LastTrade(price_e4, count_e2, side, bool(block & 1), _text(data, at, view, 1))
            market.trade_at = stamp
        elif view.kind == Kind.TICKER:
            market.present, *values = _TICKER_BODY.unpack_from(data, body)
            market.ticker, market.ticker_at = tuple(values), stamp
        elif view.kind == Kind.STATUS:
            if view.sub in _OVER or view.sub in _NOT_OVER:
                market.over = view.sub in _OVER
        elif channel is not None:
            self._book(market, channel, data, at, view)

    def _book(self, market: _Market, channel: _Channel, data: Buffer, at: int, view: View) -> None:
        if view.sub == _DELTA and market.keeper not in (None, channel):
            return  # another subscription of the same book: the newer one keeps it
        market.book_at = Stamp(view.number, view.recv_ns, view.exchange_ns)
        if view.sub != _DELTA:
            if market.keeper is not channel:
                if market.keeper is not None:
                    del market.keeper.books[market.name]
                market.keeper = channel
                channel.books[market.name] = market
            market.book.snapshot(_levels(data, at, view, 1), _levels(data, at, view, 2))
            market.sync, market.was = Sync.SYNCED, None
        elif market.keeper is None:
            market.sync = market.sync or Sync.NO_SNAPSHOT
        else:
            side, price_e4, delta_e2 = _DELTA_BODY.unpack_from(data, at + view.body_at)
            if side in (BID, ASK) and not market.book.delta(side, price_e4, delta_e2):
                market.end(Sync.BELOW_ZERO)

    def _market(self, name: bytes) -> _Market:
        """The market, as the one that changed last."""
        market = self._markets.get(name)
        if market is None:
            if len(self._markets) >= self._max_markets:
                self._forget(next(iter(self._markets.values())))
            market = self._markets[name] = _Market(name)
        self._markets.move_to_end(name)
        return market

    def _forget(self, market: _Market) -> None:
        market.end(Sync.NEVER)
        self._unmark(market)
        del self._markets[market.name]

    def _mark(self, market: _Market) -> None:
        self._changed.setdefault(market.name, market)
        self._waiting_ns = self._waiting_ns or self._recv_ns

    def _unmark(self, market: _Market) -> None:
        self._changed.pop(market.name, None)
        if not self._changed:
            self._waiting_ns = 0

    # ---- what it is asked for ----------------------------------------------------------------------------------------

    def carry(self, value: Last) -> bool:
        market = self._markets.get(value.market)
        if market is None:
            if len(self._markets) >= self._max_markets:
                return False
            market = self._markets[value.market] = _Market(value.market, value.number, value.recv_ns)
            self._markets.move_to_end(value.market, last=False)
        if market.sync == Sync.NEVER and value.sync > Sync.SYNCED:
            market.sync, market.book_at = value.sync, value.book_at
            market.was = value.quote if value.was else None
        self._mark(market)
        return True

    def changed(self, limit: int) -> list[Last]:
        return [market.last() for market, _ in zip(self._changed.values(), range(limit), strict=False)]

    def done(self, count: int, now_ns: int) -> None:
        for market, _ in zip(list(self._changed.values()), range(count), strict=False):
            market.done_ns = now_ns
            self._unmark(market)

    def again(self) -> None:
        for market in self._markets.values():
            self._mark(market)

    def tend(self, now_ns: int, ttl_ns: int) -> None:
        for market in list(self._markets.values()):
            if market.lives and market.done_ns < now_ns - ttl_ns // 2:
                self._mark(market)
            elif not market.lives and market.recv_ns < now_ns - ttl_ns and market.name not in self._changed:
                self._forget(market)

    def look(self) -> State:
        return State(self._number, self._recv_ns, self._waiting_ns, len(self._markets), len(self._changed))


def _quote(book: Book) -> Quote:
    bid, ask = book.best_bid_e4, book.best_ask_e4
    return Quote(
        bid or 0,
        0 if bid is None else book.bids[bid],
        ask or 0,
        0 if ask is None else book.asks[ask],
        len(book.bids),
        len(book.asks),
    )


# ---- bodies: `at` is where the record lies in `data` -----------------------------------------------------------------


def _pointer(data: Buffer, at: int, view: View, index: int) -> tuple[int, int]:
    """Pointer `index` of the body, and where it leads to; (0, 0) for a null pointer."""
    place = at + view.pointers_at + 8 * index
    pointer: int = _POINTER.unpack_from(data, place)[0]
    offset = (pointer & 0xFFFFFFFF) >> 2
    return (pointer, place + 8 + 8 * (offset - (offset >> 29 << 30))) if pointer else (0, 0)


def _text(data: Buffer, at: int, view: View, index: int) -> bytes | None:
    pointer, start = _pointer(data, at, view, index)
    return bytes(data[start : start + (pointer >> 35) - 1]) if pointer else None


def _levels(data: Buffer, at: int, view: View, index: int) -> list[tuple[int, int]]:
    pointer, start = _pointer(data, at, view, index)
    if not pointer:
        return []
    tag: int = _POINTER.unpack_from(data, start)[0]
    count, stride = (tag & 0xFFFFFFFF) >> 2, 8 * ((tag >> 32 & 0xFFFF) + (tag >> 48))
    return [_LEVEL.unpack_from(data, start + 8 + i * stride) for i in range(count)]
