"""Finding, reading and following segments. The segments are written by tests/journal_writer.py."""

from __future__ import annotations

import os
import re
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from journal_writer import CLOCK, DAY, NOON, Journal

from ssmd.errors import DamageError, StorageError, UsageError
from ssmd.journal import paths
from ssmd.journal.follow import Follower
from ssmd.journal.identity import IDENTITY, identity, known_identity, make_identity
from ssmd.journal.paths import State, find
from ssmd.journal.reader import Damage, Reader, select
from ssmd.journal.times import parse_time, show_time
from ssmd.middleware.interfaces import Start
from ssmd.native.walk import KIND_BITS, Filter


def numbers(reader: Reader) -> list[int]:
    """Numbers of the records that are no checkpoints."""
    return [record.view.number for record in reader if record.kind != "checkpoint"]


# ---- paths -----------------------------------------------------------------------------------------------------


def test_a_segment_is_named_after_its_first_record() -> None:
    path = paths.segment_path(Path("d/kalshi"), NOON, 42)
    assert path == Path(f"d/kalshi/{DAY}/{CLOCK}-000000000042.capnp")


def test_the_schedule_may_put_a_segment_into_another_days_folder() -> None:
    path = paths.segment_path(Path("k"), NOON, 1, paths.OPEN, day=date(2026, 9, 20))
    assert path == Path(f"k/2026-09-20/{CLOCK}-000000000001.capnp.open")


@pytest.mark.parametrize("feed", ["", "../x", "a/b", "Kalshi", "a b", ".", "x" * 65, "a\n"])
def test_only_a_plain_word_becomes_a_feeds_folder(feed: str) -> None:
    with pytest.raises(UsageError):
        paths.feed_root(Path("data"), feed)


@pytest.mark.parametrize(
    ("name", "state", "first"),
    [
        ("20260921T141320Z-000000000042.capnp", State.SEALED, 42),
        ("20260921T141320Z-000000000042.capnp.open", State.OPEN, 42),
        ("20260921T141320Z-000000000042.capnp.zst", State.COMPRESSED, 42),
        ("20260921T141320Z-1234567890123.capnp", State.SEALED, 1234567890123),
        ("copy.capnp", State.SEALED, 0),
    ],
)
def test_a_name_tells_state_and_first_number(name: str, state: State, first: int) -> None:
    segment = paths.segment_of(Path(name))
    assert segment is not None
    assert (segment.state, segment.first_number) == (state, first)


@pytest.mark.parametrize("name", ["x.manifest.json", "x.capnp.cut", "x.capnp.zst.tmp", ".capnp", "x.txt"])
def test_other_files_are_no_segments(name: str) -> None:
    assert paths.segment_of(Path(name)) is None


def test_segments_are_found_in_the_order_of_their_numbers_over_days(tmp_path: Path) -> None:
    for day, first in (("2026-09-22", 9), ("2026-09-21", 1), ("2026-09-21", 5)):
        path = paths.segment_path(tmp_path / "kalshi", NOON, first, day=date.fromisoformat(day))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [s.first_number for s in find([tmp_path])] == [1, 5, 9]


def test_a_segment_in_two_forms_is_read_once(tmp_path: Path) -> None:
    for suffix in (paths.SEALED, paths.COMPRESSED):
        paths.segment_path(tmp_path, NOON, 1, suffix).parent.mkdir(parents=True, exist_ok=True)
        paths.segment_path(tmp_path, NOON, 1, suffix).touch()
    assert [s.state for s in find([tmp_path])] == [State.SEALED]


def test_files_folders_and_globs_name_the_same_segments_once(journal: Journal) -> None:
    journal.trade(1)
    path = journal.seal()
    found = find([path, path.parent, journal.root, f"{journal.root}/*/*.capnp", str(path)])
    assert [s.path for s in found] == [path]


def test_a_renamed_copy_is_ordered_by_its_first_record(journal: Journal, tmp_path: Path) -> None:
    journal.trade(1)
    journal.seal().rename(tmp_path / "z.capnp")
    journal.trade(2)
    journal.seal().rename(tmp_path / "a.capnp")
    assert [s.first_number for s in find([tmp_path])] == [1, 2]


@pytest.mark.parametrize("what", ["missing", "missing/*.capnp", "notes.txt"])
def test_a_path_without_a_segment_is_a_usage_error(tmp_path: Path, what: str) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError):
        find([tmp_path / what])


