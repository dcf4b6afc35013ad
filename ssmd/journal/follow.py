"""Follows a living journal: every record once, in order, across rotations, day folders and restarts.

The follower holds the file it reads, so renames (sealing, compressing, even deleting) do not concern it. It goes on
to the next segment when the one it holds has given its final checkpoint, or when a later one exists and nothing
more can be read from it. An open segment may also shrink: a flusher that restarts cuts it and writes the same bytes
again (wait), or recovery after a lost ring cuts it for good and seals it (said in `damage`; what was given out
beyond the cut is no longer part of the journal).

`step` never waits; the caller naps. A journal that does not exist yet is one without segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ssmd.errors import StorageError
from ssmd.journal.paths import OPEN, Segment, State, find
from ssmd.journal.reader import Batch, Damage, Record, SegmentReader, records_of, select
from ssmd.native.walk import Filter, ViewReader


class Follower:
    """All journals under some paths, from their beginning (or from the filter's time) on, without an end."""

    def __init__(self, paths: Sequence[str | Path], wanted: Filter | None = None) -> None:
        self.damage: list[Damage] = []
        self._paths = list(paths)
        self._wanted = wanted or Filter()
        self._views = ViewReader(self._wanted)
        self._tails: dict[Path, _Tail] = {}

    def step(self) -> Iterator[Record]:
        """Every record that can be read now. Exhaust it before the next step."""
        for segment, batch in self.batches():
            yield from records_of(segment, batch, self._views)

    def batches(self) -> Iterator[tuple[Segment, Batch]]:
        """The same as whole batches, nothing filtered but the segments by time. Exhaust it before the next step."""
        if not self._tails or any(tail.hungry for tail in self._tails.values()):
            self._look()
        for tail in list(self._tails.values()):
            yield from tail.step()

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()

    def _look(self) -> None:
        segments = find(self._paths, must_exist=False)
        for segment in select(segments, self._wanted.from_ns, self._wanted.to_ns):
            if segment.journal not in self._tails:
                self._tails[segment.journal] = _Tail(self.damage)
            self._tails[segment.journal].offer(segment)


class _Tail:
    """One journal: the segment being read and those that follow it."""

    def __init__(self, damage: list[Damage]) -> None:
        self._damage = damage
        self._reader: SegmentReader | None = None
        self._last = (-1, -1, "")  # order of the segment being read, or of the last one that was
        self._next: list[Segment] = []

    @property
    def hungry(self) -> bool:
        """Only a look at the folder can bring more: the segment being read is no longer the open one."""
        reader = self._reader
        if self._next:
            return False
        return reader is None or reader.walk.final or not _still_open(reader.segment)

    def offer(self, segment: Segment) -> None:
        """A segment that was listed; those already read are not taken again."""
        if _order(segment) > max([self._last, *map(_order, self._next)]):
            self._next.append(segment)

    def step(self) -> Iterator[tuple[Segment, Batch]]:
        while True:
            # Taken before reading: what lies in the present segment when a later one exists is all there will be.
            successor = bool(self._next)
            yield from self._read()
            if self._reader is not None:
                if not (successor or self._reader.walk.final or self._reader.damage):
                    self._shrunk()
                    return
                yield from self._leave()
            if not self._next:
                return
            self._enter(self._next.pop(0))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _enter(self, segment: Segment) -> None:
        self._last = _order(segment)
        try:
            self._reader = SegmentReader(segment, live=segment.state == State.OPEN)
        except StorageError as error:
            self._damage.append(Damage(segment.path, 0, str(error)))

    def _read(self) -> Iterator[tuple[Segment, Batch]]:
        reader = self._reader
        if reader is None:
            return
        while (batch := reader.poll()) is not None:
            yield reader.segment, batch

    def _leave(self) -> Iterator[tuple[Segment, Batch]]:
        reader = self._reader
        assert reader is not None
        if reader.source.size_bytes() < reader.walk.offset and reader.segment.state == State.OPEN:
            self._cut_back(reader)
            yield from self._read()
        tail = reader.finish(sealed=not _still_open(reader.segment))
        if tail is not None:
            yield reader.segment, tail
        if reader.damage is not None:
            self._damage.append(reader.damage)
        self.close()

    def _shrunk(self) -> None:
        """Recovery cut the segment and sealed it: nothing will ever come at the place where we wait."""
        reader = self._reader
        if reader is None or reader.segment.state != State.OPEN or _still_open(reader.segment):
            return
        if reader.source.size_bytes() < reader.walk.offset:
            self._cut_back(reader)

    def _cut_back(self, reader: SegmentReader) -> None:
        lost = reader.walk.offset - reader.walk.good_offset
        reader.retreat()
        what = f"cut back to its last good checkpoint: the {lost} bytes of records after it were withdrawn"
        self._damage.append(Damage(reader.segment.path, reader.walk.good_offset, what))


def _order(segment: Segment) -> tuple[int, int, str]:
    return (segment.first_number, segment.start_ns, segment.stem)


def _still_open(segment: Segment) -> bool:
    return segment.state == State.OPEN and segment.beside(OPEN).exists()
