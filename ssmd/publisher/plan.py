"""From batches of a journal to messages: subjects, ids, payloads, cuts. No bus, no clock, no file.

    records   one message a record: {prefix}.{kind}.{market}, id {journal}:{number}, payload = the record's bytes
    batches   one message for up to `batch_records` records of a kind: {prefix}.batch.{kind}, payload = their bytes in a
              row, headers Ssmd-Journal, Ssmd-First, Ssmd-Last, Ssmd-Count, id {journal}:{first}-{last}:{kind}; and
              Ssmd-Before, the record before the group: who must have the order again knows what to wait for
    both      the one and the other
    parts     what is larger than a payload may be: `Ssmd-Part: i/n` and id {id}.{size}.{i}, i from 1; size of each part

A group (what stands between two checkpoints) is cut by itself, so that batches are a function of the journal alone: the
same ids after a crash, whenever they are made. Checkpoints are the file's own and are not published.

Invariant: on each subject messages stand in the order of their records.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ssmd.journal.reader import KIND_NAMES, Batch
from ssmd.middleware import names
from ssmd.middleware.interfaces import Headers, Message
from ssmd.native.columns import Columns

Mode = Literal["records", "batches", "both"]

KNOWN_SUBJECTS = 200_000  # remembered; a market that comes after so many others is looked up again
_NO_HEADERS: Headers = {}
_BOOK, _DELTA = 3, 1


@dataclass(slots=True)
class Work:
    """Messages in the order in which they are published, and what is known when each is confirmed."""

    messages: list[Message] = field(default_factory=list)
    safe: list[int] = field(default_factory=list)  # every record up to here is published when this message is
    recv_ns: list[int] = field(default_factory=list)  # of the message's first record
    records: list[int] = field(default_factory=list)  # that are complete with the message
    covers: int = 0  # every record up to here is published when all messages are
    last: int = 0  # no message holds a record after this one

    def add(self, message: Message, *, safe: int, recv_ns: int, records: int) -> None:
        self.messages.append(message)
        self.safe.append(safe)
        self.recv_ns.append(recv_ns)
        self.records.append(records)

    def extend(self, more: Work) -> None:
        self.messages += more.messages
        self.safe += more.safe
        self.recv_ns += more.recv_ns
        self.records += more.records
        self.covers, self.last = max(self.covers, more.covers), max(self.last, more.last)

    def shed(self, count: int) -> None:
        """The first `count` messages are done with."""
        for column in (self.messages, self.safe, self.recv_ns, self.records):
            del column[:count]

    def without(self, held: Held) -> int:
        """Takes out what is published already; gives how many messages that were."""
        kept = [i for i, message in enumerate(self.messages) if message.message_id not in held.ids]
        taken = len(self.messages) - len(kept)
        if taken:
            self.messages = [self.messages[i] for i in kept]
            self.safe = [self.safe[i] for i in kept]
            self.recv_ns = [self.recv_ns[i] for i in kept]
            self.records = [self.records[i] for i in kept]
        return taken


class Held:
    """What of one journal the bus has beyond a cursor: ids, and for batches the records in them."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.last = 0  # no record after this one is there
        self._numbers: set[int] = set()
        self._ranges: dict[str, list[tuple[int, int]]] = {}  # by kind

    def add(self, message_id: str, what: names.Published) -> None:
        self.ids.add(message_id)
        self.last = max(self.last, what.last)
        if what.part is not None:
            return  # one part is not the record: each is known by its id
        if what.kind is None:
            self._numbers.add(what.first)
        else:
            insort(self._ranges.setdefault(what.kind, []), (what.first, what.last))

    def has_record(self, number: int) -> bool:
        """Whether a record was published by itself."""
        return number in self._numbers

    def in_batch(self, kind: str, number: int) -> bool:
        """Whether a record was published in a batch."""
        ranges = self._ranges.get(kind, [])
        at = bisect_right(ranges, number, key=_first) - 1
        return at >= 0 and ranges[at][1] >= number


def _first(ends: tuple[int, int]) -> int:
    return ends[0]


@dataclass(slots=True)
class _Pending:
    """Records of a kind that are not a message yet."""

    kind: str
    first: int = 0
    last: int = 0
    recv_ns: int = 0
    size_bytes: int = 0
    records: list[bytes] = field(default_factory=list)


