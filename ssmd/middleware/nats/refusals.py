"""What NATS answers when it says no, in terms of ssmd.errors. The numbers are JetStream's `err_code`.

Facts: nats-server's server/errors.json, and what nats-server 2.9 was seen to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ssmd.errors import (
    ConflictError,
    LimitError,
    MiddlewareError,
    MissingStreamError,
    RejectedError,
    UnavailableError,
)

FULL: Final = (
    "The bus has no room: what it holds must expire, or its limits be raised. Nothing is lost, it is sent again."
)

_NO_JETSTREAM: Final = frozenset({10039, 10076})
_NO_STREAM: Final = 10059
_NO_MESSAGE: Final = 10037
_TOO_LARGE: Final = 10054
_FULL: Final = frozenset({10002, 10023, 10028, 10047, 10077})  # account, server or stream has no room left
_OTHERS: Final = frozenset({10058, 10060, 10065})  # the name or the subjects belong to another stream
_LATER: Final = frozenset({10008, 10009, 10074, 10118})  # no leader, not ready

NO_STREAM: Final = "The publisher of `ssmd run` makes it; or correct transport.stream."
JETSTREAM_OFF: Final = "JetStream is off: start nats-server with -js (or a `jetstream` block), for this account too."


def refusal(error: Mapping[str, Any], doing: str) -> MiddlewareError:
    """The error of a JetStream answer's `error` object. `doing`: what was asked for, as in "publish on md.trade.X"."""
    number = int(error.get("err_code", 0))
    code = int(error.get("code", 0))
    words = str(error.get("description", "no reason given"))
    evidence = f"code {code}, err_code {number}: {words}"
    if number in _NO_JETSTREAM:
        return RejectedError(f"the bus cannot {doing}: {words}", hint=JETSTREAM_OFF, evidence=evidence)
    if number == _NO_STREAM:
        return MissingStreamError(f"the bus cannot {doing}: there is none", hint=NO_STREAM, evidence=evidence)
    if number == _TOO_LARGE:
        return LimitError(f"the bus did not {doing}: {words}", evidence=evidence)
    if number in _FULL:
        full = LimitError(f"the bus is full and did not {doing}: {words}", hint=FULL, evidence=evidence)
        full.retryable = True
        return full
    if number in _OTHERS:
        return ConflictError(f"the bus cannot {doing}: {words}", evidence=evidence)
    if number in _LATER or code >= 500:
        return UnavailableError(f"the bus cannot {doing} now: {words}", evidence=evidence)
    return RejectedError(f"the bus refuses to {doing}: {words}", evidence=evidence)


def is_missing_stream(error: MiddlewareError) -> bool:
    """Whether there is no stream of the name."""
    return isinstance(error, MissingStreamError)


def is_missing_message(error: MiddlewareError) -> bool:
    """Whether there is no message of what was asked for."""
    return f"err_code {_NO_MESSAGE}:" in (error.evidence or "")
