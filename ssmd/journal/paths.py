"""Names and places of segments: the one owner of every path of a journal.

    {storage}/{feed}/{YYYY-MM-DD}/{YYYYMMDDTHHMMSSZ}-{first number, 12 digits}.capnp
                                                                          .capnp.open     being written
                                                                          .capnp.zst      sealed and compressed
                                                                          .manifest.json  of a sealed one
                                                                          .capnp.cut      bytes that recovery cut off
                                                                          .archived.json  proof of a copy elsewhere

The time is that of the segment's first record, in UTC; the folder is the trading day that the environment's
schedule gives it. Nothing that the exchange sends becomes part of a path: the feed is a whitelisted word, all else is
numbers. Files that were given other names by hand are read too, in the order of their first record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ssmd.errors import UsageError

if TYPE_CHECKING:
    from ssmd.middleware.interfaces import Storage

SEALED = ".capnp"
OPEN = ".capnp.open"
COMPRESSED = ".capnp.zst"
MANIFEST = ".manifest.json"
CUT = ".capnp.cut"
ARCHIVED = ".archived.json"

_FEED = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
_STEM = re.compile(r"(\d{8}T\d{6}Z)-(\d{12,20})\Z")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_NS = 1_000_000_000


class State(IntEnum):
    """What a segment file is; of two files of one segment the lower one is read."""

    SEALED = 0
    OPEN = 1
    COMPRESSED = 2


_SUFFIXES = ((COMPRESSED, State.COMPRESSED), (OPEN, State.OPEN), (SEALED, State.SEALED))


@dataclass(frozen=True, slots=True)
class Stored:
    """The object in a Storage that holds a segment which is no file of this machine (ssmd.journal.objects)."""

    storage: Storage
    key: str
    size_bytes: int
    journal: Path | None = None  # the local folder of the same journal, where it is read together with that


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file, as its name tells it. One that is an object has a path for people only: its URL."""

    path: Path
    stem: str
    state: State
    first_number: int  # 0 = the name does not say
    start_ns: int  # whole seconds, 0 = the name does not say
    stored: Stored | None = field(default=None, compare=False, repr=False)

    @property
    def journal(self) -> Path:
        """The folder of the feed: segments of one journal share it."""
        if self.stored is not None and self.stored.journal is not None:
            return self.stored.journal
        folder = self.path.parent
        return folder.parent if DAY.match(folder.name) else folder

    @property
    def sealed(self) -> bool:
        return self.state != State.OPEN

    def beside(self, suffix: str) -> Path:
        """The path of this segment with another suffix."""
        return self.path.with_name(self.stem + suffix)


def feed_root(storage: Path, feed: str) -> Path:
    """The folder of a feed's journal. UsageError for a feed that is not a plain word."""
    if not _FEED.match(feed):
        raise UsageError(
            f"feed {feed!r} cannot be part of a path",
            hint="use lower-case letters, digits, '-' and '_', 64 at most",
        )
    return storage / feed


def segment_stem(start_ns: int, first_number: int) -> str:
    """Name of a segment without suffix, from its first record's receive time and number."""
    moment = datetime.fromtimestamp(start_ns // _NS, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{first_number:012d}"


def segment_path(
    root: Path, start_ns: int, first_number: int, suffix: str = SEALED, *, day: date | None = None
) -> Path:
    """Where a segment of the journal at `root` belongs; `day` where the schedule's day is not the UTC day."""
    folder = day or datetime.fromtimestamp(start_ns // _NS, UTC).date()
    return root / f"{folder:%Y-%m-%d}" / (segment_stem(start_ns, first_number) + suffix)


def segment_of(path: Path) -> Segment | None:
    """The segment that a file is by its name, or None if it has none of the suffixes."""
    for suffix, state in _SUFFIXES:
        if path.name.endswith(suffix) and len(path.name) > len(suffix):
            stem = path.name[: -len(suffix)]
            match = _STEM.match(stem)
            if match is None:
                return Segment(path, stem, state, 0, 0)
            return Segment(path, stem, state, int(match[2]), _moment_ns(match[1]))
    return None


def _moment_ns(text: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()) * _NS
    except ValueError:
        return 0


def is_url(path: str) -> bool:
    """Whether it names an archive (ssmd.cli.sources) and no path."""
    return _URL.match(path) is not None


def find(paths: Iterable[str | Path], *, must_exist: bool = True) -> list[Segment]:
    """Segments under files, folders and globs: journal by journal, each in the order of its records.

    UsageError where a path is not there (unless `must_exist` is False) or a named file is no segment.
    """
    return in_order(_each(paths, must_exist))


def in_order(segments: Iterable[Segment]) -> list[Segment]:
    """Journal by journal, each in the order of its records; each segment once, in the form that is read first.

    A file of this machine is read rather than the object that is its copy.
    """
    found: dict[tuple[Path, str], Segment] = {}
    for segment in segments:
        key = (segment.journal, segment.stem)
        known = found.get(key)
        if known is None or _rank(segment) < _rank(known):
            found[key] = segment
    return sorted(map(_numbered, found.values()), key=lambda s: (s.journal, s.first_number, s.start_ns, s.stem))


def _rank(segment: Segment) -> tuple[bool, State]:
    return segment.stored is not None, segment.state


def _each(paths: Iterable[str | Path], must_exist: bool) -> Iterator[Segment]:
    for path in paths:
        for entry in _expand(Path(path), must_exist):
            if entry.is_dir():
                yield from _under(entry)
                continue
            segment = segment_of(entry)
            if segment is not None:
                yield segment
            elif not _is_magic(Path(path)):
                raise UsageError(f"{entry} is not a segment", hint=f"segments end in {SEALED}, {COMPRESSED} or {OPEN}")


def _is_magic(path: Path) -> bool:
    return not path.exists() and any(c in str(path) for c in "*?[")


def _expand(path: Path, must_exist: bool) -> list[Path]:
    if path.exists():
        return [path]
    if _is_magic(path):
        parts = path.parts
        fixed = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
        hits = sorted(Path(*parts[:fixed]).glob(str(Path(*parts[fixed:]))))
        if hits or not must_exist:
            return hits
    if must_exist:
        raise UsageError(f"{path}: there is nothing of this name", hint="give segment files, folders or globs")
    return []


def _under(folder: Path) -> Iterator[Segment]:
    for entry in sorted(folder.rglob("*.capnp*")):
        segment = segment_of(entry)
        if segment is not None and entry.is_file():
            yield segment


def _numbered(segment: Segment) -> Segment:
    """With the first number taken from the bytes where the name does not give it."""
    if segment.first_number or segment.start_ns:
        return segment
    from ssmd.journal.source import first_number

    return replace(segment, first_number=first_number(segment))


def newest(root: Path) -> Segment | None:
    """The last segment of the journal at `root`, or None."""
    segments = find([root], must_exist=False)
    return segments[-1] if segments else None
