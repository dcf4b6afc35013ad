"""Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"
FILE_MODE = 0o640  # less the umask


def replace_file(path: Path, data: bytes) -> None:
    """Makes `path` hold `data`, durably; a crash leaves the old file or the new one, at worst a `.tmp` beside it."""
    temporary = path.with_name(path.name + TEMPORARY)
    with removed_on_failure(temporary), open_new(temporary) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    publish_file(temporary, path)


def open_new(path: Path) -> BinaryIO:
    """A file of a journal, emptied if it is there, with the mode that segments have (csrc/segment.c)."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE), "wb")


@contextmanager
def removed_on_failure(temporary: Path) -> Iterator[None]:
    """On a full disk half a file takes the room that records need."""
    try:
        yield
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish_file(temporary: Path, path: Path) -> None:
    """Gives a file that is already synced its final name."""
    temporary.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
