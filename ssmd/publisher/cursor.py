"""Where a publisher is, kept over restarts: `publisher.cursor` in the journal's folder, one JSON object.

    number    every record up to here is on the bus
    sent      nothing after this record was ever sent: equal to `number` after a clean end. Raised before anything
              beyond is sent, so that a start after a crash knows whether the bus may hold more than was confirmed
    sequence  place on the bus: what may be there beyond `number` stands behind it
    newest    the highest place on the bus that is known to hold a message of ours, at `sequence` or behind it: a stream
              that ends before it has lost messages. 0 = not known (cursors of older versions)
    unproved  nothing after this record was sent before a checkpoint proved it (`durable_only: false` does): if the
              journal loses such records, it gives their numbers to no others (ssmd.journal.published)
    created   when the stream was made, in the bus's words: tells it from another one of that name; "" = not known

and whom it is for: the journal, the bus (url, stream, prefix) and what is published. A cursor of something else is
refused, never adapted: the user says what is meant. Written whole or not at all (temporary file, fsync, rename, fsync).

`publisher.lock` beside it is locked by the publisher that works on the journal; there is one.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ssmd.errors import StorageError, UsageError
from ssmd.journal.files import replace_file
from ssmd.journal.published import CURSOR

LOCK = "publisher.lock"
LEFTOVER_S = 6.0  # a publisher that was asked to end has 2
_LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a cursor is for. `url` without user and password."""

    journal: str
    url: str
    stream: str
    prefix: str
    publish: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """See above. `number` 0: nothing is published yet."""

    number: int = 0
    sent: int = 0
    sequence: int = 0
    unproved: int = 0
    created: str = ""
    newest: int = 0

    @property
    def clean(self) -> bool:
        """The bus holds what was confirmed, and nothing beyond."""
        return self.sent <= self.number


def path_of(root: Path) -> Path:
    return root / CURSOR


def load(root: Path, target: Target) -> Cursor | None:
    """The cursor of the journal at `root`, None where there is none. UsageError for another's, or a broken one."""
    path = path_of(root)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    try:
        data = json.loads(text)
        number, sent, sequence = (_count(data[name]) for name in ("number", "sent", "sequence"))
        unproved, newest = (_count(data.get(name, 0)) for name in ("unproved", "newest"))
        cursor = Cursor(number, sent, sequence, unproved, str(data.get("created", "")), newest)
        known = Target(**{name: str(data[name]) for name in asdict(target)})
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path}: this is no cursor of a publisher", hint=how_to_move(cursor=None)) from None
    _refuse_other(path, known, target, cursor)
    return cursor


def _count(value: object) -> int:
    """A number as `save` writes it. ValueError for anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} counts nothing")
    return value


def _refuse_other(path: Path, known: Target, target: Target, cursor: Cursor) -> None:
    if known.journal != target.journal:
        raise UsageError(
            f"{path}: this is the cursor of journal {known.journal}, and the journal here is {target.journal}",
            hint="Was it copied here with other files? " + how_to_move(cursor=None),
        )
    changed = [
        f"{name} {getattr(known, name)!r}, now {getattr(target, name)!r}"
        for name in ("url", "stream", "prefix")
        if getattr(known, name) != getattr(target, name)
    ]
    if changed:
        raise UsageError(
            f"{path}: records up to {cursor.number} were published to another place: {'; '.join(changed)}",
            hint=how_to_move(cursor=cursor),
        )


def how_to_move(*, cursor: Cursor | None) -> str:
    """The remedy: the user says where to go on."""
    text = "Say where to go on: `python -m ssmd.publisher -e ENV --move-to 1` to publish everything that is there"
    if cursor is None:
        return text + "."
    return text + f", `--move-to {cursor.number + 1}` to go on behind what was published."


def save(root: Path, target: Target, cursor: Cursor) -> None:
    """Durable when it returns. StorageError when the disk refuses."""
    try:
        replace_file(path_of(root), (json.dumps(asdict(cursor) | asdict(target), indent=1) + "\n").encode())
    except OSError as error:
        raise StorageError(f"{path_of(root)}: cannot be written: {error.strerror}") from error


@contextmanager
def locked(root: Path, *, patience_s: float = LEFTOVER_S) -> Iterator[None]:
    """The right to publish the journal at `root`. UsageError when another process has it for so long."""
    path = root / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        deadline = time.monotonic() + patience_s
        while not _lock(handle):
            if time.monotonic() > deadline:
                pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise UsageError(
                    f"the journal {root} is being published already, by process {pid}",
                    hint="One publisher is enough for a journal: `ssmd run` starts one itself.",
                )
            time.sleep(_LOOK_AGAIN_S)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
