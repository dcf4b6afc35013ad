"""A full disk: data waits in the ring, the recorder says so on every channel, and once there is space nothing is lost.

The disk is a small tmpfs that the test mounts, filled by a file that is removed again. Only root may mount: where
that is not allowed the tests are reported as not run.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from crash import (
    assert_no_process_left,
    assert_outages_are_told,
    assert_stored,
    held_in_ring,
    ring_path,
    stored_records,
)
from recording import (
    ROOT,
    Recorder,
    assert_journal_is_ledger,
    assert_numbers_have_no_hole,
    environment_file,
    events,
    gaps,
    read_lines,
    ssmd,
    verify,
    wait_until,
)
from servers import NatsServer

from ssmd.simulator.process import SimulatorProcess

MIB = 1024 * 1024
DISK_BYTES = 24 * MIB
LEFT_BYTES = MIB  # of the disk while the filler is there


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "ssmd-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        refusal = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        refusal = str(error)
    if refusal:
        pytest.skip(f"not run: a tmpfs cannot be mounted here ({refusal})")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    filler.write_bytes(bytes(DISK_BYTES - LEFT_BYTES))
    return filler


def environment(tmp_path: Path, exchange: SimulatorProcess, **changes: object) -> Path:
    return environment_file(
        tmp_path,
        exchange,
        ring__path=str(ring_path(tmp_path)),
        ring__size_bytes=256 * 1024,
        max_frame_bytes=64 * 1024,
        **changes,
    )


def failing(recorder: Recorder) -> dict[str, str]:
    checks = json.loads(recorder.get("/healthz")[1])["checks"]
    return {name: check["detail"] for name, check in checks.items() if not check["ok"]}


def wait_full(recorder: Recorder) -> None:
    """Until the disk is full, then the ring behind it, and health says both."""

    def told() -> bool:
        said = failing(recorder)
        return "No space left on device" in said.get("flusher", "") and "ring" in said

    wait_until(told, what="health that tells of the full disk")


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_full_disk_is_told_and_nothing_is_lost_once_there_is_space(tmp_path: Path, disk: Path, mode: str) -> None:
    with SimulatorProcess("--rate", "3000", "--markets", "3") as exchange:
        filler = fill(disk)
        with Recorder(environment(tmp_path, exchange, flusher__mode=mode), exchange) as recorder:
            wait_full(recorder)
            status, _ = recorder.get("/healthz")
            said = failing(recorder)
            assert status == 503
            assert "waits in the ring" in said["flusher"]
            assert "is not read" in said["ring"]
            assert recorder.metric("ssmd_flusher_error") == errno.ENOSPC
            wait_until(lambda: alarms(recorder, "alarm") >= {"flusher", "ring"}, what="alarms in the log")
            read = recorder.metric("ssmd_frames_received_total")
            filler.unlink()
            wait_until(lambda: recorder.get("/healthz")[0] == 200, what="health again")
            assert recorder.metric("ssmd_flusher_error") == 0
            wait_until(lambda: alarms(recorder, "alarm over") >= {"flusher", "ring"}, what="the end of the alarms")
            recorder.wait_frames(int(read) + 1000)
            assert recorder.stop() == 0, recorder.log
        assert_no_process_left(recorder)
        exchange.stop()
        lines = read_lines(recorder.data)
        assert_numbers_have_no_hole(lines)
        assert len(events(lines, "opened")) == 1
        assert_journal_is_ledger(lines, exchange.ledger(), at_least=3000)
        assert list(stored_records(recorder.data)) == [line.number for line in lines]
        assert verify(recorder.data)[0] == 0


def alarms(recorder: Recorder, event: str) -> set[str]:
    """The checks that the log has sounded this event for."""
    found = set()
    for row in recorder.log.splitlines():
        if row.startswith("{") and f'"{event}"' in row:
            line = json.loads(row)
            if line["event"] == event:
                assert event != "alarm" or line["level"] == "error"
                found.add(line["check"])
    return found


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_an_end_on_a_full_disk_is_in_time_and_the_next_run_goes_on(tmp_path: Path, disk: Path, mode: str) -> None:
    """Exit 4 within 5 s; a new run on the still full disk starts and says what is wrong; then there is space."""
    ring = ring_path(tmp_path)
    with SimulatorProcess("--rate", "3000", "--markets", "3") as exchange:
        filler = fill(disk)
        with Recorder(environment(tmp_path, exchange, flusher__mode=mode), exchange) as recorder:
            wait_full(recorder)
            began = time.monotonic()
            assert recorder.stop(signal.SIGTERM) == 4
            assert time.monotonic() - began < 5
            assert "the rest waits in the ring" in recorder.log
            assert "No space left on device" in recorder.log
            assert_no_process_left(recorder)
            held = held_in_ring(ring)
            assert sum(map(len, held.values())) > 200 * 1024
            recorder.start()
            wait_until(lambda: "flusher" in failing(recorder) or recorder.fail_if_dead(), what="health of the new run")
            began = time.monotonic()
            assert recorder.stop(signal.SIGTERM) == 4, "also where there is no room to write that it began"
            assert time.monotonic() - began < 5
            recorder.start()
            wait_until(lambda: "flusher" in failing(recorder) or recorder.fail_if_dead(), what="health of the next run")
            filler.unlink()
            recorder.wait_live()
            assert recorder.stop() == 0, recorder.log
        assert not ring.exists()
        assert_stored(held, stored_records(recorder.data))
        lines = read_lines(recorder.data)
        assert_numbers_have_no_hole(lines)
        assert assert_outages_are_told(lines) <= 1  # none where `stopped` still found room in the ring
        exchange.stop()
        assert_journal_is_ledger(lines, exchange.ledger(), at_least=1000)
        assert verify(recorder.data)[1]["damage"] == []


def test_a_recorder_killed_on_a_full_disk_loses_nothing_that_the_ring_held(tmp_path: Path, disk: Path) -> None:
    with SimulatorProcess("--rate", "3000", "--markets", "3") as exchange:
        filler = fill(disk)
        with Recorder(environment(tmp_path, exchange), exchange) as recorder:
            wait_full(recorder)
            recorder.kill()
            held = held_in_ring(ring_path(tmp_path))
            filler.unlink()
            recorder.start()
            recorder.wait_live()
            assert recorder.stop() == 0, recorder.log
        assert_stored(held, stored_records(recorder.data))
        lines = read_lines(recorder.data)
        assert_numbers_have_no_hole(lines)
        assert assert_outages_are_told(lines) == 1
        assert not gaps(lines, "damage")


def test_segments_that_could_not_be_archived_on_a_full_disk_are_archived_later(tmp_path: Path, disk: Path) -> None:
    """The archiver tries again by itself: at the end every sealed segment has its manifest and is compressed."""
    with SimulatorProcess("--rate", "3000", "--markets", "3") as exchange:
        filler = fill(disk)
        changed = environment(tmp_path, exchange, flusher__rotate_bytes=128 * 1024)
        with Recorder(changed, exchange) as recorder:
            wait_full(recorder)
            wait_until(lambda: '"not archived"' in recorder.log, what="a word of the archiver")
            wait_until(lambda: not list(disk.rglob("*.tmp")), what="the removal of what was half written")
            filler.unlink()
            wait_until(lambda: recorder.get("/healthz")[0] == 200, what="health again")
            sealed = {path.name.split(".")[0] for path in disk.rglob("*.capnp*") if path.suffix != ".open"}

            def archived() -> bool:
                packed = {path.name.split(".")[0] for path in disk.rglob("*.capnp.zst")}
                told = {path.name.split(".")[0] for path in disk.rglob("*.manifest.json")}
                return sealed <= packed & told and not {p for p in disk.rglob("*.capnp") if p.stem in sealed}

            wait_until(archived, what="the archiving of what was sealed on the full disk")
            assert recorder.stop() == 0, recorder.log
        assert verify(recorder.data)[0] == 0


def test_cursors_on_a_full_disk_stay_whole_and_everything_follows_when_there_is_space(
    tmp_path: Path, disk: Path
) -> None:
    """Publisher and archiver say what they cannot write, are killed on the full disk, and go on where they were."""
    archive = tmp_path / "archive"
    archive.mkdir()
    with NatsServer(tmp_path / "nats") as nats, SimulatorProcess("--rate", "2000", "--markets", "3") as exchange:
        changed = environment(
            tmp_path,
            exchange,
            transport={"type": "nats", "url": nats.url},
            storage__archive=str(archive),
            flusher={"sync_interval_ms": 50, "rotate_bytes": 128 * 1024},
        )
        with Recorder(changed, exchange) as recorder:
            before = wait_until(lambda: cursors(disk), what="both cursors")
            filler = fill_up(disk)
            wait_until(
                lambda: (
                    "publisher.cursor: cannot be written: No space" in failing(recorder).get("publisher", "")
                    and "No space left" in failing(recorder).get("archiver", "")
                ),
                what="health of both helpers",
            )
            for helper in ("publisher", "archiver"):
                os.kill(int(re.findall(rf'"child": "{helper}", "child_pid": (\d+)', recorder.log)[-1]), signal.SIGKILL)
            wait_until(lambda: recorder.metric("ssmd_child_restarts_total") == 2, what="both again")
            held = cursors(disk)
            assert held is not None and all(now >= then for now, then in zip(held, before, strict=True))
            filler.unlink()
            wait_until(lambda: recorder.get("/healthz")[0] == 200, what="health again")
            assert recorder.stop() == 0, recorder.log
        for helper in ("publisher", "archiver"):
            command = [sys.executable, "-m", f"ssmd.{helper}", "-e", str(changed), "--once"]
            assert subprocess.run(command, cwd=ROOT, check=False, timeout=60, stderr=subprocess.DEVNULL).returncode == 0
        assert ssmd("verify", str(recorder.data), "--against", f"file://{archive}").returncode == 0
        assert ssmd("verify", str(recorder.data), "--against", f"{nats.url}/SSMD").returncode == 0


def fill_up(disk: Path) -> Path:
    """All that is left, however much was recorded by now."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(64 * 1024)):
            pass
    return filler


def cursors(data: Path) -> list[int] | None:
    """What publisher.cursor and archiver.cursor say; None while one is not there. Half a file is no JSON."""
    paths = [data / "kalshi" / f"{helper}.cursor" for helper in ("publisher", "archiver")]
    if not all(path.exists() for path in paths):
        return None
    return [int(json.loads(path.read_bytes())["number"]) for path in paths]
