"""The factory: what an environment asks for is what is built, and nothing else is imported. docs/middleware.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssmd import environment as env
from ssmd.errors import UsageError
from ssmd.middleware.factory import MiddlewareFactory

SMALLEST = """
name: small
feed: kalshi
schema: market_data:v1
exchange: {simulator: {}}
subscriptions: [{channels: [trade], all: true}]
"""
SECRET = "hunter2"


def environment(*settings: str) -> env.Environment:
    machine = env.Machine(lambda path: Path("/none") / path, None, lambda name: name == "UTC")
    return env.parse(SMALLEST, machine, source="small.yaml", stem="small", overrides=settings)


def no_secrets(key: str, field: str) -> str:
    raise UsageError(f"keys.{key}.{field} is not set")


def factory(*settings: str, secrets: Callable[[str, str], str] = no_secrets) -> MiddlewareFactory:
    return MiddlewareFactory(environment(*settings), secrets)


def test_a_local_folder_without_an_archive_uploads_nowhere() -> None:
    assert factory().storage() is None


def test_a_required_secret_that_is_not_set_is_the_users_to_mend() -> None:
    settings = ("transport={type: nats, url: 'nats://127.0.0.1:1'}", "keys.nats={type: token, source: 'env:NOT_SET'}")
    with pytest.raises(UsageError, match=r"keys\.nats\.value is not set"):
        factory(*settings).transport()


# ---- libraries -------------------------------------------------------------------------------------------------------

NEEDS = [
    # settings, method, library, extra
    (["transport={type: nats, url: 'nats://127.0.0.1:1'}"], "transport", "nats", "nats"),
    (["storage={type: s3, bucket: b, region: r}"], "storage", "obstore", "s3"),
    (["cache={type: redis, url: 'redis://127.0.0.1:1'}"], "cache", "redis", "redis"),
]


@pytest.mark.parametrize(("settings", "method", "library", "extra"), NEEDS, ids=[need[2] for need in NEEDS])
def test_a_library_that_is_not_installed_is_named_with_the_command_that_installs_it(
    settings: list[str], method: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("ssmd.middleware.", library))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # as if it could not be found
    with pytest.raises(UsageError) as caught:
        getattr(factory(*settings), method)()
    assert f"pip install 'ssmd[{extra}]'" in str(caught.value)


def imported(settings: list[str], method: str) -> set[str]:
    """The libraries of the middleware that a process has after it asked for one part."""
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_factory import factory
getattr(factory(*{settings!r}), {method!r})()
print(*sorted({{"nats", "obstore", "redis"}} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": "."},
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("method", ["transport", "storage", "cache"])
def test_the_local_environment_imports_no_library_of_a_service(method: str) -> None:
    assert imported([], method) == set()


ALL = [setting for settings, *_ in NEEDS for setting in settings]


@pytest.mark.parametrize(("settings", "method", "library", "extra"), NEEDS, ids=[need[2] for need in NEEDS])
def test_only_the_library_of_the_part_that_was_asked_for_is_imported(
    settings: list[str], method: str, library: str, extra: str
) -> None:
    assert imported(ALL, method) == {library}
