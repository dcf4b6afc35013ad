"""Copies of segments in a Storage: proved, put once, resumed after a kill at any step; and local ones that go."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_writer import DAY, NOON, Journal

from ssmd.archiver import Options, archive
from ssmd.archiver.outbox import AGAIN_S, LONGEST_WAIT_S, SPOT_EVERY_S, Outbox
from ssmd.archiver.retention import Rule, expire
from ssmd.archiver.upload import Done, Target, read_mark, still_there, upload
from ssmd.errors import ConflictError, DamageError, RejectedError, UnavailableError
from ssmd.journal import manifest
from ssmd.journal.archived import Archived, read_archived
from ssmd.journal.paths import ARCHIVED, OPEN, Segment, find
from ssmd.middleware.files import FileStorage
from ssmd.middleware.interfaces import ObjectInfo
from ssmd.middleware.memory import MemoryStorage

REPOSITORY = Path(__file__).resolve().parent.parent
IDENTITY = "kalshi-5f0c9a1e22b4"
FOLDER = f"md/kalshi/{IDENTITY}/{DAY}"
DAY_NS = 86_400 * 10**9


class Flaky(MemoryStorage):
    """A Storage that can be told to fail, and that remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.own_etags = False
        self.asked: list[str] = []

    def _opened(self) -> None:
        super()._opened()
        if self.failure is not None:
            raise self.failure

    def check(self, *, writable: bool = True) -> None:
        self.asked.append("check")
        super().check(writable=writable)

    def put(self, key: str, data: bytes | Iterator[bytes], *, if_absent: bool = False) -> ObjectInfo:
        self.asked.append(f"put {key}")
        return self._shown(super().put(key, data, if_absent=if_absent))

    def head(self, key: str) -> ObjectInfo:
        self.asked.append(f"head {key}")
        return self._shown(super().head(key))

    def stream(self, key: str, *, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        self.asked.append(f"stream {key}")
        return super().stream(key, chunk_bytes=chunk_bytes)

    def _shown(self, info: ObjectInfo) -> ObjectInfo:
        """As of an object that was put in parts."""
        if not self.own_etags:
            return info
        return ObjectInfo(info.key, info.size_bytes, info.etag[::-1] + "-2", info.modified_ns, multipart=True)


def target_of(storage: Any, place: str = "s3://bucket") -> Target:
    return Target(storage, place, "md", "kalshi", IDENTITY)


@pytest.fixture
def storage() -> Flaky:
    return Flaky()


@pytest.fixture
def target(storage: Flaky) -> Target:
    return target_of(storage)


def archived(j: Journal, *, trades: int = 3, options: Options = Options()) -> Segment:
    """A sealed segment with its manifest, compressed unless the options say otherwise."""
    for seq in range(trades):
        j.trade(seq + 1)
    path = j.seal()
    (segment,) = find([path])
    archive(segment, options)
    return find([path if path.exists() else path.with_name(path.name + ".zst")])[0]


def put(segment: Segment, target: Target, **options: Any) -> Done:
    return upload(segment, target, now_ns=lambda: NOON, **options)


def keys(storage: Any) -> list[str]:
    return [info.key for info in storage.list()]


def names(j: Journal) -> list[str]:
    return sorted(path.name for path in j.root.rglob("*") if path.is_file())


# ---- one segment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compress", "suffix"), [(True, ".capnp.zst"), (False, ".capnp")])
def test_segment_and_manifest_are_copied_byte_for_byte_under_their_key(
    journal: Journal, storage: Flaky, target: Target, compress: bool, suffix: str
) -> None:
    segment = archived(journal, options=Options(compress=compress))
    done = put(segment, target)
    stem = segment.stem
    assert keys(storage) == [f"{FOLDER}/{stem}{suffix}", f"{FOLDER}/{stem}.manifest.json"]
    data, voucher = segment.path.read_bytes(), manifest.path_of(segment).read_bytes()
    assert [storage.get(key) for key in keys(storage)] == [data, voucher]
    assert (done.objects, done.bytes) == (2, len(data) + len(voucher))


def test_the_manifest_goes_last(journal: Journal, storage: Flaky, target: Target) -> None:
    put(archived(journal), target)
    assert [asked for asked in storage.asked if asked.startswith("put")] == [f"put {key}" for key in keys(storage)]


def test_the_mark_says_what_was_proved_and_where(journal: Journal, target: Target) -> None:
    segment = archived(journal)
    done = put(segment, target)
    assert done.mark is not None
    assert read_mark(segment, "s3://bucket") == done.mark
    assert read_mark(segment, "s3://another") is None
    data = segment.path.read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    held = json.loads(segment.beside(ARCHIVED).read_bytes())
    assert held == {
        "version": 1,
        "place": "s3://bucket",
        "segment": {"key": f"{FOLDER}/{segment.path.name}", "size_bytes": len(data), "etag": md5},
        "manifest": held["manifest"],
        "first_number": 1,
        "last_number": 3,
        "last_recv_ns": NOON + 3000,
        "proved_ns": NOON,
    }


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 2}', "[" * 100_000])
def test_a_mark_that_cannot_be_read_is_none(journal: Journal, target: Target, text: str) -> None:
    segment = archived(journal)
    segment.beside(ARCHIVED).write_text(text)
    assert read_mark(segment, target.place) is None


