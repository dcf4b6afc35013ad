"""The plain Python twin: what each frame of the exchange becomes, value by value.

Expected values are written by hand from the protocol sheet and docs/records.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kalshi_frames import real_frames

from ssmd import records
from ssmd.normalizer import (
    Connection,
    Message,
    MessageTooLarge,
    ProtocolFault,
    Repeated,
    SequenceTracker,
    Skipped,
    Splitter,
    decode,
    normalize,
)
from ssmd.wire import Event, EventKind, FeedStatus

RECV_NS = 1_790_000_000_000_000_001


def shown(frame: str | bytes, **options: Any) -> dict[str, Any]:
    """What `ssmd cat` would print of the frame's record."""
    data = frame.encode() if isinstance(frame, str) else frame
    record = normalize(data, number=5, recv_ns=RECV_NS, recv_ticks=77, connection=3, **options)
    return records.to_json(records.read(record))


def assert_decoded(frame: str, kind: str, *, options: dict[str, Any] | None = None, **expected: Any) -> None:
    """Everything of the record: what is not named must be absent or 0."""
    header = {
        "number": 5,
        "recv_ns": RECV_NS,
        "exchange_ns": None,
        "connection": 3,
        "sid": 0,
        "seq": 0,
        "kind": kind,
        "market": None,
        "sent_ns": None,
        "frame": frame,
    }
    assert shown(frame, **(options or {})) == header | ABSENT.get(kind, {}) | expected


ABSENT: dict[str, dict[str, Any]] = {
    "ticker": dict.fromkeys(
        [
            "price_e4",
            "yes_bid_e4",
            "yes_ask_e4",
            "volume_e2",
            "open_interest_e2",
            "dollar_volume",
            "dollar_open_interest",
            "yes_bid_size_e2",
            "yes_ask_size_e2",
            "last_trade_size_e2",
        ]
    ),
    "trade": {"trade_id": None, "taker_side": None, "block": False},
    "book_snapshot": {"bids": [], "asks": [], "request_id": None},
    "status": {
        **dict.fromkeys(["event", "change_name", "status", "settlement_value_e4", "open_ns", "close_ns"]),
        **dict.fromkeys(["determined_ns", "settled_ns", "result"]),
        "multivariate": False,
    },
    "index": dict.fromkeys(["value_e8", "average_e8", "received_ns"]),
    "control": dict.fromkeys(["id", "control_sid", "code", "channel", "message"]),
    "unparsed": {"type": None},
}


def reason_of(frame: str | bytes, **options: Any) -> str:
    found = shown(frame, **options)
    assert found["kind"] == "unparsed", found
    return str(found["reason"])


# ---- trade


def test_a_trade_in_the_new_format() -> None:
    assert_decoded(
        '{"type":"trade","sid":2,"seq":5,"msg":{"trade_id":"0723be0d-f459","market_ticker":"KXBTC15M-26SEP251515-15",'
        '"yes_price_dollars":"0.9840","no_price_dollars":"0.0160","count_fp":"148.78","taker_side":"yes",'
        '"taker_outcome_side":"yes","taker_book_side":"bid","is_block_trade":false,"ts":1790363592,"ts_ms":1790363592101}}\n',
        "trade",
        sid=2,
        seq=5,
        market="KXBTC15M-26SEP251515-15",
        exchange_ns=1_790_363_592_101_000_000,
        trade_id="0723be0d-f459",
        price_e4=9840,
        count_e2=14878,
        taker_side="yes",
    )


def test_a_trade_in_the_old_format_is_in_cents_and_whole_contracts() -> None:
    assert_decoded(
        '{"type":"trade","sid":1,"seq":16,"msg":{"trade_id":"5b","market_ticker":"KXHIGHCHI-25OCT02-B80.5","yes_price":27,'
        '"no_price":73,"count":7,"taker_side":"no","ts":1759350609}}',
        "trade",
        sid=1,
        seq=16,
        market="KXHIGHCHI-25OCT02-B80.5",
        exchange_ns=1_759_350_609_000_000_000,
        trade_id="5b",
        price_e4=2700,
        count_e2=700,
        taker_side="no",
    )


def test_a_trade_of_the_transition_prefers_the_exact_fields() -> None:
    assert_decoded(
        '{"type":"trade","msg":{"market_ticker":"A","yes_price":27,"yes_price_dollars":"0.2650","count":7,"count_fp":"6.50"}}',
        "trade",
        market="A",
        price_e4=2650,
        count_e2=650,
    )


def test_a_trade_with_an_empty_exact_field_falls_back_to_the_integer() -> None:
    assert_decoded(
        '{"type":"trade","msg":{"market_ticker":"A","yes_price":27,"yes_price_dollars":"","count":7,"count_fp":null}}',
        "trade",
        market="A",
        price_e4=2700,
        count_e2=700,
    )


def test_the_outcome_side_of_a_taker_goes_before_the_deprecated_one() -> None:
    sides = '"taker_side":"yes","taker_outcome_side":"no"'
    frame = '{"type":"trade","msg":{"market_ticker":"A","yes_price":1,"count":1,SIDES}}'
    assert shown(frame.replace("SIDES", sides))["taker_side"] == "no"


def test_a_block_trade_says_so() -> None:
    frame = '{"type":"trade","msg":{"market_ticker":"A","yes_price":1,"count":1,"is_block_trade":true}}'
    assert shown(frame)["block"] is True


# ---- ticker


def test_a_ticker_in_the_new_format() -> None:
    assert_decoded(
        '{"type":"ticker","sid":3,"msg":{"market_id":"746902ed","market_ticker":"KXBTCD-26SEP2516-T83399.99",'
        '"price_dollars":"0.9900","yes_bid_dollars":"0.9900","yes_ask_dollars":"1.0000","volume_fp":"7950.52",'
        '"open_interest_fp":"7333.62","dollar_volume":3975,"dollar_open_interest":3666,"yes_bid_size_fp":"1046.00",'
        '"yes_ask_size_fp":"0.00","last_trade_size_fp":"0.99","ts":1790363592,"ts_ms":1790363592125,'
        '"time":"2026-09-25T19:13:12.125735Z"}}',
        "ticker",
        sid=3,
        market="KXBTCD-26SEP2516-T83399.99",
        exchange_ns=1_790_363_592_125_000_000,
        price_e4=9900,
        yes_bid_e4=9900,
        yes_ask_e4=10_000,
        volume_e2=795_052,
        open_interest_e2=733_362,
        dollar_volume=3975,
        dollar_open_interest=3666,
        yes_bid_size_e2=104_600,
        yes_ask_size_e2=0,
        last_trade_size_e2=99,
    )


def test_a_ticker_of_a_never_traded_market_in_the_old_format() -> None:
    """price_dollars is "" there, so the integer price of 0 counts."""
    assert_decoded(
        '{"type":"ticker","sid":1,"msg":{"market_id":"5f","market_ticker":"KXB-CRU","price":0,"yes_bid":37,"yes_ask":43,'
        '"price_dollars":"","yes_bid_dollars":"0.3700","yes_ask_dollars":"0.4300","volume":0,"open_interest":0,'
        '"dollar_volume":0,"dollar_open_interest":0,"ts":1732579880,"Clock":6598272643}}',
        "ticker",
        sid=1,
        market="KXB-CRU",
        exchange_ns=1_732_579_880_000_000_000,
        price_e4=0,
        yes_bid_e4=3700,
        yes_ask_e4=4300,
        volume_e2=0,
        open_interest_e2=0,
        dollar_volume=0,
        dollar_open_interest=0,
    )


def test_a_ticker_of_a_never_traded_market_in_the_new_format_has_no_price() -> None:
    assert_decoded(
        '{"type":"ticker","sid":1,"msg":{"market_ticker":"A","price_dollars":""}}', "ticker", sid=1, market="A"
    )


