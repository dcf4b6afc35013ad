"""Ends that were asked for, whatever the recorder is just doing; and a flusher that stands still.

SIGTERM and SIGINT: what was received is drained, sealed, and the recorder ends with 0 within 5 s, leaving neither ring
nor process. Where the files cannot be written it ends with 4, and the ring keeps the rest for the next start.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from crash import (
    assert_no_process_left,
    assert_outages_are_told,
    assert_stored,
    held_in_ring,
    kill_nine,
    processes_naming,
    ring_path,
    stored_records,
    wait_helper,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from recording import (
    ROOT,
    Recorder,
    assert_journal_is_ledger,
    assert_numbers_have_no_hole,
    environment_file,
    events,
    gaps,
    read_lines,
    verify,
    wait_until,
)

from ssmd.simulator.process import SimulatorProcess

WITHIN_S = 5.0  # the contract
SIGNALS = [signal.SIGTERM, signal.SIGINT]


def stop_in_time(recorder: Recorder, *numbers: int) -> int:
    """Sends the signals, one right after the other; the exit code, which must come within the contract's time."""
    began = time.monotonic()
    for number in numbers:
        recorder.send(number)
    code = recorder.wait()
    took_s = time.monotonic() - began
    assert took_s < WITHIN_S, f"it took {took_s:.1f} s to end:\n{recorder.log[-3000:]}"
    return code


def assert_clean_end(recorder: Recorder, ring: Path) -> None:
    """Sealed and complete by verify, no ring, no process."""
    assert_no_process_left(recorder)
    assert not ring.exists()
    lines = read_lines(recorder.data)
    assert_numbers_have_no_hole(lines)
    assert lines[-1].body["what"] == "stopped"
    assert list(stored_records(recorder.data)) == [line.number for line in lines]


# ---- asked to end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize("number", SIGNALS)
def test_an_end_under_full_load_is_drained_sealed_and_in_time(tmp_path: Path, number: int, mode: str) -> None:
    """The exchange sends as fast as the socket takes."""
    ring = ring_path(tmp_path)
    with SimulatorProcess("--rate", "0", "--markets", "5", keep_ledger=False) as exchange:
        environment = environment_file(tmp_path, exchange, flusher__mode=mode, ring__path=str(ring))
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(10_000)
            assert stop_in_time(recorder, number) == 0, recorder.log
    assert_no_process_left(recorder)
    assert not ring.exists()
    code, report = verify(recorder.data)
    assert (code, report["gaps"], report["damage"]) == (0, [], [])
    assert report["frames"] >= 10_000
    assert all(not path.name.endswith(".open") for path in recorder.data.rglob("*.capnp*"))


@pytest.mark.parametrize("again", SIGNALS)
def test_a_second_signal_changes_nothing(tmp_path: Path, again: int) -> None:
    with SimulatorProcess("--rate", "1000") as exchange:
        environment = environment_file(tmp_path, exchange, ring__path=str(ring_path(tmp_path)))
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(200)
            assert stop_in_time(recorder, signal.SIGTERM, again, again) == 0, recorder.log
    assert_clean_end(recorder, ring_path(tmp_path))
    assert not gaps(read_lines(recorder.data))


def test_a_signal_during_the_start_ends_in_order(tmp_path: Path) -> None:
    """Each time a little later: from before the ring is made until all is subscribed."""
    with SimulatorProcess("--rate", "200", "--markets", "3") as exchange:
        environment = environment_file(tmp_path, exchange, ring__path=str(ring_path(tmp_path)))
        recorder = Recorder(environment, exchange)
        for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2):
            with recorder:
                wait_until(lambda: '"health"' in recorder.log or recorder.fail_if_dead(), what="the health page")
                time.sleep(delay_s)
                assert stop_in_time(recorder, signal.SIGTERM) == 0, recorder.log
            assert_clean_end(recorder, ring_path(tmp_path))
        assert not gaps(read_lines(recorder.data))


def test_an_end_of_the_local_exchange_and_of_its_recorder(tmp_path: Path) -> None:
    """kalshi-local: also the simulator that the recorder has started is gone, after SIGTERM and after SIGKILL."""
    command = [sys.executable, "-m", "ssmd", "run", "-e", "kalshi-local", "--data", str(tmp_path / "data")]
    command += ["--set", "health.address=127.0.0.1:0", "--set", f"ring.path={ring_path(tmp_path)}"]
    command += ["--set", f"exchange.simulator.ledger={tmp_path / 'ledger.jsonl'}"]
    for number, code in [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 0)]:
        log_path = tmp_path / f"log-{number}"
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        wait_until(lambda: b'"subscribed"' in log_path.read_bytes(), what="a subscription")  # noqa: B023
        wait_until(lambda: len(processes_naming(tmp_path)) == 4, what="recorder, simulator, archiver and auditor")
        process.send_signal(number)
        assert process.wait(60) == code, log_path.read_text()
        wait_until(lambda: not processes_naming(tmp_path), what="the end of all processes")
        assert ring_path(tmp_path).exists() == (number == signal.SIGKILL)
    assert assert_outages_are_told(read_lines(tmp_path / "data")) == 1


