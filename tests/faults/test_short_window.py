"""Publisher and bus are killed again and again, and the bus forgets message ids at once.

A stream remembers ids for two minutes, and one that forgets sooner than in 30 s is refused. Here that refusal is taken
out and the bus remembers for a tenth of a second, so that nothing but the publisher's own look at the stream keeps
records single. Whoever drops repeated ids must then be left with every record once, as a record and in a batch, and
the same id never has two contents.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from on_stream import Held, Stored, journal_records, make_stream, stream_messages
from recording import ROOT, Recorder, environment_file
from servers import NatsServer, dies_with_parent
from test_bus_faults import environment_of

from ssmd.simulator.process import SimulatorProcess

RATE = 400
WINDOW_S = 0.1
ANY_WINDOW = """
import os, sys
from ssmd.middleware.nats import stream
stream.LEAST_DUPLICATE_WINDOW_S = 0.0
from ssmd.publisher.__main__ import main
code = main(sys.argv[1:])
sys.stderr.flush()
os._exit(code)
"""


def publisher(environment: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A publisher that takes a stream however soon it forgets."""
    with (environment.parent / "publisher.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", ANY_WINDOW, "-e", str(environment), *arguments],
            cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log, preexec_fn=dies_with_parent(),
        )  # fmt: skip


@dataclass
class Told:
    """What came of a campaign."""

    kills: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    repeated: int = 0  # messages whose id stood in the stream before
    records: int = 0


def campaign(folder: Path, nats: NatsServer, *, seconds: float, seed: int) -> Told:
    """Records for so long while publisher, bus or both are killed; then all is published, and compared."""
    chance, told = random.Random(seed), Told()
    make_stream(nats.url, duplicate_window=WINDOW_S)
    with SimulatorProcess("--rate", str(RATE), "--markets", "6") as exchange:
        file = environment_file(folder, exchange, transport__type="memory", connector__check_books=False)
        with Recorder(file, exchange) as recorder:
            recorder.wait_live()
            environment = environment_of(folder, nats, publish="both", batch_records=8)
            end = time.monotonic() + seconds
            process = publisher(environment)
            while time.monotonic() < end:
                time.sleep(chance.uniform(0.0, 2.0))  # the instant is the point
                what = chance.choice(("publisher", "bus", "both"))
                told.kills[what] += 1
                if what != "publisher":
                    nats.kill()
                if what != "bus":
                    process.kill()
                    process.wait()
                time.sleep(chance.uniform(0.0, 1.0))
                if what != "publisher":
                    nats.start()
                if what != "bus":
                    process = publisher(environment)
                assert process.poll() is None, (folder / "publisher.log").read_text()
            process.kill()
            process.wait()
            assert recorder.stop() == 0, recorder.log
    last = publisher(environment, "--once")
    assert last.wait(120) == 0, (folder / "publisher.log").read_text()[-4000:]
    compare(stream_messages(nats.url), journal_records(folder / "data"), told)
    return told


def compare(held: list[Held], records: list[Stored], told: Told) -> None:
    """The stream without repeated ids is the journal, twice: as records and as batches."""
    content: dict[str, Held] = {}
    for message in held:
        first = content.setdefault(message.message_id, message)
        assert (first.subject, first.payload) == (message.subject, message.payload), (
            f"{message.message_id}: two contents"
        )
    told.messages, told.repeated, told.records = len(held), len(held) - len(content), len(records)
    single = [message for message in content.values() if ".batch." not in message.subject]
    by_number = {int(message.message_id.rpartition(":")[2]): message.payload for message in single}
    assert len(by_number) == len(single)
    assert by_number == {record.number: record.raw for record in records}
    for kind in {record.kind for record in records}:
        batches = [message for message in content.values() if message.subject == f"md.batch.{kind}"]
        batches.sort(key=lambda message: int(message.headers["Ssmd-First"]))
        wanted = b"".join(record.raw for record in records if record.kind == kind)
        assert b"".join(message.payload for message in batches) == wanted, kind


@pytest.mark.slow
def test_killed_publishers_and_buses_leave_every_record_once_although_the_bus_forgets_ids_at_once(
    tmp_path: Path,
) -> None:
    with NatsServer(tmp_path / "nats") as nats:
        told = campaign(tmp_path, nats, seconds=60.0, seed=1)
    assert min(told.kills.values()) > 0
    print(json.dumps({**vars(told), "kills": dict(told.kills)}))
