"""What was last seen of each market: quote, trade, ticker, status, kept up to date over the records of a journal.

Pure logic: bytes of records go in (`add`), markets that changed come out as JSON (`changes`), conflated: however often
a market changed in between, it comes out once, as it is now. Not for: files, the cache, clocks (`service`).

    book    best bid and ask with sizes, from the order book: kept level by level, from snapshots and deltas
    trade   the last one
    ticker  the last one, with all of its fields
    status  the last lifecycle message, and what those before it said

What happens for every record happens in C (csrc/latest.c; its plain twin and specification is `plain`); here is what
happens once for a market that changed, and what is rare: lifecycle messages, what the cache held before.

Invariant: a book is `synced` only while every change of it since its snapshot is known. A gap, a lost connection, the
end of a run, a delta that cannot be right: from then on it says why instead of a price, until its next snapshot. A
part that was never seen says so. Nothing is made up.

Memory is bounded: at most `max_markets`; beyond, those go that changed longest ago. Facts: docs/records.md (layouts),
docs/last.md (the JSON).
"""

from __future__ import annotations

import itertools
import json
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

from ssmd.middleware import names
from ssmd.native.latest import Last, Latest, Quote, Stamp, State, Sync
from ssmd.native.walk import Buffer, View
from ssmd.records import STATUS_AFTER, TICKER_FIELDS, TICKER_FIRST_BIT, Change, Kind

PARTS: Final = ("book", "trade", "ticker", "status")

WHY: Final[Mapping[int, str]] = {
    Sync.NO_SNAPSHOT: "no snapshot of it was seen yet",
    Sync.BELOW_ZERO: "a delta took a level below zero",
    Sync.MISSED: "messages were missed",
    Sync.CLOSED: "the connection was closed",
    Sync.STARTED: "recording began anew",
    Sync.STOPPED: "recording stopped",
    Sync.ENDED: "the subscription ended",
    Sync.LEFT: "the market left the subscription",
    Sync.BREAK: "records of the journal are missing",
    Sync.DAMAGE: "the journal is damaged",
}
_SYNC_OF: Final = {why: sync for sync, why in WHY.items()}

_STATUS = struct.Struct("<HBxiqqqq")  # change, flags, settlementValueE4, openNs, closeNs, determinedNs, settledNs
_POINTER = struct.Struct("<Q")
_TAKER: Final = {1: '"yes"', 2: '"no"'}
_TICKER_NAMES: Final = tuple(
    "".join(f"_{c.lower()}" if c.isupper() else c for c in name) for name in TICKER_FIELDS
)  # price_e4, yes_bid_e4 ...

_Best = tuple[int | None, int | None, int | None, int | None]  # bid_e4, bid_size_e2, ask_e4, ask_size_e2
_QUOTE_NAMES: Final = ("bid_e4", "bid_size_e2", "ask_e4", "ask_size_e2")
_QUOTE_OF_TICKER: Final = ("yes_bid_e4", "yes_bid_size_e2", "yes_ask_e4", "yes_ask_size_e2")
_NO_QUOTE: Final[_Best] = (None, None, None, None)
_NO_RECORD: Final = Stamp()
_NEVER: Final = {  # which parts are missing -> their names, as JSON
    missing: json.dumps([name for name, is_missing in zip(PARTS, missing, strict=True) if is_missing])
    for missing in itertools.product((False, True), repeat=len(PARTS))
}


class Changed(NamedTuple):
    """A market that changed: what the cache should hold of it now."""

    name: str
    key: str
    value: bytes


class Keeper(Protocol):
    """Who follows the records: `ssmd.native.latest.Latest`, or its plain twin."""

    def add(self, data: Buffer, start: int, stop: int, offset: int) -> Iterator[View]: ...
    def doubt(self, sync: Sync) -> None: ...
    def books(self, connection: int, sid: int) -> list[bytes]: ...
    def unsync(self, market: bytes, sync: Sync) -> None: ...
    def carry(self, value: Last) -> bool: ...
    def changed(self, limit: int) -> list[Last]: ...
    def done(self, count: int, now_ns: int) -> None: ...
    def again(self) -> None: ...
    def tend(self, now_ns: int, ttl_ns: int) -> None: ...
    def look(self) -> State: ...


