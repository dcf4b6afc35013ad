"""For tests: the simulator as a child process. Standard library only, no part of the exchange.

with SimulatorProcess("--markets", "5", "--rate", "200") as exchange:
    connect(exchange.ws_url, exchange.key_id, exchange.private_key_path)
    exchange.fault("seq_gap")
    frames = exchange.ledger()          # [(connection, payload bytes), ...] in the order of sending
"""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit


class SimulatorProcess:
    """Starts `python -m ssmd.simulator` and waits until it listens; `keep_ledger` False for speed."""

    ws_url: str
    rest_url: str
    key_id: str
    private_key_path: str
    ca_file: str | None

    def __init__(self, *arguments: str, ledger_path: Path | None = None, keep_ledger: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ssmd-test-")
        self.ledger_path = ledger_path or Path(self._folder.name, "ledger.jsonl")
        command = [sys.executable, "-m", "ssmd.simulator", "--die-with-parent"]
        if keep_ledger:
            command += ["--ledger", str(self.ledger_path)]
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the simulator ended with {self.process.wait()} before it was ready")
        self.ready: dict[str, object] = json.loads(line)
        self.ws_url = str(self.ready["ws_url"])
        self.rest_url = str(self.ready["rest_url"])
        self.key_id = str(self.ready["key_id"])
        self.private_key_path = str(self.ready["private_key_path"])
        self.ca_file = str(self.ready["ca_file"]) if "ca_file" in self.ready else None

    def __enter__(self) -> SimulatorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    # ---- control

    def fault(self, spec: str, *, connection: int | None = None) -> None:
        """Arms a fault now; ValueError with the simulator's words if it is not understood."""
        body: dict[str, object] = {"fault": spec}
        self._call("POST", "/simulator/faults", body | ({} if connection is None else {"connection": connection}))

    def clear(self) -> None:
        """Ends all faults."""
        self._call("DELETE", "/simulator/faults")

    def drop(self) -> None:
        """Resets every connection."""
        self.fault("drop")

    def stats(self) -> dict[str, object]:
        """Clients, frames, subscriptions, handshakes, faults that are armed."""
        return self._call("GET", "/simulator/stats")

    def get(self, path: str) -> dict[str, object]:
        """An unsigned REST request below /trade-api/v2; the body."""
        return self._call("GET", f"/trade-api/v2{path}")

    def _call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        parts = urlsplit(self.rest_url)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}{path}", data, method=method)
        context = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else None
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as response:
                answer: dict[str, object] = json.loads(response.read())
                return answer
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from error

    # ---- what was sent

    def ledger(self) -> list[tuple[int, bytes]]:
        """(connection, payload) of every text frame sent so far; complete after `stop`, else up to 0.2 s behind."""
        return read_ledger(self.ledger_path)

    def stop(self) -> int:
        """SIGTERM, and the exit code; SIGKILL after ten seconds."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        return self.process.wait()


def read_ledger(path: Path) -> list[tuple[int, bytes]]:
    """The frames of a ledger file; events and a last line without its end are left out."""
    frames = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        entry = json.loads(line)
        if "text" in entry:
            frames.append((int(entry["connection"]), entry["text"].encode()))
        elif "base64" in entry:
            frames.append((int(entry["connection"]), base64.b64decode(entry["base64"])))
    return frames


def wait_until(condition: Callable[[], object], within_s: float = 10.0) -> bool:
    """Polls until the condition is true; False when the time is over."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
