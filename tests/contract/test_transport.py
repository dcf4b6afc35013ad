"""The contract of Transport (ssmd/middleware/interfaces.py), kept by the memory twin and by a real NATS JetStream."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from servers import NatsServer, nats_for_all

from ssmd.errors import (
    ConflictError,
    LaggedError,
    LimitError,
    MiddlewareError,
    PublishError,
    RejectedError,
    UnavailableError,
)
from ssmd.middleware.interfaces import Delivery, Message, Start, Subscription, Transport
from ssmd.middleware.memory import MemoryTransport
from ssmd.middleware.nats import NatsTransport

PATIENCE_S = 20.0  # for what must come
BRIEFLY_S = 0.05  # for what must not

STREAMS = itertools.count(1)


class Bus:
    """One bus, and as many transports to it as a test wants. Its stream is the test's own, and stores `{prefix}.>`."""

    prefix: str

    def transport(self) -> Transport:
        raise NotImplementedError

    def limit(self, messages: int) -> None:
        """Makes the stream, which keeps so many messages."""
        raise NotImplementedError

    def stored(self) -> int:
        """How many messages the stream holds."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def subject(self, rest: str) -> str:
        return f"{self.prefix}.{rest}"

    @property
    def all(self) -> str:
        return f"{self.prefix}.>"


class MemoryBus(Bus):
    """A second transport to a bus in memory is the same object."""

    def __init__(self) -> None:
        self.prefix = f"m{next(STREAMS)}"
        self._made = MemoryTransport()

    def transport(self) -> Transport:
        return self._made

    def limit(self, messages: int) -> None:
        self._made = MemoryTransport(subjects=[self.all], max_messages=messages)

    def stored(self) -> int:
        reader = self._made.subscribe(self.all, start=Start.beginning())
        count = sum(1 for _ in iter(lambda: reader.next(0.0), None))
        reader.unsubscribe()
        return count

    def close(self) -> None:
        self._made.close()


class NatsBus(Bus):
    def __init__(self, server: NatsServer) -> None:
        number = next(STREAMS)
        self.prefix = f"n{number}"
        self.stream = f"S{number}"
        self._server = server
        self._made: list[NatsTransport] = []

    def transport(self) -> Transport:
        self._made.append(NatsTransport(self._server.url, stream=self.stream, prefix=self.prefix))
        return self._made[-1]

    def limit(self, messages: int) -> None:
        config = {"name": self.stream, "subjects": [self.all], "max_msgs": messages, "storage": "memory"}
        self._server.api(f"STREAM.CREATE.{self.stream}", config)

    def stored(self) -> int:
        return int(self._server.api(f"STREAM.INFO.{self.stream}")["state"]["messages"])

    def close(self) -> None:
        for made in self._made:
            made.close()


@pytest.fixture(params=["memory", "nats"])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    """A bus without a stream."""
    made: Bus = MemoryBus() if request.param == "memory" else NatsBus(nats_for_all())
    yield made
    made.close()


@pytest.fixture
def transport(bus: Bus) -> Transport:
    """A transport to a bus with an empty stream of `{prefix}.>`."""
    made = bus.transport()
    made.ensure_stream([bus.all])
    return made


def take(subscription: Subscription, count: int) -> list[Delivery]:
    """The next messages, which must come."""
    found = []
    for _ in range(count):
        delivery = subscription.next(PATIENCE_S)
        assert delivery is not None, f"{len(found)} of {count} messages came"
        found.append(delivery)
    return found


def payloads(subscription: Subscription, count: int) -> list[bytes]:
    return [delivery.message.payload for delivery in take(subscription, count)]


def numbered(bus: Bus, count: int, *, start: int = 0, kind: str = "trade") -> list[Message]:
    return [
        Message(bus.subject(f"{kind}.M{i % 7}"), b"%d" % i, message_id=f"{kind}:{i}")
        for i in range(start, start + count)
    ]


# ---- the stream ------------------------------------------------------------------------------------------------------


def test_ensure_stream_makes_it_once(bus: Bus) -> None:
    transport = bus.transport()
    assert transport.ensure_stream([bus.all]) is True
    assert transport.ensure_stream([bus.all]) is False


def test_a_stream_says_when_it_was_made_as_long_as_it_is_there(bus: Bus, transport: Transport) -> None:
    created = transport.stream_created()
    assert created
    transport.publish_all(numbered(bus, 5))
    assert bus.transport().stream_created() == created


def test_the_last_sequence_is_that_of_the_newest_message(bus: Bus, transport: Transport) -> None:
    assert transport.last_sequence() == 0
    receipts = transport.publish_all(numbered(bus, 5))
    assert transport.last_sequence() == receipts[-1].sequence
    transport.publish(numbered(bus, 1)[0])  # it is known: nothing new
    assert transport.last_sequence() == receipts[-1].sequence


def test_a_stream_that_is_there_covers_more_than_is_asked(bus: Bus, transport: Transport) -> None:
    transport.check([bus.subject("trade.*"), bus.subject("ticker.M1"), bus.all])


def test_check_of_a_missing_stream_rejects_subjects(bus: Bus) -> None:
    with pytest.raises(RejectedError):
        bus.transport().check([bus.all])


def test_check_without_subjects_does_not_mind_a_stream_that_is_to_be_made(bus: Bus) -> None:
    bus.transport().check()


def test_a_stream_that_stores_only_a_part_is_rejected_with_the_missing_subjects_named(bus: Bus) -> None:
    transport = bus.transport()
    transport.ensure_stream([bus.subject("trade.>")])
    with pytest.raises(RejectedError, match="ticker"):
        transport.check([bus.subject("trade.M1"), bus.subject("ticker.>")])
    with pytest.raises(RejectedError):
        transport.ensure_stream([bus.all])


def test_a_stream_of_other_subjects_is_a_conflict(bus: Bus, transport: Transport) -> None:
    with pytest.raises(ConflictError):
        transport.check(["elsewhere.>"])
    with pytest.raises(ConflictError):
        transport.ensure_stream(["elsewhere.>"])


# ---- publishing ------------------------------------------------------------------------------------------------------


def test_places_on_the_bus_begin_at_one_and_count_up(bus: Bus, transport: Transport) -> None:
    assert [transport.publish(message).sequence for message in numbered(bus, 3)] == [1, 2, 3]


def test_a_known_message_id_is_not_stored_again_and_gets_the_first_place(bus: Bus, transport: Transport) -> None:
    first = transport.publish(Message(bus.subject("trade.A"), b"1", message_id="j:1"))
    again = transport.publish(Message(bus.subject("trade.B"), b"other bytes", message_id="j:1"))
    assert (first.duplicate, again.duplicate) == (False, True)
    assert first.sequence == again.sequence == 1
    assert bus.stored() == 1


def test_messages_without_an_id_are_all_stored(bus: Bus, transport: Transport) -> None:
    receipts = transport.publish_all([Message(bus.subject("trade.A"), b"same")] * 3)
    assert [(receipt.sequence, receipt.duplicate) for receipt in receipts] == [(1, False), (2, False), (3, False)]


def test_many_messages_get_their_receipts_in_their_order(bus: Bus, transport: Transport) -> None:
    receipts = transport.publish_all(numbered(bus, 10_000))
    assert [receipt.sequence for receipt in receipts] == list(range(1, 10_001))


def test_publishing_again_flags_what_was_there_and_stores_the_rest(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 60))
    receipts = transport.publish_all(numbered(bus, 100))
    assert [receipt.duplicate for receipt in receipts] == [True] * 60 + [False] * 40
    assert [receipt.sequence for receipt in receipts] == list(range(1, 101))
    assert bus.stored() == 100


def test_nothing_to_publish_is_no_error(transport: Transport) -> None:
    assert transport.publish_all([]) == []


def test_a_message_comes_back_as_it_was_sent(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all)
    sent = Message(bus.subject("trade.KX-1"), bytes(range(256)) * 5, {"Ssmd-Kind": "trade", "A": "b c"}, "j-1:9")
    before_ns = time.time_ns()
    receipt = transport.publish(sent)
    delivery = take(subscription, 1)[0]
    assert delivery.message == sent
    assert delivery.sequence == receipt.sequence
    assert before_ns - 10**9 < delivery.time_ns < time.time_ns() + 10**9


def test_an_empty_payload_is_a_message(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all)
    transport.publish(Message(bus.subject("trade.A"), b""))
    assert payloads(subscription, 1) == [b""]


def test_a_payload_of_the_largest_size_is_stored_and_one_byte_more_is_not(bus: Bus, transport: Transport) -> None:
    most = transport.max_payload_bytes
    transport.publish(Message(bus.subject("trade.A"), b"x" * most, message_id="kalshi-0123456789ab:12345678901"))
    with pytest.raises(LimitError) as caught:
        transport.publish(Message(bus.subject("trade.A"), b"x" * (most + 1)))
    assert not caught.value.retryable
    assert bus.stored() == 1


def test_a_subject_that_no_stream_stores_is_rejected(transport: Transport) -> None:
    with pytest.raises(RejectedError):
        transport.publish(Message("elsewhere.trade.A", b"1"))


def test_without_a_stream_publishing_is_rejected(bus: Bus) -> None:
    with pytest.raises(RejectedError):
        bus.transport().publish(Message(bus.subject("trade.A"), b"1"))


@pytest.mark.parametrize("rest", ["*", ">", "a b", "", "a..b", "a\r\nPUB x 0", "trade.*.x", "a\tb"])
def test_what_is_no_subject_is_rejected(bus: Bus, transport: Transport, rest: str) -> None:
    with pytest.raises(RejectedError):
        transport.publish(Message(bus.subject(rest), b"1"))
    assert bus.stored() == 0


@pytest.mark.parametrize("text", ["a\r\nNats-Rollup: all", "é", " a", "a\n", ""])
def test_what_is_no_header_is_rejected(bus: Bus, transport: Transport, text: str) -> None:
    with pytest.raises(RejectedError):
        transport.publish(Message(bus.subject("trade.A"), b"1", message_id=text))
    with pytest.raises(RejectedError):
        transport.publish(Message(bus.subject("trade.A"), b"1", {"Name": text}))
    assert bus.stored() == 0


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (lambda bus, most: Message("elsewhere.x", b""), RejectedError),
        (lambda bus, most: Message(bus.subject("a b"), b""), RejectedError),
        (lambda bus, most: Message(bus.subject("trade.A"), b"x" * (most + 1)), LimitError),
    ],
    ids=["uncovered", "no subject", "too large"],
)
def test_of_a_batch_with_a_bad_message_exactly_those_before_it_are_stored(
    bus: Bus, transport: Transport, bad: Callable[[Bus, int], Message], cause: type[MiddlewareError]
) -> None:
    good = numbered(bus, 2000)
    batch = [*good[:1500], bad(bus, transport.max_payload_bytes), *good[1500:]]
    with pytest.raises(PublishError) as caught:
        transport.publish_all(batch)
    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.retryable is False
    assert [receipt.sequence for receipt in caught.value.receipts] == list(range(1, 1501))  # type: ignore[attr-defined]
    assert bus.stored() == 1500


def test_two_publishers_at_once_each_keep_their_order(bus: Bus, transport: Transport) -> None:
    other = bus.transport()
    subscription = transport.subscribe(bus.all)
    threads = [
        threading.Thread(target=made.publish_all, args=(numbered(bus, 2000, kind=kind),))
        for made, kind in ((transport, "trade"), (other, "ticker"))
    ]
    for thread in threads:
        thread.start()
    came = take(subscription, 4000)
    for thread in threads:
        thread.join()
    for kind in ("trade", "ticker"):
        ours = [delivery.message for delivery in came if delivery.message.subject.startswith(bus.subject(kind))]
        assert ours == numbered(bus, 2000, kind=kind)


# ---- subscribing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        (">", ["a", "a.b", "a.b.c", "b.b"]),
        ("*", ["a"]),
        ("a.*", ["a.b"]),
        ("a.>", ["a.b", "a.b.c"]),
        ("*.b", ["a.b", "b.b"]),
        ("a.b", ["a.b"]),
        ("*.*.c", ["a.b.c"]),
    ],
)
def test_a_pattern_gives_what_matches_it(bus: Bus, transport: Transport, pattern: str, matching: list[str]) -> None:
    subscription = transport.subscribe(bus.subject(pattern))
    for rest in ("a", "a.b", "a.b.c", "b.b"):
        transport.publish(Message(bus.subject(rest), b""))
    assert [delivery.message.subject for delivery in take(subscription, len(matching))] == [
        bus.subject(rest) for rest in matching
    ]
    assert subscription.next(BRIEFLY_S) is None


def test_a_subscriber_without_a_start_gets_what_is_published_from_now_on(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 5))
    subscription = transport.subscribe(bus.all)
    transport.publish_all(numbered(bus, 2, start=5))
    assert payloads(subscription, 2) == [b"5", b"6"]


def test_a_subscriber_from_the_beginning_gets_everything_and_goes_on_live(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 3000))
    subscription = transport.subscribe(bus.all, start=Start.beginning())
    early = payloads(subscription, 3000)
    transport.publish_all(numbered(bus, 500, start=3000))
    assert early + payloads(subscription, 500) == [b"%d" % i for i in range(3500)]
    assert subscription.next(0) is None


def test_a_subscriber_from_a_number_begins_with_that_place(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 10))
    subscription = transport.subscribe(bus.all, start=Start.number(8))
    assert [delivery.sequence for delivery in take(subscription, 3)] == [8, 9, 10]


def test_a_number_that_is_not_there_yet_is_waited_for(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all, start=Start.number(3))
    transport.publish_all(numbered(bus, 4))
    assert [delivery.sequence for delivery in take(subscription, 2)] == [3, 4]


def test_a_subscriber_from_a_time_begins_with_the_first_message_from_then_on(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 5))
    every = take(transport.subscribe(bus.all, start=Start.beginning()), 5)
    subscription = transport.subscribe(bus.all, start=Start.time(every[-1].time_ns + 1))
    transport.publish(Message(bus.subject("trade.A"), b"later"))
    assert payloads(subscription, 1) == [b"later"]
    subscription = transport.subscribe(bus.all, start=Start.time(every[0].time_ns))
    assert payloads(subscription, 1) == [b"0"]


def test_a_time_that_is_not_there_yet_is_waited_for(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 5))
    at_ns = time.time_ns() + 150_000_000
    subscription = transport.subscribe(bus.all, start=Start.time(at_ns))
    transport.publish(Message(bus.subject("trade.A"), b"too early"))
    while time.time_ns() < at_ns:
        time.sleep(0.01)
    transport.publish(Message(bus.subject("trade.A"), b"in time"))
    assert payloads(subscription, 1) == [b"in time"]


def test_every_subscriber_gets_every_message(bus: Bus, transport: Transport) -> None:
    subscriptions = [transport.subscribe(bus.all), transport.subscribe(bus.all), bus.transport().subscribe(bus.all)]
    transport.publish_all(numbered(bus, 50))
    for subscription in subscriptions:
        assert payloads(subscription, 50) == [b"%d" % i for i in range(50)]


def test_a_subscriber_with_little_room_gets_everything_in_order(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all, pending=3)
    transport.publish_all(numbered(bus, 200))
    assert payloads(subscription, 200) == [b"%d" % i for i in range(200)]


def test_a_subscriber_who_waits_is_woken(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all)
    came: list[Delivery | None] = []
    waiter = threading.Thread(target=lambda: came.append(subscription.next(PATIENCE_S)))
    waiter.start()
    transport.publish(Message(bus.subject("trade.A"), b"1"))
    waiter.join()
    assert [delivery.message.payload for delivery in came if delivery] == [b"1"]


def test_no_message_in_time_is_none(bus: Bus, transport: Transport) -> None:
    assert transport.subscribe(bus.all).next(0.01) is None


def test_acking_a_message_of_a_subscription_that_is_not_durable_is_no_error(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all)
    transport.publish(Message(bus.subject("trade.A"), b"1"))
    subscription.ack(take(subscription, 1)[0])


def test_after_unsubscribe_nothing_comes_and_a_second_one_is_no_error(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all, start=Start.beginning())
    transport.publish_all(numbered(bus, 5))
    subscription.unsubscribe()
    subscription.unsubscribe()
    with pytest.raises(UnavailableError):
        subscription.next(BRIEFLY_S)


# ---- falling behind --------------------------------------------------------------------------------------------------


def read_all(subscription: Subscription, last: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Places up to `last`, and each LaggedError as (number of messages read before it, missed)."""
    places: list[int] = []
    holes: list[tuple[int, int]] = []
    while not places or places[-1] < last:
        try:
            delivery = subscription.next(PATIENCE_S)
        except LaggedError as error:
            assert error.retryable
            holes.append((len(places), error.missed))
            continue
        assert delivery is not None
        places.append(delivery.sequence)
    return places, holes


