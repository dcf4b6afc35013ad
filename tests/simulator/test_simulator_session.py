"""One client's session: sids, numbers, replies and errors as the protocol sheet (2.1 to 2.7) has them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from ssmd.simulator.books import NO, YES, Book
from ssmd.simulator.catalogue import Market
from ssmd.simulator.exchange import BookChange, BookReset, Exchange, Lifecycle, Trade, quote
from ssmd.simulator.render import Format
from ssmd.simulator.session import Fragmented, Session, Terms

NOW_MS = 1_795_000_000_000


class View:
    """The exchange as it stands, without a server."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def market(self, ticker: str) -> Market | None:
        return self.exchange.markets.get(ticker)

    def market_of_id(self, market_id: str) -> Market | None:
        return self.exchange.by_id.get(market_id)

    def tickers(self) -> Iterable[str]:
        return self.exchange.markets

    def book(self, market: Market) -> Book:
        return market.book


class Client:
    """Speaks to a session, and reads what it says as JSON."""

    def __init__(self, terms: Terms | None = None, markets: int = 30) -> None:
        self.exchange = Exchange(markets, seed=1, now_us=NOW_MS * 1000)
        self.session = Session(View(self.exchange), terms or Terms(sending_ts=False))
        self.tickers = list(self.exchange.markets)

    def tell(self, text: str) -> None:
        self.session.receive(text, NOW_MS)

    def do(self, cmd: str, identity: int = 1, **params: object) -> list[dict[str, Any]]:
        """One command; all frames that follow, snapshots included."""
        self.tell(json.dumps({"id": identity, "cmd": cmd, "params": params}))
        return self.heard()

    def heard(self) -> list[dict[str, Any]]:
        while self.session.pump(NOW_MS):
            pass
        return [json.loads(text) for text in self.session.take()]

    def books(self, *tickers: str, **params: object) -> list[dict[str, Any]]:
        return self.do("subscribe", channels=["orderbook_delta"], market_tickers=list(tickers), **params)

    def change(self, ticker: str, side: int = YES, price_e4: int = 1_200, delta_e2: int = 100) -> None:
        self.session.publish(BookChange(NOW_MS * 1000, self.exchange.markets[ticker], side, price_e4, delta_e2), NOW_MS)

    def trade(self, ticker: str) -> None:
        self.session.publish(Trade(NOW_MS * 1000, self.exchange.markets[ticker], "0-0", 5_000, 100, YES), NOW_MS)


@pytest.fixture
def client() -> Client:
    return Client()


def code(frame: dict[str, Any]) -> int:
    assert frame["type"] == "error"
    return int(frame["msg"]["code"])


# ---- subscribe


def test_a_subscribed_reply_has_the_sid_in_msg_and_no_seq(client: Client) -> None:
    (reply,) = client.do("subscribe", 7, channels=["trade"])
    assert reply == {"type": "subscribed", "id": 7, "msg": {"channel": "trade", "sid": 1}}


def test_each_channel_gets_its_own_sid_in_order(client: Client) -> None:
    replies = client.do("subscribe", channels=["ticker", "trade", "market_lifecycle_v2"])
    assert [(r["msg"]["channel"], r["msg"]["sid"]) for r in replies] == [
        ("ticker", 1),
        ("trade", 2),
        ("market_lifecycle_v2", 3),
    ]


def test_every_market_gets_a_snapshot_with_numbers_from_one(client: Client) -> None:
    reply, *snapshots = client.books(*client.tickers[:12])
    assert reply["type"] == "subscribed"
    assert [s["msg"]["market_ticker"] for s in snapshots] == client.tickers[:12]
    assert [s["seq"] for s in snapshots] == list(range(1, 13))


def test_an_unknown_market_gives_an_empty_snapshot_without_a_market_id_and_no_error(client: Client) -> None:
    _, snapshot = client.books("KXNOT-LISTED")
    assert snapshot["msg"] == {"market_ticker": "KXNOT-LISTED", "market_id": ""}


def test_one_number_runs_over_all_markets_of_a_sid(client: Client) -> None:
    a, b = client.tickers[:2]
    client.books(a, b)
    for ticker in (a, b, a):
        client.change(ticker)
    assert [frame["seq"] for frame in client.heard()] == [3, 4, 5]


