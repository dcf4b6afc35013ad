"""`ssmd cat` and `ssmd verify` on archives: objects in a bucket read like files, alone or with what is left here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from journal_writer import DAY, Journal
from servers import S3Server

from ssmd import host
from ssmd.archiver import Options, archive
from ssmd.archiver.retention import Rule, expire
from ssmd.archiver.upload import Target, upload
from ssmd.cli import cat, last, verify
from ssmd.errors import RejectedError, UnavailableError, UsageError
from ssmd.journal import manifest
from ssmd.journal.archived import Archived, write_archived
from ssmd.journal.identity import make_identity
from ssmd.journal.objects import find_objects
from ssmd.journal.paths import OPEN, find
from ssmd.journal.reader import Reader
from ssmd.journal.strays import strays
from ssmd.middleware.memory import MemoryStorage
from ssmd.middleware.objectstore import ObjectStorage

PLACE = "s3://bucket"


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def run_of(j: Journal) -> None:
    """A whole run on three segments: records 1-3, 4-6, 7-9; the second one is not compressed."""
    j.event("started")
    j.event("opened", 1)
    j.subscribed("trade", 1)
    j.seal()
    for seq in (1, 2, 3):
        j.trade(seq)
    j.seal()
    j.trade(4)
    j.event("closed", 1, reason="stopped as asked")
    j.event("stopped")
    j.seal()


def copied(j: Journal, storage: Any, *, retain: bool = True) -> str:
    """Archives and copies the journal; without `retain` only the newest segment stays. Gives its key's beginning."""
    j.root.mkdir(parents=True, exist_ok=True)
    target = Target(storage, PLACE, "md", "kalshi", make_identity(j.root))
    for i, segment in enumerate(find([j.root])):
        archive(segment, Options(compress=i != 1))
    for segment in find([j.root]):
        mark = upload(segment, target, now_ns=lambda: 0).mark
        assert mark is not None
        write_archived(j.root, Archived(mark.last_number, PLACE))
    if not retain:
        assert len(list(expire(j.root, find([j.root]), target, Rule(after_s=0, published=False), now_ns=1))) == 2
    return f"md/kalshi/{target.journal}"


# ---- objects as segments ---------------------------------------------------------------------------------------------


def test_objects_are_found_and_read_like_the_files_that_they_are_copies_of(
    journal: Journal, storage: MemoryStorage
) -> None:
    run_of(journal)
    folder = copied(journal, storage)
    local = [record.raw for record in Reader(find([journal.root]))]
    segments, astray = find_objects(storage, PLACE, "md")
    reader = Reader(segments)
    assert [record.raw for record in reader] == local and len(local) == 9 + 3
    assert (reader.damage, astray) == ([], [])
    assert [segment.first_number for segment in segments] == [1, 4, 7]
    assert {str(segment.journal) for segment in segments} == {f"{PLACE}/{folder}"}
    assert str(segments[0].path) == f"{PLACE}/{folder}/{DAY}/{segments[0].stem}.capnp.zst"


@pytest.mark.parametrize("prefix", ["", "md", "/md/", "md/kalshi"])
def test_a_prefix_is_whole_names(journal: Journal, storage: MemoryStorage, prefix: str) -> None:
    run_of(journal)
    copied(journal, storage)
    assert len(find_objects(storage, PLACE, prefix)[0]) == 3
    assert find_objects(storage, PLACE, "m") == ([], [])


def test_one_object_can_be_named(journal: Journal, storage: MemoryStorage) -> None:
    run_of(journal)
    folder = copied(journal, storage)
    stem = find([journal.root])[1].stem
    segments, _ = find_objects(storage, PLACE, f"{folder}/{DAY}/{stem}.capnp")
    assert [segment.first_number for segment in segments] == [4]


def test_objects_of_other_names_are_left_alone(storage: MemoryStorage) -> None:
    for key in ("md/readme.txt", "md/x.capnp.open", "md/y.archived.json", "md/notes.manifest.json"):
        storage.put(key, b"?")
    assert find_objects(storage, PLACE, "md") == ([], [])


def test_damage_in_an_object_is_named_by_its_url(journal: Journal, storage: MemoryStorage) -> None:
    run_of(journal)
    folder = copied(journal, storage)
    key = next(info.key for info in storage.list(folder) if info.key.endswith(".zst"))
    storage.put(key, storage.get(key)[:-30])
    reader = Reader(find_objects(storage, PLACE, "md")[0])
    list(reader)
    assert [str(damage.segment) for damage in reader.damage] == [f"{PLACE}/{key}"]


