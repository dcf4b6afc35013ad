"""Copies of a journal to compare it with: what a stream of a bus holds, what a store holds, as rows of records.

Read as often as needed, each time to the present end. Records come as their bytes, many in a row, with what they sum up
to (`ssmd.native.sums`): whoever compares looks at one record only where sums differ.

Not for: comparing (`ssmd.against`), nor for finding what a URL names (`ssmd.cli.against`).
Invariant: what a message or an object holds is given whole, or told as a fault.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from ssmd.errors import LaggedError, UsageError
from ssmd.journal.objects import find_objects
from ssmd.journal.reader import Reader
from ssmd.middleware.interfaces import Delivery, Message, Start, Storage, Transport
from ssmd.middleware.names import (
    PART_HEADER,
    ObjectName,
    message_id,
    object_key,
    object_name,
    part_id,
    published,
    token,
)
from ssmd.middleware.stored import stored_now
from ssmd.native.sums import Sum, Sums

BLOCK: Final = 4096  # numbers that are summed up together
LISTED: Final = 20  # faults, and ranges of each kind of difference
TOGETHER: Final = 256  # messages of one record that are summed up at once
RECORDS: Final = "records"  # the forms of a stream
BATCHES: Final = "batches"
OBJECTS: Final = "objects"  # that of a store
LEAST_WORDS: Final = 9  # of a record: its kind lies in the last of them
_HEAD: Final = struct.Struct("<II8xQ")  # segments less one, words, number: where csrc/ssmd.h puts them


class Chunk(NamedTuple):
    """Whole records in a row, and their sums."""

    form: str  # of the message or object
    data: bytes
    sums: Sequence[Sum]


_sums = Sums(BLOCK)


def sums_of(data: bytes) -> list[Sum]:
    """Sums of the numbered records in `data`. ValueError where no whole record begins."""
    return _sums.of(data)


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

    def read(self) -> Iterator[Chunk]:
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

    def read(self) -> Iterator[Chunk]:
        """Up to what was stored when the reading began. Messages of other journals are left out."""
        self.faults, self.remarks, self._parts = [], [], {}
        first, singles, begins = True, list[bytes](), f"{self._prefix}."
        start = Start.beginning() if self._place == 1 else Start.number(self._place)
        for delivery in stored_now(self._transport, start, on_lagged=self._lagged):
            if first:
                self.dropping, first = delivery.sequence > self._place, False
            message = delivery.message
            if not message.subject.startswith(begins):
                continue
            single = self._is_single(message)
            if single:
                singles.append(message.payload)
                if len(singles) < TOGETHER:
                    continue
            if singles:
                yield self._chunk(RECORDS, b"".join(singles))
                singles.clear()
            if not single:
                yield from self._records(delivery)
        if singles:
            yield self._chunk(RECORDS, b"".join(singles))

    def _is_single(self, message: Message) -> bool:
        """Whether it is one whole record of our journal, under its own name: most are, and need no closer look."""
        payload = message.payload
        if message.headers or len(payload) < _HEAD.size:
            return False
        others, words, number = _HEAD.unpack_from(payload)
        return (
            not others
            and len(payload) == 8 + 8 * words
            and words >= LEAST_WORDS
            and message.message_id == message_id(self._journal, number)
        )

    def _chunk(self, form: str, data: bytes) -> Chunk:
        sums = sums_of(data)
        if _sums.checkpoints:
            self._fault(f"{_sums.checkpoints} checkpoints, which are not published, are among the messages")
        return Chunk(form, data, sums)

    def _lagged(self, error: LaggedError) -> None:
        if len(self.remarks) < LISTED:
            self.remarks.append(str(error.args[0]))

    def _records(self, delivery: Delivery) -> Iterator[Chunk]:
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
            chunk = self._chunk(form, payload)
        except ValueError as error:
            self._fault(f"message {delivery.sequence} ({known}): {error}")
            return
        first, last = (said.first, said.last) if said is not None else (1, 0)
        for row in chunk.sums:
            if row.lowest < first or row.highest > last:
                stray = row.lowest if not first <= row.lowest <= last else row.highest
                self._fault(f"message {delivery.sequence} is called {known} and holds record {stray}")
        yield chunk

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


def folder_key(prefix: str, feed: str, journal: str) -> str:
    """What the keys of a journal's objects begin with."""
    return object_key(ObjectName(prefix, feed, journal, "2000-01-01", "file")).rsplit("/", 2)[0]


def prefixes_of(storage: Storage, below: str, feed: str, journal: str) -> list[str]:
    """The prefixes at, above or below a key under which a store holds a journal; [] where it holds nothing of it.

    A key that names the feed or the journal itself is that of its prefix; UsageError for one of a part of the journal.
    """
    names = [name for name in below.split("/") if name]
    if journal in names:
        place = names.index(journal)
        if len(names) > place + 1:
            whole = "/".join(names[: place + 1])
            raise UsageError(f"{below} is a part of the journal {journal}", hint=f"compare with all of it: {whole}")
        names = names[:place]
    own = "/".join(names)
    if next(storage.list(folder_key(own, feed, journal) + "/"), None) is not None:
        return [own]
    found = (object_name(info.key) for info in storage.list(f"{own}/" if own else ""))
    ours = {name.prefix for name in found if name is not None and (name.feed, name.journal) == (token(feed), journal)}
    return sorted(ours)


class Objects:
    """What an archiver put into a store: sealed segments, compressed or not."""

    forms = (OBJECTS,)
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
        self._keys = folder_key(prefix, feed, journal)

    def read(self) -> Iterator[Chunk]:
        """Every proved record but checkpoints, object by object."""
        segments, strays = find_objects(self._storage, self.name, self._keys)
        self.faults = [f"{stray.path}: {stray.what}" for stray in strays[:LISTED]]
        for segment in segments:
            reader = Reader([segment])
            for batch in reader.batches(segment):
                data = batch.data[batch.start : batch.stop]
                yield Chunk(OBJECTS, data, sums_of(data))
            self.faults += [str(damage) for damage in reader.damage[: LISTED - len(self.faults)]]
