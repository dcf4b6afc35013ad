"""Ports, greenlets and the clock: the shell around the pure parts.

One listener answers both REST and WebSocket. A connection has two greenlets: its handler reads, its
writer sends. Two more serve all: the pacer makes the market go on and tells the sessions; the ticker
(20 ms) does pings, deadlines and timed faults. Everything that is sent goes through one queue a
connection, in order, and into the ledger just before the socket gets it.

A client that is too slow is treated as on the exchange: beyond `buffer_bytes` of waiting frames the
channel ends with error 25. Nothing else is ever left out.
"""

from __future__ import annotations

import json
import math
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable

import gevent
import gevent.event
import gevent.socket
from gevent.server import StreamServer

from ssmd.errors import EXIT_FAILED
from ssmd.simulator.books import Book
from ssmd.simulator.catalogue import Market
from ssmd.simulator.connection import TICK_S, Connection, HalfOpen
from ssmd.simulator.exchange import Exchange, Happening
from ssmd.simulator.faults import CATALOGUE, FaultError, parse
from ssmd.simulator.keys import KeyRing
from ssmd.simulator.ledger import Ledger
from ssmd.simulator.render import Format
from ssmd.simulator.rest import TOO_MANY, Response, Rest, answer
from ssmd.simulator.session import INDICES, Session, Terms
from ssmd.simulator.settings import Settings
from ssmd.simulator.tape import Player, Tape
from ssmd.simulator.trouble import Trouble
from ssmd.simulator.web import HttpDoor, HttpError, Request
from ssmd.simulator.websocket import Codec, HandshakeError, Kind

WS_PATH = "/trade-api/ws/v2"
WARM_UP_STEPS = 400
LONGEST_TURN_S = 0.02
BAD_UPGRADE = answer({"error": {"code": "bad_request", "message": "not a websocket upgrade"}}, 400)


