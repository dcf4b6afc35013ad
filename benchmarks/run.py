"""All benchmarks in one run; writes results.md beside this file. `--small` only shows that they work (CI).

Ratios are what counts: every table compares programs that ran in turn on the same machine within the same minutes.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bus  # noqa: E402
import decode  # noqa: E402
import path as path_bench  # noqa: E402
import publish as publish_bench  # noqa: E402

ROOT = HERE.parent
RING_SOURCES = sorted(p for p in (ROOT / "csrc").glob("*.c"))
PEERS = ("picows", "orjson", "aiohttp", "websockets", "websocket-client", "ujson", "pycapnp", "gevent")


def touch_memory(share: float = 0.6) -> None:
    """Writes to most of the free memory once, and gives it back.

    A virtual machine gets its memory from the host page by page at the first touch. Whoever touches a page first pays
    for it (up to 1 us a message here), which would be the program that happens to fill fresh page cache.
    """
    memory = Path("/proc/meminfo").read_text().splitlines()
    free_kb = next(int(line.split()[1]) for line in memory if "MemAvailable" in line)
    size = int(free_kb * share) >> 20 << 20
    code = f"import mmap\nm=mmap.mmap(-1,{size}<<10)\nfor i in range(0,{size}<<10,4096): m[i]=1"
    subprocess.run([sys.executable, "-c", code], check=False)


def machine() -> list[str]:
    about = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in about if "model name" in line), "?")
    clock = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    source = clock.read_text().strip() if clock.exists() else "?"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PEERS)
    return [
        f"{datetime.date.today().isoformat()}, {cpu}, {os.cpu_count()} CPUs, Linux {platform.release()}, "
        f"clocksource {source}, load {os.getloadavg()[0]:.1f} at the start.",
        f"CPython {platform.python_version()}, {versions}.",
    ]


def ring(rounds: int, count: int) -> list[str]:
    """Rows for pushes and stamps."""
    program = ROOT / "build" / "bench-ring"
    program.parent.mkdir(exist_ok=True)
    sources = [str(HERE / "ring.c"), *map(str, RING_SOURCES)]
    subprocess.run(
        ["cc", "-O3", "-std=gnu11", "-I", str(ROOT / "csrc"), "-o", str(program), *sources, "-pthread"], check=True
    )
    output = subprocess.run([str(program), str(rounds), str(count)], check=True, capture_output=True, text=True).stdout
    values: dict[str, list[float]] = {}
    for line in output.splitlines():
        name, ns, _ = line.split()
        values.setdefault(name, []).append(float(ns))
    names = {
        "ring": "push of 256 bytes, our ring",
        "slots": "push of 256 bytes, 1024 slots of 4 KiB",
        "tick": "stamp (CPU ticks)",
        "clock_gettime": "clock_gettime(CLOCK_REALTIME)",
    }
    middle = {name: statistics.median(taken) for name, taken in values.items()}
    rows = ["| | ns (min - max) | ratio |", "|---|---|---|"]
    compared = (("ring", "slots"), ("slots", "slots"), ("tick", "clock_gettime"), ("clock_gettime", "clock_gettime"))
    for name, against in compared:
        taken = values[name]
        span = f"{min(taken):.1f} - {max(taken):.1f}"
        rows.append(f"| {names[name]} | {middle[name]:.1f} ({span}) | {middle[name] / middle[against]:.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a quick look that everything runs; writes no results.md")
    parser.add_argument("--rounds", type=int, default=5, help="of each program, interleaved")
    options = parser.parse_args()
    small: bool = options.small
    lines = [
        "# Benchmark results",
        "",
        "Made by `make bench`. What is measured and how: the head of each file here.",
        "",
        *machine(),
    ]
    if not small:
        touch_memory()
    path_bench.build_floor()

    def section(title: str, rows: list[str]) -> None:
        lines.extend(["", f"## {title}", "", *rows])
        print("\n".join(["", title, *rows]), flush=True)

    rounds = 1 if small else options.rounds
    full = list(path_bench.FULL)
    section("Ring and clock", ring(rounds, 100_000 if small else 5_000_000))
    section("Decode and encode", decode.measure(2_000 if small else 200_000, rounds))
    count = 5_000 if small else 300_000
    results = path_bench.run(full, count=count, rounds=rounds, rate=0.0, tls=False)
    section("Socket to file, socket always full, ws", path_bench.report(results))
    results = path_bench.run([p for p in full if p != "floor"], count=count, rounds=rounds, rate=0.0, tls=True)
    section("Socket to file, socket always full, wss", path_bench.report(results))
    paced = ["ssmd", "picows", "picows+orjson", "aiohttp+orjson", "websockets+json", "websocket-client+ujson"]
    results = path_bench.run(
        paced,
        count=500 if small else 10_000,
        rounds=1 if small else max(options.rounds // 2, 2),
        rate=2000.0,
        tls=False,
    )
    section("Paced at 2,000 messages a second, one frame a segment, ws", path_bench.report(results))
    section("Publishing a journal to NATS JetStream", publish_bench.rates(0.2 if small else 1.0, rounds))
    span_s = 1.0 if small else publish_bench.SPAN_S
    section("Capture beside a publisher", publish_bench.capture(span_s, 1 if small else max(rounds // 2, 2)))
    section("The bus: messages to JetStream, confirmed", bus.measure(2_000 if small else 100_000, rounds))
    if not small:
        (HERE / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
