"""A publisher that comes to a bus which is not as it was left, or with a journal that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from flaky_bus import FlakyBus, unavailable
from journal_writer import Journal
from on_stream import Stored, journal_records

from ssmd.errors import ConflictError, MiddlewareError
from ssmd.middleware.interfaces import Message, Start
from ssmd.publisher import Options, Publisher, cursor, published_of
from ssmd.publisher.cursor import Target
from ssmd.publisher.plan import Mode

IDENTITY = "kalshi-0123456789ab"
MODES: tuple[Mode, ...] = ("records", "batches", "both")
AWAY = unavailable()


pytestmark = pytest.mark.usefixtures("a_quick_disk")


@pytest.fixture
def bus() -> FlakyBus:
    return FlakyBus()


def grow(j: Journal, groups: int = 1, market: str = "M") -> None:
    """Groups of five records of two kinds, a sealed segment each."""
    for _ in range(groups):
        for i in range(3):
            j.trade(i + 1, market)
        j.ticker(market)
        j.ticker(market)
        j.seal()


def stored(j: Journal) -> list[Stored]:
    return journal_records(j.root.parent)


def publisher(j: Journal, bus: FlakyBus, mode: Mode, log: Callable[..., None] = lambda *_, **__: None) -> Publisher:
    target = Target(IDENTITY, "nats://127.0.0.1:4222", "SSMD", "md", mode)
    return Publisher(j.root, bus, target, Options("md", mode, batch_records=2), scan_idle_s=0.0, log=log)


def drained(made: Publisher) -> Publisher:
    for second in range(200):
        if made.step(10.0 * second) > 0:
            return made
    raise AssertionError("it never came to an end")


def ended(made: Publisher) -> None:
    drained(made).finish()
    made.close()


def others(bus: FlakyBus, count: int) -> None:
    """Another shard on the same stream."""
    for i in range(count):
        bus.publish(Message("md.trade.M", b"not ours", {}, f"kalshi-ffffffffffff:{bus.last_sequence() + i + 1}"))


def ours(bus: FlakyBus) -> list[Message]:
    return [delivery.message for _, delivery in published_of(bus, "md", IDENTITY, Start.beginning(), idle_s=0.0)]


def assert_whole(j: Journal, bus: FlakyBus, mode: Mode) -> None:
    """All is there, once, and in the order of a stream that was never touched."""
    fresh = FlakyBus()
    cursor.path_of(j.root).unlink()
    ended(publisher(j, fresh, mode))
    assert [m.message_id for m in ours(bus)] == [m.message_id for m in fresh.messages()]
    assert [m.payload for m in ours(bus)] == [m.payload for m in fresh.messages()]


# ---- another stream --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_another_stream_of_that_name_is_told_and_what_it_lacks_too(journal: Journal, bus: FlakyBus, mode: Mode) -> None:
    """It has nothing of this journal, and more messages than the one before: only its making tells."""
    grow(journal, 2)
    ended(publisher(journal, bus, mode))
    bus.lose_stream()
    bus.ensure_stream(["md.>"])
    others(bus, 100)
    grow(journal)
    told: list[str] = []
    made = drained(publisher(journal, bus, mode, lambda event, **_: told.append(event)))
    assert set(range(11, 16)) == set(numbers(ours(bus), journal))
    assert "is another one now" in str(made.report().trouble)
    assert any("has nothing of this journal: records up to 10 are not in it" in event for event in told)
    made.finish()
    assert drained(publisher(journal, bus, mode)).report().trouble is None  # it was told


def numbers(messages: list[Message], j: Journal) -> list[int]:
    """The records in some messages."""
    content = b"".join(message.payload for message in messages)
    return [record.number for record in stored(j) if record.raw in content]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kept", range(1, 8))
def test_a_stream_of_an_older_backup_gets_again_what_it_lacks_in_its_order(
    journal: Journal, bus: FlakyBus, mode: Mode, kept: int
) -> None:
    """Wherever the backup ends, also where others have filled the places that were lost."""
    grow(journal, 3)
    ended(publisher(journal, bus, mode))
    confirmed = len(bus.messages())
    bus.lose_newest(confirmed - kept)
    others(bus, confirmed)
    bus.forget_ids()
    grow(journal)
    made = drained(publisher(journal, bus, mode))
    trouble = str(made.report().trouble)
    assert "it was brought back from a backup" in trouble and "published again from record" in trouble
    assert made.report().counters["missed"] == 0
    assert_whole(journal, bus, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_whose_lost_places_others_filled_exactly_gets_again_what_it_lost(
    journal: Journal, bus: FlakyBus, mode: Mode
) -> None:
    """It ends where the cursor says; only the message in that place tells."""
    grow(journal, 2)
    ended(publisher(journal, bus, mode))
    bus.lose_newest(2)
    others(bus, 2)
    made = drained(publisher(journal, bus, mode))
    assert "it was brought back from a backup" in str(made.report().trouble)
    made.finish()
    assert_whole(journal, bus, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("made_anew", [True, False])
def test_a_stream_that_lost_its_end_while_the_publisher_runs_gets_it_again(
    journal: Journal, bus: FlakyBus, mode: Mode, made_anew: bool
) -> None:
    grow(journal, 3)
    made = drained(publisher(journal, bus, mode))
    bus.down = AWAY
    grow(journal)
    assert made.step(5000.0) > 0
    bus.lose_newest(4)
    if made_anew:
        bus._created = "restored"
    bus.down = None
    drained(made).finish()
    assert made.report().trouble is not None and made.report().counters["missed"] == 0
    assert_whole(journal, bus, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails_at", range(2, 9))
def test_a_stream_that_lost_only_the_end_of_what_it_had_confirmed_gets_it_again(
    journal: Journal, bus: FlakyBus, mode: Mode, fails_at: int
) -> None:
    """A window was confirmed in part, its publisher is gone, and the stream ends where the look would begin."""
    grow(journal, 4)
    sent: list[Message] = []

    def fails(message: Message) -> MiddlewareError | None:
        sent.append(message)
        return unavailable() if len(sent) > fails_at else None

    bus.fails = fails
    made = publisher(journal, bus, mode)
    assert made.step(10.0) > 0
    made.close()
    known = json.loads(cursor.path_of(journal.root).read_text())
    assert known["newest"] == len(bus.messages()) == fails_at
    bus.fails = lambda _: None
    bus.lose_newest(fails_at - known["sequence"])
    ended(publisher(journal, bus, mode))
    assert_whole(journal, bus, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_that_lost_what_was_only_found_on_it_gets_it_again(
    journal: Journal, bus: FlakyBus, mode: Mode
) -> None:
    """Stored, never confirmed, and found by the next publisher: it sends nothing, and its cursor counts it all."""
    grow(journal, 3)
    bus.fails, bus.stores_on = unavailable, True
    made = publisher(journal, bus, mode)
    assert made.step(10.0) > 0
    made.close()
    bus.fails = lambda _: None
    ended(publisher(journal, bus, mode))
    bus.lose_newest(2)
    ended(publisher(journal, bus, mode))
    assert_whole(journal, bus, mode)


def test_what_a_stream_removed_by_its_limits_is_not_published_again(journal: Journal, bus: FlakyBus) -> None:
    grow(journal, 3)
    ended(publisher(journal, bus, "records"))
    bus._max_messages = 4
    others(bus, 10)  # nothing of ours is left
    grow(journal)
    made = drained(publisher(journal, bus, "records"))
    assert made.report().trouble is None
    assert made.report().counters["messages"] == 5


@pytest.mark.parametrize("mode", MODES)
def test_what_other_journals_published_meanwhile_is_no_trouble(journal: Journal, bus: FlakyBus, mode: Mode) -> None:
    grow(journal, 2)
    ended(publisher(journal, bus, mode))
    others(bus, 10)
    grow(journal)
    made = drained(publisher(journal, bus, mode))
    assert made.report().trouble is None
    assert_whole(journal, bus, mode)


def test_a_cursor_of_before_takes_the_stream_as_it_is(journal: Journal, bus: FlakyBus) -> None:
    grow(journal, 2)
    ended(publisher(journal, bus, "records"))
    path = cursor.path_of(journal.root)
    known = json.loads(path.read_text())
    del known["created"], known["unproved"], known["newest"]
    path.write_text(json.dumps(known))
    grow(journal)
    made = drained(publisher(journal, bus, "records"))
    made.finish()
    assert made.report().trouble is None
    assert json.loads(path.read_text())["created"] == bus.stream_created()


# ---- an older journal ------------------------------------------------------------------------------------------------


def brought_back(j: Journal, bus: FlakyBus, mode: Mode) -> Journal:
    """The folder as it was at a clean end, with its cursor; since then two more groups were published."""
    grow(j, 2)
    ended(publisher(j, bus, mode))
    backup = Journal(j.root.parent.parent / "backup" / "kalshi")
    shutil.copytree(j.root, backup.root)
    backup.number, backup.now = j.number, j.now + 10**9
    grow(j, 2)
    ended(publisher(j, bus, mode))
    bus.forget_ids()
    return backup


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [0, 1, 2, 4])
def test_a_backup_with_its_own_clean_cursor_is_refused_when_the_bus_has_more(
    journal: Journal, bus: FlakyBus, mode: Mode, groups: int
) -> None:
    """However much was recorded into it since: its numbers are others' on the bus."""
    backup = brought_back(journal, bus, mode)
    grow(backup, groups, "OTHER")
    before = bus.last_sequence()
    with pytest.raises(ConflictError) as refused:
        drained(publisher(backup, bus, mode))
    words = f"{refused.value} {refused.value.hint}"
    assert f"the bus has record 20 of journal {IDENTITY}" in words
    assert "a backup that was brought back" in words and "journal.id" in words
    assert bus.last_sequence() == before


