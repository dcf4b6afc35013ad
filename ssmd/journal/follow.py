"""Follows a living journal: every record once, in order, across rotations, day folders and restarts.

The follower holds the file it reads, so renames (sealing, compressing, even deleting) do not concern it. It goes on
to the next segment when the one it holds has given its final checkpoint, or when a later one exists and nothing
more can be read from it. An open segment may also shrink: a flusher that restarts cuts it and writes the same bytes
again (wait), or recovery after a lost ring cuts it for good and seals it (said in `damage`; what was given out
beyond the cut is no longer part of the journal). Behind damage it goes on as every reader does (`SegmentReader`): at
the next batch that proves itself. What was left out is in `damage` before that batch is given.

With `proved_only` it gives nothing that a power cut can take back, and a batch is what stands between two checkpoints:
the same batches whoever reads, and whenever (the ids that a publisher makes of them are the same after a crash).

`step` never waits; the caller naps. A journal that does not exist yet is one without segments. Segments that were
removed unread (retention) are passed over: numbers that do not follow each other tell of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from ssmd.errors import StorageError
from ssmd.journal.listing import Listing
from ssmd.journal.paths import COMPRESSED, OPEN, SEALED, Segment, State, find
from ssmd.journal.reader import Batch, Damage, Record, SegmentReader, records_of, select
from ssmd.journal.source import GoneError
from ssmd.middleware.interfaces import Start
from ssmd.native.walk import ALL_KINDS, KIND_BITS, LAST_NS, Filter, ViewReader

_NUMBERED = Filter(kinds=ALL_KINDS & ~KIND_BITS["checkpoint"])


class Follower:
    """All journals under some paths, from `start` on, without an end.

    `start` counts for each journal by itself: its beginning, its end as it is now, a record's number (or the first one
    after it), or a time (the first record received then or later, and all after it). `limit_bytes`: a step ends, for
    each journal, with the batch that brings it to so many; 0 = it gives all there is.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        wanted: Filter | None = None,
        *,
        start: Start | None = None,
        proved_only: bool = False,
        limit_bytes: int = 0,
    ) -> None:
        self.damage: list[Damage] = []
        self._paths = list(paths)
        self._wanted = wanted or Filter()
        self._views = ViewReader(self._wanted)
        self._start = start or Start.beginning()
        self._proved_only = proved_only
        self._limit_bytes = limit_bytes
        self._tails: dict[Path, _Tail] = {}
        self._listing: Listing | None = None  # of the one folder that it follows, which is the usual case
        self._listed: list[Segment] | None = None
        if self._start.at == "end":
            self._look()
            self._start = Start.beginning()  # of journals that are made from now on

    def step(self) -> Iterator[Record]:
        """Every record that can be read now. Exhaust it before the next step."""
        for segment, batch in self.batches():
            first = self._tails[segment.journal].first
            for record in records_of(segment, batch, self._views):
                if record.view.number >= first:
                    yield record

    def batches(self) -> Iterator[tuple[Segment, Batch]]:
        """The same as whole batches: nothing is filtered but segments by time, and batches before the start.

        The first batch may begin before the start.
        """
        if not self._tails or any(tail.hungry for tail in self._tails.values()):
            self._look()
        for tail in list(self._tails.values()):
            yield from tail.step(self._limit_bytes)

    def position(self, journal: Path) -> int:
        """Number of the last record of a journal (its folder) that was read or passed over, 0 = none yet."""
        tail = self._tails.get(journal)
        return tail.last_number if tail is not None else 0

    def first(self, journal: Path) -> int:
        """Number of the first record of a journal that is given; batches may begin before it."""
        tail = self._tails.get(journal)
        return tail.first if tail is not None else 0

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()

    def _look(self) -> None:
        segments = self._segments()
        if segments is self._listed:
            return
        self._listed = segments
        for segment in select(segments, self._wanted.from_ns, self._wanted.to_ns):
            if segment.journal not in self._tails:
                self._tails[segment.journal] = self._tail([s for s in segments if s.journal == segment.journal])
            self._tails[segment.journal].offer(segment)

    def _segments(self) -> list[Segment]:
        """All that there are now; the same list while nothing changed."""
        paths = [Path(path) for path in self._paths]
        if len(paths) != 1 or not paths[0].is_dir():
            return find(paths, must_exist=False)
        self._listing = self._listing or Listing(paths[0])
        try:
            return self._listing.segments()
        except OSError as error:
            raise StorageError(f"{paths[0]}: cannot be read: {error.strerror}") from error

    def _tail(self, segments: list[Segment]) -> _Tail:
        start = self._start
        if start.at == "end":
            start = Start.number((end_of(segments) or 0) + 1)
        tail = _Tail(self.damage, start, self._proved_only)
        passed = before(segments, start)
        tail.skip(passed, segments[len(passed)].first_number - 1 if len(passed) < len(segments) else 0)
        return tail