def test_a_slow_subscriber_is_told_how_many_it_missed_in_the_place_where_they_are_missing(bus: Bus) -> None:
    bus.limit(10)
    transport = bus.transport()
    subscription = transport.subscribe(bus.all, pending=4)
    transport.publish_all(numbered(bus, 100))
    places, holes = read_all(subscription, 100)
    assert places == sorted(set(places))
    assert holes
    assert len(places) + sum(missed for _, missed in holes) == 100
    missing_at = dict(holes)
    expected = 1
    for i, place in enumerate(places):
        assert place == expected + missing_at.get(i, 0)
        expected = place + 1


def test_a_subscriber_of_some_subjects_who_comes_back_too_late_is_told_that_it_may_have_missed_some(bus: Bus) -> None:
    bus.limit(10)
    transport = bus.transport()
    transport.subscribe(bus.subject("trade.M1"), durable="late").unsubscribe()
    transport.publish_all(numbered(bus, 100))  # every seventh is on M1
    subscription = transport.subscribe(bus.subject("trade.M1"), durable="late")
    with pytest.raises(LaggedError):
        subscription.next(PATIENCE_S)
    assert [delivery.sequence for delivery in take(subscription, 2)] == [93, 100]


def test_a_subscriber_of_a_quiet_subject_is_told_of_nothing_while_others_are_busy(bus: Bus) -> None:
    bus.limit(10)
    transport = bus.transport()
    subscription = transport.subscribe(bus.subject("quiet"))
    transport.publish(Message(bus.subject("quiet"), b"1"))
    assert payloads(subscription, 1) == [b"1"]
    for i in range(5):
        transport.publish_all(numbered(bus, 100, start=i * 100))
    transport.publish(Message(bus.subject("quiet"), b"2"))
    assert payloads(subscription, 1) == [b"2"]


