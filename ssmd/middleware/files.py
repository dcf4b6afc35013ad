"""Storage in a local folder: an object is a file, its key the path below the folder.

For: archives on a second disk or a mounted share, and set-ups without a service. Not for: the journal itself (that is
written by the flusher). What another program puts into the folder is an object too; links are followed.

    {root}/{key}               objects
    {root}/.ssmd/{random}      on their way: written, synced, then given their name by one link or rename

Invariant: a file under its key is whole and on the disk, its folders too. A crash leaves at worst a file in `.ssmd`,
which no listing shows; the next `put` after a day removes it. The folder itself is never made here: where it is gone,
a disk is not mounted, and what is put would land on another one. A key cannot be both an object and a folder of
objects here (a file system knows no such thing): that is a ConflictError, as nowhere else.

Blocks as long as the disk does. An etag is the MD5 of the bytes as they are now: `head` and `list` read every file that
they have not read before (one instance remembers it by inode, size and time of change).
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path

from ssmd.errors import (
    ConflictError,
    LimitError,
    MiddlewareError,
    MissingObjectError,
    RejectedError,
    UnavailableError,
)
from ssmd.middleware.interfaces import ObjectInfo
from ssmd.middleware.keys import OWN, checked_key, folder_of, is_listed

CHUNK_BYTES = 1 << 20
LEFT_BEHIND_S = 86_400.0  # a file on its way for longer is of a process that was killed
MAX_REMEMBERED = 100_000  # etags
_TRIES = 100  # of a put whose folder another's delete takes away


class FileStorage:
    """`Storage` (ssmd.middleware.interfaces) in a folder that there is."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._parts = root / OWN
        self._etags: dict[tuple[int, int, int, int], str] = {}
        self._lock = threading.Lock()
        self._closed = False

    def check(self, *, writable: bool = True) -> None:
        """The folder is there, and (if `writable`) a file can be written and linked in it."""
        self._opened()
        self._there()
        with _translated(str(self._root)):
            if writable:
                self._probe()

    def put(self, key: str, data: bytes | Iterator[bytes], *, if_absent: bool = False) -> ObjectInfo:
        path = self._path(key)
        self._there()
        self._remove_left_behind()
        with self._part(key) as (part, file):
            etag = _written(key, file, data)
            with _translated(key):
                self._give_name(part, path, key, if_absent)
                status = os.fstat(file.fileno())
        return _info(key, status, self._remember(status, etag))

    def get(self, key: str) -> bytes:
        with self._open(key) as file, _translated(key):
            return file.read()

    def range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError(f"a range from {start} of {length} bytes")
        with self._open(key) as file, _translated(key):
            file.seek(start)
            return file.read(length)

    def stream(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        with self._open(key) as file:
            while True:
                with _translated(key):
                    chunk = file.read(chunk_bytes)
                if not chunk:
                    return
                yield chunk

    def head(self, key: str) -> ObjectInfo:
        with self._open(key) as file, _translated(key):
            status = os.fstat(file.fileno())
            return _info(key, status, self._etag(file, status))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._opened()
        for key in sorted(self._keys(prefix), key=str.encode):
            with suppress(MissingObjectError):  # removed since it was listed
                yield self.head(key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _translated(key):
            if not path.is_dir():
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)

    def close(self) -> None:
        self._closed = True

    # ---- names -------------------------------------------------------------------------------------------------------

    def _opened(self) -> None:
        if self._closed:
            raise UnavailableError("this storage was closed")

    def _there(self) -> None:
        """Raises where the folder is not there, or may not be read."""
        try:
            with os.scandir(self._root):
                pass
        except (FileNotFoundError, NotADirectoryError) as error:
            hint = "mount its disk, make it, or give another one"
            raise RejectedError(f"{self._root}: there is no such folder", hint=hint, evidence=str(error)) from error
        except OSError as error:
            raise _translation(str(self._root), error) from error

    def _path(self, key: str) -> Path:
        checked_key(key)
        self._opened()
        return self._root / key

    @contextmanager
    def _open(self, key: str) -> Iterator[BufferedReader]:
        path = self._path(key)
        try:
            file = path.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            self._there()
            raise MissingObjectError(f"{key}: there is no object of this key", evidence=str(error)) from error
        except OSError as error:
            raise _translation(key, error) from error
        with file:
            yield file

    def _keys(self, prefix: str) -> Iterator[str]:
        """Keys of the files that begin with the prefix, in no order."""
        self._there()
        folder = folder_of(prefix)
        if folder is None:
            return
        for path, _, names in os.walk(self._root / folder, onerror=_raised, followlinks=True):
            base = Path(path).relative_to(self._root).as_posix()
            for name in names:
                key = name if base == "." else f"{base}/{name}"
                if key.startswith(prefix) and is_listed(key):
                    yield key

    # ---- putting -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _part(self, what: str) -> Iterator[tuple[Path, BufferedRandom]]:
        """A new file that is nobody's yet; gone at the end, whatever other name it was given."""
        part = self._parts / secrets.token_hex(8)
        with _translated(what):
            _make_folder(self._parts)
            file = part.open("xb+")
        try:
            with file:
                yield part, file
        finally:
            part.unlink(missing_ok=True)

    def _give_name(self, part: Path, path: Path, key: str, if_absent: bool) -> None:
        for attempt in range(_TRIES):
            try:
                _make_folder(path.parent)
                if if_absent:
                    os.link(part, path)  # fails where there is one: no look and then a rename
                else:
                    part.rename(path)
                _sync_folder(path.parent)
                return
            except FileExistsError as error:
                raise ConflictError(f"{key}: there is an object of this key already", evidence=str(error)) from error
            except FileNotFoundError:
                if attempt == _TRIES - 1:  # its folder was emptied and removed again and again
                    raise

    def _probe(self) -> None:
        with self._part(str(self._root)) as (part, file):
            _written(str(self._root), file, b"")
            other = part.with_suffix(".probe")
            try:
                os.link(part, other)
            finally:
                other.unlink(missing_ok=True)

    def _remove_left_behind(self) -> None:
        with suppress(OSError), os.scandir(self._parts) as entries:
            for entry in entries:
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_BEHIND_S:
                        Path(entry.path).unlink()

    def _remove_empty(self, folder: Path) -> None:
        """Folders that hold no object any more, up to the root."""
        with suppress(OSError):
            while folder not in (self._root, self._root.parent):
                folder.rmdir()
                folder = folder.parent

    # ---- etags -------------------------------------------------------------------------------------------------------

    def _etag(self, file: BufferedReader, status: os.stat_result) -> str:
        mark = _fingerprint(status)
        with self._lock:
            known = self._etags.get(mark)
        return known or self._remember(status, hashlib.file_digest(file, _md5).hexdigest())

    def _remember(self, status: os.stat_result, etag: str) -> str:
        with self._lock:
            if len(self._etags) >= MAX_REMEMBERED:
                self._etags.clear()
            self._etags[_fingerprint(status)] = etag
        return etag


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _fingerprint(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _info(key: str, status: os.stat_result, etag: str) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, etag, status.st_mtime_ns)


def _written(what: str, file: BufferedRandom, data: bytes | Iterator[bytes]) -> str:
    """The MD5 of what was written and synced. An error of the iterator is its owner's: it passes as it is."""
    md5 = _md5()
    for chunk in (data,) if isinstance(data, bytes) else data:
        md5.update(chunk)
        with _translated(what):
            file.write(chunk)
    with _translated(what):
        file.flush()
        os.fsync(file.fileno())
    return md5.hexdigest()


def _raised(error: OSError) -> None:
    """What os.walk does with an error: nothing, unless told."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):  # nothing was put there yet, or it is gone
        raise _translation(str(error.filename), error) from error


def _make_folder(folder: Path) -> None:
    """A folder and those above it, each on the disk before something is put into it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    if not stat.S_ISDIR(folder.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translation(what, error) from error


def _translation(what: str, error: OSError) -> MiddlewareError:
    evidence = str(error)
    why = f"{what}: {error.strerror}"
    match error.errno:
        case errno.EISDIR | errno.ENOTDIR | errno.EEXIST | errno.ENOTEMPTY:
            return ConflictError(
                f"{what}: in a folder, a key cannot be an object and the beginning of others", evidence=evidence
            )
        case errno.EACCES | errno.EROFS:
            return RejectedError(why, hint="give the user of ssmd the right to use this folder", evidence=evidence)
        case errno.EPERM | errno.EOPNOTSUPP:
            return RejectedError(why, hint="the file system must know hard links (no FAT)", evidence=evidence)
        case errno.ENAMETOOLONG:
            return LimitError(why, hint="the file system takes names of at most 255 bytes", evidence=evidence)
        case errno.EFBIG:
            return LimitError(why, evidence=evidence)
        case errno.ENOSPC | errno.EDQUOT:
            return UnavailableError(why, hint="free space on its disk", evidence=evidence)
        case _:
            return UnavailableError(why, evidence=evidence)
