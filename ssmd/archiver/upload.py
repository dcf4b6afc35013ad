"""Copies archived segments to a Storage, and proves that they are there.

For: one segment at a time (`upload`). Not for: deciding when, waiting, or removing anything. Invariant: the mark beside
a segment (`….archived.json`) is written only after the segment's object AND its manifest's were compared with the local
bytes, which were compared with the manifest's SHA-256 just before. The manifest goes last: where it is, it vouches for
a whole segment.

Killed anywhere, the same call finishes the work:

    in the Storage        beside the segment    next step
    nothing               no mark               put the segment, if absent
    segment               no mark               compare it; put the manifest, if absent
    segment, manifest     no mark               compare both, write the mark
    segment, manifest     mark                  done
    other bytes           no mark               ConflictError: told loudly; the object and our files stay as they are

An object is compared by size and etag (ssmd.middleware.etags), and where the etag proves nothing (put in several
parts, encrypted by the service) by reading it back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from ssmd.archiver import CHUNK_BYTES, GoOn, always
from ssmd.errors import ConflictError, DamageError, MissingObjectError, StorageError
from ssmd.journal import manifest
from ssmd.journal.files import replace_file
from ssmd.journal.paths import ARCHIVED, DAY, Segment, State
from ssmd.journal.times import show_time
from ssmd.middleware.etags import proves
from ssmd.middleware.interfaces import ObjectInfo, Storage
from ssmd.middleware.names import ObjectName, object_key

MARK_VERSION = 1


@dataclass(frozen=True, slots=True)
class Target:
    """Where segments of a journal are copied to. `place` names it for people and in marks, such as s3://bucket."""

    storage: Storage
    place: str
    prefix: str
    feed: str
    journal: str  # its identity


@dataclass(frozen=True, slots=True)
class Copy:
    """One object that was proved to hold the local bytes. `etag` is the service's: it changes when the bytes do."""

    key: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What stands beside a segment whose copy was proved."""

    place: str
    segment: Copy
    manifest: Copy
    first_number: int
    last_number: int
    last_recv_ns: int
    proved_ns: int  # UTC ns


@dataclass(frozen=True, slots=True)
class Done:
    """What one call did: objects that it put, and their bytes. `mark` None: `go_on` ended it before."""

    mark: Mark | None
    objects: int = 0
    bytes: int = 0


def upload(segment: Segment, target: Target, *, now_ns: Callable[[], int], go_on: GoOn = always) -> Done:
    """Does all that is left to do for one sealed segment that has its manifest.

    ConflictError: the key holds something else. Other MiddlewareErrors: the Storage's. DamageError: the local bytes are
    not those of the manifest, and were not copied. StorageError: the disk refuses.
    """
    try:
        held = manifest.read(manifest.path_of(segment))
        content = _proved(segment, held)
        vouching = _whole(manifest.path_of(segment))
    except OSError as error:
        raise StorageError(f"{segment.path}: cannot be read: {error}") from error
    way = _Way(target, segment, go_on)
    data = way.copied(content, _key(target, segment, held, content.path.name), "segment")
    voucher = data and way.copied(vouching, _key(target, segment, held, vouching.path.name), "manifest")
    if data is None or voucher is None or not go_on("mark", segment):
        return Done(None, way.objects, way.bytes)
    mark = Mark(
        target.place,
        data,
        voucher,
        first_number=int(held.get("first_number") or 0),
        last_number=int(held.get("last_number") or 0),
        last_recv_ns=int(held.get("last_recv_ns") or 0),
        proved_ns=now_ns(),
    )
    _write_mark(segment, mark)
    return Done(mark, way.objects, way.bytes)


def _write_mark(segment: Segment, mark: Mark) -> None:
    path = mark_path(segment)
    try:
        replace_file(path, json.dumps({"version": MARK_VERSION, **asdict(mark)}, indent=1).encode() + b"\n")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}", hint="is the disk full?") from error


def mark_path(segment: Segment) -> Path:
    return segment.beside(ARCHIVED)


def read_mark(segment: Segment, place: str) -> Mark | None:
    """The mark of a copy in this place; None where there is none, or none that can be read (it is made again then)."""
    try:
        held = json.loads(mark_path(segment).read_bytes())
        if held.pop("version") != MARK_VERSION or held["place"] != place:
            return None
        return Mark(**{**held, "segment": Copy(**held["segment"]), "manifest": Copy(**held["manifest"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def still_there(storage: Storage, copy: Copy) -> bool:
    """Whether an object is what it was when it was proved."""
    try:
        found = storage.head(copy.key)
    except MissingObjectError:
        return False
    return (found.size_bytes, found.etag) == (copy.size_bytes, copy.etag)


# ---- local files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size_bytes: int
    md5: str


def _whole(path: Path) -> _File:
    data = path.read_bytes()
    return _File(path, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())


def _proved(segment: Segment, held: dict[str, Any]) -> _File:
    """The segment's file, whose content has the SHA-256 of the manifest. DamageError where it has not."""
    sha256 = hashlib.sha256()
    with segment.path.open("rb") as file:
        stored = _Hashed(file)
        packed = segment.state == State.COMPRESSED
        try:
            for chunk in _chunks(_unpacked(stored) if packed else stored):
                sha256.update(chunk)
            for _ in _chunks(stored):  # what may stand behind the compressed content is copied too
                pass
        except zstandard.ZstdError as error:
            raise DamageError(f"{segment.path}: does not decompress: {error}") from None
    if sha256.hexdigest() != held.get("sha256"):
        raise DamageError(
            f"{segment.path}: its SHA-256 is not that of its manifest",
            hint="it changed after it was archived here, and was not copied: `ssmd verify` says where",
        )
    return _File(segment.path, stored.size_bytes, stored.md5.hexdigest())