def test_a_bus_that_was_away_at_the_start_is_not_given_others_content_later(journal: Journal, bus: FlakyBus) -> None:
    backup = brought_back(journal, bus, "records")
    grow(backup, 4, "OTHER")
    before = bus.last_sequence()
    bus.down = AWAY
    made = publisher(backup, bus, "records")
    assert made.step(0.0) > 0
    bus.down = None
    for second in range(1, 4):
        assert made.step(10.0 * second) > 0
    assert "a backup that was brought back" in str(made.report().trouble)
    assert bus.last_sequence() == before


@pytest.mark.parametrize("mode", MODES)
def test_an_older_cursor_of_a_whole_journal_doubles_nothing(journal: Journal, bus: FlakyBus, mode: Mode) -> None:
    """Only the cursor was brought back: what the bus has is what the journal has."""
    backup = brought_back(journal, bus, mode)
    shutil.copy(cursor.path_of(backup.root), cursor.path_of(journal.root))
    grow(journal)
    made = drained(publisher(journal, bus, mode))
    assert made.report().trouble is None
    assert_whole(journal, bus, mode)


def test_a_journal_whose_cursor_is_lost_and_that_is_older_than_the_bus_is_refused(
    journal: Journal, bus: FlakyBus
) -> None:
    backup = brought_back(journal, bus, "records")
    cursor.path_of(backup.root).unlink()
    bus._clock_ns = lambda: 0
    with pytest.raises(ConflictError, match="does not reach to it"):
        drained(publisher(backup, bus, "records"))
