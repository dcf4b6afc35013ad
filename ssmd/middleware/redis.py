"""The Cache in Redis, on redis-py: the one door to that library. Any Redis from 6.2 on, or what speaks like it.

Any thread may call: each call takes a connection of the pool for as long as it lasts. A connection that the server has
closed is noticed before it is used and made anew; nothing is sent twice, since the answers of `set_if_absent` and
`delete` would not be true then: who gets an UnavailableError may call again. No call lasts longer than about twice
`timeout_s` (to wait for a connection and make it, then to be answered).

Where Redis itself differs from the memory twin: what a full one gives up is its own policy (`maxmemory-policy`;
`noeviction` is a LimitError for each set, worth a retry), and `mset` is one exchange but no transaction: after an error
some of its values may be set.
"""

from __future__ import annotations

import os
import re
import secrets
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from ssmd.errors import ConflictError, LimitError, MiddlewareError, RejectedError, UnavailableError, UsageError
from ssmd.middleware.cache_limits import checked_key, checked_ttl, checked_value

TIMEOUT_S = 2.0
CONNECTIONS = 16  # of one pool; a further thread waits for one
PORT = 6379
_SCAN_COUNT = 1000  # keys that Redis looks at for one answer
_CHECK_TTL_MS = 1000
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_SPECIAL = re.compile(r"[*?\[\]\\]")  # of Redis's patterns


class RedisCache:
    """A Cache in the Redis of `url`: redis[s]://host[:port][/database][?ssl_ca_certs=FILE].

    `timeout_s`: for making a connection, and again for each answer. No connection is made here: `check` does.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        options = _options(url)
        self.address = f"{options['host']}:{options['port']}"
        tls = url.startswith("rediss:")
        self._pool: redis.ConnectionPool | None = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            connection_class=redis.SSLConnection if tls else redis.Connection,
            max_connections=CONNECTIONS,
            timeout=timeout_s,
            username=user,
            password=password,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            **options,
        )
        self._client = redis.Redis(connection_pool=self._pool)

    def check(self) -> None:
        """Also that we may write, read, delete and scan: by a key of its own, which is gone a second later."""
        name = f"ssmd:check:{os.getpid()}:{secrets.token_hex(8)}"
        with self._open() as client:
            client.ping()
            client.set(name, b"", px=_CHECK_TTL_MS)
            client.get(name)
            client.delete(name)
            client.scan(count=1)

    def get(self, key: str) -> bytes | None:
        name = checked_key(key)
        with self._open() as client:
            return cast("bytes | None", client.get(name))

    def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        name = checked_key(key)
        checked_value(key, value)
        px = _milliseconds(ttl_s)
        with self._open() as client:
            client.set(name, value, px=px)

    def set_if_absent(self, key: str, value: bytes, *, ttl_s: float | None = None) -> bool:
        name = checked_key(key)
        checked_value(key, value)
        px = _milliseconds(ttl_s)
        with self._open() as client:
            return bool(client.set(name, value, px=px, nx=True))

    def delete(self, key: str) -> bool:
        name = checked_key(key)
        with self._open() as client:
            return bool(client.delete(name))

    def exists(self, key: str) -> bool:
        name = checked_key(key)
        with self._open() as client:
            return bool(client.exists(name))

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        names = [checked_key(key) for key in keys]
        with self._open() as client:
            return cast("list[bytes | None]", client.mget(names)) if names else []

    def mset(self, values: Mapping[str, bytes], *, ttl_s: float | None = None) -> None:
        names = {checked_key(key): checked_value(key, value) for key, value in values.items()}
        px = _milliseconds(ttl_s)
        with self._open() as client:
            if names:
                self._pipeline(client, [_set_command(name, value, px) for name, value in names.items()])

    def _pipeline(self, client: redis.Redis, commands: Sequence[bytes]) -> None:
        """Sends packed commands at once and reads an answer to each; raises the first error among them.

        The library's own pipeline costs five times the CPU, and puts the values into the text of its errors.
        """
        pool, failed = client.connection_pool, None
        connection: Any = pool.get_connection()
        try:
            connection.send_packed_command([b"".join(commands)])
            for _ in commands:
                try:
                    connection.read_response()
                except exceptions.ResponseError as error:
                    failed = failed or error
        except BaseException:
            connection.disconnect()  # its next answers would be those to these commands
            raise
        finally:
            pool.release(connection)
        if failed is not None:
            raise failed

    def scan(self, prefix: str) -> Iterator[str]:
        pattern = _SPECIAL.sub(r"\\\g<0>", prefix).encode() + b"*"
        cursor, seen = 0, set[bytes]()
        while True:
            with self._open() as client:
                answer = cast("tuple[int, list[bytes]]", client.scan(cursor, match=pattern, count=_SCAN_COUNT))
            cursor, names = answer
            for name in names:
                if name not in seen:  # Redis may give one twice while its table grows or shrinks
                    seen.add(name)
                    try:
                        yield name.decode()
                    except UnicodeDecodeError:  # no key of a Cache: somebody else's
                        continue
            if cursor == 0:
                return

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.disconnect()

    @contextmanager
    def _open(self) -> Iterator[redis.Redis]:
        """The client; what the library raises meanwhile becomes ours."""
        if self._pool is None:
            raise UnavailableError("the cache was closed")
        try:
            yield self._client
        except (exceptions.RedisError, OSError) as error:
            raise self._translated(error) from error

    # ---- errors ----------------------------------------------------------------------------------------------------

    def _translated(self, error: Exception) -> MiddlewareError:
        """Whose fault it was, and whether a retry is worth it."""
        evidence = f"{type(error).__name__}: {error}"
        for kind, made, sentence, hint in _MEANINGS:
            if isinstance(error, kind):
                meant = made(f"Redis at {self.address} {sentence}", hint=hint, evidence=evidence)
                meant.retryable = meant.retryable or isinstance(meant, LimitError)  # it may have room later
                return meant
        if isinstance(error, exceptions.ResponseError):
            return self._answered(str(error), evidence)
        if isinstance(_root(error), ssl.SSLCertVerificationError):
            hint = "Name the file of the certificate authority: cache.url: rediss://…?ssl_ca_certs=FILE"
            return RejectedError(
                f"the certificate of Redis at {self.address} is not trusted", hint=hint, evidence=evidence
            )
        if "max number of clients" in str(error):
            return UnavailableError(f"Redis at {self.address} takes no more clients", evidence=evidence)
        return UnavailableError(
            f"Redis at {self.address} cannot be reached",
            hint="Is it running, and is cache.url right?",
            evidence=evidence,
        )

    def _answered(self, said: str, evidence: str) -> MiddlewareError:
        """An error that Redis itself answered, by its first word."""
        word = said.partition(" ")[0]
        if word == "WRONGTYPE":
            return ConflictError(
                f"Redis at {self.address} keeps something else than a plain value under this key",
                hint="Another program uses the same keys: give ssmd a database of its own, cache.url: redis://…/1",
                evidence=evidence,
            )
        if word in ("MISCONF", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN"):
            return UnavailableError(
                f"Redis at {self.address} does not work at present", hint="Its own log says why.", evidence=evidence
            )
        if word in ("MOVED", "ASK"):
            return RejectedError(
                f"Redis at {self.address} is one node of a cluster",
                hint="ssmd needs a single Redis (or a proxy in front of the cluster).",
                evidence=evidence,
            )
        return RejectedError(f"Redis at {self.address} refuses: {said}", evidence=evidence)


_Meaning = tuple[type[Exception] | tuple[type[Exception], ...], type[MiddlewareError], str, str | None]

# The first that fits: what the library raises, what that means here.
_MEANINGS: tuple[_Meaning, ...] = (
    (
        (
            exceptions.AuthenticationError,
            exceptions.AuthorizationError,
            exceptions.AuthenticationWrongNumberOfArgsError,
        ),
        RejectedError,
        "does not let us in: user name or password",
        "Check keys.redis.",
    ),
    (
        exceptions.NoPermissionError,
        RejectedError,
        "does not let this user do what ssmd needs",
        "ACL: +ping +get +set +mget +del +exists +scan, for keys ssmd:*",
    ),
    (
        exceptions.OutOfMemoryError,
        LimitError,
        "is full",
        "Give it more memory (maxmemory), or let it give up old values: maxmemory-policy allkeys-lru",
    ),
    (exceptions.BusyLoadingError, UnavailableError, "is still loading its data", None),
    (
        exceptions.ReadOnlyError,
        UnavailableError,
        "is a read-only replica",
        "cache.url must name the primary; after a failover this mends itself.",
    ),
    ((exceptions.TimeoutError, TimeoutError), UnavailableError, "does not answer in time", None),
    (exceptions.MaxConnectionsError, UnavailableError, "is asked by too many threads at once", None),
    (exceptions.InvalidResponse, RejectedError, "does not speak Redis's protocol", "Is cache.url right?"),
)


def _root(error: BaseException) -> BaseException:
    """The exception that it all began with."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return error


