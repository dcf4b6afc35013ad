"""What comes many times in one read of the connection is taken in runs, wherever a read cuts it, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ssmd.middleware.interfaces import Delivery, Message
from ssmd.middleware.nats.messages import behind, delivery_of, status_of
from ssmd.middleware.nats.parser import Ack, BusParser, Raw

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
    parser = BusParser(library)  # type: ignore[arg-type]
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


# ---- tapped subscriptions --------------------------------------------------------------------------------------------

REPLY = b"$JS.ACK.SSMD.c1.1.%d.%d.1790000000000000000.0"
HEADERS = b"NATS/1.0\r\nNats-Msg-Id: k-5f:17\r\n\r\n"
TAPPED = 7


def stored(place: int, payload: bytes, *, sid: int = TAPPED, headers: bytes = HEADERS) -> bytes:
    """A message of a stream, as the protocol writes it."""
    line = b"md.trade.A %d %b" % (sid, REPLY % (place, place))
    sizes = b"%d %d" % (len(headers), len(headers) + len(payload)) if headers else b"%d" % len(payload)
    return (b"HMSG " if headers else b"MSG ") + line + b" " + sizes + b"\r\n" + headers + payload + b"\r\n"


def tapped(*chunks: bytes) -> tuple[list[Raw], list[Ack], Library]:
    """What a tap, the publisher and the library get of these reads."""
    library, taken, acks = Library(), [], []
    parser = BusParser(library)  # type: ignore[arg-type]
    parser.watch(INBOX, "SSMD", acks.extend)
    parser.tap(TAPPED, taken.extend)

    async def feed() -> None:
        for chunk in chunks:
            await parser.parse(chunk)

    asyncio.run(feed())
    return taken, acks, library


ENDED = b"HMSG _INBOX.q5 7  28 28\r\nNATS/1.0 408 Request Timeout\r\n\r\n\r\n"
PAYLOADS = [b"", b"MSG md.trade.A 7 $JS.ACK.x 3\r\nabc\r\n", b"\r\n\r\n", b"PING\r\n" * 40, b"last"]
STREAMED = (
    stored(1, PAYLOADS[0])
    + stored(2, PAYLOADS[1])
    + ack(5, 77)
    + stored(3, b"of another subscription", sid=8)
    + stored(4, PAYLOADS[2], headers=b"")
    + b"PING\r\n"
    + stored(5, PAYLOADS[3])
    + b"MSG _INBOX.q9.9 2 2\r\n{}\r\n"
    + stored(6, PAYLOADS[4])
    + ENDED.replace(b"28 28", b"%d %d" % (len(ENDED) - 27, len(ENDED) - 27))
)


def expected() -> list[Raw]:
    """What the tap must get of STREAMED."""
    of_headers = [HEADERS, HEADERS, b"", HEADERS, HEADERS]
    places = [1, 2, 4, 5, 6]
    whole = [
        (b"md.trade.A", REPLY % (place, place), headers, payload)
        for place, headers, payload in zip(places, of_headers, PAYLOADS, strict=True)
    ]
    return [*whole, (b"_INBOX.q5", b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b"")]


def test_wherever_a_read_ends_a_tap_gets_the_same_in_order_and_others_what_is_theirs() -> None:
    for cut in range(len(STREAMED) + 1):
        taken, acks, library = tapped(STREAMED[:cut], STREAMED[cut:])
        assert taken == expected(), cut
        assert meaning(acks, library) == ([(b"5", b"77", b"")], 1), cut
        others = [message for message in library.messages if not message[1].startswith(b'{"stream"')]
        assert others == [(b"md.trade.A", b"of another subscription"), (b"_INBOX.q9.9", b"{}")], cut


def test_read_byte_by_byte_a_tap_gets_the_same() -> None:
    taken, _, library = tapped(*(STREAMED[i : i + 1] for i in range(len(STREAMED))))
    assert taken == expected()
    assert library.pings == 1


def test_what_comes_after_the_tap_was_taken_off_is_the_librarys() -> None:
    library, taken = Library(), []
    parser = BusParser(library)  # type: ignore[arg-type]
    parser.tap(TAPPED, taken.extend)
    asyncio.run(parser.parse(stored(1, b"a")))
    parser.untap(TAPPED)
    asyncio.run(parser.parse(stored(2, b"b")))
    assert [raw[3] for raw in taken] == [b"a"]
    assert library.messages == [(b"md.trade.A", b"b")]


def test_messages_of_two_taps_in_one_read_go_each_to_its_own() -> None:
    first: list[Raw] = []
    second: list[Raw] = []
    parser = BusParser(Library())  # type: ignore[arg-type]
    parser.tap(7, first.extend)
    parser.tap(8, second.extend)
    asyncio.run(parser.parse(stored(1, b"a") + stored(2, b"b", sid=8) + stored(3, b"c")))
    assert [raw[3] for raw in first] == [b"a", b"c"]
    assert [raw[3] for raw in second] == [b"b"]


# ---- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "message_id", "others"),
    [
        (b"", None, {}),
        (b"NATS/1.0\r\nNats-Msg-Id: k-5f:17\r\n\r\n", "k-5f:17", {}),
        (b"NATS/1.0\r\nNats-Msg-Id:k-5f:17\r\n\r\n", "k-5f:17", {}),
        (b"NATS/1.0\r\nNats-Msg-Id: k 1\r\n\r\n", "k 1", {}),
        (b"NATS/1.0\r\nSsmd-Part: 2/3\r\nNats-Msg-Id: k:1.9.2\r\n\r\n", "k:1.9.2", {"Ssmd-Part": "2/3"}),
        (b"NATS/1.0\r\nOther: a: b\r\n\r\n", None, {"Other": "a: b"}),
    ],
)
def test_the_headers_of_a_delivery(headers: bytes, message_id: str | None, others: dict[str, str]) -> None:
    given = delivery_of((b"md.trade.A", REPLY % (4, 4), headers, b"bytes"), 4, 5)
    message = Message("md.trade.A", b"bytes", others, message_id)
    assert given == Delivery(message, 4, 5, token=(REPLY % (4, 4)).decode())


def test_the_status_of_what_is_no_message() -> None:
    assert status_of(b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 4\r\n\r\n") == "408"
    assert status_of(b"NATS/1.0 404\r\n\r\n") == "404"
    assert status_of(b"NATS/1.0\r\nStatus: 404\r\n\r\n") == ""


def test_how_many_messages_were_behind_one() -> None:
    assert behind(b"$JS.ACK.SSMD.c1.1.17.3.1790000000000000000.42") == 42
    assert behind(b"$JS.ACK.hub.ABC.SSMD.c1.1.17.3.1790000000000000000.42.xyz") == 42
