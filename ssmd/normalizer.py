"""From the socket's bytes to records, in plain Python: the specification of the C splitter and decoder.

For: being read beside docs/records.md, being compared with C byte for byte (tests/test_twins.py), and running the whole
program (`normalizer: python` of the environment) when somebody hunts a difference in the field. Not for speed, and not
for sockets or clocks: bytes and time come in as arguments.

Invariants. Every complete message becomes exactly one record, understood or not, with the exchange's bytes in it
unless the environment switched that off for understood ones. Nothing that the exchange sends raises an exception out
of here. Numbers are exact: no float is ever made.

Reading order: JSON (a strict walker that keeps raw text), fields (the page's rules for one value), types (one function
a message type), `normalize`, sequence numbers, WebSocket, Connection.

Why not ujson: it accepts what the page forbids and hides what the page asks for (docs/normalizer.md lists inputs).

Facts: docs/records.md; RFC 8259 (JSON), RFC 3629 (UTF-8), RFC 6455 (WebSocket).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from ssmd.quality import SEQUENCE_JUMP
from ssmd.records import (
    TICKER_FIELDS,
    TICKER_FIRST_BIT,
    BookKind,
    BookSide,
    Change,
    ControlType,
    GapCause,
    IndexSource,
    Kind,
    Reason,
    Side,
    encode,
    gap,
)
from ssmd.wire import Event, EventKind, FeedStatus

DEPTH_LIMIT = 32  # nesting of a frame; the outer object is depth 1
TYPE_LIMIT_BYTES = 64  # longest type that an unparsed record names
DRIFT_NAME_LIMIT_BYTES = 64
DRIFT_LIMIT = 256  # distinct names that one connection tells
DRIFT_KEYS_LIMIT = 32  # unknown keys of one object that are looked at
SID_LIMIT = 1024  # sids that one connection tracks
_MAX_SEQ = (1 << 64) - 1
UNPARSED_OVERHEAD_BYTES = 256  # most that an unparsed record takes beside its frame, rounded up
DEFAULT_LIMIT_BYTES = 2 * 1024 * 1024
DEFAULT_MAX_FRAME_BYTES = 1024 * 1024
DEFAULT_RECV_BYTES = 512 * 1024

_INT_BOUND = 10**15  # every int of the wire is smaller in size
_MS_BOUND = 9 * 10**12  # times beyond do not fit Int64 nanoseconds
_S_BOUND = 9 * 10**9
_U32_MAX = 2**32 - 1
_ONE_DOLLAR_E4 = 10_000


# ---- JSON --------------------------------------------------------------------------------------------------------


class String(NamedTuple):
    """A JSON string: the bytes between its quotes as they came, escapes unresolved, known to be UTF-8."""

    raw: bytes


class Number(NamedTuple):
    """A JSON number: its text, since a value would be a guess at what the exchange meant."""

    raw: bytes


class Object(NamedTuple):
    """A JSON object: its members in wire order, duplicates included. Keys are raw, as in String."""

    members: list[tuple[bytes, Value]]

    def get(self, key: str) -> Value:
        """The last member of that key, None (absent, like null) if there is none."""
        raw = key.encode()
        for name, value in reversed(self.members):
            if name == raw:
                return value
        return None


Value: TypeAlias = "String | Number | Object | list[Value] | bool | None"


class _BadJson(Exception):
    """Not one JSON object of valid UTF-8."""


class _TooDeep(Exception):
    """Nested beyond DEPTH_LIMIT."""


_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"((?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+)"')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: Final[tuple[tuple[bytes, bool | None], ...]] = ((b"true", True), (b"false", False), (b"null", None))


def parse(frame: bytes) -> Object:
    """The frame as one JSON object. The first fault in byte order decides: _BadJson or _TooDeep."""
    at = _space(frame, 0)
    if not frame.startswith(b"{", at):
        raise _BadJson
    value, at = _object(frame, at, 1)
    if _space(frame, at) != len(frame):
        raise _BadJson
    return value


def _space(data: bytes, at: int) -> int:
    match = _SPACE.match(data, at)
    assert match is not None
    return match.end()


def _value(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    """The value that starts at `at` (no white space before it), inside `depth` containers."""
    if data.startswith(b"{", at):
        return _object(data, at, depth + 1)
    if data.startswith(b"[", at):
        return _array(data, at, depth + 1)
    if data.startswith(b'"', at):
        raw, at = _string(data, at)
        return String(raw), at
    for word, value in _WORDS:
        if data.startswith(word, at):
            return value, at + len(word)
    match = _NUMBER.match(data, at)
    if match is None:
        raise _BadJson
    return Number(match.group()), match.end()


def _object(data: bytes, at: int, depth: int) -> tuple[Object, int]:
    if depth > DEPTH_LIMIT:
        raise _TooDeep
    members: list[tuple[bytes, Value]] = []
    at = _space(data, at + 1)
    if data.startswith(b"}", at):
        return Object(members), at + 1
    while True:
        key, at = _string(data, at)
        at = _expect(data, _space(data, at), b":")
        value, at = _value(data, _space(data, at), depth)
        members.append((key, value))
        at = _space(data, at)
        if data.startswith(b"}", at):
            return Object(members), at + 1
        at = _space(data, _expect(data, at, b","))


def _array(data: bytes, at: int, depth: int) -> tuple[list[Value], int]:
    if depth > DEPTH_LIMIT:
        raise _TooDeep
    items: list[Value] = []
    at = _space(data, at + 1)
    if data.startswith(b"]", at):
        return items, at + 1
    while True:
        value, at = _value(data, at, depth)
        items.append(value)
        at = _space(data, at)
        if data.startswith(b"]", at):
            return items, at + 1
        at = _space(data, _expect(data, at, b","))


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    match = _STRING.match(data, at)
    if match is None:
        raise _BadJson
    try:
        match.group(1).decode("utf-8")
    except UnicodeDecodeError:
        raise _BadJson from None
    return match.group(1), match.end()


def _expect(data: bytes, at: int, mark: bytes) -> int:
    if not data.startswith(mark, at):
        raise _BadJson
    return at + 1


# ---- fields ------------------------------------------------------------------------------------------------------
#
# Each rule takes a value and gives what it means, None where it is absent; a value of another shape is _Malformed.


class _Malformed(Exception):
    """A field is there with another shape, or is not exact in our unit."""


class _Missing(Exception):
    """A field without which the message means nothing is absent."""


T = TypeVar("T")

_INT = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,15}))?")
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?Z",
)


def text(value: Value) -> str | None:
    """A string without any backslash; empty = absent."""
    if value is None:
        return None
    if not isinstance(value, String) or b"\\" in value.raw:
        raise _Malformed
    return value.raw.decode("utf-8") or None


def integer(value: Value) -> int | None:
    """An int of fewer than 16 digits, no fraction, no exponent."""
    if value is None:
        return None
    if not isinstance(value, Number) or _INT.fullmatch(value.raw) is None:
        raise _Malformed
    # Long texts are judged by their length: int() of a huge text is slow, and CPython limits it.
    if len(value.raw) > 16 or abs(int(value.raw)) >= _INT_BOUND:
        raise _Malformed
    return int(value.raw)


def decimal(value: Value, digits: int, bits: int) -> int | None:
    """A decimal string times 10^digits; digits beyond must be zeros, the result a signed integer of `bits` bits."""
    word = text(value)
    if word is None:
        return None
    match = _DECIMAL.fullmatch(word)
    if match is None:
        raise _Malformed
    sign, whole, fraction = match.group(1), match.group(2), match.group(3) or ""
    if fraction[digits:].strip("0"):
        raise _Malformed
    scaled = int(whole + fraction[:digits].ljust(digits, "0"))
    return _fit(-scaled if sign else scaled, bits)


def hundredfold(value: Value, bits: int) -> int | None:
    """Cents as 1e-4 dollars, or contracts as 1e-2 contracts."""
    number = integer(value)
    return None if number is None else _fit(number * 100, bits)


def _fit(value: int, bits: int) -> int:
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise _Malformed
    return value


def unsigned(value: Value, most: int = _INT_BOUND - 1) -> int | None:
    """An int from 0 to `most`."""
    number = integer(value)
    if number is not None and not 0 <= number <= most:
        raise _Malformed
    return number


def flag(value: Value) -> bool | None:
    """true or false."""
    if value is None or isinstance(value, bool):
        return value
    raise _Malformed


def lenient(rule: Callable[[Value], T | None], value: Value) -> T | None:
    """What the rule says, and absent where it finds the value malformed."""
    try:
        return rule(value)
    except _Malformed:
        return None


def ms_to_ns(value: Value) -> int | None:
    """Unix milliseconds as ns; lenient."""
    ms = lenient(unsigned, value)
    return ms * 1_000_000 if ms is not None and ms < _MS_BOUND else None


def s_to_ns(value: Value) -> int | None:
    """Unix seconds as ns; lenient."""
    s = lenient(unsigned, value)
    return s * 1_000_000_000 if s is not None and s < _S_BOUND else None


def rfc3339_to_ns(value: Value) -> int | None:
    """A UTC time as written by the exchange, 1970 to 2200, as ns; lenient."""
    match = _RFC3339.fullmatch(lenient(text, value) or "")
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match.group(i)) for i in range(1, 7))
    if not (1970 <= year <= 2200 and hour < 24 and minute < 60 and second < 60):
        return None
    try:
        days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        return None
    nanos = int((match.group(7) or "").ljust(9, "0"))
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanos


def _price_e4(msg: Object, dollars: str, cents: str) -> int | None:
    return _first(decimal(msg.get(dollars), 4, 32), hundredfold(msg.get(cents), 32))


def _count_e2(msg: Object, fixed: str, contracts: str | None = None) -> int | None:
    whole = None if contracts is None else hundredfold(msg.get(contracts), 64)
    return _first(decimal(msg.get(fixed), 2, 64), whole)


def _first(*values: T | None) -> T | None:
    """The first that is present. All of them were checked when they were made."""
    return next((value for value in values if value is not None), None)


def _need(*values: Any) -> None:
    if any(value is None for value in values):
        raise _Missing


# ---- types -------------------------------------------------------------------------------------------------------
#
# One function a body. It reads every field first (malformed comes before missing), then asks for the ones it needs,
# then turns prices over.


class _Frame(NamedTuple):
    """What a type's function is given."""

    type: str
    top: Object
    msg: Object
    use_yes_price: bool


