"""The flusher in Python: stepping it, or running it on a native thread. The door to csrc/flusher.c.

`Flusher` is for tests and tools that want one step at a time. `FlusherThread` is what a recorder uses: a C thread
that never touches Python, so that neither the GIL nor gevent's hub can hold it up. Stopping is by polling: no
call here waits longer than a poll, whatever the disk does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any, Self

from ssmd._native import ffi, lib
from ssmd.errors import SsmdError
from ssmd.native.failure import EMPTY, OK, failure, new_error
from ssmd.native.ring import FlusherStatus, flusher_status
from ssmd.schedule import DayTable

MIB = 1024 * 1024


class Stop(IntEnum):
    """How a running flusher ends."""

    DRAIN = 1  # write what is in the ring, make it durable, leave the segment open
    SEAL = 2  # the same, and seal it
    NOW = 3  # after the step in hand; the ring keeps the rest


class SegmentForm(IntEnum):
    """The three names a segment can have."""

    OPEN = 0
    SEALED = 1
    ZST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FlusherOptions:
    """What a flusher needs to know; `root` is the journal's folder (`{storage}/{feed}`), made if it is not there."""

    root: str | os.PathLike[str]
    sync_interval_ms: int = 200
    sync_bytes: int = 8 * MIB
    rotate_minutes: int = 60  # 0 = only where a day ends
    rotate_bytes: int = 256 * MIB  # 0 = no limit
    nap_us: int = 1000  # pause when there is nothing to write; 50 to 100 for low latency
    days: DayTable | None = None  # None = days of UTC
    forget_segment: bool = False  # the open segment was recovered from the file: go on in a new one


def segment_path(
    root: str | os.PathLike[str], *, day: int, start_ns: int, first_number: int, form: SegmentForm = SegmentForm.OPEN
) -> str:
    """The file of a segment, by the function that names them (csrc/segment.c)."""
    path = ffi.new("char[4096]")
    if lib.ssmd_segment_path(os.fsencode(root), day, start_ns, first_number, int(form), path, 4096) != OK:
        raise ValueError(f"no segment name for day {day} in {os.fspath(root)}")
    return os.fsdecode(ffi.string(path))


@contextmanager
def journal_lock(root: str | os.PathLike[str]) -> Iterator[None]:
    """The right to change the files of the journal at `root`, which a flusher has too. Raises InUseError."""
    lock, error = ffi.new("int *"), new_error()
    status = lib.ssmd_journal_lock(os.fsencode(root), lock, error)
    if status != OK:
        raise failure(status, error, os.fspath(root))
    try:
        yield
    finally:
        lib.ssmd_journal_unlock(lock[0])