# ---- times -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1790000000000000000", 1790000000000000000),
        ("2026-09-21T14:13:20Z", 1790000000000000000),
        ("2026-09-21T14:13:20", 1790000000000000000),
        ("2026-09-21 14:13:20.000000001", 1790000000000000001),
        ("2026-09-21T16:13:20.5+02:00", 1790000000500000000),
        ("2026-09-21T14:13", 1789999980000000000),
        ("2026-09-21", 1789948800000000000),
    ],
)
def test_a_time_is_utc_nanoseconds(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-09-21T25:00", "14:00", "2026-09-21T", "123"])
def test_what_is_no_time_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_time(text)


def test_a_time_is_shown_with_the_digits_it_has() -> None:
    assert show_time(NOON) == "2026-09-21T14:13:20Z"
    assert show_time(NOON + 1000) == "2026-09-21T14:13:20.000001Z"


# ---- reading ---------------------------------------------------------------------------------------------------


def test_records_come_over_all_segments_in_order(journal: Journal) -> None:
    journal.trade(1)
    journal.trade(2)
    journal.seal()
    journal.trade(3)
    journal.checkpoint()
    journal.trade(4)
    journal.write(paths.OPEN)
    reader = Reader(find([journal.root]))
    assert numbers(reader) == [1, 2, 3, 4]
    assert reader.damage == []


def test_a_compressed_segment_reads_as_the_plain_one(journal: Journal) -> None:
    for seq in range(1, 300):
        journal.trade(seq)
    plain = journal.seal()
    data = plain.read_bytes()
    plain.with_name(plain.name + ".zst").write_bytes(zstandard.compress(data))
    plain.unlink()
    reader = Reader(find([journal.root]))
    assert b"".join(record.raw for record in reader) == data
    assert reader.damage == []


def test_a_record_gives_its_frame_market_and_fields(journal: Journal) -> None:
    journal.trade(7, "KX-1")
    journal.seal()
    (trade, checkpoint) = Reader(find([journal.root]))
    assert trade.kind == "trade"
    assert trade.market == "KX-1"
    assert trade.frame is not None and trade.frame.startswith(b'{"type":"trade","sid":1,"seq":7')
    assert trade.json()["price_e4"] == 4700
    assert trade.read().body.trade.tradeId == "t7"
    assert (checkpoint.kind, checkpoint.market, checkpoint.frame) == ("checkpoint", None, None)


def test_the_raw_bytes_of_all_records_are_the_file(journal: Journal) -> None:
    journal.trade(1)
    journal.checkpoint()
    journal.snapshot(1, [(4000, 100)], [])
    data = journal.seal().read_bytes()
    assert b"".join(record.raw for record in Reader(find([journal.root]))) == data


def test_damage_in_one_segment_does_not_hide_the_next(journal: Journal) -> None:
    journal.trade(1)
    bad = journal.seal()
    data = bytearray(bad.read_bytes())
    data[100] ^= 1
    bad.write_bytes(data)
    journal.trade(2)
    journal.seal()
    reader = Reader(find([journal.root]))
    assert numbers(reader) == [2]
    assert [(d.segment, d.offset) for d in reader.damage] == [(bad, 0)]


def test_a_compressed_file_that_does_not_decompress_is_damage(journal: Journal) -> None:
    for seq in range(1, 50):
        journal.trade(seq)
    plain = journal.seal()
    packed = bytearray(zstandard.compress(plain.read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    plain.with_name(plain.name + ".zst").write_bytes(packed)
    plain.unlink()
    reader = Reader(find([journal.root]))
    assert numbers(reader) == []
    assert len(reader.damage) == 1


def test_an_empty_open_segment_is_no_damage(journal: Journal) -> None:
    journal.write(".capnp.open")
    reader = Reader(find([journal.root]))
    assert numbers(reader) == [] and reader.damage == []


def test_an_empty_sealed_segment_is_damage(journal: Journal) -> None:
    journal.write(".capnp")
    reader = Reader(find([journal.root]))
    assert numbers(reader) == [] and len(reader.damage) == 1


def test_a_batch_larger_than_a_chunk_is_proved_as_a_whole(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmd.journal.reader.CHUNK_BYTES", 64)
    for seq in range(1, 20):
        journal.trade(seq)
    journal.seal()
    reader = Reader(find([journal.root]))
    assert numbers(reader) == list(range(1, 20)) and reader.damage == []


def test_a_segment_sealed_between_listing_and_opening_is_read_under_its_new_name(journal: Journal) -> None:
    journal.trade(1)
    journal.checkpoint(final=True)
    path = journal.write(paths.OPEN)
    segments = find([journal.root])
    path.rename(path.with_name(path.name.removesuffix(".open")))
    assert numbers(Reader(segments)) == [1]


def test_segments_that_are_over_before_the_time_are_not_opened(tmp_path: Path) -> None:
    hour = 3_600_000_000_000
    for i in range(3):
        path = paths.segment_path(tmp_path, NOON + i * hour, 1 + i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    segments = find([tmp_path])
    assert [s.first_number for s in select(segments, NOON + hour * 3 // 2, NOON + 9 * hour)] == [2, 3]
    assert [s.first_number for s in select(segments, 0, NOON + hour // 2)] == [1]


# ---- following -------------------------------------------------------------------------------------------------


class Tail:
    """A follower and what it gave."""

    def __init__(self, root: Path, wanted: Filter | None = None, start: Start | None = None) -> None:
        self.follower = Follower([root], wanted, start=start)

    def new(self) -> list[int]:
        return [record.view.number for record in self.follower.step() if record.kind != "checkpoint"]

    @property
    def damage(self) -> list[Damage]:
        return self.follower.damage


def test_a_journal_that_does_not_exist_yet_is_followed_from_its_first_record(journal: Journal) -> None:
    tail = Tail(journal.root)
    assert tail.new() == []
    journal.trade(1)
    journal.write(paths.OPEN)
    assert tail.new() == [1]


def test_records_are_given_before_any_checkpoint_and_once(journal: Journal) -> None:
    tail = Tail(journal.root)
    given = []
    for seq in range(1, 6):
        journal.trade(seq)
        if seq % 2:
            journal.checkpoint()
        journal.write(paths.OPEN)
        given += tail.new()
        assert given == list(range(1, seq + 1))
    assert tail.damage == []


def test_a_record_that_is_only_partly_written_comes_when_it_is_whole(journal: Journal) -> None:
    journal.trade(1)
    journal.trade(2)
    path = journal.write(paths.OPEN)
    whole = journal.data
    tail = Tail(journal.root)
    given = []
    for size in range(0, len(whole) + 1, 8):
        path.write_bytes(whole[:size])
        given += tail.new()
    assert given == [1, 2]
    assert tail.damage == []


def seal(path: Path) -> None:
    path.rename(path.with_name(path.name.removesuffix(".open")))


def test_rotation_loses_and_repeats_nothing(journal: Journal) -> None:
    tail = Tail(journal.root)
    given = []
    for seq in range(1, 40):
        journal.trade(seq)
        path = journal.write(paths.OPEN)
        if seq % 3 == 0:
            given += tail.new()
        if seq % 5 == 0:
            journal.checkpoint(final=True)
            seal(journal.write(paths.OPEN))
            journal.begin()
        if seq % 7 == 0:
            given += tail.new()
    given += tail.new()
    assert path.parent.exists()
    assert given == list(range(1, 40))
    assert tail.damage == []


def test_several_rotations_between_two_looks_are_all_read(journal: Journal) -> None:
    journal.trade(1)
    journal.write(paths.OPEN)
    tail = Tail(journal.root)
    assert tail.new() == [1]
    journal.checkpoint(final=True)
    seal(journal.write(paths.OPEN))
    journal.begin()
    for seq in (2, 3, 4):
        journal.trade(seq)
        journal.seal()
    journal.trade(5)
    journal.write(paths.OPEN)
    assert tail.new() == [2, 3, 4, 5]


def test_a_segment_in_the_next_days_folder_is_followed(journal: Journal) -> None:
    journal.trade(1)
    journal.seal()
    tail = Tail(journal.root)
    assert tail.new() == [1]
    journal.trade(2)
    path = journal.write(paths.OPEN)
    (journal.root / "2026-09-22").mkdir()
    path.rename(journal.root / "2026-09-22" / path.name)
    assert tail.new() == [2]


def test_a_segment_that_is_compressed_while_it_is_read_is_read_on(journal: Journal) -> None:
    journal.trade(1)
    path = journal.write(paths.OPEN)
    tail = Tail(journal.root)
    assert tail.new() == [1]
    journal.trade(2)
    journal.checkpoint(final=True)
    # the flusher writes into the file that the follower holds, seals it, the archiver compresses and removes it
    path.write_bytes(journal.data)
    path.with_name(journal.stem + ".capnp.zst").write_bytes(zstandard.compress(journal.data))
    path.unlink()
    journal.begin()
    journal.trade(3)
    journal.write(paths.OPEN)
    assert tail.new() == [2, 3]
    assert tail.damage == []


def test_a_flusher_that_cuts_and_writes_the_same_bytes_again_is_not_noticed(journal: Journal) -> None:
    for seq in (1, 2, 3):
        journal.trade(seq)
    path = journal.write(paths.OPEN)
    tail = Tail(journal.root)
    assert tail.new() == [1, 2, 3]
    os.truncate(path, journal.ends[0])
    assert tail.new() == []
    journal.trade(4)
    with path.open("r+b") as file:
        file.write(journal.data)
    assert tail.new() == [4]
    assert tail.damage == []


def test_a_file_that_was_deleted_under_its_writer_is_read_for_as_long_as_it_grows(journal: Journal) -> None:
    """The writer notices later, and goes on in another folder: what it wrote until then is not missed."""
    journal.trade(1)
    path = journal.write(paths.OPEN)
    tail = Tail(journal.root)
    assert tail.new() == [1]
    with path.open("ab") as file:
        path.unlink()
        assert tail.new() == []
        mark = journal.mark()
        journal.trade(2)
        file.write(journal.data[mark.end :])
    assert tail.new() == [2]
    journal.begin()
    journal.trade(3)
    journal.write(paths.OPEN)
    assert tail.new() == [3]


def test_a_cut_for_good_is_told_and_what_follows_it_is_given(journal: Journal) -> None:
    journal.trade(1)
    journal.checkpoint()
    mark = journal.mark()
    journal.trade(2)
    journal.trade(3)
    path = journal.write(paths.OPEN)
    tail = Tail(journal.root)
    assert tail.new() == [1, 2, 3]
    # recovery: cut to the last checkpoint, final checkpoint, sealed; the next run uses the numbers again
    journal.back_to(mark)
    journal.checkpoint(final=True)
    with path.open("r+b") as file:
        file.truncate(mark.end)
        file.seek(mark.end)
        file.write(journal.data[mark.end :])
    seal(path)
    journal.begin()
    journal.trade(4)
    journal.write(paths.OPEN)
    assert tail.new() == [2]
    assert [(d.segment, d.offset) for d in tail.damage] == [(path, mark.end)]


def test_damage_is_told_and_the_next_segment_is_followed(journal: Journal) -> None:
    journal.trade(1)
    journal.checkpoint()
    good = len(journal.data)
    journal.trade(2)
    journal.checkpoint()
    path = journal.write(paths.OPEN)
    data = bytearray(journal.data)
    data[-150] ^= 1
    path.write_bytes(data)
    tail = Tail(journal.root)
    assert tail.new() == [1]
    journal.begin()
    journal.trade(3)
    journal.write(paths.OPEN)
    assert tail.new() == [3]
    assert [d.offset for d in tail.damage] == [good]


def test_two_journals_under_one_folder_are_both_followed(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    for feed in ("a", "b"):
        j = Journal(tmp_path / feed)
        j.trade(1, feed)
        j.write(paths.OPEN)
    assert tail.new() == [1, 1]


def test_a_follower_gives_what_its_filter_keeps(journal: Journal) -> None:
    tail = Tail(journal.root, Filter(kinds=KIND_BITS["ticker"]))
    journal.trade(1)
    journal.ticker()
    journal.write(paths.OPEN)
    assert tail.new() == [2]


# ---- where a follower begins -------------------------------------------------------------------------------------


def three_segments(journal: Journal) -> None:
    """Records 1 to 9: two sealed segments of three (a checkpoint after the first), and an open one."""
    for seq in range(1, 10):
        journal.trade(seq)
        if seq % 3 == 1:
            journal.checkpoint()
        if seq in (3, 6):
            journal.seal()
    journal.write(paths.OPEN)


@pytest.mark.parametrize("first", range(1, 10))
def test_a_follower_begins_at_a_number(journal: Journal, first: int) -> None:
    three_segments(journal)
    assert Tail(journal.root, start=Start.number(first)).new() == list(range(first, 10))


def test_segments_before_the_start_are_not_opened(journal: Journal) -> None:
    three_segments(journal)
    for path in journal.folder.glob("*.capnp"):
        path.write_bytes(b"not looked at")
    tail = Tail(journal.root, start=Start.number(8))
    assert tail.new() == [8, 9] and tail.damage == []


def test_a_number_that_is_not_there_yet_is_waited_for(journal: Journal) -> None:
    three_segments(journal)
    tail = Tail(journal.root, start=Start.number(11))
    assert tail.new() == []
    for seq in (10, 11, 12):
        journal.trade(seq)
    journal.write(paths.OPEN)
    assert tail.new() == [11, 12]


@pytest.mark.parametrize("first", range(1, 10))
def test_a_follower_begins_at_a_time(journal: Journal, first: int) -> None:
    three_segments(journal)
    start = Start.time(NOON + 1000 * first)  # the writer's records are a microsecond apart
    assert Tail(journal.root, start=start).new() == list(range(first, 10))


def test_a_start_by_time_gives_all_that_follows_although_the_clock_stepped_back(journal: Journal) -> None:
    for seq, now in ((1, 5), (2, 9), (3, 7), (4, 20)):
        journal.now = NOON + now
        journal.add("trade", {"market": "M"}, recvNs=journal.now, connection=1, seq=seq)
    journal.seal()
    assert Tail(journal.root, start=Start.time(NOON + 8)).new() == [2, 3, 4]


def test_a_follower_begins_at_the_end_as_it_was_when_it_was_made(journal: Journal) -> None:
    three_segments(journal)
    tail = Tail(journal.root, start=Start.end())
    journal.trade(10)
    journal.write(paths.OPEN)
    assert tail.new() == [10]


def test_the_end_of_a_journal_that_does_not_exist_is_its_beginning(journal: Journal) -> None:
    tail = Tail(journal.root, start=Start.end())
    journal.trade(1)
    journal.write(paths.OPEN)
    assert tail.new() == [1]


# ---- proved batches ----------------------------------------------------------------------------------------------


def groups(follower: Follower) -> list[tuple[int, int, bytes]]:
    """First and last number and the bytes of every batch that can be read now."""
    return [
        (batch.first_number, batch.last_number, batch.data[batch.start : batch.stop]) for _, batch in follower.batches()
    ]


def test_proved_batches_are_what_stands_between_two_checkpoints(journal: Journal) -> None:
    ends = [0]
    for seq in range(1, 8):
        journal.trade(seq)
        if seq in (1, 4, 5):
            journal.checkpoint()
            ends.append(len(journal.data))
    journal.write(paths.OPEN)
    found = groups(Follower([journal.root], proved_only=True))
    assert [batch[:2] for batch in found] == [(1, 1), (2, 4), (5, 5)]
    assert [batch[2] for batch in found] == [journal.data[a:b] for a, b in pairwise(ends)]


@pytest.mark.parametrize("chunk_bytes", [64, 1000, 1 << 20])
def test_proved_batches_do_not_depend_on_when_they_are_read(
    journal: Journal, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmd.journal.reader.CHUNK_BYTES", chunk_bytes)
    live = Follower([journal.root], proved_only=True)
    given = []
    for seq in range(1, 30):
        journal.trade(seq)
        if seq % 7 == 0:
            journal.checkpoint()
        journal.write(paths.OPEN)
        if seq % 3 == 0:
            given += groups(live)
        if seq % 10 == 0:
            journal.checkpoint(final=True)
            seal(journal.write(paths.OPEN))
            journal.begin()
    given += groups(live)
    assert given == groups(Follower([journal.root], proved_only=True))
    assert [last for _, last, _ in given] == [7, 10, 14, 20, 21, 28]


def test_what_a_cut_withdraws_was_not_given_as_proved(journal: Journal) -> None:
    journal.trade(1)
    journal.checkpoint()
    mark = journal.mark()
    journal.trade(2)
    path = journal.write(paths.OPEN)
    follower = Follower([journal.root], proved_only=True)
    assert [batch[:2] for batch in groups(follower)] == [(1, 1)]
    journal.back_to(mark)
    journal.checkpoint(final=True)
    path.write_bytes(journal.data)
    seal(path)
    journal.begin()
    journal.trade(2)
    journal.seal()
    assert [batch[:2] for batch in groups(follower)] == [(1, 1), (2, 2)]  # the final checkpoint, by itself
    assert follower.damage == []


def test_a_proved_batch_waits_for_the_disk(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.trade(1)
    journal.checkpoint()
    journal.trade(2)
    journal.checkpoint()
    journal.write(paths.OPEN)
    follower = Follower([journal.root], proved_only=True)

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(StorageError):
            groups(follower)
    assert [batch[:2] for batch in groups(follower)] == [(1, 1), (2, 2)]


def test_a_proved_start_gives_the_whole_batch_that_holds_the_number(journal: Journal) -> None:
    for seq in range(1, 10):
        journal.trade(seq)
        if seq % 3 == 0:
            journal.checkpoint()
    journal.write(paths.OPEN)
    follower = Follower([journal.root], proved_only=True, start=Start.number(5))
    assert [batch[:2] for batch in groups(follower)] == [(4, 6), (7, 9)]
    records = Follower([journal.root], proved_only=True, start=Start.number(5)).step()
    assert [r.view.number for r in records if r.kind != "checkpoint"] == [5, 6, 7, 8, 9]


def test_a_step_ends_at_its_bound_and_the_next_goes_on(journal: Journal) -> None:
    for seq in range(1, 7):
        journal.trade(seq)
        journal.checkpoint()
        if seq == 3:
            journal.seal()
    journal.write(paths.OPEN)
    follower = Follower([journal.root], proved_only=True, limit_bytes=1)
    found = [[batch[:2] for batch in groups(follower)] for _ in range(8)]
    assert found == [[(1, 1)], [(2, 2)], [(3, 3)], [(3, 3)], [(4, 4)], [(5, 5)], [(6, 6)], []]


def test_who_leaves_a_step_early_is_given_the_next_batch_later(journal: Journal) -> None:
    three_segments(journal)
    follower = Follower([journal.root])
    firsts = [next(iter(follower.batches()))[1].first_number for _ in range(3)]
    assert firsts == [1, 4, 7]


# ---- identity ------------------------------------------------------------------------------------------------------


def test_an_identity_is_made_once_and_stays(tmp_path: Path) -> None:
    root = tmp_path / "kalshi"
    root.mkdir()
    made = make_identity(root)
    assert re.fullmatch(r"kalshi-[0-9a-f]{12}", made)
    assert make_identity(root) == identity(root) == made
    assert [path.name for path in root.iterdir()] == [IDENTITY]


def test_two_journals_of_one_feed_have_two_identities(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "kalshi").mkdir(parents=True)
    assert make_identity(tmp_path / "a" / "kalshi") != make_identity(tmp_path / "b" / "kalshi")


def test_who_comes_second_is_given_the_identity_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / IDENTITY).write_text("kalshi-0123456789ab\n")
    known = [None, "kalshi-0123456789ab"]  # the other one made it between our look and our link
    monkeypatch.setattr("ssmd.journal.identity.known_identity", lambda root: known.pop(0))
    assert make_identity(tmp_path) == "kalshi-0123456789ab"
    assert (tmp_path / IDENTITY).read_text() == "kalshi-0123456789ab\n"


def test_a_journal_without_an_identity_is_told_from_one_with_a_bad_one(tmp_path: Path) -> None:
    assert known_identity(tmp_path) is None and known_identity(tmp_path / "nothing") is None
    with pytest.raises(UsageError):
        identity(tmp_path)
    (tmp_path / IDENTITY).write_text("\n")
    with pytest.raises(DamageError):
        identity(tmp_path)


@pytest.mark.parametrize("proved_only", [True, False])
@pytest.mark.parametrize("cut", [8, 60, 104, 130])
def test_a_checkpoint_that_was_half_written_and_then_written_anew_is_no_damage(
    journal: Journal, proved_only: bool, cut: int
) -> None:
    """A full disk: the flusher's write ends in the middle, and what it writes there later is something else."""
    journal.trade(1)
    journal.checkpoint()
    journal.trade(2)
    path = journal.write(paths.OPEN)
    mark = journal.mark()
    journal.checkpoint()
    half = journal.data[: mark.end + cut]
    path.write_bytes(half)
    follower = Follower([journal.root], proved_only=proved_only)
    given = [record.view.number for record in follower.step() if record.kind != "checkpoint"]
    journal.back_to(mark)
    journal.trade(3)
    journal.checkpoint()
    journal.trade(4)
    path.write_bytes(journal.data)
    given += [record.view.number for record in follower.step() if record.kind != "checkpoint"]
    assert given == ([1, 2, 3] if proved_only else [1, 2, 3, 4])
    assert follower.damage == []
