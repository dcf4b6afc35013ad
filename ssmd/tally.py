"""The plain twin of csrc/tally.c: the same counts, one record at a time, written to be read. Pure.

The specification of what `ssmd verify` and manifests count; the C does it at a million records a second, and a test
holds the two equal over random journals. Facts: docs/records.md (sequence numbers), csrc/tally.h.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ssmd.book import BELOW_ZERO, WITHOUT_SNAPSHOT, Replay, Suspect
from ssmd.quality import (
    FINDING_BOOK,
    FINDING_NEGATIVE,
    FINDING_NUMBER,
    KIND_NAMES,
    SEQUENCE_JUMP,
    Channel,
    Finding,
    Hole,
    Totals,
)

BOOK, CONTROL, GAP, CONNECTION, CLOCK, CHECKPOINT = 3, 6, 7, 8, 9, 10  # ordinals of the schema's union
_KNOWN_KINDS = 12
_OWN = (GAP, CONNECTION, CLOCK)
_DELTA, _OK, _CLOSED = 1, 1, 4  # BookKind, ControlType, ConnectionWhat
FINDINGS_LIMIT = 10_000


class Snapshot(NamedTuple):
    """The book part of a snapshot record."""

    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]
    request_id: int = 0


class Delta(NamedTuple):
    """The book part of a delta record."""

    side: int
    price_e4: int
    delta_e2: int


class Seen(NamedTuple):
    """What the tally looks at in a record."""

    number: int
    recv_ns: int = 0
    connection: int = 0
    sid: int = 0
    seq: int = 0
    kind: int = 0
    sub: int = 0
    length: int = 0
    offset: int = 0
    frame_bytes: int | None = None  # None = no frame
    market: str | None = None
    book: Snapshot | Delta | None = None


@dataclass(slots=True)
class _Sid:
    first_seq: int = 0
    last_seq: int = 0
    before: int = 0  # next number before a jump that nothing has confirmed yet (csrc/sequence.h)
    frames: int = 0
    repeats: int = 0
    first_number: int = 0
    first_recv_ns: int = 0
    last_recv_ns: int = 0
    kinds: int = 0
    replay: Replay = field(default_factory=Replay)


@dataclass(slots=True)
class PlainTally:
    """Counts of one journal so far."""

    holes: list[Hole] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    _totals: Totals = field(default_factory=Totals)
    _by_kind: list[int] = field(default_factory=lambda: [0] * len(KIND_NAMES))
    _sids: dict[tuple[int, int], _Sid] = field(default_factory=dict)
    _known: set[tuple[int, int, str]] = field(default_factory=set)
    _books: int = 0
    _suspects: dict[tuple[int, int, str], Suspect] = field(default_factory=dict)
    _past: list[Replay] = field(default_factory=list)  # of closed connections

    def add(self, records: Iterable[Seen]) -> None:
        for record in records:
            self._add(record)

    def _add(self, record: Seen) -> None:
        totals = self._totals
        self._by_kind[_kind_index(record)] += 1
        self._totals = totals = totals._replace(bytes=totals.bytes + record.length)
        if record.kind == CHECKPOINT:
            return
        self._number(record)
        if record.frame_bytes is not None:
            totals = self._totals
            self._totals = totals._replace(
                frames=totals.frames + 1, frame_bytes=totals.frame_bytes + record.frame_bytes
            )
        if record.kind in _OWN:
            self._own(record)
        elif record.sid:
            self._frame(record)

    def _number(self, record: Seen) -> None:
        totals = self._totals
        if not totals.records:
            totals = totals._replace(first_number=record.number, first_recv_ns=record.recv_ns)
        elif record.number != totals.last_number + 1:
            self._finding(record, FINDING_NUMBER, totals.last_number + 1)
            totals = totals._replace(breaks=totals.breaks + 1)
            self._doubt_all()
        self._totals = totals._replace(
            records=totals.records + 1, last_number=record.number, last_recv_ns=record.recv_ns
        )

    def _own(self, record: Seen) -> None:
        if record.kind == GAP and record.sid:
            self._sid(record).replay.doubt()
        elif record.kind == GAP:
            self._doubt_all()
        elif record.kind == CONNECTION and record.sub == _CLOSED:
            for (connection, sid), seen in self._sids.items():
                if connection == record.connection:
                    self._past.append(seen.replay)
                    seen.replay = Replay()
                    self._known = {key for key in self._known if key[:2] != (connection, sid)}
                    self._suspects = {key: s for key, s in self._suspects.items() if key[:2] != (connection, sid)}

    def _frame(self, record: Seen) -> None:
        seen = self._sid(record)
        if not seen.frames or (not seen.first_seq and record.seq):
            seen.first_number, seen.first_recv_ns = record.number, record.recv_ns
        rises = self._sequence(record, seen) if record.seq else True
        seen.frames += 1
        seen.last_recv_ns = record.recv_ns
        seen.kinds |= 1 << min(record.kind, _KNOWN_KINDS)
        if record.kind == CONTROL and record.sub == _OK:
            seen.replay.changed()
        if rises and record.kind == BOOK and record.market is not None:
            self._book(record, seen, record.market)

    def _sequence(self, record: Seen, seen: _Sid) -> bool:
        """False: the number did not rise, so the frame says again what was said before: books ignore it."""
        back = seen.before and seen.before <= record.seq < seen.before + SEQUENCE_JUMP
        last = seen.before - 1 if back else seen.last_seq
        rises = record.seq > last
        if not seen.first_seq:
            seen.first_seq = record.seq
        elif not rises:
            seen.repeats += 1
        elif record.seq != last + 1:
            missing = (last + 1, record.seq - 1)
            self.holes.append(
                Hole(record.connection, record.sid, *missing, seen.last_recv_ns, record.recv_ns, record.number)
            )
            seen.replay.doubt()
        if rises:
            seen.before = last + 1 if record.seq - last > SEQUENCE_JUMP else 0
            seen.last_seq = record.seq
        return rises

    def _book(self, record: Seen, seen: _Sid, market: str) -> None:
        replay, key = seen.replay, (record.connection, record.sid, market)
        if isinstance(record.book, Snapshot):
            self._suspects.pop(key, None)
            self._books += key not in self._known
            self._known.add(key)
            bids, asks, request_id = record.book
            if not replay.snapshot(market, bids, asks, asked=request_id != 0):
                self._finding(record, FINDING_BOOK, 0)
        elif isinstance(record.book, Delta):
            if market not in replay.books and seen.first_seq == 1:
                self._suspect(record, key, WITHOUT_SNAPSHOT)
            if not replay.delta(market, *record.book):
                self._finding(record, FINDING_NEGATIVE, 0)
                self._suspect(record, key, BELOW_ZERO)

    def _suspect(self, record: Seen, key: tuple[int, int, str], why: str) -> None:
        self._suspects.setdefault(key, Suspect(record.number, *key, record.recv_ns, why))

    def suspects(self) -> list[Suspect]:
        """The books that cannot be right now."""
        return list(self._suspects.values())

    def _sid(self, record: Seen) -> _Sid:
        return self._sids.setdefault((record.connection, record.sid), _Sid())

    def _doubt_all(self) -> None:
        for seen in self._sids.values():
            seen.replay.doubt()

    def _finding(self, record: Seen, what: int, expected: int) -> None:
        if len(self.findings) < FINDINGS_LIMIT:
            self.findings.append(Finding("", record.offset, record.number, expected, what, record.connection))

    def totals(self) -> Totals:
        replays = [seen.replay for seen in self._sids.values()] + self._past
        return self._totals._replace(
            by_kind=tuple(self._by_kind),
            channels=len(self._sids),
            holes=len(self.holes),
            findings=len(self.findings),
            books=self._books,
            books_checked=sum(replay.checked for replay in replays),
            books_mismatched=sum(replay.mismatched for replay in replays),
            books_emptied=sum(replay.emptied for replay in replays),
            levels_negative=sum(replay.negative for replay in replays),
            books_crossed=sum(replay.crossed for replay in replays),
            deltas_orphaned=sum(replay.orphaned for replay in replays),
        )

    def channels(self) -> list[Channel]:
        """In the order in which they were first seen."""
        return [
            Channel(
                connection,
                sid,
                seen.first_seq,
                seen.last_seq,
                seen.frames,
                seen.repeats,
                seen.first_number,
                seen.first_recv_ns,
                seen.last_recv_ns,
                seen.kinds,
            )
            for (connection, sid), seen in self._sids.items()
        ]


def _kind_index(record: Seen) -> int:
    if record.kind >= _KNOWN_KINDS:
        return KIND_NAMES.index("later")
    if record.kind == BOOK and record.sub == _DELTA:
        return KIND_NAMES.index("book_delta")
    return record.kind
