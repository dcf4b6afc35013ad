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


def test_what_is_in_memory_needs_no_secret_of_the_service_that_it_stands_for() -> None:
    """A rehearsal of an environment whose keys are not set yet."""
    keys = [f"keys.{name}={{type: password, source: 'env:NOT_SET'}}" for name in ("nats", "redis")]
    made = factory(*keys, "keys.s3={type: api_key, fields: {access_key_id: 'env:A', secret_access_key: 'env:B'}}",
                   *(f"{section}.type=memory" for section in ("transport", "storage", "cache", "journal")))  # fmt: skip
    for part in (made.transport(), made.storage(), made.cache(), made.journal()):
        assert type(part).__name__.startswith("Memory")


def test_a_local_folder_without_an_archive_uploads_nowhere() -> None:
    assert factory().storage() is None


@pytest.mark.parametrize(
    ("settings", "method", "kind"),
    [
        ([], "transport", "MemoryTransport"),
        (["transport={type: nats, url: 'nats://127.0.0.1:1'}"], "transport", "NatsTransport"),
        (["storage.archive=/tmp/none"], "storage", "FileStorage"),
        (["storage={type: s3, bucket: b, region: r}"], "storage", "ObjectStorage"),
        (["storage.type=memory"], "storage", "MemoryStorage"),
        ([], "cache", "MemoryCache"),
        (["cache={type: redis, url: 'redis://127.0.0.1:1'}"], "cache", "RedisCache"),
        ([], "journal", "SegmentJournal"),
        (["transport={type: nats, url: 'nats://127.0.0.1:1'}", "journal.type=nats"], "journal", "NatsJournal"),
        (["journal.type=memory"], "journal", "MemoryJournal"),
    ],
)
def test_each_type_is_what_it_says_and_making_it_connects_to_nothing(
    settings: list[str], method: str, kind: str
) -> None:
    made = getattr(factory(*settings), method)()
    assert type(made).__name__ == kind
    made.close()


KEYS = {
    "nats": ("transport", "ssmd.middleware.nats", "NatsTransport", ["user", "password"], "transport={type: nats, url: 'nats://h'}"),
    "s3": ("storage", "ssmd.middleware.objectstore", "ObjectStorage",
           ["access_key_id", "secret_access_key", "session_token"], "storage={type: s3, bucket: b, region: r}"),
    "redis": ("cache", "ssmd.middleware.redis", "RedisCache", ["user", "password"], "cache={type: redis, url: 'redis://h'}"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_credentials_go_to_the_implementation_and_into_no_repr(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, module, kind, fields, setting = KEYS[name]
    sources = ", ".join(f"{field}: 'env:X'" for field in fields)
    made_by = factory(
        setting,
        f"keys.{name}={{type: password, fields: {{{sources}}}}}",
        secrets=lambda key, field: f"{SECRET} {key} {field}",
    )
    given: dict[str, object] = {}
    monkeypatch.setattr(f"{module}.{kind}", lambda *place, **options: given.update(options))
    getattr(made_by, method)()
    assert {field: given[field] for field in fields} == {field: f"{SECRET} {name} {field}" for field in fields}
    assert SECRET not in repr(made_by) + repr(vars(made_by))


def test_a_journal_on_the_bus_signs_in_as_the_bus_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr("ssmd.middleware.nats.NatsJournal", lambda url, **options: given.update(options, url=url))
    key = "keys.nats={type: password, fields: {user: 'env:U', password: 'env:P'}}"
    factory(KEYS["nats"][4], "journal.type=nats", key, secrets=lambda key, field: f"{key} {field}").journal()
    assert (given["url"], given["stream"], given["prefix"]) == ("nats://h", "SSMD", "md")
    assert (given["user"], given["password"]) == ("nats user", "nats password")


def test_a_nats_key_of_one_value_is_a_token_and_a_redis_key_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr("ssmd.middleware.nats.NatsTransport", lambda url, **options: given.update(options))
    monkeypatch.setattr("ssmd.middleware.redis.RedisCache", lambda url, **options: given.update(options))
    source = "{type: token, source: 'env:X'}"
    settings = (KEYS["nats"][4], KEYS["redis"][4], f"keys.nats={source}", f"keys.redis={source}")
    both = factory(*settings, secrets=lambda key, field: f"{key} {field}")
    both.transport()
    assert (given["token"], given["password"]) == ("nats value", None)
    both.cache()
    assert (given["password"], given["user"]) == ("redis value", None)


@pytest.mark.parametrize("library", ["nats", "obstore", "redis"])
def test_a_made_part_shows_no_secret(library: str) -> None:
    """What a log or a traceback may print of it: its repr, and those of what it holds."""
    name = {"nats": "nats", "obstore": "s3", "redis": "redis"}[library]
    method, _, _, fields, setting = KEYS[name]
    sources = ", ".join(f"{field}: 'env:X'" for field in fields)
    made = getattr(
        factory(setting, f"keys.{name}={{type: password, fields: {{{sources}}}}}", secrets=lambda key, field: SECRET),
        method,
    )()
    try:
        assert SECRET not in repr(made) + str(made)
    finally:
        made.close()


def test_a_key_that_is_not_required_and_not_set_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr("ssmd.middleware.redis.RedisCache", lambda url, **options: given.update(options))
    factory(KEYS["redis"][4], "keys.redis={type: password, required: false, source: 'env:NOT_SET'}").cache()
    assert given == {"user": None, "password": None}


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


@pytest.mark.parametrize("method", ["transport", "storage", "cache", "journal"])
def test_the_local_environment_imports_no_library_of_a_service(method: str) -> None:
    assert imported([], method) == set()


ALL = [setting for settings, *_ in NEEDS for setting in settings]


@pytest.mark.parametrize(("settings", "method", "library", "extra"), NEEDS, ids=[need[2] for need in NEEDS])
def test_only_the_library_of_the_part_that_was_asked_for_is_imported(
    settings: list[str], method: str, library: str, extra: str
) -> None:
    assert imported(ALL, method) == {library}
