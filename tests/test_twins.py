"""C and plain Python, byte for byte: one frame at a time, and whole connections.

Neither is right by itself: docs/records.md is. Meaning is tested in test_normalizer.py; here the two are only compared,
over the captured frames, made-up frames of every type, and mutations of both. Fixed seeds decide everything random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kalshi_frames import MAKERS, ODD, Frames, dump, real_frames

from ssmd import normalizer, records
from ssmd.native import wire as native
from ssmd.native.ring import Ring, Role
from ssmd.wire import Event, EventKind, FeedStatus, WireConnection

STEADY = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# ---- one frame


def assert_same(frame: bytes, **options: Any) -> None:
    """Both make the same record of the frame; the message shows both as JSON where they differ."""
    given_to_both = {"number": 7, "recv_ns": 1_790_000_000_000_000_001, "recv_ticks": 2**63, "connection": 9, **options}
    in_c = native.normalize(frame, **given_to_both)
    in_python = normalizer.normalize(frame, **given_to_both)
    assert in_c == in_python, f"\nframe  {frame!r}\nC      {show(in_c)}\nPython {show(in_python)}"


def compact(frame: dict[str, Any]) -> bytes:
    return dump(frame, random.Random(0)).encode()


def show(record: bytes) -> str:
    try:
        return f"{records.to_json(records.read(record))} {record[records.RECORD_HEADER_BYTES :].hex()}"
    except Exception as error:  # a test's message: anything is better than nothing
        return f"{error} {record.hex()}"


MODES: list[dict[str, Any]] = [
    {},
    {"use_yes_price": False},
    {"keep_frames": False},
    {"binary": True},
    {"use_yes_price": False, "keep_frames": False},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_captured_frames_become_the_same_records(shared: Path, mode: dict[str, Any]) -> None:
    for frame in real_frames(shared):
        assert_same(frame, **mode)


@pytest.mark.parametrize("seed", range(5))
def test_made_up_frames_become_the_same_records(seed: int) -> None:
    frames = Frames(seed)
    for _ in range(400):
        assert_same(frames.frame(), **frames.pick.choice(MODES))


@pytest.mark.parametrize("name", sorted(MAKERS), ids=lambda name: name[:20])
def test_every_field_with_every_odd_value_becomes_the_same_records(name: str) -> None:
    """One field at a time, so that each edge of each rule is met by itself."""
    frames = Frames(3)
    known = normalizer._TYPES[name].known if name in normalizer._TYPES else None
    for odd in ODD:
        for key in ("type", "id", "sid", "seq", "msg", "sending_ts_ms"):
            assert_same(compact(frames.sound(name) | {key: odd}))
        for key in sorted(known or ()):
            top = frames.sound(name)
            top["msg"] |= {key.decode(): odd}
            assert_same(compact(top))


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:30])
def test_every_odd_value_in_a_ladder_becomes_the_same_records(odd: Any) -> None:
    for ladder in ("yes", "yes_dollars", "yes_dollars_fp", "no", "no_dollars", "no_dollars_fp"):
        for level in ([odd, 1], [1, odd], odd, [["0.5", "1"], odd], [odd, odd, odd]):
            msg = {"market_ticker": "A", ladder: [[50, 1], level]}
            assert_same(compact({"type": "orderbook_snapshot", "sid": 1, "seq": 2, "msg": msg}))


def test_a_captured_frame_cut_at_every_byte_becomes_the_same_records(shared: Path) -> None:
    shortest = sorted(real_frames(shared), key=len)[:20]
    for frame in shortest:
        for length in range(len(frame)):
            assert_same(frame[:length])


def test_every_byte_of_a_trade_replaced_by_telling_ones_becomes_the_same_records() -> None:
    frame = (
        b'{"type":"trade","sid":2,"seq":5,"msg":{"market_ticker":"KXA","yes_price_dollars":"0.98","count":14,'
        b'"ts":"2026-01-01T00:00:00.5Z","is_block_trade":true},"sending_ts_ms":1790363592101}'
    )
    for at in range(len(frame)):
        for byte in b'"\\{}[],:0-.en\x00\x1f\x7f\x80\xc3\xed\xff ':
            assert_same(frame[:at] + bytes([byte]) + frame[at + 1 :])


@pytest.mark.parametrize("margin", range(-16, 17, 8))
def test_records_about_the_size_limit_become_the_same_records(margin: int) -> None:
    frames = Frames(77)
    for _ in range(200):
        frame = frames.frame()
        free = len(normalizer.normalize(frame, number=1, recv_ns=1, recv_ticks=1, connection=1))
        assert_same(frame, limit_bytes=max(free + margin, len(frame) + 256))


def test_a_large_snapshot_becomes_the_same_record() -> None:
    levels = ",".join(f'["0.{i:04}","{i}.{i % 100:02}"]' for i in range(9999))
    frame = '{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"A","LADDER":[' + levels + "]}}"
    for ladder in ("yes_dollars_fp", "no_dollars_fp", "no_dollars"):
        assert_same(frame.replace("LADDER", ladder).encode())


SNIPPETS = [
    *(bytes([byte]) for byte in b'"\\{}[],:0123456789-+.eE \t\n\r\0\x0b\x1f\x7f\x80\xbf\xc0\xc3\xed\xf4\xff'),
    *(b"null", b"true", b"false", b"NaN", b"Infinity", b"1e999", b"-0", b"00", b".5", b"1.", b"9" * 15, b"9" * 40),
    *(b"\\u0041", b"\\ud800", b"\\u12", b"\\x41", b'\\"', b"\\\\", b"\xc3\xa9", b"\xf0\x9f\x98\x80"),
    *(b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80", b"[" * 40, b'{"a":' * 40, b"[]", b"{}"),
    *(b'""', b"[[1,2]]", b'[["0.5","1"]]', b'"sid":4294967296,', b'"seq":-1,', b'"type":null,', b'"msg":{},'),
    *(b'"msg":null,', b'"id":"x",', b'"type":"trade",', b'"ts_ms":1,', b'"ts":"2026-02-29T00:00:00Z",'),
    *(b'"no":[[54,20]],', b'"market_ticker":"",', b'"side":"no",', b',"x":1', b"9" * 16),
]  # fmt: skip


class Mutation(NamedTuple):
    """One change of a frame; places are fractions of its length, so that they fit any frame."""

    what: str
    at: float
    to: float
    snippet: bytes
    byte: int

    def apply(self, frame: bytes) -> bytes:
        i, j = sorted((int(self.at * len(frame)), int(self.to * len(frame))))
        match self.what:
            case "flip":
                return frame[:i] + bytes([frame[i] ^ (1 << self.byte % 8)]) + frame[i + 1 :] if frame else frame
            case "replace":
                return frame[:i] + self.snippet + frame[i + len(self.snippet) :]
            case "insert":
                return frame[:i] + self.snippet + frame[i:]
            case "delete":
                return frame[:i] + frame[j:]
            case "duplicate":
                return frame[:j] + frame[i:j] + frame[j:]
            case "truncate":
                return frame[:i]
            case "after":  # right behind a mark: where a value or a key starts
                marks = [k + 1 for k, byte in enumerate(frame) if byte in b'{,:["']
                k = marks[int(self.at * len(marks))] if marks else 0
                return frame[:k] + self.snippet + frame[k:]
            case _:  # "digit": swap one
                digits = [k for k, byte in enumerate(frame) if 48 <= byte <= 57]
                k = digits[int(self.at * len(digits))] if digits else 0
                return frame[:k] + bytes([48 + self.byte % 10]) + frame[k + 1 :]


KINDS = ["flip", "replace", "insert", "delete", "duplicate", "truncate", "after", "digit", "digit", "after"]
PLACES = st.floats(0, 1, exclude_max=True)
MUTATIONS = st.builds(Mutation, st.sampled_from(KINDS), PLACES, PLACES, st.sampled_from(SNIPPETS), st.integers(0, 255))


def mutated(frame: bytes, mutations: list[Mutation]) -> bytes:
    for mutation in mutations:
        frame = mutation.apply(frame)
    return frame


@settings(STEADY, max_examples=1500)
@given(st.integers(0, 10**6), st.lists(MUTATIONS, min_size=1, max_size=4), st.sampled_from(MODES))
def test_mutated_frames_become_the_same_records(seed: int, mutations: list[Mutation], mode: dict[str, Any]) -> None:
    assert_same(mutated(Frames(seed).frame(), mutations), **mode)


@settings(STEADY, max_examples=1000)
@given(st.integers(0, 10**6), st.lists(MUTATIONS, min_size=1, max_size=3), st.booleans())
def test_mutated_captured_frames_become_the_same_records(
    shared: Path, which: int, mutations: list[Mutation], use_yes_price: bool
) -> None:
    frames = real_frames_once(shared)
    assert_same(mutated(frames[which % len(frames)], mutations), use_yes_price=use_yes_price)


CAPTURED: list[bytes] = []


def real_frames_once(shared: Path) -> list[bytes]:
    if not CAPTURED:
        CAPTURED.extend(real_frames(shared))
    return CAPTURED


@settings(STEADY, max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_become_the_same_records(frame: bytes) -> None:
    assert_same(frame)


JSON_LIKE = st.text(alphabet='{}[],:"\\0123456789.-+eE untrfals\n\u00e9', max_size=40)


@settings(STEADY, max_examples=600)
@given(JSON_LIKE)
def test_anything_like_json_becomes_the_same_records(inside: str) -> None:
    assert_same(inside.encode())
    assert_same(b'{"type":"ok","x":' + inside.encode() + b"}")


# ---- a connection


class Stream:
    """What one server sends, decided by the seed: frames with gaps and repeats, fragments, control frames, faults."""

    def __init__(self, seed: int, *, max_frame_bytes: int) -> None:
        self.pick = random.Random(seed)
        self.frames = Frames(seed)
        self.max_frame_bytes = max_frame_bytes
        self.seqs = dict.fromkeys((1, 2, 3), 0)
        self.bytes = b"".join(self.parts())

    def parts(self) -> Iterator[bytes]:
        count = self.pick.choice([5, 30, 30, 60, 60, 400])  # the longest fill the ring
        for _ in range(count):
            yield from self.message()
            if self.pick.random() < 0.3 / count:
                yield self.fault()
            if self.pick.random() < 0.2 / count:
                yield self.control() * 600  # more events than one call gives back
        if self.pick.random() < 0.3:
            yield self.frame(8, self.pick.choice([b"", b"\x03", b"\x03\xe8bye"]))
            yield self.frame(1, b"{}")

    def message(self) -> Iterator[bytes]:
        """A data message, perhaps in fragments with control frames between them."""
        pick = self.pick
        payload = self.payload()
        opcode = 2 if pick.random() < 0.03 else 1
        if pick.random() < 0.7:
            yield self.frame(opcode, payload)
        else:
            cuts = sorted(pick.randrange(len(payload) + 1) for _ in range(pick.randrange(1, 4)))
            pieces = [payload[i:j] for i, j in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
            for i, piece in enumerate(pieces):
                yield self.frame(opcode if i == 0 else 0, piece, final=i == len(pieces) - 1)
                if pick.random() < 0.3:
                    yield self.control()
        if pick.random() < 0.1:
            yield self.control()

    def payload(self) -> bytes:
        pick = self.pick
        sound = self.frames.sound()
        sid = sound.get("sid")
        if isinstance(sid, int):
            step = pick.choice([1] * 12 + [2, 5, 0, -1])
            self.seqs[sid] = max(self.seqs[sid] + step, 0)
            sound["seq"] = self.seqs[sid]
        if pick.random() < 0.15:
            self.frames.spoil(sound)
        if pick.random() < 0.02:
            sound["padding"] = "p" * pick.randrange(self.max_frame_bytes // 2)
        payload = self.frames.text(sound)
        return payload[: pick.randrange(len(payload))] if pick.random() < 0.03 else payload

    def control(self) -> bytes:
        return self.frame(self.pick.choice([9, 10]), b"heartbeat" * self.pick.randrange(3))

    def fault(self) -> bytes:
        """Something that ends a connection."""
        pick = self.pick
        too_large = self.frame(1, b"{" * (self.max_frame_bytes + pick.randrange(1, 300)))
        return pick.choice(
            [
                *(too_large, too_large[:10], too_large[:300]),
                self.frame(1, b"abc", final=False) + self.frame(0, b"x" * self.max_frame_bytes),
                *(b"\xc1\x00", b"\x81\x80", b"\x83\x00", b"\x80\x00", b"\x09\x00", b"\x89\x7e\x00\x7e"),
                self.frame(1, b"a", final=False) + b"\x81\x00",
                b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
                b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
            ]
        )

    def frame(self, opcode: int, payload: bytes, *, final: bool = True) -> bytes:
        n = len(payload)
        form = self.pick.choice([7] * 8 + [16, 64])
        start = bytes([opcode | (0x80 if final else 0)])
        if n > 0xFFFF or form == 64:
            return start + b"\x7f" + n.to_bytes(8, "big") + payload
        if n > 125 or form == 16:
            return start + b"\x7e" + n.to_bytes(2, "big") + payload
        return start + bytes([n]) + payload

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces of random sizes: most of the times small, sometimes all that is left."""
        at = 0
        largest = self.pick.choice([size for size in (3, 40, 400, 4000, 60_000) if size * 3000 > len(self.bytes)])
        while at < len(self.bytes):
            size = self.pick.randrange(1, largest + 1)
            yield self.bytes[at : at + size]
            at += size


