"""The consumer side: order out of batches, replay from files into a live stream, and what is missing. Memory only."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_writer import NOON, Journal

from ssmd.consumer import BusTail, FileTail, Tail, TailRecord, Wanted
from ssmd.consumer.bus import TELL_EVERY_S
from ssmd.consumer.order import WAITING_LIMIT, Missing, Parts, Sequencer
from ssmd.errors import DamageError, LaggedError, SsmdError, UnavailableError
from ssmd.journal.follow import Follower
from ssmd.journal.identity import make_identity
from ssmd.journal.paths import OPEN
from ssmd.middleware.interfaces import Message, Start
from ssmd.middleware.memory import MemoryTransport
from ssmd.native.walk import KIND_BITS
from ssmd.publisher.plan import Mode, Planner

# ---- order -----------------------------------------------------------------------------------------------------------


def batch(sequencer: Sequencer[int], numbers: Sequence[int], before: int) -> list[int | Missing]:
    return list(sequencer.offer([(n, n) for n in numbers], before=before, single=False))


def single(sequencer: Sequencer[int], number: int) -> list[int | Missing]:
    return list(sequencer.offer([(number, number)], before=number - 1, single=True))


def test_single_records_pass_in_their_order() -> None:
    s: Sequencer[int] = Sequencer()
    assert [single(s, n) for n in (5, 6, 7)] == [[5], [6], [7]]


def test_what_came_before_is_not_given_again() -> None:
    s: Sequencer[int] = Sequencer(5)
    assert [single(s, n) for n in (5, 4, 5, 6, 1)] == [[5], [], [], [6], []]


def test_single_records_that_are_missing_are_named() -> None:
    s: Sequencer[int] = Sequencer(1)
    assert single(s, 4) == [Missing(1, 3), 4]


def test_records_of_a_batch_wait_for_those_between_them() -> None:
    s: Sequencer[int] = Sequencer(9)
    assert batch(s, [9, 12], 8) == [9]
    assert batch(s, [10, 11, 13], 8) == [10, 11, 12, 13]


def test_waiting_ends_with_the_group_and_what_did_not_come_is_named() -> None:
    s: Sequencer[int] = Sequencer(1)
    assert batch(s, [1, 4], 0) == [1]
    assert batch(s, [7, 9], 6) == [Missing(2, 3), 4, Missing(5, 6), 7]
    assert batch(s, [8], 6) == [8, 9]


def test_who_comes_into_the_middle_of_a_group_begins_behind_its_last_hole() -> None:
    s: Sequencer[int] = Sequencer()
    assert batch(s, [3, 8, 9], 0) == []  # 1 to 10; the batch with 1, 2 and 7 was before
    assert batch(s, [4, 5, 6, 10], 0) == []
    assert batch(s, [11, 12], 10) == [8, 9, 10, 11, 12]


def test_a_group_whose_last_record_was_missed_is_left_out() -> None:
    s: Sequencer[int] = Sequencer()
    assert batch(s, [3, 8, 9], 0) == []
    assert batch(s, [11, 12], 10) == [11, 12]


def test_a_group_that_nothing_follows_is_given_after_a_while() -> None:
    s: Sequencer[int] = Sequencer()
    assert batch(s, [3, 8, 9], 0) == []
    assert list(s.settle()) == [8, 9]
    assert single(s, 10) == [10]


def test_a_batch_that_never_comes_does_not_fill_the_memory() -> None:
    s: Sequencer[int] = Sequencer(1)
    given = batch(s, range(2, WAITING_LIMIT + 2), 0)
    assert given[:2] == [Missing(1, 1), 2] and len(given) == WAITING_LIMIT + 1


@st.composite
def groups_of_kinds(draw: st.DrawFn) -> list[list[int]]:
    """For each group the kind of each of its records."""
    return draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=6))


@settings(deadline=None)
@given(groups_of_kinds(), st.data())
def test_batches_come_back_in_the_order_of_the_journal(groups: list[list[int]], data: st.DataObject) -> None:
    """From any message on, in any order within a group, some of them twice."""
    messages: list[tuple[list[int], int]] = []
    number = 0
    for kinds in groups:
        before = number
        by_kind: dict[int, list[int]] = {}
        for kind in kinds:
            number += 1
            by_kind.setdefault(kind, []).append(number)
        pieces = [numbers[i : i + 2] for numbers in by_kind.values() for i in range(0, len(numbers), 2)]
        for piece in data.draw(st.permutations(pieces)):
            messages += [(piece, before)] * data.draw(st.sampled_from([1, 1, 1, 2]))
    start = data.draw(st.integers(0, len(messages) - 1))
    s: Sequencer[int] = Sequencer(1 if start == 0 else None)
    found: list[int | Missing] = []
    for numbers, before in messages[start:]:
        found += batch(s, numbers, before)
    found += s.settle()
    assert not any(isinstance(item, Missing) for item in found)
    assert found == sorted(set(found))  # type: ignore[type-var]
    whole = min([before for _, before in messages[start:] if before > messages[start][1]], default=number)
    assert [item for item in found if item > whole] == list(range(whole + 1, number + 1))  # type: ignore[operator]
    if start == 0:
        assert found == list(range(1, number + 1))


def part(i: int, count: int, payload: bytes, name: str = "kalshi-0123456789ab:7") -> Message:
    return Message("md.trade.X", payload, {"Ssmd-Part": f"{i}/{count}"}, f"{name}.{i}")


def test_parts_are_joined_when_all_are_there() -> None:
    parts = Parts()
    assert parts.whole(part(1, 3, b"a")) is None
    assert parts.whole(part(2, 3, b"b")) is None
    assert parts.whole(part(2, 3, b"b")) is None  # again
    found = parts.whole(part(3, 3, b"c"))
    assert found is not None and found[1] == b"abc"
    assert (found[0].first, found[0].last, found[0].part) == (7, 7, None)


@pytest.mark.parametrize("message_id", [None, "", "x", "a:b", "somebody else's"])
def test_what_is_no_publishers_message_is_passed_over(message_id: str | None) -> None:
    assert Parts().whole(Message("md.trade.X", b"", {}, message_id)) is None


# ---- a journal, its files, and a stream that keeps some of it --------------------------------------------------------


class Shard:
    """A journal that is written and published by hand."""

    def __init__(self, root: Path, bus: MemoryTransport, mode: Mode = "records", *, batch_records: int = 3) -> None:
        self.journal = Journal(root)
        root.mkdir(parents=True)
        self.identity = make_identity(root)
        self._bus = bus
        self._follower = Follower([root], proved_only=True)
        self._planner = Planner(self.identity, "md", mode=mode, batch_records=batch_records)
        self._planner.max_bytes = bus.max_payload_bytes
        self._published = 0

    def record(self, count: int = 1, *, publish: bool = True) -> None:
        """One more group."""
        for i in range(count):
            if i % 3 == 2:
                self.journal.ticker("KX-2")
            else:
                self.journal.trade(self.journal.number, "KX-1")
        self.journal.checkpoint()
        self.journal.write(OPEN)
        if publish:
            self.publish()

    def rotate(self) -> None:
        self.journal.checkpoint(final=True)
        open_one = self.journal.write(OPEN)
        open_one.rename(open_one.with_name(open_one.name.removesuffix(".open")))
        self.journal.begin()

    def publish(self) -> None:
        for _, group in self._follower.batches():
            for work in self._planner.plan(group, self._published):
                if work.messages:
                    self._bus.publish_all(work.messages)
                self._published = work.covers


@pytest.fixture
def bus() -> MemoryTransport:
    return MemoryTransport(subjects=["md.>"])


MODES: tuple[Mode, ...] = ("records", "batches", "both")


@pytest.fixture(params=MODES)
def shard(request: pytest.FixtureRequest, tmp_path: Path, bus: MemoryTransport) -> Shard:
    return Shard(tmp_path / "kalshi", bus, request.param)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bus_tail(
    bus: MemoryTransport,
    start: Start,
    *,
    files: Shard | None = None,
    journal: str | None = None,
    wanted: Wanted | None = None,
    clock: Clock | None = None,
) -> BusTail:
    return BusTail(
        bus,
        "md",
        start,
        wanted or Wanted(),
        journal=journal,
        files={files.identity: files.journal.root} if files else {},
        monotonic=clock or Clock(),
    )


def there(tail: BusTail, clock: Clock | None = None) -> list[int | SsmdError]:
    """All that comes now: numbers, and what went wrong."""
    found: list[int | SsmdError] = []
    for _ in range(30):
        for item in tail.step(0.0):
            found.append(item.number if isinstance(item, TailRecord) else item)
        if clock is not None:
            clock.now += 0.2
    return found


def numbers(tail: BusTail, clock: Clock | None = None) -> list[int]:
    found = there(tail, clock)
    assert all(isinstance(item, int) for item in found), found
    return [item for item in found if isinstance(item, int)]


def test_a_stream_is_given_from_its_beginning_and_as_it_grows(shard: Shard, bus: MemoryTransport) -> None:
    shard.record(7)
    tail = bus_tail(bus, Start.beginning())
    assert numbers(tail) == list(range(1, 8))
    shard.record(5)
    assert numbers(tail) == list(range(8, 13))


def test_only_what_is_published_from_now_on_is_given_from_the_end(shard: Shard, bus: MemoryTransport) -> None:
    shard.record(4)
    clock = Clock()
    tail = bus_tail(bus, Start.end(), clock=clock)
    assert numbers(tail, clock) == []
    shard.record(7)
    assert numbers(tail, clock) == list(range(5, 12))


@pytest.mark.parametrize("first", [1, 3, 6, 9, 14])
@pytest.mark.parametrize("named", [True, False])
def test_a_stream_is_given_from_a_number_on(shard: Shard, bus: MemoryTransport, first: int, named: bool) -> None:
    for _ in range(4):
        shard.record(3)
    tail = bus_tail(bus, Start.number(first), journal=shard.identity if named else None)
    assert numbers(tail) == list(range(first, 13))
    shard.record(3)
    assert numbers(tail) == list(range(max(first, 13), 16))


def test_the_place_of_a_number_is_found_by_halving(tmp_path: Path, bus: MemoryTransport) -> None:
    shard, other = Shard(tmp_path / "a", bus), Shard(tmp_path / "b", bus)
    for _ in range(30):
        shard.record(100)
        other.record(50)
    tail = bus_tail(bus, Start.number(2990), journal=shard.identity)
    assert tail._from.at == "number" and 2000 < tail._from.value <= 4490
    assert numbers(tail) == list(range(2990, 3001))


def test_a_stream_is_given_from_a_time_on(shard: Shard) -> None:
    """The bus stores later than the recorder receives, and may have another clock: receive time decides."""
    bus = MemoryTransport(subjects=["md.>"], clock_ns=lambda: NOON + 5_000_000_000)
    shard._bus = bus
    shard.record(6)
    clock = Clock()
    assert numbers(bus_tail(bus, Start.time(NOON + 4000), clock=clock), clock) == [4, 5, 6]


def test_kinds_and_markets_are_chosen_and_holes_are_still_seen(shard: Shard, bus: MemoryTransport) -> None:
    shard.record(9)
    trades = Wanted(KIND_BITS["trade"])
    tail = bus_tail(bus, Start.beginning(), wanted=trades)
    assert numbers(tail) == [1, 2, 4, 5, 7, 8]
    assert numbers(bus_tail(bus, Start.beginning(), wanted=Wanted(markets=frozenset(["KX-2"])))) == [3, 6, 9]


def test_two_journals_on_one_stream_are_each_in_order(tmp_path: Path, bus: MemoryTransport) -> None:
    shards = [Shard(tmp_path / name, bus, "batches") for name in ("a", "b")]
    tail = bus_tail(bus, Start.beginning())
    for _ in range(3):
        for one in shards:
            one.record(4)
    given_records = [item for item in tail.step(0.0) if isinstance(item, TailRecord)]
    for one in shards:
        mine = [record.number for record in given_records if record.journal == one.identity]
        assert mine == list(range(1, 13))
    only = bus_tail(bus, Start.beginning(), journal=shards[1].identity)
    assert numbers(only) == list(range(1, 13))


def test_records_larger_than_a_message_come_whole(tmp_path: Path) -> None:
    bus = MemoryTransport(subjects=["md.>"], max_payload_bytes=100)
    shard = Shard(tmp_path / "kalshi", bus, "both")
    shard.record(4)
    tail = bus_tail(bus, Start.beginning())
    records = [item for item in tail.step(0.0) if isinstance(item, TailRecord)]
    assert b"".join(record.raw for record in records) in shard.journal.data
    assert [record.number for record in records] == [1, 2, 3, 4]


def test_what_the_stream_dropped_is_told_once_with_its_number(tmp_path: Path) -> None:
    bus = MemoryTransport(subjects=["md.>"], max_messages=4)
    shard = Shard(tmp_path / "kalshi", bus)
    shard.record(2)
    tail = bus_tail(bus, Start.beginning())
    assert numbers(tail) == [1, 2]
    shard.record(9)
    found = there(tail)
    assert isinstance(found[0], LaggedError) and found[0].missed == 5
    assert found[1:] == [8, 9, 10, 11]


def test_a_start_that_the_stream_does_not_have_any_more_is_told(tmp_path: Path) -> None:
    bus = MemoryTransport(subjects=["md.>"], max_messages=4)
    shard = Shard(tmp_path / "kalshi", bus)
    shard.record(9)
    for journal in (None, shard.identity):
        found = there(bus_tail(bus, Start.number(2), journal=journal))
        assert isinstance(found[0], LaggedError) and found[0].missed == 4
        assert found[1:] == [6, 7, 8, 9]


# ---- the handshake ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=MODES)
def short(request: pytest.FixtureRequest, tmp_path: Path) -> Shard:
    """A shard on a stream that keeps the newest eight messages only."""
    return Shard(tmp_path / "kalshi", MemoryTransport(subjects=["md.>"], max_messages=8), request.param)


STARTS = [(Start.beginning(), 1), (Start.number(5), 5), (Start.time(NOON + 7000), 7), (Start.number(200), 200)]


@pytest.mark.parametrize(("start", "first"), STARTS)
@pytest.mark.parametrize("named", [True, False])
def test_files_lead_to_where_the_stream_goes_on(short: Shard, start: Start, first: int, named: bool) -> None:
    for _ in range(10):
        short.record(5)
    tail = bus_tail(short._bus, start, files=short, journal=short.identity if named else None)
    found = []
    for _ in range(40):
        found += numbers_of_one_step(tail)
        short.record(5)
    found += numbers(tail)
    assert found == list(range(first, 251))
    assert not tail._channels[short.identity].replaying


def numbers_of_one_step(tail: BusTail) -> list[int]:
    items = list(tail.step(0.0))
    assert all(isinstance(item, TailRecord) for item in items), items
    return [item.number for item in items if isinstance(item, TailRecord)]


def test_a_quiet_stream_does_not_keep_files_back(short: Shard) -> None:
    for _ in range(4):
        short.record(5, publish=False)
    tail = bus_tail(short._bus, Start.beginning(), files=short)
    assert numbers(tail) == list(range(1, 21))
    short.record(5, publish=False)
    assert numbers(tail) == list(range(21, 26))


def test_a_hole_in_the_stream_is_filled_from_the_files(short: Shard) -> None:
    """A consumer so slow that the stream has dropped what it had not read."""
    tail = bus_tail(short._bus, Start.end(), files=short)
    clock = Clock()
    tail._monotonic = clock
    short.record(4)
    begun = numbers(tail, clock)
    for _ in range(20):
        short.record(4)
    found = begun + numbers(tail, clock)
    short.record(4)
    found += numbers(tail, clock)
    assert found == list(range(found[0], 89))
    assert found[0] in (1, 3, 4)  # batches: wherever the first group can begin


def test_what_neither_files_nor_stream_have_is_told(short: Shard) -> None:
    for _ in range(5):
        short.record(4)
        short.rotate()
    for path in sorted(short.journal.folder.glob("*.capnp"))[1:3]:
        path.unlink()
    found = there(bus_tail(short._bus, Start.beginning(), files=short))
    assert [item for item in found if isinstance(item, int)] == [1, 2, 3, 4, *range(13, 21)]
    (told,) = [item for item in found if not isinstance(item, int)]
    assert isinstance(told, LaggedError) and told.missed == 8


def test_old_copies_of_files_are_left_behind_for_the_stream(tmp_path: Path) -> None:
    """Files that end before the stream's present: what lies between is in the stream."""
    bus = MemoryTransport(subjects=["md.>"])
    shard = Shard(tmp_path / "kalshi", bus)
    for _ in range(4):
        shard.record(5)
        shard.rotate()
    for path in sorted(shard.journal.folder.glob("*.capnp"))[2:]:
        path.unlink()
    clock = Clock()
    tail = bus_tail(bus, Start.beginning(), files=shard, journal=shard.identity, clock=clock)
    assert numbers(tail) == list(range(1, 11))  # and the stream, from now on, is quiet
    shard.record(5)
    shard.rotate()
    sorted(shard.journal.folder.glob("*.capnp"))[-1].unlink()
    # The file was read before it was removed or not: either way every record comes once.
    assert numbers(tail, clock) == list(range(11, 26))


