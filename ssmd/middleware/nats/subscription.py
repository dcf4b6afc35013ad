"""Subscriptions: messages of a stream by a pull consumer, and requests of core NATS.

    stream  ── consumer at `position + 1` ── pull requests ──> queue (at most `pending`) ──> next()
                       ^                                          |
                       `---- made anew after every break ---------'  position = the last one that came in

What counts is `position`, and it is kept here: the consumer on the server is only how messages come from there on.
After a break, or when the server lost the consumer, a new one begins behind it, so nothing comes twice and nothing is
left out. A reader that is slow leaves messages in the stream: only the stream's limits can take them away, and that is
LaggedError. So is a stream that was made anew, or came back without its end: places begin again there, and so do we.

A durable subscription keeps its position in a consumer on the bus, named `{durable}-{generation}`: acknowledging moves
it. Whoever subscribes by the name makes the next generation from where the last one was acknowledged, and then deletes
that: all that was not acknowledged comes again, at once and in order. A process that dies in between leaves both; the
higher one counts.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import nats.errors
from nats.aio.msg import Msg

from ssmd.errors import ConflictError, LaggedError, MiddlewareError, RejectedError, UnavailableError
from ssmd.middleware.interfaces import Delivery, Message, Start
from ssmd.middleware.names import WORD, covers
from ssmd.middleware.nats.client import BusClient, while_connected
from ssmd.middleware.nats.connection import Connection, end_task
from ssmd.middleware.nats.stream import BEGINS_AGAIN, NS, StreamFacts, api, begins_again, first_since, stream_facts

PULL_MESSAGES: Final = 1000  # at most in one request
PULL_EXPIRES_S: Final = 2.0  # an idle request is asked again after this
PULL_GRACE_S: Final = 3.0  # no answer at all for so long after that: the consumer is lost
ABANDONED_S: Final = 60.0  # the server removes an ephemeral consumer that nobody asks
ACK_WAIT_S: Final = 86_400.0  # the server gives nothing again by itself: the next subscriber asks for it
RETRY_S: Final = 0.2
COMPLETE: Final = ""  # all that a request asked for came
SILENT: Final = "?"  # nothing came, not even that nothing did
FINE: Final = (COMPLETE, "404", "408")  # the two: there is no more
CALL_TIMEOUT_S: Final = 5.0
MESSAGE_ID: Final = "Nats-Msg-Id"


class _Queue:
    """What waits for the caller's thread: deliveries and, in their place, the errors that belong between them."""

    def __init__(self, pending: int, drained: Callable[[], None]) -> None:
        self._items: deque[Delivery | LaggedError] = deque()
        self._changed = threading.Condition()
        self._pending = pending
        self._drained = drained
        self._trouble: MiddlewareError | None = None
        self._end: MiddlewareError | None = None

    def room(self) -> int:
        return self._pending - len(self._items)

    def put(self, item: Delivery | LaggedError) -> None:
        with self._changed:
            self._items.append(item)
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
            item = self._items.popleft()
            low = len(self._items) == self._pending // 2 or not self._items
        if low:
            self._drained()
        if isinstance(item, LaggedError):
            raise item
        return item


def place_of(reply: str) -> tuple[int, int]:
    """Place in the stream and time (UTC ns) of a message, from the subject that acknowledges it:

    $JS.ACK.<stream>.<consumer>.<deliveries>.<place>.<number here>.<time>.<messages behind it>, since 2.10 optionally
    with a domain and an account in front.
    """
    words = reply.split(".")
    shift = 5 if len(words) < 11 else 7
    return int(words[shift]), int(words[shift + 2])


def delivery_of(message: Msg, sequence: int, time_ns: int) -> Delivery:
    headers = {name: value for name, value in (message.headers or {}).items() if name != MESSAGE_ID}
    message_id = (message.headers or {}).get(MESSAGE_ID)
    return Delivery(
        message=Message(message.subject, message.data, headers, message_id),
        sequence=sequence,
        time_ns=time_ns,
        token=message.reply,
    )


