"""Puts what comes from a bus back into the order of the journal: each record once, and what is missing is named.

Records of one journal have numbers without a hole. A publisher sends them in order, or in batches by kind: then what
belongs between the records of one batch comes in another. So records wait here until all before them are there; what
a publisher says with each message (`before`: every record up to this number was published before these) decides when
waiting is over and what did not come is missing. Pure: no bus, no clock.

    offer([7], before=6)              -> 7
    offer([9, 12], before=7)          -> 9 and 12 wait: 8, 10 and 11 may be in the next batch
    offer([8, 10, 11, 13], before=7)  -> 8 9 10 11 12 13
    offer([20], before=19)            -> Missing(14, 19), 20
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ssmd.middleware.interfaces import Message
from ssmd.middleware.names import PART_HEADER, Published, published

T = TypeVar("T")

WAITING_LIMIT = 200_000  # records; a batch that never comes must not fill the memory
PARTS_LIMIT = 64  # messages of which not all parts are there


@dataclass(frozen=True, slots=True)
class Missing:
    """Records that did not come."""

    first: int
    last: int


class Sequencer(Generic[T]):
    """The order of one journal. `next`: the number that comes next; None: wherever the first whole group begins."""

    def __init__(self, next_number: int | None = None) -> None:
        self.next = next_number
        self._waiting: dict[int, T] = {}
        self._began: int | None = None  # `before` of the first batch, where we came into the middle of its group

    @property
    def waits(self) -> bool:
        """Whether records are there whose turn has not come: others before them are still to come, or lost."""
        return bool(self._waiting)

    def offer(self, items: Iterable[tuple[int, T]], *, before: int, single: bool) -> Iterator[T | Missing]:
        """Takes the records of one message; gives those whose turn has come. `single`: a message of one record."""
        if self.next is None:
            self._begin(before, single)
        waiting, after = self._waiting, self.next
        for number, item in items:
            if after is None or number >= after:
                waiting[number] = item
        if self.next is not None:
            yield from self._drain(before)

    def settle(self) -> Iterator[T | Missing]:
        """Nothing more came for a while: begins with what is there, if it has not begun yet.

        What of that group came before us and ends it is then told as missing: rather so than a loss that is not told.
        """
        if self.next is None and self._waiting:
            self.next = _suffix(self._waiting)
            self._drop()
            yield from self._drain(0)

    def _begin(self, before: int, single: bool) -> None:
        """Who comes into the middle of a group of batches has missed a part of it: begin behind the last such hole."""
        if single:
            self.next = before + 1
        elif self._began is None:
            self._began = before
        elif before > self._began:
            first = _suffix(self._waiting) if self._waiting else before + 1
            whole = max(self._waiting, default=before) == before
            self.next = first if whole else before + 1
        self._drop()

    def _drop(self) -> None:
        if self.next is not None:
            for number in [number for number in self._waiting if number < self.next]:
                del self._waiting[number]

    def _drain(self, before: int) -> Iterator[T | Missing]:
        waiting = self._waiting
        while waiting:
            assert self.next is not None
            while self.next in waiting:
                item = waiting.pop(self.next)
                self.next += 1
                yield item
            if not waiting:
                return
            known_lost = before if len(waiting) < WAITING_LIMIT else max(waiting)
            last = min(known_lost, min(waiting) - 1)
            if last < self.next:
                return
            missing = Missing(self.next, last)
            self.next = last + 1
            yield missing


def _suffix(waiting: dict[int, T]) -> int:
    """The first of the numbers that reach the highest without a hole."""
    first = max(waiting)
    while first - 1 in waiting:
        first -= 1
    return first


class Parts:
    """Joins what was too large for one message."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[int, bytes]] = {}

    def whole(self, message: Message) -> tuple[Published, bytes] | None:
        """What a message is about, with its whole payload; None: not a publisher's, or parts are still to come."""
        what = published(message.message_id)
        if what is None or what.part is None:
            return (what, message.payload) if what is not None else None
        place, _, count = message.headers.get(PART_HEADER, "").partition("/")
        if not (place.isdigit() and count.isdigit()):
            return None
        name = str(message.message_id).rpartition(".")[0]
        parts = self._parts.setdefault(name, {})
        parts[int(place)] = message.payload
        if len(parts) < int(count):
            if len(self._parts) > PARTS_LIMIT:
                del self._parts[next(iter(self._parts))]
            return None
        del self._parts[name]
        return what._replace(part=None), b"".join(parts[i] for i in sorted(parts))