class LastValues:
    """What was last seen of each market of one journal, by reading it. One thread."""

    def __init__(
        self,
        feed: str,
        *,
        journal: str | None = None,
        shard: str | None = None,
        max_markets: int = 100_000,
        keeper: Keeper | None = None,
    ) -> None:
        """`shard`: which one of several that share the cache, None = the only recorder."""
        self.feed, self.shard = feed, shard
        self._journal = journal
        self._whose = f'"feed":{json.dumps(feed)},"journal":{json.dumps(journal)}'
        self._max_markets = max_markets
        self._keeper: Keeper = keeper if keeper is not None else Latest(max_markets)
        self._faces: OrderedDict[bytes, _Face] = OrderedDict()  # the one that was shown longest ago first

    def __len__(self) -> int:
        return self._keeper.look().markets

    @property
    def number(self) -> int:
        """The last record that was added."""
        return self._keeper.look().number

    @property
    def recv_ns(self) -> int:
        """When that was received."""
        return self._keeper.look().recv_ns

    @property
    def waiting(self) -> int:
        """How many markets `changes` has to give."""
        return self._keeper.look().changed

    @property
    def waiting_ns(self) -> int:
        """Receive time of the first change that `done` has not been told of; 0 = none waits."""
        return self._keeper.look().waiting_ns

    # ---- records in ------------------------------------------------------------------------------------------------

    def add(self, data: Buffer, start: int, stop: int, offset: int) -> None:
        """Takes in the whole, valid records data[start:stop], which begin at `offset` of their segment."""
        base = start - offset
        for view in self._keeper.add(data, start, stop, offset):
            at = base + view.offset
            if view.kind == Kind.STATUS:
                face = self._face(bytes(data[at + view.market_at : at + view.market_at + view.market_bytes]))
                face.learn(_status(data, at, view))
            else:
                self._left(bytes(data[at + view.frame_at : at + view.frame_at + view.frame_bytes]), view)

    def doubt(self, sync: Sync) -> None:
        """Something may have been missed anywhere: no book is believed until its next snapshot."""
        self._keeper.doubt(sync)

    def _left(self, frame: bytes, view: View) -> None:
        """A reply that lists the markets of a subscription: no deltas come for the books of others any more."""
        listed = _tickers_of(frame)
        for name in self._keeper.books(view.connection, view.sid) if listed else ():
            if name.decode("utf-8", "backslashreplace") not in listed:
                self._keeper.unsync(name, Sync.LEFT)

    def _face(self, name: bytes) -> _Face:
        face = self._faces.get(name)
        if face is None:
            face = self._faces[name] = _Face(self.feed, name, self.shard)
            if len(self._faces) > self._max_markets:
                self._faces.popitem(last=False)
        else:
            self._faces.move_to_end(name)
        return face

    # ---- changes out -----------------------------------------------------------------------------------------------

    def changes(self, limit: int) -> list[Changed]:
        """At most `limit` of the markets that changed, as they are now. They stay until `done`."""
        found = []
        for last in self._keeper.changed(limit):
            face = self._face(last.market)
            found.append(Changed(face.name, face.key, face.value(last, self._whose)))
        return found

    def done(self, changes: list[Changed], now_ns: int) -> None:
        """The cache has them: what the last `changes` gave, and nothing was added since."""
        self._keeper.done(len(changes), now_ns)

    def again(self) -> None:
        """The cache has lost them: all count as changed."""
        self._keeper.again()

    def tend(self, now_ns: int, ttl_ns: int) -> None:
        """Keeps what lives longer than the cache would, and forgets what it has forgotten. From time to time."""
        self._keeper.tend(now_ns, ttl_ns)

    def owns(self, value: Mapping[str, Any]) -> bool:
        """Whether a value of the cache was kept by whoever followed this journal before."""
        known = self._journal is not None  # one without an identity is like every other of those
        return known and value.get("feed") == self.feed and value.get("journal") == self._journal

    def carry(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Takes over what the cache holds from before: parts that were not seen here. Call once, before `changes`.

        A book that the cache shows as synced is kept by nobody else: they all come out again, as not synced.
        """
        for value in values:
            name = value.get("market")
            if isinstance(name, str) and self.owns(value):
                raw = name.encode("utf-8", "surrogatepass")
                if self._keeper.carry(_carried(raw, value)):
                    self._face(raw).carry(value)


class _Face:
    """How a market is shown: its name, and its parts as JSON, each made anew only when it changed."""

    __slots__ = (
        "_facts",
        "_shown_name",
        "_status",
        "_ticker",
        "_ticker_at",
        "_ticker_quote",
        "_trade",
        "_trade_at",
        "key",
        "name",
    )

    def __init__(self, feed: str, raw_name: bytes, shard: str | None) -> None:
        self.name = raw_name.decode("utf-8", "backslashreplace")
        self.key = names.last_value_key(feed, self.name, shard)
        self._shown_name = json.dumps(self.name)
        self._trade_at = self._ticker_at = _NO_RECORD  # of the records that the parts show
        self._trade: str | None = None
        self._ticker: str | None = None
        self._ticker_quote: _Best = _NO_QUOTE
        self._facts: dict[str, Any] = {}
        self._status: str | None = None

    def value(self, last: Last, whose: str) -> bytes:
        if last.trade_at.number and last.trade_at != self._trade_at:
            self._trade, self._trade_at = _trade(last), last.trade_at
        if last.ticker_at.number and last.ticker_at != self._ticker_at:
            (self._ticker, self._ticker_quote), self._ticker_at = _ticker(last), last.ticker_at
        if self._facts and self._status is None:
            self._status = json.dumps(self._facts, separators=(",", ":"))
        book, quote, source, why = _book(last)
        if last.sync == Sync.NEVER:
            quote, source = self._ticker_quote, "null" if self._ticker is None else '"ticker"'
        trade, ticker, status = self._trade, self._ticker, self._status
        never = _NEVER[book is None, trade is None, ticker is None, status is None]
        return (
            f'{{"market":{self._shown_name},{whose},"number":{last.number},"recv_ns":{last.recv_ns},'
            f'{_best(quote)},"quote":{source},"trouble":{why},'
            f'"book":{book or "null"},"trade":{trade or "null"},"ticker":{ticker or "null"},'
            f'"status":{status or "null"},"never":{never}}}'
        ).encode()

    def learn(self, said: Mapping[str, Any]) -> None:
        """A lifecycle message says one thing; what the others said stays."""
        known = {name: value for name, value in said.items() if value is not None}
        self._facts = {**(self._facts or dict.fromkeys(said)), "exchange_ns": None, **known}
        self._status = None

    def carry(self, value: Mapping[str, Any]) -> None:
        """Parts of an earlier value where there are none here. What comes later replaces them."""
        if self._trade is None and isinstance(value.get("trade"), dict):
            self._trade = json.dumps(value["trade"], separators=(",", ":"))
        ticker = value.get("ticker")
        if self._ticker is None and isinstance(ticker, dict):
            self._ticker = json.dumps(ticker, separators=(",", ":"))
            self._ticker_quote = _ticker_quote(ticker)
        if isinstance(value.get("status"), dict):
            known = {name: fact for name, fact in self._facts.items() if fact is not None}
            self._facts, self._status = {**value["status"], **known}, None


# ---- parts as JSON ---------------------------------------------------------------------------------------------------


def _book(last: Last) -> tuple[str | None, _Best, str, str]:
    """The part, best bid and ask, where they are from, and why there are none (both as JSON)."""
    if last.sync == Sync.NEVER:
        return None, _NO_QUOTE, "null", "null"
    quote, stamps = last.quote, _stamps(last.book_at)
    best: _Best = (
        *((quote.bid_e4, quote.bid_size_e2) if quote.bid_levels else (None, None)),
        *((quote.ask_e4, quote.ask_size_e2) if quote.ask_levels else (None, None)),
    )
    if last.sync == Sync.SYNCED:
        levels = f'"bid_levels":{quote.bid_levels},"ask_levels":{quote.ask_levels}'
        return f'{{"synced":true,"why":null,{levels},{stamps}}}', best, '"book"', "null"
    why = f'"{WHY.get(last.sync, last.sync)}"'
    was = f"{{{_best(best)}}}" if last.was else "null"
    return f'{{"synced":false,"why":{why},"was":{was},{stamps}}}', _NO_QUOTE, '"book"', why


def _best(quote: _Best) -> str:
    bid, bid_size, ask, ask_size = quote
    return (
        f'"bid_e4":{"null" if bid is None else bid},"bid_size_e2":{"null" if bid_size is None else bid_size},'
        f'"ask_e4":{"null" if ask is None else ask},"ask_size_e2":{"null" if ask_size is None else ask_size}'
    )


def _trade(last: Last) -> str:
    trade = last.trade
    shown_id = "null" if trade.trade_id is None else json.dumps(trade.trade_id.decode("utf-8", "replace"))
    return (
        f'{{"price_e4":{trade.price_e4},"count_e2":{trade.count_e2},"taker_side":{_TAKER.get(trade.side, "null")},'
        f'"trade_id":{shown_id},"block":{"true" if trade.block else "false"},{_stamps(last.trade_at)}}}'
    )


def _ticker(last: Last) -> tuple[str, _Best]:
    fields = {
        name: value if last.ticker_present >> bit & 1 else None
        for bit, (name, value) in enumerate(zip(_TICKER_NAMES, last.ticker, strict=True), TICKER_FIRST_BIT)
    }
    shown = ",".join(f'"{name}":{"null" if value is None else value}' for name, value in fields.items())
    return f"{{{shown},{_stamps(last.ticker_at)}}}", _ticker_quote(fields)


def _ticker_quote(fields: Mapping[str, Any]) -> _Best:
    """Best bid and ask of a ticker. A bid of 0 and an ask of 1 without size are how it says that there is none."""
    bid, bid_size, ask, ask_size = (_whole_or_none(fields.get(name)) for name in _QUOTE_OF_TICKER)
    if not bid:
        bid = bid_size = None
    if ask is None or (ask >= 10_000 and not ask_size):
        ask = ask_size = None
    return bid, bid_size, ask, ask_size


def _stamps(stamp: Stamp) -> str:
    return f'"number":{stamp.number},"recv_ns":{stamp.recv_ns},"exchange_ns":{stamp.exchange_ns or "null"}'


# ---- what is rare ----------------------------------------------------------------------------------------------------


def _status(data: Buffer, at: int, view: View) -> dict[str, Any]:
    """What the status record says that lies at `at`; None where it says nothing."""
    change, flags, settlement, *times = _STATUS.unpack_from(data, at + view.body_at)
    known = Change(change) if change in Change.__members__.values() else Change.UNKNOWN
    return {
        "status": STATUS_AFTER.get(known),
        "change": known.name.lower(),
        "event": _text(data, at, view, 1),
        **dict(zip(("open_ns", "close_ns", "determined_ns", "settled_ns"), (ns or None for ns in times), strict=True)),
        "result": _text(data, at, view, 2),
        "settlement_value_e4": settlement if flags & 1 else None,
        "number": view.number,
        "recv_ns": view.recv_ns,
        "exchange_ns": view.exchange_ns or None,
    }


def _text(data: Buffer, at: int, view: View, index: int) -> str | None:
    """The text that pointer `index` of the body leads to."""
    place = at + view.pointers_at + 8 * index
    pointer: int = _POINTER.unpack_from(data, place)[0]
    if not pointer:
        return None
    offset = (pointer & 0xFFFFFFFF) >> 2
    start = place + 8 + 8 * (offset - (offset >> 29 << 30))
    return bytes(data[start : start + (pointer >> 35) - 1]).decode("utf-8", "replace")


def _tickers_of(frame: bytes) -> frozenset[str]:
    """The markets that an `ok` reply lists as those of its subscription now; empty where it lists none."""
    try:
        listed = json.loads(frame)["msg"]["market_tickers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return frozenset()
    return frozenset(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else frozenset()


def _carried(name: bytes, value: Mapping[str, Any]) -> Last:
    """What the keeper should know of an earlier value: the market, and that it had a book."""
    last = Last(name, _whole(value.get("number")), _whole(value.get("recv_ns")))
    book = value.get("book")
    if not isinstance(book, dict):
        return last
    sync = Sync.NO_SNAPSHOT if book.get("synced") else _SYNC_OF.get(str(book.get("why")), Sync.NO_SNAPSHOT)
    was = value if book.get("synced") else book.get("was")
    stamp = Stamp(_whole(book.get("number")), _whole(book.get("recv_ns")), _whole(book.get("exchange_ns")))
    last = last._replace(sync=sync, book_at=stamp)
    if not isinstance(was, dict):
        return last
    bid, bid_size, ask, ask_size = (
        _whole_or_none(was.get(name), limit) for name, limit in zip(_QUOTE_NAMES, (1 << 31, 1 << 63) * 2, strict=True)
    )
    quote = Quote(bid or 0, bid_size or 0, ask or 0, ask_size or 0, int(bid is not None), int(ask is not None))
    return last._replace(was=True, quote=quote)


def _whole(value: object) -> int:
    return _whole_or_none(value) or 0


def _whole_or_none(value: object, limit: int = 1 << 63) -> int | None:
    """A whole number from 0 up to a limit; what a cache holds may be anything."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit else None


def read_value(value: bytes | None) -> dict[str, Any] | None:
    """A value of the cache as an object; None where it is none of ours."""
    try:
        said = json.loads(value) if value is not None else None
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and isinstance(said.get("market"), str) else None
