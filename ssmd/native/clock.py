"""CPU ticks and what they are in UTC: the door to csrc/clock.c.

For stamps that must cost nanoseconds and for the `ClockAnchor` records that relate the two. Not for ordering events
over a step of UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import cast

from ssmd._native import ffi, lib


class ClockSource(IntEnum):
    """Which counter ticks; the ordinals of `ClockAnchor.Source` in the schema."""

    TSC = 0
    CNTVCT = 1
    MONOTONIC = 2


@dataclass(frozen=True, slots=True)
class ClockAnchor:
    """`ticks` was `wall_ns` (UTC), right to half of `uncertainty_ns`; a tick lasts `ns_per_tick_q32` / 2^32 ns."""

    ticks: int
    wall_ns: int
    ns_per_tick_q32: int
    source: ClockSource
    uncertainty_ns: int

    def to_ns(self, ticks: int) -> int:
        """UTC of `ticks` by this anchor; earlier ticks are fine."""
        return self.wall_ns + ((ticks - self.ticks) * self.ns_per_tick_q32 >> 32)


def now_tsc() -> int:
    """The counter now."""
    return cast(int, lib.ssmd_clock_now())


def ticks_to_ns(ticks: int) -> int:
    """UTC ns of `ticks` of this boot, by the process's own anchor (see `anchor`)."""
    return cast(int, lib.ssmd_clock_ticks_to_ns(ticks))


def stamp() -> tuple[int, int]:
    """Now as (ticks, UTC ns), as the decoder stamps."""
    ticks = ffi.new("uint64_t *")
    wall_ns = lib.ssmd_clock_stamp(ticks)
    return int(ticks[0]), int(wall_ns)


def anchor() -> ClockAnchor:
    """A fresh anchor, which becomes the process's own. The first call of a process takes 10 ms, later ones 1 us."""
    raw = ffi.new("ssmd_clock_anchor *")
    lib.ssmd_clock_anchor_read(raw)
    return ClockAnchor(raw.ticks, raw.wall_ns, raw.ns_per_tick_q32, ClockSource(raw.source), raw.uncertainty_ns)
