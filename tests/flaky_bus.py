"""A bus that fails where a test says so: the memory Transport with seams. The real one is tested in tests/faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ssmd.errors import LimitError, MiddlewareError, PublishError, UnavailableError
from ssmd.middleware.interfaces import Message, Receipt, Start
from ssmd.middleware.memory.transport import MemoryTransport

Failure = Callable[[Message], MiddlewareError | None]


class FlakyBus(MemoryTransport):
    """`down`: every call raises it. `fails`: asked before each message of publish_all, an error ends the call there.

    `stores_on`: what stands behind the failing message (and that one itself) is stored all the same, only its receipts
    are lost: what happens when a connection breaks.
    """

    def __init__(self, *, max_payload_bytes: int = 1 << 20) -> None:
        super().__init__(max_payload_bytes=max_payload_bytes)
        self.down: MiddlewareError | None = None
        self.fails: Failure = lambda message: None
        self.stores_on = False
        self.windows: list[int] = []  # how many messages each publish_all had

    @property
    def max_payload_bytes(self) -> int:
        self._reach()
        return self._max_payload_bytes

    @max_payload_bytes.setter
    def max_payload_bytes(self, value: int) -> None:
        self._max_payload_bytes = value

    def ensure_stream(self, subjects: Sequence[str]) -> bool:
        self._reach()
        return super().ensure_stream(subjects)

    def publish_all(self, messages: Sequence[Message], *, timeout_s: float = 30.0) -> list[Receipt]:
        self._reach()
        self.windows.append(len(messages))
        for i, message in enumerate(messages):
            error = self.fails(message)
            if error is not None:
                receipts = super().publish_all(messages[:i])
                if self.stores_on:
                    super().publish_all(messages[i:])
                raise PublishError(str(error), receipts=receipts, cause=error) from error
        return super().publish_all(messages, timeout_s=timeout_s)

    def forget_ids(self) -> None:
        """Hours go by."""
        self._known.clear()

    def lose_stream(self) -> None:
        """Somebody removes the stream with all it holds."""
        self._subjects = ()
        self._stored.clear()
        self._last = 0
        self._known.clear()

    def lose_newest(self, count: int) -> None:
        """The bus comes back from a crash without its last messages, and gives their places again."""
        for _ in range(count):
            self._stored.pop()
        self._last -= count
        self._known.clear()

    def messages(self, subject: str = ">") -> list[Message]:
        """Everything that is stored on a subject or pattern, in order."""
        subscription = self.subscribe(subject, start=Start.beginning())
        found = []
        while (delivery := subscription.next(0.0)) is not None:
            found.append(delivery.message)
        return found

    def _reach(self) -> None:
        if self.down is not None:
            raise self.down


def unavailable(_: Message | None = None) -> MiddlewareError:
    return UnavailableError("the bus cannot be reached")


def full() -> MiddlewareError:
    error = LimitError("the bus is full")
    error.retryable = True
    return error
