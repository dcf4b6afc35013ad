"""The whole program against the simulator: what was sent is in the journal, byte for byte, and verify says so."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import yaml
from recording import (
    Recorder,
    assert_journal_is_ledger,
    assert_numbers_have_no_hole,
    environment_file,
    events,
    gaps,
    read_lines,
    ssmd,
    verify,
    wait_until,
)

from ssmd.simulator.process import SimulatorProcess, read_ledger


def test_the_default_environment_records_at_once_and_can_prove_it(tmp_path: Path) -> None:
    """No key, no network, one command: over 1,000 messages of several markets and channels, complete by verify."""
    ledger = tmp_path / "ledger.jsonl"
    done = ssmd(
        *("run", "-e", "kalshi-local", "--duration", "4", "--data", str(tmp_path / "data")),
        *("--set", f"exchange.simulator.ledger={ledger}", "--set", "health.address=127.0.0.1:0"),
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Prove it: " in done.stdout and b"ssmd verify " in done.stdout
    code, report = verify(tmp_path / "data")
    assert (code, report["complete"], report["gaps"], report["damage"]) == (0, True, [], [])
    lines = read_lines(tmp_path / "data")
    kinds = Counter(line.kind for line in lines)
    assert kinds["book"] > 500 and kinds["trade"] > 50 and kinds["ticker"] > 5 and kinds["status"] > 0
    assert len({line.body.get("market") for line in lines if line.kind == "book"}) >= 5
    (started,), (stopped,) = events(lines, "started"), events(lines, "stopped")
    assert stopped.recv_ns - started.recv_ns > 3.7e9, "the start of the simulator is no part of the duration"
    assert_numbers_have_no_hole(lines)
    assert_journal_is_ledger(lines, read_ledger(ledger), at_least=1000)


def test_a_journal_says_under_which_settings_each_run_recorded_it(tmp_path: Path) -> None:
    """Every run begins with its environment, as `ssmd env check` prints it; the key is a reference there."""
    with (
        SimulatorProcess("--rate", "200") as exchange,
        Recorder(environment_file(tmp_path, exchange), exchange) as recorder,
    ):
        recorder.wait_frames(10)
        assert recorder.stop() == 0
        recorder.start()
        recorder.wait_frames(10)
        assert recorder.stop() == 0
        entries = [line.body for line in read_lines(recorder.data) if line.kind == "entry"]
        assert [entry["topic"] for entry in entries] == ["environment", "environment"]
        settings = yaml.safe_load(entries[0]["payload"])
        assert settings["exchange"]["websocket_url"] == exchange.ws_url
        assert settings["keys"]["kalshi"]["fields"]["key_id"] == {"source": "env:KALSHI_API_KEY"}
        assert b"PRIVATE KEY" not in entries[0]["payload"]


def test_cat_prints_the_frames_as_they_were_sent(tmp_path: Path) -> None:
    """The simulator's ledger and `ssmd cat --format frame` are equal up to the last frame received."""
    with (
        SimulatorProcess("--rate", "500") as exchange,
        Recorder(environment_file(tmp_path, exchange), exchange) as recorder,
    ):
        recorder.wait_frames(1000)
        assert recorder.stop() == 0
        printed = ssmd("cat", "--format", "frame", str(recorder.data)).stdout
        exchange.stop()
        sent = b"".join(frame for _, frame in exchange.ledger())
        assert len(printed) > 100_000
        assert sent.startswith(printed)


@pytest.mark.parametrize("key_type", ["rsa", "ed25519"])
def test_tls_with_a_private_authority_and_a_checked_signature(tmp_path: Path, key_type: str) -> None:
    """The code path of kalshi-dev: wss, certificates checked against exchange.ca_file, signed handshake."""
    with SimulatorProcess("--tls", "--key-type", key_type, "--rate", "300") as exchange:
        environment = environment_file(tmp_path, exchange, channels=("trade", "ticker", "market_lifecycle_v2"))
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(100)
            assert recorder.stop() == 0
            exchange.stop()
            assert_journal_is_ledger(read_lines(recorder.data), exchange.ledger(), at_least=100)


def test_a_certificate_of_an_unknown_authority_is_not_accepted(tmp_path: Path) -> None:
    """Without exchange.ca_file the simulator's certificate is a stranger's: no frame is ever asked for."""
    with SimulatorProcess("--tls") as exchange:
        exchange.ca_file = None
        environment = environment_file(tmp_path, exchange, channels=("trade",))
        with Recorder(environment, exchange) as recorder:
            wait_until(lambda: "was not accepted" in recorder.log, what="a word about the certificate")
            assert recorder.get("/healthz")[0] == 503
            assert recorder.stop() == 0
            assert not events(read_lines(recorder.data), "opened")
            assert "exchange.ca_file" in recorder.log


def test_a_key_that_the_exchange_does_not_know_ends_with_exit_3_and_advice(tmp_path: Path) -> None:
    with SimulatorProcess() as exchange:
        environment = environment_file(tmp_path, exchange, channels=("trade",))
        with Recorder(
            environment, exchange, env={"KALSHI_API_KEY": "00000000-0000-4000-8000-000000000000"}
        ) as recorder:
            assert recorder.wait() == 3
            assert "KALSHI_API_KEY" in recorder.log
            assert "PRIVATE KEY" not in recorder.log


