"""Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"


def replace_file(path: Path, data: bytes) -> None:
    """Makes `path` hold `data`, durably; a crash leaves the old file or the new one, at worst a `.tmp` beside it."""
    temporary = path.with_name(path.name + TEMPORARY)
    with removed_on_failure(temporary), temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    publish_file(temporary, path)


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
