"""Reading back what was published: records a second and CPU a record, of a stream of single records and one of batches.

    python benchmarks/reading.py [--seconds S] [--rounds N]

A journal made by the recorder from the simulator, published whole into two streams of a real nats-server on loopback.
Three readers, in turn: the bus alone (every message of the stream, none looked at), `ssmd verify --against` (the
comparison with the journal, whose own reading is counted with it), `ssmd tail --from nats` from the beginning without
the files. CPU is that of all threads of the reader, beside it that of the server.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from publish import NOT_RUN, cpu_of, frames, health_of, nats_server, publish, recorder, server_program, stop

from ssmd.against import compare
from ssmd.cli.against import GivenJournal, journals_of
from ssmd.consumer import BusTail, Tail, Wanted
from ssmd.copies import Stream
from ssmd.journal.paths import find
from ssmd.middleware.interfaces import Start
from ssmd.middleware.nats import NatsTransport
from ssmd.middleware.stored import stored_now
from ssmd.publisher.plan import Mode

MODES: dict[Mode, str] = {"records": "single records", "batches": "batches"}


class Reading(NamedTuple):
    """One stream, read once."""

    records: int
    wall_s: float
    cpu_s: float
    server_cpu_s: float


def bus_alone(bus: NatsTransport, journal: GivenJournal, mode: Mode, records: int) -> None:
    assert sum(1 for _ in stored_now(bus, Start.beginning())) <= records


def against(bus: NatsTransport, journal: GivenJournal, mode: Mode, records: int) -> None:
    source = Stream(mode, bus, prefix=mode, journal=journal.identity, forms=(mode,))
    (outcome,) = compare(journal.records, [source], first=1)
    assert (outcome.equal, outcome.records) == (True, records), outcome


def tail(bus: NatsTransport, journal: GivenJournal, mode: Mode, records: int) -> None:
    given = Tail(BusTail(bus, mode, Start.beginning(), Wanted()))
    for number in range(1, records + 1):
        record = given.next(10.0)
        assert record is not None and record.number == number


READERS: dict[str, Callable[[NatsTransport, GivenJournal, Mode, int], None]] = {
    "the bus alone": bus_alone,
    "verify --against": against,
    "tail --from nats": tail,
}


def read(name: str, url: str, server: int, journal: GivenJournal, mode: Mode, records: int) -> Reading:
    began, cpu, server_cpu = time.perf_counter(), time.process_time(), cpu_of(server)
    bus = NatsTransport(url, stream=mode, prefix=mode)
    READERS[name](bus, journal, mode, records)
    bus.close()
    return Reading(records, time.perf_counter() - began, time.process_time() - cpu, cpu_of(server) - server_cpu)


def record(folder: Path, seconds: float) -> Path:
    """A journal of some seconds of the simulator; its folder."""
    recording = recorder(folder, 0, None)
    address = health_of(recording)
    while not frames(address):
        time.sleep(0.05)
    time.sleep(seconds)
    stop(recording)
    return folder / "kalshi"


def measure(seconds: float, rounds: int) -> dict[tuple[str, Mode], list[Reading]]:
    taken: dict[tuple[str, Mode], list[Reading]] = {}
    with tempfile.TemporaryDirectory() as folder, nats_server(Path(folder) / "nats") as (url, server):
        root = record(Path(folder) / "data", seconds)
        (journal,) = journals_of(find([root]))
        records = {mode: publish(root, url, server, mode, mode).records for mode in MODES}
        for _ in range(rounds):
            for name in READERS:
                for mode, count in records.items():
                    taken.setdefault((name, mode), []).append(read(name, url, server, journal, mode, count))
    return taken


def rows(seconds: float, rounds: int) -> list[str]:
    """Rows of a table."""
    if server_program() is None:
        return NOT_RUN
    found = ["| | records | records/s (min - max) | CPU us a record | of nats-server |", "|---|---|---|---|---|"]
    for (name, mode), readings in measure(seconds, rounds).items():
        per_s = sorted(reading.records / reading.wall_s for reading in readings)
        cpu = statistics.median(reading.cpu_s / reading.records * 1e6 for reading in readings)
        theirs = statistics.median(reading.server_cpu_s / reading.records * 1e6 for reading in readings)
        speed = f"{statistics.median(per_s):,.0f} ({per_s[0]:,.0f} - {per_s[-1]:,.0f})"
        found.append(f"| {name}, {MODES[mode]} | {readings[0].records:,} | {speed} | {cpu:.2f} | {theirs:.2f} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of recording for the journal that is read back")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("\n".join(rows(options.seconds, options.rounds)))


if __name__ == "__main__":
    main()
