"""The whole path on loopback: what is recorded is in journal, stream and bucket, once each, whatever fails meanwhile.

The servers are real (tests/servers.py); the object store stands behind a proxy that can answer 500, or late. Equality
is judged by `ssmd verify --against`, which is tested by itself in tests/test_against.py, and by the exchange's ledger.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from recording import ROOT, Recorder, assert_journal_is_ledger, environment_file, read_lines, wait_until
from servers import NatsServer, RedisServer, S3Server

from ssmd.simulator.process import SimulatorProcess

STREAM, PREFIX = "SSMD", "md"
VARIABLES = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}


class Faulty(http.server.ThreadingHTTPServer):
    """A proxy in front of an object store: `mode` well, broken (500 for each request), or slow (after `late_s`)."""

    daemon_threads = True
    late_s = 1.0

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.behind = port
        self.mode = "well"
        self.refused = 0
        self.delayed = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Forward(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faulty

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.mode == "broken":
            self.server.refused += 1
            self._answer(500, [], b"<Error><Code>InternalError</Code></Error>")
            return
        if self.server.mode == "slow":
            self.server.delayed += 1
            time.sleep(self.server.late_s)
        asked = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        asked.request(self.command, self.path, body, dict(self.headers))
        reply = asked.getresponse()
        self._answer(reply.status, reply.getheaders(), reply.read())
        asked.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        sized = False
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding"):
                sized = sized or name.lower() == "content-length"
                self.send_header(name, value)
        if not sized:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def proxy(port: int) -> Iterator[Faulty]:
    with Faulty(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Scene:
    """Exchange, servers and recorder."""

    def __init__(
        self, folder: Path, exchange: Any, nats: NatsServer, redis: RedisServer, store: S3Server, front: Faulty
    ) -> None:
        self.folder, self.exchange = folder, exchange
        self.nats, self.redis, self.front = nats, redis, front
        store.make_bucket()
        self.environment = environment_file(
            folder,
            exchange,
            transport={"type": "nats", "url": nats.url, "stream": STREAM, "publish": "both"},
            storage__type="s3",
            storage__bucket=S3Server.BUCKET,
            storage__region="us-east-1",
            storage__endpoint=front.url,
            storage__prefix="copies",
            cache={"type": "redis", "url": redis.url},
            flusher={"sync_interval_ms": 50, "rotate_bytes": 262_144},
        )
        self.recorder = Recorder(self.environment, exchange, env=VARIABLES)

    def pid_of(self, child: str) -> int:
        """Of the present process of a helper."""
        found = re.findall(rf'"child": "{child}", "child_pid": (\d+)', self.recorder.log)
        return int(found[-1]) if found else 0

    def kill(self, child: str) -> None:
        """SIGKILL to a helper; returns when it runs again."""
        before = wait_until(lambda: self.pid_of(child), what=f"{child} started")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: self.pid_of(child) != before, what=f"{child} started again")

    def lag(self, cursor: str) -> float:
        return self.recorder.metric("ssmd_cursor_lag_records", cursor)

    def finish(self) -> dict[str, Any]:
        """Stops the recorder, has publisher and archiver finish, and compares everything with everything."""
        assert self.recorder.stop() == 0, self.recorder.log
        self.exchange.stop()
        for helper in ("publisher", "archiver"):
            done = self.python("-m", f"ssmd.{helper}", "-e", str(self.environment), "--once")
            assert done.returncode == 0, done.stderr.decode()
        report = self.compared()
        lines = read_lines(self.recorder.data)
        assert_journal_is_ledger(lines, self.exchange.ledger(), at_least=100)
        (journal,) = report["against"]
        assert [target["form"] for target in journal["targets"]] == ["records", "batches", "objects"]
        for target in journal["targets"]:
            assert target["records"] == len(lines), target
        return report

    def compared(self) -> dict[str, Any]:
        """The report of `ssmd verify --against` stream and bucket, which must find all complete."""
        done = self.python(
            "-m", "ssmd", "verify", "--json", str(self.recorder.data),
            "--against", f"{self.nats.url}/{STREAM}?prefix={PREFIX}&publish=both",
            "--against", f"s3://{S3Server.BUCKET}/copies?endpoint={self.front.url}&region=us-east-1",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def python(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            capture_output=True,
            timeout=180,
            check=False,
            env={**os.environ, **VARIABLES, "KALSHI_API_KEY": self.exchange.key_id},
        )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with (
        NatsServer(tmp_path / "nats") as nats,
        RedisServer(tmp_path / "redis") as redis,
        S3Server(tmp_path / "s3") as store,
        proxy(store.port) as front,
        SimulatorProcess("--rate", "400", "--markets", "5") as exchange,
    ):
        made = Scene(tmp_path, exchange, nats, redis, store, front)
        with made.recorder:
            yield made


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_a_bus_that_is_killed_five_times_is_caught_up_with(scene: Scene) -> None:
    """Capture does not notice. Health says by how much the publisher is behind, and when that is over."""
    scene.recorder.wait_live()
    for round_ in range(5):
        wait_until(lambda: scene.recorder.metric("ssmd_cursor_number", "publisher") > 0, what="something published")
        frames = scene.recorder.metric("ssmd_frames_received_total")
        scene.nats.kill()
        scene.recorder.wait_frames(int(frames) + 100)
        wait_until(lambda: scene.lag("publisher") > 0, what="the publisher is behind")
        if round_ == 0:
            told = wait_until(lambda: trouble_of(scene, "publisher"), what="trouble in /healthz")
            assert re.search(r"[\d,]+ records behind", told)
            assert scene.recorder.get("/healthz")[0] == 503
        scene.nats.start()
    wait_until(lambda: scene.lag("publisher") < 200, what="the publisher has caught up")
    wait_until(lambda: scene.recorder.get("/healthz")[0] == 200, what="healthy again")
    assert scene.recorder.metric("ssmd_reconnects_total") == 0
    (live,) = scene.compared()["against"]  # while everything goes on: being behind is no difference
    assert all(target["equal"] for target in live["targets"])
    scene.finish()


def trouble_of(scene: Scene, check: str) -> str:
    """What /healthz says is wrong with a part, empty if nothing is."""
    try:
        detail = json.loads(scene.recorder.get("/healthz")[1])["checks"][check]["detail"]
    except (ValueError, KeyError):
        return ""
    return detail or ""


def test_helpers_that_are_killed_lose_and_double_nothing(scene: Scene) -> None:
    """SIGKILL at random instants, while the object store answers 500, then late, and the cache is gone."""
    chance = random.Random(3)
    scene.recorder.wait_live()
    scene.redis.kill()
    for mode in ("broken", "slow"):
        scene.front.mode = mode
        for helper in ("publisher", "archiver"):
            time.sleep(chance.uniform(0, 0.3))  # the instant is the point
            scene.kill(helper)
        if mode == "broken":
            wait_until(lambda: scene.front.refused, what="an upload that was refused")
            assert wait_until(lambda: trouble_of(scene, "lastvalues"), what="the cache is missed")
            scene.redis.start()
    scene.front.mode = "well"
    scene.finish()


@pytest.mark.slow
def test_everything_fails_again_and_again(scene: Scene) -> None:
    """A minute: the bus killed five times, Redis gone for 10 s, the store broken and slow, helpers killed at random."""
    chance = random.Random(5)
    scene.recorder.wait_live()
    scene.redis.kill()
    redis_back = time.monotonic() + 10
    for round_ in range(10):
        scene.front.mode = ("broken", "slow", "well")[round_ % 3]
        if round_ % 2:
            scene.nats.kill()
            time.sleep(chance.uniform(0.1, 2))
            scene.nats.start()
        time.sleep(chance.uniform(0, 2))
        scene.kill(chance.choice(("publisher", "archiver")))
        if scene.redis.process is None and time.monotonic() > redis_back:
            scene.redis.start()
    scene.front.mode = "well"
    scene.finish()


# ---- the script ------------------------------------------------------------------------------------------------------


def script(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(ROOT / "scripts" / "run-loopback.sh"), "--no-install", *arguments],
        cwd=ROOT,
        env={**os.environ, "SSMD_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that name the folder, and of servers that the script started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if entry.name.isdigit() else ""
        except OSError:
            continue
        if str(folder) in command and "pytest" not in command:
            found.append(command)
    return found


@pytest.fixture
def servers_installed(tmp_path: Path) -> None:
    """Names what is missing, as the fixtures of the servers do."""
    NatsServer(tmp_path / "n")
    RedisServer(tmp_path / "r")
    S3Server(tmp_path / "s")


@pytest.mark.usefixtures("servers_installed")
def test_the_script_runs_everything_and_proves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = script("--duration", "3", "--data", str(tmp_path / "D"))
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert said.count("records are the same, once each\n") == 3, said
    assert "the same everywhere: journal kalshi-" in said
    assert re.search(r"cache +the last values of \d+ markets are those of the journal", said)
    assert re.search(r"ledger +[\d,]+ frames are the first ones that the exchange sent", said)
    assert said.splitlines()[-1].startswith("all copies agree: ")
    assert processes_of(tmp_path) == []


@pytest.mark.usefixtures("servers_installed")
def test_the_script_keeps_everything_up_when_asked_and_what_it_prints_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = script("--duration", "3", "--keep")
    assert process.stdout is not None
    commands: list[str] = []
    for line in process.stdout:
        if commands or line.startswith("== everything is left up"):
            commands.append(line.strip())
        if len(commands) == 6:
            break
    export, *rest = commands[1:]
    ours = f"{sys.executable} -m ssmd "
    for command in rest:
        program, _, words = command.partition(" ")
        assert Path(program).name == "ssmd"
        done = subprocess.run(
            ["sh", "-c", f"{export}; {ours}{words}"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0 and done.stdout, (command, done.stderr)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "is removed now" in said
    assert list(tmp_path.glob("ssmd-loopback*")) == []
    assert processes_of(tmp_path) == []


@pytest.mark.usefixtures("servers_installed")
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_whatever_the_script_started_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = script("--duration", "60", "--data", str(tmp_path / "D"))
    wait_until(lambda: list((tmp_path / "D").rglob("*.capnp.open")), what="a recording")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    wait_until(lambda: processes_of(tmp_path) == [], what="all processes gone", timeout_s=20)


@pytest.mark.usefixtures("servers_installed")
def test_the_script_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "old").write_text("")
    process = script("--data", str(tmp_path / "D"))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "is not empty" in said


def test_the_script_names_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'obstore' else find(name, *more)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = script("--data", str(tmp_path / "D"))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "obstore" in said and "pip install" in said and "make loopback-tools" in said
    assert not (tmp_path / "D").exists()
