"""Last values: what comes out after which records, and a service that survives its cache.

Records are written by tests/journal_writer.py, with pycapnp and nothing of ssmd.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_writer import NOON, Journal
from recording import ROOT, wait_until
from servers import RedisServer

from ssmd.errors import LimitError, UnavailableError
from ssmd.journal.follow import Follower
from ssmd.lastvalues import LastValues, read_value
from ssmd.lastvalues.plain import PlainLatest
from ssmd.lastvalues.service import Clocks, Service, begin
from ssmd.middleware import names
from ssmd.middleware.interfaces import Start
from ssmd.middleware.memory import MemoryCache
from ssmd.native.latest import Last, Latest, Quote, Stamp, Sync

HOSTILE = ("a b", "a*b", "a>b", "a\nb", "../x", "x" * 1024, "x" * 1023 + "y", "Zürich", "a_b", "a%20b", "\x1b[2J", "~")


class Scene:
    """A journal in memory and the values that follow it."""

    def __init__(
        self, tmp_path: Path, keeper: type[Latest] | type[PlainLatest] = Latest, max_markets: int = 1000
    ) -> None:
        self.journal = Journal(tmp_path / "kalshi")
        made = keeper(max_markets)
        self.values = LastValues("kalshi", journal="kalshi-0123456789ab", max_markets=max_markets, keeper=made)
        self._read = 0

    def changes(self) -> dict[str, dict[str, Any]]:
        """What changed by the records since the last call, by market."""
        data = self.journal.data
        self.values.add(data, self._read, len(data), self._read)
        self._read = len(data)
        changes = self.values.changes(1_000_000)
        self.values.done(changes, self.journal.now)
        return {change.name: json.loads(change.value) for change in changes}

    def market(self, name: str = "M-1") -> dict[str, Any]:
        return self.changes()[name]


@pytest.fixture(params=[Latest, PlainLatest])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """An empty one, with each of the two that can follow records: C and its plain twin."""
    return Scene(tmp_path, request.param)


def quote(value: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(value[name] for name in ("bid_e4", "bid_size_e2", "ask_e4", "ask_size_e2"))


def begun(scene: Scene) -> Journal:
    """A synced book of M-1 on connection 1 sid 2, as of seq 1."""
    journal = scene.journal
    journal.event("started")
    journal.event("opened", 1)
    journal.subscribed("orderbook_delta", 2)
    journal.snapshot(1, [(4000, 100), (4600, 250)], [(5500, 50), (4800, 700)])
    scene.changes()
    return journal


# ---- the book --------------------------------------------------------------------------------------------------------


def test_best_bid_and_ask_come_with_their_sizes_from_a_snapshot(scene: Scene) -> None:
    number = scene.journal.snapshot(1, [(4000, 100), (4600, 250)], [(5500, 50), (4800, 700)])
    value = scene.market()
    assert quote(value) == (4600, 250, 4800, 700)
    assert (value["quote"], value["trouble"]) == ("book", None)
    assert value["book"] == {
        "synced": True,
        "why": None,
        "bid_levels": 2,
        "ask_levels": 2,
        "number": number,
        "recv_ns": NOON + 1000,
        "exchange_ns": None,
    }


def test_a_delta_changes_the_size_at_the_best_price(scene: Scene) -> None:
    begun(scene).delta(2, "bid", 4600, -50)
    assert quote(scene.market()) == (4600, 200, 4800, 700)


def test_a_level_that_is_taken_away_uncovers_the_next_one(scene: Scene) -> None:
    journal = begun(scene)
    journal.delta(2, "bid", 4600, -250)
    journal.delta(3, "ask", 4800, -700)
    assert quote(scene.market()) == (4000, 100, 5500, 50)


def test_a_better_price_becomes_the_best(scene: Scene) -> None:
    journal = begun(scene)
    journal.delta(2, "bid", 4700, 1)
    journal.delta(3, "ask", 4790, 2)
    assert quote(scene.market()) == (4700, 1, 4790, 2)


def test_a_side_without_levels_has_no_best_and_the_book_is_synced(scene: Scene) -> None:
    scene.journal.snapshot(1, [(4000, 100)], [])
    value = scene.market()
    assert quote(value) == (4000, 100, None, None)
    assert value["book"]["synced"]
    assert value["book"]["ask_levels"] == 0


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_the_best_prices_are_those_of_a_naive_book(data: st.DataObject) -> None:
    scene = Scene(Path("nowhere"))
    price, count = st.integers(1, 12).map(lambda cents: cents * 100), st.integers(1, 500)
    ladders = {side: data.draw(st.dictionaries(price, count, max_size=6)) for side in ("bid", "ask")}
    scene.journal.snapshot(1, list(ladders["bid"].items()), list(ladders["ask"].items()))
    sides = {side: dict(levels) for side, levels in ladders.items()}
    for seq in range(2, data.draw(st.integers(2, 30))):
        side, at, change = data.draw(st.sampled_from(["bid", "ask"])), data.draw(price), data.draw(count)
        if sides[side].get(at) and data.draw(st.booleans()):
            change = -data.draw(st.integers(1, sides[side][at]))
        sides[side][at] = sides[side].get(at, 0) + change
        scene.journal.delta(seq, side, at, change)
    bids = {at: size for at, size in sides["bid"].items() if size}
    asks = {at: size for at, size in sides["ask"].items() if size}
    bid, ask = max(bids, default=None), min(asks, default=None)
    value = scene.market()
    assert quote(value) == (bid, bids.get(bid or 0), ask, asks.get(ask or 0))
    assert (value["book"]["bid_levels"], value["book"]["ask_levels"]) == (len(bids), len(asks))


# ---- when a book is not believed -------------------------------------------------------------------------------------


def unsynced(value: Mapping[str, Any]) -> str:
    """Why; and nothing that could be taken for a price stands where prices stand."""
    assert quote(value) == (None, None, None, None)
    assert value["quote"] == "book"
    assert value["book"]["synced"] is False
    assert value["book"]["why"] == value["trouble"]
    return str(value["trouble"])


def test_after_a_gap_the_book_says_so_and_what_it_was(scene: Scene) -> None:
    begun(scene).gap("sequence", sid=2, fromSeq=2, toSeq=5)
    value = scene.market()
    assert unsynced(value) == "messages were missed"
    assert value["book"]["was"] == {"bid_e4": 4600, "bid_size_e2": 250, "ask_e4": 4800, "ask_size_e2": 700}


def test_deltas_after_a_gap_do_not_bring_prices_back_and_a_snapshot_does(scene: Scene) -> None:
    journal = begun(scene)
    journal.gap("sequence", sid=2, fromSeq=2, toSeq=5)
    journal.delta(6, "bid", 4500, 100)
    assert unsynced(scene.market()) == "messages were missed"
    journal.snapshot(7, [(100, 1)], [(200, 2)], request=9)
    assert quote(scene.market()) == (100, 1, 200, 2)


def test_skipped_numbers_count_as_a_gap_although_no_record_says_so(scene: Scene) -> None:
    begun(scene).trade(4, "M-2", sid=2)
    assert unsynced(scene.market("M-1")) == "messages were missed"


@pytest.mark.parametrize("cause", ["disconnect", "stall", "outage", "damage", "frameTooLarge"])
def test_a_gap_of_a_whole_connection_or_run_counts_for_every_book_of_it(scene: Scene, cause: str) -> None:
    begun(scene).gap(cause, connection=0 if cause in ("outage", "damage") else 1)
    assert unsynced(scene.market()) == "messages were missed"


@pytest.mark.parametrize("cause", ["channelError", "bufferOverflow", "undecoded"])
def test_a_gap_of_a_sid_counts_for_its_books(scene: Scene, cause: str) -> None:
    begun(scene).gap(cause, sid=2)
    assert unsynced(scene.market()) == "messages were missed"


def test_a_gap_elsewhere_does_not_count(scene: Scene) -> None:
    journal = begun(scene)
    journal.gap("sequence", sid=1, fromSeq=2, toSeq=5)
    journal.gap("disconnect", connection=7)
    journal.gap("refused", connection=1)
    journal.gap("bookState", sid=2, detail="M-9: a delta takes a level below zero")
    assert scene.changes() == {}
    journal.delta(2, "bid", 4600, 1)
    assert quote(scene.market()) == (4600, 251, 4800, 700)


def test_a_closed_connection_ends_its_books(scene: Scene) -> None:
    begun(scene).event("closed", 1)
    assert unsynced(scene.market()) == "the connection was closed"


def test_another_closed_connection_does_not(scene: Scene) -> None:
    begun(scene).event("closed", 8)
    assert scene.changes() == {}


@pytest.mark.parametrize(("what", "why"), [("started", "recording began anew"), ("stopped", "recording stopped")])
def test_the_end_of_a_run_ends_every_book(scene: Scene, what: str, why: str) -> None:
    begun(scene).event(what)
    assert unsynced(scene.market()) == why


def test_a_book_comes_back_on_the_next_connection(scene: Scene) -> None:
    journal = begun(scene)
    journal.event("closed", 1)
    scene.changes()
    journal.event("opened", 2)
    journal.snapshot(1, [(100, 1)], [(200, 2)], connection=2)
    journal.delta(2, "bid", 150, 3, connection=2)
    assert quote(scene.market()) == (150, 3, 200, 2)


def test_a_delta_below_zero_ends_the_book_and_what_it_was_is_not_told(scene: Scene) -> None:
    begun(scene).delta(2, "bid", 4600, -251)
    value = scene.market()
    assert unsynced(value) == "a delta took a level below zero"
    assert value["book"]["was"] is None


def test_a_delta_for_a_market_without_snapshot_gives_no_price(scene: Scene) -> None:
    scene.journal.delta(7, "bid", 4600, 100)
    assert unsynced(scene.market()) == "no snapshot of it was seen yet"


def test_the_end_of_a_subscription_ends_its_books(scene: Scene) -> None:
    journal = begun(scene)
    journal.add("control", {"type": "unsubscribed", "id": 5, "sid": 2}, connection=1, sid=2, seq=2)
    assert unsynced(scene.market()) == "the subscription ended"


def ok(journal: Journal, seq: int, markets: Sequence[str] | None) -> None:
    frame = {"type": "ok", "id": 5, "sid": 2, "seq": seq, "msg": {"market_tickers": markets} if markets else {}}
    body = {"type": "ok", "id": 5, "sid": 2}
    journal.add("control", body, connection=1, sid=2, seq=seq, frame=json.dumps(frame).encode())


def test_a_market_that_left_its_subscription_has_no_book_any_more(scene: Scene) -> None:
    journal = begun(scene)
    journal.snapshot(2, [(100, 1)], [], "M-2")
    scene.changes()
    ok(journal, 3, ["M-2", "M-3"])
    assert list(scene.changes()) == ["M-1"]
    journal.delta(4, "bid", 4600, 1, "M-1")
    journal.delta(5, "bid", 100, 1, "M-2")
    changes = scene.changes()
    assert unsynced(changes["M-1"]) == "the market left the subscription"
    assert quote(changes["M-2"]) == (100, 2, None, None)


def test_a_reply_without_a_list_says_nothing_about_books(scene: Scene) -> None:
    journal = begun(scene)
    ok(journal, 2, None)
    assert scene.changes() == {}


def test_missing_records_of_the_journal_end_every_book(scene: Scene) -> None:
    journal = begun(scene)
    journal.number += 1
    journal.trade(1, "M-2")
    assert unsynced(scene.market("M-1")) == "records of the journal are missing"


def test_what_is_sent_twice_counts_once(scene: Scene) -> None:
    journal = begun(scene)
    journal.delta(2, "bid", 4600, 50)
    journal.delta(2, "bid", 4600, 50)
    journal.trade(5, "M-1")
    journal.trade(4, "M-1")
    value = scene.market()
    assert value["bid_size_e2"] == 300
    assert value["trade"]["trade_id"] == "t5"


def test_one_wrong_number_blinds_nobody(scene: Scene) -> None:
    journal = begun(scene)
    journal.delta(5_000_000_000, "bid", 4600, 1)
    journal.snapshot(2, [(4000, 1)], [], request=3)
    journal.delta(3, "bid", 4000, 6)
    assert quote(scene.market()) == (4000, 7, None, None)


def test_a_second_subscription_of_a_book_takes_it_over_and_the_first_one_does_not_disturb_it(scene: Scene) -> None:
    journal = begun(scene)
    journal.snapshot(1, [(100, 1)], [(200, 2)], sid=9)
    journal.delta(2, "bid", 4600, 50, sid=2)
    journal.delta(2, "bid", 150, 5, sid=9)
    assert quote(scene.market()) == (150, 5, 200, 2)
    journal.event("closed", 1)
    assert unsynced(scene.market()) == "the connection was closed"


# ---- trade, ticker, status -------------------------------------------------------------------------------------------


def test_the_last_trade_comes_with_price_count_taker_and_id(scene: Scene) -> None:
    body = {"market": "M-1", "tradeId": "t-1", "priceE4": 6200, "takerSide": "no", "block": True, "countE2": 1250}
    scene.journal.trade(1)
    number = scene.journal.add("trade", body, connection=1, sid=1, seq=2, exchangeNs=77)
    assert scene.market()["trade"] == {
        "price_e4": 6200,
        "count_e2": 1250,
        "taker_side": "no",
        "trade_id": "t-1",
        "block": True,
        "number": number,
        "recv_ns": NOON + 2000,
        "exchange_ns": 77,
    }


def test_a_trade_without_taker_and_id_says_null(scene: Scene) -> None:
    scene.journal.add("trade", {"market": "M-1", "priceE4": 1, "countE2": 2}, connection=1, sid=1, seq=1)
    trade = scene.market()["trade"]
    assert (trade["taker_side"], trade["trade_id"], trade["block"]) == (None, None, False)


TICKER = {
    "priceE4": 4700,
    "yesBidE4": 4600,
    "yesAskE4": 4800,
    "volumeE2": 12345,
    "openInterestE2": 999,
    "dollarVolume": 5,
    "dollarOpenInterest": 6,
    "yesBidSizeE2": 100,
    "yesAskSizeE2": 200,
    "lastTradeSizeE2": 300,
}


def ticker(journal: Journal, *, without: Sequence[str] = (), **changes: int) -> None:
    fields = {name: value for name, value in (TICKER | changes).items() if name not in without}
    present = sum(1 << 2 + i for i, name in enumerate(TICKER) if name in fields)
    journal.add("ticker", {"market": "M-1", "present": present, **fields}, connection=1, sid=3)


def test_a_ticker_comes_with_all_of_its_fields_and_gives_the_quote_where_no_book_is_recorded(scene: Scene) -> None:
    ticker(scene.journal)
    value = scene.market()
    assert value["ticker"] == {
        "price_e4": 4700,
        "yes_bid_e4": 4600,
        "yes_ask_e4": 4800,
        "volume_e2": 12345,
        "open_interest_e2": 999,
        "dollar_volume": 5,
        "dollar_open_interest": 6,
        "yes_bid_size_e2": 100,
        "yes_ask_size_e2": 200,
        "last_trade_size_e2": 300,
        "number": 1,
        "recv_ns": NOON + 1000,
        "exchange_ns": None,
    }
    assert (quote(value), value["quote"]) == ((4600, 100, 4800, 200), "ticker")


def test_a_field_that_a_ticker_did_not_have_is_null(scene: Scene) -> None:
    ticker(scene.journal, without=["yesBidSizeE2", "yesAskSizeE2", "openInterestE2"])
    value = scene.market()
    assert value["ticker"]["open_interest_e2"] is None
    assert quote(value) == (4600, None, 4800, None)


def test_a_ticker_says_by_0_and_1_without_size_that_there_is_no_quote(scene: Scene) -> None:
    ticker(scene.journal, yesBidE4=0, yesBidSizeE2=0, yesAskE4=10_000, yesAskSizeE2=0)
    assert quote(scene.market()) == (None, None, None, None)


def test_a_ticker_does_not_replace_the_quote_of_a_book_that_is_not_synced(scene: Scene) -> None:
    journal = begun(scene)
    journal.gap("sequence", sid=2, fromSeq=2, toSeq=3)
    ticker(journal)
    assert unsynced(scene.market()) == "messages were missed"


def test_a_status_keeps_what_earlier_messages_said(scene: Scene) -> None:
    journal = scene.journal
    header = {"connection": 1, "sid": 4}
    created = {"market": "M-1", "event": "E", "change": "created", "openNs": 10, "closeNs": 20}
    journal.add("status", created, seq=1, **header)
    journal.add("status", {"market": "M-1", "change": "activated"}, seq=2, **header)
    journal.add("status", {"market": "M-1", "change": "closeDateUpdated", "closeNs": 30}, seq=3, **header)
    status = scene.market()["status"]
    assert {name: status[name] for name in ("status", "change", "event", "open_ns", "close_ns", "result")} == {
        "status": "active",
        "change": "close_date_updated",
        "event": "E",
        "open_ns": 10,
        "close_ns": 30,
        "result": None,
    }
    final = {"market": "M-1", "change": "determined", "result": "yes", "hasSettlement": True, "settlementValueE4": 7}
    number = journal.add("status", final | {"determinedNs": 40}, seq=4, **header)
    status = scene.market()["status"]
    assert (status["status"], status["result"], status["settlement_value_e4"]) == ("determined", "yes", 7)
    assert (status["determined_ns"], status["number"]) == (40, number)


def test_parts_that_were_never_seen_are_named(scene: Scene) -> None:
    scene.journal.trade(1)
    value = scene.market()
    assert value["never"] == ["book", "ticker", "status"]
    assert (value["book"], value["quote"]) == (None, None)


def test_a_market_tells_its_last_record_of_any_kind(scene: Scene) -> None:
    scene.journal.trade(1)
    scene.journal.ticker()
    scene.journal.trade(2, "M-2")
    value = scene.market("M-1")
    assert (value["number"], value["recv_ns"]) == (2, NOON + 2000)
    assert (value["feed"], value["journal"], value["market"]) == ("kalshi", "kalshi-0123456789ab", "M-1")


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_however_often_a_market_changed_it_comes_out_once(scene: Scene) -> None:
    journal = begun(scene)
    for seq in range(2, 6000):
        journal.delta(seq, "bid", 4600, 1)
    changes = scene.changes()
    assert list(changes) == ["M-1"]
    assert changes["M-1"]["bid_size_e2"] == 250 + 5998
    assert scene.changes() == {}


def test_changes_stay_until_they_are_done(scene: Scene) -> None:
    scene.journal.trade(1, "M-1")
    scene.journal.trade(2, "M-2")
    data = scene.journal.data
    scene.values.add(data, 0, len(data), 0)
    first = scene.values.changes(1)
    assert [change.name for change in scene.values.changes(1)] == [change.name for change in first]
    assert (scene.values.waiting, scene.values.waiting_ns > 0) == (2, True)
    scene.values.done(first, 1)
    rest = scene.values.changes(9)
    assert {first[0].name, rest[0].name} == {"M-1", "M-2"}
    scene.values.done(rest, 1)
    assert (scene.values.waiting, scene.values.waiting_ns) == (0, 0)


def test_again_gives_every_market_again(scene: Scene) -> None:
    scene.journal.trade(1, "M-1")
    scene.journal.trade(2, "M-2")
    before = scene.changes()
    scene.values.again()
    assert scene.changes() == before


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_itself_in_the_value_and_harmless_in_the_key(scene: Scene, name: str) -> None:
    scene.journal.trade(1, name)
    data = scene.journal.data
    scene.values.add(data, 0, len(data), 0)
    (change,) = scene.values.changes(9)
    assert json.loads(change.value)["market"] == name
    assert change.key.startswith("ssmd:last:kalshi:")
    assert set(change.key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:._-%~")
    assert len(change.key) <= 200


def test_no_two_names_share_a_key() -> None:
    keys = {names.last_value_key("kalshi", name) for name in HOSTILE}
    assert len(keys) == len(HOSTILE)


@given(st.text(max_size=200), st.text(max_size=200))
def test_names_differ_exactly_when_their_keys_do(one: str, other: str) -> None:
    assert (names.exact(one) == names.exact(other)) == (one == other)


def test_an_ordinary_name_is_its_own_key() -> None:
    assert names.last_value_key("kalshi", "KXBTCD-26SEP2516-T83399.99") == "ssmd:last:kalshi:KXBTCD-26SEP2516-T83399.99"


@pytest.mark.parametrize("keeper", [Latest, PlainLatest])
def test_beyond_the_limit_the_markets_go_that_changed_longest_ago(
    tmp_path: Path, keeper: type[Latest] | type[PlainLatest]
) -> None:
    scene = Scene(tmp_path, keeper, max_markets=3)
    journal = begun(scene)
    for seq, name in enumerate(["M-2", "M-3", "M-1", "M-4"], start=1):
        journal.trade(seq, name)
    assert sorted(scene.changes()) == ["M-1", "M-3", "M-4"]
    for seq in range(5, 1000):
        journal.trade(seq, f"N-{seq}")
    assert len(scene.changes()) == 3
    assert len(scene.values) == 3
    journal.delta(2, "bid", 4600, 1)
    assert unsynced(scene.market("M-1")) == "no snapshot of it was seen yet"


def test_what_the_cache_holds_from_before_fills_what_was_not_seen_since(scene: Scene, tmp_path: Path) -> None:
    before = Scene(tmp_path)
    journal = begun(before)
    journal.trade(1)
    ticker(journal)
    journal.add("status", {"market": "M-1", "change": "activated", "closeNs": 30}, connection=1, sid=4, seq=1)
    old = before.market()
    assert old["never"] == []
    scene.journal.number = 1000
    scene.journal.trade(50)
    scene.values.carry([old, {**old, "market": "M-2"}, {**old, "journal": "another", "market": "M-3"}])
    changes = scene.changes()
    assert sorted(changes) == ["M-1", "M-2"]
    assert (changes["M-1"]["ticker"], changes["M-1"]["status"]) == (old["ticker"], old["status"])
    assert changes["M-1"]["trade"]["trade_id"] == "t50", "what was seen here is newer"
    assert changes["M-2"]["trade"] == old["trade"]
    assert unsynced(changes["M-1"]) == "no snapshot of it was seen yet"
    assert changes["M-2"]["book"]["was"] == {"bid_e4": 4600, "bid_size_e2": 250, "ask_e4": 4800, "ask_size_e2": 700}


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"{}", b"[" * 100_000, b'{"market":5}', None])
def test_a_value_of_somebody_else_is_none(value: bytes | None) -> None:
    assert read_value(value) is None


def test_a_carried_value_of_any_shape_does_no_harm(scene: Scene) -> None:
    shape = {"market": "M-1", "feed": "kalshi", "journal": "kalshi-0123456789ab"}
    broken = {"number": "x", "recv_ns": None, "book": {"synced": True, "number": []}, "ticker": {"yes_bid_e4": "?"}}
    scene.values.carry([{**shape, **broken}, {**shape, "market": "M-2", "trade": 3, "status": [], "book": "b"}])
    assert sorted(scene.changes()) == ["M-1", "M-2"]


DAY_NS = 86_400 * 10**9


def test_a_quiet_market_with_a_living_book_is_given_again_before_the_cache_forgets_it(scene: Scene) -> None:
    journal = begun(scene)
    journal.trade(1, "M-2")
    scene.changes()
    scene.values.tend(journal.now + DAY_NS // 4, DAY_NS)
    assert scene.changes() == {}
    scene.values.tend(journal.now + DAY_NS * 3 // 4, DAY_NS)
    assert list(scene.changes()) == ["M-1"]


def test_what_the_cache_has_forgotten_and_is_over_is_forgotten_here(scene: Scene) -> None:
    journal = begun(scene)
    journal.trade(1, "M-2")
    journal.snapshot(2, [], [], "M-3")
    journal.snapshot(3, [(1, 1)], [], "M-4")
    journal.add("status", {"market": "M-4", "change": "settled"}, connection=1, sid=4, seq=1)
    scene.changes()
    scene.values.tend(journal.now + 2 * DAY_NS, DAY_NS)
    assert len(scene.values) == 1
    assert list(scene.changes()) == ["M-1"]


# ---- C and its plain twin --------------------------------------------------------------------------------------------

MOSTLY_DELTAS = ["delta"] * 12 + ["snapshot"] * 4 + ["trade", "ticker", "status", "control", "gap", "event", "anchor"]


def random_record(journal: Journal, dice: random.Random, seqs: dict[tuple[int, int], int]) -> None:
    """One record of any kind that concerns markets, mostly in order, sometimes not."""
    connection, sid = dice.choice([(1, 1), (1, 2), (1, 2), (1, 2), (2, 2), (2, 3)])
    key, market = (connection, sid), f"M-{dice.randrange(7)}"
    seq = seqs[key] = max(seqs.get(key, 0) + dice.choice([1] * 60 + [0, 0, 2, 2, -1, 2_000_000, -1_999_999]), 1)
    place = {"connection": connection, "sid": sid}
    header, kind = {**place, "seq": seq}, dice.choice(MOSTLY_DELTAS)
    if kind == "delta":
        side, price = dice.choice(["bid", "ask", "ask", "unknown"]), dice.randrange(1, 20) * 100
        journal.delta(seq, side, price, dice.choice([1, 2, 3, 3, -1, -2]), market, **place)
    elif kind == "snapshot":
        bids, asks = ([(dice.randrange(1, 20) * 100, dice.randrange(4)) for _ in range(4)] for _ in range(2))
        journal.snapshot(seq, bids, asks, market, **place)
    elif kind == "trade":
        body = {"market": market, "priceE4": 7, "countE2": 5, "takerSide": dice.choice(["yes", "no", "unknown"])}
        body |= dice.choice([{}, {"tradeId": "t" * dice.randrange(1, 60)}])
        journal.add("trade", body | {"block": dice.random() < 0.3}, exchangeNs=dice.randrange(3), **header)
    elif kind == "ticker":
        body = {name: dice.randrange(10_000) for name in TICKER}
        journal.add("ticker", {"market": market, "present": dice.randrange(4096), **body}, **place)
    elif kind == "status":
        change = dice.choice(["created", "activated", "determined", "settled", "metadataUpdated"])
        journal.add("status", dice.choice([{"market": market}, {"event": "E"}]) | {"change": change}, **header)
    elif kind == "control":
        frame = dice.choice([b"", b'{"msg":{"market_tickers":["M-1","M-2"]}}', b"no json"])
        journal.add("control", {"type": dice.choice(["ok", "ok", "unsubscribed", "error"])}, frame=frame, **header)
    elif kind == "gap":
        causes = ["sequence", "disconnect", "outage", "refused", "bookState", "damage"]
        journal.gap(dice.choice(causes), connection=dice.choice([0, connection]), sid=dice.choice([0, sid, sid]))
    elif kind == "event":
        what = dice.choice(["opened", "closed", "subscribed", "resynced", "stopped", "started"])
        journal.event(what, dice.choice([connection, connection, 0]))
    else:
        journal.number += dice.random() < 0.3  # a hole in the numbers
        journal.add("clock", {"ticks": 1})


@pytest.mark.parametrize("seed", range(40))
def test_c_and_plain_python_say_the_same_of_any_journal(seed: int) -> None:
    dice, journal, seqs = random.Random(seed), Journal(Path("nowhere")), dict[tuple[int, int], int]()
    both = [Latest(limit := dice.choice([3, 5, 100])), PlainLatest(limit)]
    read = 0
    for _ in range(60):
        for _ in range(dice.randrange(12)):
            random_record(journal, dice, seqs)
        if dice.random() < 0.3:
            journal.checkpoint()
        views = [list(keeper.add(journal.data, read, len(journal.data), read)) for keeper in both]
        assert views[0] == views[1]
        read = len(journal.data)
        act, now_ns, count = dice.randrange(12), journal.now + dice.randrange(3) * DAY_NS, dice.randrange(5)
        name = b"M-%d" % dice.randrange(9)
        value = Last(name, 3, NOON, dice.randrange(12), dice.random() < 0.5, Quote(1, 2, 0, 0, 1, 0), Stamp(1, 2, 3))
        for keeper in both:
            if act == 0:
                keeper.unsync(name, Sync.LEFT)
            elif act == 1:
                keeper.doubt(Sync.DAMAGE)
            elif act == 2:
                keeper.again()
            elif act == 3:
                keeper.tend(now_ns, DAY_NS)
            elif act < 9:
                keeper.done(count, now_ns)
        if act == 11:
            assert both[0].carry(value) == both[1].carry(value)
        assert both[0].look() == both[1].look()
        assert both[0].changed(count) == both[1].changed(count)
        assert both[0].changed(1000) == both[1].changed(1000)
        assert all(both[0].books(c, s) == both[1].books(c, s) for c in (1, 2) for s in (1, 2, 3))


@pytest.mark.parametrize("keeper", [Latest, PlainLatest])
def test_more_sids_than_any_plan_has_cost_no_memory(keeper: type[Latest] | type[PlainLatest]) -> None:
    journal = Journal(Path("nowhere"))
    for sid in range(1, 4200):
        journal.snapshot(1, [(100, 1)], [], f"M-{sid}", sid=sid)
    made = keeper(10_000)
    list(made.add(journal.data, 0, len(journal.data), 0))
    synced = [last.market for last in made.changed(10_000) if last.sync == Sync.SYNCED]
    assert len(synced) == 4096
    assert made.look().markets == 4199


# ---- the service -----------------------------------------------------------------------------------------------------


class Cache(MemoryCache):
    """A cache that can be away, full or emptied."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Exception | None = None
        self.writes: list[int] = []

    def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        self._judge()
        super().mset({key: value}, ttl_s=ttl_s)

    def mset(self, values: Mapping[str, bytes], *, ttl_s: float | None = None) -> None:
        self._judge()
        self.writes.append(len(values))
        super().mset(values, ttl_s=ttl_s)

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        self._judge()
        return super().mget(keys)

    def scan(self, prefix: str) -> Iterator[str]:
        self._judge()
        return super().scan(prefix)

    def _judge(self) -> None:
        if self.fails is not None:
            raise self.fails

    def value(self, market: str = "M-1") -> dict[str, Any] | None:
        fails, self.fails = self.fails, None
        value = read_value(self.get(names.last_value_key("kalshi", market)))
        self.fails = fails
        return value

    def flush(self) -> None:
        for key in list(super().scan("")):
            self.delete(key)


