"""Compares a journal with what was made of it elsewhere: the messages of a bus, the objects of a store.

For: `ssmd verify D --against URL`. A record is the same where its number is there and its bytes are equal; each must be
there once. Nothing is assumed about the order of what is read, and little is kept in memory: records are summed up per
block of BLOCK numbers (how many, and the sum of 64-bit digests of their bytes), and only blocks whose sums differ are
read a second time, record by record, to say which records are missing, doubled or different.

    journal   ---- read once ---->  block -> (count, sum)  \
                                                            >  equal: those records are the same, once each
    target    ---- read once ---->  block -> (count, sum)  /   else: both once more, for these blocks

Records are summed up in C (`ssmd.native.sums`), as many at once as came together: one by one they are looked at only in
the blocks that differ, and around a horizon.

What a target cannot have yet is not judged: numbers above its horizon (the publisher's cursor, or the highest number
that it holds) are `behind`. What a stream has removed by its own limits is `dropped`, and what the local folder no
longer has (copies removed after their upload) is `older`: the store that keeps it stands for the journal there.

Not for: judging the journal itself (`ssmd.quality`), reading targets (`ssmd.copies`), finding what a URL names
(`ssmd.cli.against`).
Invariant: a difference is never hidden by a lack of memory; where too much differs to name it, counts say how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ssmd.copies import BLOCK, LISTED, RECORDS, Source, sums_of
from ssmd.journal.pieces import numbered_in
from ssmd.native.sums import Sum, digest

NAMED_BLOCKS: Final = 64  # that are read a second time; beyond, counts must do
_MASK: Final = (1 << 64) - 1

# ---- sums ------------------------------------------------------------------------------------------------------------


class Held:
    """How many records there are and what they hold, per block, in no order.

    Numbers up to `split` (those that the local journal no longer has) are summed up apart from the others.
    """

    __slots__ = ("blocks", "highest", "limit", "lowest", "records", "split")

    def __init__(self, *, split: int = 0, limit: int | None = None) -> None:
        self.blocks: dict[int, list[int]] = {}  # block, ~block for those up to split -> [count, sum]
        self.split = split
        self.limit = limit  # numbers above it are not counted
        self.records = 0
        self.lowest = 0  # numbers begin at 1
        self.highest = 0

    def add(self, data: bytes, sums: Sequence[Sum]) -> None:
        """Records, and what they were summed up to."""
        if any(self._is_cut(row) for row in sums):
            sums = [Sum(number // BLOCK, 1, digest(raw), number, number) for number, _, raw in numbered_in(data)]
        for row in sums:
            if self.limit is None or row.lowest <= self.limit:
                self._add(row)

    def _is_cut(self, row: Sum) -> bool:
        """Whether limit or split lies between its records."""
        if self.limit is not None and row.lowest <= self.limit < row.highest:
            return True
        return row.lowest <= self.split < row.highest

    def _add(self, row: Sum) -> None:
        entry = self.blocks.setdefault(row.block if row.lowest > self.split else ~row.block, [0, 0])
        entry[0] += row.records
        entry[1] += row.total
        self.records += row.records
        self.highest = max(self.highest, row.highest)
        self.lowest = min(self.lowest or row.lowest, row.lowest)

    def of(self, block: int) -> tuple[int, int]:
        """Count and sum of a block."""
        count, total = self.blocks.get(block, (0, 0))
        return count, total & _MASK


# ---- what is compared ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What a comparison came to. Ranges are [first, last] numbers, at most LISTED of each kind."""

    target: str
    form: str = ""
    records: int = 0  # the same, once each
    behind: int = 0  # not there yet
    dropped: int = 0  # removed by the target's own limits
    older: int = 0  # only there: the local copies are gone
    missing: int = 0
    doubled: int = 0  # copies too many
    different: int = 0
    extra: int = 0  # numbers that the journal does not have
    ranges: dict[str, list[list[int]]] = field(default_factory=dict)
    counted_only: bool = False  # too much differs to name it all
    faults: list[str] = field(default_factory=list)  # what else does not check out

    @property
    def equal(self) -> bool:
        return not (self.missing or self.doubled or self.different or self.extra or self.faults)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"equal": self.equal}

    def count(self, kind: str, number: int, count: int = 1) -> None:
        """A difference of this kind; numbers come in rising order."""
        setattr(self, kind, getattr(self, kind) + count)
        ranges = self.ranges.setdefault(kind, [])
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        elif len(ranges) < LISTED:
            ranges.append([number, number])

    def count_block(self, wanted: int, there: int) -> None:
        """A block that differs, by its counts alone."""
        self.counted_only = True
        self.missing += max(wanted - there, 0)
        self.doubled += max(there - wanted, 0)
        self.different += wanted == there


def compare(
    journal: Callable[[], Iterable[bytes]], targets: Sequence[Source], *, first: int, live: bool = False
) -> list[Outcome]:
    """Compares each form of each target with the journal, whose first number is `first`.

    `journal` gives the journal's records, from the beginning, each time that it is called, a group (what stands between
    two checkpoints) in a row of bytes. It is read after the targets; `live`: it grows, and may have segments by then
    that are not given: what a target has beyond its end is then no difference.
    """
    held = [(target, form, sums) for target in targets for form, sums in _summed(target, first).items()]
    local = _Local(journal, [_horizon(target, sums) for target, _, sums in held])
    elder = next((sums for target, _, sums in held if target.keeps_older), None)
    newest = local.sums.highest if live else None
    return [_judged(local, target, form, sums, elder, newest) for target, form, sums in held]


