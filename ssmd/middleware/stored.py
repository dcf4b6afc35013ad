"""All that a stream holds now, for those who count: who looks whether a record is there, or compares.

The end is the place of the newest message when the reading begins, not a silence: a bus that is slow, or hangs, has not
come to its end. Not for following a stream (`subscribe` does that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ssmd.errors import LaggedError
from ssmd.middleware.interfaces import Delivery, Start, Transport

IDLE_S: Final = 2.0  # of a stream whose last message does not come: nothing came for so long, twice


def _ignored(error: LaggedError) -> None:
    """What the stream has given up by its limits is not there, and no error."""


def stored_now(
    bus: Transport, start: Start, *, idle_s: float = IDLE_S, on_lagged: Callable[[LaggedError], None] = _ignored
) -> Iterator[Delivery]:
    """Every message from `start` to the present end of the stream, in its order, whatever its subject.

    Others may publish all the while: what comes after the call is not waited for. UnavailableError as in `next`, and
    where the bus does not answer.
    """
    last = bus.last_sequence()
    if not last or (start.at == "number" and start.value > last):
        return
    subscription = bus.subscribe(">", start=start)  # all of the stream: its last message must be among them
    silent = 0
    try:
        while silent < 2:  # then there is nothing from `start` on, or it was removed meanwhile
            try:
                delivery = subscription.next(idle_s)
            except LaggedError as error:
                on_lagged(error)
                continue
            if delivery is None:
                bus.check()  # a bus that hangs is no bus that has nothing more
                silent += 1
                continue
            silent = 0
            if delivery.sequence > last:
                return
            yield delivery
            if delivery.sequence == last:
                return
    finally:
        subscription.unsubscribe()
