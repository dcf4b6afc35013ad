"""A whole `ssmd run` with its helpers: CPU a message and resident memory, process by process.

    python benchmarks/whole.py [--markets N] [--rate R] [--seconds S]

The environment is kalshi-local: the simulator sends to as many markets as asked (it is not counted: it stands for the
exchange). CPU is that of all threads over the measured time, from /proc; memory is read at its end: resident (RSS), and
the share that is the process's own where pages are shared with others (PSS).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the run over the measured time."""

    name: str
    cpu_us: float  # a message
    rss_mb: float
    pss_mb: float


def cpu_ns(pid: int) -> int:
    """Of all threads that live."""
    return sum(
        int((task / "schedstat").read_text().split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (task / "schedstat").exists()
    )


def memory_mb(pid: int) -> tuple[float, float]:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = [re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for name in ("Rss", "Pss")]
    return tuple(int(match[1]) / 1024 if match else 0.0 for match in found)  # type: ignore[return-value]


def members(pid: int) -> dict[str, int]:
    """The connector and its helpers, by name; what lives only for a moment is left out."""
    found = {"connector": pid}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        module = next((word.decode() for word in words if word.startswith(b"ssmd.")), "")
        if module and not module.endswith(("simulator", "lookup")):
            found[module.removeprefix("ssmd.")] = int(child)
    return found


def metric(address: str, name: str) -> float:
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    match = re.search(rf"^{name} (\S+)", text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def measure(markets: int, rate: float, seconds: float, settle_s: float = 8.0) -> list[Process]:
    with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as folder:
        changes = {
            "health.address": "127.0.0.1:0",
            "ring.path": f"/dev/shm/ssmd-bench-whole-{os.getpid()}.ring",
            "exchange.simulator.markets": markets,
            "exchange.simulator.rate": rate,
            "subscriptions": "[{channels: [orderbook_delta, trade, ticker], all: true}]",
        }
        command = [sys.executable, "-m", "ssmd", "run", "-e", "kalshi-local", "--data", folder]
        for name, value in changes.items():
            command += ["--set", f"{name}={value}"]
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert run.stderr is not None
        try:
            address = next(said["address"] for line in run.stderr if "address" in (said := json.loads(line)))
            deadline = time.monotonic() + 120
            while metric(address, "ssmd_frames_received_total") < markets and time.monotonic() < deadline:
                time.sleep(0.2)  # a snapshot for each market
            time.sleep(settle_s)
            before = {name: cpu_ns(pid) for name, pid in members(run.pid).items()}
            frames = metric(address, "ssmd_frames_received_total")
            time.sleep(seconds)
            frames = metric(address, "ssmd_frames_received_total") - frames
            return [
                Process(name, (cpu_ns(pid) - before[name]) / 1e3 / frames, *memory_mb(pid))
                for name, pid in members(run.pid).items()
                if name in before
            ]
        finally:
            run.terminate()
            run.communicate(timeout=30)


def rows(found: list[Process]) -> list[str]:
    """Markdown rows."""
    lines = ["| process | CPU µs a message | resident MB | PSS MB |", "|---|---|---|---|"]
    lines += [f"| {one.name} | {one.cpu_us:.1f} | {one.rss_mb:.1f} | {one.pss_mb:.1f} |" for one in found]
    total = [sum(getattr(one, name) for one in found) for name in ("cpu_us", "rss_mb", "pss_mb")]
    lines.append(f"| all | {total[0]:.1f} | {total[1]:.1f} | {total[2]:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markets", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    print("\n".join(rows(measure(options.markets, options.rate, options.seconds))))


if __name__ == "__main__":
    main()