class StreamSubscription:
    """A Subscription of stored messages."""

    def __init__(
        self, connection: Connection, stream: str, pattern: str, start: Start, durable: str | None, pending: int
    ) -> None:
        if pending < 1:
            raise RejectedError("a subscription needs room for at least one message (pending)")
        if durable is not None and not WORD.fullmatch(durable):
            raise RejectedError(f"{durable[:80]!r} is no name of a durable subscription: letters, digits, '_', '-'")
        self._connection = connection
        self._stream = stream
        self._pattern = pattern
        self._start = start
        self._durable = durable
        self._pending = pending
        self._generation = 0
        self._position: int | None = None  # None: the first message that comes decides it
        self._whole = False  # the pattern is all that the stream stores: every hole in the places is a loss
        self._seen: int | None = None  # everything up to there was given or is not ours (>= position)
        # JetStream takes a number or time beyond the end for the next message.
        self._least = start.value if start.at == "number" else 0
        self._from_ns = start.value if start.at == "time" else 0
        self._created = ""  # when the stream was made that these places are of
        self._last_ns = 0  # when the last message that came in was stored
        self._consumer: str | None = None
        self._queue = _Queue(pending, lambda: connection.soon(self._more))
        self._wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._outstanding = 0
        self._status = COMPLETE
        self._holding = False
        self._held: list[Msg] = []
        self._unacked: set[int] = set()
        self._acks: deque[str] = deque()
        self._lock = threading.Lock()  # for the two above
        self._task: asyncio.Task[None] | None = None
        self.ended = False

    # ---- for the caller's thread -------------------------------------------------------------------------------------

    def next(self, timeout_s: float) -> Delivery | None:
        return self._queue.next(timeout_s)

    def ack(self, delivery: Delivery) -> None:
        if self._durable is None or not isinstance(delivery.token, str):
            return
        with self._lock:
            self._unacked.discard(delivery.sequence)
            self._acks.append(delivery.token)
            first = len(self._acks) == 1
        if first:
            self._connection.soon(lambda: self._connection.spawn(self._send_acks()))

    def unsubscribe(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._queue.discard()
        self._queue.end(UnavailableError("the subscription was ended"))
        if not self._connection.closed:
            self._connection.call(self._stop(), CALL_TIMEOUT_S)

    # ---- on the loop -------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Makes the consumer, so that what is published after this returned is seen; then pulls for ever."""
        client = await self._connection.connected(CALL_TIMEOUT_S)
        await self._make_consumer(client)
        self._task = self._connection.spawn(self._pump())

    def closed(self) -> None:
        """The connection is gone for good."""
        self._queue.end(UnavailableError("the connection to the bus was closed"))

    def _more(self) -> None:
        self._wanted.set()

    async def _pump(self) -> None:
        while not self.ended:
            try:
                client = await self._connection.connected(CALL_TIMEOUT_S)
                if self._consumer is None:
                    await self._make_consumer(client)
                self._queue.trouble(None)
                await self._pull(client)
            except ConflictError as error:
                self._queue.end(error)
                return
            except MiddlewareError as error:
                self._queue.trouble(error)
            except (nats.errors.Error, OSError) as error:
                self._queue.trouble(UnavailableError("the bus cannot be reached", evidence=str(error)))
            self._consumer = None
            await asyncio.sleep(RETRY_S)

    async def _pull(self, client: BusClient) -> None:
        """Asks for messages as long as there is room for them; returns when connection or consumer are gone."""
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=self._take, pending_msgs_limit=0, pending_bytes_limit=0)
        least = max(self._pending // 2, 1)
        caught_up = False
        try:
            while self._connection.client is client and not self.ended:
                if caught_up:
                    self._seen = max(self._seen or 0, (await stream_facts(client, self._stream)).last)
                await self._until_room(least)
                status = await self._ask(client, inbox, min(self._queue.room(), PULL_MESSAGES))
                if status not in FINE:
                    return
                caught_up = status != COMPLETE
        finally:
            self._held.clear()
            if self._connection.client is client:
                await subscription.unsubscribe()

    async def _until_room(self, least: int) -> None:
        while self._queue.room() < least:
            self._wanted.clear()
            if self._queue.room() < least:
                await self._wanted.wait()

    async def _ask(self, client: BusClient, inbox: str, messages: int) -> str:
        """One pull request and its answers; gives the status that ended it.

        What it brings is held until the stream was looked at: what the stream had removed by then, and we had not seen,
        is what was missed, and its error belongs in front of what came.
        """
        self._outstanding, self._status = messages, COMPLETE
        self._answered.clear()
        self._holding = True
        asked = {"batch": messages, "expires": round(PULL_EXPIRES_S * NS)}
        where = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await client.publish(where, json.dumps(asked).encode(), reply=inbox)
        self._look_for_hole(await stream_facts(client, self._stream))
        self._holding = False
        for message in self._held:
            self._accept(message)
        self._held.clear()
        while self._outstanding > 0 and self._status == COMPLETE:
            before = self._outstanding
            try:
                await while_connected(client, self._answered.wait(), PULL_EXPIRES_S + PULL_GRACE_S)
            except TimeoutError:
                if self._outstanding == before:
                    return SILENT
            if self.ended:
                return SILENT
        return self._status

    async def _take(self, message: Msg) -> None:
        """A message of the stream, or the end of a pull request."""
        if not message.reply:
            self._status = (message.headers or {}).get("Status", SILENT)
            self._answered.set()
            return
        self._outstanding -= 1
        if self._outstanding <= 0:
            self._answered.set()
        if self._holding:
            self._held.append(message)
        else:
            self._accept(message)

    def _accept(self, message: Msg) -> None:
        """A message of the stream, in its turn."""
        sequence, time_ns = place_of(message.reply)
        position = self._position
        if position is not None and sequence <= position:
            self._again(sequence, message.reply)
            return
        if sequence < self._least or time_ns < self._from_ns:
            return
        self._from_ns = 0
        if self._whole and position is not None and sequence > position + 1:
            self._lagged(sequence - position - 1, position, sequence)
        self._position = self._seen = sequence
        self._last_ns = time_ns
        if self._durable is not None:
            with self._lock:
                self._unacked.add(sequence)
        self._queue.put(delivery_of(message, sequence, time_ns))

    def _again(self, sequence: int, reply: str) -> None:
        """A message that came before: the bus lost its acknowledgement, if there was one."""
        with self._lock:
            if self._durable is None or sequence in self._unacked:
                return
            self._acks.append(reply)
        self._connection.spawn(self._send_acks())

    def _look_for_hole(self, facts: StreamFacts) -> None:
        """Whether the stream begins behind what we have seen of it: what was between is gone, unread.

        Of a pattern that is not all of the stream, places say little: most of them are not ours, so a hole may be none.
        """
        self._whole = all(covers(self._pattern, stored) for stored in facts.subjects)
        seen = self._position if self._whole else self._seen
        if seen is None or facts.first <= seen + 1:
            return
        self._lagged(facts.first - seen - 1 if self._whole else 0, seen, facts.first)
        self._position = self._seen = facts.first - 1

    async def _look_for_return(self, client: BusClient, facts: StreamFacts) -> None:
        """Whether our places are still those of the stream: else we would wait for what it has given long ago."""
        changed = begins_again(facts, self._created or facts.created, self._seen or 0)
        self._created = facts.created
        if not changed:
            return
        first = await first_since(client, facts, self._last_ns + 1)
        said = BEGINS_AGAIN.format(self._stream, first, (self._seen or 0) + 1)
        self._queue.put(LaggedError(said, missed=0, hint="What was lost is in the journal."))
        self._position, self._seen, self._least = first - 1, first - 1, 0
        with self._lock:
            self._unacked = {place for place in self._unacked if place < first}

    def _lagged(self, missed: int, position: int, sequence: int) -> None:
        count = f"{missed} messages" if missed else "messages (how many of ours is not known, perhaps none)"
        self._queue.put(
            LaggedError(
                f"stream {self._stream} removed {count} between {position} and {sequence} before they were read",
                missed=missed,
                hint="The journal has them. Read faster, or raise the stream's limits (transport.stream_max_bytes, "
                "transport.stream_max_age_hours).",
            )
        )

    # ---- consumers ---------------------------------------------------------------------------------------------------

    async def _make_consumer(self, client: BusClient) -> None:
        """A consumer from our position on; the first time from `start` on."""
        facts = await stream_facts(client, self._stream)
        self._whole = all(covers(self._pattern, stored) for stored in facts.subjects)
        await self._look_for_return(client, facts)
        if self._durable is not None:
            await self._next_generation(client, self._durable, facts)
            return
        if self._position is None and self._start.at == "end":
            self._position = self._seen = facts.last
        config = self._config(facts)
        config |= {"ack_policy": "none", "inactive_threshold": round(ABANDONED_S * NS)}
        made = await api(
            client,
            f"CONSUMER.CREATE.{self._stream}",
            {"stream_name": self._stream, "config": config},
            f"read {self._pattern} of stream {self._stream}",
        )
        self._consumer = str(made["name"])

    def _config(self, facts: StreamFacts) -> dict[str, Any]:
        config: dict[str, Any] = {"replay_policy": "instant", "max_deliver": -1}
        if not self._whole:
            config["filter_subject"] = self._pattern
        if self._position is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._position + 1}
        elif self._start.at == "number":
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(self._start.value, 1)}
        elif self._start.at == "time":
            config |= {"deliver_policy": "by_start_time", "opt_start_time": _rfc3339(self._start.value)}
        else:
            config |= {"deliver_policy": "all"}
        return config

    async def _next_generation(self, client: BusClient, durable: str, facts: StreamFacts) -> None:
        """The consumer of a durable name, anew from what was acknowledged."""
        older = await self._generations(client, durable)
        if self._generation and older and max(older) > self._generation:
            raise ConflictError(f"another subscriber took over the durable subscription {durable}")
        if self._generation:
            with self._lock:
                floor = min(self._unacked) - 1 if self._unacked else self._position
        elif older:
            self._position = self._seen = await self._acknowledged(client, durable, max(older))
            await self._look_for_return(client, facts)
            floor = self._position
        else:
            floor = facts.last if self._start.at == "end" else None
            self._position = self._seen = floor
        config = self._config(facts)
        if floor is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
        self._generation = max([self._generation, *older]) + 1
        name = f"{durable}-{self._generation}"
        config |= {"durable_name": name, "ack_policy": "explicit", "ack_wait": round(ACK_WAIT_S * NS)}
        config |= {"max_ack_pending": -1}
        await api(
            client,
            f"CONSUMER.DURABLE.CREATE.{self._stream}.{name}",
            {"stream_name": self._stream, "config": config},
            f"read {self._pattern} of stream {self._stream} as {durable}",
        )
        for generation in older:
            await self._delete(client, f"{durable}-{generation}")
        self._consumer = name

    async def _generations(self, client: BusClient, durable: str) -> list[int]:
        wanted = re.compile(re.escape(durable) + r"-([0-9]+)")
        found: list[int] = []
        offset, total = 0, 1
        while offset < total:
            answer = await api(
                client, f"CONSUMER.NAMES.{self._stream}", {"offset": offset}, f"list consumers of {self._stream}"
            )
            names = answer.get("consumers") or []
            total = answer.get("total", 0)
            found.extend(int(match[1]) for match in map(wanted.fullmatch, names) if match)
            if not names:
                break
            offset += len(names)
        return sorted(found)

    async def _acknowledged(self, client: BusClient, durable: str, generation: int) -> int | None:
        """The place up to which a generation was acknowledged; None where it never began anywhere."""
        name = f"{durable}-{generation}"
        info = await api(client, f"CONSUMER.INFO.{self._stream}.{name}", None, f"find consumer {name}")
        floor = int(info["ack_floor"]["stream_seq"])
        began = info["config"].get("opt_start_seq")
        if began is not None:
            return max(floor, int(began) - 1)
        return floor if floor else None

    async def _delete(self, client: BusClient, name: str) -> None:
        try:
            await api(client, f"CONSUMER.DELETE.{self._stream}.{name}", None, f"delete consumer {name}")
        except MiddlewareError:
            pass  # it is gone already, or goes by itself

    async def _send_acks(self) -> None:
        client = self._connection.client
        with self._lock:
            replies = list(self._acks)
            self._acks.clear()
        if client is None:
            return  # the next generation begins behind what was acknowledged here
        try:
            for reply in replies:
                await client.publish(reply, b"+ACK")
        except nats.errors.Error:
            pass  # as above

    async def _stop(self) -> None:
        if self._task is not None:
            await end_task(self._task)
        client = self._connection.client
        if client is None:
            return
        await self._send_acks()
        try:
            if self._durable is not None:
                await client.flush(int(CALL_TIMEOUT_S))
            elif self._consumer is not None:
                await self._delete(client, self._consumer)
        except (nats.errors.Error, OSError):
            pass


