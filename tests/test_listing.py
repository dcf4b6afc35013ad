"""The archiver's listing is what `find` gives, at every moment, and reads only what changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ssmd.journal import listing
from ssmd.journal.listing import Listing
from ssmd.journal.paths import find

STEM = "20261122T175042Z-{:012d}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for day in ("2026-11-21", "2026-11-22"):
        (tmp_path / "kalshi" / day).mkdir(parents=True)
    return tmp_path / "kalshi"


def make(root: Path, day: str, number: int, suffix: str = ".capnp") -> Path:
    path = root / day / (STEM.format(number) + suffix)
    path.write_bytes(b"x")
    return path


def settle(root: Path) -> None:
    """All folders changed long ago."""
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            at = time.time() - 1000 + len(list(path.iterdir()))
            os.utime(path, (at, at))


def test_it_is_what_find_gives_through_the_life_of_a_journal(root: Path) -> None:
    here = Listing(root)

    def agree() -> None:
        assert here.segments() == find([root])
        assert here.segments() == find([root])

    agree()
    first = make(root, "2026-11-21", 1, ".capnp.open")
    agree()
    sealed = first.rename(first.with_suffix(""))
    agree()
    make(root, "2026-11-21", 1, ".capnp.zst")
    agree()
    sealed.unlink()
    agree()
    make(root, "2026-11-22", 2, ".capnp.open")
    (root / "2026-11-23").mkdir()
    make(root, "2026-11-23", 3)
    agree()
    for path in (root / "2026-11-21").iterdir():
        path.unlink()
    (root / "2026-11-21").rmdir()
    agree()


def test_a_journal_that_is_not_there_yet_has_no_segments(tmp_path: Path) -> None:
    here = Listing(tmp_path / "later")
    assert here.segments() == []
    (tmp_path / "later" / "2026-11-22").mkdir(parents=True)
    make(tmp_path / "later", "2026-11-22", 1)
    assert len(here.segments()) == 1


def test_folders_that_did_not_change_are_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root, "2026-11-21", 1)
    make(root, "2026-11-22", 2)
    settle(root)
    here = Listing(root)
    before = here.segments()
    read: list[str] = []
    real = listing._read
    monkeypatch.setattr(listing, "_read", lambda path, at: (read.append(path.name), real(path, at))[1])
    assert here.segments() is before and read == []
    make(root, "2026-11-22", 3)
    assert len(here.segments()) == 3 and read == ["2026-11-22"]


def test_a_folder_that_has_just_changed_is_not_trusted(root: Path) -> None:
    """Two changes within one tick of the file system's clock leave the same time."""
    make(root, "2026-11-22", 1)
    status = (root / "2026-11-22").stat()
    here = Listing(root)
    assert len(here.segments()) == 1
    make(root, "2026-11-22", 2)
    os.utime(root / "2026-11-22", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(here.segments()) == 2
