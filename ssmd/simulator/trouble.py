"""Faults carried out: on handshakes, on the clock, on connections. When each is due, `faults` knows.

Not for faults that are frames or change frames: the session does those, because it has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from ssmd.simulator.connection import Connection
from ssmd.simulator.exchange import Exchange, Happening
from ssmd.simulator.faults import Armed, Fault, Scope, parse
from ssmd.simulator.render import Format
from ssmd.simulator.rest import TOO_MANY, Response, answer
from ssmd.simulator.settings import Settings

SLOW_S = 3.0

HTTP_FAULTS: dict[str, Response] = {
    "http_401": answer({"error": {"code": "authentication_error", "message": "authentication_error"}}, 401),
    "http_429": TOO_MANY,
    "http_502": Response(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>\n", "text/html"),
}


class Stage(Protocol):
    """What faults need of the server."""

    settings: Settings
    exchange: Exchange
    connections: list[Connection]
    skew_ms: int

    def now_s(self) -> float: ...

    def now_ms(self) -> int: ...

    def now_us(self) -> int: ...

    def event(self, connection: Connection | None, event: str, **fields: object) -> None: ...

    def happen(self, happenings: Iterable[Happening], now_us: int) -> int: ...


class Trouble:
    """The faults that are armed, and what they do."""

    def __init__(self, stage: Stage, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        self._stage = stage
        self._started_s = stage.now_s()
        self._skew_until_s = math.inf

    def handshake(self, connection: int) -> Response | None:
        """The answer that a fault gives to the handshake of the connection to be, if any."""
        now_s = self._stage.now_s()
        for fault in self.faults:
            if fault.name in HTTP_FAULTS and fault.due(connection, self._started_s, now_s):
                if fault.lasting_s is None:
                    fault.struck(connection, now_s)
                elif now_s > fault.start_s(self._started_s) + fault.lasting_s:
                    fault.left = 0
                    continue
                return HTTP_FAULTS[fault.name]
        return None

    def skew(self, now_s: float) -> None:
        """Sets the clock off, and right again."""
        for fault in self.faults:
            if fault.name == "clock_skew" and fault.due(0, self._started_s, now_s):
                fault.struck(0, now_s)
                self._stage.skew_ms = int(float(fault.argument) * 1000)
                self._skew_until_s = now_s + (fault.lasting_s or math.inf)
        if self._stage.skew_ms and now_s >= self._skew_until_s:
            self._stage.skew_ms = 0

    def strike(self, connection: Connection, now_s: float) -> None:
        """Does to a connection what is due."""
        self.faults = [fault for fault in self.faults if not fault.finished]
        for fault in self.faults:
            if fault.scope is Scope.SERVER:
                continue
            since_s = connection.opened_s if fault.scope is Scope.COMMAND else connection.subscribed_s
            if since_s is None or connection.closed or not fault.due(connection.number, since_s, now_s):
                continue
            if self._do(connection, fault, now_s):
                fault.struck(connection.number, now_s)
                self._stage.event(connection, "fault", name=fault.name, argument=fault.argument)
        connection.collect()

    def _do(self, connection: Connection, fault: Fault, now_s: float) -> bool:
        """Does a fault to a connection; False: not possible now, to be tried again."""
        now_ms = self._stage.now_ms()
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
                best = Format.OLD if self._stage.exchange.whole else Format.BOTH
                connection.session.inject("old_format", fault.argument or best.value, now_ms)
            case _:
                return connection.session.inject(fault.name, fault.argument, now_ms)
        return True

    def _burst(self, connection: Connection, frames: int) -> None:
        if self._stage.settings.frames is not None:
            connection.play_file(frames)
        elif connection.player is None:
            now_us, done = self._stage.now_us(), 0
            before = connection.frames + len(connection.queue)
            for _ in range(100 * frames):
                self._stage.happen(self._stage.exchange.step(now_us), now_us)
                connection.collect()
                done = connection.frames + len(connection.queue) - before
                if done >= frames or not connection.session.subscribed:
                    break

    def _empty(self, connection: Connection, ticker: str) -> bool:
        session = connection.session
        market = self._stage.exchange.markets.get(ticker) if ticker else session.market_with_levels()
        if market is None or self._stage.settings.frames is not None:
            return False
        if connection.player:
            connection.player.close_market(market, self._stage.now_ms())
        else:
            self._stage.happen(self._stage.exchange.empty_book(market, self._stage.now_us()), self._stage.now_us())
        return True

    def arm(self, text: str, connection: int | None = None) -> Fault:
        """A fault given while running: its time counts from now."""
        fault = parse(text, armed_s=self._stage.now_s())
        if connection is not None:
            fault.connection = connection
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """No fault is left: clocks are right, stalls end, formats are as configured, half-open sockets close."""
        self.faults.clear()
        self._stage.skew_ms = 0
        for connection in list(self._stage.connections):
            connection.session.armed = Armed()
            connection.session.format = self._stage.settings.format
            connection.session.version += 1
            connection.stalled_until_s = connection.slow_until_s = 0.0
            if connection.half_open:
                connection.reset()

    def drop(self) -> None:
        """Every connection is reset."""
        for connection in list(self._stage.connections):
            connection.reset()
