"""`ssmd run` with a bus, a bucket or a cache that says no: exit 2, one clear sentence, and nothing left behind.

What cannot be reached is no refusal: recording begins without it. The servers are real (tests/servers.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recording import ROOT, wait_until
from servers import NatsServer, RedisServer, S3Server, free_port
from test_refusals import SECRET, left_running, mine, refusal

from ssmd.middleware.nats import NatsTransport

WRONG = {"WRONG_SECRET": SECRET}
REGION = "us-east-1"


def nats(url: str) -> dict[str, Any]:
    return {"type": "nats", "url": url}


def key(**fields: str) -> dict[str, Any]:
    return {"type": "password", "fields": {name: {"source": source} for name, source in fields.items()}}


# ---- the file alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transport": {"type": "nats"}}, ["transport.url", "is missing"]),
        ({"storage": {"type": "s3"}}, ["storage.bucket", "storage.region", "is missing"]),
        ({"cache": {"type": "redis"}}, ["cache.url", "is missing"]),
        ({"storage": {"type": "memory"}}, ["journal.type", "must be memory where storage.type is memory"]),
        ({"journal": {"type": "memory"}}, ["journal.type", "must outlive the recorder"]),
        ({"transport": nats("nats://127.0.0.1:1"), "keys": {"nats": key(token="env:NOT_SET_HERE")}},
         ["keys.nats.token", "set NOT_SET_HERE"]),
    ],
    ids=["nats without url", "s3 without bucket", "redis without url", "half a rehearsal", "a journal in memory",
         "a secret that is not set"],
)  # fmt: skip
def test_a_file_that_lacks_something_is_told_with_its_key(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    said = refusal(tmp_path, "-e", mine(tmp_path, **changes))
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("library", "extra", "changes"),
    [
        ("nats", "nats", {"transport": nats("nats://127.0.0.1:1")}),
        ("obstore", "s3", {"storage": {"type": "s3", "bucket": "b", "region": REGION}}),
        ("redis", "redis", {"cache": {"type": "redis", "url": "redis://127.0.0.1:1"}}),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_command(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, library: str, extra: str, changes: dict[str, Any]
) -> None:
    shadow = tmp_path_factory.mktemp("shadow")
    (shadow / f"{library}.py").write_text(f"raise ModuleNotFoundError('not here', name={library!r})\n")
    said = refusal(tmp_path, "-e", mine(tmp_path, **changes), env={"PYTHONPATH": f"{shadow}:."})
    assert f"pip install 'ssmd[{extra}]'" in said


# ---- a bus -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats"), user="ssmd", password="right") as server:
        yield server


def test_a_wrong_password_of_the_bus_is_told(tmp_path: Path, bus: NatsServer) -> None:
    keys = {"nats": key(user="env:WRONG_SECRET", password="env:WRONG_SECRET")}
    said = refusal(tmp_path, "-e", mine(tmp_path, transport=nats(bus.url), keys=keys), env=WRONG)
    assert "transport" in said and "password" in said


def test_a_bus_that_asks_for_a_password_that_was_not_given_is_told(tmp_path: Path, bus: NatsServer) -> None:
    said = refusal(tmp_path, "-e", mine(tmp_path, transport=nats(bus.url)))
    assert "transport" in said and "password" in said


def test_a_stream_of_that_name_with_another_prefix_is_left_alone_and_told(tmp_path: Path, bus: NatsServer) -> None:
    other = NatsTransport(bus.url, stream="TAKEN", prefix="theirs", user="ssmd", password="right")
    other.ensure_stream(["theirs.>"])
    keys = {"nats": key(user="env:USER_OF_BUS", password="env:PASSWORD_OF_BUS")}
    changes = {"transport": nats(bus.url) | {"stream": "TAKEN"}, "keys": keys}
    right = {"USER_OF_BUS": "ssmd", "PASSWORD_OF_BUS": "right"}
    said = refusal(tmp_path, "-e", mine(tmp_path, **changes), env=right)
    assert "TAKEN" in said and "theirs.>" in said
    other.check(["theirs.>"])
    other.close()


def test_a_server_without_jetstream_is_told(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with NatsServer(tmp_path_factory.mktemp("core"), jetstream=False) as server:
        said = refusal(tmp_path, "-e", mine(tmp_path, transport=nats(server.url)))
    assert "JetStream" in said


# ---- a bucket --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def bucket(store: S3Server, name: str, **more: Any) -> dict[str, Any]:
    section = {"type": "s3", "bucket": name, "region": REGION, "endpoint": store.url}
    keys = {"s3": key(access_key_id="env:WRONG_SECRET", secret_access_key="env:WRONG_SECRET")}
    return {"storage": section | more, "keys": keys}


def test_a_bucket_that_is_not_there_is_named(tmp_path: Path, store: S3Server) -> None:
    said = refusal(tmp_path, "-e", mine(tmp_path, **bucket(store, "no-such-bucket")), env=WRONG)
    assert "storage" in said and "no-such-bucket" in said


def test_wrong_credentials_of_a_bucket_are_told(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with S3Server(tmp_path_factory.mktemp("s3-auth")) as server:
        server.ask(
            "POST", "/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}
        )  # credentials count from now on
        said = refusal(tmp_path, "-e", mine(tmp_path, **bucket(server, S3Server.BUCKET)), env=WRONG)
    assert "storage" in said and S3Server.BUCKET in said


def test_an_archive_below_a_file_is_told(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("archive") / "file"
    file.write_text("")
    said = refusal(tmp_path, "-e", mine(tmp_path, storage={"archive": str(file / "below")}))
    assert str(file) in said


# ---- a cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"redis": key(password="env:WRONG_SECRET")}], ids=["none", "wrong"])
def test_a_cache_that_wants_another_password_is_told(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Any]
) -> None:
    with RedisServer(tmp_path_factory.mktemp("redis"), password="right") as server:
        changes = {"cache": {"type": "redis", "url": server.url}, "keys": keys}
        said = refusal(tmp_path, "-e", mine(tmp_path, **changes), env=WRONG)
    assert "cache" in said and "password" in said


# ---- not there -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_reached_holds_no_recording_up(tmp_path: Path) -> None:
    """All three are down: the run says so, records, and ends as asked."""
    changes = {
        "transport": nats(f"nats://127.0.0.1:{free_port()}"),
        "storage": {"type": "s3", "bucket": "b", "region": REGION, "endpoint": f"http://127.0.0.1:{free_port()}"},
        "cache": {"type": "redis", "url": f"redis://127.0.0.1:{free_port()}"},
        "health": {"address": "127.0.0.1:0"},
    }
    settings = ["--data", str(tmp_path / "data"), "--set", f"ring.path={tmp_path}/ring", "--duration", "2"]
    code, told, log = logged("-e", mine(tmp_path, **changes), *settings)
    assert code == 0, told
    (warning,) = [line for line in log if line["event"].startswith("the middleware is not there")]
    assert all(word in warning["reason"] for word in ("transport", "storage", "cache"))
    assert any((tmp_path / "data").rglob("*.capnp*"))


def test_a_cache_that_is_full_holds_no_recording_up(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A recorder that is started again in the night must not stay down for that. What waits is written when it fits."""
    with RedisServer(tmp_path_factory.mktemp("full"), settings=["--maxmemory", "1"]) as server:
        changes = {"cache": {"type": "redis", "url": server.url}, "health": {"address": "127.0.0.1:0"}}
        settings = ["--data", str(tmp_path / "data"), "--set", f"ring.path={tmp_path}/ring", "--duration", "2"]
        code, told, log = logged("-e", mine(tmp_path, **changes), *settings)
    assert code == 0, told
    (warning,) = [line for line in log if line["event"].startswith("the middleware is not there")]
    assert "cache: full: Redis at" in warning["reason"] and "maxmemory" in warning["reason"]
    assert any((tmp_path / "data").rglob("*.capnp*"))


def test_a_bus_that_hangs_does_not_hold_an_end_up(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """SIGTERM while `ssmd run` still asks whether the bus is there: it ends with 0, and nothing was made."""
    with NatsServer(tmp_path_factory.mktemp("hangs")) as server:
        server.pause()
        file = mine(tmp_path, transport=nats(server.url), health={"address": "127.0.0.1:0"})
        started = subprocess.Popen(
            [sys.executable, "-m", "ssmd", "run", "-e", file, "--data", str(tmp_path / "data")],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: any("ssmd.middleware" in line for line in left_running(tmp_path)), what="it asks")
        asked = time.monotonic()
        started.terminate()
        assert started.wait(30) == 0
        assert time.monotonic() - asked < 5
        assert not (tmp_path / "data").exists()
        wait_until(lambda: not left_running(tmp_path), what="nothing runs any more")


def logged(*arguments: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit code, what it said, and its log."""
    done = subprocess.run(
        [sys.executable, "-m", "ssmd", "run", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    return done.returncode, done.stderr, [json.loads(line) for line in lines]
