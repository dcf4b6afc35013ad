"""The door to the hot path: Writer, Connection, normalize, names, as Python sees them.

What C and the plain twin make of frames is compared in test_twins.py; the C side alone is tested in csrc/tests.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kalshi_frames import real_frames

from ssmd import latency, records
from ssmd.errors import UsageError
from ssmd.native import wire
from ssmd.native.ring import Ring, Role
from ssmd.native.wire import Activity, Connection, Writer, normalize
from ssmd.wire import Event, EventKind, FeedStatus, WireConnection

RING_BYTES = 256 * 1024
MAX_FRAME_BYTES = 64 * 1024

DELTA = (
    b'{"type":"orderbook_delta","sid":1,"seq":%d,"msg":{"market_ticker":"KXA","price_dollars":"0.4700",'
    b'"delta_fp":"5.00","side":"yes"}}\n'
)


def message(payload: bytes, opcode: int = 1) -> bytes:
    """One whole WebSocket frame from a server (RFC 6455, 5.2)."""
    n = len(payload)
    length = bytes([n]) if n < 126 else b"\x7e" + n.to_bytes(2, "big") if n < 65536 else b"\x7f" + n.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + payload


def feed(connection: WireConnection, data: bytes) -> FeedStatus:
    connection.buffer[: len(data)] = data
    return connection.feed(len(data))


class Bench:
    """A ring with its producer and its consumer."""

    def __init__(self, folder: Path) -> None:
        self.producer = Ring.open(folder / "ring", RING_BYTES, role=Role.PRODUCER)
        self.consumer = Ring.open(folder / "ring", role=Role.CONSUMER)
        self.writer = Writer(self.producer, 41)

    def connect(self, connection: int = 1, **options: int) -> Connection:
        return Connection(self.writer, connection, **{"max_frame_bytes": MAX_FRAME_BYTES, **options})

    def drain(self) -> list[bytes]:
        """All published records, given back to the producer."""
        data = self.consumer.peek()
        self.consumer.release(len(data))
        found = []
        while data:
            n = 8 + 8 * int.from_bytes(data[4:8], "little")
            found.append(data[:n])
            data = data[n:]
        return found

    def close(self) -> None:
        self.writer.close()
        self.consumer.close()
        self.producer.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


# ---- records


def test_the_stock_reader_reads_every_captured_frame_back(shared: Path) -> None:
    """Every record is one whole message whose frame is the exchange's bytes, and no captured frame is undecoded."""
    for frame in real_frames(shared):
        read = records.read(normalize(frame, number=3, recv_ns=4, recv_ticks=5, connection=6))
        assert (read.number, read.recvNs, read.recvTicks, read.connection) == (3, 4, 5, 6)
        assert read.frame == frame
        assert str(read.body.which) != "unparsed"


def test_kinds_are_named_as_in_the_schema() -> None:
    assert tuple(kind.name.lower() for kind in records.Kind) == wire.KINDS


def test_a_snapshot_of_many_levels_takes_more_room_than_its_text() -> None:
    """Six bytes of text make sixteen of a level: the room grows until the record fits."""
    frame = b'{"type":"orderbook_snapshot","msg":{"market_ticker":"K","yes":[' + b",".join([b"[1,1]"] * 30000) + b"]}}"
    assert len(records.read(normalize(frame)).body.book.bids) == 30000


def test_a_frame_may_be_empty_and_may_hold_any_bytes() -> None:
    for frame in (b"", b"\0", b"\xff" * 100, bytes(range(256))):
        read = records.read(normalize(frame, keep_frames=False))
        assert (str(read.body.which), read.frame) == ("unparsed", frame)


# ---- writer


def test_a_pushed_record_gets_the_next_number(bench: Bench) -> None:
    record = normalize(DELTA % 1, number=7, recv_ns=5)
    assert bench.writer.next_number == 42
    assert [bench.writer.push(record), bench.writer.push(record)] == [42, 43]
    first, second = bench.drain()
    assert first == records.with_number(record, 42)
    assert second == records.with_number(record, 43)


def test_a_push_into_a_full_ring_says_0_and_takes_no_number(bench: Bench) -> None:
    record = normalize(DELTA % 1)
    pushed = 0
    while bench.writer.push(record):
        pushed += 1
    assert pushed == RING_BYTES // len(record)
    assert bench.writer.next_number == 42 + pushed
    bench.drain()
    assert bench.writer.push(record) == 42 + pushed


@pytest.mark.parametrize("what", [b"", b"x" * 96, b"\0" * 104])
def test_what_is_not_one_record_is_refused(bench: Bench, what: bytes) -> None:
    with pytest.raises(ValueError, match="not one record"):
        bench.writer.push(what)


