"""From a socket's bytes to records in the ring: the door to csrc/wire.c and csrc/kalshi.c.

`Writer` is the producer of one ring: numbers, counters, markets. `Connection` is one socket's splitter, decoder and
sequence tracking (`ssmd.wire.WireConnection`). One call of C handles a whole chunk; what a session must see comes
back as events. Not thread-safe: both belong to the thread that holds the ring as producer. docs/wire.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypedDict
from weakref import WeakSet

from ssmd._native import ffi, lib
from ssmd.errors import StorageError, UsageError
from ssmd.native.failure import FULL, INVALID, OK, TOO_LARGE, status_text
from ssmd.native.ring import Ring
from ssmd.wire import Event, EventKind, FeedStatus

DEFAULT_MAX_FRAME_BYTES = 1024 * 1024
DEFAULT_RECV_BYTES = 512 * 1024

# Bytes that a record may need beside its frame: docs/records.md, "Bytes".
RECORD_OVERHEAD_BYTES = 256

# By the ordinals of Record.body in the schema. `book` is the body's name there: snapshots and deltas.
KINDS = (
    "unparsed",
    "trade",
    "ticker",
    "book",
    "status",
    "index",
    "control",
    "gap",
    "connection",
    "clock",
    "checkpoint",
    "entry",
)

_USE_YES_PRICE, _KEEP, _BINARY = 1, 2, 4
_STATUSES: tuple[FeedStatus, ...] = tuple(FeedStatus)
_EVENT_KINDS: tuple[EventKind, ...] = tuple(EventKind)


class Counters(TypedDict):
    """What a writer counted since it was made; docs/wire.md says what counts where."""

    records: dict[str, int]  # by kind
    frames: int
    bytes: int
    unknown_fields: int
    unknown_types: int
    unknown_values: int
    malformed: int
    repeats: int
    gaps: int
    refused_names: int
    untracked: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What one market had in this run: records, and the last one's receive time (UTC ns) and number."""

    records: int
    last_recv_ns: int
    last_number: int


class Writer:
    """The producer of a ring: gives records their numbers and counts them.

    `last_number` is that of the last record in the journal (`Ring.resume().last_number`), 0 = none. Closing it closes
    its connections; the ring has to outlive it.
    """

    def __init__(self, ring: Ring, last_number: int) -> None:
        handle = ffi.new("ssmd_writer **")
        status = lib.ssmd_writer_open(ring.handle, last_number, handle)
        if status != OK:
            raise StorageError(f"{ring.path}: cannot make a writer: {status_text(status)}")
        self._handle = handle[0]
        self._number = ffi.new("uint64_t *")
        self._ring = ring
        self._connections: WeakSet[Connection] = WeakSet()

    @property
    def handle(self) -> Any:
        """The `ssmd_writer *`."""
        if self._handle is None:
            raise ValueError(f"{self._ring.path}: the writer is closed")
        return self._handle

    @property
    def ring(self) -> Ring:
        return self._ring

    @property
    def next_number(self) -> int:
        """The number that the next record will have."""
        return int(lib.ssmd_writer_next_number(self.handle))

    def push(self, record: bytes) -> int:
        """Writes one record made elsewhere; gives the number that it got, or 0 when the ring is full (try again later).

        Raises ValueError for bytes that are not one record of the schema, or one that can never fit.
        """
        status = lib.ssmd_writer_push(self.handle, record, len(record), self._number)
        if status == OK:
            return int(self._number[0])
        if status == FULL:
            return 0
        if status == TOO_LARGE:
            raise ValueError(f"a record of {len(record)} bytes, the limit of this ring is {self._ring.limit}")
        raise ValueError(f"these {len(record)} bytes are not one record: {status_text(status)}")

    def counters(self) -> Counters:
        raw = ffi.new("ssmd_counters *")
        lib.ssmd_writer_counters(self.handle, raw)
        return Counters(
            records={kind: int(raw.records[i]) for i, kind in enumerate(KINDS)},
            frames=int(raw.frames),
            bytes=int(raw.bytes),
            unknown_fields=int(raw.unknown_fields),
            unknown_types=int(raw.unknown_types),
            unknown_values=int(raw.unknown_values),
            malformed=int(raw.malformed),
            repeats=int(raw.repeats),
            gaps=int(raw.gaps),
            refused_names=int(raw.refused_names),
            untracked=int(raw.untracked),
        )

    def activity(self, market: str) -> Activity | None:
        """What this market had so far; None if nothing."""
        markets = lib.ssmd_writer_markets(self.handle)
        name = market.encode()
        return _activity(markets, lib.ssmd_interner_find(markets, name, len(name)))

    @property
    def market_count(self) -> int:
        """How many markets were seen."""
        return int(lib.ssmd_interner_count(lib.ssmd_writer_markets(self.handle)))

    def activities(self, after: int = 0, limit: int | None = None) -> dict[str, Activity]:
        """The markets that were seen, in the order of first sight: those behind the first `after`, at most `limit`."""
        markets, count = lib.ssmd_writer_markets(self.handle), self.market_count
        found = {}
        for market_id in range(after + 1, (count if limit is None else min(count, after + limit)) + 1):
            activity = _activity(markets, market_id)
            if activity is not None:
                found[_name(markets, market_id)] = activity
        return found

    def close(self) -> None:
        """Closes its connections and gives the memory back; the ring stays open. Twice does no harm."""
        for connection in list(self._connections):
            connection.close()
        if self._handle is not None:
            lib.ssmd_writer_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._handle is None:
            return f"<Writer {self._ring.path} closed>"
        return f"<Writer {self._ring.path} next number {self.next_number}>"


