"""The pages of the health server that are made here: /markets in parts, and what was asked for wrongly."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from ssmd.health import HealthServer

MARKETS = [f"M-{i}" for i in range(2500)]


@pytest.fixture
def address() -> Iterator[str]:
    """A server in a thread of its own: gevent's hub is one per thread."""
    ready, ended = threading.Event(), threading.Event()
    where: list[str] = []

    def serve() -> None:
        server = HealthServer(
            "127.0.0.1:0",
            live={},
            ready={},
            metrics=lambda: b"",
            markets=lambda after, limit: ({name: {"records": 1} for name in MARKETS[after : after + limit]}, 2500),
        )
        where.append(server.address)
        ready.set()
        while not ended.is_set():
            gevent.sleep(0.01)
        server.stop()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(20)
    yield where[0]
    ended.set()
    thread.join()


def get(address: str, page: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://{address}{page}", timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_many_markets_come_in_parts_that_say_so_and_lead_to_the_next(address: str) -> None:
    status, first = get(address, "/markets")
    assert (status, len(first["markets"]), first["total"]) == (200, 1000, 2500)
    assert first["note"] == "1000 of 2500 markets are shown; the others are at `next`"
    seen, page = list(first["markets"]), first
    while page["next"]:
        _, page = get(address, page["next"])
        seen += page["markets"]
    assert seen == MARKETS
    assert page["note"] is None


def test_a_part_has_as_many_markets_as_were_asked_for(address: str) -> None:
    assert list(get(address, "/markets?limit=2&after=10")[1]["markets"]) == ["M-10", "M-11"]
    assert get(address, "/markets?limit=2&after=10")[1]["next"] == "/markets?after=12&limit=2"
    assert get(address, "/markets?after=9000")[1] == {"markets": {}, "total": 2500, "next": None, "note": None}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=10001", "after=-1", "after=x", "limit=", "page=2", "a=1&b=2&c=3&d=4&e=5"]
)
def test_a_query_that_makes_no_sense_is_answered_in_words(address: str, query: str) -> None:
    status, said = get(address, f"/markets?{query}")
    assert status == 400
    assert "limit=N (1 to 10000)" in said["error"]
