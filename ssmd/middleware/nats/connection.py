"""One connection to NATS, kept up for ever, on an asyncio loop of its own native thread.

    caller's thread                      this thread
    ---------------                      -----------
    call(coroutine, timeout)  ------->   runs it on the loop; the caller waits for its result
                                         the keeper: connect -> wait until it breaks -> back off -> connect ...

nats-py connects, signs in, speaks TLS and the protocol. What it does not do here is reconnect: it would send what was
buffered before the break again, in front of what the caller sends anew, and so out of order. Each connection is a new
client, and who has something running on it (subscriptions, acknowledgements awaited) starts it again by `on_connect`.

Not for a program patched by gevent: its threads are none. Facts: nats-py 2.16, aio/client.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError as ThreadCancelledError
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import TimeoutError as ThreadTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import nats.errors
from nats.aio.client import RawCredentials

from ssmd.errors import MiddlewareError, RejectedError, UnavailableError
from ssmd.middleware.nats.client import NO_TLS, BusClient

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 5
PING_INTERVAL_S: Final = 5  # two without an answer: the connection is dead
BACK_OFF_FROM_S: Final = 0.05
BACK_OFF_TO_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 3.0
MARGIN_S: Final = 1.0  # a call's own timeout comes first; this one is for a loop that hangs

_CREDENTIALS: Final = "Check the user, password, token or creds of the bus: keys.nats."
_REFUSALS: Final = ("authorization violation", "user authentication expired", "user authentication revoked")


@dataclass(frozen=True, slots=True)
class Credentials:
    """How we sign in: user and password, or a token, or the text of a .creds file. None of it appears in a repr."""

    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds: str | None = field(default=None, repr=False)


class Connection:
    """`call` may be used by any thread; everything else belongs to the loop's thread."""

    def __init__(self, url: str, *, credentials: Credentials, ca_file: Path | None, name: str) -> None:
        self.url = url
        self._credentials = credentials
        self._ca_file = ca_file
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._client: BusClient | None = None
        self._trouble: MiddlewareError = UnavailableError(
            f"the bus at {url} cannot be reached: it has not answered yet"
        )
        self._turn = asyncio.Event()  # set: connected, or refused; something to look at
        self._asked = asyncio.Event()  # set: someone wants a connection that was refused before
        self._hooks: list[Callable[[BusClient], Awaitable[None]]] = []
        self._lost_hooks: list[Callable[[MiddlewareError], None]] = []
        self._closed = False
        self.generation = 0  # of connections; a new one may be to another server
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly
        self._thread = threading.Thread(target=self._run, name="nats", daemon=True)

    def start(self) -> None:
        """Begins to connect. What must be there with the first connection has said so by `on_connect` before."""
        self._thread.start()

    # ---- for callers' threads ----------------------------------------------------------------------------------------

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Runs a coroutine on the loop and returns its result. It keeps its own timeout; this is the last resort."""
        if self._closed:
            work.close()
            raise UnavailableError("the connection to the bus was closed")
        future: ThreadFuture[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s + MARGIN_S)
        except (ThreadTimeoutError, TimeoutError) as late:
            future.cancel()
            raise UnavailableError(f"the bus at {self.url} did not answer within {timeout_s:g} s") from late
        except (ThreadCancelledError, asyncio.CancelledError) as cancelled:
            raise UnavailableError("the connection to the bus was closed") from cancelled

    def soon(self, work: Callable[[], object]) -> None:
        """Has the loop call a function soon; nothing where it was closed."""
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:  # the loop is closed
            pass

    def close(self) -> None:
        """Ends connection and thread. Twice is no error."""
        if self._closed:
            return
        self._closed = True
        ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ended.result(CLOSE_TIMEOUT_S)
        except (ThreadTimeoutError, ThreadCancelledError, TimeoutError, asyncio.CancelledError):
            pass
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)

    @property
    def closed(self) -> bool:
        return self._closed

    # ---- on the loop -------------------------------------------------------------------------------------------------

    @property
    def client(self) -> BusClient | None:
        """The client that is connected now."""
        return self._client

    def on_connect(self, hook: Callable[[BusClient], Awaitable[None]]) -> None:
        """Is called with each new client before anybody else uses it."""
        self._hooks.append(hook)

    def off_connect(self, hook: Callable[[BusClient], Awaitable[None]]) -> None:
        if hook in self._hooks:
            self._hooks.remove(hook)

    def on_lost(self, hook: Callable[[MiddlewareError], None]) -> None:
        """Is called when a connection broke, or when the bus said that we had no right to something."""
        self._lost_hooks.append(hook)

    async def connected(self, timeout_s: float) -> BusClient:
        """The connected client; waits for it. RejectedError as soon as the bus refuses us."""
        if self._client is None:
            if isinstance(self._trouble, RejectedError):
                self._turn.clear()  # a refusal of before: this call has a new attempt made
            self._asked.set()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._turn.wait()
            except TimeoutError:
                raise self._again(self._trouble) from None
        if self._client is None:
            raise self._again(self._trouble)
        return self._client

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts something that goes on by itself until the connection is closed."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def late(self, sentence: str) -> MiddlewareError:
        """What to say when something took too long: the trouble with the connection, where there is one."""
        return UnavailableError(sentence) if self._client is not None else self._again(self._trouble)

    @staticmethod
    def _again(error: MiddlewareError) -> MiddlewareError:
        """A fresh one of the same words: one instance raised in two places would mix up their tracebacks."""
        return type(error)(error.args[0], hint=error.hint, evidence=error.evidence)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._keeper = self._loop.create_task(self._keep())
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _end(self) -> None:
        client, self._client = self._client, None
        self._trouble = UnavailableError("the connection to the bus was closed")
        if self._keeper is not None:
            await end_task(self._keeper)
        for task in list(self._tasks):
            await end_task(task)
        if client is not None:
            await _quietly(client.close())
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await end_task(task)

    async def _keep(self) -> None:
        """Connects again for ever; a refusal waits until someone asks."""
        pause_s = BACK_OFF_FROM_S
        while True:
            try:
                client = await self._connect()
                self._trouble = UnavailableError(f"the bus at {self.url} cannot be reached: the connection broke")
            except MiddlewareError as error:
                self._trouble = error
                if not error.retryable:
                    self._asked.clear()
                    self._turn.set()
                    await self._asked.wait()
                    continue
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, BACK_OFF_TO_S)
                continue
            self._client = client
            self.generation += 1
            self._turn.set()
            pause_s = BACK_OFF_FROM_S
            await client.broken.wait()
            self._client = None
            self._turn.clear()
            self._tell(
                UnavailableError(
                    f"the bus at {self.url} cannot be reached: the connection broke", evidence=_last(client)
                )
            )
            await _quietly(client.close())
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _connect(self) -> BusClient:
        """One attempt. UnavailableError or RejectedError."""
        client = BusClient(secure=self.url.startswith("tls://"))
        errors: list[BaseException] = []

        async def on_error(error: Exception) -> None:
            errors.append(error)
            del errors[:-10]
            if "permissions violation for publish" in str(error).lower():
                self._tell(RejectedError("the bus does not permit this", hint=_CREDENTIALS, evidence=str(error)))

        options: dict[str, Any] = {
            "user": self._credentials.user,
            "password": self._credentials.password,
            "token": self._credentials.token,
        }
        if self._credentials.creds is not None:
            options["user_credentials"] = RawCredentials(self._credentials.creds)
        if self.url.startswith("tls://") or self._ca_file is not None:
            options["tls"] = _tls(self._ca_file)
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
                await client.connect(
                    servers=[self.url],
                    name=self._name,
                    allow_reconnect=False,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    reconnect_time_wait=0,
                    max_reconnect_attempts=1,
                    ping_interval=PING_INTERVAL_S,
                    error_cb=on_error,
                    **options,
                )
                for hook in list(self._hooks):
                    await hook(client)
            return client
        except ModuleNotFoundError as error:  # nats-py imports nkeys where it signs
            await _quietly(client.close())
            raise RejectedError(
                f"signing in with a .creds file needs the library {error.name}",
                hint=f"run: pip install {error.name}",
                evidence=str(error),
            ) from error
        except Exception as error:  # whatever it was, the keeper goes on
            await _quietly(client.close())
            raise _translate(self.url, [*errors, error]) from error

    def _tell(self, error: MiddlewareError) -> None:
        for hook in list(self._lost_hooks):
            hook(error)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


def _last(client: BusClient) -> str | None:
    return None if client.last_error is None else str(client.last_error)


def _translate(url: str, errors: list[BaseException]) -> MiddlewareError:
    """What a failed attempt was. The library reports the first cause by its callback and then "no servers"."""
    cause = next((error for error in reversed(errors) if not isinstance(error, nats.errors.NoServersError)), errors[-1])
    words = str(cause) or type(cause).__name__
    if isinstance(cause, nats.errors.AuthorizationError) or any(word in words.lower() for word in _REFUSALS):
        return RejectedError(f"the bus at {url} does not let us in", hint=_CREDENTIALS, evidence=words)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RejectedError(
            f"the certificate of the bus at {url} cannot be trusted",
            hint="Give the certificate of its authority (ca_file).",
            evidence=words,
        )
    if NO_TLS in words:
        return RejectedError(f"the bus at {url} does not speak TLS, which tls:// asks for", evidence=words)
    return UnavailableError(f"the bus at {url} cannot be reached", evidence=words)


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancels a task until it ends: nats-py swallows a cancellation that reaches it while it flushes."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.05)


async def _quietly(work: Awaitable[object]) -> None:
    """For closing: what breaks then was broken anyway, and a TLS connection may wait for a goodbye that never comes."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S / 3):
            await work
    except Exception as error:
        logging.getLogger(__name__).debug("while closing: %r", error)