def test_what_is_there_already_is_compared_and_not_put_again(journal: Journal, storage: Flaky, target: Target) -> None:
    segment = archived(journal)
    put(segment, target)
    segment.beside(ARCHIVED).unlink()
    storage.asked.clear()
    done = put(segment, target)
    assert (done.objects, done.bytes) == (0, 0) and done.mark is not None
    assert [asked.split()[0] for asked in storage.asked] == ["head", "head"]


def test_an_object_whose_etag_is_no_md5_is_read_back(journal: Journal, storage: Flaky, target: Target) -> None:
    storage.own_etags = True
    segment = archived(journal)
    done = put(segment, target)
    assert done.mark is not None
    assert [asked for asked in storage.asked if asked.startswith("stream")] == [f"stream {k}" for k in keys(storage)]
    assert still_there(storage, done.mark.segment) and still_there(storage, done.mark.manifest)


@pytest.mark.parametrize("own_etags", [False, True])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("other", [b"other", None])
def test_another_object_in_its_place_is_a_loud_error_and_stays(
    journal: Journal, storage: Flaky, target: Target, own_etags: bool, which: int, other: bytes | None
) -> None:
    segment = archived(journal)
    put(segment, target)
    segment.beside(ARCHIVED).unlink()
    key = keys(storage)[which]
    content = other or bytes(reversed(storage.get(key)))  # of another size, or of the same
    storage.put(key, content)
    storage.own_etags = own_etags
    with pytest.raises(ConflictError, match="holds something else") as caught:
        put(segment, target)
    assert "nothing was replaced" in str(caught.value)
    assert storage.get(key) == content
    assert read_mark(segment, target.place) is None


