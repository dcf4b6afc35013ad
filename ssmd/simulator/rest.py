"""The REST side: requests in, answers out; pure. Facts: protocol sheet, sections 1.6 and 5.

Bodies are JSON with keys in alphabetical order. Pages are found by keyset (time descending, then
ticker descending); the cursor is base64url without padding of a small protobuf message, and a cursor
that cannot be read is page one, as on the exchange. Signed requests draw 10 tokens each from one
bucket; unsigned public ones draw none. Not for orders: this exchange only shows markets.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from ssmd.simulator.books import DOLLAR_E4, NO, YES
from ssmd.simulator.catalogue import Event, Market, Series
from ssmd.simulator.exchange import Exchange, Trade, quote
from ssmd.simulator.keys import KeyRing
from ssmd.simulator.render import count, dollars, price_ranges, rfc3339

ROOT = "/trade-api/v2"
COST = 10
CAPACITY = 200
REFILL_PER_S = 200
DAY_US = 86_400_000_000

# filter word -> values of the field `status`
STATUSES: dict[str, frozenset[str]] = {
    "unopened": frozenset({"initialized"}),
    "open": frozenset({"active"}),
    "paused": frozenset({"inactive"}),
    "closed": frozenset({"closed", "determined", "disputed", "amended"}),
    "settled": frozenset({"finalized"}),
}

PRIVATE = ("/account/limits", "/portfolio/balance")


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = "application/json"


class Problem(Exception):
    """A request that is answered with an error body."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.response = answer(body, status)


