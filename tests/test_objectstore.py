"""What only S3 does: errors of the service and of the network, conditional writes, etags, limits of time and memory."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Iterator

import pytest
from flaky import Answer, FlakyProxy
from servers import S3Server, free_port

from ssmd.errors import (
    ConflictError,
    LimitError,
    MissingObjectError,
    RejectedError,
    UnavailableError,
    UsageError,
)
from ssmd.middleware import objectstore
from ssmd.middleware.objectstore import ObjectStorage

MIB = 1 << 20
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/s3/aws4_request"}
SECRET = S3Server.KEYS["secret_access_key"]


@pytest.fixture
def proxy(store: S3Server) -> Iterator[FlakyProxy]:
    with FlakyProxy(store.port) as running:
        yield running


def storage(url: str, bucket: str = S3Server.BUCKET, **options: object) -> ObjectStorage:
    given = {"region": "us-east-1", "retries": 1, "retry_s": 5.0, "request_s": 5.0, **S3Server.KEYS, **options}
    return ObjectStorage(bucket, endpoint=url, **given)  # type: ignore[arg-type]


CALLS: dict[str, Callable[[ObjectStorage], object]] = {
    "check": lambda s: s.check(),
    "check to read": lambda s: s.check(writable=False),
    "put": lambda s: s.put("x", b"1"),
    "put if absent": lambda s: s.put("x", b"1", if_absent=True),
    "put parts": lambda s: s.put("x", itertools.repeat(bytes(MIB), 20)),
    "get": lambda s: s.get("x"),
    "range": lambda s: s.range("x", 0, 1),
    "stream": lambda s: next(s.stream("x")),
    "head": lambda s: s.head("x"),
    "list": lambda s: next(s.list(), None),
    "delete": lambda s: s.delete("x"),
}
call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


# ---- errors ----------------------------------------------------------------------------------------------------------


@call
def test_a_missing_bucket_is_the_users_to_mend(store: S3Server, call: Callable[[ObjectStorage], object]) -> None:
    with pytest.raises(RejectedError, match="no such bucket") as caught:
        call(storage(store.url, "no-such-bucket"))
    assert caught.value.exit_code == 2 and not caught.value.retryable
    assert "storage.bucket" in str(caught.value)


@call
def test_a_refused_connection_is_worth_a_retry(call: Callable[[ObjectStorage], object]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnavailableError, match="cannot be reached") as caught:
        call(storage(url, retries=0))
    assert caught.value.retryable and url in str(caught.value)
    assert caught.value.evidence and "127.0.0.1" in caught.value.evidence


@call
def test_an_error_of_the_service_is_worth_a_retry(proxy: FlakyProxy, call: Callable[[ObjectStorage], object]) -> None:
    proxy.answer = lambda method, path: Answer(500, "InternalError")
    with pytest.raises(UnavailableError, match="answers 500") as caught:
        call(storage(proxy.url, retries=0))
    assert caught.value.retryable and "500" in str(caught.value.evidence)


@call
def test_a_service_that_hangs_is_given_up_after_its_time(
    proxy: FlakyProxy, call: Callable[[ObjectStorage], object]
) -> None:
    proxy.delay_s = 30.0
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="too slow") as caught:
        call(storage(proxy.url, request_s=0.3, retries=0))
    assert caught.value.retryable
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "InvalidAccessKeyId", "does not know this access key"),
        (403, "SignatureDoesNotMatch", "the secret is not that of the access key"),
        (403, "AccessDenied", "refuses us"),
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "ExpiredToken", "session token"),
        (400, "AuthorizationHeaderMalformed", "another region"),
        (301, "PermanentRedirect", "another region"),
        (501, "NotImplemented", "does not know this kind of request"),
        (418, "Teapot", "answers 418"),
    ],
)
@pytest.mark.parametrize("what", ["put if absent", "get", "list", "check"])
def test_a_refusal_says_what_the_user_can_do(proxy: FlakyProxy, what: str, status: int, code: str, words: str) -> None:
    proxy.answer = lambda method, path: Answer(status, code)
    with pytest.raises(RejectedError, match=words) as caught:
        CALLS[what](storage(proxy.url, retries=0))
    assert caught.value.exit_code == 2
    said = f"{caught.value} {caught.value.evidence} {caught.value!r}"
    assert SECRET not in said


def test_an_answer_that_is_lost_once_does_no_harm(proxy: FlakyProxy) -> None:
    lost: list[str] = []

    def lose(method: str, path: str) -> Answer | None:
        if method == "PUT" and not lost:
            lost.append(path)
            return Answer(0, drop=True)
        return None

    proxy.answer = lose
    there = storage(proxy.url)
    assert there.put("x", b"content").size_bytes == 7
    assert lost and there.get("x") == b"content"


def test_an_error_that_passes_is_not_seen(proxy: FlakyProxy) -> None:
    answers = iter([Answer(503, "SlowDown")])
    proxy.answer = lambda method, path: next(answers, None)
    there = storage(proxy.url)
    assert there.put("x", b"1").etag == "c4ca4238a0b923820dcc509a6f75849b"
    assert proxy.seen["PUT"] == 2


@pytest.mark.parametrize("what", ["get", "range", "stream"])
def test_an_answer_that_breaks_off_is_worth_a_retry(proxy: FlakyProxy, what: str) -> None:
    there = storage(proxy.url)
    there.put("x", bytes(100_000))
    proxy.cut_at = 1000
    reads: dict[str, Callable[[], object]] = {
        "get": lambda: there.get("x"),
        "range": lambda: there.range("x", 0, 50_000),
        "stream": lambda: list(there.stream("x", chunk_bytes=10_000)),
    }
    with pytest.raises(UnavailableError):
        reads[what]()
    proxy.cut_at = -1
    reads[what]()


def test_a_store_that_goes_on_failing_is_asked_as_often_as_allowed_and_no_more(proxy: FlakyProxy) -> None:
    proxy.answer = lambda method, path: Answer(500)
    with pytest.raises(UnavailableError):
        storage(proxy.url, retries=2).get("x")
    assert proxy.seen["GET"] == 3


def test_without_credentials_the_error_says_which_variables_to_set(
    store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    error = objectstore.BaseError(
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1s - HTTP error"
    )
    translated = storage(store.url)._translation("x", error)
    assert isinstance(translated, RejectedError) and "no credentials" in str(translated)
    assert "AWS_ACCESS_KEY_ID" in str(translated)


def test_credentials_come_from_the_variables_of_aws(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", S3Server.KEYS["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    ObjectStorage(S3Server.BUCKET, region="us-east-1", endpoint=store.url).check()


def test_what_is_given_comes_before_the_variables_of_aws(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_BUCKET", "another")
    storage(store.url).check()


@pytest.mark.parametrize("key", ["md//x", "md/../x"])
def test_an_object_of_others_that_obstore_cannot_list_is_named_and_does_not_stop_us(store: S3Server, key: str) -> None:
    store.ask("PUT", f"/{S3Server.BUCKET}/{key}", b"1", headers=SIGNED)
    there = storage(store.url, prefix="md")
    there.check()
    there.put("md/mine", b"2", if_absent=True)
    assert there.get("md/mine") == b"2"
    with pytest.raises(RejectedError, match="cannot be listed") as caught:
        list(there.list("md/"))
    assert "md/" in str(caught.value.evidence)


# ---- endpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    ["http://192.0.2.1", "http://minio.example.com:9000", "http://127.0.0.1.example.com", "http://10.0.0.1:9000"],
)
def test_plain_http_is_for_loopback_only(endpoint: str) -> None:
    with pytest.raises(UsageError, match="in the clear"):
        storage(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9", "https://h.example"]
)
def test_loopback_and_tls_are_taken(endpoint: str) -> None:
    storage(endpoint).close()


@pytest.mark.parametrize("endpoint", ["minio:9000", "ftp://host", "https://", "https://h:notaport", "s3.example.com"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        storage(endpoint)


def test_an_endpoint_that_holds_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(UsageError) as caught:
        storage("https://user:hunter2@minio.example.com")
    assert "hunter2" not in str(caught.value)


def test_variables_do_not_bring_plain_http_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1")
    with pytest.raises(UsageError, match="in the clear"):
        ObjectStorage("bucket", region="us-east-1")


# ---- conditional writes ----------------------------------------------------------------------------------------------


def test_check_refuses_a_service_that_does_not_keep_put_if_absent(proxy: FlakyProxy) -> None:
    proxy.dropped_headers = ("if-none-match",)
    with pytest.raises(RejectedError, match="put-if-absent") as caught:
        storage(proxy.url).check()
    assert "two archivers" in str(caught.value)
    storage(proxy.url).check(writable=False)


def test_check_writes_nothing_where_it_may_only_read(store: S3Server) -> None:
    storage(store.url).check(writable=False)
    assert store.ask("GET", f"/{S3Server.BUCKET}?list-type=2").count(b"<Key>") == 0


def test_check_leaves_one_empty_object_in_its_own_corner_however_often(store: S3Server) -> None:
    for _ in range(3):
        storage(store.url, prefix="md/prod").check()
    listed = store.ask("GET", f"/{S3Server.BUCKET}?list-type=2")
    assert listed.count(b"<Key>") == 1 and b"<Key>md/prod/.ssmd/check</Key>" in listed


def test_a_large_object_that_lost_leaves_nothing_behind(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectstore, "MAX_SINGLE_BYTES", MIB)
    there = storage(store.url)
    there.put("x", b"first", if_absent=True)
    with pytest.raises(ConflictError):
        there.put("x", itertools.repeat(bytes(MIB), 10), if_absent=True)
    assert store.ask("GET", f"/{S3Server.BUCKET}?list-type=2").count(b"<Key>") == 1
    assert b"<Upload>" not in store.ask("GET", f"/{S3Server.BUCKET}?uploads")
    assert there.get("x") == b"first"


def test_an_upload_whose_source_fails_is_aborted(store: S3Server) -> None:
    def failing() -> Iterator[bytes]:
        yield from itertools.repeat(bytes(MIB), 20)
        raise OSError("the disk fails")

    for if_absent in (False, True):
        with pytest.raises(OSError, match="the disk fails"):
            storage(store.url).put("x", failing(), if_absent=if_absent)
    assert b"<Upload>" not in store.ask("GET", f"/{S3Server.BUCKET}?uploads")
    assert store.ask("GET", f"/{S3Server.BUCKET}?list-type=2").count(b"<Key>") == 0


def test_a_part_that_cannot_be_put_leaves_no_object(proxy: FlakyProxy, store: S3Server) -> None:
    there = storage(proxy.url)
    proxy.answer = lambda method, path: Answer(500) if "partNumber=3" in path else None
    with pytest.raises(UnavailableError):
        there.put("x", itertools.repeat(bytes(MIB), 20), if_absent=True)
    with pytest.raises(MissingObjectError):
        there.head("x")
    assert store.ask("GET", f"/{S3Server.BUCKET}?list-type=2").count(b"<Key>") == 0


def test_more_than_the_service_copies_at_once_is_a_limit(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectstore, "MAX_SINGLE_BYTES", MIB)
    monkeypatch.setattr(objectstore, "MAX_COPY_BYTES", 8 * MIB)
    with pytest.raises(LimitError, match="at most"):
        storage(store.url).put("x", itertools.repeat(bytes(MIB), 10), if_absent=True)
    assert store.ask("GET", f"/{S3Server.BUCKET}?list-type=2").count(b"<Key>") == 0


# ---- etags and memory ------------------------------------------------------------------------------------------------


def test_etags_that_are_no_md5_are_said_to_be_the_services_own(proxy: FlakyProxy) -> None:
    """As of a bucket that is encrypted with a key of KMS: 32 hex digits, but not of the bytes."""
    proxy.replaced_headers = {"etag": '"0123456789abcdef0123456789abcdef"'}
    there = storage(proxy.url)
    info = there.put("x", b"1")
    assert info.multipart
    assert there.head("x").multipart


def test_a_stream_of_any_length_is_put_with_little_memory(store: S3Server) -> None:
    def content(mib: int) -> Iterator[bytes]:
        return (bytes([i % 256]) * MIB for i in range(mib))

    storage(store.url).put("warm", content(40))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    storage(store.url).put("x", content(128))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 40, f"{grown:.0f} MiB more for 88 MiB more"
