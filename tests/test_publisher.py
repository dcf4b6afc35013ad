"""The publisher over a bus that fails as a test says: every record once, in order, whatever happens.

What should be on the bus is taken from the segment files with pycapnp alone (on_stream).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flaky_bus import FlakyBus, full, unavailable
from journal_writer import NOON, Journal
from on_stream import Stored, journal_records

from ssmd.consumer.order import Parts
from ssmd.errors import ConflictError, MiddlewareError, RejectedError, UsageError
from ssmd.journal.follow import Follower
from ssmd.metrics import METRICS
from ssmd.middleware import names
from ssmd.middleware.interfaces import Message, Start, Subscription
from ssmd.native.columns import Columns
from ssmd.native.walk import ViewReader
from ssmd.publisher import BACKOFF_TO_S, COUNTERS, Options, Publisher, cursor, move, published_of
from ssmd.publisher.cursor import Cursor, Target
from ssmd.publisher.plan import Mode

IDENTITY = "kalshi-0123456789ab"
MODES: tuple[Mode, ...] = ("records", "batches", "both")
# Records that are planned at once, and messages in a window: a whole group of these journals, and less than one.
PIECES = [(4096, 4096), (5, 4096), (4096, 3), (5, 3)]
CLOCK = itertools.count(step=10)  # seconds: the cursor file is written at each step
HOSTILE = ["../x", "a b", "a.b", "*", ">", "M" * 1024, "Ä€😀", "a\r\nb", "md.trade.*", "\x00", "'"]


pytestmark = pytest.mark.usefixtures("a_quick_disk")


@pytest.fixture
def bus() -> FlakyBus:
    return FlakyBus()


def stored(j: Journal) -> list[Stored]:
    return journal_records(j.root.parent)


def fill(j: Journal, groups: int = 3, trades: int = 5) -> list[Stored]:
    """Groups of mixed records, two sealed segments; gives what there is."""
    for group in range(groups):
        j.event("opened", 1)
        for i in range(trades):
            j.trade(i + 1, market=f"M-{i % 3}")
            j.ticker(market=f"M-{i % 2}")
            j.delta(i + 1, "bid", 4500, 100)
        j.gap("sequence", sid=1, fromSeq=2, toSeq=3)
        j.checkpoint()
        if group == 0:
            j.seal()
    j.seal()
    return stored(j)


def target(mode: Mode = "records", journal: str = IDENTITY, url: str = "nats://127.0.0.1:4222") -> Target:
    return Target(journal, url, "SSMD", "md", mode)


def publisher(j: Journal, bus: FlakyBus, mode: Mode = "records", **options: object) -> Publisher:
    settings = {"batch_records": 4, **options}
    return Publisher(
        j.root,
        bus,
        target(mode),
        Options("md", mode, **settings),
        scan_idle_s=0.0,
        jitter=lambda: 1.0,  # type: ignore[arg-type]
    )


def drain(p: Publisher, steps: int = 1000) -> Publisher:
    """Steps until there is nothing to do."""
    for _ in range(steps):
        if p.step(next(CLOCK)) > 0:
            return p
    raise AssertionError("it never came to an end")


def assert_on_bus(bus: FlakyBus, records: list[Stored], mode: Mode) -> None:
    """Each record is there once, in the order of its subject, byte for byte, in single messages or batches or both."""
    ids = [message.message_id for message in bus.messages()]
    assert len(ids) == len(set(ids))
    if mode != "batches":
        singles = [m for m in bus.messages() if not m.subject.startswith("md.batch.")]
        assert {m.message_id for m in singles} == {f"{IDENTITY}:{r.number}" for r in records}
        for subject in {m.subject for m in singles}:
            mine = [r for r in records if names.subject("md", r.kind, r.market) == subject]
            assert [m.payload for m in singles if m.subject == subject] == [r.raw for r in mine]
    if mode != "records":
        for kind in {r.kind for r in records}:
            payload = b"".join(m.payload for m in bus.messages(f"md.batch.{kind}"))
            assert payload == b"".join(r.raw for r in records if r.kind == kind)


# ---- what is published -----------------------------------------------------------------------------------------------


def test_each_record_is_a_message_with_its_bytes_its_subject_and_its_number(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    drain(publisher(journal, bus))
    assert [(m.subject, m.message_id, m.payload) for m in bus.messages()] == [
        (f"md.{r.kind}.{r.market or '_'}", f"{IDENTITY}:{r.number}", r.raw) for r in records
    ]


@pytest.mark.parametrize("market", HOSTILE)
def test_a_hostile_market_name_reaches_no_subject(journal: Journal, bus: FlakyBus, market: str) -> None:
    journal.trade(1, market=market)
    journal.seal()
    drain(publisher(journal, bus, "both"))
    subjects = [message.subject for message in bus.messages()]
    assert len(subjects) == 2
    for subject in subjects:
        assert re.fullmatch(r"md\.(trade\.[A-Za-z0-9_-]{1,128}|batch\.trade)", subject)


def test_a_batch_says_whose_records_it_holds_and_which(journal: Journal, bus: FlakyBus) -> None:
    for seq in range(1, 4):
        journal.trade(seq)
    journal.seal()
    drain(publisher(journal, bus, "batches"))
    (batch,) = bus.messages()
    assert batch.subject == "md.batch.trade"
    assert batch.message_id == f"{IDENTITY}:1-3:trade"
    assert batch.headers == {
        "Ssmd-Journal": IDENTITY,
        "Ssmd-First": "1",
        "Ssmd-Last": "3",
        "Ssmd-Count": "3",
        "Ssmd-Before": "0",
    }
    assert batch.payload == b"".join(record.raw for record in stored(journal))


def test_every_batch_of_a_group_says_which_record_is_before_the_group(journal: Journal, bus: FlakyBus) -> None:
    for seq in range(1, 4):
        journal.trade(seq)
    journal.checkpoint()
    for seq in range(4, 7):
        journal.trade(seq)
        journal.ticker()
    journal.seal()
    drain(publisher(journal, bus, "batches", batch_records=2))
    said = [(message.headers["Ssmd-First"], message.headers["Ssmd-Before"]) for message in bus.messages()]
    assert said == [("1", "0"), ("3", "0"), ("4", "3"), ("5", "3"), ("8", "3"), ("9", "3")]


def test_batches_end_at_checkpoints_at_so_many_records_and_at_so_many_bytes(journal: Journal, bus: FlakyBus) -> None:
    for seq in range(1, 7):
        journal.trade(seq)
    journal.checkpoint()
    journal.trade(7)
    journal.seal()
    size = len(stored(journal)[0].raw)
    drain(publisher(journal, bus, "batches"))
    assert [m.message_id for m in bus.messages()] == [f"{IDENTITY}:{run}:trade" for run in ("1-4", "5-6", "7-7")]
    small = FlakyBus(max_payload_bytes=2 * size)
    cursor.path_of(journal.root).unlink()
    drain(publisher(journal, small, "batches"))
    assert [m.message_id for m in small.messages()] == [
        f"{IDENTITY}:{run}:trade" for run in ("1-2", "3-4", "5-6", "7-7")
    ]


def test_batches_are_the_same_whenever_a_publisher_begins(journal: Journal) -> None:
    """A group's batches do not depend on what was read before it: their ids are the same after a crash."""
    records = fill(journal)
    whole = FlakyBus()
    drain(publisher(journal, whole, "batches"))
    ids = [str(m.message_id) for m in whole.messages()]
    group = len(records) // 3
    for first in (1, group + 1, 2 * group + 1):
        late = FlakyBus()
        cursor.save(journal.root, target("batches"), Cursor(first - 1, first - 1, 0))
        drain(publisher(journal, late, "batches"))
        expected = [one for one in ids if int(one.partition(":")[2].partition("-")[0]) >= first]
        assert expected and [m.message_id for m in late.messages()] == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("piece", range(1, 8))
