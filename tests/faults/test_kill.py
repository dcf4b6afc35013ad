"""SIGKILL at random instants: what was in the ring is in the files, once, and the time in between is told.

The recorder, its flusher and its archiver are killed while the simulator sends. Before each restart the test reads the
ring's file itself; at the end the files must hold every one of those records, and all numbers without a hole.
"""

from __future__ import annotations

import random
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
    helper,
    kill_nine,
    ring_path,
    stored_records,
    wait_helper,
)
from recording import Recorder, assert_numbers_have_no_hole, environment_file, events, read_lines, verify, wait_until

from ssmd.simulator.process import SimulatorProcess

VICTIMS = ("connector", "flusher", "both", "connector with thread", "archiver")


@dataclass
class Campaign:
    """One journal whose recorder is killed again and again."""

    recorder: Recorder
    chance: random.Random
    ring: Path
    held: dict[int, bytes] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def cycle(self, victim: str) -> None:
        """Starts a run, kills the victim at a random instant, and ends the run by a kill in any case."""
        recorder, chance = self.recorder, self.chance
        mode = "thread" if victim == "connector with thread" else "process"
        nap_us = chance.choice([100, 1000, 50_000, 300_000])  # how much waits in the ring: from nothing to a lot
        recorder.arguments = ("--set", f"flusher.mode={mode}", "--set", f"flusher.nap_us={nap_us}")
        recorder.start()
        if chance.random() < 0.7:
            self.wait_log("subscribed")
            time.sleep(chance.uniform(0, 0.4))
        else:  # somewhere in the start
            self.wait_log("health")
            time.sleep(chance.uniform(0, 0.3))
        self.kills[victim] += 1
        if victim in ("flusher", "archiver") and (pid := helper(recorder, victim)) is not None:
            kill_nine(pid)
            wait_helper(recorder, victim, other_than=pid)  # it is started again
            time.sleep(chance.uniform(0, 0.4))
            self.kills["connector"] += 1
        flusher = helper(recorder, "flusher") if victim == "both" else None
        if flusher is not None and chance.random() < 0.5:
            kill_nine(flusher)
        recorder.kill()
        if flusher is not None:
            kill_nine(flusher)
        self.held |= held_in_ring(self.ring)

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
        flusher__rotate_bytes=256 * 1024,
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
    return {
        "kills": dict(run.kills),
        "runs": len(events(lines, "started")),
        "outages": outages,
        "records": len(lines),
        "frames": frames,
        "held in rings": len(run.held),
    }


def test_kills_at_random_instants_lose_nothing_that_the_ring_held(tmp_path: Path) -> None:
    """Two kills of each kind: connector, flusher, both, connector with its flusher thread, archiver."""
    with SimulatorProcess("--rate", "3000", "--markets", "5") as exchange:
        run = campaign(tmp_path, exchange, seed=7)
        for victim in VICTIMS * 2:
            run.cycle(victim)
        assert judge(run, exchange)["frames"]


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing_that_the_ring_held(tmp_path: Path) -> None:
    with SimulatorProcess("--rate", "3000", "--markets", "5") as exchange:
        run = campaign(tmp_path, exchange, seed=2026)
        while run.kills.total() < 200:
            run.cycle(run.chance.choice(VICTIMS))
        print(judge(run, exchange))
