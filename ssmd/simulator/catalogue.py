"""What is listed: series, events and binary markets, with tickers shaped like the exchange's.

All names are invented; shapes are the exchange's: strikes with a "." in the ticker, several markets
an event, sub-cent price structures, a few multivariate combinations. Content depends on the number
of markets and the seed only. Not for trading: `exchange` moves what is described here.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from ssmd.simulator.books import Book

# structure -> ranges of (start_e4, end_e4, step_e4)
STRUCTURES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "linear_cent": ((0, 10_000, 100),),
    "deci_cent": ((0, 10_000, 10),),
    "tapered_deci_cent": ((0, 1_000, 10), (1_000, 9_000, 100), (9_000, 10_000, 10)),
    "center_centi_edge_centi_cent": ((0, 10_000, 1),),
}


def step_e4(structure: str, price_e4: int) -> int:
    """The tick at a price."""
    for start, end, step in STRUCTURES[structure]:
        if start <= price_e4 < end:
            return step
    return STRUCTURES[structure][-1][2]


def snap_e4(structure: str, price_e4: int) -> int:
    """The nearest price on the grid at or below, kept strictly between 0 and 1 dollar."""
    price_e4 = min(max(price_e4, 0), 9_999)
    for start, end, step in STRUCTURES[structure]:
        if price_e4 < end:
            price_e4 = start + (price_e4 - start) // step * step
            return price_e4 if price_e4 > 0 else step
    raise AssertionError(structure)


@dataclass(slots=True, eq=False)
class Series:
    ticker: str
    title: str
    category: str
    frequency: str
    structure: str
    mve: bool = False
    index: int = 0  # exchange_index of its events


@dataclass(slots=True, eq=False)
class Event:
    ticker: str
    series: Series
    title: str
    sub_title: str
    mutually_exclusive: bool
    created_us: int
    markets: list[Market] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Market:
    """One listed market: its description, and its state, which only `exchange` changes."""

    ticker: str
    market_id: str
    event: Event
    name: str
    strike_type: str
    floor_strike: float | int | None
    custom_strike: dict[str, str] | None
    structure: str
    created_us: int
    open_us: int
    close_us: int
    # state
    status: str = "active"
    result: str = ""
    settlement_e4: int | None = None
    settled_us: int = 0
    updated_us: int = 0
    book: Book = field(default_factory=Book)
    fair_e4: int = 5_000
    last_price_e4: int = 0
    last_size_e2: int = 0
    volume_e2: int = 0
    open_interest_e2: int = 0
    dollar_volume_e6: int = 0  # contracts x price: 1e-2 x 1e-4
    previous_price_e4: int = 0
    dirty: bool = False  # changed since the last flush of tickers
    one_sided: int | None = None  # the only side that gets orders

    @property
    def mve(self) -> bool:
        return self.event.series.mve


TEMPERATURE = Series("KXSIMTEMP", "Highest temperature in Simville", "Climate and Weather", "daily", "linear_cent")
COIN = Series("KXSIMCOIN", "Simcoin price", "Crypto", "hourly", "tapered_deci_cent", index=2)
GAME = Series("KXSIMGAME", "Sim League games", "Sports", "custom", "linear_cent")
MINUTES = Series("KXSIM15M", "Simcoin up or down in 15 minutes", "Crypto", "custom", "deci_cent", index=2)
COMBO = Series("KXMVESIM", "Sim combinations", "Exotics", "custom", "center_centi_edge_centi_cent", mve=True, index=1)
SERIES = (TEMPERATURE, COIN, GAME, MINUTES, COMBO)

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


class Catalogue:
    """Makes events with their markets, for ever; `take` gives the first N markets."""

    def __init__(self, seed: int, now_us: int, *, whole: bool) -> None:
        self._random = random.Random(f"catalogue {seed}")
        self._now_us = now_us
        self._whole = whole
        self._round = 0

    def take(self, markets: int) -> list[Event]:
        """Events with exactly `markets` markets together."""
        events: list[Event] = []
        left = markets
        for event in self._events():
            if left <= 0:
                break
            del event.markets[left:]
            left -= len(event.markets)
            events.append(event)
        return events

    def fresh(self, now_us: int) -> Event:
        """An event with one market that is announced now and opens later (market_lifecycle_v2 `created`)."""
        self._round += 1
        floor = 70_000 + self._random.randrange(20_000)
        event = Event(
            f"{MINUTES.ticker}-26DEC31N{self._round:05d}",
            MINUTES,
            "Simcoin up or down?",
            f"Round {self._round}",
            False,
            now_us,
        )
        self._market(event, f"{self._round % 60:02d}", "greater_or_equal", floor + 0.71, None)
        market = event.markets[0]
        market.status = "initialized"
        market.open_us = now_us + 10_000_000
        market.close_us = now_us + 900_000_000
        return event

    def _events(self) -> Iterator[Event]:
        number = 0
        while True:
            number += 1
            yield self._temperature(number)
            yield self._game(number)
            yield self._coin(number)
            yield self._minutes(number)
            if number % 2:
                yield self._combo(number)

    def _event(self, series: Series, suffix: str, title: str, *, exclusive: bool) -> Event:
        created_us = self._now_us - DAY_US + self._random.randrange(HOUR_US)
        return Event(f"{series.ticker}-{suffix}", series, title, suffix, exclusive, created_us)

    def _temperature(self, number: int) -> Event:
        event = self._event(TEMPERATURE, f"26D{number:04d}", f"Highest temperature, day {number}?", exclusive=True)
        base = 60 + number % 30
        self._market(event, f"T{base}", "less", base, None)
        for k in range(3):
            self._market(event, f"B{base + 2 * k}.5", "between", base + 2 * k, None)
        self._market(event, f"T{base + 6}", "greater", base + 6, None)
        return event

    def _game(self, number: int) -> Event:
        teams = tuple("".join(self._random.choices("ABCDEFGHKLMNPRSTVW", k=3)) for _ in range(2))
        event = self._event(
            GAME, f"26DEC31{teams[0]}{teams[1]}{number}", f"{teams[0]} at {teams[1]}: winner?", exclusive=True
        )
        for team in dict.fromkeys(teams):
            self._market(event, team, "structured", None, {"sim_team": str(self._uuid())})
        return event

    def _coin(self, number: int) -> Event:
        event = self._event(COIN, f"26DEC31H{number:04d}", f"Simcoin price, hour {number}?", exclusive=False)
        base = 80_000 + self._random.randrange(40) * 100
        for k in range(4):
            self._market(event, f"T{base + 250 * k - 0.01:.2f}", "greater", base + 250 * k - 0.01, None)
        return event

    def _minutes(self, number: int) -> Event:
        event = self._event(MINUTES, f"26DEC31Q{number:05d}", "Simcoin up or down?", exclusive=False)
        self._market(event, f"{number * 15 % 60:02d}", "greater_or_equal", 80_000 + number / 4, None)
        return event

    def _combo(self, number: int) -> Event:
        event = self._event(COMBO, f"S2026{self._random.getrandbits(44):011X}", "Sim combination", exclusive=False)
        self._market(event, f"{self._random.getrandbits(44):011X}", "custom", None, {"legs": str(number)})
        return event

    def _market(
        self,
        event: Event,
        suffix: str,
        strike_type: str,
        floor: float | int | None,
        custom: dict[str, str] | None,
    ) -> None:
        market = Market(
            ticker=f"{event.ticker}-{suffix}",
            market_id=str(self._uuid()),
            event=event,
            name=suffix,
            strike_type=strike_type,
            floor_strike=floor,
            custom_strike=custom,
            structure="linear_cent" if self._whole else event.series.structure,
            created_us=event.created_us,
            open_us=event.created_us + HOUR_US,
            close_us=self._now_us + 30 * DAY_US,
        )
        market.updated_us = market.created_us
        market.fair_e4 = self._random.randrange(1_500, 8_500)
        if self._random.random() < 0.05:
            market.one_sided = self._random.randrange(2)
        event.markets.append(market)

    def _uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self._random.getrandbits(128))