def test_odd_dollar_volumes_count_as_absent_and_negative_ones_are_kept() -> None:
    assert_decoded(
        '{"type":"ticker","msg":{"market_ticker":"A","dollar_volume":-12,"dollar_open_interest":1.5}}',
        "ticker",
        market="A",
        dollar_volume=-12,
    )


# ---- order book: snapshots

NEW_SNAPSHOT = (
    '{"type":"orderbook_snapshot","sid":1,"seq":102,"msg":{"market_ticker":"KXBTC-26SEP2516-B83950","market_id":"64",'
    '"yes_dollars_fp":[["0.0100","80.00"],["0.0200","114.00"],["0.3300","30.00"]],'
    '"no_dollars_fp":[["0.0100","130.12"],["0.0700","82.00"]]}}'
)


def test_a_snapshot_with_the_no_side_on_its_own_scale_is_turned_over() -> None:
    assert_decoded(
        NEW_SNAPSHOT,
        "book_snapshot",
        options={"use_yes_price": False},
        sid=1,
        seq=102,
        market="KXBTC-26SEP2516-B83950",
        bids=[[100, 8000], [200, 11400], [3300, 3000]],
        asks=[[9900, 13012], [9300, 8200]],
        yes_scale=False,
    )


def test_a_snapshot_with_the_no_side_on_the_yes_scale_is_left_alone() -> None:
    assert_decoded(
        '{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"A","no_dollars_fp":[["0.9900","528.80"],'
        '["0.5000","22.00"]]}}',
        "book_snapshot",
        sid=1,
        seq=1,
        market="A",
        asks=[[9900, 52880], [5000, 2200]],
        yes_scale=True,
    )


def test_a_snapshot_of_the_old_format_is_always_on_the_no_side_s_own_scale() -> None:
    """Strings in dollars go before cents; the mode is not known to old messages."""
    assert_decoded(
        '{"type":"orderbook_snapshot","sid":2,"seq":2,"msg":{"market_ticker":"FED-23DEC-T3.00","market_id":"9b",'
        '"yes":[[8,300],[22,333]],"yes_dollars":[["0.0800",300],["0.2200",333]],'
        '"no":[[54,20],[56,146]],"no_dollars":[["0.5400",20],["0.5600",146]]}}',
        "book_snapshot",
        sid=2,
        seq=2,
        market="FED-23DEC-T3.00",
        bids=[[800, 30_000], [2200, 33_300]],
        asks=[[4600, 2000], [4400, 14_600]],
        yes_scale=False,
    )


def test_a_snapshot_in_cents_only() -> None:
    assert_decoded(
        '{"type":"orderbook_snapshot","msg":{"market_ticker":"A","yes":[[8,300]],"no":[[54,20]]}}',
        "book_snapshot",
        market="A",
        bids=[[800, 30_000]],
        asks=[[4600, 2000]],
        yes_scale=False,
    )


def test_a_snapshot_of_the_transition_uses_the_newest_family() -> None:
    assert_decoded(
        '{"type":"orderbook_snapshot","msg":{"market_ticker":"A","yes":[[8,300]],"yes_dollars":[["0.0800",300]],'
        '"yes_dollars_fp":[["0.0850","300.50"]],"no":[[54,20]],"no_dollars_fp":[["0.4600","20.00"]]}}',
        "book_snapshot",
        market="A",
        bids=[[850, 30_050]],
        asks=[[4600, 2000]],
        yes_scale=True,
    )


def test_a_snapshot_without_ladders_is_an_empty_book_of_the_new_format() -> None:
    """Seen for unknown markets ("market_id" is "" there) and at the close of a market."""
    assert_decoded(
        '{"type":"orderbook_snapshot","sid":1,"seq":76182,"msg":{"market_ticker":"NOSUCH","market_id":""}}',
        "book_snapshot",
        sid=1,
        seq=76182,
        market="NOSUCH",
        yes_scale=True,
    )


def test_an_empty_array_is_an_empty_side_and_hides_older_families() -> None:
    assert_decoded(
        '{"type":"orderbook_snapshot","msg":{"market_ticker":"A","yes_dollars_fp":[],"yes":[[8,300]],"no_dollars_fp":null}}',
        "book_snapshot",
        market="A",
        yes_scale=True,
    )


def test_a_snapshot_that_answers_a_command_carries_its_id() -> None:
    assert_decoded(
        '{"type":"orderbook_snapshot","id":17,"sid":1,"seq":31,"msg":{"market_ticker":"A","yes_dollars_fp":[["0.4700","3.00"]]}}',
        "book_snapshot",
        sid=1,
        seq=31,
        market="A",
        bids=[[4700, 300]],
        yes_scale=True,
        request_id=17,
    )


@pytest.mark.parametrize(
    "ladder",
    [
        "{}",
        '"x"',
        "5",
        "true",
        "[1]",
        "[[]]",
        "[[1]]",
        "[[1,2,3]]",
        '[["",1]]',
        "[[null,1]]",
        '[["0.5",1.5]]',
        '[["0.50001",1]]',
    ],
)
def test_a_ladder_of_any_other_shape_is_a_bad_field_even_where_a_better_one_is_there(ladder: str) -> None:
    frame = (
        '{"type":"orderbook_snapshot","msg":{"market_ticker":"A","yes_dollars_fp":[["0.5000","1.00"]],"yes":LADDER}}'
    )
    assert reason_of(frame.replace("LADDER", ladder)) == "bad_field"


def test_a_no_price_that_cannot_be_turned_over_is_a_bad_field() -> None:
    frame = '{"type":"orderbook_snapshot","msg":{"market_ticker":"A","no":[[-21474800,1]]}}'
    assert reason_of(frame) == "bad_field"
    assert reason_of(frame.replace('"market_ticker":"A",', "")) == "missing_field"


# ---- order book: deltas


def test_a_delta_on_the_yes_side() -> None:
    assert_decoded(
        '{"type":"orderbook_delta","sid":1,"seq":2,"msg":{"market_ticker":"KXWTA-LEP","market_id":"f5","price_dollars":"0.4700",'
        '"delta_fp":"-3.00","side":"yes","ts":"2026-06-11T06:31:29.957081Z","ts_ms":1781159489957}}',
        "book_delta",
        sid=1,
        seq=2,
        market="KXWTA-LEP",
        exchange_ns=1_781_159_489_957_081_000,
        side="bid",
        price_e4=4700,
        delta_e2=-300,
        yes_scale=True,
    )


NO_DELTA = (
    '{"type":"orderbook_delta","sid":1,"seq":41076,"msg":{"market_ticker":"KXBTC-B74250","price_dollars":"0.9600",'
    '"delta_fp":"-2.00","side":"no","ts_ms":1790363624342},"sending_ts_ms":1790363624345}'
)


def test_a_delta_on_the_no_side_s_own_scale_is_turned_over() -> None:
    assert_decoded(
        NO_DELTA,
        "book_delta",
        options={"use_yes_price": False},
        sid=1,
        seq=41076,
        market="KXBTC-B74250",
        exchange_ns=1_790_363_624_342_000_000,
        sent_ns=1_790_363_624_345_000_000,
        side="ask",
        price_e4=400,
        delta_e2=-200,
        yes_scale=False,
    )


def test_a_delta_of_the_no_side_on_the_yes_scale_is_left_alone() -> None:
    found = shown(NO_DELTA)
    assert (found["side"], found["price_e4"], found["yes_scale"]) == ("ask", 9600, True)


def test_a_delta_of_the_old_format_is_turned_over_in_either_mode() -> None:
    assert_decoded(
        '{"type":"orderbook_delta","sid":1,"seq":3,"msg":{"market_ticker":"KXMLBGAME-SD","market_id":"dd","price":51,"delta":-1,'
        '"side":"no","ts":"2025-08-12T21:00:32.539836022Z"}}',
        "book_delta",
        sid=1,
        seq=3,
        market="KXMLBGAME-SD",
        exchange_ns=1_755_032_432_539_836_022,
        side="ask",
        price_e4=4900,
        delta_e2=-100,
        yes_scale=False,
    )


