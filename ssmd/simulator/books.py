"""An order book as the exchange keeps it: two ladders of bids, on their own legs' scales.

Not for the YES scale and not for text: `render` does both. Invariant: sizes are positive, and a
change below zero is a mistake of the caller (the exchange decides what can be cancelled).
"""

from __future__ import annotations

YES = 0
NO = 1
SIDES = ("yes", "no")
DOLLAR_E4 = 10_000

Ladder = dict[int, int]  # price_e4 -> size_e2


class Book:
    """Bids to buy YES and bids to buy NO; `best_e4[side]` is the highest price, 0 where there is none."""

    __slots__ = ("best_e4", "ladders")

    def __init__(self) -> None:
        self.ladders: tuple[Ladder, Ladder] = ({}, {})
        self.best_e4 = [0, 0]

    def change(self, side: int, price_e4: int, delta_e2: int) -> None:
        """Adds `delta_e2` to a level; the level goes away at zero."""
        ladder = self.ladders[side]
        size_e2 = ladder.get(price_e4, 0) + delta_e2
        if size_e2 < 0:
            raise ValueError(f"level {SIDES[side]} {price_e4} would fall to {size_e2}")
        if size_e2:
            ladder[price_e4] = size_e2
            if price_e4 > self.best_e4[side]:
                self.best_e4[side] = price_e4
        else:
            ladder.pop(price_e4, None)
            if price_e4 == self.best_e4[side]:
                self.best_e4[side] = max(ladder, default=0)

    def clear(self) -> None:
        """Every order is gone."""
        for ladder in self.ladders:
            ladder.clear()
        self.best_e4[:] = (0, 0)

    def copy(self) -> Book:
        """A book of its own with the same levels."""
        twin = Book()
        for mine, other in zip(twin.ladders, self.ladders, strict=True):
            mine.update(other)
        twin.best_e4[:] = self.best_e4
        return twin

    def levels(self, side: int) -> list[tuple[int, int]]:
        """(price_e4, size_e2), ascending: the best bid stands last."""
        return sorted(self.ladders[side].items())

    def crossed(self) -> bool:
        """Whether a YES bid and a NO bid together would pay a dollar or more: never so between steps."""
        return bool(self.best_e4[YES] and self.best_e4[NO]) and sum(self.best_e4) >= DOLLAR_E4
