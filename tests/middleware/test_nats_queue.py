"""The queue between the bus's thread and the caller's: bounded in messages and in bytes, errors in their place."""

from __future__ import annotations

import pytest

from ssmd.errors import LaggedError, RejectedError, UnavailableError
from ssmd.middleware.interfaces import Delivery, Message
from ssmd.middleware.nats.queue import BYTES, Queue


def delivery(place: int, size: int = 1) -> Delivery:
    return Delivery(Message("md.trade.A", b"x" * size), place, 0)


def queue(pending: int) -> tuple[Queue, list[int]]:
    """A queue, and the room that it had each time it said that there was some again."""
    told: list[int] = []
    made = Queue(pending, lambda: told.append(made.room()))
    return made, told


def test_what_is_put_comes_in_its_order_and_then_nothing() -> None:
    made, _ = queue(10)
    made.put([delivery(1), delivery(2)])
    made.put([delivery(3)])
    places = [given.sequence for given in (made.next(0.0), made.next(0.0), made.next(0.0)) if given is not None]
    assert places == [1, 2, 3]
    assert made.next(0.0) is None


def test_room_is_told_when_half_of_it_is_free_and_when_all_is() -> None:
    made, told = queue(4)
    made.put([delivery(place) for place in range(1, 5)])
    assert made.room() == 0
    for _ in range(4):
        made.next(0.0)
    assert told == [2, 4]


def test_large_messages_fill_it_by_their_bytes_and_room_is_told_at_half_of_those() -> None:
    made, told = queue(1000)
    made.put([delivery(place, BYTES // 4) for place in range(1, 6)])
    assert made.room_bytes() == -(BYTES // 4)
    made.next(0.0)
    made.next(0.0)
    assert told == []
    made.next(0.0)
    assert told == [998]
    assert made.room_bytes() == BYTES // 2


def test_an_error_is_raised_in_its_place_and_what_follows_comes_after_it() -> None:
    made, _ = queue(10)
    made.put([delivery(1), LaggedError("two are missing", missed=2), delivery(4)])
    first = made.next(0.0)
    with pytest.raises(LaggedError):
        made.next(0.0)
    second = made.next(0.0)
    assert first is not None
    assert second is not None
    assert (first.sequence, second.sequence) == (1, 4)


def test_an_end_comes_after_what_was_put_before_it() -> None:
    made, _ = queue(10)
    made.put([delivery(1)])
    made.end(UnavailableError("over"))
    assert made.next(0.0) is not None
    with pytest.raises(UnavailableError):
        made.next(0.0)


def test_trouble_is_told_to_who_waits_in_vain_and_forgotten_with_the_next_message() -> None:
    made, _ = queue(10)
    made.trouble(UnavailableError("away"))
    with pytest.raises(UnavailableError):
        made.next(0.0)
    made.put([delivery(1)])
    assert made.next(0.0) is not None
    assert made.next(0.0) is None


def test_a_refusal_is_told_at_once_and_once() -> None:
    made, _ = queue(10)
    made.trouble(RejectedError("no"))
    with pytest.raises(RejectedError):
        made.next(60.0)
    assert made.next(0.0) is None
