"""Compares a journal with what was made of it elsewhere: the messages of a bus, the objects of a store.

For: `ssmd verify D --against URL`. A record is the same where its number is there and its bytes are equal; each must be
there once. Nothing is assumed about the order of what is read, and little is kept in memory: records are summed up per
block of BLOCK numbers (how many, and the sum of 64-bit digests of their bytes), and only blocks whose sums differ are
read a second time, record by record, to say which records are missing, doubled or different.

    journal   ---- read once ---->  block -> (count, sum)  \
                                                            >  equal: those records are the same, once each
    target    ---- read once ---->  block -> (count, sum)  /   else: both once more, for these blocks

What a target cannot have yet is not judged: numbers above its horizon (the publisher's cursor, or the highest number
that it holds) are `behind`. What a stream has removed by its own limits is `dropped`, and what the local folder no
longer has (copies removed after their upload) is `older`: the store that keeps it stands for the journal there.

Not for: judging the journal itself (`ssmd.quality`), finding targets (`ssmd.cli.verify`).
Invariant: a difference is never hidden by a lack of memory; where too much differs to name it, counts say how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from ssmd.errors import LaggedError
from ssmd.journal.objects import find_objects
from ssmd.journal.pieces import Found, records_in
from ssmd.journal.reader import Reader
from ssmd.middleware.interfaces import Delivery, Start, Storage, Transport
from ssmd.middleware.names import PART_HEADER, ObjectName, object_key, part_id, published
from ssmd.middleware.stored import stored_now

BLOCK: Final = 4096  # numbers that are summed up together
NAMED_BLOCKS: Final = 64  # that are read a second time; beyond, counts must do
LISTED: Final = 20  # ranges of each kind of difference
RECORDS: Final = "records"  # the forms of a stream
BATCHES: Final = "batches"
CHECKPOINT: Final = 10  # the one kind without a number of its own
_MASK: Final = (1 << 64) - 1

# ---- sums ------------------------------------------------------------------------------------------------------------


class Sums:
    """How many records there are and what they hold, per block, in no order.

    The digest is Python's own of bytes (SipHash, keyed anew for each process): two sums are compared in one process.
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

    def add(self, number: int, raw: bytes) -> None:
        if self.limit is not None and number > self.limit:
            return
        block = number // BLOCK if number > self.split else ~(number // BLOCK)
        entry = self.blocks.get(block)
        if entry is None:
            self.blocks[block] = [1, hash(raw)]
        else:
            entry[0] += 1
            entry[1] += hash(raw)
        self.records += 1
        if number > self.highest:
            self.highest = number
        if number < self.lowest or not self.lowest:
            self.lowest = number

    def of(self, block: int) -> tuple[int, int]:
        """Count and sum of a block."""
        count, total = self.blocks.get(block, (0, 0))
        return count, total & _MASK


# ---- what is compared ------------------------------------------------------------------------------------------------

Piece = tuple[str, int, int, bytes]  # form of a message or object, number, kind, the record's bytes


class Source(Protocol):
    """What holds records, to be read as often as needed, each time to its present end."""

    @property
    def name(self) -> str: ...

    @property
    def forms(self) -> Sequence[str]:
        """The forms in which it must hold each record; others that are found are judged as well."""

    @property
    def limit(self) -> int | None:
        """The highest number that it must hold by now; None: the highest one that it does hold."""

    @property
    def keeps_older(self) -> bool:
        """It is where records stay when their local copies are removed."""

    def read(self) -> Iterator[Piece]:
        """Every numbered record, in any order."""

    @property
    def dropping(self) -> bool:
        """Whether it has removed its oldest by limits of its own. Known after a reading."""

    @property
    def faults(self) -> Sequence[str]:
        """What does not check out apart from records, in sentences. Known after a reading."""

    @property
    def remarks(self) -> Sequence[str]:
        """What may explain why records are missing, and is no fault where none are. Known after a reading."""


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
    journal: Callable[[], Iterable[Found]], targets: Sequence[Source], *, first: int, live: bool = False
) -> list[Outcome]:
    """Compares each form of each target with the journal, whose first number is `first`.

    `journal` gives the journal's numbered records, from the beginning, each time that it is called. It is read after
    the targets; `live`: it grows, and may have segments by then that are not given: what a target has beyond its end
    is then no difference.
    """
    held = [(target, form, sums) for target in targets for form, sums in _summed(target, first).items()]
    local = _Local(journal, [_horizon(target, sums) for target, _, sums in held])
    elder = next((sums for target, _, sums in held if target.keeps_older), None)
    newest = local.sums.highest if live else None
    return [_judged(local, target, form, sums, elder, newest) for target, form, sums in held]