def answer(body: object, status: int = 200) -> Response:
    """JSON with sorted keys; errors keep the order of their keys."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, sort_keys=status == 200)
    return Response(status, text.encode())


def not_found() -> Problem:
    return Problem(404, {"error": {"code": "not_found", "message": "not found"}})


def bad_request(details: str) -> Problem:
    return Problem(400, {"code": "bad_request", "message": "bad request", "details": details})


TOO_MANY = answer({"error": "too many requests"}, 429)


class Bucket:
    """A token bucket; time comes in."""

    def __init__(self, capacity: float, refill_per_s: float) -> None:
        self._capacity = self._tokens = capacity
        self._refill_per_s = refill_per_s
        self._then_ms = 0

    def draw(self, tokens: float, now_ms: int) -> bool:
        """Takes tokens, or none at all where there are too few."""
        gained = max(0, now_ms - self._then_ms) * self._refill_per_s / 1000
        self._tokens = min(self._capacity, self._tokens + gained)
        self._then_ms = now_ms
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True


T = TypeVar("T")
Query = Mapping[str, list[str]]


class Rest:
    """Answers every GET under /trade-api/v2 that a market-data client needs."""

    def __init__(self, exchange: Exchange, keys: KeyRing) -> None:
        self._exchange = exchange
        self._keys = keys
        self._bucket = Bucket(CAPACITY, REFILL_PER_S)
        self._exact: dict[str, Callable[[Query], object]] = {
            "/exchange/status": self._status,
            "/exchange/schedule": self._schedule,
            "/account/limits": self._limits,
            "/account/endpoint_costs": lambda _: {"default_cost": COST, "endpoint_costs": []},
            "/portfolio/balance": self._balance,
            "/historical/cutoff": self._cutoff,
            "/series": self._series_list,
            "/series/fee_changes": lambda _: {"series_fee_change_arr": []},
            "/events": self._events,
            "/events/multivariate": self._events_multivariate,
            "/markets": self._markets,
            "/markets/orderbooks": self._orderbooks,
            "/markets/trades": self._trades,
        }
        self._now_us = 0

    def handle(self, method: str, target: str, headers: Mapping[str, str], now_us: int) -> Response:
        """Answers one request; `target` as it stood in the request line, header names in lower case."""
        self._now_us = now_us
        parts = urlsplit(target)
        path = unquote(parts.path).removeprefix(ROOT)
        signed = any(name.startswith("kalshi-access-") for name in headers)
        if signed or path in PRIVATE:
            refusal = self._keys.refusal(headers, method, parts.path, now_us // 1000)
            if refusal:
                return Response(refusal.status, refusal.body.encode())
            if not self._bucket.draw(COST, now_us // 1000):
                return TOO_MANY
        if not parts.path.startswith(ROOT):
            return not_found().response
        if method != "GET":
            return answer({"error": {"code": "method_not_allowed", "message": "method not allowed"}}, 405)
        try:
            return answer(self._route(path, parse_qs(parts.query, keep_blank_values=True)))
        except Problem as problem:
            return problem.response

    def _route(self, path: str, query: Query) -> object:
        exact = self._exact.get(path)
        if exact:
            return exact(query)
        match path.strip("/").split("/"):
            case ["series", ticker]:
                return {"series": series_json(self._one_series(ticker))}
            case ["events", ticker]:
                return self._event(ticker, query)
            case ["events", ticker, "metadata"]:
                self._one_event(ticker)
                return {"image_url": "", "market_details": [], "settlement_sources": []}
            case ["markets", ticker]:
                return {"market": market_json(self._one_market(ticker))}
            case ["markets", ticker, "orderbook"]:
                depth = _number("GetMarketOrderbook", query, "depth", 0, 100)
                return {"orderbook_fp": orderbook_json(self._one_market(ticker), depth)}
        raise not_found()

    # ---- exchange and account

    def _status(self, _query: Query) -> object:
        state = {"exchange_active": True, "intra_exchange_transfers_active": True, "trading_active": True}
        names = ("default", "combos", "crypto")
        each = [state | {"exchange_index": index, "description": name} for index, name in enumerate(names)]
        return state | {"exchange_index_statuses": each}

    def _schedule(self, _query: Query) -> object:
        days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        hours: dict[str, object] = {day: [{"open_time": "00:00", "close_time": "00:00"}] for day in days}
        hours["thursday"] = [
            {"open_time": "00:00", "close_time": "03:00"},
            {"open_time": "05:00", "close_time": "00:00"},
        ]
        times = {"start_time": "2026-01-01T00:00:00Z", "end_time": "2027-01-01T00:00:00Z"}
        return {"schedule": {"standard_hours": [hours | times], "maintenance_windows": []}}

    def _limits(self, _query: Query) -> object:
        return {
            "grants": [],
            "read": {"bucket_capacity": CAPACITY, "refill_rate": REFILL_PER_S},
            "usage_tier": "basic",
            "write": {"bucket_capacity": 100, "refill_rate": 100},
        }

    def _balance(self, _query: Query) -> object:
        split = [{"balance": "0.0000", "exchange_index": 0}]
        return {
            "balance": 0,
            "balance_breakdown": split,
            "balance_dollars": "0.0000",
            "portfolio_value": 0,
            "updated_ts": self._now_us // 1_000_000,
        }

    def _cutoff(self, _query: Query) -> object:
        names = ("market_settled_ts", "trades_created_ts", "orders_updated_ts", "market_positions_last_updated_ts")
        return {name: rfc3339(self._now_us - 60 * DAY_US) for name in names}

    # ---- series and events

    def _series_list(self, query: Query) -> object:
        category = _text(query, "category")
        return {"series": [series_json(s) for s in self._exchange.series if category in (None, s.category)]}

    def _one_series(self, ticker: str) -> Series:
        for series in self._exchange.series:
            if series.ticker == ticker:
                return series
        raise not_found()

    def _one_event(self, ticker: str) -> Event:
        event = self._exchange.events.get(ticker)
        if event is None:
            raise not_found()
        return event

    def _event(self, ticker: str, query: Query) -> object:
        event = self._one_event(ticker)
        nested = _flag(query, "with_nested_markets")
        markets = [market_json(market) for market in event.markets]
        body: dict[str, object] = {"event": event_json(event, nested=nested)}
        return body if nested else body | {"markets": markets}

    def _events(self, query: Query) -> object:
        return self._event_pages(query, 200, mve=False)

    def _events_multivariate(self, query: Query) -> object:
        return self._event_pages(query, 100, mve=True)

    def _event_pages(self, query: Query, usual: int, *, mve: bool) -> object:
        limit = _number("GetEvents", query, "limit", 1, 200, usual)
        series, tickers, status = _text(query, "series_ticker"), _list(query, "tickers"), _status_filter(query)
        min_close = _time(query, "min_close_ts")
        found = [
            event
            for event in self._exchange.events.values()
            if event.series.mve is mve
            and series in (None, event.series.ticker)
            and (not tickers or event.ticker in tickers)
            and (status is None or any(market.status in status for market in event.markets))
            and (min_close is None or any(market.close_us >= min_close for market in event.markets))
        ]
        keyed = sorted(((event.created_us, event.ticker, event) for event in found), key=_key, reverse=True)
        page, cursor = _page(keyed, limit, _text(query, "cursor"))
        nested = _flag(query, "with_nested_markets")
        body: dict[str, object] = {"cursor": cursor, "events": [event_json(event, nested=nested) for event in page]}
        return body | ({"milestones": []} if _flag(query, "with_milestones") else {})

    # ---- markets

    def _one_market(self, ticker: str) -> Market:
        market = self._exchange.markets.get(ticker)
        if market is None:
            raise not_found()
        return market

    def _markets(self, query: Query) -> object:
        limit = _number("GetMarkets", query, "limit", 0, 1000, 100)
        status = _status_filter(query)
        by_close = _text(query, "status") == "closed"
        found = self._chosen(query, status)
        keyed = sorted(
            ((market.close_us if by_close else market.created_us, market.ticker, market) for market in found),
            key=_key,
            reverse=True,
        )
        page, cursor = _page(keyed, limit or 100, _text(query, "cursor"))
        return {"cursor": cursor, "markets": [market_json(market) for market in page]}

    def _chosen(self, query: Query, status: frozenset[str] | None) -> Iterable[Market]:
        event, series, tickers = _text(query, "event_ticker"), _text(query, "series_ticker"), _list(query, "tickers")
        events = _list(query, "event_ticker")
        mve = _text(query, "mve_filter")
        if mve not in (None, "", "only", "exclude"):
            raise bad_request("invalid mve_filter")
        windows: tuple[tuple[str, Callable[[Market], int]], ...] = (
            ("created", lambda m: m.created_us),
            ("close", lambda m: m.close_us),
            ("settled", lambda m: m.settled_us),
            ("updated", lambda m: m.updated_us),
        )
        bounds = [(_time(query, f"min_{name}_ts"), _time(query, f"max_{name}_ts"), of) for name, of in windows]
        for market in self._exchange.markets.values():
            if (
                (status is None or market.status in status)
                and (event is None or market.event.ticker in events)
                and series in (None, market.event.series.ticker)
                and (not tickers or market.ticker in tickers)
                and (not mve or market.mve is (mve == "only"))
                and all(
                    (low is None or of(market) >= low) and (high is None or of(market) <= high)
                    for low, high, of in bounds
                )
            ):
                yield market

    def _orderbooks(self, query: Query) -> object:
        tickers = [ticker for value in query.get("tickers", []) for ticker in value.split(",") if ticker]
        if not 1 <= len(tickers) <= 100:
            raise bad_request("tickers: 1 to 100 are allowed")
        books = [{"ticker": ticker, "orderbook_fp": orderbook_json(self._one_market(ticker), 0)} for ticker in tickers]
        return {"orderbooks": books}

    def _trades(self, query: Query) -> object:
        limit = _number("GetTrades", query, "limit", 0, 1000, 100) or 100
        ticker, low, high = _text(query, "ticker"), _time(query, "min_ts"), _time(query, "max_ts")
        found = [
            trade
            for trade in self._exchange.trades
            if ticker in (None, trade.market.ticker)
            and (low is None or trade.ts_us >= low)
            and (high is None or trade.ts_us <= high + 999_999)
        ]
        keyed = sorted(((trade.ts_us, trade.trade_id, trade) for trade in found), key=_key, reverse=True)
        page, cursor = _page(keyed, limit, _text(query, "cursor"), trades=True)
        return {"cursor": cursor, "trades": [trade_json(trade) for trade in page]}


# ---- pages


def _key(row: tuple[int, str, object]) -> tuple[int, str]:
    return row[0], row[1]


def _page(
    rows: list[tuple[int, str, T]], limit: int, cursor: str | None, *, trades: bool = False
) -> tuple[list[T], str]:
    """The rows after the cursor, and the cursor of the last of them ("" at the end)."""
    after = cursor_key(cursor) if cursor else None
    left = [row for row in rows if after is None or _key(row) < after]
    page = left[:limit]
    if len(left) <= limit:
        return [row[2] for row in page], ""
    return [row[2] for row in page], make_cursor(*_key(page[-1]), trades=trades)


def make_cursor(time_us: int, name: str, *, trades: bool = False) -> str:
    """{1:{1:s,2:ns},2:name}, for trades {2:{1:uuid},3:{1:s,2:ns}}; base64url, no padding."""
    seconds, us = divmod(time_us, 1_000_000)
    stamp = b"\x08" + _varint(seconds) + (b"\x10" + _varint(us * 1000) if us else b"")
    if trades:
        raw = bytes.fromhex(name.replace("-", ""))
        message = b"\x12" + _counted(b"\x0a" + _counted(raw)) + b"\x1a" + _counted(stamp)
    else:
        message = b"\x0a" + _counted(stamp) + b"\x12" + _counted(name.encode())
    return base64.urlsafe_b64encode(message).rstrip(b"=").decode()


def cursor_key(cursor: str) -> tuple[int, str] | None:
    """(time in us, name) of a cursor; None where it is none: the exchange then gives page one."""
    try:
        fields = _fields(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if 3 in fields:
            stamp, raw = _fields(_bytes(fields[3])), _bytes(_fields(_bytes(fields[2]))[1])
            plain = raw.hex()
            name = "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))
        else:
            stamp, name = _fields(_bytes(fields[1])), _bytes(fields[2]).decode()
        seconds, nanoseconds = stamp[1], stamp.get(2, 0)
        if not isinstance(seconds, int) or not isinstance(nanoseconds, int):
            return None
    except (binascii.Error, ValueError, KeyError, IndexError, TypeError):
        return None
    return seconds * 1_000_000 + nanoseconds // 1000, name


def _counted(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError
    return value


def _fields(message: bytes) -> dict[int, int | bytes]:
    """The varint and length-delimited fields of a protobuf message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    fields: dict[int, int | bytes] = {}
    while at < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            fields[number] = varint()
        elif kind == 2:
            length = varint()
            if at + length > len(message):
                raise ValueError("cut")
            fields[number] = message[at : at + length]
            at += length
        else:
            raise ValueError("kind")
    return fields


