"""The bus in this process: the reference that tests/contract/test_transport.py holds every other one to.

A rehearsal publishes to it (docs/rehearsal.md), and has it forget what was compared.

Everything is kept in one list under one lock; nothing is fast, and nothing is shared with another process. What a real
bus does by its limits (removes the oldest, forgets message ids, overruns a slow subscriber) happens here by the same
rules, so that a consumer can be tested against it. Any thread may call.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ssmd.errors import (
    ConflictError,
    LaggedError,
    LimitError,
    MiddlewareError,
    PublishError,
    RejectedError,
    UnavailableError,
)
from ssmd.middleware.interfaces import Delivery, Message, Receipt, Start
from ssmd.middleware.interfaces import Subscription as SubscriptionOf
from ssmd.middleware.names import WORD, matches, meets, uncovered

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class _Stored:
    sequence: int
    time_ns: int
    message: Message


@dataclass(slots=True, eq=False)
class _Durable:
    """What the bus keeps of a durable subscription: the place from which it gives again, and what was acked there."""

    pattern: str
    begin: int
    acked: set[int] = field(default_factory=set)
    removed: list[int] = field(default_factory=list)  # places of those that the bus gave up before they were acked
    holder: _StreamSubscription | None = None


def check_subject(subject: str) -> None:
    """RejectedError for what is no subject to publish on."""
    words = subject.split(".")
    if not all(words) or "*" in words or ">" in words or " " in subject or not subject.isprintable():
        raise RejectedError(f"{subject!r} is no subject to publish on: words joined by dots, no spaces, no * or >")


def check_header(text: str) -> None:
    """RejectedError for what is no name, value or message id."""
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise RejectedError(f"{text[:80]!r} is no header: visible ASCII, without spaces at its ends")


class MemoryTransport:
    """A bus with one stream. `max_messages` and `max_bytes` (of payloads) of it: the oldest go first; 0: no limit."""

    def __init__(
        self,
        *,
        subjects: Sequence[str] = (),
        max_payload_bytes: int = MIB,
        max_messages: int = 0,
        max_bytes: int = 0,
        duplicate_window_s: float = 120.0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`subjects`: what the stream stores from the start; `ensure_stream` sets it too."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._subjects = tuple(subjects)
        self._created = secrets.token_hex(8)
        self._max_payload_bytes = max_payload_bytes
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._duplicate_window_ns = round(duplicate_window_s * 1e9)
        self._clock_ns = clock_ns
        self._stored: deque[_Stored] = deque()
        self._stored_bytes = 0
        self._last = 0
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()  # message id -> place, time
        self._durables: dict[str, _Durable] = {}
        self._readers: list[_StreamSubscription] = []
        self._servers: list[_Requests] = []
        self._answers: dict[str, bytes | None] = {}  # of requests under way
        self._asked = 0
        self._closed = False

    # ---- checks ------------------------------------------------------------------------------------------------------

    @property
    def max_payload_bytes(self) -> int:
        return self._max_payload_bytes

    def check(self, subjects: Sequence[str] = ()) -> None:
        with self._open():
            if subjects and not self._subjects:
                raise RejectedError("the bus has no stream yet")
            missing = uncovered(self._subjects, subjects)
            if missing and not any(meets(stored, subject) for stored in self._subjects for subject in subjects):
                raise ConflictError(f"the stream is another's: it stores {', '.join(self._subjects)}")
            if missing:
                raise RejectedError(f"the stream does not store {', '.join(missing)}")

    def ensure_stream(self, subjects: Sequence[str]) -> bool:
        with self._open():
            made = not self._subjects
            if made:
                self._subjects = tuple(subjects)
                self._created = secrets.token_hex(8)
            self.check(subjects)
            return made

    def stream_created(self) -> str:
        with self._open():
            if not self._subjects:
                raise RejectedError("the bus has no stream yet")
            return self._created

    def last_sequence(self) -> int:
        with self._open():
            return self._last

    def _stores(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self._subjects)

    def _open(self) -> threading.Condition:
        if self._closed:
            raise UnavailableError("the bus was closed")
        return self._changed

    # ---- publishing --------------------------------------------------------------------------------------------------

    def publish(self, message: Message, *, timeout_s: float = 5.0) -> Receipt:
        with self._open():
            check_subject(message.subject)
            for text in (*message.headers, *message.headers.values()):
                check_header(text)
            if message.message_id is not None:
                check_header(message.message_id)
            if len(message.payload) > self._max_payload_bytes:
                raise LimitError(
                    f"a message of {len(message.payload)} bytes is more than the bus takes ({self._max_payload_bytes})"
                )
            if not self._stores(message.subject):
                raise RejectedError(f"no stream of the bus stores {message.subject}")
            return self._store(message)

    def _store(self, message: Message) -> Receipt:
        now_ns = self._clock_ns()
        while self._known and next(iter(self._known.values()))[1] < now_ns - self._duplicate_window_ns:
            self._known.popitem(last=False)
        if message.message_id is not None:
            known = self._known.get(message.message_id)
            if known is not None:
                return Receipt(known[0], duplicate=True)
        self._last += 1
        if message.message_id is not None:
            self._known[message.message_id] = (self._last, now_ns)
        self._stored.append(_Stored(self._last, now_ns, message))
        self._stored_bytes += len(message.payload)
        while self._over():
            self._remove_oldest()
        self._changed.notify_all()
        return Receipt(self._last)

    def _remove_oldest(self) -> None:
        gone = self._stored.popleft()
        self._stored_bytes -= len(gone.message.payload)
        for reader in self._readers:
            reader.lose(gone)
        for durable in self._durables.values():
            if gone.sequence >= durable.begin and matches(durable.pattern, gone.message.subject):
                durable.removed.append(gone.sequence)

    def forget(self, before: int) -> None:
        """Removes the messages below a place, as limits do, and what is known of their ids: they may come again."""
        with self._open():
            while self._stored and self._stored[0].sequence < before:
                self._remove_oldest()
            while self._known and next(iter(self._known.values()))[0] < before:
                self._known.popitem(last=False)
            self._changed.notify_all()

    def _over(self) -> bool:
        if self._max_messages and len(self._stored) > self._max_messages:
            return True
        return bool(self._max_bytes and self._stored_bytes > self._max_bytes and len(self._stored) > 1)

    def publish_all(self, messages: Sequence[Message], *, timeout_s: float = 30.0) -> list[Receipt]:
        receipts: list[Receipt] = []
        try:
            for message in messages:
                receipts.append(self.publish(message))
        except MiddlewareError as error:
            raise PublishError(
                f"{len(receipts)} of {len(messages)} messages are confirmed: {error.args[0]}",
                receipts=receipts,
                cause=error,
            ) from error
        return receipts

    # ---- subscribing -------------------------------------------------------------------------------------------------

    def subscribe(
        self, pattern: str, *, start: Start | None = None, durable: str | None = None, pending: int = 65_536
    ) -> SubscriptionOf:
        with self._open():
            if pending < 1:
                raise RejectedError("a subscription needs room for at least one message (pending)")
            if durable is not None and not WORD.fullmatch(durable):
                raise RejectedError(f"{durable[:80]!r} is no name of a durable subscription: letters, digits, '_', '-'")
            kept = self._durables.get(durable) if durable is not None else None
            begin = kept.begin if kept is not None else self._place(start or Start.end())
            made = _StreamSubscription(self, pattern, begin)
            made.from_ns = start.value if start is not None and start.at == "time" and kept is None else 0
            if durable is not None:
                kept = kept or _Durable(pattern, begin)
                if kept.holder is not None:
                    kept.holder.taken_over()
                made.missed = len([place for place in kept.removed if place not in kept.acked])
                kept.holder, made.durable = made, kept
                self._durables[durable] = kept
            self._readers.append(made)
            return made

    def _place(self, start: Start) -> int:
        """The first place in the stream that a subscription wants."""
        if start.at == "number":
            return max(start.value, 1)
        if start.at == "time":
            found = (stored.sequence for stored in self._stored if stored.time_ns >= start.value)
            return next(found, self._last + 1)
        return self._last + 1 if start.at == "end" else 1

    def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        check_subject(subject)
        deadline = time.monotonic() + timeout_s
        with self._open():
            self._check_size(payload)
            self._not_stored(subject)
            self._asked += 1
            reply_to = f"_REPLY.{self._asked}"
            servers = [server for server in self._servers if matches(server.pattern, subject)]
            if not servers:
                raise UnavailableError(f"nobody answers on {subject}")
            self._answers[reply_to] = None
            for server in servers:
                server.put(Delivery(Message(subject, payload), 0, 0, reply_to=reply_to))
            self._changed.notify_all()
            try:
                while not self._closed:
                    answer = self._answers[reply_to]
                    if answer is not None:
                        return answer
                    wait_s = deadline - time.monotonic()
                    if wait_s <= 0:
                        break
                    self._changed.wait(wait_s)
            finally:
                del self._answers[reply_to]
            raise UnavailableError(f"nobody answered on {subject} within {timeout_s:g} s")

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._max_payload_bytes:
            raise LimitError(f"{len(payload)} bytes are more than the bus takes ({self._max_payload_bytes})")

    def _not_stored(self, subject: str) -> None:
        if self._stores(subject):
            raise RejectedError(f"{subject} is stored by the stream: requests need another subject")

    def reply(self, delivery: Delivery, payload: bytes) -> None:
        if delivery.reply_to is None:
            raise RejectedError("this delivery is no request: it has nobody to reply to")
        with self._open():
            self._check_size(payload)
            if delivery.reply_to in self._answers and self._answers[delivery.reply_to] is None:
                self._answers[delivery.reply_to] = payload
                self._changed.notify_all()

    def serve(self, subject: str) -> SubscriptionOf:
        with self._open():
            self._not_stored(subject)
            made = _Requests(self, subject)
            self._servers.append(made)
            return made

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Waiting:
    """What both kinds of subscription share: waiting for something to hand out."""

    def __init__(self, bus: MemoryTransport) -> None:
        self._bus = bus
        self._ended: MiddlewareError | None = None

    def next(self, timeout_s: float) -> Delivery | None:
        deadline = time.monotonic() + timeout_s
        with self._bus._changed:
            while True:
                if self._bus._closed:
                    raise UnavailableError("the bus was closed")
                if self._ended is not None:
                    raise self._ended
                found = self._take()
                if found is not None:
                    return found
                wait_s = deadline - time.monotonic()
                if wait_s <= 0:
                    return None
                self._bus._changed.wait(wait_s)

    def _take(self) -> Delivery | None:
        raise NotImplementedError

    def unsubscribe(self) -> None:
        with self._bus._changed:
            self._ended = self._ended or UnavailableError("the subscription was ended")
            self._bus._changed.notify_all()


class _StreamSubscription(_Waiting):
    """Reads the bus's own list at its own pace: only what the bus removes is missed."""

    def __init__(self, bus: MemoryTransport, pattern: str, begin: int) -> None:
        super().__init__(bus)
        self._pattern = pattern
        self._next = begin
        self.missed = 0  # messages of ours that were removed unread
        self.from_ns = 0  # a start in the future
        self.durable: _Durable | None = None

    def lose(self, gone: _Stored) -> None:
        """The bus removes a message."""
        if gone.sequence >= self._next:
            self._next = gone.sequence + 1
            self.missed += matches(self._pattern, gone.message.subject)

    def _take(self) -> Delivery | None:
        stored = self._bus._stored
        if self.missed:
            missed, self.missed = self.missed, 0
            raise LaggedError(f"the bus removed {missed} messages before they were read", missed=missed)
        first = stored[0].sequence if stored else self._bus._last + 1
        self._next = max(self._next, first)
        while self._next <= self._bus._last:
            found = stored[self._next - first]
            self._next += 1
            if found.time_ns < self.from_ns or (self.durable is not None and found.sequence in self.durable.acked):
                continue
            self.from_ns = 0
            if matches(self._pattern, found.message.subject):
                return Delivery(found.message, found.sequence, found.time_ns, token=found.sequence)
        return None

    def ack(self, delivery: Delivery) -> None:
        with self._bus._lock:
            kept = self.durable
            if kept is None or kept.holder is not self:
                return
            kept.acked.add(delivery.sequence)
            while kept.begin <= self._bus._last and (kept.begin in kept.acked or not self._is_ours(kept.begin)):
                kept.acked.discard(kept.begin)
                kept.begin += 1
            kept.removed = [place for place in kept.removed if place >= kept.begin]

    def _is_ours(self, sequence: int) -> bool:
        stored = self._bus._stored
        first = stored[0].sequence if stored else self._bus._last + 1
        return sequence >= first and matches(self._pattern, stored[sequence - first].message.subject)

    def unsubscribe(self) -> None:
        super().unsubscribe()
        with self._bus._lock:
            if self in self._bus._readers:
                self._bus._readers.remove(self)

    def taken_over(self) -> None:
        """Another subscriber has the name now."""
        self._ended = self._ended or ConflictError("another subscriber took over this durable subscription")
        self.unsubscribe()


class _Requests(_Waiting):
    """Requests on a pattern; those beyond the limit are lost, and said to be."""

    PENDING = 4096

    def __init__(self, bus: MemoryTransport, pattern: str) -> None:
        super().__init__(bus)
        self.pattern = pattern
        self._waiting: deque[Delivery] = deque()
        self._missed = 0

    def put(self, request: Delivery) -> None:
        if len(self._waiting) >= self.PENDING:
            self._missed += 1
        else:
            self._waiting.append(request)

    def _take(self) -> Delivery | None:
        if self._waiting:
            return self._waiting.popleft()
        if self._missed:
            missed, self._missed = self._missed, 0
            raise LaggedError(f"{missed} requests came while none was taken", missed=missed)
        return None

    def ack(self, delivery: Delivery) -> None:
        """A request is answered, not acknowledged."""

    def unsubscribe(self) -> None:
        super().unsubscribe()
        with self._bus._lock:
            if self in self._bus._servers:
                self._bus._servers.remove(self)
