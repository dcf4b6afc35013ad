"""Reads journals: segments in order, batches as far as they are proved, records as far as they are wanted.

For: programs that read what is stored (cat, verify, export ...). Not for: waiting for more (`follow`), mending
(`recover`). Invariant: a record of a sealed segment is given out only after the checkpoint behind it has proved its
batch; of an open segment also the whole, valid records behind the last checkpoint, its normal tail. Damage never
raises: it is listed in `damage`, what it spoils is left out, and reading goes on at the next batch of the segment that
a checkpoint proves, or with the next segment.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ssmd.journal.paths import Segment, State
from ssmd.journal.source import CHUNK_BYTES, KIND_AT, NUMBER_AT, CompressionError, GoneError, SegmentSource
from ssmd.native.failure import DAMAGED, OK
from ssmd.native.walk import (
    FAULT_CRC,
    FAULT_INCOMPLETE,
    FAULT_UNSEALED,
    Filter,
    Mark,
    View,
    ViewReader,
    Walk,
    fault_text,
)

KIND_NAMES = (
    "unparsed",
    "trade",
    "ticker",
    "book_snapshot",
    "status",
    "index",
    "control",
    "gap",
    "connection",
    "clock",
    "checkpoint",
    "entry",
)
_BOOK = 3
_CHECKPOINT = (10).to_bytes(2, "little")
_SKIP_MARGIN_NS = 60 * 1_000_000_000  # wall clocks step: no segment is skipped by time closer than this
_HALF_WRITTEN_S = 0.05  # one write of the flusher is on its way for less than this
_SEARCH_BYTES = (
    64 * 1024 * 1024
)  # most that is held while a batch is looked for that proves itself; batches are smaller


@dataclass(frozen=True, slots=True)
class Damage:
    """Stored bytes that do not check out. Offsets are the segment's, of a compressed one those before compression."""

    segment: Path
    offset: int  # where it is wrong
    what: str
    lost_from: int | None = None  # what was left out, where that is known
    lost_to: int | None = None
    lost_records: int | None = None

    def __str__(self) -> str:
        return f"{self.segment}: offset {self.offset}: {self.what}"


def lost(from_offset: int, to_offset: int, records: int | None = None) -> str:
    """What was left out, in words."""
    text = f"bytes {from_offset} to {to_offset} ({to_offset - from_offset}) are left out"
    if records is not None:
        text += f", {records} record{'' if records == 1 else 's'} in them"
    return text


class Batch(NamedTuple):
    """Whole, valid records: data[start:stop], which begins at `offset` of its segment."""

    data: bytes
    start: int
    stop: int
    offset: int
    proved: bool  # a checkpoint vouches for it; False only in the tail of an open segment
    last_number: int = 0  # of its last record (a checkpoint carries that of the record before it)

    @property
    def first_number(self) -> int:
        """Number of its first record."""
        at = self.start + NUMBER_AT
        return int.from_bytes(self.data[at : at + 8], "little")

    @property
    def before(self) -> int:
        """Number of the record that stands before it in a whole journal."""
        at = self.start + KIND_AT
        return self.first_number - (self.data[at : at + 2] != _CHECKPOINT)

    @property
    def size_bytes(self) -> int:
        return self.stop - self.start


class Record:
    """One record of a journal. The body is decoded when it is asked for, not before."""

    __slots__ = ("_at", "_data", "segment", "view")

    def __init__(self, segment: Segment | None, view: View, data: bytes, at: int) -> None:
        self.segment = segment  # None: it did not come from a file
        self.view = view
        self._data = data
        self._at = at

    @property
    def raw(self) -> bytes:
        """The record's own bytes: one Cap'n Proto message."""
        return self._data[self._at : self._at + self.view.length]

    @property
    def frame(self) -> bytes | None:
        """The exchange's bytes, or None where the record has none."""
        view = self.view
        start = self._at + view.frame_at
        return self._data[start : start + view.frame_bytes] if view.frame_at else None

    @property
    def market(self) -> str | None:
        view = self.view
        start = self._at + view.market_at
        return self._data[start : start + view.market_bytes].decode("utf-8", "replace") if view.market_at else None

    @property
    def kind(self) -> str:
        return kind_name(self.view)

    def read(self) -> Any:
        """The pycapnp reader of the whole record (`ssmd.records.read`)."""
        from ssmd import records  # pycapnp costs 50 ms at start: only who looks inside pays

        return records.read(self.raw, checked=True)

    def json(self) -> dict[str, Any]:
        """The object that `ssmd cat --format json` prints."""
        from ssmd import records

        return records.to_json(records.read(self.raw, checked=True))

    def __repr__(self) -> str:
        v = self.view
        return f"<Record {v.number} {self.kind} connection={v.connection} sid={v.sid} seq={v.seq} at {v.offset}>"


