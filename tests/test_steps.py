"""A clock that is set forward or back is noticed, one that is slewed is none."""

from __future__ import annotations

import pytest

from ssmd.steps import Ages, Steps

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


@pytest.mark.parametrize("step_ns", [3600 * S, -3600 * S])
def test_what_was_stamped_before_a_step_is_as_old_as_if_there_had_been_none(step_ns: int) -> None:
    ages = Ages(NOON, 0)
    ages.age_ns(NOON, NOON + S, S)
    assert ages.age_ns(NOON, NOON + 2 * S + step_ns, 2 * S) == 2 * S
    assert ages.age_ns(NOON, NOON + 9 * S + step_ns, 9 * S) == 9 * S


@pytest.mark.parametrize("step_ns", [3600 * S, -3600 * S])
def test_what_was_stamped_after_a_step_is_as_old_as_the_clock_says(step_ns: int) -> None:
    ages = Ages(NOON, 0)
    ages.age_ns(NOON, NOON + S, S)
    stamp_ns = NOON + 2 * S + step_ns
    assert ages.age_ns(stamp_ns, stamp_ns + S // 10, 2 * S + S // 10) == S // 10
    assert ages.age_ns(stamp_ns, stamp_ns + 60 * S, 62 * S) == 60 * S


def test_an_age_reaches_over_several_steps() -> None:
    ages = Ages(NOON, 0)
    ages.age_ns(NOON, NOON + 3600 * S + S, S)
    ages.age_ns(NOON, NOON + 2 * S, 2 * S)
    assert ages.age_ns(NOON, NOON + 86_400 * S + 3 * S, 3 * S) == 3 * S


def test_what_waited_before_the_process_began_is_as_old_as_the_clock_says() -> None:
    assert Ages(NOON, 0).age_ns(NOON - 7200 * S, NOON + S, S) == 7201 * S
