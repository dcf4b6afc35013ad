"""Subscriptions to requests: core NATS, nothing is stored."""

from __future__ import annotations

from typing import Any

from nats.aio.msg import Msg

from ssmd.errors import LaggedError
from ssmd.middleware.interfaces import Delivery, Message
from ssmd.middleware.nats.client import BusClient
from ssmd.middleware.nats.connection import Connection
from ssmd.middleware.nats.queue import CALL_TIMEOUT_S, Queue, Reading


class RequestSubscription(Reading):
    """A Subscription of requests: core NATS, nothing is stored; what comes beyond `pending` is lost, and said so."""

    def __init__(self, connection: Connection, subject: str, pending: int) -> None:
        super().__init__(connection, Queue(pending, lambda: None))
        self._subject = subject
        self._subscription: Any = None
        self._missed = 0

    def ack(self, delivery: Delivery) -> None:
        """A request is answered, not acknowledged."""

    async def begin(self) -> None:
        client = await self._connection.connected(CALL_TIMEOUT_S)
        await self._subscribe(client)
        await client.flush(int(CALL_TIMEOUT_S))
        self._connection.on_connect(self._subscribe)

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
