"""The publisher: records a second and CPU a record, and what publishing costs the capture.

    python benchmarks/publish.py [--seconds S] [--rounds N] [--only rates|capture]

Rates: a journal made by the recorder from the simulator, published from its first record to its last into new streams
of a real nats-server on loopback, one message a record and in batches, in turn. Reading the journal is included; CPU
is that of all threads of the publisher, beside it that of the server.

Capture: the recorder at a fixed rate, with a publisher and without one, in turn. CPU is that of the recorder's own
process; the publisher is another process and pays for itself.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ssmd.journal.identity import identity
from ssmd.middleware.nats import NatsTransport
from ssmd.publisher import Options, Publisher, cursor
from ssmd.publisher.plan import Mode

HERE = Path(__file__).resolve().parent
SPAN_S = 6.0  # for which the capture is looked at
RATE = 5000  # messages a second meanwhile


class Rate(NamedTuple):
    """One journal, published once."""

    records: int
    messages: int
    wall_s: float
    cpu_s: float  # of the publisher
    server_cpu_s: float


NOT_RUN = ["not run: nats-server is not installed (scripts/install-test-tools.sh does it)"]


def server_program() -> str | None:
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")


@contextmanager
def nats_server(folder: Path) -> Iterator[tuple[str, int]]:
    """URL and process of a server with JetStream."""
    program = server_program()
    assert program is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                time.sleep(0.02)
        yield f"nats://127.0.0.1:{port}", server.pid
    finally:
        server.kill()
        server.wait()


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, its children not included."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def recorder(data: Path, rate: float, url: str | None) -> subprocess.Popen[str]:
    """`ssmd run` against its own simulator; publishes where there is a URL."""
    settings = {"exchange.simulator.rate": str(rate), "health.address": "127.0.0.1:0", "connector.check_books": "false"}
    if url is not None:
        settings |= {"transport.type": "nats", "transport.url": url}
    command = [sys.executable, "-m", "ssmd", "run", "-e", "kalshi-local", "--data", str(data)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def health_of(process: subprocess.Popen[str]) -> str:
    """Where it serves /metrics."""
    assert process.stderr is not None
    return next(found[1] for line in process.stderr if (found := re.search(r'"address": "([^"]+)"', line)))


def frames(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        found = re.search(r"^ssmd_frames_received_total (\S+)", page.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=60)[0]


# ---- rates -----------------------------------------------------------------------------------------------------------


def publish(root: Path, url: str, server: int, mode: Mode, stream: str) -> Rate:
    bus = NatsTransport(url, stream=stream, prefix=stream)
    target = cursor.Target(identity(root), url, stream, stream, mode)
    publisher = Publisher(root, bus, target, Options(stream, mode))
    bus.ensure_stream([f"{stream}.>"])
    cursor.save(root, target, cursor.Cursor())
    publisher = Publisher(root, bus, target, Options(stream, mode))
    began, cpu, server_cpu = time.perf_counter(), time.process_time(), cpu_of(server)
    while publisher.step(time.monotonic()) == 0.0:
        pass
    taken = time.perf_counter() - began, time.process_time() - cpu, cpu_of(server) - server_cpu
    report = publisher.report()
    assert report.lag_records == 0 and report.trouble is None, report
    publisher.close()
    bus.close()
    cursor.path_of(root).unlink()
    return Rate(int(report.counters["records"]), int(report.counters["messages"]), *taken)


def rates(seconds: float, rounds: int) -> list[str]:
    """Rows of a table."""
    if server_program() is None:
        return NOT_RUN
    with tempfile.TemporaryDirectory() as folder, nats_server(Path(folder) / "nats") as (url, server):
        data = Path(folder) / "data"
        recording = recorder(data, 0, None)
        address = health_of(recording)
        while not frames(address):
            time.sleep(0.05)
        time.sleep(seconds)
        stop(recording)
        modes: tuple[Mode, ...] = ("records", "batches")
        taken: dict[Mode, list[Rate]] = {mode: [] for mode in modes}
        for turn in range(rounds):
            for mode in modes:
                taken[mode].append(publish(data / "kalshi", url, server, mode, f"{mode}{turn}"))
    rows = ["| | records | records/s (min - max) | CPU µs a record | of nats-server |", "|---|---|---|---|---|"]
    names = {"records": "one message a record", "batches": "batches of up to 256"}
    for mode, found in taken.items():
        per_s = sorted(rate.records / rate.wall_s for rate in found)
        cpu = statistics.median(rate.cpu_s / rate.records * 1e6 for rate in found)
        theirs = statistics.median(rate.server_cpu_s / rate.records * 1e6 for rate in found)
        speed = f"{statistics.median(per_s):,.0f} ({per_s[0]:,.0f} - {per_s[-1]:,.0f})"
        rows.append(f"| {names[mode]} | {found[0].records:,} | {speed} | {cpu:.2f} | {theirs:.2f} |")
    return rows


# ---- capture ---------------------------------------------------------------------------------------------------------


def capture_once(folder: Path, url: str | None, span_s: float) -> tuple[float, float]:
    """CPU µs of the recorder a message, and messages a second, over a span in which it only records."""
    process = recorder(folder, RATE, url)
    address = health_of(process)
    while frames(address) < RATE:  # it is past its start
        time.sleep(0.1)
    began, cpu, count = time.monotonic(), cpu_of(process.pid), frames(address)
    time.sleep(span_s)
    taken_s, cpu_s, received = time.monotonic() - began, cpu_of(process.pid) - cpu, frames(address) - count
    stop(process)
    return cpu_s / received * 1e6, received / taken_s


def capture(span_s: float, rounds: int) -> list[str]:
    """Rows of a table."""
    if server_program() is None:
        return NOT_RUN
    taken: dict[str, list[tuple[float, float]]] = {"without a publisher": [], "with a publisher": []}
    with tempfile.TemporaryDirectory() as folder, nats_server(Path(folder) / "nats") as (url, _):
        for turn in range(rounds):
            for name, bus in (("without a publisher", None), ("with a publisher", url)):
                data = Path(folder) / f"data{turn}{'p' if bus else ''}"
                taken[name].append(capture_once(data, bus, span_s))
    rows = ["| recorder | CPU µs a message (min - max) | messages/s |", "|---|---|---|"]
    for name, found in taken.items():
        cpu = sorted(one for one, _ in found)
        rate = statistics.median(one for _, one in found)
        rows.append(f"| {name} | {statistics.median(cpu):.1f} ({cpu[0]:.1f} - {cpu[-1]:.1f}) | {rate:,.0f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of recording for the journal that is published")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("rates", "capture"))
    options = parser.parse_args()
    if options.only != "capture":
        print("\n".join(["", "Publishing a journal", "", *rates(options.seconds, options.rounds)]), flush=True)
    if options.only != "rates":
        print("\n".join(["", "Capture beside it", "", *capture(SPAN_S, options.rounds)]), flush=True)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
