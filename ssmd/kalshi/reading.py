"""Reads one socket on the event loop itself, and hands over to a greenlet only what one must see.

    socket readable ──> callback on the hub ──> recv + decode in one C call ──> nothing to see: that was all
                                                                           `──> something: `wait` returns

A greenlet that waits for each chunk costs two switches, a watcher started and stopped, and several Python calls: on a
paced feed, where a chunk is one message, more than decoding it. Here a chunk costs one Python frame.

What has to be decrypted goes through `TlsSocket` (tls), and what is decoded in plain Python through `feed`; the rest is
the same. Not for: connecting (handshake), what events mean (client), sending.

Invariant: nothing is read while bytes or events of the last read wait to be handled.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import Waiter

from ssmd.kalshi.tls import TlsSocket
from ssmd.wire import FeedStatus, ReceivingConnection, WireConnection

_READ = 1  # what a watcher of gevent's loop calls readable


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
        self._buffer = wire.buffer
        self._read: Callable[[], int] = socket.read_ready if tls else self._read_plain
        self._held = tls and socket.begin(self._buffer)
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
        if self._held:  # of this the socket will not tell
            self._held = False
            gevent.get_hub().loop.run_callback(self._read_held)
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
            received = self._read()
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
            received = self._read()
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

    def _read_plain(self) -> int:
        return os.readv(self._descriptor, [self._buffer])

    def _read_held(self) -> None:
        if not self._closed and self._watcher.active:
            self._on_readable()

    def _nothing_came(self, received: int) -> None:
        if received == 0:
            self._hand_over(EOFError("the other side has ended"))
        elif -received not in (errno.EAGAIN, errno.EWOULDBLOCK):
            self._hand_over(OSError(-received, os.strerror(-received)))

    def _hand_over(self, found: FeedStatus | Exception) -> None:
        self._watcher.stop()
        self._waiter.switch(found)
