"""The text of every frame: key order, number format and time format of the wire.

A frame is made of pieces, so that what is the same for all clients is made once:

    {"type":T,"sid":S,"seq":N,"msg":  +  fixed part of msg  +  time part of msg, "}"  +  ,"sending_ts_ms":M}\n
    session                              here, remembered       here                      session

Three formats, chosen by `Format`: `new` (since 2026-03-12: strings only), `old` (2025-09 to 2026-01:
integers and *_dollars, no ts_ms) and `both` (the transition of early 2026). Prices have exactly 4
decimals, counts exactly 2. In `old`, counts and cents are cut to integers: exact only where the
exchange trades whole contracts at whole cents (`Exchange(whole=True)`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache

from ssmd.simulator.books import DOLLAR_E4, NO, SIDES, YES, Book
from ssmd.simulator.catalogue import STRUCTURES, Event, Market
from ssmd.simulator.exchange import BookChange, IndexValue, Lifecycle, Quote, Trade


class Format(Enum):
    """Which of the exchange's formats; the value is the word of the command line."""

    NEW = "new"
    OLD = "old"
    BOTH = "both"


PRICES = tuple(f"{price // DOLLAR_E4}.{price % DOLLAR_E4:04d}" for price in range(DOLLAR_E4 + 1))


def dollars(price_e4: int) -> str:
    """A price or an amount with four decimals."""
    return PRICES[price_e4] if 0 <= price_e4 <= DOLLAR_E4 else f"{price_e4 // DOLLAR_E4}.{price_e4 % DOLLAR_E4:04d}"


def count(count_e2: int) -> str:
    """A count of contracts with two decimals, "-" where negative."""
    if count_e2 < 0:
        return f"-{-count_e2 // 100}.{-count_e2 % 100:02d}"
    return f"{count_e2 // 100}.{count_e2 % 100:02d}"