class Desk:
    """A service over a journal on disk; time passes when it is told to."""

    def __init__(self, root: Path, cache: Cache) -> None:
        self.journal = Journal(root)
        self.cache = cache
        self.seconds = 1000.0
        self.service = self._service()

    def _service(self) -> Service:
        values = LastValues("kalshi", journal="kalshi-1")
        clocks = Clocks(lambda: self.journal.now + int(self.seconds * 1e9), lambda: self.seconds, lambda: 1.0)
        follower = Follower([self.journal.root], start=begin(self.journal.root))
        return Service(values, follower, self.cache, clocks, journal="kalshi-1", ttl_s=86_400.0)

    def restart(self) -> None:
        self.service.close()
        self.service = self._service()

    def step(self, pause_s: float = 0.2) -> None:
        """What the journal holds now, and a look at the clock."""
        if self.journal.data:
            self.journal.write(".capnp.open")
        self.seconds += pause_s
        while self.service.read():
            pass
        self.service.write()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "kalshi", Cache())
    yield made
    made.service.close()


def test_changed_markets_are_written_by_one_mset_a_step(desk: Desk) -> None:
    for seq, name in enumerate("abcabcabc", start=1):
        desk.journal.trade(seq, name)
    desk.step()
    desk.journal.trade(10, "b")
    desk.step()
    assert desk.cache.writes == [3, 1]
    value = desk.cache.value("b")
    assert value is not None
    assert value["trade"]["trade_id"] == "t10"


