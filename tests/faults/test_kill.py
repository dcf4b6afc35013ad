"""SIGKILL at random instants: what was in the ring is in the files, once, and the time in between is told.

The recorder, its flusher and its archiver are killed while the simulator sends. Before each restart the test reads the
ring's file itself; at the end the files must hold every one of those records, and all numbers without a hole.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from crash import (
    assert_frames_are_a_prefix,
    assert_no_process_left,
    assert_outages_are_told,
    assert_stored,
    held_in_ring,
    kill_nine,
    ring_path,
    stored_records,
    wait_helper,
)
from recording import (
    ROOT,
    Recorder,
    assert_numbers_have_no_hole,
    environment_file,
    events,
    read_lines,
    segment_files,
    verify,
    wait_until,
)

from ssmd.simulator.process import SimulatorProcess

# What is killed, or when. Every run ends by a kill of the recorder in any case.
PLANS = (
    "connector",  # its flusher process is told by the kernel, and ends by itself
    "connector and thread",  # with the flusher as its thread
    "flusher",
    "connector and flusher",
    "archiver",
    "start",
    "stop",
    "rotation",
)
WITH_THREAD = ("connector and thread", "stop", "rotation")


@dataclass
class Campaign:
    """One journal whose recorder is killed again and again."""

    recorder: Recorder
    chance: random.Random
    ring: Path
    held: dict[int, bytes] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def cycle(self, plan: str) -> None:
        """One run: starts, kills as planned at a random instant, and notes what the ring held then."""
        recorder, chance = self.recorder, self.chance
        mode = "thread" if plan in WITH_THREAD or (plan == "start" and chance.random() < 0.5) else "process"
        nap_us = chance.choice([100, 1000, 50_000, 300_000])  # how much waits in the ring: from nothing to a lot
        recorder.arguments = ("--set", f"flusher.mode={mode}", "--set", f"flusher.nap_us={nap_us}")
        recorder.start()
        self.kills[plan] += 1
        if plan == "start":
            self.wait_log("health")
            time.sleep(chance.uniform(0, 0.3))
        else:
            self.wait_log("subscribed")
            time.sleep(chance.uniform(0, 0.4))
        if plan == "stop":
            recorder.send(signal.SIGTERM)
            time.sleep(chance.uniform(0, 0.3))
        if plan == "rotation":
            self.wait_rotation()
        if plan in ("flusher", "archiver"):
            pid = wait_helper(recorder, plan)
            kill_nine(pid)
            wait_helper(recorder, plan, other_than=pid)  # it is started again
            time.sleep(chance.uniform(0, 0.4))
        flusher = wait_helper(recorder, "flusher") if plan == "connector and flusher" else None
        if flusher is not None and chance.random() < 0.5:
            kill_nine(flusher)
        recorder.kill()
        if flusher is not None:
            kill_nine(flusher)
        self.held |= held_in_ring(self.ring)

    def wait_rotation(self) -> None:
        """Until a segment is there that was not: the one before was sealed a moment ago."""
        before = segment_files(self.recorder.data)[-1]
        wait_until(lambda: segment_files(self.recorder.data)[-1].name != before.name, what="a rotation")

    def wait_log(self, word: str) -> None:
        recorder = self.recorder
        wait_until(lambda: f'"{word}"' in recorder.log or recorder.fail_if_dead(), what=f"{word} in the log")


def campaign(tmp_path: Path, exchange: SimulatorProcess, seed: int) -> Campaign:
    ring = ring_path(tmp_path)
    environment = environment_file(
        tmp_path,
        exchange,
        ring__path=str(ring),
        ring__size_bytes=1024 * 1024,
        max_frame_bytes=128 * 1024,
        flusher__rotate_bytes=128 * 1024,
    )
    return Campaign(Recorder(environment, exchange), random.Random(seed), ring)


def judge(run: Campaign, exchange: SimulatorProcess) -> dict[str, object]:
    """A last run that ends as asked, and then everything that must hold. Gives the numbers of the campaign."""
    recorder = run.recorder
    recorder.arguments = ()
    with recorder:
        recorder.wait_live()
        assert recorder.stop() == 0, recorder.log
    assert_no_process_left(recorder)
    assert not run.ring.exists()
    exchange.stop()
    stored = stored_records(recorder.data)
    assert_stored(run.held, stored)
    lines = read_lines(recorder.data)
    assert_numbers_have_no_hole(lines)
    assert lines[0].number == 1
    frames = assert_frames_are_a_prefix(lines, exchange.ledger_path)
    outages = assert_outages_are_told(lines)
    code, report = verify(recorder.data)
    assert code == 1
    assert report["damage"] == []
    assert [gap["cause"] for gap in report["gaps"]] == ["outage"] * outages
    assert all(gap["resolved_by"] for gap in report["gaps"])
    assert_archived(recorder.data)
    return {
        "kills": dict(run.kills),
        "runs": len(events(lines, "started")),
        "outages": outages,
        "records": len(lines),
        "frames": frames,
        "held in rings": len(run.held),
    }


def assert_archived(data: Path) -> None:
    """What archivers left that were killed at work is finished by the next, and it is the same journal."""
    before = stored_records(data)
    done = subprocess.run([sys.executable, "-m", "ssmd.archiver", "--once", "--data", str(data)], cwd=ROOT, check=False)
    assert done.returncode == 0
    names = {path.name.split(".", 1)[0] for path in segment_files(data)}
    files = {path.name for path in data.rglob("????-??-??/*") if path.is_file()}
    assert files == {name + form for name in names for form in (".capnp.zst", ".manifest.json")}
    assert stored_records(data) == before
    assert verify(data)[1]["damage"] == []


def test_kills_at_random_instants_lose_nothing_that_the_ring_held(tmp_path: Path) -> None:
    """One of each plan."""
    with SimulatorProcess("--rate", "3000", "--markets", "5") as exchange:
        run = campaign(tmp_path, exchange, seed=7)
        for plan in PLANS:
            run.cycle(plan)
        assert judge(run, exchange)["frames"]


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing_that_the_ring_held(tmp_path: Path) -> None:
    with SimulatorProcess("--rate", "3000", "--markets", "5") as exchange:
        run = campaign(tmp_path, exchange, seed=2026)
        while run.kills.total() < 200:
            run.cycle(run.chance.choice(PLANS))
        print(judge(run, exchange))


@pytest.mark.parametrize("at_work", [True, False])
def test_a_restart_waits_for_the_flusher_that_a_killed_run_left(tmp_path: Path, at_work: bool) -> None:
    """The flusher of a killed recorder may be writing still, or just begin: the next run lets it end, then goes on."""
    with SimulatorProcess("--rate", "1000", "--markets", "3") as exchange:
        environment = environment_file(tmp_path, exchange, flusher__mode="process", ring__path=str(ring_path(tmp_path)))
        with Recorder(environment, exchange) as recorder:
            if at_work:
                wait_until(lambda: recorder.metric("ssmd_record_number", "written"), what="a flusher at work")
            flusher = wait_helper(recorder, "flusher")
            os.kill(flusher, signal.SIGSTOP)
            recorder.wait_frames(100)
            recorder.kill()
            held = held_in_ring(ring_path(tmp_path))
            recorder.start()
            recorder.health_address()  # it is about to open the ring
            os.kill(flusher, signal.SIGCONT)
            recorder.wait_live()
            assert recorder.stop() == 0
        assert_stored(held, stored_records(recorder.data))
        lines = read_lines(recorder.data)
        assert_numbers_have_no_hole(lines)
        assert assert_outages_are_told(lines) == 1


def test_work_that_a_dead_flusher_left_at_the_end_is_done_by_the_recorder(tmp_path: Path) -> None:
    """Killed together with the request to stop, so that nobody starts it again: all is sealed, exit 0, no ring."""
    with SimulatorProcess("--rate", "1000", "--markets", "3") as exchange:
        environment = environment_file(
            tmp_path, exchange, flusher__mode="process", flusher__nap_us=300_000, ring__path=str(ring_path(tmp_path))
        )
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(100)
            kill_nine(wait_helper(recorder, "flusher"))
            assert recorder.stop() == 0, recorder.log
        assert not ring_path(tmp_path).exists()
        assert len(stored_records(recorder.data)) > 100
        assert verify(recorder.data)[0] == 0
