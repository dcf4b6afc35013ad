"""An exchange that breaks the rules of WebSocket and JSON, frame by frame, against both decoders.

One recorder meets all the scripts below, one connection after the other. What stood before the fault is stored byte
for byte; each connection has its records: opened, closed with the reason, and a Gap since its last byte; and the next
connection comes.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hostile import (
    BINARY,
    BYE,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    HostileExchange,
    answers,
    frame,
    says,
    switching,
)
from recording import (
    DATA_KINDS,
    ROOT,
    Line,
    Recorder,
    assert_numbers_have_no_hole,
    environment_file,
    events,
    gaps,
    read_lines,
    ssmd,
    wait_until,
)

MIB = 1 << 20


def trade(market: str = "A-1", **envelope: Any) -> bytes:
    """A trade of a market, as the exchange writes it."""
    msg = {"trade_id": "t", "market_ticker": market, "yes_price_dollars": "0.4700", "count_fp": "2.00"}
    return json.dumps({"type": "trade", **envelope, "msg": msg}, ensure_ascii=False, separators=(",", ":")).encode()


def padded(size: int) -> bytes:
    """A frame of so many bytes, most of them in a field that nobody knows."""
    head, tail = b'{"type":"trade","padding":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@dataclass(frozen=True)
class Case:
    """What is sent behind the handshake, the frames of it that must be stored, and what the end is called."""

    name: str
    sent: bytes
    stored: Sequence[bytes]
    reason: str
    code: int = 0


A, B = trade("A-1"), trade("B-2")
BROKEN = "broke the WebSocket protocol: "
CLOSED = "closed by the exchange: 1000"


def breaks(name: str, bad: bytes) -> Case:
    """A good frame, one that no server may send, and one more that nobody can read any more."""
    return Case(name, frame(A) + bad + frame(B), [A], BROKEN, 1002)


def keeps(name: str, *frames: bytes) -> Case:
    """Frames that are odd inside: each is kept, and the one behind them too."""
    return Case(name, b"".join(map(frame, frames)) + frame(B) + BYE, [*frames, B], CLOSED, 1000)


def deep(depth: int) -> bytes:
    return b'{"type":"trade","a":' + b"[" * depth + b"]" * depth + b"}"


CASES = (
    Case(
        "data behind the handshake, then data after a close", frame(A) + frame(B) + BYE + frame(A), [A, B], CLOSED, 1000
    ),
    breaks("masked", b"\x81\x82\1\2\3\4ab"),
    *(breaks(f"reserved bit {bits:#x}", frame(B, bits=bits)) for bits in (0x40, 0x20, 0x10)),
    *(breaks(f"reserved opcode {opcode}", frame(B, opcode)) for opcode in (3, 7, 11, 15)),
    breaks("length with the top bit", b"\x81\x7f" + struct.pack(">Q", 1 << 63)),
    breaks("control frame of 126 bytes", b"\x89\x7e" + struct.pack(">H", 126) + b"x" * 126),
    breaks("fragmented control frame", frame(b"x", PING, fin=False)),
    breaks("continuation of nothing", frame(B, CONTINUATION)),
    breaks("text inside a fragmented text", frame(A[:5], fin=False) + frame(B)),
    Case("length 2^62", frame(A) + b"\x81\x7f" + struct.pack(">Q", 1 << 62) + b"begin", [A], "max_frame_bytes", 1009),
    Case("1 MiB", frame(padded(MIB)) + BYE, [padded(MIB)], CLOSED, 1000),
    Case("1 MiB + 1", frame(A) + frame(padded(MIB + 1)), [A], "max_frame_bytes", 1009),
    Case(
        "1 MiB + 1 in fragments",
        frame(padded(MIB), fin=False) + frame(b"x", CONTINUATION),
        [],
        "max_frame_bytes",
        1009,
    ),
    Case(
        "fragments of nothing",
        frame(A[:9], fin=False) + frame(b"", CONTINUATION, fin=False) * 300_000 + frame(A[9:], CONTINUATION) + BYE,
        [A],
        CLOSED,
        1000,
    ),
    Case(
        "pings between fragments",
        b"".join(frame(A[i : i + 1], CONTINUATION if i else TEXT, fin=False) + frame(b"p", PING) for i in range(len(A)))
        + frame(b"", CONTINUATION)
        + BYE,
        [A],
        CLOSED,
        1000,
    ),
    Case("close of one byte", frame(A) + frame(b"\x03", CLOSE), [A], "closed by the exchange", 1000),
    Case("close without a code", frame(A) + frame(b"", CLOSE), [A], "closed by the exchange", 1000),
    Case(
        "close with a code of the client's",
        frame(A) + frame(b"\xff\xff\xfe", CLOSE),
        [A],
        "closed by the exchange",
        65535,
    ),
    Case("pongs that nobody asked for", frame(b"x" * 125, PONG) * 1000 + frame(A) + BYE, [A], CLOSED, 1000),
    Case("a binary message", frame(b"\0\1\xff", BINARY) + frame(A) + BYE, [b"\0\1\xff", A], CLOSED, 1000),
    Case("messages of nothing", frame(b"") * 1000 + frame(A) + BYE, [A], CLOSED, 1000),
    keeps("NUL bytes", b"\0", A + b"\0", b"\0" + A, A[:20] + b"\0" + A[20:]),
    keeps("no UTF-8", b'{"type":"trade","x":"\xff"}', b"\xc0\x80", b'{"type":"\xed\xa0\x80"}', A[:-1] + b"\xf0"),
    keeps(
        "lone surrogates", b'{"type":"error","id":1,"msg":{"code":8,"msg":"\\ud800 \\u0000"}}', b'{"type":"\\udfff"}'
    ),
    keeps("deep nesting", deep(10_000), deep(30), deep(31), deep(32), b"[" * 10_000, b'{"a":' * 10_000),
    keeps("a key of nearly 1 MiB", b'{"' + b"k" * (MIB - 10) + b'":1}'),
    keeps("a type of nearly 1 MiB", b'{"type":"' + b"k" * (MIB - 20) + b'"}'),
    keeps("a long error", b'{"type":"error","id":1,"msg":{"code":8,"msg":"' + b"k" * (MIB - 100) + b'"}}'),
    keeps(
        "long numbers", *(b'{"type":"trade","sid":%s,"seq":1,"msg":{}}' % n for n in (b"9" * 10_000, b"1e" + b"9" * 99))
    ),
    keeps("twice the same key", b'{"type":"trade","type":"ticker","sid":1,"sid":2,"msg":{},"msg":[]}'),
    keeps("many ids in a list", b'{"type":"ok","id":2,"msg":[{"channel":"trade","sid":%d}]}' % (1 << 40)),
    keeps("sids and numbers at their limits", *(trade(sid=sid, seq=1) for sid in (0, 2**32 - 1, 2**32, -1, 10**30))),
    keeps("a number of nought", trade(sid=1, seq=0), trade(sid=1, seq=1)),
    keeps("more sids than are tracked", *(trade(sid=sid, seq=1) for sid in range(1, 5001))),
    keeps("more unknown types than are named", *(b'{"type":"new_%d"}' % i for i in range(300))),
    keeps("markets that are paths", *map(trade, ("../../x", "/etc/passwd", "\0", "a\nb", " ", "м", "x" * 1024, "a/b"))),
    keeps("many markets", *(trade(f"M-{i}") for i in range(20_000))),
)

HANDSHAKES = {
    "a wrong accept": b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
    "another host": b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
    "an empty line": b"\r\n\r\n",
    "no HTTP": b"220 smtp ready\r\n\r\n",
    "half a line": b"HTTP/1.1 10",
    "a status of nought": b"HTTP/1.1 0 X\r\n\r\n",
    "a status below nought": b"HTTP/1.1 -1 X\r\n\r\n",
    "a status beyond all": b"HTTP/1.1 99999999999999999999 X\r\n\r\n",
    "a cookie that is none": b"HTTP/1.1 101 S\r\nSet-Cookie: \x01[]=;;a b=\r\nUpgrade: websocket\r\n\r\n",
    "a length that is none": b"HTTP/1.1 500 X\r\nContent-Length: \xd9\xa3x\r\n\r\n",
    "a line without end": b"HTTP/1.1 500 " + b"x" * 3_000_000,
    "more headers than anybody reads": b"HTTP/1.1 101 S\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(50_000)),
}


@dataclass
class Met:
    """One run of the recorder through all the scripts, and the journal that it left."""

    lines: list[Line]
    log: str
    files: list[Path]
    connections: list[int]

    def of(self, index: int) -> list[Line]:
        """The records of one script's connection."""
        return [line for line in self.lines if line.connection == self.connections[index]]