def test_bytes_that_changed_since_the_manifest_are_not_copied(journal: Journal, storage: Flaky, target: Target) -> None:
    for options in (Options(), Options(compress=False)):
        segment = archived(journal, options=options)
        data = bytearray(segment.path.read_bytes())
        data[len(data) // 2] ^= 1
        segment.path.write_bytes(data)
        with pytest.raises(DamageError):
            put(segment, target)
    assert keys(storage) == []


def test_two_archivers_that_copy_at_once_agree(journal: Journal, storage: Flaky, target: Target) -> None:
    segment = archived(journal)

    def meanwhile(step: str, of: Segment) -> bool:
        if step == "put segment":
            put(segment, target)  # the other one, in between
        return True

    assert put(segment, target, go_on=meanwhile).mark is not None
    assert len(keys(storage)) == 2


STEPS = ["put segment", "compare segment", "put manifest", "compare manifest", "mark"]


@pytest.mark.parametrize("stop", STEPS)
def test_a_stop_before_any_step_is_finished_by_the_next_call(
    journal: Journal, storage: Flaky, target: Target, stop: str
) -> None:
    segment = archived(journal)
    reached: list[str] = []

    def go_on(step: str, of: Segment) -> bool:
        reached.append(step)
        return step != stop

    first = put(segment, target, go_on=go_on)
    assert reached == STEPS[: STEPS.index(stop) + 1]
    assert first.mark is None and read_mark(segment, target.place) is None
    assert (
        len(keys(storage)) == first.objects == {"put segment": 0, "compare segment": 1, "put manifest": 1}.get(stop, 2)
    )
    second = put(segment, target)
    assert second.mark is not None and first.objects + second.objects == 2


# A new process for each kill: it dies at the n-th step, or at the n-th call to the kernel that changes a file.
KILL = """
import os, sys
from pathlib import Path
from ssmd.archiver.retention import Rule, expire, finish
from ssmd.archiver.upload import Target, upload
from ssmd.journal.paths import find
from ssmd.middleware.files import FileStorage
root, archive, left = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def count():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
def dying(real):
    def call(*arguments, **options):
        count()
        return real(*arguments, **options)
    return call
def step(name, segment):
    count()
    return True
os.fsync, os.link = dying(os.fsync), dying(os.link)
Path.rename, Path.unlink, Path.rmdir = dying(Path.rename), dying(Path.unlink), dying(Path.rmdir)
target = Target(FileStorage(archive), "file:///archive", "md", "kalshi", "kalshi-5f0c9a1e22b4")
for segment in find([root]):
    upload(segment, target, now_ns=lambda: 1, go_on=step)
finish(root, step)
for segment in expire(root, find([root]), target, Rule(after_s=0, published=False), now_ns=2, go_on=step):
    pass
"""


def test_a_sigkill_at_each_step_and_each_change_of_a_file_loses_nothing(journal: Journal, tmp_path: Path) -> None:
    segments = [archived(journal), archived(journal)]
    content = {segment.path.name: segment.path.read_bytes() for segment in segments}
    content |= {path.name: path.read_bytes() for path in map(manifest.path_of, segments)}
    (tmp_path / "archive").mkdir()
    storage = FileStorage(tmp_path / "archive")
    for calls in range(200):
        done = subprocess.run(
            [sys.executable, "-c", KILL, journal.root, tmp_path / "archive", str(calls)], cwd=REPOSITORY, check=False
        )
        copies = {key.rpartition("/")[2]: storage.get(key) for key in keys(storage)}
        local = {path.name: path.read_bytes() for path in journal.root.rglob("*") if path.name in content}
        assert {**copies, **local} == content, calls
        marks = list(journal.root.rglob(f"*{ARCHIVED}"))
        assert all(path.name.removesuffix(ARCHIVED) + ".manifest.json" in copies for path in marks), calls
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert done.returncode == 0 and calls < 100
    assert keys(storage) == sorted(f"{FOLDER}/{name}" for name in content)
    newest = segments[1].stem
    assert names(journal) == [f"{newest}.archived.json", f"{newest}.capnp.zst", f"{newest}.manifest.json"]


# ---- removal of local copies -----------------------------------------------------------------------------------------


def three_copied(j: Journal, target: Target) -> list[Segment]:
    """Three segments (records 1-3, 4-6, 7-9), all copied, their copies proved at NOON."""
    segments = [archived(j) for _ in range(3)]
    for segment in segments:
        assert put(segment, target).mark is not None
    return segments


def stems(segments: list[Segment]) -> list[str]:
    return [segment.stem for segment in segments]


def removed(
    j: Journal, target: Target, *, after_s: float = 0, published: bool = False, now_ns: int = NOON
) -> list[str]:
    rule = Rule(after_s=after_s, published=published)
    return stems(list(expire(j.root, find([j.root]), target, rule, now_ns=now_ns)))


def test_local_copies_go_but_the_newest_sealed_segment_stays(journal: Journal, target: Target) -> None:
    segments = three_copied(journal, target)
    assert removed(journal, target) == stems(segments[:2])
    assert [segment.stem for segment in find([journal.root])] == [segments[2].stem]
    assert all(segments[2].stem in name for name in names(journal))


def test_the_newest_sealed_one_stays_also_beside_an_open_one(journal: Journal, target: Target) -> None:
    segments = three_copied(journal, target)
    journal.trade(9)
    journal.write(OPEN)
    assert removed(journal, target) == stems(segments[:2])


def test_local_copies_stay_for_their_time(journal: Journal, target: Target) -> None:
    segments = three_copied(journal, target)
    two_days = 2 * 86_400
    assert removed(journal, target, after_s=two_days, now_ns=NOON + 2 * DAY_NS - 1) == []
    assert removed(journal, target, after_s=two_days, now_ns=NOON + 2 * DAY_NS) == stems(segments[:2])


def test_nothing_goes_that_was_not_proved_to_be_in_this_place(journal: Journal, target: Target, storage: Flaky) -> None:
    segments = three_copied(journal, target)
    assert removed(journal, target_of(storage, "s3://another")) == []
    segments[0].beside(ARCHIVED).unlink()
    assert removed(journal, target) == []  # nor what is behind it: the journal here has no hole


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (None, 0),
        ("{", 0),
        ('{"number": "6"}', 0),
        ('{"number": 2}', 0),
        ('{"number": 3}', 1),
        ('{"number": 5}', 1),
        ('{"number": 99}', 2),
    ],
)
def test_nothing_goes_that_the_publisher_has_not_passed(
    journal: Journal, target: Target, cursor: str | None, expected: int
) -> None:
    segments = three_copied(journal, target)
    if cursor is not None:
        (journal.root / "publisher.cursor").write_text(cursor)
    assert removed(journal, target, published=True) == stems(segments[:expected])