def test_an_end_by_the_exchange_s_refusal_leaves_nothing_behind(tmp_path: Path) -> None:
    """Exit 3: the journal is sealed and says why, no ring, no process."""
    with SimulatorProcess("--fault", "http_401") as exchange:
        environment = environment_file(tmp_path, exchange, flusher__mode="process", ring__path=str(ring_path(tmp_path)))
        with Recorder(environment, exchange) as recorder:
            assert recorder.wait() == 3, recorder.log
        assert_clean_end(recorder, ring_path(tmp_path))
        lines = read_lines(recorder.data)
        assert [line.body["code"] for line in events(lines, "refused")] == [401]


# ---- asked to end while nothing answers -----------------------------------------------------------------------------


@contextmanager
def black_hole() -> Iterator[str]:
    """host:port where connections come about and nobody ever says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield "{}:{}".format(*listener.getsockname())


@contextmanager
def full_backlog() -> Iterator[str]:
    """host:port where not even a connection comes about: the kernel drops what asks for one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield "{}:{}".format(*listener.getsockname())
        for client in waiting:
            client.close()


def silent_exchange(tmp_path: Path, address: str) -> Any:
    """As the tests know a simulator, with an address that is none."""
    key = tmp_path / "key.pem"
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    return SimpleNamespace(
        ws_url=f"ws://{address}/trade-api/ws/v2",
        rest_url=f"http://{address}/trade-api/v2",
        key_id="00000000-0000-4000-8000-000000000000",
        private_key_path=str(key),
        ca_file=None,
    )


@pytest.mark.parametrize("hole", [black_hole, full_backlog])
@pytest.mark.parametrize("asked", ["websocket", "rest"])
def test_an_end_while_the_exchange_does_not_answer(tmp_path: Path, hole: Any, asked: str) -> None:
    """In the middle of a connect or a handshake, or of the look-up of markets over REST."""
    with hole() as address:
        exchange = silent_exchange(tmp_path, address)
        subscription = (
            {"channels": ["trade"], "all": True}
            if asked == "websocket"
            else {
                "channels": ["orderbook_delta"],
                "series": ["KXBTC"],
            }
        )
        environment = environment_file(
            tmp_path, exchange, channels=("trade",), subscriptions=[subscription], ring__path=str(ring_path(tmp_path))
        )
        with Recorder(environment, exchange) as recorder:
            wait_until(
                lambda: any(connects_to(pid, address) for pid in (recorder.pid, *children_of(recorder.pid))),
                what="an attempt to connect",
            )
            assert stop_in_time(recorder, signal.SIGTERM) == 0, recorder.log
        assert_clean_end(recorder, ring_path(tmp_path))
        assert verify(recorder.data)[0] == 0


