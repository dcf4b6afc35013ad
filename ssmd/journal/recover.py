"""Mends a journal whose ring is gone (reboot, power cut): the files alone decide.

Called by the connector before it makes a new ring. Every segment that is still `.open` keeps its bytes up to the
last checkpoint that proves itself; what follows is set aside as `….capnp.cut` beside it (stored bytes are never
deleted), a final checkpoint is appended and the segment is sealed. Damage before that checkpoint stays where it is:
readers go on behind it, and no number that was given behind it comes a second time. Sealed segments are never changed.
What was cut or is damaged is reported, so that the connector can write a Gap record for it.

Each step is done so that a crash after it, or in it, leaves something that the same steps finish:

    state on disk after a crash                  what the next run does
    tail still in the file, no .cut              copies it out, goes on
    tail in the file, same bytes in .cut         goes on at the truncation
    cut at the last good checkpoint              appends the final checkpoint
    part of the final checkpoint appended        recognises it (its bytes are known beforehand), writes it again
    final checkpoint there, still named .open    renames
    renamed                                      nothing

A sealed segment can be damaged too, by the disk. Then the number of the last record that was ever given is not
known; it is taken so high that no number can come twice (the lost bytes hold at most one record per 104).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssmd.errors import StorageError
from ssmd.journal.files import replace_file, sync_folder
from ssmd.journal.paths import CUT, SEALED, Segment, State, find
from ssmd.journal.reader import Damage, SegmentReader
from ssmd.native.flusher import journal_lock
from ssmd.native.walk import Mark, crc32c

SMALLEST_RECORD_BYTES = 104  # framing, root pointer, Record, and a body of one word
_MOST_COMPRESSION = 1024  # bytes of journal from one byte of a compressed segment: far more than was ever seen


@dataclass(frozen=True, slots=True)
class Cut:
    """Stored bytes that are no longer part of the journal."""

    segment: Path  # the sealed segment, or the whole file where nothing of it was good
    offset: int  # where it was cut, or where a sealed segment is damaged
    bytes: int
    what: str
    kept: Path | None  # where the bytes are now; None: still in place (sealed segments are not touched)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Where a new run goes on. All zeros and clean for a journal without records."""

    last_number: int = 0
    last_recv_ns: int = 0
    max_connection: int = 0
    clean: bool = True  # the last record says that a run stopped as asked, and nothing was cut
    cut: tuple[Cut, ...] = ()
    withheld: tuple[int, int] | None = None  # numbers that are not given, for they are on a bus with lost records
    lost_since_ns: int = 0  # receive time of the last record before what is cut and withheld, 0: `last_recv_ns`


def recover(
    root: Path,
    *,
    step: Callable[[str], None] = lambda name: None,
    before_cut: Callable[[Cut], None] = lambda cut: None,
) -> Recovery:
    """Seals what a crash left open in the journal at `root` (a feed's folder) and says where to go on.

    Running it again changes nothing. `step` is called before each change to the disk with its name (tests stop there).
    `before_cut` is called before bytes leave the journal: no later run finds them. After a crash it may be called with
    the same once more.
    InUseError while a flusher is alive on it, whatever its ring; StorageError when the disk refuses.
    """
    if not root.is_dir():
        return Recovery()
    cut: list[Cut] = []
    try:
        with journal_lock(root):
            for segment in find([root]):
                if segment.state == State.OPEN:
                    cut += _seal(segment, step, before_cut)
    except OSError as error:
        raise StorageError(f"{root}: cannot be recovered: {error}", hint="free space or mend the disk first") from error
    mark, damaged = _last_mark(find([root], must_exist=False))
    return Recovery(
        mark.last_number, mark.last_recv_ns, mark.max_connection, mark.clean and not cut, tuple(cut + damaged)
    )


def _last_mark(segments: list[Segment]) -> tuple[Mark, list[Cut]]:
    """The end of the newest segment that holds something, and what is damaged in it."""
    for segment in reversed(segments):
        end = _scan(segment)
        if end.what is not None:
            mark, beyond = _beyond(segment, end)
            return mark, [*_inside(segment, end), *beyond]
        if end.good.last_number:
            return end.good, _inside(segment, end)
    return Mark(clean=True), []


def _inside(segment: Segment, end: _End) -> list[Cut]:
    """Damage that stays in place: later checkpoints prove what is behind it."""
    return [
        Cut(segment.path, d.lost_from or 0, (d.lost_to or 0) - (d.lost_from or 0), d.what, None) for d in end.losses
    ]


def _beyond(segment: Segment, end: _End) -> tuple[Mark, list[Cut]]:
    """A mark no lower than the true end of a damaged sealed segment."""
    lost = max(end.size_bytes - end.good.offset, 0)
    base = max(end.good.last_number, segment.first_number - 1)
    more = lost // SMALLEST_RECORD_BYTES + 1
    mark = end.good._replace(last_number=base + more, max_connection=end.good.max_connection + more, clean=False)
    return mark, [Cut(segment.path, end.good.offset, lost, end.what or "", None)]


