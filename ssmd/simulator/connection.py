"""One WebSocket on its socket: the queue, the writer, and how it can be made to misbehave.

Everything that is sent goes through `queue`, in order: frames as text, control frames as bytes. A text
is written into the ledger and turned into WebSocket frames only when the writer takes it, so a frame
that was never handed to the socket is not in the ledger. Not for reading: `server` does that.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import gevent
import gevent.event

from ssmd.simulator.exchange import BookChange, BookReset, Happening, IndexValue, Quote, Trade
from ssmd.simulator.ledger import Ledger
from ssmd.simulator.session import Fragmented, Session
from ssmd.simulator.settings import Settings
from ssmd.simulator.tape import Player
from ssmd.simulator.websocket import Codec

TICK_S = 0.02
BATCH_BYTES = 64 * 1024
CHUNKS_PER_PAUSE = 8
FILE_PART = 256


class Host(Protocol):
    """What a connection needs of the server."""

    settings: Settings
    ledger: Ledger | None

    def now_s(self) -> float: ...

    def now_ms(self) -> int: ...

    def now_ns(self) -> int: ...

    def event(self, connection: Connection | None, event: str, **fields: object) -> None: ...


class HalfOpen(Exception):
    """Thrown into a reader that is to read no more, but to keep its socket."""


@dataclass(eq=False)
class Connection:
    """One WebSocket: its session, its queue, and how its socket is to misbehave."""

    number: int
    peer: str
    sock: socket.socket
    codec: Codec
    session: Session
    player: Player | None
    opened_s: float
    host: Host
    queue: deque[str | bytes] = field(default_factory=deque)
    queued_bytes: int = 0
    wake: gevent.event.Event = field(default_factory=gevent.event.Event)
    gone: gevent.event.Event = field(default_factory=gevent.event.Event)
    reader: gevent.Greenlet | None = None
    writer: gevent.Greenlet | None = None
    subscribed_s: float | None = None
    frames: int = 0
    sent_bytes: int = 0
    next_frame: int = 0  # of the file
    credit: float = 0.0  # frames of the file that are due
    chunks: int = 0  # of the tape, since the last pause
    next_ping_s: float = 0.0
    unanswered_s: float | None = None  # since when a ping waits for its pong
    stalled_until_s: float = 0.0
    slow_until_s: float = 0.0
    slow_bytes: int = 64
    half_open: bool = False
    closing: bool = False  # nothing is queued any more
    close_code: int | None = None  # the close frame that we are to send when the queue is empty
    closed: bool = False

    # ---- what is to be sent

    def collect(self) -> None:
        """Queues what the session has to say; nothing more once the close frame is due."""
        frames = [] if self.closing else self.session.take()
        for text in frames:
            self.queue.append(text)
            self.queued_bytes += len(text)
        for note in self.session.notes:
            self.host.event(self, "fault", **note)
        self.session.notes.clear()
        if frames:
            self.wake.set()

    def control(self, frame: bytes) -> None:
        if frame and not self.closing:
            self.queue.append(frame)
            self.wake.set()

    def publish(self, happening: Happening, now_ms: int) -> None:
        """Tells the session; a client that lets too much wait loses the channel (error 25)."""
        if self.queued_bytes > self.host.settings.buffer_bytes:
            channel = CHANNEL_OF.get(type(happening), "market_lifecycle_v2")
            if channel in self.session.subscriptions:
                self.session.end(channel, 25, now_ms)
                self.host.event(self, "overflow", channel=channel)
            return
        self.session.publish(happening, now_ms)

    # ---- the writer

    def write(self) -> None:
        """The writer greenlet: sends what is queued, then what a tape or file has, for ever."""
        try:
            while not self.closed:
                if self.host.now_s() < self.stalled_until_s:
                    gevent.sleep(TICK_S)
                elif self.queue:
                    self._flush()
                elif self.closing:
                    if self.close_code is not None:
                        self._send(self.codec.close(self.close_code))
                    return
                elif not self._play():
                    self.wake.wait()
                    self.wake.clear()
        except OSError:
            self.shut()

    def _flush(self) -> None:
        out = bytearray()
        ledger, now_ns = self.host.ledger, self.host.now_ns()
        while self.queue and len(out) < BATCH_BYTES:
            item = self.queue.popleft()
            if isinstance(item, bytes):
                out += item
                continue
            self.queued_bytes -= len(item)
            self.frames += 1
            if ledger:
                ledger.text(self.number, now_ns, item)
            out += self.codec.fragments(item) if isinstance(item, Fragmented) else self.codec.text(item)
        self._send(out)

    def _play(self) -> bool:
        """Without a pace, the next of the tape or of the file; False: there is nothing."""
        if self.host.settings.rate or not self.session.subscribed or self.closing:
            return False
        now_ms = self.host.now_ms()
        more = self.session.pump(now_ms)
        self.collect()
        if more or self.queue:
            return True
        if self.host.settings.frames is not None:
            return self.play_file(FILE_PART)
        assert self.player
        if self.session.armed.frames or not self.codec.plain:
            for happening in self.player.events(now_ms * 1000):
                self.session.publish(happening, now_ms)
            self.collect()
            return bool(self.queue)
        chunk = self.player.chunk(now_ms * 1000)
        if not chunk:
            return False
        if self.host.ledger:
            now_ns = self.host.now_ns()
            for _, payload in chunk:
                self.host.ledger.raw(self.number, now_ns, payload)
        self.frames += len(chunk)
        self._send(b"".join([part for frame in chunk for part in frame]))
        self.chunks += 1
        if self.chunks % CHUNKS_PER_PAUSE == 0:  # a socket that always takes would starve every other greenlet
            gevent.sleep(1e-6)
        return True

    def play_file(self, most: int) -> bool:
        """Queues the next frames of the file."""
        frames = self.host.settings.frames or ()
        sent = 0
        while sent < most and frames:
            if self.next_frame >= len(frames):
                if not self.host.settings.loop:
                    break
                self.next_frame = 0
            self.session.verbatim(frames[self.next_frame])
            self.next_frame += 1
            sent += 1
        self.collect()
        return sent > 0

    def _send(self, data: bytes | bytearray) -> None:
        self.sent_bytes += len(data)
        at = 0
        while at < len(data):
            if self.host.now_s() >= self.slow_until_s:
                self.sock.sendall(data[at:] if at else data)
                return
            self.sock.sendall(data[at : at + self.slow_bytes])
            at += self.slow_bytes
            gevent.sleep(0.002)

    # ---- the end of it

    def close(self, code: int) -> None:
        """A close frame after what is queued; the socket goes when the client answers, or after a second."""
        if not self.closing:
            self.closing, self.close_code = True, code
            self.wake.set()
            gevent.spawn_later(1.0, self.shut)

    def answer_close(self, reply: bytes) -> None:
        """The client said goodbye: only our close frame goes out, what waits is dropped."""
        self.queue.clear()
        self.control(reply)
        self.closing = True
        self.wake.set()

    def reset(self) -> None:
        """Closes so that the client sees a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.shut()

    def shut(self) -> None:
        """Closes the socket, whoever is reading or writing."""
        if not self.closed:
            self.closed = True
            self.sock.close()
            self.gone.set()
            self.wake.set()

    def hold(self) -> None:
        """Half open: neither reads nor writes from now on, and stays."""
        self.half_open = True
        if self.writer:
            self.writer.kill(block=False)
        if self.reader:
            gevent.spawn(self.reader.throw, HalfOpen)


CHANNEL_OF: dict[type[Happening], str] = {
    BookChange: "orderbook_delta",
    BookReset: "orderbook_delta",
    Trade: "trade",
    Quote: "ticker",
    IndexValue: "cfbenchmarks_value",
}
