"""Storage in the memory of this process: the reference of the contract suite. Lost with the process; never blocks."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator

from ssmd.errors import ConflictError, MissingObjectError, UnavailableError
from ssmd.middleware.interfaces import ObjectInfo
from ssmd.middleware.keys import checked_key


class MemoryStorage:
    """`Storage` (ssmd.middleware.interfaces) as a dictionary under a lock."""

    def __init__(self) -> None:
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
            info = ObjectInfo(key, len(whole), etag, time.time_ns())
            self._objects[key] = (info, whole)
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
            self._objects.pop(key, None)

    def close(self) -> None:
        self._closed = True
        self._objects.clear()

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
