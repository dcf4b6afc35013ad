"""The schema door: everything Python knows about the bytes of a record.

For: reading records (`read`, `records`, `header`), making the records that Python writes itself (`gap`,
`connection_event`, `clock_anchor`), and showing any record as the object that `ssmd cat --format json` prints
(`to_json`). Not for: files, rings, JSON of the exchange (`ssmd.normalizer`). The only importer of pycapnp.

Invariants. Whatever `encode` returns is one Cap'n Proto message in stream framing with exactly one segment, laid out
as docs/records.md says (body, its texts and lists in ordinal order, frame last), so that `number` stands at byte 16.
Whatever bytes are read, a fault comes back as DamageError: pycapnp's file readers and packed readers abort the process
on damaged input, so only `read_multiple_bytes` is used here, after the framing was checked.

Facts: schemas/market_data.capnp, docs/records.md, csrc/ssmd.h (the offsets).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import capnp

from ssmd.errors import DamageError, UsageError

# A reader of `struct Record`: its attributes are the schema's fields (recvNs, body.trade.priceE4 ...).
Record: TypeAlias = Any

# Byte offsets inside every record, framing and root pointer included: the same as SSMD_RECORD_* in csrc/ssmd.h.
RECORD_NUMBER = 16
RECORD_RECV_NS = 24
RECORD_RECV_TICKS = 32
RECORD_EXCHANGE_NS = 40
RECORD_SENT_NS = 48
RECORD_CONNECTION = 56
RECORD_SID = 60
RECORD_SEQ = 64
RECORD_KIND = 72
RECORD_FRAME_POINTER = 80
RECORD_BODY_POINTER = 88
RECORD_HEADER_BYTES = 96

GAP_HEAD_BYTES = 256  # most that a Gap keeps of a frame that was too large

_FRAMING = struct.Struct("<II")  # segments - 1 (always 0), words of the segment
_HEADER = struct.Struct("<QqQqqIIQH")  # number .. seq at RECORD_NUMBER, then the union's ordinal at RECORD_KIND
_U64 = struct.Struct("<Q")
_LEVEL = struct.Struct("<iq")
_INTEGERS = {
    "enum": struct.Struct("<H"),
    "int32": struct.Struct("<i"),
    "int64": struct.Struct("<q"),
    "uint32": struct.Struct("<I"),
    "uint64": _U64,
}
_OBJECTS = {"bool": bool, "text": str, "data": bytes}
_WORD_BYTES = 8
# How many words a reader may touch in its life. It stops a damaged list pointer from costing more than a glance;
# nobody reads one record 64 times over.
_TRAVERSAL_FLOOR_WORDS = 8 * 1024 * 1024
_TRAVERSAL_FACTOR = 64


class Kind(IntEnum):
    """Ordinals of the union `Record.body`."""

    UNPARSED = 0
    TRADE = 1
    TICKER = 2
    BOOK = 3
    STATUS = 4
    INDEX = 5
    CONTROL = 6
    GAP = 7
    CONNECTION = 8
    CLOCK = 9
    CHECKPOINT = 10
    ENTRY = 11

    @property
    def field(self) -> str:
        """Name of the union's member in the schema."""
        return self.name.lower()


class Reason(IntEnum):
    """Unparsed.Reason: why a frame is kept but not understood."""

    BAD_JSON = 0
    NO_TYPE = 1
    UNKNOWN_TYPE = 2
    NOT_DECODED = 3
    MISSING_FIELD = 4
    BAD_FIELD = 5
    BINARY = 6
    TOO_COMPLEX = 7


class Side(IntEnum):
    """Taker's side of a trade."""

    UNKNOWN = 0
    YES = 1
    NO = 2


class BookSide(IntEnum):
    """Side of a book delta, on the YES scale."""

    UNKNOWN = 0
    BID = 1
    ASK = 2


class BookKind(IntEnum):
    """OrderBookUpdate.Kind."""

    SNAPSHOT = 0
    DELTA = 1


class Change(IntEnum):
    """MarketStatusUpdate.Change."""

    UNKNOWN = 0
    CREATED = 1
    ACTIVATED = 2
    DEACTIVATED = 3
    CLOSE_DATE_UPDATED = 4
    DETERMINED = 5
    SETTLED = 6
    PRICE_LEVEL_STRUCTURE_UPDATED = 7
    METADATA_UPDATED = 8
    EVENT_CREATED = 9
    EVENT_FEE_UPDATED = 10