def test_not_more_often_than_every_100_ms(desk: Desk) -> None:
    for seq in range(1, 21):
        desk.journal.trade(seq)
        desk.step(0.02)
    assert 4 <= len(desk.cache.writes) <= 5


def test_nothing_is_written_before_all_is_read_that_there_was_at_the_start(desk: Desk) -> None:
    desk.journal.trade(1)
    desk.journal.seal()
    desk.journal.trade(2)
    desk.journal.write(".capnp.open")
    assert desk.service.read()
    desk.seconds += 10
    desk.service.write()
    assert desk.cache.writes == []
    desk.step()
    assert desk.cache.writes == [1]


@pytest.mark.parametrize("error", [UnavailableError("Redis at h:1 cannot be reached"), LimitError("Redis is full")])
def test_while_the_cache_is_away_only_the_newest_values_wait_and_are_written_when_it_is_back(
    desk: Desk, error: Exception
) -> None:
    desk.journal.trade(1)
    desk.step()
    desk.cache.fails = error
    for seq in range(2, 52):
        desk.journal.trade(seq, f"M-{seq % 2 + 1}")
        desk.step()
    report = desk.service.report()
    assert report.trouble is not None
    assert str(error) in report.trouble
    assert "2 markets wait" in report.trouble
    assert (report.number, report.end) == (1, 51)
    assert report.lag_s >= 10
    desk.cache.fails = None
    desk.step(5)
    for name, seq in (("M-1", 50), ("M-2", 51)):
        value = desk.cache.value(name)
        assert value is not None
        assert value["trade"]["trade_id"] == f"t{seq}"
    report = desk.service.report()
    assert (report.trouble, report.number, report.lag_records, report.lag_s) == (None, 51, 0, 0.0)


