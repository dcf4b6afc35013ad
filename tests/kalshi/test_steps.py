"""A clock that is set forward or back is noticed, one that is slewed is none."""

from __future__ import annotations

import pytest

from ssmd.kalshi.steps import Steps

S = 10**9
NOON = 1_790_000_000 * S


@pytest.mark.parametrize("step_ns", [3600 * S, -3600 * S, S // 2, -S // 2])
def test_a_step_is_told_once_and_by_how_much(step_ns: int) -> None:
    steps = Steps(NOON, 5 * S)
    assert steps.look(NOON + S, 6 * S) == 0
    assert steps.look(NOON + 2 * S + step_ns, 7 * S) == step_ns
    assert steps.look(NOON + 3 * S + step_ns, 8 * S) == 0


def test_a_clock_that_is_slewed_for_a_day_is_not_stepped() -> None:
    steps = Steps(NOON, 0)
    assert not any(steps.look(NOON + i * S + i * S // 2000, i * S) for i in range(86_400))


def test_time_that_nobody_looked_is_no_step() -> None:
    """The process stood still for an hour."""
    assert Steps(NOON, 0).look(NOON + 3600 * S, 3600 * S) == 0