def test_a_private_key_of_somebody_else_ends_with_exit_3_and_advice(tmp_path: Path) -> None:
    with SimulatorProcess() as other, SimulatorProcess() as exchange:
        key_id = exchange.key_id
        exchange.private_key_path = other.private_key_path
        environment = environment_file(tmp_path, exchange, channels=("trade",))
        with Recorder(environment, exchange, env={"KALSHI_API_KEY": key_id}) as recorder:
            assert recorder.wait() == 3
            assert "private key does not belong" in recorder.log


def test_the_python_normalizer_records_the_same_frames(tmp_path: Path) -> None:
    """`normalizer: python` runs the whole program on the plain twin."""
    with SimulatorProcess("--rate", "200") as exchange:
        environment = environment_file(tmp_path, exchange, normalizer="python")
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(300)
            assert recorder.stop() == 0
            exchange.stop()
            assert_journal_is_ledger(read_lines(recorder.data), exchange.ledger(), at_least=300)
            assert verify(recorder.data)[0] == 0


def test_a_second_run_goes_on_with_numbers_and_connections(tmp_path: Path) -> None:
    """Numbers are never used twice, connections count up, and a clean pause between two runs is no hole."""
    with SimulatorProcess("--rate", "300") as exchange:
        environment = environment_file(tmp_path, exchange)
        for _ in range(2):
            with Recorder(environment, exchange) as recorder:
                recorder.wait_frames(200)
                assert recorder.stop() == 0
        lines = read_lines(recorder.data)
        assert_numbers_have_no_hole(lines)
        assert [line.connection for line in events(lines, "opened")] == [1, 2]
        assert not gaps(lines)
        assert verify(recorder.data)[0] == 0


def test_the_flusher_as_a_process_of_its_own_loses_nothing(tmp_path: Path) -> None:
    with SimulatorProcess("--rate", "500") as exchange:
        environment = environment_file(tmp_path, exchange, flusher__mode="process")
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(1000)
            assert recorder.stop() == 0
            exchange.stop()
            lines = read_lines(recorder.data)
            assert_numbers_have_no_hole(lines)
            assert_journal_is_ledger(lines, exchange.ledger(), at_least=1000)
            assert verify(recorder.data)[0] == 0


def test_all_counters_stand_at_zero_from_the_start(tmp_path: Path) -> None:
    """Also those of things that have not happened yet: an alert can be written before the first gap."""
    with SimulatorProcess("--rate", "100") as exchange:
        environment = environment_file(tmp_path, exchange, channels=("trade",))
        with Recorder(environment, exchange) as recorder:
            recorder.wait_live()
            page = recorder.get("/metrics")[1]
            assert 'ssmd_gaps_total{cause="sequence"} 0.0' in page
            assert "ssmd_repeats_total 0.0" in page
            assert 'ssmd_records_total{kind="unparsed"} 0.0' in page
            assert recorder.get("/healthz")[0] == 200
            assert recorder.get("/nothing")[0] == 404
            assert json.loads(recorder.get("/readyz")[1])["status"] == "ok"
            recorder.stop()


def test_real_frames_are_stored_byte_for_byte(tmp_path: Path) -> None:
    """Every captured frame of the shared collection, served as it is: none is lost, listed types are understood."""
    shared = Path(os.environ.get("SSMD_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    collection = shared / "kalshi" / "frames.jsonl"
    if not collection.exists():
        pytest.skip("not run: the collection of captured frames is not on this machine (SSMD_SHARED)")
    expected = []
    for row in collection.read_text().splitlines():
        frame = json.loads(row)["frame"]
        text = frame if isinstance(frame, str) else json.dumps(frame, separators=(",", ":"), ensure_ascii=False)
        expected.append(text.encode() + (b"" if text.endswith("\n") else b"\n"))
    with SimulatorProcess("--frames", str(collection), "--rate", "500") as exchange:
        environment = environment_file(tmp_path, exchange, channels=("trade", "ticker"))
        with Recorder(environment, exchange) as recorder:
            wait_until(
                lambda: recorder.metric("ssmd_frames_received_total") >= len(expected) + 2,
                what="as many frames as the collection has",
            )
            # Among them may be replies to what the recorder asked meanwhile.
            wait_until(
                lambda: not Counter(expected) - Counter(line.frame for line in read_lines(recorder.data)),
                what="every frame of the collection",
            )
            assert recorder.stop() == 0
            exchange.stop()
        lines = read_lines(recorder.data)
        assert_journal_is_ledger(lines, exchange.ledger(), at_least=len(expected))
        stored = Counter(line.frame for line in lines if line.frame)
        assert not Counter(expected) - stored
        unparsed = [line.frame for line in lines if line.kind == "unparsed"]
        assert unparsed == [], "every type of the collection is a listed one"


def test_markets_shows_what_each_market_had_in_this_run(tmp_path: Path) -> None:
    """Record counts and last numbers of /markets are those of the journal."""
    with SimulatorProcess("--rate", "300", "--markets", "5") as exchange:
        environment = environment_file(tmp_path, exchange, channels=("orderbook_delta",))
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(200)
            exchange.fault("half_open")
            page = json.loads(recorder.get("/markets")[1])
            shown = page["markets"]
            assert (page["total"], page["next"], page["note"]) == (len(shown), None, None)
            assert recorder.stop() == 0
        by_market: dict[str, list[int]] = {}
        for line in read_lines(recorder.data):
            if line.kind == "book":
                by_market.setdefault(line.body["market"], []).append(line.number)
        assert set(shown) == set(by_market)
        for market, seen in shown.items():
            assert seen["last_number"] == by_market[market][seen["records"] - 1]
