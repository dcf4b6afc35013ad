"""What a journal proves: from counted facts to a verdict. Pure: no files, no clock, no C.

`Account` holds the facts of one journal, as `ssmd.journal.account` collects them from the bytes; `judge` makes the
`Report` that `ssmd verify` prints (docs/verify.md explains each line of it). The rules:

* Complete means that nothing is missing. Any Gap record is something missed, resolved or not: lost deltas stay lost.
* Sequence numbers are followed again here, and Gap records are believed in neither direction: a hole without its Gap
  record is listed as `unrecorded`, a Gap record without its hole as damage.
* A connection that was closed and followed by another needs a Gap record, and so does a run that ended without saying
  so. A connection closed by a stop as asked is no hole, nor is the time until the next start: the runs tell of it.
* Channels without sequence numbers are listed as blind: nobody can tell what was lost on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

KIND_NAMES = (
    "unparsed",
    "trade",
    "ticker",
    "book_snapshot",
    "status",
    "index",
    "control",
    "gap",
    "connection",
    "clock",
    "checkpoint",
    "entry",
    "book_delta",
    "later",
)
# Channels whose messages have no seq (protocol sheet, 2.7), and what their frames decode into.
WITHOUT_SEQUENCE = frozenset({"ticker", "fill", "market_positions", "user_orders"})
_CHANNEL_BY_KIND = {1: "trade", 2: "ticker", 3: "orderbook_delta", 4: "market_lifecycle_v2"}
BLIND_WHY = "the exchange sends no sequence numbers on it"

# So far a sequence number must be off before it is taken for a wrong number rather than for a hole (csrc/sequence.h).
SEQUENCE_JUMP = 1_000_000

FINDING_NUMBER = 0
FINDING_BOOK = 1
FINDING_NEGATIVE = 2


class Totals(NamedTuple):
    """`struct ssmd_totals`."""

    bytes: int = 0
    records: int = 0
    frames: int = 0
    frame_bytes: int = 0
    by_kind: tuple[int, ...] = (0,) * len(KIND_NAMES)
    first_number: int = 0
    last_number: int = 0
    first_recv_ns: int = 0
    last_recv_ns: int = 0
    breaks: int = 0
    channels: int = 0
    holes: int = 0
    findings: int = 0
    books: int = 0
    books_checked: int = 0
    books_mismatched: int = 0
    books_emptied: int = 0
    levels_negative: int = 0
    books_crossed: int = 0
    deltas_orphaned: int = 0

    def kinds(self) -> dict[str, int]:
        """Counts by kind, those at zero left out."""
        return {name: count for name, count in zip(KIND_NAMES, self.by_kind, strict=True) if count}


class Channel(NamedTuple):
    """One sid of one connection (`struct ssmd_channel`)."""

    connection: int
    sid: int
    first_seq: int
    last_seq: int
    frames: int
    repeats: int
    first_number: int
    first_recv_ns: int
    last_recv_ns: int
    kinds: int


class Hole(NamedTuple):
    """Sequence numbers that never came (`struct ssmd_hole`)."""

    connection: int
    sid: int
    from_seq: int
    to_seq: int
    from_ns: int
    to_ns: int
    number: int  # of the record after


class Finding(NamedTuple):
    """Something that does not fit together (`struct ssmd_finding`), with the segment where it stands."""

    segment: str
    offset: int
    number: int
    expected: int
    what: int
    connection: int


@dataclass(frozen=True, slots=True)
class GapFact:
    """A Gap record."""

    number: int
    recv_ns: int
    cause: str
    connection: int
    sid: int
    from_seq: int = 0
    to_seq: int = 0
    from_ns: int = 0
    to_ns: int = 0
    detail: str | None = None
    segment: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class EventFact:
    """A ConnectionEvent record."""

    number: int
    recv_ns: int
    what: str
    connection: int
    sid: int = 0
    reason: str | None = None
    code: int = 0
    gap_number: int = 0
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class SubscribedFact:
    """A `subscribed` reply: which channel a sid is."""

    number: int
    connection: int
    sid: int
    channel: str


@dataclass(frozen=True, slots=True)
class DamageFact:
    """Stored bytes that do not check out."""

    segment: str
    offset: int
    what: str
    lost_from: int | None = None  # offsets between which nothing was read, where the segment could be read on behind it
    lost_to: int | None = None
    lost_records: int | None = None

    def as_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"segment": self.segment, "offset": self.offset, "what": self.what}
        if self.lost_from is not None:
            entry |= {"lost_from": self.lost_from, "lost_to": self.lost_to, "lost_records": self.lost_records}
        return entry


@dataclass(slots=True)
class Account:
    """All facts of one journal, in the order of its records."""

    journal: str = ""
    segments: int = 0
    unproved: int = 0  # records behind the last checkpoint of an open segment: whole, but no CRC vouches for them yet
    totals: Totals = field(default_factory=Totals)
    channels: list[Channel] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    gaps: list[GapFact] = field(default_factory=list)
    events: list[EventFact] = field(default_factory=list)
    subscriptions: list[SubscribedFact] = field(default_factory=list)
    damage: list[DamageFact] = field(default_factory=list)
    archived: int = 0  # every record up to here is proved to be in `archive`, 0 = none, or it is not known
    archive: str = ""


@dataclass(slots=True)
class Report:
    """The answer of `ssmd verify`; `as_json` has its interface."""

    complete: bool
    segments: int
    unproved: int
    totals: Totals
    connections: list[dict[str, Any]]
    gaps: list[dict[str, Any]]
    damage: list[DamageFact]
    blind: list[dict[str, str]]
    runs: list[dict[str, Any]]
    begins: list[dict[str, Any]] = field(default_factory=list)  # journals whose first records are not here
    journal: str = ""  # its folder; "" = a report over several, whose entries name theirs

    @property
    def accounted(self) -> bool:
        """Every hole has its Gap record, and nothing is damaged: what is missing is known, and stays missing."""
        return not self.damage and all(gap["number"] is not None for gap in self.gaps)

    def as_json(self) -> dict[str, Any]:
        totals = self.totals
        return {
            "complete": self.complete,
            "segments": self.segments,
            "records": totals.records,
            "frames": totals.frames,
            "bytes": totals.bytes,
            "by_kind": totals.kinds(),
            "unparsed": totals.by_kind[0],
            "unproved": self.unproved,
            "first_number": totals.first_number,
            "last_number": totals.last_number,
            "begins": self.begins,
            "first_recv_ns": totals.first_recv_ns,
            "last_recv_ns": totals.last_recv_ns,
            "runs": self.runs,
            "connections": self.connections,
            "gaps": self.gaps,
            "damage": [damage.as_json() for damage in self.damage],
            "blind": self.blind,
            "books": {
                "books": totals.books,
                "checked": totals.books_checked,
                "mismatched": totals.books_mismatched,
                "negative_levels": totals.levels_negative,
                "crossed": totals.books_crossed,
                "emptied": totals.books_emptied,
                "orphaned_deltas": totals.deltas_orphaned,
            },
        }


def judge(account: Account) -> Report:
    """What the facts prove."""
    holes = account.holes + _holes_at_start(account)
    gaps = _gaps(account, holes)
    damage, findings = _numbered(account)
    damage += [_told(f) for f in findings] + _unfounded(account, holes)
    return Report(
        complete=not gaps and not damage,
        segments=account.segments,
        unproved=account.unproved,
        totals=account.totals,
        connections=_connections(account, holes),
        gaps=gaps,
        damage=damage,
        blind=_blind(account),
        runs=_runs(account.events),
        begins=_begins(account),
        journal=account.journal,
    )


def _begins(account: Account) -> list[dict[str, Any]]:
    """A journal that is read from its middle: by the archive's word its beginning is there, or nobody knows where."""
    first = account.totals.first_number
    if first <= 1:
        return []
    archive = account.archive if account.archived >= first - 1 else None
    return [{"journal": account.journal, "first_number": first, "archive": archive}]