def _summed(target: Source, first: int) -> dict[str, Sums]:
    forms = {form: Sums(split=first - 1, limit=target.limit) for form in target.forms}
    for form, number, _, raw in target.read():
        if form not in forms:
            forms[form] = Sums(split=first - 1, limit=target.limit)
        forms[form].add(number, raw)
    return forms or {"": Sums()}


def _horizon(target: Source, sums: Sums) -> int:
    return sums.highest if target.limit is None else target.limit


class _Local:
    """The journal, summed up once; blocks in which a horizon lies are kept record by record."""

    def __init__(self, read: Callable[[], Iterable[Found]], horizons: Iterable[int]) -> None:
        self.read = read
        self.sums = Sums()
        self._edges: dict[int, dict[int, int]] = {horizon // BLOCK: {} for horizon in horizons}
        add, edges = self.sums.add, self._edges
        for number, _, raw in read():
            add(number, raw)
            if number // BLOCK in edges:
                edges[number // BLOCK][number] = hash(raw)

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


def _judged(local: _Local, target: Source, form: str, held: Sums, elder: Sums | None, newest: int | None) -> Outcome:
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
        _look_closely(outcome, local, target, up_to, named, first=held.split + 1)
    _judge_older(outcome, target, held, elder)
    if outcome.missing:
        outcome.faults += target.remarks
    return outcome


def _judge_older(outcome: Outcome, target: Source, held: Sums, elder: Sums | None) -> None:
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
    outcome: Outcome, local: _Local, target: Source, horizon: int, blocks: frozenset[int], *, first: int
) -> None:
    """Names what differs in some blocks."""
    wanted = {n: (hash(raw), kind) for n, kind, raw in local.read() if n // BLOCK in blocks and n <= horizon}
    there: dict[int, list[int]] = {}
    oldest: dict[int, int] = {}  # kind -> lowest number of it that the target has
    for form, number, kind, raw in target.read():
        if form == outcome.form and first <= number <= horizon:
            oldest[kind] = min(number, oldest.get(kind, number))
            if number // BLOCK in blocks:
                there.setdefault(number, []).append(hash(raw))
    for number in sorted(wanted.keys() | there.keys()):
        copies = there.get(number, [])
        if number not in wanted:
            outcome.count("extra", number, len(copies))
        elif not copies:
            # In batches, the oldest span of a stream may have lost some kinds and others not yet.
            gone = target.dropping and number < oldest.get(wanted[number][1], max(oldest.values(), default=0))
            if gone:
                outcome.dropped += 1
            else:
                outcome.count("missing", number)
        elif any(copy != wanted[number][0] for copy in copies):
            outcome.count("different", number)
        else:
            outcome.records += 1
            if len(copies) > 1:
                outcome.count("doubled", number, len(copies) - 1)


# ---- a stream --------------------------------------------------------------------------------------------------------


class Stream:
    """What a publisher put on a bus: one record a message, many of a kind in one, or both."""

    keeps_older = False

    def __init__(
        self,
        name: str,
        transport: Transport,
        *,
        prefix: str,
        journal: str,
        limit: int | None = None,
        forms: Sequence[str] = (),
        place: int = 1,
    ) -> None:
        """`place`: what the stream stores before it is not looked at."""
        self.name = name
        self.forms = tuple(forms)
        self.limit = limit
        self.dropping = False
        self.faults: list[str] = []
        self.remarks: list[str] = []
        self._transport = transport
        self._prefix = prefix
        self._journal = journal
        self._place = place
        self._parts: dict[str, list[bytes]] = {}  # of what is too large for one message, so far

    def read(self) -> Iterator[Piece]:
        """Up to what was stored when the reading began. Messages of other journals are left out."""
        self.faults, self.remarks, self._parts = [], [], {}
        first = True
        start = Start.beginning() if self._place == 1 else Start.number(self._place)
        for delivery in stored_now(self._transport, start, on_lagged=self._lagged):
            if first:
                self.dropping, first = delivery.sequence > self._place, False
            if delivery.message.subject.startswith(f"{self._prefix}."):
                yield from self._records(delivery)

    def _lagged(self, error: LaggedError) -> None:
        if len(self.remarks) < LISTED:
            self.remarks.append(str(error.args[0]))

    def _records(self, delivery: Delivery) -> Iterator[Piece]:
        message = delivery.message
        known = message.message_id or ""
        if not known.startswith(self._journal + ":"):
            return
        payload: bytes | None = message.payload
        if PART_HEADER in message.headers:
            known, payload = self._joined(known, message.headers[PART_HEADER], message.payload)
        if payload is None:
            return
        said = published(message.message_id)
        form = RECORDS if said is None or said.kind is None else BATCHES
        try:
            for number, kind, raw in records_in(payload):
                if said is None or not said.first <= number <= said.last:
                    self._fault(f"message {delivery.sequence} is called {known} and holds record {number}")
                yield form, number, kind, raw
        except ValueError as error:
            self._fault(f"message {delivery.sequence} ({known}): {error}")

    def _joined(self, known: str, part: str, payload: bytes) -> tuple[str, bytes | None]:
        """The id and the payload of what came in parts, which follow each other; None until the last one."""
        place, _, count = part.partition("/")
        whole = known.removesuffix(f".{place}")
        parts = self._parts.setdefault(whole, [])
        if known != part_id(whole, len(parts) + 1):
            if not self.dropping:  # then the parts before it may be gone
                self._fault(f"{known} is not the part that was due: {len(parts) + 1} of {count}")
            return whole, None
        parts.append(payload)
        return whole, b"".join(self._parts.pop(whole)) if place == count else None

    def _fault(self, sentence: str) -> None:
        if len(self.faults) < LISTED:
            self.faults.append(sentence)


# ---- a store ---------------------------------------------------------------------------------------------------------


class Objects:
    """What an archiver put into a store: sealed segments, compressed or not."""

    forms = ("objects",)
    keeps_older = True
    dropping = False
    remarks: tuple[str, ...] = ()

    def __init__(
        self, name: str, storage: Storage, *, prefix: str, feed: str, journal: str, limit: int | None = None
    ) -> None:
        self.name = name
        self.limit = limit
        self.faults: list[str] = []
        self._storage = storage
        somewhere = object_key(ObjectName(prefix, feed, journal, "2000-01-01", "file"))
        self._keys = somewhere.rsplit("/", 2)[0]

    def read(self) -> Iterator[Piece]:
        """Every proved record but checkpoints, object by object."""
        segments, strays = find_objects(self._storage, self.name, self._keys)
        self.faults = [f"{stray.path}: {stray.what}" for stray in strays[:LISTED]]
        for segment in segments:
            reader = Reader([segment])
            for batch in reader.batches(segment):
                for number, kind, raw in records_in(batch.data[batch.start : batch.stop]):
                    if kind != CHECKPOINT:
                        yield "objects", number, kind, raw
            self.faults += [str(damage) for damage in reader.damage[: LISTED - len(self.faults)]]
