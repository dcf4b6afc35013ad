"""The four interfaces of the middleware: Transport, Storage, Cache, Journal.

Everything that an implementation must keep stands here; one contract suite per interface (tests/contract/) holds the
memory twin, which is the reference, and every real implementation to it. Pure: no library, no socket, no clock.

Common to all four:

* Calls are synchronous, and block the calling thread no longer than their `timeout_s` (where they have one) or the
  implementation's own limit, which its constructor states. An instance belongs to one thread unless it says otherwise.
* Errors are those of `ssmd.errors`: UnavailableError (worth a retry), RejectedError (credentials, rights, something
  that must exist and does not: the user's), LimitError (too large: a retry changes nothing; or full: `retryable`),
  ConflictError (there is something else already), LaggedError (a subscriber missed messages). The library's own words
  stand in `evidence`.
* `close` gives everything back, may be called twice, and every call after it raises UnavailableError.
* `check` asks the service for everything that use would need, changes nothing that exists, and raises what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, runtime_checkable

Headers = Mapping[str, str]  # names and values of visible ASCII, without line ends
NO_HEADERS: Final[Headers] = MappingProxyType({})


# ---- Transport -------------------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """What is published. `message_id`: a message whose id is known already (within the window) is not stored again."""

    subject: str
    payload: bytes
    headers: Headers = NO_HEADERS
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The bus has stored a message: its place there (counts up from 1), or the place of the one with the same id."""

    sequence: int
    duplicate: bool = False


class Delivery(NamedTuple):
    """A message that was received. `token` is the implementation's: what `ack` and `reply` need."""

    message: Message
    sequence: int  # place on the bus, 0 = it was not stored (requests)
    time_ns: int  # UTC ns when the bus stored it, 0 = unknown
    reply_to: str | None = None
    token: object = None


class Subscription(Protocol):
    """Messages of the subjects that match a pattern, in the order in which the bus stored them."""

    def next(self, timeout_s: float) -> Delivery | None:
        """The next message, or None when none came in time.

        Raises LaggedError(missed=n) once, in the place where n messages are missing (the limit of `pending` was
        reached, or the bus removed them before they were read); the call after it goes on behind the hole.
        UnavailableError while the bus cannot be reached; a later call goes on where this one stood.
        """

    def ack(self, delivery: Delivery) -> None:
        """It is done with. A durable subscription is given everything again that was not acked; others may skip it."""

    def unsubscribe(self) -> None:
        """No more messages. Twice is no error. A durable subscription keeps its position on the bus."""


class Transport(Protocol):
    """A bus of stored messages with subjects, many publishers and many subscribers.

    Subjects are words joined by dots; in a pattern `*` stands for one word, `>` at the end for one or more.
    Ordering: what one publisher sends is stored in that order. Idempotence: by message id. Limits: `max_payload_bytes`.
    """

    @property
    def max_payload_bytes(self) -> int:
        """A larger payload is a LimitError."""

    def check(self, subjects: Sequence[str] = ()) -> None:
        """The bus is there, lets us in, and stores each of these subjects or patterns. Raises what is not so.

        RejectedError: the stream is missing, stores only some of them, or keeps in a way that loses messages.
        ConflictError: a stream of that name is there, and stores none of them: it is another's. Without subjects a
        missing stream is no error (`ensure_stream` would make it), one that is not for us is.
        """

    def ensure_stream(self, subjects: Sequence[str]) -> bool:
        """Makes the stream that stores these patterns where there is none, and says whether it did; then as `check`.

        A stream that is there is left as it is.
        """

    def last_sequence(self) -> int:
        """The place of the newest message that the stream was given, 0 = none yet. It may have been removed since."""

    def stream_created(self) -> str:
        """When the stream was made, in the bus's own words: tells it from another one of that name.

        RejectedError where there is none.
        """

    def publish(self, message: Message, *, timeout_s: float = 5.0) -> Receipt:
        """Stores one message; returns when the bus has confirmed it.

        UnavailableError: it may or may not be stored (publish it again with the same id). RejectedError: no stream
        stores this subject, or we have no right to. LimitError: too large, or the bus is full.
        """

    def publish_all(self, messages: Sequence[Message], *, timeout_s: float = 30.0) -> list[Receipt]:
        """Stores messages, pipelined: a receipt for each, in their order; returns when all are confirmed.

        On failure raises PublishError with `receipts`: those of the longest confirmed run from the beginning. Messages
        after it may be stored too: publish them again with the same ids, in order.
        """

    def subscribe(
        self, pattern: str, *, start: Start | None = None, durable: str | None = None, pending: int = 65_536
    ) -> Subscription:
        """Messages from `start` on (None: those published from now on). At most `pending` wait here unread.

        `durable`: a name under which the bus keeps the position over restarts; `start` counts for the first time only.
        """

    def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Asks whoever answers on this subject; nothing is stored. UnavailableError when no answer came in time."""

    def reply(self, delivery: Delivery, payload: bytes) -> None:
        """Answers a request that came in by `serve`."""

    def serve(self, subject: str) -> Subscription:
        """Requests on this subject (not stored messages): each `next` is one to `reply` to."""

    def close(self) -> None: ...


# ---- Storage ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object. `etag` is the hex MD5 of its bytes unless `multipart` (then the service's own, compare sizes)."""

    key: str
    size_bytes: int
    etag: str
    modified_ns: int
    multipart: bool = False


