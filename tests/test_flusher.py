"""The flusher's Python doors: options, thread, process, and journals that an independent reader can check.

When segments end, what failures do and crashes at every call are tested in C (csrc/tests/test_flusher.c).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_writer import NOON, SCHEMA, crc32c, record

from ssmd.errors import DamageError, UsageError
from ssmd.flusher.__main__ import parser, settings
from ssmd.native.failure import InUseError, MissingError
from ssmd.native.flusher import Flusher, FlusherOptions, FlusherThread, SegmentForm, Stop, segment_path
from ssmd.native.ring import FlusherState, Ring, Role
from ssmd.schedule import DayTable

REPOSITORY = Path(__file__).resolve().parent.parent
HOUR = 3_600_000_000_000
ENDLESS = DayTable((0, 1 << 62), (20260921, 99991231))  # one day without end: no period is ever over
PATIENCE_S = 30  # for what happens at once on an idle machine


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    with Ring.open(tmp_path / "ring", 1 << 20, role=Role.PRODUCER) as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "feed"


def endless(root: Path) -> FlusherOptions:
    """For what must still be open at the end of a test: its records are of a time that is over."""
    return FlusherOptions(root=root, days=ENDLESS, rotate_minutes=0)


def trade(number: int, recv_ns: int | None = None) -> bytes:
    return record(
        "trade",
        {"market": "KXTEST-26", "priceE4": number % 10_000, "countE2": number},
        frame=b"f" * (number % 90),
        number=number,
        recvNs=NOON + number if recv_ns is None else recv_ns,
        connection=1 + number // 100,
    )


def push(ring: Ring, first: int, last: int) -> list[bytes]:
    records = [trade(number) for number in range(first, last + 1)]
    for one in records:
        while not ring.push(one):
            time.sleep(0.001)
    return records


def read(root: Path) -> list[bytes]:
    """The numbered records of a journal, after checking every checkpoint with a CRC and a library that are not ours."""
    found: list[bytes] = []
    for path in sorted(root.glob("*/*.capnp*")):
        data = path.read_bytes()
        offset = covered = count = 0
        messages = SCHEMA.Record.read_multiple_bytes(data)
        for message in messages:
            size = 8 + 8 * int.from_bytes(data[offset + 4 : offset + 8], "little")
            raw = data[offset : offset + size]
            if message.body.which() == "checkpoint":
                mark = message.body.checkpoint
                zeroed = raw[:96] + bytes(4) + raw[100:]
                assert mark.crc32c == crc32c(data[covered:offset] + zeroed)
                assert (mark.offset, mark.bytes, mark.records) == (offset, offset + size - covered, count)
                assert mark.final == (path.suffix == ".capnp" and offset + size == len(data))
                assert message.number == (len(found))
                covered = offset + size
            else:
                found.append(raw)
                count += 1
            offset += size
        assert offset == len(data)
        assert path.suffix != ".capnp" or covered == len(data), f"{path} has no final checkpoint"
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


# ---- step by step ----------------------------------------------------------------------------------------------------


def test_records_are_in_the_file_byte_for_byte(ring: Ring, root: Path) -> None:
    pushed = push(ring, 1, 300)
    with Flusher.open(ring.path, FlusherOptions(root=root)) as flusher:
        assert flusher.step()
        assert not flusher.step()
        flusher.finish(seal=True)
    assert read(root) == pushed
    assert [path.name for path in root.glob("*/*")] == ["20260921T141320Z-000000000001.capnp"]


def test_a_journal_is_read_by_the_stock_tool(ring: Ring, root: Path, repository: Path) -> None:
    tool = shutil.which("capnp")
    if tool is None:
        pytest.skip("capnp is not installed: apt-get install capnproto")
    push(ring, 1, 3)
    Flusher.open(ring.path, FlusherOptions(root=root)).close(seal=True)
    (path,) = root.glob("*/*.capnp")
    schema = str(repository / "schemas" / "market_data.capnp")
    shown = subprocess.run([tool, "decode", schema, "Record"], stdin=path.open("rb"), capture_output=True, check=True)
    assert shown.stdout.count(b"trade = (") == 3
    assert shown.stdout.count(b"checkpoint = (") == 1
    assert b"final = true" in shown.stdout


def test_the_commit_line_follows_the_file(ring: Ring, root: Path) -> None:
    push(ring, 1, 250)
    with Flusher.open(ring.path, endless(root)) as flusher:
        flusher.drain()
        commit = ring.commit()
        assert (commit.position, commit.segment_offset) == (ring.head, ring.head)
        assert (commit.last_number, commit.segment_records, commit.segment_first) == (250, 250, 1)
        assert (commit.last_recv_ns, commit.max_connection, commit.durable_number) == (NOON + 250, 3, 0)
        path = segment_path(root, day=commit.segment_day, start_ns=commit.segment_start_ns, first_number=1)
        assert Path(path).stat().st_size == commit.segment_offset
        flusher.finish(seal=False)
        assert ring.commit().durable_number == 250


def test_without_a_seal_the_next_flusher_goes_on_in_the_same_file(ring: Ring, root: Path) -> None:
    pushed = []
    for run in range(3):
        pushed += push(ring, 1 + 50 * run, 50 + 50 * run)
        Flusher.open(ring.path, endless(root)).close(seal=False)
    assert read(root) == pushed
    assert len(list(root.glob("*/*.capnp.open"))) == 1


def test_days_of_the_schedule_name_the_folders(ring: Ring, root: Path) -> None:
    days = DayTable((NOON - HOUR, NOON + HOUR, NOON + 25 * HOUR), (20260921, 20260922, 20260923))
    assert ring.push(trade(1, NOON))
    assert ring.push(trade(2, NOON + HOUR))
    Flusher.open(ring.path, FlusherOptions(root=root, days=days, rotate_minutes=0)).close(seal=True)
    assert sorted(path.name for path in root.glob("????-??-??")) == ["2026-09-21", "2026-09-22"]


def test_the_names_of_a_segment_are_those_of_the_page() -> None:
    named = segment_path("/d", day=20260921, start_ns=NOON, first_number=7, form=SegmentForm.ZST)
    assert named == "/d/2026-09-21/20260921T141320Z-000000000007.capnp.zst"


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_there_is_no_flusher_without_a_ring(tmp_path: Path, root: Path) -> None:
    with pytest.raises(MissingError, match="No such file"):
        Flusher.open(tmp_path / "nothing", FlusherOptions(root=root))


def test_a_second_flusher_of_a_ring_is_told_who_is_the_first(ring: Ring, root: Path, tmp_path: Path) -> None:
    with (
        Flusher.open(ring.path, FlusherOptions(root=root)),
        pytest.raises(InUseError, match=f"{ring.path}: in use: process {os.getpid()} is its consumer"),
    ):
        Flusher.open(ring.path, FlusherOptions(root=tmp_path / "other"))


def test_a_second_flusher_of_a_folder_is_told_who_is_the_first(ring: Ring, root: Path, tmp_path: Path) -> None:
    with (
        Ring.open(tmp_path / "second", 1 << 20, role=Role.PRODUCER) as second,
        Flusher.open(ring.path, FlusherOptions(root=root)),
        pytest.raises(InUseError, match=f"{root}: in use: process {os.getpid()} is its flusher"),
    ):
        Flusher.open(second.path, FlusherOptions(root=root))


@pytest.mark.parametrize("folder", ["/proc/data", "/dev/null/data"])
def test_a_folder_that_cannot_be_written_is_the_users_to_mend(ring: Ring, folder: str) -> None:
    with pytest.raises(UsageError, match=folder) as caught:
        Flusher.open(ring.path, FlusherOptions(root=folder))
    assert caught.value.exit_code == 2


def test_lost_bytes_are_damage_with_both_lengths(ring: Ring, root: Path) -> None:
    push(ring, 1, 50)
    Flusher.open(ring.path, endless(root)).close(seal=False)
    committed = ring.commit().segment_offset
    (path,) = root.glob("*/*.capnp.open")
    os.truncate(path, 1000)
    with pytest.raises(DamageError, match=f"length of the open segment: found 1000, expected {committed}"):
        Flusher.open(ring.path, FlusherOptions(root=root))
    assert path.stat().st_size == 1000
    push(ring, 51, 60)
    Flusher.open(ring.path, FlusherOptions(root=root, forget_segment=True)).close(seal=True)
    assert [path.name for path in root.glob("*/*.capnp")] == ["20260921T141320Z-000000000051.capnp"]


# ---- on a thread -----------------------------------------------------------------------------------------------------


def test_stopping_a_thread_drains_and_seals(ring: Ring, root: Path) -> None:
    thread = FlusherThread.start(ring.path, FlusherOptions(root=root, rotate_bytes=20_000))
    assert thread.alive
    pushed = push(ring, 1, 2000)
    assert thread.stop(PATIENCE_S)
    assert thread.drained
    assert not thread.alive
    assert thread.status().state == FlusherState.STOPPED
    assert read(root) == pushed
    assert not list(root.glob("*/*.open"))


def test_asking_a_thread_to_stop_comes_back_at_once_and_can_be_polled(ring: Ring, root: Path) -> None:
    thread = FlusherThread.start(ring.path, endless(root))
    pushed = push(ring, 1, 100)
    thread.request_stop(Stop.DRAIN)
    wait_for(thread.finished)
    assert thread.finished()  # and again
    assert read(root) == pushed
    assert len(list(root.glob("*/*.open"))) == 1


def test_ring_and_folder_are_free_after_a_thread(ring: Ring, root: Path) -> None:
    for _ in range(2):
        assert FlusherThread.start(ring.path, FlusherOptions(root=root)).stop(PATIENCE_S)


def test_a_folder_that_goes_away_stalls_the_thread_and_loses_nothing(ring: Ring, root: Path, tmp_path: Path) -> None:
    """Root may write anywhere, so the day's folder is replaced by a file."""
    thread = FlusherThread.start(ring.path, FlusherOptions(root=root))
    day = root / "2026-09-21"
    day.write_text("in the way")
    pushed = push(ring, 1, 100)
    wait_for(lambda: ring.status().state == FlusherState.STALLED)
    status = thread.status()
    assert "create segment" in status.error
    assert status.error_since_ns > 0
    assert not thread.stop(0.05)
    assert thread.alive
    day.unlink()
    assert thread.wait(PATIENCE_S)
    assert thread.drained
    assert read(root) == pushed


