"""The running simulator against clients that know nothing of it: `websockets` from PyPI and plain sockets."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from ssmd.simulator.process import SimulatorProcess, wait_until

PATIENCE_S = 20.0
Books = dict[str, dict[str, dict[str, int]]]


def sign(exchange: SimulatorProcess, *, off_ms: int = 0, key_path: str | None = None) -> dict[str, str]:
    """The three headers, made here from the protocol sheet alone."""
    key = load_pem_private_key(Path(key_path or exchange.private_key_path).read_bytes(), None)
    ms = str(int(time.time() * 1000) + off_ms)
    message = f"{ms}GET/trade-api/ws/v2".encode()
    if isinstance(key, rsa.RSAPrivateKey):
        raw = key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    else:
        raw = key.sign(message)  # type: ignore[union-attr, call-arg]
    return {
        "KALSHI-ACCESS-KEY": exchange.key_id,
        "KALSHI-ACCESS-TIMESTAMP": ms,
        "KALSHI-ACCESS-SIGNATURE": base64.b64encode(raw).decode(),
    }


@contextmanager
def client(exchange: SimulatorProcess, **options: Any) -> Iterator[ClientConnection]:
    context = ssl.create_default_context(cafile=exchange.ca_file) if exchange.ca_file else None
    settings = {
        "additional_headers": sign(exchange),
        "compression": None,
        "max_size": None,
        "ssl": context,
        "proxy": None,
        "close_timeout": 0.5,  # a client with unread frames does not see the answer to its close
    }
    with connect(exchange.ws_url, **(settings | options)) as ws:
        yield ws


def tickers(exchange: SimulatorProcess) -> list[str]:
    return [row["ticker"] for row in exchange.get("/markets?limit=1000&status=open")["markets"]]  # type: ignore[attr-defined]


def subscribe(ws: ClientConnection, channels: list[str], names: list[str] | None = None, identity: int = 1) -> None:
    params: dict[str, object] = {"channels": channels} | ({"market_tickers": names} if names else {})
    ws.send(json.dumps({"id": identity, "cmd": "subscribe", "params": params}))


def read(ws: ClientConnection, until: Callable[[list[str]], bool]) -> list[str]:
    """Text frames until enough is there; fails after PATIENCE_S."""
    frames: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    while not until(frames):
        text = ws.recv(timeout=deadline - time.monotonic())
        assert isinstance(text, str)
        frames.append(text)
    return frames


def many(number: int) -> Callable[[list[str]], bool]:
    return lambda frames: len(frames) >= number


def of_type(kind: str) -> Callable[[list[str]], bool]:
    return lambda frames: bool(frames) and frames[-1].startswith(f'{{"type":"{kind}"')


def apply(books: Books, text: str) -> None:
    """A reading of our own: every level in 1e-2 contracts, by side and price text."""
    frame = json.loads(text)
    message = frame["msg"]
    if frame["type"] == "orderbook_snapshot":
        books[message["market_ticker"]] = {
            side: {price: cents(size) for price, size in message.get(f"{side}_dollars_fp", ())}
            for side in ("yes", "no")
        }
    elif frame["type"] == "orderbook_delta":
        ladder = books[message["market_ticker"]][message["side"]]
        size = ladder.pop(message["price_dollars"], 0) + cents(message["delta_fp"])
        assert size >= 0
        if size:
            ladder[message["price_dollars"]] = size


def cents(text: str) -> int:
    return int(text.replace(".", ""))


def rest_books(exchange: SimulatorProcess, names: list[str]) -> Books:
    query = "&".join(f"tickers={name}" for name in names)
    rows: Any = exchange.get(f"/markets/orderbooks?{query}")["orderbooks"]
    return {
        row["ticker"]: {
            side: {price: cents(size) for price, size in row["orderbook_fp"][f"{side}_dollars"]}
            for side in ("yes", "no")
        }
        for row in rows
    }


@pytest.fixture
def exchange() -> Iterator[SimulatorProcess]:
    with SimulatorProcess("--markets", "10", "--rate", "500") as process:
        yield process


# ---- handshake


def test_each_kind_of_key_and_several_of_them_are_let_in() -> None:
    with SimulatorProcess("--key-type", "rsa", "--key-type", "ed25519", "--rate", "50") as exchange:
        keys: Any = exchange.ready["keys"]
        assert [key["type"] for key in keys] == ["rsa", "ed25519"]
        for key in keys:
            exchange.key_id = key["key_id"]
            headers = sign(exchange, key_path=key["private_key_path"])
            with client(exchange, additional_headers=headers) as ws:
                subscribe(ws, ["trade"])
                assert '"subscribed"' in read(ws, many(1))[0]


@pytest.mark.parametrize(
    ("change", "body"),
    [
        (lambda h: {}, "token_authentication_failure"),
        (lambda h: {k: v for k, v in h.items() if "SIGNATURE" not in k}, "signature_is_missing_from_headers"),
        (lambda h: h | {"KALSHI-ACCESS-KEY": "11111111-2222-4333-8444-555555555555"}, "NOT_FOUND"),
        (
            lambda h: h | {"KALSHI-ACCESS-SIGNATURE": base64.b64encode(b"x" * 256).decode()},
            "INCORRECT_API_KEY_SIGNATURE",
        ),
    ],
)
def test_wrong_headers_are_answered_401_before_the_upgrade(
    exchange: SimulatorProcess, change: Callable[[dict[str, str]], dict[str, str]], body: str
) -> None:
    with pytest.raises(InvalidStatus) as refused, client(exchange, additional_headers=change(sign(exchange))):
        pass
    assert refused.value.response.status_code == 401
    assert body in refused.value.response.body.decode()


def test_a_clock_that_is_a_minute_off_is_refused(exchange: SimulatorProcess) -> None:
    with pytest.raises(InvalidStatus) as refused, client(exchange, additional_headers=sign(exchange, off_ms=-60_000)):
        pass
    assert json.loads(refused.value.response.body)["error"]["code"] == "header_timestamp_expired"


def test_a_connection_beyond_the_limit_is_answered_429() -> None:
    with SimulatorProcess("--connection-limit", "1") as exchange, client(exchange):
        with pytest.raises(InvalidStatus) as refused, client(exchange):
            pass
        assert (refused.value.response.status_code, refused.value.response.body) == (
            429,
            b'{"error":"too many requests"}',
        )


def test_tls_stands_on_an_authority_of_its_own() -> None:
    with SimulatorProcess("--tls") as exchange:
        assert exchange.ws_url.startswith("wss://") and exchange.rest_url.startswith("https://")
        with client(exchange) as ws:
            subscribe(ws, ["ticker", "trade"])
            read(ws, of_type("trade"))
        with pytest.raises(ssl.SSLCertVerificationError), client(exchange, ssl=ssl.create_default_context()):
            pass


def test_compression_only_where_it_is_switched_on_and_asked_for() -> None:
    for arguments, expected in (((), False), (("--deflate",), True)):
        with SimulatorProcess(*arguments) as exchange, client(exchange, compression="deflate") as ws:
            assert bool(ws.protocol.extensions) is expected
            subscribe(ws, ["orderbook_delta"], tickers(exchange))
            got = read(ws, many(60))
            assert wait_until(lambda e=exchange: len(e.ledger()) >= 60)  # type: ignore[misc]
            assert [payload.decode() for _, payload in exchange.ledger()[: len(got)]] == got


# ---- data


def test_snapshots_and_deltas_pass_through_the_books_of_the_rest_side(exchange: SimulatorProcess) -> None:
    names = tickers(exchange)
    books: Books = {}
    with client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], names)
        for text in read(ws, many(300)):
            apply(books, text)
        there = rest_books(exchange, names)  # somewhere ahead of what was applied so far

        def arrived(frames: list[str]) -> bool:
            if frames:
                apply(books, frames[-1])
            return books == there

        read(ws, arrived)


def test_numbers_have_no_hole_and_the_ledger_is_what_was_received(exchange: SimulatorProcess) -> None:
    with client(exchange) as ws:
        subscribe(ws, ["orderbook_delta", "trade", "ticker", "market_lifecycle_v2"], tickers(exchange))
        frames = read(ws, many(800))
    by_sid: dict[int, list[int]] = {}
    for text in frames:
        frame = json.loads(text)
        if "seq" in frame:
            by_sid.setdefault(frame["sid"], []).append(frame["seq"])
    assert {1, 2} <= set(by_sid) and 3 not in by_sid  # sid 3 is the ticker: no numbers
    for numbers in by_sid.values():
        assert numbers[0] == 1 and all(b == a + 1 for a, b in pairwise(numbers))
    exchange.stop()
    sent = [payload.decode() for number, payload in exchange.ledger() if number == 1]
    assert sent[: len(frames)] == frames


def test_the_same_seed_gives_the_same_trades() -> None:
    stories = []
    for _ in range(2):
        with SimulatorProcess("--seed", "42") as exchange, client(exchange) as ws:
            subscribe(ws, ["trade"])
            trades = [json.loads(text)["msg"] for text in read(ws, many(30))[1:]]
        stories.append([(t["trade_id"], t["market_ticker"], t["yes_price_dollars"], t["count_fp"]) for t in trades])
    assert stories[0] == stories[1]


def test_the_rate_is_not_exceeded() -> None:
    with SimulatorProcess("--rate", "1000") as exchange, client(exchange) as ws:
        subscribe(ws, ["orderbook_delta", "trade", "ticker", "market_lifecycle_v2"], tickers(exchange))
        read(ws, many(200))
        frames = [json.loads(text) for text in read(ws, many(2000))]
        assert frames[-1]["sending_ts_ms"] - frames[0]["sending_ts_ms"] > 1600


def test_without_a_limit_of_rate_books_fit_and_numbers_have_no_hole() -> None:
    with SimulatorProcess("--rate", "0", "--markets", "5") as exchange, client(exchange) as ws:
        books: Books = {}
        subscribe(ws, ["orderbook_delta", "trade"], tickers(exchange))
        seqs: dict[int, int] = {}
        for text in read(ws, many(60_000)):
            frame = json.loads(text)
            if "seq" in frame:
                assert frame["seq"] == seqs.get(frame["sid"], 0) + 1
                seqs[frame["sid"]] = frame["seq"]
                apply(books, text)


def test_ten_thousand_markets_give_ten_thousand_snapshots() -> None:
    with SimulatorProcess("--markets", "10000", "--rate", "200") as exchange, client(exchange) as ws:
        names: list[str] = []
        cursor = ""
        while True:
            page: Any = exchange.get(f"/markets?limit=1000&cursor={cursor}")
            names += [row["ticker"] for row in page["markets"]]
            cursor = page["cursor"]
            if not cursor:
                break
        subscribe(ws, ["orderbook_delta"], names)
        seen: set[str] = set()

        def complete(frames: list[str]) -> bool:
            if frames and frames[-1].startswith('{"type":"orderbook_snapshot"'):
                seen.add(json.loads(frames[-1])["msg"]["market_ticker"])
            return len(seen) == len(names) == 10_000

        read(ws, complete)


def test_frames_of_a_file_arrive_verbatim_once_after_the_first_subscription(tmp_path: Path) -> None:
    file = tmp_path / "frames.jsonl"
    texts = [
        '{"type":"ticker","sid":9,"msg":{ "odd":  1 }}\n',
        '{"type":"trade","sid":2,"seq":77,"msg":{"a":"\u20ac"}}\n',
    ]
    file.write_text(json.dumps(texts[0]) + "\n" + json.dumps({"frame": json.loads(texts[1])}) + "\n")
    with SimulatorProcess("--frames", str(file), "--rate", "0") as exchange, client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], ["KXANY"])
        frames = read(ws, many(3))
        assert '"subscribed"' in frames[0]
        assert frames[1:] == texts
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.2)


def test_every_real_frame_is_served_byte_for_byte(shared: Path) -> None:
    file = shared / "kalshi" / "frames.jsonl"
    entries = [json.loads(line)["frame"] for line in file.read_text().splitlines()]
    expected = [
        entry if isinstance(entry, str) else json.dumps(entry, separators=(",", ":"), ensure_ascii=False)
        for entry in entries
    ]
    with SimulatorProcess("--frames", str(file), "--rate", "2000") as exchange, client(exchange) as ws:
        subscribe(ws, ["ticker"])
        frames = read(ws, many(len(expected) + 1))
        assert [text.rstrip("\n") for text in frames[1:]] == [text.rstrip("\n") for text in expected]


def test_the_old_format_is_spoken_from_the_start_where_asked_for() -> None:
    with SimulatorProcess("--profile", "old") as exchange, client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        delta = json.loads(read(ws, of_type("orderbook_delta"))[-1])["msg"]
        assert isinstance(delta["price"], int) and isinstance(delta["delta"], int)
        assert "delta_fp" not in delta and "ts_ms" not in delta


# ---- keep-alive


def raw_upgrade(exchange: SimulatorProcess) -> socket.socket:
    """A bare socket after the handshake, to see and answer frames by hand."""
    parts = urlsplit(exchange.ws_url)
    sock = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)
    lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef").decode()]
    lines += [f"{name}: {value}" for name, value in sign(exchange).items()]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101")
    return sock


def send_text(sock: socket.socket, text: str) -> None:
    sock.sendall(Frame(Opcode.TEXT, text.encode()).serialize(mask=True))


def test_pings_carry_heartbeat_and_a_client_that_does_not_answer_is_cut_off() -> None:
    with (
        SimulatorProcess("--ping-interval", "0.2", "--pong-timeout", "0.5") as exchange,
        closing(raw_upgrade(exchange)) as sock,
    ):
        data = b""
        while chunk := sock.recv(4096):
            data += chunk
        assert data.startswith(b"\x89\x09heartbeat")


def test_a_client_that_answers_pings_stays() -> None:
    arguments = ("--ping-interval", "0.1", "--pong-timeout", "1", "--rate", "20")
    with SimulatorProcess(*arguments) as exchange, client(exchange) as ws:
        subscribe(ws, ["trade", "ticker"])
        while exchange.ledger_path.read_text().count('"event":"ping"') < 20:
            with suppress(TimeoutError):
                ws.recv(timeout=0.1)
        assert exchange.stats()["clients"] == 1


def test_a_ping_of_the_client_is_answered(exchange: SimulatorProcess) -> None:
    with client(exchange) as ws:
        assert ws.ping(b"hello").wait(PATIENCE_S)


def test_a_breach_of_the_protocol_ends_with_1002(exchange: SimulatorProcess) -> None:
    with closing(raw_upgrade(exchange)) as sock:
        sock.sendall(b"\x81\x02hi")  # not masked
        data = b""
        while chunk := sock.recv(4096):
            data += chunk
        assert data[:4] == b"\x88\x12\x03\xea" or data[2:4] == b"\x03\xea"


# ---- faults


def test_a_timed_seq_gap_is_one_missing_number_that_is_not_in_the_ledger() -> None:
    with SimulatorProcess("--fault", "seq_gap=2@500ms", "--rate", "400") as exchange, client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        frames = read(ws, many(600))
        numbers = [frame["seq"] for frame in map(json.loads, frames) if "seq" in frame]
        holes = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
        assert len(holes) == 1 and holes[0][1] == holes[0][0] + 3
        exchange.stop()
        assert [payload.decode() for _, payload in exchange.ledger()][: len(frames)] == frames


def test_a_duplicate_is_in_the_ledger_twice(exchange: SimulatorProcess) -> None:
    with client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        read(ws, many(20))
        exchange.fault("duplicate")
        frames = read(ws, lambda f: len(f) > 1 and f[-1] == f[-2])
        exchange.stop()
        assert [payload.decode() for _, payload in exchange.ledger()].count(frames[-1]) == 2


def test_http_faults_answer_the_next_handshakes_and_then_no_more(exchange: SimulatorProcess) -> None:
    for name, status in (("http_502x2", 502), ("http_429x1", 429), ("http_401", 401)):
        exchange.fault(name)
        for _ in range(2 if "x2" in name else 1):
            with pytest.raises(InvalidStatus) as refused, client(exchange):
                pass
            assert refused.value.response.status_code == status
    with client(exchange):
        pass
    handshakes: Any = exchange.stats()["handshakes"]
    assert handshakes == {"101": 1, "401": 1, "429": 1, "502": 2}


def test_an_http_fault_can_last_a_time(exchange: SimulatorProcess) -> None:
    exchange.fault("http_502~1s")

    def let_in() -> bool:
        try:
            with client(exchange):
                return True
        except InvalidStatus:
            return False

    assert not let_in() and not let_in()
    assert wait_until(let_in)


def test_a_reset_ends_a_tls_connection_too() -> None:
    with SimulatorProcess("--tls") as exchange, client(exchange) as ws:
        subscribe(ws, ["trade", "ticker"])
        read(ws, many(2))
        exchange.fault("reset")
        with pytest.raises(ConnectionClosed):
            read(ws, many(1_000_000))
        assert wait_until(lambda: exchange.stats()["clients"] == 0)


def test_without_a_limit_of_rate_faults_work_and_an_emptied_market_stays_silent() -> None:
    with SimulatorProcess("--rate", "0", "--markets", "5") as exchange, client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        read(ws, many(1000))
        exchange.fault("empty_snapshot")
        market = json.loads(read(ws, of_type("orderbook_snapshot"))[-1])["msg"]["market_ticker"]
        exchange.fault("unknown_type")
        frames = [json.loads(text) for text in read(ws, of_type("simulated_type"))]
        frames += [json.loads(text) for text in read(ws, many(5000))]
        assert not any(frame["msg"].get("market_ticker") == market for frame in frames)
        assert all(b["seq"] == a["seq"] + 1 for a, b in pairwise(frames))


def test_clock_skew_refuses_handshakes_until_cleared(exchange: SimulatorProcess) -> None:
    exchange.fault("clock_skew=60")

    def refused() -> bool:
        try:
            with client(exchange):
                return False
        except InvalidStatus as error:
            return b"header_timestamp_expired" in (error.response.body or b"")

    assert wait_until(refused)
    exchange.clear()
    assert not refused()


def test_reset_is_a_reset_without_a_close_frame(exchange: SimulatorProcess) -> None:
    with closing(raw_upgrade(exchange)) as sock:
        send_text(sock, '{"id":1,"cmd":"subscribe","params":{"channels":["trade"]}}')
        assert sock.recv(10)
        exchange.fault("reset")
        with pytest.raises(ConnectionResetError):
            while sock.recv(65_536):
                pass


def test_close_frame_comes_with_its_code(exchange: SimulatorProcess) -> None:
    with client(exchange) as ws:
        subscribe(ws, ["trade"])
        read(ws, many(1))
        exchange.fault("close_frame=1012")
        with pytest.raises(ConnectionClosed) as closed:
            read(ws, many(1_000_000))
        assert closed.value.rcvd and closed.value.rcvd.code == 1012


def test_a_stall_sends_nothing_not_even_pongs_and_then_goes_on_without_a_hole() -> None:
    with (
        SimulatorProcess("--ping-interval", "0.1", "--rate", "500") as exchange,
        closing(raw_upgrade(exchange)) as sock,
    ):
        send_text(sock, json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": ["trade", "ticker"]}}))
        assert sock.recv(10)
        exchange.fault("stall")
        sock.settimeout(0.4)
        with pytest.raises(TimeoutError):  # drained, then silence
            while sock.recv(65_536):
                pass
        sock.sendall(Frame(Opcode.PING, b"there?").serialize(mask=True))
        with pytest.raises(TimeoutError):
            sock.recv(65_536)
        exchange.clear()
        sock.settimeout(PATIENCE_S)
        data = b""
        while b"\x8a\x06there?" not in data:
            data += sock.recv(65_536)


def test_half_open_sends_nothing_and_reads_nothing_and_keeps_the_socket() -> None:
    with SimulatorProcess("--ping-interval", "0.1") as exchange, closing(raw_upgrade(exchange)) as sock:
        send_text(sock, json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": ["trade", "ticker"]}}))
        assert sock.recv(10)
        exchange.fault("half_open")

        def held() -> bool:
            rows: Any = exchange.stats()["connections"]
            return bool(rows and rows[0]["half_open"])

        assert wait_until(held)
        sock.settimeout(0.4)
        with pytest.raises(TimeoutError):
            while sock.recv(65_536):
                pass
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # nobody reads: the buffers fill up
            for _ in range(10_000):
                sock.sendall(Frame(Opcode.PING, b"x" * 100).serialize(mask=True) * 100)


def test_fragmented_messages_have_a_ping_in_the_middle_and_the_same_bytes(exchange: SimulatorProcess) -> None:
    with client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        frames = read(ws, many(20))
        exchange.fault("fragmented=50")
        frames += read(ws, many(200))
        exchange.stop()
        assert [payload.decode() for _, payload in exchange.ledger()][: len(frames)] == frames
    lines = [json.loads(line) for line in exchange.ledger_path.read_bytes().splitlines()]
    assert any(line.get("name") == "fragmented" for line in lines)


def test_slow_write_trickles_and_loses_nothing(exchange: SimulatorProcess) -> None:
    with closing(raw_upgrade(exchange)) as sock:
        send_text(sock, json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": ["trade"]}}))
        assert sock.recv(10)
        exchange.fault("slow_write=5~10s")
        pieces = [sock.recv(65_536) for _ in range(60)]
        assert sum(len(piece) <= 5 for piece in pieces) > 10


def test_huge_frame_is_two_mebibytes_by_itself(exchange: SimulatorProcess) -> None:
    with client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        exchange.fault("huge_frame")
        frames = read(ws, of_type("simulated_padding"))
        assert len(frames[-1]) == 2 * 1024 * 1024


def test_an_emptied_book_stays_true_afterwards(exchange: SimulatorProcess) -> None:
    books: Books = {}
    with client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        for text in read(ws, many(50)):
            apply(books, text)
        exchange.fault("empty_snapshot")
        frames = read(ws, of_type("orderbook_snapshot"))
        assert set(json.loads(frames[-1])["msg"]) == {"market_ticker", "market_id"}
        for text in frames + read(ws, many(500)):
            apply(books, text)  # no level falls below zero


def test_burst_sends_so_many_frames_at_once() -> None:
    with SimulatorProcess("--rate", "5") as exchange, client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        read(ws, many(25))
        exchange.fault("burst=2000")
        frames = [json.loads(text) for text in read(ws, many(2000))]
        assert frames[-1]["sending_ts_ms"] - frames[100]["sending_ts_ms"] < 5000


def test_a_terminal_error_ends_the_sid_and_a_new_subscription_gets_a_new_one(exchange: SimulatorProcess) -> None:
    names = tickers(exchange)
    with client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], names)
        read(ws, many(30))
        exchange.fault("error_25")
        error = json.loads(read(ws, of_type("error"))[-1])
        assert (error["sid"], error["msg"]["code"]) == (1, 25)
        subscribe(ws, ["orderbook_delta"], names, identity=2)
        reply, snapshot = map(json.loads, read(ws, many(2)))
        assert (reply["msg"]["sid"], snapshot["sid"], snapshot["seq"]) == (2, 2, 1)


def test_a_client_that_does_not_read_loses_the_channel_with_error_25() -> None:
    with (
        SimulatorProcess("--rate", "5000", "--buffer-bytes", "100000") as exchange,
        closing(raw_upgrade(exchange)) as sock,
    ):
        names = tickers(exchange)
        params = {"channels": ["orderbook_delta"], "market_tickers": names}
        send_text(sock, json.dumps({"id": 1, "cmd": "subscribe", "params": params}))

        def overflown() -> bool:
            rows: Any = exchange.stats()["connections"]
            return not rows[0]["subscriptions"]

        assert wait_until(overflown, 60)
        data = b""
        while b'"code":25' not in data[-200:]:
            data += sock.recv(65_536)


def test_a_drop_resets_every_connection_at_once(exchange: SimulatorProcess) -> None:
    with client(exchange) as one, client(exchange) as two:
        exchange.drop()
        for ws in (one, two):
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=PATIENCE_S)
        assert wait_until(lambda: exchange.stats()["clients"] == 0)


def test_a_fault_that_is_not_known_is_refused_with_the_known_ones(exchange: SimulatorProcess) -> None:
    with pytest.raises(ValueError, match=r"unknown fault 'earthquake'; known are: .*seq_gap"):
        exchange.fault("earthquake")


# ---- the process


def test_commands_on_standard_input_are_answered_by_a_line_each(exchange: SimulatorProcess) -> None:
    assert exchange.process.stdin and exchange.process.stdout
    answers = []
    for line in (b"fault http_502\n", b"stats\n", b"clear\n", b"what\n"):
        exchange.process.stdin.write(line)
        exchange.process.stdin.flush()
        answers.append(json.loads(exchange.process.stdout.readline()))
    assert answers[0]["armed"]["name"] == "http_502"
    assert answers[1]["clients"] == 0
    assert answers[2] == {"done": "clear"}
    assert "unknown command" in answers[3]["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_zero_a_goodbye_a_complete_ledger_and_no_keys(number: int) -> None:
    exchange = SimulatorProcess("--rate", "2000")
    with exchange, client(exchange) as ws:
        subscribe(ws, ["orderbook_delta"], tickers(exchange))
        frames = read(ws, many(300))
        exchange.process.send_signal(number)
        try:
            frames += read(ws, many(1_000_000))
        except ConnectionClosed as closed:
            assert closed.rcvd and closed.rcvd.code == 1001
        assert exchange.process.wait(10) == 0
        while True:  # what was still in the client's buffer
            try:
                frames.append(str(ws.recv(timeout=1)))
            except ConnectionClosed:
                break
        assert not Path(exchange.private_key_path).exists()
        sent = [payload.decode() for _, payload in exchange.ledger()]
        assert sent[: len(frames)] == frames


def test_it_ends_with_its_parent_where_asked_to(repository: Path) -> None:
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'ssmd.simulator', '--die-with-parent'],"
        " stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid, flush=True)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=True)

    def gone() -> bool:
        try:
            os.kill(int(parent.stdout), 0)
        except ProcessLookupError:
            return True
        return "Z" in Path(f"/proc/{int(parent.stdout)}/stat").read_text().rsplit(")", 1)[1].split()[0]

    assert wait_until(gone)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fault", "earthquake"], "unknown fault 'earthquake'"),
        (["--markets", "0"], "--markets 0"),
        (["--frames", "/nowhere/frames.jsonl"], "--frames /nowhere/frames.jsonl"),
        (["--ledger", "/nowhere/ledger.jsonl"], "--ledger /nowhere/ledger.jsonl"),
        (["--register", "a=/nowhere"], "--register a=/nowhere"),
    ],
)
def test_wrong_options_end_with_two_and_name_the_option(arguments: list[str], words: str, repository: Path) -> None:
    command = [sys.executable, "-m", "ssmd.simulator", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=60)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
