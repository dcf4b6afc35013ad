"""What `ssmd run` refuses: exit 2, one clear error with its key, path or file and the remedy, and nothing left behind.

Nothing means: no data folder that was not there, no changed file in one that was, no ring, no process.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from recording import ROOT, Recorder, environment_file, events, read_lines, verify, wait_until

from ssmd.simulator.process import SimulatorProcess

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24
SECRET = "c2VjcmV0IG1hdGVyaWFs"


def run(
    folder: Path, *arguments: str, env: dict[str, str] | None = None, prepare: Callable[[], None] | None = None
) -> tuple[int, str]:
    """`ssmd run` to its end, with its data below `folder`; exit code and what it said beside its log."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KALSHI_", "SSMD_"))}
    done = subprocess.run(
        [sys.executable, "-m", "ssmd", "run", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        env={**kept, **(env or {})},
        preexec_fn=prepare,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, "\n".join(line for line in done.stderr.splitlines() if not line.startswith("{"))


def refusal(
    folder: Path,
    *arguments: str,
    env: dict[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
    data: Path | None = None,
    ring: Path | None = None,
) -> str:
    """The one error of a run that is refused; fails if anything is left behind."""
    data = folder / "data" if data is None else data
    ring = folder / "ring" if ring is None else ring
    before = tree(folder)
    given = [*arguments, "--data", str(data), "--set", f"ring.path={ring}"]
    if not any("health.address" in argument for argument in arguments):
        given += ["--set", "health.address=127.0.0.1:0"]
    code, said = run(folder, *given, env=env, prepare=prepare)
    assert code == 2, said
    assert said.startswith("ssmd run: ") and said.count("ssmd run: ") == 1, said
    assert "Traceback" not in said
    assert SECRET not in said
    assert tree(folder) == before
    assert not left_running(folder)
    return said


def tree(folder: Path) -> dict[Path, bytes | None]:
    """Everything below a folder; a file with its bytes."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def left_running(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (
                (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if entry.name.isdigit()
                else ""
            )
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


# ---- environments ---------------------------------------------------------------------------------------------------


def test_an_unknown_environment_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    said = refusal(tmp_path, "-e", "kalshi-lokal")
    assert "'kalshi-lokal'" in said
    assert "kalshi-local" in said and "kalshi-prod" in said


def test_an_environment_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/none.yaml: cannot be read" in refusal(tmp_path, "-e", f"{tmp_path}/none.yaml")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"- a\n- b\n", "mapping"),
        (b"name: [a\n", "line"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"name: a\nname: b\n", "line 2: the key 'name'"),
    ],
)
def test_a_file_that_is_no_environment_is_told_with_the_place(tmp_path: Path, content: bytes, word: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    said = refusal(tmp_path, "-e", str(file))
    assert str(file) in said
    assert word in said


def mine(folder: Path, **changes: object) -> str:
    """A right environment but for the changes, by key path with __ for dots; None removes a key."""
    content = yaml.safe_load((ROOT / "environments" / "kalshi-local.yaml").read_text())
    content["name"] = "mine"
    for path, value in changes.items():
        *sections, key = path.split("__")
        target = content
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
        if value is None:
            del target[key]
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def test_all_errors_of_an_environment_are_told_together_each_with_its_key(tmp_path: Path) -> None:
    file = mine(tmp_path, name="yours", rnig={}, flusher__mode="fast", ring__size_bytes=100_000_000, feed=None)
    said = refusal(tmp_path, "-e", file)
    assert "5 errors" in said
    for key in ("name:", "rnig:", "flusher.mode:", "ring.size_bytes:", "feed:"):
        assert f"\n  {key}" in said, key
    assert "did you mean ring?" in said


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("nonsense", ["key.path=value"]),
        ("=5", ["--set"]),
        ("flusher=5", ["flusher"]),
        ("flusher.mode=fast", ["flusher.mode", "thread", "process"]),
        ("flusher.moed=thread", ["flusher.moed", "did you mean"]),
        ("flusher.nap_us=[", ["flusher.nap_us"]),
        ("ring.size_bytes=100000", ["ring.size_bytes", "power of two"]),
        ("max_frame_bytes=8388608", ["max_frame_bytes", "ring.size_bytes"]),
        ("feed=nothere", ["feed", "nothere", "kalshi"]),
        ("feed=../..", ["feed"]),
        ("subscriptions=[]", ["subscriptions"]),
        ("subscriptions.0.channels=[nothing]", ["channel", "nothing"]),
        ("health.address=here", ["health.address"]),
        ("health.address=127.0.0.1:99999", ["health.address"]),
        ("transport.type=nats", ["transport"]),
        ("exchange.websocket_url=wss://example.com", ["exchange"]),
    ],
)
def test_a_wrong_setting_is_told_with_its_key(tmp_path: Path, setting: str, words: list[str]) -> None:
    said = refusal(tmp_path, "-e", "kalshi-local", "--set", setting)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "-e"),
        (["-e", "kalshi-local", "--duration", "-1"], "--duration"),
        (["-e", "kalshi-local", "--duration", "soon"], "--duration"),
        (["-e", "kalshi-local", "--dat", "x"], "--dat"),
        (["-e", "kalshi-local", "extra"], "extra"),
    ],
)
def test_wrong_arguments_are_told_with_the_usage(tmp_path: Path, arguments: list[str], word: str) -> None:
    code, said = run(tmp_path, *arguments)
    assert code == 2
    assert said.startswith("usage: ssmd run")
    assert word in said.splitlines()[-1]
    assert not left_running(tmp_path)


# ---- secrets --------------------------------------------------------------------------------------------------------


GARBAGE = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


def key_file(folder: Path, text: str = GARBAGE, mode: int = 0o600) -> str:
    file = folder / "key.pem"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_a_key_id_that_is_not_set_is_told_with_the_variable(tmp_path: Path) -> None:
    said = refusal(tmp_path, "-e", "kalshi-dev")
    assert "keys.kalshi.key_id" in said
    assert "KALSHI_API_KEY" in said


def test_two_secrets_that_are_not_set_are_a_list_below_one_heading(tmp_path: Path) -> None:
    """The form in which an environment file's errors are told."""
    heading, *rows = refusal(tmp_path, "-e", "kalshi-dev").splitlines()
    assert heading == "ssmd run: environment kalshi-dev: 2 errors"
    assert [row.split()[0] for row in rows] == ["keys.kalshi.key_id", "keys.kalshi.private_key"]
    assert all(row.startswith("  keys.") and ": set KALSHI_" in row for row in rows)


def test_a_private_key_that_is_not_set_is_told_with_both_variables(tmp_path: Path) -> None:
    said = refusal(tmp_path, "-e", "kalshi-dev", env={"KALSHI_API_KEY": "some-id"})
    assert "keys.kalshi.private_key" in said
    assert "KALSHI_PRIVATE_KEY" in said and "KALSHI_PRIVATE_KEY_PATH" in said


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, mode=mode)
    said = refusal(tmp_path, "-e", "kalshi-dev", env={"KALSHI_API_KEY": "some-id", "KALSHI_PRIVATE_KEY_PATH": path})
    assert path in said
    assert "chmod 600" in said


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.pem")
    said = refusal(tmp_path, "-e", "kalshi-dev", env={"KALSHI_API_KEY": "some-id", "KALSHI_PRIVATE_KEY_PATH": path})
    assert path in said


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        (GARBAGE, "variable", "damaged"),
        (GARBAGE, "file", "damaged"),
        (SECRET, "variable", "not PEM"),
        (GARBAGE.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE"), "variable", "passphrase"),
    ],
)
def test_a_private_key_that_is_none_is_told_with_its_key_and_never_shown(
    tmp_path: Path, text: str, place: str, word: str
) -> None:
    env = {"KALSHI_API_KEY": "some-id", "KALSHI_PRIVATE_KEY": text}
    if place == "file":
        env = {"KALSHI_API_KEY": "some-id", "KALSHI_PRIVATE_KEY_PATH": key_file(tmp_path, text)}
    said = refusal(tmp_path, "-e", "kalshi-dev", env=env)
    assert "keys.kalshi.private_key" in said
    assert word in said


def test_certificates_that_cannot_be_used_are_told_before_anything_begins(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    env = {"KALSHI_API_KEY": "some-id", "KALSHI_PRIVATE_KEY": pem}
    garbage = tmp_path / "ca.pem"
    garbage.write_text("no certificate")
    for path in (tmp_path / "none.pem", garbage):
        said = refusal(tmp_path, "-e", "kalshi-dev", "--set", f"exchange.ca_file={path}", env=env)
        assert "exchange.ca_file" in said and str(path) in said


# ---- this machine ---------------------------------------------------------------------------------------------------


def test_a_health_port_in_use_is_told_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "{}:{}".format(*taken.getsockname())
        said = refusal(tmp_path, "-e", "kalshi-local", "--set", f"health.address={address}")
    assert "health.address" in said and address in said
    assert "--set health.address=" in said


@pytest.mark.parametrize("place", ["data", "data/kalshi", "ring"])
def test_a_file_or_folder_in_the_wrong_place_is_named(tmp_path: Path, place: str) -> None:
    """A file where the data folder belongs, or a folder where the ring does."""
    wrong = tmp_path / place
    if place == "ring":
        wrong.mkdir()
    else:
        wrong.parent.mkdir(exist_ok=True)
        wrong.write_text("not a folder")
    said = refusal(tmp_path, "-e", "kalshi-local")
    assert str(wrong) in said


def bound_by_permissions() -> Callable[[], None] | None:
    """Root is bound by none: the child gives up what lets it pass."""
    if os.geteuid() != 0:
        return None
    libc = ctypes.CDLL(None)

    def give_up() -> None:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)

    return give_up


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that belongs to somebody else and may be read only."""
    folder = tmp_path / "closed"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("below", ["", "data", "data/deeper"])
def test_a_data_folder_without_permission_is_named_with_the_remedy(tmp_path: Path, closed: Path, below: str) -> None:
    data = closed / below
    said = refusal(tmp_path, "-e", "kalshi-local", data=data, prepare=bound_by_permissions())
    assert "storage.path" in said and str(data) in said
    assert "--data DIR" in said


@pytest.mark.parametrize("below", ["ring", "deeper/ring"])
def test_a_ring_folder_without_permission_is_named(tmp_path: Path, closed: Path, below: str) -> None:
    said = refusal(tmp_path, "-e", "kalshi-local", ring=closed / below, prepare=bound_by_permissions())
    assert "ring.path" in said and str(closed) in said
    assert "--set ring.path=" in said


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("exchange.simulator.faults=[no_such_fault]", ["simulator", "no_such_fault", "seq_gap"]),
        ("exchange.simulator.frames=/none.jsonl", ["simulator", "/none.jsonl", "One JSON value a line"]),
    ],
)
def test_what_the_local_exchange_refuses_is_told_whole(tmp_path: Path, setting: str, words: list[str]) -> None:
    """The recorder has begun nothing by then: no journal, no ring."""
    said = refusal(tmp_path, "-e", "kalshi-local", "--set", setting)
    for word in words:
        assert word in said


# ---- one recorder to a journal --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "mode"), [("the same", "thread"), ("the same", "process"), ("another ring", "thread")]
)
def test_a_second_recorder_on_the_same_journal_is_refused_and_the_first_goes_on(
    tmp_path: Path, second: str, mode: str
) -> None:
    """Also from an environment of another name with a ring of its own."""
    with SimulatorProcess("--rate", "500", "--markets", "3") as exchange:
        environment = environment_file(tmp_path, exchange, flusher__mode=mode, ring__path=str(tmp_path / "ring"))
        with Recorder(environment, exchange) as recorder:
            recorder.wait_frames(200)
            other = tmp_path / "other.yaml"
            content = yaml.safe_load(environment.read_text())
            content["name"] = "other"
            if second != "the same":
                content["ring"]["path"] = str(tmp_path / "other-ring")
            other.write_text(yaml.safe_dump(content))
            command = ["-e", str(environment if second == "the same" else other)]
            code, said = run(tmp_path, *command, env={"KALSHI_API_KEY": exchange.key_id})
            assert code == 2, said
            assert said.startswith("ssmd run: ")
            assert "in use" in said and str(tmp_path) in said
            assert second != "the same" or f"process {recorder.pid}" in said
            assert not (tmp_path / "other-ring").exists()
            read = recorder.metric("ssmd_frames_received_total")
            recorder.wait_frames(int(read) + 200)
            assert recorder.get("/healthz")[0] == 200
            assert recorder.stop() == 0
        wait_until(lambda: not left_running(tmp_path), what="the end of all processes")
        assert len(events(read_lines(recorder.data), "started")) == 1
        code, report = verify(recorder.data)
        assert (code, json.dumps(report["damage"])) == (0, "[]")


def test_of_several_recorders_started_at_once_one_records_and_the_others_are_refused(tmp_path: Path) -> None:
    """Whoever comes first: there is one run in the journal, and its numbers have no hole."""
    with SimulatorProcess("--rate", "500", "--markets", "3") as exchange:
        environment = environment_file(tmp_path, exchange, ring__path=str(tmp_path / "ring"))
        command = [sys.executable, "-m", "ssmd", "run", "-e", str(environment)]
        env = {**os.environ, "KALSHI_API_KEY": exchange.key_id}
        runs = [
            subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(3)
        ]
        try:
            wait_until(lambda: sum(run.poll() is None for run in runs) == 1, what="the end of all but one")
            (left,) = [run for run in runs if run.poll() is None]
            assert sorted(run.returncode for run in runs if run is not left) == [2, 2]
            wait_until(lambda: list((tmp_path / "data").rglob("*.capnp*")), what="a segment")
            left.terminate()
            assert left.wait(60) == 0
        finally:
            for run in runs:
                run.kill()
        lines = read_lines(tmp_path / "data")
        assert len(events(lines, "started")) == 1
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))
        assert not (tmp_path / "ring").exists()
