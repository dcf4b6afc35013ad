"""Plans from subscriptions, and the steps from one plan to the next."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd.errors import UsageError
from ssmd.kalshi.planner import (
    ALL,
    ConnectionPlan,
    Held,
    Needs,
    Plan,
    Resolved,
    Step,
    StepKind,
    after,
    difference,
    needs,
    next_step,
    plan,
    shard_of,
)


@dataclass(frozen=True)
class Sub:
    channels: tuple[str, ...]
    markets: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    all: bool = False


BOOK, TICKER, TRADE, STATUS = "orderbook_delta", "ticker", "trade", "market_lifecycle_v2"


def only(made: Plan) -> dict[str, object]:
    assert len(made.connections) == 1
    return dict(made.connections[0].channels)


# ---- what has to be looked up ----------------------------------------------------------------------------------------


def test_series_and_events_are_looked_up_once_each() -> None:
    subs = [Sub((TRADE,), series=("S", "T")), Sub((BOOK,), series=("T",)), Sub((TICKER,), events=("E",))]
    assert needs(subs) == Needs(series=("S", "T"), events=("E",))


def test_open_markets_are_looked_up_for_books_only() -> None:
    assert needs([Sub((BOOK, TICKER), all=True)]) == Needs(open_markets=True)
    assert needs([Sub((TRADE, TICKER), all=True)]) == Needs()


def test_a_channel_that_cannot_be_narrowed_needs_nothing() -> None:
    assert needs([Sub((STATUS,), series=("S",))]) == Needs()


# ---- merging ---------------------------------------------------------------------------------------------------------


def test_overlapping_subscriptions_are_merged_and_sorted() -> None:
    subs = [Sub((BOOK, TRADE), markets=("C", "A")), Sub((BOOK,), markets=("B", "A"))]
    assert only(plan(subs)) == {BOOK: ("A", "B", "C"), TRADE: ("A", "C")}


@pytest.mark.parametrize("order", [1, -1])
def test_all_wins_over_names_in_either_order(order: int) -> None:
    subs = [Sub((TRADE,), markets=("A",)), Sub((TRADE,), all=True)][::order]
    assert only(plan(subs)) == {TRADE: ALL}


def test_series_events_and_open_markets_become_tickers() -> None:
    subs = [Sub((BOOK,), series=("S",)), Sub((TRADE,), events=("E",)), Sub((BOOK, TICKER), all=True)]
    resolved = Resolved(series={"S": ["S-1", "S-2"]}, events={"E": ["E-1"]}, open_markets=["S-2", "O"])
    assert only(plan(subs, resolved)) == {BOOK: ("O", "S-1", "S-2"), TICKER: ALL, TRADE: ("E-1",)}


def test_a_channel_that_cannot_be_narrowed_is_planned_whole_and_said_so() -> None:
    made = plan([Sub((STATUS,), markets=("A",))])
    assert only(made) == {STATUS: ALL}
    assert made.warnings == ("subscriptions[0]: market_lifecycle_v2 cannot be narrowed: it brings all markets",)


def test_a_series_without_markets_is_named_in_a_warning_once() -> None:
    made = plan([Sub((BOOK, TRADE), series=("EMPTY", "S"))], Resolved(series={"EMPTY": [], "S": ["S-1"]}))
    assert only(made) == {BOOK: ("S-1",), TRADE: ("S-1",)}
    assert len(made.warnings) == 1
    assert "EMPTY" in made.warnings[0]


def test_a_plan_without_any_market_has_no_connection_and_says_so() -> None:
    made = plan([Sub((BOOK,), series=("EMPTY",))], Resolved(series={"EMPTY": []}))
    assert made.connections == ()
    assert any("nothing will be recorded" in warning for warning in made.warnings)


def test_index_ids_are_named_under_markets() -> None:
    assert only(plan([Sub(("cfbenchmarks_value",), markets=("BRTI",))])) == {"cfbenchmarks_value": ("BRTI",)}
    assert only(plan([Sub(("cfbenchmarks_value",), all=True)])) == {"cfbenchmarks_value": ALL}


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_books_of_all_markets_are_refused_when_the_open_ones_were_not_looked_up() -> None:
    with pytest.raises(UsageError, match="orderbook_delta cannot be asked for all markets"):
        plan([Sub((BOOK,), all=True)])


@pytest.mark.parametrize("sub", [Sub((BOOK,), series=("S",)), Sub((BOOK,), events=("S",))])
def test_a_name_that_was_not_looked_up_is_refused(sub: Sub) -> None:
    with pytest.raises(UsageError, match="S were not looked up"):
        plan([sub])


@pytest.mark.parametrize(
    "sub", [Sub((BOOK,)), Sub((BOOK,), markets=("A",), series=("S",)), Sub((BOOK,), ("A",), all=True)]
)
def test_exactly_one_way_of_naming_markets_is_allowed(sub: Sub) -> None:
    with pytest.raises(UsageError, match="names its markets in"):
        needs([sub])
    with pytest.raises(UsageError, match=r"subscriptions\[1\]"):
        plan([Sub((TRADE,), all=True), sub])


def test_an_unknown_channel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"subscriptions\[0\]\.channels: 'orderbook'") as caught:
        plan([Sub(("orderbook",), markets=("A",))])
    assert BOOK in (caught.value.hint or "")


def test_an_index_has_no_series() -> None:
    with pytest.raises(UsageError, match="cfbenchmarks_value has no series"):
        plan([Sub(("cfbenchmarks_value",), series=("S",))])


# ---- shards ----------------------------------------------------------------------------------------------------------

TICKERS = tuple(f"KXTEST-26NOV22-T{n}.5" for n in range(500))


def test_the_shard_of_a_ticker_is_its_crc32() -> None:
    assert shard_of("KXBTC-26SEP2516-B74250", 7) == zlib.crc32(b"KXBTC-26SEP2516-B74250") % 7


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shards_hold_every_market_once_and_no_shard_is_idle(count: int) -> None:
    shards = [plan([Sub((BOOK, TRADE), markets=TICKERS)], shard_index=i, shard_count=count) for i in range(count)]
    found = [ticker for shard in shards for ticker in shard.tickers]
    assert sorted(found) == sorted(TICKERS)
    assert all(len(shard.tickers) > 500 / count / 2 for shard in shards)


def test_a_market_has_all_its_channels_on_one_shard() -> None:
    for index in range(3):
        channels = only(plan([Sub((BOOK, TRADE), markets=TICKERS)], shard_index=index, shard_count=3))
        assert channels[BOOK] == channels[TRADE]


def test_a_whole_channel_belongs_to_one_shard_only() -> None:
    shards = [plan([Sub((TICKER,), all=True)], shard_index=i, shard_count=4) for i in range(4)]
    assert [len(shard.connections) for shard in shards].count(1) == 1
    assert [bool(shard.warnings) for shard in shards].count(True) == 3


def test_a_shard_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shard\.index: 2 is not below shard\.count 2"):
        plan([Sub((TICKER,), all=True)], shard_index=2, shard_count=2)


# ---- connections -----------------------------------------------------------------------------------------------------


def sizes(made: Plan) -> list[int]:
    return [len(connection.tickers) for connection in made.connections]


@pytest.mark.parametrize(("limit", "expected"), [(None, [500]), (500, [500]), (499, [250, 250]), (100, [100] * 5)])
def test_markets_beyond_the_limit_get_more_connections_evenly_filled(limit: int | None, expected: list[int]) -> None:
    assert sizes(plan([Sub((BOOK,), markets=TICKERS)], max_markets_per_connection=limit)) == expected


def test_a_market_has_all_its_channels_on_one_connection() -> None:
    made = plan([Sub((BOOK, TRADE), markets=TICKERS)], max_markets_per_connection=77)
    assert all(connection.channels[BOOK] == connection.channels[TRADE] for connection in made.connections)


def test_a_whole_channel_stands_on_the_first_connection() -> None:
    made = plan([Sub((BOOK,), markets=TICKERS), Sub((TICKER,), all=True)], max_markets_per_connection=250)
    assert [TICKER in connection.channels for connection in made.connections] == [True, False]


def test_more_markets_than_all_connections_hold_is_an_error_with_the_numbers() -> None:
    markets = tuple(f"M{n}" for n in range(29_000))
    with pytest.raises(UsageError) as caught:
        plan([Sub((BOOK,), markets=markets)], max_markets_per_connection=5_000, max_connections=2)
    assert "29,000 markets" in str(caught.value)
    assert "19,000 would not be recorded" in str(caught.value)
    assert "max_markets_per_connection" in (caught.value.hint or "")


def test_the_exchanges_own_limit_of_a_connection_is_an_error() -> None:
    markets = tuple(f"M{n}" for n in range(170_000))
    with pytest.raises(UsageError, match=r"510,000 subscriptions .* allows 500,000"):
        plan([Sub((BOOK, TRADE, TICKER), markets=markets)])


def test_markets_stay_where_they_are_when_others_come_and_go() -> None:
    before = plan([Sub((BOOK,), markets=TICKERS[:400])], max_markets_per_connection=250)
    made = plan([Sub((BOOK,), markets=TICKERS[100:])], max_markets_per_connection=250, previous=before)
    assert sorted(made.tickers) == sorted(TICKERS[100:])
    for old, new in zip(before.connections, made.connections, strict=True):
        assert old.tickers & made.tickers <= new.tickers
        assert len(new.tickers) <= 250


def test_a_connection_that_lost_its_markets_is_kept_in_place_by_those_behind_it() -> None:
    before = Plan((ConnectionPlan({BOOK: ("A",)}), ConnectionPlan({BOOK: ("B",)})))
    made = plan([Sub((BOOK,), markets=("B",))], max_markets_per_connection=1, previous=before)
    assert [dict(connection.channels) for connection in made.connections] == [{}, {BOOK: ("B",)}]


def test_a_lower_limit_moves_only_what_no_longer_fits() -> None:
    before = plan([Sub((BOOK,), markets=TICKERS[:10])])
    made = plan([Sub((BOOK,), markets=TICKERS[:10])], max_markets_per_connection=6, previous=before)
    assert sorted(sizes(made)) == [4, 6]
    assert len(made.connections[0].tickers & before.connections[0].tickers) == 6


@settings(deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 40)), max_size=4),
    st.sets(st.integers(0, 40)),
    st.integers(1, 12),
)
def test_any_replan_holds_every_market_once_within_the_limit(
    before: list[set[int]], wanted: set[int], limit: int
) -> None:
    previous = Plan(
        tuple(ConnectionPlan({BOOK: tuple(f"M{n:02}" for n in sorted(group))} if group else {}) for group in before)
    )
    markets = tuple(f"M{n:02}" for n in wanted)
    if not markets:
        return
    made = plan([Sub((BOOK,), markets=markets)], max_markets_per_connection=limit, previous=previous)
    found = [ticker for connection in made.connections for ticker in connection.channels.get(BOOK, ())]
    assert sorted(found) == sorted(markets)
    assert all(size <= limit for size in sizes(made))


def test_the_same_input_gives_the_same_plan() -> None:
    one = plan([Sub((BOOK,), markets=TICKERS)], max_markets_per_connection=77)
    other = plan([Sub((BOOK,), markets=TICKERS[::-1])], max_markets_per_connection=77)
    assert one == other


# ---- steps -----------------------------------------------------------------------------------------------------------

S = frozenset


@pytest.mark.parametrize(
    ("held", "want", "step"),
    [
        (None, None, None),
        (None, S(), None),
        (S(), None, None),
        (None, ALL, Step(StepKind.SUBSCRIBE, ALL)),
        (None, S("BA"), Step(StepKind.SUBSCRIBE, ("A", "B"))),
        (None, S("CBA"), Step(StepKind.SUBSCRIBE, ("A", "B"))),
        (ALL, ALL, None),
        (ALL, None, Step(StepKind.UNSUBSCRIBE)),
        (ALL, S("A"), Step(StepKind.UNSUBSCRIBE)),
        (S("A"), ALL, Step(StepKind.UNSUBSCRIBE)),
        (S("A"), None, Step(StepKind.UNSUBSCRIBE)),
        (S("A"), S(), Step(StepKind.UNSUBSCRIBE)),
        (S("AB"), S("C"), Step(StepKind.UNSUBSCRIBE)),
        (S("A"), S("A"), None),
        (S("A"), S("ADCB"), Step(StepKind.ADD, ("B", "C"))),
        (S("ABCD"), S("A"), Step(StepKind.DELETE, ("B", "C"))),
        (S("ABC"), S("CD"), Step(StepKind.DELETE, ("A", "B"))),
    ],
)
def test_one_step_leads_from_what_is_held_towards_what_is_wanted(held: Held, want: Held, step: Step | None) -> None:
    assert next_step(held, want, batch=2) == step


_sets = st.none() | st.just(ALL) | st.frozensets(st.sampled_from("ABCDEFGH"))


@settings(deadline=None)
@given(_sets, _sets, st.integers(1, 4))
def test_steps_lead_to_what_is_wanted_and_never_empty_a_subscription(held: Held, want: Held, batch: int) -> None:
    held = held or None
    for _ in range(40):
        step = next_step(held, want, batch)
        if step is None:
            break
        held = after(held, step)
        assert isinstance(step.markets, type(ALL)) or len(step.markets) <= batch
        assert held or step.kind is StepKind.UNSUBSCRIBE
    assert step is None
    assert (held or None) == (want or None)


def test_the_difference_of_two_plans_is_made_in_place() -> None:
    old = ConnectionPlan({BOOK: ("A", "B"), TRADE: ("A",), STATUS: ALL})
    new = ConnectionPlan({BOOK: ("B", "C"), TICKER: ALL, STATUS: ALL})
    assert list(difference(old, new)) == [
        (BOOK, Step(StepKind.DELETE, ("A",))),
        (BOOK, Step(StepKind.ADD, ("C",))),
        (TICKER, Step(StepKind.SUBSCRIBE, ALL)),
        (TRADE, Step(StepKind.UNSUBSCRIBE)),
    ]


def test_equal_plans_differ_by_nothing() -> None:
    same = ConnectionPlan({BOOK: ("A", "B"), STATUS: ALL})
    assert list(difference(same, same)) == []