def test_a_delta_never_goes_before_its_markets_snapshot_but_others_go_between(client: Client) -> None:
    client.tell(
        json.dumps(
            {"id": 1, "cmd": "subscribe", "params": {"channels": ["orderbook_delta"], "market_tickers": client.tickers}}
        )
    )
    client.session.pump(NOW_MS)
    client.change(client.tickers[-1])  # not yet snapshotted
    client.change(client.tickers[0])
    frames = client.heard()
    kinds = [(f["type"], f["msg"].get("market_ticker")) for f in frames]
    assert ("orderbook_delta", client.tickers[-1]) not in kinds
    at = kinds.index(("orderbook_delta", client.tickers[0]))
    assert ("orderbook_snapshot", client.tickers[-1]) in kinds[at:]


def test_subscribing_again_merges_and_answers_ok_with_the_full_list(client: Client) -> None:
    a, b = client.tickers[:2]
    client.books(a)
    ok, snapshot = client.do("subscribe", 2, channels=["orderbook_delta"], market_tickers=[b, a])
    assert ok == {"type": "ok", "id": 2, "sid": 1, "seq": 2, "msg": {"market_tickers": [a, b]}}
    assert (snapshot["msg"]["market_ticker"], snapshot["seq"]) == (b, 3)


def test_an_ok_on_the_ticker_channel_has_a_sid_but_no_seq(client: Client) -> None:
    client.do("subscribe", channels=["ticker"], market_tickers=[client.tickers[0]])
    (ok,) = client.do("subscribe", 3, channels=["ticker"], market_tickers=[client.tickers[1]])
    assert (ok["sid"], "seq" in ok) == (1, False)


def test_skip_ticker_ack_leaves_the_list_out(client: Client) -> None:
    client.books(client.tickers[0], skip_ticker_ack=True)
    ok = client.books(client.tickers[1])[0]
    assert ok["msg"] == {}


def test_id_zero_counts_as_none(client: Client) -> None:
    (reply,) = client.do("subscribe", 0, channels=["trade"])
    assert "id" not in reply


def test_send_initial_snapshot_gives_one_ticker_a_market(client: Client) -> None:
    _, *frames = client.do(
        "subscribe", channels=["ticker"], market_tickers=client.tickers[:3], send_initial_snapshot=True
    )
    assert [(f["type"], f["msg"]["market_ticker"]) for f in frames] == [("ticker", t) for t in client.tickers[:3]]


def test_market_ids_choose_markets_on_the_ticker_channel(client: Client) -> None:
    market = client.exchange.markets[client.tickers[0]]
    client.do("subscribe", channels=["ticker"], market_ids=[market.market_id])
    for ticker in client.tickers[:2]:
        client.session.publish(quote(client.exchange.markets[ticker]), NOW_MS)
    assert [frame["msg"]["market_ticker"] for frame in client.heard()] == [market.ticker]


def test_market_ids_that_nobody_has_mean_no_market_not_all(client: Client) -> None:
    client.do("subscribe", channels=["ticker"], market_ids=["00000000-0000-0000-0000-000000000000"])
    client.session.publish(quote(client.exchange.markets[client.tickers[0]]), NOW_MS)
    assert client.heard() == []


def test_trades_without_a_filter_are_of_all_markets_and_numbered(client: Client) -> None:
    client.do("subscribe", channels=["trade"])
    client.trade(client.tickers[0])
    client.trade(client.tickers[9])
    assert [(f["sid"], f["seq"]) for f in client.heard()] == [(1, 1), (1, 2)]


def test_use_yes_price_turns_the_no_side_of_snapshots_and_deltas(client: Client) -> None:
    ticker = client.tickers[0]
    _, own = client.books(ticker)
    other = Client()
    _, turned = other.books(ticker, use_yes_price=True)
    assert [[f"{1 - float(p):.4f}", size] for p, size in own["msg"]["no_dollars_fp"]] == turned["msg"]["no_dollars_fp"]
    assert own["msg"]["yes_dollars_fp"] == turned["msg"]["yes_dollars_fp"]
    other.change(ticker, NO, 1_200)
    assert other.heard()[0]["msg"]["price_dollars"] == "0.8800"