def test_attempts_at_a_cache_that_is_away_grow_rarer(desk: Desk) -> None:
    desk.journal.trade(1)
    desk.cache.fails = UnavailableError("away")
    for _ in range(300):
        desk.step(0.1)
    assert 10 <= desk.service.counters["retries"] <= 25


def test_a_cache_that_was_emptied_is_filled_again(desk: Desk) -> None:
    for seq, name in enumerate("abc", start=1):
        desk.journal.trade(seq, name)
    for _ in range(10):
        desk.step(0.3)
    desk.cache.flush()
    for _ in range(5):
        desk.step(0.3)
    assert all(desk.cache.value(name) is not None for name in "abc")
    assert desk.service.counters["rewrites"] == 1


def test_a_cache_that_died_behind_the_first_values_is_filled_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's own key was not there yet: nothing says what the cache should hold."""
    for seq, name in enumerate("abc", start=1):
        desk.journal.trade(seq, name)

    def away(*_: object, **__: object) -> None:
        raise UnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(desk.cache, "set", away)
        desk.step()
        assert desk.cache.value("a") is not None
        desk.cache.flush()
    for _ in range(20):
        desk.step(0.3)
    assert all(desk.cache.value(name) is not None for name in "abc")


def test_the_last_write_fills_a_cache_that_was_emptied_a_moment_before(desk: Desk) -> None:
    for seq, name in enumerate("abc", start=1):
        desk.journal.trade(seq, name)
    for _ in range(10):
        desk.step(0.3)
    for _ in range(2):
        desk.cache.flush()
        assert desk.service.write(now=True)
        assert all(desk.cache.value(name) is not None for name in "abc")