def _summed(target: Source, first: int) -> dict[str, Held]:
    forms = {form: Held(split=first - 1, limit=target.limit) for form in target.forms}
    for form, data, sums in target.read():
        if form not in forms:
            forms[form] = Held(split=first - 1, limit=target.limit)
        forms[form].add(data, sums)
    return forms or {"": Held()}


def _horizon(target: Source, sums: Held) -> int:
    return sums.highest if target.limit is None else target.limit


class _Local:
    """The journal, summed up once; blocks in which a horizon lies are kept record by record."""

    def __init__(self, read: Callable[[], Iterable[bytes]], horizons: Iterable[int]) -> None:
        self.read = read
        self.sums = Held()
        self._edges: dict[int, dict[int, int]] = {horizon // BLOCK: {} for horizon in horizons}
        for data in read():
            sums = sums_of(data)
            self.sums.add(data, sums)
            if any(row.block in self._edges for row in sums):
                self._keep(data)

    def _keep(self, data: bytes) -> None:
        for number, _, raw in numbered_in(data):
            if number // BLOCK in self._edges:
                self._edges[number // BLOCK][number] = digest(raw)

    def up_to(self, horizon: int, block: int) -> tuple[int, int]:
        """Count and sum of the records of a block that a target with this horizon must have."""
        if block < horizon // BLOCK:
            return self.sums.of(block)
        digests = [digest for number, digest in self._edges.get(block, {}).items() if number <= horizon]
        return len(digests), sum(digests) & _MASK

    def behind(self, horizon: int) -> int:
        """Records above a horizon."""
        whole = sum(entry[0] for block, entry in self.sums.blocks.items() if block > horizon // BLOCK)
        return whole + sum(number > horizon for number in self._edges.get(horizon // BLOCK, ()))


def _judged(local: _Local, target: Source, form: str, held: Held, elder: Held | None, newest: int | None) -> Outcome:
    """`newest`: numbers above it are not judged."""
    horizon = _horizon(target, held)
    outcome = Outcome(target.name, form, behind=local.behind(horizon), faults=list(target.faults))
    suspicious = []
    for block in sorted(block for block in local.sums.blocks.keys() | held.blocks.keys() if block >= 0):
        wanted, there = local.up_to(horizon, block), held.of(block)
        if wanted == there:
            outcome.records += wanted[0]
        elif target.dropping and block < held.lowest // BLOCK:
            outcome.dropped += wanted[0]
        elif newest is not None and block > newest // BLOCK:
            continue
        else:
            suspicious.append(block)
    for block in suspicious[NAMED_BLOCKS:]:
        outcome.count_block(local.up_to(horizon, block)[0], held.of(block)[0])
    if suspicious:
        named = frozenset(suspicious[:NAMED_BLOCKS])
        up_to = horizon if newest is None else min(horizon, newest)
        _look_closely(outcome, local, target, up_to, named, held)
    _judge_older(outcome, target, held, elder)
    if outcome.missing:
        outcome.faults += target.remarks
    return outcome


def _judge_older(outcome: Outcome, target: Source, held: Held, elder: Held | None) -> None:
    """Records that the local folder no longer has: the store that keeps them stands for the journal."""
    older = {~block for block in held.blocks if block < 0}
    outcome.older = sum(held.of(~block)[0] for block in older)
    if elder is None or elder is held:
        return
    for block in older | {~block for block in elder.blocks if block < 0}:
        wanted, there = elder.of(~block), held.of(~block)
        if wanted != there and not (target.dropping and block <= held.lowest // BLOCK):
            outcome.count_block(wanted[0], there[0])


# ---- the second reading ----------------------------------------------------------------------------------------------


def _look_closely(
    outcome: Outcome, local: _Local, target: Source, horizon: int, blocks: frozenset[int], held: Held
) -> None:
    """Names what differs in some blocks."""
    wanted: dict[int, tuple[bytes, int]] = {}
    group = 0  # last number of the group, one row of the journal, in which the oldest record lies that the target has
    for data in local.read():
        recorded = sums_of(data)
        if recorded and recorded[0].lowest <= held.lowest <= recorded[-1].highest:
            group = recorded[-1].highest
        if any(row.block in blocks for row in recorded):
            for number, kind, raw in numbered_in(data):
                if number // BLOCK in blocks and number <= horizon:
                    wanted[number] = raw, kind
    there: dict[int, list[bytes]] = {}
    oldest: dict[int, int] = {}  # kind -> lowest number of it that the target has; asked where it drops
    for form, data, sums in target.read():
        if form != outcome.form or not (target.dropping or any(row.block in blocks for row in sums)):
            continue
        for number, kind, raw in numbered_in(data):
            if held.split < number <= horizon:
                oldest[kind] = min(number, oldest.get(kind, number))
                if number // BLOCK in blocks:
                    there.setdefault(number, []).append(raw)
    for number in sorted(wanted.keys() | there.keys()):
        copies = there.get(number, [])
        if number not in wanted:
            outcome.count("extra", number, len(copies))
        elif not copies:
            # In batches, the oldest group of a stream may have lost some kinds and others not yet.
            in_group = outcome.form != RECORDS and number <= group and number < oldest.get(wanted[number][1], group + 1)
            if target.dropping and (number < held.lowest or in_group):
                outcome.dropped += 1
            else:
                outcome.count("missing", number)
        elif any(copy != wanted[number][0] for copy in copies):
            outcome.count("different", number)
        else:
            outcome.records += 1
            if len(copies) > 1:
                outcome.count("doubled", number, len(copies) - 1)
