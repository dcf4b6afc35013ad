"""Files and rings that are not what they were: every byte of a last batch cut or flipped, and a restart on that.

First the readers, in this process and byte by byte, over files that the real flusher wrote: they stop at the last good
record, say where and what, and never fail in another way. Then the recorder, as a whole, over one killed run whose
files or ring were changed: it goes on, or refuses in words, and what is missing is told.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pytest
from crash import (
    BOOT_ID_AT,
    CHECKPOINT,
    COMMIT_BYTES,
    COMMITS_AT,
    CRC_AT,
    HEAD_AT,
    HEADER_BYTES,
    KIND_AT,
    NUMBER_AT,
    RECV_NS_AT,
    VERSION_AT,
    assert_frames_are_a_prefix,
    assert_outages_are_told,
    assert_stored,
    framed,
    held_in_ring,
    ring_path,
    stored_records,
)
from journal_writer import crc32c, record
from recording import (
    Line,
    Recorder,
    assert_numbers_have_no_hole,
    environment_file,
    gaps,
    read_lines,
    segment_files,
    verify,
    wait_until,
)

from ssmd.cli import cat
from ssmd.cli import verify as verify_command
from ssmd.journal import reader
from ssmd.native.flusher import Flusher, FlusherOptions
from ssmd.native.ring import Ring, Role
from ssmd.native.wire import Writer
from ssmd.simulator.process import SimulatorProcess

# ---- the readers, byte by byte --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A segment of two batches, as the real flusher wrote it; `ends` are the offsets where records end."""

    name: str
    data: bytes
    ends: list[int]
    last_batch: int  # where it begins: after the first checkpoint

    @property
    def sealed(self) -> bool:
        return not self.name.endswith(".open")

    @property
    def checkpointed(self) -> bool:
        """Does a checkpoint vouch for the last batch?"""
        return self.data[self.ends[-2] + KIND_AT] == CHECKPOINT[0]


def written_by_the_flusher(folder: Path, form: str) -> Sample:
    """`sealed`; `checkpointed`: open, all of it proved; `bare`: open, its last batch not proved yet."""
    ring_file, root = folder / "ring", folder / "journal"
    options = FlusherOptions(root=root, rotate_minutes=0, sync_interval_ms=3_600_000)
    Ring.create(ring_file, 64 * 1024)
    with Ring.open(ring_file, role=Role.PRODUCER) as ring, Writer(ring, 0) as writer:
        flusher = Flusher.open(ring_file, options)
        push(writer, 5)
        flusher.drain()
        flusher.finish(seal=False)
        push(writer, 3)
        flusher.drain()
        if form != "bare":
            flusher.finish(seal=form == "sealed")
        flusher.abandon()
    (path,) = root.rglob("*.capnp*")
    data = path.read_bytes()
    ends = list(accumulate(map(len, framed(data))))
    return Sample(path.name, data, ends, last_batch=ends[5])


def push(writer: Writer, count: int) -> None:
    """Some trades and a gap."""
    now = time.time_ns()
    trade = {"market": "M-1", "tradeId": "t", "priceE4": 4700, "countE2": 300}
    for i in range(1, count):
        frame = b'{"type":"trade","sid":1,"seq":%d}\n' % i
        assert writer.push(record("trade", trade, frame=frame, recvNs=now + i, connection=1, sid=1))
    assert writer.push(record("gap", {"cause": "refused", "detail": "a gap"}, recvNs=now + count, connection=1))


