"""A subscription whose bus sends, among its messages, what is no message of a stream. The bus is what the test says.

Position and queue are the subscription's own, so is its pump: what it is asked for again begins behind what it gave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from ssmd.errors import LaggedError, UnavailableError
from ssmd.middleware.interfaces import Start
from ssmd.middleware.nats import subscription as module
from ssmd.middleware.nats.parser import Raw
from ssmd.middleware.nats.stream import StreamFacts, facts_of
from ssmd.middleware.nats.subscription import StreamSubscription

GARBAGE = (b"md.trade.A", b"garbage", b"", b"")


def raw(place: int) -> Raw:
    reply = b"$JS.ACK.SSMD.c.1.%d.%d.%d.0" % (place, place, 10**18 + place)
    return b"md.trade.A", reply, b"", b"%d" % place


class Bus:
    """Connection, client and stream in one: gives, on each request, the next answer that a test has put, in runs."""

    closed = False

    def __init__(self, *answers: Sequence[list[Raw]], late: bool = False) -> None:
        self.answers = list(answers)
        self.late = late  # the answer comes when the stream was looked at, else before
        self.begun_at: list[int] = []  # first places that consumers were made for
        self.client = self
        self.first, self.last = 1, 9  # places that the stream has

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "RETRY_S", 0.001)
        monkeypatch.setattr(module, "stream_facts", self.facts)
        monkeypatch.setattr(module, "while_connected", self.waited)
        monkeypatch.setattr(module.consumers, "make", self.make)
        monkeypatch.setattr(module.consumers, "ask", self.ask)
        monkeypatch.setattr(module.consumers, "delete", self.delete)

    def soon(self, call: Any) -> None:
        pass

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(coroutine)

    async def connected(self, timeout_s: float) -> Bus:
        return self

    def new_inbox(self) -> str:
        return "inbox"

    async def tap(self, inbox: str, take: Any) -> Bus:
        self.take = take
        return self

    async def unsubscribe(self) -> None:
        pass

    async def facts(self, client: Any, name: str) -> StreamFacts:
        config = {"name": name, "subjects": ["md.>"]}
        state = {"messages": 9, "bytes": 900, "first_seq": self.first, "last_seq": self.last}
        return facts_of({"config": config, "state": state, "created": "2026-11-22T12:00:00Z"})

    async def make(self, client: Any, stream: str, config: dict[str, Any]) -> str:
        self.begun_at.append(config.get("opt_start_seq", 1))
        return "consumer"

    async def delete(self, *given: Any) -> None:
        pass

    async def ask(self, *given: Any) -> None:
        if self.late or not self.answers:
            return
        self.answer()

    def answer(self) -> None:
        for run in self.answers.pop(0):
            self.take(run)

    async def waited(self, client: Any, awaitable: Any, timeout_s: float) -> None:
        if self.late and self.answers:
            self.answer()
        await asyncio.wait_for(awaitable, 5.0)


async def first_given(bus: Bus, count: int, pattern: str = "md.>") -> list[int]:
    """Places of what the subscription gives, until it gave so many or ended."""
    subscription = StreamSubscription(bus, "SSMD", pattern, Start.beginning(), None, 100)  # type: ignore[arg-type]
    await subscription.begin()
    given: list[int] = []
    for _ in range(500):
        try:
            delivery = subscription.next(0.0)
        except UnavailableError as error:
            if "subscription failed" in str(error):
                break
            delivery = None
        if delivery is None:
            await asyncio.sleep(0.002)
            continue
        given.append(delivery.sequence)
        if len(given) == count:
            break
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    return given


@pytest.mark.parametrize("late", [False, True], ids=["while answers are held", "after that"])
def test_good_messages_before_garbage_are_given_and_what_follows_comes_again(
    monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    bus = Bus([[raw(1), raw(2), GARBAGE, raw(3)], [raw(4)]], [[raw(3), raw(4)]], late=late)
    bus.install(monkeypatch)
    assert asyncio.run(first_given(bus, 4)) == [1, 2, 3, 4]
    assert bus.begun_at == [1, 3]


def test_what_came_when_a_request_had_ended_and_was_removed_unread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pattern that is not all of the stream: what the request had not waited for was not seen by it."""

    class Busy(Bus):
        requests = 0

        async def ask(self, *given: Any) -> None:
            self.requests += 1
            if self.requests > 1:  # meanwhile the limits of the stream removed what came
                self.first, self.last = 21, 25

        async def facts(self, client: Any, name: str) -> StreamFacts:
            facts = await super().facts(client, name)
            if self.requests == 1:
                self.last = 20
            return facts

    bus = Busy([[(b"inbox", b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b"")]], late=True)
    bus.install(monkeypatch)
    with pytest.raises(LaggedError, match="between 9 and 21"):
        asyncio.run(first_given(bus, 1, "md.trade.*"))
