"""One market's order book on the YES scale, from the snapshots and deltas of a journal. Pure.

Bids are bids for YES, asks are 1 - the bids for NO; prices in 1e-4 dollars, counts in 1e-2 contracts (the records are
on this scale already, docs/records.md). A snapshot replaces everything, a delta adds to one level, a level at zero is
gone. Not for: deciding whether a book can be believed after a gap (`Replay` says what it saw, `ssmd.quality` judges).

`Replay` is the specification of the books in csrc/tally.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

BID = 1
ASK = 2


@dataclass(slots=True)
class Book:
    """Levels as {price_e4: count_e2}; never a level at zero."""

    bids: dict[int, int] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)

    def snapshot(self, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]) -> None:
        """Replaces the book. A price that comes twice adds up."""
        self.bids = _levels(bids)
        self.asks = _levels(asks)

    def delta(self, side: int, price_e4: int, delta_e2: int) -> bool:
        """Adds to one level. False where that would take it below zero: the level is then gone."""
        levels = self.bids if side == BID else self.asks
        count = levels.pop(price_e4, 0) + delta_e2
        if count > 0:
            levels[price_e4] = count
        return count >= 0

    @property
    def best_bid_e4(self) -> int | None:
        return max(self.bids, default=None)

    @property
    def best_ask_e4(self) -> int | None:
        return min(self.asks, default=None)

    @property
    def crossed(self) -> bool:
        """The best bid is not below the best ask."""
        return bool(self.bids) and bool(self.asks) and max(self.bids) >= min(self.asks)

    @property
    def empty(self) -> bool:
        return not self.bids and not self.asks

    def ladders(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(bids, asks), each from the best level on."""
        return sorted(self.bids.items(), reverse=True), sorted(self.asks.items())


def _levels(levels: Iterable[tuple[int, int]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for price_e4, count_e2 in levels:
        if price_e4 in found:
            found[price_e4] += count_e2
        elif count_e2:
            found[price_e4] = count_e2
    return found


@dataclass(frozen=True, slots=True, order=True)
class Suspect:
    """A book that cannot be right since record `number` (received at `recv_ns`), and had no snapshot after it."""

    number: int
    connection: int
    sid: int
    market: str
    recv_ns: int
    why: str

    def __str__(self) -> str:
        return f"{self.market}: {self.why} (record {self.number})"


BELOW_ZERO = "a delta takes a level below zero"
WITHOUT_SNAPSHOT = "a delta for a market without snapshot"


@dataclass(slots=True)
class _Known:
    book: Book
    epoch: int  # of the channel at the last snapshot; -1 = known to be wrong
    changes: int


@dataclass(slots=True)
class Replay:
    """The books of one (connection, sid), each checked against the market's next snapshot.

    `doubt` = a change may have been missed: nothing is compared until the next snapshot. `changed` = the subscription's
    markets changed: a snapshot that nobody asked for says nothing then about the deltas before it.
    """

    checked: int = 0
    mismatched: int = 0
    emptied: int = 0
    negative: int = 0
    crossed: int = 0
    orphaned: int = 0
    books: dict[str, Book] = field(default_factory=dict)
    _epoch: int = 0
    _changes: int = 0
    _known: dict[str, _Known] = field(default_factory=dict)

    def doubt(self) -> None:
        self._epoch += 1

    def changed(self) -> None:
        self._changes += 1

    def snapshot(
        self, market: str, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]], *, asked: bool
    ) -> bool:
        """False where it differs from a book that should have been right."""
        fresh = Book()
        fresh.snapshot(bids, asks)
        known = self._known.get(market)
        sure = known is not None and known.epoch == self._epoch and (asked or known.changes == self._changes)
        fits = True
        if sure and known is not None:
            equal = known.book == fresh
            if not equal and not asked and fresh.empty:
                self.emptied += 1
            else:
                self.checked += 1
                self.mismatched += not equal
                fits = equal
        self._known[market] = _Known(fresh, self._epoch, self._changes)
        self.books[market] = fresh
        self.crossed += fresh.crossed
        return fits

    def delta(self, market: str, side: int, price_e4: int, delta_e2: int) -> bool:
        """False where it takes a level below zero."""
        known = self._known.get(market)
        if known is None:
            self.orphaned += 1
            return True
        if side not in (BID, ASK):
            return True
        fits = known.book.delta(side, price_e4, delta_e2)
        if not fits:
            self.negative += 1
            known.epoch = -1
        self.crossed += known.book.crossed
        return fits
