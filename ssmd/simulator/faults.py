"""Faults: their names, the grammar of a specification, and when each is due.

    NAME[=ARG][:CONNECTION][@TIME][/EVERY][~LASTING][xCOUNT]

    seq_gap            once, at the first subscription (or now, if given while running)
    seq_gap@3s         once, 3 s after the first subscription of a connection
    reset@2s/5s        after 2 s, then each 5 s, for ever
    stall~4s@1s        after 1 s, for 4 s
    http_502x3         the next three handshakes
    http_502~5s        every handshake for 5 s
    duplicate:all@1s   once on each connection, 1 s after its first subscription
    close_frame=1012:2 on connection 2 only

Times are seconds ("3", "3s", "250ms"). The parts after `=ARG` may stand in any order. COUNT is counted
over all connections (with `:all` for each connection); it is 1 unless EVERY or COUNT says otherwise.

Pure data: what a fault does stands in `session` and `server`; when, here. Time comes in as seconds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum


class Scope(Enum):
    """Who carries a fault out, and from when its time counts."""

    SERVER = "server"  # the handshakes of the server, from its start
    COMMAND = "command"  # the next commands of a connection, from its opening
    SESSION = "session"  # the frames of a connection, from its first subscription
    SOCKET = "socket"  # the socket of a connection, from its first subscription


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the catalogue; `docs/simulator.md` has the same lines, and a test compares them.

    "delta" stands for the sequenced data frames of orderbook_delta, or, where that is not subscribed,
    of any sequenced channel.
    """

    scope: Scope
    argument: str  # the default, "" for none
    does: str


CATALOGUE: dict[str, Kind] = {
    "seq_gap": Kind(Scope.SESSION, "1", "the next ARG deltas are not sent; their numbers are used up"),
    "duplicate": Kind(Scope.SESSION, "1", "the next ARG deltas are sent twice"),
    "reorder_acks": Kind(Scope.COMMAND, "", "the next command is carried out after the one that follows it"),
    "unknown_type": Kind(Scope.SESSION, "simulated_type", "a sequenced frame whose type is ARG"),
    "unknown_field": Kind(Scope.SESSION, "1", "the next ARG data frames carry fields nobody knows"),
    "bad_json": Kind(Scope.SESSION, "", "a text frame that is not JSON; it uses no number"),
    "huge_frame": Kind(Scope.SESSION, "2097152", "one sequenced text frame of ARG bytes"),
    "fragmented": Kind(Scope.SESSION, "10", "the next ARG data frames leave in four fragments, a ping between"),
    "old_format": Kind(Scope.SESSION, "", "the connection goes on in format ARG (old, both, new)"),
    "error_10": Kind(Scope.SESSION, "", "channel ARG (or the first) ends with error 10"),
    "error_25": Kind(Scope.SESSION, "", "channel ARG (or the first) ends with error 25"),
    "stall": Kind(Scope.SOCKET, "", "nothing is sent, no pings, no pongs; the socket is still read"),
    "half_open": Kind(Scope.SOCKET, "", "nothing is sent nor read any more; the socket stays open"),
    "reset": Kind(Scope.SOCKET, "", "TCP reset without a close frame"),
    "close_frame": Kind(Scope.SOCKET, "1001", "a close frame with code ARG"),
    "http_401": Kind(Scope.SERVER, "", "the next handshake is answered 401"),
    "http_429": Kind(Scope.SERVER, "", "the next handshake is answered 429"),
    "http_502": Kind(Scope.SERVER, "", "the next handshake is answered 502, in HTML"),
    "empty_snapshot": Kind(Scope.SESSION, "", "the book of market ARG (or the busiest) is emptied by a snapshot"),
    "negative_level": Kind(Scope.SESSION, "", "a delta that takes a level below zero"),
    "unknown_market_delta": Kind(Scope.SESSION, "", "a delta of a market that was never subscribed"),
    "ack_late": Kind(Scope.COMMAND, "0.5", "the next `subscribed` replies leave ARG s late, data goes before them"),
    "slow_write": Kind(Scope.SOCKET, "64", "bytes trickle, ARG at a time each 2 ms, for 3 s unless told otherwise"),
    "clock_skew": Kind(Scope.SERVER, "60", "the server's clock is off by ARG s until cleared"),
    "burst": Kind(Scope.SESSION, "1000", "ARG frames at once"),
}


class FaultError(ValueError):
    """A specification that is not understood."""


_HEAD = re.compile(
    r"(?P<name>[a-z0-9_]+?)(?==|[@/~:]|x\d+|\Z)"
    r"(=(?P<argument>[^@/~:]*?)(?=[@/~:]|x\d+([@/~:]|\Z)|\Z))?"
    r"(?P<rest>.*)\Z"
)
_PART = re.compile(r"(?P<sign>[@/~x:])(?P<value>[^@/~x:]+)")
_SECONDS = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ms|s)?\Z")


