"""The one door to wsproto: the server's end of one WebSocket, bytes in, messages out.

Not for sockets and not for JSON. `text_header` is the only frame writing of our own: the looped tape
prints whole chunks of frames, and one call a frame would be its cost. A test holds it equal to wsproto.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError


class Kind(Enum):
    """What the client sent."""

    TEXT = 1
    BINARY = 2
    PING = 3
    PONG = 4
    CLOSE = 5  # a close frame, or a breach of the protocol: `reply` is the close frame to answer with


@dataclass(frozen=True, slots=True)
class Incoming:
    kind: Kind
    text: str = ""
    payload: bytes = b""
    code: int = 0
    reply: bytes = b""


class HandshakeError(Exception):
    """The request is no WebSocket upgrade that we can accept."""


class Codec:
    """One WebSocket after its HTTP request was read. `plain`: frames are not compressed."""

    def __init__(self) -> None:
        self._ws = WSConnection(ConnectionType.SERVER)
        self._text: list[str] = []
        self.plain = True

    def accept(self, target: str, headers: list[tuple[bytes, bytes]], *, deflate: bool) -> bytes:
        """The 101 answer to an upgrade request."""
        try:
            self._ws.initiate_upgrade_connection(headers, target)
            request = next(iter(self._ws.events()))
        except (RemoteProtocolError, StopIteration) as error:
            raise HandshakeError(str(error)) from error
        if not isinstance(request, Request):
            raise HandshakeError("not an upgrade request")
        extension = PerMessageDeflate()
        answer = self._ws.send(AcceptConnection(extensions=[extension] if deflate else []))
        self.plain = not extension.enabled()
        return answer

    def text(self, payload: str) -> bytes:
        return self._ws.send(TextMessage(data=payload))

    def fragments(self, payload: str) -> bytes:
        """One message in four fragments, one of them empty, with a ping between: all of it legal."""
        third = len(payload) // 3
        return b"".join(
            (
                self._ws.send(TextMessage(data=payload[:third], message_finished=False)),
                self._ws.send(TextMessage(data="", message_finished=False)),
                self.ping(),
                self._ws.send(TextMessage(data=payload[third : 2 * third], message_finished=False)),
                self._ws.send(TextMessage(data=payload[2 * third :])),
            )
        )

    def ping(self) -> bytes:
        return self._ws.send(Ping(payload=b"heartbeat"))

    def close(self, code: int) -> bytes:
        """A close frame; empty when one was sent before."""
        try:
            return self._ws.send(CloseConnection(code=code))
        except LocalProtocolError:
            return b""

    def receive(self, data: bytes) -> list[Incoming]:
        """What the client's bytes mean, in order; after CLOSE nothing follows."""
        try:
            self._ws.receive_data(data)
            return [incoming for event in self._ws.events() if (incoming := self._translate(event))]
        except (LocalProtocolError, RemoteProtocolError):
            return [Incoming(Kind.CLOSE, code=1002, reply=self.close(1002))]

    def _translate(self, event: object) -> Incoming | None:
        match event:
            case TextMessage():
                self._text.append(event.data)
                if not event.message_finished:
                    return None
                text = "".join(self._text)
                self._text.clear()
                return Incoming(Kind.TEXT, text=text)
            case BytesMessage():
                return Incoming(Kind.BINARY) if event.message_finished else None
            case Ping():
                return Incoming(Kind.PING, reply=self._ws.send(event.response()))
            case Pong():
                return Incoming(Kind.PONG, payload=bytes(event.payload))
            case CloseConnection():
                try:
                    reply = self._ws.send(event.response())
                except LocalProtocolError:
                    reply = b""
                return Incoming(Kind.CLOSE, code=int(event.code or CloseReason.NO_STATUS_RCVD), reply=reply)
            case RejectConnection():
                return Incoming(Kind.CLOSE, code=1002)
        return None


def text_header(length: int) -> bytes:
    """The header of an unmasked, unfragmented, uncompressed text frame (RFC 6455, section 5.2)."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")