class _Body(NamedTuple):
    """What it gives back."""

    kind: Kind
    fields: Mapping[str, Any]
    exchange_ns: int = 0
    new_value: str | None = None  # a word that is not in the list of its field


_SIDES = {"yes": Side.YES, "no": Side.NO}
_BOOK_SIDES = {"yes": BookSide.BID, "no": BookSide.ASK}
_CHANGES = {
    "created": Change.CREATED,
    "activated": Change.ACTIVATED,
    "deactivated": Change.DEACTIVATED,
    "close_date_updated": Change.CLOSE_DATE_UPDATED,
    "determined": Change.DETERMINED,
    "settled": Change.SETTLED,
    "price_level_structure_updated": Change.PRICE_LEVEL_STRUCTURE_UPDATED,
    "metadata_updated": Change.METADATA_UPDATED,
}
_INDEX_SOURCES = {
    "cfbenchmarks_value": IndexSource.CFBENCHMARKS,
    "cfbenchmarks_value_5hz": IndexSource.CFBENCHMARKS5HZ,
    "pyth_value": IndexSource.PYTH,
}


def _exchange_ns(msg: Object, ms_key: str = "ts_ms") -> int:
    times = rfc3339_to_ns(msg.get("ts")), ms_to_ns(msg.get(ms_key)), s_to_ns(msg.get("ts"))
    return _first(*times) or 0