@dataclass(frozen=True, slots=True)
class _End:
    good: Mark
    final: bool
    size_bytes: int  # of the segment before compression; a generous guess where it does not decompress to its end
    what: str | None  # what is wrong behind `good`
    losses: tuple[Damage, ...]  # what is wrong before it


def _scan(segment: Segment) -> _End:
    reader = SegmentReader(segment, resync=True)
    try:
        size = 0
        while (batch := reader.poll() or reader.finish()) is not None and batch.proved:
            size = batch.offset + batch.stop - batch.start
        if segment.state != State.COMPRESSED:
            size = reader.source.size_bytes()
        elif reader.damage is not None:
            size += _MOST_COMPRESSION * reader.source.size_bytes()
        what = None if reader.damage is None else reader.damage.what
        return _End(reader.walk.good, reader.walk.final, size, what, tuple(reader.losses))
    finally:
        reader.close()


# ---- sealing an open segment -----------------------------------------------------------------------------------


def _seal(segment: Segment, step: Callable[[str], None], before_cut: Callable[[Cut], None]) -> list[Cut]:
    end = _scan(segment)
    good = end.good
    if good.offset == 0:
        return _set_aside(segment, end, step, before_cut)
    sealed = segment.beside(SEALED)
    cut: list[Cut] = []
    with segment.path.open("r+b") as file:
        file.seek(good.offset)
        tail = file.read()
        if tail and (end.final or not final_checkpoint(good).startswith(tail)):
            kept = _keep(segment, tail, step)
            what = end.what or "no checkpoint proves what follows"
            cut.append(Cut(sealed, good.offset, len(tail), what, kept))
            before_cut(cut[0])
        if tail:
            step("truncate")
            file.truncate(good.offset)
            os.fsync(file.fileno())
        else:
            file.truncate(good.offset)  # what the flusher had set aside behind the end goes back
        if not end.final:
            step("append")
            file.seek(good.offset)
            file.write(final_checkpoint(good))
            file.flush()
            os.fsync(file.fileno())
    step("rename")
    segment.path.rename(sealed)
    sync_folder(sealed.parent)
    return cut


def _set_aside(
    segment: Segment, end: _End, step: Callable[[str], None], before_cut: Callable[[Cut], None]
) -> list[Cut]:
    """Nothing in it is good: the file as a whole leaves the journal."""
    if end.size_bytes == 0:
        step("remove")
        segment.path.unlink()
        sync_folder(segment.path.parent)
        return []
    kept = _free_name(segment)
    cut = Cut(segment.path, 0, end.size_bytes, end.what or "it has no checkpoint", kept)
    before_cut(cut)
    step("rename")
    segment.path.rename(kept)
    sync_folder(kept.parent)
    return [cut]


def _keep(segment: Segment, tail: bytes, step: Callable[[str], None]) -> Path:
    """Writes the tail beside the segment, unless an earlier run did."""
    for known in segment.path.parent.glob(f"{segment.stem}{CUT}*"):
        if known.stat().st_size == len(tail) and known.read_bytes() == tail:
            return known
    kept = _free_name(segment)
    step("keep")
    replace_file(kept, tail)
    return kept


def _free_name(segment: Segment) -> Path:
    """….capnp.cut, or with a number behind it where an earlier crash left one."""
    name = segment.beside(CUT)
    count = 1
    while name.exists():
        count += 1
        name = segment.beside(f"{CUT}.{count}")
    return name


# The layout of a Checkpoint record to the byte: framing, root pointer, Record (8 words, 2 pointers), Checkpoint.
_CHECKPOINT = struct.Struct("<IIQ QqQqqIIQH6x QQ IIQQQ?7x")
_KIND_CHECKPOINT = 10


def final_checkpoint(good: Mark) -> bytes:
    """The record that seals a segment right behind its last good checkpoint: it covers nothing but itself."""
    fields = [0, _CHECKPOINT.size // 8 - 1, _struct_pointer(0, 8, 2)]
    fields += [good.last_number, good.last_recv_ns, 0, 0, 0, 0, 0, 0, _KIND_CHECKPOINT]
    fields += [0, _struct_pointer(0, 5, 0)]
    covered = [good.max_connection, _CHECKPOINT.size, good.offset, good.records, True]
    crc = crc32c(_CHECKPOINT.pack(*fields, 0, *covered))
    return _CHECKPOINT.pack(*fields, crc, *covered)


def _struct_pointer(offset: int, data_words: int, pointers: int) -> int:
    return offset << 2 | data_words << 32 | pointers << 48