class Connection:
    """One socket's way into the ring: `ssmd.wire.ReceivingConnection` in C.

    `connection` is its number in the journal. After `close`, also that of the writer, no view of the buffer may be
    touched.
    """

    def __init__(
        self,
        writer: Writer,
        connection: int,
        *,
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
        use_yes_price: bool = True,
        keep_frames: bool = True,
        recv_bytes: int = DEFAULT_RECV_BYTES,
    ) -> None:
        options = ffi.new("ssmd_conn_options *")
        options.max_frame_bytes = max_frame_bytes
        options.recv_bytes = recv_bytes
        options.connection = connection
        options.use_yes_price = use_yes_price
        options.keep_frames = keep_frames
        handle = ffi.new("ssmd_conn **")
        status = lib.ssmd_conn_open(writer.handle, options, handle)
        if status == INVALID:
            raise UsageError(
                f"max_frame_bytes {max_frame_bytes} with recv_bytes {recv_bytes}: out of range",
                hint=f"max_frame_bytes may be at most {writer.ring.limit - RECORD_OVERHEAD_BYTES} with this ring "
                "(half of ring.size_bytes, less room for the record), recv_bytes 4 KiB to 16 MiB.",
            )
        if status != OK:
            raise StorageError(f"connection {connection}: {status_text(status)}")
        self._handle = handle[0]
        self._writer = writer
        self._connection = connection
        self._result = lib.ssmd_conn_result(self._handle)
        self._feed = lib.ssmd_conn_feed
        self._events: list[Event] = []
        self._fault = ""  # after close
        size = lib.ssmd_conn_buffer_bytes(self._handle)
        self._buffer = memoryview(ffi.buffer(lib.ssmd_conn_buffer(self._handle), size))
        writer._connections.add(self)

    @property
    def buffer(self) -> memoryview:
        """Where to receive: always the same view."""
        return self._buffer

    def feed(self, received: int) -> FeedStatus:
        """Handles `received` bytes at the start of `buffer`; 0 goes on after FULL or MORE.

        Raises ValueError where bytes are fed although some are still to be handled.
        """
        status: int = self._feed(self._handle, received)
        self._note_events()
        if status < 0:
            raise ValueError(f"feed({received}): {status_text(status)} (after FULL or MORE only feed(0) may follow)")
        return _STATUSES[status]

    def receive(self, descriptor: int) -> bool:
        """One read of the socket, which never waits, and what `feed` does with it.

        False: something came, and there is nothing to see. True: look at `received`, `status` and `events`.
        Raises ValueError while bytes are still to be handled.
        """
        if not (look := lib.ssmd_conn_receive(self._handle, descriptor)):
            return False
        self._note_events()
        if look < 0:
            raise ValueError(f"receive: {status_text(look)} (after FULL or MORE only feed(0) may follow)")
        return True

    def absorb(self, received: int) -> bool:
        """`feed`, for those who look only when there is something to see: True = look at `status` and `events`."""
        status: int = self._feed(self._handle, received)
        if not status and not self._result.event_count:
            return False
        self._note_events()
        if status < 0:
            raise ValueError(f"absorb({received}): {status_text(status)} (after FULL or MORE only feed(0) may follow)")
        return True

    def _note_events(self) -> None:
        if self._result.event_count:
            self._events = _events(self._result)
        elif self._events:
            self._events = []

    @property
    def received(self) -> int:
        """By the last `receive`: bytes, 0 = the other side has ended, negative: an errno."""
        return int(self._result.received)

    @property
    def status(self) -> FeedStatus:
        """Of the last `feed` or `receive` that handled bytes."""
        return _STATUSES[int(self._result.status)]

    @property
    def events(self) -> list[Event]:
        """What happened in the last feed."""
        return self._events

    @property
    def frames(self) -> int:
        return int(self._result.frames)

    @property
    def last_recv_ns(self) -> int:
        return int(self._result.last_recv_ns)

    @property
    def fault(self) -> str:
        """After `PROTOCOL`: what the other side did wrong; "" before."""
        if self._handle is None:
            return self._fault
        text: bytes = ffi.string(lib.ssmd_conn_fault(self._handle))
        return text.decode()

    def close(self) -> None:
        """Gives the memory back, the buffer with it. Twice does no harm."""
        if self._handle is not None:
            self._fault = self.fault
            self._buffer = memoryview(b"")
            self._result = ffi.new("ssmd_feed_result *", self._result[0])
            self._feed = _closed
            lib.ssmd_conn_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._handle is None else f"{self.frames} frames"
        return f"<Connection {self._connection} {state}>"