def test_a_sub_cent_price_is_kept_exactly() -> None:
    frame = (
        '{"type":"orderbook_delta","msg":{"market_ticker":"A","price_dollars":"0.0001","delta_fp":"0.01","side":"yes"}}'
    )
    found = shown(frame)
    assert (found["price_e4"], found["delta_e2"]) == (1, 1)


def test_a_delta_for_a_side_that_is_neither_yes_nor_no_is_a_bad_field() -> None:
    frame = '{"type":"orderbook_delta","msg":{"market_ticker":"A","price":1,"delta":1,"side":"SIDE"}}'
    assert reason_of(frame.replace("SIDE", "both")) == "bad_field"
    assert reason_of(frame.replace("SIDE", "")) == "missing_field"


# ---- lifecycle


def test_a_market_is_created() -> None:
    assert_decoded(
        '{"type":"market_lifecycle_v2","sid":4,"seq":23,"msg":{"market_ticker":"KXAFCON-7","exchange_index":0,'
        '"open_ts":1790363733,"close_ts":1790535600,'
        '"additional_metadata":{"name":"Over 6.5","event_ticker":"KXAFCON","floor_strike":6.5},'
        '"event_type":"created","price_level_structure":"linear_cent","price_ranges":[{"start":"0.0000"}]}}',
        "status",
        sid=4,
        seq=23,
        market="KXAFCON-7",
        event="KXAFCON",
        change="created",
        status="initialized",
        open_ns=1_790_363_733_000_000_000,
        close_ns=1_790_535_600_000_000_000,
    )


def test_the_metadata_s_event_counts_only_for_a_created_market_that_names_none() -> None:
    frame = (
        '{"type":"market_lifecycle_v2","msg":{"event_type":"TYPE",EVENT"additional_metadata":{"event_ticker":"INNER"}}}'
    )
    created = frame.replace("TYPE", "created")
    assert shown(created.replace("EVENT", ""))["event"] == "INNER"
    assert shown(created.replace("EVENT", '"event_ticker":"OUTER",'))["event"] == "OUTER"
    assert shown(frame.replace("TYPE", "settled").replace("EVENT", ""))["event"] is None


@pytest.mark.parametrize("metadata", ["null", "5", '"x"', "[]", '{"event_ticker":5}', '{"event_ticker":"a\\\\"}'])
def test_metadata_of_another_shape_is_ignored(metadata: str) -> None:
    frame = '{"type":"market_lifecycle_v2","msg":{"event_type":"created","additional_metadata":METADATA}}'
    assert shown(frame.replace("METADATA", metadata))["event"] is None


def test_a_market_is_determined() -> None:
    assert_decoded(
        '{"type":"market_lifecycle_v2","sid":1,"seq":279597,"msg":{"market_ticker":"KXMLBSPREAD-ATH4",'
        '"determination_ts":1784501722,"result":"no","settlement_value":"0.0000","event_type":"determined"}}',
        "status",
        sid=1,
        seq=279597,
        market="KXMLBSPREAD-ATH4",
        change="determined",
        status="determined",
        determined_ns=1_784_501_722_000_000_000,
        result="no",
        settlement_value_e4=0,
    )


def test_a_market_is_settled() -> None:
    assert_decoded(
        '{"type":"market_lifecycle_v2","sid":4,"seq":1,"msg":{"market_ticker":"KXTT-FDA","settled_ts":1790363638,'
        '"event_type":"settled"}}',
        "status",
        sid=4,
        seq=1,
        market="KXTT-FDA",
        change="settled",
        status="finalized",
        settled_ns=1_790_363_638_000_000_000,
    )


def test_a_market_is_deactivated() -> None:
    assert_decoded(
        '{"type":"market_lifecycle_v2","sid":1,"seq":7,"msg":{"market_ticker":"KXNFL-30","is_deactivated":true,'
        '"event_type":"deactivated"}}',
        "status",
        sid=1,
        seq=7,
        market="KXNFL-30",
        change="deactivated",
        status="inactive",
    )


@pytest.mark.parametrize(
    ("event_type", "status"),
    [("activated", "active"), ("close_date_updated", None), ("price_level_structure_updated", None)],
)
def test_other_changes_of_a_market(event_type: str, status: str | None) -> None:
    assert_decoded(
        '{"type":"market_lifecycle_v2","msg":{"market_ticker":"A","close_ts":1790535600,"event_type":"TYPE"}}'.replace(
            "TYPE", event_type
        ),
        "status",
        market="A",
        change=event_type,
        status=status,
        close_ns=1_790_535_600_000_000_000,
    )


def test_a_market_s_metadata_is_updated() -> None:
    assert_decoded(
        '{"type":"market_lifecycle_v2","sid":13,"seq":5,"msg":{"event_type":"metadata_updated","market_ticker":"KXBTC-B95000",'
        '"strike_type":"between","floor_strike":95000,"cap_strike":95250},"sending_ts_ms":1669149841234}',
        "status",
        sid=13,
        seq=5,
        market="KXBTC-B95000",
        change="metadata_updated",
        sent_ns=1_669_149_841_234_000_000,
    )


def test_a_change_that_the_sheet_does_not_list_is_kept_by_name() -> None:
    assert_decoded(
        '{"type":"market_lifecycle_v2","msg":{"market_ticker":"A","event_type":"reopened"}}',
        "status",
        market="A",
        change="unknown",
        change_name="reopened",
    )


def test_a_combo_s_lifecycle_is_marked() -> None:
    assert_decoded(
        '{"type":"multivariate_market_lifecycle","sid":1,"seq":1,"msg":{"market_ticker":"KXMVE-1","event_type":"settled"}}',
        "status",
        sid=1,
        seq=1,
        market="KXMVE-1",
        change="settled",
        status="finalized",
        multivariate=True,
    )


def test_an_event_is_created() -> None:
    assert_decoded(
        '{"type":"event_lifecycle","sid":5,"seq":8,"msg":{"event_ticker":"KXQUICK","exchange_index":0,"title":"…",'
        '"subtitle":"Jan 25","collateral_return_type":"MECNET","series_ticker":""}}',
        "status",
        sid=5,
        seq=8,
        event="KXQUICK",
        change="event_created",
    )


def test_an_event_s_fee_is_changed() -> None:
    assert_decoded(
        '{"type":"event_fee_update","sid":5,"seq":9,"msg":{"event_ticker":"KXBTCD-26MAY2018","fee_type_override":"quadratic",'
        '"fee_multiplier_override":1}}',
        "status",
        sid=5,
        seq=9,
        event="KXBTCD-26MAY2018",
        change="event_fee_updated",
    )


# ---- index values


def test_a_cfbenchmarks_value_is_an_index_with_its_average_and_times() -> None:
    assert_decoded(
        '{"type":"cfbenchmarks_value","sid":1,"seq":1,"msg":{"index_id":"BRTI","received_at":1791180714074,'
        '"data":"{\\"value\\":\\"85850.67\\"}","avg_60s_data":{"value":"85850.67000000","window_size":0}},'
        '"sending_ts_ms":1791180714077}',
        "index",
        sid=1,
        seq=1,
        index="BRTI",
        source="cfbenchmarks",
        average_e8=8_585_067_000_000,
        received_ns=1_791_180_714_074_000_000,
        sent_ns=1_791_180_714_077_000_000,
    )


def test_a_cfbenchmarks_value_five_times_a_second() -> None:
    assert_decoded(
        '{"type":"cfbenchmarks_value_5hz","sid":6,"seq":1,"msg":{"index_id":"BRTI","value_usd":"84017.28000000",'
        '"source_ts_ms":1790363592200,"received_at":1790363592237,"data":"{}"}}',
        "index",
        sid=6,
        seq=1,
        exchange_ns=1_790_363_592_200_000_000,
        index="BRTI",
        source="cfbenchmarks5hz",
        value_e8=8_401_728_000_000,
        received_ns=1_790_363_592_237_000_000,
    )


