"""nats-py's client for one connection, with what we need beyond its public face; the only module that touches the rest.

    parser      ours in place of the library's (parser.py)
    write       bytes of many messages at once, straight to the socket: the library's own buffer outlives a connection
    tap         messages of a subscription, a read's at once and as they came: the library takes ten times as long
    broken      set when this connection is over
    secure      tls:// means TLS: nats-py would go on in plain text with a server that does not offer it

Facts: nats-py 2.16, aio/client.py (_ps, _transport, _pending, _process_info, _close), aio/subscription.py (_id) and
aio/transport.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ssmd.errors import UnavailableError
from ssmd.middleware.nats.parser import BusParser, Raw

T = TypeVar("T")

NO_TLS = "the server does not offer TLS"


class BusClient(Client):
    """One connection: it is not made again, `Connection` makes another client."""

    def __init__(self, *, secure: bool) -> None:
        super().__init__()
        self._secure = secure
        self.parser = BusParser(self)
        self._ps = self.parser
        self.broken = asyncio.Event()

    async def tap(self, inbox: str, taken: Callable[[list[Raw]], None]) -> Tap:
        """Has the messages to an inbox of ours that nobody writes to yet given to `taken`, in this loop's thread."""
        subscription = await self.subscribe(inbox, cb=_untaken)
        self.parser.tap(subscription._id, taken)
        return Tap(self, subscription)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """The server's greeting, before we say who we are."""
        if self._secure and initial_connection and not info.get("tls_required"):
            raise nats.errors.Error(NO_TLS)
        await super()._process_info(info, initial_connection)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """However a connection ends, it ends here. The library stops half way when its last words cannot be sent."""
        self.broken.set()
        try:
            await super()._close(status, do_cbs)
        except (OSError, RuntimeError):
            self._pending.clear()
            self._pending_data_size = 0
            self._status = Client.DISCONNECTED
            await super()._close(status, do_cbs)

    async def drained(self) -> None:
        """Returns when the socket's buffer has room again."""
        if self._transport is None:
            raise OSError("not connected")
        await self._transport.drain()  # type: ignore[no-untyped-call]

    def write(self, data: bytes) -> None:
        """Whole commands of the protocol. What the library itself has to send may come before or after, not between."""
        if self._transport is None:
            raise OSError("not connected")
        self._transport.write(data)


class Tap:
    """A subscription whose messages the library does not see."""

    def __init__(self, client: BusClient, subscription: Subscription) -> None:
        self._client = client
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        self._client.parser.untap(self._subscription._id)
        await self._subscription.unsubscribe()


async def _untaken(message: Msg) -> None:
    """Tapped before anything can come: the library has none of it."""


async def while_connected(client: BusClient, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """The result of something that waits for the server. TimeoutError after that time.

    UnavailableError at once when the connection breaks meanwhile: the library would wait until the end.
    """
    task = asyncio.ensure_future(work)
    broken = asyncio.ensure_future(client.broken.wait())
    try:
        await asyncio.wait({task, broken}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if broken.done():
            raise UnavailableError("the bus cannot be reached: the connection broke")
        raise TimeoutError
    finally:
        task.cancel()
        broken.cancel()