def _unpacked(file: _Hashed) -> Any:
    return zstandard.ZstdDecompressor().stream_reader(file)  # type: ignore[arg-type]  # it reads, and no more


class _Hashed:
    """A file that counts and hashes what is read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self.md5.update(chunk)
        self.size_bytes += len(chunk)
        return chunk


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _key(target: Target, segment: Segment, held: dict[str, Any], name: str) -> str:
    folder = segment.path.parent.name
    day = folder if DAY.match(folder) else show_time(int(held.get("first_recv_ns") or 0))[:10]
    return object_key(ObjectName(target.prefix, target.feed, target.journal, day, name))


# ---- objects ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Way:
    """One segment's way to the Storage, and what was put on it."""

    target: Target
    segment: Segment
    go_on: GoOn
    objects: int = 0
    bytes: int = 0

    def copied(self, file: _File, key: str, step: str) -> Copy | None:
        """The object that holds a file's bytes, put there if need be. None: a stop was asked for."""
        storage = self.target.storage
        try:
            found = storage.head(key)
        except MissingObjectError:
            if not self.go_on(f"put {step}", self.segment):
                return None
            found = _put(storage, key, file)
            self.objects += 1
            self.bytes += file.size_bytes
        if not self.go_on(f"compare {step}", self.segment):
            return None
        if not _same(storage, found, file):
            raise ConflictError(
                f"{self.target.place}: {key} holds something else than {file.path}",
                hint="nothing was replaced. Find out who wrote it (two journals with one identity?), and move it away",
            )
        return Copy(key, found.size_bytes, found.etag)


def _put(storage: Storage, key: str, file: _File) -> ObjectInfo:
    with file.path.open("rb") as content:
        try:
            return storage.put(key, _chunks(content), if_absent=True)
        except ConflictError:  # another was quicker, or an answer to us was lost: what is there decides
            return storage.head(key)


def _same(storage: Storage, found: ObjectInfo, file: _File) -> bool:
    if found.size_bytes != file.size_bytes:
        return False
    if proves(found, size_bytes=file.size_bytes, md5=file.md5):
        return True
    md5 = hashlib.md5(usedforsecurity=False)
    for chunk in storage.stream(found.key):
        md5.update(chunk)
    return md5.hexdigest() == file.md5
