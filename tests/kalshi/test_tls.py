"""TLS in memory: records however they are cut, ends of every kind, sending beside reading, certificates.

The other side is OpenSSL on memory as well, with the ciphertext in the test's hand: it goes over a socket pair in the
pieces that the test wants.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gevent import socket, ssl

from ssmd.kalshi.tls import RECORD_BYTES, ROOM_BYTES, TlsSocket

PATIENCE_S = 20.0
NAME = "exchange.test"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for NAME and its key in one file."""
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
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(made.public_bytes(pem) + private)
    return path


class Server:
    """The exchange's end: `seal` makes ciphertext, `wire` is the socket it goes over."""

    def __init__(self, wire: socket.socket, context: ssl.SSLContext) -> None:
        self.wire = wire
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.hear()
            else:
                return self.flush()

    def flush(self) -> None:
        self.wire.sendall(self._outgoing.read())

    def hear(self) -> None:
        heard = self.wire.recv(65536)
        if heard:
            self._incoming.write(heard)
        else:
            self._incoming.write_eof()

    def seal(self, data: bytes) -> bytes:
        """The TLS records of `data`, not sent."""
        for start in range(0, len(data), RECORD_BYTES):
            self.tls.write(data[start : start + RECORD_BYTES])
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """The record of close_notify, not sent."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                data += self.tls.read(size - len(data))
            except ssl.SSLWantReadError:
                self.hear()
        return data


Connect = Callable[..., tuple[TlsSocket, Server]]


@pytest.fixture
def connect(certificate: Path) -> Iterator[Connect]:
    """Makes a connection, the near end as `wrap_socket` makes it."""
    opened: list[socket.socket] = []

    def made(version: ssl.TLSVersion = VERSIONS[-1], name: str = NAME) -> tuple[TlsSocket, Server]:
        near, far = socket.socketpair()
        opened.extend((near, far))
        near.settimeout(PATIENCE_S)
        inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        inside.load_cert_chain(certificate)
        inside.minimum_version = inside.maximum_version = version
        server = Server(far, inside)
        shaking = gevent.spawn(server.shake_hands)
        try:
            tls = client_context(certificate).wrap_socket(near, server_hostname=name)
        except BaseException:
            shaking.kill()
            raise
        shaking.get(timeout=PATIENCE_S)
        return tls, server

    yield made
    for end in opened:
        end.close()


def client_context(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.sslsocket_class = TlsSocket
    return context


def room(size: int = 4 * RECORD_BYTES) -> memoryview:
    return memoryview(bytearray(size))


def drained(tls: TlsSocket, buffer: memoryview) -> bytes:
    """All that can be read now."""
    data = b""
    while True:
        try:
            data += bytes(buffer[: tls.read_ready()])
        except BlockingIOError:
            return data


@pytest.mark.parametrize("version", VERSIONS)
def test_records_cut_anywhere_come_out_whole_and_each_as_soon_as_it_can(
    connect: Connect, version: ssl.TLSVersion
) -> None:
    tls, server = connect(version)
    buffer = room()
    tls.begin(buffer)
    drained(tls, buffer)  # session tickets
    first = server.seal(b"first")
    sealed = [first + server.seal(b"and the second")]
    sealed += [server.seal(b"first") + server.seal(b"and the second") for _ in range(1, len(sealed[0]))]
    for cut in range(1, len(sealed[0])):
        pair = sealed[cut - 1]
        server.wire.sendall(pair[:cut])
        assert drained(tls, buffer) == (b"first" if cut >= len(first) else b""), cut
        server.wire.sendall(pair[cut:])
        assert drained(tls, buffer) == (b"and the second" if cut >= len(first) else b"firstand the second"), cut


def test_records_that_come_byte_by_byte_come_out(connect: Connect) -> None:
    tls, server = connect()
    buffer = room()
    tls.begin(buffer)
    data = b""
    for byte in server.seal(b"a") + server.seal(b"") + server.seal(b"b"):
        server.wire.sendall(bytes((byte,)))
        data += drained(tls, buffer)
    assert data == b"ab"


def test_all_records_of_one_read_come_out_with_it(connect: Connect) -> None:
    """Else something would be left inside of which the socket does not tell."""
    tls, server = connect()
    buffer = room()
    tls.begin(buffer)
    drained(tls, buffer)
    server.wire.sendall(b"".join(server.seal(b"%03d" % number) for number in range(100)))
    assert bytes(buffer[: tls.read_ready()]) == b"".join(b"%03d" % number for number in range(100))
    with pytest.raises(BlockingIOError):
        tls.read_ready()


@pytest.mark.parametrize("cut", [1, 5, 6, 1000, RECORD_BYTES, 3 * RECORD_BYTES])
def test_the_smallest_buffer_holds_whatever_one_read_can_bring(connect: Connect, cut: int) -> None:
    """Behind a part of a record, records as full as they can be: none may be left inside."""
    tls, server = connect()
    buffer = room(ROOM_BYTES + RECORD_BYTES)
    tls.begin(buffer)
    drained(tls, buffer)
    sent = bytes(range(256)) * (8 * RECORD_BYTES // 256)
    sealed = server.seal(sent)
    data = b""
    for piece in (sealed[:cut], sealed[cut:]):
        sending = gevent.spawn(server.wire.sendall, piece)
        while not sending.ready():
            gevent.sleep(0)
            data += drained(tls, buffer)
        data += drained(tls, buffer)
    assert data == sent


def test_a_buffer_without_room_for_a_record_is_refused(connect: Connect) -> None:
    tls, _ = connect()
    with pytest.raises(ValueError, match="too small"):
        tls.begin(room(ROOM_BYTES + RECORD_BYTES - 1))


def test_data_in_front_of_a_farewell_comes_first_and_then_the_end(connect: Connect) -> None:
    tls, server = connect()
    buffer = room()
    tls.begin(buffer)
    drained(tls, buffer)
    server.wire.sendall(server.seal(b"last") + server.farewell())
    assert bytes(buffer[: tls.read_ready()]) == b"last"
    assert tls.read_ready() == 0
    assert tls.read_ready() == 0


def test_a_farewell_alone_is_the_end(connect: Connect) -> None:
    tls, server = connect()
    buffer = room()
    tls.begin(buffer)
    drained(tls, buffer)
    server.wire.sendall(server.farewell())
    assert tls.read_ready() == 0


def test_what_follows_a_farewell_does_not_count(connect: Connect) -> None:
    tls, server = connect()
    buffer = room()
    tls.begin(buffer)
    drained(tls, buffer)
    behind = b"\x17\x03\x03\x00\x06behind"
    server.wire.sendall(server.seal(b"last") + server.farewell() + behind)
    assert bytes(buffer[: tls.read_ready()]) == b"last"
    assert tls.read_ready() == 0


def test_a_record_that_was_tampered_with_is_an_error_after_the_good_ones(connect: Connect) -> None:
    tls, server = connect()
    buffer = room()
    tls.begin(buffer)
    drained(tls, buffer)
    good, bad = server.seal(b"good"), bytearray(server.seal(b"bad"))
    bad[-1] ^= 1
    server.wire.sendall(good + bad)
    assert bytes(buffer[: tls.read_ready()]) == b"good"
    with pytest.raises(ssl.SSLError, match=r"(?i)mac"):
        tls.read_ready()


def test_the_other_side_is_told_of_a_record_that_was_tampered_with(connect: Connect) -> None:
    tls, server = connect()
    buffer = room()
    tls.begin(buffer)
    drained(tls, buffer)
    bad = bytearray(server.seal(b"bad"))
    bad[-1] ^= 1
    server.wire.sendall(bad)
    with pytest.raises(ssl.SSLError, match=r"(?i)mac"):
        tls.read_ready()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"), gevent.Timeout(PATIENCE_S):
        server.receive(1)


def test_a_connection_cut_in_the_middle_of_a_record_ends(connect: Connect) -> None:
    tls, server = connect()
    buffer = room()
    tls.begin(buffer)
    drained(tls, buffer)
    server.wire.sendall(server.seal(b"whole") + server.seal(b"half")[:-3])
    server.wire.close()
    assert bytes(buffer[: tls.read_ready()]) == b"whole"
    assert tls.read_ready() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_both_sides_send_much_at_once_and_nothing_is_lost(connect: Connect, version: ssl.TLSVersion) -> None:
    tls, server = connect(version)
    buffer = room()
    tls.begin(buffer)
    up, down = b"up" * 200_000, b"down" * 100_000
    received = b""

    def send_all() -> None:
        rest = up
        while rest:
            rest = rest[tls.send(rest) :]

    helpers = [gevent.spawn(send_all), gevent.spawn(server.wire.sendall, server.seal(down))]
    heard = gevent.spawn(server.receive, len(up))
    with gevent.Timeout(PATIENCE_S):
        while len(received) < len(down):
            gevent.sleep(0.001)
            received += drained(tls, buffer)
    assert received == down
    assert heard.get(timeout=PATIENCE_S) == up
    gevent.killall(helpers)


def test_a_sender_that_is_killed_leaves_a_stream_that_the_next_one_can_go_on_with(connect: Connect) -> None:
    tls, server = connect()
    tls.settimeout(None)
    first, second = b"1" * 3_000_000, b"2" * 1000
    sending = gevent.spawn(tls.send, first)
    gevent.sleep(0.01)  # the other side does not read: it is stuck in the middle of a record
    assert not sending.ready()
    sending.kill()
    heard = gevent.spawn(server.receive, len(first) + len(second))
    tls.send(second)
    assert heard.get(timeout=PATIENCE_S) == first + second


def test_sending_on_a_connection_that_is_gone_is_an_os_error(connect: Connect) -> None:
    tls, server = connect()
    server.wire.close()
    with pytest.raises(OSError):
        tls.send(b"x")


def test_waiting_for_data_ends_with_the_timeout(connect: Connect) -> None:
    tls, _ = connect()
    tls.settimeout(0.01)
    with pytest.raises(TimeoutError):
        tls.recv(1)


@pytest.mark.parametrize("ending", ["farewell", "none"])
def test_waiting_for_data_ends_with_the_other_side(connect: Connect, ending: str) -> None:
    tls, server = connect()
    server.wire.sendall(server.seal(b"ab"))
    if ending == "farewell":
        server.wire.sendall(server.farewell())
    else:
        server.wire.close()
    assert [tls.recv(1), tls.recv(1), tls.recv(1)] == [b"a", b"b", b""]


def test_a_certificate_for_another_name_is_not_accepted(connect: Connect) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(name="elsewhere.test")


def test_a_connection_without_a_name_to_check_is_refused(certificate: Path) -> None:
    near, far = socket.socketpair()
    with near, far, pytest.raises(ValueError, match="name"):
        client_context(certificate).wrap_socket(near, server_hostname="")


def test_a_failed_handshake_closes_the_socket_and_tells_the_other_side(certificate: Path) -> None:
    near, far = socket.socketpair()
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(certificate)
    shaking = gevent.spawn(Server(far, inside).shake_hands)
    untrusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    untrusting.sslsocket_class = TlsSocket
    with pytest.raises(ssl.SSLCertVerificationError):
        untrusting.wrap_socket(near, server_hostname=NAME)
    assert near.fileno() == -1
    shaking.join(PATIENCE_S)
    assert isinstance(shaking.exception, ssl.SSLError) or shaking.successful()
    far.close()


def test_an_end_in_the_middle_of_the_handshake_is_an_os_error(certificate: Path) -> None:
    near, far = socket.socketpair()
    far.close()
    with pytest.raises(OSError):
        client_context(certificate).wrap_socket(near, server_hostname=NAME)


def test_a_handshake_without_an_answer_ends_with_the_timeout(certificate: Path) -> None:
    near, far = socket.socketpair()
    near.settimeout(0.01)
    with far, pytest.raises(TimeoutError):
        client_context(certificate).wrap_socket(near, server_hostname=NAME)