# ---- query parameters


def _text(query: Query, name: str) -> str | None:
    values = query.get(name)
    return values[0] if values else None


def _list(query: Query, name: str) -> frozenset[str]:
    return frozenset(part for value in query.get(name, []) for part in value.split(",") if part)


def _flag(query: Query, name: str) -> bool:
    return _text(query, name) == "true"


def _number(call: str, query: Query, name: str, low: int, high: int, usual: int = 0) -> int:
    text = _text(query, name)
    if not text:
        return usual
    try:
        value = int(text)
    except ValueError:
        reason = f'strconv.ParseInt: parsing "{text}": invalid syntax'
        message = f"Invalid format for parameter {name}: error binding string parameter: {reason}"
        raise Problem(400, {"msg": message}) from None
    if low <= value <= high:
        return value
    field, tag = name.capitalize(), "lte" if value > high else "gte"
    where = f"Key: '{call}Params.{field}' Error:Field validation for '{field}' failed on the '{tag}' tag"
    raise Problem(400, {"msg": f"Parameter validation failed for {call}: {where}"})


def _time(query: Query, name: str) -> int | None:
    """A filter in seconds, as microseconds."""
    return _number("", query, name, 0, 1 << 40) * 1_000_000 if _text(query, name) else None


def _status_filter(query: Query) -> frozenset[str] | None:
    word = _text(query, "status")
    if not word:
        return None
    if word not in STATUSES:
        raise bad_request("invalid status filter")
    return STATUSES[word]