@contextmanager
def recording(folder: Path, scripts: Sequence[Any], **changes: Any) -> Iterator[tuple[HostileExchange, Recorder]]:
    with HostileExchange(scripts, folder) as exchange:
        simulator = exchange.simulator()
        changes.setdefault("connector__reconnect", {"min_ms": 1, "max_s": 0.01})
        environment = environment_file(
            folder, simulator, channels=("trade",), ring__path=str(folder / "ring"), **changes
        )
        with Recorder(environment, simulator) as recorder:
            yield exchange, recorder


def meet(folder: Path, normalizer: str, scripts: Sequence[Any]) -> Met:
    """Runs the recorder until it has come through all scripts and stands on the connection behind them."""
    with recording(folder, scripts, normalizer=normalizer) as (exchange, recorder):
        wait_until(
            lambda: len(exchange.heard) > len(scripts) or recorder.fail_if_dead(), what="the connection after all"
        )
        assert recorder.stop() == 0, recorder.log
        code = ssmd("verify", str(recorder.data)).returncode
        lines = read_lines(recorder.data)
        assert code == bool(gaps(lines)), "the holes are told, and nothing else is wrong"
        assert_numbers_have_no_hole(lines)
        tried = [line for line in lines if line.kind == "connection" and line.body["what"] in ("opened", "refused")]
        return Met(lines, recorder.log, sorted(folder.rglob("*")), [line.connection for line in tried])