def kind_name(view: View) -> str:
    """The kind as the tools name it; kinds of a later schema are `kind_N`."""
    if view.kind == _BOOK and view.sub == 1:
        return "book_delta"
    return KIND_NAMES[view.kind] if view.kind < len(KIND_NAMES) else f"kind_{view.kind}"


@dataclass(slots=True)
class _Search:
    """On the way from damage to the next batch that proves itself."""

    offset: int  # where it is wrong
    what: str
    before: Mark  # the end of what was proved
    begin: int  # behind `before` where the unproved was given too
    place: int  # looked at up to here


class SegmentReader:
    """Batches of one segment. `poll` until None, then `finish`; or, on a growing file, `poll` again later.

    `resync`: after damage go on at the next batch that proves itself, with what was left out in `losses`; `damage` is
    what ends the reading, as without it. An open segment may bring that batch later: `poll` looks for it. `finish` and
    `poll` again after a proved batch from `finish` (`rest` does).

    `groups`: each batch is what stands between two checkpoints, the second one included, and of a file that is still
    open only what is on the disk for good, so that no power cut takes back what was given.
    """

    def __init__(self, segment: Segment, *, live: bool = False, groups: bool = False, resync: bool = False) -> None:
        self.source = SegmentSource(segment)
        self.segment = self.source.segment
        self.walk = Walk()
        self.damage: Damage | None = None
        self.losses: list[Damage] = []
        self._resync = resync
        self._sought: _Search | None = None
        self._live = live and not groups
        self._groups = groups
        self._synced = 0  # offset up to which an open file is known to be on the disk
        self._data = b""  # bytes that were read; those from _start on were not given out
        self._start = 0
        self._given = 0  # offset of the first of them

    def close(self) -> None:
        self.source.close()

    def poll(self) -> Batch | None:
        """The next batch, None when there is none now. A live reader is also given the unproved tail."""
        if self._sought is not None and not self._seek(self._sought):
            return None
        while self.damage is None and self._sought is None:
            losses = len(self.losses)
            batch = self._proved()
            if batch is not None:
                return batch
            if len(self.losses) == losses and (self.damage is not None or self._sought or not self._more()):
                break
        sound = self.damage is None and self._sought is None
        return self._give(self.walk.offset, proved=False) if self._live and sound else None

    def finish(self, sealed: bool | None = None) -> Batch | None:
        """No more bytes will come: the unproved tail of an open segment if there is one, and the judgement."""
        if self.damage is not None:
            return None
        sealed = self.segment.sealed if sealed is None else sealed
        left, whole = self.left, self.walk.offset
        if self._sought is not None:
            if self._seek(self._sought):
                return self.poll()
            self._give_up(self._sought)
            return None
        if self.walk.end(left, sealed) == DAMAGED:
            self._fault(left)
            if self._sought is not None:
                self._give_up(self._sought)
            if self.damage is None:  # there is more behind it
                return self.poll()
        if sealed or self._groups or self._given != self.walk.good_offset:
            return None
        return self._give(whole, proved=False, keep=True)

    def rest(self, sealed: bool | None = None) -> Iterator[Batch]:
        """`finish`, and what follows a batch that was found behind damage. The unproved tail is the last, if any."""
        while (batch := self.finish(sealed)) is not None:
            yield batch
            if not batch.proved:
                return
            while (batch := self.poll()) is not None:
                yield batch

    @property
    def searching(self) -> bool:
        """Damage was found, and nothing behind it that proves itself yet."""
        return self._sought is not None

    @property
    def left(self) -> int:
        """Bytes that were read behind the last whole record."""
        return self.seen - self.walk.offset

    @property
    def seen(self) -> int:
        """Offset up to which it was read."""
        return self._given + len(self._data) - self._start

    def retreat(self) -> None:
        """Back to the last good checkpoint: the file was cut there."""
        self.walk.rewind()
        self._sought = None
        self._data, self._start = b"", 0
        self._given = self.walk.good_offset
        self.source.seek(self._given)

    def _more(self) -> bool:
        """Reads a chunk; False when there is nothing to read now."""
        rest = len(self._data) - self._start
        try:
            chunk = self.source.read(max(CHUNK_BYTES, rest))
        except CompressionError as error:
            self._damaged(self.walk.good_offset, str(error))
            return False
        if chunk:
            self._data = self._data[self._start :] + chunk if rest else chunk
            self._start = 0
        return bool(chunk)

    def _proved(self) -> Batch | None:
        """What checkpoints prove of the bytes that were read: all of it, or one group."""
        status = OK
        while status == OK and not (self._groups and self.walk.good_offset > self._given):
            status = self.walk.next(self._data, self._start + self.walk.offset - self._given)
        if status == DAMAGED and self._read_anew():
            return self._proved()
        if self._groups and self.walk.good_offset > self._synced:
            self._sync()
        batch = self._give(self.walk.good_offset, proved=True)
        if status == DAMAGED and batch is None:  # else what is before it is given first
            self._fault(0)
        return batch

    def _read_anew(self) -> bool:
        """Whether a fault was in what we had read, and is no longer in the file.

        On a full disk a write ends in the middle, and when there is room again something else may be written there:
        what was given before that point is the same, the rest is read again.
        """
        if self.segment.state != State.OPEN:
            return False
        good = self.walk.good_offset
        known = self._data[max(self._start, self._start + good - self._given) :]
        self.source.seek(good)
        data = b""
        wanted = max(good, self._given) - good + len(known)
        while len(data) < wanted and (chunk := self.source.read(CHUNK_BYTES)):
            data += chunk
        start = max(self._given - good, 0)
        changed = data[start : start + len(known)] != known
        if self._given < good:  # a proved batch that was not given yet stays in front
            data = self._data[self._start : self._start + good - self._given] + data
            start = 0
        self._data, self._start = data, start
        if changed:
            self.walk.rewind()
        return changed

    def _sync(self) -> None:
        """A checkpoint is written before it is synced: what was read of an open file may not be on the disk yet."""
        read = self.seen
        if not self.segment.sealed:
            self.source.sync()
        self._synced = read

    def _give(self, to: int, *, proved: bool, keep: bool = False) -> Batch | None:
        n = to - self._given
        if n <= 0:
            return None
        mark = self.walk.good if proved else self.walk.at
        batch = Batch(self._data, self._start, self._start + n, self._given, proved, mark.last_number)
        if not keep:
            self._start += n
            self._given = to
        return batch

    def _fault(self, left: int) -> None:
        offset, what = self.walk.fault_offset, describe(self.walk, left, self.segment.sealed)
        if not self._resync or self.walk.final:
            self._damaged(offset, what)
            return
        begin = max(self._given, self.walk.good_offset)
        self._sought = _Search(offset, what, self.walk.good, begin, begin)
        if not self._seek(self._sought) and self.segment.state != State.OPEN:
            self._give_up(self._sought)

    def _damaged(self, offset: int, what: str) -> None:
        if self.damage is None:
            self.damage = Damage(self.segment.path, offset, what)

    def _seek(self, sought: _Search) -> bool:
        """After damage: on to the first batch that proves itself. False: none is there now."""
        while (at := self.walk.resync(self._data, self._start, self._given, sought.place)) is not None:
            sought.place = at
            if not self._more():
                return False
            self._skip(max(0, len(self._data) - self._start - _SEARCH_BYTES))
        self._sought = None
        self._skip(self.walk.good_offset - self._given)
        self.losses.append(self._left_out(sought, self.walk.good))
        return True

    def _left_out(self, sought: _Search, after: Mark) -> Damage:
        before, begin = sought.before, sought.begin
        if begin == before.offset:
            records = after.records - before.records
            what = f"{sought.what}; {lost(begin, after.offset, records)}"
            return Damage(self.segment.path, sought.offset, what, begin, after.offset, records)
        what = f"{sought.what}; bytes {before.offset} to {begin} were given out before that was known"
        if begin == after.offset:
            return Damage(self.segment.path, sought.offset, what)
        return Damage(
            self.segment.path, sought.offset, f"{what}; {lost(begin, after.offset)}", begin, after.offset, None
        )

    def _give_up(self, sought: _Search) -> None:
        self._sought = None
        self.damage = self._rest_lost(sought.offset, sought.what)

    def _rest_lost(self, offset: int, what: str) -> Damage:
        """Nothing after the last good checkpoint is believed, but the whole records of an open segment's tail."""
        tail = self.walk.fault == FAULT_INCOMPLETE and not self.segment.sealed
        start, end = offset if tail else self.walk.good_offset, self.seen
        if tail or end == start:
            return Damage(self.segment.path, offset, what)
        return Damage(
            self.segment.path, offset, f"{what}; {lost(start, end)}: nothing behind it proves itself", start, end
        )

    def _skip(self, n: int) -> None:
        self._start += n
        self._given += n