def test_a_pyth_value_is_an_index_down_to_its_last_digit() -> None:
    assert_decoded(
        '{"type":"pyth_value","sid":6,"seq":1,"msg":{"underlying_ticker":"BTC","value_usd":"0.00000001"}}',
        "index",
        sid=6,
        seq=1,
        index="BTC",
        source="pyth",
        value_e8=1,
    )


@pytest.mark.parametrize("average", ["5", '"x"', "[]", '{"value":1}', '{"value":"0.000000001"}'])
def test_an_average_of_another_shape_is_a_bad_field(average: str) -> None:
    frame = '{"type":"cfbenchmarks_value","msg":{"index_id":"B","avg_60s_data":AVERAGE}}'
    assert reason_of(frame.replace("AVERAGE", average)) == "bad_field"


# ---- replies and errors


def test_a_subscription_is_confirmed() -> None:
    """The sid stands inside msg; the frame itself has none."""
    assert_decoded(
        '{"type":"subscribed","id":1,"msg":{"channel":"orderbook_delta","sid":4294967295}}',
        "control",
        type="subscribed",
        id=1,
        control_sid=4294967295,
        channel="orderbook_delta",
    )


def test_an_update_is_confirmed() -> None:
    assert_decoded(
        '{"type":"ok","id":5,"sid":1,"seq":4,"msg":{"market_tickers":["A","B","C"]}}',
        "control",
        sid=1,
        seq=4,
        type="ok",
        id=5,
        control_sid=1,
    )


def test_a_list_of_subscriptions_is_an_ok_with_an_array() -> None:
    assert_decoded('{"type":"ok","id":3,"msg":[{"channel":"trade","sid":1}]}', "control", type="ok", id=3)


def test_an_unsubscription_is_confirmed() -> None:
    assert_decoded(
        '{"type":"unsubscribed","id":2,"sid":2,"seq":707}',
        "control",
        sid=2,
        seq=707,
        type="unsubscribed",
        id=2,
        control_sid=2,
    )


def test_an_error_of_a_subscription_has_sid_and_seq() -> None:
    assert_decoded(
        '{"type":"error","sid":3,"seq":2,"msg":{"code":13,"msg":"Unsupported action"}}',
        "control",
        sid=3,
        seq=2,
        type="error",
        control_sid=3,
        code=13,
        message="Unsupported action",
    )


def test_an_error_of_a_command_has_its_id() -> None:
    assert_decoded(
        '{"type":"error","id":1,"msg":{"code":8,"msg":"Unknown channel name","market_ticker":"A"}}',
        "control",
        type="error",
        id=1,
        code=8,
        message="Unknown channel name",
    )


def test_an_error_whose_words_contain_an_escape_is_still_an_error() -> None:
    found = shown('{"type":"error","id":1,"msg":{"code":8,"msg":"no \\"x\\""}}')
    assert (found["kind"], found["code"], found["message"]) == ("control", 8, None)


# ---- not understood


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ('{"type":"fill","sid":2,"msg":{"trade_id":"x"}}', "not_decoded"),
        ('{"type":"user_order","msg":5}', "not_decoded"),
        ('{"type":"cfbenchmarks_value_indexlist","msg":{}}', "not_decoded"),
        ('{"type":"multivariate_lookup","msg":{}}', "unknown_type"),
        ('{"sid":1,"msg":{}}', "no_type"),
        ('{"type":null}', "no_type"),
        ('{"type":""}', "no_type"),
        ('{"type":5}', "no_type"),
        ('{"type":"tr\\u0061de"}', "no_type"),
        ('{"t\\u0079pe":"trade"}', "no_type"),
        ('{"type":"trade"}', "missing_field"),
        ('{"type":"trade","msg":null}', "missing_field"),
        ('{"type":"trade","msg":[]}', "bad_field"),
        ('{"type":"trade","msg":{}}', "missing_field"),
        ('{"type":"trade","msg":{"market_ticker":"A","yes_price":1}}', "missing_field"),
        ('{"type":"trade","msg":{"yes_price":1,"count":1}}', "missing_field"),
        ('{"type":"trade","msg":{"market_ticker":"A","count":1}}', "missing_field"),
        ('{"type":"trade","msg":{"market_ticker":"A\\/B","yes_price":1,"count":1}}', "bad_field"),
        ('{"type":"trade","msg":{"market_ticker":5}}', "bad_field"),
        ('{"type":"trade","msg":{"is_block_trade":"false"}}', "bad_field"),
        ('{"type":"trade","id":-1,"msg":{}}', "bad_field"),
        ('{"type":"trade","id":"1","msg":{}}', "bad_field"),
        ('{"type":"trade","id":"1"}', "missing_field"),
        ('{"type":"ticker","msg":{"price":1}}', "missing_field"),
        ('{"type":"ticker","msg":{"market_ticker":"A","volume_fp":5}}', "bad_field"),
        ('{"type":"market_lifecycle_v2","msg":{"market_ticker":"A"}}', "missing_field"),
        ('{"type":"event_lifecycle","msg":{"market_ticker":"A"}}', "missing_field"),
        ('{"type":"event_fee_update","msg":{"event_ticker":""}}', "missing_field"),
        ('{"type":"pyth_value","msg":{"index_id":"BRTI"}}', "missing_field"),
        ('{"type":"subscribed","msg":{"channel":"trade"}}', "missing_field"),
        ('{"type":"subscribed","msg":{"channel":"trade","sid":4294967296}}', "bad_field"),
        ('{"type":"subscribed","msg":{"channel":"trade","sid":-1}}', "bad_field"),
        ('{"type":"error","msg":{"msg":"x"}}', "missing_field"),
        ('{"type":"error","msg":{"code":"8"}}', "bad_field"),
        ('{"type":"ok","id":1.0}', "bad_field"),
        ('{"type":"trade","sid":4294967296,"msg":{}}', "bad_field"),
        ('{"type":"never_heard_of","sid":-1}', "bad_field"),
        ('{"type":"fill","seq":1000000000000000}', "bad_field"),
        ('{"type":5,"sid":-1}', "no_type"),
    ],
)
def test_a_frame_that_is_not_understood_says_why(frame: str, reason: str) -> None:
    assert reason_of(frame) == reason


def test_an_unparsed_frame_keeps_what_could_be_read() -> None:
    assert_decoded(
        '{"type":"brand_new","sid":7,"seq":8,"msg":{"ts_ms":1790363592101},"sending_ts_ms":1790363592103}\n',
        "unparsed",
        reason="unknown_type",
        type="brand_new",
        sid=7,
        seq=8,
        sent_ns=1_790_363_592_103_000_000,
    )


def test_a_malformed_sid_does_not_spoil_the_seq() -> None:
    assert_decoded('{"type":"trade","sid":"1","seq":8}', "unparsed", reason="bad_field", type="trade", seq=8)


def test_a_type_longer_than_64_bytes_is_not_repeated_in_the_record() -> None:
    assert shown('{"type":"' + "n" * 64 + '"}')["type"] == "n" * 64
    assert shown('{"type":"' + "n" * 65 + '"}')["type"] is None
    assert shown('{"type":"' + "é" * 33 + '"}')["type"] is None  # 66 bytes


def test_a_truncated_frame_is_kept_as_bad_json() -> None:
    assert_decoded('{"type":"trade","sid":1,"seq":2,"msg":{"mar', "unparsed", reason="bad_json")


def test_a_binary_message_is_kept_without_being_read() -> None:
    assert_decoded('{"type":"ok","sid":1,"seq":2}', "unparsed", options={"binary": True}, reason="binary")


def test_bytes_that_are_not_utf_8_are_kept_and_shown_with_backslashes() -> None:
    found = shown(b'{"type":"\xff"}')
    assert (found["reason"], found["frame"]) == ("bad_json", '{"type":"\\xff"}')


def test_without_frames_only_what_is_not_understood_keeps_its_bytes() -> None:
    assert shown('{"type":"ok","id":1}', keep_frames=False)["frame"] is None
    assert shown('{"type":"what"}', keep_frames=False)["frame"] == '{"type":"what"}'