@pytest.mark.parametrize("which", ["segment", "manifest"])
@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_copy_that_is_gone_or_changed_keeps_the_local_one(
    journal: Journal, target: Target, storage: Flaky, which: str, how: str
) -> None:
    segments = three_copied(journal, target)
    mark = read_mark(segments[0], target.place)
    assert mark is not None
    key = mark.segment.key if which == "segment" else mark.manifest.key
    storage.delete(key) if how == "gone" else storage.put(key, b"other")
    with pytest.raises(ConflictError, match="gone or was changed"):
        removed(journal, target)
    assert segments[0].path.exists()
    if how == "gone":  # it is copied again, and then the local one may go
        assert put(segments[0], target).objects == 1
        assert removed(journal, target) == stems(segments[:2])
    else:
        with pytest.raises(ConflictError, match="holds something else"):
            put(segments[0], target)


def test_a_storage_that_does_not_answer_keeps_everything(journal: Journal, target: Target, storage: Flaky) -> None:
    three_copied(journal, target)
    before = names(journal)
    storage.failure = UnavailableError("down")
    with pytest.raises(UnavailableError):
        removed(journal, target)
    assert names(journal) == before


def test_bytes_that_a_recovery_cut_off_are_never_removed(journal: Journal, target: Target) -> None:
    segments = three_copied(journal, target)
    kept = segments[0].beside(".capnp.cut")
    kept.write_bytes(b"stored")
    removed(journal, target)
    assert kept.read_bytes() == b"stored"


def test_an_empty_folder_of_a_day_goes_too(journal: Journal, target: Target) -> None:
    segment = three_copied(journal, target)[0]
    earlier = journal.root / "2026-09-20"
    earlier.mkdir()
    for path in journal.folder.glob(f"{segment.stem}.*"):
        path.rename(earlier / path.name)
    removed(journal, target)
    assert sorted(path.name for path in journal.root.iterdir()) == [DAY]


# ---- the outbox ------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Boxed:
    """An outbox whose clock and dice are ours."""

    def __init__(self, j: Journal, target: Target, rule: Rule | None = None) -> None:
        self.clock = Clock()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.journal = j
        self.box = Outbox(
            j.root,
            target,
            rule,
            say=lambda event, **fields: self.said.append((event, fields)),
            monotonic=self.clock,
            now_ns=lambda: NOON,
            jitter=lambda: 1.0,
        )

    def step(self, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        self.box.step([segment for segment in find([self.journal.root]) if segment.sealed])

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.said]


@pytest.fixture
def boxed(journal: Journal, target: Target) -> Callable[..., Boxed]:
    return lambda rule=None: Boxed(journal, target, rule)


def test_everything_that_waits_is_copied_and_counted(journal: Journal, storage: Flaky, boxed: Any) -> None:
    segments = [archived(journal), archived(journal)]
    b = boxed()
    b.step()
    assert len(keys(storage)) == 4 and b.box.waiting(segments) == []
    counters = b.box.counters
    assert (counters.objects, counters.retries, counters.removed) == (4, 0, 0)
    assert counters.bytes == sum(info.size_bytes for info in storage.list())
    assert (b.events, b.box.trouble(), b.box.cursor) == (["uploaded", "uploaded"], None, 6)
    assert read_archived(journal.root) == Archived(6, "s3://bucket")


def test_a_storage_that_is_down_is_left_alone_for_longer_and_longer(
    journal: Journal, storage: Flaky, boxed: Any
) -> None:
    archived(journal)
    b = boxed()
    storage.failure = UnavailableError("cannot be reached", hint="look at the network")
    b.step()
    waits = []
    for tries in range(1, 10):
        asked_s = b.clock.now_s
        while storage.asked.count("check") == tries:  # too early: nothing is asked
            b.clock.now_s += 0.5
            b.step()
        waits.append(b.clock.now_s - asked_s)
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST_WAIT_S, LONGEST_WAIT_S, LONGEST_WAIT_S]
    assert storage.asked.count("check") == 10 and b.box.counters.retries == 10
    assert b.events == ["the storage does not take segments"]  # once, not ten times
    trouble = b.box.trouble()
    assert "cannot be reached; look at the network" in trouble and "next attempt in" in trouble
    storage.failure = None
    b.clock.now_s += LONGEST_WAIT_S
    b.step()
    assert b.events[1:] == ["uploaded", "the storage takes segments again"]
    assert b.box.trouble() is None and len(keys(storage)) == 2


