"""A real nats-server that is killed, frozen, full, closed to us or not there: nothing lost, nothing doubled, in order.

The witness is the server itself: what it stores is read by requests of the tests' own (NatsServer.api). Only the main
thread starts a server: it would die with any other.
"""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from recording import wait_until
from servers import NatsServer

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
from ssmd.middleware.nats import NatsJournal, NatsTransport
from ssmd.middleware.stored import stored_now

PATIENCE_S = 10.0
SECRET = "dont-print-this-anywhere"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as running:
        yield running


@pytest.fixture
def bus(server: NatsServer) -> Iterator[NatsTransport]:
    made = transport(server)
    made.ensure_stream(["md.>"])
    yield made
    made.close()


def transport(server: NatsServer, **options: str) -> NatsTransport:
    return NatsTransport(server.url, stream="SSMD", prefix="md", **options)  # type: ignore[arg-type]


def messages(count: int, start: int = 0, size: int = 0) -> list[Message]:
    return [
        Message(f"md.trade.M{i % 5}", b"%d" % i + b"." * size, message_id=f"j:{i}") for i in range(start, start + count)
    ]


def publish_through(bus: Transport, wanted: Sequence[Message], *, timeout_s: float = PATIENCE_S) -> int:
    """Publishes all of it as the interface says one should after failures; gives how often that was needed."""
    done = failures = 0
    deadline = time.monotonic() + 2 * PATIENCE_S
    while done < len(wanted):
        assert time.monotonic() < deadline, f"{done} of {len(wanted)} after {failures} failures"
        try:
            bus.publish_all(wanted[done:], timeout_s=timeout_s)
            return failures
        except PublishError as error:
            assert error.retryable, error
            done += len(error.receipts)
            failures += 1
    return failures


def stored_ids(server: NatsServer, count: int) -> list[str]:
    """Message ids in the order of the stream, by the server's own word."""
    found = []
    state = server.api("STREAM.INFO.SSMD")["state"]
    assert state["messages"] == count, state
    reader = transport(server)
    subscription = reader.subscribe(">", start=Start.beginning())
    for _ in range(count):
        delivery = subscription.next(PATIENCE_S)
        assert delivery is not None
        found.append(str(delivery.message.message_id))
    reader.close()
    last = server.api("STREAM.MSG.GET.SSMD", {"seq": state["last_seq"]})["message"]
    assert f"Nats-Msg-Id: {found[-1]}".encode() in base64.b64decode(last["hdrs"])
    return found


def take(subscription: Subscription, count: int) -> list[Delivery]:
    """The next messages, over whatever happens to the bus."""
    found: list[Delivery] = []
    deadline = time.monotonic() + 2 * PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        try:
            delivery = subscription.next(1.0)
        except UnavailableError:
            continue
        if delivery is not None:
            found.append(delivery)
    return found


# ---- killed ----------------------------------------------------------------------------------------------------------


def test_a_server_killed_five_times_while_we_publish_holds_everything_once_and_in_order(
    server: NatsServer, bus: NatsTransport
) -> None:
    wanted = messages(30_000, size=200)
    failures: list[int] = []
    worker = threading.Thread(target=lambda: failures.append(publish_through(bus, wanted)))
    worker.start()
    kills = 0
    while worker.is_alive() and kills < 5:
        held = server.api("STREAM.INFO.SSMD")["state"]["messages"]
        if held < (kills + 1) * 4000 and worker.is_alive():
            continue
        server.kill()
        server.start()
        kills += 1
    worker.join(2 * PATIENCE_S)
    assert kills == 5
    assert failures and failures[0] >= 1
    assert stored_ids(server, 30_000) == [message.message_id for message in wanted]


def test_a_lost_connection_gives_the_receipts_of_the_confirmed_run(server: NatsServer, bus: NatsTransport) -> None:
    wanted = messages(60_000)
    killer = threading.Timer(0.3, server.kill)
    killer.start()
    with pytest.raises(PublishError) as caught:
        bus.publish_all(wanted)
    killer.join()
    assert isinstance(caught.value.__cause__, UnavailableError)
    assert caught.value.retryable
    receipts = caught.value.receipts
    assert [receipt.sequence for receipt in receipts] == list(range(1, len(receipts) + 1))  # type: ignore[attr-defined]
    server.start()
    assert server.api("STREAM.INFO.SSMD")["state"]["messages"] >= len(receipts)