def _trade(frame: _Frame) -> _Body:
    msg = frame.msg
    side = _first(text(msg.get("taker_outcome_side")), text(msg.get("taker_side")))
    fields = {
        "market": text(msg.get("market_ticker")),
        "tradeId": text(msg.get("trade_id")),
        "priceE4": _price_e4(msg, "yes_price_dollars", "yes_price"),
        "takerSide": _SIDES.get(side or "", Side.UNKNOWN),
        "block": flag(msg.get("is_block_trade")) or False,
        "countE2": _count_e2(msg, "count_fp", "count"),
    }
    _need(fields["market"], fields["priceE4"], fields["countE2"])
    return _Body(Kind.TRADE, fields, _exchange_ns(msg), None if side in _SIDES else side)


def _ticker(frame: _Frame) -> _Body:
    msg = frame.msg
    market = text(msg.get("market_ticker"))
    values = (
        _price_e4(msg, "price_dollars", "price"),
        _price_e4(msg, "yes_bid_dollars", "yes_bid"),
        _price_e4(msg, "yes_ask_dollars", "yes_ask"),
        _count_e2(msg, "volume_fp", "volume"),
        _count_e2(msg, "open_interest_fp", "open_interest"),
        lenient(integer, msg.get("dollar_volume")),
        lenient(integer, msg.get("dollar_open_interest")),
        _count_e2(msg, "yes_bid_size_fp"),
        _count_e2(msg, "yes_ask_size_fp"),
        _count_e2(msg, "last_trade_size_fp"),
    )
    _need(market)
    present = sum(1 << i for i, value in enumerate(values, TICKER_FIRST_BIT) if value is not None)
    fields = {"market": market, "present": present, **dict(zip(TICKER_FIELDS, values, strict=True))}
    return _Body(Kind.TICKER, fields, _exchange_ns(msg))


def _ladder(msg: Object, *keys: str) -> tuple[str | None, list[tuple[int, int]]]:
    """The key that is used for one side (None if none is there) and its levels. All keys are checked."""
    found = [(key, [_level(item) for item in _array_of(msg.get(key))]) for key in keys if msg.get(key) is not None]
    return found[0] if found else (None, [])