def test_a_stop_that_cannot_be_met_can_be_cut_short(ring: Ring, root: Path) -> None:
    thread = FlusherThread.start(ring.path, FlusherOptions(root=root))
    (root / "2026-09-21").write_text("in the way")
    pushed = push(ring, 1, 10)
    assert not thread.stop(0.05)
    thread.request_stop(Stop.NOW)
    assert thread.wait(PATIENCE_S)
    assert not thread.drained
    (root / "2026-09-21").unlink()
    Flusher.open(ring.path, FlusherOptions(root=root)).close(seal=True)
    assert read(root) == pushed


# ---- as a process ----------------------------------------------------------------------------------------------------


class Process:
    """`python -m ssmd.flusher` under test; its JSON lines are in `lines`."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "ssmd.flusher", *map(str, arguments)]
        self.child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
        self.lines: list[dict[str, Any]] = []

    def wait_for_event(self, event: str) -> dict[str, Any]:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"].startswith(event):
                return self.lines[-1]
        raise AssertionError(f"it ended with {self.child.wait()} and never said {event!r}: {self.lines}")

    def end(self, kind: signal.Signals = signal.SIGTERM) -> int:
        self.child.send_signal(kind)
        _, rest = self.child.communicate(timeout=PATIENCE_S)
        self.lines += [json.loads(line) for line in rest.splitlines()]
        return self.child.returncode


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(*arguments: str | Path) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield begin
    for process in started:
        process.child.kill()
        process.child.communicate()


Starter = Callable[..., Process]


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_process_drains_seals_and_exits_0_when_asked(
    ring: Ring, tmp_path: Path, start: Starter, kind: signal.Signals
) -> None:
    process = start("--ring", ring.path, "--data", tmp_path / "d", "--feed", "feed")
    process.wait_for_event("started")
    pushed = push(ring, 1, 1000)
    began = time.monotonic()
    assert process.end(kind) == 0
    assert time.monotonic() - began < 5
    assert process.lines[-1]["event"] == "stopped"
    assert process.lines[-1]["complete"] is True
    assert process.lines[-1]["records"] == 1000
    assert read(tmp_path / "d" / "feed") == pushed
    assert not list((tmp_path / "d").glob("*/*/*.open"))


def test_a_killed_process_leaves_the_rest_to_the_next(ring: Ring, tmp_path: Path, start: Starter) -> None:
    arguments = ("--ring", ring.path, "--data", tmp_path / "d", "--feed", "feed", "--rotate-bytes", "30000")
    pushed: list[bytes] = []
    for run in range(4):
        process = start(*arguments)
        process.wait_for_event("started")
        pushed += push(ring, 1 + 700 * run, 700 + 700 * run)
        process.child.kill()
        process.child.wait()
    process = start(*arguments)
    process.wait_for_event("started")
    assert process.end() == 0
    assert read(tmp_path / "d" / "feed") == pushed


def test_a_process_waits_for_a_ring_and_tells_so(tmp_path: Path, start: Starter) -> None:
    process = start("--ring", tmp_path / "ring", "--data", tmp_path / "d")
    assert "No such file" in process.wait_for_event("waiting")["reason"]
    with Ring.open(tmp_path / "ring", 65536, role=Role.PRODUCER) as ring:
        process.wait_for_event("started")
        pushed = push(ring, 1, 5)
        assert process.end() == 0
    assert read(tmp_path / "d" / "kalshi") == pushed


def test_a_process_that_waits_can_be_ended(tmp_path: Path, start: Starter) -> None:
    process = start("--ring", tmp_path / "ring", "--data", tmp_path / "d")
    process.wait_for_event("waiting")
    assert process.end() == 0


def test_a_process_tells_of_a_stall_and_of_its_end(ring: Ring, tmp_path: Path, start: Starter) -> None:
    process = start("--ring", ring.path, "--data", tmp_path / "d", "--feed", "feed")
    process.wait_for_event("started")
    day = tmp_path / "d" / "feed" / "2026-09-21"
    day.write_text("in the way")
    pushed = push(ring, 1, 5)
    stalled = process.wait_for_event("stalled")
    assert stalled["level"] == "error"
    assert "create segment" in stalled["error"]
    day.unlink()
    process.wait_for_event("recovered")
    assert process.end() == 0
    assert read(tmp_path / "d" / "feed") == pushed


def test_a_process_that_cannot_write_in_time_exits_4_and_the_ring_keeps_the_rest(
    ring: Ring, tmp_path: Path, start: Starter
) -> None:
    process = start("--ring", ring.path, "--data", tmp_path / "d", "--feed", "feed")
    process.wait_for_event("started")
    day = tmp_path / "d" / "feed" / "2026-09-21"
    day.write_text("in the way")
    pushed = push(ring, 1, 5)
    assert process.end() == 4
    assert process.lines[-1]["complete"] is False
    day.unlink()
    Flusher.open(ring.path, FlusherOptions(root=tmp_path / "d" / "feed")).close(seal=True)
    assert read(tmp_path / "d" / "feed") == pushed


def test_a_process_recovers_from_the_files_where_committed_bytes_are_gone(
    ring: Ring, tmp_path: Path, start: Starter
) -> None:
    root = tmp_path / "d" / "feed"
    push(ring, 1, 50)
    flusher = Flusher.open(ring.path, endless(root))
    flusher.drain()
    flusher.finish(seal=False)
    good = ring.commit().segment_offset
    push(ring, 51, 60)
    flusher.close(seal=False)
    (path,) = root.glob("*/*.capnp.open")
    os.truncate(path, good + 10)
    kept = push(ring, 61, 70)
    process = start("--ring", ring.path, "--data", tmp_path / "d", "--feed", "feed")
    process.wait_for_event("started")
    assert process.lines[0]["event"].startswith("the open segment is damaged")
    assert process.end() == 0
    sealed = sorted(path.name for path in root.glob("*/*.capnp"))
    assert sealed == ["20260921T141320Z-000000000001.capnp", "20260921T141320Z-000000000061.capnp"]
    last = (root / "2026-09-21" / sealed[1]).read_bytes()
    assert last.startswith(b"".join(kept))


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ("in use", "is its consumer"),
        ("other version", "a ring of version 9"),
        ("no folder", "Not a directory"),
        ("missing", "No such file"),
        ("nothing", "what to flush is not said"),
    ],
)
def test_a_process_that_cannot_start_says_one_clear_error_and_exits_2(
    ring: Ring, tmp_path: Path, prepare: str, said: str
) -> None:
    arguments = ["--ring", ring.path, "--data", str(tmp_path / "d"), "--no-wait"]
    holder = None
    if prepare == "in use":
        holder = Flusher.open(ring.path, FlusherOptions(root=tmp_path / "other"))
        said = f"process {os.getpid()} is its consumer"
    elif prepare == "other version":
        with Path(ring.path).open("r+b") as file:
            file.seek(8)
            file.write(b"\x09\0\0\0")
    elif prepare == "no folder":
        (tmp_path / "d").write_text("a file")
    elif prepare == "missing":
        arguments[1] += "-elsewhere"
    elif prepare == "nothing":
        arguments = []
    command = [sys.executable, "-m", "ssmd.flusher", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=REPOSITORY, check=False)
    if holder is not None:
        holder.abandon()
    assert done.returncode == 2
    assert done.stderr.startswith("ssmd.flusher: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# ---- flags and environments ------------------------------------------------------------------------------------------


def test_flags_reach_the_flusher() -> None:
    asked = parser().parse_args(
        "--ring /r --data /d --feed f --sync-interval-ms 5 --sync-bytes 6 --rotate-minutes 7 --rotate-bytes 8 "
        "--nap-us 9 --timezone America/New_York --day-start 18:00 --no-wait".split()
    )
    wanted = settings(asked)
    assert (wanted.ring, wanted.options.root, wanted.wait) == (Path("/r"), Path("/d/f"), False)
    assert (wanted.options.sync_interval_ms, wanted.options.sync_bytes) == (5, 6)
    assert (wanted.options.rotate_minutes, wanted.options.rotate_bytes, wanted.options.nap_us) == (7, 8, 9)
    assert wanted.options.days is not None
    assert wanted.options.days.day_of(1_790_000_000_000_000_000) == 20260920  # 10:13 in New York, before 18:00


def test_an_environment_says_everything_and_flags_go_before_it(repository: Path, tmp_path: Path) -> None:
    asked = parser().parse_args(
        ["-e", str(repository / "environments" / "kalshi-local.yaml"), "--data", str(tmp_path), "--nap-us", "77",
         "--set", "flusher.sync_interval_ms=123"]
    )  # fmt: skip
    wanted = settings(asked)
    assert wanted.options.root == tmp_path / "kalshi"
    assert (wanted.options.nap_us, wanted.options.sync_interval_ms) == (77, 123)
    assert wanted.ring.suffix == ".ring"


def test_a_feed_that_is_no_plain_word_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be part of a path"):
        settings(parser().parse_args(["--ring", "/r", "--data", "/d", "--feed", "../x"]))
