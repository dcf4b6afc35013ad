"""What `ssmd run` shows a person: one live line while it runs, a summary when it ends.

Pure text from numbers: who prints it, and where, is the caller's. Not for: logs (structlog), metrics.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ssmd.helpers import Standing

TOLD_BEYOND_S = 1.0  # a run that took so much longer than it recorded says both
BEHIND_AFTER_S = 5.0  # a lag shorter than this is not worth a place in the live line


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The connector's numbers at one instant. Times in seconds, sizes in bytes."""

    elapsed_s: float
    frames: int
    records: int
    written_bytes: int
    ring_used_bytes: int
    lag_records: int  # in the ring, not yet in a file
    gaps: int
    unresolved: int
    reconnects: int
    live: int  # clients with every subscription confirmed
    clients: int
    unparsed: int
    by_kind: Mapping[str, int] = field(default_factory=dict)
    trouble: str = ""
    recording_s: float = 0.0  # from the first socket's opening to the last one's end
    starting: bool = False  # no client was made yet
    last_number: int = 0  # of the last record in a file
    helpers: tuple[Standing, ...] = ()


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def human_duration(seconds: float) -> str:
    """2.8 -> '2.8s', 3725 -> '1h02m05s'."""
    if seconds < 60:
        return f"{int(seconds * 10) / 10:.1f}s"
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02}m{rest:02}s"
    return f"{minutes}m{rest:02}s"


def live_items(now: Snapshot, before: Snapshot) -> list[str]:
    """What the line of a terminal says, the most important first; rates are those since `before`."""
    if now.starting and not now.trouble:
        return [f"starting ... {human_duration(now.elapsed_s)}"]
    span_s = max(now.elapsed_s - before.elapsed_s, 1e-9)
    items = [f"TROUBLE: {now.trouble}"] if now.trouble else []
    items += [
        human_duration(now.elapsed_s),
        f"{(now.frames - before.frames) / span_s:,.0f} messages/s",
        f"live {now.live}/{now.clients}",
        f"gaps {now.gaps}" + (f" ({now.unresolved} open)" if now.unresolved else ""),
        f"lag {now.lag_records:,} records",
    ]
    reports = [standing.report for standing in now.helpers if standing.report]
    items += [f"{report.part} {report.behind}" for report in reports if report.lag_s >= BEHIND_AFTER_S]
    return [
        *items,
        f"reconnects {now.reconnects}",
        f"{now.records:,} records",
        f"{human_bytes(now.written_bytes)} written",
    ]


def fitted(items: Sequence[str], width: int) -> str:
    """As many of the first items as fit into `width` columns; a first one that is too long by itself is cut."""
    line = items[0] if items else ""
    if len(line) > width:
        return line[: max(width - 1, 0)] + "…"
    for item in items[1:]:
        longer = f"{line} · {item}"
        if len(longer) > width:
            break
        line = longer
    return line


def summary(end: Snapshot, *, folder: str, command: str, sealed: bool, kept: bool = True) -> str:
    """The closing words of a run; `command` is how this user calls ssmd. `kept`: its journal stays."""
    if not end.frames:
        return f"NOTHING was recorded in {human_duration(end.elapsed_s)}: {end.trouble or 'the exchange sent nothing'}."
    place = shlex.quote(folder)
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in sorted(end.by_kind.items(), key=lambda item: -item[1]) if count
    )
    state = "sealed" if sealed else "NOT sealed: the next run goes on with it"
    place_and_state = f"{human_bytes(end.written_bytes)} in {folder}, {state}"
    recording_s = end.recording_s or end.elapsed_s
    rate = end.frames / recording_s if recording_s > 0 else 0.0
    took = human_duration(recording_s)
    if end.elapsed_s - recording_s > TOLD_BEYOND_S:
        took += f" of a run of {human_duration(end.elapsed_s)}"
    lines = [
        f"Captured {end.frames:,} messages in {took} ({rate:,.0f} a second).",
        f"  records     {end.records:,}: {kinds or 'none'}",
        f"  on disk     {place_and_state if kept else human_bytes(end.written_bytes)}",
        f"  gaps        {end.gaps}" + ("" if end.gaps else " (nothing is known to be missing)"),
        f"  reconnects  {end.reconnects}",
    ]
    if end.unparsed:
        lines.append(f"  unparsed    {end.unparsed:,} messages, kept as bytes: {command} cat {place} --kind unparsed")
    if end.lag_records:
        lines.append(f"  in the ring {end.lag_records:,} records, not in a file yet: start again to write them")
    lines += [_standing_line(standing, end.last_number) for standing in end.helpers if standing.report]
    if kept:
        lines.append(f"Prove it: {command} verify {place}")
    return "\n".join(lines)


def _standing_line(standing: Standing, last_number: int) -> str:
    """How far a helper came; `last_number` may be newer than what it saw last."""
    report = standing.report
    assert report is not None
    behind = max(report.end, last_number) - report.number
    later = ", it goes on at the next start" if standing.helper.resumes else ""
    left = f"; {behind:,} records behind{later}" if behind > 0 else ", all"
    why = f": {report.trouble}" if report.trouble and behind > 0 else ""
    return f"  {standing.helper.done:<11} up to record {report.number:,}{left}{why}"
