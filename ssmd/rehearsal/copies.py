"""What a rehearsal compares, and what it measures on the way: the stream, what a consumer made of it, the objects.

`ssmd.against` compares whole journals; here it is given pieces: the records up to a number, or one segment. What a
piece came to is told in sentences that name records. Not for: when to compare (`ssmd.rehearsal`).

Invariant: nothing is measured twice, and every size is that of a message or object that was there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ssmd.against import Outcome
from ssmd.consumer import BusTail, TailRecord
from ssmd.copies import BATCHES, RECORDS, Chunk, sums_of
from ssmd.errors import LaggedError, SsmdError
from ssmd.journal.pieces import records_in
from ssmd.middleware import names
from ssmd.middleware.interfaces import Cache, Headers, Journal, Message, Start, Transport

FORMS: Final = {"records": (RECORDS,), "batches": (BATCHES,), "both": (RECORDS, BATCHES)}
NUMBER_HEADER: Final = "Ssmd-Number"
ID_HEADER: Final = "Ssmd-Id"
STEPS_AT_ONCE: Final = 8  # of the consumer, a thousand deliveries each
KEYS_AT_ONCE: Final = 1000
NAMED: Final = 5  # ranges of records in a sentence


def header_bytes(message: Message) -> int:
    """What NATS sends before the payload: its version line, the message id and the headers, an empty line."""
    size = len(b"NATS/1.0\r\n\r\n")
    if message.message_id is not None:
        size += len("Nats-Msg-Id: \r\n") + len(message.message_id)
    return size + sum(len(name) + len(value) + 4 for name, value in message.headers.items())


class Places:
    """Where records stand: the places of what holds them, and the last record of each, in rising order."""

    def __init__(self) -> None:
        self._ends: deque[tuple[int, int]] = deque()
        self._last = 0

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, place: int, number: int) -> None:
        """At this place stands something whose last record is `number`."""
        self._ends.append((place, number))
        self._last = place

    def behind(self, number: int) -> int:
        """The first place that holds a later record; those before it are given up."""
        while self._ends and self._ends[0][1] <= number:
            self._ends.popleft()
        return self._ends[0][0] if self._ends else self._last + 1


class Meter:
    """Reads all that is on the bus, and measures it."""

    def __init__(self, bus: Transport, pattern: str) -> None:
        self.counters: Counter[str] = Counter()
        self.largest_bytes = 0  # of a message: payload and headers
        self.places = Places()  # in the stream
        self._subscription = bus.subscribe(pattern, start=Start.beginning())

    def read(self) -> None:
        """Everything that is there now."""
        while True:
            try:
                delivery = self._subscription.next(0.0)
            except LaggedError:
                continue  # the comparison says what that means
            if delivery is None:
                return
            what = names.published(delivery.message.message_id)
            if what is not None:
                self.places.add(delivery.sequence, what.last)
                self._measure(delivery.message, what)

    def _measure(self, message: Message, what: names.Published) -> None:
        form = RECORDS if what.kind is None else BATCHES
        size = len(message.payload) + header_bytes(message)
        counters = self.counters
        counters[f"{form}_messages"] += 1
        counters[f"{form}_bytes"] += size
        counters[f"{form}_subject_bytes"] += len(message.subject.encode())
        counters["parts"] += what.part is not None
        self.largest_bytes = max(self.largest_bytes, size)


class Consumer:
    """Takes records from the bus as any program does, and keeps each in a journal until it was compared."""

    def __init__(self, tail: BusTail, kept: Journal, *, prefix: str, on_trouble: Callable[[SsmdError], None]) -> None:
        self.received = 0  # the highest number that came
        self.compared = 0  # what comes later is too late: it was told as missing
        self.markets = Markets()
        self.places = Places()  # in the journal
        self._tail, self._kept, self._prefix, self._on_trouble = tail, kept, prefix, on_trouble

    def step(self) -> bool:
        """Keeps what came by now, a bounded piece of it; False: nothing did."""
        worked = False
        for _ in range(STEPS_AT_ONCE):
            given = list(self._tail.step(0.0))
            for item in given:
                if not isinstance(item, TailRecord):
                    self._on_trouble(item)
                elif item.number > self.compared:
                    self._keep(item)
            if not given:
                break
            worked = True
        return worked

    def _keep(self, record: TailRecord) -> None:
        market = record.market
        if market is not None:
            self.markets.see(market)
        subject = names.subject(self._prefix, record.kind, market)
        headers: Headers = {
            names.JOURNAL_HEADER: record.journal,
            NUMBER_HEADER: str(record.number),
            ID_HEADER: names.message_id(record.journal, record.number),
        }
        self.places.add(self._kept.append(subject, record.raw, headers), record.number)
        self.received = max(self.received, record.number)

    def close(self) -> None:
        self._tail.close()


class Markets:
    """Which names became others in subjects, and which share one."""

    def __init__(self) -> None:
        self.changed = 0
        self.shared = 0  # whose word in subjects another has already
        self._words: dict[str, str] = {}  # word -> the first market that it stands for
        self._seen: set[str] = set()

    def see(self, market: str) -> None:
        if market in self._seen:
            return
        self._seen.add(market)
        word = names.token(market)
        self.changed += word != market
        self.shared += self._words.setdefault(word, market) != market

    def __len__(self) -> int:
        return len(self._seen)


class Kept:
    """What the consumer kept, as something to compare (`ssmd.copies.Source`): entries from `first` on."""

    name = "what a consumer of the stream received"
    forms = ("kept",)
    keeps_older = False
    dropping = False
    remarks: tuple[str, ...] = ()

    def __init__(self, kept: Journal, first: int, *, journal: str, limit: int) -> None:
        self.limit: int | None = limit
        self.faults: list[str] = []
        self._kept, self._first, self._journal = kept, first, journal

    def read(self) -> Iterator[Chunk]:
        """Each entry's record. An entry that is not what its headers say is a fault."""
        self.faults = []
        reader = self._kept.reader(Start.number(self._first))
        try:
            while (entry := reader.next()) is not None:
                for number, _, _ in records_in(entry.payload):
                    said = {names.JOURNAL_HEADER: self._journal, NUMBER_HEADER: str(number)}
                    if not said.items() <= dict(entry.headers).items():
                        self.faults.append(f"entry {entry.number} holds record {number}, and its headers say otherwise")
                yield Chunk("kept", entry.payload, sums_of(entry.payload))
        finally:
            reader.close()


