"""The recorder with a Redis: what the cache says at the end is what a plain replay of the journal says."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recording import Line, Recorder, environment_file, read_lines, wait_until
from servers import RedisServer

from ssmd.middleware.redis import RedisCache
from ssmd.simulator.process import SimulatorProcess


def test_last_values_survive_an_outage_a_kill_a_full_redis_and_a_flush_and_are_those_of_the_journal(
    tmp_path: Path,
) -> None:
    with (
        RedisServer(tmp_path / "redis") as server,
        SimulatorProcess("--rate", "1000") as exchange,
        Recorder(
            environment_file(tmp_path, exchange, cache__type="redis", cache__url=server.url), exchange
        ) as recorder,
    ):
        recorder.wait_frames(500)
        wait_until(lambda: values_of(server), what="the first values")

        server.kill()
        wait_until(lambda: recorder.get("/healthz")[0] == 503, what="a word in /healthz")
        assert "cannot be reached" in trouble(recorder) and "markets wait" in trouble(recorder)
        server.start()
        wait_until(lambda: recorder.get("/healthz")[0] == 200, what="all well again")
        assert values_of(server)

        os.kill(child(recorder.pid, "ssmd.lastvalues"), signal.SIGKILL)
        wait_until(lambda: recorder.metric("ssmd_child_restarts_total", "lastvalues") == 1, what="a restart")
        before = recorder.metric("ssmd_frames_received_total")
        wait_until(lambda: recorder.metric("ssmd_cursor_number", "lastvalues") > before, what="caught up")

        server.send("CONFIG", "SET", "maxmemory", "1")  # noeviction is the default
        wait_until(lambda: " is full: " in trouble(recorder), what="a word about the full Redis")
        frames = recorder.metric("ssmd_frames_received_total")
        recorder.wait_frames(int(frames) + 500)
        server.send("CONFIG", "SET", "maxmemory", "0")
        wait_until(lambda: recorder.get("/healthz")[0] == 200, what="all well, now that there is room")

        server.send("FLUSHALL")
        wait_until(lambda: len(values_of(server)) >= 10, what="filled again")
        assert recorder.stop() == 0

        found, expected = values_of(server), replayed(read_lines(recorder.data))
        assert found.keys() == expected.keys()
        for market, value in found.items():
            was = (value["book"] or {}).get("was")
            assert value["bid_e4"] is None or value["quote"] == "ticker", "the run is over: no book is synced"
            shown: dict[str, Any] = {
                "book": was and tuple(was.values()),
                "trade": value["trade"] and value["trade"]["trade_id"],
                "ticker": value["ticker"] and value["ticker"]["number"],
                "status": value["status"] and value["status"]["number"],
            }
            assert shown == expected[market], market


def trouble(recorder: Recorder) -> str:
    """What /healthz says of the cache's writer."""
    return str(json.loads(recorder.get("/healthz")[1])["checks"]["lastvalues"]["detail"] or "")


def values_of(server: RedisServer) -> dict[str, dict[str, Any]]:
    """Every value in Redis, by market."""
    cache = RedisCache(server.url)
    values = [json.loads(value) for value in cache.mget(list(cache.scan("ssmd:last:kalshi:"))) if value is not None]
    cache.close()
    return {value["market"]: value for value in values}


def replayed(lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """The same from the journal, with nothing of ssmd: a journal without gaps, of one connection."""
    books: dict[str, dict[str, dict[int, int]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        body, market = line.body, line.body.get("market")
        if not market or line.kind not in ("book", "trade", "ticker", "status"):
            continue
        parts = found.setdefault(market, dict.fromkeys(("book", "trade", "ticker", "status")))
        if line.kind != "book":
            parts[line.kind] = body["tradeId"] if line.kind == "trade" else line.number
            continue
        if body["kind"] == "snapshot":
            books[market] = {
                side: {level["priceE4"]: level["countE2"] for level in body.get(f"{side}s", ())}
                for side in ("bid", "ask")
            }
        else:
            levels = books[market][body["side"]]
            levels[body["priceE4"]] = levels.get(body["priceE4"], 0) + body["deltaE2"]
            if not levels[body["priceE4"]]:
                del levels[body["priceE4"]]
        bids, asks = books[market]["bid"], books[market]["ask"]
        bid, ask = max(bids, default=None), min(asks, default=None)
        parts["book"] = (bid, bids.get(bid or 0), ask, asks.get(ask or 0))
    return found


def child(parent: int, module: str) -> int:
    """The process that a process started for a module."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent and f"\0{module}\0" in command:
            return int(folder.name)
    raise AssertionError(f"{parent} has no child {module}")
