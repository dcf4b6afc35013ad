"""One Kalshi socket and its life: connect, sign in, record, reconnect for ever.

The thin shell around the sans-IO session (`ssmd.kalshi.protocol`): it owns the socket, the clock, the randomness
and its greenlets. `handshake` makes the connection; what it brings is read on the event loop (`reading`) straight into
the C decoder, which writes records into the ring. Python sees only what `ssmd.wire.Event` lists.

Invariants: nothing read from a socket is dropped (a full ring stops the reading); every connection, every failed
attempt and every loss leaves a record; only a refusal of our credentials ends `run`: the first one at once, and the
sixth in a row where the exchange had let us in before, unless it is for the clock of this machine.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import gevent
import structlog
import websocket
from gevent.event import Event as StopEvent
from gevent.lock import RLock
from gevent.queue import Queue

from ssmd import records
from ssmd.book import Suspect
from ssmd.environment import Environment
from ssmd.errors import ExchangeError, RefusedError, SsmdError
from ssmd.exchange import ClientState, Recorder
from ssmd.kalshi import actions, auth, planner, protocol
from ssmd.kalshi.handshake import Endpoints, connect
from ssmd.kalshi.reading import Reader
from ssmd.steps import Steps
from ssmd.wire import Event, EventKind, FeedStatus, WireConnection

TICK_S = 0.5
FULL_NAP_S = 0.001
FULL_NAP_MAX_S = 0.02
WARNINGS_AT_MOST = 1000  # different ones, in the life of a client
REFUSALS_BORNE = 5  # in a row, once the exchange has let us in: with 2, 4, 8, 16 and 30 s between, a minute
FIRST_REFUSAL_WAIT_S = 2.0


@dataclass(slots=True)
class _Loss:
    """How a socket ended. `code` is a WebSocket close code, 0 = none."""

    reason: str
    code: int = 0
    cause: records.GapCause = records.GapCause.DISCONNECT


@dataclass(slots=True)
class Admission:
    """Has the exchange let this run in? Then the key is good, and a refusal may pass. Shared by all clients."""

    once: bool = False


class Backoff:
    """Full-jitter exponential back-off: a random wait up to a limit that doubles from min to max."""

    def __init__(self, minimum_s: float, maximum_s: float, uniform: Callable[[float, float], float]) -> None:
        self._minimum_s, self._maximum_s, self._uniform = minimum_s, maximum_s, uniform
        self._limit_s = minimum_s

    def next_s(self) -> float:
        wait_s = self._uniform(self._minimum_s / 2, self._limit_s)
        self._limit_s = min(self._limit_s * 2, self._maximum_s)
        return wait_s

    def reset(self) -> None:
        self._limit_s = self._minimum_s


def session_settings(environment: Environment) -> protocol.Settings:
    """What of the environment concerns the session."""
    connector = environment.connector
    return protocol.Settings(
        use_yes_price=connector.use_yes_price,
        command_batch=connector.subscribe_batch,
        stall_after_ns=int(connector.stall_after_s * 1e9),
    )


def _receive(session: protocol.Session, *, event: Event, now_ns: int) -> Sequence[actions.Action]:
    return session.receive(event, now_ns)


class Client:
    """One socket, reconnected for ever; `run` is a greenlet body."""

    def __init__(
        self,
        name: str,
        plan: planner.ConnectionPlan,
        endpoints: Callable[[], Endpoints],
        recorder: Recorder,
        environment: Environment,
        *,
        admission: Admission | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.state = ClientState(name=name)
        self._admission = admission or Admission()
        self._refusals = 0  # in a row
        self._plan = plan
        self._endpoints = endpoints
        self._recorder = recorder
        self._environment = environment
        self._log = structlog.get_logger().bind(client=name)
        reconnect = environment.connector.reconnect
        self._backoff = Backoff(reconnect.min_ms / 1000, reconnect.max_s, uniform)
        self._refusal_backoff = Backoff(min(FIRST_REFUSAL_WAIT_S, reconnect.max_s), reconnect.max_s, uniform)
        self._stop = StopEvent()
        self._began_ns = 0
        self._socket: websocket.WebSocket | None = None
        self._reader: Reader | None = None
        self._session: protocol.Session | None = None
        self._steps = Steps(recorder.now_ns(), time.monotonic_ns())
        self._loss: _Loss | None = None
        self._open_gaps: list[int] = []
        self._warned: set[str] = set()
        self._in_order = RLock()
        self._outbox: Queue[tuple[bytes, int]] = Queue()
        self._pong: bytes | None = None  # the answer that waits in the outbox

    # ---- life -------------------------------------------------------------------------------

    def run(self) -> None:
        self._began_ns = self._recorder.now_ns()
        while not self._stop.is_set():
            self.state.phase = "connecting"
            connection = self._recorder.next_connection()
            self.state.connection = connection
            endpoints = self._endpoints()
            try:
                socket = connect(endpoints, now_ms=self._recorder.now_ns() // 1_000_000)
            except (RefusedError, ExchangeError) as error:
                self._note_refusal(connection, endpoints, error)
                if isinstance(error, RefusedError):
                    self._bear(error)
                    continue
            else:
                if self._stop.is_set():  # while we were on our way
                    socket.shutdown()
                    break
                with closing(self._recorder.wire(connection)) as wire:
                    self._serve(socket, wire, connection, endpoints)
            if not self._stop.is_set():
                self.state.phase = "waiting"
                self._stop.wait(self._backoff.next_s())
        self.state.phase = "stopped"

    def _bear(self, refusal: RefusedError) -> None:
        """Waits for another try where the exchange has let us in before, some times in a row; else raises it.

        An authentication service that fails passes; a wrong key does not. For a clock that is off it waits for ever:
        the key is good, and whoever sets the clock need not know of us.
        """
        self._refusals += 1
        patient = self._refusals <= REFUSALS_BORNE or auth.clock_refused(str(refusal))
        if not (self._admission.once and patient):
            self.state.phase, self.state.detail = "stopped", str(refusal)
            raise refusal
        self.state.phase = "waiting"
        wait_s = self._refusal_backoff.next_s()
        self._log.warning(
            "refused, although this key was good before", again_in_s=round(wait_s, 1), times=self._refusals
        )
        self._stop.wait(wait_s)

    def stop(self) -> None:
        self._stop.set()
        self._end_socket(_Loss("stopped as asked", 1000))

    def change_plan(self, plan: planner.ConnectionPlan) -> None:
        """Adds and removes markets on the running subscriptions, or keeps the plan for the next connection."""
        self._plan = plan
        if self._loss is None:
            self._perform(lambda session: session.change_plan(plan, self._recorder.now_ns()))

    def suspect(self, found: Suspect) -> None:
        """The book of a market cannot be right: asks the exchange for it."""
        if self._loss is None and found.connection == self.state.connection:
            self._perform(lambda session: session.suspect(found, self._recorder.now_ns()))

    # ---- one connection ----------------------------------------------------------------------

    def _serve(self, socket: websocket.WebSocket, wire: WireConnection, connection: int, endpoints: Endpoints) -> None:
        """Everything between the handshake and the loss of one socket."""
        opened_ns = self._recorder.now_ns()
        state = self.state
        self._admission.once, self._refusals = True, 0
        self._refusal_backoff.reset()
        state.opens += 1
        state.opened_ns, state.frames, state.phase, state.detail = opened_ns, 0, "subscribing", ""
        state.first_opened_ns = state.first_opened_ns or opened_ns
        state.heard_ns = time.monotonic_ns()
        self._loss = None
        self._socket = socket
        socket.sock.settimeout(None)  # the sender waits as long as it takes; the session judges silence
        self._reader = reader = Reader(socket.sock, wire)
        self._recorder.record(
            records.connection_event(
                what=records.ConnectionWhat.OPENED,
                connection=connection,
                recv_ns=opened_ns,
                recv_ticks=self._recorder.ticks(),
                url=endpoints.websocket_url,
                use_yes_price=self._environment.connector.use_yes_price,
            )
        )
        self._log.info("connected", connection=connection, url=endpoints.websocket_url)
        self._session = session = protocol.Session(self._plan, settings=session_settings(self._environment))
        self._outbox, self._pong = Queue(), None
        helpers = [
            gevent.spawn(self._watched, self._tick_forever, wire),
            gevent.spawn(self._watched, self._send_forever, socket),
        ]
        try:
            self._steps = Steps(self._recorder.now_ns(), time.monotonic_ns())  # both now: much happened since it opened
            self._perform(lambda session: session.opened(opened_ns))
            self._loss = self._read(reader, wire)
        except Exception as error:  # a fault of ours on one socket must not end the recording on it
            if self._loss is None:
                self._log.exception("the connection failed on a fault of ssmd")
                self._loss = _Loss(f"internal error: {error!r}")
        finally:
            gevent.killall(helpers)
            session.closed(self._recorder.now_ns())
            self._open_gaps += session.open_gaps
            self._session = None
            self._end_socket(self._loss or _Loss("closed"))
            self._socket = None
        self._note_loss(wire, connection, opened_ns, self._loss)

    def _read(self, reader: Reader, wire: WireConnection) -> _Loss:
        """Handles what the reader hands over until the socket ends; returns how."""
        while self._loss is None:
            try:
                status = reader.wait()
            except EOFError:
                return self._loss or _Loss("the exchange closed the connection without a close frame")
            except OSError as error:
                return self._loss or _Loss(f"the connection was lost: {error.strerror or error}")
            if status is not None:
                self._handle(wire, status)
        return self._loss

    def _handle(self, wire: WireConnection, status: FeedStatus) -> None:
        """Acts on what one feed handed back, until the buffer is empty."""
        while True:
            for event in wire.events:
                if event.kind != EventKind.GAP or self._note_gap(event):
                    self._perform(partial(_receive, event=event, now_ns=self._received_ns(wire)))
            if status == FeedStatus.FULL:
                status = self._wait_for_room(wire)
            elif status == FeedStatus.MORE:
                gevent.sleep(1e-6)  # a chunk can hold a hundred thousand pings
                status = wire.feed(0)
            else:
                break
        if status == FeedStatus.PROTOCOL:
            self._end_socket(_Loss(f"the exchange broke the WebSocket protocol: {wire.fault}", 1002))
        elif status == FeedStatus.TOO_LARGE:
            self._end_socket(_Loss("a message was larger than max_frame_bytes", 1009))
        elif status == FeedStatus.CLOSED:
            self._end_socket(_Loss("the exchange closed the connection"))

    def _wait_for_room(self, wire: WireConnection) -> FeedStatus:
        """The ring is full: TCP holds the exchange back while we look again, ever less often."""
        state, nap_s = self.state, FULL_NAP_S
        began_ns = state.ring_full_since_ns = time.monotonic_ns()
        while True:
            gevent.sleep(nap_s)
            nap_s = min(nap_s * 2, FULL_NAP_MAX_S)
            status = wire.feed(0)
            if status != FeedStatus.FULL or wire.events:  # events of before are handled; these are new
                break
        state.ring_full_since_ns = 0
        state.ring_full_ns += time.monotonic_ns() - began_ns
        return status

    def _watched(self, body: Callable[[Any], None], argument: Any) -> None:
        """A helper of the reader: without it a dead socket would look alive, so its fault ends the socket."""
        try:
            body(argument)
        except Exception as error:
            self._log.exception("the connection failed on a fault of ssmd")
            self._end_socket(_Loss(f"internal error: {error!r}"))

    def _received_ns(self, wire: WireConnection) -> int:
        """When something came last. Stamps follow a clock that was set back within a second: never later than now."""
        return min(wire.last_recv_ns, self._recorder.now_ns())

    def _mind_clock(self, session: protocol.Session) -> int:
        """What time it is, once the session knows whether the clock was stepped."""
        now_ns = self._recorder.now_ns()
        if step_ns := self._steps.look(now_ns, time.monotonic_ns()):
            session.clock_stepped(step_ns)
            self._log.warning("the clock of this machine was stepped", by_s=round(step_ns / 1e9, 3))
        return now_ns

    def _tick_forever(self, wire: WireConnection) -> None:
        while self._loss is None and self._session is not None:
            state, session = self.state, self._session
            now_ns = self._mind_clock(session)
            if wire.last_recv_ns != state.last_recv_ns:
                state.heard_ns = time.monotonic_ns()
            state.last_recv_ns, state.frames = wire.last_recv_ns, wire.frames
            if state.ring_full_since_ns:  # silence of our own making is no stall
                session.not_reading(now_ns)
            elif wire.last_recv_ns:
                session.received_data(self._received_ns(wire))
            self._perform(lambda session: session.tick(self._recorder.now_ns()))
            wait_s = TICK_S
            if session.next_deadline_ns is not None:
                wait_s = min(max((session.next_deadline_ns - now_ns) / 1e9, 0.01), TICK_S)
            gevent.sleep(wait_s)

    # ---- what the session asks for -------------------------------------------------------------

    def _perform(self, asked: Callable[[protocol.Session], Iterable[actions.Action]]) -> None:
        """Calls the session and carries out what it answers, in order, before anybody else may call it."""
        with self._in_order:
            session = self._session
            if session is None:
                return
            self._mind_clock(session)
            waiting = deque(asked(session))
            while waiting:
                waiting.extendleft(reversed(self._carry_out(session, waiting.popleft())))
            if session.live and self.state.phase == "subscribing":
                self._became_live()

    def _carry_out(self, session: protocol.Session, action: actions.Action) -> Sequence[actions.Action]:
        """One action; returns what follows from it."""
        match action:
            case actions.SendText(data):
                self._outbox.put((data, websocket.ABNF.OPCODE_TEXT))
            case actions.SendPong(payload):
                self._answer_ping(payload)
            case actions.SendPing(payload):
                self._outbox.put((payload, websocket.ABNF.OPCODE_PING))
            case actions.RecordGap():
                return session.recorded(action.token, self._record_gap(action))
            case actions.RecordEvent():
                self._record_event(action)
            case actions.Warn(key, message):
                self._warn(key, message)
            case actions.Close(code, reason, stalled):
                self.state.stalls += stalled
                cause = records.GapCause.STALL if stalled else records.GapCause.DISCONNECT
                self._end_socket(_Loss(reason, code, cause))
        return ()

    def _answer_ping(self, payload: bytes) -> None:
        """Of pings that come faster than answers leave only the last is answered (RFC 6455, section 5.5.3)."""
        if self._pong is None:
            self._outbox.put((b"", websocket.ABNF.OPCODE_PONG))
        self._pong = payload

    def _send_forever(self, socket: websocket.WebSocket) -> None:
        """Sends on a greenlet of its own: an exchange that does not read must not stop us from reading."""
        while True:
            data, opcode = self._outbox.get()
            if opcode == websocket.ABNF.OPCODE_PONG and self._pong is not None:
                data, self._pong = self._pong, None
            try:
                socket.send(data, opcode)
            except (OSError, websocket.WebSocketException) as error:
                self._end_socket(_Loss(f"sending failed: {error}"))
                return

    def _record_gap(self, action: actions.RecordGap) -> int:
        self._recorder.count_gap(action.cause.name.lower())
        return self._recorder.record(
            records.gap(
                cause=action.cause,
                connection=self.state.connection,
                sid=action.sid,
                recv_ns=self._recorder.now_ns(),
                recv_ticks=self._recorder.ticks(),
                from_seq=action.from_seq,
                to_seq=action.to_seq,
                from_ns=action.from_ns,
                to_ns=action.to_ns,
                detail=action.detail,
            )
        )

    def _record_event(self, action: actions.RecordEvent) -> None:
        if action.what is records.ConnectionWhat.RESYNCED:
            self.state.resyncs += 1
        self._recorder.record(
            records.connection_event(
                what=action.what,
                connection=self.state.connection,
                sid=action.sid,
                recv_ns=self._recorder.now_ns(),
                recv_ticks=self._recorder.ticks(),
                reason=action.reason,
                gap_number=action.gap_number,
                channel=action.channel,
                markets=action.markets,
            )
        )

    def _became_live(self) -> None:
        """Every subscription is confirmed: what was unseen since the last socket ends here."""
        self.state.phase = "live"
        self._backoff.reset()
        self._log.info("subscribed", connection=self.state.connection)
        gaps, self._open_gaps = self._open_gaps, []
        for number in gaps:
            self._record_event(
                actions.RecordEvent(what=records.ConnectionWhat.RESYNCED, gap_number=number, reason="reconnected")
            )
        self._recorder.became_live()

    def _note_gap(self, event: Event) -> bool:
        """A Gap record that the decoder wrote. False: of the connection itself, so the next connection ends it."""
        if event.sid:
            self._recorder.count_gap("sequence")
            return True
        self._recorder.count_gap("frame_too_large")
        self._open_gaps.append(event.number)
        return False

    def _warn(self, key: str, message: str) -> None:
        if key in self._warned or len(self._warned) > WARNINGS_AT_MOST:
            return
        self._warned.add(key)  # once for each thing, not once a message
        if len(self._warned) <= WARNINGS_AT_MOST:
            self._log.warning(message, connection=self.state.connection)
        else:
            self._log.warning("more is strange than is worth telling: no more warnings from here")

    # ---- ends ------------------------------------------------------------------------------------

    def _end_socket(self, loss: _Loss) -> None:
        """Closes the socket, once; the reader then finds out. Never waits for the other side."""
        if self._loss is None:
            self._loss = loss
        socket, reader = self._socket, self._reader
        if socket is None or socket.sock is None:
            return
        raw = socket.sock
        if reader is not None:
            reader.close()
        if self._loss.code:
            with gevent.Timeout(0.5, False):
                try:
                    socket.send(self._loss.code.to_bytes(2, "big"), websocket.ABNF.OPCODE_CLOSE)
                except (OSError, websocket.WebSocketException):
                    pass
        try:
            raw.close()
        except OSError:
            pass

    def _note_loss(self, wire: WireConnection, connection: int, opened_ns: int, loss: _Loss) -> None:
        state, now_ns = self.state, self._recorder.now_ns()
        state.closes += 1
        state.closed_ns = now_ns
        state.frames, state.last_recv_ns = wire.frames, wire.last_recv_ns
        stopping = self._stop.is_set()
        self._recorder.record(
            records.connection_event(
                what=records.ConnectionWhat.CLOSED,
                connection=connection,
                recv_ns=now_ns,
                recv_ticks=self._recorder.ticks(),
                reason=loss.reason,
                code=loss.code,
                messages=wire.frames,
                opened_ns=opened_ns,
            )
        )
        log = self._log.info if stopping else self._log.warning
        log("disconnected", connection=connection, reason=loss.reason, messages=wire.frames)
        if not stopping:
            number = self._recorder.record(
                records.gap(
                    cause=loss.cause,
                    connection=connection,
                    recv_ns=now_ns,
                    recv_ticks=self._recorder.ticks(),
                    from_ns=wire.last_recv_ns or opened_ns,
                    detail=loss.reason,
                )
            )
            self._recorder.count_gap(loss.cause.name.lower())
            self._open_gaps.append(number)

    def _note_refusal(self, connection: int, endpoints: Endpoints, error: SsmdError) -> None:
        self.state.failures += 1
        self.state.detail = str(error.args[0])
        self._recorder.record(
            records.connection_event(
                what=records.ConnectionWhat.REFUSED,
                connection=connection,
                recv_ns=self._recorder.now_ns(),
                recv_ticks=self._recorder.ticks(),
                reason=str(error.args[0]),
                code=getattr(error, "status", 401 if isinstance(error, RefusedError) else 0),
                url=endpoints.websocket_url,
            )
        )
        self._log.warning("could not connect", connection=connection, reason=str(error.args[0]), hint=error.hint)
        if not self.state.opens and not self._open_gaps:
            self._note_unseen(str(error.args[0]))

    def _note_unseen(self, reason: str) -> None:
        """Nothing of this client was seen since its start; the Gap ends with its first full subscription."""
        self._recorder.count_gap("disconnect")
        gap = records.gap(
            cause=records.GapCause.DISCONNECT,
            connection=0,
            recv_ns=self._recorder.now_ns(),
            recv_ticks=self._recorder.ticks(),
            from_ns=self._began_ns,
            detail=reason,
        )
        self._open_gaps.append(self._recorder.record(gap))
