"""What only a folder does as a Storage: durable names, nothing half, rights, full disks, files that are folders."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssmd.errors import ConflictError, LimitError, MiddlewareError, RejectedError, UnavailableError
from ssmd.middleware import files
from ssmd.middleware.files import FileStorage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "archive"
    made.mkdir()
    return made


@pytest.fixture
def storage(root: Path) -> FileStorage:
    return FileStorage(root)


def listed(storage: FileStorage) -> list[str]:
    return [info.key for info in storage.list()]


class Order:
    """What was done to the disk, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.done: list[str] = []
        real_fsync, real_link, real_rename = os.fsync, os.link, Path.rename

        def name(path: Path) -> str:
            relative = path.relative_to(root).as_posix()
            return "part" if relative.startswith(".ssmd/") else relative

        def fsync(handle: int) -> None:
            path = Path(f"/proc/self/fd/{handle}").readlink()
            if path.is_relative_to(root):
                self.done.append(f"sync {name(path)}")
            real_fsync(handle)

        def link(source: Any, target: Any) -> None:
            self.done.append(f"link {name(target)}")
            real_link(source, target)

        def rename(path: Path, target: Path) -> Path:
            self.done.append(f"rename {name(target)}")
            return real_rename(path, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "link", link)
        monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.parametrize(("if_absent", "named"), [(False, "rename"), (True, "link")])
def test_bytes_then_name_then_folder_are_on_the_disk(
    storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch, if_absent: bool, named: str
) -> None:
    order = Order(monkeypatch, root)
    storage.put("a/b/x", b"1", if_absent=if_absent)
    after = order.done[order.done.index("sync part") :]
    assert after == ["sync part", "sync .", "sync a", f"{named} a/b/x", "sync a/b"]


def test_what_is_on_its_way_is_not_listed(storage: FileStorage, root: Path) -> None:
    seen: list[list[str]] = []

    def content() -> Iterator[bytes]:
        yield b"half"
        seen.append(listed(storage))
        seen.append([path.name for path in (root / ".ssmd").iterdir()])
        yield b"whole"

    storage.put("x", content())
    assert seen[0] == [] and len(seen[1]) == 1
    assert listed(storage) == ["x"] and list((root / ".ssmd").iterdir()) == []


def test_what_a_kill_left_behind_is_removed_after_a_day(storage: FileStorage, root: Path) -> None:
    storage.put("x", b"1")
    old, new = root / ".ssmd" / "old", root / ".ssmd" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    yesterday = time.time() - files.LEFT_BEHIND_S - 60
    os.utime(old, (yesterday, yesterday))
    storage.put("y", b"2")
    assert (old.exists(), new.exists()) == (False, True)
    assert listed(storage) == ["x", "y"]


def test_a_key_cannot_be_an_object_and_a_folder_here(storage: FileStorage) -> None:
    storage.put("a", b"1")
    storage.put("b/c", b"2")
    for key in ("a/x", "b"):
        for if_absent in (False, True):
            with pytest.raises(ConflictError):
                storage.put(key, b"3", if_absent=if_absent)
    assert listed(storage) == ["a", "b/c"]


def test_a_name_that_the_file_system_does_not_take_is_a_limit(storage: FileStorage) -> None:
    with pytest.raises(LimitError, match="too long"):
        storage.put("x" * 300, b"1")


def test_files_of_others_are_objects_and_their_etags_follow_their_bytes(storage: FileStorage, root: Path) -> None:
    (root / "x").write_bytes(b"one")
    before = storage.head("x").etag
    (root / "x").write_bytes(b"other")
    assert storage.head("x").etag != before
    assert storage.head("x").size_bytes == 5


def test_names_that_are_no_keys_are_not_listed(storage: FileStorage, root: Path) -> None:
    for name in (b"line\nend", b"\xff\xfe"):
        (root / os.fsdecode(name)).write_bytes(b"")
    storage.put("x", b"1")
    assert listed(storage) == ["x"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, RejectedError),
        (errno.EROFS, RejectedError),
        (errno.EPERM, RejectedError),
        (errno.ENOSPC, UnavailableError),
        (errno.EDQUOT, UnavailableError),
        (errno.EIO, UnavailableError),
        (errno.ESTALE, UnavailableError),
    ],
)
@pytest.mark.parametrize("where", ["fsync", "link", "mkdir"])
def test_a_disk_that_refuses_leaves_nothing_half(
    storage: FileStorage,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[MiddlewareError],
    where: str,
) -> None:
    storage.put("kept", b"1")

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path if where == "mkdir" else os, where, refuse)
        with pytest.raises(kind, match=os.strerror(number)) as caught:
            storage.put("new/x", b"2", if_absent=True)
    assert caught.value.evidence and caught.value.retryable is (kind is UnavailableError)
    assert listed(storage) == ["kept"] and list((root / ".ssmd").iterdir()) == []
    storage.put("new/x", b"2", if_absent=True)


def test_check_leaves_no_file(storage: FileStorage, root: Path) -> None:
    storage.check()
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_folder_that_is_not_there_is_the_users_to_mend_and_is_not_made(storage: FileStorage, root: Path) -> None:
    """Its disk is not mounted: what is put would land on another one."""
    root.rmdir()

    def refused() -> None:
        for writable in (True, False):
            with pytest.raises(RejectedError, match="no such folder"):
                storage.check(writable=writable)
        with pytest.raises(RejectedError, match="no such folder"):
            storage.put("x", b"1")
        with pytest.raises(RejectedError, match="no such folder"):
            listed(storage)
        with pytest.raises(RejectedError, match="no such folder"):
            storage.head("x")

    refused()
    assert not root.exists()
    root.write_bytes(b"a file")
    refused()


def test_a_folder_that_allows_no_hard_links_is_refused_by_the_check(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(RejectedError, match="hard links"):
        storage.check()


def test_a_put_and_a_delete_of_the_same_folder_at_once_do_not_disturb_each_other(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link
    taken: list[str] = []

    def link(source: Any, target: Any) -> None:
        if not taken:
            taken.append("the folder")
            target.parent.rmdir()  # another's delete has just emptied it
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    storage.put("a/x", b"1", if_absent=True)
    assert taken and listed(storage) == ["a/x"]
