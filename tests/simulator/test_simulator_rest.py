"""The REST side against the protocol sheet and, where they are at hand, the exchange's own bodies."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from ssmd.simulator.exchange import Exchange
from ssmd.simulator.keys import KeyRing
from ssmd.simulator.rest import Bucket, Rest, cursor_key, make_cursor

NOW_US = 1_795_000_000_000_000
ROOT = "/trade-api/v2"


class Client:
    """Asks a REST side without sockets."""

    def __init__(self, markets: int = 60) -> None:
        self.exchange = Exchange(markets, seed=1, now_us=NOW_US)
        for step in range(400):
            self.exchange.step(NOW_US + step)
        self.key = ed25519.Ed25519PrivateKey.generate()
        ring = KeyRing()
        ring.register("mine", self.key.public_key())
        self.rest = Rest(self.exchange, ring)

    def ask(self, path: str, *, signed: bool = False, **query: object) -> tuple[int, Any]:
        target = ROOT + path + ("?" + urlencode(query) if query else "")
        response = self.rest.handle("GET", target, self.headers(ROOT + path) if signed else {}, NOW_US)
        return response.status, json.loads(response.body)

    def headers(self, path: str) -> dict[str, str]:
        signature = self.key.sign(f"{NOW_US // 1000}GET{path}".encode())
        return {
            "kalshi-access-key": "mine",
            "kalshi-access-timestamp": str(NOW_US // 1000),
            "kalshi-access-signature": base64.b64encode(signature).decode(),
        }

    def get(self, path: str, **query: object) -> Any:
        status, body = self.ask(path, **query)
        assert status == 200
        return body


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


def test_pages_of_markets_give_every_market_once_newest_first(client: Client) -> None:
    rows, cursor, pages = [], "", 0
    while True:
        body = client.get("/markets", limit=7, **({"cursor": cursor} if cursor else {}))
        rows += body["markets"]
        pages += 1
        cursor = body["cursor"]
        if not cursor:
            break
    assert [row["ticker"] for row in rows] == [
        market.ticker
        for market in sorted(client.exchange.markets.values(), key=lambda m: (m.created_us, m.ticker), reverse=True)
    ]
    assert pages == 9  # 60 markets


def test_a_garbage_cursor_is_page_one(client: Client) -> None:
    assert client.get("/markets", cursor="!garbage!") == client.get("/markets")
    assert client.get("/markets", cursor="CgwI") == client.get("/markets")


@pytest.mark.parametrize("name", ["markets__page1.json", "markets__page2.json", "markets__page3.json"])
def test_a_real_cursor_is_the_key_of_the_last_row_of_its_page(name: str, shared: Path) -> None:
    page = json.loads((shared / "kalshi" / "rest_samples" / name).read_text())
    last = page["markets"][-1]
    key = cursor_key(page["cursor"])
    assert key
    assert key[1] == last["ticker"]
    assert make_cursor(*key) == page["cursor"]


def test_a_real_trades_cursor_is_the_key_of_the_last_trade(shared: Path) -> None:
    page = json.loads((shared / "kalshi" / "rest_samples" / "trades__public_recorded.json").read_text())
    key = cursor_key(page["cursor"])
    assert key
    assert key[1] == page["trades"][-1]["trade_id"]
    assert make_cursor(*key, trades=True) == page["cursor"]


def test_a_limit_above_the_maximum_is_the_exchanges_error(client: Client, shared: Path) -> None:
    status, body = client.ask("/markets", limit=1001)
    assert status == 400
    assert body == json.loads((shared / "kalshi" / "rest_samples" / "markets__limit_over_max.json").read_text())


def test_a_limit_that_is_no_number_is_a_bare_message(client: Client) -> None:
    status, body = client.ask("/markets", limit="many")
    assert status == 400
    assert body["msg"].startswith("Invalid format for parameter limit: ")


def test_limit_zero_means_the_usual_number(client: Client) -> None:
    assert client.get("/markets", limit=0) == client.get("/markets", limit=100)


def test_status_filters_are_words_and_rows_have_values(client: Client) -> None:
    assert {row["status"] for row in client.get("/markets", status="open")["markets"]} == {"active"}
    assert client.get("/markets", status="settled")["markets"] == []


def test_an_unknown_status_is_a_flat_error(client: Client) -> None:
    status, body = client.ask("/markets", status="active")
    assert (status, body["code"], body["message"]) == (400, "bad_request", "bad request")


def test_filters_by_series_event_and_tickers_agree(client: Client) -> None:
    first = client.get("/markets", series_ticker="KXSIMCOIN")["markets"]
    assert first and all(row["ticker"].startswith("KXSIMCOIN-") for row in first)
    event = first[0]["event_ticker"]
    assert {row["event_ticker"] for row in client.get("/markets", event_ticker=event)["markets"]} == {event}
    two = [row["ticker"] for row in first[:2]]
    assert {row["ticker"] for row in client.get("/markets", tickers=",".join(two))["markets"]} == set(two)


def test_a_mismatched_pair_of_filters_gives_no_rows_and_no_error(client: Client) -> None:
    event = client.get("/markets", series_ticker="KXSIMCOIN")["markets"][0]["event_ticker"]
    assert client.get("/markets", series_ticker="KXSIMTEMP", event_ticker=event) == {"cursor": "", "markets": []}


def test_combinations_can_be_excluded_or_chosen(client: Client) -> None:
    both = {row["ticker"] for row in client.get("/markets")["markets"]}
    only = {row["ticker"] for row in client.get("/markets", mve_filter="only")["markets"]}
    rest = {row["ticker"] for row in client.get("/markets", mve_filter="exclude")["markets"]}
    assert only and rest and only | rest == both and not only & rest
    assert all(ticker.startswith("KXMVE") for ticker in only)


def test_one_market_has_every_required_field_of_a_real_one_that_still_exists(client: Client, shared: Path) -> None:
    real = json.loads((shared / "kalshi" / "rest_samples" / "markets__single.json").read_text())["market"]
    gone = {"fractional_trading_enabled", "liquidity_dollars", "response_price_units"}
    optional = {"custom_strike", "occurrence_datetime", "primary_participant_key", "floor_strike", "subtitle"}
    mine = client.get(f"/markets/{next(iter(client.exchange.markets))}")["market"]
    assert set(real) - gone - optional <= set(mine)
    assert not gone & set(mine)


def test_keys_are_in_alphabetical_order_at_every_depth(client: Client) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            for inner in value.values():
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)

    for path in ("/markets", "/events", "/series", "/exchange/schedule", "/markets/trades", "/exchange/status"):
        check(client.get(path))


def test_unknown_things_are_404_in_the_nested_shape(client: Client) -> None:
    for path in ("/markets/KXNO", "/events/KXNO", "/series/KXNO", "/markets/KXNO/orderbook", "/nothing"):
        assert client.ask(path) == (404, {"error": {"code": "not_found", "message": "not found"}})


def test_an_order_book_is_ascending_with_the_best_last_and_depth_counts_from_the_best(client: Client) -> None:
    market = max(client.exchange.markets.values(), key=lambda m: min(len(side) for side in m.book.ladders))
    book = client.get(f"/markets/{market.ticker}/orderbook")["orderbook_fp"]
    assert set(book) == {"no_dollars", "yes_dollars"}
    prices = [float(price) for price, _ in book["yes_dollars"]]
    assert prices == sorted(prices) and len(prices) > 2
    top = client.get(f"/markets/{market.ticker}/orderbook", depth=2)["orderbook_fp"]
    assert top["yes_dollars"] == book["yes_dollars"][-2:]


def test_several_order_books_come_in_one_answer(client: Client) -> None:
    tickers = list(client.exchange.markets)[:3]
    target = f"{ROOT}/markets/orderbooks?" + "&".join(f"tickers={ticker}" for ticker in tickers)
    body = json.loads(client.rest.handle("GET", target, {}, NOW_US).body)
    assert [row["ticker"] for row in body["orderbooks"]] == tickers


def test_trades_are_newest_first_and_filtered_by_market(client: Client) -> None:
    rows = client.get("/markets/trades", limit=1000)["trades"]
    assert len(rows) == len(client.exchange.trades) > 10
    newest = sorted(client.exchange.trades, key=lambda trade: (trade.ts_us, trade.trade_id), reverse=True)
    assert [row["trade_id"] for row in rows] == [trade.trade_id for trade in newest]
    ticker = rows[0]["ticker"]
    assert {row["ticker"] for row in client.get("/markets/trades", ticker=ticker)["trades"]} == {ticker}


def test_pages_of_trades_give_every_trade_once(client: Client) -> None:
    seen, cursor = [], ""
    while True:
        body = client.get("/markets/trades", limit=13, **({"cursor": cursor} if cursor else {}))
        seen += [row["trade_id"] for row in body["trades"]]
        cursor = body["cursor"]
        if not cursor:
            break
    assert len(seen) == len(set(seen)) == len(client.exchange.trades)


def test_events_leave_combinations_out_and_can_nest_their_markets(client: Client) -> None:
    events = client.get("/events", with_nested_markets="true")["events"]
    assert not any(event["series_ticker"].startswith("KXMVE") for event in events)
    assert all(event["markets"] for event in events)
    assert "markets" not in client.get("/events")["events"][0]
    assert client.get("/events/multivariate")["events"]


def test_one_event_comes_with_its_markets_beside_it(client: Client) -> None:
    ticker = next(iter(client.exchange.events))
    body = client.get(f"/events/{ticker}")
    assert body["event"]["event_ticker"] == ticker
    assert {market["event_ticker"] for market in body["markets"]} == {ticker}


def test_public_answers_need_no_signature_but_a_wrong_one_is_refused(client: Client) -> None:
    assert client.ask("/markets")[0] == 200
    headers = client.headers(ROOT + "/events")
    response = client.rest.handle("GET", ROOT + "/markets", headers, NOW_US)
    assert (response.status, json.loads(response.body)["error"]["details"]) == (401, "INCORRECT_API_KEY_SIGNATURE")


def test_private_paths_need_a_signature(client: Client) -> None:
    message = {"error": {"code": "token_authentication_failure", "message": "token authentication failure"}}
    assert client.ask("/account/limits") == (401, message)
    status, body = client.ask("/account/limits", signed=True)
    assert (status, body["read"]) == (200, {"bucket_capacity": 200, "refill_rate": 200})


def test_the_twenty_first_signed_request_at_once_is_429_and_unsigned_ones_go_on() -> None:
    client = Client(markets=1)
    statuses = [client.ask("/exchange/status", signed=True)[0] for _ in range(21)]
    assert statuses == [200] * 20 + [429]
    assert client.ask("/exchange/status", signed=True)[1] == {"error": "too many requests"}
    assert client.ask("/exchange/status")[0] == 200


def test_a_bucket_refills_with_time() -> None:
    bucket = Bucket(200, 200)
    assert bucket.draw(200, 1_000) and not bucket.draw(10, 1_000)
    assert not bucket.draw(10, 1_049) and bucket.draw(10, 1_050)


def test_only_get_is_known(client: Client) -> None:
    assert client.rest.handle("POST", ROOT + "/markets", {}, NOW_US).status == 405
