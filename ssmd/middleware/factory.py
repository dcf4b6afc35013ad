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

Of what is in memory, the store holds MEMORY_STORE_BYTES at most, the cache `max_size` entries; bus and journal forget
what they are told to. Without such a key the library's own sources count (AWS_ACCESS_KEY_ID and so on); NATS and Redis
are asked without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ssmd import environment as env
from ssmd.environment import Environment
from ssmd.errors import UsageError
from ssmd.journal.paths import feed_root
from ssmd.middleware.interfaces import Cache, Journal, Storage, Transport

if TYPE_CHECKING:
    from ssmd.store import Store

Credentials = dict[str, str]  # field of a key -> secret

LIBRARIES: Final = {"nats": "nats-py", "obstore": "obstore", "redis": "redis"}  # module -> what pip calls it
MEMORY_STORE_BYTES: Final = 512 << 20  # of what was uploaded and not compared yet: many times a rehearsal's segment
ONE_VALUE: Final = {"nats": "token", "redis": "password"}  # what a key with `source` instead of `fields` is


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
        return transport(section, self._credentials("nats") if section.type == "nats" else {})

    def storage(self) -> Storage | None:
        """Where sealed segments are uploaded to: the bucket, or the folder `storage.archive`. None: they stay local.

        The memory one is this process's own.
        """
        section = self._environment.storage
        if section.type == "local" and section.archive is None:
            return None
        return storage(section, self._credentials("s3") if section.type == "s3" else {})

    def cache(self) -> Cache:
        """Short-lived values. The memory one is this process's own."""
        section = self._environment.cache
        return cache(section, self._credentials("redis") if section.type == "redis" else {})

    def journal(self) -> Journal:
        """What is recorded: segment files of this machine, or the stream that the publisher fills.

        Segment files can be appended to while no recorder has them.
        """
        environment = self._environment
        if environment.journal.type == "nats":
            return _nats_journal(environment.transport, self._credentials("nats"))
        if environment.journal.type == "memory":
            from ssmd.middleware.memory import MemoryJournal

            return MemoryJournal(max_payload_bytes=environment.ring.size_bytes // 2)  # the largest record
        from ssmd.middleware.segments import SegmentJournal

        root = feed_root(environment.storage.path, environment.feed)
        return SegmentJournal(root, recorder=lambda: _recorder(environment))

    def _credentials(self, name: str) -> Credentials:
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


# ---- by section, for programs that have no whole environment ---------------------------------------------------------


def transport(section: env.Transport, credentials: Credentials) -> Transport:
    """The bus of one section."""
    if section.type != "nats":
        from ssmd.middleware.memory import MemoryTransport

        return MemoryTransport()
    with _needs("nats"):
        from ssmd.middleware.nats import NatsTransport
    return NatsTransport(
        str(section.url), stream=section.stream, prefix=section.subject_prefix, **_nats_options(section, credentials)
    )


def _nats_journal(section: env.Transport, credentials: Credentials) -> Journal:
    with _needs("nats"):
        from ssmd.middleware.nats import NatsJournal
    return NatsJournal(
        str(section.url), stream=section.stream, prefix=section.subject_prefix, **_nats_options(section, credentials)
    )


def _nats_options(section: env.Transport, credentials: Credentials) -> dict[str, Any]:
    """How we sign in, and what the stream is given that we may make."""
    return {
        **{field: credentials.get(field) for field in ("user", "password", "token", "creds")},
        "stream_max_bytes": section.stream_max_bytes,
        "stream_max_age_s": section.stream_max_age_hours * 3600.0,
    }


def storage(section: env.Storage, credentials: Credentials) -> Storage:
    """The bucket of a section, or the folder `archive`."""
    if section.type == "s3":
        with _needs("s3"):
            from ssmd.middleware.objectstore import ObjectStorage
        return ObjectStorage(
            str(section.bucket),
            region=section.region,
            endpoint=section.endpoint,
            access_key_id=credentials.get("access_key_id"),
            secret_access_key=credentials.get("secret_access_key"),
            session_token=credentials.get("session_token"),
            prefix=section.prefix,
        )
    if section.type == "local" and section.archive is not None:
        from ssmd.middleware.files import FileStorage

        return FileStorage(section.archive)
    from ssmd.middleware.memory import MemoryStorage

    return MemoryStorage(max_bytes=MEMORY_STORE_BYTES)


def cache(section: env.Cache, credentials: Credentials) -> Cache:
    """The cache of one section."""
    if section.type != "redis":
        from ssmd.middleware.memory import MemoryCache

        return MemoryCache(max_size=section.max_size)
    with _needs("redis"):
        from ssmd.middleware.redis import RedisCache
    return RedisCache(str(section.url), user=credentials.get("user"), password=credentials.get("password"))


def _recorder(environment: Environment) -> Store:
    from ssmd.store import Store

    return Store(environment)


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Around the import of an implementation: UsageError with the pip command where its library is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in LIBRARIES:
            raise
        raise UsageError(
            f"the library {LIBRARIES[library]} is not installed, and this environment needs it",
            hint=f"run: pip install 'ssmd[{extra}]' (in a clone: .venv/bin/pip install {LIBRARIES[library]})",
        ) from None
