"""The helper processes of a run: which ones an environment asks for, and what each said of itself last. Pure.

A helper prints one `Report` a second (ssmd/report.py); the connector puts it here and asks for three views of it:
sentences for /healthz, numbers for /metrics, and the closing summary. A counter of a report is shown as the metric
ssmd_{part}_{counter}, once it stands in the table of `ssmd.metrics`. Not for: starting and ending them (`children`).

Invariant: a helper that is silent is trouble, whatever it said last; a counter never falls, also when the process that
counted was replaced by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ssmd.environment import Environment
from ssmd.report import Report

SILENT_AFTER_S = 15.0  # a report is due each second; a busy machine may hold it up


@dataclass(frozen=True, slots=True)
class Helper:
    """A program `python -m ssmd.NAME` that works on the journal beside the recording, at its own pace."""

    name: str
    done: str  # what became of the records up to its cursor, in one word
    wanted: Callable[[Environment], bool]
    resumes: bool = True  # what it leaves undone is done by the next run


HELPERS = (
    Helper("archiver", "archived", lambda environment: not environment.rehearsal),
    Helper("publisher", "published", lambda environment: environment.transport.type == "nats"),
    Helper("lastvalues", "cached", lambda environment: environment.cache.type == "redis"),
    Helper("rehearsal", "compared", lambda environment: environment.rehearsal, resumes=False),  # the work of all three
)


def helpers_of(environment: Environment) -> tuple[Helper, ...]:
    """The helpers that a run in this environment has, in the order in which they start."""
    return tuple(helper for helper in HELPERS if helper.wanted(environment))


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a helper is, for people. `report` None: it never said."""

    helper: Helper
    report: Report | None


@dataclass(slots=True)
class _Heard:
    """What was heard of one helper."""

    helper: Helper
    since_s: float | None = None  # of the last report; before the first one, when we began to wait for it
    report: Report | None = None
    process: int = -1  # which of its processes that was, counted up
    before: dict[str, float] = field(default_factory=dict)  # what its earlier processes had counted


class Reports:
    """The last report of each helper. Times are seconds of any clock that does not jump."""

    def __init__(self, helpers: Iterable[Helper]) -> None:
        self._heard = {helper.name: _Heard(helper) for helper in helpers}

    def expect(self, name: str, *, now_s: float) -> None:
        """The helper is being started: from now on its silence counts."""
        self._heard[name].since_s = now_s

    def __contains__(self, name: str) -> bool:
        return name in self._heard

    def take(self, name: str, report: Report, *, process: int, now_s: float) -> None:
        """A report of the helper `name`; `process` counts up with each start of it."""
        heard = self._heard[name]
        if heard.report is not None and process != heard.process:
            heard.before = dict(self._counted(heard))
        heard.report, heard.process, heard.since_s = report, process, now_s

    def trouble(self, name: str, *, now_s: float) -> str | None:
        """What is wrong with a helper, in a sentence; None = nothing."""
        heard = self._heard[name]
        if heard.since_s is None:
            return None
        silent_s = now_s - heard.since_s
        if silent_s > SILENT_AFTER_S:
            last = f"; it was {heard.report.behind} then" if heard.report and heard.report.lag_records else ""
            return f"has not reported for {silent_s:.0f} s{last}"
        return heard.report.trouble if heard.report else None

    def standings(self) -> tuple[Standing, ...]:
        """How far each helper is."""
        return tuple(Standing(heard.helper, heard.report) for heard in self._heard.values())

    def cursors(self) -> dict[str, Mapping[str, float]]:
        """The readings of the cursor metrics, 0 for a helper that has not reported yet."""
        reports = {name: heard.report or Report(name) for name, heard in self._heard.items()}
        return {
            "ssmd_cursor_number": {name: float(report.number) for name, report in reports.items()},
            "ssmd_cursor_lag_records": {name: float(report.lag_records) for name, report in reports.items()},
            "ssmd_cursor_lag_seconds": {name: float(report.lag_s) for name, report in reports.items()},
        }

    def counters(self) -> dict[str, float]:
        """What all processes of each helper counted, by the names of metrics."""
        return {
            f"ssmd_{name}_{counter}": count
            for name, heard in self._heard.items()
            for counter, count in self._counted(heard).items()
        }

    def _counted(self, heard: _Heard) -> Mapping[str, float]:
        counters = heard.report.counters if heard.report else {}
        names = heard.before.keys() | counters.keys()
        return {name: heard.before.get(name, 0.0) + counters.get(name, 0.0) for name in names}
