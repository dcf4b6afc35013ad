"""What to do about a bus, bucket or Redis that was given by a URL is said in the words of the command line."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_writer import Journal
from recording import ROOT
from servers import NatsServer, RedisServer, S3Server

from ssmd.cli import cat, hints, last, verify
from ssmd.errors import RejectedError, SsmdError
from ssmd.journal.identity import make_identity

KEY = re.compile(r"\b(?:storage|transport|cache|keys)\.[a-z_0-9]+")
NOBODY = "127.0.0.1:1"
MODULES = {
    "nats": (hints.AGAINST, hints.TAIL_NATS),
    "objectstore.py": (hints.S3, hints.AGAINST),
    "redis.py": (hints.redis("VARIABLE"),),
}


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some, so that no role of this machine is asked for."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "thing")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    made = Journal(tmp_path / "kalshi")
    made.trade(1)
    made.seal()
    make_identity(made.root)
    return tmp_path


def texts_of(path: Path) -> Iterator[str]:
    """String constants of the modules at `path`, docstrings apart."""
    for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        tree = ast.parse(module.read_text("utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings:
                yield node.value


@pytest.mark.parametrize("name", MODULES)
def test_every_key_that_the_middleware_names_has_words_for_who_gave_a_url(name: str) -> None:
    found = list(texts_of(ROOT / "ssmd" / "middleware" / name))
    assert any(map(KEY.search, found))
    for words in MODULES[name]:
        for text in found:
            error = SsmdError("x", hint=text)
            hints.reworded(error, words)
            assert not KEY.search(str(error.hint)), error.hint


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("command", [cat, verify], ids=["cat", "verify"])
def test_an_archive_that_cannot_be_reached_names_the_url(command: object, journal: Path) -> None:
    url = f"s3://bucket/p?endpoint=http://{NOBODY}"
    arguments = [url] if command is cat else [str(journal), "--against", url]
    with pytest.raises(SsmdError) as caught:
        command.main(arguments)  # type: ignore[attr-defined]
    assert caught.value.exit_code == 4
    assert "?endpoint= of the URL, AWS_ENDPOINT_URL" in str(caught.value)


@pytest.mark.usefixtures("credentials")
def test_a_bucket_that_is_not_there_names_the_url(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server, pytest.raises(RejectedError) as caught:
        cat.main([f"s3://nobucket?endpoint={server.url}"])
    assert caught.value.hint == "make it, or mend the bucket in the URL"


def test_a_stream_that_is_not_there_is_called_as_it_was_given(journal: Path, tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        with pytest.raises(RejectedError) as caught:
            verify.main([str(journal), "--against", f"{server.url}/NOSTREAM"])
        assert "the stream in the URL, nats://HOST:PORT/STREAM" in str(caught.value)
        arguments = ["-m", "ssmd", "tail", "--url", server.url, "--stream", "NOPE", "--duration", "0.5"]
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0  # it may come: it is waited for
    assert "correct --stream." in done.stderr


def test_a_wrong_password_of_redis_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(last.PASSWORD_VARIABLE, "wrong")
    with RedisServer(tmp_path / "redis", password="right") as server, pytest.raises(SsmdError) as caught:
        last.main(["--url", server.url])
    assert "the variable REDISCLI_AUTH" in str(caught.value)


def test_a_redis_that_is_away_names_the_option() -> None:
    with pytest.raises(SsmdError) as caught:
        last.main(["--url", f"redis://{NOBODY}/0"])
    assert caught.value.hint == "Is it running, and is --url right?"
