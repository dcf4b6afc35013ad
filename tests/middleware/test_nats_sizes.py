"""What a message takes on a stream, by a real nats-server's own count: what a rehearsal says of a day stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import NatsServer

from ssmd.middleware.interfaces import Message
from ssmd.middleware.nats import NatsTransport
from ssmd.rehearsal.copies import header_bytes
from ssmd.rehearsal.needs import STORED_BYTES

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
