"""The generated market: the same for one seed, its books never crossed, its events the whole truth."""

from __future__ import annotations

import pytest

from ssmd.simulator.books import DOLLAR_E4, NO, YES, Book
from ssmd.simulator.catalogue import STRUCTURES, snap_e4
from ssmd.simulator.exchange import BookChange, BookReset, Exchange, Happening, Lifecycle, Trade

NOW_US = 1_795_000_000_000_000


def run(exchange: Exchange, steps: int) -> list[Happening]:
    return [event for step in range(steps) for event in exchange.step(NOW_US + step * 1000)]


def content(event: Happening) -> object:
    """An event without its stamp."""
    match event:
        case BookChange():
            return event.market.ticker, event.side, event.price_e4, event.delta_e2
        case Trade():
            return event.market.ticker, event.trade_id, event.yes_price_e4, event.count_e2, event.taker
        case Lifecycle():
            return event.kind, event.change, event.event.ticker
    return type(event)


def test_one_seed_gives_one_sequence_of_events_whatever_the_time() -> None:
    first = Exchange(20, seed=7, now_us=NOW_US)
    second = Exchange(20, seed=7, now_us=NOW_US + 123_456_789)
    assert [content(event) for event in run(first, 3000)] == [content(event) for event in run(second, 3000)]


def test_another_seed_gives_other_events() -> None:
    first, second = (Exchange(20, seed=seed, now_us=NOW_US) for seed in (1, 2))
    assert [content(event) for event in run(first, 50)] != [content(event) for event in run(second, 50)]


def test_no_book_is_ever_crossed() -> None:
    exchange = Exchange(20, seed=3, now_us=NOW_US)
    for step in range(5000):
        touched = {event.market for event in exchange.step(NOW_US + step) if isinstance(event, BookChange)}
        assert not any(market.book.crossed() for market in touched)


def test_the_book_at_the_start_and_all_changes_give_the_book_at_the_end() -> None:
    exchange = Exchange(20, seed=4, now_us=NOW_US)
    books = {ticker: market.book.copy() for ticker, market in exchange.markets.items()}
    for event in run(exchange, 5000):
        if isinstance(event, BookChange):
            books.setdefault(event.market.ticker, Book()).change(event.side, event.price_e4, event.delta_e2)
        elif isinstance(event, BookReset):
            books.setdefault(event.market.ticker, Book()).clear()
    for ticker, book in books.items():
        assert book.ladders == exchange.markets[ticker].book.ladders, ticker


def test_a_trade_is_followed_by_one_negative_change_of_the_resting_side_at_its_price() -> None:
    events = run(Exchange(5, seed=5, now_us=NOW_US), 3000)
    trades = [(event, events[at + 1]) for at, event in enumerate(events) if isinstance(event, Trade)]
    assert len(trades) > 50
    for trade, change in trades:
        assert isinstance(change, BookChange)
        assert (change.market, change.side, change.delta_e2) == (trade.market, 1 - trade.taker, -trade.count_e2)
        own = change.price_e4 if change.side == YES else DOLLAR_E4 - change.price_e4
        assert own == trade.yes_price_e4


def test_every_price_is_on_the_grid_of_its_market() -> None:
    for event in run(Exchange(40, seed=6, now_us=NOW_US), 3000):
        if isinstance(event, BookChange):
            assert snap_e4(event.market.structure, event.price_e4) == event.price_e4


def test_the_listing_has_subcent_structures_points_in_tickers_fractional_counts_and_combinations() -> None:
    exchange = Exchange(40, seed=1, now_us=NOW_US)
    markets = exchange.markets.values()
    assert {market.structure for market in markets} == set(STRUCTURES)
    assert any("." in market.ticker for market in markets)
    assert any(market.mve for market in markets)
    assert any(size % 100 for market in markets for ladder in market.book.ladders for size in ladder.values())


@pytest.mark.parametrize("wanted", [1, 2, 20, 333])
def test_exactly_as_many_markets_are_listed_as_asked_for(wanted: int) -> None:
    assert len(Exchange(wanted, seed=1, now_us=NOW_US).markets) == wanted


def test_whole_means_whole_contracts_at_whole_cents() -> None:
    for event in run(Exchange(10, seed=8, now_us=NOW_US, whole=True), 3000):
        if isinstance(event, BookChange):
            assert event.price_e4 % 100 == 0 and event.delta_e2 % 100 == 0


def test_tickers_are_conflated_to_one_a_market() -> None:
    exchange = Exchange(3, seed=9, now_us=NOW_US)
    run(exchange, 300)
    markets = [quote.market for quote in exchange.quotes()]
    assert len(markets) == len(set(markets)) <= 4
    assert exchange.quotes() == []


def test_an_empty_side_quotes_zero_or_one_dollar_with_no_size() -> None:
    exchange = Exchange(1, seed=1, now_us=NOW_US)
    market = next(iter(exchange.markets.values()))
    exchange.empty_book(market, NOW_US)
    (quote,) = exchange.quotes()
    assert (quote.bid_e4, quote.bid_size_e2, quote.ask_e4, quote.ask_size_e2) == (0, 0, DOLLAR_E4, 0)


def test_a_market_is_created_then_determined_with_an_emptied_book_then_settled() -> None:
    events = run(Exchange(5, seed=10, now_us=NOW_US), 20_000)
    settled = next(event.market for event in events if isinstance(event, Lifecycle) and event.change == "settled")
    story = [
        event.change if isinstance(event, Lifecycle) else "emptied"
        for event in events
        if isinstance(event, (Lifecycle, BookReset)) and event.market is settled
    ]
    assert [word for word in story if word in ("created", "emptied", "determined", "settled")] == [
        "created",
        "emptied",
        "determined",
        "settled",
    ]


def test_no_order_reaches_a_paused_market() -> None:
    paused = None
    for event in run(Exchange(6, seed=11, now_us=NOW_US), 20_000):
        if isinstance(event, Lifecycle) and event.change in ("activated", "deactivated"):
            paused = event.market if event.change == "deactivated" else None
        elif isinstance(event, (BookChange, Trade)):
            assert event.market is not paused


def test_the_number_of_kept_markets_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmd.simulator.exchange.STEPS_PER_LIFECYCLE", 2)
    monkeypatch.setattr("ssmd.simulator.exchange.SETTLED_KEPT", 5)
    exchange = Exchange(5, seed=12, now_us=NOW_US)
    run(exchange, 20_000)
    settled = [market for market in exchange.markets.values() if market.status == "finalized"]
    assert len(settled) <= 5


def test_a_level_cannot_fall_below_zero() -> None:
    book = Book()
    book.change(NO, 4_800, 200)
    with pytest.raises(ValueError, match="no 4800 would fall to -1"):
        book.change(NO, 4_800, -201)