def describe(walk: Walk, left: int, sealed: bool) -> str:
    """A walk's fault in a sentence; `left` bytes follow its last whole record where the segment just ends."""
    text = fault_text(walk.fault)
    good = walk.good_offset
    if walk.fault == FAULT_INCOMPLETE:
        return f"{text} of {left} bytes at the end of {'the' if sealed else 'an open'} segment" + (
            f"; the last good checkpoint ends at {good}" if sealed else ""
        )
    if walk.fault == FAULT_CRC:
        return f"{text}: the {walk.offset - good} bytes from here to the checkpoint at {walk.offset} cannot be trusted"
    if walk.fault == FAULT_UNSEALED:
        lost = walk.at.records - walk.good.records
        return f"{text}" + (f"; {lost} records after the last checkpoint cannot be trusted" if lost else "")
    return f"{text}; the last good checkpoint ends at {good}"


class Reader:
    """Records of segments, in order. Damage is collected in `damage` on the way, and what was taken away in `gone`."""

    def __init__(self, segments: Iterable[Segment], wanted: Filter | None = None) -> None:
        self.wanted = wanted or Filter()
        self.segments = select(list(segments), self.wanted.from_ns, self.wanted.to_ns)
        self.damage: list[Damage] = []
        self.gone: list[Segment] = []  # removed (retention) since they were listed: their records are left out

    def __iter__(self) -> Iterator[Record]:
        views = ViewReader(self.wanted)
        for segment in self.segments:
            try:
                for batch in self.batches(segment):
                    yield from records_of(segment, batch, views)
            except GoneError:
                self.gone.append(segment)

    def batches(self, segment: Segment) -> Iterator[Batch]:
        """The batches of one segment; its damage is in `damage` after the last."""
        reader = SegmentReader(segment, resync=True)
        told = 0
        try:
            for batch in _all_batches(reader):
                self.damage += reader.losses[told:]
                told = len(reader.losses)
                yield batch
        finally:
            reader.close()
        self.damage += reader.losses[told:]
        if reader.damage is not None:
            self.damage.append(reader.damage)


