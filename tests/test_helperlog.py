"""The log of helper processes: one form for all, that of `ssmd run`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from journal_writer import Journal
from recording import ROOT

from ssmd.helperlog import sayer

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_a_line_has_the_part_and_a_time_of_six_digits_and_no_empty_field(capsys: pytest.CaptureFixture[str]) -> None:
    sayer("publisher")("moved", level="warning", next_record=3, why=None)
    line = json.loads(capsys.readouterr().err)
    assert TIME.fullmatch(line.pop("timestamp"))
    assert line == {"part": "publisher", "event": "moved", "level": "warning", "next_record": 3}


def test_a_pipe_that_nobody_reads_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "closed").open("w") as closed:
        monkeypatch.setattr("sys.stderr", closed)
    sayer("publisher")("stopped")


@pytest.mark.parametrize(
    "arguments", [["ssmd.auditor", "ROOT"], ["ssmd.archiver", "--data", "ROOT"]], ids=["auditor", "archiver"]
)
def test_a_helper_says_that_it_stopped_as_asked(tmp_path: Path, arguments: list[str]) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.event("started")
    journal.write(".capnp.open")
    command = [sys.executable, "-m", *(str(journal.root) if word == "ROOT" else word for word in arguments)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as helper:
        with pytest.raises(subprocess.TimeoutExpired):
            helper.wait(1.5)  # it takes its signals first of all, once Python is up
        helper.send_signal(signal.SIGTERM)
        _, said = helper.communicate(timeout=30)
    last = json.loads(said.splitlines()[-1])
    assert (helper.returncode, last["event"], last["part"]) == (0, "stopped", arguments[0].removeprefix("ssmd."))
    assert TIME.fullmatch(last["timestamp"])