def test_what_was_gone_before_a_subscriber_began_is_no_loss(bus: Bus) -> None:
    bus.limit(10)
    transport = bus.transport()
    transport.publish_all(numbered(bus, 100))
    assert [d.sequence for d in take(transport.subscribe(bus.all, start=Start.beginning()), 10)] == list(range(91, 101))
    assert take(transport.subscribe(bus.all, start=Start.number(5)), 1)[0].sequence == 91


# ---- durable ---------------------------------------------------------------------------------------------------------


def test_a_durable_subscription_goes_on_behind_what_was_acked(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 10))
    first = transport.subscribe(bus.all, durable="books", start=Start.beginning())
    for delivery in take(first, 4):
        first.ack(delivery)
    first.unsubscribe()
    transport.publish_all(numbered(bus, 5, start=10))
    assert payloads(bus.transport().subscribe(bus.all, durable="books"), 11) == [b"%d" % i for i in range(4, 15)]


def test_what_was_taken_and_not_acked_comes_again_in_order(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all, durable="books", start=Start.beginning(), pending=4)
    transport.publish_all(numbered(bus, 10))
    took = take(subscription, 6)
    for delivery in took[:2]:
        subscription.ack(delivery)
    subscription.unsubscribe()
    again = transport.subscribe(bus.all, durable="books")
    assert payloads(again, 8) == [b"%d" % i for i in range(2, 10)]


