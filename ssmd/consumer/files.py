"""Records from the segment files of journals, as they are written: what `ssmd tail --from journal` gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ssmd.consumer.record import TailRecord, Wanted, records_in
from ssmd.errors import DamageError, LaggedError, SsmdError
from ssmd.journal.follow import Follower
from ssmd.journal.identity import known_identity
from ssmd.journal.paths import Segment
from ssmd.journal.reader import Batch
from ssmd.middleware.interfaces import Start
from ssmd.native.walk import ViewReader

STEP_BYTES = 1 << 20
REMOVED = "removed before they were read"


class FileTail:
    """All journals under some paths. `proved_only`: nothing that a power cut can take back, and so a little later.

    `after`: the consumer has the record of this number; what is missing behind it is told also before the first batch.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        start: Start,
        wanted: Wanted,
        *,
        journal: str | None = None,
        proved_only: bool = False,
        after: int = 0,
    ) -> None:
        self._start, self._after = start, after
        self._journal = journal
        self._views = ViewReader(wanted.filter)
        self._follower = Follower(paths, start=start, proved_only=proved_only, limit_bytes=STEP_BYTES)
        self._names: dict[Path, str] = {}
        self._last: dict[Path, int] = {}  # number of the last record that was read, 0 = not known
        self._told = 0  # damage
        self._damaged = False  # since the last batch
        self.moved = False  # the last step read something, wanted or not

    def step(self) -> Iterator[TailRecord | SsmdError]:
        """What can be read now, a bounded piece of it; errors stand where they belong. Exhaust it."""
        self.moved = False
        for segment, batch in self._follower.batches():
            self.moved = True
            yield from self._damage()
            name = self._name(segment.journal)
            if self._journal not in (None, name):
                continue
            hole = self._hole(segment, batch)
            if hole is not None:
                yield hole
            first = self._follower.first(segment.journal)
            for record in records_in(name, batch.data, self._views, (batch.start, batch.stop, batch.offset)):
                if record.view.number >= first:
                    yield record
        yield from self._damage()

    def position(self, root: Path) -> int:
        """Number of the last record of a journal that was read or passed over, 0 = none yet."""
        return self._follower.position(root)

    def close(self) -> None:
        self._follower.close()

    def _name(self, root: Path) -> str:
        if root not in self._names:
            self._names[root] = known_identity(root) or root.name
        return self._names[root]

    def _damage(self) -> Iterator[DamageError]:
        told, self._told = self._told, len(self._follower.damage)
        for damage in self._follower.damage[told : self._told]:
            self._damaged = True
            yield DamageError(str(damage))

    def _hole(self, segment: Segment, batch: Batch) -> LaggedError | None:
        damaged, self._damaged = self._damaged, False
        last = self._last.get(segment.journal, self._last_before(segment, damaged))
        self._last[segment.journal] = batch.last_number
        if last is None or batch.before <= last:
            return None
        why = "they are damaged" if damaged else REMOVED
        return missing(self._name(segment.journal), last + 1, batch.before, why)

    def _last_before(self, segment: Segment, damaged: bool) -> int | None:
        """Number of the record before the first one that is to be given, where that is known."""
        if self._after:
            return self._after
        if not damaged or self._start.at not in ("beginning", "number"):
            return None
        return max(segment.first_number, self._start.value if self._start.at == "number" else 1) - 1


def missing(journal: str, first: int, last: int, why: str = REMOVED) -> LaggedError:
    """Records that are not there any more."""
    which = f"record {first}" if first == last else f"records {first} to {last}"
    return LaggedError(f"{journal}: {which} are missing: {why}", missed=last - first + 1)
