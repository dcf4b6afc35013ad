"""From `ssmd_status` and `ssmd_error` of the C library to the errors of ssmd.

One table says whose fault each is: what the user can mend is a `UsageError` with the remedy, what the machine did
is a `StorageError`, bytes that do not check out are a `DamageError`. Callers that must tell cases apart
(recovery, waiting for a ring) catch the narrow classes below. Facts: csrc/ssmd.h, csrc/ring.h.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from ssmd._native import ffi, lib
from ssmd.errors import DamageError, SsmdError, StorageError, UsageError

OK, FULL, EMPTY, MORE = 0, 1, 2, 3
TOO_LARGE, BAD_MAGIC, BAD_VERSION, BAD_SIZE, BUSY, IO = -1, -2, -3, -4, -5, -6
NO_MEMORY, INVALID, PROTOCOL, DAMAGED, STALE = -7, -8, -9, -10, -11

# Failures of a system call that the user can mend: a path or a permission, not a disk.
_USER_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


class InUseError(UsageError):
    """Another living process (or another part of this one) holds this role; `pid` 0 = not known."""

    def __init__(self, message: str, *, pid: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class MissingError(UsageError):
    """There is no such ring."""


class StaleError(StorageError):
    """The ring was made before the last boot: what it holds cannot be trusted, the segment files decide."""


def new_error() -> Any:
    """An `ssmd_error` for a call to fill."""
    return ffi.new("ssmd_error *")


def status_text(status: int) -> str:
    """The C library's words for a status."""
    return _text(lib.ssmd_status_text(status))


def failure(status: int, error: Any, path: str) -> SsmdError:
    """The exception for `status` on the ring or journal at `path`; `error` is what the call filled in."""
    what = _text(error.what)
    value, expected = int(error.value), int(error.expected)
    match status:
        case s if s == BUSY:
            owner = f"process {value}" if value else "another process"
            return InUseError(
                f"{path}: in use: {owner} is its {what.removesuffix(' of the data folder')}",
                pid=value,
                hint="Stop that process first, or give this one a ring and a data folder of its own.",
            )
        case s if s == BAD_MAGIC:
            return UsageError(f"{path}: this is not a ring of ssmd", hint="Name another path, or remove the file.")
        case s if s == BAD_VERSION:
            return UsageError(
                f"{path}: a ring of version {value}, this ssmd knows version {expected}",
                hint="Let the ssmd that made it drain it, then remove the file.",
            )
        case s if s == BAD_SIZE and what == "file size":
            return DamageError(f"{path}: the ring was cut short: found {value} bytes, expected {expected}")
        case s if s == BAD_SIZE:
            return UsageError(
                f"{path}: wrong {what}: found {value} bytes, expected {expected}",
                hint="Use the size that the ring has, or drain and remove the ring first.",
            )
        case s if s == STALE:
            return StaleError(
                f"{path}: the ring was left over from before the last boot",
                hint="The journal's files say where to go on; the recorder makes the ring anew from them.",
            )
        case s if s == DAMAGED:
            return DamageError(f"{path}: {what}: found {value}, expected {expected}")
        case s if s == IO:
            return _system_failure(int(error.sys_errno), what, path)
    return StorageError(f"{path}: {what}: {status_text(status)}")


def _system_failure(code: int, what: str, path: str) -> SsmdError:
    message = f"{path}: {what}: {os.strerror(code)}"
    if code == errno.ENOENT and what == "open":
        return MissingError(message, hint="Start the recorder that makes it, or check the path.")
    if code in _USER_ERRNOS:
        return UsageError(message, hint="Check that the path exists and that this user may write there.")
    return StorageError(message)


def _text(cdata: Any) -> str:
    raw = ffi.string(cdata)
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