def merge(reports: Sequence[Report]) -> Report:
    """One report over several journals: runs, connections and gaps say which one they are of."""
    if len(reports) == 1:
        return reports[0]
    runs, connections, gaps = (
        [entry | {"journal": report.journal} for report in reports for entry in getattr(report, name)]
        for name in ("runs", "connections", "gaps")
    )
    blind = {entry["channel"]: entry for report in reports for entry in report.blind}
    return Report(
        complete=all(report.complete for report in reports),
        segments=sum(report.segments for report in reports),
        unproved=sum(report.unproved for report in reports),
        totals=_sum([report.totals for report in reports]),
        connections=connections,
        gaps=gaps,
        damage=[entry for report in reports for entry in report.damage],
        blind=list(blind.values()),
        runs=sorted(runs, key=lambda run: int(run["started_ns"])),
        begins=[entry for report in reports for entry in report.begins],
    )


def _sum(all_totals: Sequence[Totals]) -> Totals:
    held = [totals for totals in all_totals if totals.records]
    added = Totals(*(_add(column) for column in zip(*all_totals, strict=True)))
    return added._replace(
        first_number=0,
        last_number=0,
        first_recv_ns=min((totals.first_recv_ns for totals in held), default=0),
        last_recv_ns=max((totals.last_recv_ns for totals in held), default=0),
    )