class Side(NamedTuple):
    """One implementation under the same treatment."""

    connection: WireConnection
    taken: list[bytes]  # records in the order of the ring
    events: list[Event]
    make_room: Callable[[], None]
    collect: Callable[[], None]  # what is new in the ring goes to `taken`


def feed(side: Side, chunk: bytes) -> FeedStatus:
    """One chunk until it is handled: full rings are drained, full event lists emptied."""
    side.connection.buffer[: len(chunk)] = chunk
    status = side.connection.feed(len(chunk))
    while True:
        side.events.extend(side.connection.events)
        side.collect()
        if status not in (FeedStatus.FULL, FeedStatus.MORE):
            return status
        if status is FeedStatus.FULL:
            side.make_room()
        status = side.connection.feed(0)


class ListRing:
    """The twin's ring: a count of the bytes that a ring of that capacity would hold."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self.taken: list[bytes] = []

    def push(self, record: bytes) -> int:
        if self.used + len(record) > self.capacity:
            return 0
        self.used += len(record)
        self.taken.append(records.with_number(record, len(self.taken) + 1))
        return len(self.taken)

    def drain(self) -> None:
        self.used = 0


CAPACITY = 64 * 1024
MAX_FRAME_BYTES = 4 * 1024


def native_side(path: Path, **options: Any) -> tuple[Side, Callable[[], None]]:
    """The C connection on a real ring of the smallest size, and how to close it."""
    producer = Ring.open(path, CAPACITY, role=Role.PRODUCER)
    consumer = Ring.open(path, role=Role.CONSUMER)
    writer = native.Writer(producer, last_number=0)
    connection = native.Connection(writer, connection=5, **options)
    taken: list[bytes] = []
    seen = 0  # bytes after the tail that were collected already

    def collect() -> None:
        nonlocal seen
        new = consumer.peek()[seen:]
        for offset, record in records.records(new):
            taken.append(new[offset : offset + records.size_at(new, offset)])
            del record
        seen += len(new)

    def make_room() -> None:
        nonlocal seen
        consumer.release(seen)
        seen = 0

    def close() -> None:
        connection.close()
        writer.close()
        consumer.close()
        producer.close()

    return Side(connection, taken, [], make_room, collect), close


def python_side(stamp: Callable[[], tuple[int, int]], **options: Any) -> Side:
    ring = ListRing(CAPACITY)
    connection = normalizer.Connection(ring, connection=5, stamp=stamp, limit_bytes=CAPACITY // 2, **options)
    return Side(connection, ring.taken, [], ring.drain, lambda: None)


def assert_same_connections(path: Path, chunks: Iterable[bytes], **options: Any) -> Side:
    """Same records in the ring, same events in the same order, same end; gives C's side."""
    stamps: list[tuple[int, int]] = []
    in_c, close = native_side(path, **options)
    in_python = python_side(lambda: stamps[-1], **options)
    try:
        for chunk in chunks:
            before = len(in_c.taken)
            status = feed(in_c, chunk)
            stamps.append((in_c.connection.last_recv_ns, ticks_of(in_c.taken[before:])))
            assert feed(in_python, chunk) is status
            assert in_python.taken[before:] == in_c.taken[before:], differences(in_c, in_python)
            assert in_python.events == in_c.events
            assert in_python.connection.frames == in_c.connection.frames
            assert in_python.connection.last_recv_ns == in_c.connection.last_recv_ns
            assert in_python.connection.fault == in_c.connection.fault
            assert (in_c.connection.fault != "") == (status is FeedStatus.PROTOCOL)
            if status is not FeedStatus.OK:
                assert (in_c.connection.feed(0), in_python.connection.feed(0)) == (status, status)
                break
    finally:
        close()
    return in_c


