"""The market: orders arrive, rest, trade and are cancelled; markets are created, paused and settled.

A pure generator. Time comes in as an argument and never changes what happens: for one seed the
sequence of events is always the same, only the stamps differ. Not for clients, channels or text.

Invariants: a book is never crossed between steps, no level is negative, and every change of a book is
in the returned events, in the order in which it happened (so snapshot + changes = book, exactly).
A trade appears as the trade and one negative change on the resting side (the taker's unfilled rest is
a positive change on its own side), as the exchange does it.
"""

from __future__ import annotations

import math
import random
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ssmd.simulator.books import DOLLAR_E4, NO, YES
from ssmd.simulator.catalogue import SERIES, Catalogue, Event, Market, Series, snap_e4, step_e4

STEPS_PER_LIFECYCLE = 500
MOST_LEVELS = 40
TRADES_KEPT = 10_000
SETTLED_KEPT = 1_000


@dataclass(slots=True, eq=False)
class Happening:
    """Something that clients may be told; `rendered` is the renderer's memory for it."""

    ts_us: int
    rendered: dict[object, str] = field(default_factory=dict, init=False)


@dataclass(slots=True, eq=False)
class BookChange(Happening):
    market: Market
    side: int
    price_e4: int
    delta_e2: int


@dataclass(slots=True, eq=False)
class BookReset(Happening):
    """The book was replaced as a whole: every subscriber gets an unsolicited snapshot."""

    market: Market


@dataclass(slots=True, eq=False)
class Trade(Happening):
    market: Market
    trade_id: str
    yes_price_e4: int
    count_e2: int
    taker: int  # YES or NO


@dataclass(slots=True, eq=False)
class Quote(Happening):
    """One conflated ticker: the market's figures at the flush, `ts_us` its last change."""

    market: Market
    price_e4: int
    bid_e4: int
    ask_e4: int
    bid_size_e2: int
    ask_size_e2: int
    volume_e2: int
    open_interest_e2: int
    dollar_volume: int
    dollar_open_interest: int
    last_size_e2: int


@dataclass(slots=True, eq=False)
class Lifecycle(Happening):
    """A message of market_lifecycle_v2: `kind` is its type, `change` its event_type where it has one."""

    kind: str
    change: str
    event: Event
    market: Market | None
    fields: dict[str, object]


@dataclass(slots=True, eq=False)
class IndexValue(Happening):
    """A value of a price index: five a second, of which one stands for the full second."""

    index_id: str
    value_e8: int
    full_second: bool


