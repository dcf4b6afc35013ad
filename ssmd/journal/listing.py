"""The segments below a folder, looked at again and again: only folders that changed are read again.

For: those who look many times at a journal that may have years in it: the archiver, and whoever follows it while nobody
records. A folder's time of change tells: every step of a segment's life is a name that comes, goes or changes. Times
are coarse, so a folder that changed within the last seconds is not trusted to be unchanged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ssmd.journal.paths import Segment, in_order, segment_of

SETTLED_S = 2.0


@dataclass(frozen=True, slots=True)
class _Folder:
    changed_ns: int  # its time of change when it was read, 0 = it was too fresh to be trusted
    folders: tuple[Path, ...]
    segments: tuple[Segment, ...]


class Listing:
    """Give it up with what it lists; `segments` belongs to one thread."""

    def __init__(self, root: Path, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._root = root
        self._now_ns = now_ns
        self._known: dict[Path, _Folder] = {}
        self._segments: list[Segment] = []

    def segments(self) -> list[Segment]:
        """All of them in the order of their records, as `find` gives them; the same list while nothing changed."""
        seen: dict[Path, _Folder] = {}
        unchanged = True
        for path in self._below(seen):
            unchanged = self._look(path, seen) and unchanged
        if not unchanged or seen.keys() != self._known.keys():
            self._segments = in_order(segment for folder in seen.values() for segment in folder.segments)
        self._known = seen
        return self._segments

    def _below(self, seen: dict[Path, _Folder]) -> Iterator[Path]:
        """The root, and the folders of those that were looked at since."""
        waiting = [self._root]
        while waiting:
            path = waiting.pop()
            yield path
            waiting += seen[path].folders if path in seen else ()

    def _look(self, path: Path, seen: dict[Path, _Folder]) -> bool:
        """Whether the folder is as it was; one that is gone is not in `seen`."""
        known = self._known.get(path)
        try:
            changed_ns = path.stat().st_mtime_ns
            if known is not None and known.changed_ns == changed_ns:
                seen[path] = known
                return True
            settled = self._now_ns() - changed_ns > SETTLED_S * 1e9
            seen[path] = _read(path, changed_ns if settled else 0)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return known is not None and known.segments == seen[path].segments


def _read(path: Path, changed_ns: int) -> _Folder:
    folders, segments = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                folders.append(path / entry.name)
            elif (segment := segment_of(path / entry.name)) is not None and entry.is_file():
                segments.append(segment)
    return _Folder(changed_ns, tuple(sorted(folders)), tuple(sorted(segments, key=lambda segment: segment.path.name)))