def test_the_jitter_shortens_a_wait_by_half_at_most(journal: Journal, target: Target, storage: Flaky) -> None:
    clock = Clock()
    box = Outbox(journal.root, target, None, say=lambda *a, **b: None, monotonic=clock, jitter=lambda: 0.0)
    storage.failure = UnavailableError("down")
    box.step([])
    clock.now_s += 0.49
    box.step([])
    assert storage.asked.count("check") == 1
    clock.now_s += 0.01
    box.step([])
    assert storage.asked.count("check") == 2


def test_a_refusal_is_told_and_tried_again(journal: Journal, storage: Flaky, boxed: Any) -> None:
    archived(journal)
    b = boxed()
    storage.failure = RejectedError("there is no such bucket", hint="make it")
    b.step()
    assert b.box.refused is storage.failure and "make it" in b.box.trouble()
    storage.failure = None
    b.step(after_s=60)
    assert b.box.refused is None and len(keys(storage)) == 2


def test_a_conflict_does_not_hold_up_the_others_nor_move_the_cursor(
    journal: Journal, storage: Flaky, boxed: Any
) -> None:
    segments = [archived(journal) for _ in range(3)]
    taken = f"{FOLDER}/{segments[1].path.name}"
    storage.put(taken, b"another's")
    b = boxed()
    b.step()
    assert (b.events.count("uploaded"), b.events.count("not uploaded")) == (2, 1)
    assert stems(b.box.waiting(segments)) == [segments[1].stem]
    assert b.box.cursor == 3
    assert "holds something else" in b.box.trouble()
    b.step(after_s=1)
    assert b.events.count("not uploaded") == 1
    storage.delete(taken)
    b.step(after_s=AGAIN_S)
    assert b.box.trouble() is None and b.box.cursor == 9


def test_a_failure_is_forgotten_with_its_segment(journal: Journal, storage: Flaky, boxed: Any) -> None:
    segment = archived(journal)
    storage.put(f"{FOLDER}/{segment.path.name}", b"another's")
    b = boxed()
    b.step()
    assert b.box.trouble() is not None
    for path in journal.folder.glob(f"{segment.stem}.*"):
        path.unlink()
    b.step(after_s=1)
    assert b.box.trouble() is None


def test_what_was_copied_before_is_known_after_a_restart(journal: Journal, storage: Flaky, boxed: Any) -> None:
    archived(journal)
    boxed().step()
    storage.asked.clear()
    b = boxed()
    b.step()
    looked_at = [f"head {key}" for key in keys(storage)]  # are they still there?
    assert storage.asked == ["check", *looked_at] and b.box.cursor == 3


# ---- copies that the Storage has lost --------------------------------------------------------------------------------


def emptied(storage: Flaky) -> None:
    for key in keys(storage):
        storage.delete(key)


@pytest.mark.parametrize("restarted", [True, False])
def test_what_the_storage_has_lost_is_told_and_copied_again(
    journal: Journal, storage: Flaky, boxed: Any, restarted: bool
) -> None:
    for _ in range(5):
        archived(journal)
    b = boxed()
    b.step()
    before = {key: storage.get(key) for key in keys(storage)}
    emptied(storage)
    if restarted:
        b = boxed()
    else:
        b.said.clear()
        b.step(after_s=SPOT_EVERY_S - 1)
        assert b.events == [] and keys(storage) == []  # it is asked now and then
        b.step(after_s=1)
    b.step()
    assert {key: storage.get(key) for key in keys(storage)} == before
    assert b.events == ["copies are gone: copied again"] + ["uploaded"] * 5
    assert "5 segments that were copied to s3://bucket are gone from there" in b.said[0][1]["reason"]
    assert b.box.cursor == 15 and read_archived(journal.root) == Archived(15, "s3://bucket")
    assert b.box.trouble() is None