def test_a_cache_that_was_set_back_to_an_earlier_state_is_filled_again(desk: Desk) -> None:
    desk.journal.trade(1)
    for _ in range(10):
        desk.step(0.3)
    old = {key: desk.cache.get(key) or b"" for key in MemoryCache.scan(desk.cache, "")}
    desk.journal.trade(2)
    for _ in range(10):
        desk.step(0.3)
    desk.cache.flush()
    desk.cache.mset(old)
    for _ in range(5):
        desk.step(0.3)
    value = desk.cache.value()
    assert value is not None
    assert value["trade"]["trade_id"] == "t2"


def test_two_writers_do_not_drive_each_other(desk: Desk) -> None:
    desk.journal.trade(1)
    key = names.writer_key("kalshi", "kalshi-1")
    for i in range(100):
        desk.step(0.3)
        desk.cache.set(key, b"another %d" % i)
    assert desk.service.counters["rewrites"] <= 7


def test_a_restart_keeps_what_the_cache_has_and_believes_no_book_of_it(desk: Desk) -> None:
    desk.journal.snapshot(1, [(4000, 100)], [])
    desk.journal.trade(1)
    desk.step()
    desk.journal.seal()
    for path in desk.journal.folder.iterdir():
        path.unlink()
    desk.journal.trade(2, "M-2")
    desk.restart()
    desk.step()
    value = desk.cache.value("M-1")
    assert value is not None
    assert unsynced(value) == "no snapshot of it was seen yet"
    assert value["trade"]["trade_id"] == "t1"