class Storage(Protocol):
    """Objects: whole files under keys. A key is 1 to 1,024 bytes of UTF-8: names joined by '/', none empty, '.', '..'.

    An object appears whole or not at all, and is there for every reader once `put` returned. Any thread may call.
    """

    def check(self, *, writable: bool = True) -> None:
        """The bucket or folder is there and we have the rights that we need."""

    def put(self, key: str, data: bytes | Iterator[bytes], *, if_absent: bool = False) -> ObjectInfo:
        """Stores an object, replacing one of that key; large ones in parts.

        ConflictError with `if_absent`: there is one already. Of many callers at once exactly one succeeds.
        """

    def get(self, key: str) -> bytes:
        """The whole object. MissingObjectError where there is none."""

    def range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`: fewer at the end, b"" behind it. MissingObjectError."""

    def stream(self, key: str, *, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The object in pieces of about this size, without holding it whole. MissingObjectError at the first."""

    def head(self, key: str) -> ObjectInfo:
        """What is known of an object without its bytes. MissingObjectError."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with `prefix` (any text, not only whole names), sorted by key (as bytes)."""

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error."""

    def close(self) -> None: ...


# ---- Cache -----------------------------------------------------------------------------------------------------------


class Cache(Protocol):
    """Short-lived values under keys: what is lost with it can be computed again.

    Keys are 1 to 512 bytes of UTF-8, values at most 1 MiB (else LimitError). `ttl_s` None: no expiry of its own. A full
    memory cache (`max_size` entries) gives up what was used longest ago; Redis follows its own policy. Any thread.
    """

    def check(self) -> None: ...

    def get(self, key: str) -> bytes | None:
        """The value, or None: never set, expired, or given up."""

    def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None: ...

    def set_if_absent(self, key: str, value: bytes, *, ttl_s: float | None = None) -> bool:
        """Whether it was set: of many callers at once exactly one is told True."""

    def delete(self, key: str) -> bool:
        """Whether it was there."""

    def exists(self, key: str) -> bool: ...

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """One answer for each key, in order. [] for none."""

    def mset(self, values: Mapping[str, bytes], *, ttl_s: float | None = None) -> None:
        """Sets all of them in one exchange with the service."""

    def scan(self, prefix: str) -> Iterator[str]:
        """Keys that begin with `prefix`, each once, in no order; those set or lost meanwhile may be there or not."""

    def close(self) -> None: ...


# ---- Journal ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader begins. Made by the four functions below."""

    at: str  # beginning | end | number | time
    value: int = 0  # number: the first one wanted; time: UTC ns, entries from then on

    @staticmethod
    def beginning() -> Start:
        """The oldest entry that there still is."""
        return Start("beginning")

    @staticmethod
    def end() -> Start:
        """Only what is appended from now on."""
        return Start("end")

    @staticmethod
    def number(first: int) -> Start:
        """The entry of this number, or the first one after it."""
        return Start("number", first)

    @staticmethod
    def time(from_ns: int) -> Start:
        """The first entry appended at or after this instant, and all after it."""
        return Start("time", from_ns)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a journal. Numbers begin at 1, count up by one, and are never used again."""

    number: int
    topic: str  # words joined by dots, as subjects are
    payload: bytes
    headers: Headers
    time_ns: int  # UTC ns when it was appended (captured records: received)


class JournalReader(Protocol):
    """Entries in order of their numbers, each once. Appends after its making are seen. Any number may read at once."""

    def next(self, timeout_s: float = 0.0) -> Entry | None:
        """The next entry, or None when there is none yet. LaggedError once where entries were removed unread.

        DamageError once where stored bytes do not check out; the call after it goes on behind the damage.
        """

    def seek(self, start: Start) -> None:
        """The next entry is the first one from there."""

    def close(self) -> None: ...


class Journal(Protocol):
    """An endless list of entries that is only appended to. One writer, any number of readers in any process."""

    def check(self) -> None: ...

    def append(self, topic: str, payload: bytes, headers: Headers | None = None) -> int:
        """Adds an entry and returns its number once every reader can have it."""

    def topics(self) -> dict[str, int]:
        """Every topic with the number of its entries."""

    def end(self) -> int | None:
        """The number of the last entry; None for a journal that has none yet (0 is no number)."""

    def reader(self, start: Start, *, topics: Sequence[str] = ()) -> JournalReader:
        """A reader of all topics, or of those that match one of these patterns (`*` and `>` as in subjects)."""

    def close(self) -> None: ...


# ---- what only those in memory can -----------------------------------------------------------------------------------


@runtime_checkable
class Forgetful(Protocol):
    """A bus or journal whose owner says when its oldest may go: those in memory, where nobody else needs them."""

    def forget(self, before: int) -> None:
        """Removes everything below a place or number. A reader that had not come so far is told, as by a limit."""