def test_a_record_beyond_the_limit_becomes_too_complex_and_keeps_its_header() -> None:
    frame = (
        '{"type":"orderbook_snapshot","sid":1,"seq":2,"msg":{"market_ticker":"A","yes":[' + "[1,2]," * 200 + "[1,2]]}}"
    )
    header, body, market, levels = 96, 56, 8, 8 + 201 * 16
    size = header + body + market + levels + (len(frame) + 7) // 8 * 8
    assert shown(frame, limit_bytes=size)["kind"] == "book_snapshot"
    assert_decoded(
        frame,
        "unparsed",
        options={"limit_bytes": size - 1},
        reason="too_complex",
        type="orderbook_snapshot",
        sid=1,
        seq=2,
    )


def test_a_limit_that_cannot_hold_the_frame_itself_is_the_caller_s_error() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        shown("x" * 1000, limit_bytes=1000)


# ---- JSON


GOOD_JSON = [
    "{}",
    ' \t\r\n{"a" : [ 1 , 2 ] , "b" : { } } \n',
    '{"a":-0}',
    '{"a":0.5e-10}',
    '{"a":1E+400}',
    '{"a":123456789012345678901234567890}',
    '{"a":"\\u00e9\\ud800\\"\\\\\\/\\b\\f\\n\\r\\t"}',
    '{"a":"\x7f é 日本 😀"}',
    '{"":""}',
    '{"a":1,"a":{"b":[]}}',
]

BAD_JSON = [
    "",
    " ",
    "null",
    "[]",
    "5",
    '"x"',
    "{",
    "}",
    "{}x",
    "{}{}",
    "{},",
    "{]",
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    '{,"a":1}',
    '{"a":[1,]}',
    '{"a":[,1]}',
    '{"a":[1 2]}',
    "{'a':1}",
    "{a:1}",
    '{"a":01}',
    '{"a":-01}',
    '{"a":-}',
    '{"a":+1}',
    '{"a":.5}',
    '{"a":1.}',
    '{"a":1e}',
    '{"a":1e+}',
    '{"a":0x10}',
    '{"a":NaN}',
    '{"a":Infinity}',
    '{"a":-Infinity}',
    '{"a":True}',
    '{"a":nul}',
    '{"a":nullx}',
    '{"a":"\t"}',
    '{"a":"\n"}',
    '{"a":"\x00"}',
    '{"a\n":1}',
    '{"a":"\\x41"}',
    '{"a":"\\u12"}',
    '{"a":"\\u123g"}',
    '{"a":"\\',
    '{"a":"',
    '{"a":1}\x00',
    '{"a":1}//',
    '{"a":\x0b1}',
    "\ufeff{}",
    "\xa0{}",
]

BAD_UTF8 = [
    b'{"a":"\x80"}',
    b'{"a":"\xc3"}',
    b'{"a":"\xc0\xaf"}',  # overlong
    b'{"a":"\xe0\x80\x80"}',  # overlong
    b'{"a":"\xed\xa0\x80"}',  # a surrogate
    b'{"a":"\xf4\x90\x80\x80"}',  # beyond U+10FFFF
    b'{"a":"\xf8\x88\x80\x80\x80"}',
    b'{"\xff":1}',
    b'{"a":1}\xff',
]


@pytest.mark.parametrize("frame", GOOD_JSON)
def test_one_object_of_any_form_is_json(frame: str) -> None:
    assert reason_of(frame) == "no_type"


@pytest.mark.parametrize("frame", BAD_JSON)
def test_anything_but_one_json_object_is_bad_json(frame: str) -> None:
    assert reason_of(frame) == "bad_json"


@pytest.mark.parametrize("frame", BAD_UTF8)
def test_bytes_that_are_not_utf_8_are_bad_json(frame: bytes) -> None:
    assert reason_of(frame) == "bad_json"


@pytest.mark.parametrize("frame", [frame for frame in GOOD_JSON if "a" in frame])
def test_the_standard_library_agrees_on_what_is_json(frame: str) -> None:
    """An independent reader: json, strict, with its extensions (NaN) refused."""
    assert isinstance(json.loads(frame, parse_constant=refuse), dict)


@pytest.mark.parametrize("frame", BAD_JSON)
def test_the_standard_library_agrees_on_what_is_not_json(frame: str) -> None:
    try:
        value = json.loads(frame, parse_constant=refuse)
    except ValueError:
        return
    assert not isinstance(value, dict)


def refuse(word: str) -> None:
    raise ValueError(word)


def test_nesting_of_32_is_read_and_33_is_too_complex() -> None:
    def nested(depth: int) -> str:
        return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"

    assert reason_of(nested(32)) == "no_type"
    assert reason_of(nested(33)) == "too_complex"


def test_the_first_fault_in_byte_order_decides() -> None:
    deep = '{"a":' + "[" * 32
    assert reason_of(deep) == "too_complex"
    assert reason_of(deep.encode() + b"\xff") == "too_complex"
    assert reason_of(b'{"\xff":1,' + deep[1:].encode()) == "bad_json"
    assert reason_of('{"b":01,' + deep[1:]) == "bad_json"
    assert reason_of("[" * 40) == "bad_json"
    assert reason_of('{"a":' * 40) == "too_complex"


def test_a_frame_too_deep_is_kept_with_nothing_read_from_it() -> None:
    frame = '{"type":"trade","sid":1,"seq":2,"msg":' + "[" * 32 + "]" * 32 + "}"
    assert_decoded(frame, "unparsed", reason="too_complex")


def test_the_last_of_duplicate_keys_counts() -> None:
    assert_decoded(
        '{"type":5,"sid":"x","type":"ok","sid":2,"id":1,"id":null}', "control", sid=2, type="ok", control_sid=2
    )


def test_an_overwritten_msg_must_be_json_and_nothing_more() -> None:
    frame = '{"type":"trade","msg":{"market_ticker":5},"msg":{"market_ticker":"A","yes_price":1,"count":1}}'
    assert shown(frame)["kind"] == "trade"
    assert reason_of(frame.replace('{"market_ticker":5}', "{x}")) == "bad_json"


# ---- values


def price_of(text: str) -> int | str:
    """The price of a trade whose yes_price_dollars is this JSON text, or the reason why there is none."""
    found = shown('{"type":"trade","msg":{"market_ticker":"A","count":1,"yes_price_dollars":' + text + "}}")
    return found.get("price_e4", found.get("reason"))


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ('"0.9840"', 9840),
        ('"1"', 10_000),
        ('"0.5"', 5000),
        ('"0.984000"', 9840),
        ('"0.080"', 800),
        ('"-0.0001"', -1),
        ('"-0"', 0),
        ('"000000000000001"', 10_000),
        ('"0.123400000000000"', 1234),
        ('"214748.3647"', 2**31 - 1),
        ('"-214748.3648"', -(2**31)),
        ('"214748.3648"', "bad_field"),
        ('"-214748.3649"', "bad_field"),
        ('"0.98401"', "bad_field"),
        ('"0000000000000001"', "bad_field"),
        ('"0.1234000000000000"', "bad_field"),
        ('"."', "bad_field"),
        ('".5"', "bad_field"),
        ('"5."', "bad_field"),
        ('"+1"', "bad_field"),
        ('"1e0"', "bad_field"),
        ('" 1"', "bad_field"),
        ('"1,5"', "bad_field"),
        ('"٣"', "bad_field"),
        ('"1\\u0030"', "bad_field"),
        ("0.5", "bad_field"),
        ("1", "bad_field"),
        ("true", "bad_field"),
        ("[]", "bad_field"),
        ("{}", "bad_field"),
        ('""', "missing_field"),
        ("null", "missing_field"),
    ],
)
def test_a_decimal_is_exact_or_refused(text: str, price: int | str) -> None:
    assert price_of(text) == price


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"92233720368.54775807"', 2**63 - 1),
        ('"-92233720368.54775808"', -(2**63)),
        ('"92233720368.54775808"', "bad_field"),
        ('"999999999999999"', "bad_field"),
    ],
)
def test_a_decimal_must_fit_64_bits(text: str, value: int | str) -> None:
    found = shown('{"type":"pyth_value","msg":{"underlying_ticker":"B","value_usd":' + text + "}}")
    assert found.get("value_e8", found.get("reason")) == value


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("27", 2700),
        ("-0", 0),
        ("-1", -100),
        ("21474836", 2_147_483_600),
        ("-21474836", -2_147_483_600),
        ("21474837", "bad_field"),
        ("1.0", "bad_field"),
        ("1e1", "bad_field"),
        ("999999999999999", "bad_field"),
        ('"27"', "bad_field"),
        ("null", "missing_field"),
    ],
)
def test_cents_are_whole_or_refused(text: str, price: int | str) -> None:
    found = shown('{"type":"trade","msg":{"market_ticker":"A","count":1,"yes_price":' + text + "}}")
    assert found.get("price_e4", found.get("reason")) == price


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("999999999999999", 99_999_999_999_999_900),
        ("-999999999999999", -99_999_999_999_999_900),
        ("1000000000000000", "bad_field"),
        ("9" * 5000, "bad_field"),
    ],
)
def test_an_int_has_at_most_15_digits(text: str, count: int | str) -> None:
    found = shown('{"type":"trade","msg":{"market_ticker":"A","yes_price":1,"count":' + text + "}}")
    assert found.get("count_e2", found.get("reason")) == count


