"""The last record that could be published now: how far behind a publisher is, also while it cannot go on.

The ring's header says what is written and what is durable, at the cost of a look; without a ring nobody records, and
the segments are read once for each time that they change. Not for: deciding what is published (the Follower does).
"""

from __future__ import annotations

from pathlib import Path

from ssmd.errors import SsmdError
from ssmd.journal.follow import end_of
from ssmd.journal.paths import find
from ssmd.native.ring import Ring, Role


class JournalEnd:
    """Of the journal at `root`, whose recorder uses the ring `ring`."""

    def __init__(self, root: Path, ring: Path | None, *, durable_only: bool) -> None:
        self._root = root
        self._path = ring
        self._durable_only = durable_only
        self._ring: Ring | None = None
        self._inode = 0
        self._files: tuple[object, int] = (None, 0)

    def number(self) -> int:
        """0 = there is no record yet."""
        return self._in_ring() or self.in_files()

    def in_files(self) -> int:
        """By the segments alone; whole records that are not proved yet count too."""
        segments = find([self._root], must_exist=False)
        newest = segments[-1] if segments else None
        if newest is None:
            return 0
        try:
            state = (newest.path, newest.path.stat().st_size)
            if self._files[0] != state:
                self._files = (state, end_of(segments) or 0)
        except (OSError, SsmdError):
            pass  # it was renamed just now: the next look sees it
        return self._files[1]

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def _in_ring(self) -> int:
        try:
            inode = self._path.stat().st_ino if self._path is not None else 0
            if self._ring is None or inode != self._inode:
                self.close()
                if self._path is None:
                    return 0
                self._ring = Ring.open(self._path, role=Role.OBSERVER, create=False)
                self._inode = inode
            commit = self._ring.commit()
        except (OSError, SsmdError):
            self.close()
            return 0
        return commit.durable_number if self._durable_only else commit.last_number