class Flusher:
    """The consumer of a ring and the writer of its journal, driven by the caller."""

    def __init__(self, handle: Any, ring_path: str, root: str) -> None:
        self._handle = handle
        self.ring_path = ring_path
        self.root = root

    @classmethod
    def open(cls, ring_path: str | os.PathLike[str], options: FlusherOptions) -> Self:
        """Attaches to an existing ring and brings the open segment to what was committed.

        Raises `InUseError` (another flusher has the ring or the folder), `MissingError`, `StaleError`,
        `DamageError` (the segment has fewer or other bytes than were committed; nothing was changed), `UsageError`
        and `StorageError`.
        """
        path, root = os.fspath(ring_path), os.fspath(options.root)
        raw = ffi.new("ssmd_flusher_options *")
        keep = [ffi.new("char[]", os.fsencode(root))]
        raw.root = keep[0]
        raw.sync_interval_ms = options.sync_interval_ms
        raw.sync_bytes = options.sync_bytes
        raw.rotate_minutes = options.rotate_minutes
        raw.rotate_bytes = options.rotate_bytes
        raw.nap_us = options.nap_us
        raw.forget_segment = int(options.forget_segment)
        if options.days is not None:
            keep.append(ffi.new("int64_t[]", options.days.starts_ns))
            raw.day_start_ns = keep[-1]
            keep.append(ffi.new("uint32_t[]", options.days.days))
            raw.day = keep[-1]
            raw.days = len(options.days.days)
        handle, error = ffi.new("ssmd_flusher **"), new_error()
        status = lib.ssmd_flusher_open(os.fsencode(path), raw, handle, error)
        if status != OK:
            raise failure(status, error, path if _about_ring(error) else root)
        return cls(handle[0], path, root)

    @property
    def handle(self) -> Any:
        """The `ssmd_flusher *`."""
        if self._handle is None:
            raise ValueError(f"{self.ring_path}: the flusher is closed")
        return self._handle

    def step(self) -> bool:
        """One bounded piece of work; False = there was nothing to write. Raises what failed: call again later."""
        status = lib.ssmd_flusher_step(self.handle)
        if status < 0:
            raise self._fault(status)
        return bool(status != EMPTY)

    def drain(self) -> None:
        """Writes all that is in the ring (not synced: see `finish`)."""
        status = lib.ssmd_flusher_drain(self.handle)
        if status < 0:
            raise self._fault(status)

    def finish(self, *, seal: bool) -> None:
        """Makes durable what was written, and seals the segment if asked."""
        status = lib.ssmd_flusher_finish(self.handle, seal)
        if status < 0:
            raise self._fault(status)

    def status(self) -> FlusherStatus:
        """The status line of its ring."""
        raw = ffi.new("ssmd_flusher_status *")
        lib.ssmd_flusher_status_load(self.handle, raw)
        return flusher_status(raw)

    def close(self, *, seal: bool = False) -> None:
        """Drains, syncs, seals if asked, and leaves the ring. Twice does no harm."""
        if self._handle is None:
            return
        try:
            self.drain()
            self.finish(seal=seal)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leaves ring and files as they are; the next flusher goes on from there."""
        if self._handle is not None:
            lib.ssmd_flusher_close(self._handle)
            self._handle = None

    def _fault(self, status: int) -> SsmdError:
        error = new_error()
        lib.ssmd_flusher_fault(self.handle, error)
        return failure(status, error, self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


class FlusherThread:
    """A flusher on a native thread of this process."""

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher
        self._joined = False
        self._result = OK
        self._last: FlusherStatus | None = None

    @classmethod
    def start(cls, ring_path: str | os.PathLike[str], options: FlusherOptions) -> Self:
        """Opens (see `Flusher.open` for what it raises) and starts."""
        flusher = Flusher.open(ring_path, options)
        error = new_error()
        status = lib.ssmd_flusher_start(flusher.handle, error)
        if status != OK:
            flusher.abandon()
            raise failure(status, error, os.fspath(ring_path))
        return cls(flusher)

    @property
    def alive(self) -> bool:
        """Does the thread run?"""
        return not self._joined and not lib.ssmd_flusher_finished(self._flusher.handle)

    def status(self) -> FlusherStatus:
        """How it fares: read from the ring, so that it is also there while the disk hangs. Afterwards: how it ended."""
        return self._flusher.status() if self._last is None else self._last

    def request_stop(self, kind: Stop = Stop.SEAL) -> None:
        """Asks; comes back at once. Poll `finished`. May be sharpened later (SEAL, then NOW)."""
        if not self._joined:
            lib.ssmd_flusher_request_stop(self._flusher.handle, int(kind))

    def finished(self) -> bool:
        """True once it ended; ring and folder are free then. Never waits."""
        if self.alive:
            return False
        if not self._joined:
            self._result = lib.ssmd_flusher_join(self._flusher.handle)  # it has ended: no wait
            self._joined = True
            self._last = self._flusher.status()
            self._flusher.abandon()
        return True

    @property
    def drained(self) -> bool:
        """After the end: did it write and sync all that it was asked to?"""
        return self._joined and bool(self._result == OK)

    def stop(self, timeout_s: float, *, seal: bool = True, sleep: Callable[[float], None] | None = None) -> bool:
        """Asks it to drain (and seal), waits by short sleeps, True once it ended.

        False: not within `timeout_s`, typically because the disk is full or hangs; it keeps trying. `time.sleep`
        as it is at the call is used, so that greenlets run meanwhile where gevent has patched it.
        """
        self.request_stop(Stop.SEAL if seal else Stop.DRAIN)
        return self.wait(timeout_s, sleep=sleep)

    def wait(self, timeout_s: float, *, sleep: Callable[[float], None] | None = None) -> bool:
        """Waits by short sleeps for the end that was asked for; False = not within `timeout_s`."""
        pause = time.sleep if sleep is None else sleep
        end = time.monotonic() + timeout_s
        while not self.finished():
            if time.monotonic() >= end:
                return False
            pause(0.002)
        return True


def _about_ring(error: Any) -> bool:
    """Failures of opening that are about the ring file rather than about the data folder."""
    what = ffi.string(error.what).decode()
    return what in {
        "open", "stat", "read", "lock", "mmap", "magic", "version", "file size", "capacity", "boot id", "consumer",
        "positions", "committed position in the ring",
    }  # fmt: skip