@pytest.fixture(scope="module", params=["c", "python"])
def met(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Met]:
    scripts = [says(case.sent) for case in CASES]
    yield meet(tmp_path_factory.mktemp(request.param), request.param, scripts)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.name.replace(" ", "_") for case in CASES])
def test_what_came_before_the_fault_is_kept_and_the_end_is_told(met: Met, index: int) -> None:
    case, lines = CASES[index], met.of(index)
    frames = [line.frame for line in lines if line.kind in DATA_KINDS and line.frame]
    assert frames == list(case.stored)
    (closed,) = events(lines, "closed")
    assert case.reason in closed.body["reason"]
    assert closed.body["code"] == case.code
    assert gaps(lines, "disconnect"), "since when nothing is seen"


def test_no_name_of_a_market_becomes_part_of_a_path(met: Met) -> None:
    """Beside the journal and its own files the recorder makes nothing."""
    known = ("data", "kalshi", "20", "ring", "key.pem", "under-test.yaml", "recorder.log", ".ring", ".flusher.lock")
    known += ("journal.id", "archiver.lock")
    assert [path for path in met.files if not path.name.startswith(known)] == []


def test_every_fault_of_the_exchange_is_its_own(met: Met) -> None:
    """No traceback, no internal error."""
    assert "internal error" not in met.log and "Traceback" not in met.log


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Met:
    return meet(tmp_path_factory.mktemp("refused"), "c", [answers(data) for data in HANDSHAKES.values()])


@pytest.mark.parametrize("index", range(len(HANDSHAKES)), ids=[name.replace(" ", "_") for name in HANDSHAKES])
def test_an_answer_that_is_no_handshake_is_recorded_and_tried_again(refused: Met, index: int) -> None:
    (line,) = refused.of(index)
    assert line.body["what"] == "refused"
    assert 0 < len(line.body["reason"]) < 1000


def resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("normalizer", ["c", "python"])
def test_a_socket_that_is_gone_takes_no_memory(tmp_path: Path, normalizer: str) -> None:
    """Each of many reconnects receives 200 KB; after the first hundred, hundreds more make no difference."""
    scripts = [says(frame(padded(200_000)) + BYE)] * 400
    with recording(tmp_path, scripts, normalizer=normalizer) as (exchange, recorder):
        wait_until(lambda: len(exchange.heard) > 100 or recorder.fail_if_dead(), what="the hundredth connection")
        before = resident_bytes(recorder.pid)
        wait_until(lambda: len(exchange.heard) > 400 or recorder.fail_if_dead(), what="the last connection")
        assert resident_bytes(recorder.pid) - before < 20 * MIB
        assert recorder.stop() == 0


@pytest.mark.parametrize("normalizer", ["c", "python"])
def test_a_flood_of_pings_starves_nobody_and_is_not_hoarded(tmp_path: Path, normalizer: str) -> None:
    """An exchange that sends pings and reads nothing: memory stays, the pages answer, and data behind it is kept."""
    ended = threading.Event()

    def flood(peer: socket.socket, request: bytes) -> None:
        peer.sendall(switching(request))
        for _ in range(100):
            peer.sendall(frame(b"x" * 125, PING) * 2000)
        peer.sendall(frame(A))
        ended.wait(60)

    with recording(tmp_path, [flood], normalizer=normalizer) as (_, recorder):
        recorder.health_address()
        before, slowest_s = resident_bytes(recorder.pid), 0.0
        while recorder.metric("ssmd_frames_received_total") < 1:
            began = time.monotonic()
            recorder.get("/readyz")
            slowest_s = max(slowest_s, time.monotonic() - began)
            recorder.fail_if_dead()
        assert resident_bytes(recorder.pid) - before < 20 * MIB
        assert slowest_s < 2
        ended.set()
        assert recorder.stop() == 0