class _Tail:
    """One journal: the segment being read and those that follow it."""

    def __init__(self, damage: list[Damage], start: Start, proved_only: bool) -> None:
        self.first = start.value if start.at == "number" else 0  # numbers below are not given
        self._from = ViewReader(Filter(_NUMBERED.kinds, from_ns=start.value)) if start.at == "time" else None
        self.last_number = 0  # of the last batch, given or not
        self._damage = damage
        self._proved_only = proved_only
        self._reader: SegmentReader | None = None
        self._told = 0  # of what it left out
        self._last = (-1, -1, "")  # order of the segment being read, or of the last one that was
        self._next: list[Segment] = []

    @property
    def hungry(self) -> bool:
        """Only a look at the folder can bring more: the segment being read is no longer the open one."""
        reader = self._reader
        if self._next:
            return False
        return reader is None or reader.walk.final or reader.searching or not _still_open(reader.segment)

    def skip(self, segments: list[Segment], last_number: int) -> None:
        """These are not read: all they hold, up to a number, lies before the start."""
        if segments:
            self._last = max(map(_order, segments))
            self.last_number = max(last_number, 0)

    def offer(self, segment: Segment) -> None:
        """A segment that was listed; those already read are not taken again."""
        if _order(segment) > max([self._last, *map(_order, self._next)]):
            self._next.append(segment)

    def step(self, limit_bytes: int) -> Iterator[tuple[Segment, Batch]]:
        given = 0
        for segment, batch in self._batches():
            self.last_number = batch.last_number
            if not self._admits(segment, batch):
                continue
            given += batch.size_bytes
            yield segment, batch
            if limit_bytes and given >= limit_bytes:
                return

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # Whoever leaves the generators below early finds the next batch at the next step: each yield comes last.

    def _batches(self) -> Iterator[tuple[Segment, Batch]]:
        while True:
            # Taken before reading: what lies in the present segment then is all there will be.
            over = bool(self._next) or not self._growing()
            yield from self._read()
            if self._reader is not None:
                if not (over or self._reader.walk.final or self._reader.damage):
                    return
                yield from self._leave()
            if not self._next:
                return
            self._enter(self._next.pop(0))

    def _growing(self) -> bool:
        """Its writer may add to it: it was not sealed. One that was deleted grows until its writer notices."""
        return self._reader is not None and not _sealed(self._reader.segment)

    def _admits(self, segment: Segment, batch: Batch) -> bool:
        """Whether a batch holds something from the start on; a start by time becomes one by number here."""
        if self._from is not None:
            found = next(records_of(segment, batch, self._from), None)
            if found is None:
                return False
            self.first, self._from = found.view.number, None
        return batch.last_number >= self.first

    def _enter(self, segment: Segment) -> None:
        self._last = _order(segment)
        try:
            live = segment.state == State.OPEN
            self._reader, self._told = SegmentReader(segment, live=live, groups=self._proved_only, resync=True), 0
        except GoneError:
            return
        except StorageError as error:
            self._damage.append(Damage(segment.path, 0, str(error)))

    def _read(self) -> Iterator[tuple[Segment, Batch]]:
        reader = self._reader
        if reader is None:
            return
        while (batch := reader.poll()) is not None:
            self._tell(reader)
            yield reader.segment, batch
        self._tell(reader)

    def _leave(self) -> Iterator[tuple[Segment, Batch]]:
        reader = self._reader
        assert reader is not None
        if reader.segment.state == State.OPEN and reader.source.size_bytes() < reader.seen:
            self._cut_back(reader)
            yield from self._read()
        for batch in reader.rest(sealed=not _still_open(reader.segment)):
            self._tell(reader)
            if batch.proved:
                yield reader.segment, batch
                continue
            self.close()  # this is the last, and is given once
            try:
                yield reader.segment, batch
            finally:
                self._end(reader)
            return
        self.close()
        self._end(reader)

    def _end(self, reader: SegmentReader) -> None:
        self._tell(reader)
        if reader.damage is not None:
            self._damage.append(reader.damage)

    def _tell(self, reader: SegmentReader) -> None:
        """What was left out so far."""
        self._damage.extend(reader.losses[self._told :])
        self._told = len(reader.losses)

    def _cut_back(self, reader: SegmentReader) -> None:
        lost = reader.walk.offset - reader.walk.good_offset
        reader.retreat()
        self.first = min(self.first, reader.walk.at.last_number + 1)  # these numbers are used again
        if lost and not self._proved_only:  # else they were never given out
            what = f"cut back to its last good checkpoint: the {lost} bytes of records after it were withdrawn"
            self._damage.append(Damage(reader.segment.path, reader.walk.good_offset, what))


def before(segments: list[Segment], start: Start) -> list[Segment]:
    """The segments of one journal that lie before a start, by their names and first records."""
    if start.at == "number":
        return [s for s, after in pairwise(segments) if 0 < after.first_number <= start.value]
    if start.at == "time":
        kept = select(segments, start.value, LAST_NS)
        return [s for s in segments if s not in kept]
    return []


def end_of(segments: list[Segment]) -> int | None:
    """Number of the last whole record of one journal, None where it has none. Reads the newest segment through."""
    for segment in reversed(segments):
        growing = segment.state == State.OPEN
        reader = SegmentReader(segment, live=growing, resync=True)
        last = 0
        try:
            while (batch := reader.poll()) is not None:
                last = batch.last_number
            for batch in () if growing else reader.rest():
                last = batch.last_number
        finally:
            reader.close()
        if last:
            return last
    return None


def _order(segment: Segment) -> tuple[int, int, str]:
    return (segment.first_number, segment.start_ns, segment.stem)


def _still_open(segment: Segment) -> bool:
    return segment.state == State.OPEN and segment.beside(OPEN).exists()


def _sealed(segment: Segment) -> bool:
    """Whether it was, or has become so under another name since."""
    return segment.state != State.OPEN or any(segment.beside(suffix).exists() for suffix in (SEALED, COMPRESSED))
