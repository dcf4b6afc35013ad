"""Local copies go while the bus is behind: never one that holds a record that is not published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from journal_writer import Journal
from on_stream import assert_stream_is_journal, journal_records, make_stream, stream_messages
from recording import ROOT, segment_files, wait_until
from servers import NatsServer
from test_bus_faults import environment_of, publish, publish_rest

from ssmd.journal.identity import make_identity
from ssmd.publisher import cursor

SEGMENTS, TRADES = 6, 200


def archive(environment: Path, folder: Path) -> None:
    """Copies what is sealed, then removes what may go, at once."""
    folder.mkdir(exist_ok=True)
    changes = ["--set", f"storage.archive={folder}", "--set", "storage.retain_days=0"]
    done = subprocess.run(
        [sys.executable, "-m", "ssmd.archiver", "-e", str(environment), "--once", *changes],
        cwd=ROOT, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def first_numbers(data: Path) -> list[int]:
    """Of the segments that are here."""
    return [int(path.name.split(".")[0].rsplit("-", 1)[1]) for path in segment_files(data)]


def test_a_segment_that_the_publisher_has_not_passed_stays_however_it_ended(tmp_path: Path) -> None:
    data = tmp_path / "data"
    journal = Journal(data / "kalshi")
    for _ in range(SEGMENTS):
        for _ in range(TRADES):
            journal.trade(journal.number + 1)
        journal.seal()
    make_identity(journal.root)
    records = journal_records(data)
    begins = [1 + TRADES * i for i in range(SEGMENTS)]
    with NatsServer(tmp_path / "nats") as nats:
        make_stream(nats.url, discard="new", max_bytes=200_000, duplicate_window=120.0)  # room for a part of it
        environment = environment_of(tmp_path, nats)
        archive(environment, tmp_path / "archive")
        assert first_numbers(data) == begins, "nothing was published"

        stuck = publish(environment)
        assert stuck.stderr is not None
        next(line for line in stuck.stderr if b'"trouble": "' in line and b"full" in line)
        saved = cursor.path_of(journal.root)
        number = wait_until(lambda: saved.exists() and json.loads(saved.read_text())["number"], what="a cursor")
        stuck.kill()
        stuck.communicate()
        archive(environment, tmp_path / "archive")
        stay = [first for first in begins if first + TRADES - 1 > number]
        assert first_numbers(data) == stay and TRADES < number < TRADES * (SEGMENTS - 1)

        make_stream(nats.url, discard="new", max_bytes=50_000_000, duplicate_window=120.0)
        publish_rest(environment)
        archive(environment, tmp_path / "archive")
        assert first_numbers(data) == begins[-1:], "the newest is what a start after a crash needs"
        assert_stream_is_journal(stream_messages(nats.url), records)
