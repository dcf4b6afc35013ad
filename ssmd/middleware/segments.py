"""The Journal on segment files: what a recorder writes, seen as entries; and a journal of one's own to append to.

    a captured record   topic {kind}.{market}, payload = the record's bytes, no headers, time = received
    an Entry record     topic, headers and payload of its own, time = appended

Reading needs the folder alone: any number of readers, in any process, while somebody records. Writing goes the way of
every record (ring, flusher, checkpoints), through the `Recorder` that `recorder()` opens at the first append: one
writer at a time, or UsageError. Numbers are those of the records. Checkpoints are the file's own and no entries.

Limits: an append waits at most `append_timeout_s`; a payload is at most what the recorder takes. Without
`durable_only`, entries are given as soon as they are written: a power cut may take the last of them back, and then
their numbers are used again (a reader that lives through it is told by DamageError).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from ssmd.errors import DamageError, LaggedError, LimitError, RejectedError, UnavailableError, UsageError
from ssmd.journal.follow import Follower, end_of
from ssmd.journal.paths import Segment, find
from ssmd.journal.reader import KIND_NAMES, Batch, Reader, Record, records_of
from ssmd.middleware.interfaces import Entry, Headers, JournalReader, Start
from ssmd.middleware.journal_limits import checked_headers, checked_topic, wanted
from ssmd.middleware.names import token
from ssmd.native import clock
from ssmd.native.walk import ALL_KINDS, KIND_BITS, Filter, ViewReader

_CHECKPOINT, _ENTRY = KIND_NAMES.index("checkpoint"), KIND_NAMES.index("entry")
_ENTRIES = ALL_KINDS & ~KIND_BITS["checkpoint"]
_LATER = 1 << 63  # kinds of a later schema
_OVERHEAD_BYTES = 1024  # of a record, beside payload, topic and headers
_NAPS_S = (0.001, 0.002, 0.005, 0.01, 0.02)
_STEP_BYTES = 4 << 20
_CLOSE_S = 5.0

T = TypeVar("T")


class Recorder(Protocol):
    """The recording end of a journal: `ssmd.store.Store` is one."""

    @property
    def record_limit_bytes(self) -> int: ...

    def push(self, record: bytes) -> int:
        """The number that the record got, 0 while there is no room."""

    def cursors(self) -> Mapping[str, int]:
        """Last number in the ring, `written` to the files, `durable` on the disk."""

    def close(self, deadline: float) -> bool:
        """Seals what was written until `deadline` (time.monotonic)."""


class SegmentJournal:
    """The journal in the folder `root` (a feed's), which need not exist yet."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        recorder: Callable[[], Recorder] | None = None,
        durable_only: bool = False,
        append_timeout_s: float = 5.0,
    ) -> None:
        self._root = Path(root)
        self._open_recorder = recorder
        self._durable_only = durable_only
        self._append_timeout_s = append_timeout_s
        self._recorder: Recorder | None = None
        self._counted: dict[str, Counter[str]] = {}  # of sealed segments, by their stems
        self._closed = False

    def check(self) -> None:
        self._opened()
        if self._root.exists() and not (self._root.is_dir() and os.access(self._root, os.R_OK | os.X_OK)):
            raise RejectedError(f"{self._root}: no folder that this user may read", hint="check its path and mode")

    def append(self, topic: str, payload: bytes, headers: Headers | None = None) -> int:
        """UsageError where another has this journal, or it was opened for reading only. See Journal."""
        self._opened()
        checked_topic(topic)
        kept = checked_headers(headers)
        recorder = self._writer()
        size = len(payload) + sum(len(name) + len(value) for name, value in kept.items())
        if size > recorder.record_limit_bytes - _OVERHEAD_BYTES - 16 * len(kept):
            raise LimitError(f"an entry of {size} bytes: this journal takes {recorder.record_limit_bytes} a record")
        from ssmd import records

        ticks, now_ns = clock.stamp()
        record = records.entry(topic, payload, kept, recv_ns=now_ns, recv_ticks=ticks)
        deadline = time.monotonic() + self._append_timeout_s
        number = _until(lambda: recorder.push(record), deadline)
        if not number:
            raise UnavailableError(f"{self._root}: the ring is full: what was appended before cannot be written")
        cursor = "durable" if self._durable_only else "written"
        if not _until(lambda: recorder.cursors()[cursor] >= number, deadline):
            raise UnavailableError(
                f"{self._root}: entry {number} waits in the ring: it cannot be written now",
                hint="It is not lost: do not append it again. Free space, or see why the disk does not write.",
            )
        return number

    def topics(self) -> dict[str, int]:
        """Reads every segment once, and again only the one that is still open."""
        self._opened()
        segments = find([self._root], must_exist=False)
        counts = {segment.stem: self._counted.get(segment.stem) or _topics_of(segment) for segment in segments}
        self._counted = {segment.stem: counts[segment.stem] for segment in segments if segment.sealed}
        return dict(sum(counts.values(), Counter()))

    def end(self) -> int | None:
        """Reads the newest segment through."""
        self._opened()
        return end_of(find([self._root], must_exist=False))

    def reader(self, start: Start, *, topics: Sequence[str] = ()) -> JournalReader:
        self._opened()
        return _Reader(self._root, start, tuple(topics), durable_only=self._durable_only, opened=self._opened)

    def close(self) -> None:
        recorder, self._recorder, self._closed = self._recorder, None, True
        if recorder is not None:
            recorder.close(time.monotonic() + _CLOSE_S)

    def _writer(self) -> Recorder:
        if self._recorder is None:
            if self._open_recorder is None:
                raise UsageError(
                    f"{self._root}: this journal was opened for reading", hint="its entries are what `ssmd run` records"
                )
            self._recorder = self._open_recorder()
        return self._recorder

    def _opened(self) -> None:
        if self._closed:
            raise UnavailableError("this journal was closed")