# ---- bodies


def series_json(series: Series) -> dict[str, object]:
    return {
        "additional_prohibitions": [],
        "categories": [series.category],
        "category": series.category,
        "contract_terms_url": "",
        "contract_url": "",
        "exchange_index": series.index,
        "fee_multiplier": 1,
        "fee_type": "quadratic",
        "frequency": series.frequency,
        "settlement_sources": [{"name": "Simulator", "url": ""}],
        "tags": ["Simulated"],
        "ticker": series.ticker,
        "title": series.title,
    }


def event_json(event: Event, *, nested: bool) -> dict[str, object]:
    body: dict[str, object] = {
        "category": event.series.category,
        "collateral_return_type": "MECNET" if event.mutually_exclusive else "",
        "event_ticker": event.ticker,
        "exchange_index": event.series.index,
        "last_updated_ts": rfc3339(event.created_us),
        "mutually_exclusive": event.mutually_exclusive,
        "product_metadata": None,
        "series_ticker": event.series.ticker,
        "settlement_sources": [{"name": "Simulator", "url": ""}],
        "sub_title": event.sub_title,
        "title": event.title,
    }
    return body | ({"markets": [market_json(market) for market in event.markets]} if nested else {})


def market_json(market: Market) -> dict[str, object]:
    now = quote(market)
    opened = market.status != "initialized"
    ask_e4 = now.ask_e4 if opened else 0
    body: dict[str, object] = {
        "can_close_early": True,
        "close_time": rfc3339(market.close_us),
        "created_time": rfc3339(market.created_us),
        "early_close_condition": "This market will close and expire after the event occurs.",
        "event_ticker": market.event.ticker,
        "exchange_index": market.event.series.index,
        "expected_expiration_time": rfc3339(market.close_us),
        "expiration_time": rfc3339(market.close_us + DAY_US),
        "expiration_value": "",
        "last_price_dollars": dollars(market.last_price_e4),
        "latest_expiration_time": rfc3339(market.close_us + DAY_US),
        "market_type": "binary",
        "no_ask_dollars": dollars(DOLLAR_E4 - now.bid_e4),
        "no_bid_dollars": dollars(DOLLAR_E4 - ask_e4),
        "no_sub_title": market.name,
        "notional_value_dollars": "1.0000",
        "open_interest_fp": count(market.open_interest_e2),
        "open_time": rfc3339(market.open_us),
        "previous_price_dollars": dollars(market.previous_price_e4),
        "previous_yes_ask_dollars": "0.0000",
        "previous_yes_bid_dollars": "0.0000",
        "price_level_structure": market.structure,
        "price_ranges": price_ranges(market.structure),
        "result": market.result,
        "rules_primary": f"If {market.name} holds, then the market resolves to Yes.",
        "rules_secondary": "",
        "settlement_bounds_type": "default",
        "settlement_timer_seconds": 60,
        "status": market.status,
        "strike_type": market.strike_type,
        "ticker": market.ticker,
        "title": market.event.title,
        "updated_time": rfc3339(market.updated_us),
        "volume_24h_fp": count(market.volume_e2),
        "volume_fp": count(market.volume_e2),
        "yes_ask_dollars": dollars(ask_e4),
        "yes_ask_size_fp": count(now.ask_size_e2),
        "yes_bid_dollars": dollars(now.bid_e4),
        "yes_bid_size_fp": count(now.bid_size_e2),
        "yes_sub_title": market.name,
    }
    if market.floor_strike is not None:
        body["floor_strike"] = market.floor_strike
    if market.custom_strike is not None:
        body["custom_strike"] = market.custom_strike
    if market.mve:
        body |= {"is_provisional": True, "mve_collection_ticker": f"{market.event.series.ticker}-R"}
        body["mve_selected_legs"] = []
    if market.settlement_e4 is not None:
        body["settlement_value_dollars"] = dollars(market.settlement_e4)
    if market.settled_us:
        body["settlement_ts"] = rfc3339(market.settled_us)
    return body


def orderbook_json(market: Market, depth: int) -> dict[str, list[list[str]]]:
    """Ascending, the best bid last; `depth` counts from the best, 0 is all."""
    names = {"no_dollars": NO, "yes_dollars": YES}
    return {
        name: [[dollars(price), count(size)] for price, size in market.book.levels(side)[-depth:]]
        for name, side in names.items()
    }


def trade_json(trade: Trade) -> dict[str, object]:
    side = "yes" if trade.taker == YES else "no"
    return {
        "count_fp": count(trade.count_e2),
        "created_time": rfc3339(trade.ts_us),
        "is_block_trade": False,
        "no_price_dollars": dollars(DOLLAR_E4 - trade.yes_price_e4),
        "taker_book_side": "bid" if trade.taker == YES else "ask",
        "taker_outcome_side": side,
        "taker_side": side,
        "ticker": trade.market.ticker,
        "trade_id": trade.trade_id,
        "yes_price_dollars": dollars(trade.yes_price_e4),
    }
