"""Storage in the memory of this process: the reference of the contract suite, and the store of a rehearsal.

Lost with the process; never blocks. `max_bytes` of all objects together: one that would go beyond it is a LimitError,
and changes nothing. What is deleted makes room again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator

from ssmd.errors import ConflictError, LimitError, MissingObjectError, UnavailableError
from ssmd.middleware.interfaces import ObjectInfo
from ssmd.middleware.keys import checked_key


class MemoryStorage:
    """`Storage` (ssmd.middleware.interfaces) as a dictionary under a lock. `max_bytes` 0: no limit."""

    def __init__(self, *, max_bytes: int = 0) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._closed = False

    def check(self, *, writable: bool = True) -> None:
        self._opened()

    def put(self, key: str, data: bytes | Iterator[bytes], *, if_absent: bool = False) -> ObjectInfo:
        checked_key(key)
        self._opened()
        whole = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        etag = hashlib.md5(whole, usedforsecurity=False).hexdigest()
        with self._lock:
            if if_absent and key in self._objects:
                raise ConflictError(f"{key}: there is an object of this key already")
            before = self._objects.get(key)
            held_bytes = self._held_bytes + len(whole) - (len(before[1]) if before is not None else 0)
            if self._max_bytes and held_bytes > self._max_bytes:
                raise LimitError(
                    f"{key}: with its {len(whole)} bytes this storage would hold more than the {self._max_bytes} bytes "
                    "that it may"
                )
            info = ObjectInfo(key, len(whole), etag, time.time_ns())
            self._objects[key], self._held_bytes = (info, whole), held_bytes
        return info

    def get(self, key: str) -> bytes:
        return self._found(key)[1]

    def range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError(f"a range from {start} of {length} bytes")
        return self._found(key)[1][start : start + length]

    def stream(self, key: str, *, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        whole = self._found(key)[1]
        for at in range(0, len(whole), chunk_bytes):
            yield whole[at : at + chunk_bytes]

    def head(self, key: str) -> ObjectInfo:
        return self._found(key)[0]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._opened()
        with self._lock:
            found = [info for key, (info, _) in self._objects.items() if key.startswith(prefix)]
        return iter(sorted(found, key=lambda info: info.key.encode()))

    def delete(self, key: str) -> None:
        checked_key(key)
        self._opened()
        with self._lock:
            gone = self._objects.pop(key, None)
            self._held_bytes -= len(gone[1]) if gone is not None else 0

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._objects.clear()
            self._held_bytes = 0

    def _opened(self) -> None:
        if self._closed:
            raise UnavailableError("this storage was closed")

    def _found(self, key: str) -> tuple[ObjectInfo, bytes]:
        checked_key(key)
        self._opened()
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise MissingObjectError(f"{key}: there is no object of this key")
        return found