@settings(STEADY, max_examples=160)
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_both_connections_make_the_same_of_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, use_yes_price: bool, keep_frames: bool
) -> None:
    stream = Stream(seed, max_frame_bytes=MAX_FRAME_BYTES)
    assert_same_connections(
        tmp_path_factory.mktemp("twins") / "ring",
        stream.chunks(),
        use_yes_price=use_yes_price,
        keep_frames=keep_frames,
        max_frame_bytes=MAX_FRAME_BYTES,
    )


def text_frames(payloads: Iterable[bytes]) -> list[bytes]:
    """Each as one WebSocket message, 16 bit length."""
    return [b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload for payload in payloads]


BROKEN = {
    b"\xc1\x00": "reserved bits are set",
    b"\x81\x80": "a masked server frame",
    b"\x83\x00": "an opcode that there is not",
    b"\x8b\x00": "an opcode that there is not",
    b"\x80\x00": "a continuation outside of a message",
    b"\x09\x00": "a fragmented control frame",
    b"\x89\x7e\x00\x7e": "a control frame of more than 125 bytes",
    b"\x88\x7f\0\0\0\0\0\0\0\x7e": "a control frame of more than 125 bytes",
    b"\x81\x7f\x80\0\0\0\0\0\0\0": "a length with its top bit set",
    b"\x89\x7f\x80\0\0\0\0\0\0\0": "a length with its top bit set",
    b"\x01\x01a\x81\x00": "a new message inside of another",
}


