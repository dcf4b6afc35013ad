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
from urllib.parse import parse_qs, urlsplit

import gevent
import gevent.event
import gevent.socket
import h11
from gevent.server import StreamServer

from ssmd.errors import EXIT_FAILED
from ssmd.simulator.books import Book
from ssmd.simulator.catalogue import Market
from ssmd.simulator.connection import TICK_S, Connection, HalfOpen
from ssmd.simulator.exchange import Exchange, Happening
from ssmd.simulator.faults import CATALOGUE, Armed, Fault, FaultError, Scope, parse
from ssmd.simulator.keys import KeyRing
from ssmd.simulator.ledger import Ledger
from ssmd.simulator.render import Format
from ssmd.simulator.rest import Response, Rest, answer
from ssmd.simulator.session import INDICES, Session, Terms
from ssmd.simulator.settings import Settings
from ssmd.simulator.tape import Player, Tape
from ssmd.simulator.websocket import Codec, HandshakeError, Kind

WS_PATH = "/trade-api/ws/v2"
WARM_UP_STEPS = 400
SLOW_S = 3.0

HTTP_FAULTS: dict[str, Response] = {
    "http_401": answer({"error": {"code": "authentication_error", "message": "authentication_error"}}, 401),
    "http_429": answer({"error": "too many requests"}, 429),
    "http_502": Response(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>\n", "text/html"),
}


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


class Server:
    """The exchange on a socket."""

    def __init__(self, settings: Settings, keys: KeyRing, ledger: Ledger | None) -> None:
        self.settings = settings
        self.ledger = ledger
        self.skew_ms = 0
        self.faults = [parse(text) for text in settings.faults]
        whole = settings.whole or settings.format is not Format.NEW or any(f.name == "old_format" for f in self.faults)
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
        self._started_s = self.now_s()
        self._running = False  # whether the market has begun to move
        self._skew_until_s = math.inf
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
        server = StreamServer(("127.0.0.1", port), self._handle, **options)
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
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        http = h11.Connection(h11.SERVER)
        try:
            while True:
                request = self._read_request(http, sock)
                if request is None:
                    return
                head, body = request
                target = head.target.decode("latin-1")
                headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                if urlsplit(target).path == WS_PATH and headers.get("upgrade", "").lower() == "websocket":
                    self._upgrade(http, sock, address, head, target, headers)
                    return
                response = self._answer(head.method.decode(), target, headers, body)
                sock.sendall(_http(http, response))
                if http.our_state is h11.MUST_CLOSE:
                    return
                http.start_next_cycle()
        except (OSError, h11.RemoteProtocolError, HandshakeError):
            return

    def _read_request(self, http: h11.Connection, sock: socket.socket) -> tuple[h11.Request, bytes] | None:
        """One request with its body; an upgrade is complete with its head."""
        head, body = None, bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(sock.recv(65_536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head:
                return head, bytes(body)
            else:  # PAUSED, ConnectionClosed
                return (head, b"") if head else None

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        path = urlsplit(target).path
        if path == "/simulator/stats":
            return answer(self.stats())
        if path == "/simulator/faults":
            return self._control(method, target, body)
        if path == WS_PATH:
            return Response(400, b'{"error":{"code":"bad_request","message":"not a websocket upgrade"}}')
        return self.rest.handle(method, target, headers, self.now_us())

    # ---- WebSocket

    def _upgrade(
        self,
        http: h11.Connection,
        sock: socket.socket,
        address: tuple[str, int],
        head: h11.Request,
        target: str,
        headers: dict[str, str],
    ) -> None:
        refusal = self._refusal(headers, urlsplit(target).path)
        status = refusal.status if refusal else 101
        self._handshakes[status] = self._handshakes.get(status, 0) + 1
        if refusal:
            self.event(None, "refused", status=status)
            sock.sendall(_http(http, refusal, close=True))
            return
        codec = Codec()
        reply = codec.accept(target, list(head.headers), deflate=self.settings.deflate)
        self._opened += 1
        player = Player(self._tape) if self._tape else None
        session = Session(player or self._view, self._terms)
        if player:
            player.attach(session, sending_ts=self.settings.sending_ts)
        connection = Connection(
            self._opened, f"{address[0]}:{address[1]}", sock, codec, session, player, self.now_s(), self
        )
        connection.next_ping_s = self.now_s() + (self.settings.ping_interval_s or math.inf)
        connection.reader = gevent.getcurrent()
        self.event(connection, "opened", peer=connection.peer)
        self.connections.append(connection)
        try:
            self._strike_due(connection, self.now_s())
            sock.sendall(reply)
            connection.writer = gevent.spawn(connection.write)
            self._read(connection, http.trailing_data[0])
        except HalfOpen:
            connection.gone.wait()
        except OSError:
            pass
        finally:
            self._sent += connection.frames
            self.connections.remove(connection)
            connection.shut()
            if connection.writer:
                connection.writer.kill(block=False)
            self.event(connection, "closed", frames=connection.frames)

    def _refusal(self, headers: dict[str, str], path: str) -> Response | None:
        """Why a handshake is refused: a fault, the check of the headers, too many connections."""
        now_s = self.now_s()
        for fault in self.faults:
            if fault.name in HTTP_FAULTS and fault.due(self._opened + 1, self._started_s, now_s):
                if fault.lasting_s is None:
                    fault.struck(self._opened + 1, now_s)
                elif now_s > fault.start_s(self._started_s) + fault.lasting_s:
                    fault.left = 0
                    continue
                return HTTP_FAULTS[fault.name]
        refusal = self._keys.refusal(headers, "GET", path, self.now_ms())
        if refusal:
            return Response(refusal.status, refusal.body.encode())
        if len(self.connections) >= self.settings.connection_limit:
            return HTTP_FAULTS["http_429"]
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
                credit -= max(1, self._happen(self.exchange.step(now_us), now_us))
            if now_s - flushed_s >= 1.0:
                flushed_s = now_s
                tickers = self._happen(self.exchange.quotes(), now_us)
                orders_rate = max((orders_rate + max(rate - tickers, 0)) / 2, rate / 20)
            self._collect(now_us)

    def _happen(self, happenings: Iterable[Happening], now_us: int) -> int:
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
            self._skew(now_s)
            for connection in list(self.connections):
                if not connection.half_open:
                    self._keep_alive(connection, now_s)
                    self._strike_due(connection, now_s)
            if now_us // 200_000 != fifth:
                fifth = now_us // 200_000
                full, second = now_us // 1_000_000 != second, now_us // 1_000_000
                self._publish_indices(now_us, full_second=full)
            self._collect(now_us)
            self.faults = [fault for fault in self.faults if not fault.finished]

    def _publish_indices(self, now_us: int, *, full_second: bool) -> None:
        wanted = {name for each in self.connections for name in each.session.subscriptions}
        if self.settings.frames is None and wanted & {"cfbenchmarks_value", "cfbenchmarks_value_5hz"}:
            values = [self.exchange.index_value(name, now_us, full_second=full_second) for name in INDICES]
            self._happen(values, now_us)

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

    # ---- faults

    def _skew(self, now_s: float) -> None:
        for fault in self.faults:
            if fault.name == "clock_skew" and fault.due(0, self._started_s, now_s):
                fault.struck(0, now_s)
                self.skew_ms = int(float(fault.argument) * 1000)
                self._skew_until_s = now_s + (fault.lasting_s or math.inf)
        if self.skew_ms and now_s >= self._skew_until_s:
            self.skew_ms = 0

    def _strike_due(self, connection: Connection, now_s: float) -> None:
        for fault in self.faults:
            if fault.scope is Scope.SERVER:
                continue
            since_s = connection.opened_s if fault.scope is Scope.COMMAND else connection.subscribed_s
            if since_s is None or connection.closed or not fault.due(connection.number, since_s, now_s):
                continue
            if self._strike(connection, fault, now_s):
                fault.struck(connection.number, now_s)
                self.event(connection, "fault", name=fault.name, argument=fault.argument)
        connection.collect()

    def _strike(self, connection: Connection, fault: Fault, now_s: float) -> bool:
        """Does a fault to a connection; False: not possible now, to be tried again."""
        now_ms = self.now_ms()
        lasting_s = fault.lasting_s or math.inf
        match fault.name:
            case "stall":
                connection.stalled_until_s = now_s + lasting_s
            case "half_open":
                connection.hold()
            case "reset":
                connection.reset()
            case "close_frame":
                connection.close(int(fault.argument))
            case "slow_write":
                connection.slow_bytes = max(1, int(fault.argument))
                connection.slow_until_s = now_s + (fault.lasting_s or SLOW_S)
            case "burst":
                self._burst(connection, int(fault.argument))
            case "empty_snapshot":
                return self._empty(connection, fault.argument)
            case "old_format":
                best = Format.OLD if self.exchange.whole else Format.BOTH
                connection.session.inject("old_format", fault.argument or best.value, now_ms)
            case _:
                return connection.session.inject(fault.name, fault.argument, now_ms)
        return True

    def _burst(self, connection: Connection, frames: int) -> None:
        if self.settings.frames is not None:
            connection.play_file(frames)
        elif not self._tape:
            now_us, done = self.now_us(), 0
            before = connection.frames + len(connection.queue)
            for _ in range(100 * frames):
                self._happen(self.exchange.step(now_us), now_us)
                connection.collect()
                done = connection.frames + len(connection.queue) - before
                if done >= frames or not connection.session.subscribed:
                    break

    def _empty(self, connection: Connection, ticker: str) -> bool:
        session = connection.session
        market = self.exchange.markets.get(ticker) if ticker else session.market_with_levels()
        if market is None or self.settings.frames is not None:
            return False
        if connection.player:
            connection.player.close_market(market, self.now_ms())
        else:
            self._happen(self.exchange.empty_book(market, self.now_us()), self.now_us())
        return True

    def arm(self, text: str, connection: int | None = None) -> Fault:
        """A fault given while running: its time counts from now."""
        fault = parse(text, armed_s=self.now_s())
        if connection is not None:
            fault.connection = connection
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """No fault is left: clocks are right, stalls end, formats are as configured, half-open sockets close."""
        self.faults.clear()
        self.skew_ms = 0
        for connection in list(self.connections):
            connection.session.armed = Armed()
            connection.session.format = self.settings.format
            connection.session.version += 1
            connection.stalled_until_s = connection.slow_until_s = 0.0
            if connection.half_open:
                connection.reset()

    def drop(self) -> None:
        """Every connection is reset."""
        for connection in list(self.connections):
            connection.reset()

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
            "faults": [fault.as_json() for fault in self.faults],
        }

    def _control(self, method: str, target: str, body: bytes) -> Response:
        """GET shows, DELETE clears, POST {"fault": SPEC, "connection": N?} arms; "drop" is known too."""
        if method == "DELETE":
            self.clear()
        elif method == "POST":
            query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
            try:
                wanted = json.loads(body) if body else query
                text = str(wanted["fault"])
                connection = wanted.get("connection")
                if text == "drop":
                    self.drop()
                else:
                    self.arm(text, None if connection is None else int(connection))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return answer({"error": {"code": "bad_request", "message": str(error)}}, 400)
        elif method != "GET":
            return answer({"error": {"code": "method_not_allowed", "message": "method not allowed"}}, 405)
        return answer({"faults": [fault.as_json() for fault in self.faults], "known": sorted(CATALOGUE)})

    def command(self, line: str) -> str:
        """A line of standard input: `fault SPEC`, `clear`, `drop`, `stats`; the answer, one line."""
        word, _, rest = line.strip().partition(" ")
        try:
            match word:
                case "fault":
                    return json.dumps({"armed": self.arm(rest).as_json()})
                case "clear":
                    self.clear()
                case "drop":
                    self.drop()
                case "stats":
                    return json.dumps(self.stats())
                case _:
                    return json.dumps({"error": f"unknown command {word!r}; known: fault SPEC, clear, drop, stats"})
        except FaultError as error:
            return json.dumps({"error": str(error)})
        return json.dumps({"done": word})


def _http(http: h11.Connection, response: Response, *, close: bool = False) -> bytes:
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        *([("Connection", "close")] if close else []),
    ]
    head = http.send(h11.Response(status_code=response.status, headers=headers))
    return (head or b"") + (http.send(h11.Data(data=response.body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