def test_a_group_may_be_planned_in_pieces_of_any_size(
    journal: Journal, bus: FlakyBus, mode: Mode, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a piece ends just before the checkpoint, which is no record."""
    monkeypatch.setattr("ssmd.native.columns.RECORDS_A_CALL", piece)
    monkeypatch.setattr("ssmd.publisher.WINDOW_MESSAGES", 2)
    for seq in range(1, 13):
        journal.trade(seq)
        if seq % 6 == 0:
            journal.checkpoint()
    journal.seal()
    report = drain(publisher(journal, bus, mode)).report()
    assert_on_bus(bus, stored(journal), mode)
    assert (report.number, report.trouble, report.counters["missed"]) == (12, None, 0)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_too_large_for_a_message_comes_in_parts(journal: Journal, mode: Mode) -> None:
    journal.trade(1)
    journal.snapshot(1, [(price, 100) for price in range(1, 80)], [])
    journal.trade(2)
    journal.seal()
    large = next(record.raw for record in stored(journal) if record.kind == "book_snapshot")
    bus = FlakyBus(max_payload_bytes=500)
    drain(publisher(journal, bus, mode))
    count = -(-len(large) // 500)
    subject = {"records": "md.book_snapshot.M-1", "batches": "md.batch.book_snapshot", "both": "md.*.>"}[mode]
    parts = [m for m in bus.messages(subject) if names.PART_HEADER in m.headers]
    expected = [f"{i}/{count}" for i in range(1, count + 1)]
    assert [m.headers["Ssmd-Part"] for m in parts] == expected * (2 if mode == "both" else 1)
    for i in range(0, len(parts), count):
        assert b"".join(m.payload for m in parts[i : i + count]) == large


def test_what_no_checkpoint_proves_is_not_published(journal: Journal, bus: FlakyBus) -> None:
    journal.trade(1)
    journal.checkpoint()
    journal.trade(2)
    journal.write(".capnp.open")
    p = drain(publisher(journal, bus))
    assert [m.message_id for m in bus.messages()] == [f"{IDENTITY}:1"]
    journal.checkpoint()
    journal.write(".capnp.open")
    drain(p)
    assert [m.message_id for m in bus.messages()] == [f"{IDENTITY}:1", f"{IDENTITY}:2"]


def test_what_is_written_is_published_where_the_environment_does_not_wait_for_proof(
    journal: Journal, bus: FlakyBus
) -> None:
    journal.trade(1)
    journal.write(".capnp.open")
    drain(publisher(journal, bus, durable_only=False))
    assert [m.message_id for m in bus.messages()] == [f"{IDENTITY}:1"]


def test_windows_are_bounded_in_messages_and_bytes(
    journal: Journal, bus: FlakyBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = fill(journal)
    monkeypatch.setattr("ssmd.publisher.WINDOW_MESSAGES", 7)
    drain(publisher(journal, bus))
    assert max(bus.windows) == 7
    monkeypatch.setattr("ssmd.publisher.WINDOW_BYTES", 2 * len(records[1].raw))
    bus.windows.clear()
    cursor.path_of(journal.root).unlink()
    bus.lose_stream()
    drain(publisher(journal, bus))
    assert max(bus.windows) == 3
    assert_on_bus(bus, records, "records")


def test_a_message_id_says_which_records_it_is_about() -> None:
    assert names.published("k-1:17") == names.Published("k-1", 17, 17)
    assert names.published("k-1:17.600.2") == names.Published("k-1", 17, 17, None, 2)
    assert names.published("k-1:17.2") == names.Published("k-1", 17, 17, None, 2)
    assert names.published("k-1:17-310:book_delta") == names.Published("k-1", 17, 310, "book_delta")
    assert names.published("k-1:17-17:trade.3") == names.Published("k-1", 17, 17, "trade", 3)
    for other in (None, "", "17", "k-1:", "k-1:x", "a:b:17"):
        assert names.published(other) is None


def test_columns_say_what_views_say(journal: Journal) -> None:
    fill(journal)
    columns, views = Columns(), ViewReader()
    for _, batch in Follower([journal.root]).batches():
        found, _ = views.read(batch.data, batch.start, batch.stop, batch.offset)
        found = [view for view in found if view.kind != 10]
        assert columns.read(batch.data, batch.start, batch.stop, batch.offset) == batch.stop - batch.start
        assert columns.number == [view.number for view in found]
        assert columns.offset == [view.offset for view in found]
        assert columns.length == [view.length for view in found]
        assert columns.recv_ns == [view.recv_ns for view in found]
        assert columns.code == [view.kind + (view.sub << 16) for view in found]
        assert columns.market_at == [view.market_at for view in found]
        assert columns.market_bytes == [view.market_bytes for view in found]


# ---- once, whatever happens ------------------------------------------------------------------------------------------


def failing_once(at: int, error: Callable[[], MiddlewareError]) -> Callable[[Message], MiddlewareError | None]:
    """Fails at the `at`-th message that is sent, once."""
    sent = 0

    def fails(_: Message) -> MiddlewareError | None:
        nonlocal sent
        sent += 1
        return error() if sent == at else None

    return fails


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stores_on", [False, True])
@pytest.mark.parametrize(("piece", "window"), PIECES)
def test_a_failure_at_any_message_loses_and_doubles_nothing(
    journal: Journal, mode: Mode, stores_on: bool, piece: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus breaks at each message in turn, with what follows it stored or not, and forgets all ids meanwhile."""
    monkeypatch.setattr("ssmd.native.columns.RECORDS_A_CALL", piece)
    monkeypatch.setattr("ssmd.publisher.WINDOW_MESSAGES", window)
    records = fill(journal)
    for at in range(1, 80, 1 if piece == window else 3):
        bus = FlakyBus()
        bus.stores_on = stores_on
        bus.fails = failing_once(at, unavailable)
        p = publisher(journal, bus, mode)
        while p.step(next(CLOCK)) == 0.0:
            pass
        bus.forget_ids()
        drain(p)
        assert_on_bus(bus, records, mode)
        p.close()
        cursor.path_of(journal.root).unlink()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stores_on", [False, True])
@pytest.mark.parametrize(("piece", "window"), PIECES)
def test_a_kill_at_any_message_loses_and_doubles_nothing(
    journal: Journal, mode: Mode, stores_on: bool, piece: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies with messages on their way; the next one starts hours later."""
    monkeypatch.setattr("ssmd.native.columns.RECORDS_A_CALL", piece)
    monkeypatch.setattr("ssmd.publisher.WINDOW_MESSAGES", window)
    records = fill(journal)
    for at in range(1, 80, 1 if piece == window else 3):
        bus = FlakyBus()
        bus.stores_on = stores_on
        bus.fails = failing_once(at, unavailable)
        killed = publisher(journal, bus, mode)
        while killed.step(next(CLOCK)) == 0.0:
            pass
        killed.close()
        bus.forget_ids()
        drain(publisher(journal, bus, mode)).finish()
        assert_on_bus(bus, records, mode)
        cursor.path_of(journal.root).unlink()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("piece", "window"), PIECES)
@pytest.mark.parametrize("asked", [True, False])
def test_an_end_between_two_steps_loses_and_doubles_nothing(
    journal: Journal, mode: Mode, piece: int, window: int, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for or a kill, also in the middle of a group; the next one starts hours later."""
    monkeypatch.setattr("ssmd.native.columns.RECORDS_A_CALL", piece)
    monkeypatch.setattr("ssmd.publisher.WINDOW_MESSAGES", window)
    records = fill(journal)
    for steps in range(1, 40):
        bus = FlakyBus()
        first = publisher(journal, bus, mode)
        if any(first.step(next(CLOCK)) > 0 for _ in range(steps)):
            break
        if asked:
            first.finish()
        first.close()
        bus.forget_ids()
        drain(publisher(journal, bus, mode))
        assert_on_bus(bus, records, mode)
        cursor.path_of(journal.root).unlink()


def test_a_kill_between_parts_publishes_the_rest_of_them(journal: Journal) -> None:
    journal.snapshot(1, [(price, 100) for price in range(1, 80)], [])
    journal.seal()
    (large,) = stored(journal)
    for at in range(1, 4):
        bus = FlakyBus(max_payload_bytes=500)
        bus.fails = failing_once(at, unavailable)
        killed = publisher(journal, bus)
        killed.step(0.0)
        bus.forget_ids()
        assert len(bus.messages()) == at - 1
        drain(publisher(journal, bus))
        assert b"".join(m.payload for m in bus.messages()) == large.raw
        cursor.path_of(journal.root).unlink()


def test_other_cuts_after_a_kill_double_no_record(journal: Journal) -> None:
    """The user changes batch_records between a kill and the next start."""
    records = fill(journal)
    bus = FlakyBus()
    bus.fails = failing_once(7, unavailable)
    bus.stores_on = True
    publisher(journal, bus, "batches").step(0.0)
    bus.forget_ids()
    drain(publisher(journal, bus, "batches", batch_records=3))
    assert_on_bus(bus, records, "batches")


def test_a_clean_end_needs_a_look_at_the_last_message_alone(
    journal: Journal, bus: FlakyBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal)
    drain(publisher(journal, bus)).finish()
    again = publisher(journal, bus)
    looks: list[Start | None] = []
    subscribe = bus.subscribe

    def counted(pattern: str, *, start: Start | None = None) -> Subscription:
        looks.append(start)
        return subscribe(pattern, start=start)

    monkeypatch.setattr(bus, "subscribe", counted)
    drain(again)
    assert looks == [Start.number(bus.last_sequence())]
    assert again.report().counters["messages"] == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("piece", [4096, 5])
def test_the_cursor_file_says_so_before_anything_beyond_is_sent(
    journal: Journal, bus: FlakyBus, mode: Mode, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is on the bus is covered by `sent` of the file at that moment, if only by little."""
    monkeypatch.setattr("ssmd.native.columns.RECORDS_A_CALL", piece)
    monkeypatch.setattr("ssmd.publisher.WINDOW_MESSAGES", 3)
    monkeypatch.setattr("ssmd.publisher.RESERVE_RECORDS", 0)

    def look(message: Message) -> MiddlewareError | None:
        known, what = cursor.load(journal.root, target(mode)), names.published(message.message_id)
        assert known is not None and what is not None and known.sent >= what.last
        return None

    fill(journal)
    bus.fails = look
    drain(publisher(journal, bus, mode))
    assert bus.messages()


def test_what_another_journal_publishes_into_the_stream_is_not_taken_for_ours(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    bus.ensure_stream(["md.>"])
    for number in range(1, 100):
        bus.publish(Message("md.trade.M-1", b"theirs", {}, f"kalshi-ffffffffffff:{number}"))
    drain(publisher(journal, bus))
    ours = list(published_of(bus, "md", IDENTITY, Start.beginning(), idle_s=0.0))
    assert [what.first for what, _ in ours] == [record.number for record in records]
    assert len(list(published_of(bus, "md", None, Start.beginning(), idle_s=0.0))) == 99 + len(records)


class BusyBus(FlakyBus):
    """Another shard publishes whenever somebody looks."""

    def __init__(self) -> None:
        super().__init__()
        self.others = 0

    def subscribe(self, pattern: str, **options: Any) -> Any:
        made = super().subscribe(pattern, **options)
        give = made.next

        def next_one(timeout_s: float) -> Any:
            self.others += 1
            assert self.others < 1000, "it never ends"
            self.publish(Message("md.trade.M", b"", message_id=f"another-0123456789ab:{self.others}"))
            return give(timeout_s)

        made.next = next_one  # its own, for this subscription
        return made


def test_what_is_on_the_bus_is_found_while_others_publish_without_a_pause(journal: Journal) -> None:
    bus = BusyBus()
    bus.ensure_stream(["md.>"])
    for number in range(1, 6):
        bus.publish(Message("md.trade.M", b"", message_id=f"{IDENTITY}:{number}"))
    found = published_of(bus, "md", IDENTITY, Start.beginning(), idle_s=0.0)
    assert [what.first for what, _ in found] == [1, 2, 3, 4, 5]


def at(j: Journal, bus: FlakyBus, seconds: float, log: Callable[..., None] = lambda *_, **__: None) -> Publisher:
    """A publisher, so many seconds after the journal's first record."""
    return Publisher(
        j.root,
        bus,
        target(),
        Options("md"),
        scan_idle_s=0.0,
        wall_ns=lambda: int(NOON + seconds * 1e9),
        jitter=lambda: 1.0,
        log=log,
    )


class LookedAt(FlakyBus):
    """Counts the looks at what it holds."""

    looks = 0

    def subscribe(self, pattern: str, **options: Any) -> Any:
        self.looks += 1
        return super().subscribe(pattern, **options)


@pytest.mark.parametrize(("seconds", "looks"), [(14.0, 0), (16.0, 1), (-1.0, 1)])
def test_a_journal_that_began_just_now_needs_no_look_at_the_stream(
    journal: Journal, seconds: float, looks: int
) -> None:
    fill(journal)
    bus = LookedAt()
    bus.ensure_stream(["md.>"])
    bus.publish(Message("md.trade.M-1", b"theirs", {}, "kalshi-ffffffffffff:1"))
    drain(at(journal, bus, seconds))
    assert bus.looks == looks


def test_a_cursor_that_is_lost_at_once_doubles_nothing(journal: Journal) -> None:
    """The bus knows the ids of the last seconds."""
    records = fill(journal)
    bus = LookedAt()
    drain(at(journal, bus, 2.0)).finish()
    cursor.path_of(journal.root).unlink()
    drain(at(journal, bus, 5.0))
    assert bus.looks == 0
    assert_on_bus(bus, records, "records")


def test_a_cursor_that_is_lost_later_is_looked_for_on_the_stream(journal: Journal) -> None:
    records = fill(journal)
    bus = LookedAt()
    drain(at(journal, bus, 2.0)).finish()
    cursor.path_of(journal.root).unlink()
    bus.forget_ids()
    drain(at(journal, bus, 120.0))
    assert bus.looks == 1
    assert_on_bus(bus, records, "records")


def test_a_young_journal_is_looked_for_after_a_failure(journal: Journal) -> None:
    fill(journal)
    bus = LookedAt()
    bus.ensure_stream(["md.>"])
    bus.publish(Message("md.trade.M-1", b"theirs", {}, "kalshi-ffffffffffff:1"))
    bus.fails = lambda message: unavailable()
    p = at(journal, bus, 2.0)
    assert p.step(next(CLOCK)) > 0
    bus.fails = lambda message: None
    drain(p)
    assert bus.looks == 1


def test_a_long_look_is_told_and_is_no_silence_of_the_bus(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(journal)
    monkeypatch.setattr("ssmd.publisher.LONG_LOOK_S", 0.0)
    told: list[tuple[str, str]] = []
    troubles: list[str | None] = []

    class SlowBus(FlakyBus):
        def subscribe(self, pattern: str, **options: Any) -> Any:
            made = super().subscribe(pattern, **options)
            give = made.next

            def next_one(timeout_s: float) -> Any:
                found = give(timeout_s)
                troubles.append(p.report().trouble)
                p._asked_s = -1e9 if p._asked_s is None else p._asked_s - 1.5  # so long for each message
                return found

            made.next = next_one
            return made

    bus = SlowBus()
    bus.ensure_stream(["md.>"])
    for number in range(1, 10):
        bus.publish(Message("md.trade.M-1", b"theirs", {}, f"kalshi-ffffffffffff:{number}"))
    p = at(journal, bus, 120.0, lambda event, level="info", **_: told.append((event, level)))
    drain(p)
    assert told.count(("looking at what the stream holds", "info")) == 1
    assert len(troubles) >= 9 and not any("not answered" in str(trouble) for trouble in troubles)


def test_a_lost_cursor_is_found_again_on_the_bus(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    drain(publisher(journal, bus)).finish()
    cursor.path_of(journal.root).unlink()
    bus.forget_ids()
    p = drain(publisher(journal, bus))
    assert_on_bus(bus, records, "records")
    assert p.report().number == records[-1].number


def test_a_stream_that_somebody_removed_is_made_again_and_publishing_goes_on(journal: Journal, bus: FlakyBus) -> None:
    journal.trade(1)
    journal.checkpoint()
    journal.write(".capnp.open")
    p = drain(publisher(journal, bus))
    bus.lose_stream()
    journal.trade(2)
    journal.checkpoint()
    journal.write(".capnp.open")
    drain(p)
    assert p.report().trouble is not None
    drain(p)
    assert [m.message_id for m in bus.messages()] == [f"{IDENTITY}:2"]
    assert p.report().trouble is None


def test_a_bus_that_lost_what_it_had_confirmed_is_told_and_can_be_filled_again(journal: Journal, bus: FlakyBus) -> None:
    """Its machine lost power before the last messages were on its disk."""
    records = fill(journal)
    drain(publisher(journal, bus)).finish()
    bus.lose_newest(5)
    journal.trade(99)
    journal.seal()
    p = drain(publisher(journal, bus))
    assert "has lost messages that it had confirmed" in str(p.report().trouble)
    p.finish()
    move(journal.root, target(), 1)
    drain(publisher(journal, bus))
    held = {m.message_id for m in bus.messages()}
    assert held == {f"{IDENTITY}:{record.number}" for record in stored(journal)}
    assert len(bus.messages()) == len(held) == len(records) + 1


def grow(j: Journal, count: int, frame_of: str) -> None:
    """So many more records, as a recorder in this place would have them."""
    for i in range(count):
        j.trade(100 + i, market=frame_of)
    j.checkpoint()
    j.write(".capnp.open")


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_of_the_folder_that_is_recorded_and_published_elsewhere_is_told(
    tmp_path: Path, bus: FlakyBus, mode: Mode
) -> None:
    """The bus takes the records of one for repeats of the other's: nothing else would tell of it."""
    journals = [Journal(tmp_path / host / "kalshi") for host in "ab"]
    for j in journals:
        j.trade(1)
        grow(j, 3, "M")
    drain(publisher(journals[0], bus, mode)).finish()
    shutil.copy(cursor.path_of(journals[0].root), cursor.path_of(journals[1].root))
    first, second = [drain(publisher(j, bus, mode)) for j in journals]
    for j, p in zip(journals, (first, second), strict=True):
        drain(p)
        grow(j, 5, j.root.parent.name)
        drain(p)
    assert first.report().trouble is None
    assert "another recorder publishes a copy of this journal" in str(second.report().trouble)


def test_what_was_sent_before_a_crash_or_to_another_bus_is_no_other_recorders(journal: Journal, bus: FlakyBus) -> None:
    fill(journal)
    drain(publisher(journal, bus))  # and killed: nothing is saved but that it may have sent
    again = drain(publisher(journal, bus))
    assert again.report().trouble is None
    again.finish()
    move(journal.root, target(), 1)
    assert drain(publisher(journal, bus)).report().trouble is None


def test_a_full_bus_is_waited_for_in_order(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    bus.fails = lambda message: full() if message.message_id == f"{IDENTITY}:9" else None
    p = publisher(journal, bus)
    for _ in range(5):
        p.step(0.0)
    assert len(bus.messages()) == 8
    assert "the bus is full" in str(p.report().trouble)
    bus.fails = lambda message: None
    drain(p)
    assert_on_bus(bus, records, "records")


def test_what_a_failing_bus_has_taken_is_in_the_cursor_file(journal: Journal, bus: FlakyBus) -> None:
    """Retention goes by it: while the bus is full nothing would go that it has."""
    fill(journal)
    bus.fails = lambda message: full() if message.message_id == f"{IDENTITY}:9" else None
    p = publisher(journal, bus)
    p.step(next(CLOCK))
    saved = cursor.load(journal.root, target())
    assert saved is not None
    assert (saved.number, saved.clean) == (8, False)


def test_a_bus_that_takes_less_than_it_did_gets_parts(journal: Journal, bus: FlakyBus) -> None:
    journal.snapshot(1, [(price, 100) for price in range(1, 80)], [])
    journal.seal()
    bus.down = unavailable()
    p = publisher(journal, bus)
    p.step(0.0)
    bus.down = None
    shrink = iter([1 << 20])
    bus.fails = lambda message: setattr(bus, "max_payload_bytes", 500) if next(shrink, None) else None
    while not bus.messages():
        p.step(0.0)
    drain(p)
    assert b"".join(m.payload for m in bus.messages()) == stored(journal)[0].raw
    assert all(len(m.payload) <= 500 for m in bus.messages())


@pytest.mark.parametrize("smaller", [350, 590])
def test_parts_that_were_cut_before_the_bus_took_less_are_not_joined_with_those_cut_after(
    journal: Journal, bus: FlakyBus, smaller: int
) -> None:
    journal.trade(1, market="A" * 1500)
    journal.seal()
    bus.max_payload_bytes = 600
    p = publisher(journal, bus)
    bus.fails = lambda message: unavailable() if len(bus.messages()) == 2 or message.message_id[-1] == "3" else None
    p.step(next(CLOCK))
    assert len(bus.messages()) == 2
    bus.fails, bus.max_payload_bytes = lambda message: None, smaller
    for _ in range(3):
        drain(p)
    parts = Parts()
    whole = [found for found in map(parts.whole, bus.messages()) if found is not None]
    assert [(what.first, payload) for what, payload in whole] == [(1, stored(journal)[0].raw)]


def test_records_that_were_removed_unpublished_are_told_and_the_rest_goes_on(journal: Journal, bus: FlakyBus) -> None:
    journal.trade(1)
    journal.seal()
    p = drain(publisher(journal, bus))
    journal.trade(2)
    journal.trade(3)
    journal.seal().unlink()
    journal.trade(4)
    journal.seal()
    drain(p)
    assert [m.message_id for m in bus.messages()] == [f"{IDENTITY}:1", f"{IDENTITY}:4"]
    report = p.report()
    assert report.counters["missed"] == 2
    assert report.trouble == "2 records were never published: 2 to 3 are gone from the journal"


def test_a_journal_whose_beginning_is_gone_is_published_from_where_it_begins(journal: Journal, bus: FlakyBus) -> None:
    journal.trade(1)
    journal.seal().unlink()
    journal.trade(2)
    journal.seal()
    p = drain(publisher(journal, bus))
    assert [m.message_id for m in bus.messages()] == [f"{IDENTITY}:2"]
    assert p.report().counters["missed"] == 0


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_bus_that_refuses_us_at_once_ends_the_publisher(journal: Journal, bus: FlakyBus) -> None:
    fill(journal)
    bus.down = ConflictError("the stream is another's")
    with pytest.raises(ConflictError):
        publisher(journal, bus).step(0.0)


def test_a_bus_that_was_away_at_the_start_may_refuse_us_later_without_an_end(journal: Journal, bus: FlakyBus) -> None:
    fill(journal)
    bus.down = unavailable()
    p = publisher(journal, bus)
    assert p.step(0.0) > 0
    bus.down = RejectedError("no right to publish")
    assert p.step(0.0) > 0
    assert str(p.report().trouble).startswith("no right to publish; ")


def test_the_pause_between_attempts_grows_to_a_limit_and_differs(journal: Journal, bus: FlakyBus) -> None:
    fill(journal)
    bus.down = unavailable()
    p = publisher(journal, bus)
    pauses = [p.step(0.0) for _ in range(12)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == BACKOFF_TO_S
    low = Publisher(journal.root, bus, target(), Options("md"), scan_idle_s=0.0, jitter=lambda: 0.0)
    assert low.step(0.0) == 0.05


def test_trouble_says_what_is_behind_and_by_how_much(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    bus.down = unavailable()
    p = Publisher(journal.root, bus, target(), Options("md"), scan_idle_s=0.0, wall_ns=lambda: journal.now + 90 * 10**9)
    p.step(0.0)
    report = p.report()
    assert (report.number, report.end, report.lag_records) == (0, len(records), len(records))
    assert report.trouble == f"the bus cannot be reached; {len(records)} records behind, the oldest for 90 s"
    bus.down = None
    drain(p)
    assert p.report().trouble is None and p.report().lag_records == 0 and p.report().lag_s == 0.0


def test_what_the_publisher_counts_has_its_metrics() -> None:
    known = {spec.name for spec in METRICS}
    assert {f"ssmd_publisher_{name}" for name in COUNTERS} <= known


def test_counters_say_what_was_confirmed(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    singles = drain(publisher(journal, bus)).report().counters
    assert singles["messages"] == singles["records"] == len(records)
    assert singles["bytes"] == sum(len(record.raw) for record in records)
    cursor.path_of(journal.root).unlink()
    batches = drain(publisher(journal, FlakyBus(), "batches")).report().counters
    assert batches["records"] == len(records) and batches["messages"] < len(records)


# ---- cursor and lock -------------------------------------------------------------------------------------------------


def test_a_cursor_that_is_ahead_of_the_journal_is_refused_and_explained(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    cursor.save(journal.root, target(), Cursor(records[-1].number + 5, records[-1].number + 5, 9))
    with pytest.raises(UsageError) as refused:
        publisher(journal, bus)
    words = str(refused.value)
    assert f"records up to {records[-1].number + 5} were published" in words
    assert f"ends at {records[-1].number}:" in words
    assert "journal.id" in words


def test_a_cursor_of_another_journal_is_refused(journal: Journal, bus: FlakyBus) -> None:
    fill(journal)
    cursor.save(journal.root, target(journal="kalshi-ffffffffffff"), Cursor(1, 1, 1))
    with pytest.raises(UsageError, match="the cursor of journal kalshi-ffffffffffff") as refused:
        publisher(journal, bus)
    assert "--move-to" in str(refused.value)


def test_a_cursor_of_another_bus_is_refused_and_says_how_to_go_on(journal: Journal, bus: FlakyBus) -> None:
    fill(journal)
    cursor.save(journal.root, target(url="nats://old:4222"), Cursor(7, 7, 9))
    with pytest.raises(UsageError, match=r"url 'nats://old:4222', now 'nats://127\.0\.0\.1:4222'") as refused:
        publisher(journal, bus)
    assert "--move-to 8" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"number": "x"}', "\x00" * 100, "[" * 100_000]
    + [f'{{"number": {n}, "sent": 1, "sequence": 1}}' for n in ("-1", "1e999", "1.5", "true", "NaN")],
)
def test_a_broken_cursor_is_refused(journal: Journal, bus: FlakyBus, text: str) -> None:
    fill(journal)
    cursor.path_of(journal.root).write_text(text)
    with pytest.raises(UsageError, match="no cursor of a publisher"):
        publisher(journal, bus)


def test_another_mode_goes_on_from_the_same_place(journal: Journal, bus: FlakyBus) -> None:
    fill(journal)
    drain(publisher(journal, bus)).finish()
    journal.trade(1)
    journal.seal()
    drain(publisher(journal, bus, "batches"))
    number = stored(journal)[-1].number
    assert bus.messages()[-1].message_id == f"{IDENTITY}:{number}-{number}:trade"


def test_a_cursor_can_be_moved_and_what_is_on_the_bus_stays_single(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    drain(publisher(journal, bus)).finish()
    bus.forget_ids()
    move(journal.root, target(), 3)
    drain(publisher(journal, bus))
    assert_on_bus(bus, records, "records")
    move(journal.root, target(url="nats://new:4222"), 3)
    new = FlakyBus()
    p = Publisher(journal.root, new, target(url="nats://new:4222"), Options("md"), scan_idle_s=0.0)
    drain(p)
    assert [m.message_id for m in new.messages()] == [f"{IDENTITY}:{r.number}" for r in records[2:]]


def test_the_second_publisher_of_a_journal_is_refused_with_the_first_one_s_pid(tmp_path: Path) -> None:
    with cursor.locked(tmp_path):
        second = cursor.locked(tmp_path, patience_s=0)
        with pytest.raises(UsageError, match=f"published already, by process {os.getpid()}"):
            second.__enter__()
    with cursor.locked(tmp_path, patience_s=0):
        pass


def test_the_cursor_file_holds_no_more_than_the_table_says(journal: Journal, bus: FlakyBus) -> None:
    records = fill(journal)
    drain(publisher(journal, bus)).finish()
    last = records[-1].number
    known = json.loads(cursor.path_of(journal.root).read_text())
    places = ("number", "sent", "sequence", "newest", "unproved")
    assert [known.pop(name) for name in places] == [last, last, last, last, 0]
    assert known.pop("created") == bus.stream_created()
    bus_of_it = {"url": "nats://127.0.0.1:4222", "stream": "SSMD", "prefix": "md"}
    assert known == {"journal": IDENTITY, "publish": "records", **bus_of_it}