def test_the_start_of_a_durable_subscription_counts_the_first_time_only(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 6))
    first = transport.subscribe(bus.all, durable="books", start=Start.number(5))
    first.ack(take(first, 1)[0])
    first.unsubscribe()
    second = transport.subscribe(bus.all, durable="books", start=Start.beginning())
    assert payloads(second, 1) == [b"5"]


def test_a_durable_subscription_that_took_nothing_keeps_its_place(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 3))
    transport.subscribe(bus.all, durable="books").unsubscribe()  # from now on
    transport.publish_all(numbered(bus, 2, start=3))
    assert payloads(transport.subscribe(bus.all, durable="books"), 2) == [b"3", b"4"]


def test_durable_subscriptions_of_two_names_have_nothing_to_do_with_each_other(bus: Bus, transport: Transport) -> None:
    transport.publish_all(numbered(bus, 3))
    for name in ("books", "books-2", "books-2-2"):
        subscription = transport.subscribe(bus.all, durable=name, start=Start.beginning())
        for delivery in take(subscription, 3):
            subscription.ack(delivery)
        subscription.unsubscribe()
    assert transport.subscribe(bus.all, durable="books").next(BRIEFLY_S) is None
    assert payloads(transport.subscribe(bus.all, durable="boo", start=Start.beginning()), 1) == [b"0"]


