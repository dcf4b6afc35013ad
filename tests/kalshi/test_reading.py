"""Reading on the event loop: what wakes the greenlet and what does not, ends, TLS.

The other side is a socket pair, or a TLS server with a certificate made here. Decoders are small fakes, so that what is
seen is the reader's doing; the real ones are tested in test_wire.py and by every end-to-end test.
"""

from __future__ import annotations

import datetime
import errno
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gevent import socket, ssl

from ssmd.kalshi.reading import Reader
from ssmd.kalshi.tls import RECORD_BYTES, TlsSocket
from ssmd.wire import Event, EventKind, FeedStatus

PATIENCE_S = 20.0


class Fed:
    """A decoder that keeps what it is fed. A `!` in it is something to see."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(4 * RECORD_BYTES))
        self.events: list[Event] = []
        self.data = b""
        self.frames = 0
        self.last_recv_ns = 0

    def feed(self, received: int) -> FeedStatus:
        new = bytes(self.buffer[:received])
        self.data += new
        self.events = [Event(EventKind.PING)] if b"!" in new else []
        return FeedStatus.FULL if b"full" in new else FeedStatus.OK

    def close(self) -> None: ...


class Receiving(Fed):
    """The same, with `receive` and `absorb` as C has them."""

    received = 0
    status = FeedStatus.OK

    def receive(self, descriptor: int) -> bool:
        try:
            self.received = os.readv(descriptor, [self.buffer])
        except OSError as error:
            assert error.errno is not None
            self.received = -error.errno
        return self.received < 1 or self.absorb(self.received)

    def absorb(self, received: int) -> bool:
        self.status = self.feed(received)
        return bool(self.status or self.events)


@pytest.fixture(params=[Fed, Receiving])
def wire(request: pytest.FixtureRequest) -> Fed:
    made: Fed = request.param()
    return made


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


def listen() -> socket.socket:
    """On a free port; accepting from it is cooperative, which create_server's socket is not."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


Ends = tuple[socket.socket, socket.socket]


def until(condition: object) -> None:
    """Lets the loop run until this holds."""
    assert callable(condition)
    with gevent.Timeout(PATIENCE_S):
        while not condition():
            gevent.sleep(0.001)


def test_data_reaches_the_decoder_and_the_greenlet_sleeps_on(ends: Ends, wire: Fed) -> None:
    near, far = ends
    waiting = gevent.spawn(Reader(near, wire).wait)
    for piece in (b"a", b"b", b"c"):
        far.sendall(piece)
        until(lambda piece=piece: wire.data.endswith(piece))
    assert not waiting.ready()
    assert wire.data == b"abc"
    waiting.kill()


def test_an_event_wakes_the_greenlet(ends: Ends, wire: Fed) -> None:
    near, far = ends
    waiting = gevent.spawn(Reader(near, wire).wait)
    far.sendall(b"!")
    assert waiting.get(timeout=PATIENCE_S) == FeedStatus.OK
    assert [event.kind for event in wire.events] == [EventKind.PING]


def test_a_status_wakes_the_greenlet_with_it(ends: Ends, wire: Fed) -> None:
    near, far = ends
    waiting = gevent.spawn(Reader(near, wire).wait)
    far.sendall(b"full")
    assert waiting.get(timeout=PATIENCE_S) == FeedStatus.FULL


def test_nothing_is_read_while_the_greenlet_handles_what_it_was_given(ends: Ends, wire: Fed) -> None:
    near, far = ends
    reader = Reader(near, wire)
    waiting = gevent.spawn(reader.wait)
    far.sendall(b"!")
    waiting.get(timeout=PATIENCE_S)
    far.sendall(b"more")
    gevent.sleep(0.02)
    assert wire.data == b"!"
    waiting = gevent.spawn(reader.wait)
    until(lambda: wire.data == b"!more")
    waiting.kill()


def test_the_other_sides_end_is_an_eof_error(ends: Ends, wire: Fed) -> None:
    near, far = ends
    waiting = gevent.spawn(Reader(near, wire).wait)
    far.sendall(b"last")
    far.close()
    with pytest.raises(EOFError):
        waiting.get(timeout=PATIENCE_S)
    assert wire.data == b"last"


def test_a_reset_is_an_os_error(wire: Fed) -> None:
    listener = listen()
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    waiting = gevent.spawn(Reader(near, wire).wait)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close() sends RST
    far.close()
    with pytest.raises(ConnectionResetError) as caught:
        waiting.get(timeout=PATIENCE_S)
    assert caught.value.errno == errno.ECONNRESET
    near.close()
    listener.close()


