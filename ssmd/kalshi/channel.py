"""One channel of a connection: its states, the table of all that moves them, and what a session remembers of it.

    TRANSITIONS[state][input] -> state      what is not in the table does not happen: the session warns

A channel is moved by one command at a time, and each command knows its channel. Not for deciding what to send
(`protocol`, by `planner`), nor for the wire's words (`messages`).
Facts: the protocol sheet, sections 2 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from ssmd.kalshi.actions import RecordEvent
from ssmd.kalshi.messages import CHANNELS
from ssmd.kalshi.planner import ALL, COMMAND_BATCH, All, Held, Markets, Step


class State(Enum):
    """Of one channel."""

    ABSENT = auto()  # no sid and no command: not wanted, refused, or waiting to try again
    SUBSCRIBING = auto()  # subscribe was sent
    LIVE = auto()  # a sid, no command
    UPDATING = auto()  # add_markets or delete_markets was sent
    RESYNCING = auto()  # get_snapshot was sent
    LEAVING = auto()  # unsubscribe was sent


class Input(Enum):
    """What moves a channel: what we send, what they answer, what we find out."""

    SEND_SUBSCRIBE = auto()
    SEND_UPDATE = auto()
    SEND_RESYNC = auto()
    SEND_LEAVE = auto()
    SUBSCRIBED = auto()
    OK = auto()
    UNSUBSCRIBED = auto()
    SNAPSHOT = auto()  # one that we asked for, not the last
    SNAPSHOTS_DONE = auto()  # the last that we asked for
    FAILED = auto()  # the command was answered by an error, or (get_snapshot) not at all
    RESTART = auto()  # a gap made the running resync worthless
    DEAD = auto()  # the sid sends nothing any more
    FOUND = auto()  # the exchange says that it holds a subscription that we did not know of


TRANSITIONS: Final[Mapping[State, Mapping[Input, State]]] = {
    State.ABSENT: {
        Input.SEND_SUBSCRIBE: State.SUBSCRIBING,
        Input.FOUND: State.LIVE,
    },
    State.SUBSCRIBING: {
        Input.SUBSCRIBED: State.LIVE,
        Input.OK: State.LIVE,  # merged into a subscription that was there
        Input.FAILED: State.ABSENT,
        Input.DEAD: State.ABSENT,
    },
    State.LIVE: {
        Input.SEND_UPDATE: State.UPDATING,
        Input.SEND_RESYNC: State.RESYNCING,
        Input.SEND_LEAVE: State.LEAVING,
        Input.DEAD: State.ABSENT,
    },
    State.UPDATING: {
        Input.OK: State.LIVE,
        Input.FAILED: State.LIVE,
        Input.DEAD: State.ABSENT,
    },
    State.RESYNCING: {
        Input.OK: State.RESYNCING,  # tolerated: get_snapshot is answered by snapshots alone
        Input.SNAPSHOT: State.RESYNCING,
        Input.SNAPSHOTS_DONE: State.LIVE,
        Input.FAILED: State.LIVE,
        Input.RESTART: State.LIVE,
        Input.DEAD: State.ABSENT,
    },
    State.LEAVING: {
        Input.UNSUBSCRIBED: State.ABSENT,
        Input.DEAD: State.ABSENT,
    },
}


IDLE: Final = (State.ABSENT, State.LIVE)  # no command is on its way: the channel may send one


# ---- what is remembered of one ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Gap:
    """A Gap record that will be resolved; `number` 0 = the client has not told it yet."""

    number: int = 0
    resolved: RecordEvent | None = None


@dataclass(slots=True, eq=False)
class Channel:
    name: str
    want: Held = None
    state: State = State.ABSENT
    sid: int = 0
    held: Held = None
    settled: bool = False  # nothing is left to ask for
    told: bool = True  # what is held now stands in a SUBSCRIBED record
    batch: int = COMMAND_BATCH
    wake_ns: int = 0  # not before; 0 = at once
    failures: int = 0
    restarts: int = 0
    calm_since_ns: int = 0  # 0 = in trouble
    refused: set[str] = field(default_factory=set)
    refused_whole: bool = False
    doubtful: set[str] = field(default_factory=set)  # confirmed, but missing in the list of the reply
    kept: set[str] = field(default_factory=set)  # not wanted, but the exchange does not delete them
    suspects: dict[str, None] = field(default_factory=dict)  # books that need a snapshot, in order
    fresh: dict[str, int] = field(default_factory=dict)  # number of the record with the last snapshot asked for
    suspect_all: bool = False  # every book that is held when the next resync starts
    resync_failures: int = 0
    leave: bool = False  # unsubscribe although wanted: what is held is beyond repair
    lists_acks: bool = True  # replies name the markets of the subscription
    gaps: list[Gap] = field(default_factory=list)  # resolved as soon as the channel is whole

    @property
    def book(self) -> bool:
        return CHANNELS[self.name].book if self.name in CHANNELS else False

    @property
    def clean(self) -> bool:
        return not self.suspects and not self.suspect_all and not self.leave

    @property
    def markets(self) -> int:
        return len(tickers_of(self.held))

    def wanted(self) -> Held:
        """What the plan wants, without what was refused and with what cannot be got rid of."""
        if self.refused_whole or self.want is None:
            return None
        if isinstance(self.want, All):
            return ALL
        return (self.want - self.refused) | self.kept if self.refused or self.kept else self.want


# ---- commands --------------------------------------------------------------------------------------------------------


class CommandKind(Enum):
    SUBSCRIBE = "subscribe"
    UPDATE = "update_subscription"
    RESYNC = "get_snapshot"
    LEAVE = "unsubscribe"


SENT_AS: Final = {
    CommandKind.SUBSCRIBE: Input.SEND_SUBSCRIBE,
    CommandKind.UPDATE: Input.SEND_UPDATE,
    CommandKind.RESYNC: Input.SEND_RESYNC,
    CommandKind.LEAVE: Input.SEND_LEAVE,
}


@dataclass(slots=True, eq=False)
class Command:
    """One that was sent and not answered yet. `awaiting`: tickers whose snapshot has not come (get_snapshot)."""

    id: int
    kind: CommandKind
    channel: Channel
    text: bytes
    deadline_ns: int
    step: Step
    awaiting: set[str] = field(default_factory=set)
    attempt: int = 1  # 2: sent twice; 3: sent twice, and one answer was an error


def tickers_of(markets: Held | Markets) -> frozenset[str]:
    """The tickers that are named; none where all are meant or nothing is."""
    return frozenset() if markets is None or isinstance(markets, All) else frozenset(markets)
