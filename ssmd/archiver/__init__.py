"""Archives sealed segments: a manifest beside each, then zstd, and only then is the plain file removed.

For: `python -m ssmd.archiver`, and whoever wants one segment archived (`archive`). Not for: open segments (they are
the flusher's), damaged ones (left exactly as they are, and told), uploading.

Every file appears whole under its name or not at all, and each step looks at what is there first, so that a crash
anywhere is mended by running again:

    on disk                              next step
    .capnp                               manifest, computed from the bytes
    .capnp .manifest.json                compress into a temporary file, read that back, compare SHA-256, rename
    .capnp .manifest.json .capnp.zst     read the .zst back, compare SHA-256, remove the .capnp (else compress again)
    .manifest.json .capnp.zst            done
    .capnp.zst                           manifest, computed from the decompressed bytes
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from ssmd.errors import DamageError, StorageError
from ssmd.journal import manifest
from ssmd.journal.files import TEMPORARY, open_new, publish_file, removed_on_failure, sync_folder
from ssmd.journal.paths import COMPRESSED, SEALED, Segment, State, find

LEVEL = 2
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """What is done to a sealed segment beside its manifest."""

    compress: bool = True
    level: int = LEVEL  # of zstd, 1 to 19


# Called before each step with its name and the segment; False ends the work there (a stop was asked for).
GoOn = Callable[[str, Segment], bool]


def always(step: str, segment: Segment) -> bool:
    """No stop was asked for."""
    return True


def pending(paths: Iterable[str | Path], options: Options, *, known: set[Path] | None = None) -> list[Segment]:
    """Sealed segments under some paths that are not archived yet, oldest first."""
    return unfinished(find(paths, must_exist=False), options, known=known)


def unfinished(segments: Iterable[Segment], options: Options, *, known: set[Path] | None = None) -> list[Segment]:
    """The sealed ones that are not archived yet. Those in `known` are not looked at again."""
    known = set() if known is None else known
    waiting = []
    for segment in segments:
        if segment.state == State.OPEN or segment.path in known:
            continue
        if not manifest.path_of(segment).exists() or (options.compress and segment.state == State.SEALED):
            waiting.append(segment)
        else:
            known.add(segment.path)
    return waiting


def archive(segment: Segment, options: Options, go_on: GoOn = always) -> bool:
    """Does all that is left to do for one sealed segment. False if `go_on` ended it before.

    DamageError where the segment's bytes do not check out (nothing was changed), StorageError when the disk refuses.
    """
    try:
        if not go_on("manifest", segment):
            return False
        held = _manifest(segment)
        if not options.compress or segment.state != State.SEALED:
            return True
        if not _compressed_is_good(segment, held):
            if not go_on("compress", segment):
                return False
            _compress(segment, held, options.level)
        if not go_on("remove", segment):
            return False
        segment.path.unlink()
        sync_folder(segment.path.parent)
        return True
    except OSError as error:
        raise StorageError(f"{segment.path}: cannot be archived: {error}", hint="is the disk full?") from error


def _manifest(segment: Segment) -> dict[str, Any]:
    """The stored manifest; one is written first where there is none that can be read."""
    path = manifest.path_of(segment)
    if path.exists():
        try:
            return manifest.read(path)
        except DamageError:
            pass  # half a manifest cannot be ours; the bytes decide
    computed = manifest.compute(segment)
    manifest.write(segment, computed)
    return computed


def _compressed_is_good(segment: Segment, held: dict[str, Any]) -> bool:
    path = segment.beside(COMPRESSED)
    return path.exists() and _digest_of(path) == held.get("sha256")


def _compress(segment: Segment, held: dict[str, Any], level: int) -> None:
    path = segment.beside(COMPRESSED)
    temporary = path.with_name(path.name + TEMPORARY)
    sha256 = hashlib.sha256()
    with removed_on_failure(temporary), segment.path.open("rb") as plain, open_new(temporary) as packed:
        _pack(plain, packed, sha256.update, level)
        packed.flush()
        os.fsync(packed.fileno())
    if sha256.hexdigest() != held.get("sha256"):
        temporary.unlink()
        raise DamageError(
            f"{segment.path}: its SHA-256 is not that of its manifest",
            hint="the bytes changed after the manifest was written: `ssmd verify` says where",
        )
    if _digest_of(temporary) != sha256.hexdigest():
        raise StorageError(f"{temporary}: does not read back as it was written", hint="is the disk failing?")
    publish_file(temporary, path)


def _pack(plain: IO[bytes], packed: IO[bytes], also: Callable[[bytes], object], level: int) -> None:
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    size = os.fstat(plain.fileno()).st_size
    with compressor.stream_writer(packed, size=size, closefd=False) as writer:
        while chunk := plain.read(CHUNK_BYTES):
            also(chunk)
            writer.write(chunk)


def _digest_of(path: Path) -> str | None:
    """SHA-256 of what a compressed file holds; None where it does not decompress."""
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            while chunk := reader.read(CHUNK_BYTES):
                sha256.update(chunk)
    except zstandard.ZstdError:
        return None
    return sha256.hexdigest()


def name_of(segment: Segment) -> str:
    """How a segment is called whatever its present form."""
    return segment.stem + SEALED