def test_two_records_at_once_are_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="not one record"):
        bench.writer.push(normalize(DELTA % 1) * 2)


def test_a_record_beyond_half_the_ring_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="limit"):
        bench.writer.push(normalize(b"x" * RING_BYTES))


def test_absorbing_says_whether_there_is_anything_to_see(bench: Bench) -> None:
    connection = bench.connect()
    data = message(DELTA % 1)
    connection.buffer[: len(data)] = data
    assert connection.absorb(len(data)) is False
    ping = message(b"p", opcode=9)
    connection.buffer[: len(ping)] = ping
    assert connection.absorb(len(ping)) is True
    assert [event.kind for event in connection.events] == [EventKind.PING]
    assert connection.status == FeedStatus.OK


def test_receiving_reads_a_socket_and_says_what_came(bench: Bench) -> None:
    connection = bench.connect()
    near, far = socket.socketpair()
    with near, far:
        far.sendall(message(DELTA % 1))
        assert connection.receive(near.fileno()) is False
        assert (connection.received, connection.frames) == (len(message(DELTA % 1)), 1)
        assert connection.receive(near.fileno()) is True
        assert connection.received == -errno.EAGAIN
        far.sendall(message(b"p", opcode=9))
        assert connection.receive(near.fileno()) is True
        assert [event.data for event in connection.events] == [b"p"]
        far.close()
        assert connection.receive(near.fileno()) is True
        assert (connection.received, connection.events) == (0, [])


def test_counters_exist_from_the_start_at_zero(bench: Bench) -> None:
    counters = bench.writer.counters()
    assert counters.pop("records") == dict.fromkeys(wire.KINDS, 0)
    assert set(counters.values()) == {0}


def test_counters_say_what_was_written(bench: Bench) -> None:
    with bench.connect() as connection:
        frames = [DELTA % 1, DELTA % 4, DELTA % 2, b'{"type":"news"}', b'{"type":"ticker","new":1}']
        feed(connection, b"".join(map(message, frames)))
    counters = bench.writer.counters()
    assert counters["records"] == {**dict.fromkeys(wire.KINDS, 0), "book": 3, "gap": 1, "unparsed": 2}
    assert (counters["frames"], counters["bytes"]) == (5, sum(map(len, frames)))
    assert (counters["gaps"], counters["repeats"]) == (1, 1)
    assert (counters["unknown_types"], counters["unknown_fields"]) == (1, 1)


def test_activity_is_kept_by_market(bench: Bench) -> None:
    with bench.connect() as connection:
        feed(connection, message(DELTA % 1) + message(DELTA.replace(b"KXA", b"KXB") % 2) + message(DELTA % 3))
        stamp = connection.last_recv_ns
    assert bench.writer.activity("KXA") == Activity(2, stamp, 44)
    assert bench.writer.activities() == {"KXA": Activity(2, stamp, 44), "KXB": Activity(1, stamp, 43)}
    assert bench.writer.activity("KXC") is None


# ---- connection


def test_a_connection_in_c_is_a_wire_connection(bench: Bench) -> None:
    connection: WireConnection = bench.connect()
    assert connection.events == []
    assert (connection.frames, connection.last_recv_ns) == (0, 0)


def test_the_buffer_is_always_the_same_view(bench: Bench) -> None:
    connection = bench.connect(recv_bytes=8192)
    assert connection.buffer is connection.buffer
    assert (len(connection.buffer), connection.buffer.readonly) == (8192, False)


def test_a_frame_becomes_a_record_in_the_ring(bench: Bench) -> None:
    connection = bench.connect(9)
    assert feed(connection, message(DELTA % 1)) is FeedStatus.OK
    assert (connection.frames, connection.events) == (1, [])
    (record,) = bench.drain()
    ticks = records.read(record).recvTicks
    assert record == normalize(DELTA % 1, number=42, recv_ns=connection.last_recv_ns, recv_ticks=ticks, connection=9)


def test_events_come_back_with_their_fields(bench: Bench) -> None:
    reply = b'{"type":"ok","id":3,"sid":1,"seq":5}'
    connection = bench.connect()
    feed(connection, message(b"heartbeat", 9) + message(reply))
    assert connection.events == [
        Event(EventKind.PING, data=b"heartbeat"),
        Event(EventKind.GAP, sid=1, seq=5, number=42, first=1, last=4),
        Event(EventKind.REPLY, sid=1, seq=5, id=3, number=43, data=reply),
    ]
    feed(connection, message(b'{"type":"ok","sid":1,"seq":6}'))
    assert [event.kind for event in connection.events] == [EventKind.REPLY]
    assert connection.feed(0) is FeedStatus.OK
    assert connection.events == []


