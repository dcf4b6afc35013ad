"""What a publisher has to publish: the groups of the journal behind a number, in order, and the holes between them.

A hole is numbers that the journal does not have (any more): their segments were removed before they could be published
(retention), or their bytes are damaged. Each is told and counted when its successor is taken. Numbers that the recorder
has withheld (decision 0017) are told, and are no records that miss.

Not for: messages (`plan`), the bus, the cursor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ssmd.journal.follow import Follower
from ssmd.journal.paths import find
from ssmd.journal.reader import Batch
from ssmd.middleware.interfaces import Start

READ_BYTES = 1 << 20  # of the journal at once; a group is never cut

Log = Callable[..., None]  # log(event, level="info", **fields)


class _Read(NamedTuple):
    batch: Batch
    damaged_from: int  # 0: no damage in front of it; else the first number of its segment


class Incoming:
    """Of the journal at `root`. `anywhere`: it may begin at any number, what is before that is not asked for.

    Numbers up to `unproved` may have been lost with a ring, and are given to no others then.
    """

    def __init__(
        self, root: Path, number: int, log: Log, *, proved_only: bool, anywhere: bool, unproved: int = 0
    ) -> None:
        self.missed = 0  # records, so far
        self.trouble: str | None = None  # the last hole
        self._root, self._log, self._proved_only, self._anywhere = root, log, proved_only, anywhere
        self._unproved = unproved
        self._read: deque[_Read] = deque()
        self._damage_told = 0
        self._follower = self._from(number)

    def _from(self, number: int) -> Follower:
        start = Start.number(number + 1)
        return Follower([self._root], start=start, proved_only=self._proved_only, limit_bytes=READ_BYTES)

    def begin_again(self, number: int) -> None:
        """Reads anew what is behind this record."""
        self._follower.close()
        self._follower, self._damage_told = self._from(number), 0
        self._read.clear()

    def close(self) -> None:
        self._follower.close()

    @property
    def first(self) -> Batch | None:
        """What is taken next."""
        return self._read[0].batch if self._read else None

    def read(self) -> None:
        """A bounded piece of the journal."""
        for segment, batch in self._follower.batches():
            self._read.append(_Read(batch, segment.first_number if self._tell_damage() else 0))
        self._tell_damage()

    def take(self, after: int) -> tuple[Batch, int]:
        """The next group, and the record behind which it begins. `after`: the last one that was taken."""
        batch, damaged_from = self._read.popleft()
        if self._anywhere:
            after = max(damaged_from - 1, 0) if damaged_from else batch.before
            self._anywhere = False
        if batch.before > after:
            withheld = after if damaged_from else self._withheld(after, batch.before)
            if withheld > after:
                self._log(
                    "numbers that no record has: what was sent under them was lost with the ring before it was proved",
                    first=after + 1,
                    last=withheld,
                )
            if batch.before > withheld:
                self._tell_hole(withheld + 1, batch.before, damaged=bool(damaged_from))
        return batch, max(after, batch.before)

    def _withheld(self, after: int, last: int) -> int:
        """Up to where the recorder has left out the numbers behind `after`; retention takes a journal's beginning."""
        known = last == self._unproved or any(s.first_number <= after for s in find([self._root], must_exist=False))
        return max(after, min(last, self._unproved)) if known else after

    def _tell_hole(self, first: int, last: int, *, damaged: bool) -> None:
        missed = last - first + 1
        which = f"{missed:,} records were never published: {first} to {last} are"
        sentence = f"{which} damaged in the journal" if damaged else f"{which} gone from the journal"
        hint = "`ssmd verify` says where." if damaged else "Keep segments for longer: storage.retain_days."
        self._log(sentence, level="error", missed=missed, hint=hint)
        self.missed += missed
        self.trouble = sentence if self.missed == missed else f"{sentence}, {self.missed:,} in all"

    def _tell_damage(self) -> bool:
        """Whether there is more than was told."""
        found, self._damage_told = self._follower.damage[self._damage_told :], len(self._follower.damage)
        for damage in found:
            self._log(
                "the journal is damaged: what cannot be trusted is not published", level="error", what=str(damage)
            )
        return bool(found)