class _Reader:
    """One reader: a Follower, and the batch in hand."""

    def __init__(
        self, root: Path, start: Start, topics: tuple[str, ...], *, durable_only: bool, opened: Callable[[], None]
    ) -> None:
        self._root = root
        self._topics = topics
        self._durable_only = durable_only
        self._journal_opened = opened
        self._views = ViewReader(Filter(kinds=_kinds_of(topics)))
        self._follower: Follower | None = None
        self.seek(start)

    def seek(self, start: Start) -> None:
        self._journal_opened()
        if self._follower is not None:
            self._follower.close()
        self._follower = Follower([self._root], start=start, proved_only=self._durable_only, limit_bytes=_STEP_BYTES)
        self._batches: Iterator[tuple[Segment, Batch]] = iter(())
        self._records: Iterator[Record] = iter(())
        self._held: tuple[Segment, Batch] | None = None
        self._last = 0  # number of the last entry that was read, 0 = none yet
        self._told = 0  # damage
        self._damaged = False  # since the last batch

    def next(self, timeout_s: float = 0.0) -> Entry | None:
        deadline = time.monotonic() + timeout_s
        return _until(self._take, deadline)

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def _take(self) -> Entry | None:
        self._journal_opened()
        if self._follower is None:
            raise UnavailableError("this reader was closed")
        while True:
            for record in self._records:
                entry = self._entry(record)
                if entry is not None:
                    return entry
            if self._held is None:
                self._held = next(self._batches, None)
                if self._held is None:
                    self._batches = self._follower.batches()
                    self._held = next(self._batches, None)
            self._tell(self._follower)
            if self._held is None:
                return None
            (segment, batch), self._held = self._held, None
            self._last = batch.last_number
            self._records = records_of(segment, batch, self._views)

    def _tell(self, follower: Follower) -> None:
        """Raises what lies between the last batch and the one in hand: once, then reading goes on behind it."""
        if self._told < len(follower.damage):
            damage = follower.damage[self._told]
            self._told += 1
            self._damaged = True
            raise DamageError(str(damage))
        if self._held is None:
            return
        before, expected = self._held[1].before, self._last + 1
        damaged, self._damaged = self._damaged, False
        if self._last and before >= expected:
            self._last = before
            why = "are damaged" if damaged else "were removed before they were read"
            raise LaggedError(f"{self._root}: entries {expected} to {before} {why}", missed=before - expected + 1)

    def _entry(self, record: Record) -> Entry | None:
        """The record as an entry; None where it lies before the start, or is of another topic."""
        view = record.view
        if self._follower is not None and view.number < self._follower.first(self._root):
            return None
        return entry_of(record, self._topics)


def entry_of(record: Record, topics: tuple[str, ...] = ()) -> Entry | None:
    """A record as an entry, or None where its topic is none of these patterns."""
    view = record.view
    if view.kind != _ENTRY:
        topic = f"{record.kind}.{token(record.market)}"
        return Entry(view.number, topic, record.raw, {}, view.recv_ns) if wanted(topics, topic) else None
    from ssmd import records

    body = record.read().body.entry
    topic = body.topic or f"entry.{token(None)}"
    if not wanted(topics, topic):
        return None
    return Entry(view.number, topic, bytes(body.payload), records.headers_of(record.read()), view.recv_ns)


def _kinds_of(topics: tuple[str, ...]) -> int:
    """The kinds of record that can have one of these topics; an Entry can have any."""
    words = {pattern.partition(".")[0] for pattern in topics}
    if not topics or words & {"*", ">"}:
        return _ENTRIES
    mask = KIND_BITS["entry"]
    for word in words:
        mask |= KIND_BITS.get(word, _LATER if word.startswith("kind_") else 0)
    return mask & _ENTRIES


def _topics_of(segment: Segment) -> Counter[str]:
    found = (entry_of(record) for record in Reader([segment], Filter(kinds=_ENTRIES)))
    return Counter(entry.topic for entry in found if entry is not None)


def _until(attempt: Callable[[], T], deadline: float) -> T:
    """What `attempt` gives as soon as it is something, or what it gives at the deadline."""
    for nap_s in _naps():
        value = attempt()
        left_s = deadline - time.monotonic()
        if value or left_s <= 0:
            return value
        time.sleep(min(nap_s, left_s))
    raise AssertionError("naps have no end")


def _naps() -> Iterator[float]:
    yield from _NAPS_S
    while True:
        yield _NAPS_S[-1]
