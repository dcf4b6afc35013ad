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
import threading
from collections import deque
from typing import Any, Final

import nats.errors

from ssmd.errors import ConflictError, LaggedError, MiddlewareError, RejectedError, UnavailableError
from ssmd.middleware.interfaces import Delivery, Start
from ssmd.middleware.names import WORD, covers
from ssmd.middleware.nats import consumers
from ssmd.middleware.nats.client import BusClient, while_connected
from ssmd.middleware.nats.connection import Connection, end_task
from ssmd.middleware.nats.messages import behind, delivery_of, place_of, status_of
from ssmd.middleware.nats.parser import Raw
from ssmd.middleware.nats.queue import BYTES, CALL_TIMEOUT_S, Queue, Reading
from ssmd.middleware.nats.stream import BEGINS_AGAIN, StreamFacts, begins_again, first_since, stream_facts

PULL_MESSAGES: Final = 8192  # at most in one request
PULL_AT_FIRST: Final = 1000  # before it is known how large they are
PULL_EXPIRES_S: Final = 2.0  # an idle request is asked again after this
PULL_GRACE_S: Final = 3.0  # no answer at all for so long after that: the consumer is lost
RETRY_S: Final = 0.2
COMPLETE: Final = ""  # all that a request asked for came
SILENT: Final = "?"  # nothing came, not even that nothing did
FINE: Final = (COMPLETE, "404", "408")  # the two: there is no more