def exchange_ns(**fields: str) -> int | None:
    members = "".join(f',"{key}":{value}' for key, value in fields.items())
    found = shown('{"type":"ticker","msg":{"market_ticker":"A"' + members + "}}")
    assert found["kind"] == "ticker"
    value: int | None = found["exchange_ns"]
    return value


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("ts", "ns"),
    [
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-02T00:00:00Z", 86_400 * SECOND),
        ("2000-02-29T00:00:00Z", 951_782_400 * SECOND),
        ("2001-09-09T01:46:40Z", 1_000_000_000 * SECOND),
        ("2026-06-11T06:31:29.957081Z", 1_781_159_489 * SECOND + 957_081_000),
        ("2026-08-20T00:36:00.63094Z", 1_787_186_160 * SECOND + 630_940_000),
        ("2038-01-19T03:14:08Z", 2**31 * SECOND),
        ("2200-12-31T23:59:59.999999999Z", 7_289_654_399 * SECOND + 999_999_999),
        ("2201-01-01T00:00:00Z", None),
        ("1969-12-31T23:59:59Z", None),
        ("2023-02-29T00:00:00Z", None),
        ("2100-02-29T00:00:00Z", None),
        ("2026-04-31T00:00:00Z", None),
        ("2026-00-10T00:00:00Z", None),
        ("2026-13-10T00:00:00Z", None),
        ("2026-01-00T00:00:00Z", None),
        ("2026-01-01T24:00:00Z", None),
        ("2026-01-01T00:60:00Z", None),
        ("2026-01-01T00:00:60Z", None),
        ("2026-01-01T00:00:00.Z", None),
        ("2026-01-01T00:00:00.1234567890Z", None),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01T00:00:00+00:00", None),
        ("2026-01-01t00:00:00z", None),
        ("2026-01-01 00:00:00Z", None),
        ("26-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_a_written_time_is_read_to_the_nanosecond_or_not_at_all(ts: str, ns: int | None) -> None:
    assert exchange_ns(ts=f'"{ts}"') == ns


def test_the_written_time_goes_before_milliseconds_and_those_before_seconds() -> None:
    assert exchange_ns(ts='"1970-01-01T00:00:01Z"', ts_ms="2000") == SECOND
    assert exchange_ns(ts='"nonsense"', ts_ms="2000") == 2 * SECOND
    assert exchange_ns(ts="3", ts_ms="2000") == 2 * SECOND
    assert exchange_ns(ts="3", ts_ms='"2000"') == 3 * SECOND
    assert exchange_ns(ts="3", ts_ms="0") is None  # a good 0: 0 means none


def test_times_that_do_not_fit_count_as_absent() -> None:
    assert exchange_ns(ts_ms="8999999999999") == 8_999_999_999_999_000_000
    assert exchange_ns(ts_ms="9000000000000") is None
    assert exchange_ns(ts="8999999999") == 8_999_999_999 * SECOND
    assert exchange_ns(ts="9000000000") is None
    assert exchange_ns(ts_ms="-1", ts="5") == 5 * SECOND
    assert exchange_ns(ts_ms="1.5") is None


def test_an_index_value_takes_its_time_from_source_ts_ms() -> None:
    frame = '{"type":"pyth_value","msg":{"underlying_ticker":"B","ts_ms":1000,"source_ts_ms":2000,"ts":3}}'
    assert shown(frame)["exchange_ns"] == 2 * SECOND


def test_a_snapshot_has_no_exchange_time() -> None:
    assert shown('{"type":"orderbook_snapshot","msg":{"market_ticker":"A","ts_ms":1000}}')["exchange_ns"] is None


# ---- drift


def drift_of(frame: str) -> list[bytes]:
    return list(decode(frame.encode(), recv_ns=1, recv_ticks=1, connection=1).drift)


@pytest.mark.parametrize(
    ("frame", "drift"),
    [
        ('{"type":"new_thing","x":1}', [b"type:new_thing"]),
        ('{"x":1,"type":"trade","msg":{"b":2,"a":1},"y":2}', [b"field:x", b"field:y", b"field:b", b"field:a"]),
        ('{"type":"trade","msg":{"old":1},"msg":{"new":1}}', [b"field:new"]),
        ('{"type":"ok","é":1,"msg":{"anything":1}}', ["field:é".encode()]),
        ('{"type":"ok","t\\u0079pe":1}', [b"field:t\\u0079pe"]),
        ('{"type":"trade","sid":-1,"x":1}', []),
        ('{"type":"fill","x":1}', []),
        ('{"x":1}', []),
        ('{"type":"orderbook_snapshot","msg":{"market_ticker":"A","ts_ms":1}}', [b"field:ts_ms"]),
        ('{"type":"market_lifecycle_v2","msg":{"event_type":"reopened"}}', [b"value:reopened"]),
        ('{"type":"trade","msg":{"market_ticker":"A","yes_price":1,"count":1,"taker_side":"both"}}', [b"value:both"]),
        ('{"type":"trade","msg":{"market_ticker":"A","taker_side":"both"}}', []),
        ('{"type":"cfbenchmarks_value","msg":{"index_id":"B","avg_60s_data":{"x":1}}}', []),
        ('{"type":"pyth_value","msg":{"underlying_ticker":"B","index_id":"B"}}', [b"field:index_id"]),
    ],
)
def test_drift_names_what_the_page_does_not_list(frame: str, drift: list[bytes]) -> None:
    assert drift_of(frame) == drift


def test_of_one_object_at_most_32_unknown_keys_are_named() -> None:
    keys = ",".join(f'"k{i:02}":1' for i in range(40))
    assert drift_of('{"type":"ok",' + keys + "}") == [f"field:k{i:02}".encode() for i in range(32)]


# ---- sequence numbers


def test_numbers_that_rise_by_one_are_fine() -> None:
    tracker = SequenceTracker()
    for seq in (1, 2, 3):
        assert tracker.judge(7, seq) is None
        tracker.accept(7, seq, 100)


def test_a_skip_names_the_missing_numbers_and_when_all_was_well() -> None:
    tracker = SequenceTracker()
    assert tracker.judge(7, 3) == Skipped(1, 2, 0)
    tracker.accept(7, 3, 100)
    assert tracker.judge(7, 9) == Skipped(4, 8, 100)


def test_expected_numbers_never_move_back() -> None:
    tracker = SequenceTracker()
    for seq in (1, 2, 3):
        tracker.accept(7, seq, 100)
    assert tracker.judge(7, 2) == Repeated(4)
    tracker.accept(7, 2, 200)
    assert tracker.judge(7, 4) is None
    assert tracker.judge(7, 6) == Skipped(4, 5, 200)


def test_each_sid_counts_for_itself() -> None:
    tracker = SequenceTracker()
    tracker.accept(1, 1, 100)
    assert tracker.judge(2, 1) is None
    assert tracker.judge(1, 2) is None


def test_frames_without_sid_or_seq_are_not_tracked() -> None:
    tracker = SequenceTracker()
    assert tracker.judge(0, 5) is None
    assert tracker.judge(5, 0) is None


def test_a_number_far_off_is_a_gap_once_and_the_right_numbers_are_followed_again() -> None:
    tracker = SequenceTracker()
    tracker.accept(1, 1, 100)
    assert tracker.judge(1, 5_000_000_000) == Skipped(2, 4_999_999_999, 100)
    tracker.accept(1, 5_000_000_000, 200)
    assert tracker.judge(1, 2) is None
    tracker.accept(1, 2, 300)
    assert tracker.judge(1, 5) == Skipped(3, 4, 300)
    assert tracker.judge(1, 5_000_000_001) == Skipped(3, 5_000_000_000, 300)


def test_a_jump_that_is_gone_on_with_is_final() -> None:
    tracker = SequenceTracker()
    for seq in (1, 5_000_000, 5_000_001):
        tracker.accept(1, seq, 100)
    assert tracker.judge(1, 2) == Repeated(5_000_002)


def test_at_most_1024_sids_are_tracked() -> None:
    tracker = SequenceTracker()
    for sid in range(1, 1025):
        tracker.accept(sid, 1, 100)
    assert tracker.judge(1024, 3) == Skipped(2, 2, 100)
    assert tracker.judge(1025, 9) is None


# ---- WebSocket


def ws(opcode: int, payload: bytes = b"", *, final: bool = True, form: int = 0) -> bytes:
    """One unmasked frame by RFC 6455 5.2; `form` forces the 16 or 64 bit length."""
    n = len(payload)
    start = bytes([opcode | (0x80 if final else 0)])
    if form == 64 or n > 0xFFFF:
        return start + b"\x7f" + n.to_bytes(8, "big") + payload
    if form == 16 or n > 125:
        return start + b"\x7e" + n.to_bytes(2, "big") + payload
    return start + bytes([n]) + payload


def split(data: bytes, *, step: int | None = None, limit: int = 1000) -> list[Message]:
    splitter = Splitter(limit)
    found = []
    for at in range(0, len(data), step or len(data) or 1):
        splitter.receive(data[at : at + (step or len(data))])
        while (message := splitter.take()) is not None:
            found.append(message)
    return found


STREAM = (
    ws(1, b"one")
    + ws(1, b"", final=False)
    + ws(9, b"heartbeat")
    + ws(0, b"tw", final=False)
    + ws(10)
    + ws(0, b"o")
    + ws(2, b"\x00\xff")
    + ws(1, b"x" * 126)
    + ws(1, b"y", form=16)
    + ws(1, b"z", form=64)
    + ws(9, b"long form", form=16)
    + ws(1)
    + ws(8, b"\x03\xe8bye")
)
STREAM_MESSAGES = [
    (1, b"one"),
    (9, b"heartbeat"),
    (10, b""),
    (1, b"two"),
    (2, b"\x00\xff"),
    (1, b"x" * 126),
    (1, b"y"),
    (1, b"z"),
    (9, b"long form"),
    (1, b""),
    (8, b"\x03\xe8bye"),
]


@pytest.mark.parametrize("step", [None, 1, 2, 3, 5, 64])
def test_a_stream_gives_the_same_messages_however_it_is_cut(step: int | None) -> None:
    assert split(STREAM, step=step) == STREAM_MESSAGES


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1\x00",  # RSV1
        b"\xa1\x00",  # RSV2
        b"\x91\x00",  # RSV3
        b"\x81\x80",  # masked
        b"\x83\x00",  # opcode 3
        b"\x8b\x00",  # opcode 11
        b"\x80\x00",  # a continuation outside of a message
        b"\x09\x00",  # a fragmented ping
        b"\x89\x7e\x00\x7e",  # a ping of 126 bytes
        b"\x88\x7f\0\0\0\0\0\0\0\x7e",  # a close of 126 bytes
        b"\x81\x7f\x80\0\0\0\0\0\0\0",  # top bit of the length
        ws(1, b"a", final=False) + b"\x81\x00",  # a new message inside of another
        ws(1, b"a", final=False) + b"\x02\x00",
    ],
)
def test_a_frame_that_rfc_6455_forbids_is_a_protocol_fault(data: bytes) -> None:
    splitter = Splitter()
    splitter.receive(data[:-1])
    assert splitter.take() is None  # not judged before it is complete
    splitter.receive(data[-1:])
    with pytest.raises(ProtocolFault):
        splitter.take()


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    assert split(ws(1, b"x" * 1000)) == [(1, b"x" * 1000)]