@pytest.fixture(scope="module", params=["sealed", "checkpointed", "bare"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return written_by_the_flusher(tmp_path_factory.mktemp("sample"), request.param)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers look at an unfinished end twice, in case the flusher is just writing there: here nobody is."""
    monkeypatch.setattr(reader, "_HALF_WRITTEN_S", 0.0)


@dataclass(frozen=True)
class Verdict:
    """What both readers made of a file."""

    code: int
    damage: list[dict[str, object]]
    printed: bytes
    told: str


def readers(path: Path) -> Verdict:
    """`ssmd verify --json` and `ssmd cat --format capnp`, called here: a process each would take hours."""
    report, errors = io.StringIO(), io.StringIO()
    printed = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(report):
        code = verify_command.main([str(path), "--json"])
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        cat_code = cat.main([str(path), "--format", "capnp"])
    damage = json.loads(report.getvalue())["damage"]
    assert cat_code == (1 if errors.getvalue() else 0)
    printed.seek(0)
    return Verdict(code, damage, printed.buffer.read(), errors.getvalue())


def assert_told(verdict: Verdict, path: Path, first: int, last: int) -> None:
    """One damage, in this file, between these offsets, with a reason; both readers say the same.

    But for a checkpoint that now looks like a record of a later kind: that shows in its number only, to verify.
    """
    assert verdict.code == 1
    (damage,) = verdict.damage
    assert damage["segment"] == str(path)
    assert first <= int(str(damage["offset"])) <= last
    assert damage["what"]
    if verdict.told or not path.name.endswith(".open"):
        assert f"offset {damage['offset']}: {damage['what']}" in verdict.told
    else:
        assert "stands where" in str(damage["what"])


def test_a_file_cut_at_any_byte_of_its_last_batch_is_read_to_the_last_good_record(
    sample: Sample, tmp_path: Path
) -> None:
    """Of a sealed file a batch counts as a whole, by its checkpoint; of an open one every whole record does."""
    path = tmp_path / sample.name
    for cut in range(sample.last_batch, len(sample.data)):
        path.write_bytes(sample.data[:cut])
        verdict = readers(path)
        whole = max(end for end in sample.ends if end <= cut)
        if sample.sealed:
            assert_told(verdict, path, sample.last_batch, cut)
            assert verdict.printed == sample.data[: sample.last_batch], cut
        else:
            assert verdict.printed == sample.data[:whole], cut
            if cut != whole:
                assert_told(verdict, path, whole, whole)
            else:
                assert verdict.damage == []


def test_a_file_with_any_byte_of_its_last_batch_flipped_is_not_believed(sample: Sample, tmp_path: Path) -> None:
    """Where a checkpoint vouches for the batch no flip goes unseen; where none does yet no record before it is harmed.

    A flip in a length can hide the checkpoint of an open file: its records are then what an open file's tail is, whole
    and valid, and the damage is told behind them.
    """
    chance = random.Random(3)
    path = tmp_path / sample.name
    for at in range(sample.last_batch, len(sample.data)):
        data = bytearray(sample.data)
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        verdict = readers(path)
        assert verdict.code == 1
        before = max(end for end in sample.ends if end <= at)
        if sample.checkpointed:
            assert_told(verdict, path, sample.last_batch, len(data))
        if sample.sealed:
            assert verdict.printed == sample.data[: sample.last_batch], at
        elif len(verdict.printed) > sample.last_batch:
            assert verdict.printed[:before] == sample.data[:before], at
            assert len(list(framed(verdict.printed[before:]))) <= 1 or not sample.checkpointed
        else:
            assert verdict.printed == sample.data[: sample.last_batch], at


# ---- a restart on a killed run --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Killed:
    """What a killed run left: its data folder, its ring, and the exchange that still sends."""

    exchange: SimulatorProcess
    data: Path
    ring: Path


@dataclass(frozen=True)
class Scene:
    """A copy of that for one test, to be changed and then restarted on."""

    recorder: Recorder
    ring: Path
    exchange: SimulatorProcess

    @property
    def open_segment(self) -> Path:
        return segment_files(self.recorder.data)[-1]

    def restart(self, *arguments: str) -> list[Line]:
        """A run from start to a clean end; the journal after it."""
        self.recorder.arguments = arguments
        with self.recorder as recorder:
            recorder.wait_live()
            assert recorder.stop() == 0, recorder.log
        assert not self.ring.exists()
        stored_records(recorder.data)
        return read_lines(recorder.data)

    def refusal(self, *arguments: str) -> str:
        """What a run that ends at once says; it changes nothing."""
        before = tree(self.recorder.data) | {self.ring: self.ring.read_bytes()}
        self.recorder.arguments = arguments
        with self.recorder as recorder:
            assert recorder.wait() == 2, recorder.log
        assert tree(self.recorder.data) | {self.ring: self.ring.read_bytes()} == before
        return recorder.log


def tree(folder: Path) -> dict[Path, bytes]:
    """The files of a folder with their bytes; locks hold a pid and no data."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    """A run that was killed when the ring held records and the open segment a tail that no checkpoint proves."""
    with SimulatorProcess("--rate", "2000", "--markets", "3") as exchange:
        for _ in range(20):  # the instant of a kill decides: the flusher may just have taken everything
            folder = tmp_path_factory.mktemp("killed")
            ring = folder / "ring"
            environment = environment_file(
                folder, exchange, ring__path=str(ring), ring__size_bytes=1024 * 1024, flusher__nap_us=100_000, **SMALL
            )
            recorder = Recorder(environment, exchange)
            with recorder:
                recorder.wait_frames(2000)
                recorder.kill()
            segment = segment_files(recorder.data)[-1]
            unproved = proved_bytes(segment.read_bytes()) not in (0, segment.stat().st_size)
            if held_in_ring(ring) and unproved:
                break
        assert held_in_ring(ring) and unproved
        assert segment.name.endswith(".open")
        data = recorder.data.rename(folder / "left")
        ring = ring.rename(folder / "left.ring")
        yield Killed(exchange, data, ring)


SMALL: dict[str, object] = {"max_frame_bytes": 64 * 1024}


@pytest.fixture
def scene(killed: Killed, tmp_path: Path) -> Iterator[Scene]:
    ring = ring_path(tmp_path)
    environment = environment_file(
        tmp_path, killed.exchange, ring__path=str(ring), ring__size_bytes=1024 * 1024, **SMALL
    )
    recorder = Recorder(environment, killed.exchange)
    shutil.copytree(killed.data, recorder.data)
    shutil.copyfile(killed.ring, ring)
    (recorder.data / "kalshi" / ".ring").write_text(f"{ring}\n")
    yield Scene(recorder, ring, killed.exchange)


def proved_bytes(data: bytes) -> int:
    """Where the last checkpoint of a segment ends whose CRC-32C is right, by an implementation of the test's own."""
    at = good = batch = 0
    for one in framed_as_far(data):
        at += len(one)
        if one[KIND_AT : KIND_AT + 2] == CHECKPOINT:
            blank = one[:CRC_AT] + bytes(4) + one[CRC_AT + 4 :]
            if crc32c(data[batch : at - len(one)] + blank) != int.from_bytes(one[CRC_AT : CRC_AT + 4], "little"):
                break
            good = batch = at
    return good


def framed_as_far(data: bytes) -> Iterator[bytes]:
    with contextlib.suppress(AssertionError):
        yield from framed(data)


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def nothing(segment: Path) -> None:
    """The tail as the kill left it."""


def cut_in_a_record(segment: Path) -> None:
    """A file that ends inside a record, as after a power cut."""
    data = segment.read_bytes()
    ends = list(accumulate(map(len, framed(data))))
    with segment.open("r+b") as file:
        file.truncate(ends[-2] + 100)


def flip_in_the_last_batch(segment: Path) -> None:
    """One bit of the last batch that a checkpoint vouches for."""
    data = segment.read_bytes()
    at = proved_bytes(data) - 600
    patch(segment, at, bytes([data[at] ^ 4]))


def zero_the_tail(segment: Path) -> None:
    """Blocks that never reached the disk."""
    data = segment.read_bytes()
    good = proved_bytes(data)
    patch(segment, good, bytes(len(data) - good))


def no_ring(ring: Path) -> None:
    ring.unlink()


def ring_of_another_boot(ring: Path) -> None:
    """As after a reboot, where the ring stands on a disk."""
    patch(ring, BOOT_ID_AT, b"00000000-0000-4000-8000-000000000000")


def ring_with_a_broken_record(ring: Path) -> None:
    """The length of a record that was not written yet."""
    data = ring.read_bytes()
    held = held_in_ring(ring)
    first = held[min(held)]
    patch(ring, data.index(first, HEADER_BYTES) + 4, b"\xff\xff\xff\xff")


def ring_cut_short(ring: Path) -> None:
    with ring.open("r+b") as file:
        file.truncate(HEADER_BYTES + 1000)


def ring_with_broken_positions(ring: Path) -> None:
    """A head before the tail."""
    patch(ring, HEAD_AT, struct.pack("<Q", 8))


def ring_with_torn_commits(ring: Path) -> None:
    """Both slots begin with one generation and end with another: a crash tears one at most."""
    for slot in (COMMITS_AT, COMMITS_AT + COMMIT_BYTES):
        patch(ring, slot, b"\x07")


def ring_without_commits(ring: Path) -> None:
    """As if nothing had ever been written to files, with records in the ring that have long been numbered."""
    for slot in (COMMITS_AT, COMMITS_AT + COMMIT_BYTES):
        patch(ring, slot, bytes(COMMIT_BYTES))


def ring_with_another_capacity(ring: Path) -> None:
    patch(ring, 16, struct.pack("<Q", 2 * 1024 * 1024))


RINGS = [
    no_ring,
    ring_of_another_boot,
    ring_with_a_broken_record,
    ring_cut_short,
    ring_with_broken_positions,
    ring_with_torn_commits,
    ring_without_commits,
    ring_with_another_capacity,
]


@pytest.mark.parametrize("change_segment", [nothing, cut_in_a_record, flip_in_the_last_batch, zero_the_tail])
def test_without_a_ring_the_files_decide_and_what_is_cut_is_kept_and_told(
    scene: Scene, change_segment: Callable[[Path], None]
) -> None:
    change_segment(scene.open_segment)
    scene.ring.unlink()
    assert_goes_on_from_files(scene)


@pytest.mark.parametrize("change_ring", RINGS[1:])
def test_a_ring_that_cannot_be_believed_is_as_none(scene: Scene, change_ring: Callable[[Path], None]) -> None:
    """The recorder goes on from the files; a damaged ring is kept beside, and what is whole in it is not lost."""
    before = scene.ring.read_bytes()
    held = held_in_ring(scene.ring)
    change_ring(scene.ring)
    changed = scene.ring.read_bytes()
    assert changed != before
    lines = assert_goes_on_from_files(scene, held)
    if change_ring in (ring_with_torn_commits, ring_without_commits):  # all it held is taken back
        assert_stored(held, stored_records(scene.recorder.data))
    kept = scene.ring.with_name(scene.ring.name + ".damaged")
    if change_ring is ring_of_another_boot:
        assert not kept.exists()
    else:
        assert kept.read_bytes()[HEADER_BYTES:] == changed[HEADER_BYTES:]
        assert any(str(scene.ring.name) in line.body["detail"] for line in gaps(lines, "damage"))


def assert_goes_on_from_files(scene: Scene, held: Mapping[int, bytes] | None = None) -> list[Line]:
    """All that is proved stays, the rest of the file is kept beside, numbers go on, and Gap records say all that.

    `held`: what was in the ring before it was damaged; of that and of the rest of the file some may come back.
    """
    held = dict(held or {})
    segment = scene.open_segment
    data = segment.read_bytes()
    good = proved_bytes(data)
    proved = [one for one in framed(data[:good]) if one[KIND_AT : KIND_AT + 2] != CHECKPOINT]
    last_number = int.from_bytes(proved[-1][NUMBER_AT : NUMBER_AT + 8], "little")
    rest = {int.from_bytes(one[NUMBER_AT : NUMBER_AT + 8], "little"): one for one in framed(data)} if held else {}
    known = rest | held
    lines = scene.restart()
    assert_numbers_have_no_hole(lines)
    kept = segment.with_name(segment.name.removesuffix(".open") + ".cut")
    assert kept.read_bytes() == data[good:]
    stored = stored_records(scene.recorder.data)
    saved = range(last_number + 1, gaps(lines, "damage")[0].number)  # taken back from the ring
    assert {number: stored[number] for number in saved} == {number: known[number] for number in saved}
    if saved:
        proved = [*proved, *(known[number] for number in saved)]
        last_number = saved[-1]
    assert [stored[n] for n in range(last_number - len(proved) + 1, last_number + 1)] == proved
    damage, outage = gaps(lines, "damage"), gaps(lines, "outage")
    assert damage[-1].number == outage[0].number - 1 and len(outage) == 1
    assert f"{segment.name.removesuffix('.open')} at {good}: {len(data) - good} bytes" in damage[-1].body["detail"]
    assert damage[0].number == last_number + 1
    recv_ns = struct.unpack_from("<q", proved[-1], RECV_NS_AT)[0]
    assert {line.body["fromNs"] for line in damage + outage} == {recv_ns}
    code, report = verify(scene.recorder.data)
    assert code == 1
    assert report["damage"] == []
    assert [gap["cause"] for gap in report["gaps"]] == ["damage"] * len(damage) + ["outage"]
    return lines


def test_the_journal_s_folder_deleted_while_the_ring_stays(scene: Scene) -> None:
    """What the ring holds is written all the same; that everything before is gone is told."""
    held = held_in_ring(scene.ring)
    shutil.rmtree(scene.recorder.data)
    lines = scene.restart()
    assert_stored(held, stored_records(scene.recorder.data))
    assert_numbers_have_no_hole(lines)
    assert lines[0].number == min(held)
    assert [line.number for line in gaps(lines)] == [max(held) + 1, max(held) + 2]
    assert [line.body["cause"] for line in gaps(lines)] == ["damage", "outage"]


def remove(segment: Path) -> None:
    segment.unlink()


def cut_to_half(segment: Path) -> None:
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size // 2)


def flip_in_the_tail(segment: Path) -> None:
    """One bit behind the last checkpoint: the ring remembers the CRC of what it had written there."""
    data = segment.read_bytes()
    at = proved_bytes(data) + 90
    patch(segment, at, bytes([data[at] ^ 1]))


@pytest.mark.parametrize("change", [remove, cut_to_half, flip_in_the_tail])
def test_a_segment_that_lost_bytes_while_the_ring_stays(scene: Scene, change: Callable[[Path], None]) -> None:
    """What the ring holds is written behind the hole; the numbers that are missing are told by verify."""
    held = held_in_ring(scene.ring)
    before = read_lines(scene.recorder.data)
    change(scene.open_segment)
    lines = scene.restart()
    numbers = [line.number for line in lines]
    assert_stored(held, stored_records(scene.recorder.data))
    assert numbers == sorted(set(numbers)) and numbers[-1] > max(held)
    kept = [number for number in numbers if number < min(held)]
    assert len(kept) < len(before)
    assert {line.body["cause"] for line in gaps(lines)} == {"damage", "outage"}
    code, report = verify(scene.recorder.data)
    assert code == 1
    if kept:
        hole = f"records {kept[-1] + 1} to {min(held) - 1} are missing ({min(held) - 1 - kept[-1]})"
        assert report["damage"][0]["what"] == hole  # and what books make of it


def test_a_ring_of_another_size_is_emptied_and_made_anew(scene: Scene) -> None:
    """`ring.size_bytes` may be changed at any time, also after a crash."""
    held = held_in_ring(scene.ring)
    lines = scene.restart("--set", f"ring.size_bytes={256 * 1024}")
    assert_stored(held, stored_records(scene.recorder.data))
    assert_numbers_have_no_hole(lines)
    assert assert_outages_are_told(lines) == 1
    assert assert_frames_are_a_prefix(lines, scene.exchange.ledger_path) >= 2000


def test_a_ring_of_another_version_is_refused_and_left_alone(scene: Scene) -> None:
    """Another ssmd's: it must write it out. With the version right again nothing is lost."""
    held = held_in_ring(scene.ring)
    patch(scene.ring, VERSION_AT, struct.pack("<I", 2))
    said = scene.refusal()
    assert f"{scene.ring}: a ring of version 2, this ssmd knows version 1" in said
    assert "drain it" in said
    patch(scene.ring, VERSION_AT, struct.pack("<I", 1))
    scene.restart()
    assert_stored(held, stored_records(scene.recorder.data))


@pytest.mark.parametrize("content", [b"", b"notes of mine\n" * 1000])
def test_a_file_that_is_no_ring_is_refused_and_left_alone(scene: Scene, content: bytes) -> None:
    scene.ring.write_bytes(content)
    said = scene.refusal()
    assert f"{scene.ring}: this is not a ring of ssmd" in said
    assert "remove the file" in said


def test_records_that_wait_in_another_ring_are_not_passed_over(scene: Scene, tmp_path: Path) -> None:
    """A run with another ring.path would give their numbers again: it is refused, and says which ring it is."""
    held = held_in_ring(scene.ring)
    other = scene.ring.with_name(scene.ring.name + ".other")
    said = scene.refusal("--set", f"ring.path={other}")
    assert f"wait in another ring, {scene.ring}" in said
    assert f"--set ring.path={scene.ring}" in said
    assert not other.exists()
    scene.restart()
    assert_stored(held, stored_records(scene.recorder.data))
    lines = scene.restart("--set", f"ring.path={other}")
    assert not other.exists()
    assert_numbers_have_no_hole(lines)
    assert len(gaps(lines)) == 1  # of the kill


def test_a_ring_half_made_by_a_dead_process_is_swept_away(scene: Scene) -> None:
    dead = scene.ring.with_name(f"{scene.ring.name}.4194305.0.new")  # beyond any pid
    dead.write_bytes(bytes(100))
    scene.restart()
    assert not dead.exists()


@pytest.mark.parametrize(("mode", "way"), [("thread", "deleted"), ("process", "deleted"), ("thread", "moved")])
def test_a_folder_taken_away_under_a_running_recorder_is_told_and_recording_goes_on(
    killed: Killed, tmp_path: Path, mode: str, way: str
) -> None:
    """Alarm, failing health, and a Gap record with the lost numbers; then a new segment in a new folder."""
    ring = ring_path(tmp_path)
    environment = environment_file(tmp_path, killed.exchange, ring__path=str(ring), flusher__mode=mode, **SMALL)
    with Recorder(environment, killed.exchange) as recorder:
        recorder.wait_frames(500)
        wait_until(lambda: segment_files(recorder.data), what="a segment")
        identity = next(recorder.data.rglob("journal.id")).read_bytes()
        if way == "moved":
            (moved := tmp_path / "moved").mkdir()
            recorder.data.rename(moved / "data")
        else:
            shutil.rmtree(recorder.data)
        wait_until(lambda: "records are lost" in recorder.get("/healthz")[1], what="health that tells of the loss")
        assert recorder.get("/healthz")[0] == 503
        assert recorder.metric("ssmd_files_lost_total") == 1
        recorder.wait_frames(int(recorder.metric("ssmd_frames_received_total")) + 500)
        assert recorder.stop() == 0, recorder.log
        assert '"alarm"' in recorder.log and "deleted, moved or replaced" in recorder.log
    assert not ring.exists()
    assert next(recorder.data.rglob("journal.id")).read_bytes() == identity
    lines = read_lines(recorder.data)
    assert_numbers_have_no_hole(lines)
    (gap,) = gaps(lines, "damage")
    assert f"records 1 to {lines[0].number - 1} are no longer there" in gap.body["detail"]
    assert gap.body["fromNs"] > 0
    code, report = verify(recorder.data)
    assert code == 1 and [entry["cause"] for entry in report["gaps"]] == ["damage"]
    if way == "moved":
        assert [line.number for line in read_lines(moved / "data")] == list(range(1, lines[0].number))


def test_a_folder_deleted_in_the_last_moment_of_a_run_is_told_by_its_exit_and_by_the_next_run(
    killed: Killed, tmp_path: Path
) -> None:
    ring = ring_path(tmp_path)
    environment = environment_file(tmp_path, killed.exchange, ring__path=str(ring), **SMALL)
    with Recorder(environment, killed.exchange) as recorder:
        recorder.wait_frames(500)
        wait_until(lambda: segment_files(recorder.data), what="a segment")
        shutil.rmtree(recorder.data)
        if recorder.stop() == 0:  # it was seen while recording: that is the other test's
            assert gaps(read_lines(recorder.data), "damage")
            return
        recorder.start()
        recorder.wait_live()
        assert recorder.stop() == 0, recorder.log
    assert not ring.exists()
    assert gaps(read_lines(recorder.data))