@pytest.mark.parametrize("data", list(BROKEN), ids=bytes.hex)
def test_both_connections_say_what_is_wrong_with_a_frame(tmp_path: Path, data: bytes) -> None:
    side = assert_same_connections(tmp_path / "ring", [*text_frames([b"{}"]), data], max_frame_bytes=MAX_FRAME_BYTES)
    assert side.connection.fault == BROKEN[data]


def test_both_connections_stop_tracking_at_the_same_sid(tmp_path: Path) -> None:
    """The limit is 1024 sids; each comes twice, with a skip at the second time."""
    frames = [b'{"type":"fill","sid":%d,"seq":%d}' % (sid, seq) for seq in (1, 3) for sid in range(1, 1101)]
    taken = assert_same_connections(tmp_path / "ring", text_frames(frames), max_frame_bytes=MAX_FRAME_BYTES).taken
    assert sum(records.header(record).kind == records.Kind.GAP for record in taken) == 1024


def test_both_connections_follow_numbers_that_jump_and_come_back(tmp_path: Path) -> None:
    far, last = 5_000_000_000, 10**15 - 1  # the largest integer that is believed
    seqs = [1, 2, far, 3, 4, 4, last, 5, 9, far, far + 1, 10, far + 2, 1_000_003, last, last, far + 3, 2]
    frames = [b'{"type":"fill","sid":1,"seq":%d}' % seq for seq in seqs]
    taken = assert_same_connections(tmp_path / "ring", text_frames(frames), max_frame_bytes=MAX_FRAME_BYTES).taken
    gaps = [records.read(record) for record in taken if records.header(record).kind == records.Kind.GAP]
    missing = [(gap.body.gap.fromSeq, gap.body.gap.toSeq) for gap in gaps]
    assert missing[:5] == [(3, far - 1), (5, last - 1), (6, 8), (10, far - 1), (far + 3, last - 1)]


