"""Subscriptions to requests: core NATS, nothing is stored."""

from __future__ import annotations

from typing import Any, Final

from nats.aio.msg import Msg

from ssmd.errors import LaggedError, UnavailableError
from ssmd.middleware.interfaces import Delivery, Message
from ssmd.middleware.nats.client import BusClient
from ssmd.middleware.nats.connection import Connection
from ssmd.middleware.nats.queue import Queue

CALL_TIMEOUT_S: Final = 5.0


class RequestSubscription:
    """A Subscription of requests: core NATS, nothing is stored; what comes beyond `pending` is lost, and said so."""

    def __init__(self, connection: Connection, subject: str, pending: int) -> None:
        self._connection = connection
        self._subject = subject
        self._queue = Queue(pending, lambda: None)
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
            self._queue.put([LaggedError(f"{self._missed} requests came while none was taken", missed=self._missed)])
            self._missed = 0
        headers = dict(message.headers or {})
        asked = Message(message.subject, message.data, headers)
        self._queue.put([Delivery(asked, 0, 0, reply_to=message.reply or None)])

    async def _stop(self) -> None:
        self._connection.off_connect(self._subscribe)
        if self._subscription is not None and self._connection.client is not None:
            await self._subscription.unsubscribe()