class StreamSubscription(Reading):
    """A Subscription of stored messages."""

    def __init__(
        self, connection: Connection, stream: str, pattern: str, start: Start, durable: str | None, pending: int
    ) -> None:
        if pending < 1:
            raise RejectedError("a subscription needs room for at least one message (pending)")
        if durable is not None and not WORD.fullmatch(durable):
            raise RejectedError(f"{durable[:80]!r} is no name of a durable subscription: letters, digits, '_', '-'")
        super().__init__(connection, Queue(pending, lambda: connection.soon(self._more)))
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
        self._wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._outstanding = 0
        self._status = COMPLETE
        self._looked_at = 0  # last place of the stream while a request waited
        self._holding = False
        self._held: list[Raw] = []
        self._behind = 0  # messages of ours that the stream had behind the last one that came
        self._came = self._came_bytes = 0  # of late
        self._unacked: set[int] = set()
        self._acks: deque[str] = deque()
        self._lock = threading.Lock()  # for the two above
        self._task: asyncio.Task[None] | None = None

    # ---- for the caller's thread -------------------------------------------------------------------------------------

    def ack(self, delivery: Delivery) -> None:
        if self._durable is None or not isinstance(delivery.token, str):
            return
        with self._lock:
            self._unacked.discard(delivery.sequence)
            self._acks.append(delivery.token)
            first = len(self._acks) == 1
        if first:
            self._connection.soon(lambda: self._connection.spawn(self._send_acks()))

    # ---- on the loop -------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Makes the consumer, so that what is published after this returned is seen; then pulls for ever."""
        client = await self._connection.connected(CALL_TIMEOUT_S)
        await self._make_consumer(client)
        self._task = self._connection.spawn(self._pump())

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
            except Exception as error:  # ours: silence would look like a stream without messages
                self._queue.end(UnavailableError("the subscription failed", evidence=repr(error)))
                raise
            self._consumer = None
            await asyncio.sleep(RETRY_S)

    async def _pull(self, client: BusClient) -> None:
        """Asks for messages as long as there is room for them; returns when connection or consumer are gone."""
        inbox = client.new_inbox()
        tapped = await client.tap(inbox, self._take)
        try:
            while self._connection.client is client and not self.ended:
                await self._until_room()
                status = await self._ask(client, inbox, self._wanted_messages())
                if status not in FINE:
                    return
                if status != COMPLETE and not self._behind:  # what came since may be ours, and was not seen
                    self._seen = max(self._seen or 0, self._looked_at)
        finally:
            self._held.clear()
            if self._connection.client is client:
                await tapped.unsubscribe()

    async def _until_room(self) -> None:
        """Half of the room, in messages and in bytes."""
        least = max(self._pending // 2, 1)
        while self._queue.room() < least or self._queue.room_bytes() < BYTES // 2:
            self._wanted.clear()
            if self._queue.room() < least or self._queue.room_bytes() < BYTES // 2:
                await self._wanted.wait()

    def _wanted_messages(self) -> int:
        """As many as there is room for, if they are as large as those that came."""
        most = PULL_AT_FIRST
        if self._came:
            most = max(min(PULL_MESSAGES, self._queue.room_bytes() * self._came // max(self._came_bytes, 1)), 1)
        self._came, self._came_bytes = self._came // 2, self._came_bytes // 2
        return min(self._queue.room(), most)

    async def _ask(self, client: BusClient, inbox: str, messages: int) -> str:
        """One pull request and its answers; gives the status that ended it.

        What it brings is held until the stream was looked at: what the stream had removed by then, and we had not seen,
        is what was missed, and its error belongs in front of what came.
        """
        self._outstanding, self._status, self._behind = messages, COMPLETE, 0
        self._answered.clear()
        self._holding = True
        await consumers.ask(client, self._stream, self._consumer or "", inbox, messages, PULL_EXPIRES_S)
        facts = await stream_facts(client, self._stream)
        if self._status == COMPLETE:  # the request still waits: what is ours up to there it gives
            self._looked_at = facts.last
        self._look_for_hole(facts)
        self._holding = False
        held, self._held = self._held, []
        try:
            self._accept(held)
        except (ValueError, IndexError) as error:
            self._refuse(error)
            return SILENT
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

    def _take(self, run: list[Raw]) -> None:
        if self._status == SILENT:
            return  # behind what is no message of a stream: it must not be taken for what follows, and comes again
        try:
            self._take_run(run)
        except (ValueError, IndexError) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """The bus sent what is no message of a stream: a new consumer begins behind the last that was one."""
        self._queue.trouble(UnavailableError("the bus sent what is no message of a stream", evidence=repr(error)))
        self._status = SILENT
        self._answered.set()

    def _take_run(self, run: list[Raw]) -> None:
        """Messages of the stream, or the end of a pull request."""
        messages = [raw for raw in run if raw[1]]
        if len(messages) < len(run):
            said = next(raw for raw in run if not raw[1])
            self._status = status_of(said[2]) or SILENT
            self._answered.set()
        self._outstanding -= len(messages)
        if self._outstanding <= 0:
            self._answered.set()
        if self._holding:
            self._held += messages
        else:
            self._accept(messages)

    def _accept(self, messages: list[Raw]) -> None:
        """Messages of the stream, in their turn. ValueError, IndexError: one is none; those before it are given."""
        taken: list[Delivery | LaggedError] = []
        places: list[int] = []
        try:
            self._sort_out(messages, taken, places)
            if messages:
                self._behind = behind(messages[-1][1])
        finally:  # the position has moved past them
            self._came += len(places)
            if self._durable is not None:
                with self._lock:
                    self._unacked.update(places)
            if taken:
                self._queue.put(taken)

    def _sort_out(self, messages: list[Raw], taken: list[Delivery | LaggedError], places: list[int]) -> None:
        """What is to be given of them, and its places."""
        for raw in messages:
            sequence, time_ns = place_of(raw[1])
            position = self._position
            if position is not None and sequence <= position:
                self._again(sequence, raw[1].decode())
                continue
            if sequence < self._least or time_ns < self._from_ns:
                continue
            delivery = delivery_of(raw, sequence, time_ns)
            self._from_ns = 0
            if self._whole and position is not None and sequence > position + 1:
                taken.append(self._lagged(sequence - position - 1, position, sequence))
            self._position = self._seen = sequence
            self._last_ns = time_ns
            self._came_bytes += len(raw[3])
            places.append(sequence)
            taken.append(delivery)

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
        self._queue.put([self._lagged(facts.first - seen - 1 if self._whole else 0, seen, facts.first)])
        self._position = self._seen = facts.first - 1

    async def _look_for_return(self, client: BusClient, facts: StreamFacts) -> None:
        """Whether our places are still those of the stream: else we would wait for what it has given long ago."""
        changed = begins_again(facts, self._created or facts.created, self._seen or 0)
        self._created = facts.created
        if not changed:
            return
        first = await first_since(client, facts, self._last_ns + 1)
        said = BEGINS_AGAIN.format(self._stream, first, (self._seen or 0) + 1)
        self._queue.put([LaggedError(said, missed=0, hint="What was lost is in the journal.")])
        self._position, self._seen, self._least = first - 1, first - 1, 0
        with self._lock:
            self._unacked = {place for place in self._unacked if place < first}

    def _lagged(self, missed: int, position: int, sequence: int) -> LaggedError:
        count = f"{missed} messages" if missed else "messages (how many of ours is not known, perhaps none)"
        return LaggedError(
            f"stream {self._stream} removed {count} between {position} and {sequence} before they were read",
            missed=missed,
            hint="The journal has them. Read faster, or raise the stream's limits (transport.stream_max_bytes, "
            "transport.stream_max_age_hours).",
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
        self._consumer = await consumers.make(client, self._stream, self._given_from(self._position))

    def _given_from(self, position: int | None) -> dict[str, Any]:
        return consumers.given_from(position, self._start, None if self._whole else self._pattern)

    async def _next_generation(self, client: BusClient, durable: str, facts: StreamFacts) -> None:
        """The consumer of a durable name, anew from what was acknowledged."""
        older = await consumers.generations(client, self._stream, durable)
        if self._generation and older and max(older) > self._generation:
            raise ConflictError(f"another subscriber took over the durable subscription {durable}")
        if self._generation:
            with self._lock:
                floor = min(self._unacked) - 1 if self._unacked else self._position
        elif older:
            self._position = self._seen = await consumers.acknowledged(client, self._stream, durable, max(older))
            await self._look_for_return(client, facts)
            floor = self._position
        else:
            floor = facts.last if self._start.at == "end" else None
            self._position = self._seen = floor
        self._generation = max([self._generation, *older]) + 1
        config = self._given_from(floor)
        self._consumer = await consumers.make_durable(client, self._stream, durable, self._generation, config)
        for generation in older:
            await consumers.delete(client, self._stream, f"{durable}-{generation}")

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
                await consumers.delete(client, self._stream, self._consumer)
        except (nats.errors.Error, OSError):
            pass
