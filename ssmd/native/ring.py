"""The ring in Python: opening, making anew, looking. The door to csrc/ring.c.

The hot path does not pass here: the decoder writes and the flusher reads in C, through `Ring.handle`.
Roles, results and the header are described in csrc/ring.h and docs/ring.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from enum import IntEnum
from types import TracebackType
from typing import Any, Self

from ssmd._native import ffi, lib
from ssmd.errors import StorageError
from ssmd.native.failure import DAMAGED, EMPTY, FULL, OK, TOO_LARGE, failure, new_error, status_text

DEFAULT_BYTES = 4 * 1024 * 1024
MIN_BYTES = 64 * 1024


class Role(IntEnum):
    """What an opener does. One producer and one consumer at most; observers are free and write nothing."""

    OBSERVER = 0
    PRODUCER = 1
    CONSUMER = 2


class FlusherState(IntEnum):
    """How the flusher of a ring fares."""

    NONE = 0  # there never was one
    STARTING = 1
    RUNNING = 2
    STALLED = 3  # an operation fails: data stays in the ring, and it is tried again
    STOPPED = 4  # ended as asked


@dataclass(frozen=True, slots=True)
class Commit:
    """What the segment files hold already (`ssmd_commit` in csrc/ring.h)."""

    generation: int = 0
    position: int = 0
    last_number: int = 0
    last_recv_ns: int = 0
    segment_first: int = 0
    segment_start_ns: int = 0
    segment_offset: int = 0
    segment_records: int = 0
    checkpoint_offset: int = 0
    durable_number: int = 0
    crc32c: int = 0
    max_connection: int = 0
    clean: int = 0
    segment_day: int = 0


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a new producer goes on: the last number in use, and what else must not go back."""

    last_number: int = 0
    last_recv_ns: int = 0
    max_connection: int = 0
    clean: bool = True  # the last record is ConnectionEvent `stopped`, or there is none at all


@dataclass(frozen=True, slots=True)
class FlusherStatus:
    """The status line of a ring; counters run since the ring was made."""

    state: FlusherState
    status: int  # ssmd_status of the present error, 0 = none
    sys_errno: int  # its errno, 0 = none
    what: str  # what fails, "" = nothing
    error_since_ns: int  # UTC, 0 = no error
    heartbeat_ns: int  # UTC of the last step
    pid: int  # of the flusher, also after its end
    written_bytes: int
    written_records: int
    segments_sealed: int
    syncs: int
    longest_sync_ns: int
    errors: int
    losses: int  # times that the folder or the open segment was deleted or replaced under the flusher
    lost_first: int  # records that went with it the last time, 0 = none
    lost_last: int
    lost_since_ns: int  # receive time of the first of them

    @property
    def error(self) -> str:
        """The present error in words, "" = none."""
        if self.status == OK:
            return ""
        return f"{self.what}: {os.strerror(self.sys_errno) if self.sys_errno else status_text(self.status)}"


def flusher_status(raw: Any) -> FlusherStatus:
    """From an `ssmd_flusher_status *`."""
    values: dict[str, Any] = {field.name: int(getattr(raw, field.name)) for field in fields(FlusherStatus)}
    values["state"] = FlusherState(raw.state)
    values["what"] = ffi.string(lib.ssmd_flusher_what_text(raw.what)).decode()
    return FlusherStatus(**values)


