"""What a decoder hands back to Python: the few things of a chunk that a session must see.

The C decoder (`ssmd.native.wire.Connection`) and the plain Python twin (`ssmd.normalizer.Connection`)
both offer `WireConnection`; `normalizer: c|python` of the environment chooses. Data frames never pass
here: they go straight into the ring as records.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable


class FeedStatus(IntEnum):
    """Why `feed` came back."""

    OK = 0  # all complete frames of the buffer are in the ring
    FULL = 1  # the ring has no room: do not read the socket, call feed(0) after a nap
    MORE = 2  # the event array is full: handle the events, call feed(0)
    PROTOCOL = 3  # the peer broke RFC 6455: close with 1002
    TOO_LARGE = 4  # a message beyond max_frame_bytes: close with 1009 (a Gap record is in the ring)
    CLOSED = 5  # a close frame was read; nothing after it counts


class EventKind(IntEnum):
    """What happened, in the order of the wire."""

    PING = 0  # data: payload to send back
    PONG = 1  # data: payload
    CLOSE = 2  # data: payload (2 bytes of code, big endian, then the reason)
    REPLY = 3  # data: the frame (subscribed, ok, unsubscribed, error); number: of its record
    SNAPSHOT = 4  # an orderbook_snapshot that carries the id of a command; id, sid, seq set; data: the market ticker
    # numbers first..last are missing on sid (sid 0: a message was too large); number: of the Gap record in the ring
    GAP = 5
    REPEAT = 6  # seq did not rise on sid: seq = as received, first = as expected
    # a known type of a sequenced channel became unparsed: sid, seq; reason: ordinal of Unparsed.Reason; data: type
    UNDECODED = 7
    # first sight of an unknown type, field or enum value; data: its name, prefixed "type:", "field:" or "value:"
    DRIFT = 8


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a session must see; `data` is a copy."""

    kind: EventKind
    sid: int = 0
    seq: int = 0
    id: int = 0
    number: int = 0
    first: int = 0
    last: int = 0
    reason: int = 0
    data: bytes = b""


class WireConnection(Protocol):
    """One socket's splitter, decoder and sequence tracking, writing into the ring."""

    @property
    def buffer(self) -> memoryview:
        """Where to receive: always the same writable view. At most its length may be received at once."""

    def feed(self, received: int) -> FeedStatus:
        """Handles `received` new bytes at the start of `buffer` (0: goes on with what is left).

        Stamps the chunk on entry. Events since the last call stand in `events` afterwards.
        """

    @property
    def events(self) -> list[Event]: ...

    @property
    def frames(self) -> int:
        """Messages received so far (text and binary, after reassembly)."""

    @property
    def last_recv_ns(self) -> int:
        """Receive stamp of the last chunk, UTC ns; 0 before the first."""

    @property
    def fault(self) -> str:
        """After `PROTOCOL`: what the other side did wrong; "" before."""

    def close(self) -> None:
        """Gives the memory back; `frames` and `last_recv_ns` stay readable. Twice does no harm."""


@runtime_checkable
class ReceivingConnection(WireConnection, Protocol):
    """One that can read a plain socket by itself, and says in one word whether there is anything to see."""

    def receive(self, descriptor: int) -> bool:
        """One read of the socket, which never waits, and what `feed` does with it.

        False: something came, and there is nothing to see. True: look at `received`, `status` and `events`.
        """

    def absorb(self, received: int) -> bool:
        """`feed`, for those who look only when there is something to see: True = look at `status` and `events`."""

    @property
    def received(self) -> int:
        """By the last `receive`: bytes, 0 = the other side has ended, negative: an errno."""

    @property
    def status(self) -> FeedStatus:
        """Of the last `feed` or `receive`."""
