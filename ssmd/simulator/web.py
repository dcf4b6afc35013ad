"""The one door to h11: requests off a socket, answers onto it.

Reads an HTTP/1.1 connection request by request. Not for WebSocket: an upgrade request is handed out with
its raw headers, and the bytes after it by `rest`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from ssmd.simulator.rest import Response


class HttpError(Exception):
    """The client does not speak HTTP; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    raw_headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path


class HttpDoor:
    """The server's end of one HTTP connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._http = h11.Connection(h11.SERVER)

    def read(self) -> Request | None:
        """The next request with its body (an upgrade is complete with its head); None: the client left."""
        head, body = None, bytearray()
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(self._sock.recv(65_536))
                elif isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif head and (isinstance(event, h11.EndOfMessage) or event is h11.PAUSED):
                    return _request(head, bytes(body))
                else:
                    return None
        except h11.RemoteProtocolError as error:
            raise HttpError(str(error)) from error

    def write(self, response: Response, *, close: bool = False) -> bool:
        """Sends an answer; True: another request may follow."""
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        if close:
            headers.append(("Connection", "close"))
        out = b""
        for event in (
            h11.Response(status_code=response.status, headers=headers),
            h11.Data(data=response.body),
            h11.EndOfMessage(),
        ):
            out += self._http.send(event) or b""
        self._sock.sendall(out)
        if self._http.our_state is h11.MUST_CLOSE:
            return False
        self._http.start_next_cycle()
        return True

    def rest(self) -> bytes:
        """What came after an upgrade request."""
        return self._http.trailing_data[0]


def _request(head: h11.Request, body: bytes) -> Request:
    raw = list(head.headers)
    headers = {name.decode(): value.decode("latin-1") for name, value in raw}
    return Request(head.method.decode(), head.target.decode("latin-1"), headers, raw, body)