def test_a_restart_within_a_run_has_the_books_again(desk: Desk) -> None:
    begun_at = desk.journal.event("started")
    desk.journal.snapshot(1, [(4000, 100)], [(5000, 7)])
    desk.journal.seal()
    desk.journal.delta(2, "bid", 4000, 5)
    desk.step()
    desk.restart()
    desk.step()
    value = desk.cache.value()
    assert begun_at == 1
    assert value is not None
    assert quote(value) == (4000, 105, 5000, 7)


def test_damage_of_the_journal_ends_every_book(desk: Desk) -> None:
    desk.journal.snapshot(1, [(4000, 100)], [])
    desk.journal.seal()
    desk.step()
    desk.journal.trade(1, "M-2")
    desk.journal.trade(2, "M-2")
    desk.journal.write(".capnp")  # sealed, and without its final checkpoint
    desk.journal.begin()
    desk.step()
    desk.journal.trade(3, "M-2")
    desk.step()
    value = desk.cache.value("M-1")
    assert value is not None
    assert "damaged" in unsynced(value)
    assert len(desk.service.damage()) == 1


def test_markets_written_together_are_bounded(desk: Desk) -> None:
    for seq in range(1, 4501):
        desk.journal.trade(seq, f"M-{seq}")
    desk.step()
    assert desk.cache.writes == [2000, 2000, 500]


