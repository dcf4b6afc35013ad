"""The bytes of a segment, chunk by chunk, whatever its form: sealed, open, or compressed; a file, or an object.

For: opening, decompressing, and translating foreign errors. Not for: knowing what the bytes mean.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ssmd.errors import MissingObjectError, StorageError
from ssmd.journal.files import sync_folder
from ssmd.journal.paths import COMPRESSED, SEALED, Segment, State, Stored, segment_of

CHUNK_BYTES = 1 << 20
NUMBER_AT = 16  # SSMD_RECORD_NUMBER
KIND_AT = 72  # SSMD_RECORD_KIND


class GoneError(StorageError):
    """The segment is no longer there under any of its names: retention took it away."""


class CompressionError(StorageError):
    """A compressed segment does not decompress any further: its stored bytes are damaged."""


class Opened(Protocol):
    """What a segment's bytes are read from."""

    def read(self, size: int, /) -> bytes | None: ...

    def close(self) -> None: ...


class SegmentSource:
    """An open segment: bytes in order, b"" at the present end (an open segment may have more later).

    A segment may be sealed or compressed between being listed and being opened: it is then taken under its new name,
    which stands in `segment`.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment, self._file = _open(segment)
        self._path = self.segment.path
        self._named = False  # its name is known to be on the disk
        self._read: Callable[[int], bytes | None] = self._file.read
        if self.segment.state == State.COMPRESSED:
            self._read = _decompressed(self._file, self._path)

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        try:
            return self._read(size) or b""
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error

    def size_bytes(self) -> int:
        """Size of the file now."""
        stored = self.segment.stored
        return stored.size_bytes if stored is not None else os.fstat(self._file_of_disk().fileno()).st_size

    def sync(self) -> None:
        """Puts what was written to the file so far on the disk, its name too."""
        try:
            os.fdatasync(self._file_of_disk().fileno())
            if not self._named:
                for folder in (self._path.parent, self._path.parent.parent):
                    sync_folder(folder)
                self._named = True
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error

    def seek(self, offset: int) -> None:
        """Goes on reading from `offset` (files that are not compressed)."""
        self._file_of_disk().seek(offset)

    def _file_of_disk(self) -> io.FileIO:
        """Objects do not grow, and are not mended."""
        assert isinstance(self._file, io.FileIO), "an object is read once, from its beginning"
        return self._file

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SegmentSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Object:
    """An object as a file that is read from its beginning to its end."""

    def __init__(self, stored: Stored) -> None:
        self._pieces = stored.storage.stream(stored.key, chunk_bytes=CHUNK_BYTES)
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        try:
            while not self._rest:
                self._rest = next(self._pieces)
        except StopIteration:
            return b""
        except MissingObjectError as error:
            raise GoneError(str(error)) from error
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        self._pieces = iter(())


def _open(segment: Segment) -> tuple[Segment, Opened]:
    if segment.stored is not None:
        return segment, _Object(segment.stored)
    later = [name for name in (SEALED, COMPRESSED) if not segment.path.name.endswith(name)]
    for path in (segment.path, *map(segment.beside, later)):
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from error
        return segment_of(path) or segment, file
    raise GoneError(f"{segment.path}: it is gone")


def _decompressed(file: Opened, path: Path) -> Callable[[int], bytes]:
    import zstandard  # only where a compressed segment is read: it costs 14 ms

    reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)  # type: ignore[arg-type]  # it reads

    def read(size: int) -> bytes:
        try:
            data: bytes = reader.read(size)
        except zstandard.ZstdError as error:
            raise CompressionError(f"{path}: {error}") from error
        return data

    return read


def first_number(segment: Segment) -> int:
    """Number of the first record by its bytes, 0 where there is none."""
    try:
        with SegmentSource(segment) as source:
            head = source.read(NUMBER_AT + 8)
    except StorageError:
        return 0
    return int.from_bytes(head[NUMBER_AT:], "little") if len(head) == NUMBER_AT + 8 else 0