def test_while_copies_are_gone_that_is_trouble_and_the_cursor_goes_back(
    journal: Journal, storage: Flaky, boxed: Any
) -> None:
    segments = [archived(journal) for _ in range(4)]
    boxed().step()
    for key in keys(storage):
        if segments[1].stem in key or segments[3].stem in key:
            storage.delete(key)
    storage.put(f"{FOLDER}/{segments[1].path.name}", b"another's")
    b = boxed()
    b.step()
    assert "2 segments that were copied" in b.said[0][1]["reason"]
    assert b.box.cursor == 3 and read_archived(journal.root) == Archived(3, "s3://bucket")
    assert stems(b.box.waiting(find([journal.root]))) == [segments[1].stem]
    assert "holds something else" in b.box.trouble()
    storage.delete(f"{FOLDER}/{segments[1].path.name}")
    b.step(after_s=AGAIN_S)
    assert b.box.trouble() is None and b.box.cursor == 12


def test_a_storage_that_was_emptied_costs_no_local_copy(journal: Journal, storage: Flaky, boxed: Any) -> None:
    """Also where nobody has looked since: the one that is to be removed is asked for just before."""
    for _ in range(4):
        archived(journal)
    boxed().step()
    here = names(journal)
    emptied(storage)
    b = boxed(Rule(after_s=0, published=False))
    b.box._spot_at = float("inf")
    b.step()
    assert b.events == ["not removed"]
    b.step(after_s=1)
    assert len(keys(storage)) == 8 and "copies are gone: copied again" in b.events
    assert set(names(journal)) == set(here)


def test_what_was_removed_here_before_and_may_be_lost_stays_trouble(
    journal: Journal, storage: Flaky, boxed: Any
) -> None:
    for _ in range(4):
        archived(journal)
    boxed(Rule(after_s=0, published=False)).step()
    emptied(storage)
    b = boxed()
    b.step()
    b.step(after_s=SPOT_EVERY_S)
    assert len(keys(storage)) == 2
    assert "records before 10 are no longer here: look for them there" in str(b.box.trouble())
    assert not b.box.healthy


def test_copies_of_the_same_bytes_under_other_etags_are_proved_anew(
    journal: Journal, storage: Flaky, boxed: Any
) -> None:
    """A bucket that was moved to another service."""
    for _ in range(2):
        archived(journal)
    boxed().step()
    storage.own_etags = True
    storage.asked.clear()
    b = boxed()
    b.step()
    assert not any(asked.startswith("put") for asked in storage.asked)
    assert b.box.waiting(find([journal.root])) == [] and b.box.cursor == 6 and b.box.trouble() is None


def test_removals_are_said_and_counted(journal: Journal, boxed: Any) -> None:
    segments = [archived(journal) for _ in range(3)]
    b = boxed(Rule(after_s=0, published=False))
    b.step()
    gone = [fields for event, fields in b.said if event == "removed here"]
    assert gone == [{"segment": f"{segment.stem}.capnp", "kept_in": "s3://bucket"} for segment in segments[:2]]
    assert b.box.counters.removed == 2


def test_a_segment_is_copied_in_its_last_form_only(journal: Journal, storage: Flaky, boxed: Any) -> None:
    """On a full disk it may have a manifest and not be compressed yet: later there would be two objects of it."""
    segment = archived(journal, options=Options(compress=False))
    b = boxed()
    b.step()
    assert keys(storage) == [] and b.box.trouble() is None
    archive(segment, Options())
    b.step()
    assert keys(storage) == [f"{FOLDER}/{segment.stem}.capnp.zst", f"{FOLDER}/{segment.stem}.manifest.json"]


def test_a_slow_storage_is_told_while_it_is_slow(journal: Journal, storage: Flaky, boxed: Any) -> None:
    segment = archived(journal)
    b = boxed()
    heard: list[str | None] = []

    def slow(key: str, data: Iterator[bytes], *, if_absent: bool) -> ObjectInfo:
        b.clock.now_s += 31
        heard.append(b.box.trouble())
        return MemoryStorage.put(storage, key, data, if_absent=if_absent)

    storage.put = slow  # type: ignore[method-assign]
    b.step()
    assert heard[0] == f"s3://bucket is slow: the copy of {segment.stem}.capnp is under way for 31 s"
    assert b.box.trouble() is None


@pytest.mark.parametrize("text", ["", "\x00" * 9, "[" * 100_000, '{"number": 1e999, "place": "s3://bucket"}'])
def test_a_damaged_cursor_of_the_archiver_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "archiver.cursor").write_text(text)
    assert read_archived(tmp_path) is None
