"""`python -m ssmd.archiver` in an environment, with S3 (the moto server) that fails, hangs, dies and comes back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from flaky import Answer, FlakyProxy
from journal_writer import DAY, Journal
from recording import wait_until
from servers import S3Server

from ssmd.journal.identity import identity
from ssmd.middleware.objectstore import ObjectStorage
from ssmd.report import Report, report_of

REPOSITORY = Path(__file__).resolve().parent.parent
KEYS = {f"AWS_{name.upper()}": value for name, value in S3Server.KEYS.items()}


def environment(tmp_path: Path, url: str | None = None, **changes: Any) -> Path:
    """An environment whose storage is a bucket at this address, or what the changes say."""
    storage: dict[str, Any] = {"type": "local", "path": str(tmp_path / "data")}
    if url is not None:
        storage |= {"type": "s3", "bucket": S3Server.BUCKET, "region": "us-east-1", "endpoint": url, "prefix": "md"}
    content = {
        "name": "under-test",
        "feed": "kalshi",
        "schema": "market_data:v1",
        "exchange": {"simulator": {}},
        "subscriptions": [{"channels": ["trade"], "all": True}],
        "storage": {**storage, **changes},
    }
    path = tmp_path / "under-test.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Archiver:
    """The program as a child process. Use as a context manager: it never outlives the test."""

    def __init__(self, environment: Path, *arguments: str, variables: dict[str, str] | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ssmd.archiver", "-e", str(environment), *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **(KEYS if variables is None else variables)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"text": line})

    def __enter__(self) -> Archiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    @property
    def reports(self) -> list[Report]:
        return [report for report in map(report_of, self.lines) if report is not None]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == name]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        def check() -> Any:
            assert self.process.poll() is None, self.lines
            return condition()

        return wait_until(check, what=what)

    def until_report(self, condition: Callable[[Report], bool], what: str) -> Report:
        def found() -> Report | None:
            reports = self.reports
            return reports[-1] if reports and condition(reports[-1]) else None

        report: Report = self.until(found, what)
        return report

    def stop(self) -> float:
        """SIGTERM; gives how long the end took. It must end well."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.lines
        took_s = time.monotonic() - began
        self._reader.join()
        return took_s


def seal(j: Journal, trades: int = 3) -> bytes:
    """Seals a segment of so many records; gives its bytes."""
    for seq in range(trades):
        j.trade(seq + 1)
    return j.seal().read_bytes()


def bucket(url: str) -> ObjectStorage:
    return ObjectStorage(S3Server.BUCKET, region="us-east-1", endpoint=url, **S3Server.KEYS)


def keys(url: str) -> list[str]:
    return [info.key for info in bucket(url).list("md/")]


def assert_archive_holds(url: str, j: Journal, segments: list[bytes]) -> None:
    """Each segment and its manifest are objects, once; the manifest's SHA-256 is that of the bytes that were sealed."""
    storage = bucket(url)
    found = keys(url)
    folder = f"md/kalshi/{identity(j.root)}/{DAY}/"
    assert all(key.startswith(folder) for key in found)
    manifests = [json.loads(storage.get(key)) for key in found if key.endswith(".manifest.json")]
    assert [held["sha256"] for held in manifests] == [hashlib.sha256(data).hexdigest() for data in segments]
    assert [key.removeprefix(folder) for key in found] == sorted(
        name for held in manifests for name in (f"{held['segment']}.zst", held["segment"][:-6] + ".manifest.json")
    )


