"""A Journal that is a JetStream stream: entries are its messages, numbers their places, topics their subjects behind
`{prefix}.`.

    append   one published message, with an id of its own: tried again after a break it is still one entry
    reader   asks when it is asked: what the stream's own state says is there is fetched, so that an entry whose append
             returned is seen by the next `next`. Many at once by a pull consumer, few one by one.

Nothing is fetched while nobody asks. Where a reader goes on behind a hole, LaggedError says so; where it reads one
topic only, the stream cannot say how many of the missing were of that (`missed` 0).

Facts: JetStream API, STREAM.INFO, STREAM.MSG.GET with next_by_subj, CONSUMER.MSG.NEXT (nats-server 2.9).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import nats.errors

from ssmd.errors import LaggedError, PublishError, RejectedError, UnavailableError
from ssmd.middleware.interfaces import Entry, Headers, JournalReader, Message, Start
from ssmd.middleware.journal_limits import checked_headers, checked_topic, wanted
from ssmd.middleware.names import covers
from ssmd.middleware.nats import consumers
from ssmd.middleware.nats.client import BusClient, Tap, while_connected
from ssmd.middleware.nats.connection import Connection
from ssmd.middleware.nats.messages import headers_of, place_of, status_of
from ssmd.middleware.nats.parser import Raw
from ssmd.middleware.nats.refusals import is_missing_stream
from ssmd.middleware.nats.stream import (
    BEGINS_AGAIN,
    StreamFacts,
    api,
    begins_again,
    first_since,
    message_from,
    stream_facts,
    time_of,
)
from ssmd.middleware.nats.transport import NatsTransport

CALL_TIMEOUT_S: Final = 10.0
APPEND_TIMEOUT_S: Final = 10.0
FETCH_MESSAGES: Final = 500  # at most in one request
FEW: Final = 3  # so many are fetched one by one
WAIT_S: Final = 2.0  # one request waits at most so long for an entry
GRACE_S: Final = 3.0  # and its answer may take so much longer
MISSING_S: Final = 0.2  # a stream that is not there is looked for again after this
NO_MORE: Final = ("404", "408")  # how a request ends that did not bring all that it asked for


class NatsJournal:
    """`prefix`: topics are the words behind it. The stream is made with the first entry. Any thread may call."""

    def __init__(self, url: str, *, stream: str, prefix: str, **options: Any) -> None:
        """`options`: as NatsTransport."""
        self._stream = stream
        self._prefix = prefix
        self._bus = NatsTransport(url, stream=stream, prefix=prefix, **options)
        self._writer = secrets.token_hex(6)
        self._appended = 0
        self._ready = False  # the stream was made

    @property
    def connection(self) -> Connection:
        return self._bus.connection

    def check(self) -> None:
        self._bus.check()

    def append(self, topic: str, payload: bytes, headers: Headers | None = None) -> int:
        """UnavailableError after APPEND_TIMEOUT_S: the entry may or may not be there."""
        subject = f"{self._prefix}.{checked_topic(topic)}"
        kept = checked_headers(headers)
        if not self._ready:
            self._bus.ensure_stream([f"{self._prefix}.>"])
            self._ready = True
        self._appended += 1
        message = Message(subject, payload, kept, f"{self._writer}:{self._appended}")
        deadline = time.monotonic() + APPEND_TIMEOUT_S
        while True:
            try:
                wait_s = max(deadline - time.monotonic(), 0.1)
                return self._bus.publish(message, timeout_s=wait_s).sequence
            except (UnavailableError, PublishError) as error:
                if not error.retryable or self.connection.closed or time.monotonic() >= deadline:
                    raise

    def topics(self) -> dict[str, int]:
        return self.connection.call(self._topics(), CALL_TIMEOUT_S)

    async def _topics(self) -> dict[str, int]:
        client = await self.connection.connected(CALL_TIMEOUT_S)
        counts: dict[str, int] = {}
        total = 1
        while len(counts) < total:
            asked = {"subjects_filter": f"{self._prefix}.>", "offset": len(counts)}
            try:
                answer = await api(client, f"STREAM.INFO.{self._stream}", asked, f"count stream {self._stream}")
            except RejectedError as error:
                if is_missing_stream(error):
                    return {}
                raise
            page = answer["state"].get("subjects") or {}
            counts.update(page)
            total = answer.get("total") or len(counts)
            if not page:
                break
        return {subject.removeprefix(f"{self._prefix}."): count for subject, count in counts.items()}

    def end(self) -> int | None:
        facts = self.connection.call(self.facts(), CALL_TIMEOUT_S)
        return facts.last or None if facts is not None else None

    def reader(self, start: Start, *, topics: Sequence[str] = ()) -> JournalReader:
        return NatsJournalReader(self, self._stream, self._prefix, start, tuple(topics))

    def close(self) -> None:
        self._bus.close()

    async def facts(self) -> StreamFacts | None:
        """The stream, None where there is none yet."""
        client = await self.connection.connected(CALL_TIMEOUT_S)
        try:
            return await stream_facts(client, self._stream)
        except RejectedError as error:
            if is_missing_stream(error):
                return None
            raise


class NatsJournalReader:
    """Where one reader is: the next number that it has not seen."""

    def __init__(self, journal: NatsJournal, stream: str, prefix: str, start: Start, topics: tuple[str, ...]) -> None:
        self._journal = journal
        self._connection = journal.connection
        self._stream = stream
        self._prefix = prefix
        self._topics = topics
        self._pattern = f"{prefix}.{topics[0] if len(topics) == 1 else '>'}"
        self._ready: deque[Entry | LaggedError] = deque()
        self._client: BusClient | None = None  # the one that inbox and consumer are of
        self._inbox = ""
        self._tapped: tuple[BusClient, Tap] | None = None
        self._consumer: str | None = None
        self._came: asyncio.Queue[Raw] = asyncio.Queue()
        self._first = 0  # of the stream, as of the last look
        self._whole = False
        self._closed = False
        self._next = 0
        self._from_ns = 0
        self._begins = True
        self._created = ""  # when the stream was made that the numbers are of
        self._last_ns = 0  # when the last message that came was stored
        self.seek(start)

    def seek(self, start: Start) -> None:
        self._open()
        self._connection.call(self._seek(start), CALL_TIMEOUT_S)

    def next(self, timeout_s: float = 0.0) -> Entry | None:
        deadline = time.monotonic() + timeout_s
        while True:
            self._open()
            if not self._ready:
                wait_s = max(deadline - time.monotonic(), 0.0)
                self._connection.call(self._fetch(wait_s), min(wait_s, WAIT_S) + CALL_TIMEOUT_S)
            if self._ready:
                item = self._ready.popleft()
                if isinstance(item, LaggedError):
                    raise item
                return item
            if time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._connection.closed:
            try:
                self._connection.call(self._drop_consumer(), CALL_TIMEOUT_S)
            except UnavailableError:
                pass  # the server removes it after ABANDONED_S

    def _open(self) -> None:
        if self._closed:
            raise UnavailableError("this reader was closed")
        if self._connection.closed:
            raise UnavailableError("this journal was closed")

    # ---- on the loop -------------------------------------------------------------------------------------------------

    async def _seek(self, start: Start) -> None:
        await self._drop_consumer()
        self._ready.clear()
        facts = await self._journal.facts()
        self._created = facts.created if facts is not None else ""
        self._from_ns = 0
        self._begins = True
        if start.at == "number":
            self._next = max(start.value, 1)
        elif facts is None:
            self._next = 1
            self._from_ns = start.value if start.at == "time" else 0
        elif start.at == "end":
            self._next = facts.last + 1
        elif start.at == "time":
            client = await self._connection.connected(CALL_TIMEOUT_S)
            self._from_ns = start.value
            self._next = await first_since(client, facts, start.value)
        else:
            self._next = max(facts.first, 1)

    async def _fetch(self, wait_s: float) -> None:
        """Brings what is there; waits for something, where there is nothing, but not for long."""
        client = await self._connection.connected(CALL_TIMEOUT_S)
        facts = await self._journal.facts()
        if facts is None:
            await asyncio.sleep(min(wait_s, MISSING_S))
            return
        await self._look_for_return(client, facts)
        self._first = facts.first
        self._whole = all(covers(self._pattern, stored) for stored in facts.subjects)
        if facts.last < self._next:
            if wait_s > 0:
                await self._pull(client, 1, wait_s)
            return
        if facts.last - self._next >= FEW and await self._pull(client, FETCH_MESSAGES, 0.0):
            return
        found = await message_from(client, self._stream, self._next, self._pattern)
        if found is None:
            self._hole(facts.last + 1)
            self._next = max(self._next, facts.last + 1)
            return
        headers = _headers(base64.b64decode(found.get("hdrs", "")))
        payload = base64.b64decode(found.get("data") or "")
        self._accept(int(found["seq"]), found["subject"], payload, headers, time_of(found["time"]))

    async def _pull(self, client: BusClient, count: int, wait_s: float) -> bool:
        """One request of a consumer: what is there now, or the first within a time. Whether something came."""
        try:
            await self._begin(client)
            waits_s = min(wait_s, WAIT_S) if wait_s > 0 else None
            await consumers.ask(client, self._stream, self._consumer or "", self._inbox, count, waits_s)
            return await while_connected(client, self._take(count), GRACE_S + (waits_s or 0.0))
        except TimeoutError:
            self._consumer = None
            return False
        except (nats.errors.Error, OSError) as error:
            self._consumer = None
            raise UnavailableError("the journal cannot be read", evidence=str(error)) from error

    async def _take(self, count: int) -> bool:
        """The answers to one request. Whether a message was among them."""
        for came in range(count):
            subject, reply, headers, payload = await self._came.get()
            if not reply:
                if status_of(headers) not in NO_MORE:
                    self._consumer = None
                return came > 0
            sequence, time_ns = place_of(reply)
            self._accept(sequence, subject.decode(), payload, _headers(headers), time_ns)
        return True

    async def _begin(self, client: BusClient) -> None:
        """Inbox and consumer on this connection, from the next number on."""
        if self._client is not client:
            self._client, self._consumer = client, None
        if self._consumer is not None:
            return
        self._came = asyncio.Queue()  # what an old request still brings goes to the old one
        came = self._came

        def take(run: list[Raw]) -> None:
            for raw in run:
                came.put_nowait(raw)

        await self._untap(client)
        self._inbox = client.new_inbox()
        self._tapped = client, await client.tap(self._inbox, take)
        config = consumers.given_from(self._next - 1, Start.beginning(), None if self._whole else self._pattern)
        self._consumer = await consumers.make(client, self._stream, config)

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        client = self._connection.client
        if consumer is not None and client is not None and client is self._client:
            await consumers.delete(client, self._stream, consumer)
            await self._untap(client)

    async def _untap(self, client: BusClient) -> None:
        """No more for the inbox that was; one of an older connection went with that."""
        tapped, self._tapped = self._tapped, None
        if tapped is not None and tapped[0] is client:
            with suppress(nats.errors.Error, OSError):
                await tapped[1].unsubscribe()

    async def _look_for_return(self, client: BusClient, facts: StreamFacts) -> None:
        """Whether our numbers are still those of the stream: else we would wait for what it has given long ago."""
        seen = 0 if self._begins else self._next - 1
        changed, self._created = begins_again(facts, self._created or facts.created, seen), facts.created
        if not changed:
            return
        first = await first_since(client, facts, self._last_ns + 1)
        self._ready.append(LaggedError(BEGINS_AGAIN.format(self._stream, first, self._next), missed=0))
        self._next, self._consumer = first, None

    def _hole(self, sequence: int) -> None:
        """Says what is missing between the next number and this one, if something is."""
        if self._begins or sequence <= self._next:
            return
        if self._whole:
            missed = sequence - self._next
        elif self._first > self._next:
            missed = 0
        else:
            return
        words = "entries" if missed else "entries (how many of ours is not known, perhaps none)"
        self._ready.append(
            LaggedError(
                f"{words} between {self._next} and {sequence} were removed before they were read", missed=missed
            )
        )

    def _accept(self, sequence: int, subject: str, payload: bytes, headers: dict[str, str], time_ns: int) -> None:
        """A message of the stream in its turn."""
        if sequence < self._next:
            return
        self._hole(sequence)
        self._next = sequence + 1
        self._begins, self._last_ns = False, time_ns
        topic = subject.removeprefix(f"{self._prefix}.")
        if time_ns < self._from_ns:
            return
        self._from_ns = 0
        if wanted(self._topics, topic):
            self._ready.append(Entry(sequence, topic, payload, headers, time_ns))


def _headers(raw: bytes) -> dict[str, str]:
    """Headers as the server stores them, but its own (message ids)."""
    return {name: value for name, value in headers_of(raw).items() if not name.startswith("Nats-")}