def test_a_handshake_that_comes_byte_by_byte_is_waited_for_only_so_long() -> None:
    """Each byte comes in time, the whole never."""
    body = """
from gevent import monkey; monkey.patch_all()
import gevent, socket, sys
from ssmd.errors import ExchangeError
from ssmd.kalshi import auth, handshake
handshake.HANDSHAKE_LIMIT_S = 0.5
listener = socket.create_server(("127.0.0.1", 0))
def drip():
    peer, _ = listener.accept()
    while True:
        peer.sendall(b"x")
        gevent.sleep(0.05)
gevent.spawn(drip)
key = auth.load_key(open(sys.argv[1]).read())
url = "ws://127.0.0.1:%d/" % listener.getsockname()[1]
try:
    handshake.connect(handshake.Endpoints(url, "", None, None, auth.Credentials("id", key)), now_ms=1)
except ExchangeError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder, HostileExchange([], Path(folder)) as exchange:
        key = exchange.simulator().private_key_path
        done = subprocess.run([sys.executable, "-c", body, key], cwd=ROOT, capture_output=True, timeout=30, check=False)
    assert b"no whole answer" in done.stdout, done.stderr.decode()


def test_a_handshake_that_ends_while_the_recorder_stops_opens_nothing(tmp_path: Path) -> None:
    """The answer comes after SIGTERM: no connection is opened any more, so none is left without its end."""
    asked, go = threading.Event(), threading.Event()

    def late(peer: socket.socket, request: bytes) -> None:
        asked.set()
        go.wait(60)
        time.sleep(0.3)  # within the second that the recorder gives its clients
        peer.sendall(switching(request) + frame(A))

    with recording(tmp_path, [late]) as (_, recorder):
        assert asked.wait(60)
        go.set()
        assert recorder.stop() == 0
        lines = read_lines(recorder.data)
        assert len(events(lines, "opened")) == len(events(lines, "closed"))


@pytest.mark.parametrize("log", ["/dev/full", "closed pipe"])
def test_a_log_that_cannot_be_written_ends_no_recording(tmp_path: Path, log: str) -> None:
    """Refused, connected, broken off, connected again: each has a line in the log, and none needs it."""
    with HostileExchange([answers(b"x"), says(frame(A) + BYE), says(frame(B))], tmp_path) as exchange:
        simulator = exchange.simulator()
        environment = environment_file(tmp_path, simulator, channels=("trade",), ring__path=str(tmp_path / "ring"))
        recorder = Recorder(environment, simulator)
        with Path("/dev/full").open("wb") as full:
            process = subprocess.Popen(
                [sys.executable, "-m", "ssmd", "run", "-e", str(environment)],
                cwd=ROOT,
                env={**os.environ, "KALSHI_API_KEY": simulator.key_id},
                stdout=subprocess.DEVNULL,
                stderr=full if log == "/dev/full" else subprocess.PIPE,
            )
        if process.stderr is not None:
            process.stderr.close()
        try:
            wait_until(lambda: len(exchange.heard) > 2 or process.poll() is not None, what="the third connection")
            wait_until(
                lambda: process.poll() is not None or B in [line.frame for line in read_lines(recorder.data)],
                what="a frame of the third connection",
            )
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert [line.frame for line in read_lines(recorder.data) if line.kind == "trade"] == [A, B]


def test_warnings_have_a_limit(tmp_path: Path) -> None:
    """Errors with ever other codes: some are told, all are kept."""
    errors = b"".join(frame(b'{"type":"error","id":0,"msg":{"code":%d,"msg":"x"}}' % code) for code in range(100, 5100))
    with recording(tmp_path, [says(errors + BYE)]) as (exchange, recorder):
        wait_until(lambda: len(exchange.heard) > 1 or recorder.fail_if_dead(), what="the next connection")
        assert recorder.stop() == 0
        assert 100 < recorder.log.count("nobody's") <= 1000
        assert len([line for line in read_lines(recorder.data) if line.kind == "control"]) == 5000