def test_sending_ts_ms_is_the_last_key_of_every_frame() -> None:
    client = Client(Terms(sending_ts=True))
    client.books(client.tickers[0])
    client.change(client.tickers[0])
    client.tell("nonsense")
    for frame in client.heard() + client.do("list_subscriptions"):
        assert list(frame)[-1] == "sending_ts_ms"


def test_every_frame_is_compact_and_ends_with_a_newline(client: Client) -> None:
    client.tell(
        json.dumps(
            {
                "id": 1,
                "cmd": "subscribe",
                "params": {"channels": ["orderbook_delta"], "market_tickers": client.tickers[:2]},
            }
        )
    )
    client.session.pump(NOW_MS)
    for text in client.session.take():
        assert text.endswith("}\n")
        assert json.dumps(json.loads(text), separators=(",", ":")) + "\n" == text


def test_key_order_is_type_id_sid_seq_msg(client: Client) -> None:
    client.books(client.tickers[0])
    (snapshot,) = client.do("update_subscription", 5, sid=1, action="get_snapshot", market_tickers=[client.tickers[0]])
    assert list(snapshot) == ["type", "id", "sid", "seq", "msg"]


# ---- unsubscribe, update, list


def test_unsubscribed_uses_a_number_and_a_new_subscription_starts_at_one_with_a_new_sid(client: Client) -> None:
    ticker = client.tickers[0]
    client.books(ticker)
    (gone,) = client.do("unsubscribe", 2, sids=[1])
    assert gone == {"type": "unsubscribed", "id": 2, "sid": 1, "seq": 2}
    reply, snapshot = client.books(ticker)
    assert (reply["msg"]["sid"], snapshot["sid"], snapshot["seq"]) == (2, 2, 1)


def test_unsubscribing_a_ticker_sid_has_no_number(client: Client) -> None:
    client.do("subscribe", channels=["ticker"])
    assert client.do("unsubscribe", 2, sids=[1]) == [{"type": "unsubscribed", "id": 2, "sid": 1}]


def test_add_markets_answers_ok_then_snapshots_of_the_new_ones_only(client: Client) -> None:
    a, b = client.tickers[:2]
    client.books(a)
    ok, snapshot = client.do("update_subscription", 2, sids=[1], action="add_markets", market_tickers=[a, b])
    assert (ok["seq"], ok["msg"]["market_tickers"]) == (2, [a, b])
    assert (snapshot["seq"], snapshot["msg"]["market_ticker"]) == (3, b)


def test_delete_markets_stops_updates_and_makes_no_hole(client: Client) -> None:
    a, b = client.tickers[:2]
    client.books(a, b)
    (ok,) = client.do("update_subscription", 2, sid=1, action="delete_markets", market_tickers=[a])
    client.change(a)
    client.change(b)
    (delta,) = client.heard()
    assert (ok["seq"], ok["msg"]["market_tickers"]) == (3, [b])
    assert (delta["seq"], delta["msg"]["market_ticker"]) == (4, b)


def test_deleting_the_last_market_of_a_trade_filter_means_all_markets(client: Client) -> None:
    a, b = client.tickers[:2]
    client.do("subscribe", channels=["trade"], market_tickers=[a])
    client.do("update_subscription", 2, sid=1, action="delete_markets", market_tickers=[a])
    client.trade(b)
    assert client.heard()[0]["msg"]["market_ticker"] == b


def test_get_snapshot_carries_the_id_and_the_next_numbers_and_no_ok(client: Client) -> None:
    a, b = client.tickers[:2]
    client.books(a, b)
    frames = client.do("update_subscription", 9, sid=1, action="get_snapshot", market_tickers=[b, a])
    client.change(a)
    frames += client.heard()
    assert [(f["type"], f.get("id"), f["seq"]) for f in frames] == [
        ("orderbook_snapshot", 9, 3),
        ("orderbook_snapshot", 9, 4),
        ("orderbook_delta", None, 5),
    ]


def test_get_snapshot_of_no_market_is_one_numbered_reply(client: Client) -> None:
    client.books(client.tickers[0])
    (reply,) = client.do("update_subscription", 9, sid=1, action="get_snapshot", market_tickers=[])
    assert (reply["type"], reply["seq"]) == ("ok", 2)


def test_list_subscriptions_names_channels_and_sids_and_needs_no_params(client: Client) -> None:
    client.do("subscribe", channels=["trade", "ticker"])
    client.tell('{"id":3,"cmd":"list_subscriptions"}')
    assert client.heard() == [
        {"type": "ok", "id": 3, "msg": [{"channel": "trade", "sid": 1}, {"channel": "ticker", "sid": 2}]}
    ]


