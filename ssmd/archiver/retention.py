"""Removes local copies of segments whose copy in a Storage was proved long enough ago.

Not for: removing anything from a Storage. Invariant: what stays here is the end of the journal without a hole: removal
begins with the oldest segment and stops at the first that must stay. A segment stays while

* no mark says that it, and its manifest, were proved to be in the very Storage that is used now;
* the mark is younger than the time asked for;
* the publisher has not passed it (its cursor is behind, or cannot be read), where records are published;
* it is the newest sealed one, or newer: a start after a crash needs it, to know the last number;
* the Storage does not show both objects as they were when they were proved: it is asked again before each removal.

Killed anywhere, the next call (`finish` for the last two) finishes the work:

    beside each other                      next step
    segment, manifest, mark                ask the Storage, remove the segment
    manifest, mark                         remove the manifest
    mark                                   remove the mark, and the day's folder if it is empty
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ssmd.archiver import GoOn, always
from ssmd.archiver.upload import Mark, Target, mark_path, read_mark, still_there
from ssmd.errors import ConflictError, StorageError
from ssmd.journal import manifest
from ssmd.journal.files import sync_folder
from ssmd.journal.paths import ARCHIVED, COMPRESSED, DAY, SEALED, Segment, segment_of

PUBLISHER_CURSOR = "publisher.cursor"  # in the journal's folder: JSON, `number` = the last published record


@dataclass(frozen=True, slots=True)
class Rule:
    """When local copies go."""

    after_s: float  # since their copy was proved
    published: bool  # only records that the publisher has passed


def finish(root: Path, go_on: GoOn = always) -> None:
    """Removes what a removal that was cut short left of its segments. StorageError when the disk refuses."""
    try:
        for left in _half_removed(root):
            if not go_on("remove rest", left):
                return
            _remove_rest(left)
    except OSError as error:
        raise StorageError(f"{root}: the rest of local copies cannot be removed: {error}") from error


def expire(
    root: Path, segments: Sequence[Segment], target: Target, rule: Rule, *, now_ns: int, go_on: GoOn = always
) -> Iterator[Segment]:
    """Removes those of the journal's segments that may go, oldest first; gives each that was removed.

    ConflictError: an object is not what was proved. Its mark is removed, so that the segment is compared, and copied
    again where it is missing. Other MiddlewareErrors: the Storage's. StorageError: the disk refuses.
    """
    try:
        for segment, mark in _removable(root, segments, target.place, rule, now_ns):
            _ask_again(target, segment, mark)
            if not go_on("remove local", segment):
                return
            _remove(segment, go_on)
            yield segment
    except OSError as error:
        raise StorageError(f"{root}: local copies cannot be removed: {error}") from error


def _removable(
    root: Path, segments: Sequence[Segment], place: str, rule: Rule, now_ns: int
) -> Iterator[tuple[Segment, Mark]]:
    newest = max((i for i, segment in enumerate(segments) if segment.sealed), default=0)
    published = _published(root) if rule.published else None
    for segment in segments[:newest]:
        mark = read_mark(segment, place) if segment.sealed else None
        if mark is None or mark.proved_ns + rule.after_s * 1e9 > now_ns:
            return
        if published is not None and mark.last_number > published:
            return
        yield segment, mark


def _published(root: Path) -> int:
    """The last record that the publisher is done with; 0 where that cannot be known."""
    try:
        number = json.loads((root / PUBLISHER_CURSOR).read_bytes())["number"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0
    return number if isinstance(number, int) else 0


def _ask_again(target: Target, segment: Segment, mark: Mark) -> None:
    for copy in (mark.segment, mark.manifest):
        if not still_there(target.storage, copy):
            mark_path(segment).unlink(missing_ok=True)
            raise ConflictError(
                f"{target.place}: {copy.key} is gone or was changed since it was proved",
                hint="the local copy stays, and is compared and copied again",
            )


def _remove(segment: Segment, go_on: GoOn) -> None:
    for suffix in (SEALED, COMPRESSED):
        segment.beside(suffix).unlink(missing_ok=True)
    sync_folder(segment.path.parent)
    if go_on("remove rest", segment):
        _remove_rest(segment)


def _remove_rest(segment: Segment) -> None:
    """The manifest, then the mark: as long as the mark is there, the rest is known to be ours to remove."""
    folder = segment.path.parent
    manifest.path_of(segment).unlink(missing_ok=True)
    sync_folder(folder)
    mark_path(segment).unlink(missing_ok=True)
    sync_folder(folder)
    if DAY.match(folder.name) and not any(folder.iterdir()):
        with suppress(OSError):  # something came into it
            folder.rmdir()
        sync_folder(folder.parent)


def _half_removed(root: Path) -> list[Segment]:
    """Segments that are gone and have still a mark."""
    left = []
    for path in sorted(root.rglob(f"*{ARCHIVED}")):
        segment = segment_of(path.with_name(path.name.removesuffix(ARCHIVED) + SEALED))
        if segment is not None and not any(segment.beside(s).exists() for s in (SEALED, COMPRESSED)):
            left.append(segment)
    return left