def _add(column: Iterable[Any]) -> Any:
    values = list(column)
    if values and isinstance(values[0], tuple):
        return tuple(sum(parts) for parts in zip(*values, strict=True))
    return sum(values)


# ---- sequence numbers ------------------------------------------------------------------------------------------


def _holes_at_start(account: Account) -> list[Hole]:
    """What is missing before the first number of a sid whose connection was opened within the journal read."""
    opened = {event.connection: event.recv_ns for event in account.events if event.what == "opened"}
    return [
        Hole(c.connection, c.sid, 1, c.first_seq - 1, 0, c.first_recv_ns, c.first_number)
        for c in account.channels
        if c.first_seq > 1 and c.connection in opened
    ]


def _unfounded(account: Account, holes: list[Hole]) -> list[DamageFact]:
    """Gap records that claim numbers which are there."""
    known = {hole[:4] for hole in holes}
    starts = {(c.connection, c.sid): c.first_seq for c in account.channels}
    return [
        DamageFact(
            gap.segment,
            gap.offset,
            f"Gap record {gap.number} says that seq {gap.from_seq} to {gap.to_seq} of connection {gap.connection} sid "
            f"{gap.sid} are missing, but the frames around it say otherwise",
        )
        for gap in account.gaps
        if gap.cause == "sequence"
        and (gap.connection, gap.sid, gap.from_seq, gap.to_seq) not in known
        and gap.to_seq >= starts.get((gap.connection, gap.sid), 0)
    ]


# ---- gaps ------------------------------------------------------------------------------------------------------


def _gaps(account: Account, holes: list[Hole]) -> list[dict[str, Any]]:
    recorded = {(g.connection, g.sid, g.from_seq, g.to_seq) for g in account.gaps if g.cause == "sequence"}
    listed = [(gap.number, _recorded(account, gap)) for gap in account.gaps]
    listed += [(hole.number, _unrecorded(hole)) for hole in holes if hole[:4] not in recorded]
    listed += _silent_closes(account) + _silent_outages(account)
    return [entry for _, entry in sorted(listed, key=lambda item: item[0])]


def _entry(cause: str, **fields: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "cause": cause,
        "connection": 0,
        "sid": 0,
        "from_seq": 0,
        "to_seq": 0,
        "from_ns": 0,
        "to_ns": 0,
        "resolved_by": None,
        "number": None,
        "detail": None,
    }
    return {**entry, **fields}