class Ring:
    """One opening of a ring file, in one role. Closing it ends the role."""

    def __init__(self, handle: Any, path: str, role: Role) -> None:
        self._handle = handle
        self.path = path
        self.role = role

    @classmethod
    def open(cls, path: str | os.PathLike[str], capacity: int = 0, *, role: Role, create: bool = True) -> Self:
        """Attaches; makes the file first where there is none (`create`, never for an observer).

        `capacity` 0: that of the file, or 4 MiB for a new one. Raises `StaleError` for a ring of another boot,
        `InUseError` where the role is taken, `MissingError`, `UsageError` and `StorageError`.
        """
        name = os.fspath(path)
        handle, error = ffi.new("ssmd_ring **"), new_error()
        function = lib.ssmd_ring_open if create else lib.ssmd_ring_attach
        status = function(os.fsencode(name), capacity, int(role), handle, error)
        if status != OK:
            raise failure(status, error, name)
        return cls(handle[0], name, role)

    @staticmethod
    def create(path: str | os.PathLike[str], capacity: int = 0, resume: Resume | None = None) -> None:
        """Makes the file anew and empty; `resume` says where the journal stands (None: it has no records).

        Raises `InUseError` while a producer or a consumer lives.
        """
        name = os.fspath(path)
        first, error = ffi.NULL, new_error()
        if resume is not None:
            first = ffi.new("ssmd_commit *")
            first.last_number = resume.last_number
            first.last_recv_ns = resume.last_recv_ns
            first.max_connection = resume.max_connection
            first.clean = int(resume.clean)
        status = lib.ssmd_ring_create(os.fsencode(name), capacity, first, error)
        if status != OK:
            raise failure(status, error, name)

    @property
    def handle(self) -> Any:
        """The `ssmd_ring *`, for C functions that write or read records."""
        if self._handle is None:
            raise ValueError(f"{self.path}: the ring is closed")
        return self._handle

    @property
    def capacity(self) -> int:
        """Bytes of data that fit."""
        return int(lib.ssmd_ring_capacity(self.handle))

    @property
    def limit(self) -> int:
        """Bytes of the largest record: half the capacity."""
        return int(lib.ssmd_ring_limit(self.handle))

    @property
    def head(self) -> int:
        """Position after the last published byte."""
        return int(lib.ssmd_ring_head(self.handle))

    @property
    def tail(self) -> int:
        """Position after the last released byte."""
        return int(lib.ssmd_ring_tail(self.handle))

    def owner(self, role: Role) -> int:
        """pid of the living owner of the role; 0 = nobody, -1 = somebody whose pid is not known."""
        return int(lib.ssmd_ring_owner(self.handle, int(role)))

    def commit(self) -> Commit:
        """The last commit of the consumer; all zeros where there was none."""
        raw = ffi.new("ssmd_commit *")
        lib.ssmd_ring_commit_load(self.handle, raw)
        return Commit(**{field.name: int(getattr(raw, field.name)) for field in fields(Commit)})

    def resume(self) -> Resume:
        """Where a new producer goes on: walks what is not committed yet. Raises `DamageError`."""
        raw = ffi.new("ssmd_resume *")
        status = lib.ssmd_ring_resume(self.handle, raw)
        if status == DAMAGED:
            error = new_error()
            error.what = b"the ring does not hold whole records"
            raise failure(status, error, self.path)
        return Resume(raw.last_number, raw.last_recv_ns, raw.max_connection, bool(raw.clean))

    def status(self) -> FlusherStatus:
        """How the flusher of this ring fares."""
        raw = ffi.new("ssmd_flusher_status *")
        lib.ssmd_ring_status(self.handle, raw)
        return flusher_status(raw)

    def store_clock(self, *, ticks: int, wall_ns: int, ns_per_tick_q32: int, source: int, uncertainty_ns: int) -> None:
        """Puts a clock anchor into the ring's header, where every program that attaches finds it. Producer only."""
        raw = ffi.new("ssmd_clock_anchor *")
        raw.ticks, raw.wall_ns, raw.ns_per_tick_q32 = ticks, wall_ns, ns_per_tick_q32
        raw.source, raw.uncertainty_ns = source, uncertainty_ns
        lib.ssmd_ring_clock_store(self.handle, raw)

    def push(self, record: bytes) -> bool:
        """Publishes one record as it is, or says that the ring is full. For tests; numbers are the caller's."""
        status = lib.ssmd_ring_push(self.handle, record, len(record))
        if status == TOO_LARGE:
            raise ValueError(f"a record of {len(record)} bytes, the limit of this ring is {self.limit}")
        if status not in (OK, FULL):
            raise ValueError(f"cannot push {len(record)} bytes: {status_text(status)}")
        return bool(status == OK)

    def peek(self) -> bytes:
        """A copy of all published bytes after the tail. For tests; the flusher reads in C."""
        at, n = ffi.new("const uint8_t **"), ffi.new("uint64_t *")
        status = lib.ssmd_ring_peek(self.handle, at, n)
        if status not in (OK, EMPTY):
            raise StorageError(f"{self.path}: cannot read: {status_text(status)}")
        return bytes(ffi.buffer(at[0], n[0]))

    def release(self, n: int) -> None:
        """Gives n bytes back to the producer. For tests."""
        lib.ssmd_ring_release(self.handle, n)

    def close(self) -> None:
        """Leaves the ring; the role is free again. Twice does no harm."""
        if self._handle is not None:
            lib.ssmd_ring_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._handle is None:
            return f"<Ring {self.path} {self.role.name.lower()} closed>"
        return f"<Ring {self.path} {self.role.name.lower()} {self.tail}..{self.head} of {self.capacity}>"