def test_who_subscribes_by_a_durable_name_takes_it_over(bus: Bus, transport: Transport) -> None:
    first = transport.subscribe(bus.all, durable="books", start=Start.beginning())
    second = bus.transport().subscribe(bus.all, durable="books")
    with pytest.raises(ConflictError):
        while first.next(PATIENCE_S):
            pass
    transport.publish_all(numbered(bus, 3))
    assert payloads(second, 3) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("name", ["a.b", "a b", "*", "", "a/b"])
def test_what_is_no_name_of_a_durable_subscription_is_rejected(bus: Bus, transport: Transport, name: str) -> None:
    with pytest.raises(RejectedError):
        transport.subscribe(bus.all, durable=name)


# ---- requests --------------------------------------------------------------------------------------------------------


def answering(serving: Subscription, transport: Transport, count: int) -> threading.Thread:
    def answer() -> None:
        for _ in range(count):
            request = serving.next(PATIENCE_S)
            assert request is not None
            transport.reply(request, request.message.subject.encode() + b":" + request.message.payload[::-1])

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_a_request_gets_the_answer_to_it(bus: Bus, transport: Transport) -> None:
    other = bus.transport()
    thread = answering(other.serve(f"ask.{bus.prefix}.*"), other, 20)
    for i in range(20):
        asked = f"ask.{bus.prefix}.{i}"
        assert transport.request(asked, b"%03d" % i, timeout_s=PATIENCE_S) == f"{asked}:".encode() + (b"%03d" % i)[::-1]
    thread.join()
    assert bus.stored() == 0