def test_a_start_reads_from_the_run_that_writes_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    firsts = []
    for segment in range(6):
        firsts.append(journal.number + 1)
        if segment in (0, 3):
            journal.event("started")
        for seq in range(20):
            journal.trade(segment * 20 + seq + 1)
        journal.now += 3600 * 10**9
        journal.seal()
    assert begin(journal.root, history_bytes=0) == Start.number(firsts[3])
    assert begin(journal.root, limit_bytes=1, history_bytes=0) == Start.number(firsts[5])
    assert begin(journal.root) == Start.beginning()
    assert begin(tmp_path / "none") == Start.beginning()


def test_a_manifest_saves_reading_a_segment_in_which_no_run_begins(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    firsts = []
    for segment in range(3):
        firsts.append(journal.number + 1)
        journal.trade(segment + 1)
        path = journal.seal()
        manifest = {"bytes": 10**12, "by_kind": {"trade": 1} | ({"connection": 1} if segment == 2 else {})}
        path.with_name(path.name.replace(".capnp", ".manifest.json")).write_text(json.dumps(manifest))
    assert begin(journal.root, limit_bytes=10**11) == Start.number(firsts[1])


# ---- the process -----------------------------------------------------------------------------------------------------


def environment(folder: Path, url: str, **changes: Any) -> Path:
    content = {
        "name": "lasting",
        "feed": "kalshi",
        "schema": "market_data:v1",
        "exchange": {"simulator": {}},
        "subscriptions": [{"channels": ["trade"], "all": True}],
        "storage": {"type": "local", "path": str(folder)},
        "cache": {"type": "redis", "url": url},
        **changes,
    }
    file = folder / "lasting.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


class Process:
    """`python -m ssmd.lastvalues` under test."""

    def __init__(self, file: Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ssmd.lastvalues", "-e", str(file)],
            cwd=ROOT,
            env={**os.environ, **variables},
            stderr=(file.parent / "log").open("ab"),
        )
        self._log = file.parent / "log"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def in_redis(server: RedisServer, market: str) -> dict[str, Any] | None:
    from ssmd.middleware.redis import RedisCache

    cache = RedisCache(server.url)
    try:
        return read_value(cache.get(names.last_value_key("kalshi", market)))
    except UnavailableError:
        return None
    finally:
        cache.close()


def trade_in(server: RedisServer, market: str, trade_id: str) -> bool:
    value = in_redis(server, market)
    return value is not None and value["trade"] is not None and value["trade"]["trade_id"] == trade_id


def test_the_process_writes_survives_an_outage_a_flush_and_a_kill_and_stops_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.trade(1, "../x *>\n")
    journal.write(".capnp.open")
    file = environment(tmp_path, "redis://127.0.0.1:1")
    with RedisServer(tmp_path / "redis") as server:
        file = environment(tmp_path, server.url)
        with Process(file) as running:
            wait_until(lambda: trade_in(server, "../x *>\n", "t1"), what="the first value")
            server.kill()
            journal.trade(2)
            journal.trade(3)
            journal.write(".capnp.open")
            wait_until(lambda: "the newest values of" in running.log, what="trouble in the report")
            server.start()
            wait_until(lambda: trade_in(server, "M-1", "t3"), what="the newest value after an outage")
            wait_until(lambda: trade_in(server, "../x *>\n", "t1"), what="the others, too: Redis forgot them")
            assert running.process.poll() is None
        assert '"trouble": null' in running.log
        journal.trade(4)
        journal.write(".capnp.open")
        with Process(file) as running:
            wait_until(lambda: trade_in(server, "M-1", "t4"), what="the value after a kill")
            journal.trade(5)
            journal.write(".capnp.open")
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(20) == 0
            assert time.monotonic() - began < 10
            assert trade_in(server, "M-1", "t5"), "what was there at the stop is written"
        assert '"event": "stopped"' in running.log


def test_a_redis_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kalshi")
    journal.trade(1)
    journal.write(".capnp.open")
    server = RedisServer(tmp_path / "redis")
    with Process(environment(tmp_path, server.url)) as running:
        wait_until(lambda: "cannot be reached" in running.log, what="a word about it")
        with server:
            wait_until(lambda: trade_in(server, "M-1", "t1"), what="the value")


def test_wrong_credentials_and_an_environment_without_redis_end_with_exit_2(tmp_path: Path) -> None:
    key = {"redis": {"type": "password", "source": "env:SSMD_TEST_PASSWORD"}}
    with RedisServer(tmp_path / "redis", password="right") as server:
        file = environment(tmp_path, server.url, keys=key)
        with Process(file, SSMD_TEST_PASSWORD="wrong-one") as running:
            assert running.process.wait(30) == 2
            assert "does not let us in" in running.log
            assert "wrong-one" not in running.log
    with Process(environment(tmp_path, "", cache={"type": "memory"})) as running:
        assert running.process.wait(30) == 2
        assert "cache.type" in running.log
