"""Segments that are objects of a Storage: what an archive holds, found and read like the folder of a journal.

For: `ssmd cat` and `ssmd verify` on s3://bucket/prefix. Not for: opening Storages (that is wiring), open segments (they
are never uploaded), following. A segment's `path` is made of its URL: it is shown in messages, nothing is opened by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PosixPath

from ssmd.errors import DamageError, MissingObjectError, UsageError
from ssmd.journal.identity import known_identity
from ssmd.journal.paths import COMPRESSED, MANIFEST, SEALED, Segment, State, Stored, in_order, segment_of
from ssmd.journal.strays import Stray, segment_gone
from ssmd.middleware.interfaces import ObjectInfo, Storage


class ObjectPath(PosixPath):
    """The URL of an object, with the parts of a path: s3://bucket/folder/name. Never of a file."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


def find_objects(storage: Storage, root: str, prefix: str) -> tuple[list[Segment], list[Stray]]:
    """The segments at or below a key, in the order of their records, and manifests whose segment is gone.

    `root` is the URL of the key '', such as s3://bucket. UsageError for an object that is no segment.
    """
    prefix = prefix.strip("/")
    infos = list(storage.list(f"{prefix}/" if prefix else ""))
    if not infos and prefix:
        try:
            infos = [storage.head(prefix)]
        except MissingObjectError:
            return [], []
        if segment_of(_path(root, prefix)) is None:
            raise UsageError(
                f"{root}/{prefix} is not a segment", hint=f"segments of an archive end in {COMPRESSED} or {SEALED}"
            )
    segments = in_order(segment for info in infos if (segment := _segment(storage, root, info)) is not None)
    known = {(segment.path.parent, segment.stem) for segment in segments}
    return segments, [stray for info in infos if (stray := _stray(storage, root, info, known)) is not None]


def beside_local(segments: Iterable[Segment], roots: Iterable[Path]) -> list[Segment]:
    """The same segments; those of a journal that is also in a local folder are taken as part of that one.

    A journal is known by its identity, which is the name of its folder among the objects.
    """
    local = {identity: root for root in roots if (identity := _identity(root)) is not None}
    return [_moved(segment, local.get(segment.journal.name)) for segment in segments]


def _identity(root: Path) -> str | None:
    try:
        return known_identity(root)
    except DamageError:  # it is verified by itself
        return None


def _moved(segment: Segment, root: Path | None) -> Segment:
    if segment.stored is None or root is None:
        return segment
    return replace(segment, stored=replace(segment.stored, journal=root))


def _path(root: str, key: str) -> ObjectPath:
    return ObjectPath(f"{root}/{key}")


def _segment(storage: Storage, root: str, info: ObjectInfo) -> Segment | None:
    found = segment_of(_path(root, info.key))
    if found is None or found.state == State.OPEN:
        return None
    return replace(found, stored=Stored(storage, info.key, info.size_bytes))


def _stray(storage: Storage, root: str, info: ObjectInfo, known: set[tuple[Path, str]]) -> Stray | None:
    """A manifest vouches for a segment that is not there: it was put after it, so the segment was there."""
    path = _path(root, info.key)
    if not path.name.endswith(MANIFEST):
        return None
    segment = segment_of(path.with_name(path.name.removesuffix(MANIFEST) + SEALED))
    if segment is None or (path.parent, segment.stem) in known:
        return None
    try:
        held = json.loads(storage.get(info.key))
    except (ValueError, RecursionError, MissingObjectError):
        held = {}
    what = segment_gone(held if isinstance(held, dict) else {}, segment)
    return Stray(path, segment.journal, what) if what is not None else None
