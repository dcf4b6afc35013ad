"""The archiver: manifest, compression, removal; killed before each step; never a byte lost."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from journal_writer import NOON, Journal

from ssmd.archiver import Options, archive, pending
from ssmd.archiver.__main__ import main
from ssmd.cli import verify
from ssmd.errors import DamageError, StorageError
from ssmd.journal import manifest
from ssmd.journal.paths import OPEN, Segment, find

REPOSITORY = Path(__file__).resolve().parent.parent


class Crash(Exception):
    """The process is killed here."""


def sealed(j: Journal) -> tuple[Segment, bytes]:
    """A sealed segment with a hole, a gap record and a reconnect in it."""
    j.event("opened", 1)
    j.subscribed("trade", 1)
    j.trade(1)
    j.gap("sequence", sid=1, fromSeq=2, toSeq=3, fromNs=5, toNs=6)
    j.trade(4)
    j.event("closed", 1)
    j.event("opened", 2)
    j.trade(1, connection=2)
    path = j.seal()
    (segment,) = find([path])
    return segment, path.read_bytes()


def files(j: Journal) -> list[str]:
    return sorted(path.name.partition(".")[2] for path in j.folder.iterdir())


def test_all_forms_of_a_segment_have_the_mode_that_the_flusher_gives(journal: Journal) -> None:
    """Who may read the recording may read all of it, and nobody else a part of it."""
    segment, _ = sealed(journal)
    before = os.umask(0o022)
    try:
        assert archive(segment, Options())
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in journal.folder.iterdir()} == {0o640}
    assert len(list(journal.folder.iterdir())) == 2


def test_a_manifest_says_what_the_bytes_say(journal: Journal) -> None:
    segment, data = sealed(journal)
    held = manifest.compute(segment)
    assert held == {
        "version": 1,
        "segment": segment.path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "records": 8,
        "frames": 4,
        "by_kind": {"trade": 3, "control": 1, "gap": 1, "connection": 3, "checkpoint": 1},
        "first_number": 1,
        "last_number": 8,
        "first_recv_ns": NOON + 1000,
        "last_recv_ns": NOON + 8000,
        "connections": [
            {
                "connection": 1,
                "sid": 1,
                "channel": "trade",
                "first_seq": 1,
                "last_seq": 4,
                "frames": 2,
                "missing": [[2, 3]],
            },
            {
                "connection": 2,
                "sid": 1,
                "channel": None,
                "first_seq": 1,
                "last_seq": 1,
                "frames": 1,
                "missing": [],
            },
        ],
        "gaps": [
            {
                "number": 4,
                "cause": "sequence",
                "connection": 1,
                "sid": 1,
                "from_seq": 2,
                "to_seq": 3,
                "from_ns": 5,
                "to_ns": 6,
            }
        ],
        "reconnects": 1,
    }


def test_a_sealed_segment_becomes_zstd_and_manifest(journal: Journal) -> None:
    segment, data = sealed(journal)
    assert archive(segment, Options())
    assert files(journal) == ["capnp.zst", "manifest.json"]
    (packed,) = journal.folder.glob("*.zst")
    assert zstandard.decompress(packed.read_bytes()) == data


def test_verify_agrees_with_the_manifest_before_and_after(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    segment, _ = sealed(journal)
    for wanted in (Options(compress=False), Options()):
        archive(segment, wanted)
        verify.main([str(journal.root), "--json"])
        assert json.loads(capsys.readouterr().out)["damage"] == []


def test_uncompressed_files_are_kept_when_asked(journal: Journal) -> None:
    segment, _ = sealed(journal)
    assert archive(segment, Options(compress=False))
    assert files(journal) == ["capnp", "manifest.json"]
    assert pending([journal.root], Options(compress=False)) == []


def test_open_segments_are_not_touched(journal: Journal) -> None:
    journal.trade(1)
    journal.write(OPEN)
    assert pending([journal.root], Options()) == []


def test_a_compressed_segment_without_manifest_gets_one(journal: Journal) -> None:
    segment, _ = sealed(journal)
    archive(segment, Options())
    path = manifest.path_of(segment)
    before = path.read_bytes()
    path.unlink()
    (waiting,) = pending([journal.root], Options())
    archive(waiting, Options())
    assert path.read_bytes() == before


@pytest.mark.parametrize("stop", ["manifest", "compress", "remove"])
def test_a_kill_before_any_step_is_finished_by_the_next_run(journal: Journal, stop: str) -> None:
    segment, data = sealed(journal)

    def go_on(step: str, of: Segment) -> bool:
        if step == stop:
            raise Crash
        return True

    with pytest.raises(Crash):
        archive(segment, Options(), go_on)
    assert segment.path.read_bytes() == data
    for waiting in pending([journal.root], Options()):
        archive(waiting, Options())
    assert files(journal) == ["capnp.zst", "manifest.json"]
    (packed,) = journal.folder.glob("*.zst")
    assert zstandard.decompress(packed.read_bytes()) == data


# A new process for each kill: it dies at the n-th call to the kernel that changes a file.
KILL = """
import os, sys
sys.path[:0] = [{repository!r}]
from ssmd.archiver import Options, archive, pending
left = int(sys.argv[2])
def dying(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return real(*arguments, **options)
    return call
from pathlib import Path
os.fsync = dying(os.fsync)
Path.rename = dying(Path.rename)
Path.unlink = dying(Path.unlink)
for segment in pending([sys.argv[1]], Options()):
    archive(segment, Options())
"""


def test_a_sigkill_at_each_call_that_changes_a_file_loses_nothing(journal: Journal) -> None:
    segment, data = sealed(journal)
    script = KILL.format(repository=str(REPOSITORY))
    for calls in range(40):
        done = subprocess.run([sys.executable, "-c", script, str(journal.root), str(calls)], check=False)
        kept = segment.path.read_bytes() if segment.path.exists() else None
        if kept is None:
            (packed,) = journal.folder.glob("*.zst")
            kept = zstandard.decompress(packed.read_bytes())
        assert kept == data, calls
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert files(journal) == ["capnp.zst", "manifest.json"]
    assert calls < 20


def test_a_compressed_file_that_does_not_read_back_is_made_again(journal: Journal) -> None:
    segment, data = sealed(journal)
    packed = segment.path.with_name(segment.path.name + ".zst")
    packed.write_bytes(zstandard.compress(data)[:-20])
    archive(segment, Options())
    assert zstandard.decompress(packed.read_bytes()) == data


def test_a_damaged_segment_is_left_exactly_as_it_is(journal: Journal) -> None:
    segment, data = sealed(journal)
    damaged = bytearray(data)
    damaged[50] ^= 1
    segment.path.write_bytes(damaged)
    with pytest.raises(DamageError):
        archive(segment, Options())
    assert segment.path.read_bytes() == damaged
    assert files(journal) == ["capnp"]


def test_bytes_that_changed_after_the_manifest_are_not_compressed(journal: Journal) -> None:
    segment, data = sealed(journal)
    archive(segment, Options(compress=False))
    segment.path.write_bytes(data[:-1] + b"\xff")
    with pytest.raises(DamageError, match="SHA-256"):
        archive(segment, Options())
    assert files(journal) == ["capnp", "manifest.json"]


def test_a_disk_that_refuses_is_a_storage_error_and_loses_nothing(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, data = sealed(journal)

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        archive(segment, Options())
    assert segment.path.read_bytes() == data


# ---- the program -----------------------------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ssmd.archiver", *map(str, arguments)]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)


def test_once_archives_what_there_is_over_all_feeds(tmp_path: Path) -> None:
    journals = [Journal(tmp_path / feed) for feed in ("a", "b")]
    for j in journals:
        sealed(j)
    done = run("--data", tmp_path, "--once")
    assert done.returncode == 0
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["archived", "archived"]
    for j in journals:
        assert files(j) == ["capnp.zst", "manifest.json"]


def test_once_with_a_damaged_segment_is_exit_1_and_the_others_are_archived(journal: Journal) -> None:
    segment, data = sealed(journal)
    segment.path.write_bytes(data[:-8])
    journal.trade(5)
    journal.seal()
    done = run("--data", journal.root, "--once")
    assert done.returncode == 1
    assert files(journal) == ["capnp", "capnp.zst", "manifest.json"]


def test_without_a_place_to_look_it_is_a_usage_error() -> None:
    assert run("--once").returncode == 2
    assert run("--data", "x", "--once", "--level", "77").returncode == 2


def test_sigterm_ends_it_with_0_and_what_is_sealed_has_its_manifest(journal: Journal) -> None:
    line = [sys.executable, "-m", "ssmd.archiver", "--data", str(journal.root.parent), "--keep-uncompressed"]
    with subprocess.Popen(line, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["event"] == "started"
        process.send_signal(signal.SIGSTOP)
        segment, _ = sealed(journal)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0
        assert json.loads(process.stderr.read().splitlines()[-1])["event"] == "stopped"
    assert manifest.path_of(segment).exists()


def test_a_segment_that_is_sealed_while_it_runs_is_archived(journal: Journal) -> None:
    line = [sys.executable, "-m", "ssmd.archiver", "--data", str(journal.root.parent)]
    with subprocess.Popen(line, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        sealed(journal)
        assert json.loads(process.stderr.readline())["event"] == "archived"
        process.terminate()
        assert process.wait(30) == 0
    assert files(journal) == ["capnp.zst", "manifest.json"]


def test_a_stop_between_steps_leaves_the_rest_for_later(journal: Journal) -> None:
    segment, data = sealed(journal)
    assert not archive(segment, Options(), lambda step, of: step != "compress")
    assert segment.path.read_bytes() == data
    assert files(journal) == ["capnp", "manifest.json"]


def test_main_reports_usage_errors_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        assert main(["--once"]) == 2
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert "--data DIR" in capsys.readouterr().err