def test_a_server_that_comes_late_is_found(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    bus = transport(server)
    with pytest.raises(UnavailableError) as caught:
        bus.publish(messages(1)[0], timeout_s=0.3)
    assert "connect" in str(caught.value.evidence).lower()
    server.start()
    try:
        assert bus.ensure_stream(["md.>"])
        assert bus.publish(messages(1)[0], timeout_s=PATIENCE_S).sequence == 1
    finally:
        bus.close()
        server.kill()


@pytest.mark.parametrize("durable", [None, "books"])
def test_a_subscription_goes_on_over_kills_without_a_hole_or_a_repeat(
    server: NatsServer, bus: NatsTransport, durable: str | None
) -> None:
    wanted = messages(3000)
    subscription = bus.subscribe("md.>", start=Start.beginning(), durable=durable, pending=100)
    came: list[Delivery] = []
    for part in range(3):
        publish_through(bus, wanted[part * 1000 : (part + 1) * 1000])
        came += take(subscription, 500)
        for delivery in came[-500:]:
            subscription.ack(delivery)
        server.restart()
    came += take(subscription, 1500)
    assert [delivery.message for delivery in came] == wanted
    assert [delivery.sequence for delivery in came] == list(range(1, 3001))


def floor_on_disk(server: NatsServer, consumer: str) -> int:
    """The place up to which a consumer's messages were acknowledged, below 128, by the server's own file.

    It writes that a tenth of a second later, and on a busy machine may leave the state before if it is ended meanwhile.
    o.dat: magic, version, then numbers in 7 bits a byte: of the floor, its delivery and its place in the stream.
    """
    files = list((server.folder / "store").rglob(f"{consumer}/o.dat"))
    written = files[0].read_bytes() if files else b""
    return written[3] if len(written) > 3 else 0


def test_a_durable_subscription_keeps_what_was_acked_over_a_restart(server: NatsServer, bus: NatsTransport) -> None:
    publish_through(bus, messages(100))
    subscription = bus.subscribe("md.>", start=Start.beginning(), durable="books")
    for delivery in take(subscription, 60):
        subscription.ack(delivery)
    subscription.unsubscribe()
    wait_until(lambda: floor_on_disk(server, "books-1") == 60, what="the bus writes down what was acknowledged")
    server.stop()
    server.start()
    other = transport(server)
    again = other.subscribe("md.>", durable="books")
    assert [delivery.sequence for delivery in take(again, 40)] == list(range(61, 101))
    other.close()


def made_anew(server: NatsServer) -> None:
    """Somebody removes the stream, and it is made again."""
    config = server.api("STREAM.INFO.SSMD")["config"]
    server.api("STREAM.DELETE.SSMD")
    server.api("STREAM.CREATE.SSMD", config)


def without_its_end(server: NatsServer) -> None:
    """The server comes back with the store that was copied before the last messages."""
    server.kill()
    shutil.rmtree(server.folder / "store")
    shutil.copytree(server.folder / "copy", server.folder / "store")
    server.start()


def until(last: bytes, take_one: Callable[[], bytes | None]) -> tuple[list[bytes], list[int]]:
    """What comes up to a payload, and the holes that are told."""
    found: list[bytes] = []
    holes: list[int] = []
    deadline = time.monotonic() + 2 * PATIENCE_S
    while last not in found:
        assert time.monotonic() < deadline, (found, holes)
        try:
            payload = take_one()
        except LaggedError as error:
            holes.append(error.missed)
        except (UnavailableError, RejectedError):
            continue  # there is no bus, or no stream, for a moment
        else:
            found += [payload] if payload is not None else []
    return found, holes


@pytest.mark.parametrize("change", [made_anew, without_its_end])
@pytest.mark.parametrize("how", ["subscription", "durable", "journal"])
def test_who_reads_a_stream_that_begins_again_is_told_and_given_what_is_new(
    server: NatsServer, bus: NatsTransport, how: str, change: Callable[[NatsServer], None]
) -> None:
    """Places that were read are given to other messages: what stands there must not be taken for what was read."""
    publish_through(bus, messages(20))
    server.stop()
    shutil.copytree(server.folder / "store", server.folder / "copy")
    server.start()
    publish_through(bus, messages(10, start=20))
    journal = NatsJournal(server.url, stream="SSMD", prefix="md")
    reader = journal.reader(Start.beginning())
    subscription = bus.subscribe("md.>", start=Start.beginning(), durable="books" if how == "durable" else None)

    def take_one() -> bytes | None:
        if how == "journal":
            entry = reader.next(1.0)
            return entry.payload if entry else None
        delivery = subscription.next(1.0)
        if delivery is None:
            return None
        subscription.ack(delivery)
        return delivery.message.payload

    assert until(b"29", take_one)[0] == [b"%d" % i for i in range(30)]
    change(server)
    publish_through(bus, messages(5, start=30))
    assert until(b"34", take_one) == ([b"30", b"31", b"32", b"33", b"34"], [0])
    journal.close()


def test_a_stream_whose_bus_hangs_is_not_taken_for_one_that_was_read_to_its_end(
    server: NatsServer, bus: NatsTransport
) -> None:
    """Who compares would call the rest missing."""
    publish_through(bus, messages(3000))
    read = stored_now(bus, Start.beginning(), idle_s=0.1)
    next(read)
    server.pause()
    try:
        with pytest.raises(UnavailableError):
            list(read)
    finally:
        server.resume()
    assert [d.sequence for d in stored_now(bus, Start.beginning())] == list(range(1, 3001))


def test_requests_are_served_again_after_a_kill(server: NatsServer, bus: NatsTransport) -> None:
    asking = transport(server)
    serving = bus.serve("ask.me")
    server.restart()

    def answer() -> None:
        bus.reply(take(serving, 1)[0], b"here")

    thread = threading.Thread(target=answer)
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    answered = b""
    while not answered and time.monotonic() < deadline:
        try:
            answered = asking.request("ask.me", b"?", timeout_s=1.0)
        except UnavailableError:
            continue
    thread.join(PATIENCE_S)
    asking.close()
    assert answered == b"here"


def test_a_journal_is_appended_to_over_a_kill_and_no_entry_is_doubled(server: NatsServer) -> None:
    journal = NatsJournal(server.url, stream="SSMD", prefix="md")
    reader = journal.reader(Start.beginning())
    numbers = [journal.append("notes", b"%d" % i) for i in range(50)]
    worker = threading.Thread(target=lambda: numbers.extend(journal.append("notes", b"%d" % i) for i in range(50, 100)))
    worker.start()
    server.restart()
    worker.join(PATIENCE_S)
    assert numbers == list(range(1, 101))
    found = [reader.next(PATIENCE_S) for _ in range(100)]
    assert [entry.payload for entry in found if entry] == [b"%d" % i for i in range(100)]
    assert reader.next() is None
    journal.close()


def test_the_acknowledgements_of_a_real_server_are_taken_by_the_short_cut(bus: NatsTransport) -> None:
    client = bus.connection.client
    assert client is not None
    before = client.stats["in_msgs"]
    bus.publish_all(messages(2000))
    bus.publish_all(messages(2000))  # duplicates
    assert client.stats["in_msgs"] - before < 20


# ---- frozen ----------------------------------------------------------------------------------------------------------


def test_a_server_that_stands_still_for_a_while_loses_and_doubles_nothing(
    server: NatsServer, bus: NatsTransport
) -> None:
    wanted = messages(20_000, size=300)
    publish_through(bus, wanted[:1000])
    server.pause()
    thaw = threading.Timer(1.0, server.resume)
    thaw.start()
    failures = publish_through(bus, wanted[1000:], timeout_s=0.4)
    thaw.join()
    assert failures >= 1
    assert stored_ids(server, 20_000) == [message.message_id for message in wanted]


def test_what_a_server_that_stands_still_is_asked_for_ends_in_time(server: NatsServer, bus: NatsTransport) -> None:
    subscription = bus.subscribe("md.>")
    server.pause()
    try:
        began = time.monotonic()
        with pytest.raises(UnavailableError):
            bus.publish(messages(1)[0], timeout_s=0.3)
        assert subscription.next(0.1) is None
        assert time.monotonic() - began < 5.0
    finally:
        server.resume()
    bus.publish(messages(1)[0], timeout_s=PATIENCE_S)
    assert len(take(subscription, 1)) == 1


# ---- full ------------------------------------------------------------------------------------------------------------


def limited(server: NatsServer, **limits: object) -> None:
    config = {"name": "SSMD", "subjects": ["md.>"], "duplicate_window": 120_000_000_000, **limits}
    answer = server.api("STREAM.CREATE.SSMD", config)
    assert "error" not in answer, answer


def until_full(bus: NatsTransport, wanted: list[Message]) -> int:
    with pytest.raises(PublishError) as caught:
        bus.publish_all(wanted)
    assert isinstance(caught.value.__cause__, LimitError)
    assert caught.value.retryable
    return len(caught.value.receipts)


def test_a_full_stream_that_refuses_takes_the_rest_in_order_once_it_has_room(server: NatsServer) -> None:
    limited(server, discard="new", max_msgs=50)
    bus = transport(server)
    wanted = messages(200)
    done = until_full(bus, wanted)
    assert done == 50
    assert until_full(bus, wanted[done:]) == 0
    server.api("STREAM.UPDATE.SSMD", server.api("STREAM.INFO.SSMD")["config"] | {"max_msgs": 1000})
    assert publish_through(bus, wanted[done:]) == 0
    assert stored_ids(server, 200) == [message.message_id for message in wanted]
    bus.close()


def test_a_small_message_does_not_overtake_a_large_one_that_a_full_stream_refused(server: NatsServer) -> None:
    limited(server, discard="new", max_bytes=20_000)
    bus = transport(server)
    wanted = [*messages(100, size=20), *messages(1, start=100, size=15_000), *messages(50, start=101, size=20)]
    done = until_full(bus, wanted)
    assert done == 100
    assert server.api("STREAM.INFO.SSMD")["state"]["messages"] == 100
    server.api("STREAM.UPDATE.SSMD", server.api("STREAM.INFO.SSMD")["config"] | {"max_bytes": 1 << 20})
    assert publish_through(bus, wanted[done:]) == 0
    assert stored_ids(server, 151) == [message.message_id for message in wanted]
    bus.close()


def test_a_server_without_storage_left_is_full_and_goes_on_when_it_has_some(tmp_path: Path) -> None:
    with NatsServer(tmp_path, max_store_bytes=1 << 20) as server:
        bus = transport(server)
        bus.ensure_stream(["md.>"])
        wanted = messages(400, size=5000)
        done = until_full(bus, wanted)
        assert 100 < done < 250
        server.api("STREAM.PURGE.SSMD", {"seq": 50})
        with pytest.raises(PublishError) as caught:
            bus.publish_all(wanted[done:])
        done += len(caught.value.receipts)
        assert len(caught.value.receipts) > 0
        assert server.api("STREAM.INFO.SSMD")["state"]["last_seq"] == done
        bus.close()


def test_a_stream_of_ours_that_is_full_gives_up_the_oldest(server: NatsServer) -> None:
    bus = NatsTransport(server.url, stream="SSMD", prefix="md", stream_max_bytes=50_000)
    bus.ensure_stream(["md.>"])
    receipts = bus.publish_all(messages(1000, size=200))
    assert receipts[-1].sequence == 1000
    state = server.api("STREAM.INFO.SSMD")["state"]
    assert state["last_seq"] == 1000
    assert state["first_seq"] > 700
    bus.close()


# ---- made and judged -------------------------------------------------------------------------------------------------


def test_a_stream_of_ours_is_made_as_it_was_asked_for(server: NatsServer) -> None:
    bus = NatsTransport(server.url, stream="SSMD", prefix="md", stream_max_bytes=1 << 30, stream_max_age_s=3600)
    assert bus.ensure_stream(["md.>"])
    config = server.api("STREAM.INFO.SSMD")["config"]
    wanted = {"retention": "limits", "discard": "old", "storage": "file", "max_bytes": 1 << 30, "max_msgs": -1}
    assert {name: config[name] for name in wanted} == wanted
    assert config["max_age"] == 3600 * 10**9
    assert config["duplicate_window"] == 120 * 10**9
    assert config["subjects"] == ["md.>"]
    bus.close()


def test_a_stream_that_is_there_is_left_as_it_is(server: NatsServer) -> None:
    limited(server, max_msgs=7)
    before = server.api("STREAM.INFO.SSMD")["config"]
    bus = NatsTransport(server.url, stream="SSMD", prefix="md", stream_max_bytes=1 << 30)
    assert bus.ensure_stream(["md.>"]) is False
    assert server.api("STREAM.INFO.SSMD")["config"] == before
    bus.close()


def test_subjects_of_another_stream_are_a_conflict(server: NatsServer) -> None:
    server.api("STREAM.CREATE.THEIRS", {"name": "THEIRS", "subjects": ["md.trade.>"]})
    bus = transport(server)
    with pytest.raises(ConflictError) as caught:
        bus.ensure_stream(["md.>"])
    assert "overlap" in str(caught.value.evidence)
    bus.close()


def test_a_stream_of_our_name_with_another_prefix_is_a_conflict_for_every_check(server: NatsServer) -> None:
    server.api("STREAM.CREATE.SSMD", {"name": "SSMD", "subjects": ["theirs.>"]})
    bus = transport(server)
    with pytest.raises(ConflictError, match="theirs"):
        bus.check()
    bus.close()


def test_a_stream_whose_readers_take_messages_away_is_rejected(server: NatsServer) -> None:
    limited(server, retention="workqueue")
    bus = transport(server)
    with pytest.raises(RejectedError, match="workqueue"):
        bus.check(["md.>"])
    bus.close()


def test_a_stream_that_is_deleted_under_us_is_told_and_used_again_when_it_is_back(
    server: NatsServer, bus: NatsTransport
) -> None:
    bus.publish(messages(1)[0])
    server.api("STREAM.DELETE.SSMD")
    with pytest.raises(RejectedError):
        bus.publish(messages(1, start=1)[0])
    assert bus.ensure_stream(["md.>"])
    assert bus.publish(messages(1, start=1)[0]).sequence == 1


def test_subjects_taken_from_the_stream_under_us_are_told(server: NatsServer, bus: NatsTransport) -> None:
    bus.publish(messages(1)[0])
    server.api("STREAM.UPDATE.SSMD", server.api("STREAM.INFO.SSMD")["config"] | {"subjects": ["md.ticker.>"]})
    for _ in range(2):  # the answer of the server, and then what is known of the stream
        with pytest.raises(RejectedError):
            bus.publish(messages(1, start=1)[0])


def test_a_message_too_large_for_the_stream_is_refused_before_it_is_sent(server: NatsServer) -> None:
    limited(server, max_msg_size=2000)
    bus = transport(server)
    assert bus.max_payload_bytes == 2000 - 512
    bus.publish(Message("md.trade.A", b"x" * 1488, message_id="j:1"))
    with pytest.raises(LimitError):
        bus.publish(Message("md.trade.A", b"x" * 1489, message_id="j:2"))
    with pytest.raises(LimitError):
        bus.publish(Message("md.trade.A", b"x" * 1488, {"Long": "h" * 600}))
    assert server.api("STREAM.INFO.SSMD")["state"]["messages"] == 1
    bus.close()


def test_a_smaller_limit_of_the_server_counts(tmp_path: Path) -> None:
    with NatsServer(tmp_path, max_payload_bytes=4096) as server:
        bus = transport(server)
        bus.ensure_stream(["md.>"])
        most = bus.max_payload_bytes
        assert most <= 4096
        bus.publish(Message("md.trade.A", b"x" * most, message_id="kalshi-0123456789ab:1"))
        with pytest.raises(LimitError):
            bus.publish(Message("md.trade.A", b"x" * (most + 1)))
        bus.close()


# ---- not for us ------------------------------------------------------------------------------------------------------

CALLS: list[Callable[[NatsTransport], object]] = [
    lambda bus: bus.check(),
    lambda bus: bus.ensure_stream(["md.>"]),
    lambda bus: bus.publish(messages(1)[0], timeout_s=PATIENCE_S),
    lambda bus: bus.subscribe("md.>"),
]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ({"user": "ssmd", "password": SECRET}, {}),
        ({"user": "ssmd", "password": SECRET}, {"user": "ssmd", "password": "wrong-" + SECRET}),
        ({"token": SECRET}, {"token": "wrong-" + SECRET}),
    ],
    ids=["none", "password", "token"],
)
def test_wrong_credentials_are_rejected_at_once_and_are_not_repeated(
    tmp_path: Path, wanted: dict[str, str], given: dict[str, str]
) -> None:
    with NatsServer(tmp_path, **wanted) as server:  # type: ignore[arg-type]
        bus = transport(server, **given)
        for call in CALLS:
            began = time.monotonic()
            with pytest.raises(RejectedError) as caught:
                call(bus)
            assert time.monotonic() - began < 5.0
            assert SECRET not in f"{caught.value} {caught.value.evidence} {bus!r} {vars(bus._connection)!r}"
        bus.close()