class IndexSource(IntEnum):
    """IndexValue.Source."""

    CFBENCHMARKS = 0
    CFBENCHMARKS5HZ = 1
    PYTH = 2


class ControlType(IntEnum):
    """Control.Type."""

    SUBSCRIBED = 0
    OK = 1
    UNSUBSCRIBED = 2
    ERROR = 3


class GapCause(IntEnum):
    """Gap.Cause: why something was missed."""

    SEQUENCE = 0
    DISCONNECT = 1
    STALL = 2
    OUTAGE = 3
    CHANNEL_ERROR = 4
    BUFFER_OVERFLOW = 5
    FRAME_TOO_LARGE = 6
    UNDECODED = 7
    BOOK_STATE = 8
    DAMAGE = 9
    REFUSED = 10


class ConnectionWhat(IntEnum):
    """ConnectionEvent.What."""

    STARTED = 0
    OPENED = 1
    SUBSCRIBED = 2
    RESYNCED = 3
    CLOSED = 4
    STOPPED = 5
    REFUSED = 6


class ClockSource(IntEnum):
    """ClockAnchor.Source."""

    TSC = 0
    CNTVCT = 1
    MONOTONIC = 2


# Where the market's own state follows from a lifecycle message. Opening and closing by the clock send no message.
STATUS_AFTER: Mapping[Change, str] = {
    Change.CREATED: "initialized",
    Change.ACTIVATED: "active",
    Change.DEACTIVATED: "inactive",
    Change.DETERMINED: "determined",
    Change.SETTLED: "finalized",
}

# Ticker fields in ordinal order, and the ordinal (= bit of `present`) of the first.
TICKER_FIELDS = (
    "priceE4",
    "yesBidE4",
    "yesAskE4",
    "volumeE2",
    "openInterestE2",
    "dollarVolume",
    "dollarOpenInterest",
    "yesBidSizeE2",
    "yesAskSizeE2",
    "lastTradeSizeE2",
)
TICKER_FIRST_BIT = 2


# ---- the schema ------------------------------------------------------------------------------------------------


def schema_path() -> Path:
    """The schema file: inside an installed wheel, or in the repository next to the package."""
    package = Path(__file__).resolve().parent
    for folder in (package / "schemas", package.parent / "schemas"):
        path = folder / "market_data.capnp"
        if path.is_file():
            return path
    raise UsageError(
        f"market_data.capnp is not beside {package}",
        hint="the installation is incomplete: install ssmd again, or run from a whole checkout",
    )


@cache
def schema() -> Any:
    """The loaded schema module, parsed on first use (under a millisecond)."""
    return capnp.load(str(schema_path()))


@cache
def _field_types(kind: Kind) -> dict[str, str]:
    """The fields of a body in ordinal order, the order in which they must be set, with their types."""
    body = schema().Record.schema.fields["body"].schema.fields[kind.field].schema
    return {name: str(body.fields[name].proto.slot.type.which()) for name in body.fieldnames}


# ---- framing and header ----------------------------------------------------------------------------------------


class Header(NamedTuple):
    """The fixed part of a record, read straight from its bytes: no schema, no pycapnp."""

    number: int
    recv_ns: int
    recv_ticks: int
    exchange_ns: int
    sent_ns: int
    connection: int
    sid: int
    seq: int
    kind: int  # ordinal of the union; a newer writer may use one that Kind does not know
    size_bytes: int  # of the whole record


def size_at(buffer: bytes | bytearray | memoryview, offset: int = 0) -> int:
    """Length in bytes of the record that starts at `offset`. DamageError where no whole record stands there."""
    left = len(buffer) - offset
    if left < RECORD_HEADER_BYTES:
        raise DamageError(f"offset {offset}: {left} bytes are less than a record's header of {RECORD_HEADER_BYTES}")
    segments, words = _FRAMING.unpack_from(buffer, offset)
    size: int = _FRAMING.size + words * _WORD_BYTES
    if segments != 0:
        raise DamageError(f"offset {offset}: {segments + 1} segments where a record has one")
    if size < RECORD_HEADER_BYTES:
        raise DamageError(f"offset {offset}: a record of {size} bytes is shorter than its header")
    if size > left:
        raise DamageError(f"offset {offset}: a record of {size} bytes is cut after {left}")
    return size


