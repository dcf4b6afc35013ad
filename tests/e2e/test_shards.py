"""Many hosts: two recorders, a shard each, with one exchange, one stream, one bucket and one cache between them.

What docs/deploy.md promises of it. The books and trades of a market are asked for by name, so they belong to the
market's shard; tickers and lifecycle messages come for all markets at once, so they belong to the channel's shard.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from recording import (
    ROOT,
    Line,
    Recorder,
    environment_file,
    frames_by_connection,
    ledger_by_connection,
    markets,
    read_lines,
    wait_until,
)
from servers import NatsServer, RedisServer, S3Server, dies_with_parent

from ssmd.simulator.process import SimulatorProcess

VARIABLES = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
HOSTS = 2
KINDS = {"trade": "trade", "book": "orderbook_delta", "ticker": "ticker", "status": "market_lifecycle_v2"}


def shard_of(name: str) -> int:
    """As docs/kalshi.md has it."""
    return zlib.crc32(name.encode()) % HOSTS


class Hosts:
    """The recorders of both shards, and what they share."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.folder = folder
        self.nats = opened.enter_context(NatsServer(folder / "nats"))
        self.redis = opened.enter_context(RedisServer(folder / "redis"))
        self.store = opened.enter_context(S3Server(folder / "s3"))
        self.exchange = opened.enter_context(SimulatorProcess("--rate", "400", "--markets", "8"))
        self.names = markets(self.exchange)
        self.recorders = [opened.enter_context(self.recorder(index)) for index in range(HOSTS)]

    def recorder(self, index: int) -> Recorder:
        host = self.folder / "hosts" / f"host{index}"
        host.mkdir(parents=True)
        environment = environment_file(
            host,
            self.exchange,
            subscriptions=[
                {"channels": ["orderbook_delta", "trade"], "markets": self.names},
                {"channels": ["ticker", "market_lifecycle_v2"], "all": True},
            ],
            shard={"index": index, "count": HOSTS},
            transport={"type": "nats", "url": self.nats.url, "publish": "both"},
            storage__type="s3",
            storage__bucket=S3Server.BUCKET,
            storage__region="us-east-1",
            storage__endpoint=self.store.url,
            storage__prefix="copies",
            cache={"type": "redis", "url": self.redis.url},
            flusher={"sync_interval_ms": 50, "rotate_bytes": 131_072},
        )
        return Recorder(environment, self.exchange, env=VARIABLES)

    def kill(self, index: int, child: str) -> None:
        """SIGKILL to a helper of a host; its recorder starts it again."""
        found = re.findall(rf'"child": "{child}", "child_pid": (\d+)', self.recorders[index].log)
        os.kill(int(found[-1]), signal.SIGKILL)

    def last(self, *where: str) -> dict[str, dict[str, Any]]:
        said = self.ssmd("last", "--json", *where).stdout
        return {value["market"]: value for value in map(json.loads, said.splitlines())}

    def ssmd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start("-m", "ssmd", *arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **VARIABLES, "KALSHI_API_KEY": self.exchange.key_id}, preexec_fn=dies_with_parent(),
        )  # fmt: skip


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as opened:
        yield Hosts(tmp_path, opened)


def test_two_shards_share_exchange_stream_bucket_and_cache(hosts: Hosts) -> None:
    first, second = hosts.recorders
    for recorder in hosts.recorders:
        recorder.wait_live()
        recorder.wait_frames(200)
    for child in ("publisher", "archiver", "lastvalues"):
        hosts.kill(1, child)
    second.wait_frames(300)
    assert second.stop() == 0, second.log
    second.start()
    second.wait_live()
    second.wait_frames(100)
    wait_until(lambda: all_known(hosts), what="book, trade and ticker of every market, from both shards")
    for recorder in hosts.recorders:
        assert recorder.stop() == 0, recorder.log
    hosts.exchange.stop()
    journals = [read_lines(recorder.data) for recorder in hosts.recorders]
    identities = [(recorder.data / "kalshi" / "journal.id").read_text().strip() for recorder in hosts.recorders]
    assert_each_market_has_one_shard(hosts.names, journals)
    assert_ledger_has_all_sockets(journals, hosts.exchange.ledger())
    assert_copies_are_equal(hosts, identities, [len(lines) for lines in journals])
    assert_tail_gives_both(hosts, dict(zip(identities, journals, strict=True)))
    kept = last_parts(hosts.last("--url", hosts.redis.url))
    assert any(kept.values()) and kept == last_parts(hosts.last("--data", str(first.data.parents[1])))


