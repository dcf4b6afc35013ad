"""What follows a journal goes on behind damage where every reader does: at the next batch that a checkpoint proves.

What should be given is known from where the test wrote and where it broke it, and from `Reader`, which reads by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flaky_bus import FlakyBus
from journal_writer import Journal

from ssmd.against import compare
from ssmd.consumer.files import FileTail
from ssmd.consumer.record import TailRecord, Wanted
from ssmd.copies import Stream
from ssmd.errors import DamageError, LaggedError
from ssmd.journal.follow import Follower, end_of
from ssmd.journal.paths import OPEN, find
from ssmd.journal.reader import Reader
from ssmd.journal.recover import recover
from ssmd.middleware.interfaces import Start
from ssmd.publisher import Options, Publisher
from ssmd.publisher.cursor import Target, path_of
from ssmd.publisher.plan import Mode

IDENTITY = "kalshi-0123456789ab"
LOST = range(6, 11)  # of the second group
Break = Callable[[bytearray, int, int], None]  # the segment, and where its second group lies


pytestmark = pytest.mark.usefixtures("a_quick_disk")


def one_byte(data: bytearray, start: int, stop: int) -> None:
    data[(start + stop) // 2] ^= 1


def zeros(data: bytearray, start: int, stop: int) -> None:
    data[start + 200 : stop - 40] = bytes(stop - start - 240)


def a_length(data: bytearray, start: int, stop: int) -> None:
    """A record that would end beyond the file."""
    data[start + 4 : start + 8] = (1 << 24).to_bytes(4, "little")


BREAKS = [one_byte, zeros, a_length]


def written(root: Path, broken: Break, *, suffix: str = ".capnp", last: bool = True) -> Journal:
    """Four groups of five records in a segment, the second one damaged; not `last`: and a segment of five behind it."""
    journal = Journal(root)
    ends = [0]
    for group in range(4):
        for i in range(5):
            journal.trade(group * 5 + i + 1)
        journal.checkpoint(final=group == 3 and suffix == ".capnp")
        ends.append(len(journal.data))
    path = journal.write(suffix)
    data = bytearray(journal.data)
    broken(data, ends[1], ends[2])
    path.write_bytes(data)
    journal.data = bytes(data)
    if not last:
        journal.begin()
        for i in range(5):
            journal.trade(21 + i)
        journal.seal()
    return journal


def numbers(records: Iterator[Any]) -> list[int]:
    return [record.view.number for record in records if record.kind != "checkpoint"]


KEPT = [*range(1, 6), *range(11, 21)]


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("proved_only", [True, False])
@pytest.mark.parametrize("chunk_bytes", [300, 1 << 20])
def test_a_follower_goes_on_behind_damage_where_a_reader_does(
    tmp_path: Path, broken: Break, proved_only: bool, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmd.journal.reader.CHUNK_BYTES", chunk_bytes)
    journal = written(tmp_path, broken)
    follower = Follower([journal.root], proved_only=proved_only)
    assert numbers(follower.step()) == KEPT
    reader = Reader(find([journal.root]))
    assert numbers(iter(reader)) == KEPT
    assert follower.damage == reader.damage
    assert [damage.lost_records for damage in follower.damage] == [5]


def test_damage_is_in_the_list_before_what_stands_behind_it(tmp_path: Path) -> None:
    journal = written(tmp_path, one_byte)
    follower = Follower([journal.root], proved_only=True)
    assert [(batch.last_number, len(follower.damage)) for _, batch in follower.batches()] == [(5, 0), (15, 1), (20, 1)]


@pytest.mark.parametrize("broken", BREAKS)
def test_batches_behind_damage_are_the_same_whoever_reads_and_whenever(tmp_path: Path, broken: Break) -> None:
    journal = written(tmp_path, broken, last=False)
    at_once = [batch.data[batch.start : batch.stop] for _, batch in Follower([tmp_path], proved_only=True).batches()]
    follower = Follower([journal.root], proved_only=True, limit_bytes=1)
    given = []
    for _ in range(8):
        given += [batch.data[batch.start : batch.stop] for _, batch in follower.batches()]
    assert given == at_once and len(given) == 4
    follower = Follower([journal.root], proved_only=True)
    early = [next(iter(follower.batches()), None) for _ in range(5)]
    assert [found and found[1].data[found[1].start : found[1].stop] for found in early] == [*at_once, None]


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("proved_only", [True, False])
def test_behind_damage_an_open_segment_is_followed_as_it_grows(
    tmp_path: Path, broken: Break, proved_only: bool
) -> None:
    """At the latest when it is sealed: a broken length is known as one when no more bytes come."""
    journal = written(tmp_path, broken, suffix=OPEN)
    follower = Follower([journal.root], proved_only=proved_only)
    given = numbers(follower.step())
    for number in range(21, 24):
        journal.trade(number)
        journal.checkpoint(final=number == 23)
        journal.write(OPEN)
        given += numbers(follower.step())
    path = next(journal.folder.iterdir())
    path.rename(path.with_suffix(""))
    given += numbers(follower.step())
    given += numbers(follower.step())
    assert given == [*KEPT, 21, 22, 23]
    assert len(follower.damage) == 1


def test_behind_damage_that_no_checkpoint_follows_yet_an_open_segment_is_waited_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(1, 5):
        journal.trade(number)
        journal.checkpoint()
    whole, start = journal.data, len(journal.data)
    journal.trade(5)
    journal.checkpoint()
    data = bytearray(journal.data)
    data[start + 4 : start + 8] = b"\xff\xff\xff\xff"
    journal.data = bytes(data)
    path = journal.write(OPEN)
    follower = Follower([journal.root], proved_only=True)
    assert numbers(follower.step()) == [1, 2, 3, 4]
    journal.trade(6)
    journal.write(OPEN)
    assert numbers(follower.step()) == [] and follower.damage == []
    journal.checkpoint()
    journal.write(OPEN)
    assert numbers(follower.step()) == [6]
    assert [(damage.segment, damage.offset, damage.lost_records) for damage in follower.damage] == [
        (path, len(whole), 1)
    ]


@pytest.mark.parametrize("proved_only", [True, False])
def test_what_recovery_cut_behind_damage_is_left_for_the_next_segment(tmp_path: Path, proved_only: bool) -> None:
    journal = Journal(tmp_path)
    journal.trade(1)
    journal.checkpoint()
    start = len(journal.data)
    for number in range(2, 9):
        journal.trade(number)
    data = bytearray(journal.data)
    data[start + 4 : start + 8] = b"\xff\xff\xff\xff"
    journal.data = bytes(data)
    journal.write(OPEN)
    follower = Follower([journal.root], proved_only=proved_only)
    assert numbers(follower.step()) == [1]
    assert recover(tmp_path).last_number == 1
    assert numbers(follower.step()) == []
    journal.begin()
    journal.number = 1
    journal.trade(2)
    journal.seal()
    given = numbers(follower.step())
    given += numbers(follower.step())
    assert given == [2]


def test_the_end_of_a_journal_is_behind_its_damage(tmp_path: Path) -> None:
    for i, broken in enumerate(BREAKS):
        root = tmp_path / str(i)
        written(root, broken)
        assert end_of(find([root])) == 20
        assert numbers(Follower([root], start=Start.end()).step()) == []


# ---- who lives from it -----------------------------------------------------------------------------------------------


def publisher(root: Path, bus: FlakyBus, mode: Mode, log: Callable[..., None] = lambda *_, **__: None) -> Publisher:
    target = Target(IDENTITY, "nats://127.0.0.1:4222", "SSMD", "md", mode)
    return Publisher(root, bus, target, Options("md", mode, batch_records=2), scan_idle_s=0.0, log=log)


def drained(made: Publisher) -> Publisher:
    for second in range(100):
        if made.step(10.0 * second) > 0:
            made.finish()
            return made
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("last", [True, False])
def test_what_is_proved_behind_damage_is_published_and_what_is_lost_is_told(
    tmp_path: Path, broken: Break, last: bool
) -> None:
    journal, bus = written(tmp_path / "kalshi", broken, last=last), FlakyBus()
    told: list[str] = []
    made = drained(publisher(journal.root, bus, "records", lambda event, **_: told.append(event)))
    kept = KEPT if last else [*KEPT, *range(21, 26)]
    assert [message.message_id for message in bus.messages()] == [f"{IDENTITY}:{number}" for number in kept]
    report = made.report()
    sentence = "5 records were never published: 6 to 10 are damaged in the journal"
    assert (report.counters["missed"], report.trouble, report.number) == (5, sentence, kept[-1])
    assert [event for event in told if "never published" in event] == [sentence]
    assert len([event for event in told if "the journal is damaged" in event]) == 1


@pytest.mark.parametrize("mode", ["records", "batches", "both"])
@pytest.mark.parametrize("confirmed", range(12))
def test_the_ids_behind_damage_are_the_same_after_a_crash(tmp_path: Path, mode: Mode, confirmed: int) -> None:
    journal = written(tmp_path / "kalshi", one_byte, last=False)
    whole, bus = FlakyBus(), FlakyBus()
    drained(publisher(journal.root, whole, mode))
    path_of(journal.root).unlink()
    bus.ensure_stream(["md.>"])
    for message in whole.messages()[:confirmed]:  # a publisher that was killed, and of whom no cursor is known
        bus.publish_all([message])
    bus.forget_ids()
    drained(publisher(journal.root, bus, mode))
    assert sorted(str(message.message_id) for message in bus.messages()) == sorted(
        str(message.message_id) for message in whole.messages()
    )


def test_a_journal_that_is_damaged_from_its_first_record_on_tells_how_many_are_lost(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.number = 100  # what was before is gone: retention
    for _ in range(3):
        journal.trade(1)
    journal.checkpoint()
    journal.trade(4)
    path = journal.seal()
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    bus = FlakyBus()
    report = drained(publisher(journal.root, bus, "records")).report()
    assert [message.message_id for message in bus.messages()] == [f"{IDENTITY}:104"]
    assert report.counters["missed"] == 3


def proved_records(root: Path) -> Iterator[bytes]:
    reader = Reader(find([root]))
    for segment in reader.segments:
        for batch in reader.batches(segment):
            yield bytes(batch.data[batch.start : batch.stop])


@pytest.mark.parametrize("mode", ["records", "batches"])
def test_what_the_journal_lost_is_not_missing_in_the_stream(tmp_path: Path, mode: Mode) -> None:
    journal, bus = written(tmp_path / "kalshi", one_byte, last=False), FlakyBus()
    drained(publisher(journal.root, bus, mode))
    stream = Stream("bus", bus, prefix="md", journal=IDENTITY, forms=[mode])
    (outcome,) = compare(lambda: proved_records(journal.root), [stream], first=1)
    assert outcome.equal and outcome.records == 20


def test_a_consumer_is_told_where_the_damage_is_and_which_records_it_cost(tmp_path: Path) -> None:
    journal = written(tmp_path / "kalshi", one_byte, last=False)
    tail = FileTail([journal.root], Start.beginning(), Wanted())
    given = list(tail.step())
    assert [one.number for one in given if isinstance(one, TailRecord)] == [*KEPT, *range(21, 26)]
    told = [one for one in given if not isinstance(one, TailRecord)]
    assert [type(one) for one in told] == [DamageError, LaggedError]
    assert isinstance(told[1], LaggedError) and told[1].missed == 5
    assert str(told[1]) == "kalshi: records 6 to 10 are missing: they are damaged"
    assert given.index(told[0]) == 5


@pytest.mark.parametrize(("start", "missed"), [(Start.beginning(), 5), (Start.number(3), 3), (Start.number(6), None)])
def test_damage_at_the_first_record_is_counted_from_where_a_consumer_began(
    tmp_path: Path, start: Start, missed: int | None
) -> None:
    journal = Journal(tmp_path / "kalshi")
    for number in range(1, 11):
        journal.trade(number)
        if number % 5 == 0:
            journal.checkpoint()
    journal.checkpoint(final=True)
    path = journal.write(".capnp")
    data = bytearray(journal.data)
    data[150] ^= 1
    path.write_bytes(data)
    given = list(FileTail([journal.root], start, Wanted()).step())
    assert [one.number for one in given if isinstance(one, TailRecord)] == list(range(6, 11))
    lagged = [one.missed for one in given if isinstance(one, LaggedError)]
    assert lagged == ([missed] if missed else [])


def test_a_group_of_which_only_the_checkpoint_is_left_counts_right(tmp_path: Path) -> None:
    """The final checkpoint by itself proves a batch without records: what was before it is lost, all of it."""
    journal = Journal(tmp_path / "kalshi")
    for number in range(1, 6):
        journal.trade(number)
    journal.checkpoint()
    journal.checkpoint(final=True)
    path = journal.write(".capnp")
    data = bytearray(journal.data)
    data[150] ^= 1
    path.write_bytes(data)
    journal.begin()
    journal.trade(6)
    journal.seal()
    given = list(FileTail([journal.root], Start.beginning(), Wanted()).step())
    assert [one.missed for one in given if isinstance(one, LaggedError)] == [5]
    report = drained(publisher(journal.root, FlakyBus(), "records")).report()
    assert (report.counters["missed"], report.number) == (5, 6)
