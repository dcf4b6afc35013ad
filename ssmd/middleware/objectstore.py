"""Storage in a bucket of S3 or a service that speaks its protocol (MinIO, R2, Ceph ...), through obstore.

The only importer of obstore. An object is put by one request as long as it fits into `MAX_SINGLE_BYTES` of memory: then
its etag is its MD5, and put-if-absent is one conditional request (If-None-Match: *). A larger one goes in parts, a few
of which are in memory at a time. Parts know no condition, so put-if-absent of a large object is three steps:

    parts         -> {prefix}/.ssmd/{random}     nobody looks there
    server's copy -> key                         conditional: of many callers exactly one succeeds
    delete           {prefix}/.ssmd/{random}

A crash leaves parts of an unfinished upload (invisible, but paid for: let a rule of the bucket abort them after a day)
or an object in `.ssmd`; never half an object under its key. The server's copy takes 5 GiB at most, else a LimitError.

A service that does not know If-None-Match would replace what is there: `check` tries it on `{prefix}/.ssmd/check`, an
empty object that stays, and refuses such a service. Where an answer to a conditional put was lost and the put
was made again, the ConflictError may be about our own object: compare it.

Limits in time: a request `REQUEST_S`, made at most 1 + `RETRIES` times within `RETRY_S`, after a connection error or a
5xx answer. Connections are TLS; plain http is taken for an endpoint on loopback only.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain
from typing import Any, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from ssmd.errors import (
    ConflictError,
    LimitError,
    MiddlewareError,
    MissingObjectError,
    RejectedError,
    UnavailableError,
    UsageError,
)
from ssmd.middleware.interfaces import ObjectInfo
from ssmd.middleware.keys import OWN, checked_key, folder_of, is_listed

MAX_SINGLE_BYTES: Final = 8 << 20
PART_BYTES: Final = 8 << 20  # at most 10,000 parts: 80 GB
PARTS_AT_ONCE: Final = 2
MAX_COPY_BYTES: Final = 5 << 30  # S3: the largest source of one server-side copy

CONNECT_S: Final = 5.0
REQUEST_S: Final = 60.0
RETRIES: Final = 2
RETRY_S: Final = 90.0

# Variables that the AWS tools read, in this order; arguments come first.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


class ObjectStorage:
    """`Storage` (ssmd.middleware.interfaces) in the bucket `bucket`. Making one connects to nothing.

    `endpoint`: https://host[:port] of another service than AWS (requests are path-style then). `prefix`: the part of
    the bucket in which `check` looks and our own objects are; keys are given whole all the same. Credentials that are
    not given come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or from the machine's role.
    """

    def __init__(
        self,
        bucket: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        prefix: str = "",
        request_s: float = REQUEST_S,
        retries: int = RETRIES,
        retry_s: float = RETRY_S,
    ) -> None:
        endpoint = endpoint or _first(os.environ, _ENDPOINTS)
        self.place = f"bucket {bucket}" + (f" at {endpoint}" if endpoint else "")
        config: dict[str, Any] = {
            "region": region or _first(os.environ, _REGIONS) or "us-east-1",
            "copy_if_not_exists": "multipart",
            "virtual_hosted_style_request": endpoint is None and "." not in bucket,  # no certificate has two dots
        }
        if endpoint is not None:
            config["aws_endpoint_url_s3"] = endpoint
        if access_key_id is not None:
            config |= {"access_key_id": access_key_id, "secret_access_key": secret_access_key or ""}
            if session_token is not None:
                config["session_token"] = session_token
        client: dict[str, Any] = {
            "allow_http": endpoint is not None and _allows_http(endpoint),
            "connect_timeout": timedelta(seconds=min(CONNECT_S, request_s)),
            "timeout": timedelta(seconds=request_s),
        }
        retry: dict[str, Any] = {
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=retry_s),
            "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
        }
        self._bucket = bucket
        self._own = f"{prefix}/{OWN}" if prefix else OWN
        self._prefix = prefix
        self._closed = False
        self._bucket_seen = False
        self._etags_are_md5 = True
        try:
            self._store: Any = S3Store(bucket, config=config, client_options=client, retry_config=retry)  # type: ignore
        except (BaseError, ValueError) as error:
            raise UsageError(f"{self.place} cannot be used: {_evidence(str(error))}") from None

    def check(self, *, writable: bool = True) -> None:
        """The bucket is there and ours to list; if `writable`, ours to write, and If-None-Match counts there."""
        self._opened()
        self._look_for_bucket()
        if writable:
            probe = f"{self._own}/check"
            if self._put_probe(probe) and self._put_probe(probe):
                raise RejectedError(
                    f"{self.place} does not keep put-if-absent: it replaced an object in spite of If-None-Match",
                    hint="use a service that knows conditional writes (S3, MinIO, R2, Ceph since 2024): two archivers "
                    "could overwrite each other here",
                )

    def put(self, key: str, data: bytes | Iterator[bytes], *, if_absent: bool = False) -> ObjectInfo:
        checked_key(key)
        self._opened()
        if isinstance(data, bytes) and len(data) <= MAX_SINGLE_BYTES:
            return self._put_whole(key, data, if_absent)
        pieces = _cut(data) if isinstance(data, bytes) else iter(data)
        head, ended = _filled(pieces, MAX_SINGLE_BYTES)
        if ended:
            return self._put_whole(key, head, if_absent)
        return self._put_parts(key, chain(_given_up(head), pieces), if_absent)

    def get(self, key: str) -> bytes:
        found = self._get(key)
        with self._translated(key):
            return bytes(found.bytes())

    def range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError(f"a range from {start} of {length} bytes")
        checked_key(key)
        self._opened()
        if length:
            try:
                with self._translated(key):
                    return bytes(obstore.get_range(self._store, key, start=start, length=length))
            except RejectedError as error:
                if "416" not in (error.evidence or ""):
                    raise
        size = self.head(key).size_bytes  # behind the end, or nothing asked for: b"", unless there is no object
        if length and start < size:
            raise UnavailableError(f"{key}: a range within its {size} bytes was refused", hint="try again")
        return b""

    def stream(self, key: str, *, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        pieces = iter(self._get(key).stream(min_chunk_size=chunk_bytes))
        while True:
            with self._translated(key):
                chunk = next(pieces, None)
            if chunk is None:
                return
            yield bytes(chunk)

    def head(self, key: str) -> ObjectInfo:
        checked_key(key)
        self._opened()
        with self._translated(key):
            found = obstore.head(self._store, key)
        return self._info(found)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._opened()
        folder = folder_of(prefix)  # obstore's prefixes are whole names
        if folder is None:
            return
        found: list[ObjectInfo] = []
        with self._translated(self.place):
            for page in obstore.list(self._store, folder or None, chunk_size=1000):
                listed = (meta for meta in page if meta["path"].startswith(prefix) and is_listed(meta["path"]))
                found += map(self._info, listed)
        self._bucket_seen = True
        yield from sorted(found, key=lambda info: info.key.encode())

    def delete(self, key: str) -> None:
        checked_key(key)
        self._opened()
        self._delete(key)

    def close(self) -> None:
        self._closed = True
        self._store = None

    # ---- putting -----------------------------------------------------------------------------------------------------

    def _put_whole(self, key: str, data: bytes | bytearray, if_absent: bool) -> ObjectInfo:
        self._send(key, data, if_absent)
        info = self.head(key)
        if not info.multipart and info.etag != hashlib.md5(data, usedforsecurity=False).hexdigest():
            self._etags_are_md5 = False  # it encrypts with a key of KMS, or has etags of its own
            return self.head(key)
        return info

    def _send(self, key: str, data: bytes | bytearray, if_absent: bool) -> None:
        with self._translated(key):
            obstore.put(self._store, key, data, mode="create" if if_absent else "overwrite", use_multipart=False)

    def _put_parts(self, key: str, data: Iterator[bytes], if_absent: bool) -> ObjectInfo:
        if not if_absent:
            self._send_parts(key, data)
            return self.head(key)
        part = f"{self._own}/{secrets.token_hex(8)}"
        try:
            self._send_parts(part, _at_most(MAX_COPY_BYTES, data, key))
            with self._translated(key):
                obstore.copy(self._store, part, key, overwrite=False)
        finally:
            with suppress(MiddlewareError):  # then it stays, where nobody looks
                self._delete(part)
        return self.head(key)

    def _send_parts(self, key: str, data: Iterator[bytes]) -> None:
        pieces = _Pieces(data)
        try:
            with self._translated(key):
                obstore.put(
                    self._store, key, pieces, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                )
        except Exception:
            if pieces.error is not None:
                raise pieces.error from None  # its owner's: it passes as it is
            raise

    def _put_probe(self, key: str) -> bool:
        """Whether the conditional put was done; it must not be where there is one already."""
        try:
            self._send(key, b"", if_absent=True)
        except ConflictError:
            return False
        return True

    # ---- asking ------------------------------------------------------------------------------------------------------

    def _opened(self) -> None:
        if self._closed:
            raise UnavailableError("this storage was closed")

    def _get(self, key: str) -> Any:
        checked_key(key)
        self._opened()
        with self._translated(key):
            return obstore.get(self._store, key)

    def _delete(self, key: str) -> None:
        with suppress(MissingObjectError), self._translated(key):
            obstore.delete(self._store, key)

    def _look_for_bucket(self) -> None:
        """One page of its list: a 404 for a key does not tell whether there is a bucket."""
        with self._translated(self.place):
            try:
                next(iter(obstore.list(self._store, self._prefix or None, chunk_size=1)), None)
            except BaseError as error:
                if _FOREIGN not in str(error):  # that is somebody's object in it: it is there
                    raise
        self._bucket_seen = True

    def _info(self, meta: Any) -> ObjectInfo:
        etag = (meta["e_tag"] or "").strip('"').lower()
        modified_ns = int(meta["last_modified"].timestamp() * 1_000_000) * 1000
        own = not self._etags_are_md5 or _MD5.fullmatch(etag) is None
        return ObjectInfo(meta["path"], meta["size"], etag, modified_ns, multipart=own)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """obstore's errors as ours. A foreign FileNotFoundError cannot get here: see `_Pieces`."""
        try:
            yield
        except FileNotFoundError as error:
            if not self._bucket_seen and "NoSuchBucket" not in str(error):
                self._look_for_bucket()
            raise self._translation(what, error) from error
        except (BaseError, ValueError) as error:
            raise self._translation(what, error) from error

    def _translation(self, what: str, error: Exception) -> MiddlewareError:
        evidence = _evidence(str(error))
        at = what if what == self.place else f"{what} in {self.place}"
        if isinstance(error, AlreadyExistsError | PreconditionError):
            return ConflictError(f"{at}: there is an object of this key already", evidence=evidence)
        for pattern, kind, sentence, hint in _ANSWERS:
            if pattern.search(evidence):
                return kind(f"{at}: {sentence}", hint=hint, evidence=evidence)
        if isinstance(error, FileNotFoundError):
            return MissingObjectError(f"{at}: there is no object of this key", evidence=evidence)
        status = _STATUS.search(evidence)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or (status and status[1] in ("401", "403")):
            return RejectedError(f"{at}: the service refuses us", hint=_HINT_RIGHTS, evidence=evidence)
        if status and status[1][0] in "34" and status[1] not in ("408", "429"):
            return RejectedError(f"{at}: the service answers {status[1]}", evidence=evidence)
        if status:
            return UnavailableError(f"{at}: the service answers {status[1]}", hint="try again later", evidence=evidence)
        return UnavailableError(
            f"{at}: the service cannot be reached, or is too slow", hint=_HINT_REACH, evidence=evidence
        )