def test_a_stream_that_reaches_further_back_than_the_files_is_read_first(tmp_path: Path, bus: MemoryTransport) -> None:
    shard = Shard(tmp_path / "kalshi", bus)
    for _ in range(4):
        shard.record(5)
        shard.rotate()
    for path in sorted(shard.journal.folder.glob("*.capnp"))[:2]:
        path.unlink()
    for journal in (None, shard.identity):
        assert numbers(bus_tail(bus, Start.beginning(), files=shard, journal=journal)) == list(range(1, 21))
        assert numbers(bus_tail(bus, Start.number(3), files=shard, journal=journal)) == list(range(3, 21))
        assert numbers(bus_tail(bus, Start.number(13), files=shard, journal=journal)) == list(range(13, 21))


class AwayBus(MemoryTransport):
    """A bus that can be reached or not."""

    away = False

    def subscribe(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        self.ask()
        return _AwaySubscription(self, super().subscribe(*arguments, **options))  # type: ignore[arg-type]

    def ask(self) -> None:
        if self.away:
            raise UnavailableError("the bus is away")


class _AwaySubscription:
    def __init__(self, bus: AwayBus, inner: object) -> None:
        self._bus, self._inner = bus, inner

    def next(self, timeout_s: float) -> object:
        self._bus.ask()
        return self._inner.next(timeout_s)  # type: ignore[attr-defined]

    def unsubscribe(self) -> None:
        self._inner.unsubscribe()  # type: ignore[attr-defined]


def test_while_the_bus_is_away_the_files_go_on_and_then_the_bus_does(tmp_path: Path) -> None:
    bus = AwayBus(subjects=["md.>"])
    shard = Shard(tmp_path / "kalshi", bus)
    shard.record(5)
    clock = Clock()
    tail = bus_tail(bus, Start.beginning(), files=shard, clock=clock)
    found = there(tail, clock)
    shard.record(5)
    found += there(tail, clock)
    assert not tail._channels[shard.identity].replaying
    bus.away = True
    for _ in range(3):
        shard.record(5)
        found += there(tail, clock)
    assert tail._channels[shard.identity].replaying
    bus.away = False
    found += there(tail, clock)
    shard.record(5)
    found += there(tail, clock)
    assert not tail._channels[shard.identity].replaying
    assert [item for item in found if isinstance(item, int)] == list(range(1, 31))
    assert [type(item) for item in found if not isinstance(item, int)] == [UnavailableError]


def test_a_bus_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    bus = AwayBus(subjects=["md.>"])
    bus.away = True
    shard = Shard(tmp_path / "kalshi", bus)
    clock = Clock()
    tail = bus_tail(bus, Start.beginning(), clock=clock)
    assert [type(item) for item in there(tail, clock)] == [UnavailableError]
    bus.away = False
    shard.record(5)
    assert numbers(tail, clock) == [1, 2, 3, 4, 5]


def test_a_bus_that_stays_away_is_told_again_with_its_own_words(tmp_path: Path) -> None:
    bus = AwayBus(subjects=["md.>"])
    bus.away = True
    clock = Clock()
    tail = bus_tail(bus, Start.beginning(), clock=clock)
    told = there(tail, clock)
    clock.now += TELL_EVERY_S
    told += there(tail, clock)
    assert [str(item) for item in told] == ["the bus is away"] * 2


# ---- files alone -----------------------------------------------------------------------------------------------------


def file_tail(root: Path, start: Start | None = None, **options: object) -> Tail:
    return Tail(FileTail([root], start or Start.beginning(), Wanted(), **options))  # type: ignore[arg-type]


def taken(tail: Tail) -> list[int]:
    return [record.number for record in iter(lambda: tail.next(0.0), None)]


def test_files_are_given_without_their_checkpoints_and_as_they_grow(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    tail = file_tail(tmp_path)
    assert taken(tail) == []
    for number in range(1, 30):
        journal.trade(number)
        if number % 5 == 0:
            journal.checkpoint()
        path = journal.write(OPEN)
        if number % 7 == 0:
            journal.checkpoint(final=True)
            path = journal.write(OPEN)
            path.rename(path.with_name(path.name.removesuffix(".open")))
            journal.begin()
        assert taken(tail) == [number]


def test_a_record_says_of_which_journal_it_is(tmp_path: Path) -> None:
    for name in ("a", "b"):
        journal = Journal(tmp_path / name)
        journal.trade(1)
        journal.write(OPEN)
    known = make_identity(tmp_path / "a")
    tail = file_tail(tmp_path)
    assert sorted(record.journal for record in iter(lambda: tail.next(0.0), None)) == sorted(["b", known])
    assert taken(file_tail(tmp_path, journal=known)) == [1]


def test_damage_is_raised_once_in_its_place(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    for number in range(1, 10):
        journal.trade(number)
        if number % 3 == 0:
            path = journal.seal()
            if number == 6:
                data = bytearray(path.read_bytes())
                data[200] ^= 1
                path.write_bytes(data)
    tail = file_tail(tmp_path)
    assert [record.number for record in (tail.next(0), tail.next(0), tail.next(0)) if record] == [1, 2, 3]
    with pytest.raises(DamageError):
        tail.next(0)
    with pytest.raises(LaggedError) as lagged:
        tail.next(0)
    assert lagged.value.missed == 3
    assert taken(tail) == [7, 8, 9]


def test_with_a_listener_trouble_is_told_and_the_loop_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.trade(1)
    journal.seal()
    told: list[SsmdError] = []
    tail = Tail(FileTail([tmp_path], Start.beginning(), Wanted()), on_trouble=told.append)
    assert taken(tail) == [1]
    journal.number += 5
    journal.trade(7)
    journal.seal()
    assert taken(tail) == [7]
    assert [type(one) for one in told] == [LaggedError]


def test_a_long_stretch_without_wanted_records_is_read_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmd.consumer.files.STEP_BYTES", 1)  # a group a step
    monkeypatch.setattr("ssmd.consumer.time.sleep", lambda seconds: pytest.fail("it paused"))
    journal = Journal(tmp_path / "kalshi")
    for number in range(1, 200):
        journal.trade(number)
        journal.checkpoint()
    journal.ticker()
    journal.checkpoint()
    journal.write(OPEN)
    wanted = Wanted(KIND_BITS["ticker"])
    record = Tail(FileTail([tmp_path], Start.beginning(), wanted, proved_only=True)).next(20.0)
    assert record is not None and record.number == 200
    bus = MemoryTransport(subjects=["md.>"])
    monkeypatch.setattr(bus, "_changed", NoWaiting(bus._changed))
    files = {make_identity(tmp_path / "kalshi"): tmp_path / "kalshi"}
    record = Tail(BusTail(bus, "md", Start.beginning(), wanted, files=files)).next(20.0)
    assert record is not None and record.number == 200


class NoWaiting:
    """A condition that fails whoever waits for it."""

    def __init__(self, condition: threading.Condition) -> None:
        self._condition = condition

    def __enter__(self) -> bool:
        return self._condition.__enter__()

    def __exit__(self, *_: object) -> None:
        self._condition.__exit__(None, None, None)

    def wait(self, timeout_s: float) -> None:
        pytest.fail("it waited")


def test_a_closed_tail_ends_the_loop(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.trade(1)
    journal.trade(2)
    journal.write(OPEN)

    def seen() -> Iterator[int]:
        with file_tail(tmp_path) as tail:
            for record in tail:
                yield record.number
                if record.number == 2:
                    tail.close()
                    tail.close()

    assert list(seen()) == [1, 2]


# ---- whatever happens ------------------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("record"), st.integers(1, 7)),
    st.tuples(st.sampled_from(["publish", "rotate", "away", "back", "read", "wait"]), st.just(0)),
)


@settings(deadline=None, max_examples=150)
@given(
    steps=st.lists(STEPS, max_size=40),
    mode=st.sampled_from(MODES),
    kept=st.sampled_from([1, 5, 20, 0]),
    start=st.sampled_from([Start.beginning(), Start.number(1), Start.number(9), Start.time(NOON + 5000)]),
    named=st.booleans(),
)
def test_with_files_every_record_comes_once_whatever_happens_to_the_bus(
    steps: list[tuple[str, int]], mode: Mode, kept: int, start: Start, named: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bus = AwayBus(subjects=["md.>"], max_messages=kept)
        shard = Shard(Path(folder) / "kalshi", bus, mode)
        shard.record(2)
        clock = Clock()
        tail = bus_tail(bus, start, files=shard, journal=shard.identity if named else None, clock=clock)
        found: list[int | SsmdError] = []

        def read(times: int) -> None:
            for _ in range(times):
                found.extend(item.number if isinstance(item, TailRecord) else item for item in tail.step(0.0))

        for what, count in steps:
            if what == "record":
                shard.record(count, publish=False)
            elif what == "publish" and not bus.away:
                shard.publish()
            elif what == "rotate":
                shard.rotate()
            elif what in ("away", "back"):
                bus.away = what == "away"
            elif what == "read":
                read(1)
            clock.now += 1.0 if what == "wait" else 0.01
        bus.away = False
        shard.record(3)
        for _ in range(40):
            clock.now += 0.2
            read(1)
        first = {"number": start.value, "time": 5}.get(start.at, 1)
        assert [item for item in found if isinstance(item, int)] == list(range(first, shard.journal.number + 1))
        assert all(isinstance(item, int | UnavailableError) for item in found)
        tail.close()
