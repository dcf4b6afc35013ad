"""The Cache in memory: the reference of the contract, and what serves where there is no Redis.

One ordered dictionary, oldest use first: `get`, `mget` and every set move an entry to its end, and what is beyond
`max_size` leaves at its beginning (`exists` and `scan` only look). An expired entry is one that is not there; its room
is taken back when it is met, or when it has become the oldest of a full cache. Only this process's threads share it.

Invariant: never more than `max_size` entries, and no answer from an entry whose time is over.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from ssmd.errors import UnavailableError
from ssmd.middleware.cache_limits import checked_key, checked_ttl, checked_value

_Entry = tuple[bytes, float | None]  # value, and the instant (of `clock`) from which on it is not there


class MemoryCache:
    """A Cache of at most `max_size` entries. `clock` gives seconds that never go back."""

    def __init__(self, *, max_size: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        if max_size < 1:
            raise ValueError("max_size must be at least 1")
        self._max_size = max_size
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] | None = OrderedDict()  # None: closed
        self._lock = threading.Lock()

    def check(self) -> None:
        with self._lock:
            self._open()

    def get(self, key: str) -> bytes | None:
        return self.mget([key])[0]

    def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        self.mset({key: value}, ttl_s=ttl_s)

    def set_if_absent(self, key: str, value: bytes, *, ttl_s: float | None = None) -> bool:
        checked_key(key)
        checked_value(key, value)
        checked_ttl(ttl_s)
        with self._lock:
            if self._live(key) is not None:
                return False
            self._put(key, value, ttl_s)
            return True

    def delete(self, key: str) -> bool:
        checked_key(key)
        with self._lock:
            there = self._live(key) is not None
            self._open().pop(key, None)
            return there

    def exists(self, key: str) -> bool:
        checked_key(key)
        with self._lock:
            return self._live(key) is not None

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        for key in keys:
            checked_key(key)
        with self._lock:
            entries = self._open()
            found: list[bytes | None] = []
            for key in keys:
                entry = self._live(key)
                if entry is not None:
                    entries.move_to_end(key)
                found.append(entry[0] if entry is not None else None)
            return found

    def mset(self, values: Mapping[str, bytes], *, ttl_s: float | None = None) -> None:
        for key, value in values.items():
            checked_key(key)
            checked_value(key, value)
        checked_ttl(ttl_s)
        with self._lock:
            self._open()
            for key, value in values.items():
                self._put(key, value, ttl_s)

    def scan(self, prefix: str) -> Iterator[str]:
        with self._lock:
            keys = [key for key in self._open() if key.startswith(prefix)]
        for key in keys:
            with self._lock:
                there = self._live(key) is not None
            if there:
                yield key

    def close(self) -> None:
        with self._lock:
            self._entries = None

    # ---- with the lock held ----------------------------------------------------------------------------------------

    def _open(self) -> OrderedDict[str, _Entry]:
        if self._entries is None:
            raise UnavailableError("the cache was closed")
        return self._entries

    def _live(self, key: str) -> _Entry | None:
        entries = self._open()
        entry = entries.get(key)
        if entry is None or entry[1] is None or entry[1] > self._clock():
            return entry
        del entries[key]
        return None

    def _put(self, key: str, value: bytes, ttl_s: float | None) -> None:
        entries = self._open()
        entries[key] = (bytes(value), None if ttl_s is None else self._clock() + ttl_s)
        entries.move_to_end(key)
        if len(entries) > self._max_size:
            entries.popitem(last=False)
