"""The contract of Storage (ssmd/middleware/interfaces.py), kept by memory, a local folder, and S3 (the moto server)."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import S3Server

from ssmd.errors import (
    ConflictError,
    LimitError,
    MissingObjectError,
    RejectedError,
    UnavailableError,
)
from ssmd.middleware import objectstore
from ssmd.middleware.files import FileStorage
from ssmd.middleware.interfaces import Storage
from ssmd.middleware.memory import MemoryStorage
from ssmd.middleware.objectstore import ObjectStorage

MIB = 1 << 20
REFUSED = (
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./x",
    "a/./x",
    "a//x",
    "a/",
    "line\nend",
    "\0",
    "a\x7f",
    "a\x85b",
    "\ud800",
    ".ssmd/check",
    "a/.ssmd/x",
)
HOSTILE = (
    "a key with spaces",
    "*",
    "a?b#c",
    "a%2Fb",
    "a+b&c=d",
    "back\\slash",
    ">",
    "{x}",
    "quote'\"",
    ".hidden/x",
    "...",
    "~x",
    "http://x".replace("//", "/"),
    "Zürich/€",
    "\U0001f680",
    "/".join(["x" * 127] * 8),  # 1,023 bytes
)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def bucket(url: str, name: str = S3Server.BUCKET, **options: object) -> ObjectStorage:
    given = {"region": "us-east-1", "retries": 1, "retry_s": 5.0, "request_s": 10.0, **S3Server.KEYS, **options}
    return ObjectStorage(name, endpoint=url, **given)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "files", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty storage of each kind."""
    made: Storage
    if request.param == "memory":
        made = MemoryStorage()
    elif request.param == "files":
        (tmp_path / "archive").mkdir()
        made = FileStorage(tmp_path / "archive")
    else:
        server: S3Server = request.getfixturevalue("store")
        made = bucket(server.url)
    yield made
    made.close()


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [info.key for info in storage.list(prefix)]


# ---- put and get -----------------------------------------------------------------------------------------------------


def test_what_is_put_is_got(storage: Storage) -> None:
    before = time.time_ns()
    info = storage.put("a/b.txt", b"content")
    assert storage.get("a/b.txt") == b"content"
    assert (info.key, info.size_bytes, info.etag, info.multipart) == ("a/b.txt", 7, md5(b"content"), False)
    assert abs(info.modified_ns - before) < 60 * 10**9
    assert storage.head("a/b.txt") == info


def test_an_object_may_be_empty(storage: Storage) -> None:
    assert storage.put("empty", b"").etag == md5(b"")
    assert storage.get("empty") == b""
    assert storage.range("empty", 0, 10) == b""
    assert b"".join(storage.stream("empty")) == b""


def test_a_put_replaces_what_was_there(storage: Storage) -> None:
    storage.put("x", b"one")
    assert storage.put("x", b"second").etag == md5(b"second")
    assert storage.get("x") == b"second"
    assert storage.head("x").size_bytes == 6


def test_an_iterator_is_put_whole(storage: Storage) -> None:
    info = storage.put("x", iter([b"", b"one", b"", b"two"]))
    assert (info.size_bytes, info.etag) == (6, md5(b"onetwo"))
    assert storage.get("x") == b"onetwo"


def test_put_if_absent_leaves_what_is_there(storage: Storage) -> None:
    assert storage.put("x", b"one", if_absent=True).etag == md5(b"one")
    with pytest.raises(ConflictError, match="x") as caught:
        storage.put("x", b"two", if_absent=True)
    assert not caught.value.retryable
    assert storage.get("x") == b"one"