def _array_of(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise _Malformed
    return value


def _level(item: Value) -> tuple[int, int]:
    pair = _array_of(item)
    if len(pair) != 2:
        raise _Malformed
    price, count = pair
    price_e4 = decimal(price, 4, 32) if isinstance(price, String) else hundredfold(price, 32)
    count_e2 = decimal(count, 2, 64) if isinstance(count, String) else hundredfold(count, 64)
    if price_e4 is None or count_e2 is None:
        raise _Malformed
    return price_e4, count_e2


def _snapshot(frame: _Frame) -> _Body:
    msg = frame.msg
    request_id = unsigned(frame.top.get("id")) or 0
    market = text(msg.get("market_ticker"))
    yes_key, bids = _ladder(msg, "yes_dollars_fp", "yes_dollars", "yes")
    no_key, asks = _ladder(msg, "no_dollars_fp", "no_dollars", "no")
    _need(market)
    if not (frame.use_yes_price and no_key == "no_dollars_fp"):
        asks = [(_fit(_ONE_DOLLAR_E4 - price_e4, 32), count_e2) for price_e4, count_e2 in asks]
    # No ladder key at all is the new format's empty book.
    new_format = yes_key == "yes_dollars_fp" or no_key == "no_dollars_fp" or yes_key is no_key is None
    fields = {
        "market": market,
        "kind": BookKind.SNAPSHOT,
        "yesScale": frame.use_yes_price and new_format,
        "bids": bids,
        "asks": asks,
        "requestId": request_id,
    }
    return _Body(Kind.BOOK, fields)


def _delta(frame: _Frame) -> _Body:
    msg = frame.msg
    market = text(msg.get("market_ticker"))
    price_e4 = _price_e4(msg, "price_dollars", "price")
    delta_e2 = _count_e2(msg, "delta_fp", "delta")
    new_format = text(msg.get("delta_fp")) is not None
    word = text(msg.get("side"))
    if word is not None and word not in _BOOK_SIDES:
        raise _Malformed
    _need(market, price_e4, delta_e2, word)
    assert price_e4 is not None and word is not None
    yes_scale = frame.use_yes_price and new_format
    if word == "no" and not yes_scale:
        price_e4 = _fit(_ONE_DOLLAR_E4 - price_e4, 32)
    fields = {
        "market": market,
        "kind": BookKind.DELTA,
        "side": _BOOK_SIDES[word],
        "yesScale": yes_scale,
        "priceE4": price_e4,
        "deltaE2": delta_e2,
    }
    return _Body(Kind.BOOK, fields, _exchange_ns(msg))


def _lifecycle(frame: _Frame) -> _Body:
    msg = frame.msg
    word = text(msg.get("event_type"))
    event = text(msg.get("event_ticker"))
    settlement_value = decimal(msg.get("settlement_value"), 4, 32)
    change = _CHANGES.get(word or "", Change.UNKNOWN)
    new_value = word if change is Change.UNKNOWN else None
    metadata = msg.get("additional_metadata")
    if change is Change.CREATED and event is None and isinstance(metadata, Object):
        event = lenient(text, metadata.get("event_ticker"))
    fields = {
        "market": text(msg.get("market_ticker")),
        "event": event,
        "change": change,
        "hasSettlement": settlement_value is not None,
        "multivariate": frame.type == "multivariate_market_lifecycle",
        "settlementValueE4": settlement_value,
        "openNs": s_to_ns(msg.get("open_ts")),
        "closeNs": s_to_ns(msg.get("close_ts")),
        "determinedNs": s_to_ns(msg.get("determination_ts")),
        "settledNs": s_to_ns(msg.get("settled_ts")),
        "result": text(msg.get("result")),
        "changeName": new_value,
    }
    _need(word)
    return _Body(Kind.STATUS, fields, new_value=new_value)


def _event(frame: _Frame) -> _Body:
    event = text(frame.msg.get("event_ticker"))
    _need(event)
    change = Change.EVENT_CREATED if frame.type == "event_lifecycle" else Change.EVENT_FEE_UPDATED
    return _Body(Kind.STATUS, {"event": event, "change": change})


def _index(frame: _Frame) -> _Body:
    msg = frame.msg
    index = text(msg.get("underlying_ticker" if frame.type == "pyth_value" else "index_id"))
    value = decimal(msg.get("value_usd"), 8, 64)
    average_data = msg.get("avg_60s_data")
    if average_data is not None and not isinstance(average_data, Object):
        raise _Malformed
    average = None if average_data is None else decimal(average_data.get("value"), 8, 64)
    _need(index)
    fields = {
        "index": index,
        "source": _INDEX_SOURCES[frame.type],
        "hasValue": value is not None,
        "hasAverage": average is not None,
        "valueE8": value,
        "averageE8": average,
        "receivedNs": ms_to_ns(msg.get("received_at")),
    }
    return _Body(Kind.INDEX, fields, _exchange_ns(msg, "source_ts_ms"))


def _subscribed(frame: _Frame) -> _Body:
    fields = {
        "type": ControlType.SUBSCRIBED,
        "id": unsigned(frame.top.get("id")),
        "sid": unsigned(frame.msg.get("sid"), _U32_MAX),
        "channel": text(frame.msg.get("channel")),
    }
    _need(fields["channel"], fields["sid"])
    return _Body(Kind.CONTROL, fields)


def _acknowledged(frame: _Frame) -> _Body:
    kind = ControlType.OK if frame.type == "ok" else ControlType.UNSUBSCRIBED
    top = frame.top
    return _Body(Kind.CONTROL, {"type": kind, "id": unsigned(top.get("id")), "sid": unsigned(top.get("sid"))})


def _error(frame: _Frame) -> _Body:
    fields = {
        "type": ControlType.ERROR,
        "code": unsigned(frame.msg.get("code"), _U32_MAX),
        "id": unsigned(frame.top.get("id")),
        "sid": unsigned(frame.top.get("sid")),
        "message": lenient(text, frame.msg.get("msg")),
    }
    _need(fields["code"])
    return _Body(Kind.CONTROL, fields)


class _Type(NamedTuple):
    """What is known of one message type."""

    body: Callable[[_Frame], _Body]
    known: frozenset[bytes] | None  # keys of msg; None = msg may be anything
    suspect: bool = True  # whether a book or a sequence is in doubt when it cannot be decoded (event UNDECODED)


def _keys(words: str) -> frozenset[bytes]:
    return frozenset(words.encode().split())


_TOP_KEYS = _keys("type id sid seq msg sending_ts_ms")
_LIFECYCLE_KEYS = _keys(
    "market_ticker event_ticker event_type open_ts close_ts determination_ts settled_ts result settlement_value "
    "is_deactivated exchange_index additional_metadata price_level_structure price_ranges strike_type floor_strike "
    "cap_strike custom_strike yes_sub_title no_sub_title"
)
_INDEX_KEYS = _keys("value_usd avg_60s_data received_at ts source_ts_ms data last_60s_windowed_average_15min")

_TYPES: Mapping[str, _Type] = {
    "trade": _Type(
        _trade,
        _keys(
            "market_ticker trade_id yes_price_dollars yes_price count_fp count taker_outcome_side taker_side "
            "is_block_trade no_price_dollars no_price taker_book_side ts ts_ms"
        ),
    ),
    "ticker": _Type(
        _ticker,
        _keys(
            "market_ticker price_dollars price yes_bid_dollars yes_bid yes_ask_dollars yes_ask volume_fp volume "
            "open_interest_fp open_interest dollar_volume dollar_open_interest yes_bid_size_fp yes_ask_size_fp "
            "last_trade_size_fp market_id time Clock ts ts_ms"
        ),
        suspect=False,
    ),
    "orderbook_snapshot": _Type(
        _snapshot,
        _keys("market_ticker yes_dollars_fp yes_dollars yes no_dollars_fp no_dollars no market_id"),
    ),
    "orderbook_delta": _Type(
        _delta,
        _keys("market_ticker price_dollars price delta_fp delta side market_id client_order_id subaccount ts ts_ms"),
    ),
    "market_lifecycle_v2": _Type(_lifecycle, _LIFECYCLE_KEYS),
    "multivariate_market_lifecycle": _Type(_lifecycle, _LIFECYCLE_KEYS),
    "event_lifecycle": _Type(
        _event,
        _keys(
            "event_ticker exchange_index title subtitle sub_title collateral_return_type series_ticker strike_date "
            "strike_period"
        ),
    ),
    "event_fee_update": _Type(_event, _keys("event_ticker fee_type_override fee_multiplier_override")),
    "cfbenchmarks_value": _Type(_index, _INDEX_KEYS | {b"index_id"}),
    "cfbenchmarks_value_5hz": _Type(_index, _INDEX_KEYS | {b"index_id"}),
    "pyth_value": _Type(_index, _INDEX_KEYS | {b"underlying_ticker"}),
    "subscribed": _Type(_subscribed, _keys("channel sid"), suspect=False),
    "ok": _Type(_acknowledged, None, suspect=False),
    "unsubscribed": _Type(_acknowledged, None, suspect=False),
    "error": _Type(_error, _keys("code msg market_ticker market_tickers"), suspect=False),
}

_NOT_DECODED = _keys(
    "fill market_position user_order order_group_updates rfq_created rfq_deleted quote_created quote_accepted "
    "quote_executed cfbenchmarks_value_indexlist cfbenchmarks_value_5hz_indexlist pyth_value_underlying_list"
)


# ---- a frame -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Normalized:
    """One frame's record, and what a session must know of it."""

    record: bytes  # number 0: the ring puts it in
    kind: Kind
    sid: int = 0
    seq: int = 0
    fields: Mapping[str, Any] | None = None  # of the body, by the schema's names
    type: str | None = None  # the frame's type where it is a text
    drift: tuple[bytes, ...] = ()  # names that the page does not list, repeats included


class _Unparsed(Exception):
    """The frame is kept without being understood, for `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


def normalize(
    frame: bytes,
    *,
    number: int,
    recv_ns: int,
    recv_ticks: int,
    connection: int,
    use_yes_price: bool = True,
    keep_frames: bool = True,
    binary: bool = False,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> bytes:
    """The record of one frame: the twin of `ssmd_normalize`. ValueError if even an unparsed record may not fit."""
    return decode(
        frame,
        number=number,
        recv_ns=recv_ns,
        recv_ticks=recv_ticks,
        connection=connection,
        use_yes_price=use_yes_price,
        keep_frames=keep_frames,
        binary=binary,
        limit_bytes=limit_bytes,
    ).record


def decode(
    frame: bytes,
    *,
    number: int = 0,
    recv_ns: int,
    recv_ticks: int,
    connection: int,
    use_yes_price: bool = True,
    keep_frames: bool = True,
    binary: bool = False,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> Normalized:
    """The record of one frame and what stands in it."""
    header: dict[str, int] = {
        "number": number,
        "recv_ns": recv_ns,
        "recv_ticks": recv_ticks,
        "connection": connection,
    }
    name: str | None = None
    drift: list[bytes] = []
    try:
        top = _parse_or_unparsed(frame, binary)
        header |= _envelope(top)
        name = lenient(text, top.get("type"))
        body = _body(_judged(top), name, use_yes_price, drift)
        record = encode(
            body.kind, body.fields, exchange_ns=body.exchange_ns, frame=frame if keep_frames else b"", **header
        )
        if len(record) > limit_bytes:
            raise _Unparsed(Reason.TOO_COMPLEX)
    except _Unparsed as fault:
        short = name if name is not None and len(name.encode()) <= TYPE_LIMIT_BYTES else None
        body = _Body(Kind.UNPARSED, {"reason": fault.reason, "type": short})
        record = encode(body.kind, body.fields, frame=frame, **header)
        if len(record) > limit_bytes:
            raise ValueError(f"a limit of {limit_bytes} bytes cannot hold a frame of {len(frame)}") from None
    if body.new_value is not None:
        drift.append(b"value:" + body.new_value.encode())
    return Normalized(
        record=record,
        kind=body.kind,
        sid=header.get("sid", 0),
        seq=header.get("seq", 0),
        fields=body.fields,
        type=name,
        drift=tuple(drift),
    )


def _parse_or_unparsed(frame: bytes, binary: bool) -> Object:
    if binary:
        raise _Unparsed(Reason.BINARY)
    try:
        return parse(frame)
    except _BadJson:
        raise _Unparsed(Reason.BAD_JSON) from None
    except _TooDeep:
        raise _Unparsed(Reason.TOO_COMPLEX) from None


def _envelope(top: Object) -> dict[str, int]:
    """sid, seq and the sending time, 0 where they are absent or malformed."""
    return {
        "sid": lenient(_sid, top.get("sid")) or 0,
        "seq": lenient(unsigned, top.get("seq")) or 0,
        "sent_ns": ms_to_ns(top.get("sending_ts_ms")) or 0,
    }


def _sid(value: Value) -> int | None:
    return unsigned(value, _U32_MAX)


def _judged(top: Object) -> Object:
    """The frame itself if type, sid and seq are well formed; type comes first."""
    if lenient(text, top.get("type")) is None:
        raise _Unparsed(Reason.NO_TYPE)
    try:
        _sid(top.get("sid"))
        unsigned(top.get("seq"))
    except _Malformed:
        raise _Unparsed(Reason.BAD_FIELD) from None
    return top


def _body(top: Object, name: str | None, use_yes_price: bool, drift: list[bytes]) -> _Body:
    """The decoded body of a frame of that type; names of anything new are added to `drift`."""
    assert name is not None
    if name.encode() in _NOT_DECODED:
        raise _Unparsed(Reason.NOT_DECODED)
    if name not in _TYPES:
        drift.append(b"type:" + name.encode())
        raise _Unparsed(Reason.UNKNOWN_TYPE)
    known = _TYPES[name].known
    msg = top.get("msg")
    drift += _unknown_keys(top, _TOP_KEYS)
    if known is None:
        msg = Object([])
    elif msg is None:
        raise _Unparsed(Reason.MISSING_FIELD)
    elif not isinstance(msg, Object):
        raise _Unparsed(Reason.BAD_FIELD)
    else:
        drift += _unknown_keys(msg, known)
    try:
        unsigned(top.get("id"))
        return _TYPES[name].body(_Frame(name, top, msg, use_yes_price))
    except _Malformed:
        raise _Unparsed(Reason.BAD_FIELD) from None
    except _Missing:
        raise _Unparsed(Reason.MISSING_FIELD) from None


def _unknown_keys(of: Object, known: frozenset[bytes]) -> list[bytes]:
    return [b"field:" + key for key, _ in of.members if key not in known][:DRIFT_KEYS_LIMIT]


# ---- sequence numbers --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sequence:
    expected: int = 1
    before: int = 0  # what was expected before a jump that nothing has confirmed yet
    last_ns: int = 0  # when the last tracked frame of this sid was received


class Skipped(NamedTuple):
    """Numbers first..last of a sid were never seen; all was well until from_ns."""

    first: int
    last: int
    from_ns: int


class Repeated(NamedTuple):
    """A number that did not rise."""

    expected: int


class SequenceTracker:
    """The next expected number of every sid of one connection.

    `judge` says what a frame's number means and changes nothing; `accept` moves on once its record is in the ring. So a
    frame that waits for room can be judged again.
    """

    def __init__(self) -> None:
        self._sids: dict[int, _Sequence] = {}

    def judge(self, sid: int, seq: int) -> Skipped | Repeated | None:
        """What is wrong with this number, None if nothing is, or if the frame is not tracked."""
        sequence = self._sids.get(sid, _Sequence())
        expected = _expected(sequence, seq)
        if not self._tracked(sid, seq) or seq == expected:
            return None
        if seq > expected:
            return Skipped(expected, seq - 1, sequence.last_ns)
        return Repeated(expected)

    def accept(self, sid: int, seq: int, recv_ns: int) -> None:
        """The frame is kept. Expected numbers never move back, but from a jump that was no more than a wrong number."""
        if self._tracked(sid, seq):
            sequence = self._sids.setdefault(sid, _Sequence())
            sequence.last_ns = recv_ns
            expected = _expected(sequence, seq)
            if seq >= expected:
                sequence.before = expected if seq - expected >= SEQUENCE_JUMP else 0
                sequence.expected = min(seq + 1, _MAX_SEQ)

    def crowded(self, sid: int, seq: int) -> bool:
        """A number that is not tracked, because there are too many sids."""
        return sid > 0 and seq > 0 and not self._tracked(sid, seq)

    def _tracked(self, sid: int, seq: int) -> bool:
        return sid > 0 and seq > 0 and (sid in self._sids or len(self._sids) < SID_LIMIT)


def _expected(sequence: _Sequence, seq: int) -> int:
    """What is expected of this frame: with a jump in doubt, by that of the two numberings which it goes on with."""
    back = sequence.before and sequence.before <= seq < sequence.before + SEQUENCE_JUMP
    return sequence.before if back else sequence.expected


# ---- WebSocket ---------------------------------------------------------------------------------------------------

OP_CONTINUATION, OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_CONTROL_EVENTS = {OP_PING: EventKind.PING, OP_PONG: EventKind.PONG, OP_CLOSE: EventKind.CLOSE}
_CONTROL_LIMIT_BYTES = 125


class Message(NamedTuple):
    """A whole text or binary message, or a control frame."""

    opcode: int
    payload: bytes


class ProtocolFault(Exception):
    """The peer broke RFC 6455."""


class MessageTooLarge(Exception):
    """A message announced more than the limit."""

    def __init__(self, length_bytes: int, head: bytes) -> None:
        super().__init__(f"a message of {length_bytes} bytes")
        self.length_bytes = length_bytes
        self.head = head


class Splitter:
    """Server frames out of a byte stream, fragments put together."""

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._bytes = bytearray()  # received, not yet split
        self._message = bytearray()  # fragments of the unfinished message
        self._opcode: int | None = None  # its opcode; None outside of a message

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Adds bytes of the stream; they may end anywhere."""
        self._bytes += data

    def take(self) -> Message | None:
        """The next message or control frame, None when more bytes are needed."""
        while (found := self._frame()) is not None:
            final, opcode, payload = found
            if opcode in _CONTROL_EVENTS:
                return Message(opcode, payload)
            if opcode != OP_CONTINUATION:
                self._opcode = opcode
            self._message += payload
            if final:
                assert self._opcode is not None
                message = Message(self._opcode, bytes(self._message))
                self._opcode = None
                self._message.clear()
                return message
        return None

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """One frame off the front: (final, opcode, payload)."""
        data = self._bytes
        if len(data) < 2:
            return None
        final, opcode, short = self._judge_start(data[0], data[1])
        start = 2 + {126: 2, 127: 8}.get(short, 0)
        if len(data) < start:
            return None
        length = short if short < 126 else int.from_bytes(data[2:start], "big")
        if length >> 63:
            raise ProtocolFault("a length with its top bit set")
        if opcode in _CONTROL_EVENTS:
            if length > _CONTROL_LIMIT_BYTES:
                raise ProtocolFault("a control frame of more than 125 bytes")
        elif len(self._message) + length > self._max_frame_bytes:
            raise MessageTooLarge(len(self._message) + length, bytes(self._message + data[start : start + length]))
        if len(data) < start + length:
            return None
        payload = bytes(data[start : start + length])
        del data[: start + length]
        return final, opcode, payload

    def _judge_start(self, first: int, second: int) -> tuple[bool, int, int]:
        final, opcode, short = first >= 0x80, first & 0x0F, second & 0x7F
        if first & 0x70:
            raise ProtocolFault("reserved bits are set")
        if second & 0x80:
            raise ProtocolFault("a masked server frame")
        if opcode in _CONTROL_EVENTS:
            if not final:
                raise ProtocolFault("a fragmented control frame")
        elif opcode == OP_CONTINUATION:
            if self._opcode is None:
                raise ProtocolFault("a continuation outside of a message")
        elif opcode not in (OP_TEXT, OP_BINARY):
            raise ProtocolFault("an opcode that there is not")
        elif self._opcode is not None:
            raise ProtocolFault("a new message inside of another")
        return final, opcode, short


# ---- Connection --------------------------------------------------------------------------------------------------


class RecordWriter(Protocol):
    """Where records go: the ring's producer side (`ssmd.native.wire.Writer`), or a list in a test."""

    def push(self, record: bytes, /) -> int:
        """Puts the next number into the record and takes it: the number, or 0 when there is no room now."""


@dataclass(slots=True)
class _Waiting:
    """A message on its way into the ring: kept over a full ring, so that nothing is done twice."""

    frame: bytes
    normalized: Normalized
    gap_number: int = 0


_DRIFT_COUNTS: Final = {b"type": "unknown_types", b"field": "unknown_fields", b"value": "unknown_values"}


class Connection:
    """One socket's splitter, decoder and sequence tracking: `ssmd.wire.WireConnection` in plain Python.

    `stamp` gives (UTC ns, ticks) and is called once a chunk. `limit_bytes` is the largest record the writer takes.
    `counts`: to count in, where several connections are counted together.
    """

    def __init__(
        self,
        writer: RecordWriter,
        connection: int,
        *,
        stamp: Callable[[], tuple[int, int]],
        use_yes_price: bool = True,
        keep_frames: bool = True,
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        recv_bytes: int = DEFAULT_RECV_BYTES,
        max_events: int = 256,
        counts: Counter[str] | None = None,
    ) -> None:
        if limit_bytes < max_frame_bytes + UNPARSED_OVERHEAD_BYTES:
            raise ValueError(f"records of {limit_bytes} bytes at most cannot hold frames of {max_frame_bytes}")
        self._writer = writer
        self._connection = connection
        self._stamp = stamp
        self._use_yes_price = use_yes_price
        self._keep_frames = keep_frames
        self._limit_bytes = limit_bytes
        self._max_events = max_events
        self._buffer = memoryview(bytearray(recv_bytes))
        self._splitter = Splitter(max_frame_bytes)
        self._tracker = SequenceTracker()
        self._told: set[bytes] = set()  # drift names
        self._events: list[Event] = []
        self._waiting: _Waiting | None = None
        self._gap: bytes | None = None  # the Gap of a message that was too large, while it waits for room
        self._recv_ns = 0
        self._recv_ticks = 0
        self._frames = 0
        # what the C writer counts by itself, by the same names
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._status = FeedStatus.OK
        self._fault = ""

    @property
    def buffer(self) -> memoryview:
        """Where to receive: always the same writable view."""
        return self._buffer

    @property
    def events(self) -> list[Event]:
        """Events since the last call of `feed`, in the order of the wire."""
        return self._events

    @property
    def frames(self) -> int:
        """Messages that are in the ring."""
        return self._frames

    @property
    def last_recv_ns(self) -> int:
        """Receive stamp of the last chunk, UTC ns; 0 before the first."""
        return self._recv_ns

    def feed(self, received: int) -> FeedStatus:
        """Handles `received` new bytes at the start of `buffer` (0: goes on with what is left)."""
        if not 0 <= received <= len(self._buffer):
            raise ValueError(f"{received} bytes in a buffer of {len(self._buffer)}")
        if received > 0 and self._status in (FeedStatus.FULL, FeedStatus.MORE):
            raise ValueError("what was received before is not handled yet: call feed(0)")
        self._events = []
        if self._status in (FeedStatus.PROTOCOL, FeedStatus.TOO_LARGE, FeedStatus.CLOSED):
            return self._status
        if received > 0:
            self._recv_ns, self._recv_ticks = self._stamp()
            self._splitter.receive(self._buffer[:received])
        self._status = self._handle()
        return self._status

    @property
    def fault(self) -> str:
        """After `PROTOCOL`: what the other side did wrong; "" before."""
        return self._fault

    def close(self) -> None:
        """Nothing to give back: here so that C's connection can be swapped for this one."""

    def _handle(self) -> FeedStatus:
        """Messages one by one, until the bytes, the ring or the room for events end."""
        while True:
            if self._gap is not None:
                return self._push_last_gap()
            if self._waiting is not None and not self._push_waiting():
                return FeedStatus.FULL
            if len(self._events) >= self._max_events:
                return FeedStatus.MORE
            try:
                message = self._splitter.take()
            except ProtocolFault as fault:
                self._fault = str(fault)
                return FeedStatus.PROTOCOL
            except MessageTooLarge as fault:
                self._gap = self._gap_too_large(fault)
                continue
            if message is None:
                return FeedStatus.OK
            if message.opcode in _CONTROL_EVENTS:
                self._events.append(Event(_CONTROL_EVENTS[message.opcode], data=message.payload))
                if message.opcode == OP_CLOSE:
                    return FeedStatus.CLOSED
            else:
                self._waiting = _Waiting(message.payload, self._decode(message))

    def _decode(self, message: Message) -> Normalized:
        return decode(
            message.payload,
            recv_ns=self._recv_ns,
            recv_ticks=self._recv_ticks,
            connection=self._connection,
            use_yes_price=self._use_yes_price,
            keep_frames=self._keep_frames,
            binary=message.opcode == OP_BINARY,
            limit_bytes=self._limit_bytes,
        )

    def _count(self, size: int, normalized: Normalized, verdict: Skipped | Repeated | None) -> None:
        self._frames += 1
        self.counts["frames"] += 1
        self.counts["bytes"] += size
        self.counts["repeats"] += isinstance(verdict, Repeated)
        for name in normalized.drift:
            self.counts[_DRIFT_COUNTS[name.partition(b":")[0]]] += 1

    def _push_waiting(self) -> bool:
        """The waiting message's Gap, if any, and its record into the ring; False when there is no room."""
        waiting = self._waiting
        assert waiting is not None
        normalized = waiting.normalized
        verdict = self._tracker.judge(normalized.sid, normalized.seq)
        if isinstance(verdict, Skipped) and not waiting.gap_number:
            waiting.gap_number = self._writer.push(self._gap_skipped(normalized.sid, verdict))
            if not waiting.gap_number:
                return False
        number = self._writer.push(normalized.record)
        if not number:
            return False
        self.counts["untracked"] += self._tracker.crowded(normalized.sid, normalized.seq)
        self._tracker.accept(normalized.sid, normalized.seq, self._recv_ns)
        self._count(len(waiting.frame), normalized, verdict)
        self._waiting = None
        self._events += self._tell(waiting, verdict, number)
        return True

    def _gap_skipped(self, sid: int, skipped: Skipped) -> bytes:
        return gap(
            cause=GapCause.SEQUENCE,
            connection=self._connection,
            recv_ns=self._recv_ns,
            recv_ticks=self._recv_ticks,
            sid=sid,
            from_seq=skipped.first,
            to_seq=skipped.last,
            from_ns=skipped.from_ns,
            to_ns=self._recv_ns,
        )

    def _gap_too_large(self, fault: MessageTooLarge) -> bytes:
        return gap(
            cause=GapCause.FRAME_TOO_LARGE,
            connection=self._connection,
            recv_ns=self._recv_ns,
            recv_ticks=self._recv_ticks,
            from_ns=self._recv_ns,
            length_bytes=fault.length_bytes,
            head=fault.head,
        )

    def _push_last_gap(self) -> FeedStatus:
        assert self._gap is not None
        number = self._writer.push(self._gap)
        if not number:
            return FeedStatus.FULL
        self._gap = None
        self._events.append(Event(EventKind.GAP, number=number))
        return FeedStatus.TOO_LARGE

    def _tell(self, waiting: _Waiting, verdict: Skipped | Repeated | None, number: int) -> Iterator[Event]:
        """The events of one record, in the page's order."""
        of = waiting.normalized
        fields = of.fields or {}
        sid, seq = of.sid, of.seq
        if isinstance(verdict, Skipped):
            yield Event(
                EventKind.GAP, sid=sid, seq=seq, first=verdict.first, last=verdict.last, number=waiting.gap_number
            )
        if isinstance(verdict, Repeated):
            yield Event(EventKind.REPEAT, sid=sid, seq=seq, first=verdict.expected, number=number)
        if of.kind is Kind.UNPARSED and _is_suspect(of.type, fields["reason"]):
            data = (of.type or "").encode()
            yield Event(EventKind.UNDECODED, sid=sid, seq=seq, number=number, reason=fields["reason"], data=data)
        if of.kind is Kind.CONTROL:
            command = fields["id"] or 0
            yield Event(EventKind.REPLY, sid=fields["sid"] or 0, seq=seq, id=command, number=number, data=waiting.frame)
        if of.kind is Kind.BOOK and fields.get("requestId"):
            data = fields["market"].encode()
            yield Event(EventKind.SNAPSHOT, sid=sid, seq=seq, id=fields["requestId"], number=number, data=data)
        for name in of.drift:
            if self._is_news(name):
                yield Event(EventKind.DRIFT, sid=sid, seq=seq, number=number, data=_cut(name))

    def _is_news(self, name: bytes) -> bool:
        name = _cut(name)
        if name in self._told or len(self._told) >= DRIFT_LIMIT:
            return False
        self._told.add(name)
        return True


_SUSPECT = (Reason.MISSING_FIELD, Reason.BAD_FIELD, Reason.TOO_COMPLEX)


def _is_suspect(name: str | None, reason: Reason) -> bool:
    """Whether an unparsed record leaves a sequenced channel in doubt."""
    known = _TYPES.get(name or "")
    return (
        known is not None and known.suspect and reason in (Reason.MISSING_FIELD, Reason.BAD_FIELD, Reason.TOO_COMPLEX)
    )


def _cut(name: bytes) -> bytes:
    """A drift name with at most 64 bytes after its prefix."""
    prefix, _, rest = name.partition(b":")
    return prefix + b":" + rest[:DRIFT_NAME_LIMIT_BYTES]
