"""What a message takes on a stream, by a real nats-server's own count: what a rehearsal says of a day stands on it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_writer import Journal
from recording import ROOT
from servers import NatsServer

from ssmd import host
from ssmd.middleware.interfaces import Message
from ssmd.middleware.memory import MemoryCache, MemoryJournal, MemoryStorage, MemoryTransport
from ssmd.middleware.nats import NatsTransport
from ssmd.rehearsal import Parts, Rehearsal
from ssmd.rehearsal.copies import header_bytes
from ssmd.rehearsal.needs import STORED_BYTES
from ssmd.rehearsal.needs import stream_bytes as stream_need

BATCH = {"Ssmd-Journal": "kalshi-0123456789ab", "Ssmd-First": "1", "Ssmd-Last": "310", "Ssmd-Count": "256"}
MESSAGES = [
    Message("md.trade.KXBTC-26", b"x" * 600, {}, "kalshi-0123456789ab:17"),
    Message("md.trade._", b"", {}, "kalshi-0123456789ab:18"),
    Message("md.batch.book_delta", b"y" * 100_000, BATCH, "kalshi-0123456789ab:1-310:book_delta"),
    Message("md.book.M", b"z" * 7, {"Ssmd-Part": "1/2"}, "kalshi-0123456789ab:19.1048064.1"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


def stream_bytes(server: NatsServer) -> int:
    """As the server says it."""
    return int(server.api("STREAM.INFO.SSMD")["state"]["bytes"])


def test_a_stream_counts_subject_headers_payload_and_a_constant_for_each_message(server: NatsServer) -> None:
    bus = NatsTransport(server.url, stream="SSMD", prefix="md")
    bus.ensure_stream(["md.>"])
    before = stream_bytes(server)
    assert before == 0
    for message in MESSAGES:
        bus.publish(message)
        grown, before = stream_bytes(server) - before, stream_bytes(server)
        sent = len(message.subject) + header_bytes(message) + len(message.payload)
        assert grown == sent + STORED_BYTES, message.message_id
    bus.close()


def publish_for_real(folder: Path, server: NatsServer, *settings: str) -> int:
    """Has the publisher put a journal on the server; gives what its stream counts then."""
    changes = [f"transport.url={server.url}", "transport.type=nats", "transport.stream=SSMD", *settings]
    arguments = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-m", "ssmd.publisher", "-e", "kalshi-local", "--data", str(folder), "--once"]
    subprocess.run([*command, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=60)
    return stream_bytes(server)


@pytest.mark.parametrize("mode", ["records", "batches", "both"])
def test_a_rehearsal_says_what_the_stream_of_a_real_server_takes(server: NatsServer, tmp_path: Path, mode: str) -> None:
    journal = Journal(tmp_path / "data" / "kalshi")
    for group in range(3):
        for i in range(40):
            journal.trade(i + 1, market=f"M.{i % 7}")
            journal.delta(i + 1, "bid", 4500, 100)
        journal.ticker()
        journal.checkpoint() if group else journal.seal()
    journal.seal()
    (journal.root / "journal.id").write_text("kalshi-0123456789ab\n")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    settings = (f"transport.publish={mode}", "transport.batch_records=7")
    memory = [f"{section}.type=memory" for section in ("transport", "storage", "cache", "journal")]
    rehearsed = host.load("kalshi-local", [*memory, *settings], data=tmp_path / "data")
    parts = Parts(MemoryTransport(), MemoryStorage(), MemoryCache(), MemoryJournal())
    rehearsal = Rehearsal(
        rehearsed, journal.root, "kalshi-0123456789ab", parts, scratch=False, log=lambda *words, **fields: None
    )
    assert rehearsal.finish(time.monotonic() + 30)
    counters = rehearsal.report().counters
    rehearsal.close()
    said = sum(stream_need(counters, form) for form in ("records", "batches"))
    assert said == publish_for_real(tmp_path / "copy", server, *settings)
