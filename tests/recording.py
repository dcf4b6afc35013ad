"""A recorder under test: `ssmd run` as a child process, and the journal it leaves, read without ssmd's own reader.

The journal is read here with pycapnp alone and the ledger with the simulator's helper, so that a comparison of the two
involves nothing of the code between them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import capnp
import yaml
import zstandard

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = capnp.load(str(ROOT / "schemas" / "market_data.capnp"))
DEADLINE_S = 60.0  # generous: the machine may be busy; nothing waits for it to pass
DATA_KINDS = {"trade", "ticker", "book", "status", "index", "control", "unparsed"}


def wait_until(condition: Callable[[], Any], *, what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Polls until the condition gives something true; fails with `what` when it never does."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


def ssmd(
    *arguments: str, timeout_s: float = 120.0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs one `ssmd` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "ssmd", *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
        check=False,
    )


def verify(folder: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and report of `ssmd verify --json`."""
    done = ssmd("verify", "--json", str(folder))
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


# ---- journal, read independently ------------------------------------------------------------------------------------


def segment_files(folder: Path) -> list[Path]:
    """Segments in the order of their first record; a compressed one stands for its original."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*/*/*.capnp*")):
        stem = path.name.split(".capnp")[0]
        if path.name.endswith((".capnp", ".capnp.open", ".capnp.zst")):
            found.setdefault(stem, path)
    return [found[stem] for stem in sorted(found, key=lambda stem: int(stem.rsplit("-", 1)[1]))]


def segment_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def read_records(folder: Path) -> Iterator[Any]:
    """Every record of the journal, checkpoints included; an incomplete last one is not a record."""
    for path in segment_files(folder):
        for record, _ in records_of(segment_bytes(path), path.name):
            yield record


def records_of(content: bytes, name: str, start: int = 0) -> Iterator[tuple[Any, int]]:
    """The whole records of a segment from `start` on, each with the offset behind it."""
    data, offset = memoryview(content), start
    while offset + 8 <= len(data):
        assert int.from_bytes(data[offset : offset + 4], "little") == 0, f"{name} at {offset}: no record starts here"
        size = 8 + 8 * int.from_bytes(data[offset + 4 : offset + 8], "little")
        if offset + size > len(data):
            break
        with SCHEMA.Record.from_bytes(bytes(data[offset : offset + size])) as record:
            yield record, offset + size
        offset += size


@dataclass(frozen=True)
class Line:
    """The parts of a record that the tests look at."""

    number: int
    kind: str
    connection: int
    sid: int
    seq: int
    recv_ns: int
    frame: bytes
    body: dict[str, Any]


def read_lines(folder: Path) -> list[Line]:
    """The numbered records (no checkpoints), bodies as dictionaries."""
    return [line for line in map(line_of, read_records(folder)) if line is not None]


def line_of(record: Any) -> Line | None:
    """None for a checkpoint: it has no number of its own."""
    kind = record.body.which()
    if kind == "checkpoint":
        return None
    body = getattr(record.body, kind).to_dict()
    frame = bytes(record.frame)
    return Line(record.number, kind, record.connection, record.sid, record.seq, record.recvNs, frame, body)


def frames_by_connection(lines: Sequence[Line]) -> list[list[bytes]]:
    """Frames per socket, in the order in which the sockets were opened."""
    opened = [line.connection for line in lines if line.kind == "connection" and line.body["what"] == "opened"]
    frames: dict[int, list[bytes]] = {connection: [] for connection in opened}
    for line in lines:
        if line.kind in DATA_KINDS and line.frame:
            frames[line.connection].append(line.frame)
    return [frames[connection] for connection in opened]


def gaps(lines: Sequence[Line], cause: str | None = None) -> list[Line]:
    return [line for line in lines if line.kind == "gap" and cause in (None, line.body["cause"])]


def events(lines: Sequence[Line], what: str) -> list[Line]:
    return [line for line in lines if line.kind == "connection" and line.body["what"] == what]


def assert_numbers_have_no_hole(lines: Sequence[Line]) -> None:
    numbers = [line.number for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def ledger_by_connection(ledger: Sequence[tuple[int, bytes]]) -> list[list[bytes]]:
    sent: dict[int, list[bytes]] = {}
    for connection, frame in ledger:
        sent.setdefault(connection, []).append(frame)
    return [sent[connection] for connection in sorted(sent)]


def assert_journal_is_ledger(lines: Sequence[Line], ledger: Sequence[tuple[int, bytes]], *, at_least: int = 1) -> None:
    """On every socket the journal holds exactly the first frames that were sent on it, byte for byte, in order."""
    received, sent = frames_by_connection(lines), ledger_by_connection(ledger)
    received = [frames for frames in received if frames]
    assert len(received) <= len(sent), "more sockets in the journal than in the ledger"
    for index, frames in enumerate(received):
        assert frames == sent[index][: len(frames)], f"socket {index}: the journal differs from what was sent"
    assert sum(map(len, received)) >= at_least


# ---- the recorder ---------------------------------------------------------------------------------------------------


def environment_file(
    folder: Path,
    simulator: Any,
    *,
    channels: Sequence[str] = ("orderbook_delta", "trade", "ticker", "market_lifecycle_v2"),
    **changes: Any,
) -> Path:
    """An environment that records a running simulator through the code path of the real exchange."""
    subscriptions = [
        {"channels": [channel], "all": True}
        if channel != "orderbook_delta"
        else {"channels": [channel], "markets": list(markets(simulator))}
        for channel in channels
    ]
    content: dict[str, Any] = {
        "name": "under-test",
        "feed": "kalshi",
        "schema": "market_data:v1",
        "keys": {
            "kalshi": {
                "type": "api_key",
                "required": True,
                "fields": {
                    "key_id": {"source": "env:KALSHI_API_KEY"},
                    "private_key": {"source": f"file:{simulator.private_key_path}"},
                },
            }
        },
        "exchange": {"websocket_url": simulator.ws_url, "rest_url": simulator.rest_url},
        "subscriptions": subscriptions,
        "health": {"address": "127.0.0.1:0"},
        "storage": {"type": "local", "path": str(folder / "data")},
        "flusher": {"sync_interval_ms": 50},
        "connector": {"reconnect": {"min_ms": 50, "max_s": 1.0}},
    }
    if simulator.ca_file:
        content["exchange"]["ca_file"] = str(simulator.ca_file)
    for path, value in changes.items():
        target = content
        *sections, last = path.split("__")
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    file = folder / "under-test.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def markets(simulator: Any) -> list[str]:
    """All tickers of the simulator, asked over REST."""
    tickers: list[str] = []
    cursor = ""
    while True:
        with urllib.request.urlopen(f"{simulator.rest_url}/markets?limit=1000&cursor={cursor}") as reply:
            page = json.load(reply)
        tickers += [market["ticker"] for market in page["markets"]]
        cursor = page["cursor"]
        if not cursor:
            return sorted(tickers)


class Recorder:
    """`ssmd run` on an environment file. Use as a context manager: it never outlives the test."""

    def __init__(self, environment: Path, simulator: Any, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.environment = environment
        self.data = Path(yaml.safe_load(environment.read_text())["storage"]["path"])
        self.arguments = arguments
        self._env = {**os.environ, "KALSHI_API_KEY": simulator.key_id, **(env or {})}
        self._log_path = environment.parent / "recorder.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self._log_offset = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ssmd", "run", "-e", str(self.environment), *self.arguments],
                cwd=ROOT,
                env=self._env,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        """What the present process has printed."""
        return self._log_path.read_bytes()[self._log_offset :].decode("utf-8", "replace")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def health_address(self) -> str:
        found = wait_until(
            lambda: re.search(r'"address": "([^"]+)"', self.log) or self.fail_if_dead(),
            what="the health address in the log",
        )
        return str(found.group(1))

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of one page of the health server."""
        try:
            with urllib.request.urlopen(f"http://{self.health_address()}{page}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, label: str | None = None) -> float:
        """One number of /metrics; all labels summed unless one is named. 0 while the page is not there."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            found = re.fullmatch(rf'{name}(?:\{{\w+="([^"]*)"\}})? (\S+)', line)
            if found and label in (None, found.group(1)):
                total += float(found.group(2))
        return total

    def wait_live(self) -> None:
        wait_until(lambda: self.get("/readyz")[0] == 200 or self.fail_if_dead(), what="ready")

    def wait_frames(self, count: int) -> None:
        wait_until(
            lambda: self.metric("ssmd_frames_received_total") >= count or self.fail_if_dead(), what=f"{count} frames"
        )

    def fail_if_dead(self) -> bool:
        assert self.process is not None and self.process.poll() is None, f"the recorder ended:\n{self.log}"
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Asks it to end; returns the exit code."""
        self.send(number)
        return self.wait()

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, as a power cut of the process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
