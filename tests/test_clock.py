"""The clock's Python door: conversion by literals, and what must hold whatever the machine does."""

from __future__ import annotations

import time

from ssmd.native import clock
from ssmd.native.clock import ClockAnchor, ClockSource

HALF = ClockAnchor(1000, 5_000_000_000, 1 << 31, ClockSource.TSC, 40)  # a tick is half a nanosecond
SLACK_NS = 100_000_000  # far more than a busy machine needs, far less than a wrong rate or origin


def test_ticks_after_an_anchor_are_later_by_its_rate() -> None:
    assert HALF.to_ns(3000) == 5_000_001_000


def test_ticks_before_an_anchor_are_earlier() -> None:
    assert HALF.to_ns(0) == 4_999_999_500


def test_python_and_c_convert_alike() -> None:
    anchor = clock.anchor()
    for ticks in (anchor.ticks, anchor.ticks - 12_345_678_901, anchor.ticks + 98_765_432_109):
        assert clock.ticks_to_ns(ticks) == anchor.to_ns(ticks)


def test_ticks_do_not_go_back() -> None:
    stamps = [clock.now_tsc() for _ in range(1000)]
    assert stamps == sorted(stamps)


def test_a_stamp_agrees_with_the_system_clock() -> None:
    before = time.time_ns()
    ticks, wall_ns = clock.stamp()
    after = time.time_ns()
    assert before - SLACK_NS < wall_ns < after + SLACK_NS
    assert abs(clock.ticks_to_ns(ticks) - wall_ns) < SLACK_NS


def test_an_anchor_names_the_counter_and_its_rate() -> None:
    anchor = clock.anchor()
    assert anchor.source in ClockSource
    assert 0 < anchor.ns_per_tick_q32 <= 1000 << 32
    if anchor.source == ClockSource.MONOTONIC:
        assert anchor.ns_per_tick_q32 == 1 << 32