def whole(count_e2: int) -> int:
    """A count cut to whole contracts, towards zero."""
    return -(-count_e2 // 100) if count_e2 < 0 else count_e2 // 100


def compact(value: object) -> str:
    """JSON without spaces, keys in the order given."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def rfc3339(us: int) -> str:
    """UTC with up to six fraction digits, trailing zeros trimmed, "Z"."""
    second, fraction = divmod(us, 1_000_000)
    if not fraction:
        return _second(second) + "Z"
    return f"{_second(second)}.{fraction:06d}".rstrip("0") + "Z"


# ---- orderbook_delta channel


def snapshot(market: Market | None, ticker: str, book: Book, fmt: Format, *, yes_price: bool) -> str:
    """The whole `msg` of orderbook_snapshot; an empty side has no key, an unknown market has no id.

    `yes_price` turns the NO side; the exchange of the old format did not know it.
    """
    yes_price = yes_price and fmt is not Format.OLD
    market_id = market.market_id if market else ""
    parts = [f'{{"market_ticker":{compact(ticker)},"market_id":"{market_id}"']
    for side in (YES, NO):
        levels = book.levels(side)
        if not levels:
            continue
        if side == NO and yes_price:
            levels = [(DOLLAR_E4 - price, size) for price, size in levels]
        parts.extend(f',"{SIDES[side]}{suffix}":[{rows}]' for suffix, rows in _ladder(levels, fmt))
    parts.append("}")
    return "".join(parts)


def _ladder(levels: list[tuple[int, int]], fmt: Format) -> Iterable[tuple[str, str]]:
    if fmt is not Format.NEW:
        yield "", ",".join(f"[{price // 100},{whole(size)}]" for price, size in levels)
        yield "_dollars", ",".join(f'["{dollars(price)}",{whole(size)}]' for price, size in levels)
    if fmt is not Format.OLD:
        yield "_dollars_fp", ",".join(f'["{dollars(price)}","{count(size)}"]' for price, size in levels)


def delta(change: BookChange, fmt: Format, *, yes_price: bool) -> str:
    """`msg` of orderbook_delta up to its time part; `yes_price` as in `snapshot`."""
    yes_price = yes_price and fmt is not Format.OLD
    key = (fmt, yes_price)
    text = change.rendered.get(key)
    if text is None:
        price = DOLLAR_E4 - change.price_e4 if yes_price and change.side == NO else change.price_e4
        market = change.market
        text = delta_fields(market.ticker, market.market_id, price, change.delta_e2, SIDES[change.side], fmt)
        change.rendered[key] = text
    return text


def delta_fields(ticker: str, market_id: str, price_e4: int, delta_e2: int, side: str, fmt: Format) -> str:
    """As `delta`, from its fields."""
    head = f'{{"market_ticker":"{ticker}","market_id":"{market_id}"'
    if fmt is Format.NEW:
        return f'{head},"price_dollars":"{dollars(price_e4)}","delta_fp":"{count(delta_e2)}","side":"{side}"'
    exact = f',"delta_fp":"{count(delta_e2)}"' if fmt is Format.BOTH else ""
    return (
        f'{head},"price":{price_e4 // 100},"price_dollars":"{dollars(price_e4)}"'
        f',"delta":{whole(delta_e2)}{exact},"side":"{side}"'
    )


def delta_time(ts_us: int, fmt: Format) -> str:
    if fmt is Format.NEW:
        return f',"ts":"{rfc3339(ts_us)}","ts_ms":{ts_us // 1000}}}'
    return f',"ts":"{rfc3339(ts_us)}"}}'


# ---- trade and ticker channels


def trade(happening: Trade, fmt: Format) -> str:
    """`msg` of trade up to its time part; the trade_id stands first."""
    text = happening.rendered.get(fmt)
    if text is None:
        price, side = happening.yes_price_e4, SIDES[happening.taker]
        head = f'{{"trade_id":"{happening.trade_id}","market_ticker":"{happening.market.ticker}"'
        in_dollars = f'"yes_price_dollars":"{dollars(price)}","no_price_dollars":"{dollars(DOLLAR_E4 - price)}"'
        in_cents = f'"yes_price":{price // 100},"no_price":{100 - price // 100}'
        exact = f'"count_fp":"{count(happening.count_e2)}"'
        if fmt is Format.NEW:
            book_side = "bid" if happening.taker == YES else "ask"
            text = (
                f'{head},{in_dollars},{exact},"taker_side":"{side}","taker_outcome_side":"{side}"'
                f',"taker_book_side":"{book_side}","is_block_trade":false'
            )
        else:
            exact = f",{exact}" if fmt is Format.BOTH else ""
            text = f'{head},{in_cents},{in_dollars},"count":{whole(happening.count_e2)}{exact},"taker_side":"{side}"'
        happening.rendered[fmt] = text
    return text


def trade_time(ts_us: int, fmt: Format) -> str:
    if fmt is Format.NEW:
        return f',"ts":{ts_us // 1_000_000},"ts_ms":{ts_us // 1000}}}'
    return f',"ts":{ts_us // 1_000_000}}}'


def ticker(quote: Quote, fmt: Format) -> str:
    """`msg` of ticker up to its time part."""
    text = quote.rendered.get(fmt)
    if text is None:
        text = quote.rendered[fmt] = _ticker_new(quote) if fmt is Format.NEW else _ticker_old(quote, fmt)
    return text


def _ticker_new(q: Quote) -> str:
    return (
        f'{{"market_id":"{q.market.market_id}","market_ticker":"{q.market.ticker}"'
        f',"price_dollars":"{dollars(q.price_e4)}"'
        f',"yes_bid_dollars":"{dollars(q.bid_e4)}","yes_ask_dollars":"{dollars(q.ask_e4)}"'
        f',"volume_fp":"{count(q.volume_e2)}","open_interest_fp":"{count(q.open_interest_e2)}"'
        f',"dollar_volume":{q.dollar_volume},"dollar_open_interest":{q.dollar_open_interest}'
        f',"yes_bid_size_fp":"{count(q.bid_size_e2)}","yes_ask_size_fp":"{count(q.ask_size_e2)}"'
        f',"last_trade_size_fp":"{count(q.last_size_e2)}"'
    )


def _ticker_old(q: Quote, fmt: Format) -> str:
    price = dollars(q.price_e4) if q.price_e4 else ""  # never traded: 0 and ""
    exact = fmt is Format.BOTH
    volume = f',"volume_fp":"{count(q.volume_e2)}"' if exact else ""
    interest = f',"open_interest_fp":"{count(q.open_interest_e2)}"' if exact else ""
    return (
        f'{{"market_id":"{q.market.market_id}","market_ticker":"{q.market.ticker}"'
        f',"price":{q.price_e4 // 100},"yes_bid":{q.bid_e4 // 100},"yes_ask":{q.ask_e4 // 100}'
        f',"price_dollars":"{price}","yes_bid_dollars":"{dollars(q.bid_e4)}","yes_ask_dollars":"{dollars(q.ask_e4)}"'
        f',"volume":{whole(q.volume_e2)}{volume},"open_interest":{whole(q.open_interest_e2)}{interest}'
        f',"dollar_volume":{q.dollar_volume},"dollar_open_interest":{q.dollar_open_interest}'
    )


def ticker_time(ts_us: int, fmt: Format) -> str:
    if fmt is Format.NEW:
        return f',"ts":{ts_us // 1_000_000},"ts_ms":{ts_us // 1000},"time":"{rfc3339(ts_us)}"}}'
    return f',"ts":{ts_us // 1_000_000},"Clock":{ts_us % 10_000_000_000}}}'


# ---- lifecycle and index channels


def price_ranges(structure: str) -> list[dict[str, str]]:
    return [{"start": dollars(s), "end": dollars(e), "step": dollars(t)} for s, e, t in STRUCTURES[structure]]


def lifecycle(happening: Lifecycle) -> str:
    """The whole `msg` of market_lifecycle_v2, event_lifecycle or event_fee_update."""
    text = happening.rendered.get("")
    if text is None:
        text = happening.rendered[""] = compact(_lifecycle_fields(happening))
    return text


def _lifecycle_fields(happening: Lifecycle) -> dict[str, object]:
    market = happening.market
    if market is None:
        head = {"event_ticker": happening.event.ticker}
        return head | (happening.fields or _event_fields(happening.event))
    fields: dict[str, object] = {"market_ticker": market.ticker} | happening.fields
    if happening.change == "created":
        fields |= _created_fields(market)
    if happening.change == "determined":
        fields["settlement_value"] = dollars(market.settlement_e4 or 0)
    fields["event_type"] = happening.change
    if happening.change in ("created", "price_level_structure_updated"):
        fields["price_level_structure"] = market.structure
        fields["price_ranges"] = price_ranges(market.structure)
    return fields


def _event_fields(event: Event) -> dict[str, object]:
    return {
        "exchange_index": event.series.index,
        "title": event.title,
        "subtitle": event.sub_title,
        "collateral_return_type": "MECNET" if event.mutually_exclusive else "",
        "series_ticker": event.series.ticker,
    }


def _created_fields(market: Market) -> dict[str, object]:
    metadata: dict[str, object] = {
        "name": market.name,
        "title": market.event.title,
        "yes_sub_title": market.name,
        "no_sub_title": market.name,
        "rules_primary": f"If {market.name} holds, then the market resolves to Yes.",
        "rules_secondary": "",
        "can_close_early": True,
        "event_ticker": market.event.ticker,
        "expected_expiration_ts": market.close_us // 1_000_000,
        "strike_type": market.strike_type,
    }
    if market.floor_strike is not None:
        metadata["floor_strike"] = market.floor_strike
    if market.custom_strike is not None:
        metadata["custom_strike"] = market.custom_strike
    return {
        "exchange_index": market.event.series.index,
        "open_ts": market.open_us // 1_000_000,
        "close_ts": market.close_us // 1_000_000,
        "additional_metadata": metadata,
    }


def index_value(happening: IndexValue, channel: str) -> str:
    """The whole `msg` of cfbenchmarks_value or cfbenchmarks_value_5hz."""
    ms = happening.ts_us // 1000
    cents = f"{happening.value_e8 // 100_000_000}.{happening.value_e8 // 1_000_000 % 100:02d}"
    exact = f"{happening.value_e8 // 100_000_000}.{happening.value_e8 % 100_000_000:08d}"
    data = compact({"type": "value", "time": ms, "id": happening.index_id, "value": cents})
    if channel == "cfbenchmarks_value_5hz":
        return compact(
            {
                "index_id": happening.index_id,
                "value_usd": exact,
                "source_ts_ms": ms,
                "received_at": ms + 37,
                "data": data,
            }
        )
    average = {
        "value": exact,
        "window_size": 0,
        "window_start_ts_ms": ms - 60_000,
        "window_end_ts_exclusive": ms,
    }
    return compact({"index_id": happening.index_id, "received_at": ms + 53, "data": data, "avg_60s_data": average})