def normalize(
    frame: bytes,
    *,
    number: int = 1,
    recv_ns: int = 0,
    recv_ticks: int = 0,
    connection: int = 0,
    use_yes_price: bool = True,
    keep_frames: bool = True,
    binary: bool = False,
    limit_bytes: int = 0,
) -> bytes:
    """The record of one frame, as the hot path makes it. `limit_bytes`: largest decoded record, 0 = no limit."""
    meta = ffi.new("ssmd_frame_meta *")
    meta.number = number
    meta.recv_ns = recv_ns
    meta.recv_ticks = recv_ticks
    meta.limit_bytes = limit_bytes
    meta.connection = connection
    meta.flags = _USE_YES_PRICE * use_yes_price | _KEEP * keep_frames | _BINARY * binary
    written = ffi.new("size_t *")
    capacity = 2 * len(frame) + 4096
    while True:
        out = ffi.new("uint8_t[]", capacity)
        if lib.ssmd_normalize(frame, len(frame), meta, out, capacity, written) == OK:
            return bytes(ffi.buffer(out, written[0]))
        capacity = written[0]


def _activity(markets: Any, market_id: int) -> Activity | None:
    raw = ffi.new("ssmd_activity *")
    if lib.ssmd_interner_activity(markets, market_id, raw) != OK:
        return None
    return Activity(raw.records, raw.last_recv_ns, raw.last_number)


def _name(names: Any, name_id: int) -> str:
    n = ffi.new("size_t *")
    at = lib.ssmd_resolve(names, name_id, n)
    return bytes(ffi.buffer(at, n[0])).decode()


def _events(result: Any) -> list[Event]:
    return [_event(result.events[i]) for i in range(result.event_count)]


def _event(raw: Any) -> Event:
    return Event(
        kind=_EVENT_KINDS[raw.kind],
        sid=raw.sid,
        seq=raw.seq,
        id=raw.id,
        number=raw.number,
        first=raw.first,
        last=raw.last,
        reason=raw.reason,
        data=bytes(ffi.buffer(raw.data, raw.data_bytes)),
    )


def _closed(_handle: Any, _received: int) -> int:
    raise ValueError("the connection is closed")
