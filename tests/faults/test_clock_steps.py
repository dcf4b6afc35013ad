"""The clock of the machine is set forward and back by an hour, and by days, while it is recorded.

Only that of the recorder and its helpers: a small library (clock.c) stands between them and the system. Nothing may be
taken for silence or for a dead flusher, no number is negative, and copies stay equal: numbers order the records, not
times. (Retention asks the archive again whatever the clock says: tests/test_archiver_storage.py.)
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
from recording import (
    Recorder,
    assert_journal_is_ledger,
    assert_numbers_have_no_hole,
    environment_file,
    events,
    gaps,
    read_lines,
    segment_bytes,
    segment_files,
    ssmd,
    wait_until,
)
from servers import NatsServer

from ssmd.simulator.process import SimulatorProcess

HOUR, DAY = 3600, 86_400
STEPS = (HOUR, 0, -HOUR, 0, 2 * DAY, 0)
FORWARD = 3  # of them
ROTATE_BYTES = 262_144


class Clock:
    """The system clock as the recorder sees it."""

    def __init__(self, folder: Path) -> None:
        library = folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run([*command, "-ldl"], check=True)
        self._file = folder / "clock"
        self.set(0)
        self.variables = {"LD_PRELOAD": str(library), "SSMD_TEST_CLOCK": str(self._file)}

    def set(self, ahead_s: int) -> None:
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", ahead_s))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def test_a_clock_that_is_stepped_while_recording_loses_nothing(tmp_path: Path, clock: Clock) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    with NatsServer(tmp_path / "nats") as nats, SimulatorProcess("--rate", "1000", "--markets", "5") as exchange:
        environment = environment_file(
            tmp_path,
            exchange,
            transport={"type": "nats", "url": nats.url},
            storage__archive=str(archive),
            flusher={"sync_interval_ms": 50, "rotate_bytes": ROTATE_BYTES, "rotate_minutes": 60},
        )
        with Recorder(environment, exchange, env=clock.variables) as recorder:
            recorder.wait_live()
            for ahead_s in STEPS:
                clock.set(ahead_s)
                assert_well_through(recorder, frames=1300)
            wait_until(lambda: recorder.get("/healthz")[0] == 200, what="healthy")
            assert recorder.stop() == 0, recorder.log
            assert recorder.log.count("the clock of this machine was stepped") >= len(STEPS)
        exchange.stop()
        lines = read_lines(recorder.data)
        assert len(events(lines, "opened")) == 1 and not gaps(lines)
        assert_numbers_have_no_hole(lines)
        assert_journal_is_ledger(lines, exchange.ledger(), at_least=3000)
        assert_copies_are_equal(recorder, nats, archive)
        small = [path for path in segment_files(recorder.data) if len(segment_bytes(path)) < ROTATE_BYTES // 2]
        assert len(small) <= 3 * FORWARD + 1, "a step is no reason for many segments"


def assert_well_through(recorder: Recorder, *, frames: int) -> None:
    """So many frames more come in; no number is negative, and nothing is said to last for as long as the step."""
    goal = recorder.metric("ssmd_frames_received_total") + frames
    while recorder.metric("ssmd_frames_received_total") < goal:
        recorder.fail_if_dead()
        page = recorder.get("/metrics")[1]
        assert not re.findall(r"^\S+ -\d.*", page, re.MULTILINE)
        said = recorder.get("/healthz")[1]  # empty where it took too long
        for check in json.loads(said)["checks"].values() if said else ():
            spans_s = [int(span) for span in re.findall(r"(?:^| )(-?\d+)(?:\.\d)? s\b", check["detail"] or "")]
            assert all(0 <= span_s < HOUR // 2 for span_s in spans_s), check


def assert_copies_are_equal(recorder: Recorder, nats: NatsServer, archive: Path) -> None:
    done = ssmd(
        "verify", "--json", str(recorder.data), "--against", f"{nats.url}/SSMD", "--against", f"file://{archive}"
    )
    report = json.loads(done.stdout)
    assert report["complete"], done.stdout.decode()
    (journal,) = report["against"]
    assert all(target["equal"] for target in journal["targets"]), journal