def _recorded(account: Account, gap: GapFact) -> dict[str, Any]:
    resolved = _resolved_by(account.events, gap)
    return _entry(
        gap.cause,
        connection=gap.connection,
        sid=gap.sid,
        from_seq=gap.from_seq,
        to_seq=gap.to_seq,
        from_ns=gap.from_ns,
        to_ns=gap.to_ns or (resolved.recv_ns if resolved else 0),
        resolved_by=resolved.number if resolved else None,
        number=gap.number,
        detail=gap.detail,
    )


def _resolved_by(events: Sequence[EventFact], gap: GapFact) -> EventFact | None:
    """The event that names this gap, else the full subscription of a later connection: it brings fresh snapshots."""
    for event in events:
        if event.what == "resynced" and event.gap_number == gap.number:
            return event
    if gap.cause == "refused":
        return None
    for event in events:
        if event.what == "subscribed" and event.number > gap.number and event.connection > gap.connection:
            return event
    return None


def _unrecorded(hole: Hole) -> dict[str, Any]:
    return _entry(
        "unrecorded",
        connection=hole.connection,
        sid=hole.sid,
        from_seq=hole.from_seq,
        to_seq=hole.to_seq,
        from_ns=hole.from_ns,
        to_ns=hole.to_ns,
        detail=f"seen from the sequence numbers before record {hole.number}; there is no Gap record for it",
    )


def _silent_closes(account: Account) -> list[tuple[int, dict[str, Any]]]:
    """Connections that were lost without a Gap record: closed, and another opened in the same run."""
    told = {gap.connection for gap in account.gaps}
    missing = []
    for i, event in enumerate(account.events):
        if event.what != "closed" or event.connection in told:
            continue
        after = next((e for e in account.events[i + 1 :] if e.what in ("opened", "stopped", "started")), None)
        if after is not None and after.what == "opened":
            entry = _entry(
                "disconnect",
                connection=event.connection,
                from_ns=event.recv_ns,
                to_ns=after.recv_ns,
                detail=f"closed ({event.reason or 'no reason given'}) and opened again; there is no Gap record for it",
            )
            missing.append((event.number, entry))
    return missing


def _silent_outages(account: Account) -> list[tuple[int, dict[str, Any]]]:
    """Runs that ended without `stopped`, followed by a run that wrote no Gap record about it."""
    missing = []
    before: EventFact | None = None  # of the run before
    for i, event in enumerate(account.events):
        if event.what == "started" and before is not None and before.what != "stopped":
            until = next((e.number for e in account.events[i + 1 :] if e.what == "opened"), 1 << 64)
            told = any(g.cause in ("outage", "damage") and before.number < g.number < until for g in account.gaps)
            if not told:
                detail = "a run ended without saying so; the next one wrote no Gap record for it"
                entry = _entry("outage", from_ns=before.recv_ns, to_ns=event.recv_ns, detail=detail)
                missing.append((event.number, entry))
        before = event
    return missing


# ---- runs ------------------------------------------------------------------------------------------------------

_ENVIRONMENT = "environment "  # so begins the reason of `started`


def _runs(events: Sequence[EventFact]) -> list[dict[str, Any]]:
    """Runs of the recorder: `clean` is True when it said that it stopped, False when another began without that.

    None: it is the last one, and records still or was killed: the journal cannot tell.
    """
    runs: list[dict[str, Any]] = []
    for event in events:
        if event.what == "started" or not runs or runs[-1]["clean"]:
            if runs and runs[-1]["clean"] is None:
                runs[-1]["clean"] = False
            runs.append({"started_ns": 0, "stopped_ns": 0, "environment": None, "clean": None})
        if event.what == "started":
            name = event.reason or ""
            runs[-1]["started_ns"] = event.recv_ns
            runs[-1]["environment"] = name.removeprefix(_ENVIRONMENT) if name.startswith(_ENVIRONMENT) else None
        elif event.what == "stopped":
            runs[-1].update(stopped_ns=event.recv_ns, clean=True)
    return runs