def run_once(environment: Path, *, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ssmd.archiver", "-e", str(environment), "--once"],
        cwd=REPOSITORY,
        env={**os.environ, **(KEYS if variables is None else variables)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# ---- what it does ----------------------------------------------------------------------------------------------------


def test_once_copies_everything_to_the_bucket(store: S3Server, journal: Journal, tmp_path: Path) -> None:
    segments = [seal(journal), seal(journal)]
    done = run_once(environment(tmp_path, store.url))
    assert done.returncode == 0, done.stderr
    assert_archive_holds(store.url, journal, segments)
    again = run_once(environment(tmp_path, store.url))
    assert (again.returncode, again.stderr) == (0, "")


def test_once_copies_everything_to_a_folder_that_there_is(journal: Journal, tmp_path: Path) -> None:
    data = seal(journal)
    path = environment(tmp_path, archive=str(tmp_path / "archive"))
    missing = run_once(path)
    assert missing.returncode == 2 and "no such folder" in missing.stderr
    (tmp_path / "archive").mkdir()
    done = run_once(path)
    assert done.returncode == 0, done.stderr
    (packed,) = (tmp_path / "archive").rglob("*.capnp.zst")
    assert packed.parent == tmp_path / "archive" / "kalshi" / identity(journal.root) / DAY
    local = journal.folder / packed.name
    assert packed.read_bytes() == local.read_bytes() and local.read_bytes() != data


def test_without_an_archive_nothing_is_copied_and_no_mark_is_made(journal: Journal, tmp_path: Path) -> None:
    seal(journal)
    assert run_once(environment(tmp_path)).returncode == 0
    assert not list(tmp_path.rglob("*.archived.json"))


def test_segments_are_copied_as_they_are_sealed_and_the_reports_say_how_far(
    store: S3Server, journal: Journal, tmp_path: Path
) -> None:
    segments = [seal(journal)]
    with Archiver(environment(tmp_path, store.url)) as archiver:
        first = archiver.until_report(lambda report: report.number == 3, "the first segment in the archive")
        assert (first.part, first.end, first.lag_s, first.trouble) == ("archiver", 3, 0.0, None)
        segments.append(seal(journal))
        second = archiver.until_report(lambda report: report.number == 6, "the second one")
        objects = list(bucket(store.url).list("md/"))
        assert second.counters == {
            "objects": 4,
            "bytes": sum(info.size_bytes for info in objects),
            "retries": 0,
            "removed": 0,
        }
        assert archiver.stop() < 5
    assert_archive_holds(store.url, journal, segments)


def test_what_is_sealed_just_before_a_stop_is_copied_too(store: S3Server, journal: Journal, tmp_path: Path) -> None:
    segments = [seal(journal)]
    with Archiver(environment(tmp_path, store.url)) as archiver:
        archiver.until_report(lambda report: report.number == 3, "the first segment in the archive")
        archiver.process.send_signal(signal.SIGSTOP)
        segments.append(seal(journal))
        archiver.process.send_signal(signal.SIGTERM)
        archiver.process.send_signal(signal.SIGCONT)
        assert archiver.process.wait(30) == 0
        wait_until(lambda: archiver.events("stopped"), what="the last word")
        assert archiver.reports[-1].number == 6
    assert_archive_holds(store.url, journal, segments)


# ---- trouble ---------------------------------------------------------------------------------------------------------


def test_a_store_that_dies_is_waited_for_and_gets_everything(
    tmp_path: Path, journal: Journal, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with S3Server(tmp_path_factory.mktemp("mortal")) as server:
        seal(journal)
        with Archiver(environment(tmp_path, server.url)) as archiver:
            archiver.until_report(lambda report: report.number == 3, "the first segment in the archive")
            server.kill()
            seal(journal)
            down = archiver.until_report(lambda report: report.trouble is not None, "a report of trouble")
            assert (down.number, down.end) == (3, 6) and down.lag_s > 0
            assert "cannot be reached" in down.trouble and "3 records behind" in down.trouble
            assert down.counters["retries"] >= 1
            server.start()  # it forgot everything
            archiver.until_report(
                lambda report: report.number == 6 and report.trouble is None, "the end of the trouble"
            )
            assert archiver.events("the storage takes segments again")
            archiver.stop()
        assert len(keys(server.url)) == 2  # the second one; of the first the local mark says that it was there


@pytest.mark.parametrize("status", [500, 503])
def test_a_store_that_answers_errors_for_a_while_gets_everything(
    store: S3Server, journal: Journal, tmp_path: Path, status: int
) -> None:
    segments = [seal(journal), seal(journal)]
    with FlakyProxy(store.port) as proxy:
        proxy.answer = lambda method, path: Answer(status, "SlowDown") if method == "PUT" else None
        with Archiver(environment(tmp_path, proxy.url)) as archiver:
            down = archiver.until_report(lambda report: report.trouble is not None, "a report of trouble")
            assert f"answers {status}" in down.trouble and down.number == 0
            proxy.answer = lambda method, path: None
            archiver.until_report(lambda report: report.number == 6 and report.trouble is None, "both in the archive")
            archiver.stop()
    assert_archive_holds(store.url, journal, segments)


def test_a_store_whose_answers_are_lost_gets_everything_once(store: S3Server, journal: Journal, tmp_path: Path) -> None:
    """The object is there and we were not told: it is compared, not taken for another's."""
    segments = [seal(journal)]
    lost: list[str] = []

    def lose(method: str, path: str) -> Answer | None:
        if method == "PUT" and ".capnp" in path and len(lost) < 2:
            lost.append(path)
            return Answer(0, drop=True)
        return None

    with FlakyProxy(store.port) as proxy:
        proxy.answer = lose
        done = run_once(environment(tmp_path, proxy.url))
    assert (done.returncode, len(lost) > 0) == (0, True), done.stderr
    assert_archive_holds(store.url, journal, segments)


def test_a_stop_does_not_wait_for_a_store_that_hangs(store: S3Server, journal: Journal, tmp_path: Path) -> None:
    segments = [seal(journal)]
    with FlakyProxy(store.port) as proxy:
        proxy.delay_s = 20.0
        with Archiver(environment(tmp_path, proxy.url)) as archiver:
            archiver.until(lambda: proxy.seen.total() > 0, "a request")
            archiver.until(lambda: archiver.reports, "a report while the store hangs")
            assert archiver.stop() < 4  # two seconds, on a busy machine
    assert run_once(environment(tmp_path, store.url)).returncode == 0
    assert_archive_holds(store.url, journal, segments)


def test_another_object_in_the_place_is_trouble_and_stays(store: S3Server, journal: Journal, tmp_path: Path) -> None:
    seal(journal)
    assert run_once(environment(tmp_path, store.url)).returncode == 0
    key = next(key for key in keys(store.url) if key.endswith(".zst"))
    bucket(store.url).put(key, b"somebody else's")
    (mark,) = journal.root.rglob("*.archived.json")
    mark.unlink()
    done = run_once(environment(tmp_path, store.url))
    assert done.returncode == 1 and "holds something else" in done.stderr
    assert bucket(store.url).get(key) == b"somebody else's"
    assert not mark.exists()


@pytest.mark.parametrize("requests", [1, 4, 5, 6, 7, 8])
def test_a_sigkill_at_any_request_is_finished_by_the_next_run(
    store: S3Server, journal: Journal, tmp_path: Path, requests: int
) -> None:
    segments = [seal(journal), seal(journal)]
    path = environment(tmp_path, store.url)
    with FlakyProxy(store.port) as proxy:
        killed: list[Archiver] = []

        def kill(method: str, asked: str) -> Answer | None:
            if proxy.seen.total() == requests:
                killed[0].process.kill()
                return Answer(0, drop=requests % 2 == 0) if requests % 2 == 0 else Answer(503)
            return None

        proxy.answer = kill
        environment(tmp_path, proxy.url)
        with Archiver(path, "--once") as archiver:
            killed.append(archiver)
            archiver.process.wait(60)
        assert archiver.process.returncode == -signal.SIGKILL
    environment(tmp_path, store.url)
    done = run_once(path)
    assert done.returncode == 0, done.stderr
    assert_archive_holds(store.url, journal, segments)


def test_a_damaged_segment_is_trouble_and_is_never_copied(store: S3Server, journal: Journal, tmp_path: Path) -> None:
    seal(journal)
    damaged = journal.folder / next(journal.folder.iterdir()).name
    damaged.write_bytes(damaged.read_bytes()[:-8])
    seal(journal)
    with Archiver(environment(tmp_path, store.url)) as archiver:
        report = archiver.until_report(lambda report: report.trouble is not None and report.end == 6, "a word of it")
        assert (report.number, "is not archived" in str(report.trouble)) == (0, True)
        archiver.until(lambda: len(keys(store.url)) == 2, "the copy of the other one")
        damaged.rename(tmp_path / "taken away")
        archiver.until_report(lambda report: report.trouble is None and report.number == 6, "the end of the trouble")
        archiver.stop()
    assert not any(damaged.name in key for key in keys(store.url))


# ---- configuration ---------------------------------------------------------------------------------------------------


def test_a_missing_bucket_is_one_clear_error(store: S3Server, journal: Journal, tmp_path: Path) -> None:
    seal(journal)
    done = run_once(environment(tmp_path, store.url, bucket="no-such-bucket"))
    assert done.returncode == 2
    last = done.stderr.splitlines()[-2:]
    assert "there is no such bucket" in last[0] and "storage.bucket" in last[1]


def test_a_missing_bucket_does_not_end_a_running_archiver(store: S3Server, journal: Journal, tmp_path: Path) -> None:
    seal(journal)
    with Archiver(environment(tmp_path, store.url, bucket="made-later")) as archiver:
        archiver.until_report(lambda r: bool(r.trouble) and "no such bucket" in str(r.trouble), "a report of it")
        store.make_bucket("made-later")
        archiver.until_report(
            lambda report: report.number == 3 and report.trouble is None, "the segment in the archive"
        )
        archiver.stop()


def test_two_archivers_on_one_journal_the_second_waits_and_says_so(
    store: S3Server, journal: Journal, tmp_path: Path
) -> None:
    seal(journal)
    path = environment(tmp_path, store.url)
    with Archiver(path) as first:
        first.until_report(lambda report: report.number == 3, "the first one at work")
        with Archiver(path) as second:
            second.until_report(lambda r: "another archiver" in str(r.trouble), "a word of the second")
            first.stop()
            second.until_report(lambda report: report.trouble is None and report.number == 3, "the second at work")
            second.stop()


# ---- retention -------------------------------------------------------------------------------------------------------


def test_local_copies_go_after_their_time_and_the_archive_has_all(
    store: S3Server, journal: Journal, tmp_path: Path
) -> None:
    segments = [seal(journal) for _ in range(3)]
    done = run_once(environment(tmp_path, store.url, retain_days=0))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [e["event"] for e in events].count("removed here") == 2
    assert len(list(journal.root.rglob("*.capnp.zst"))) == 1
    assert_archive_holds(store.url, journal, segments)
    with contextlib.suppress(FileNotFoundError):
        assert json.loads((journal.root / "archiver.cursor").read_text())["number"] == 9
