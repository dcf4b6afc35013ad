"""Kalshi as the connector sees it: where it is, which markets are recorded, one client a socket.

What makes no sense in the environment (keys, certificates, subscriptions) is told before anything begins; what REST
has to be asked for is looked up at the start and again while it runs. Not for: sockets (client), which market goes
where (planner).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from ssmd.environment import Environment
from ssmd.errors import UsageError
from ssmd.exchange import Recorder
from ssmd.kalshi import auth, lookup, planner
from ssmd.kalshi.client import Admission, Client
from ssmd.kalshi.handshake import Endpoints, tls_context


class Exchange:
    """Kalshi, as `ssmd.exchange.Exchange` wants it. `simulator`: what the local exchange said when it began."""

    def __init__(
        self,
        environment: Environment,
        recorder: Recorder,
        secret: Callable[[str, str], str],
        simulator: Mapping[str, str] | None,
    ) -> None:
        planner.needs(environment.subscriptions)  # what makes no sense is told before anything begins
        self._environment = environment
        self._recorder = recorder
        self._secret = secret
        self._simulator = simulator
        self._clients: list[Client] = []
        self._log = structlog.get_logger()
        if simulator is None:
            self._fixed: Endpoints | None = self._from_environment()
        else:
            self._fixed = None

    def endpoints(self) -> Endpoints:
        """Fixed by the environment; with the simulator whatever its present process listens on."""
        return self._fixed if self._fixed is not None else self._from_simulator()

    def clients(self) -> Sequence[Client]:
        self._current = self._plan(None)
        admission = Admission()
        self._clients = [
            Client(
                f"{self._environment.feed}-{index}",
                plan,
                self.endpoints,
                self._recorder,
                self._environment,
                admission=admission,
            )
            for index, plan in enumerate(self._current.connections)
        ]
        return self._clients

    def refresh(self) -> None:
        """Markets come and go: resolves the subscriptions again. A failure leaves the running plan as it is."""
        self._current = self._plan(self._current)
        for client, plan in zip(self._clients, self._current.connections, strict=False):
            client.change_plan(plan)

    def _plan(self, previous: planner.Plan | None) -> planner.Plan:
        """The subscriptions of the environment, looked up now."""
        environment = self._environment
        plan = planner.plan(
            environment.subscriptions,
            self._look_up(planner.needs(environment.subscriptions)),
            shard_index=environment.shard.index,
            shard_count=environment.shard.count,
            max_markets_per_connection=environment.connector.max_markets_per_connection,
            previous=previous,
        )
        for warning in plan.warnings:
            self._log.warning(warning)
        return plan

    def _look_up(self, needs: planner.Needs) -> planner.Resolved:
        """Asks REST for the markets that the subscriptions name by series, by event, or not at all."""
        if needs == planner.Needs():
            return planner.Resolved()
        endpoints = self.endpoints()
        asked = lookup.Asked(
            endpoints.rest_url,
            endpoints.ca_file,
            endpoints.proxy,
            endpoints.credentials.key_id,
            self._key_of_simulator() if self._simulator is not None else self._both_secrets()[1],
        )
        return lookup.look_up(asked, needs, self._log.warning)

    def _from_environment(self) -> Endpoints:
        exchange = self._environment.exchange
        key_id, pem = self._both_secrets()
        assert exchange.websocket_url is not None and exchange.rest_url is not None
        try:
            key = auth.load_key(pem)
        except UsageError as error:
            raise UsageError(f"keys.kalshi.private_key: {error.args[0]}", hint=error.hint) from None
        if exchange.ca_file is not None:
            tls_context(str(exchange.ca_file))
        return Endpoints(
            exchange.websocket_url,
            exchange.rest_url,
            _text(exchange.ca_file),
            _text(exchange.proxy),
            auth.Credentials(key_id, key),
        )

    def _both_secrets(self) -> tuple[str, str]:
        """Key id and private key; what is wrong with them is said in one go."""
        found: list[str] = []
        missing: list[UsageError] = []
        for field in ("key_id", "private_key"):
            try:
                found.append(self._secret("kalshi", field))
            except UsageError as error:
                missing.append(error)
        if len(missing) == 1:
            raise missing[0]
        if missing:
            told = [": ".join(filter(None, (str(error.args[0]), error.hint))) for error in missing]
            raise UsageError("\n  ".join([f"environment {self._environment.name}: {len(missing)} errors", *told]))
        return found[0], found[1]

    def _from_simulator(self) -> Endpoints:
        assert self._simulator is not None
        ready = self._simulator
        credentials = auth.Credentials(ready["key_id"], auth.load_key(self._key_of_simulator()))
        return Endpoints(ready["ws_url"], ready["rest_url"], ready.get("ca_file"), None, credentials)

    def _key_of_simulator(self) -> str:
        assert self._simulator is not None
        return Path(self._simulator["private_key_path"]).read_text("ascii")


def _text(path: object) -> str | None:
    return None if path is None else str(path)