def test_what_is_read_next_does_not_change_an_event_that_was_given(bench: Bench) -> None:
    connection = bench.connect()
    feed(connection, message(b"first", 9))
    events = connection.events
    feed(connection, message(b"other", 9))
    assert events == [Event(EventKind.PING, data=b"first")]


def test_a_full_ring_stops_the_feed_and_feed_0_goes_on(bench: Bench) -> None:
    connection = bench.connect()
    status, sent, seen = FeedStatus.OK, 0, []
    while status is FeedStatus.OK:
        sent += 1
        status = feed(connection, message(DELTA % sent))
    assert status is FeedStatus.FULL
    with pytest.raises(ValueError, match="feed"):
        connection.feed(1)
    seen += bench.drain()
    assert connection.feed(0) is FeedStatus.OK
    seen += bench.drain()
    assert [records.read(record).seq for record in seen] == list(range(1, sent + 1))
    assert connection.frames == sent


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (message(b"\x03\xe8bye", 8), FeedStatus.CLOSED),
        (b"\xc1\x00", FeedStatus.PROTOCOL),
        (b"\x81\x7f" + (5000).to_bytes(8, "big"), FeedStatus.TOO_LARGE),
    ],
)
def test_an_end_is_an_end(bench: Bench, data: bytes, status: FeedStatus) -> None:
    connection = bench.connect(max_frame_bytes=4096)
    assert feed(connection, message(DELTA % 1) + data) is status
    assert feed(connection, message(DELTA % 2)) is status
    assert connection.frames == 1


def test_a_feed_of_more_than_the_buffer_is_refused(bench: Bench) -> None:
    connection = bench.connect(recv_bytes=4096)
    with pytest.raises(ValueError, match="feed"):
        connection.feed(4097)


@pytest.mark.parametrize("recv_bytes", [4096, 16384, 1024 * 1024])
def test_any_size_of_the_receive_area_gives_the_same_records(bench: Bench, recv_bytes: int) -> None:
    connection = bench.connect(recv_bytes=recv_bytes)
    stream, seen = b"".join(message(DELTA % seq) for seq in range(1, 300)), []
    for at in range(0, len(stream), recv_bytes):
        assert feed(connection, stream[at : at + recv_bytes]) is FeedStatus.OK
        seen += bench.drain()
    assert [records.read(record).frame for record in seen] == [DELTA % seq for seq in range(1, 300)]


def test_a_limit_that_the_ring_cannot_hold_is_a_usage_error_with_the_number(bench: Bench) -> None:
    most = bench.producer.limit - wire.RECORD_OVERHEAD_BYTES
    Connection(bench.writer, 1, max_frame_bytes=most).close()
    with pytest.raises(UsageError, match=f"at most {most}"):
        Connection(bench.writer, 1, max_frame_bytes=most + 1)


def test_closing_the_writer_closes_its_connections(bench: Bench) -> None:
    connection = bench.connect()
    feed(connection, message(DELTA % 1))
    bench.writer.close()
    with pytest.raises(ValueError, match="closed"):
        connection.feed(0)
    assert (connection.frames, len(connection.buffer)) == (1, 0)
    with pytest.raises(ValueError, match="closed"):
        bench.writer.push(b"")


def test_an_idle_connection_costs_a_few_pages(bench: Bench) -> None:
    """200 of them, each with a megabyte of limits: less than 100 KiB each."""
    page = 4096
    before = int(Path("/proc/self/statm").read_text().split()[1])
    idle = [bench.connect(n, recv_bytes=1024 * 1024) for n in range(200)]
    after = int(Path("/proc/self/statm").read_text().split()[1])
    assert (after - before) * page < 200 * 100 * 1024
    for connection in idle:
        connection.close()


# ---- names and ticks


def test_names_are_numbers_and_back() -> None:
    a, b = latency.intern("test-wire-a"), latency.intern("test-wire-ü")
    assert a != b and latency.intern("test-wire-a") == a
    assert (latency.resolve(a), latency.resolve(b)) == ("test-wire-a", "test-wire-ü")


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_name_that_can_have_no_number_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="256"):
        latency.intern(name)


@pytest.mark.parametrize("name_id", [0, -1, 2**31, 2**32, 2**40])
def test_a_number_that_was_never_given_has_no_name(name_id: int) -> None:
    with pytest.raises(KeyError):
        latency.resolve(name_id)


def test_threads_agree_on_numbers() -> None:
    names = [f"thread-{i}" for i in range(2000)]
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append([latency.intern(name) for name in names])) for _ in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2] == found[3]
    assert [latency.resolve(name_id) for name_id in found[0]] == names


def test_ticks_rise_and_become_utc() -> None:
    first, second = latency.now_tsc(), latency.now_tsc()
    assert second >= first
    assert latency.ticks_to_ns(second) >= latency.ticks_to_ns(first) > 1_600_000_000_000_000_000