def _all_batches(reader: SegmentReader) -> Iterator[Batch]:
    while (batch := reader.poll()) is not None:
        yield batch
    if reader.segment.state == State.OPEN and reader.damage is None and reader.left:
        # The flusher may be in the middle of a write: what looks cut now is whole a moment later.
        time.sleep(_HALF_WRITTEN_S)
        while (batch := reader.poll()) is not None:
            yield batch
    yield from reader.rest()


def records_of(segment: Segment, batch: Batch, views: ViewReader) -> Iterator[Record]:
    """The records of a batch that pass the filter of `views`."""
    data, at, stop, offset = batch[:4]
    while at < stop:
        found, used = views.read(data, at, stop, offset)
        shift = at - offset
        for view in found:
            yield Record(segment, view, data, view.offset + shift)
        if used == 0:
            raise AssertionError("a batch holds whole, valid records only")
        at += used
        offset += used


def select(segments: list[Segment], from_ns: int, to_ns: int) -> list[Segment]:
    """The segments that can hold records from `from_ns` up to `to_ns`, by the times in their names."""
    kept = []
    for i, segment in enumerate(segments):
        after = segments[i + 1] if i + 1 < len(segments) else None
        ends_before = (
            after is not None
            and after.journal == segment.journal
            and after.start_ns > 0
            and after.start_ns + _SKIP_MARGIN_NS <= from_ns
        )
        starts_after = segment.start_ns > 0 and segment.start_ns - _SKIP_MARGIN_NS >= to_ns
        if not ends_before and not starts_after:
            kept.append(segment)
    return kept