def header(buffer: bytes | bytearray | memoryview, offset: int = 0) -> Header:
    """The header of the record at `offset`; the layout is the schema's (a test compares them)."""
    size = size_at(buffer, offset)
    return Header._make((*_HEADER.unpack_from(buffer, offset + RECORD_NUMBER), size))


def with_number(record: bytes, number: int) -> bytes:
    """The record with `number` put in: what the ring does when it takes one."""
    return record[:RECORD_NUMBER] + _U64.pack(number) + record[RECORD_NUMBER + 8 :]


# ---- reading ---------------------------------------------------------------------------------------------------


def read(data: bytes | bytearray | memoryview, *, checked: bool = False) -> Record:
    """A reader over the record at the start of `data` (what follows it is not looked at). It keeps its own copy.

    `checked`: every pointer of it is known to be right (the C walker gave it), so pycapnp has nothing to refuse. Bytes
    that were not checked are not read on a greenlet's stack (UsageError): pycapnp's refusal could end the process.
    """
    if not checked:
        _refuse_on_a_greenlet()
    size = size_at(data)
    # pycapnp wants aligned memory that does not move: a bytes object of its own is both.
    copy = bytes(data[:size])
    limit = max(_TRAVERSAL_FLOOR_WORDS, _TRAVERSAL_FACTOR * (size // _WORD_BYTES))
    try:
        return next(iter(schema().Record.read_multiple_bytes(copy, traversal_limit_in_words=limit)))
    except (capnp.KjException, StopIteration) as error:
        raise DamageError(f"not a record: {_first_line(error)}") from None


def records(buffer: bytes | bytearray | memoryview) -> Iterator[tuple[int, Record]]:
    """Every record of a buffer with the offset where it starts. DamageError at the first that is not whole."""
    view = memoryview(buffer)
    offset = 0
    while offset < len(view):
        size = size_at(view, offset)
        yield offset, read(view[offset : offset + size])
        offset += size


def _refuse_on_a_greenlet() -> None:
    greenlet = sys.modules.get("greenlet")
    if greenlet is not None and greenlet.getcurrent().parent is not None:
        raise UsageError(
            "bytes that were not checked are not read as a record on a greenlet's stack: if they are damaged, the "
            "error of pycapnp takes a backtrace there, and that can end the process (docs/decisions/0011)",
            hint="read them in a plain process or a native thread, or by ssmd.journal.Reader, which checks them first",
        )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


# ---- making ----------------------------------------------------------------------------------------------------


def encode(
    kind: Kind,
    fields: Mapping[str, Any],
    *,
    number: int = 0,
    recv_ns: int = 0,
    recv_ticks: int = 0,
    exchange_ns: int = 0,
    sent_ns: int = 0,
    connection: int = 0,
    sid: int = 0,
    seq: int = 0,
    frame: bytes = b"",
) -> bytes:
    """One record. `fields` are the body's, by their names in the schema.

    None, "" and b"" and empty lists stay null pointers. A list of levels is a sequence of (price_e4, count_e2), one of
    headers a mapping.

    What does not fit its field is a UsageError, found before pycapnp sees it: pycapnp's own refusal takes a backtrace
    of the C stack, and the stack of a greenlet has no end that an unwinder knows (it has ended a process so).
    """
    _check_header(number, recv_ns, recv_ticks, exchange_ns, sent_ns, connection, sid, seq)
    types = _field_types(kind)
    for name, value in fields.items():
        _check_field(kind, name, types.get(name), value)
    message = schema().Record.new_message(num_first_segment_words=_words_needed(fields, frame))
    message.number = number
    message.recvNs = recv_ns
    message.recvTicks = recv_ticks
    message.exchangeNs = exchange_ns
    message.sentNs = sent_ns
    message.connection = connection
    message.sid = sid
    message.seq = seq
    body = message.init("body").init(kind.field)
    for name in types:
        value = fields.get(name)
        if value is None or value == "" or value == b"":
            continue
        if isinstance(value, Mapping):
            _set_headers(body, name, value)
        elif isinstance(value, list | tuple):
            _set_levels(body, name, value)
        else:
            setattr(body, name, int(value) if isinstance(value, IntEnum) else value)
    if frame:
        message.frame = frame
    data: bytes = message.to_bytes()
    if _FRAMING.unpack_from(data)[0] != 0:
        raise AssertionError("a record must be one segment: _words_needed is too small")
    return data


def _check_header(*values: int) -> None:
    try:
        _HEADER.pack(*values, 0)
    except struct.error as error:
        raise UsageError(f"the header {values} does not fit a record: {error}") from None


def _check_field(kind: Kind, name: str, field_type: str | None, value: Any) -> None:
    if field_type is None:
        raise UsageError(f"{kind.field} has no {name}")
    if value is None:
        return
    try:
        if field_type in _INTEGERS:
            _INTEGERS[field_type].pack(value)
        elif field_type == "list" and isinstance(value, Mapping):
            if not all(isinstance(text, str) for pair in value.items() for text in pair):
                raise UsageError(f"{kind.field}.{name}: names and values must be text")
        elif field_type == "list":
            for level in value:
                _LEVEL.pack(*level)
        elif not isinstance(value, _OBJECTS[field_type]):
            raise UsageError(f"{kind.field}.{name} is {field_type}, not {type(value).__name__}")
    except struct.error as error:
        raise UsageError(f"{kind.field}.{name} = {value!r} does not fit {field_type}: {error}") from None


def _set_levels(body: Any, name: str, levels: Sequence[tuple[int, int]]) -> None:
    if not levels:
        return
    target = body.init(name, len(levels))
    for i, (price_e4, count_e2) in enumerate(levels):
        level = target[i]
        level.priceE4 = price_e4
        level.countE2 = count_e2


def _set_headers(body: Any, name: str, headers: Mapping[str, str]) -> None:
    if not headers:
        return
    target = body.init(name, len(headers))
    for i, (header, value) in enumerate(headers.items()):
        target[i].name = header
        if value:
            target[i].value = value


def _words_needed(fields: Mapping[str, Any], frame: bytes) -> int:
    """An upper bound of the record's words: everything must fit into the first segment."""
    words = 64 + len(frame) // 8 + 1
    for value in fields.values():
        if isinstance(value, Mapping):
            words += 1 + sum(6 + (len(name) + len(text)) * 4 // 8 for name, text in value.items())
        elif isinstance(value, str):
            words += len(value) * 4 // 8 + 2
        elif isinstance(value, bytes):
            words += len(value) // 8 + 1
        elif isinstance(value, list | tuple):
            words += 2 * len(value) + 1
    return words


def gap(
    *,
    cause: GapCause,
    connection: int,
    recv_ns: int,
    recv_ticks: int,
    sid: int = 0,
    from_seq: int = 0,
    to_seq: int = 0,
    from_ns: int = 0,
    to_ns: int = 0,
    length_bytes: int = 0,
    head: bytes = b"",
    detail: str | None = None,
) -> bytes:
    """A Gap record without number (the ring puts it in). `head` is cut at 256 bytes."""
    fields = {
        "cause": cause,
        "fromSeq": from_seq,
        "toSeq": to_seq,
        "fromNs": from_ns,
        "toNs": to_ns,
        "lengthBytes": length_bytes,
        "head": head[:GAP_HEAD_BYTES],
        "detail": detail,
    }
    return encode(Kind.GAP, fields, recv_ns=recv_ns, recv_ticks=recv_ticks, connection=connection, sid=sid)


def connection_event(
    *,
    what: ConnectionWhat,
    connection: int,
    recv_ns: int,
    recv_ticks: int,
    sid: int = 0,
    reason: str | None = None,
    code: int = 0,
    messages: int = 0,
    opened_ns: int = 0,
    gap_number: int = 0,
    url: str | None = None,
    use_yes_price: bool = False,
    channel: str | None = None,
    markets: int = 0,
) -> bytes:
    """A ConnectionEvent record without number. `url` must carry no secret."""
    fields = {
        "what": what,
        "reason": reason,
        "code": code,
        "messages": messages,
        "openedNs": opened_ns,
        "gapNumber": gap_number,
        "url": url,
        "useYesPrice": use_yes_price,
        "channel": channel,
        "markets": markets,
    }
    return encode(Kind.CONNECTION, fields, recv_ns=recv_ns, recv_ticks=recv_ticks, connection=connection, sid=sid)


def clock_anchor(
    *,
    recv_ns: int,
    recv_ticks: int,
    ticks: int,
    wall_ns: int,
    ns_per_tick_q32: int,
    source: ClockSource,
    uncertainty_ns: int,
) -> bytes:
    """A ClockAnchor record without number: `ticks` were read at `wall_ns`, give or take `uncertainty_ns`."""
    fields = {
        "ticks": ticks,
        "wallNs": wall_ns,
        "nsPerTickQ32": ns_per_tick_q32,
        "source": source,
        "uncertaintyNs": uncertainty_ns,
    }
    return encode(Kind.CLOCK, fields, recv_ns=recv_ns, recv_ticks=recv_ticks)


def entry(
    topic: str, payload: bytes, headers: Mapping[str, str] | None = None, *, recv_ns: int, recv_ticks: int
) -> bytes:
    """An Entry record without number: what a program puts into the journal under a topic (words joined by dots)."""
    fields = {"topic": topic, "headers": headers or {}, "payload": payload}
    return encode(Kind.ENTRY, fields, recv_ns=recv_ns, recv_ticks=recv_ticks)


def headers_of(record: Record) -> dict[str, str]:
    """The headers of an Entry record."""
    return {header.name: header.value for header in record.body.entry.headers}


# ---- showing ---------------------------------------------------------------------------------------------------


def kind_of(record: Record) -> str:
    """The kind as the tools name it: as in the schema, but book_snapshot and book_delta for `book`."""
    which = _which(record)
    if which == "book":
        return "book_delta" if record.body.book.kind.raw == BookKind.DELTA else "book_snapshot"
    return which


def market_of(record: Record) -> str | None:
    """The market ticker, or None for records without one."""
    which = _which(record)
    if which not in ("trade", "ticker", "book", "status"):
        return None
    return _text(getattr(record.body, which), "market")


def to_json(record: Record) -> dict[str, Any]:
    """The object that `ssmd cat --format json` prints, keys in this order: header, body, sent_ns, frame.

    A time of 0 (= none) is null, and so is a text or number that was not there. `frame` is a string; bytes that are
    not UTF-8 stand in it as \\xNN (backslashreplace), so only `--format frame` gives such a frame back exactly.
    """
    which = _which(record)
    try:
        return {
            "number": record.number,
            "recv_ns": record.recvNs,
            "exchange_ns": record.exchangeNs or None,
            "connection": record.connection,
            "sid": record.sid,
            "seq": record.seq,
            "kind": kind_of(record),
            "market": market_of(record),
            **_BODY[which](getattr(record.body, which)),
            "sent_ns": record.sentNs or None,
            "frame": _shown(record, "frame"),
        }
    except (capnp.KjException, UnicodeDecodeError) as error:
        raise DamageError(f"a record cannot be read: {_first_line(error)}") from None


def _which(record: Record) -> str:
    try:
        which: str = record.body.which()
    except capnp.KjException:
        raise DamageError("a kind of record that this schema does not know", hint="a newer ssmd wrote it?") from None
    return which


def _text(body: Any, name: str) -> str | None:
    return getattr(body, name) if body._has(name) else None


def _shown(body: Any, name: str) -> str | None:
    return bytes(getattr(body, name)).decode("utf-8", "backslashreplace") if body._has(name) else None


def _word(enum: type[IntEnum], value: Any) -> str:
    """An enumerant's name in snake case; a newer writer's unknown one shows its ordinal."""
    try:
        return enum(value.raw).name.lower()
    except ValueError:
        return str(value.raw)


def _snake(name: str) -> str:
    """priceE4 -> price_e4."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def _levels(body: Any, name: str) -> list[list[int]]:
    return [[level.priceE4, level.countE2] for level in getattr(body, name)]


def _unparsed_json(body: Any) -> dict[str, Any]:
    return {"reason": _word(Reason, body.reason), "type": _text(body, "type")}


def _trade_json(body: Any) -> dict[str, Any]:
    side = _word(Side, body.takerSide)
    return {
        "price_e4": body.priceE4,
        "count_e2": body.countE2,
        "taker_side": None if side == "unknown" else side,
        "trade_id": _text(body, "tradeId"),
        "block": body.block,
    }


def _ticker_json(body: Any) -> dict[str, Any]:
    present = body.present >> TICKER_FIRST_BIT
    return {_snake(name): getattr(body, name) if present >> bit & 1 else None for bit, name in enumerate(TICKER_FIELDS)}


def _book_json(body: Any) -> dict[str, Any]:
    if body.kind.raw == BookKind.DELTA:
        return {
            "side": _word(BookSide, body.side),
            "price_e4": body.priceE4,
            "delta_e2": body.deltaE2,
            "yes_scale": body.yesScale,
        }
    return {
        "bids": _levels(body, "bids"),
        "asks": _levels(body, "asks"),
        "yes_scale": body.yesScale,
        "request_id": body.requestId or None,
    }


def _status_json(body: Any) -> dict[str, Any]:
    change = body.change.raw
    known = change in Change.__members__.values()
    return {
        "event": _text(body, "event"),
        "change": _word(Change, body.change),
        "change_name": _text(body, "changeName"),
        "status": STATUS_AFTER.get(Change(change)) if known else None,
        "multivariate": body.multivariate,
        "settlement_value_e4": body.settlementValueE4 if body.hasSettlement else None,
        "open_ns": body.openNs or None,
        "close_ns": body.closeNs or None,
        "determined_ns": body.determinedNs or None,
        "settled_ns": body.settledNs or None,
        "result": _text(body, "result"),
    }


def _index_json(body: Any) -> dict[str, Any]:
    return {
        "index": _text(body, "index"),
        "source": _word(IndexSource, body.source),
        "value_e8": body.valueE8 if body.hasValue else None,
        "average_e8": body.averageE8 if body.hasAverage else None,
        "received_ns": body.receivedNs or None,
    }


def _control_json(body: Any) -> dict[str, Any]:
    return {
        "type": _word(ControlType, body.type),
        "id": body.id or None,
        "control_sid": body.sid or None,
        "code": body.code if body.type.raw == ControlType.ERROR else None,
        "channel": _text(body, "channel"),
        "message": _text(body, "message"),
    }


def _gap_json(body: Any) -> dict[str, Any]:
    return {
        "cause": _word(GapCause, body.cause),
        "from_seq": body.fromSeq or None,
        "to_seq": body.toSeq or None,
        "from_ns": body.fromNs or None,
        "to_ns": body.toNs or None,
        "length_bytes": body.lengthBytes or None,
        "head": _shown(body, "head"),
        "detail": _text(body, "detail"),
    }


def _connection_json(body: Any) -> dict[str, Any]:
    what = body.what.raw
    return {
        "what": _word(ConnectionWhat, body.what),
        "reason": _text(body, "reason"),
        "code": body.code or None,
        "messages": body.messages if what == ConnectionWhat.CLOSED else None,
        "opened_ns": body.openedNs or None,
        "gap_number": body.gapNumber or None,
        "url": _text(body, "url"),
        "use_yes_price": body.useYesPrice if what == ConnectionWhat.OPENED else None,
        "channel": _text(body, "channel"),
        "markets": body.markets if what in (ConnectionWhat.SUBSCRIBED, ConnectionWhat.RESYNCED) else None,
    }


def _clock_json(body: Any) -> dict[str, Any]:
    return {
        "ticks": body.ticks,
        "wall_ns": body.wallNs,
        "ns_per_tick_q32": body.nsPerTickQ32,
        "source": _word(ClockSource, body.source),
        "uncertainty_ns": body.uncertaintyNs,
    }


def _checkpoint_json(body: Any) -> dict[str, Any]:
    return {
        "crc32c": body.crc32c,
        "max_connection": body.maxConnection,
        "bytes": body.bytes,
        "offset": body.offset,
        "records": body.records,
        "final": body.final,
    }


def _entry_json(body: Any) -> dict[str, Any]:
    return {
        "topic": _text(body, "topic"),
        "headers": {header.name: header.value for header in body.headers},
        "payload": _shown(body, "payload"),
    }


_BODY = {
    "unparsed": _unparsed_json,
    "trade": _trade_json,
    "ticker": _ticker_json,
    "book": _book_json,
    "status": _status_json,
    "index": _index_json,
    "control": _control_json,
    "gap": _gap_json,
    "connection": _connection_json,
    "clock": _clock_json,
    "checkpoint": _checkpoint_json,
    "entry": _entry_json,
}