def test_a_message_over_the_limit_says_its_length_and_first_bytes() -> None:
    splitter = Splitter(1000)
    splitter.receive(ws(1, b"a" * 900, final=False) + ws(9, b"p") + ws(0, b"b" * 101)[:50])
    assert splitter.take() == (9, b"p")
    with pytest.raises(MessageTooLarge) as caught:
        splitter.take()
    assert caught.value.length_bytes == 1001
    assert caught.value.head == b"a" * 900 + b"b" * 48


# ---- Connection


class Ring:
    """A ring of a list: it takes as many records as it has room for."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.taken: list[bytes] = []

    def push(self, record: bytes) -> int:
        if self.room == 0:
            return 0
        self.room -= 1
        self.taken.append(records.with_number(record, len(self.taken) + 1))
        return len(self.taken)

    def shown(self) -> list[dict[str, Any]]:
        return [records.to_json(records.read(record)) for record in self.taken]


class Clock:
    """A stamp that grows by one second a chunk."""

    def __init__(self) -> None:
        self.chunks = 0

    def __call__(self) -> tuple[int, int]:
        self.chunks += 1
        return self.chunks * SECOND, self.chunks


def connection(ring: Ring, **options: Any) -> Connection:
    return Connection(ring, connection=9, stamp=Clock(), **options)


def feed(to: Connection, data: bytes) -> FeedStatus:
    to.buffer[: len(data)] = data
    return to.feed(len(data))


def test_frames_become_records_in_order_with_the_stamp_of_their_chunk() -> None:
    ring = Ring()
    to = connection(ring)
    assert feed(to, ws(1, b'{"type":"ok","id":1}') + ws(1, b'{"type":"fill"}')[:3]) is FeedStatus.OK
    assert feed(to, ws(1, b'{"type":"fill"}')[3:]) is FeedStatus.OK
    found = [(r["number"], r["recv_ns"], r["connection"], r["frame"]) for r in ring.shown()]
    assert found == [(1, SECOND, 9, '{"type":"ok","id":1}'), (2, 2 * SECOND, 9, '{"type":"fill"}')]
    assert (to.frames, to.last_recv_ns) == (2, 2 * SECOND)


def test_control_frames_between_fragments_are_told_and_disturb_nothing() -> None:
    ring = Ring()
    to = connection(ring)
    data = ws(1, b'{"type":', final=False) + ws(9, b"heartbeat") + ws(10, b"p") + ws(0, b'"fill"}')
    assert feed(to, data) is FeedStatus.OK
    assert to.events == [Event(EventKind.PING, data=b"heartbeat"), Event(EventKind.PONG, data=b"p")]
    assert [r["frame"] for r in ring.shown()] == ['{"type":"fill"}']


def test_a_gap_is_written_before_the_frame_that_showed_it() -> None:
    ring = Ring()
    to = connection(ring)
    feed(to, ws(1, b'{"type":"fill","sid":2,"seq":1}'))
    feed(to, ws(1, b'{"type":"fill","sid":2,"seq":5}'))
    gap = ring.shown()[1]
    assert [r["kind"] for r in ring.shown()] == ["unparsed", "gap", "unparsed"]
    assert gap["cause"] == "sequence"
    assert (gap["connection"], gap["sid"], gap["seq"], gap["recv_ns"]) == (9, 2, 0, 2 * SECOND)
    assert (gap["from_seq"], gap["to_seq"], gap["from_ns"], gap["to_ns"]) == (2, 4, SECOND, 2 * SECOND)
    assert to.events == [Event(EventKind.GAP, sid=2, seq=5, first=2, last=4, number=2)]


def test_a_repeat_is_kept_and_told() -> None:
    ring = Ring()
    to = connection(ring)
    feed(to, ws(1, b'{"type":"fill","sid":2,"seq":1}') * 2)
    assert len(ring.taken) == 2
    assert to.events == [Event(EventKind.REPEAT, sid=2, seq=1, first=2, number=2)]


def test_replies_and_requested_snapshots_are_told() -> None:
    ring = Ring()
    to = connection(ring)
    reply = b'{"type":"subscribed","id":4,"msg":{"channel":"trade","sid":6}}\n'
    snapshot = b'{"type":"orderbook_snapshot","id":5,"sid":1,"seq":1,"msg":{"market_ticker":"A"}}'
    unasked = b'{"type":"orderbook_snapshot","sid":1,"seq":2,"msg":{"market_ticker":"A"}}'
    feed(to, ws(1, reply) + ws(1, snapshot) + ws(1, unasked))
    assert to.events == [
        Event(EventKind.REPLY, sid=6, id=4, number=1, data=reply),
        Event(EventKind.SNAPSHOT, sid=1, seq=1, id=5, number=2, data=b"A"),
    ]


def test_a_book_frame_that_cannot_be_decoded_is_told() -> None:
    ring = Ring()
    to = connection(ring)
    feed(
        to, ws(1, b'{"type":"orderbook_delta","sid":1,"seq":1,"msg":{}}') + ws(1, b'{"type":"ticker","sid":2,"msg":{}}')
    )
    assert to.events == [
        Event(EventKind.UNDECODED, sid=1, seq=1, number=1, reason=records.Reason.MISSING_FIELD, data=b"orderbook_delta")
    ]


def test_drift_is_told_once() -> None:
    ring = Ring()
    to = connection(ring)
    feed(to, ws(1, b'{"type":"newer","sid":1}') * 2)
    assert to.events == [Event(EventKind.DRIFT, sid=1, number=1, data=b"type:newer")]
    feed(to, ws(1, b'{"type":"newer","sid":1}'))
    assert to.events == []


def test_long_names_of_drift_are_cut_at_64_bytes() -> None:
    to = connection(Ring())
    feed(to, ws(1, b'{"type":"' + b"n" * 70 + b'"}') + ws(1, b'{"type":"' + b"n" * 71 + b'"}'))
    assert [event.data for event in to.events] == [b"type:" + b"n" * 64]


def test_at_most_256_names_of_drift_are_told() -> None:
    to = connection(Ring(), max_events=1000)
    feed(to, b"".join(ws(1, b'{"type":"t%d"}' % i) for i in range(300)))
    assert [event.data for event in to.events] == [b"type:t%d" % i for i in range(256)]


def test_a_full_ring_delays_records_and_loses_and_doubles_nothing() -> None:
    """Every number of free places at which it can stop, between a Gap and its frame included."""
    data = ws(1, b'{"type":"fill","sid":2,"seq":3}') + ws(9) + ws(1, b'{"type":"fill","sid":2,"seq":9}') + ws(8)
    roomy = Ring()
    assert feed(connection(roomy), data) is FeedStatus.CLOSED
    assert [r["kind"] for r in roomy.shown()] == ["gap", "unparsed", "gap", "unparsed"]
    for room in range(4):
        ring = Ring(room)
        to = connection(ring)
        events = []
        assert feed(to, data) is FeedStatus.FULL
        events += to.events
        while True:
            status = to.feed(0)
            events += to.events
            if status is not FeedStatus.FULL:
                break
            ring.room += 1
        assert status is FeedStatus.CLOSED
        assert ring.taken == roomy.taken
        kinds = [event.kind for event in events]
        assert kinds == [EventKind.GAP, EventKind.PING, EventKind.GAP, EventKind.CLOSE]


def test_new_bytes_before_the_old_ones_are_handled_are_refused() -> None:
    to = connection(Ring(0))
    assert feed(to, ws(1, b"{}")) is FeedStatus.FULL
    with pytest.raises(ValueError, match=r"feed\(0\)"):
        to.feed(1)


def test_a_full_list_of_events_stops_and_goes_on() -> None:
    to = connection(Ring(), max_events=2)
    assert feed(to, ws(9, b"1") + ws(9, b"2") + ws(9, b"3")) is FeedStatus.MORE
    assert [event.data for event in to.events] == [b"1", b"2"]
    assert to.feed(0) is FeedStatus.OK
    assert [event.data for event in to.events] == [b"3"]


def test_a_protocol_fault_keeps_what_came_before_and_ends_the_connection() -> None:
    ring = Ring()
    to = connection(ring)
    assert feed(to, ws(1, b"{}") + b"\xff\xff" + ws(1, b"{}")) is FeedStatus.PROTOCOL
    assert len(ring.taken) == 1
    assert feed(to, ws(1, b"{}")) is FeedStatus.PROTOCOL
    assert len(ring.taken) == 1


def test_a_message_that_is_too_large_leaves_a_gap_that_says_so() -> None:
    ring = Ring()
    to = connection(ring, max_frame_bytes=500)
    assert feed(to, ws(1, b"x" * 501)) is FeedStatus.TOO_LARGE
    assert to.events == [Event(EventKind.GAP, number=1)]
    gap = ring.shown()[0]
    assert (gap["cause"], gap["length_bytes"], gap["head"]) == ("frame_too_large", 501, "x" * 256)
    assert (gap["connection"], gap["recv_ns"], gap["from_ns"], gap["to_ns"]) == (9, SECOND, SECOND, None)
    assert to.frames == 0


def test_nothing_counts_after_a_close() -> None:
    ring = Ring()
    to = connection(ring)
    assert feed(to, ws(8, b"\x03\xe9") + ws(1, b"{}")) is FeedStatus.CLOSED
    assert to.events == [Event(EventKind.CLOSE, data=b"\x03\xe9")]
    assert to.feed(0) is FeedStatus.CLOSED
    assert (ring.taken, to.events) == ([], [])


def test_binary_and_empty_messages_are_kept() -> None:
    ring = Ring()
    feed(connection(ring), ws(2, b'{"type":"ok"}') + ws(1))
    assert [(r["reason"], r["frame"]) for r in ring.shown()] == [("binary", '{"type":"ok"}'), ("bad_json", None)]


def test_a_limit_too_small_for_the_largest_frame_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        Connection(Ring(), connection=1, stamp=Clock(), max_frame_bytes=1000, limit_bytes=1255)


# ---- real frames


KIND_OF_TYPE = {
    "trade": "trade",
    "ticker": "ticker",
    "orderbook_snapshot": "book_snapshot",
    "orderbook_delta": "book_delta",
    "market_lifecycle_v2": "status",
    "event_lifecycle": "status",
    "cfbenchmarks_value": "index",
    "cfbenchmarks_value_5hz": "index",
    "subscribed": "control",
    "ok": "control",
    "unsubscribed": "control",
    "error": "control",
}


def test_every_captured_frame_is_decoded_by_its_type_and_kept_byte_for_byte(shared: Path) -> None:
    for frame in real_frames(shared):
        record = records.read(normalize(frame, number=1, recv_ns=1, recv_ticks=1, connection=1))
        assert records.kind_of(record) == KIND_OF_TYPE[json.loads(frame)["type"]], frame
        assert record.frame == frame


def test_no_captured_frame_shows_anything_that_the_page_does_not_list(shared: Path) -> None:
    frames = real_frames(shared)
    assert [drift_of(frame.decode()) for frame in frames] == [[]] * len(frames)
