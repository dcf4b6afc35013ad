"""The recorder's process: ring, writer, clients, flusher, helpers, and the watch over all of them.

It starts the parts in an order in which each finds what it needs, watches every greenlet, thread and child, and ends
them in the order in which data flows: sockets, ring, files, helpers. It names no exchange: that comes from the
environment's `feed`. Not for: parsing, files, protocols; those are parts of their own.

Invariant: no record leaves the ring but into a file, and nothing ends without a word about why.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
import structlog
from gevent.event import Event as GreenEvent

from ssmd import host, records
from ssmd.book import Suspect
from ssmd.children import Child, ChildSpec
from ssmd.environment import Environment, describe
from ssmd.errors import EXIT_FAILED, EXIT_OK, ExchangeError, SsmdError, StorageError
from ssmd.exchange import Client, ClientState, find_exchange
from ssmd.health import Check, HealthServer, run_checks
from ssmd.helpers import Reports, helpers_of
from ssmd.metrics import Reading, exposition
from ssmd.report import report_of
from ssmd.status import Snapshot
from ssmd.store import Loss, Store, journal_root
from ssmd.wire import WireConnection

ANCHOR_EVERY_S = 60.0
REFRESH_EVERY_S = 60.0
WATCH_EVERY_S = 0.2
ALARM_AFTER_LOOKS = 5
STARTING = "starting: "  # what is only not there yet: no trouble before `connector.stall_after_s`
STOP_BUDGET_S = 4.0  # for all of an end. The contract is 5 s to the exit: the rest is for a machine that is busy
LAST_WORDS_S = 1.0  # of that: for clients to record how their sockets ended
HELPERS_LEAST_S = 0.5  # of that, whatever the files took: for helpers that finish what they have in hand
LAST_LINES_S = 0.3  # of that: for what ended helpers said last to pass
SIMULATOR_START_S = 30.0
HEARTBEAT_LIMIT_NS = 5_000_000_000
RING_FULL_LIMIT_NS = 1_000_000_000
RECORD_NAP_S = 0.002
ENTRY_OVERHEAD_BYTES = 1024  # of the entry that holds the environment, beside its payload


class ConnectorError(SsmdError):
    """A part of the connector failed and could not be started again."""


class Connector:
    """One run of the recorder. `run` returns the exit code; `stop` ends it from any greenlet or signal handler."""

    def __init__(
        self,
        environment: Environment,
        secret: Callable[[str, str], str],
        *,
        environment_arguments: Sequence[str],
    ) -> None:
        self._environment = environment
        self._secret = secret
        self._environment_arguments = tuple(environment_arguments)
        self._log = structlog.get_logger()
        self._stop = GreenEvent()
        self._failure: BaseException | None = None
        self._began_ns = time.time_ns()
        self._began_s = time.monotonic()
        self._gaps: dict[str, int] = {cause.name.lower(): 0 for cause in records.GapCause}
        self._outage_gap = 0
        self._unreached = ""  # why the exchange could not be asked for its markets, while that is so
        self._store: Store | None = None
        self._clients: list[Client] = []
        self._children: list[Child] = []
        self._checks: dict[str, Check] = {
            "flusher": self._check_flusher,
            "ring": self._check_ring,
            "connections": self._check_connections,
            "helpers": self._check_helpers,
        }
        self._reports = Reports(helpers_of(environment))
        for helper in helpers_of(environment):
            self._checks[helper.name] = functools.partial(self._check_helper, helper.name)
        self._failing = dict.fromkeys(self._checks, 0)  # in how many looks in a row
        self._parts: list[gevent.Greenlet] = []  # whatever may record
        self._keepers: list[gevent.Greenlet] = []  # one for each child
        # filled by what the simulator says when it listens
        self._simulator: dict[str, str] | None = {} if environment.exchange.simulator is not None else None
        self._simulator_ready = GreenEvent()
        self._started = False  # as the journal has it
        self._deadline = 0.0  # of the end, time.monotonic(); 0 = not asked for yet
        self.drained = False
        self.opened = False
        self.health_address = ""

    # ---- life ----------------------------------------------------------------------------------------------

    def run(self, duration_s: float | None = None) -> int:
        """Records until `stop`, or for `duration_s` once the ring is open; returns 0, or raises what ended it."""
        # Whatever the user has to mend is found before anything is made: secrets, certificates, the port, the folder.
        self._exchange = find_exchange(self._environment.feed)(self._environment, self, self._secret, self._simulator)
        health = self._open_health()
        try:
            self._start_simulator()
            if not self._stop.is_set():
                self._record(duration_s)
        finally:
            self._end_children()
            health.stop()
        if self._failure is not None:
            raise self._failure
        return EXIT_OK if self.drained or not self.opened else EXIT_FAILED

    def _record(self, duration_s: float | None) -> None:
        store = self._store = Store(self._environment)
        self.opened = True
        folder = str(self._environment.storage.path)
        self._log.info("recording", folder=folder, ring=str(self._environment.ring.path))
        try:
            self._start_helpers()
            self._parts.append(self._spawn("watch", self._watch_forever))
            # A full ring and an exchange that does not answer hold the start up, and must not hold an end up.
            self._parts.append(self._spawn("start", self._start))
            self._stop.wait(duration_s)
        finally:
            self._shut_down(store)

    def _start(self) -> None:
        self._begin_records(self.store)
        clients = self._resolved_clients()
        if self._stop.is_set():
            return
        self._start_auditor()
        self._clients = clients
        self._parts += [self._spawn(client.state.name, client.run) for client in clients]
        self._parts.append(self._spawn("clock anchors", self._anchor_forever))
        self._parts.append(self._spawn("market refresh", self._refresh_forever))
        settle_memory()

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called, or a part failed."""
        return bool(self._stop.is_set())

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._stop.set()

    def _spawn(self, name: str, body: Callable[[], None]) -> gevent.Greenlet:
        """A greenlet whose end is always noticed: an exception ends the run with that very error."""

        def watched() -> None:
            try:
                body()
            except Exception as error:
                if isinstance(error, SsmdError):
                    self._fail(error)
                else:
                    self._fail(ConnectorError(f"{name} failed: {error!r}"))
                    self._log.exception("a part of the connector failed", part=name)

        return gevent.spawn(watched)

    # ---- start ---------------------------------------------------------------------------------------------

    def _open_health(self) -> HealthServer:
        server = HealthServer(
            self._environment.health.address,
            live=self._checks,
            ready={"subscriptions": self._check_subscriptions},
            metrics=exposition(self._readings),
            markets=lambda after, limit: self._store.markets(after, limit) if self._store else ({}, 0),
        )
        self.health_address = server.address
        self._log.info("health", address=server.address, pages=["/healthz", "/readyz", "/metrics", "/markets"])
        return server

    def _start_simulator(self) -> None:
        """The exchange of this machine, where the environment asks for one; waits until it listens."""
        simulator = self._environment.exchange.simulator
        if simulator is not None:
            arguments = simulator_arguments(simulator)
            self._add_child(
                ChildSpec(
                    "simulator", arguments, on_line=self._simulator_said, variables=self._variables(), needed=True
                )
            )
            self._await_simulator()

    def _start_helpers(self) -> None:
        if self._environment.flusher.mode == "process":
            self._add_helper("flusher")
        for helper in helpers_of(self._environment):
            self._add_helper(helper.name)
            self._reports.expect(helper.name, now_s=time.monotonic())

    def _start_auditor(self) -> None:
        if self._environment.connector.check_books:
            root = str(journal_root(self._environment))
            arguments = ("-m", "ssmd.auditor", root, "--since-ns", str(self._began_ns))
            self._add_child(ChildSpec("auditor", arguments, on_line=self._auditor_said, variables=self._variables()))

    def _add_helper(self, name: str) -> None:
        """A part of ssmd that runs in the same environment, and logs in lines of JSON as we do."""
        arguments = ("-m", f"ssmd.{name}", *self._environment_arguments)
        self._add_child(
            ChildSpec(
                name,
                arguments,
                on_line=lambda line: self._helper_said(name, line),
                drain_last=True,
                asks_for_signals=True,
                variables=self._variables(middleware=name != "flusher"),
                needed=name == "flusher",
            )
        )

    def _variables(self, *, middleware: bool = False) -> dict[str, str]:
        """Environment variables of a helper: none has a use for the exchange's key, few for those of the middleware."""
        keys = self._environment.keys
        return host.variables_without(self._environment, [self._environment.feed] if middleware else keys)

    def _add_child(self, spec: ChildSpec) -> None:
        child = Child(spec, self._child_log)
        self._children.append(child)
        self._keepers.append(self._spawn(spec.name, child.run))

    def _child_log(self, event: str, *, level: str = "info", **fields: Any) -> None:
        getattr(self._log, level)(event, **fields)

    def _helper_said(self, name: str, line: str) -> None:
        said = _object(line)
        report = report_of(said)
        if report is not None and name in self._reports:
            process = sum(child.restarts for child in self._children if child.spec.name == name)
            self._reports.take(name, report, process=process, now_s=time.monotonic())
            return
        event, level = said.pop("event", None), said.pop("level", "info")
        if isinstance(event, str) and level in ("info", "warning", "error"):
            said.pop("timestamp", None)  # the log gives its own
            self._child_log(event, level=level, **{"part": name, **said})
        else:
            self._log.warning("helper says", part=name, line=line)

    def _auditor_said(self, line: str) -> None:
        suspect = _object(line).get("suspect")
        if not isinstance(suspect, dict):
            self._helper_said("auditor", line)
            return
        found = Suspect(**suspect)
        for client in self._clients:
            client.suspect(found)

    def _simulator_said(self, line: str) -> None:
        said = _object(line)
        if "ws_url" in said and self._simulator is not None:
            self._simulator.update(said)
            self._simulator_ready.set()
        else:
            self._log.info("simulator says", line=line)

    def _await_simulator(self) -> None:
        deadline = time.monotonic() + SIMULATOR_START_S
        while not self._simulator_ready.wait(0.05):
            if self._failure is not None:
                raise self._failure
            if self._stop.is_set():
                return
            if time.monotonic() > deadline:
                raise ConnectorError(f"the simulator did not begin to listen within {SIMULATOR_START_S:.0f} s")

    def _begin_records(self, store: Store) -> None:
        """The first records of a run: what was missed before it, that it began, which clock it uses.

        In this order: a run killed between two of them leaves no time that nobody accounts for.
        """
        found = store.found
        since_ns = found.lost_since_ns or found.last_recv_ns
        # The store goes by this order: first the numbers, then the cuts (ssmd.journal.untold).
        if found.withheld is not None:
            detail = "records {} to {} are lost, and may be on a bus: their numbers are not given again"
            self._record_gap(records.GapCause.DAMAGE, from_ns=since_ns, detail=detail.format(*found.withheld))
        for cut in found.cut:
            detail = f"{cut.segment.name} at {cut.offset}: {cut.bytes} bytes: {cut.what}"
            self._record_gap(records.GapCause.DAMAGE, from_ns=since_ns, detail=detail)
        if not found.clean:
            self._log.warning(
                "the last run did not end as asked: what came since is an outage", last_record=found.last_number
            )
            self._outage_gap = self._record_gap(
                records.GapCause.OUTAGE, from_ns=found.last_recv_ns, detail="the recorder was not running"
            )
        self.record(
            records.connection_event(
                what=records.ConnectionWhat.STARTED,
                connection=0,
                recv_ns=self.now_ns(),
                recv_ticks=self.ticks(),
                reason=f"environment {self._environment.name}",
            )
        )
        self._started = True
        self._record_environment()
        self._record_anchor()

    def _record_environment(self) -> None:
        """Under which settings this run records: who reads the journal later must not have to guess."""
        payload, headers = describe(self._environment).encode(), {"Content-Type": "application/yaml"}
        limit = self.store.record_limit_bytes
        if len(payload) > limit - ENTRY_OVERHEAD_BYTES:
            headers["Omitted"] = f"{len(payload)} bytes: more than a record may have in this ring ({limit})"
            self._log.warning("the environment does not fit a record of this ring", bytes=len(payload), limit=limit)
            payload = b""
        self.record(records.entry("environment", payload, headers, recv_ns=self.now_ns(), recv_ticks=self.ticks()))

    def _record_gap(self, cause: records.GapCause, *, from_ns: int, detail: str) -> int:
        self.count_gap(cause.name.lower())
        return self.record(
            records.gap(
                cause=cause,
                connection=0,
                recv_ns=self.now_ns(),
                recv_ticks=self.ticks(),
                from_ns=from_ns,
                to_ns=0,
                detail=detail,
            )
        )

    def _resolved_clients(self) -> list[Client]:
        """The clients of the subscriptions; an exchange that cannot be asked now is asked again, for ever."""
        wait_s = 1.0
        while not self._stop.is_set():
            try:
                clients = list(self._exchange.clients())
                self._unreached = ""
                return clients
            except ExchangeError as error:
                self._unreached = f"the markets could not be looked up: {error.args[0]}"
                self._log.warning("the markets could not be looked up", reason=str(error), again_in_s=wait_s)
            self._stop.wait(wait_s)
            wait_s = min(wait_s * 2, self._environment.connector.reconnect.max_s)
        return []

    # ---- what clients need (ssmd.exchange.Recorder) --------------------------------------------------------

    @property
    def store(self) -> Store:
        if self._store is None:
            raise StorageError("the ring is not open")
        return self._store

    def next_connection(self) -> int:
        return self.store.next_connection()

    def wire(self, connection: int) -> WireConnection:
        return self.store.wire(connection)

    def record(self, data: bytes) -> int:
        while (number := self.store.push(data)) == 0:
            gevent.sleep(RECORD_NAP_S)
        return number

    def now_ns(self) -> int:
        return time.time_ns()

    def ticks(self) -> int:
        return self.store.ticks()

    def count_gap(self, cause: str) -> None:
        self._gaps[cause] += 1

    def became_live(self) -> None:
        """With the last client an outage is over."""
        if not self._outage_gap or any(client.state.phase != "live" for client in self._clients):
            return
        number, self._outage_gap = self._outage_gap, 0
        self.record(
            records.connection_event(
                what=records.ConnectionWhat.RESYNCED,
                connection=0,
                recv_ns=self.now_ns(),
                recv_ticks=self.ticks(),
                gap_number=number,
                reason="recording again",
            )
        )

    # ---- while it runs -------------------------------------------------------------------------------------

    def _anchor_forever(self) -> None:
        while not self._stop.wait(ANCHOR_EVERY_S):
            self._record_anchor()

    def _record_anchor(self) -> None:
        self.record(self.store.anchor_record())

    def _refresh_forever(self) -> None:
        while not self._stop.wait(REFRESH_EVERY_S):
            try:
                self._exchange.refresh()
            except SsmdError as error:
                self._log.warning(
                    "the markets could not be looked up again; recording goes on with those known", reason=str(error)
                )

    def _watch_forever(self) -> None:
        """Looks after what cannot report by itself: the native flusher thread, and how all fares."""
        while not self._stop.wait(WATCH_EVERY_S):
            self.store.watch()
            if self._started:  # the first records of a run are those that tell what recovery found
                self._tell_loss()
            self._tell_trouble()

    def _tell_loss(self) -> None:
        """Files that were taken from under the flusher: an alarm, and a record once there is room for it."""
        loss = self.store.loss()
        if loss is not None:
            self._log.error("alarm", check="flusher", reason=loss.what)
            self._parts.append(self._spawn("record of a loss", lambda: self._record_loss(loss)))

    def _record_loss(self, loss: Loss) -> None:
        self._record_gap(records.GapCause.DAMAGE, from_ns=loss.since_ns, detail=loss.what)

    def _tell_trouble(self) -> None:
        """One alarm in the log for each check of /healthz that fails for a while, one word when that is over."""
        for name, sentence in self._troubles().items():
            before = self._failing[name]
            self._failing[name] = before + 1 if sentence else 0
            if sentence and before + 1 == ALARM_AFTER_LOOKS:
                self._log.error("alarm", check=name, reason=sentence)
            elif not sentence and before >= ALARM_AFTER_LOOKS:
                self._log.info("alarm over", check=name, after_s=round(before * WATCH_EVERY_S, 1))

    # ---- end -----------------------------------------------------------------------------------------------

    def _shut_down(self, store: Store) -> None:
        """Sockets, then ring, then files: the way the data goes."""
        self._stop.set()
        self._deadline = time.monotonic() + STOP_BUDGET_S
        for child in self._children:
            if not child.spec.drain_last:
                child.terminate()
        self._end_recording(time.monotonic() + LAST_WORDS_S)
        flushers = [child for child in self._children if child.spec.name == "flusher"]
        for child in flushers:
            child.terminate()
        files_until = self._deadline - HELPERS_LEAST_S - LAST_LINES_S
        self.drained = store.close(files_until, flusher_child=flushers[0] if flushers else None)

    def _end_children(self) -> None:
        deadline = self._deadline or time.monotonic() + STOP_BUDGET_S
        for child in self._children:
            child.terminate()
        for child in self._children:
            if not child.wait(max(deadline - LAST_LINES_S - time.monotonic(), 0.05)):
                self._log.warning(
                    "a helper did not end in time and is killed; it goes on with its work at the next start",
                    child=child.spec.name,
                )
                child.kill()
        gevent.joinall(self._keepers, timeout=max(deadline - time.monotonic(), 0.1))
        gevent.killall(self._keepers, block=True, timeout=0.2)

    def _end_recording(self, until: float) -> None:
        """Every part that records comes to its end before `stopped` is written: it is the last record of a run.

        One that cannot end (the ring is full, an address does not answer) is cut short; what a socket still holds
        was never received then.
        """
        ending = [gevent.spawn(client.stop) for client in self._clients]
        gevent.joinall(ending + self._parts, timeout=max(until - time.monotonic(), 0.1))
        gevent.killall(ending + self._parts, block=True, timeout=0.2)
        if self._started:
            with gevent.Timeout(max(until - time.monotonic(), 0.2), False):
                self._record_stopped()

    def _record_stopped(self) -> None:
        if self._outage_gap:
            self._log.warning("the outage before this run was never followed by a full subscription")
        self.record(
            records.connection_event(
                what=records.ConnectionWhat.STOPPED,
                connection=0,
                recv_ns=self.now_ns(),
                recv_ticks=self.ticks(),
                reason="failed" if self._failure is not None else "as asked",
            )
        )

    # ---- health --------------------------------------------------------------------------------------------

    def _check_flusher(self) -> str | None:
        return (
            self._store.flusher_trouble(HEARTBEAT_LIMIT_NS) if self._store else self._early("the ring is not open yet")
        )

    def _check_ring(self) -> str | None:
        now_ns = time.monotonic_ns()
        for client in self._clients:
            since_ns = client.state.ring_full_since_ns
            if since_ns and now_ns - since_ns > RING_FULL_LIMIT_NS:
                return f"full for {(now_ns - since_ns) / 1e9:.1f} s: {client.state.name} is not read"
        return None

    def _check_connections(self) -> str | None:
        if not self._clients:
            return self._unreached or self._early("no client was started yet")
        limit_ns = int(self._environment.connector.stall_after_s * 1e9)
        for client in self._clients:
            state = client.state
            if state.phase in ("waiting", "stopped") or (state.phase == "connecting" and state.detail):
                return f"{state.name} is not connected{': ' + state.detail if state.detail else ''}"
            silent_ns = time.monotonic_ns() - state.heard_ns
            if state.opened_ns and state.phase in ("subscribing", "live") and silent_ns > limit_ns:
                return f"{state.name} received nothing for {silent_ns / 1e9:.0f} s"
        return None

    def _check_subscriptions(self) -> str | None:
        for client in self._clients:
            if client.state.phase != "live":
                return f"{client.state.name} is {client.state.phase}"
        return None if self._clients else self._early("no client was started yet")

    def _check_helpers(self) -> str | None:
        for child in self._children:
            if self._stop.is_set():
                return None
            if child.refusal:
                return f"{child.spec.name} refuses to work (tried {child.restarts} times): {child.refusal}"
            if not child.alive:
                return (
                    f"{child.spec.name} is not running (exit code {child.exit_code}, restarted {child.restarts} times)"
                )
        return None

    def _check_helper(self, name: str) -> str | None:
        if self._stop.is_set():
            return None
        return self._reports.trouble(name, now_s=time.monotonic())

    def trouble(self) -> str:
        """The first thing that is wrong right now, empty if nothing is."""
        return next((sentence for sentence in self._troubles().values() if sentence), "")

    def _troubles(self) -> dict[str, str | None]:
        """What /healthz says, without what is only not there yet."""
        return {
            name: None if sentence and sentence.startswith(STARTING) else sentence
            for name, sentence in run_checks(self._checks).items()
        }

    def _early(self, sentence: str) -> str:
        """A start takes its time: what is missing then is no trouble before as long as a socket may be silent."""
        early = time.monotonic() - self._began_s < self._environment.connector.stall_after_s
        return STARTING + sentence if early else sentence

    # ---- numbers -------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        store = self._store
        counters = store.counters() if store else {}
        by_kind = dict(counters.get("records", {}))
        cursors = store.cursors() if store else {"ring": 0, "written": 0, "durable": 0}
        states = [client.state for client in self._clients]
        return Snapshot(
            elapsed_s=time.monotonic() - self._began_s,
            frames=int(counters.get("frames", 0)),
            records=sum(by_kind.values()),
            written_bytes=store.written_bytes() if store else 0,
            ring_used_bytes=store.ring_used_bytes() if store else 0,
            lag_records=max(cursors["ring"] - cursors["written"], 0),
            gaps=sum(self._gaps.values()),
            unresolved=bool(self._outage_gap),
            reconnects=sum(max(state.opens - 1, 0) for state in states),
            live=sum(state.phase == "live" for state in states),
            clients=len(states),
            recording_s=recording_s(states, self.now_ns()),
            starting=not states,
            unparsed=by_kind.get("unparsed", 0),
            by_kind=by_kind,
            trouble=self.trouble(),
            last_number=cursors["written"],
            helpers=self._reports.standings(),
        )

    def _readings(self) -> Mapping[str, Reading]:
        store = self._store
        states = {client.state.name: client.state for client in self._clients}
        readings: dict[str, Reading] = {
            "ssmd_gaps": {cause: float(count) for cause, count in self._gaps.items()},
            "ssmd_connections_opened": {name: float(state.opens) for name, state in states.items()},
            "ssmd_connections_closed": {name: float(state.closes) for name, state in states.items()},
            "ssmd_connect_failures": {name: float(state.failures) for name, state in states.items()},
            "ssmd_stalls": {name: float(state.stalls) for name, state in states.items()},
            "ssmd_resyncs": {name: float(state.resyncs) for name, state in states.items()},
            "ssmd_live": {name: float(state.phase == "live") for name, state in states.items()},
            "ssmd_last_received_timestamp_seconds": {name: state.last_recv_ns / 1e9 for name, state in states.items()},
            "ssmd_ring_full_seconds": {name: state.ring_full_ns / 1e9 for name, state in states.items()},
            "ssmd_child_restarts": {child.spec.name: float(child.restarts) for child in self._children},
        }
        return readings | self._reports.cursors() | self._reports.counters() | (store.readings() if store else {})


def recording_s(states: Sequence[ClientState], now_ns: int) -> float:
    """From the opening of the first socket to the end of the last one, or until now."""
    opened = [state.first_opened_ns for state in states if state.opens]
    if not opened:
        return 0.0
    open_now = any(state.opens > state.closes for state in states)
    end_ns = now_ns if open_now else max(state.closed_ns for state in states)
    return max(end_ns - min(opened), 0) / 1e9


def settle_memory() -> None:
    """Gives back what starting needed; what stays is no longer the collector's business, so its rounds stay short."""
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _object(line: str) -> dict[str, Any]:
    """The JSON object of a line, an empty one if it is none."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def simulator_arguments(simulator: Any) -> tuple[str, ...]:
    """The command line of the local exchange: every key of the section is the flag of that name."""
    arguments: list[str] = ["-m", "ssmd.simulator", "--die-with-parent"]
    for name, value in simulator.model_dump().items():
        flag = "--" + name.replace("_", "-")
        if name == "faults":
            for fault in value:
                arguments += ["--fault", fault]
        elif value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    return tuple(arguments)


def install_signals(connector: Connector) -> None:
    """SIGTERM and SIGINT end the run in order; a second one changes nothing."""
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, connector.stop)
