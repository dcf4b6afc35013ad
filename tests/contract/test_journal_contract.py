"""The contract of Journal (ssmd/middleware/interfaces.py), kept by the memory twin, segment files and a stream of NATS.

Another implementation comes in by a maker in MAKERS.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import journal_writer
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import nats_for_all

from ssmd import host
from ssmd.errors import DamageError, LaggedError, LimitError, RejectedError, UnavailableError, UsageError
from ssmd.journal.paths import find
from ssmd.middleware.interfaces import Entry, Journal, JournalReader, Start
from ssmd.middleware.memory import MemoryJournal
from ssmd.middleware.nats import NatsJournal
from ssmd.middleware.segments import SegmentJournal
from ssmd.store import Store

FAR_FUTURE_NS = 4_000_000_000_000_000_000
DEADLINE_S = 20.0  # generous: nothing waits for it to pass


class Maker(Protocol):
    """An empty journal of one implementation, and what only its owner can do to it."""

    journal: Journal

    def cut(self) -> None:
        """What is appended from now on can be lost apart from what was before."""

    def forget(self, before: int) -> None:
        """Removes the entries below a number, as limits of the implementation do."""

    def another(self) -> Journal:
        """A second instance on the same entries, to read."""

    def close(self) -> None: ...


class Memory:
    def __init__(self, folder: Path) -> None:
        self.journal: Journal = MemoryJournal()

    def cut(self) -> None:
        pass

    def forget(self, before: int) -> None:
        assert isinstance(self.journal, MemoryJournal)
        self.journal.forget(before)

    def another(self) -> Journal:
        return self.journal

    def close(self) -> None:
        self.journal.close()


ENVIRONMENT = """
name: {name}
feed: notes
schema: market_data:v1
max_frame_bytes: 65536
exchange: {{simulator: {{}}}}
subscriptions: [{{channels: [trade], all: true}}]
storage: {{path: data}}
ring: {{path: ring, size_bytes: 262144}}
flusher: {{nap_us: 100, sync_interval_ms: {sync_interval_ms}}}
"""


class Segments:
    """Closing the writing end seals its segment: that is where retention can cut."""

    def __init__(self, folder: Path, *, sync_interval_ms: int = 10) -> None:
        file = folder / "of-a-program.yaml"
        file.write_text(ENVIRONMENT.format(name=file.stem, sync_interval_ms=sync_interval_ms))
        self._environment = host.load(file, [f"storage.path={folder / 'data'}", f"ring.path={folder / 'ring'}"])
        self.root = folder / "data" / "notes"
        self._made: list[SegmentJournal] = []
        self.journal: Journal = self.writer()

    def writer(self) -> SegmentJournal:
        self._made.append(SegmentJournal(self.root, recorder=lambda: Store(self._environment)))
        return self._made[-1]

    def cut(self) -> None:
        self.journal.close()
        self.journal = self.writer()

    def forget(self, before: int) -> None:
        segments = find([self.root])
        for segment, after in pairwise(segments):
            if after.first_number <= before:
                segment.path.unlink()

    def another(self) -> Journal:
        return SegmentJournal(self.root)

    def close(self) -> None:
        for journal in self._made:
            journal.close()


class Nats:
    """A stream of its own on one server."""

    numbers = itertools.count(1)

    def __init__(self, folder: Path) -> None:
        self._server = nats_for_all()
        number = next(self.numbers)
        self._stream, self._prefix = f"JOURNAL{number}", f"journal{number}"
        self._made: list[NatsJournal] = []
        self.journal: Journal = self.another()

    def cut(self) -> None:
        pass

    def forget(self, before: int) -> None:
        self._server.api(f"STREAM.PURGE.{self._stream}", {"seq": before})

    def another(self) -> Journal:
        self._made.append(NatsJournal(self._server.url, stream=self._stream, prefix=self._prefix))
        return self._made[-1]

    def close(self) -> None:
        for journal in self._made:
            journal.close()
        self._server.api(f"STREAM.DELETE.{self._stream}")


MAKERS: dict[str, Callable[[Path], Maker]] = {"memory": Memory, "segments": Segments, "nats": Nats}


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Maker]:
    maker = MAKERS[request.param](tmp_path)
    yield maker
    maker.close()


@pytest.fixture
def journal(made: Maker) -> Journal:
    return made.journal


def now_there(reader: JournalReader) -> list[int]:
    """The numbers of all entries that can be read without waiting."""
    return [entry.number for entry in entries(reader)]


def entries(reader: JournalReader) -> list[Entry]:
    found = []
    while (entry := reader.next()) is not None:
        found.append(entry)
    return found


def fill(journal: Journal, count: int, topic: str = "notes") -> list[int]:
    return [journal.append(topic, b"%d" % i) for i in range(count)]


# ---- appending -------------------------------------------------------------------------------------------------------


def test_an_empty_journal_has_no_end_no_topics_and_no_entries(journal: Journal) -> None:
    journal.check()
    assert journal.end() is None
    assert journal.topics() == {}
    assert now_there(journal.reader(Start.beginning())) == []


def test_a_journal_of_one_entry_has_an_end(journal: Journal) -> None:
    assert journal.append("notes", b"") == 1
    assert journal.end() == 1


def test_numbers_begin_at_one_and_count_up_by_one(journal: Journal) -> None:
    assert fill(journal, 20) == list(range(1, 21))
    assert journal.end() == 20


def test_an_entry_comes_back_as_it_was_appended(journal: Journal) -> None:
    before = time.time_ns()
    headers = {"Content-Type": "text/plain", "X-Other": "a b"}
    number = journal.append("notes.of.mine", b"\0\xff bytes", headers)
    (entry,) = entries(journal.reader(Start.beginning()))
    assert (entry.number, entry.topic, entry.payload) == (number, "notes.of.mine", b"\0\xff bytes")
    assert dict(entry.headers) == headers
    assert before <= entry.time_ns <= time.time_ns()


def test_empty_payloads_and_no_headers_come_back_as_such(journal: Journal) -> None:
    journal.append("notes", b"")
    journal.append("notes", b"x", {})
    found = entries(journal.reader(Start.beginning()))
    assert [(entry.payload, dict(entry.headers)) for entry in found] == [(b"", {}), (b"x", {})]


def test_an_appended_entry_is_there_for_every_reader_when_append_returns(made: Maker) -> None:
    readers = [made.journal.reader(Start.beginning()), made.another().reader(Start.beginning())]
    for i in range(1, 6):
        made.journal.append("notes", b"%d" % i)
        assert [now_there(reader) for reader in readers] == [[i], [i]]


def test_numbers_go_on_over_the_closing_of_a_journal(made: Maker) -> None:
    fill(made.journal, 3)
    made.cut()
    assert fill(made.journal, 2) == [4, 5]
    assert now_there(made.journal.reader(Start.beginning())) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("topic", ["", ".", "a.", ".a", "a..b", "a b", "*", "a.>", "a\n", "\0", "a\tb"])
def test_what_is_no_topic_is_refused(journal: Journal, topic: str) -> None:
    with pytest.raises(RejectedError):
        journal.append(topic, b"")
    assert journal.end() is None


@pytest.mark.parametrize("headers", [{"a": "b\n"}, {"a\r": "b"}, {"": "b"}, {"ü": "b"}, {"a": "ü"}])
def test_what_is_no_header_is_refused(journal: Journal, headers: dict[str, str]) -> None:
    with pytest.raises(RejectedError):
        journal.append("notes", b"", headers)
    assert journal.end() is None


def test_a_payload_that_is_too_large_is_refused_and_the_journal_goes_on(journal: Journal) -> None:
    with pytest.raises(LimitError):
        journal.append("notes", bytes(8 << 20))
    assert journal.append("notes", b"x") == 1


# ---- where a reader begins -------------------------------------------------------------------------------------------


def test_a_reader_begins_where_it_is_told_to(journal: Journal) -> None:
    fill(journal, 5)
    assert now_there(journal.reader(Start.beginning())) == [1, 2, 3, 4, 5]
    assert now_there(journal.reader(Start.number(3))) == [3, 4, 5]
    assert now_there(journal.reader(Start.number(0))) == [1, 2, 3, 4, 5]
    assert now_there(journal.reader(Start.end())) == []


def test_a_reader_at_the_end_is_given_what_is_appended_after_its_making(journal: Journal) -> None:
    fill(journal, 3)
    reader = journal.reader(Start.end())
    fill(journal, 2)
    assert now_there(reader) == [4, 5]


def test_the_end_of_an_empty_journal_is_before_its_first_entry(journal: Journal) -> None:
    reader = journal.reader(Start.end())
    journal.append("notes", b"")
    assert now_there(reader) == [1]


def test_a_number_that_is_not_there_yet_is_waited_for(journal: Journal) -> None:
    fill(journal, 2)
    reader = journal.reader(Start.number(5))
    assert now_there(reader) == []
    fill(journal, 4)
    assert now_there(reader) == [5, 6]


def test_a_reader_begins_at_a_time(journal: Journal) -> None:
    fill(journal, 6)
    times = [entry.time_ns for entry in entries(journal.reader(Start.beginning()))]
    for i, at_ns in enumerate(times):
        first = times.index(at_ns) + 1  # two entries may have one time
        assert now_there(journal.reader(Start.time(at_ns)))[0] == first, i
    assert now_there(journal.reader(Start.time(times[-1] + 1))) == []
    assert now_there(journal.reader(Start.time(0))) == [1, 2, 3, 4, 5, 6]
    assert now_there(journal.reader(Start.time(FAR_FUTURE_NS))) == []


def test_seek_takes_a_reader_anywhere(journal: Journal) -> None:
    fill(journal, 5)
    reader = journal.reader(Start.end())
    for start, expected in (
        (Start.number(4), [4, 5]),
        (Start.beginning(), [1, 2, 3, 4, 5]),
        (Start.end(), []),
        (Start.number(2), [2, 3, 4, 5]),
    ):
        reader.seek(start)
        assert now_there(reader) == expected


def test_seek_in_the_middle_leaves_nothing_of_the_old_place(journal: Journal) -> None:
    fill(journal, 5)
    reader = journal.reader(Start.beginning())
    first = reader.next()
    assert first is not None and first.number == 1
    reader.seek(Start.number(4))
    assert now_there(reader) == [4, 5]


@pytest.mark.parametrize("kind", MAKERS)
def test_seek_agrees_with_a_plain_list(kind: str, tmp_path: Path) -> None:
    """Over cuts, by number and by time."""
    maker = MAKERS[kind](tmp_path)
    for count in (3, 1, 4, 2):
        fill(maker.journal, count)
        maker.cut()
    plain = entries(maker.journal.reader(Start.beginning()))
    reader = maker.journal.reader(Start.beginning())
    moments = st.one_of(
        st.sampled_from([entry.time_ns for entry in plain]),
        st.integers(plain[0].time_ns - 5, plain[-1].time_ns + 5),
        st.integers(0, FAR_FUTURE_NS),
    )

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(number=st.integers(-2, 13), at_ns=moments)
    def agrees(number: int, at_ns: int) -> None:
        reader.seek(Start.number(number))
        assert entries(reader) == [entry for entry in plain if entry.number >= number]
        reader.seek(Start.time(at_ns))
        first = next((i for i, entry in enumerate(plain) if entry.time_ns >= at_ns), len(plain))
        assert entries(reader) == plain[first:]

    agrees()
    maker.close()


# ---- topics ----------------------------------------------------------------------------------------------------------


def test_topics_are_told_with_how_many_entries_each_has(journal: Journal) -> None:
    for topic in ("a.b", "a.c", "a.b", "d"):
        journal.append(topic, b"")
    assert journal.topics() == {"a.b": 2, "a.c": 1, "d": 1}
    journal.append("d", b"")
    assert journal.topics() == {"a.b": 2, "a.c": 1, "d": 2}


@pytest.mark.parametrize(
    ("patterns", "numbers"),
    [
        (("a.b",), [1, 3]),
        (("a.*",), [1, 2, 3]),
        (("*",), [4]),
        (("a.>",), [1, 2, 3, 5]),
        ((">",), [1, 2, 3, 4, 5]),
        (("d", "a.c"), [2, 4]),
        (("nothing",), []),
    ],
)
def test_a_reader_of_topics_is_given_those_only(
    journal: Journal, patterns: tuple[str, ...], numbers: list[int]
) -> None:
    for topic in ("a.b", "a.c", "a.b", "d", "a.b.c"):
        journal.append(topic, b"")
    assert now_there(journal.reader(Start.beginning(), topics=patterns)) == numbers


# ---- waiting ---------------------------------------------------------------------------------------------------------


def test_next_without_time_to_wait_answers_at_once(journal: Journal) -> None:
    assert journal.reader(Start.beginning()).next() is None
    assert journal.reader(Start.beginning()).next(0.02) is None


def test_next_waits_for_an_entry_that_is_appended_meanwhile(journal: Journal) -> None:
    reader = journal.reader(Start.beginning())
    fill(journal, 1)
    assert now_there(reader) == [1]
    late = threading.Timer(0.05, lambda: journal.append("notes", b"late"))
    late.start()
    entry = reader.next(DEADLINE_S)
    late.join()
    assert entry is not None and entry.payload == b"late"


def test_readers_do_not_take_entries_from_each_other(journal: Journal) -> None:
    fill(journal, 3)
    readers = [journal.reader(Start.beginning()) for _ in range(5)]
    assert [now_there(reader) for reader in readers] == [[1, 2, 3]] * 5


# ---- what is gone ----------------------------------------------------------------------------------------------------


def three_parts(made: Maker) -> None:
    """Entries 1 to 9; 1 to 3, 4 to 6 and 7 to 9 can be lost apart from each other."""
    for part in range(3):
        if part:
            made.cut()
        fill(made.journal, 3)


def test_the_beginning_is_the_oldest_entry_that_there_still_is(made: Maker) -> None:
    three_parts(made)
    made.forget(4)
    assert now_there(made.journal.reader(Start.beginning())) == [4, 5, 6, 7, 8, 9]
    assert now_there(made.journal.reader(Start.number(2))) == [4, 5, 6, 7, 8, 9]
    assert made.journal.end() == 9


def test_a_reader_that_missed_entries_is_told_once_and_goes_on_behind_the_hole(made: Maker) -> None:
    fill(made.journal, 3)
    reader = made.another().reader(Start.beginning())
    assert now_there(reader) == [1, 2, 3]
    made.cut()
    fill(made.journal, 3)
    made.cut()
    fill(made.journal, 3)
    made.forget(7)
    with pytest.raises(LaggedError) as told:
        reader.next()
    assert told.value.missed == 3
    assert now_there(reader) == [7, 8, 9]


def test_topics_of_what_is_gone_are_gone(made: Maker) -> None:
    fill(made.journal, 3, "old")
    made.cut()
    fill(made.journal, 2, "new")
    made.forget(4)
    assert made.journal.topics() == {"new": 2}


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_a_closed_journal_answers_nothing_more(journal: Journal) -> None:
    fill(journal, 1)
    reader = journal.reader(Start.beginning())
    journal.close()
    journal.close()
    calls: list[Callable[[], object]] = [
        journal.check,
        journal.end,
        journal.topics,
        lambda: journal.append("notes", b""),
        lambda: journal.reader(Start.beginning()),
        reader.next,
    ]
    for call in calls:
        with pytest.raises(UnavailableError):
            call()


def test_a_closed_reader_answers_nothing_more_and_the_journal_goes_on(journal: Journal) -> None:
    reader = journal.reader(Start.beginning())
    reader.close()
    reader.close()
    with pytest.raises(UnavailableError):
        reader.next()
    assert fill(journal, 1) == [1]


# ---- segment files only ----------------------------------------------------------------------------------------------


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    maker = Segments(tmp_path)
    yield maker
    maker.close()


def test_a_second_writer_is_refused_and_the_first_goes_on(segments: Segments) -> None:
    fill(segments.journal, 1)
    with pytest.raises(UsageError):
        segments.writer().append("notes", b"")
    assert segments.journal.append("notes", b"") == 2


def test_a_journal_that_was_opened_to_read_refuses_an_append(segments: Segments) -> None:
    with pytest.raises(UsageError):
        segments.another().append("notes", b"")


def test_damage_is_told_once_in_its_place_and_reading_goes_on_behind_it(tmp_path: Path) -> None:
    segments = Segments(tmp_path, sync_interval_ms=3_600_000)  # one checkpoint for the three of a segment
    three_parts(segments)
    segments.journal.close()
    middle = find([segments.root])[1].path
    data = bytearray(middle.read_bytes())
    data[200] ^= 1
    middle.write_bytes(data)
    reader = segments.another().reader(Start.beginning())
    assert [entry.number for entry in (reader.next(), reader.next(), reader.next()) if entry] == [1, 2, 3]
    with pytest.raises(DamageError):
        reader.next()
    with pytest.raises(LaggedError) as lagged:
        reader.next()
    assert lagged.value.missed == 3
    assert now_there(reader) == [7, 8, 9]


def test_durable_entries_are_given_once_a_checkpoint_vouches_for_them(segments: Segments) -> None:
    fill(segments.journal, 3)
    reader = SegmentJournal(segments.root, durable_only=True).reader(Start.beginning())
    found = []
    while len(found) < 3:
        entry = reader.next(DEADLINE_S)
        assert entry is not None
        found.append(entry.number)
    assert found == [1, 2, 3]


def test_a_file_in_place_of_the_folder_is_refused_by_check(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("")
    with pytest.raises(RejectedError):
        SegmentJournal(tmp_path / "notes").check()


def test_captured_records_are_entries_under_kind_and_market(tmp_path: Path) -> None:
    written = journal_writer.Journal(tmp_path / "kalshi")
    written.event("started")
    written.trade(1, "KX-1")
    written.delta(2, "bid", 5000, 100, "../a b>*")
    written.entry("notes.of.mine", b"payload", Name="value")
    data = written.seal().read_bytes()
    found = entries(SegmentJournal(tmp_path / "kalshi").reader(Start.beginning()))
    assert [entry.topic for entry in found] == ["connection._", "trade.KX-1", "book_delta.___a_b__", "notes.of.mine"]
    assert b"".join(entry.payload for entry in found[:3]) == data[: written_bytes(data, 3)]
    assert (found[3].payload, dict(found[3].headers)) == (b"payload", {"Name": "value"})
    assert [entry.time_ns for entry in found] == [journal_writer.NOON + 1000 * i for i in (1, 2, 3, 4)]
    assert SegmentJournal(tmp_path / "kalshi").topics()["trade.KX-1"] == 1


def written_bytes(data: bytes, records: int) -> int:
    """Where the first records of a segment end."""
    at = 0
    for _ in range(records):
        at += 8 + 8 * int.from_bytes(data[at + 4 : at + 8], "little")
    return at
