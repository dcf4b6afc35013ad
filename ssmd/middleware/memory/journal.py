"""The Journal in memory: the reference of the contract suite (tests/contract/test_journal_contract.py).

A rehearsal keeps in it what comes from the bus, until that was compared.

A list under a lock. `max_entries` stands for retention: the oldest leave, and a reader that had not come so far is
told. Lives and dies with its process; any thread may call, each reader belongs to one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from ssmd.errors import LaggedError, LimitError, UnavailableError
from ssmd.middleware.interfaces import Entry, Headers, JournalReader, Start
from ssmd.middleware.journal_limits import checked_headers, checked_topic, wanted


class MemoryJournal:
    """A Journal of at most `max_entries` (0: no limit). `clock_ns` gives UTC nanoseconds."""

    def __init__(
        self,
        *,
        max_entries: int = 0,
        max_payload_bytes: int = 1 << 20,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._last = 0
        self._max_entries = max_entries
        self._max_payload_bytes = max_payload_bytes
        self._clock_ns = clock_ns
        self._closed = False

    def check(self) -> None:
        with self._changed:
            self._opened()

    def append(self, topic: str, payload: bytes, headers: Headers | None = None) -> int:
        checked_topic(topic)
        kept = checked_headers(headers)
        if len(payload) > self._max_payload_bytes:
            raise LimitError(f"an entry of {len(payload)} bytes: this journal takes {self._max_payload_bytes}")
        with self._changed:
            self._opened()
            self._last += 1
            self._entries.append(Entry(self._last, topic, bytes(payload), kept, self._clock_ns()))
            if self._max_entries and len(self._entries) > self._max_entries:
                self._entries.popleft()
            self._changed.notify_all()
            return self._last

    def forget(self, before: int) -> None:
        """Removes the entries below a number, as retention does."""
        with self._changed:
            while self._entries and self._entries[0].number < before:
                self._entries.popleft()

    def topics(self) -> dict[str, int]:
        with self._changed:
            self._opened()
            return dict(Counter(entry.topic for entry in self._entries))

    def end(self) -> int | None:
        with self._changed:
            self._opened()
            return self._last or None

    def reader(self, start: Start, *, topics: Sequence[str] = ()) -> JournalReader:
        with self._changed:
            self._opened()
        return _Reader(self, start, tuple(topics))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._entries.clear()
            self._changed.notify_all()

    # ---- with the lock held ------------------------------------------------------------------------------------------

    def _opened(self) -> None:
        if self._closed:
            raise UnavailableError("this journal was closed")

    def _first(self) -> int:
        """Number of the oldest entry, or of the next one where there is none."""
        return self._entries[0].number if self._entries else self._last + 1

    def _place(self, start: Start) -> int:
        if start.at == "number":
            return max(start.value, 1)
        if start.at == "time":
            return next((entry.number for entry in self._entries if entry.time_ns >= start.value), self._last + 1)
        return self._last + 1 if start.at == "end" else self._first()


class _Reader:
    """Where one reader is: the next number, and the time it waits for where the start was one in the future."""

    def __init__(self, journal: MemoryJournal, start: Start, topics: tuple[str, ...]) -> None:
        self._journal = journal
        self._topics = topics
        self._closed = False
        self.seek(start)

    def seek(self, start: Start) -> None:
        with self._journal._changed:
            self._opened()
            self._next = self._journal._place(start)
            self._from_ns = start.value if start.at == "time" else 0
            self._begins = True  # what is gone before the first entry was not missed

    def next(self, timeout_s: float = 0.0) -> Entry | None:
        journal, deadline = self._journal, time.monotonic() + timeout_s
        with journal._changed:
            while True:
                self._opened()
                entry = self._take()
                wait_s = deadline - time.monotonic()
                if entry is not None or wait_s <= 0:
                    return entry
                journal._changed.wait(wait_s)

    def close(self) -> None:
        self._closed = True

    def _opened(self) -> None:
        self._journal._opened()
        if self._closed:
            raise UnavailableError("this reader was closed")

    def _take(self) -> Entry | None:
        journal = self._journal
        first = journal._first()
        if self._next < first:
            missed, self._next = first - self._next, first
            if not self._begins:
                raise LaggedError(
                    f"entries {first - missed} to {first - 1} were removed before they were read", missed=missed
                )
        while self._next <= journal._last:
            entry = journal._entries[self._next - first]
            self._next += 1
            self._begins = False
            if entry.time_ns >= self._from_ns:
                self._from_ns = 0
                if wanted(self._topics, entry.topic):
                    return entry
        return None