# ---- arguments -------------------------------------------------------------------------------------------------------


def _milliseconds(ttl_s: float | None) -> int | None:
    """What Redis counts in; never so little that it means nothing."""
    checked = checked_ttl(ttl_s)
    return None if checked is None else max(1, round(checked * 1000))


def _set_command(name: bytes, value: bytes, px: int | None) -> bytes:
    """SET in Redis's protocol: the number of words, then each with its length."""
    if px is None:
        return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(value), value)
    time = b"%d" % px
    return b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nPX\r\n$%d\r\n%b\r\n" % (
        len(name),
        name,
        len(value),
        value,
        len(time),
        time,
    )


def _options(url: str) -> dict[str, Any]:
    """Host, port, database and files of TLS in a URL. What the library would silently ignore is refused."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORT
    except ValueError as error:
        raise UsageError(f"cache.url: {url!r} is no URL: {error}") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise UsageError(f"cache.url: {_shown(parts)} is no address of a Redis", hint="write redis://host:6379/0")
    if parts.username is not None or parts.password is not None:
        raise UsageError("cache.url holds a user name or password", hint="Secrets stand in keys: docs/environment.md")
    return {"host": parts.hostname, "port": port, "db": _database(parts), **_tls(parts)}


def _shown(parts: SplitResult) -> str:
    """A URL without what may be secret."""
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def _database(parts: SplitResult) -> int:
    path = unquote(parts.path).strip("/")
    if not path:
        return 0
    if not re.fullmatch(r"[0-9]{1,5}", path):
        raise UsageError(
            f"cache.url: {_shown(parts)}: a database of Redis is a number", hint="write redis://host:6379/0"
        )
    return int(path)


def _tls(parts: SplitResult) -> dict[str, str]:
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(given.keys() - set(_TLS_FILES))
    if unknown or (given and parts.scheme != "rediss"):
        names = ", ".join(unknown or sorted(given))
        raise UsageError(f"cache.url: {names} is no option here", hint=f"rediss:// knows {', '.join(_TLS_FILES)}")
    return given