# ---- findings, connections, blind channels ---------------------------------------------------------------------


def _numbered(account: Account) -> tuple[list[DamageFact], list[Finding]]:
    """Damage with the numbers of the records that were lost in it, and the findings that say nothing beyond that."""
    jumps = {(f.segment, f.offset): f for f in account.findings if f.what == FINDING_NUMBER and f.number > f.expected}
    damage: list[DamageFact] = []
    for fact in account.damage:
        jump = jumps.pop((fact.segment, fact.lost_to), None) if fact.lost_to is not None else None
        if jump is not None:
            fact = replace(fact, what=f"{fact.what}: numbers {jump.expected} to {jump.number - 1}")
        damage.append(fact)
    told = [
        f
        for f in account.findings
        if f.what != FINDING_NUMBER or f.number < f.expected or jumps.get((f.segment, f.offset))
    ]
    return damage, told


def _told(finding: Finding) -> DamageFact:
    if finding.what == FINDING_BOOK:
        what = f"the snapshot of record {finding.number} differs from the book that the deltas before it give"
    elif finding.what == FINDING_NEGATIVE:
        what = f"the delta of record {finding.number} takes a level below zero"
    elif finding.number > finding.expected:
        missing = finding.number - finding.expected
        what = f"records {finding.expected} to {finding.number - 1} are missing ({missing})"
    else:
        what = f"record {finding.number} stands where {finding.expected} should be"
    return DamageFact(finding.segment, finding.offset, what)


def _connections(account: Account, holes: list[Hole]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}

    def entry(connection: int) -> dict[str, Any]:
        blank: dict[str, Any] = {"id": connection, "opened_ns": 0, "closed_ns": 0, "reason": None, "by_sid": {}}
        return found.setdefault(connection, blank)

    for event in account.events:
        if event.connection == 0:
            continue
        if event.what == "opened":
            entry(event.connection)["opened_ns"] = event.recv_ns
        elif event.what in ("closed", "refused"):
            entry(event.connection).update(closed_ns=event.recv_ns, reason=event.reason)
    for subscribed in account.subscriptions:
        _sid(entry(subscribed.connection), subscribed.sid)["channel"] = subscribed.channel
    for channel in account.channels:
        if not channel.frames:
            continue
        sid = _sid(entry(channel.connection), channel.sid)
        sid.update(first_seq=channel.first_seq, last_seq=channel.last_seq, frames=channel.frames)
        sid["repeats"] = channel.repeats
        sid["channel"] = sid["channel"] or _channel_name(channel)
    for hole in sorted(holes, key=lambda hole: hole.from_seq):
        _sid(entry(hole.connection), hole.sid)["missing"].append([hole.from_seq, hole.to_seq])
    return [found[connection] for connection in sorted(found)]


def _sid(connection: dict[str, Any], sid: int) -> dict[str, Any]:
    blank: dict[str, Any] = {"channel": None, "first_seq": 0, "last_seq": 0, "missing": [], "frames": 0, "repeats": 0}
    entry: dict[str, Any] = connection["by_sid"].setdefault(str(sid), blank)
    return entry


def _channel_name(channel: Channel) -> str | None:
    """What a sid is where its `subscribed` reply was not read."""
    return next((name for kind, name in _CHANNEL_BY_KIND.items() if channel.kinds >> kind & 1), None)


def _blind(account: Account) -> list[dict[str, str]]:
    names = {(s.connection, s.sid): s.channel for s in account.subscriptions}
    blind = {name for name in names.values() if name in WITHOUT_SEQUENCE}
    for channel in account.channels:
        if channel.frames and not channel.first_seq:
            blind.add(names.get((channel.connection, channel.sid)) or _channel_name(channel) or f"sid {channel.sid}")
    return [{"channel": name, "why": BLIND_WHY} for name in sorted(blind)]