class Exchange:
    """All markets and what happens to them; `step` is one order, one cancel or one turn of the lifecycle."""

    def __init__(self, markets: int, *, seed: int, now_us: int, whole: bool = False, lifecycle: bool = True) -> None:
        self.whole = whole
        self._catalogue = Catalogue(seed, now_us, whole=whole)
        self._random = random.Random(f"exchange {seed}")
        self._index_random = random.Random(f"index {seed}")
        self._lifecycle = lifecycle
        self._steps = 0
        self._turns = 0
        self.series: tuple[Series, ...] = SERIES
        self.events: dict[str, Event] = {}
        self.markets: dict[str, Market] = {}
        self.by_id: dict[str, Market] = {}
        self.trades: deque[Trade] = deque(maxlen=TRADES_KEPT)
        self._active: list[Market] = []
        self._own: list[Market] = []  # of the first listing: paused at most, never settled
        self._young: deque[Market] = deque()  # created, not yet open
        self._grown: deque[Market] = deque()  # created here and open: determined in turn
        self._closing: deque[Market] = deque()  # determined, not yet settled
        self._settled: deque[Market] = deque()
        self._paused: Market | None = None
        self._dirty: list[Market] = []
        self._index_e8 = 84_018_87000000
        for event in self._catalogue.take(markets):
            self._list(event)
            for market in event.markets:
                self._active.append(market)
                self._own.append(market)
                self._fill(market)
        self._turn_table: tuple[Callable[[int], list[Happening]], ...] = (
            self._create,
            self._pause,
            self._metadata,
            self._resume,
            self._create,
            self._move_close,
            self._determine,
            self._settle,
            self._fee,
            self._structure,
        )

    # ---- what happens

    def step(self, now_us: int) -> list[Happening]:
        """One thing happens; the events of it, in order (empty when an order had nothing to do)."""
        self._steps += 1
        if self._lifecycle and self._steps % STEPS_PER_LIFECYCLE == 0:
            self._turns += 1
            return self._turn_table[self._turns % len(self._turn_table)](now_us)
        chance = self._random.random
        market = self._active[int(len(self._active) * chance() ** 2)]  # few markets are busy, many quiet
        roll = chance()
        side = market.one_sided if market.one_sided is not None else (YES if chance() < 0.5 else NO)
        levels = len(market.book.ladders[side])
        if levels > MOST_LEVELS or (levels > 3 and roll < 0.48):
            return self._cancel(market, side, now_us)
        return self._order(market, side, aggressive=roll > 0.90, now_us=now_us)

    def quotes(self) -> list[Quote]:
        """The tickers of all markets that changed since the last call: at most one each."""
        changed, self._dirty = self._dirty, []
        for market in changed:
            market.dirty = False
        return [quote(market) for market in changed]

    def empty_book(self, market: Market, now_us: int) -> list[Happening]:
        """Every order of a market is cancelled at once, as at a close."""
        market.book.clear()
        self._touch(market, now_us)
        return [BookReset(now_us, market)]

    def index_value(self, index_id: str, now_us: int, *, full_second: bool) -> IndexValue:
        """The next value of an index: a walk with its own chance, so that clients do not change the markets."""
        self._index_e8 += self._index_random.randrange(-20, 21) * 10_000_000
        return IndexValue(now_us, index_id, self._index_e8, full_second)

    # ---- orders

    def _order(self, market: Market, side: int, *, aggressive: bool, now_us: int) -> list[Happening]:
        rng = self._random
        fair = market.fair_e4 if side == YES else DOLLAR_E4 - market.fair_e4
        tick = step_e4(market.structure, fair)
        distance = int(-math.log(1.0 - rng.random()) * 4) + 1
        price = snap_e4(market.structure, fair + 2 * tick if aggressive else fair - distance * max(tick, 50))
        left = self._size_e2()
        happened: list[Happening] = []
        book = market.book
        other = 1 - side
        while left and book.best_e4[other] and price + book.best_e4[other] >= DOLLAR_E4:
            left -= self._match(market, side, left, now_us, happened)
        if left:
            book.change(side, price, left)
            happened.append(BookChange(now_us, market, side, price, left))
        if aggressive:
            drift = tick if side == YES else -tick
            market.fair_e4 = min(max(market.fair_e4 + drift, 300), 9_700)
        self._touch(market, now_us)
        return happened

    def _match(self, market: Market, taker: int, most_e2: int, now_us: int, happened: list[Happening]) -> int:
        """The taker meets the best level of the other leg; how much of it traded."""
        resting = 1 - taker
        book = market.book
        price = book.best_e4[resting]
        count = min(most_e2, book.ladders[resting][price])
        yes_price = price if resting == YES else DOLLAR_E4 - price
        trade = Trade(now_us, market, str(uuid.UUID(int=self._random.getrandbits(128))), yes_price, count, taker)
        book.change(resting, price, -count)
        market.volume_e2 += count
        market.dollar_volume_e6 += count * yes_price
        market.open_interest_e2 = max(0, market.open_interest_e2 + (count if self._random.random() < 0.6 else -count))
        market.previous_price_e4, market.last_price_e4, market.last_size_e2 = market.last_price_e4, yes_price, count
        self.trades.append(trade)
        happened.append(trade)
        happened.append(BookChange(now_us, market, resting, price, -count))
        return count

    def _cancel(self, market: Market, side: int, now_us: int) -> list[Happening]:
        ladder = market.book.ladders[side]
        price = self._random.choice(list(ladder))
        size = ladder[price]
        unit = 100 if self.whole else 1
        part = size if self._random.random() < 0.7 else max(unit, size // 2 // unit * unit)
        market.book.change(side, price, -part)
        self._touch(market, now_us)
        return [BookChange(now_us, market, side, price, -part)]

    def _size_e2(self) -> int:
        rng = self._random
        contracts = 1 + int(rng.random() ** 3 * 300)
        if self.whole or rng.random() < 0.7:
            return contracts * 100
        return contracts * 100 - rng.randrange(1, 100)

    def _fill(self, market: Market) -> None:
        """The orders that rest when the exchange opens."""
        for side in (YES, NO):
            if market.one_sided in (None, side):
                for _ in range(self._random.randrange(4, 20)):
                    self._order(market, side, aggressive=False, now_us=market.created_us)
        market.volume_e2 = self._random.randrange(0, 500_000) // 100 * 100
        market.dollar_volume_e6 = market.volume_e2 * market.fair_e4
        market.open_interest_e2 = market.volume_e2 // 200 * 100
        if market.volume_e2:
            market.last_price_e4 = snap_e4(market.structure, market.fair_e4)
            market.last_size_e2 = 100
        market.dirty = False
        self._dirty.clear()

    def _touch(self, market: Market, now_us: int) -> None:
        market.updated_us = now_us
        if not market.dirty:
            market.dirty = True
            self._dirty.append(market)

    # ---- the lifecycle of markets: one turn a call, in the order of the table

    def _list(self, event: Event) -> None:
        self.events[event.ticker] = event
        for market in event.markets:
            self.markets[market.ticker] = market
            self.by_id[market.market_id] = market

    def _create(self, now_us: int) -> list[Happening]:
        while self._young:  # its open_time has come: no message says so
            market = self._young.popleft()
            market.status = "active"
            market.open_us = now_us
            self._active.append(market)
            self._grown.append(market)
        event = self._catalogue.fresh(now_us)
        self._list(event)
        market = event.markets[0]
        self._young.append(market)
        return [
            Lifecycle(now_us, "event_lifecycle", "", event, None, {}),
            Lifecycle(now_us, "market_lifecycle_v2", "created", event, market, {}),
        ]

    def _pause(self, now_us: int) -> list[Happening]:
        if len(self._active) < 2 or self._paused:
            return []
        market = self._active.pop(self._random.randrange(len(self._active)))
        self._paused = market
        market.status = "inactive"
        market.updated_us = now_us
        return self._changed(market, "deactivated", {"is_deactivated": True}, now_us)

    def _resume(self, now_us: int) -> list[Happening]:
        market, self._paused = self._paused, None
        if market is None:
            return []
        market.status = "active"
        self._active.append(market)
        return self._changed(market, "activated", {"is_deactivated": False}, now_us)

    def _move_close(self, now_us: int) -> list[Happening]:
        market = self._random.choice(self._own)
        market.close_us += 3_600_000_000
        return self._changed(market, "close_date_updated", {"close_ts": market.close_us // 1_000_000}, now_us)

    def _metadata(self, now_us: int) -> list[Happening]:
        strikes = [market for market in self._own[:100] if market.floor_strike is not None]
        if not strikes:
            return []
        market = self._random.choice(strikes)
        fields: dict[str, object] = {
            "strike_type": market.strike_type,
            "floor_strike": market.floor_strike,
            "yes_sub_title": market.name,
        }
        return self._changed(market, "metadata_updated", fields, now_us)

    def _structure(self, now_us: int) -> list[Happening]:
        market = self._random.choice(self._own)  # announced again, unchanged: prices on the grid stay valid
        return self._changed(market, "price_level_structure_updated", {}, now_us)

    def _fee(self, now_us: int) -> list[Happening]:
        event = self._random.choice(self._own).event
        fields = {"fee_type_override": "quadratic", "fee_multiplier_override": 1}
        return [] if event.series.mve else [Lifecycle(now_us, "event_fee_update", "", event, None, fields)]

    def _determine(self, now_us: int) -> list[Happening]:
        if not self._grown or len(self._active) < 2:
            return []
        market = self._grown.popleft()
        if market is self._paused:
            self._grown.append(market)
            return []
        self._active.remove(market)
        self._closing.append(market)
        yes = self._random.random() < 0.5
        market.status = "determined"
        market.close_us = now_us
        market.result = "yes" if yes else "no"
        market.settlement_e4 = DOLLAR_E4 if yes else 0
        return self.empty_book(market, now_us) + self._changed(
            market,
            "determined",
            {"determination_ts": now_us // 1_000_000, "result": market.result},
            now_us,
        )

    def _settle(self, now_us: int) -> list[Happening]:
        if not self._closing:
            return []
        market = self._closing.popleft()
        market.status = "finalized"
        market.settled_us = market.updated_us = now_us
        self._settled.append(market)
        if len(self._settled) > SETTLED_KEPT:  # a long run must not grow
            old = self._settled.popleft()
            del self.markets[old.ticker], self.by_id[old.market_id], self.events[old.event.ticker]
        return self._changed(market, "settled", {"settled_ts": now_us // 1_000_000}, now_us)

    def _changed(self, market: Market, change: str, fields: dict[str, object], now_us: int) -> list[Happening]:
        if market.mve:  # left out of market_lifecycle_v2 since 2026-02-12
            return []
        return [Lifecycle(now_us, "market_lifecycle_v2", change, market.event, market, fields)]


def quote(market: Market) -> Quote:
    """The ticker of a market as it stands; an empty side quotes 0.0000 or 1.0000 with no size."""
    bid, no_bid = market.book.best_e4
    return Quote(
        ts_us=market.updated_us,
        market=market,
        price_e4=market.last_price_e4,
        bid_e4=bid,
        ask_e4=DOLLAR_E4 - no_bid,
        bid_size_e2=market.book.ladders[YES].get(bid, 0),
        ask_size_e2=market.book.ladders[NO].get(no_bid, 0),
        volume_e2=market.volume_e2,
        open_interest_e2=market.open_interest_e2,
        dollar_volume=market.dollar_volume_e6 // 1_000_000,
        dollar_open_interest=market.open_interest_e2 // 200,
        last_size_e2=market.last_size_e2,
    )
