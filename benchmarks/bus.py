"""The bus alone: how fast messages of 300 bytes reach a JetStream stream on loopback, confirmed, and at what cost.

    python benchmarks/bus.py [--records N] [--rounds N]

Beside ours in the same run: nats-py's own `js.publish` awaited one by one (the script that everybody writes), and its
`js.publish_async` with as many on their way as ours has. All store the same bytes with the same message ids in the same
stream, and wait until everything is confirmed. CPU is counted for the publisher's process and for the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nats

from ssmd.middleware.interfaces import Message
from ssmd.middleware.nats import NatsTransport

RECORD_BYTES = 300
MARKETS = 200
BATCH_RECORDS = 64
WINDOW = 4096  # of nats-py's own pipelined publisher: what ours has
AWAITED_SHARE = 10  # the awaited one gets this part of the records, or nobody would wait for it


@dataclass(frozen=True)
class Result:
    """Of one run: a second's records, and CPU us a record of publisher and server."""

    per_s: float
    cpu_us: float
    server_us: float


class Server:
    """nats-server with JetStream in a folder of its own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ssmd-bench-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [program() or "", "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(self._folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def cpu_s(self) -> float:
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def program() -> str | None:
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")


def messages(name: str, count: int, size: int) -> list[Message]:
    payload = b"x" * size
    return [Message(f"bench.trade.KX-{i % MARKETS}", payload, message_id=f"{name}:{i}") for i in range(count)]


def ours(transport: NatsTransport, sent: list[Message]) -> None:
    for first in range(0, len(sent), 2 * WINDOW):
        transport.publish_all(sent[first : first + 2 * WINDOW])


def awaited(url: str, sent: list[Message]) -> None:
    async def run() -> None:
        client = await nats.connect(url)
        stream = client.jetstream()
        for message in sent:
            await stream.publish(message.subject, message.payload, headers={"Nats-Msg-Id": str(message.message_id)})
        await client.close()

    asyncio.run(run())


def pipelined(url: str, sent: list[Message]) -> None:
    async def run() -> None:
        client = await nats.connect(url)
        stream = client.jetstream(publish_async_max_pending=WINDOW)
        for message in sent:
            await stream.publish_async(
                message.subject, message.payload, wait_stall=60.0, headers={"Nats-Msg-Id": str(message.message_id)}
            )
        await stream.publish_async_completed()
        await client.close()

    asyncio.run(run())


def timed(server: Server, work: Callable[[], None], records: int) -> Result:
    server_s, cpu_s, began = server.cpu_s(), time.process_time(), time.perf_counter()
    work()
    took = time.perf_counter() - began
    cpu_us = (time.process_time() - cpu_s) / records * 1e6
    return Result(records / took, cpu_us, (server.cpu_s() - server_s) / records * 1e6)


def run(records: int, rounds: int) -> dict[str, list[Result]]:
    """Each program in turn, round by round."""
    server = Server()
    transport = NatsTransport(server.url, stream="BENCH", prefix="bench", stream_max_bytes=256 << 20)
    results: dict[str, list[Result]] = {}
    try:
        transport.ensure_stream(["bench.>"])
        for i in range(rounds + 1):  # the first warms up
            share = max(records // AWAITED_SHARE, 1)
            batches = messages(f"b{i}", max(records // BATCH_RECORDS * 4, 1), RECORD_BYTES * BATCH_RECORDS)
            singles, few, same = (
                messages(f"{name}{i}", count, RECORD_BYTES)
                for name, count in (("s", records), ("a", share), ("p", records))
            )
            runs: dict[str, tuple[Callable[[], None], int]] = {
                "ssmd, a record a message": (lambda s=singles: ours(transport, s), records),  # type: ignore[misc]
                f"ssmd, {BATCH_RECORDS} records a message": (
                    lambda b=batches: ours(transport, b),  # type: ignore[misc]
                    len(batches) * BATCH_RECORDS,
                ),
                "nats-py, publish_async": (lambda s=same: pipelined(server.url, s), records),  # type: ignore[misc]
                "nats-py, publish awaited": (lambda s=few: awaited(server.url, s), share),  # type: ignore[misc]
            }
            for name, (work, count) in runs.items():
                result = timed(server, work, count)
                if i:
                    results.setdefault(name, []).append(result)
    finally:
        transport.close()
        server.close()
    return results


def measure(records: int, rounds: int) -> list[str]:
    """Rows of a table; one line that says so where there is no nats-server."""
    if program() is None:
        return ["Not measured: nats-server is not installed (scripts/install-test-tools.sh)."]
    rows = [
        "| | records/s (min - max) | CPU us a record | of nats-server | ratio of CPU |",
        "|---|---|---|---|---|",
    ]
    results = run(records, rounds)
    base = statistics.median(result.cpu_us for result in next(iter(results.values())))
    for name, found in results.items():
        rates = sorted(result.per_s for result in found)
        cpu = statistics.median(result.cpu_us for result in found)
        server = statistics.median(result.server_us for result in found)
        rows.append(
            f"| {name} | {statistics.median(rates):,.0f} ({rates[0]:,.0f} - {rates[-1]:,.0f}) | {cpu:.2f} "
            f"| {server:.2f} | {cpu / base:.2f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("\n".join(measure(options.records, options.rounds)))


if __name__ == "__main__":
    main()
