"""From an Environment to what it asks for: the only module that names implementations of the middleware.

For: programs (every `__main__` and the CLI), which hand what they get to services that know the interfaces only. An
implementation is imported in the method that builds it, so a program pays for, and needs installed, just the libraries
that its environment uses. Making one connects to nothing; `check` of what was made does.

Invariant: a secret goes from where it is kept to the constructor that needs it and nowhere else; no error of this
module repeats one.

    section      type     library    credentials: fields of keys.NAME in the environment
    transport    nats     nats-py    keys.nats: user and password, or token, or creds
    storage      s3       obstore    keys.s3: access_key_id, secret_access_key, session_token where there is one
    cache        redis    redis      keys.redis: password, user where there is one
    journal      nats     nats-py    as transport
    any other             none       none

Without such a key the library's own sources count (AWS_ACCESS_KEY_ID and so on); NATS and Redis are asked without.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, cast

from ssmd.environment import Environment
from ssmd.errors import UsageError
from ssmd.journal.paths import feed_root
from ssmd.middleware.interfaces import Cache, Journal, Storage, Transport

ONE_VALUE: Final = {"nats": "token", "redis": "password"}  # what a key with `source` instead of `fields` is
LIBRARIES: Final = {"nats": "nats-py", "obstore": "obstore", "redis": "redis"}  # module -> what pip calls it


class MiddlewareFactory:
    """What an environment's sections transport, storage, cache and journal stand for.

    `secrets(key, field)` gives one secret of the environment's `keys`, and raises UsageError where it is not set
    (`ssmd.host.secret_reader`). Each call makes a new instance: close it.
    """

    def __init__(self, environment: Environment, secrets: Callable[[str, str], str]) -> None:
        self._environment = environment
        self._secrets = secrets

    def transport(self) -> Transport:
        """The bus. UsageError when its library is not installed or a secret of it is not set."""
        section = self._environment.transport
        if section.type == "nats":
            made = _implementation("ssmd.middleware.nats", "NatsTransport", "nats")
            return cast(
                Transport,
                made(
                    section.url,
                    stream=section.stream,
                    prefix=section.subject_prefix,
                    stream_max_bytes=section.stream_max_bytes,
                    stream_max_age_s=section.stream_max_age_hours * 3600.0,
                    **self._credentials("nats"),
                ),
            )
        return cast(Transport, _implementation("ssmd.middleware.memory", "MemoryTransport")())

    def storage(self) -> Storage | None:
        """Where sealed segments are uploaded to: the bucket, or the folder `storage.archive`. None: they stay local."""
        section = self._environment.storage
        if section.type == "s3":
            made = _implementation("ssmd.middleware.objectstore", "ObjectStorage", "s3")
            return cast(
                Storage,
                made(
                    bucket=section.bucket,
                    region=section.region,
                    endpoint=section.endpoint,
                    prefix=section.prefix,
                    **self._credentials("s3"),
                ),
            )
        if section.type == "memory":
            return cast(Storage, _implementation("ssmd.middleware.memory", "MemoryStorage")())
        if section.archive is not None:
            return cast(Storage, _implementation("ssmd.middleware.files", "FileStorage")(section.archive))
        return None

    def cache(self) -> Cache:
        """Short-lived values. The memory one is this process's own."""
        section = self._environment.cache
        if section.type == "redis":
            made = _implementation("ssmd.middleware.redis", "RedisCache", "redis")
            return cast(Cache, made(section.url, **self._credentials("redis")))
        return cast(Cache, _implementation("ssmd.middleware.memory", "MemoryCache")(max_size=section.max_size))

    def journal(self) -> Journal:
        """What was recorded, to read: segment files of this machine, or the stream that the publisher fills."""
        environment = self._environment
        if environment.journal.type == "nats":
            section = environment.transport
            made = _implementation("ssmd.middleware.nats", "NatsJournal", "nats")
            return cast(
                Journal,
                made(section.url, stream=section.stream, prefix=section.subject_prefix, **self._credentials("nats")),
            )
        if environment.journal.type == "memory":
            return cast(Journal, _implementation("ssmd.middleware.memory", "MemoryJournal")())
        root = feed_root(environment.storage.path, environment.feed)
        return cast(Journal, _implementation("ssmd.middleware.segments", "SegmentJournal")(root))

    def _credentials(self, name: str) -> dict[str, str]:
        """Field -> secret of `keys.NAME`; {} where the environment has no such key."""
        key = self._environment.keys.get(name)
        found = {}
        for field in key.sources if key is not None else ():
            try:
                found[ONE_VALUE[name] if field == "value" else field] = self._secrets(name, field)
            except UsageError:
                if key is not None and key.required:
                    raise
        return found


def _implementation(module: str, name: str, extra: str | None = None) -> Callable[..., Any]:
    """A class by its module, imported now. UsageError with the pip command where its library is not installed."""
    try:
        return cast(Callable[..., Any], getattr(importlib.import_module(module), name))
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if extra is None or library not in LIBRARIES:
            raise
        raise UsageError(
            f"the library {LIBRARIES[library]} is not installed, and this environment needs it",
            hint=f"run: pip install 'ssmd[{extra}]' (in a clone: .venv/bin/pip install {LIBRARIES[library]})",
        ) from None