@dataclass(slots=True, eq=False)
class Fault:
    """One fault to come: what, where, when, how often; `left` counts down."""

    text: str
    name: str
    argument: str
    connection: int | None = None  # None: any; 0: all, each on its own
    at_s: float | None = None
    every_s: float | None = None
    lasting_s: float | None = None
    count: int | None = None  # None: without end
    armed_s: float | None = None  # given while running: its time counts from here
    left: float = field(init=False)
    left_of: dict[int, float] = field(default_factory=dict, init=False)
    due_of: dict[int, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.left = math.inf if self.count is None else self.count

    @property
    def scope(self) -> Scope:
        return CATALOGUE[self.name].scope

    @property
    def finished(self) -> bool:
        return self.left <= 0 and self.connection != 0

    def due(self, connection: int, since_s: float, now_s: float) -> bool:
        """Whether it is to strike `connection` now, whose time counts from `since_s`."""
        if self.connection not in (None, 0, connection) or self._left(connection) <= 0:
            return False
        return now_s >= self.due_of.get(connection, self.start_s(since_s))

    def start_s(self, since_s: float) -> float:
        """When it strikes first, if time counts from `since_s`."""
        return (since_s if self.armed_s is None else max(self.armed_s, since_s)) + (self.at_s or 0.0)

    def struck(self, connection: int, now_s: float) -> None:
        """It has struck: counts it, and sets the next time."""
        self.due_of[connection] = now_s + (self.every_s or 0.0)
        if self.connection == 0:
            self.left_of[connection] = self._left(connection) - 1
        else:
            self.left -= 1

    def _left(self, connection: int) -> float:
        return self.left_of.get(connection, self.left) if self.connection == 0 else self.left

    def as_json(self) -> dict[str, object]:
        left = None if math.isinf(self.left) else int(self.left)
        return {"fault": self.text, "name": self.name, "left": left}


def parse(text: str, *, armed_s: float | None = None) -> Fault:
    """Reads one specification; FaultError says what is wrong with it."""
    match = _HEAD.match(text.strip())
    name = match["name"] if match else ""
    if not match or name not in CATALOGUE:
        raise FaultError(f"unknown fault {name or text!r}; known are: {', '.join(sorted(CATALOGUE))}")
    argument = CATALOGUE[name].argument if match["argument"] is None else match["argument"]
    rest = match["rest"]
    _check_argument(text, name, argument)
    parts: dict[str, str] = {}
    at = 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if not part or part["sign"] in parts:
            raise FaultError(f"{text!r}: cannot read {rest[at:]!r}")
        parts[part["sign"]] = part["value"]
        at = part.end()
    every_s = _seconds(text, parts.get("/"))
    return Fault(
        text=text.strip(),
        name=name,
        argument=argument,
        connection=_connection(text, parts.get(":")),
        at_s=_seconds(text, parts.get("@")),
        every_s=every_s,
        lasting_s=_seconds(text, parts.get("~")),
        count=_count(text, parts.get("x"), endless=every_s is not None),
        armed_s=armed_s,
    )


def _check_argument(text: str, name: str, argument: str) -> None:
    default = CATALOGUE[name].argument
    if name == "old_format":
        good = argument in ("", "old", "both", "new")
    elif name in ("ack_late", "clock_skew"):
        good = re.fullmatch(r"-?\d+(\.\d+)?", argument) is not None
    else:
        good = not default.isdigit() or argument.isdigit()
    if not good:
        raise FaultError(f"{text!r}: {argument!r} is no argument of {name}")


def _seconds(text: str, value: str | None) -> float | None:
    if value is None:
        return None
    match = _SECONDS.match(value)
    if not match:
        raise FaultError(f"{text!r}: {value!r} is no time (examples: 3s, 250ms)")
    return float(match["number"]) * (0.001 if match["unit"] == "ms" else 1.0)


def _count(text: str, value: str | None, *, endless: bool) -> int | None:
    if value is None:
        return None if endless else 1
    if not value.isdigit() or int(value) < 1:
        raise FaultError(f"{text!r}: {value!r} is no count")
    return int(value)


def _connection(text: str, value: str | None) -> int | None:
    if value is None:
        return None
    if value == "all":
        return 0
    if not value.isdigit() or int(value) < 1:
        raise FaultError(f"{text!r}: {value!r} is no connection (a number, or all)")
    return int(value)


@dataclass(slots=True)
class Armed:
    """What the next frames and commands of one session are to suffer; counts down to zero."""

    drop: int = 0  # seq_gap
    repeat: int = 0  # duplicate
    strange: int = 0  # unknown_field
    fragment: int = 0  # fragmented
    swap: int = 0  # reorder_acks
    late: int = 0  # ack_late
    late_ms: int = 0

    @property
    def frames(self) -> bool:
        """Whether the next data frame is touched."""
        return bool(self.drop or self.repeat or self.strange or self.fragment)
