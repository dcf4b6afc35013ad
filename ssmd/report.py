"""What a helper process tells `ssmd run` about itself: one JSON line a second on its standard error.

    {"report": {"part": "publisher", "number": 900, "end": 1000, "lag_s": 0.4, "trouble": null, "counters": {...}}}

`ssmd run` shows it in /metrics (the cursor, its lag in records and seconds, the counters) and in /healthz (`trouble`).
Pure: the helper writes the line, the connector reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """Where a helper is. `trouble`: a sentence while something is wrong, with what is behind and by how much."""

    part: str
    number: int = 0  # its cursor: the last record that it is done with
    end: int = 0  # the last record that it could have been done with
    lag_s: float = 0.0  # age of the oldest record that waits, 0 = none does
    trouble: str | None = None
    counters: Mapping[str, float] = field(default_factory=dict)  # names of its own, such as duplicates, retries, bytes

    @property
    def lag_records(self) -> int:
        return max(self.end - self.number, 0)

    @property
    def behind(self) -> str:
        """How far behind, for `trouble` and for people: '1,200 records behind, the oldest for 4 s'."""
        since = f", the oldest for {self.lag_s:.0f} s" if self.lag_s >= 1 else ""
        return f"{self.lag_records:,} records behind{since}"

    def line(self) -> str:
        """The line, without its end."""
        return json.dumps({"report": asdict(self)})


def report_of(said: Mapping[str, Any]) -> Report | None:
    """The report in a helper's line (parsed), None where it is another line or not of this form."""
    given = said.get("report")
    if not isinstance(given, dict):
        return None
    try:
        return Report(**given)
    except TypeError:
        return None
