"""What a consumer is given: one record, with the journal that it is of, and the choice of which records are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ssmd.journal.reader import Record, kind_name
from ssmd.middleware.interfaces import Start
from ssmd.native.walk import ALL_KINDS, KIND_BITS, Filter, View, ViewReader

_LATER = 1 << 63  # kinds of a later schema


class TailRecord(Record):
    """A record of the journal `journal` (its identity). Numbers count up by one within a journal."""

    __slots__ = ("journal",)

    def __init__(self, journal: str, view: View, data: bytes, at: int) -> None:
        super().__init__(None, view, data, at)
        self.journal = journal

    @property
    def number(self) -> int:
        return self.view.number

    @property
    def recv_ns(self) -> int:
        """UTC ns when it was received."""
        return self.view.recv_ns

    def json(self) -> dict[str, Any]:
        """The object that `ssmd tail --format json` prints: that of `ssmd cat`, and the journal."""
        return {**super().json(), "journal": self.journal}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records a consumer is given. Checkpoints are the files' own: never."""

    kinds: int = ALL_KINDS & ~KIND_BITS["checkpoint"]
    markets: frozenset[str] = frozenset()  # empty: all, and records without a market

    @property
    def filter(self) -> Filter:
        """The same for the C reader."""
        return Filter(kinds=self.kinds, markets=tuple(sorted(self.markets)))

    def has(self, record: Record) -> bool:
        bit = KIND_BITS.get(kind_name(record.view), _LATER)
        return bool(self.kinds & bit) and (not self.markets or record.market in self.markets)


class Gate:
    """Keeps back what lies before a start; opens for good at the first record from there on."""

    def __init__(self, start: Start) -> None:
        self._number = start.value if start.at == "number" else 0
        self._from_ns = start.value if start.at == "time" else None

    def admits(self, record: Record) -> bool:
        if self._from_ns is not None:
            if record.view.recv_ns < self._from_ns:
                return False
            self._from_ns = None
        return record.view.number >= self._number


def records_in(journal: str, data: bytes, views: ViewReader, span: Sequence[int] | None = None) -> Iterator[TailRecord]:
    """The records of some bytes; `span`: from, to, and the offset in the segment of the first of them."""
    at, stop, offset = span or (0, len(data), 0)
    while at < stop:
        found, used = views.read(data, at, stop, offset)
        shift = at - offset
        for view in found:
            yield TailRecord(journal, view, data, view.offset + shift)
        if used == 0:
            return
        at, offset = at + used, offset + used
