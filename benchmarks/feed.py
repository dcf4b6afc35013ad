"""Kalshi-like traffic for the benchmarks, and a server that sends it as fast as a socket takes it.

The mix is that of a busy day: 70 % book deltas, 22 % tickers, 8 % trades, about 309 bytes a frame, sequence numbers
right for each sid. The server knows nothing of Kalshi beyond the handshake: it sends the frames and closes.
Made from the protocol's field lists, seeded, no captured data.
"""

from __future__ import annotations

import base64
import hashlib
import random
import socket
import ssl
import time
from collections.abc import Iterator

MARKETS = 200
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def _uuid(source: random.Random) -> str:
    digits = f"{source.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _delta(source: random.Random, seq: int, name: str, identity: str, price: int, size: str, now_ms: int) -> str:
    sign = "-" if source.random() < 0.5 else ""
    side = "yes" if source.random() < 0.5 else "no"
    at = f"2026-11-22T10:00:{source.randrange(60):02}.{source.randrange(10**6):06}Z"
    return (
        f'{{"type":"orderbook_delta","sid":1,"seq":{seq},"msg":{{"market_ticker":"{name}","market_id":"{identity}",'
        f'"price_dollars":"0.{price:02}00","delta_fp":"{sign}{size}","side":"{side}","ts":"{at}","ts_ms":{now_ms}}},'
        f'"sending_ts_ms":{now_ms + 3}}}\n'
    )


def _ticker(source: random.Random, name: str, identity: str, price: int, size: str, now_ms: int) -> str:
    ask = min(price + 1, 99)
    return (
        f'{{"type":"ticker","sid":3,"msg":{{"market_id":"{identity}","market_ticker":"{name}",'
        f'"price_dollars":"0.{price:02}00","yes_bid_dollars":"0.{price:02}00","yes_ask_dollars":"0.{ask:02}00",'
        f'"volume_fp":"{size}","open_interest_fp":"{size}","dollar_volume":{source.randrange(10**5)},'
        f'"dollar_open_interest":{source.randrange(10**5)},"yes_bid_size_fp":"{size}","yes_ask_size_fp":"{size}",'
        f'"last_trade_size_fp":"1.00","ts":{now_ms // 1000},"ts_ms":{now_ms},'
        f'"time":"2026-11-22T10:00:00.{source.randrange(10**6):06}Z"}},"sending_ts_ms":{now_ms + 3}}}\n'
    )


def _trade(source: random.Random, seq: int, name: str, price: int, size: str, now_ms: int) -> str:
    return (
        f'{{"type":"trade","sid":2,"seq":{seq},"msg":{{"trade_id":"{_uuid(source)}","market_ticker":"{name}",'
        f'"yes_price_dollars":"0.{price:02}00","no_price_dollars":"0.{100 - price:02}00","count_fp":"{size}",'
        f'"taker_side":"yes","taker_outcome_side":"yes","taker_book_side":"bid","is_block_trade":false,'
        f'"ts":{now_ms // 1000},"ts_ms":{now_ms}}},"sending_ts_ms":{now_ms + 3}}}\n'
    )


def frames(count: int, seed: int = 1) -> Iterator[bytes]:
    """`count` frames as the exchange would send them (compact JSON and a newline)."""
    source = random.Random(seed)
    names = [(f"KXBTCD-26NOV2216-T{68000 + 250 * i}.99", _uuid(source)) for i in range(MARKETS)]
    book_seq, trade_seq, now_ms = 0, 0, 1_795_000_000_000
    for _ in range(count):
        now_ms += source.randrange(3)
        name, identity = source.choice(names)
        price = source.randrange(1, 100)
        size = f"{source.randrange(1, 900)}.{source.randrange(100):02}"
        kind = source.random()
        if kind < 0.70:
            book_seq += 1
            text = _delta(source, book_seq, name, identity, price, size, now_ms)
        elif kind < 0.92:
            text = _ticker(source, name, identity, price, size, now_ms)
        else:
            trade_seq += 1
            text = _trade(source, trade_seq, name, price, size, now_ms)
        yield text.encode()


def websocket_frame(payload: bytes) -> bytes:
    """One unmasked text message."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    assert size < 65536
    return b"\x81\x7e" + size.to_bytes(2, "big") + payload


def _handshake(connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    key = next(
        line.split(b":", 1)[1].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )


def serve(
    listener: socket.socket, messages: list[bytes], rate: float, context: ssl.SSLContext | None, rounds: int
) -> None:
    """Sends these WebSocket frames to each of `rounds` clients in turn; `rate` 0: all at once, else one a segment."""
    whole = b"".join(messages) if rate == 0 else b""
    for _ in range(rounds):
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        try:
            _handshake(connection)
            if rate == 0:
                view = memoryview(whole)
                for start in range(0, len(view), 1 << 18):
                    connection.sendall(view[start : start + (1 << 18)])
            else:
                begin = time.perf_counter()
                for index, message in enumerate(messages):
                    wait_s = begin + index / rate - time.perf_counter()
                    if wait_s > 0:
                        time.sleep(wait_s)
                    connection.sendall(message)
            connection.sendall(b"\x88\x02\x03\xe8")
            connection.settimeout(10)
            while connection.recv(65536):
                pass
        except OSError:
            pass
        finally:
            connection.close()