def children_of(pid: int) -> list[int]:
    """The look-up of markets is a process of its own."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def connects_to(pid: int, address: str) -> bool:
    """Has the process a socket that is connected to host:port, or on its way there?"""
    host, port = address.split(":")
    peer = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{int(port):04X}"
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    wanted = {f"socket:[{row[9]}]" for row in rows if row[2] == peer}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(descriptor.readlink()) in wanted:
                return True
        except FileNotFoundError:
            continue
    return False


def test_an_end_during_the_pause_before_the_next_attempt(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take the port
        exchange = silent_exchange(tmp_path, "{}:{}".format(*closed.getsockname()))
        environment = environment_file(
            tmp_path,
            exchange,
            channels=("trade",),
            connector__reconnect={"min_ms": 600_000, "max_s": 3600.0},
            ring__path=str(ring_path(tmp_path)),
        )
        with Recorder(environment, exchange) as recorder:
            wait_until(lambda: "could not connect" in recorder.log, what="a refused attempt")
            wait_until(lambda: recorder.get("/healthz")[0] == 503, what="a failing health page")
            assert stop_in_time(recorder, signal.SIGTERM) == 0, recorder.log
        assert_clean_end(recorder, ring_path(tmp_path))
        assert events(read_lines(recorder.data), "refused")


# ---- a flusher that stands still ------------------------------------------------------------------------------------


def checks(recorder: Recorder) -> dict[str, str]:
    """The failing checks of /healthz with what they say."""
    status, body = recorder.get("/healthz")
    failing = {name: check["detail"] for name, check in json.loads(body)["checks"].items() if not check["ok"]}
    assert (status == 200) == (not failing)
    return failing


def stand_still(tmp_path: Path, *, ring_bytes: int, for_s: float) -> dict[str, str]:
    """Stops the flusher process for so long under load; returns what health said at last."""
    with SimulatorProcess("--rate", "2000", "--markets", "3") as exchange:
        environment = environment_file(
            tmp_path,
            exchange,
            flusher__mode="process",
            ring__path=str(ring_path(tmp_path)),
            ring__size_bytes=ring_bytes,
            max_frame_bytes=16 * 1024,
        )
        with Recorder(environment, exchange) as recorder:
            recorder.wait_live()
            recorder.wait_frames(500)
            assert checks(recorder) == {}
            flusher = wait_helper(recorder, "flusher")
            os.kill(flusher, signal.SIGSTOP)
            began = time.monotonic()
            try:
                wait_until(lambda: "ring" in checks(recorder), what="health that says why")
                read = recorder.metric("ssmd_frames_received_total")
                full = recorder.metric("ssmd_ring_used_bytes")
                assert full > ring_bytes * 0.9
                wait_until(lambda: time.monotonic() - began > for_s, what="the end of the pause")
                said = checks(recorder)
                assert recorder.metric("ssmd_frames_received_total") == read, "it reads on with a full ring"
            finally:
                os.kill(flusher, signal.SIGCONT)
            wait_until(lambda: checks(recorder) == {}, what="health again")
            recorder.wait_frames(int(read) + 2000)
            assert recorder.metric("ssmd_ring_full_seconds_total") > 0
            assert recorder.stop() == 0, recorder.log
        exchange.stop()
        assert_clean_end(recorder, ring_path(tmp_path))
        lines = read_lines(recorder.data)
        assert len(events(lines, "opened")) == 1
        assert_journal_is_ledger(lines, exchange.ledger(), at_least=2000)
        assert verify(recorder.data)[0] == 0
    return said


def test_a_flusher_that_stands_still_stops_the_reading_and_loses_nothing(tmp_path: Path) -> None:
    """With a small ring: health says that it is full, not a frame more is read, and after it all is as it was sent."""
    assert "is not read" in stand_still(tmp_path, ring_bytes=64 * 1024, for_s=2.0)["ring"]


@pytest.mark.slow
def test_a_flusher_that_stands_still_for_ten_seconds(tmp_path: Path) -> None:
    said = stand_still(tmp_path, ring_bytes=256 * 1024, for_s=10.0)
    assert "is not read" in said["ring"]
    assert "has not moved" in said["flusher"]


def test_an_end_while_the_flusher_stands_still_keeps_all_in_the_ring(tmp_path: Path) -> None:
    """Exit 4 in time, the flusher does not stay behind, and the next run writes what waits."""
    ring = ring_path(tmp_path)
    with SimulatorProcess("--rate", "2000", "--markets", "3") as exchange:
        environment = environment_file(tmp_path, exchange, flusher__mode="process", ring__path=str(ring))
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(500)
            os.kill(wait_helper(recorder, "flusher"), signal.SIGSTOP)
            recorder.wait_frames(1500)
            assert stop_in_time(recorder, signal.SIGTERM) == 4
            assert "the rest waits in the ring" in recorder.log
            assert_no_process_left(recorder)
            held = held_in_ring(ring)
            assert len(held) > 500
            recorder.start()
            recorder.wait_live()
            assert recorder.stop() == 0
        exchange.stop()
        assert_clean_end(recorder, ring)
        assert_stored(held, stored_records(recorder.data))
        lines = read_lines(recorder.data)
        assert not gaps(lines), "the first run ended as asked: its last record was in the ring"
        assert_journal_is_ledger(lines, exchange.ledger(), at_least=1500)


def test_a_recorder_that_stands_still_is_ended_by_a_kill_without_an_orphan(tmp_path: Path) -> None:
    """SIGSTOP, then SIGKILL: the helpers hear from the kernel that their parent is gone."""
    with SimulatorProcess("--rate", "500") as exchange:
        environment = environment_file(tmp_path, exchange, flusher__mode="process", ring__path=str(ring_path(tmp_path)))
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(100)
            os.kill(recorder.pid, signal.SIGSTOP)
            kill_nine(recorder.pid)
            recorder.wait()
            assert_no_process_left(recorder)
            recorder.start()
            recorder.wait_live()
            assert recorder.stop() == 0
        assert_clean_end(recorder, ring_path(tmp_path))
