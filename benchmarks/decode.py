"""Decode and encode: frame bytes to record bytes, C against ujson + pycapnp, CPU a frame.

    python benchmarks/decode.py [--frames N] [--rounds N]

The C side does more: it splits WebSocket frames, checks UTF-8, follows sequence numbers and puts the record into the
ring. The Python side is the fastest way that pycapnp offers (fields set one by one on a builder), with the same fields
and the frame.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import capnp
import feed
import ujson

from ssmd import normalizer
from ssmd.native.ring import Ring, Role
from ssmd.native.wire import Connection, Writer
from ssmd.wire import FeedStatus

SCHEMA = capnp.load(str(Path(__file__).resolve().parent.parent / "schemas" / "market_data.capnp"))


def _e4(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole + part)


def ujson_pycapnp(frame: bytes, number: int) -> bytes:
    """What a careful Python recorder would do for each message."""
    message: Any = ujson.loads(frame)
    body = message["msg"]
    record = SCHEMA.Record.new_message()
    record.number = number
    record.recvNs = time.time_ns()
    record.connection = 1
    record.sid = message["sid"]
    record.seq = message.get("seq", 0)
    record.sentNs = message["sending_ts_ms"] * 1_000_000
    record.exchangeNs = body["ts_ms"] * 1_000_000
    kind = message["type"]
    if kind == "orderbook_delta":
        book = record.body.init("book")
        book.market = body["market_ticker"]
        book.kind = "delta"
        book.side = "bid" if body["side"] == "yes" else "ask"
        book.yesScale = True
        book.priceE4 = _e4(body["price_dollars"])
        book.deltaE2 = _e4(body["delta_fp"])
    elif kind == "ticker":
        ticker = record.body.init("ticker")
        ticker.market = body["market_ticker"]
        ticker.present = 0xFFC
        ticker.priceE4 = _e4(body["price_dollars"])
        ticker.yesBidE4 = _e4(body["yes_bid_dollars"])
        ticker.yesAskE4 = _e4(body["yes_ask_dollars"])
        ticker.volumeE2 = _e4(body["volume_fp"])
        ticker.openInterestE2 = _e4(body["open_interest_fp"])
        ticker.dollarVolume = body["dollar_volume"]
        ticker.dollarOpenInterest = body["dollar_open_interest"]
        ticker.yesBidSizeE2 = _e4(body["yes_bid_size_fp"])
        ticker.yesAskSizeE2 = _e4(body["yes_ask_size_fp"])
        ticker.lastTradeSizeE2 = _e4(body["last_trade_size_fp"])
    else:
        trade = record.body.init("trade")
        trade.market = body["market_ticker"]
        trade.tradeId = body["trade_id"]
        trade.priceE4 = _e4(body["yes_price_dollars"])
        trade.countE2 = _e4(body["count_fp"])
        trade.takerSide = body["taker_outcome_side"]
    record.frame = frame
    data: bytes = record.to_bytes()
    return data


def in_c(frames: list[bytes]) -> float:
    """CPU µs a frame of the whole C path into the ring; the ring is emptied by moving its tail."""
    blob = b"".join(map(feed.websocket_frame, frames))
    path = Path("/dev/shm/ssmd-bench-decode.ring")
    path.unlink(missing_ok=True)
    with Ring.open(path, 1 << 22, role=Role.PRODUCER) as ring, Ring.open(path, role=Role.CONSUMER) as consumer:
        connection = Connection(Writer(ring, 0), 1)
        buffer, view = connection.buffer, memoryview(blob)
        spent = 0.0
        for start in range(0, len(view), len(buffer)):
            part = view[start : start + len(buffer)]
            buffer[: len(part)] = part
            begin = time.thread_time()
            status = connection.feed(len(part))
            spent += time.thread_time() - begin
            assert status == FeedStatus.OK
            consumer.release(consumer.head - consumer.tail)
        assert connection.frames == len(frames)
    path.unlink(missing_ok=True)
    return spent / len(frames) * 1e6


def in_python(frames: list[bytes]) -> float:
    begin = time.thread_time()
    for number, frame in enumerate(frames):
        ujson_pycapnp(frame, number)
    return (time.thread_time() - begin) / len(frames) * 1e6


def in_twin(frames: list[bytes]) -> float:
    begin = time.thread_time()
    for number, frame in enumerate(frames):
        normalizer.normalize(frame, number=number, recv_ns=1, recv_ticks=1, connection=1)
    return (time.thread_time() - begin) / len(frames) * 1e6


def measure(count: int, rounds: int) -> tuple[list[str], float]:
    """Markdown rows: medians of interleaved rounds; and how many times faster than ujson + pycapnp C is."""
    frames = list(feed.frames(count))
    few = frames[: max(count // 50, 100)]
    taken: dict[str, list[float]] = {"C, socket bytes to ring": [], "ujson + pycapnp": [], "plain Python twin": []}
    for _ in range(rounds):
        for name, function, part in zip(taken, (in_c, in_python, in_twin), (frames, few, few[:1000]), strict=True):
            taken[name].append(function(part))
    ours = statistics.median(taken["C, socket bytes to ring"])
    rows = ["| decode and encode | CPU µs a frame (min - max) | against C |", "|---|---|---|"]
    for name, values in taken.items():
        middle = statistics.median(values)
        rows.append(f"| {name} | {middle:.3f} ({min(values):.3f} - {max(values):.3f}) | {middle / ours:.1f} |")
    return rows, statistics.median(taken["ujson + pycapnp"]) / ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("\n".join(measure(options.frames, options.rounds)[0]))


if __name__ == "__main__":
    main()