class _Pieces:
    """An iterator whose own error is kept: inside of obstore it could be taken for one of the service."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.error: Exception | None = None

    def __iter__(self) -> _Pieces:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise


def _cut(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    return (bytes(view[at : at + PART_BYTES]) for at in range(0, len(view), PART_BYTES))


def _filled(pieces: Iterator[bytes], most_bytes: int) -> tuple[bytearray, bool]:
    """The bytes of pieces up to just more than so many, or of all of them and True."""
    head = bytearray()
    for piece in pieces:
        head += piece
        if len(head) > most_bytes:
            return head, False
    return head, True


def _given_up(head: bytearray) -> Iterator[bytes]:
    """The bytes in pieces, and their memory with them."""
    while head:
        piece = bytes(head[:PART_BYTES])
        del head[:PART_BYTES]
        yield piece


def _at_most(most_bytes: int, pieces: Iterator[bytes], key: str) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > most_bytes:
            raise LimitError(f"{key}: put-if-absent takes at most {most_bytes} bytes", hint="make segments smaller")
        yield piece


def _first(variables: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((variables[name] for name in names if variables.get(name)), None)


def _allows_http(endpoint: str) -> bool:
    """Whether it is plain http, on loopback. UsageError for plain http to anywhere else, or no URL at all."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https") or port == 0:
        raise UsageError(
            f"{endpoint!r} is no address of an object store", hint="write https://host or https://host:port"
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError("the address of an object store must not hold credentials", hint="give them as keys.s3")
    if parts.scheme == "http" and not _is_loopback(host):
        raise UsageError(
            f"{endpoint}: data and signatures would travel in the clear",
            hint="plain http is taken for loopback only: use https",
        )
    return parts.scheme == "http"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ---- what services answer --------------------------------------------------------------------------------------------

_FOREIGN = "Encountered object with invalid path"  # obstore gives up a list that has one
_MD5 = re.compile(r"[0-9a-f]{32}")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_SAID = re.compile(r"<Message>([^<]{1,300})</Message>")
_HINT_RIGHTS = (
    "the key needs the rights to list the bucket, and to get, put and delete objects below storage.prefix: check "
    "keys.s3 (or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and the bucket's policy"
)
_HINT_REACH = "check storage.endpoint and the network"
_HINT_KEYS = "check keys.s3, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)"

# Evidence -> what it is. The first that fits.
_ANSWERS: Final[tuple[tuple[re.Pattern[str], type[MiddlewareError], str, str], ...]] = (
    (re.compile("NoSuchBucket"), RejectedError, "there is no such bucket", "make it, or mend storage.bucket"),
    (re.compile("InvalidBucketName"), RejectedError, "no bucket can have this name", "mend storage.bucket"),
    (re.compile("InvalidAccessKeyId"), RejectedError, "the service does not know this access key", _HINT_KEYS),
    (re.compile("SignatureDoesNotMatch"), RejectedError, "the secret is not that of the access key", _HINT_KEYS),
    (re.compile("ExpiredToken|InvalidToken"), RejectedError, "the session token has expired or is wrong", _HINT_KEYS),
    (re.compile("RequestTimeTooSkewed"), RejectedError, "the clock of this machine is wrong", "set it (NTP)"),
    (
        re.compile(
            "AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraint|redirect without LOCATION"
        ),
        RejectedError,
        "the bucket is in another region",
        "mend storage.region (and storage.endpoint)",
    ),
    (
        re.compile(r"169\.254\.|/latest/api/token|/latest/meta-data"),
        RejectedError,
        "there are no credentials: none were given, and this machine has no role",
        _HINT_KEYS,
    ),
    (
        re.compile("NotImplemented|status code: 501"),
        RejectedError,
        "the service does not know this kind of request",
        "put-if-absent needs conditional writes (If-None-Match): use a service that knows them",
    ),
    (
        re.compile("(?i)certificate|UnknownIssuer"),
        RejectedError,
        "the service's certificate is not trusted",
        "check storage.endpoint and this machine's certificates",
    ),
    (re.compile("EntityTooLarge|status code: 413"), LimitError, "the object is too large for the service", ""),
    (
        re.compile(_FOREIGN),
        RejectedError,
        "there is an object whose key is none (an empty name, or '..'), and so this prefix cannot be listed",
        "move it away, or use a prefix of your own",
    ),
    (re.compile("(?i)quota|InsufficientStorage"), UnavailableError, "the bucket is full", "make room in it"),
)


def _evidence(text: str) -> str:
    """The library's words without its dump of structures, and the service's error code and message."""
    first = text.partition("\n")[0].partition("<?xml")[0][:500].strip()
    told = [found[1] for found in (_CODE.search(text), _SAID.search(text)) if found]
    return f"{first} {': '.join(told)}".strip()