@pytest.mark.parametrize("wanted", [{"user": "ssmd", "password": SECRET}, {"token": SECRET}], ids=["password", "token"])
def test_right_credentials_let_us_in_even_when_they_become_right_later(tmp_path: Path, wanted: dict[str, str]) -> None:
    server = NatsServer(tmp_path, **(wanted | {next(reversed(wanted)): "another"}))  # type: ignore[arg-type]
    server.start()
    bus = transport(server, **wanted)
    with pytest.raises(RejectedError):
        bus.check()
    server.kill()
    mended = NatsServer(tmp_path, **wanted)  # type: ignore[arg-type]
    mended.port = server.port
    with mended:
        assert bus.ensure_stream(["md.>"])
        bus.close()


def test_a_server_without_jetstream_is_rejected_with_the_remedy(tmp_path: Path) -> None:
    with NatsServer(tmp_path, jetstream=False) as server:
        bus = transport(server)
        for call in CALLS:
            with pytest.raises(RejectedError, match="-js"):
                call(bus)
        bus.close()


def test_a_subject_that_we_may_not_publish_on_is_rejected(tmp_path: Path) -> None:
    rights = 'authorization { users: [{ user: "u", password: "p", permissions: { publish: { deny: "md.trade.>" } } }] }'
    with NatsServer(tmp_path, settings=rights) as server:
        bus = transport(server, user="u", password="p")
        bus.ensure_stream(["md.>"])
        with pytest.raises(RejectedError) as caught:
            bus.publish(messages(1)[0], timeout_s=PATIENCE_S)
        assert "md.trade" in str(caught.value.evidence).lower()
        assert bus.publish(Message("md.ticker.A", b"1")).sequence == 1
        bus.close()


