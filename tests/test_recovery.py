"""Recovery by file: what a crash leaves, cut at every byte, and a second crash at every step of mending it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
from journal_writer import NOON, Journal, record

from ssmd.errors import StorageError
from ssmd.journal.paths import CUT, OPEN, find
from ssmd.journal.reader import Reader
from ssmd.journal.recover import Recovery, final_checkpoint, recover
from ssmd.native.walk import Mark


class Crash(Exception):
    """The machine stops here."""


def crashed(tmp_path: Path) -> tuple[Journal, Path]:
    """A sealed segment of two records, and an open one: two proved records (one opens connection 3) and two more."""
    j = Journal(tmp_path / "kalshi")
    j.event("started")
    j.trade(1)
    j.seal()
    j.event("opened", 3)
    j.trade(2, connection=3)
    j.checkpoint()
    j.trade(3, connection=3)
    j.trade(4, connection=3)
    return j, j.write(OPEN)


def read(root: Path) -> list[int]:
    reader = Reader(find([root]))
    found = [r.view.number for r in reader if r.kind != "checkpoint"]
    assert reader.damage == []
    return found


def test_a_journal_that_does_not_exist_begins_clean_at_zero(tmp_path: Path) -> None:
    assert recover(tmp_path / "kalshi") == Recovery(0, 0, 0, True, ())


def test_what_no_checkpoint_proves_is_cut_and_kept_beside(tmp_path: Path) -> None:
    j, path = crashed(tmp_path)
    good = j.ends[2]
    found = recover(j.root)
    sealed = path.with_suffix("")
    assert (found.last_number, found.last_recv_ns, found.max_connection) == (4, NOON + 4000, 3)
    assert not found.clean
    (cut,) = found.cut
    assert (cut.segment, cut.offset, cut.bytes) == (sealed, good, len(j.data) - good)
    assert cut.kept is not None and cut.kept.read_bytes() == j.data[good:]
    assert read(j.root) == [1, 2, 3, 4]
    assert not path.exists()


def test_a_second_run_changes_nothing_and_reports_no_cut(tmp_path: Path) -> None:
    j, _ = crashed(tmp_path)
    recover(j.root)
    before = {p.name: p.read_bytes() for p in j.folder.iterdir()}
    again = recover(j.root)
    assert {p.name: p.read_bytes() for p in j.folder.iterdir()} == before
    assert (again.last_number, again.max_connection, again.cut) == (4, 3, ())


def test_a_stopped_journal_is_clean(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.event("opened", 1)
    j.event("stopped")
    j.seal()
    assert recover(j.root) == Recovery(2, NOON + 2000, 1, True, ())


def test_a_journal_that_was_not_stopped_is_not_clean(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1, connection=5)
    j.seal()
    assert recover(j.root) == Recovery(1, NOON + 1000, 5, False, ())


def test_an_open_segment_that_ends_in_a_checkpoint_is_sealed_without_a_cut(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1)
    j.event("stopped")
    j.checkpoint()
    j.write(OPEN)
    assert recover(j.root) == Recovery(2, NOON + 2000, 1, True, ())
    assert [p.suffix for p in j.folder.iterdir()] == [".capnp"]
    assert read(j.root) == [1, 2]


def test_blocks_that_the_flusher_had_set_aside_go_back(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1)
    j.checkpoint()
    path = j.write(OPEN)
    keep_size, aside = 1, 1 << 20  # FALLOC_FL_KEEP_SIZE
    with path.open("r+b") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        size, n = ctypes.c_int64(0), ctypes.c_int64(aside)
        assert libc.fallocate(file.fileno(), keep_size, size, n) == 0, os.strerror(ctypes.get_errno())
    assert path.stat().st_blocks * 512 >= aside
    recover(j.root)
    assert path.with_suffix("").stat().st_blocks * 512 < aside


def test_a_sealed_but_not_renamed_segment_is_renamed(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1)
    j.checkpoint(final=True)
    path = j.write(OPEN)
    recover(j.root)
    assert path.with_suffix("").read_bytes() == j.data


def test_a_segment_without_any_checkpoint_leaves_the_journal_as_a_whole(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1)
    j.seal()
    j.trade(2)
    path = j.write(OPEN)
    found = recover(j.root)
    assert found.last_number == 1
    assert found.cut[0].offset == 0 and found.cut[0].bytes == len(j.data)
    kept = found.cut[0].kept
    assert kept is not None and kept.read_bytes() == j.data
    assert not path.exists() and read(j.root) == [1]


def test_an_empty_open_segment_is_removed(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.write(OPEN)
    assert recover(j.root) == Recovery()
    assert list(j.folder.iterdir()) == []


@pytest.mark.parametrize("change", ["cut", "flip"])
def test_a_file_cut_or_flipped_at_any_byte_of_its_last_batch_goes_on_after_the_batch_before(
    tmp_path: Path, change: str
) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1)
    j.checkpoint()
    good = len(j.data)
    j.trade(2)
    j.checkpoint()
    path = j.write(OPEN)
    for at in range(good, len(j.data)):
        damaged = bytearray(j.data)
        if change == "cut":
            del damaged[at:]
        else:
            damaged[at] ^= 0xA5
        path.write_bytes(damaged)
        found = recover(j.root)
        assert found.last_number == 1, at
        # Four zero bytes begin every record, the final checkpoint too: they say nothing and are not kept.
        nothing = change == "cut" and at <= good + 4
        assert [c.offset for c in found.cut] == ([] if nothing else [good]), at
        assert read(j.root) == [1], at
        for left in j.folder.iterdir():
            left.unlink()


STEPS = ["keep", "truncate", "append", "rename"]


@pytest.mark.parametrize("stop", STEPS)
def test_a_crash_before_any_step_of_recovery_is_finished_by_the_next(tmp_path: Path, stop: str) -> None:
    j, path = crashed(tmp_path)
    tail = j.data[j.ends[2] :]

    def step(name: str) -> None:
        if name == stop:
            raise Crash

    with pytest.raises(Crash):
        recover(j.root, step=step)
    found = recover(j.root)
    assert (found.last_number, found.max_connection) == (4, 3)
    assert read(j.root) == [1, 2, 3, 4]
    kept = sorted(j.folder.glob(f"*{CUT}*"))
    assert [p.read_bytes() for p in kept] == [tail]
    assert not path.exists()


def test_a_final_checkpoint_that_was_only_partly_written_is_no_cut(tmp_path: Path) -> None:
    j, path = crashed(tmp_path)
    good = j.ends[2]
    mark = Mark(good, 2, 4, NOON + 4000, 3, False)
    final = final_checkpoint(mark)
    for size in range(1, len(final)):
        path.write_bytes(j.data[:good] + final[:size])
        assert recover(j.root).cut == (), size
        assert read(j.root) == [1, 2, 3, 4]
        path.with_suffix("").unlink()


def test_the_final_checkpoint_is_what_pycapnp_makes() -> None:
    mark = Mark(offset=1000, records=7, last_number=42, last_recv_ns=NOON, max_connection=5)
    data = final_checkpoint(mark)
    crc = int.from_bytes(data[96:100], "little")
    body = {"crc32c": crc, "maxConnection": 5, "bytes": len(data), "offset": 1000, "records": 7, "final": True}
    assert data == record("checkpoint", body, number=42, recvNs=NOON)


def test_a_damaged_sealed_segment_is_left_alone_and_no_number_comes_twice(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    for seq in range(1, 9):
        j.trade(seq)
        j.checkpoint()
    path = j.seal()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = recover(j.root)
    assert path.read_bytes() == data
    assert found.last_number >= 8
    assert not found.clean
    assert found.cut[0].kept is None


def test_damage_that_later_checkpoints_outlive_stays_in_place_and_no_number_comes_twice(tmp_path: Path) -> None:
    """Whichever byte of the second of four batches is wrong; the open tail is cut as ever."""
    j = Journal(tmp_path / "kalshi")
    ends = []
    for seq in range(1, 5):
        j.trade(seq)
        j.checkpoint()
        ends.append(len(j.data))
    j.trade(5)
    for at in range(ends[0], ends[1], 7):
        path = j.write(OPEN)
        damaged = bytearray(j.data)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        found = recover(j.root)
        sealed = path.with_suffix("")
        assert sealed.read_bytes()[: ends[3]] == damaged[: ends[3]], at
        assert found.last_number == 4 and not found.clean, at
        tail, inside = found.cut
        assert (tail.segment, tail.offset, tail.bytes) == (sealed, ends[3], len(j.data) - ends[3]), at
        assert tail.kept is not None and tail.kept.read_bytes() == j.data[ends[3] :], at
        assert (inside.segment, inside.offset, inside.kept) == (sealed, ends[0], None), at
        assert inside.bytes == ends[1] - ends[0], at
        assert [r.view.number for r in Reader(find([j.root])) if r.kind != "checkpoint"] == [1, 3, 4], at
        again = recover(j.root)
        assert (again.last_number, again.cut) == (4, (inside,)), at
        for left in list(j.folder.iterdir()):
            left.unlink()


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    j, _ = crashed(tmp_path)

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssmd.journal.recover.replace_file", refuse)
    with pytest.raises(StorageError, match="No space left"):
        recover(j.root)
