"""What an exchange offers to the connector, and what the connector offers to an exchange.

An exchange is a folder beside `kalshi/` with a module `exchange` that has a class `Exchange`. The connector
finds it by the environment's `feed` and names none, so a second exchange changes nothing here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ssmd.book import Suspect
from ssmd.environment import Environment
from ssmd.errors import UsageError
from ssmd.wire import WireConnection


@dataclass(slots=True)
class ClientState:
    """What one client shows to health, metrics and the status line. Written by the client alone.

    Times are UTC ns, 0 = never. `phase` is one of: waiting, connecting, subscribing, live, stopped.
    """

    name: str
    phase: str = "waiting"
    detail: str = ""
    connection: int = 0
    opened_ns: int = 0
    first_opened_ns: int = 0
    closed_ns: int = 0
    last_recv_ns: int = 0
    heard_ns: int = 0  # that something had come by then, on the monotonic clock
    frames: int = 0
    opens: int = 0
    closes: int = 0
    failures: int = 0
    stalls: int = 0
    resyncs: int = 0
    ring_full_ns: int = 0
    ring_full_since_ns: int = 0  # of the monotonic clock
    unresolved: set[int] = field(default_factory=set)


class Recorder(Protocol):
    """The connector's side: where records go and connections get their numbers."""

    def next_connection(self) -> int:
        """A connection number that was never used in this journal."""

    def wire(self, connection: int) -> WireConnection:
        """A splitter and decoder for a new socket, writing into the ring."""

    def record(self, data: bytes) -> int:
        """Puts one record into the ring and returns its number; waits (cooperatively) while the ring is full."""

    def now_ns(self) -> int: ...

    def ticks(self) -> int: ...

    def count_gap(self, cause: str) -> None: ...

    def became_live(self) -> None:
        """A client has every subscription confirmed."""


class Client(Protocol):
    """One socket and its life: connects, records, reconnects for ever."""

    state: ClientState

    def run(self) -> None:
        """Greenlet body. Returns after `stop()`; raises RefusedError when the exchange refuses us for good."""

    def stop(self) -> None:
        """Asks `run` to end: closes the socket and writes what is to be recorded of that."""

    def suspect(self, found: Suspect) -> None:
        """A book that was recorded cannot be right. Of another connection than the present one: no matter any more."""


class Exchange(Protocol):
    """What `ssmd.<feed>.exchange.Exchange` is made of."""

    def __init__(
        self,
        environment: Environment,
        recorder: Recorder,
        secret: Callable[[str, str], str],
        simulator: Mapping[str, str] | None,
    ) -> None: ...

    def clients(self) -> Sequence[Client]:
        """Resolves the subscriptions (may ask the exchange's REST side) and makes one client per socket."""

    def refresh(self) -> None:
        """Resolves the subscriptions again and changes running clients in place."""


def find_exchange(feed: str) -> type[Exchange]:
    """The exchange of a feed's name.

    Raises UsageError where there is none: the name comes from an environment file.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", feed):
        raise UsageError(f"feed: {feed!r} is not a feed name", hint="Use small letters, digits and _, e.g. kalshi.")
    try:
        module = importlib.import_module(f"ssmd.{feed}.exchange")
    except ModuleNotFoundError as error:
        if error.name not in (f"ssmd.{feed}", f"ssmd.{feed}.exchange"):
            raise
        raise UsageError(f"feed: no exchange is called {feed!r}", hint="The one that ssmd knows is kalshi.") from None
    exchange: type[Exchange] = module.Exchange
    return exchange