class Planner:
    """Plans the messages of one journal. `max_bytes` of a payload may change between two batches."""

    def __init__(self, journal: str, prefix: str, *, mode: Mode = "records", batch_records: int = 256) -> None:
        self.max_bytes = 1 << 20
        self.held: Held | None = None  # what is not to be published again
        self._journal = journal
        self._prefix = prefix
        self._mode = mode
        self._batch_records = batch_records
        self._columns = Columns()
        self._subjects: dict[tuple[int, bytes], str] = {}
        self._kinds: dict[int, str] = {}
        self._before = 0  # number of the record before the group in hand

    def plan(self, batch: Batch, after: int) -> Iterator[Work]:
        """The messages for the records of a batch behind number `after`, a few thousand at a time."""
        if self.held is not None and self.held.last <= after:
            self.held = None
        pending: dict[str, _Pending] = {}
        data, at, stop, offset = batch[:4]
        self._before = max(batch.first_number - 1, 0)
        whole = self._mode != "records"  # then nothing is safe before the group's last message
        last = after
        while at < stop:
            used = self._columns.read(data, at, stop, offset)
            shift = at - offset
            if self._columns.count:  # else it is the checkpoint alone
                last = max(self._columns.number[-1], last)
            work = Work(covers=after if whole else last, last=last)
            if self._mode != "batches":
                self._single(work, data, shift, after, safe=after if whole else None)
            if whole:
                self._gather(work, pending, data, shift, after)
            at += used
            offset += used
            if whole and at >= stop:
                for left in sorted((p for p in pending.values() if p.records), key=lambda p: p.first):
                    self._emit(work, left, after)
                work.covers = max(batch.last_number, last)
            yield work

    def first_recv_ns(self, batch: Batch) -> int:
        """Receive time of the first record of a batch, 0 where it holds none."""
        self._columns.read(batch.data, batch.start, batch.stop, batch.offset)
        return self._columns.recv_ns[0] if self._columns.count else 0

    # ---- one message a record ----------------------------------------------------------------------------------------

    def _single(self, work: Work, data: bytes, shift: int, after: int, *, safe: int | None) -> None:
        columns, held, most = self._columns, self.held, self.max_bytes
        subjects, prefix = self._subjects, f"{self._journal}:"
        numbers = columns.number
        begin = bisect_right(numbers, after)
        messages = work.messages
        rows = zip(
            numbers, columns.offset, columns.length, columns.code, columns.market_at, columns.market_bytes, strict=True
        )
        received = columns.recv_ns
        if begin == 0 and held is None and max(columns.length, default=0) <= most:  # the way of nearly all records
            for number, offset, length, code, market_at, market_bytes in rows:
                at = offset + shift
                market = data[at + market_at : at + market_at + market_bytes] if market_at else b""
                subject = subjects.get((code, market)) or self._subject(code, market)
                messages.append(Message(subject, data[at : at + length], _NO_HEADERS, f"{prefix}{number}"))
            work.safe += numbers if safe is None else [safe] * len(numbers)
            work.recv_ns += received
            work.records += [1] * len(numbers)
            return
        for row, recv_ns in list(zip(rows, received, strict=True))[begin:]:
            number, offset, length, code, market_at, market_bytes = row
            if held is not None and held.has_record(number):
                continue
            at = offset + shift
            market = data[at + market_at : at + market_at + market_bytes] if market_at else b""
            subject = subjects.get((code, market)) or self._subject(code, market)
            message = Message(subject, data[at : at + length], _NO_HEADERS, f"{prefix}{number}")
            if length <= most:
                work.add(message, safe=number if safe is None else safe, recv_ns=recv_ns, records=1)
            else:
                before = number - 1 if safe is None else safe
                self._parts(work, message, before, number if safe is None else safe, recv_ns, 1)

    def _subject(self, code: int, market: bytes) -> str:
        if len(self._subjects) >= KNOWN_SUBJECTS:
            self._subjects.clear()
        made = names.subject(self._prefix, self._kind(code), market.decode("utf-8", "replace"))
        self._subjects[code, market] = made
        return made

    def _kind(self, code: int) -> str:
        known = self._kinds.get(code)
        if known is None:
            kind, sub = code & 0xFFFF, code >> 16
            known = KIND_NAMES[kind] if kind < len(KIND_NAMES) else f"kind_{kind}"
            if kind == _BOOK and sub == _DELTA:
                known = "book_delta"
            self._kinds[code] = known
        return known

    # ---- many records a message --------------------------------------------------------------------------------------

    def _gather(self, work: Work, pending: dict[str, _Pending], data: bytes, shift: int, after: int) -> None:
        columns, held, most, limit = self._columns, self.held, self.max_bytes, self._batch_records
        by_code: dict[int, _Pending] = {}
        rows = zip(columns.number, columns.offset, columns.length, columns.code, columns.recv_ns, strict=True)
        for number, offset, length, code, recv_ns in rows:
            mine = by_code.get(code)
            if mine is None:
                kind = self._kind(code)
                mine = by_code[code] = pending.setdefault(kind, _Pending(kind))
            if number <= after or (held is not None and held.in_batch(mine.kind, number)):
                continue
            records = mine.records
            if records and (len(records) >= limit or mine.size_bytes + length > most):
                self._emit(work, mine, after)
                records = mine.records
            if not records:
                mine.first, mine.recv_ns, mine.size_bytes = number, recv_ns, 0
            at = offset + shift
            records.append(data[at : at + length])
            mine.size_bytes += length
            mine.last = number

    def _emit(self, work: Work, full: _Pending, safe: int) -> None:
        """One message of what is pending of a kind; nothing is pending then."""
        count = len(full.records)
        message = Message(
            names.batch_subject(self._prefix, full.kind),
            b"".join(full.records),
            {
                names.JOURNAL_HEADER: self._journal,
                names.FIRST_HEADER: str(full.first),
                names.LAST_HEADER: str(full.last),
                names.COUNT_HEADER: str(count),
                names.BEFORE_HEADER: str(self._before),
            },
            names.batch_id(self._journal, full.first, full.last, full.kind),
        )
        counted = count if self._mode == "batches" else 0  # in the mode `both` each record counts once
        if full.size_bytes <= self.max_bytes:
            work.add(message, safe=safe, recv_ns=full.recv_ns, records=counted)
        else:
            self._parts(work, message, safe, safe, full.recv_ns, counted)
        full.records = []

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _parts(self, work: Work, whole: Message, before: int, safe: int, recv_ns: int, records: int) -> None:
        """A message that is too large, as several; the record is published with the last of them."""
        size, payload = self.max_bytes, whole.payload
        count = -(-len(payload) // size)
        cut = names.cut_id(str(whole.message_id), size)  # a bus may take less than it did when the first were sent
        for i in range(1, count + 1):
            message_id = names.part_id(cut, i)
            if self.held is not None and message_id in self.held.ids:
                continue
            part = Message(
                whole.subject,
                payload[(i - 1) * size : i * size],
                {**whole.headers, names.PART_HEADER: f"{i}/{count}"},
                message_id,
            )
            last = i == count
            work.add(part, safe=safe if last else before, recv_ns=recv_ns, records=records if last else 0)
