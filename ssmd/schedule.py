"""Which day a moment belongs to, for a time zone and a start of day: pure, from the tz database.

A day named D runs from `day_start` local time of D to `day_start` of the next date. Days of 23 and 25 hours come out
as they are. Where the clock jumps over `day_start`, the day begins at the instant at which it would have begun without
the jump; where it shows `day_start` twice, the first counts (PEP 495, fold = 0).

Not for market hours: exchanges say those themselves.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ssmd.errors import UsageError

_EPOCH = datetime(1970, 1, 1)
_DAY_NS = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class DayTable:
    """Day `days[i]` (yyyymmdd) runs from `starts_ns[i]` (UTC) to `starts_ns[i + 1]`; the last entry only ends."""

    starts_ns: tuple[int, ...]
    days: tuple[int, ...]

    def day_of(self, ns: int) -> int:
        """The day (yyyymmdd) that `ns` (UTC) belongs to; outside the table that of UTC, as the flusher does."""
        if not self.starts_ns or not self.starts_ns[0] <= ns < self.starts_ns[-1]:
            return _yyyymmdd((_EPOCH + timedelta(days=ns // _DAY_NS)).date())
        return self.days[bisect_right(self.starts_ns, ns) - 1]


def day_table(timezone: str = "UTC", day_start: str = "00:00", *, around_ns: int, years: int = 10) -> DayTable:
    """The days from one year before `around_ns` (UTC) to `years` years after it."""
    zone = _zone(timezone)
    hour, minute = _clock(day_start)
    middle = (_EPOCH + timedelta(days=around_ns // _DAY_NS)).date()
    starts: dict[int, int] = {}
    for n in range(-366, years * 366 + 1):
        d = middle + timedelta(days=n)
        # A date that the zone never had (Samoa, 30 December 2011) starts when the next one does, which replaces it.
        starts[_utc_ns(datetime(d.year, d.month, d.day, hour, minute, tzinfo=zone))] = _yyyymmdd(d)
    return DayTable(tuple(starts), tuple(starts.values()))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"{name!r} is no time zone that this machine knows", hint="Use a name such as America/New_York, or UTC."
        ) from error


def _clock(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])", text)
    if match is None:
        raise UsageError(f"{text!r} is no time of day", hint="Write it as HH:MM, such as 18:00.")
    return int(match[1]), int(match[2])


def _utc_ns(moment: datetime) -> int:
    offset = moment.utcoffset()
    assert offset is not None  # moment has a zone
    return int((moment.replace(tzinfo=None) - offset - _EPOCH) // timedelta(microseconds=1)) * 1000


def _yyyymmdd(day: date) -> int:
    return day.year * 10000 + day.month * 100 + day.day
