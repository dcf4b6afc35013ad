"""What lies in a journal's folders and cannot be read: manifests whose segment is gone, links to nothing, and the like.

For: `ssmd verify`, which must not call complete what somebody took a part from. Not for: reading segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmd.errors import DamageError, StorageError
from ssmd.journal import manifest
from ssmd.journal.paths import ARCHIVED, COMPRESSED, MANIFEST, OPEN, SEALED, Segment, segment_of


@dataclass(frozen=True, slots=True)
class Stray:
    """Something with a name of the journal that is not what the name says."""

    path: Path
    journal: Path
    what: str


def strays(paths: Iterable[str | Path]) -> list[Stray]:
    """Those below the folders among `paths`; files that are named one by one are looked at by whoever opens them."""
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    found = {stray.path: stray for folder in folders for stray in _below(folder)}
    return [found[path] for path in sorted(found)]


def _below(folder: Path) -> Iterator[Stray]:
    for path in folder.rglob("*.capnp*"):
        segment = segment_of(path)
        if segment is not None and not path.is_file() and _is_there(path):  # not gone since it was listed
            yield Stray(path, segment.journal, _no_file(path))
    for path in folder.rglob(f"*{MANIFEST}"):
        segment = segment_of(path.with_name(path.name.removesuffix(MANIFEST) + SEALED))
        if segment is None or any(map(_is_there, map(segment.beside, (SEALED, COMPRESSED, OPEN)))):
            continue
        what = _segment_gone(path, segment)
        if what is not None:
            yield Stray(path, segment.journal, what)


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _no_file(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return "a link to nothing where a segment should be"
    return f"a {'folder' if path.is_dir() else 'special file'} with the name of a segment"


def _segment_gone(path: Path, segment: Segment) -> str | None:
    """None: the file is no manifest of ours."""
    if segment.beside(ARCHIVED).exists():
        return None  # it is proved to be in an archive, and its removal here is under way
    try:
        stored: dict[str, Any] = manifest.read(path)
    except FileNotFoundError:
        return None
    except (DamageError, StorageError, OSError):
        stored = {}
    return segment_gone(stored, segment)


def segment_gone(stored: dict[str, Any], segment: Segment) -> str | None:
    """The same, of a manifest that was read ({}: it could not be)."""
    if stored.get("segment") != segment.path.name and not segment.start_ns:
        return None
    count, first, last = (stored.get(key) for key in ("records", "first_number", "last_number"))
    return "the segment of this manifest is gone" + (f": {count} records, {first} to {last}" if count else "")
