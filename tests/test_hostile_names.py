"""Names of markets that mean something to a path, a key, a subject or a terminal reach none of them as they are.

A journal with such names, written by hand, goes through the real publisher, archiver and cache, one after the other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from journal_writer import Journal
from recording import ROOT, wait_until
from servers import NatsServer, RedisServer, S3Server

from ssmd.journal.identity import make_identity
from ssmd.middleware.interfaces import Start
from ssmd.middleware.nats import NatsTransport
from ssmd.middleware.objectstore import ObjectStorage
from ssmd.middleware.redis import RedisCache

MARKETS = [
    "../x", "../../../../etc/passwd", "/etc/passwd", "..", ".", "a b", "*", ">", "a.*.>", "$JS.API.>", "a/b", "a\\b",
    "M" * 1024, "Ä€😀", "a\r\nPUB md.x 1", "%2e%2e%2f", "a:b", "[a-z]*", "'; --", "\x1b[31m", "~", "\u202e",
]  # fmt: skip
S3 = S3Server.KEYS
CREDENTIALS = {"AWS_ACCESS_KEY_ID": S3["access_key_id"], "AWS_SECRET_ACCESS_KEY": S3["secret_access_key"]}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any]]:
    """The servers, and the folder of a journal that has gone through everything."""
    folder = tmp_path_factory.mktemp("hostile")
    with (
        NatsServer(folder / "nats") as nats,
        RedisServer(folder / "redis") as redis,
        S3Server(folder / "s3") as store,
    ):
        environment = environment_of(folder / "mine", nats, redis, store)
        write_journal(folder / "mine" / "data" / "kalshi")
        before = tree(folder)
        helper(environment, "publisher", "--once")
        helper(environment, "archiver", "--once")
        fill_cache(environment, redis)
        yield {"folder": folder, "before": before, "nats": nats, "redis": redis, "store": store}


def environment_of(folder: Path, nats: NatsServer, redis: RedisServer, store: S3Server) -> Path:
    folder.mkdir()
    file = folder / "hostile.yaml"
    content = {
        "name": "hostile",
        "feed": "kalshi",
        "schema": "market_data:v1",
        "exchange": {"simulator": {}},
        "subscriptions": [{"channels": ["trade"], "all": True}],
        "storage": {
            "type": "s3", "path": str(folder / "data"), "bucket": S3Server.BUCKET, "region": "us-east-1",
            "endpoint": store.url, "prefix": "copies",
        },
        "transport": {"type": "nats", "url": nats.url, "publish": "both"},
        "cache": {"type": "redis", "url": redis.url},
        "ring": {"path": str(folder / "ring")},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    return file


def write_journal(root: Path) -> None:
    journal = Journal(root)
    for seq, market in enumerate(MARKETS, 1):
        journal.trade(seq, market=market)
        journal.ticker(market=market)
    journal.seal()
    make_identity(root)


def helper(environment: Path, name: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"ssmd.{name}", "-e", str(environment), *arguments],
        cwd=ROOT, capture_output=True, timeout=60, check=False, env={**os.environ, **CREDENTIALS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def fill_cache(environment: Path, redis: RedisServer) -> None:
    """Runs the writer of last values until all markets are there, then ends it."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "ssmd.lastvalues", "-e", str(environment)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    cache = RedisCache(redis.url)
    try:
        wait_until(lambda: len(list(cache.scan("ssmd:last:"))) >= len(MARKETS), what="all markets in the cache")
    finally:
        cache.close()
        writer.terminate()
        assert writer.wait(10) == 0


def tree(folder: Path) -> set[Path]:
    """What is below a folder, but for what servers keep there."""
    return {path for path in folder.rglob("*") if path.relative_to(folder).parts[0] == "mine"}


def test_subjects_are_words_of_plain_characters(places: Mapping[str, Any]) -> None:
    """Each record was published, once by itself and once in a batch, on three words."""
    bus = NatsTransport(places["nats"].url, stream="SSMD", prefix="md")
    reading = bus.subscribe("md.>", start=Start.beginning())
    subjects = []
    while (delivery := reading.next(1.0)) is not None:
        subjects.append(delivery.message.subject)
    bus.close()
    single = [subject for subject in subjects if re.fullmatch(r"md\.(trade|ticker)\.[A-Za-z0-9_-]{1,128}", subject)]
    assert len(single) == 2 * len(MARKETS)
    assert set(subjects) - set(single) == {"md.batch.trade", "md.batch.ticker"}


def test_object_keys_are_made_of_nothing_that_the_exchange_said(places: Mapping[str, Any]) -> None:
    store = ObjectStorage(S3Server.BUCKET, region="us-east-1", endpoint=places["store"].url, **S3)
    keys = [info.key for info in store.list()]
    store.close()
    assert keys
    for key in keys:
        assert re.fullmatch(
            r"copies/kalshi/kalshi-[0-9a-f]{12}/2026-09-21/20260921T141320Z-0{11}1\.(capnp\.zst|manifest\.json)", key
        )


def test_no_file_was_made_but_the_helpers_own(places: Mapping[str, Any]) -> None:
    made = {path.name for path in tree(places["folder"]) - places["before"]}
    allowed = r"(publisher|archiver)\.(cursor|lock)|20260921T141320Z-0{11}1\.(capnp\.zst|manifest\.json|archived\.json)"
    assert [name for name in made if not re.fullmatch(allowed, name)] == []


def test_cache_keys_are_plain_and_one_for_each_market(places: Mapping[str, Any]) -> None:
    cache = RedisCache(places["redis"].url)
    keys = list(cache.scan("ssmd:last:"))
    values = [json.loads(value) for value in cache.mget(keys) if value is not None]
    cache.close()
    assert len(keys) == len(MARKETS)
    assert all(re.fullmatch(r"ssmd:last:kalshi:[A-Za-z0-9._~%-]{1,128}", key) for key in keys)
    assert {value["market"] for value in values} == set(MARKETS)


def test_the_journal_and_its_copies_hold_the_names_as_they_came(places: Mapping[str, Any]) -> None:
    folder = places["folder"]
    done = subprocess.run(
        [sys.executable, "-m", "ssmd", "verify", str(folder / "mine" / "data"), "--json",
         "--against", f"{places['nats'].url}/SSMD",
         "--against", f"s3://{S3Server.BUCKET}/copies?endpoint={places['store'].url}&region=us-east-1"],
        cwd=ROOT, capture_output=True, timeout=60, check=False, env={**os.environ, **CREDENTIALS},
    )  # fmt: skip
    (journal,) = json.loads(done.stdout)["against"]
    assert [(target["form"], target["records"]) for target in journal["targets"]] == [
        ("records", 2 * len(MARKETS)), ("batches", 2 * len(MARKETS)), ("objects", 2 * len(MARKETS)),
    ]  # fmt: skip
    assert journal["complete"]
