"""What a session asks its client to do: the only way in which `ssmd.kalshi.protocol` reaches the world.

Data without behaviour. The client carries them out in the order in which they were given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ssmd.records import ConnectionWhat, GapCause


@dataclass(frozen=True, slots=True)
class SendText:
    """Send a text frame."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SendPing:
    payload: bytes


@dataclass(frozen=True, slots=True)
class SendPong:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Send a close frame and end the socket; the session does nothing more. `stalled`: nothing came for too long."""

    code: int
    reason: str
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class RecordGap:
    """Write a Gap record, then tell its number: `recorded(token, number)`. Times are as given to the session."""

    token: int
    cause: GapCause
    detail: str
    sid: int = 0
    from_seq: int = 0
    to_seq: int = 0
    from_ns: int = 0
    to_ns: int = 0


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Write a ConnectionEvent record: SUBSCRIBED or RESYNCED. `markets` 0 = all of the channel."""

    what: ConnectionWhat
    sid: int = 0
    channel: str = ""
    markets: int = 0
    gap_number: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Warn:
    """Something that a person should know. Equal keys are the same trouble: say it once."""

    key: str
    message: str


Action: TypeAlias = SendText | SendPing | SendPong | Close | RecordGap | RecordEvent | Warn