class LiveView:
    """The sessions' view of the exchange as it runs."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def market(self, ticker: str) -> Market | None:
        return self._exchange.markets.get(ticker)

    def market_of_id(self, market_id: str) -> Market | None:
        return self._exchange.by_id.get(market_id)

    def tickers(self) -> Iterable[str]:
        return self._exchange.markets

    def book(self, market: Market) -> Book:
        return market.book


class QuietServer(StreamServer):  # type: ignore[misc]
    """A client that breaks off the TLS handshake (it does not trust us) is its own affair."""

    def wrap_socket_and_handle(self, client_socket: socket.socket, address: tuple[str, int]) -> None:
        try:
            super().wrap_socket_and_handle(client_socket, address)
        except OSError:  # ssl.SSLError too
            client_socket.close()


class Server:
    """The exchange on a socket."""

    def __init__(self, settings: Settings, keys: KeyRing, ledger: Ledger | None) -> None:
        self.settings = settings
        self.ledger = ledger
        self.skew_ms = 0
        faults = [parse(text) for text in settings.faults]
        whole = settings.whole or settings.format is not Format.NEW or any(f.name == "old_format" for f in faults)
        lifecycle = settings.lifecycle and (settings.rate > 0 or settings.frames is not None)  # a tape has none
        self.exchange = Exchange(
            settings.markets, seed=settings.seed, now_us=self.now_us(), whole=whole, lifecycle=lifecycle
        )
        self.rest = Rest(self.exchange, keys)
        self.connections: list[Connection] = []
        self._keys = keys
        self._view = LiveView(self.exchange)
        self._terms = Terms(
            format=settings.format,
            sending_ts=settings.sending_ts,
            market_limit=settings.market_limit,
            paid=settings.paid,
            silent=settings.frames is not None,
        )
        self.trouble = Trouble(self, faults)
        self._running = False  # whether the market has begun to move
        self._opened = 0
        self._sent = 0  # frames of connections that are gone
        self._handshakes: dict[int, int] = {}
        self._tape: Tape | None = None
        self._greenlets: list[gevent.Greenlet] = []
        self._servers: list[StreamServer] = []
        for _ in range(WARM_UP_STEPS):
            self.exchange.step(self.now_us())
        self.exchange.quotes()
        if not settings.rate and settings.frames is None:
            self._tape = Tape(self.exchange, self.now_us())

    # ---- clocks

    def now_s(self) -> float:
        return time.monotonic()

    def now_ns(self) -> int:
        return time.time_ns() + self.skew_ms * 1_000_000

    def now_us(self) -> int:
        return self.now_ns() // 1000

    def now_ms(self) -> int:
        return self.now_ns() // 1_000_000

    # ---- life

    def listen(self, port: int, context: ssl.SSLContext | None) -> int:
        """Opens a loopback port (0: a free one) and gives its number."""
        options = {"ssl_context": context} if context else {}
        server = QuietServer(("127.0.0.1", port), self._handle, **options)
        server.start()
        self._servers.append(server)
        return int(server.server_port)

    def start(self) -> None:
        loops: list[Callable[[], None]] = [self._tick_for_ever]
        if self.settings.rate:
            loops.append(self._pace_for_ever)
        if self.ledger:
            loops.append(self._flush_for_ever)
        self._greenlets = [gevent.spawn(self._guard, loop) for loop in loops]

    def _guard(self, loop: Callable[[], None]) -> None:
        """A background loop that ends is the end of the program."""
        try:
            loop()
        except Exception:
            sys.excepthook(*sys.exc_info())
            if self.ledger:
                self.ledger.flush()
            os._exit(EXIT_FAILED)

    def stop(self) -> None:
        """Says goodbye to all clients, and writes the ledger out."""
        for server in self._servers:
            server.stop(timeout=0)
        gevent.killall(self._greenlets)
        for connection in list(self.connections):
            if connection.half_open or self.now_s() < connection.stalled_until_s:
                connection.shut()
            else:
                connection.close(1001)
        gevent.wait([connection.gone for connection in self.connections], timeout=0.5)
        for connection in list(self.connections):
            connection.shut()
        if self.ledger:
            self.ledger.close()

    def event(self, connection: Connection | None, event: str, **fields: object) -> None:
        """A line in the ledger that is no frame."""
        if self.ledger:
            self.ledger.event(connection.number if connection else 0, self.now_ns(), event, **fields)

    # ---- HTTP

    def _handle(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """One TCP connection: requests one after the other, until one is an upgrade."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        door = HttpDoor(sock)
        try:
            while request := door.read():
                if request.path == WS_PATH and request.headers.get("upgrade", "").lower() == "websocket":
                    self._upgrade(door, request, sock, f"{address[0]}:{address[1]}")
                    return
                if not door.write(self._answer(request)):
                    return
        except (OSError, HttpError):
            return

    def _answer(self, request: Request) -> Response:
        if request.path == "/simulator/stats":
            return answer(self.stats())
        if request.path == "/simulator/faults":
            return self._control(request)
        if request.path == WS_PATH:
            return BAD_UPGRADE
        return self.rest.handle(request.method, request.target, request.headers, self.now_us())

    # ---- WebSocket

    def _upgrade(self, door: HttpDoor, request: Request, sock: socket.socket, peer: str) -> None:
        """The handshake, then the life of a WebSocket."""
        codec = Codec()
        refusal = self._refusal(request.headers, request.path)
        if refusal is None:
            try:
                reply = codec.accept(request.target, request.raw_headers, deflate=self.settings.deflate)
            except HandshakeError:
                refusal = BAD_UPGRADE
        status = refusal.status if refusal else 101
        self._handshakes[status] = self._handshakes.get(status, 0) + 1
        if refusal:
            self.event(None, "refused", status=status)
            door.write(refusal, close=True)
            return
        connection = self._connect(codec, sock, peer)
        try:
            self.trouble.strike(connection, self.now_s())
            sock.sendall(reply)
            connection.writer = gevent.spawn(connection.write)
            self._read(connection, door.rest())
        except HalfOpen:
            connection.gone.wait()
        except OSError:
            pass
        finally:
            self._disconnect(connection)

    def _connect(self, codec: Codec, sock: socket.socket, peer: str) -> Connection:
        self._opened += 1
        player = Player(self._tape) if self._tape else None
        session = Session(player or self._view, self._terms)
        if player:
            player.attach(session, sending_ts=self.settings.sending_ts)
        now_s = self.now_s()
        connection = Connection(self._opened, peer, sock, codec, session, player, now_s, self)
        connection.next_ping_s = now_s + (self.settings.ping_interval_s or math.inf)
        connection.reader = gevent.getcurrent()
        self.event(connection, "opened", peer=peer)
        self.connections.append(connection)
        return connection

    def _disconnect(self, connection: Connection) -> None:
        self._sent += connection.frames
        self.connections.remove(connection)
        connection.shut()
        if connection.writer:
            connection.writer.kill(block=False)
        self.event(connection, "closed", frames=connection.frames)

    def _refusal(self, headers: dict[str, str], path: str) -> Response | None:
        """Why a handshake is refused: a fault, the check of the headers, too many connections."""
        response = self.trouble.handshake(self._opened + 1)
        if response:
            return response
        refusal = self._keys.refusal(headers, "GET", path, self.now_ms())
        if refusal:
            return Response(refusal.status, refusal.body.encode())
        if len(self.connections) >= self.settings.connection_limit:
            return TOO_MANY
        return None

    def _read(self, connection: Connection, data: bytes) -> None:
        """Reads until the connection ends."""
        while not connection.closed:
            if data and not self._received(connection, data):
                return
            data = connection.sock.recv(65_536)
            if not data:
                return

    def _received(self, connection: Connection, data: bytes) -> bool:
        """Handles bytes of the client; False: it is over."""
        now_ms = self.now_ms()
        for incoming in connection.codec.receive(data):
            match incoming.kind:
                case Kind.TEXT:
                    connection.session.receive(incoming.text, now_ms)
                case Kind.BINARY:
                    connection.session.receive("", now_ms)
                case Kind.PING:
                    connection.control(incoming.reply)
                case Kind.PONG:
                    connection.unanswered_s = None
                case Kind.CLOSE:
                    self.event(connection, "close", code=incoming.code)
                    if self.now_s() >= connection.stalled_until_s:
                        connection.answer_close(incoming.reply)
                        gevent.wait([connection.writer], timeout=1.0)
                    return False
        if connection.subscribed_s is None and connection.session.subscribed:
            connection.subscribed_s = self.now_s()
            self._running = True
        connection.session.pump(now_ms)
        connection.collect()
        connection.wake.set()
        return True

    # ---- what goes on by itself

    def _pace_for_ever(self) -> None:
        """The market goes on: `rate` messages a second, the tickers of a second counted in."""
        rate = self.settings.rate
        pause_s = min(max(1.0 / rate, 0.001), TICK_S)
        then_s = flushed_s = self.now_s()
        orders_rate, credit = rate, 0.0
        while True:
            gevent.sleep(pause_s)
            now_s, now_us = self.now_s(), self.now_us()
            if not self._running:
                then_s = flushed_s = now_s
                continue
            passed_s, then_s = min(now_s - then_s, 0.25), now_s
            if self.settings.frames is not None:
                self._pace_files(passed_s)
                continue
            credit += orders_rate * passed_s
            while credit >= 1:
                credit -= max(1, self.happen(self.exchange.step(now_us), now_us))
                if self.now_s() - now_s > LONGEST_TURN_S:  # more than this machine can do: others must get their turn
                    credit = 0.0
            if now_s - flushed_s >= 1.0:
                flushed_s = now_s
                tickers = self.happen(self.exchange.quotes(), now_us)
                orders_rate = max((orders_rate + max(rate - tickers, 0)) / 2, rate / 20)
            self._collect(now_us)

    def happen(self, happenings: Iterable[Happening], now_us: int) -> int:
        """Tells every session; how much happened."""
        told = 0
        now_ms = now_us // 1000
        listening = [each for each in self.connections if each.subscribed_s is not None and not each.half_open]
        for happening in happenings:
            told += 1
            for connection in listening:
                connection.publish(happening, now_ms)
        return told

    def _collect(self, now_us: int) -> None:
        for connection in self.connections:
            if not connection.half_open:
                connection.session.pump(now_us // 1000)
                connection.collect()

    def _pace_files(self, passed_s: float) -> None:
        for connection in self.connections:
            if connection.subscribed_s is not None and not connection.half_open:
                connection.credit += self.settings.rate * passed_s
                due = int(connection.credit)
                connection.credit -= due
                connection.play_file(due)

    def _tick_for_ever(self) -> None:
        second = fifth = 0
        while True:
            gevent.sleep(TICK_S)
            now_s, now_us = self.now_s(), self.now_us()
            self.trouble.skew(now_s)
            for connection in list(self.connections):
                if not connection.half_open:
                    self._keep_alive(connection, now_s)
                    self.trouble.strike(connection, now_s)
            if now_us // 200_000 != fifth:
                fifth = now_us // 200_000
                full, second = now_us // 1_000_000 != second, now_us // 1_000_000
                self._publish_indices(now_us, full_second=full)
            self._collect(now_us)

    def _publish_indices(self, now_us: int, *, full_second: bool) -> None:
        wanted = {name for each in self.connections for name in each.session.subscriptions}
        if self.settings.frames is None and wanted & {"cfbenchmarks_value", "cfbenchmarks_value_5hz"}:
            values = [self.exchange.index_value(name, now_us, full_second=full_second) for name in INDICES]
            self.happen(values, now_us)

    def _keep_alive(self, connection: Connection, now_s: float) -> None:
        if now_s < connection.stalled_until_s or connection.closing:
            return
        if connection.unanswered_s is not None and now_s - connection.unanswered_s > self.settings.pong_timeout_s > 0:
            self.event(connection, "no_pong")
            connection.shut()
        elif now_s >= connection.next_ping_s:
            connection.next_ping_s = now_s + self.settings.ping_interval_s
            if connection.unanswered_s is None:
                connection.unanswered_s = now_s
            self.event(connection, "ping")
            connection.control(connection.codec.ping())

    def _flush_for_ever(self) -> None:
        while self.ledger:
            gevent.sleep(0.1)
            self.ledger.flush()

    def stats(self) -> dict[str, object]:
        rows = [
            {
                "number": each.number,
                "peer": each.peer,
                "frames": each.frames,
                "bytes": each.sent_bytes,
                "queued": len(each.queue),
                "half_open": each.half_open,
                "stalled": self.now_s() < each.stalled_until_s,
                "subscriptions": {
                    sub.channel: {
                        "sid": sub.sid,
                        "seq": sub.seq,
                        "markets": None if sub.markets is None else len(sub.markets),
                    }
                    for sub in each.session.subscriptions.values()
                },
            }
            for each in self.connections
        ]
        return {
            "clients": len(rows),
            "connections": rows,
            "frames": self._sent + sum(each.frames for each in self.connections),
            "handshakes": {str(status): number for status, number in self._handshakes.items()},
            "markets": len(self.exchange.markets),
            "opened": self._opened,
            "faults": [fault.as_json() for fault in self.trouble.faults],
        }

    def _control(self, request: Request) -> Response:
        """GET shows, DELETE clears, POST {"fault": SPEC, "connection": N?} arms; "drop" is known too."""
        if request.method == "DELETE":
            self.trouble.clear()
        elif request.method == "POST":
            try:
                wanted = json.loads(request.body)
                text, connection = str(wanted["fault"]), wanted.get("connection")
                if text == "drop":
                    self.trouble.drop()
                else:
                    self.trouble.arm(text, None if connection is None else int(connection))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return answer({"error": {"code": "bad_request", "message": str(error)}}, 400)
        elif request.method != "GET":
            return answer({"error": {"code": "method_not_allowed", "message": "method not allowed"}}, 405)
        return answer({"faults": [fault.as_json() for fault in self.trouble.faults], "known": sorted(CATALOGUE)})

    def command(self, line: str) -> str:
        """A line of standard input: `fault SPEC`, `clear`, `drop`, `stats`; the answer, one line."""
        word, _, rest = line.strip().partition(" ")
        try:
            match word:
                case "fault":
                    return json.dumps({"armed": self.trouble.arm(rest).as_json()})
                case "clear":
                    self.trouble.clear()
                case "drop":
                    self.trouble.drop()
                case "stats":
                    return json.dumps(self.stats())
                case _:
                    return json.dumps({"error": f"unknown command {word!r}; known: fault SPEC, clear, drop, stats"})
        except FaultError as error:
            return json.dumps({"error": str(error)})
        return json.dumps({"done": word})
