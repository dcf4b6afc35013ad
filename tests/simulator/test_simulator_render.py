"""The text of frames against the protocol's examples, written by hand, and the key order of real frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmd.simulator import render
from ssmd.simulator.books import NO, YES, Book
from ssmd.simulator.catalogue import COIN, Event, Market
from ssmd.simulator.exchange import BookChange, Lifecycle, Quote, Trade
from ssmd.simulator.render import Format

TS_US = 1_790_363_624_342_537  # 2026-09-25T19:13:44.342537Z


@pytest.fixture
def market() -> Market:
    event = Event("KXBTC-26SEP2516", COIN, "BTC?", "Sep 25", False, TS_US)
    market = Market(
        ticker="KXBTC-26SEP2516-B74250",
        market_id="ef0ce114-eb71-419d-9563-c670d1859d5d",
        event=event,
        name="Over 6.5 goals scored",
        strike_type="greater",
        floor_strike=6.5,
        custom_strike=None,
        structure="linear_cent",
        created_us=TS_US,
        open_us=1_790_363_733_000_000,
        close_us=1_790_535_600_000_000,
    )
    event.markets.append(market)
    return market


def test_a_delta_is_the_wires_delta(market: Market) -> None:
    change = BookChange(TS_US, market, NO, 9_600, -200)
    text = render.delta(change, Format.NEW, yes_price=False) + render.delta_time(TS_US, Format.NEW)
    assert text == (
        '{"market_ticker":"KXBTC-26SEP2516-B74250","market_id":"ef0ce114-eb71-419d-9563-c670d1859d5d",'
        '"price_dollars":"0.9600","delta_fp":"-2.00","side":"no","ts":"2026-09-25T19:13:44.342537Z","ts_ms":1790363624342}'
    )


def test_with_use_yes_price_only_the_no_side_is_turned_round(market: Market) -> None:
    no = render.delta(BookChange(0, market, NO, 9_600, 100), Format.NEW, yes_price=True)
    yes = render.delta(BookChange(0, market, YES, 9_600, 100), Format.NEW, yes_price=True)
    assert '"price_dollars":"0.0400"' in no
    assert '"price_dollars":"0.9600"' in yes


def test_an_old_delta_has_integers_and_no_ts_ms(market: Market) -> None:
    change = BookChange(TS_US, market, YES, 9_600, -5_400)
    text = render.delta(change, Format.OLD, yes_price=False) + render.delta_time(TS_US, Format.OLD)
    assert text == (
        '{"market_ticker":"KXBTC-26SEP2516-B74250","market_id":"ef0ce114-eb71-419d-9563-c670d1859d5d",'
        '"price":96,"price_dollars":"0.9600","delta":-54,"side":"yes","ts":"2026-09-25T19:13:44.342537Z"}'
    )


def test_the_transition_format_has_both_families(market: Market) -> None:
    text = render.delta(BookChange(0, market, YES, 9_600, -5_400), Format.BOTH, yes_price=False)
    assert '"price":96,"price_dollars":"0.9600","delta":-54,"delta_fp":"-54.00"' in text


def book() -> Book:
    book = Book()
    for price, size in ((3_300, 3_000), (100, 8_000)):
        book.change(YES, price, size)
    for price, size in ((700, 8_200), (100, 13_012)):
        book.change(NO, price, size)
    return book


def test_a_snapshot_is_ascending_on_the_own_leg(market: Market) -> None:
    assert render.snapshot(market, market.ticker, book(), Format.NEW, yes_price=False) == (
        '{"market_ticker":"KXBTC-26SEP2516-B74250","market_id":"ef0ce114-eb71-419d-9563-c670d1859d5d",'
        '"yes_dollars_fp":[["0.0100","80.00"],["0.3300","30.00"]],"no_dollars_fp":[["0.0100","130.12"],["0.0700","82.00"]]}'
    )


def test_a_snapshot_on_the_yes_scale_has_no_descending_from_the_worst_ask(market: Market) -> None:
    text = render.snapshot(market, market.ticker, book(), Format.NEW, yes_price=True)
    assert text.endswith('"no_dollars_fp":[["0.9900","130.12"],["0.9300","82.00"]]}')


def test_an_old_snapshot_has_cents_and_dollars_with_integer_counts(market: Market) -> None:
    text = render.snapshot(market, market.ticker, book(), Format.OLD, yes_price=False)
    assert '"yes":[[1,80],[33,30]],"yes_dollars":[["0.0100",80],["0.3300",30]]' in text


def test_an_empty_side_has_no_key_and_an_unknown_market_no_id() -> None:
    text = render.snapshot(None, "KXNOT-LISTED", Book(), Format.NEW, yes_price=False)
    assert text == '{"market_ticker":"KXNOT-LISTED","market_id":""}'


def test_a_trade_is_the_wires_trade(market: Market) -> None:
    trade = Trade(TS_US, market, "0723be0d-f459-a1b0-00f7-ff8e033dd61d", 9_840, 14_878, YES)
    assert render.trade(trade, Format.NEW) + render.trade_time(1_790_363_592_101_000, Format.NEW) == (
        '{"trade_id":"0723be0d-f459-a1b0-00f7-ff8e033dd61d","market_ticker":"KXBTC-26SEP2516-B74250",'
        '"yes_price_dollars":"0.9840","no_price_dollars":"0.0160","count_fp":"148.78","taker_side":"yes",'
        '"taker_outcome_side":"yes","taker_book_side":"bid","is_block_trade":false,"ts":1790363592,"ts_ms":1790363592101}'
    )


def test_the_old_format_does_not_know_use_yes_price(market: Market) -> None:
    change = BookChange(TS_US, market, NO, 9_600, -5_400)
    both_modes = [render.delta(change, Format.OLD, yes_price=mode) for mode in (False, True)]
    assert '"price":96,"price_dollars":"0.9600"' in both_modes[0] == both_modes[1]
    ladders = [render.snapshot(market, market.ticker, book(), Format.OLD, yes_price=mode) for mode in (False, True)]
    assert ladders[0] == ladders[1]


def test_an_old_trade_is_the_old_wires_trade(market: Market) -> None:
    trade = Trade(TS_US, market, "5b0276ef-7715-46f2-56d8-a1c7b9e59e58", 2_700, 700, YES)
    assert render.trade(trade, Format.OLD) + render.trade_time(1_759_350_609_000_000, Format.OLD) == (
        '{"trade_id":"5b0276ef-7715-46f2-56d8-a1c7b9e59e58","market_ticker":"KXBTC-26SEP2516-B74250","yes_price":27,'
        '"no_price":73,"yes_price_dollars":"0.2700","no_price_dollars":"0.7300","count":7,"taker_side":"yes","ts":1759350609}'
    )


def quote(market: Market, **changes: int) -> Quote:
    fields = {
        "price_e4": 9_900,
        "bid_e4": 9_900,
        "ask_e4": 10_000,
        "bid_size_e2": 104_600,
        "ask_size_e2": 0,
        "volume_e2": 795_052,
        "open_interest_e2": 733_362,
        "dollar_volume": 3_975,
        "dollar_open_interest": 3_666,
        "last_size_e2": 99,
    }
    return Quote(ts_us=TS_US, market=market, **(fields | changes))


def test_a_ticker_is_the_wires_ticker(market: Market) -> None:
    assert render.ticker(quote(market), Format.NEW) + render.ticker_time(1_790_363_592_125_735, Format.NEW) == (
        '{"market_id":"ef0ce114-eb71-419d-9563-c670d1859d5d","market_ticker":"KXBTC-26SEP2516-B74250",'
        '"price_dollars":"0.9900","yes_bid_dollars":"0.9900","yes_ask_dollars":"1.0000","volume_fp":"7950.52",'
        '"open_interest_fp":"7333.62","dollar_volume":3975,"dollar_open_interest":3666,"yes_bid_size_fp":"1046.00",'
        '"yes_ask_size_fp":"0.00","last_trade_size_fp":"0.99","ts":1790363592,"ts_ms":1790363592125,'
        '"time":"2026-09-25T19:13:12.125735Z"}'
    )


def test_an_old_ticker_of_a_market_that_never_traded_has_price_zero_and_an_empty_string(market: Market) -> None:
    text = render.ticker(quote(market, price_e4=0), Format.OLD)
    assert '"price":0,"yes_bid":99,"yes_ask":100,"price_dollars":""' in text


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (1_787_186_160_630_940, "2026-08-20T00:36:00.63094Z"),
        (1_787_186_160_000_000, "2026-08-20T00:36:00Z"),
        (1_787_186_160_000_001, "2026-08-20T00:36:00.000001Z"),
    ],
)
def test_times_have_their_trailing_zeros_trimmed(us: int, text: str) -> None:
    assert render.rfc3339(us) == text


def test_created_carries_the_market_and_its_prices_with_event_type_late(market: Market) -> None:
    text = render.lifecycle(Lifecycle(TS_US, "market_lifecycle_v2", "created", market.event, market, {}))
    message = json.loads(text)
    assert list(message) == [
        "market_ticker",
        "exchange_index",
        "open_ts",
        "close_ts",
        "additional_metadata",
        "event_type",
        "price_level_structure",
        "price_ranges",
    ]
    assert (message["open_ts"], message["close_ts"]) == (1790363733, 1790535600)
    assert message["price_ranges"] == [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}]
    assert message["additional_metadata"]["floor_strike"] == 6.5


def test_determined_carries_result_and_settlement_value(market: Market) -> None:
    market.settlement_e4 = 0
    fields: dict[str, object] = {"determination_ts": 1784501722, "result": "no"}
    text = render.lifecycle(Lifecycle(TS_US, "market_lifecycle_v2", "determined", market.event, market, fields))
    assert text == (
        '{"market_ticker":"KXBTC-26SEP2516-B74250","determination_ts":1784501722,"result":"no",'
        '"settlement_value":"0.0000","event_type":"determined"}'
    )


def test_key_order_is_that_of_the_verbatim_real_frames(shared: Path, market: Market) -> None:
    """Every captured frame of the new format whose recorder kept the order has our keys in our order."""
    ours = {
        "orderbook_delta": render.delta(BookChange(TS_US, market, NO, 100, 100), Format.NEW, yes_price=False)
        + render.delta_time(TS_US, Format.NEW),
        "trade": render.trade(Trade(TS_US, market, "0", 100, 100, YES), Format.NEW)
        + render.trade_time(TS_US, Format.NEW),
        "ticker": render.ticker(quote(market), Format.NEW) + render.ticker_time(TS_US, Format.NEW),
        "orderbook_snapshot": render.snapshot(market, "X", book(), Format.NEW, yes_price=False),
    }
    compared = set()
    for line in (shared / "kalshi" / "frames.jsonl").read_text().splitlines():
        entry = json.loads(line)
        frame = json.loads(entry["frame"]) if isinstance(entry["frame"], str) else entry["frame"]
        if frame.get("type") in ours and "2026-09" in entry["env"] and "re-sorted" not in entry.get("note", ""):
            real = list(frame["msg"])
            mine = [key for key in json.loads(ours[frame["type"]]) if key in real]
            assert mine == real
            compared.add(frame["type"])
    assert compared == set(ours)
