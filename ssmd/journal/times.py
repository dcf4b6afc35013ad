"""Times as people type them, into UTC nanoseconds. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ssmd.errors import UsageError

_INTEGER = re.compile(r"-?\d{10,}\Z")
_ISO = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9}))?(Z|[+-]\d{2}:\d{2})?)?\Z")


def parse_time(text: str) -> int:
    """UTC nanoseconds of an ISO 8601 time (UTC unless it says otherwise), a date (its midnight), or nanoseconds."""
    if _INTEGER.match(text):
        return int(text)
    match = _ISO.match(text)
    if match is not None:
        day, clock, fraction, zone = match.groups()
        try:
            moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}{(zone or 'Z').replace('Z', '+00:00')}")
        except ValueError:
            moment = None
        if moment is not None:
            seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
            return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
    raise UsageError(
        f"{text!r} is not a time", hint="write 2026-11-22T16:58:30Z, 2026-11-22, or nanoseconds since 1970"
    )


def full_time(ns: int) -> str:
    """ISO 8601 with nine digits behind the second, so that texts sort as times do."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def show_time(ns: int) -> str:
    """ISO 8601 with all the digits that are not zero: 2026-11-22T16:58:30.000000001Z."""
    seconds, rest = divmod(ns, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