def test_index_values_come_for_the_wanted_index(client: Client) -> None:
    client.do("subscribe", channels=["cfbenchmarks_value"], index_ids=["BRTI"])
    for index in ("BRTI", "ETHUSD_RTI"):
        client.session.publish(client.exchange.index_value(index, NOW_MS * 1000, full_second=True), NOW_MS)
    (frame,) = client.heard()
    assert (frame["type"], frame["seq"], frame["msg"]["index_id"]) == ("cfbenchmarks_value", 1, "BRTI")
    assert isinstance(frame["msg"]["data"], str)


def test_an_unsolicited_snapshot_of_an_emptied_book_has_no_ladders_and_a_number(client: Client) -> None:
    market = client.exchange.markets[client.tickers[0]]
    client.books(market.ticker)
    for event in client.exchange.empty_book(market, NOW_MS * 1000):
        assert isinstance(event, BookReset)
        client.session.publish(event, NOW_MS)
    (frame,) = client.heard()
    assert frame["seq"] == 2
    assert set(frame["msg"]) == {"market_ticker", "market_id"}


def test_lifecycle_messages_of_all_kinds_share_one_sid(client: Client) -> None:
    client.do("subscribe", channels=["market_lifecycle_v2"])
    event = next(iter(client.exchange.events.values()))
    for kind in ("event_lifecycle", "event_fee_update"):
        client.session.publish(Lifecycle(0, kind, "", event, None, {}), NOW_MS)
    assert [(f["type"], f["sid"], f["seq"]) for f in client.heard()] == [
        ("event_lifecycle", 1, 1),
        ("event_fee_update", 1, 2),
    ]


# ---- errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", 1),
        ("[]", 1),
        ('{"id":"a","cmd":"subscribe"}', 1),
        ('{"id":1,"cmd":"subscribe"}', 2),
        ('{"id":1,"cmd":"subscribe","params":{}}', 3),
        ('{"id":1,"cmd":"subscribe","params":{"channels":[]}}', 3),
        ('{"id":1,"cmd":"unsubscribe","params":{}}', 4),
        ('{"id":1,"cmd":"unsubscribe","params":{"sids":[]}}', 4),
        ('{"id":1,"cmd":"dance","params":{}}', 5),
        ('{"id":1}', 5),
        ('{"id":1,"cmd":"unsubscribe","params":{"sids":[9]}}', 7),
        ('{"id":1,"cmd":"update_subscription","params":{"sid":9,"action":"add_markets"}}', 7),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["ticker_v2"]}}', 8),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["pyth_value"],"underlying_tickers":["all"]}}', 9),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["trade"],"market_ticker":"A","market_tickers":["B"]}}', 11),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["trade"],"market_tickers":"A"}}', 11),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"],"market_ids":["A"]}}', 11),
        ('{"id":1,"cmd":"update_subscription","params":{"action":"add_markets"}}', 12),
        ('{"id":1,"cmd":"update_subscription","params":{"sids":[1,2],"action":"add_markets"}}', 12),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"]}}', 14),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["communications"],"shard_factor":0,"shard_key":0}}', 19),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["communications"],"shard_key":0}}', 20),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["communications"],"shard_factor":2,"shard_key":2}}', 21),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["communications"],"shard_factor":101,"shard_key":0}}', 22),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["cfbenchmarks_value"]}}', 24),
    ],
)
def test_a_wrong_command_gets_its_error_code(client: Client, text: str, expected: int) -> None:
    client.tell(text)
    (frame,) = client.heard()
    assert code(frame) == expected
    assert "sid" not in frame and "seq" not in frame


def test_an_error_has_the_exchanges_text(client: Client) -> None:
    (frame,) = client.do("subscribe", 1, channels=["nothing"])
    assert frame == {"type": "error", "id": 1, "msg": {"code": 8, "msg": "Unknown channel name"}}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"action": "get_snapshot", "market_tickers": ["A"]}, 13),
        ({"action": "dance"}, 13),
        ({}, 15),
        ({"action": "add_markets"}, 14),
    ],
)
def test_an_error_of_a_subscription_carries_sid_and_seq_no_id_and_uses_a_number(
    client: Client, params: dict[str, object], expected: int
) -> None:
    client.do("subscribe", channels=["trade"])
    (frame,) = client.do("update_subscription", 2, sid=1, **params)
    assert (code(frame), frame["sid"], frame["seq"], "id" in frame) == (expected, 1, 1, False)
    client.trade(client.tickers[0])
    assert client.heard()[0]["seq"] == 2


