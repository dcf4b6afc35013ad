"""TLS over a socket that somebody else reads when it is readable: one system call for all that has come.

    socket ──recv──> area ──> incoming ──> OpenSSL ──> the decoder's buffer
    socket <──send── outgoing <────────────── OpenSSL <── send

On a socket OpenSSL reads each TLS record in two calls, head and body. Here it works on memory (`ssl.MemoryBIO`), and
the socket is read and written by us: a message that comes alone costs one `recv`, a full socket one for many records.

Made by the context's `wrap_socket` (`sslsocket_class`), so names, certificates and the handshake are OpenSSL's matter
as ever; it offers what websocket-client and the reader call, and no way to send or read past the encryption. Not
for: servers, sockets without gevent.

Invariants: what OpenSSL wants sent leaves in its order, whichever greenlet is killed meanwhile; after `read_ready`
nothing but a part of a record is left inside, so that the next thing to read is always told by the socket.
"""

from __future__ import annotations

import contextlib
import os
import socket as plain
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import gevent
from gevent.lock import RLock

RECORD_BYTES = 16 * 1024  # of plain text in a TLS record, at most (RFC 8446, 5.1)
SEALED_BYTES = 5 + RECORD_BYTES + 2048  # of a record on the wire, at most (RFC 5246, 6.2.3)
ROOM_BYTES = 2 * SEALED_BYTES  # left free: for a record of which a part came before, and for a whole one at the end
_NAP_S = 0.01

_Result = TypeVar("_Result")


class TlsSocket:
    """The client's end of a TLS connection; it owns the connected socket from which it is made.

    Raises what sockets raise, and ssl.SSLError. `recv`, `send` and the handshake wait as gevent does, for as long as
    the timeout says; `read_ready` never waits and may be called on the hub.
    """

    def __init__(
        self,
        *,
        sock: Any,
        server_hostname: str | None,
        _context: ssl.SSLContext,
        **_unused: Any,  # of what wrap_socket passes: clients shake hands at once, and a ragged end is an end
    ) -> None:
        if not server_hostname:
            raise ValueError("a certificate without a name to check it against proves nothing")
        self._socket = sock
        self._descriptor = sock.fileno()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._decrypted: Callable[[int, memoryview], int] = self._tls._sslobj.read  # type: ignore[attr-defined]
        self._unsent = memoryview(b"")
        self._sending = RLock()
        self._buffer = self._area = memoryview(b"")
        self._areas = [self._area]
        self._instead: Callable[[], int] | None = None  # of reading the socket
        try:
            self._complete(self._tls.do_handshake)
        except BaseException:
            sock.close()
            raise

    # ---- what a socket has --------------------------------------------------------------------

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def gettimeout(self) -> float | None:
        timeout: float | None = self._socket.gettimeout()
        return timeout

    def settimeout(self, timeout: float | None) -> None:
        self._socket.settimeout(timeout)

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._socket.close()

    @property
    def _closed(self) -> bool:  # websocket-client asks for it
        return bool(self._socket._closed)

    def recv(self, size: int) -> bytes:
        """Waits for data; b"" = the other side has ended."""
        try:
            return self._complete(partial(self._tls.read, size))
        except ssl.SSLError as error:
            _end(error)
            return b""

    def send(self, data: bytes) -> int:
        """Waits until all of `data` that it says is sent."""
        while True:
            try:
                taken = self._tls.write(data)
                break
            except ssl.SSLWantReadError:  # TLS 1.2 shakes hands anew: what is missing comes to the reader
                self._flush()
                gevent.sleep(_NAP_S)
        self._flush()
        return taken

    # ---- for the reader -----------------------------------------------------------------------

    def begin(self, buffer: memoryview) -> bool:
        """Says where `read_ready` puts what it reads. True: something has come already, call it at once."""
        if len(buffer) < ROOM_BYTES + RECORD_BYTES:
            raise ValueError(f"a buffer of {len(buffer)} bytes is too small for TLS")
        self._buffer = buffer
        self._area = memoryview(bytearray(len(buffer) - ROOM_BYTES))
        self._areas = [self._area]
        if self._tls.pending() or self._incoming.pending:  # read with the answer to the handshake
            self._instead = self._read_held
        return self._instead is not None

    def read_ready(self) -> int:
        """Fills the buffer with what can be had now; 0 = the other side has ended. Raises BlockingIOError: nothing now.

        One call of recv. All whole records that came are decrypted.
        """
        if self._instead is not None:
            return self._instead()
        received = os.readv(self._descriptor, self._areas)
        if not received:
            return 0  # an end without a farewell is an end
        self._incoming.write(self._area[:received])
        return self._decrypt()

    def _decrypt(self) -> int:
        filled = 0
        try:
            filled = self._decrypted(RECORD_BYTES, self._buffer)
            while filled and self._incoming.pending:
                got = self._decrypted(RECORD_BYTES, self._buffer[filled:])
                if not got:
                    raise ssl.SSLZeroReturnError
                filled += got
        except ssl.SSLWantReadError:
            if not filled:
                raise BlockingIOError from None
        except ssl.SSLError as error:
            if not filled:
                return _end(error)
            self._end_later(error)
        finally:
            if self._outgoing.pending:
                gevent.spawn(self._flush_quietly)
        return filled

    def _read_held(self) -> int:
        self._instead = None
        return self._decrypt()

    def _end_later(self, error: ssl.SSLError) -> None:
        """What came before the end is handled first; the socket, which is read no more, becomes readable at once."""
        self._instead = partial(_end, error)
        with contextlib.suppress(OSError):
            self._socket.shutdown(plain.SHUT_RD)

    # ---- waiting ------------------------------------------------------------------------------

    def _complete(self, step: Callable[[], _Result]) -> _Result:
        """Does a step of TLS, with all that has to be said and heard for it."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                self._hear()
            except ssl.SSLError:
                self._flush_quietly()  # why it fails is said to the other side as well
                raise
            else:
                self._flush()
                return result

    def _hear(self) -> None:
        heard = self._socket.recv(SEALED_BYTES)
        if heard:
            self._incoming.write(heard)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        """Sends all that waits, in its order; whoever is killed here leaves the rest to the next one."""
        with self._sending:
            while self._unsent or self._outgoing.pending:
                if not self._unsent:
                    self._unsent = memoryview(self._outgoing.read())
                self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _flush_quietly(self) -> None:
        with contextlib.suppress(OSError):  # the reader finds out
            self._flush()


def _end(error: ssl.SSLError) -> int:
    """0 for an end, with or without a farewell; raises what is none."""
    if isinstance(error, (ssl.SSLZeroReturnError, ssl.SSLEOFError)):
        return 0
    raise error