def test_of_many_that_put_if_absent_at_once_exactly_one_succeeds(storage: Storage) -> None:
    start = threading.Barrier(8)
    done: list[bytes] = []

    def put(mine: bytes) -> None:
        start.wait()
        try:
            storage.put("x", mine, if_absent=True)
            done.append(mine)
        except ConflictError:
            pass

    threads = [threading.Thread(target=put, args=(b"%d" % i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert storage.get("x") == done[0]


def test_an_iterator_that_fails_leaves_nothing_and_its_error_passes(storage: Storage) -> None:
    def failing(error: Exception) -> Iterator[bytes]:
        yield b"some"
        raise error

    for error in (KeyError("mine"), FileNotFoundError("mine")):
        with pytest.raises(type(error), match="mine"):
            storage.put("x", failing(error))
    assert keys(storage) == []


def test_large_objects_are_put_and_read_in_parts(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectstore, "MAX_SINGLE_BYTES", 2 * MIB)
    pieces = [bytes([i]) * MIB for i in range(18)]
    whole = b"".join(pieces)
    for key, data in (("stream", iter(pieces)), ("bytes", whole)):
        info = storage.put(key, data)
        assert info.size_bytes == len(whole)
        assert info.multipart or info.etag == md5(whole)
        assert ("-" in info.etag) == info.multipart
        assert storage.head(key) == info
    read = list(storage.stream("stream", chunk_bytes=MIB))
    assert b"".join(read) == whole
    assert max(map(len, read)) <= 4 * MIB
    assert storage.range("bytes", 5 * MIB - 2, 4) == b"\4\4\5\5"


def test_put_if_absent_holds_for_large_objects_too(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectstore, "MAX_SINGLE_BYTES", MIB)
    one = [b"1" * MIB] * 9
    assert storage.put("x", iter(one), if_absent=True).size_bytes == 9 * MIB
    with pytest.raises(ConflictError):
        storage.put("x", iter([b"2" * MIB] * 9), if_absent=True)
    assert md5(storage.get("x")) == md5(b"".join(one))
    assert keys(storage) == ["x"]


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_ranges_end_where_the_object_ends(storage: Storage) -> None:
    storage.put("x", b"0123456789")
    assert storage.range("x", 0, 4) == b"0123"
    assert storage.range("x", 8, 10) == b"89"
    assert storage.range("x", 10, 1) == b""
    assert storage.range("x", 99, 5) == b""
    assert storage.range("x", 3, 0) == b""
    for start, length in ((-1, 2), (0, -1)):
        with pytest.raises(ValueError):
            storage.range("x", start, length)


def test_a_stream_is_read_as_far_as_is_wanted(storage: Storage) -> None:
    storage.put("x", b"0123456789" * 1000)
    pieces = storage.stream("x", chunk_bytes=1000)
    first = next(pieces)
    assert (b"0123456789" * 1000).startswith(first) and first


READS: list[Callable[[Storage, str], object]] = [
    lambda storage, key: storage.get(key),
    lambda storage, key: storage.head(key),
    lambda storage, key: storage.range(key, 0, 5),
    lambda storage, key: storage.range(key, 0, 0),
    lambda storage, key: next(storage.stream(key)),
]


@pytest.mark.parametrize("read", READS)
def test_what_is_not_there_is_missing(storage: Storage, read: Callable[[Storage, str], object]) -> None:
    storage.put("folder/x", b"1")
    for key in ("nothing", "folder", "folder/y", "folder/x/z"):
        with pytest.raises(MissingObjectError, match="there is no object") as caught:
            read(storage, key)
        assert not caught.value.retryable


# ---- list and delete -------------------------------------------------------------------------------------------------


def test_a_list_is_sorted_by_the_bytes_of_the_keys(storage: Storage) -> None:
    given = ["b", "a/b/c", "a-b", "a/b-c", "a/b/d", "Z", "é", "a0", "\U0001f680", "\uff5e"]
    for key in given:
        storage.put(key, key.encode())
    listed = list(storage.list())
    assert [info.key for info in listed] == sorted(given, key=str.encode)
    assert {info.key: (info.size_bytes, info.etag) for info in listed} == {
        key: (len(key.encode()), md5(key.encode())) for key in given
    }


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["a/b/c", "a/b/d", "a/bc", "ab"]),
        ("a", ["a/b/c", "a/b/d", "a/bc", "ab"]),
        ("a/", ["a/b/c", "a/b/d", "a/bc"]),
        ("a/b", ["a/b/c", "a/b/d", "a/bc"]),
        ("a/b/", ["a/b/c", "a/b/d"]),
        ("a/b/c", ["a/b/c"]),
        ("a/b/c/", []),
        ("x", []),
        ("x/y", []),
        ("../", []),
        ("/", []),
    ],
)
def test_a_prefix_is_any_text(storage: Storage, prefix: str, expected: list[str]) -> None:
    for key in ("a/b/c", "a/b/d", "a/bc", "ab"):
        storage.put(key, b"")
    assert keys(storage, prefix) == expected


def test_an_empty_storage_lists_nothing(storage: Storage) -> None:
    assert keys(storage) == []


def test_what_is_deleted_is_gone_and_twice_is_no_error(storage: Storage) -> None:
    storage.put("a/x", b"1")
    storage.put("a/y", b"2")
    for _ in range(2):
        storage.delete("a/x")
    storage.delete("a")
    assert keys(storage) == ["a/y"]
    storage.put("a/x", b"3", if_absent=True)
    storage.delete("a/x")
    storage.delete("a/y")
    storage.put("a", b"now an object")
    assert keys(storage) == ["a"]


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_is_kept_as_it_is(storage: Storage, key: str) -> None:
    assert storage.put(key, key.encode()).key == key
    assert storage.get(key) == key.encode()
    assert keys(storage) == [key]
    storage.delete(key)
    assert keys(storage) == []


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_tries_to_escape_is_refused(storage: Storage, key: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    calls: list[Callable[[], object]] = [
        lambda: storage.put(key, b"x"),
        lambda: storage.put(key, b"x", if_absent=True),
        lambda: storage.delete(key),
        *(lambda read=read: read(storage, key) for read in READS),  # type: ignore[misc]
    ]
    for call in calls:
        with pytest.raises(RejectedError, match="no key of an object"):
            call()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_key_has_at_most_1024_bytes(storage: Storage) -> None:
    longest = "/".join(["é" * 63] * 8) + "/"  # 8 * 127 = 1,016 bytes
    longest += "x" * (1024 - len(longest.encode()))
    storage.put(longest, b"1")
    assert keys(storage) == [longest]
    for call in (storage.get, storage.head, storage.delete, lambda key: storage.put(key, b"")):
        with pytest.raises(LimitError, match="too long"):
            call(longest + "x")


# ---- check and close -------------------------------------------------------------------------------------------------


def test_check_finds_nothing_wrong_and_leaves_nothing_to_see(storage: Storage) -> None:
    storage.put("x", b"1")
    for writable in (True, False, True):
        storage.check(writable=writable)
    assert keys(storage) == ["x"]


def test_a_closed_storage_is_unavailable(storage: Storage) -> None:
    storage.put("x", b"1")
    storage.close()
    storage.close()
    calls: list[Callable[[], object]] = [
        storage.check,
        lambda: storage.put("x", b"x"),
        lambda: list(storage.list()),
        lambda: storage.delete("x"),
        *(lambda read=read: read(storage, "x") for read in READS),  # type: ignore[misc]
    ]
    for call in calls:
        with pytest.raises(UnavailableError, match="closed"):
            call()
