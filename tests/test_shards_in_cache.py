"""Shards of one feed on one cache: what one knows of a market does not replace what another knows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from journal_writer import Journal

from ssmd.cli.last import main
from ssmd.journal.follow import Follower
from ssmd.lastvalues import LastValues
from ssmd.lastvalues.joined import joined
from ssmd.lastvalues.service import Clocks, Service
from ssmd.middleware import names
from ssmd.middleware.memory import MemoryCache

KEY = "ssmd:last:kalshi:M-1"


class Shard:
    """The service of one shard's journal."""

    def __init__(self, root: Path, cache: MemoryCache, shard: int | None, identity: str) -> None:
        self.journal, self.cache, self.identity = Journal(root), cache, identity
        self.seconds = 1000.0
        self.service = self._service(shard)

    def _service(self, shard: int | None) -> Service:
        values = LastValues("kalshi", journal=self.identity, shard=None if shard is None else str(shard))
        clocks = Clocks(lambda: self.journal.now, lambda: self.seconds, lambda: 1.0)
        return Service(values, Follower([self.journal.root]), self.cache, clocks, journal=self.identity, ttl_s=86_400.0)

    def step(self) -> None:
        self.journal.write(".capnp.open")
        self.seconds += 10.0
        while self.service.read():
            pass
        self.service.write()

    def restart(self, shard: int | None) -> None:
        self.service.close()
        self.service = self._service(shard)


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache()


def books(root: Path, cache: MemoryCache, shard: int | None = 0) -> Shard:
    """It records the book of M-1."""
    made = Shard(root, cache, shard, "kalshi-a")
    made.journal.snapshot(1, [(4600, 250)], [(4800, 700)])
    made.step()
    return made


def trades(root: Path, cache: MemoryCache, shard: int | None = 1) -> Shard:
    """It records the trades of all markets; a little later."""
    made = Shard(root, cache, shard, "kalshi-b")
    made.journal.now += 10**9
    made.journal.trade(1)
    made.step()
    return made


def in_cache(cache: MemoryCache) -> dict[str, Any]:
    keys = sorted(cache.scan("ssmd:last:"))
    return {key: json.loads(value) for key, value in zip(keys, cache.mget(keys), strict=True) if value is not None}


def test_each_shard_has_a_key_of_its_own_for_a_market(tmp_path: Path, cache: MemoryCache) -> None:
    books(tmp_path / "a", cache)
    trades(tmp_path / "b", cache)
    found = in_cache(cache)
    assert list(found) == [f"{KEY}:0", f"{KEY}:1"]
    assert found[f"{KEY}:0"]["bid_e4"] == 4600
    assert found[f"{KEY}:1"]["trade"]["trade_id"] == "t1"


def test_the_key_of_a_recorder_that_is_no_shard_is_the_markets(tmp_path: Path, cache: MemoryCache) -> None:
    books(tmp_path / "a", cache, shard=None)
    assert list(in_cache(cache)) == [KEY]


def test_no_market_has_a_key_that_is_another_markets_of_a_shard() -> None:
    assert names.last_value_key("kalshi", "M-1:0") != names.last_value_key("kalshi", "M-1", "0")


def test_joined_each_part_is_of_the_shard_that_saw_it_last(tmp_path: Path, cache: MemoryCache) -> None:
    books(tmp_path / "a", cache)
    trades(tmp_path / "b", cache)
    value = joined(list(in_cache(cache).values()))
    assert (value["bid_e4"], value["ask_e4"], value["quote"], value["trouble"]) == (4600, 4800, "book", None)
    assert (value["book"]["synced"], value["book"]["journal"]) == (True, "kalshi-a")
    assert (value["trade"]["trade_id"], value["trade"]["journal"]) == ("t1", "kalshi-b")
    assert value["never"] == ["ticker", "status"]


def test_joined_names_the_last_record_of_all(tmp_path: Path, cache: MemoryCache) -> None:
    books(tmp_path / "a", cache)
    other = trades(tmp_path / "b", cache)
    value = joined(list(in_cache(cache).values()))
    assert (value["journal"], value["number"], value["recv_ns"]) == ("kalshi-b", 1, other.journal.now)


def test_a_quote_of_a_ticker_does_not_replace_that_of_a_book(tmp_path: Path, cache: MemoryCache) -> None:
    books(tmp_path / "a", cache)
    other = trades(tmp_path / "b", cache)
    other.journal.ticker("M-1")
    other.step()
    value = joined(list(in_cache(cache).values()))
    assert (value["quote"], value["bid_e4"]) == ("book", 4600)
    assert value["ticker"]["journal"] == "kalshi-b"


def test_one_value_alone_is_shown_as_the_cache_holds_it(tmp_path: Path, cache: MemoryCache) -> None:
    books(tmp_path / "a", cache)
    (value,) = in_cache(cache).values()
    assert joined([value]) == value


def test_a_recorder_that_becomes_a_shard_takes_its_values_along(tmp_path: Path, cache: MemoryCache) -> None:
    """What it wrote under the key of before would stay as it was, and be believed."""
    first = books(tmp_path / "a", cache, shard=None)
    first.journal.trade(2)
    first.step()
    assert list(in_cache(cache)) == [KEY]
    first.restart(1)
    first.step()
    (key, value), *others = in_cache(cache).items()
    assert (key, others) == (f"{KEY}:1", [])
    assert value["trade"]["trade_id"] == "t2"


def test_values_of_another_journal_are_not_taken_along(tmp_path: Path, cache: MemoryCache) -> None:
    books(tmp_path / "a", cache)
    trades(tmp_path / "b", cache).restart(2)
    assert list(in_cache(cache)) == [f"{KEY}:0", f"{KEY}:1"]


def test_journals_under_one_folder_are_shown_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `ssmd last --data` finds those of several shards."""
    first, second = Journal(tmp_path / "a" / "kalshi"), Journal(tmp_path / "b" / "kalshi")
    first.snapshot(1, [(4600, 250)], [(4800, 700)])
    first.write(".capnp.open")
    second.trade(1)
    second.write(".capnp.open")
    assert main(["--json", "--data", str(tmp_path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    value = json.loads(line)
    assert (value["bid_e4"], value["trade"]["trade_id"]) == (4600, "t1")