def test_an_error_of_a_ticker_subscription_has_no_number(client: Client) -> None:
    client.do("subscribe", channels=["ticker"])
    (frame,) = client.do("update_subscription", 2, sid=1, action="get_snapshot", market_tickers=["A"])
    assert (code(frame), frame["sid"], "seq" in frame) == (13, 1, False)


def test_the_paid_feed_asks_for_underlyings_once_it_is_allowed() -> None:
    client = Client(Terms(paid=True))
    (frame,) = client.do("subscribe", channels=["pyth_value"])
    assert code(frame) == 28


def test_more_markets_than_the_limit_is_error_26() -> None:
    client = Client(Terms(market_limit=2))
    (frame,) = client.books(*client.tickers[:3])
    assert code(frame) == 26
    client.books(*client.tickers[:2])
    (frame,) = client.do("update_subscription", 2, sid=1, action="add_markets", market_tickers=[client.tickers[5]])
    assert (code(frame), frame["sid"]) == (26, 1)


def test_the_ten_thousand_and_first_command_of_a_second_is_error_27(client: Client) -> None:
    for _ in range(10_000):
        client.tell('{"id":1,"cmd":"list_subscriptions"}')
    client.session.take()
    client.tell('{"id":1,"cmd":"list_subscriptions"}')
    (frame,) = client.heard()
    assert code(frame) == 27


# ---- faults that touch frames


def test_seq_gap_uses_a_number_and_sends_nothing_with_it(client: Client) -> None:
    ticker = client.tickers[0]
    client.books(ticker)
    assert client.session.inject("seq_gap", "2", NOW_MS)
    for _ in range(3):
        client.change(ticker)
    assert [frame["seq"] for frame in client.heard()] == [4]
    assert client.session.notes == [
        {"name": "seq_gap", "sid": 1, "seq": 2},
        {"name": "seq_gap", "sid": 1, "seq": 3},
    ]


def test_seq_gap_spares_other_channels_where_books_are_subscribed(client: Client) -> None:
    client.books(client.tickers[0])
    client.do("subscribe", channels=["trade"])
    client.session.inject("seq_gap", "1", NOW_MS)
    client.trade(client.tickers[0])
    client.change(client.tickers[0])
    assert [frame["type"] for frame in client.heard()] == ["trade"]


def test_duplicate_sends_the_same_frame_twice(client: Client) -> None:
    client.books(client.tickers[0])
    client.session.inject("duplicate", "1", NOW_MS)
    client.change(client.tickers[0])
    client.change(client.tickers[0])
    frames = client.heard()
    assert frames[0] == frames[1]
    assert [frame["seq"] for frame in frames] == [2, 2, 3]


def test_reorder_acks_carries_the_first_command_out_after_the_second(client: Client) -> None:
    client.session.inject("reorder_acks", "", NOW_MS)
    assert client.do("subscribe", 1, channels=["trade"], market_tickers=["A"]) == []
    replies = client.do("subscribe", 2, channels=["trade"], market_tickers=["B"])
    assert [(r["type"], r["id"]) for r in replies] == [("subscribed", 2), ("ok", 1)]


def test_reorder_acks_lets_a_lonely_command_go_after_half_a_second(client: Client) -> None:
    client.session.inject("reorder_acks", "", NOW_MS)
    client.do("subscribe", 1, channels=["trade"])
    client.session.pump(NOW_MS + 499)
    assert client.session.take() == []
    client.session.pump(NOW_MS + 500)
    assert '"subscribed"' in client.session.take()[0]


def test_ack_late_lets_data_go_before_the_reply(client: Client) -> None:
    client.session.inject("ack_late", "0.5", NOW_MS)
    (snapshot,) = client.books(client.tickers[0])
    client.change(client.tickers[0])
    (delta,) = client.heard()
    client.session.pump(NOW_MS + 500)
    reply = json.loads(client.session.take()[0])
    assert [snapshot["type"], delta["type"], reply["type"]] == ["orderbook_snapshot", "orderbook_delta", "subscribed"]
    assert (snapshot["seq"], delta["seq"]) == (1, 2)


