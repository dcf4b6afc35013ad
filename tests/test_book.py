"""One market's order book, and its check against later snapshots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssmd.book import ASK, BID, Book, Replay

PRICES = st.integers(1, 6)
COUNTS = st.integers(1, 4)
LEVELS = st.dictionaries(PRICES, COUNTS).map(lambda levels: list(levels.items()))


def test_a_snapshot_replaces_the_whole_book() -> None:
    book = Book()
    book.snapshot([(4700, 300)], [(5200, 100)])
    book.snapshot([(4600, 100)], [])
    assert book.ladders() == ([(4600, 100)], [])


def test_a_delta_adds_to_one_level_of_its_side() -> None:
    book = Book()
    book.snapshot([(4700, 300)], [(5200, 100)])
    assert book.delta(BID, 4700, -100)
    assert book.delta(ASK, 5100, 50)
    assert book.ladders() == ([(4700, 200)], [(5100, 50), (5200, 100)])


def test_a_level_at_zero_is_gone() -> None:
    book = Book()
    book.snapshot([(4700, 300)], [])
    assert book.delta(BID, 4700, -300)
    assert book.empty


def test_a_level_below_zero_is_refused_and_gone() -> None:
    book = Book()
    book.snapshot([(4700, 300)], [])
    assert not book.delta(BID, 4700, -301)
    assert book.empty


def test_the_best_prices_are_the_highest_bid_and_the_lowest_ask() -> None:
    book = Book()
    assert (book.best_bid_e4, book.best_ask_e4) == (None, None)
    book.snapshot([(4600, 1), (4700, 1)], [(5300, 1), (5200, 1)])
    assert (book.best_bid_e4, book.best_ask_e4) == (4700, 5200)


def test_a_book_is_crossed_when_bid_and_ask_meet() -> None:
    book = Book()
    book.snapshot([(4700, 1)], [(4701, 1)])
    assert not book.crossed
    book.delta(ASK, 4700, 1)
    assert book.crossed


@given(LEVELS, st.lists(st.tuples(st.sampled_from([BID, ASK]), PRICES, st.integers(1, 3)), max_size=20))
def test_adding_and_taking_away_leaves_the_snapshot(
    levels: list[tuple[int, int]], changes: list[tuple[int, int, int]]
) -> None:
    book, untouched = Book(), Book()
    book.snapshot(levels, [])
    untouched.snapshot(levels, [])
    for side, price, count in changes:
        book.delta(side, price, count)
    for side, price, count in changes:
        assert book.delta(side, price, -count)
    assert book == untouched


def test_a_snapshot_that_agrees_is_checked_and_fits() -> None:
    replay = Replay()
    replay.snapshot("M", [(4700, 300)], [], asked=False)
    replay.delta("M", BID, 4600, 100)
    assert replay.snapshot("M", [(4600, 100), (4700, 300)], [], asked=True)
    assert (replay.checked, replay.mismatched) == (1, 0)


def test_a_snapshot_that_differs_is_a_mismatch() -> None:
    replay = Replay()
    replay.snapshot("M", [(4700, 300)], [], asked=False)
    assert not replay.snapshot("M", [(4700, 200)], [], asked=True)
    assert (replay.checked, replay.mismatched) == (1, 1)


def test_after_doubt_the_next_snapshot_is_taken_without_comparing() -> None:
    replay = Replay()
    replay.snapshot("M", [(4700, 300)], [], asked=False)
    replay.doubt()
    assert replay.snapshot("M", [(1, 1)], [], asked=True)
    assert replay.checked == 0
    assert not replay.snapshot("M", [(2, 2)], [], asked=True)


def test_an_unasked_empty_snapshot_is_the_exchange_closing_the_book() -> None:
    replay = Replay()
    replay.snapshot("M", [(4700, 300)], [], asked=False)
    assert replay.snapshot("M", [], [], asked=False)
    assert (replay.emptied, replay.checked) == (1, 0)


def test_an_unasked_snapshot_after_a_change_of_markets_is_not_compared() -> None:
    replay = Replay()
    replay.snapshot("M", [(4700, 300)], [], asked=False)
    replay.changed()
    assert replay.snapshot("M", [(1, 1)], [], asked=False)
    replay.changed()
    assert not replay.snapshot("M", [(2, 2)], [], asked=True)


def test_a_book_with_a_negative_level_is_not_compared() -> None:
    replay = Replay()
    replay.snapshot("M", [(4700, 300)], [], asked=False)
    assert not replay.delta("M", BID, 4700, -400)
    assert replay.snapshot("M", [(1, 1)], [], asked=True)
    assert (replay.negative, replay.checked) == (1, 0)


def test_a_delta_without_a_snapshot_is_orphaned() -> None:
    replay = Replay()
    assert replay.delta("M", BID, 1, 1)
    assert (replay.orphaned, replay.books) == (1, {})