def differences(outcome: Outcome) -> list[tuple[int, str]]:
    """What is not as it should be: of how many records, and in a sentence that names the first of them."""
    where = f"{outcome.target}{f' ({outcome.form})' if outcome.form in FORMS['both'] else ''}"
    found = []
    for kind, words in (
        ("missing", "missing"),
        ("different", "different"),
        ("doubled", "there twice"),
        ("extra", "not in the journal"),
        ("dropped", "gone before it was compared"),
        ("behind", "missing at the end"),
        ("older", "there again, after it was compared"),
    ):
        count = getattr(outcome, kind)
        if count:
            found.append((count, f"{where}: {_numbers(outcome.ranges.get(kind, []), count)}: {words}"))
    return found + [(1, fault) for fault in outcome.faults]


def _numbers(ranges: Sequence[Sequence[int]], count: int) -> str:
    """record 7 · records 7, 9 to 12 · records 7, 9, 11, 13, 15 and 20 more · 25 records"""
    first = ranges[:NAMED]
    if not first:
        return f"{count:,} records"
    rest = count - sum(last - number + 1 for number, last in first)
    named = ", ".join(str(number) if number == last else f"{number} to {last}" for number, last in first)
    return f"record{'' if count == 1 else 's'} {named}" + (f" and {rest:,} more" if rest > 0 else "")


def cache_contents(cache: Cache) -> tuple[int, int]:
    """How many keys a cache holds, and the bytes of keys and values."""
    keys = list(cache.scan(""))
    size = 0
    for i in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[i : i + KEYS_AT_ONCE]
        size += sum(len(key.encode()) + len(value or b"") for key, value in zip(some, cache.mget(some), strict=True))
    return len(keys), size