def _rfc3339(time_ns: int) -> str:
    seconds, rest = divmod(max(time_ns, 0), NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


class RequestSubscription:
    """A Subscription of requests: core NATS, nothing is stored; what comes beyond `pending` is lost, and said so."""

    def __init__(self, connection: Connection, subject: str, pending: int) -> None:
        self._connection = connection
        self._subject = subject
        self._queue = _Queue(pending, lambda: None)
        self._subscription: Any = None
        self._missed = 0
        self.ended = False

    def next(self, timeout_s: float) -> Delivery | None:
        return self._queue.next(timeout_s)

    def ack(self, delivery: Delivery) -> None:
        """A request is answered, not acknowledged."""

    def unsubscribe(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._queue.discard()
        self._queue.end(UnavailableError("the subscription was ended"))
        if not self._connection.closed:
            self._connection.call(self._stop(), CALL_TIMEOUT_S)

    async def begin(self) -> None:
        client = await self._connection.connected(CALL_TIMEOUT_S)
        await self._subscribe(client)
        await client.flush(int(CALL_TIMEOUT_S))
        self._connection.on_connect(self._subscribe)

    def closed(self) -> None:
        self._queue.end(UnavailableError("the connection to the bus was closed"))

    async def _subscribe(self, client: BusClient) -> None:
        self._subscription = await client.subscribe(self._subject, cb=self._take)

    async def _take(self, message: Msg) -> None:
        if self._queue.room() <= (1 if self._missed == 0 else 0):
            self._missed += 1
            return
        if self._missed:
            self._queue.put(LaggedError(f"{self._missed} requests came while none was taken", missed=self._missed))
            self._missed = 0
        headers = dict(message.headers or {})
        self._queue.put(Delivery(Message(message.subject, message.data, headers), 0, 0, reply_to=message.reply or None))

    async def _stop(self) -> None:
        self._connection.off_connect(self._subscribe)
        if self._subscription is not None and self._connection.client is not None:
            await self._subscription.unsubscribe()
