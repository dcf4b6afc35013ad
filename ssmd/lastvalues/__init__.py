"""What was last seen of each market: quote, trade, ticker, status, kept up to date over the records of a journal.

Pure logic: bytes of records go in (`add`), markets that changed come out as JSON (`changes`), conflated: however often
a market changed in between, it comes out once, as it is now. Not for: files, the cache, clocks (`service`).

    book    best bid and ask with sizes, from the order book: kept level by level, from snapshots and deltas
    trade   the last one
    ticker  the last one, with all of its fields
    status  the last lifecycle message, and what those before it said

Invariant: a book is `synced` only while every change of it since its snapshot is known. A gap, a lost connection, the
end of a run, a delta that cannot be right: from then on it says why instead of a price, until its next snapshot. A
part that was never seen says so. Nothing is made up.

Memory is bounded: at most `max_markets`; beyond, those go that changed longest ago. Facts: docs/records.md (layouts,
sequence numbers), csrc/tally.c (when a book can be believed), docs/last.md (the JSON).
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ssmd.book import ASK, BID, Book
from ssmd.middleware import names
from ssmd.native.walk import Buffer, View, ViewReader
from ssmd.records import (
    STATUS_AFTER,
    TICKER_FIELDS,
    TICKER_FIRST_BIT,
    Change,
    ConnectionWhat,
    ControlType,
    GapCause,
    Kind,
)

PARTS: Final = ("book", "trade", "ticker", "status")

# Why a book is not synced.
NO_SNAPSHOT: Final = "no snapshot of it was seen yet"
BELOW_ZERO: Final = "a delta took a level below zero"
MISSED: Final = "messages were missed"
CLOSED: Final = "the connection was closed"
STOPPED: Final = "recording stopped"
STARTED: Final = "recording began anew"
ENDED: Final = "the subscription ended"
LEFT: Final = "the market left the subscription"
BREAK: Final = "records of the journal are missing"

# What says nothing about the books we hold: what was refused was never seen, and a book that cannot be right is one
# market's matter, which we see by ourselves.
_HARMLESS_GAPS: Final = frozenset({GapCause.REFUSED, GapCause.BOOK_STATE})
_OVER: Final = frozenset({"determined", "finalized"})

# Data sections of bodies: the walker has checked that they are there, with this size at least.
_TRADE = struct.Struct("<iHBxq")  # priceE4, takerSide, block, countE2
_TICKER = struct.Struct("<Iiiiqqqqqqq")  # present, then TICKER_FIELDS
_DELTA = struct.Struct("<2xH4xi4xq")  # side, priceE4, deltaE2
_STATUS = struct.Struct("<HBxiqqqq")  # change, flags, settlementValueE4, openNs, closeNs, determinedNs, settledNs
_POINTER = struct.Struct("<Q")
_LEVEL = struct.Struct("<i4xq")  # priceE4, countE2

_TAKER: Final = {1: '"yes"', 2: '"no"'}
_TICKER_NAMES: Final = tuple(
    "".join(f"_{c.lower()}" if c.isupper() else c for c in name) for name in TICKER_FIELDS
)  # price_e4, yes_bid_e4 ...
_QUOTE_FIELDS: Final = tuple(
    _TICKER_NAMES.index(name) for name in ("yes_bid_e4", "yes_bid_size_e2", "yes_ask_e4", "yes_ask_size_e2")
)

Quote = tuple[int | None, int | None, int | None, int | None]  # bid_e4, bid_size_e2, ask_e4, ask_size_e2
NO_QUOTE: Final[Quote] = (None, None, None, None)


class Changed(NamedTuple):
    """A market that changed: what the cache should hold of it now."""

    name: str
    key: str
    value: bytes
    token: object  # for `done`


class LastValues:
    """What was last seen of each market of one journal, by reading it. One thread."""

    def __init__(self, feed: str, *, journal: str | None = None, max_markets: int = 100_000) -> None:
        self.feed = feed
        self.number = 0  # last record that was added
        self.recv_ns = 0  # its receive time
        self.waiting_ns = 0  # receive time of the first change that `done` has not been told of; 0 = none waits
        self._tail = f'"feed":{json.dumps(feed)},"journal":{json.dumps(journal)}'
        self._journal = journal
        self._max_markets = max_markets
        self._views = ViewReader()
        self._markets: OrderedDict[bytes, _Market] = OrderedDict()  # longest ago first
        self._changed: dict[_Market, None] = {}
        self._channels: dict[tuple[int, int], _Channel] = {}

    def __len__(self) -> int:
        return len(self._markets)

    # ---- records in ------------------------------------------------------------------------------------------------

    def add(self, data: Buffer, start: int, stop: int, offset: int) -> None:
        """Takes in the whole, valid records data[start:stop], which begin at `offset` of their segment."""
        while start < stop:
            views, used = self._views.read(data, start, stop, offset)
            if not used:
                raise ValueError(f"no valid record at offset {offset}")
            self._follow(data, start - offset, views)
            start, offset = start + used, offset + used

    def doubt(self, why: str) -> None:
        """Something may have been missed anywhere: no book is believed until its next snapshot."""
        for channel in self._channels.values():
            self._doubt(channel, why)

    def _follow(self, data: Buffer, base: int, views: list[View]) -> None:
        """`base` + the offset of a view is where its record lies in `data`.

        The hot loop: a market's trades and tickers are only noted, and the last one decoded at the end.
        """
        markets, touched, last = self._markets, dict[_Market, None](), dict[_Market, View]()
        trades, tickers = dict[_Market, View](), dict[_Market, View]()
        connection = sid = -1
        channel: _Channel | None = None
        for view in views:
            kind = view.kind
            if kind == Kind.CHECKPOINT:
                continue
            if view.number != self.number + 1 and self.number:
                self.doubt(BREAK)
            self.number = view.number
            if kind in _OWN_KINDS:
                self._own(view)
                connection = -1  # channels may be gone
                continue
            if view.sid:
                if view.sid != sid or view.connection != connection or channel is None:
                    connection, sid = view.connection, view.sid
                    channel = self._channel(connection, sid)
                if view.seq:
                    if view.seq <= channel.seq:
                        continue  # says again what was said before
                    if view.seq != channel.seq + 1 and channel.seq:
                        self._doubt(channel, MISSED)
                    channel.seq = view.seq
            if kind == Kind.CONTROL:
                self._control(data, base, view)
                connection = -1
                continue
            if kind not in _MARKET_KINDS or not view.market_at:
                continue
            at = base + view.offset
            name = bytes(data[at + view.market_at : at + view.market_at + view.market_bytes])
            market = markets.get(name)
            if market is None:
                market = markets[name] = _Market(self.feed, name)
            touched[market] = None
            last[market] = view
            if kind == Kind.BOOK:
                if channel is not None:
                    _book(market, channel, data, at, view)
            elif kind == Kind.TRADE:
                trades[market] = view
            elif kind == Kind.TICKER:
                tickers[market] = view
            else:
                _status(market, data, at, view)
        if views:
            self.recv_ns = views[-1].recv_ns
        for market, view in trades.items():
            market.trade = _trade(data, base + view.offset, view)
        for market, view in tickers.items():
            market.ticker, market.ticker_quote = _ticker(data, base + view.offset, view)
        self._touch(touched, last)

    def _touch(self, touched: Mapping[_Market, None], last: Mapping[_Market, View]) -> None:
        for market in touched:
            market.number, market.recv_ns = last[market].number, last[market].recv_ns
            self._markets.move_to_end(market.raw_name)
        self._mark(touched)
        while len(self._markets) > self._max_markets:
            _, oldest = self._markets.popitem(last=False)
            self._forget(oldest)

    def _mark(self, markets: Iterable[_Market]) -> None:
        self._changed.update(dict.fromkeys(markets))
        if self._changed and not self.waiting_ns:
            self.waiting_ns = self.recv_ns

    def _forget(self, market: _Market) -> None:
        self._changed.pop(market, None)
        if market.channel is not None:
            market.channel.markets.pop(market, None)

    # ---- what the recorder says itself -----------------------------------------------------------------------------

    def _own(self, view: View) -> None:
        if view.kind == Kind.GAP:
            if view.sub not in _HARMLESS_GAPS:
                self._doubt_some(view.connection, view.sid, MISSED)
        elif view.kind == Kind.CONNECTION:
            if view.sub == ConnectionWhat.CLOSED:
                self._doubt_some(view.connection, 0, CLOSED, gone=True)
            elif view.sub in (ConnectionWhat.STARTED, ConnectionWhat.STOPPED):
                self._doubt_some(0, 0, STARTED if view.sub == ConnectionWhat.STARTED else STOPPED, gone=True)

    def _doubt_some(self, connection: int, sid: int, why: str, *, gone: bool = False) -> None:
        """The channels of a connection and sid, 0 = any. `gone`: nothing comes on them any more."""
        found = [key for key in self._channels if connection in (0, key[0]) and sid in (0, key[1])]
        for key in found:
            self._doubt(self._channels[key], why)
            if gone:
                del self._channels[key]

    def _doubt(self, channel: _Channel, why: str) -> None:
        if channel.markets:
            for market in channel.markets:
                market.unsync(why)
            self._mark(channel.markets)
            channel.markets.clear()

    def _channel(self, connection: int, sid: int) -> _Channel:
        channel = self._channels.get((connection, sid))
        if channel is None:
            channel = self._channels[connection, sid] = _Channel()
        return channel

    def _control(self, data: Buffer, base: int, view: View) -> None:
        """Replies that end the updates of books without a word about them."""
        channel = self._channels.get((view.connection, view.sid))
        if channel is None or not channel.markets:
            return
        if view.sub == ControlType.UNSUBSCRIBED:
            self._doubt_some(view.connection, view.sid, ENDED, gone=True)
        elif view.sub == ControlType.OK and view.frame_at:
            at = base + view.offset + view.frame_at
            left = _tickers_of(bytes(data[at : at + view.frame_bytes]))
            gone = [market for market in channel.markets if left and market.name not in left]
            for market in gone:
                market.unsync(LEFT)
                del channel.markets[market]
            self._mark(gone)

    # ---- changes out -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many markets `changes` has to give."""
        return len(self._changed)

    def changes(self, limit: int) -> list[Changed]:
        """At most `limit` of the markets that changed, as they are now. They stay until `done`."""
        found: list[Changed] = []
        for market in self._changed:
            if len(found) == limit:
                break
            found.append(Changed(market.name, market.key, self._render(market), market))
        return found

    def done(self, changes: Iterable[Changed], now_ns: int) -> None:
        """The cache has them (nothing was added since `changes`)."""
        for change in changes:
            market = change.token
            assert isinstance(market, _Market)
            market.cached_ns = now_ns
            self._changed.pop(market, None)
        if not self._changed:
            self.waiting_ns = 0

    def again(self) -> None:
        """The cache has lost them: all count as changed."""
        self._mark(self._markets.values())

    def tend(self, now_ns: int, ttl_ns: int) -> None:
        """Keeps what lives longer than the cache would, and forgets what it has forgotten. From time to time."""
        for market in list(self._markets.values()):
            if market.lives:
                if market.cached_ns < now_ns - ttl_ns // 2:
                    self._mark((market,))
            elif market.recv_ns < now_ns - ttl_ns and market not in self._changed:
                del self._markets[market.raw_name]
                self._forget(market)

    def carry(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Takes over what the cache holds from before: parts that were not seen here. Call once, before `changes`."""
        for value in values:
            name = value.get("market")
            if isinstance(name, str) and value.get("feed") == self.feed and value.get("journal") == self._journal:
                self._carry(name, value)

    def _carry(self, name: str, value: Mapping[str, Any]) -> None:
        raw = name.encode("utf-8", "surrogatepass")
        market = self._markets.get(raw)
        if market is None:
            if len(self._markets) >= self._max_markets:
                return
            market = self._markets[raw] = _Market(self.feed, raw)
            self._markets.move_to_end(raw, last=False)
            market.number, market.recv_ns = _whole(value.get("number")), _whole(value.get("recv_ns"))
        market.carry(value)
        self._mark((market,))  # a book that the cache shows as synced is kept by nobody else

    def _render(self, market: _Market) -> bytes:
        book, quote, source, why = market.quote()
        parts = (book, market.trade, market.ticker, market.status)
        never = ",".join(f'"{name}"' for name, part in zip(PARTS, parts, strict=True) if part is None)
        shown = ("null" if part is None else part for part in parts)
        book, trade, ticker, status = shown
        text = (
            f'{{"market":{market.shown_name},{self._tail},"number":{market.number},"recv_ns":{market.recv_ns},'
            f'{_quote_fields(quote)},"quote":{source},"trouble":{why},'
            f'"book":{book},"trade":{trade},"ticker":{ticker},"status":{status},"never":[{never}]}}'
        )
        return text.encode()


class _Channel:
    """One sid of one connection: the last sequence number, and the markets whose books it keeps synced."""

    __slots__ = ("markets", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.markets: dict[_Market, None] = {}


class _Market:
    """One market. Its parts are JSON already (None = never seen), but for the book."""

    __slots__ = (
        "book",
        "book_at",
        "cached_ns",
        "channel",
        "facts",
        "key",
        "name",
        "number",
        "raw_name",
        "recv_ns",
        "shown_name",
        "status",
        "ticker",
        "ticker_quote",
        "trade",
        "was",
        "why",
    )

    def __init__(self, feed: str, raw_name: bytes) -> None:
        self.raw_name = raw_name
        self.name = raw_name.decode("utf-8", "backslashreplace")
        self.shown_name = json.dumps(self.name)
        self.key = names.last_value_key(feed, self.name)
        self.number = self.recv_ns = self.cached_ns = 0
        self.trade: str | None = None
        self.ticker: str | None = None
        self.ticker_quote: Quote = NO_QUOTE
        self.status: str | None = None
        self.facts: dict[str, Any] = {}  # of the status
        self.book: Book | None = None  # None and `why`: seen, and not synced
        self.why: str | None = None
        self.was: Quote | None = None
        self.channel: _Channel | None = None  # which keeps the book synced
        self.book_at = (0, 0, 0)  # number, recv_ns, exchange_ns of its last change

    @property
    def lives(self) -> bool:
        """It has a book that a quiet channel may leave as it is for long."""
        return self.book is not None and not self.book.empty and self.facts.get("status") not in _OVER

    def unsync(self, why: str) -> None:
        """`was` is what the book said when it was last believed; one that was wrong itself said nothing."""
        book = self.book
        if book is not None:
            self.was = _best(book) if why != BELOW_ZERO else None
        self.book, self.why, self.channel = None, why, None

    def quote(self) -> tuple[str | None, Quote, str, str]:
        """The book as JSON, best bid and ask, where they are from and why there are none (both as JSON)."""
        if self.book is None and self.why is None:
            return None, self.ticker_quote, "null" if self.ticker is None else '"ticker"', "null"
        number, recv_ns, exchange_ns = self.book_at
        stamps = _stamps(number, recv_ns, exchange_ns)
        if self.book is None:
            why, was = json.dumps(self.why), "null" if self.was is None else f"{{{_quote_fields(self.was)}}}"
            return f'{{"synced":false,"why":{why},"was":{was},{stamps}}}', NO_QUOTE, '"book"', why
        levels = f'"bid_levels":{len(self.book.bids)},"ask_levels":{len(self.book.asks)}'
        return f'{{"synced":true,"why":null,{levels},{stamps}}}', _best(self.book), '"book"', "null"

    def carry(self, value: Mapping[str, Any]) -> None:
        """Parts of an earlier value where there are none yet; of its book only that there was one."""
        if self.trade is None and isinstance(value.get("trade"), dict):
            self.trade = json.dumps(value["trade"], separators=(",", ":"))
        ticker = value.get("ticker")
        if self.ticker is None and isinstance(ticker, dict):
            self.ticker = json.dumps(ticker, separators=(",", ":"))
            self.ticker_quote = _ticker_quote([ticker.get(name) for name in _TICKER_NAMES])
        if isinstance(value.get("status"), dict):
            self.facts = {**value["status"], **self.facts}
            self.status = json.dumps(self.facts, separators=(",", ":"))
        book = value.get("book")
        if self.book is None and self.why is None and isinstance(book, dict):
            self.why = NO_SNAPSHOT if book.get("synced") else str(book.get("why"))
            self.book_at = (_whole(book.get("number")), _whole(book.get("recv_ns")), _whole(book.get("exchange_ns")))
            was = value if book.get("synced") else book.get("was")
            self.was = _quote_of(was) if isinstance(was, dict) else None


def _best(book: Book) -> Quote:
    bid, ask = book.best_bid_e4, book.best_ask_e4
    return bid, None if bid is None else book.bids[bid], ask, None if ask is None else book.asks[ask]


def _quote_fields(quote: Quote) -> str:
    bid, bid_size, ask, ask_size = ("null" if field is None else field for field in quote)
    return f'"bid_e4":{bid},"bid_size_e2":{bid_size},"ask_e4":{ask},"ask_size_e2":{ask_size}'


def _quote_of(value: Mapping[str, Any]) -> Quote:
    bid, bid_size, ask, ask_size = (value.get(name) for name in ("bid_e4", "bid_size_e2", "ask_e4", "ask_size_e2"))
    return bid, bid_size, ask, ask_size


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _stamps(number: int, recv_ns: int, exchange_ns: int) -> str:
    return f'"number":{number},"recv_ns":{recv_ns},"exchange_ns":{exchange_ns or "null"}'


# ---- one record of each kind: `at` is where it lies in `data` --------------------------------------------------------

_OWN_KINDS: Final = frozenset({int(Kind.GAP), int(Kind.CONNECTION), int(Kind.CLOCK)})
_MARKET_KINDS: Final = frozenset({int(Kind.TRADE), int(Kind.TICKER), int(Kind.BOOK), int(Kind.STATUS)})


def _book(market: _Market, channel: _Channel, data: Buffer, at: int, view: View) -> None:
    book = market.book
    if view.sub != 1:
        bids, asks = _levels(data, at, view, 1), _levels(data, at, view, 2)
        if market.channel is not channel:
            if market.channel is not None:
                market.channel.markets.pop(market, None)
            market.channel = channel
            channel.markets[market] = None
        if book is None:
            book = market.book = Book()
        book.snapshot(bids, asks)
        market.why = market.was = None
    elif book is None:
        market.why = market.why or NO_SNAPSHOT
    elif market.channel is not channel:
        return  # another subscription of the same book: the newer one keeps it
    else:
        side, price_e4, delta_e2 = _DELTA.unpack_from(data, at + view.body_at)
        if side in (BID, ASK) and not book.delta(side, price_e4, delta_e2):
            del channel.markets[market]
            market.unsync(BELOW_ZERO)
    market.book_at = (view.number, view.recv_ns, view.exchange_ns)


def _levels(data: Buffer, at: int, view: View, index: int) -> Iterable[tuple[int, int]]:
    """The list of levels that pointer `index` of the body leads to."""
    place = at + view.pointers_at + 8 * index
    pointer: int = _POINTER.unpack_from(data, place)[0]
    if not pointer:
        return ()
    tag_at = place + 8 + 8 * _signed_30(pointer)
    tag: int = _POINTER.unpack_from(data, tag_at)[0]
    count, stride = (tag & 0xFFFFFFFF) >> 2, 8 * ((tag >> 32 & 0xFFFF) + (tag >> 48))
    if stride == _LEVEL.size:
        return _LEVEL.iter_unpack(memoryview(data)[tag_at + 8 : tag_at + 8 + count * stride])
    return (_LEVEL.unpack_from(data, tag_at + 8 + i * stride) for i in range(count))


def _signed_30(pointer: int) -> int:
    """The offset of a Cap'n Proto pointer, in words."""
    offset = (pointer & 0xFFFFFFFF) >> 2
    return offset - (1 << 30) if offset >> 29 else offset


def _text(data: Buffer, at: int, view: View, index: int) -> str | None:
    """The text that pointer `index` of the body leads to."""
    place = at + view.pointers_at + 8 * index
    pointer: int = _POINTER.unpack_from(data, place)[0]
    if not pointer:
        return None
    start = place + 8 + 8 * _signed_30(pointer)
    return bytes(data[start : start + (pointer >> 35) - 1]).decode("utf-8", "replace")


def _trade(data: Buffer, at: int, view: View) -> str:
    price_e4, side, block, count_e2 = _TRADE.unpack_from(data, at + view.body_at)
    return (
        f'{{"price_e4":{price_e4},"count_e2":{count_e2},"taker_side":{_TAKER.get(side, "null")},'
        f'"trade_id":{json.dumps(_text(data, at, view, 1))},"block":{"true" if block & 1 else "false"},'
        f"{_stamps(view.number, view.recv_ns, view.exchange_ns)}}}"
    )


def _ticker(data: Buffer, at: int, view: View) -> tuple[str, Quote]:
    present, *values = _TICKER.unpack_from(data, at + view.body_at)
    fields = [value if present >> bit & 1 else None for bit, value in enumerate(values, TICKER_FIRST_BIT)]
    shown = ",".join(
        f'"{name}":{"null" if value is None else value}' for name, value in zip(_TICKER_NAMES, fields, strict=True)
    )
    return f"{{{shown},{_stamps(view.number, view.recv_ns, view.exchange_ns)}}}", _ticker_quote(fields)


def _ticker_quote(fields: list[int | None]) -> Quote:
    """Best bid and ask of a ticker. A bid of 0 and an ask of 1 without size are how it says that there is none."""
    bid, bid_size, ask, ask_size = (fields[i] for i in _QUOTE_FIELDS)
    if not bid:
        bid = bid_size = None
    if ask is None or (ask >= 10_000 and not ask_size):
        ask = ask_size = None
    return bid, bid_size, ask, ask_size


def _status(market: _Market, data: Buffer, at: int, view: View) -> None:
    """A lifecycle message says one thing; what the others said stays."""
    change, flags, settlement, *times = _STATUS.unpack_from(data, at + view.body_at)
    known = Change(change) if change in Change.__members__.values() else Change.UNKNOWN
    said: dict[str, Any] = {
        "status": STATUS_AFTER.get(known),
        **dict(zip(("open_ns", "close_ns", "determined_ns", "settled_ns"), (ns or None for ns in times), strict=True)),
        "event": _text(data, at, view, 1),
        "result": _text(data, at, view, 2),
        "settlement_value_e4": settlement if flags & 1 else None,
    }
    facts = market.facts or dict.fromkeys(said)
    market.facts = {
        **facts,
        **{name: value for name, value in said.items() if value is not None},
        "change": known.name.lower(),
        "number": view.number,
        "recv_ns": view.recv_ns,
        "exchange_ns": view.exchange_ns or None,
    }
    market.status = json.dumps(market.facts, separators=(",", ":"))


def _tickers_of(frame: bytes) -> frozenset[str]:
    """The markets that an `ok` reply lists as those of its subscription now; empty where it lists none."""
    try:
        said = json.loads(frame)
        listed = said["msg"]["market_tickers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return frozenset()
    return frozenset(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else frozenset()


def read_value(value: bytes | None) -> dict[str, Any] | None:
    """A value of the cache as an object; None where it is none of ours."""
    try:
        said = json.loads(value) if value is not None else None
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and isinstance(said.get("market"), str) else None