def test_closing_ends_a_wait_and_every_later_one(ends: Ends, wire: Fed) -> None:
    near, _ = ends
    reader = Reader(near, wire)
    waiting = gevent.spawn(reader.wait)
    gevent.sleep(0)
    reader.close()
    reader.close()
    assert waiting.get(timeout=PATIENCE_S) is None
    assert reader.wait() is None


def test_a_fault_of_the_decoder_ends_the_wait_with_it(ends: Ends, wire: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = ends

    def fail(received: int) -> FeedStatus:
        raise ValueError(received)

    monkeypatch.setattr(wire, "feed", fail)
    waiting = gevent.spawn(Reader(near, wire).wait)
    far.sendall(b"xy")
    with pytest.raises(ValueError, match="2"):
        waiting.get(timeout=PATIENCE_S)


# ---- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(made.public_bytes(pem) + private)
    return path


@pytest.fixture
def secured(certificate: Path) -> Iterator[Ends]:
    """Both ends of a TLS connection; the near one as the recorder has it."""
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(certificate)
    outside = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outside.load_verify_locations(certificate)
    outside.sslsocket_class = TlsSocket
    listener = listen()
    accepting = gevent.spawn(lambda: inside.wrap_socket(listener.accept()[0], server_side=True))
    near = outside.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="127.0.0.1")
    far = accepting.get(timeout=PATIENCE_S)
    yield near, far
    near.close()
    far.close()
    listener.close()


@pytest.mark.parametrize("size", [1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 20 * RECORD_BYTES + 7])
def test_all_that_was_encrypted_comes_out_whatever_its_size(secured: Ends, wire: Fed, size: int) -> None:
    near, far = secured
    sent = (b"0123456789" * (size // 10 + 1))[:size]
    waiting = gevent.spawn(Reader(near, wire).wait)
    sending = gevent.spawn(far.sendall, sent)
    until(lambda: len(wire.data) >= size)
    assert wire.data == sent
    gevent.killall([waiting, sending])


def test_many_small_tls_records_come_out_in_order(secured: Ends, wire: Fed) -> None:
    near, far = secured
    for number in range(200):
        far.sendall(b"%03d" % number)
    waiting = gevent.spawn(Reader(near, wire).wait)
    until(lambda: len(wire.data) >= 600)
    assert wire.data == b"".join(b"%03d" % number for number in range(200))
    waiting.kill()


def test_an_event_in_an_encrypted_chunk_wakes_the_greenlet(secured: Ends, wire: Fed) -> None:
    near, far = secured
    waiting = gevent.spawn(Reader(near, wire).wait)
    far.sendall(b"a!")
    assert waiting.get(timeout=PATIENCE_S) == FeedStatus.OK
    assert wire.data == b"a!"


def test_an_encrypted_connection_that_just_ends_is_an_eof_error(secured: Ends, wire: Fed) -> None:
    near, far = secured
    waiting = gevent.spawn(Reader(near, wire).wait)
    far.sendall(b"last")
    until(lambda: wire.data == b"last")
    far.close()  # no close_notify
    with pytest.raises(EOFError):
        waiting.get(timeout=PATIENCE_S)


def test_what_came_with_the_answer_to_the_handshake_is_read_without_another_event(secured: Ends, wire: Fed) -> None:
    near, far = secured
    far.sendall(b"answer, first, second")
    assert near.recv(7) == b"answer,"  # as websocket-client reads: the record is inside now
    waiting = gevent.spawn(Reader(near, wire).wait)
    until(lambda: wire.data == b" first, second")
    waiting.kill()


def test_what_waits_inside_is_not_read_after_a_close(secured: Ends, wire: Fed) -> None:
    near, far = secured
    far.sendall(b"answer, first")
    near.recv(7)
    reader = Reader(near, wire)
    waiting = gevent.spawn(reader.wait)
    gevent.get_hub().loop.run_callback(reader.close)
    assert waiting.get(timeout=PATIENCE_S) is None
    assert wire.data in (b"", b" first")  # before the close, or not at all


def test_a_connection_that_says_farewell_behind_data_gives_the_data_and_then_an_eof_error(
    secured: Ends, wire: Fed
) -> None:
    """TCP stays open: nothing but the farewell tells of the end."""
    near, far = secured
    waiting = gevent.spawn(Reader(near, wire).wait)
    far.sendall(b"last")
    leaving = gevent.spawn(far.unwrap)
    with pytest.raises(EOFError):
        waiting.get(timeout=PATIENCE_S)
    assert wire.data == b"last"
    leaving.kill()