def test_both_connections_tell_as_many_new_names(tmp_path: Path) -> None:
    """The limit is 256 names of a connection, and 32 keys of an object."""
    keys = b",".join(b'"k%d":1' % i for i in range(40))
    frames = [b'{"type":"ok",%s}' % keys, *(b'{"type":"t%d"}' % i for i in range(300))]
    events = assert_same_connections(tmp_path / "ring", text_frames(frames), max_frame_bytes=MAX_FRAME_BYTES).events
    assert sum(event.kind is EventKind.DRIFT for event in events) == 256


def test_both_connections_keep_a_snapshot_that_is_too_large_for_the_ring(tmp_path: Path) -> None:
    """A level of six bytes takes sixteen in a record."""
    ladder = b",".join([b"[1,1]"] * 2000)
    frame = b'{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"A","yes":[%s]}}' % ladder
    side = assert_same_connections(tmp_path / "ring", text_frames([frame]), max_frame_bytes=16 * 1024)
    assert records.to_json(records.read(side.taken[0]))["reason"] == "too_complex"
    assert [event.kind for event in side.events] == [EventKind.UNDECODED]


def ticks_of(taken: list[bytes]) -> int:
    """The ticks with which C stamped this chunk; any number will do for a chunk that completed nothing."""
    return records.header(taken[0]).recv_ticks if taken else 0


def differences(in_c: Side, in_python: Side) -> str:
    for one, other in zip(in_c.taken, in_python.taken, strict=False):
        if one != other:
            return f"\nC      {show(one)}\nPython {show(other)}"
    return f"\nC has {len(in_c.taken)} records, Python {len(in_python.taken)}"