def test_unknown_type_is_numbered_like_any_other_frame(client: Client) -> None:
    client.books(client.tickers[0])
    client.session.inject("unknown_type", "weather", NOW_MS)
    client.change(client.tickers[0])
    assert [(f["type"], f["seq"]) for f in client.heard()] == [("weather", 2), ("orderbook_delta", 3)]


def test_unknown_field_adds_fields_inside_and_outside_and_changes_nothing_else(client: Client) -> None:
    client.books(client.tickers[0])
    client.session.inject("unknown_field", "1", NOW_MS)
    client.change(client.tickers[0])
    client.change(client.tickers[0])
    strange, plain = client.heard()
    assert set(strange) - set(plain) == {"simulated_top"}
    assert set(strange["msg"]) - set(plain["msg"]) == {"simulated_field"}


def test_bad_json_is_no_json_and_uses_no_number(client: Client) -> None:
    client.books(client.tickers[0])
    client.session.inject("bad_json", "", NOW_MS)
    client.change(client.tickers[0])
    broken, delta = client.session.take()
    with pytest.raises(ValueError):
        json.loads(broken)
    assert json.loads(delta)["seq"] == 2


def test_huge_frame_has_exactly_the_wanted_length_and_a_number(client: Client) -> None:
    client.books(client.tickers[0])
    client.session.inject("huge_frame", "100000", NOW_MS)
    (text,) = client.session.take()
    assert len(text) == 100_000
    assert json.loads(text)["seq"] == 2


def test_fragmented_marks_the_next_data_frames(client: Client) -> None:
    client.books(client.tickers[0])
    client.session.inject("fragmented", "1", NOW_MS)
    client.change(client.tickers[0])
    client.change(client.tickers[0])
    assert [isinstance(text, Fragmented) for text in client.session.take()] == [True, False]


@pytest.mark.parametrize("name", ["error_10", "error_25"])
def test_a_terminal_error_is_numbered_and_ends_the_sid(client: Client, name: str) -> None:
    client.books(client.tickers[0])
    client.session.inject(name, "", NOW_MS)
    client.change(client.tickers[0])
    (frame,) = client.heard()
    assert (code(frame), frame["sid"], frame["seq"]) == (int(name[6:]), 1, 2)
    assert client.books(client.tickers[0])[0]["msg"]["sid"] == 2


def test_negative_level_takes_more_than_the_level_has(client: Client) -> None:
    ticker = client.tickers[0]
    _, snapshot = client.books(ticker)
    client.session.inject("negative_level", "", NOW_MS)
    (delta,) = client.heard()
    levels = dict(snapshot["msg"][f"{delta['msg']['side']}_dollars_fp"])
    assert float(delta["msg"]["delta_fp"]) < -float(levels[delta["msg"]["price_dollars"]])


def test_unknown_market_delta_is_of_a_market_that_is_not_listed(client: Client) -> None:
    client.books(client.tickers[0])
    client.session.inject("unknown_market_delta", "", NOW_MS)
    (delta,) = client.heard()
    assert delta["msg"]["market_ticker"] not in client.exchange.markets
    assert delta["seq"] == 2


def test_old_format_goes_on_in_the_old_format(client: Client) -> None:
    client.books(client.tickers[0])
    client.session.inject("old_format", "old", NOW_MS)
    client.change(client.tickers[0])
    (delta,) = client.heard()
    assert (delta["msg"]["price"], delta["msg"]["delta"]) == (12, 1)
    assert client.session.format is Format.OLD


def test_a_fault_that_needs_books_waits_until_there_are_some(client: Client) -> None:
    client.do("subscribe", channels=["trade"])
    assert not client.session.inject("negative_level", "", NOW_MS)


def test_in_file_mode_no_market_data_of_our_own_is_sent() -> None:
    client = Client(Terms(silent=True, sending_ts=False))
    assert [frame["type"] for frame in client.books(client.tickers[0])] == ["subscribed"]


def test_a_verbatim_frame_is_not_changed(client: Client) -> None:
    client.session.verbatim("anything at all \u20ac")
    assert client.session.take() == ["anything at all \u20ac"]