def test_a_request_that_nobody_answers_is_unavailable(bus: Bus, transport: Transport) -> None:
    with pytest.raises(UnavailableError):
        transport.request(f"ask.{bus.prefix}", b"", timeout_s=0.1)
    transport.serve(f"ask.{bus.prefix}")
    with pytest.raises(UnavailableError):
        transport.request(f"ask.{bus.prefix}", b"", timeout_s=0.1)


def test_a_server_that_left_gets_no_requests(bus: Bus, transport: Transport) -> None:
    serving = transport.serve(f"ask.{bus.prefix}")
    serving.unsubscribe()
    serving.unsubscribe()
    with pytest.raises(UnavailableError):
        transport.request(f"ask.{bus.prefix}", b"", timeout_s=0.1)
    with pytest.raises(UnavailableError):
        serving.next(BRIEFLY_S)


def test_a_stored_subject_takes_no_requests(bus: Bus, transport: Transport) -> None:
    with pytest.raises(RejectedError):
        transport.request(bus.subject("trade.A"), b"", timeout_s=0.1)
    with pytest.raises(RejectedError):
        transport.serve(bus.subject("trade.*"))
    assert bus.stored() == 0


def test_a_stored_message_has_nobody_to_reply_to(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all)
    transport.publish(Message(bus.subject("trade.A"), b"1"))
    with pytest.raises(RejectedError):
        transport.reply(take(subscription, 1)[0], b"answer")


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_after_close_every_call_is_unavailable_and_a_second_close_is_no_error(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all)
    transport.close()
    transport.close()
    message = Message(bus.subject("trade.A"), b"1")
    calls: list[Callable[[], object]] = [
        lambda: transport.check(),
        lambda: transport.ensure_stream([bus.all]),
        lambda: transport.last_sequence(),
        lambda: transport.stream_created(),
        lambda: transport.publish(message),
        lambda: transport.publish_all([message]),
        lambda: transport.subscribe(bus.all),
        lambda: transport.request("ask", b"", timeout_s=1),
        lambda: transport.serve("ask"),
        lambda: subscription.next(BRIEFLY_S),
    ]
    for call in calls:
        with pytest.raises((UnavailableError, PublishError)) as caught:
            call()
        assert caught.value.retryable
    subscription.unsubscribe()


def test_close_wakes_who_waits(bus: Bus, transport: Transport) -> None:
    subscription = transport.subscribe(bus.all)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            subscription.next(PATIENCE_S)
        except UnavailableError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    transport.close()
    waiter.join(PATIENCE_S)
    assert len(errors) == 1
