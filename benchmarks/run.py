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
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bus  # noqa: E402
import decode  # noqa: E402
import latency  # noqa: E402
import path as path_bench  # noqa: E402
import publish as publish_bench  # noqa: E402
import reading  # noqa: E402
import whole  # noqa: E402

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


def ring(rounds: int, count: int) -> tuple[list[str], float, float]:
    """Rows for pushes and stamps; our push against the slots, our stamp against clock_gettime."""
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
        "bell": "the same, and a look at the bell each time",
        "slots": "push of 256 bytes, 1024 slots of 4 KiB",
        "line": "a cache line to the other CPU and back",
        "tick": "stamp (CPU ticks)",
        "clock_gettime": "clock_gettime(CLOCK_REALTIME)",
    }
    middle = {name: statistics.median(taken) for name, taken in values.items()}
    rows = ["| | ns (min - max) | ratio |", "|---|---|---|"]
    compared = (
        *(("ring", "slots"), ("bell", "slots"), ("slots", "slots"), ("line", "slots")),
        *(("tick", "clock_gettime"), ("clock_gettime", "clock_gettime")),
    )
    for name, against in compared:
        taken = values[name]
        span = f"{min(taken):.1f} - {max(taken):.1f}"
        rows.append(f"| {names[name]} | {middle[name]:.1f} ({span}) | {middle[name] / middle[against]:.2f} |")
    return rows, middle["ring"] / middle["slots"], middle["tick"] / middle["clock_gettime"]


@dataclass(frozen=True, slots=True)
class Bound:
    """One figure that must hold. `wanted`: what is aimed at beyond that, None = nothing."""

    what: str
    measured: float
    at_most: float
    wanted: float | None = None


def bound_rows(bounds: list[Bound]) -> list[str]:
    rows = ["| what | measured | at most | holds | wanted | reached |", "|---|---|---|---|---|---|"]
    for one in bounds:
        wanted = "" if one.wanted is None else f"{one.wanted:.3g}"
        reached = "" if one.wanted is None else ("yes" if one.measured <= one.wanted else "no")
        holds = "yes" if one.measured <= one.at_most else "**NO**"
        rows.append(f"| {one.what} | {one.measured:.3f} | {one.at_most:.3g} | {holds} | {wanted} | {reached} |")
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

    bounds: list[Bound] = []

    def path(title: str, peers: list[str], *, count: int, rounds: int, rate: float, tls: bool) -> Any:
        results = path_bench.run(peers, count=count, rounds=rounds, rate=rate, tls=tls)
        section(title, path_bench.report(results))
        return lambda peer: statistics.median(path_bench.ratios(results, "ssmd", peer))

    rounds = 1 if small else options.rounds
    rows, push, stamp = ring(rounds, 100_000 if small else 5_000_000)
    section("Ring and clock", rows)
    bounds.append(Bound("push of 256 bytes, of 1024 slots of 4 KiB", push, 0.5, 0.25))
    bounds.append(Bound("stamp, of clock_gettime", stamp, 0.5))
    rows, faster = decode.measure(2_000 if small else 200_000, rounds)
    section("Decode and encode", rows)
    bounds.append(Bound("decode + encode, of ujson + pycapnp", 1 / faster, 1 / 25))

    full, count = list(path_bench.FULL), 5_000 if small else 600_000
    for name, tls in (("ws", False), ("wss", True)):
        peers = [peer for peer in full if not (tls and peer == "floor")]
        ratio = path(
            f"Socket to file, socket always full, {name}", peers, count=count, rounds=rounds, rate=0.0, tls=tls
        )
        bounds.append(Bound(f"{name}, full, of picows (bytes only)", ratio("picows"), 0.7, 0.5))
        bounds.append(Bound(f"{name}, full, of picows + orjson", ratio("picows+orjson"), 1.0, 0.25))
        bounds.append(Bound(f"{name}, full, of websockets + json", ratio("websockets+json"), 1 / 16, 1 / 25))
        if not tls:
            bounds.append(Bound("ws, full, of the bare C floor (no parsing, no sync)", ratio("floor"), 10.0, 1.3))
    paced = ["ssmd", "picows", "picows+orjson", "websockets+json"]
    for name, tls in (("ws", False), ("wss", True)):
        ratio = path(
            f"Paced at 2,000 messages a second, one frame a segment, {name}",
            paced,
            count=500 if small else 16_000,
            rounds=1 if small else max(options.rounds // 2 + 1, 3),
            rate=2000.0,
            tls=tls,
        )
        bounds.append(Bound(f"{name}, paced, of picows (bytes only)", ratio("picows"), 1.0))
    rows, medians = latency.rows(1_000 if small else 16_000, 2000.0)
    section("Receive stamp to file, paced at 2,000 a second", rows)
    bounds.append(Bound("median ms from receive stamp to file, default nap", medians[3000], 2.0))
    bounds.append(Bound("the same with flusher.nap_us 100", medians[100], 0.1))
    markets = 200 if small else 10_000
    found = whole.measure(markets, 2000.0, 2.0 if small else 30.0, 1.0 if small else 65.0)  # past the first refresh
    section(f"A whole run with {markets:,} markets, 2,000 messages a second asked for", whole.rows(found))
    bounds.append(Bound("resident MB of the connector", found[0].rss_mb, 80.0))
    section("Publishing a journal to NATS JetStream", publish_bench.rates(0.2 if small else 1.0, rounds))
    span_s = 1.0 if small else publish_bench.SPAN_S
    section("Capture beside a publisher", publish_bench.capture(span_s, 1 if small else max(rounds // 2, 2)))
    section("Reading it back from the stream", reading.rows(0.2 if small else 1.0, 1 if small else rounds))
    section("The bus: messages to JetStream, confirmed", bus.measure(2_000 if small else 100_000, rounds))
    section("Bounds", bound_rows(bounds))
    if not small:
        (HERE / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