def all_known(hosts: Hosts) -> bool:
    """Prices of every market's book are shown, beside its last trade and ticker."""
    found = hosts.last("--url", hosts.redis.url, *hosts.names)
    return len(found) == len(hosts.names) and all(
        value["quote"] == "book" and not value["trouble"] and value["trade"] and value["ticker"]
        for value in found.values()
    )


def last_parts(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Which record each part of a value is of."""
    parts = ("book", "trade", "ticker", "status")
    return {
        market: {part: (value[part]["journal"], value[part]["number"]) for part in parts if value[part]}
        for market, value in values.items()
        if "journal" in (value["book"] or {})  # in both shards
    }


def assert_each_market_has_one_shard(names: Sequence[str], journals: Sequence[Sequence[Line]]) -> None:
    for index, lines in enumerate(journals):
        for kind, channel in KINDS.items():
            seen = {line.body["market"] for line in lines if line.kind == kind and line.body.get("market")}
            if kind in ("trade", "book"):
                assert seen == {name for name in names if shard_of(name) == index}, (kind, index)
                assert seen, "a shard without a market shows nothing"
            else:
                assert bool(seen) == (shard_of(channel) == index), (kind, index)


def assert_ledger_has_all_sockets(journals: Sequence[Sequence[Line]], ledger: Sequence[tuple[int, bytes]]) -> None:
    """Each socket of either journal holds the first frames that the exchange sent on a socket; no two on the same."""
    free = ledger_by_connection(ledger)
    for lines in journals:
        for frames in frames_by_connection(lines):
            mine = next((sent for sent in free if sent[: len(frames)] == frames), None)
            assert mine is not None, "frames that were not sent so on any socket"
            free.remove(mine)
    assert not free, "a socket of the exchange that nobody recorded"


def assert_copies_are_equal(hosts: Hosts, identities: Sequence[str], records: Sequence[int]) -> None:
    helpers = [
        hosts.start("-m", f"ssmd.{helper}", "-e", str(recorder.environment), "--once")
        for recorder in hosts.recorders
        for helper in ("publisher", "archiver")
    ]
    for process in helpers:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
    done = hosts.ssmd(
        "verify", "--json", *(str(recorder.data) for recorder in hosts.recorders),
        "--against", f"{hosts.nats.url}/SSMD?prefix=md",
        "--against", f"s3://{S3Server.BUCKET}/copies?endpoint={hosts.store.url}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [entry["journal"] for entry in report["against"]] == list(identities)
    for entry, count in zip(report["against"], records, strict=True):
        assert [target["form"] for target in entry["targets"]] == ["records", "batches", "objects"]
        assert [(target["equal"], target["records"]) for target in entry["targets"]] == [(True, count)] * 3


def assert_tail_gives_both(hosts: Hosts, journals: dict[str, Sequence[Line]]) -> None:
    count = sum(map(len, journals.values()))
    done = hosts.ssmd("tail", "--url", hosts.nats.url, "--start", "beginning", "--count", str(count))
    assert done.returncode == 0, done.stderr
    given: dict[str, list[int]] = {name: [] for name in journals}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        given[record["journal"]].append(record["number"])
    assert given == {name: [line.number for line in lines] for name, lines in journals.items()}
