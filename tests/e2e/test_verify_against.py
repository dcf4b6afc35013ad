"""`ssmd verify --against` on a real stream and a real archive in which something is wrong on purpose.

A journal is written by hand, published and archived by the real programs. Then messages and objects are taken away,
added or changed behind their back, and the report must say exactly that.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
import yaml
from journal_writer import Journal
from nats.aio.client import Client
from recording import ROOT
from servers import NatsServer

from ssmd.journal.identity import identity, make_identity
from ssmd.journal.recorder import RING_NOTE
from ssmd.native.ring import Ring, Role

TRADES = 400  # in each of three segments


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as running:
        yield running


class Copies:
    """A journal, published and archived; each test has its own, in a stream of its own."""

    def __init__(self, folder: Path, server: NatsServer, stream: str, *, name: str = "a", **transport: Any) -> None:
        self.server, self.stream = server, stream
        self.data, self.archive = folder / name, folder / "archive"
        self.root = self.data / "kalshi"
        self.archive.mkdir(exist_ok=True)
        self.environment = folder / f"{name}.yaml"
        content = {
            "name": name,
            "feed": "kalshi",
            "schema": "market_data:v1",
            "exchange": {"simulator": {}},
            "subscriptions": [{"channels": ["trade"], "all": True}],
            "storage": {"path": str(self.data), "archive": str(self.archive)},
            "transport": {"type": "nats", "url": server.url, "stream": stream, "subject_prefix": stream, **transport},
            "ring": {"path": str(folder / f"{name}.ring")},
        }
        self.environment.write_text(yaml.safe_dump(content))
        self.journal = Journal(self.root)
        for _ in range(3):
            self.segment()
        make_identity(self.root)

    def segment(self) -> None:
        """One more sealed segment."""
        for number in range(TRADES):
            self.journal.trade(self.journal.number + 1, market=f"M-{number % 3}")
            if number % 100 == 99:
                self.journal.checkpoint()
        self.journal.seal()

    @property
    def identity(self) -> str:
        return identity(self.root)

    def spread(self, *helpers: str) -> Copies:
        """Publishes and archives what there is, both at once."""
        running = [
            subprocess.Popen(
                [sys.executable, "-m", f"ssmd.{helper}", "-e", str(self.environment), "--once"],
                cwd=ROOT, stderr=subprocess.PIPE, text=True,
            )
            for helper in helpers or ("publisher", "archiver")
        ]  # fmt: skip
        for process in running:
            said = process.communicate(timeout=60)[1]
            assert process.returncode == 0, said
        return self

    @property
    def url(self) -> str:
        return f"{self.server.url}/{self.stream}?prefix={self.stream}"

    def compare(self, *urls: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """Exit code, and the outcomes by form."""
        code, report = compared(self.data, *(urls or (self.url, f"file://{self.archive}")))
        (journal,) = report["against"]
        assert journal["journal"] == self.identity
        return code, {target["form"]: target for target in journal["targets"]}

    def on_stream(self, work: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            client = await nats.connect(self.server.url)
            try:
                await work(client)
            finally:
                await client.close()

        asyncio.run(run())

    def delete(self, *sequences: int) -> None:
        async def work(client: Client) -> None:
            for sequence in sequences:
                assert await client.jetstream().delete_msg(self.stream, sequence)

        self.on_stream(work)

    def publish(self, payload: bytes, message_id: str) -> None:
        async def work(client: Client) -> None:
            headers = {"Nats-Msg-Id": message_id}
            await client.jetstream().publish(f"{self.stream}.trade.M", payload, headers=headers)

        self.on_stream(work)

    def payload(self, sequence: int) -> bytes:
        found: list[bytes] = []

        async def work(client: Client) -> None:
            found.append((await client.jetstream().get_msg(self.stream, sequence)).data or b"")

        self.on_stream(work)
        return found[0]


def python(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip


def compared(data: Path, *urls: str) -> tuple[int, dict[str, Any]]:
    targets = [word for url in urls for word in ("--against", url)]
    done = python("-m", "ssmd", "verify", "--json", str(data), *targets)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


ALL = 3 * TRADES


def test_copies_that_nobody_touched_are_equal(tmp_path: Path, server: NatsServer) -> None:
    copies = Copies(tmp_path, server, "EQUAL", publish="both").spread()
    code, found = copies.compare()
    assert code == 0
    assert {form: target["records"] for form, target in found.items()} == {
        "records": ALL, "batches": ALL, "objects": ALL,
    }  # fmt: skip


def test_a_message_that_was_deleted_is_named(tmp_path: Path, server: NatsServer) -> None:
    copies = Copies(tmp_path, server, "DELETED").spread()
    copies.delete(7, 8, ALL)
    code, found = copies.compare()
    assert code == 1
    assert found["records"]["missing"] == 3
    assert found["records"]["ranges"] == {"missing": [[7, 8], [ALL, ALL]]}
    assert found["objects"]["equal"]


def test_a_batch_that_was_deleted_takes_all_its_records(tmp_path: Path, server: NatsServer) -> None:
    copies = Copies(tmp_path, server, "BATCH", publish="batches", batch_records=50).spread("publisher")
    copies.delete(2)
    code, found = copies.compare(copies.url)
    assert code == 1
    assert found["batches"]["ranges"] == {"missing": [[51, 100]]}


def test_a_record_that_was_published_twice_under_two_ids_is_doubled(tmp_path: Path, server: NatsServer) -> None:
    copies = Copies(tmp_path, server, "DOUBLED").spread("publisher")
    copies.publish(copies.payload(5), f"{copies.identity}:5.1")
    code, found = copies.compare(copies.url)
    assert code == 1
    assert (found["records"]["doubled"], found["records"]["ranges"]) == (1, {"doubled": [[5, 5]]})


def test_a_single_bit_that_differs_is_found(tmp_path: Path, server: NatsServer) -> None:
    copies = Copies(tmp_path, server, "CHANGED").spread("publisher")
    raw = bytearray(copies.payload(9))
    raw[-1] ^= 1
    copies.delete(9)
    copies.publish(bytes(raw), f"{copies.identity}:9.1")
    code, found = copies.compare(copies.url)
    assert code == 1
    assert found["records"]["ranges"] == {"different": [[9, 9]]}


def test_what_the_streams_limits_removed_is_not_lost_while_the_objects_hold_it(
    tmp_path: Path, server: NatsServer
) -> None:
    copies = Copies(tmp_path, server, "LIMITED").spread()

    async def purge(client: Client) -> None:
        await client.jetstream().purge_stream("LIMITED", keep=500)

    copies.on_stream(purge)
    code, found = copies.compare()
    assert code == 0
    assert (found["records"]["dropped"], found["records"]["records"]) == (ALL - 500, 500)
    assert found["objects"]["records"] == ALL


def test_an_object_that_is_gone_is_missing(tmp_path: Path, server: NatsServer) -> None:
    copies = Copies(tmp_path, server, "GONE").spread("archiver")
    next(copies.archive.rglob(f"*-{TRADES + 1:012d}.capnp.zst")).unlink()
    code, found = copies.compare(f"file://{copies.archive}")
    assert code == 1
    assert found["objects"]["ranges"] == {"missing": [[TRADES + 1, 2 * TRADES]]}


def test_an_object_that_is_damaged_is_told_with_its_place(tmp_path: Path, server: NatsServer) -> None:
    copies = Copies(tmp_path, server, "DAMAGED").spread("archiver")
    path = next(copies.archive.rglob(f"*-{TRADES + 1:012d}.capnp.zst"))
    path.write_bytes(path.read_bytes()[:-40])
    code, found = copies.compare(f"file://{copies.archive}")
    assert code == 1
    assert found["objects"]["missing"] > 0
    assert path.name in found["objects"]["faults"][0]


def test_what_is_not_published_yet_is_behind(tmp_path: Path, server: NatsServer) -> None:
    """Where nobody records any more that is not complete: the publisher was not let finish."""
    copies = Copies(tmp_path, server, "BEHIND").spread()
    copies.segment()
    code, found = copies.compare()
    assert code == 1
    for target in found.values():
        assert (target["equal"], target["behind"], target["records"]) == (True, TRADES, ALL)
    told = python("-m", "ssmd", "verify", str(copies.data), "--against", copies.url).stdout
    assert f"{ALL:,} records are the same, once each, {TRADES} are not there yet" in told
    assert "let them finish" in told


def with_an_open_segment(copies: Copies) -> Copies:
    """The journal goes on by one record that no copy has yet."""
    copies.journal.trade(ALL + 1)
    copies.journal.checkpoint()
    copies.journal.write(".capnp.open")
    return copies


def test_while_a_journal_is_recorded_being_behind_is_no_fault(tmp_path: Path, server: NatsServer) -> None:
    copies = with_an_open_segment(Copies(tmp_path, server, "LIVE").spread())
    ring = tmp_path / "a.ring"
    (copies.root / RING_NOTE).write_text(f"{ring}\n")
    with Ring.open(ring, role=Role.PRODUCER):  # this process is its recorder
        code, found = copies.compare()
        assert code == 0
        assert {target["behind"] for target in found.values()} == {1}
        told = python("-m", "ssmd", "verify", str(copies.data), "--against", copies.url).stdout
    assert "the same as far as published and uploaded: journal " in told
    assert told.endswith("; 1 record is not there yet\n")
    assert "the same everywhere" not in told


def test_an_open_segment_that_a_dead_recorder_left_excuses_nobody(tmp_path: Path, server: NatsServer) -> None:
    copies = with_an_open_segment(Copies(tmp_path, server, "DEAD").spread())
    code, found = copies.compare()
    assert code == 1
    assert {target["behind"] for target in found.values()} == {1}


def test_shards_on_one_stream_and_in_one_archive_are_compared_each_by_itself(
    tmp_path: Path, server: NatsServer
) -> None:
    first = Copies(tmp_path, server, "SHARED", name="a").spread()
    second = Copies(tmp_path, server, "SHARED", name="b").spread()
    for copies in (first, second):
        code, found = copies.compare()
        assert code == 0
        assert {target["records"] for target in found.values()} == {ALL}


def test_an_archive_alone_is_compared_with_the_stream(tmp_path: Path, server: NatsServer) -> None:
    """As `ssmd verify s3://...` reads it, here by its folder: the identity stands in its keys."""
    copies = Copies(tmp_path, server, "ARCHIVE").spread()
    folder = copies.archive / "kalshi" / copies.identity
    assert folder.is_dir()
    code, report = compared(folder, copies.url)
    (journal,) = report["against"]
    assert (code, journal["journal"], journal["targets"][0]["records"]) == (0, copies.identity, ALL)


# ---- what cannot be compared -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/x", "I do not know what this is"),
        ("SSMD", "I do not know what this is"),
        ("nats://me:hunter2@127.0.0.1/SSMD", "must hold no user name or password"),
        ("nats://127.0.0.1:1/SSMD?prefx=md", "unknown option prefx"),
        ("nats://127.0.0.1:x/SSMD", "is no URL"),
        ("nats://127.0.0.1:1/SSMD", "cannot be reached|not connected|Connect"),
        ("file:///no/such/folder", "there is no such folder"),
        ("file://folder", "an absolute path"),
        ("s3:///prefix", "which bucket"),
        ("s3://bucket/../x", "is no prefix"),
    ],
)
def test_a_target_that_is_wrong_is_one_clear_error(tmp_path: Path, url: str, words: str) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.trade(1)
    journal.seal()
    make_identity(journal.root)
    done = python("-m", "ssmd", "verify", str(tmp_path), "--against", url)
    assert done.returncode in (2, 4), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert re.search(words, done.stderr), done.stderr


def test_a_target_that_cannot_be_reached_is_4_as_help_and_page_say(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.trade(1)
    journal.seal()
    make_identity(journal.root)
    done = python("-m", "ssmd", "verify", str(tmp_path), "--against", "nats://127.0.0.1:1/SSMD")
    assert done.returncode == 4, done.stdout + done.stderr
    words = "4 an archive or a target of --against cannot be reached"
    assert words in " ".join(python("-m", "ssmd", "verify", "--help").stdout.split())  # wherever its lines end
    for page in ("cli.md", "verify.md"):
        assert "cannot be reached" in (ROOT / "docs" / page).read_text("utf-8")


def test_a_stream_that_is_not_there_is_told(tmp_path: Path, server: NatsServer) -> None:
    copies = Copies(tmp_path, server, "NONE")
    done = python("-m", "ssmd", "verify", str(copies.data), "--against", copies.url)
    assert done.returncode == 2
    assert "NONE" in done.stderr


def test_a_journal_without_an_identity_was_never_published(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.trade(1)
    journal.seal()
    done = python("-m", "ssmd", "verify", str(tmp_path), "--against", f"file://{tmp_path}")
    assert done.returncode == 2
    assert "has no identity" in done.stderr
