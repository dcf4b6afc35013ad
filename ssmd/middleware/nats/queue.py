"""What waits for the caller's thread: deliveries and, in their place, the errors that belong between them.

    loop's thread  -- put (a run at once) -->  deque  -- next (one by one) -->  caller's thread

Only one thread puts and only one takes. Taking what is there takes no lock: a deque's own operations are whole. Bounds:
`pending` messages, and BYTES of them, of which whoever fills the queue asks `room`; what it has asked for by then may
still come.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ssmd.errors import LaggedError, MiddlewareError, UnavailableError
from ssmd.middleware.interfaces import Delivery
from ssmd.middleware.nats.connection import Connection

CALL_TIMEOUT_S: Final = 5.0
BYTES: Final = 32 << 20  # of payload that wait at most


class Queue:
    """`drained` is called by the caller's thread when half of the room is free again."""

    def __init__(self, pending: int, drained: Callable[[], None]) -> None:
        self._items: deque[Delivery | LaggedError] = deque()
        self._changed = threading.Condition()
        self._pending = pending
        self._half = pending // 2
        self._drained = drained
        self._put_bytes = 0  # in all; written by the thread that puts ...
        self._taken_bytes = 0  # ... and by the one that takes
        self._trouble: MiddlewareError | None = None
        self._end: MiddlewareError | None = None

    def room(self) -> int:
        """So many messages more may be put."""
        return self._pending - len(self._items)

    def room_bytes(self) -> int:
        """So many bytes of payload more may be put; below 0 when the last ones were larger than thought."""
        return BYTES - (self._put_bytes - self._taken_bytes)

    def put(self, items: Sequence[Delivery | LaggedError]) -> None:
        size = sum(len(item.message.payload) for item in items if isinstance(item, Delivery))
        with self._changed:
            self._put_bytes += size
            self._items.extend(items)
            self._trouble = None
            self._changed.notify()

    def trouble(self, error: MiddlewareError | None) -> None:
        """What keeps messages from coming, for the next caller who waits in vain; None: all is well."""
        with self._changed:
            self._trouble = error
            if error is not None and not error.retryable:
                self._changed.notify()

    def end(self, error: MiddlewareError) -> None:
        """Nothing more will come."""
        with self._changed:
            self._end = error
            self._changed.notify_all()

    def discard(self) -> None:
        with self._changed:
            self._items.clear()

    def next(self, timeout_s: float) -> Delivery | None:
        try:
            item = self._items.popleft()
        except IndexError:
            waited = self._wait(timeout_s)
            if waited is None:
                return None
            item = waited
        left = len(self._items)
        if isinstance(item, LaggedError):
            if not left:
                self._drained()
            raise item
        before = self._put_bytes - self._taken_bytes
        size = len(item.message.payload)
        self._taken_bytes += size
        if left == self._half or not left or before > BYTES // 2 >= before - size:
            self._drained()
        return item

    def _wait(self, timeout_s: float) -> Delivery | LaggedError | None:
        """The next one, when none is there."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._items:
                trouble = self._trouble
                if self._end is not None:
                    raise self._end
                wait_s = deadline - time.monotonic()
                if trouble is not None and (wait_s <= 0 or not trouble.retryable):
                    self._trouble = None if not trouble.retryable else trouble
                    raise trouble
                if wait_s <= 0:
                    return None
                self._changed.wait(wait_s)
            return self._items.popleft()


class Reading(ABC):
    """The caller's side of a subscription: what it takes from a queue, and its end."""

    def __init__(self, connection: Connection, queue: Queue) -> None:
        self._connection = connection
        self._queue = queue
        self.ended = False

    def next(self, timeout_s: float) -> Delivery | None:
        return self._queue.next(timeout_s)

    def unsubscribe(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._queue.discard()
        self._queue.end(UnavailableError("the subscription was ended"))
        if not self._connection.closed:
            self._connection.call(self._stop(), CALL_TIMEOUT_S)

    def closed(self) -> None:
        """The connection is gone for good."""
        self._queue.end(UnavailableError("the connection to the bus was closed"))

    @abstractmethod
    async def _stop(self) -> None:
        """Gives back what the bus keeps for it."""