def test_a_manifest_whose_object_is_gone_is_astray(journal: Journal, storage: MemoryStorage) -> None:
    run_of(journal)
    folder = copied(journal, storage)
    stem = find([journal.root])[1].stem
    storage.delete(f"{folder}/{DAY}/{stem}.capnp")
    _, astray = find_objects(storage, PLACE, "md")
    assert [(str(stray.path), stray.what) for stray in astray] == [
        (f"{PLACE}/{folder}/{DAY}/{stem}.manifest.json", "the segment of this manifest is gone: 3 records, 4 to 6")
    ]


def test_a_storage_that_fails_on_the_way_is_no_damage(journal: Journal, storage: MemoryStorage) -> None:
    run_of(journal)
    copied(journal, storage)
    segments, _ = find_objects(storage, PLACE, "md")
    records = iter(Reader(segments))
    next(records)
    storage.close()
    with pytest.raises(UnavailableError):
        list(records)


# ---- the commands, on a bucket ---------------------------------------------------------------------------------------


@pytest.fixture
def bucket(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    """An empty bucket, and the variables by which the commands find it."""
    for name, value in S3Server.KEYS.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    return ObjectStorage(S3Server.BUCKET, region="us-east-1")


URL = f"s3://{S3Server.BUCKET}/md"


class Ran:
    """One run of `ssmd verify --json`."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *paths: object) -> None:
        self.code = verify.main([*map(str, paths), "--json"])
        self.report: dict[str, Any] = json.loads(capsys.readouterr().out)

    def __getattr__(self, name: str) -> Any:
        return self.report[name]


def printed(capfdbinary: pytest.CaptureFixture[bytes], *arguments: object) -> list[int]:
    """Numbers of the records that `ssmd cat` prints, checkpoints left out."""
    assert cat.main([*map(str, arguments)]) == 0
    sys.stdout.flush()
    shown = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    return [record["number"] for record in shown if record["kind"] != "checkpoint"]


def test_cat_of_a_bucket_prints_what_was_recorded(
    journal: Journal, bucket: ObjectStorage, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run_of(journal)
    copied(journal, bucket)
    assert printed(capfdbinary, URL) == list(range(1, 10))


def test_verify_of_a_bucket_says_what_it_says_of_the_files(
    journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    copied(journal, bucket)
    here, there = Ran(capsys, journal.root), Ran(capsys, URL)
    assert here.code == there.code == 0
    assert here.report == there.report


def test_the_manifests_of_a_bucket_are_compared_too(
    journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    folder = copied(journal, bucket)
    key = next(info.key for info in bucket.list(folder) if info.key.endswith(".manifest.json"))
    held = json.loads(bucket.get(key))
    bucket.put(key, json.dumps({**held, "records": 99}).encode())
    found = Ran(capsys, URL)
    assert found.code == 1
    assert [(d["segment"], d["what"]) for d in found.damage] == [
        (f"s3://{S3Server.BUCKET}/{key}", "the manifest says records = 99, the bytes say 3")
    ]


def test_what_is_left_here_and_the_archive_are_one_whole_journal(
    journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    copied(journal, bucket, retain=False)
    for paths in ((journal.root, URL), (URL, f"file://{journal.root.parent}"), (URL, journal.root, URL)):
        whole = Ran(capsys, *paths)
        assert (whole.code, whole.segments, whole.records, whole.begins) == (0, 3, 9, [])


def test_an_open_segment_here_follows_on_what_is_archived(
    journal: Journal, bucket: ObjectStorage, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run_of(journal)
    copied(journal, bucket, retain=False)
    journal.event("started")
    journal.write(OPEN)
    assert printed(capfdbinary, URL, journal.root) == list(range(1, 11))


def test_two_journals_in_one_bucket_stay_two(
    tmp_path: Path, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        j = Journal(tmp_path / name / "kalshi")
        run_of(j)
        copied(j, bucket)
    found = Ran(capsys, URL)
    assert (found.code, found.segments, found.records, found.damage) == (0, 6, 18, [])


def test_a_url_can_say_where_the_service_is(
    journal: Journal,
    bucket: ObjectStorage,
    store: S3Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_of(journal)
    copied(journal, bucket)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert Ran(capsys, f"{URL}?region=us-east-1&endpoint={store.url}").code == 0


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        (f"s3://{S3Server.BUCKET}/nothing-here", UsageError, "no segments under"),
        ("s3://no-such-bucket/md", RejectedError, "no such bucket"),
        (f"{URL}?colour=red", UsageError, "unknown option colour"),
        (f"{URL}?endpoint=http://192.0.2.1", UsageError, "https"),
        (f"s3://{S3Server.BUCKET}/a b", UsageError, "prefix"),
        ("s3:///md", UsageError, "which bucket"),
        ("s3://key:secret@bucket/md", UsageError, "no user name or password"),
        ("gs://bucket/md", UsageError, "do not know"),
        ("file://host/data", UsageError, "absolute path"),
        ("file:///no/such/folder", UsageError, "nothing of this name"),
    ],
)
def test_a_url_that_names_nothing_is_a_clear_error(
    bucket: ObjectStorage, url: str, error: type[Exception], words: str
) -> None:
    for command in (verify, cat):
        with pytest.raises(error, match=words) as caught:
            command.main([url])
        assert caught.value.exit_code == 2  # type: ignore[attr-defined]
        assert "secret@" not in str(caught.value)


def test_an_archive_is_not_followed() -> None:
    with pytest.raises(UsageError, match="--follow"):
        cat.main([URL, "--follow"])


# ---- a journal whose beginning is archived ---------------------------------------------------------------------------


def test_verify_says_where_a_journal_begins_and_where_its_beginning_is(
    journal: Journal, storage: MemoryStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    copied(journal, storage, retain=False)
    found = Ran(capsys, journal.root)
    assert (found.code, found.records, found.first_number) == (0, 3, 7)
    assert found.begins == [{"journal": str(journal.root), "first_number": 7, "archive": PLACE}]
    assert verify.main([str(journal.root)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert f"begins   at record 7; records 1 to 6 are not here: they are in {PLACE}" in shown
    assert shown[-1].startswith("complete, from where it begins:")


@pytest.mark.parametrize("cursor", [None, "{", '{"number": 5, "place": "s3://bucket"}'])
def test_a_beginning_that_no_archive_has_is_said_to_be_unknown(
    journal: Journal, capsys: pytest.CaptureFixture[str], cursor: str | None
) -> None:
    run_of(journal)
    for segment in find([journal.root])[:2]:
        segment.path.unlink()
    if cursor is not None:
        (journal.root / "archiver.cursor").write_text(cursor)
    assert Ran(capsys, journal.root).begins[0]["archive"] is None
    verify.main([str(journal.root)])
    assert "records 1 to 6 are not here: nothing is said about them" in capsys.readouterr().out


def test_a_hole_in_the_middle_is_lost_data_whatever_the_archive_says(
    journal: Journal, storage: MemoryStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    copied(journal, storage)
    segment = find([journal.root])[1]
    for path in (segment.path, manifest.path_of(segment)):
        path.unlink()
    found = Ran(capsys, journal.root)
    assert found.code == 1 and "records 4 to 6 are missing" in found.damage[0]["what"]


def test_a_removal_while_verify_reads_is_no_loss(
    journal: Journal, storage: MemoryStorage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(journal)
    copied(journal, storage)
    target = Target(storage, PLACE, "md", "kalshi", make_identity(journal.root))
    real = verify.accounts

    def accounts(segments: Any, *arguments: Any, **options: Any) -> Any:
        list(expire(journal.root, find([journal.root]), target, Rule(after_s=0, published=False), now_ns=1))
        return real(segments, *arguments, **options)

    monkeypatch.setattr(verify, "accounts", accounts)
    found = Ran(capsys, journal.root)
    assert (found.code, found.segments, found.begins[0]["first_number"]) == (0, 1, 7)


def test_a_removal_that_is_under_way_is_no_loss(journal: Journal, storage: MemoryStorage) -> None:
    run_of(journal)
    copied(journal, storage)
    segment = find([journal.root])[0]
    segment.path.unlink()
    assert strays([journal.root]) == []
    segment.beside(".archived.json").unlink()
    assert len(strays([journal.root])) == 1


def test_reading_files_imports_nothing_for_archives(journal: Journal) -> None:
    run_of(journal)
    code = (
        "import sys\nfrom ssmd.cli import cat\n"
        "assert cat.main([sys.argv[1], '--format', 'frame']) == 0\n"
        "heavy = {'obstore', 'pydantic', 'ssmd.middleware.factory', 'ssmd.cli.sources', 'ssmd.journal.objects'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, journal.root], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


# ---- at every depth --------------------------------------------------------------------------------------------------


def whole(key: str, depth: int) -> str:
    """The first names of a key; 0: none."""
    return "/".join(key.split("/")[:depth])


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and the one target of `ssmd verify --json --against`."""
    code = verify.main(["--json", *arguments])
    ((target,),) = [entry["targets"] for entry in json.loads(capsys.readouterr().out)["against"]]
    return code, target


@pytest.mark.parametrize("depth", range(4), ids=["bucket", "prefix", "feed", "identity"])
def test_a_journal_is_found_at_whatever_depth_the_archive_is_named(
    depth: int, journal: Journal, bucket: ObjectStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    key = copied(journal, bucket)
    for info in bucket.list(""):
        file = tmp_path / "archive" / info.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bucket.get(info.key))
    for url in (f"s3://{S3Server.BUCKET}/{whole(key, depth)}", f"file://{tmp_path / 'archive' / whole(key, depth)}"):
        code, target = compared(capsys, str(journal.root), "--against", url)
        assert (code, target["records"], target["behind"]) == (0, 9, 0), url


def test_a_day_or_an_object_is_no_archive_of_a_journal(journal: Journal, bucket: ObjectStorage) -> None:
    run_of(journal)
    key = copied(journal, bucket)
    for part in (f"{key}/{DAY}", next(info.key for info in bucket.list(key))):
        with pytest.raises(UsageError, match="is a part of the journal") as refused:
            verify.main([str(journal.root), "--against", f"s3://{S3Server.BUCKET}/{part}"])
        assert key in str(refused.value.hint)


def test_a_journal_under_two_prefixes_is_asked_for_by_one_of_them(
    journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    key = copied(journal, bucket)
    for info in list(bucket.list("")):
        bucket.put(f"other/{info.key}", bucket.get(info.key))
    with pytest.raises(UsageError, match="under several prefixes") as refused:
        verify.main([str(journal.root), "--against", f"s3://{S3Server.BUCKET}"])
    assert refused.value.hint == "give one of them: 'md', 'other/md'"
    code, target = compared(capsys, str(journal.root), "--against", f"s3://{S3Server.BUCKET}/md")
    assert (code, target["records"]) == (0, 9)
    assert key.startswith("md/")


def test_an_archive_without_the_journal_says_so(
    journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    copied(journal, bucket)
    assert verify.main([str(journal.root), "--against", f"s3://{S3Server.BUCKET}/nothing"]) == 1
    assert "is there: is the prefix right?" in capsys.readouterr().out


def test_one_segment_is_compared_as_far_as_it_goes(
    journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the archive has beyond it is the rest of the journal, and no record too many."""
    run_of(journal)
    key = copied(journal, bucket)
    place = f"s3://{S3Server.BUCKET}"
    middle = find_objects(bucket, place, key)[0][1]
    local = next(segment for segment in find([journal.root]) if segment.first_number == middle.first_number)
    for given in (str(middle.path), str(local.path)):
        code, target = compared(capsys, given, "--against", f"{place}/md")
        assert (code, target["records"], target["extra"], target["older"]) == (0, 3, 0, 3), given


def test_a_record_too_many_behind_the_whole_journal_is_one(
    journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    copied(journal, bucket)
    for segment in find([journal.root])[-1:]:
        segment.path.unlink()
    code, target = compared(capsys, str(journal.root), "--against", f"s3://{S3Server.BUCKET}")
    assert (code, target["records"], target["extra"]) == (1, 6, 3)


@pytest.mark.parametrize("depth", range(5), ids=["bucket", "prefix", "feed", "identity", "day"])
def test_the_last_values_of_an_archive(
    depth: int, journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    key = f"{copied(journal, bucket)}/{DAY}"
    capsys.readouterr()
    assert last.main(["--json", "--data", f"s3://{S3Server.BUCKET}/{whole(key, depth)}"]) == 0
    (value,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (value["feed"], value["journal"]) == ("kalshi", key.split("/")[2])
    assert value["trade"]["number"] == 7  # of run_of's records the last trade


def test_the_last_values_of_one_object_are_those_that_it_holds(
    journal: Journal, bucket: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(journal)
    key = copied(journal, bucket)
    middle = find_objects(bucket, f"s3://{S3Server.BUCKET}", key)[0][1]
    assert last.main(["--json", "--data", str(middle.path)]) == 0
    (value,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert value["trade"]["number"] == 6


def test_what_does_not_go_with_an_archive_is_refused_in_words(journal: Journal, bucket: ObjectStorage) -> None:
    run_of(journal)
    key = copied(journal, bucket)
    place = f"s3://{S3Server.BUCKET}"
    manifest_key = next(info.key for info in bucket.list(key) if info.key.endswith(".manifest.json"))
    with pytest.raises(UsageError, match="does not grow"):
        last.main(["--data", place, "--watch"])
    for command in (cat.main, verify.main, lambda given: last.main(["--data", *given])):
        with pytest.raises(UsageError, match="is not a segment"):
            command([f"{place}/{manifest_key}"])
    with pytest.raises(UsageError, match="no folder of this machine"):
        host.load("kalshi-local", data=place)
