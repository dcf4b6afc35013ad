"""Keeps the order books of a journal that is being written, and says which of them cannot be right.

A delta that takes a level below zero, or one for a market that had no snapshot, means that something was missed
although no sequence number was. To see that takes books, and books have no place on the way from socket to ring: so
they are kept here, by a reader of the journal like any other, at its own pace. Who writes the journal then asks the
exchange for the book (`Session.suspect`). Not for: judging a journal afterwards (`ssmd verify` does, from the bytes).

Invariant: a book is told once for each record that made it suspect, and no longer once a snapshot has mended it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ssmd.book import Suspect
from ssmd.journal.follow import Follower
from ssmd.native.tally import Tally
from ssmd.native.walk import Filter


class Auditor:
    """Follows the journal of one feed; `since_ns` (UTC) is where the books of interest begin."""

    def __init__(self, root: Path, since_ns: int) -> None:
        self._follower = Follower([root], Filter(from_ns=since_ns))
        self._tally = Tally()
        self._told: set[Suspect] = set()

    def step(self) -> Iterator[Suspect]:
        """The books that became suspect in what can be read now. Exhaust it before the next step."""
        for _, batch in self._follower.batches():
            for _ in self._tally.add(batch.data, batch.start, batch.stop, batch.offset):
                pass
            suspects = self._tally.suspects()
            yield from (suspect for suspect in suspects if suspect not in self._told)
            self._told = set(suspects)

    def close(self) -> None:
        self._follower.close()
