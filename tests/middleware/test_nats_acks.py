"""Acknowledgements out of the connection's bytes: taken in runs, wherever a read cuts them, and nothing else is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ssmd.middleware.nats.acks import Ack, AckParser

INBOX = "_INBOX.q9"


class Library:
    """What nats-py's client is to its parser: it is handed what was not taken."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.pings = 0

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        self.messages.append((subject, data))

    async def _process_ping(self) -> None:
        self.pings += 1


def ack(serial: int, sequence: int, more: bytes = b"", *, stream: str = "SSMD", inbox: str = INBOX) -> bytes:
    data = b'{"stream":"%b", "seq":%d%b}' % (stream.encode(), sequence, more)
    gap = b"  " if serial % 2 else b" "  # nats-server writes two blanks where there is no reply subject
    return b"MSG %b.%d 2%b%d\r\n%b\r\n" % (inbox.encode(), serial, gap, len(data), data)


def read(*chunks: bytes) -> tuple[list[Ack], Library]:
    """What is taken and what the library gets of these reads."""
    library, taken = Library(), []
    parser = AckParser(library)  # type: ignore[arg-type]
    parser.watch(INBOX, "SSMD", taken.extend)

    async def feed() -> None:
        for chunk in chunks:
            await parser.parse(chunk)

    asyncio.run(feed())
    return taken, library


def test_a_run_of_acknowledgements_is_taken() -> None:
    taken, library = read(ack(1, 10) + ack(2, 11) + ack(3, 11, b',"duplicate": true'))
    assert taken == [(b"1", b"10", b""), (b"2", b"11", b""), (b"3", b"11", b"true")]
    assert library.messages == []


REFUSAL = b'{"error":{"code":400,"err_code":10077,"description":"maximum messages exceeded"},"stream":"SSMD","seq":0}'
MIXED = (
    ack(1, 10)
    + b"PING\r\n"
    + ack(2, 11)
    + b"HMSG _INBOX.q9.3 2 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    + ack(4, 12)
    + b"MSG _INBOX.q9.5 2 %d\r\n%b\r\n" % (len(REFUSAL), REFUSAL)
    + b"MSG md.trade.A 3 $JS.ACK.x 16\r\n" + b'MSG _INBOX.q9.9 ' + b"\r\n"
    + ack(6, 13)
)  # fmt: skip


def meaning(taken: list[Ack], library: Library) -> tuple[list[Ack], int]:
    """Acknowledgements by serial, whichever way they came, and pings. An empty place is a message that is none."""
    found = list(taken)
    for subject, data in library.messages:
        if data.startswith(b'{"stream":"SSMD", "seq":'):
            found.append((subject.rpartition(b".")[2], data[24:-1], b""))
    return sorted(found), library.pings


def test_wherever_a_read_ends_the_same_is_understood() -> None:
    for cut in range(len(MIXED) + 1):
        taken, library = read(MIXED[:cut], MIXED[cut:])
        assert meaning(taken, library) == (
            [(b"1", b"10", b""), (b"2", b"11", b""), (b"4", b"12", b""), (b"6", b"13", b"")],
            1,
        ), cut
        others = [message for message in library.messages if not message[1].startswith(b'{"stream"')]
        assert others == [
            (b"_INBOX.q9.3", b""),
            (b"_INBOX.q9.5", REFUSAL),
            (b"md.trade.A", b"MSG _INBOX.q9.9 "),
        ], cut


def test_read_byte_by_byte_the_same_is_understood() -> None:
    taken, library = read(*(MIXED[i : i + 1] for i in range(len(MIXED))))
    assert [serial for serial, _, _ in meaning(taken, library)[0]] == [b"1", b"2", b"4", b"6"]


@pytest.mark.parametrize(
    "other",
    [
        ack(1, 10, stream="OTHER"),
        ack(1, 10, inbox="_INBOX.q8"),
        ack(1, 10, b',"domain":"hub"'),
        ack(1, 10, b',"duplicate": false'),
    ],
    ids=["another stream", "another inbox", "more in it", "an unknown word"],
)
def test_what_does_not_look_exactly_so_is_left_to_the_library(other: bytes) -> None:
    taken, library = read(ack(7, 1) + other + ack(8, 2))
    assert len(library.messages) >= 1
    assert library.messages[0][0] in (b"_INBOX.q9.1", b"_INBOX.q8.1")
    assert (b"1", b"10", b"") not in taken
    assert (b"7", b"1", b"") in taken
