"""Publishing, pipelined: many messages on their way, one inbox for the answers to all of them.

    serial   41   42   43   44   45   46   47        counts up for the life of the publisher
             ack  ack  ack   ·   ack   ·    ·        receipts by serial; `·` are on their way
             `---- run ---'                          what PublishError.receipts holds when it ends here

The answer to the message of a serial comes on `{inbox}.{serial}`. Answers to an earlier call, which come late, have
serials below this call's first and are ignored.

Order. The bytes of a call go to one socket in order and never to a second one; a connection that broke is not resumed
but reported, and the caller sends the same ids again from the first that was not confirmed. Two such runs that begin at
the same message, however a server mixes them, leave every message behind its predecessor. What could still break the
order is a stream that refuses one message and then takes the next (a stream of `discard: new` at its limit): near that
limit messages go one by one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from nats.aio.msg import Msg

from ssmd.errors import ConflictError, LimitError, MiddlewareError, PublishError, RejectedError, UnavailableError
from ssmd.middleware.interfaces import Message, Receipt
from ssmd.middleware.names import uncovered
from ssmd.middleware.nats.client import BusClient, while_connected
from ssmd.middleware.nats.connection import Connection
from ssmd.middleware.nats.parser import Ack
from ssmd.middleware.nats.refusals import refusal
from ssmd.middleware.nats.stream import HEADER_ROOM_BYTES, StreamFacts, stream_facts

WINDOW_MESSAGES: Final = 4096
WINDOW_BYTES: Final = 8 << 20
WRITE_BYTES: Final = 64 << 10  # at once to the socket
WRITE_MESSAGES: Final = 512
SETTLE_S: Final = 2.0  # after a refusal: for the answers that are on their way
NEAR_FULL: Final = 4  # so many windows must fit, or messages go one by one
KNOWN_SUBJECTS: Final = 100_000  # are remembered as covered

HEAD: Final = b"NATS/1.0\r\n"
MESSAGE_ID: Final = "Nats-Msg-Id"
UNCOVERED_HINT: Final = "Add the subject to the stream, or correct transport.stream and transport.subject_prefix."


def encode(message: Message, inbox: bytes, serial: int) -> bytes:
    """A message as the protocol has it: HPUB with its id and headers, PUB where there are none."""
    subject, payload = message.subject.encode(), message.payload
    if message.message_id is None and not message.headers:
        return b"PUB %b %b.%d %d\r\n%b\r\n" % (subject, inbox, serial, len(payload), payload)
    head = HEAD
    if message.message_id is not None:
        head += b"Nats-Msg-Id: %b\r\n" % visible(message.message_id)
    for name, value in message.headers.items():
        head += b"%b: %b\r\n" % (visible(name), visible(value))
    head += b"\r\n"
    size = len(head)
    return b"HPUB %b %b.%d %d %d\r\n%b%b\r\n" % (subject, inbox, serial, size, size + len(payload), head, payload)


def visible(text: str) -> bytes:
    """A name, value or id of a header as bytes. RejectedError for what would not come back as it was."""
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise RejectedError(f"{text[:80]!r} is no header: visible ASCII, without spaces at its ends")
    return text.encode()


class _Flight:
    """One call: what is confirmed of it, and what ends it."""

    __slots__ = ("answered", "base", "failure", "fine", "level", "receipts", "sent", "sent_bytes", "waiter")

    def __init__(self, base: int, count: int) -> None:
        self.base = base
        self.receipts: list[Receipt | None] = [None] * count
        self.fine = 0  # receipts there are
        self.answered = 0  # with refusals
        self.sent = 0
        self.sent_bytes = 0
        self.failure: MiddlewareError | None = None
        self.level = 0
        self.waiter: asyncio.Future[None] | None = None

    def fail(self, error: MiddlewareError) -> None:
        if self.failure is None:
            self.failure = error
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def until(self, level: int) -> None:
        """Returns when at most `level` messages are on their way, or the flight failed."""
        while self.sent - self.answered > level and self.failure is None:
            self.level = level
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter

    async def settle(self) -> None:
        """Returns when all that was sent is answered."""
        while self.sent > self.answered:
            self.level = 0
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter

    def run(self) -> list[Receipt]:
        """The receipts of the longest confirmed run from the beginning."""
        found: list[Receipt] = []
        for receipt in self.receipts:
            if receipt is None:
                break
            found.append(receipt)
        return found


class Publisher:
    """Lives on the connection's loop; one call at a time."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._serial = 0
        self._inbox = b""
        self._flight: _Flight | None = None
        self._lock = asyncio.Lock()
        self._facts: StreamFacts | None = None
        self._covered: set[str] = set()
        connection.on_connect(self._start)
        connection.on_lost(self._lost)

    async def _start(self, client: BusClient) -> None:
        """A new connection: a new inbox on it."""
        inbox = client.new_inbox()
        self._inbox = inbox.encode()
        self._facts = None
        self._covered.clear()
        await client.subscribe(f"{inbox}.*", cb=self._answer, pending_msgs_limit=0, pending_bytes_limit=0)
        client.parser.watch(inbox, self._stream, self._acks)

    def forget(self) -> None:
        """What is known of the stream may have changed."""
        self._facts = None
        self._covered.clear()

    def _lost(self, error: MiddlewareError) -> None:
        if self._flight is not None:
            self._flight.fail(error)

    # ---- answers -----------------------------------------------------------------------------------------------------

    def _acks(self, acks: list[Ack]) -> None:
        """A run of acknowledgements."""
        flight = self._flight
        if flight is None:
            return
        base, receipts = flight.base, flight.receipts
        for serial, sequence, duplicate in acks:
            index = int(serial) - base
            if index >= 0 and receipts[index] is None:
                receipts[index] = Receipt(int(sequence), duplicate != b"")
                flight.fine += 1
                flight.answered += 1
        if flight.sent - flight.answered <= flight.level:
            flight.wake()

    async def _answer(self, message: Msg) -> None:
        """An answer that is no plain acknowledgement: a refusal, or one with more in it."""
        flight = self._flight
        serial = message.subject.rpartition(".")[2]
        if flight is None or not serial.isdigit() or int(serial) < flight.base:
            return
        index = int(serial) - flight.base
        outcome = self._outcome(message)
        if isinstance(outcome, Receipt):
            if flight.receipts[index] is None:
                flight.receipts[index] = outcome
                flight.fine += 1
                flight.answered += 1
            if flight.sent - flight.answered <= flight.level:
                flight.wake()
            return
        flight.answered += 1
        flight.fail(outcome)

    def _outcome(self, message: Msg) -> Receipt | MiddlewareError:
        if message.headers and message.headers.get("Status") == "503":
            self.forget()
            return RejectedError(
                f"no stream of the bus stores this subject (the stream should be {self._stream})",
                hint=UNCOVERED_HINT,
                evidence="no responders (503)",
            )
        try:
            answer: dict[str, Any] = json.loads(message.data)
            if "error" in answer:
                self.forget()
                return refusal(answer["error"], f"store a message in stream {self._stream}")
            if answer["stream"] != self._stream:
                return ConflictError(
                    f"stream {answer['stream']} stored the message, not {self._stream}", hint=UNCOVERED_HINT
                )
            return Receipt(int(answer["seq"]), bool(answer.get("duplicate", False)))
        except (ValueError, KeyError, TypeError) as error:
            return UnavailableError(
                "the bus answered what is no acknowledgement", evidence=repr(message.data[:200]) + str(error)
            )

    # ---- sending -----------------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message], timeout_s: float) -> list[Receipt]:
        """As Transport.publish_all."""
        flight = _Flight(self._serial, len(messages))
        try:
            async with asyncio.timeout(timeout_s):
                async with self._lock:
                    flight.base = self._serial
                    self._serial += len(messages)
                    self._flight = flight
                    try:
                        await self._fly(flight, messages, timeout_s)
                    finally:
                        self._flight = None
        except TimeoutError:
            flight.failure = flight.failure or self._connection.late(
                f"the bus confirmed {flight.fine} of {len(messages)} messages within {timeout_s:g} s"
            )
        if flight.failure is not None:
            receipts = flight.run()
            raise PublishError(
                f"{len(receipts)} of {len(messages)} messages are confirmed: {flight.failure.args[0]}",
                receipts=receipts,
                cause=flight.failure,
            ) from flight.failure
        return flight.run()

    async def _fly(self, flight: _Flight, messages: Sequence[Message], timeout_s: float) -> None:
        client: BusClient | None = None
        try:
            client = await self._connection.connected(timeout_s)
            facts = await self.facts(client)
            await self._send(client, flight, messages, facts)
            await flight.until(0)
        except MiddlewareError as error:
            flight.fail(error)
        except (OSError, RuntimeError) as error:  # the socket, or asyncio's transport over it
            flight.fail(UnavailableError("the bus cannot be reached: the connection broke", evidence=str(error)))
        if flight.failure is not None and client is not None:
            with suppress(TimeoutError, UnavailableError):  # what is not answered by then is not confirmed
                await while_connected(client, flight.settle(), SETTLE_S)

    async def facts(self, client: BusClient) -> StreamFacts:
        """What is known of our stream; asked for once a connection."""
        if self._facts is None:
            self._facts = await stream_facts(client, self._stream)
        return self._facts

    async def _send(self, client: BusClient, flight: _Flight, messages: Sequence[Message], facts: StreamFacts) -> None:
        """Writes all messages, never more than a window ahead of the answers."""
        limit = facts.max_payload_bytes(client.max_payload)
        index, unsure = 0, 0  # unsure: messages until the room is looked at again
        single = False
        while index < len(messages) and flight.failure is None:
            if facts.refuses_when_full and unsure <= 0:
                facts = await stream_facts(client, self._stream)
                single = not facts.has_room(NEAR_FULL * WINDOW_MESSAGES, NEAR_FULL * WINDOW_BYTES)
                unsure = WINDOW_MESSAGES
            lines, wrong = self._lines(messages, index, flight.base, 1 if single else WRITE_MESSAGES, limit, facts)
            if lines:
                await client.drained()
                if self._connection.client is not client:
                    return  # what happened is in flight.failure
                block = b"".join(lines)
                client.write(block)
                flight.sent += len(lines)
                index += len(lines)
                unsure -= len(lines)
                window = min(WINDOW_MESSAGES, max(WINDOW_BYTES * len(lines) // len(block), 1))
                if single:
                    await flight.until(0)
                elif flight.sent - flight.answered >= window:
                    await flight.until(window // 2)
            if wrong is not None:
                await flight.until(0)
                raise wrong

    def _lines(
        self, messages: Sequence[Message], index: int, base: int, most: int, limit: int, facts: StreamFacts
    ) -> tuple[list[bytes], MiddlewareError | None]:
        """The next messages, as many as one write takes, up to the first that cannot be sent, and why it cannot."""
        inbox, covered = self._inbox, self._covered
        lines: list[bytes] = []
        size, end = 0, min(index + most, len(messages))
        try:
            while index < end and size < WRITE_BYTES:
                message = messages[index]
                if message.subject not in covered:
                    self._cover(message.subject, facts)
                line = encode(message, inbox, base + index)
                if len(line) > limit:
                    _measure(message, limit)
                lines.append(line)
                size += len(line)
                index += 1
        except MiddlewareError as error:
            return lines, error
        return lines, None

    def _cover(self, subject: str, facts: StreamFacts) -> None:
        """Raises unless our stream stores this subject. Before it is sent: what comes after it must not overtake it."""
        if (
            not subject.isprintable()
            or " " in subject
            or not all(subject.split("."))
            or "*" in subject
            or ">" in subject
        ):
            raise RejectedError(f"{subject!r} is no subject to publish on: words joined by dots, no spaces, no * or >")
        if uncovered(facts.subjects, [subject]):
            self.forget()
            raise RejectedError(
                f"stream {self._stream} does not store {subject}: its subjects are {', '.join(facts.subjects)}",
                hint=UNCOVERED_HINT,
            )
        if len(self._covered) >= KNOWN_SUBJECTS:
            self._covered.clear()
        self._covered.add(subject)


def _measure(message: Message, limit: int) -> None:
    """LimitError where payload or headers are too large; the caller only knows that the line is long."""
    headers = sum(len(name) + len(value) + 4 for name, value in message.headers.items())
    headers += len(message.message_id or "") + 32
    if len(message.payload) > limit:
        raise LimitError(f"a message of {len(message.payload)} bytes is more than the bus takes ({limit})")
    if headers > HEADER_ROOM_BYTES and len(message.payload) + headers > limit + HEADER_ROOM_BYTES:
        raise LimitError(f"a message of {len(message.payload)} bytes with {headers} bytes of headers is too large")
