"""From the receive stamp to the file: how long a record waits until it is written and its commit can be seen.

    python benchmarks/latency.py [--messages N] [--rate R] [--nap-us US]

The real path (ssmd_path.py) records a paced feed on one core. This process watches the ring's commit line from the
other one, in a loop without pauses, and notes when which record number was first seen as written. Afterwards the
receive stamps are read from the journal. What is measured so includes the pause between two looks, some microseconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from pathlib import Path

import path as path_bench

from ssmd.journal.paths import find
from ssmd.journal.reader import Reader
from ssmd.native.ring import Ring, Role

HERE = Path(__file__).resolve().parent


def _watch(child: subprocess.Popen[bytes], ring_path: Path) -> tuple[list[int], list[int]]:
    """When (UTC ns) each commit was seen, and its last record number."""
    while not ring_path.exists():
        time.sleep(0.01)
    seen_ns: list[int] = []
    numbers: list[int] = []
    last = 0
    with Ring.open(ring_path, role=Role.OBSERVER, create=False) as ring:
        while child.poll() is None:
            for _ in range(200):
                number = ring.commit().last_number
                if number != last:
                    seen_ns.append(time.time_ns())
                    numbers.append(number)
                    last = number
    return seen_ns, numbers


def measure(count: int, rate: float, nap_us: int) -> list[float]:
    """The wait of each record that came from the exchange, in ms."""
    with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as folder:
        port: multiprocessing.Queue[int] = multiprocessing.Queue()
        server = multiprocessing.Process(target=path_bench.serve, args=(port, count, rate, None, 1), daemon=True)
        server.start()
        url = f"ws://127.0.0.1:{port.get(timeout=120)}/trade-api/ws/v2"
        output = Path(folder) / f"latency-{os.getpid()}"
        command = [sys.executable, str(HERE / "peers.py"), "ssmd", url, str(output)]
        pinned = ["taskset", "-c", "1", *command] if shutil.which("taskset") else command
        environment = {**os.environ, "SSMD_BENCH_NAP_US": str(nap_us)}
        child = subprocess.Popen(pinned, stdout=subprocess.DEVNULL, env=environment)
        seen_ns, numbers = _watch(child, Path(f"/dev/shm/ssmd-bench-{output.name}.ring"))
        server.kill()
        waits = []
        for record in Reader(find([output])):
            at = bisect_left(numbers, record.view.number)
            if record.frame is not None and at < len(numbers):
                waits.append((seen_ns[at] - record.view.recv_ns) / 1e6)
    return waits


def rows(count: int, rate: float, naps_us: tuple[int, ...] = (3000, 100)) -> tuple[list[str], dict[int, float]]:
    """Markdown rows for each nap, and the medians in ms."""
    lines = ["| flusher.nap_us | median ms | p90 | p99 | longest | records |", "|---|---|---|---|---|---|"]
    medians = {}
    for nap_us in naps_us:
        waits = sorted(measure(count, rate, nap_us))
        medians[nap_us] = statistics.median(waits)
        at = [waits[int(share * (len(waits) - 1))] for share in (0.9, 0.99, 1.0)]
        lines.append(f"| {nap_us} | {medians[nap_us]:.3f} | {at[0]:.3f} | {at[1]:.3f} | {at[2]:.3f} | {len(waits):,} |")
    return lines, medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--nap-us", type=int, default=3000)
    options = parser.parse_args()
    print("\n".join(rows(options.messages, options.rate, (options.nap_us,))[0]))


if __name__ == "__main__":
    main()
