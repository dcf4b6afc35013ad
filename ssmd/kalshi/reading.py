"""Reads one socket on the event loop itself, and hands over to a greenlet only what one must see.

    socket readable ──> callback on the hub ──> recv + decode in one C call ──> nothing to see: that was all
                                                                           `──> something: `wait` returns

A greenlet that waits for each chunk costs two switches, a watcher started and stopped, and several Python calls: on a
paced feed, where a chunk is one message, more than decoding it. Here a chunk costs one Python frame.

What has to be decrypted goes through `TlsSocket`, and what is decoded in plain Python through `feed`; the rest is the
same. Not for: connecting (handshake), what events mean (client), sending.

Invariant: nothing is read while bytes or events of the last read wait to be handled.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import Waiter
from gevent.ssl import SSLSocket

from ssmd.wire import FeedStatus, ReceivingConnection, WireConnection

RECORD_BYTES = 16 * 1024  # of plain text in a TLS record, at most (RFC 8446, 5.1)
_READ = 1  # what a watcher of gevent's loop calls readable


class TlsSocket(SSLSocket):  # type: ignore[misc]
    """A TLS socket that can also be read without waiting, as much as is there."""

    def read_ready(self, buffer: memoryview) -> int:
        """Fills `buffer` with what can be had now; 0 = the other side has ended. Raises BlockingIOError: nothing now.

        Whole records only, so that nothing decrypted is left inside where no event would tell of it.
        """
        filled = self._read_record(buffer)
        if filled < RECORD_BYTES:  # a sender that has more fills its records; if we are wrong the loop comes again
            return filled
        got = RECORD_BYTES
        while got == RECORD_BYTES and len(buffer) - filled >= RECORD_BYTES:
            try:
                got = self._read_record(buffer[filled:])
            except BlockingIOError:
                break
            filled += got
        return filled

    def _read_record(self, buffer: memoryview) -> int:
        try:
            got: int = self._sslobj.read(RECORD_BYTES, buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLError as error:
            if error.args[0] != ssl.SSL_ERROR_EOF:  # an end without a farewell is an end
                raise
            return 0
        return got


class Reader:
    """The reading side of one connected socket. One greenlet calls `wait`, any may call `close`."""

    def __init__(self, socket: Any, wire: WireConnection) -> None:
        self._wire = wire
        self._socket = socket
        self._descriptor = socket.fileno()
        self._watcher = gevent.get_hub().loop.io(self._descriptor, _READ)
        self._waiter: Waiter[FeedStatus | Exception | None] = Waiter()
        self._closed = False
        tls = isinstance(socket, TlsSocket)
        self._read: Callable[[memoryview], int] = socket.read_ready if tls else self._read_plain
        self._buffer = wire.buffer
        self._on_readable = self._receive_and_feed
        if isinstance(wire, ReceivingConnection):
            self._on_readable = self._receive_and_absorb if tls else self._receive

    def wait(self) -> FeedStatus | None:
        """Reads until there is something to see: the status of the feed that brought it; None after `close`.

        Raises OSError when the connection is lost, EOFError when the other side has ended it.
        """
        if self._closed:
            return None
        self._waiter = waiter = Waiter()
        self._watcher.start(self._on_readable)
        try:
            found: FeedStatus | Exception | None = waiter.get()
        finally:
            self._watcher.stop()
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Ends the reading, before the socket is closed: its descriptor may belong to somebody else then."""
        if not self._closed:
            self._closed = True
            self._watcher.stop()
            self._watcher.close()
            gevent.get_hub().loop.run_callback(self._waiter.switch, None)

    # ---- on the hub: no waiting here ---------------------------------------------------------------

    def _receive(self) -> None:
        wire: Any = self._wire
        try:
            if not wire.receive(self._descriptor):
                return
            received = wire.received
            if received > 0:
                self._hand_over(wire.status)
            else:
                self._nothing_came(received)
        except Exception as error:
            self._hand_over(error)

    def _receive_and_absorb(self) -> None:
        wire: Any = self._wire
        try:
            received = self._read(self._buffer)
            if received == 0:
                self._nothing_came(received)
            elif wire.absorb(received):
                self._hand_over(wire.status)
        except BlockingIOError:
            pass
        except Exception as error:
            self._hand_over(error)

    def _receive_and_feed(self) -> None:
        wire = self._wire
        try:
            received = self._read(self._buffer)
            if received > 0:
                status = wire.feed(received)
                if status or wire.events:
                    self._hand_over(status)
            else:
                self._nothing_came(received)
        except BlockingIOError:
            pass
        except Exception as error:
            self._hand_over(error)

    def _read_plain(self, buffer: memoryview) -> int:
        return os.readv(self._descriptor, [buffer])

    def _nothing_came(self, received: int) -> None:
        if received == 0:
            self._hand_over(EOFError("the other side has ended"))
        elif -received not in (errno.EAGAIN, errno.EWOULDBLOCK):
            self._hand_over(OSError(-received, os.strerror(-received)))

    def _hand_over(self, found: FeedStatus | Exception) -> None:
        self._watcher.stop()
        self._waiter.switch(found)
