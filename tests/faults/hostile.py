"""An exchange that breaks the rules: a raw socket, and one script for each connection that it accepts.

Nothing of it knows WebSocket beyond the picture in RFC 6455, section 5.2, and the handshake's answer (section 4.2.2):
what it sends is written down byte by byte. The recorder reconnects for ever, so one run of it meets all the scripts,
one after the other; the last one is kept up for as long as the test wants.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PATIENCE_S = 60.0  # of a script whose peer does not close the socket as it should


def frame(payload: bytes = b"", opcode: int = TEXT, *, fin: bool = True, bits: int = 0) -> bytes:
    """One frame as a server sends it: unmasked, its length in the shortest form."""
    first = (0x80 if fin else 0) | bits | opcode
    if len(payload) < 126:
        return bytes([first, len(payload)]) + payload
    if len(payload) < 1 << 16:
        return bytes([first, 126]) + struct.pack(">H", len(payload)) + payload
    return bytes([first, 127]) + struct.pack(">Q", len(payload)) + payload


BYE = frame(struct.pack(">H", 1000) + b"bye", CLOSE)


def accept_of(request: bytes) -> bytes:
    key = next(
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-k")
    )
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def switching(request: bytes) -> bytes:
    """The answer that opens the connection."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept_of(request)
        + b"\r\n\r\n"
    )


Script = Callable[[socket.socket, bytes], None]


def says(data: bytes) -> Script:
    """Handshake and `data` in one segment, then patience until the other side ends."""

    def script(peer: socket.socket, request: bytes) -> None:
        peer.sendall(switching(request) + data)

    return script


def answers(data: bytes) -> Script:
    """`data` instead of a handshake, then the end."""

    def script(peer: socket.socket, request: bytes) -> None:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)

    return script


@dataclass
class HostileExchange:
    """Accepts one connection after the other and runs the next script on each. A context manager."""

    scripts: Sequence[Script]
    folder: Path
    heard: list[bytearray] = field(default_factory=list)  # what each connection was sent by the recorder
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._listener.close()

    @property
    def address(self) -> str:
        return "{}:{}".format(*self._listener.getsockname())

    def simulator(self) -> Any:
        """As the tests know a simulator: where it listens, and a key for it."""
        key = self.folder / "key.pem"
        key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        return SimpleNamespace(
            ws_url=f"ws://{self.address}/trade-api/ws/v2",
            rest_url=f"http://{self.address}/trade-api/v2",
            key_id="00000000-0000-4000-8000-000000000000",
            private_key_path=str(key),
            ca_file=None,
        )

    def _accept(self) -> None:
        waiting = iter(self.scripts)
        while not self._ended.is_set():
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            script = next(waiting, says(b""))
            heard = bytearray()
            self.heard.append(heard)
            threading.Thread(target=self._serve, args=(peer, script, heard), daemon=True).start()

    def _serve(self, peer: socket.socket, script: Script, heard: bytearray) -> None:
        with peer, contextlib.suppress(OSError):
            peer.settimeout(PATIENCE_S)
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += peer.recv(4096)
            script(peer, request)
            for chunk in chunks(peer):
                heard += chunk


def chunks(peer: socket.socket) -> Iterator[bytes]:
    while chunk := peer.recv(65536):
        yield chunk
