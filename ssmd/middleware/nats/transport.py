"""The bus on NATS JetStream: one stream, its subjects, and everybody who publishes and subscribes there.

Calls block as interfaces.Transport says; the work is done by the thread of `Connection`. Any thread may call. Limits of
its own: `check`, `ensure_stream`, `subscribe` and `serve` answer within CALL_TIMEOUT_S. docs/bus.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import nats.errors

from ssmd.errors import ConflictError, LimitError, PublishError, RejectedError, UnavailableError
from ssmd.middleware.interfaces import Delivery, Message, Receipt, Start
from ssmd.middleware.interfaces import Subscription as SubscriptionOf
from ssmd.middleware.names import meets
from ssmd.middleware.nats.client import BusClient, while_connected
from ssmd.middleware.nats.connection import Connection, Credentials
from ssmd.middleware.nats.publishing import Publisher
from ssmd.middleware.nats.refusals import is_missing_stream
from ssmd.middleware.nats.requests import RequestSubscription
from ssmd.middleware.nats.stream import API_TIMEOUT_S, StreamFacts, create_stream, judge, stream_facts
from ssmd.middleware.nats.subscription import StreamSubscription

CALL_TIMEOUT_S: Final = 5.0
SERVE_PENDING: Final = 4096


class NatsTransport:
    """`url`: nats://host:port, or tls://host:port, which never falls back to plain text."""

    def __init__(
        self,
        url: str,
        *,
        stream: str,
        prefix: str = "",
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        creds: str | None = None,
        ca_file: Path | None = None,
        name: str = "ssmd",
        stream_max_bytes: int = 0,
        stream_max_age_s: float = 0.0,
    ) -> None:
        """Connects in the background.

        `prefix`: of the subjects that the stream shall store (`check` without subjects looks at it). `creds`: the text
        of a .creds file. The last two are for a stream that `ensure_stream` makes; 0: no limit.
        """
        self._stream = stream
        self._subjects = (f"{prefix}.>",) if prefix else ()
        self._stream_max_bytes = stream_max_bytes
        self._stream_max_age_s = stream_max_age_s
        credentials = Credentials(user, password, token, creds)
        self._connection = Connection(url, credentials=credentials, ca_file=ca_file, name=name)
        self._publisher = Publisher(self._connection, stream)
        self._connection.start()
        self._subscriptions: list[StreamSubscription | RequestSubscription] = []

    @property
    def connection(self) -> Connection:
        """For what else stands on this connection (NatsJournal)."""
        return self._connection

    # ---- checks ------------------------------------------------------------------------------------------------------

    @property
    def max_payload_bytes(self) -> int:
        return self._connection.call(self._max_payload(), CALL_TIMEOUT_S)

    async def _max_payload(self) -> int:
        client = await self._connection.connected(CALL_TIMEOUT_S)
        facts = await self._publisher.facts(client)
        return facts.max_payload_bytes(client.max_payload)

    def check(self, subjects: Sequence[str] = ()) -> None:
        self._connection.call(self._check(subjects), 2 * CALL_TIMEOUT_S)

    async def _check(self, subjects: Sequence[str]) -> None:
        client = await self._connection.connected(CALL_TIMEOUT_S)
        self._publisher.forget()
        try:
            facts = await stream_facts(client, self._stream)
        except RejectedError as error:
            if subjects or not is_missing_stream(error):
                raise
            return  # whoever publishes makes it
        wrong = judge(facts, subjects or self._subjects) or self._too_small(facts)
        if wrong is not None:
            raise wrong

    def ensure_stream(self, subjects: Sequence[str]) -> bool:
        """Makes the stream where there is none, of these subjects; then as `check`. Whether it was made."""
        return self._connection.call(self._ensure(subjects), 3 * CALL_TIMEOUT_S)

    async def _ensure(self, subjects: Sequence[str]) -> bool:
        client = await self._connection.connected(CALL_TIMEOUT_S)
        self._publisher.forget()
        made = False
        try:
            facts = await stream_facts(client, self._stream)
        except RejectedError as error:
            if not is_missing_stream(error):
                raise
            made, facts = await self._make(client, subjects)
        wrong = judge(facts, subjects) or self._too_small(facts)
        if wrong is not None:
            raise wrong
        return made

    def last_sequence(self) -> int:
        return self._connection.call(self._last_sequence(), CALL_TIMEOUT_S)

    async def _last_sequence(self) -> int:
        return (await self._facts()).last

    def stream_created(self) -> str:
        return self._connection.call(self._stream_created(), CALL_TIMEOUT_S)

    async def _stream_created(self) -> str:
        return (await self._facts()).created

    async def _facts(self) -> StreamFacts:
        client = await self._connection.connected(CALL_TIMEOUT_S)
        return await stream_facts(client, self._stream)

    def _too_small(self, facts: StreamFacts) -> RejectedError | None:
        """A stream that is there must hold what one that we made would hold."""
        if not 0 < facts.max_bytes < self._stream_max_bytes:
            return None
        return RejectedError(
            f"stream {facts.name} is too small: it keeps {facts.max_bytes:,} bytes, and {self._stream_max_bytes:,} are "
            "asked for",
            hint="Enlarge it (nats stream edit --max-bytes), or lower transport.stream_max_bytes.",
        )

    async def _make(self, client: BusClient, subjects: Sequence[str]) -> tuple[bool, StreamFacts]:
        """The stream, and whether we made it: another one may do so in the same moment."""
        try:
            return True, await create_stream(
                client,
                self._stream,
                subjects,
                max_bytes=self._stream_max_bytes,
                max_age_s=self._stream_max_age_s,
            )
        except ConflictError as conflict:
            try:
                return False, await stream_facts(client, self._stream)
            except RejectedError:
                raise conflict from None

    # ---- publishing --------------------------------------------------------------------------------------------------

    def publish(self, message: Message, *, timeout_s: float = 5.0) -> Receipt:
        try:
            return self.publish_all([message], timeout_s=timeout_s)[0]
        except PublishError as error:
            raise (error.__cause__ or error) from None

    def publish_all(self, messages: Sequence[Message], *, timeout_s: float = 30.0) -> list[Receipt]:
        if not messages:
            return []
        return self._connection.call(self._publisher.publish(messages, timeout_s), timeout_s)

    # ---- subscribing -------------------------------------------------------------------------------------------------

    def subscribe(
        self, pattern: str, *, start: Start | None = None, durable: str | None = None, pending: int = 65_536
    ) -> SubscriptionOf:
        made = StreamSubscription(self._connection, self._stream, pattern, start or Start.end(), durable, pending)
        self._connection.call(made.begin(), 2 * CALL_TIMEOUT_S)
        self._subscriptions = [other for other in self._subscriptions if not other.ended]
        self._subscriptions.append(made)
        return made

    def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        return self._connection.call(self._request(subject, payload, timeout_s), timeout_s)

    async def _request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        client = await self._connection.connected(timeout_s)
        await self._not_stored(subject)
        if len(payload) > client.max_payload:
            raise LimitError(f"a request of {len(payload)} bytes is more than the bus takes ({client.max_payload})")
        try:
            answer = await while_connected(client, client.request(subject, payload, timeout=timeout_s), timeout_s + 1.0)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise UnavailableError(
                f"nobody answered on {subject} within {timeout_s:g} s", evidence=str(error) or type(error).__name__
            ) from error
        return bytes(answer.data)

    async def _not_stored(self, subject: str) -> None:
        """A request on a subject that the stream stores would be stored, and answered by the stream itself."""
        client = await self._connection.connected(API_TIMEOUT_S)
        try:
            facts = await self._publisher.facts(client)
        except RejectedError:
            return  # no stream, so it stores nothing
        if any(meets(pattern, subject) for pattern in facts.subjects):
            raise RejectedError(f"{subject} is stored by stream {self._stream}: requests need another subject")

    def reply(self, delivery: Delivery, payload: bytes) -> None:
        if delivery.reply_to is None:
            raise RejectedError("this delivery is no request: it has nobody to reply to")
        self._connection.call(self._reply(delivery.reply_to, payload), CALL_TIMEOUT_S)

    async def _reply(self, reply_to: str, payload: bytes) -> None:
        client = await self._connection.connected(CALL_TIMEOUT_S)
        if len(payload) > client.max_payload:
            raise LimitError(f"a reply of {len(payload)} bytes is more than the bus takes ({client.max_payload})")
        try:
            await client.publish(reply_to, payload)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError("the reply was not sent", evidence=str(error)) from error

    def serve(self, subject: str) -> SubscriptionOf:
        self._connection.call(self._not_stored(subject), 2 * CALL_TIMEOUT_S)
        made = RequestSubscription(self._connection, subject, SERVE_PENDING)
        self._connection.call(made.begin(), 2 * CALL_TIMEOUT_S)
        self._subscriptions = [other for other in self._subscriptions if not other.ended]
        self._subscriptions.append(made)
        return made

    def close(self) -> None:
        if self._connection.closed:
            return
        self._connection.close()
        for subscription in self._subscriptions:
            subscription.closed()