def test_creds_that_are_none_are_no_endless_loop(server: NatsServer) -> None:
    bus = transport(server, creds="-----BEGIN NATS USER JWT-----\nnothing\n")
    with pytest.raises(MiddlewareError):
        bus.publish(messages(1)[0], timeout_s=1.0)
    bus.close()


# ---- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_tls_with_a_trusted_certificate_works(tmp_path: Path, certificates: tuple[Path, Path]) -> None:
    with NatsServer(tmp_path, tls=certificates) as server:
        bus = NatsTransport(server.url, stream="SSMD", prefix="md", ca_file=certificates[0])
        bus.ensure_stream(["md.>"])
        assert len(bus.publish_all(messages(1000))) == 1000
        bus.close()


def test_a_certificate_that_nobody_vouches_for_is_rejected(tmp_path: Path, certificates: tuple[Path, Path]) -> None:
    with NatsServer(tmp_path, tls=certificates) as server:
        bus = transport(server)
        with pytest.raises(RejectedError, match="certificate"):
            bus.check()
        bus.close()


def test_tls_that_the_server_does_not_offer_is_no_reason_to_send_secrets_in_the_clear() -> None:
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(
                    b'INFO {"server_id":"x","version":"2.9.0","max_payload":1048576,"auth_required":true}\r\n'
                )
                connection.settimeout(PATIENCE_S)
                while data := connection.recv(4096):
                    heard.extend(data)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"tls://127.0.0.1:{listening.getsockname()[1]}"
        bus = NatsTransport(url, stream="SSMD", prefix="md", user="u", password=SECRET)
        with pytest.raises(RejectedError, match="TLS"):
            bus.check()
        bus.close()
        thread.join(PATIENCE_S)
    assert heard == b""


# ---- limits of ours --------------------------------------------------------------------------------------------------


def test_close_ends_a_publish_that_waits(server: NatsServer, bus: NatsTransport) -> None:
    server.pause()
    errors: list[Exception] = []

    def publish() -> None:
        try:
            bus.publish_all(messages(10_000, size=1000))
        except MiddlewareError as error:
            errors.append(error)

    worker = threading.Thread(target=publish)
    worker.start()
    time.sleep(0.1)  # it waits by now, or will not begin: both must end
    bus.close()
    worker.join(PATIENCE_S)
    server.resume()
    assert not worker.is_alive()
    assert len(errors) == 1 and errors[0].retryable
