"""The contract of Cache (ssmd/middleware/interfaces.py), kept by the memory twin and by a real Redis."""

from __future__ import annotations

import datetime
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from servers import RedisServer

from ssmd.errors import (
    ConflictError,
    LimitError,
    MiddlewareError,
    RejectedError,
    UnavailableError,
    UsageError,
)
from ssmd.middleware.interfaces import Cache
from ssmd.middleware.memory import MemoryCache
from ssmd.middleware.redis import RedisCache

HOSTILE = (
    "../../etc/passwd",
    "a key with spaces",
    "*",
    "h[e]llo?",
    "back\\slash",
    ">",
    "line\nend\r\n",
    "\0",
    "{tag}",
    "Zürich €",
    "\U0001f680",
    "x" * 512,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """An empty cache of each kind."""
    made: Cache
    if request.param == "memory":
        made = MemoryCache()
    else:
        server: RedisServer = request.getfixturevalue("server")
        server.send("FLUSHALL")
        made = RedisCache(server.url)
    yield made
    made.close()


def until(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


# ---- values ----------------------------------------------------------------------------------------------------------


def test_a_value_that_was_set_is_given_back(cache: Cache) -> None:
    cache.set("k", b"\0\xff bytes")
    assert cache.get("k") == b"\0\xff bytes"


def test_a_key_that_was_never_set_is_none(cache: Cache) -> None:
    assert cache.get("k") is None


def test_an_empty_value_is_not_an_absent_one(cache: Cache) -> None:
    cache.set("k", b"")
    assert cache.get("k") == b""
    assert cache.exists("k")


def test_a_second_set_replaces_the_value_and_its_time_to_live(cache: Cache) -> None:
    cache.set("k", b"1", ttl_s=0.02)
    cache.set("k", b"2")
    time.sleep(0.04)
    assert cache.get("k") == b"2"


def test_delete_says_whether_the_key_was_there(cache: Cache) -> None:
    cache.set("k", b"1")
    assert [cache.delete("k"), cache.delete("k")] == [True, False]
    assert cache.get("k") is None


def test_mget_answers_each_key_in_order_even_twice(cache: Cache) -> None:
    cache.set("a", b"1")
    cache.set("b", b"2")
    assert cache.mget(["b", "none", "a", "b"]) == [b"2", None, b"1", b"2"]


def test_mget_of_nothing_is_nothing(cache: Cache) -> None:
    assert cache.mget([]) == []


def test_mset_sets_all_of_many(cache: Cache) -> None:
    values = {f"k{i}": str(i).encode() for i in range(5000)}
    cache.mset(values)
    assert cache.mget(list(values)) == list(values.values())


def test_mset_of_nothing_does_nothing(cache: Cache) -> None:
    cache.mset({})
    assert list(cache.scan("")) == []


def test_the_largest_value_is_kept(cache: Cache) -> None:
    cache.set("k", b"x" * (1 << 20))
    assert cache.get("k") == b"x" * (1 << 20)


@pytest.mark.parametrize("key", HOSTILE)
def test_any_text_of_512_bytes_is_a_key_of_its_own(cache: Cache, key: str) -> None:
    cache.set(key, b"mine")
    assert cache.get(key) == b"mine"
    assert list(cache.scan(key)) == [key]
    assert cache.delete(key)


# ---- time to live ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["set", "mset", "set_if_absent"])
def test_a_value_is_gone_when_its_time_is_over(cache: Cache, way: str) -> None:
    if way == "set":
        cache.set("k", b"1", ttl_s=0.02)
    elif way == "mset":
        cache.mset({"k": b"1"}, ttl_s=0.02)
    else:
        cache.set_if_absent("k", b"1", ttl_s=0.02)
    until(lambda: cache.get("k") is None)
    assert not cache.exists("k")
    assert cache.mget(["k"]) == [None]
    assert list(cache.scan("")) == []
    assert not cache.delete("k")


def test_a_value_stays_until_its_time_is_over(cache: Cache) -> None:
    cache.set("k", b"1", ttl_s=3600)
    assert cache.get("k") == b"1"


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_time_to_live_that_is_none_is_refused(cache: Cache, ttl_s: float) -> None:
    for act in (
        lambda: cache.set("k", b"1", ttl_s=ttl_s),
        lambda: cache.mset({"k": b"1"}, ttl_s=ttl_s),
        lambda: cache.set_if_absent("k", b"1", ttl_s=ttl_s),
    ):
        with pytest.raises(LimitError):
            act()
    assert cache.get("k") is None


# ---- set_if_absent ---------------------------------------------------------------------------------------------------


def test_set_if_absent_leaves_what_is_there(cache: Cache) -> None:
    assert cache.set_if_absent("k", b"1")
    assert not cache.set_if_absent("k", b"2")
    assert cache.get("k") == b"1"


def test_set_if_absent_sets_where_the_value_has_expired(cache: Cache) -> None:
    cache.set("k", b"1", ttl_s=0.01)
    until(lambda: cache.set_if_absent("k", b"2"))
    assert cache.get("k") == b"2"


def test_of_many_callers_at_once_exactly_one_is_told_that_it_was_set(cache: Cache) -> None:
    told: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: told.append(cache.set_if_absent("k", str(i).encode()))) for i in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False] * 23 + [True]


# ---- scan ------------------------------------------------------------------------------------------------------------


def test_scan_gives_each_key_of_a_prefix_once(cache: Cache) -> None:
    wanted = {f"ssmd:last:a:{i}" for i in range(3000)}
    cache.mset(dict.fromkeys(wanted, b""))
    cache.mset({"ssmd:last:b:1": b"", "ssmd:lastXa:1": b"", "other": b""})
    found = list(cache.scan("ssmd:last:a:"))
    assert len(found) == len(wanted)
    assert set(found) == wanted


def test_scan_of_no_prefix_gives_every_key(cache: Cache) -> None:
    cache.mset({"a": b"", "b": b""})
    assert sorted(cache.scan("")) == ["a", "b"]


@pytest.mark.parametrize("prefix", ["*", "?", "[a]", "[^b]", "\\", "a*", "*]"])
def test_signs_of_patterns_are_plain_in_a_prefix(cache: Cache, prefix: str) -> None:
    cache.mset({"a": b"", "b": b"", "ab]": b"", prefix + "x": b""})
    assert list(cache.scan(prefix)) == [prefix + "x"]


def test_keys_may_be_deleted_while_they_are_scanned(cache: Cache) -> None:
    cache.mset({f"k{i}": b"" for i in range(2500)})
    for key in cache.scan("k"):
        cache.delete(key)
    assert list(cache.scan("k")) == []


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "x" * 513, "ä" * 257, "\ud800"])
def test_a_key_outside_of_the_limits_is_refused(cache: Cache, key: str) -> None:
    for act in (
        lambda: cache.get(key),
        lambda: cache.set(key, b""),
        lambda: cache.set_if_absent(key, b""),
        lambda: cache.delete(key),
        lambda: cache.exists(key),
        lambda: cache.mget(["fine", key]),
        lambda: cache.mset({"fine": b"", key: b""}),
    ):
        with pytest.raises(LimitError):
            act()
    assert cache.get("fine") is None, "nothing of an mset is set when part of it is refused beforehand"


def test_a_value_too_large_is_refused(cache: Cache) -> None:
    for act in (
        lambda: cache.set("k", bytes((1 << 20) + 1)),
        lambda: cache.set_if_absent("k", bytes((1 << 20) + 1)),
        lambda: cache.mset({"k": bytes((1 << 20) + 1)}),
    ):
        with pytest.raises(LimitError):
            act()
    assert cache.get("k") is None


# ---- end -------------------------------------------------------------------------------------------------------------


def test_check_passes_and_leaves_nothing(cache: Cache) -> None:
    cache.set("k", b"1")
    cache.check()
    assert list(cache.scan("")) == ["k"]


def test_after_close_every_call_says_that_it_was_closed(cache: Cache) -> None:
    cache.close()
    cache.close()
    for act in (
        cache.check,
        lambda: cache.get("k"),
        lambda: cache.set("k", b""),
        lambda: cache.set_if_absent("k", b""),
        lambda: cache.delete("k"),
        lambda: cache.exists("k"),
        lambda: cache.mget(["k"]),
        lambda: cache.mget([]),
        lambda: cache.mset({"k": b""}),
        lambda: list(cache.scan("")),
    ):
        with pytest.raises(UnavailableError):
            act()


def test_threads_may_share_it(cache: Cache) -> None:
    wrong: list[object] = []

    def work(i: int) -> None:
        try:
            for j in range(50):
                cache.set(f"{i}", f"{i}-{j}".encode())
                if cache.get(f"{i}") != f"{i}-{j}".encode():
                    wrong.append((i, j))
        except MiddlewareError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- the memory twin alone -------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_full_memory_cache_gives_up_what_was_used_longest_ago() -> None:
    cache = MemoryCache(max_size=3)
    cache.mset({"a": b"1", "b": b"2", "c": b"3"})
    assert cache.get("a") == b"1"
    cache.exists("b")
    list(cache.scan(""))
    cache.set("d", b"4")
    assert cache.mget(["a", "b", "c", "d"]) == [b"1", None, b"3", b"4"]


def test_a_memory_cache_expires_by_its_clock_and_not_before() -> None:
    clock = Clock()
    cache = MemoryCache(clock=clock)
    cache.set("k", b"1", ttl_s=10)
    clock.now += 9.999
    assert cache.get("k") == b"1"
    clock.now += 0.001
    assert cache.get("k") is None


def test_reading_a_value_does_not_lengthen_its_life() -> None:
    clock = Clock()
    cache = MemoryCache(clock=clock)
    cache.set("k", b"1", ttl_s=10)
    for _ in range(4):
        clock.now += 2.5
        cache.get("k")
    assert cache.get("k") is None


def test_a_memory_cache_keeps_a_copy_of_a_value_that_its_owner_may_change() -> None:
    cache, value = MemoryCache(), bytearray(b"before")
    cache.set("k", value)  # type: ignore[arg-type]
    value[:] = b"after!"
    assert cache.get("k") == b"before"


# ---- Redis alone -----------------------------------------------------------------------------------------------------


def test_a_redis_that_was_killed_is_unavailable_and_serves_again_once_it_is_back(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        cache = RedisCache(server.url, timeout_s=2.0)
        cache.set("k", b"1")
        server.kill()
        with pytest.raises(UnavailableError) as caught:
            cache.get("k")
        assert caught.value.retryable
        assert str(server.port) in str(caught.value)
        server.start()
        assert cache.get("k") is None, "it keeps nothing over a restart"
        cache.set("k", b"2")
        assert cache.get("k") == b"2"
        cache.close()


def test_many_pooled_connections_survive_a_restart(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        cache = RedisCache(server.url)
        threads = [threading.Thread(target=lambda: [cache.get("k") for _ in range(20)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.kill()
        server.start()
        assert [cache.get("k") for _ in range(20)] == [None] * 20
        cache.close()


def test_a_redis_that_hangs_is_unavailable_within_the_timeout_and_its_late_answer_is_nobodys(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        cache = RedisCache(server.url, timeout_s=0.2)
        cache.set("k", b"1")
        cache.set("other", b"2")
        server.pause()
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="in time"):
            cache.get("k")
        assert time.monotonic() - began < 5
        server.resume()
        until(lambda: _answer(cache, "other") is not None)
        assert cache.get("other") == b"2", "not the late answer to the other question"
        cache.close()


def _answer(cache: Cache, key: str) -> bytes | None:
    try:
        return cache.get(key)
    except UnavailableError:
        return None


def test_nobody_listening_is_unavailable(tmp_path: Path) -> None:
    cache = RedisCache(RedisServer(tmp_path).url, timeout_s=2.0)
    for act in (cache.check, lambda: cache.mset({"k": b"1"}), lambda: list(cache.scan(""))):
        with pytest.raises(UnavailableError, match="cannot be reached"):
            act()


def test_what_is_no_redis_is_an_error_in_words(tmp_path: Path) -> None:
    import socketserver

    class Talker(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talker) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        cache = RedisCache(f"redis://127.0.0.1:{listener.server_address[1]}")
        with pytest.raises(MiddlewareError) as caught:
            cache.check()
        listener.shutdown()
    assert "HTTP" in (caught.value.evidence or "")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with a password, a user of few rights, and 2 MB that it does not give up."""
    reader = ("--user", "reader", "on", ">r", "+@read", "+ping", "~ssmd:*")
    settings = (*reader, "--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    with RedisServer(tmp_path_factory.mktemp("redis"), password="s3cret", settings=settings) as running:
        yield running


@pytest.mark.parametrize(
    ("user", "password"), [(None, None), (None, "wrong"), ("default", "wrong"), ("nobody", "s3cret")]
)
def test_who_is_not_let_in_is_rejected_without_the_password_in_the_words(
    guarded: RedisServer, user: str | None, password: str | None
) -> None:
    cache = RedisCache(guarded.url, user=user, password=password)
    with pytest.raises(RejectedError) as caught:
        cache.check()
    assert not caught.value.retryable
    assert caught.value.exit_code == 2
    assert caught.value.evidence
    assert "wrong" not in repr(caught.value.args) + (caught.value.evidence or "").replace("WRONGPASS", "")
    cache.close()


def test_user_and_password_let_us_in(guarded: RedisServer) -> None:
    for user in (None, "default"):
        cache = RedisCache(guarded.url, user=user, password="s3cret")
        cache.check()
        cache.close()


def test_a_user_without_the_right_to_write_is_found_by_check(guarded: RedisServer) -> None:
    cache = RedisCache(guarded.url, user="reader", password="r")
    assert cache.get("ssmd:k") is None
    with pytest.raises(RejectedError, match="does not let this user"):
        cache.check()
    cache.close()


def test_a_redis_that_is_full_and_gives_nothing_up_is_a_limit(guarded: RedisServer) -> None:
    cache = RedisCache(guarded.url, password="s3cret")
    with pytest.raises(LimitError, match="full") as caught:
        for i in range(64):
            cache.mset({f"k{i}-{j}": bytes(16 * 1024) for j in range(16)})
    assert len(caught.value.evidence or "") < 500, "the values do not stand in the evidence"
    assert cache.get("k0-0") == bytes(16 * 1024), "what was kept is still served"
    guarded.send("FLUSHALL")
    cache.set("k", b"1")
    cache.close()


def test_after_an_mset_that_hung_or_failed_the_next_answers_belong_to_the_next_questions(tmp_path: Path) -> None:
    with RedisServer(tmp_path, settings=("--maxmemory-policy", "noeviction")) as server:
        cache = RedisCache(server.url, timeout_s=0.2)
        cache.set("k", b"1")
        server.pause()
        with pytest.raises(UnavailableError, match="in time"):
            cache.mset({f"k{i}": b"x" for i in range(100)})
        server.resume()
        until(lambda: _answer(cache, "k") == b"1")
        assert cache.mget(["k", "none"]) == [b"1", None]
        server.send("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(LimitError, match="full") as full:
            cache.mset({f"k{i}": b"x" for i in range(100)})
        assert full.value.retryable, "it may have room later"
        assert cache.get("k") == b"1"
        server.send("CONFIG", "SET", "maxmemory", "0")
        cache.mset({f"k{i}": b"x" for i in range(100)}, ttl_s=9)
        assert cache.mget(["k99", "k"]) == [b"x", b"1"]
        cache.close()


# ---- Redis over TLS --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost and 127.0.0.1 that signs itself."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificate(folder / "certificate.pem", folder / "key.pem")
    return folder


def test_tls_works_with_the_file_of_the_authority_and_never_without(tmp_path: Path, certificates: Path) -> None:
    certificate = certificates / "certificate.pem"
    settings = (
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(certificates / "key.pem")),
        *("--tls-auth-clients", "no", "--tls-ca-cert-file", str(certificate)),
    )
    with RedisServer(tmp_path, settings=settings, tls=True) as server:
        cache = RedisCache(f"{server.url}?ssl_ca_certs={certificate}")
        cache.check()
        cache.mset({"k": b"1"}, ttl_s=60)
        assert cache.get("k") == b"1"
        cache.close()
        with pytest.raises(RejectedError, match="certificate"):
            RedisCache(server.url).check()
        with pytest.raises(MiddlewareError):
            RedisCache(server.url.replace("rediss:", "redis:"), timeout_s=0.5).check()


def make_certificate(certificate: Path, key: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's Redis")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def test_a_key_that_holds_another_type_is_a_conflict(server: RedisServer) -> None:
    server.send("RPUSH", "list", "x")
    cache = RedisCache(server.url)
    with pytest.raises(ConflictError):
        cache.get("list")
    server.send("DEL", "list")
    cache.close()


def test_a_foreign_key_that_is_no_text_does_not_end_a_scan(server: RedisServer) -> None:
    server.send("FLUSHALL")
    server.send("EVAL", "return redis.call('SET', string.char(255), '')", "0")
    cache = RedisCache(server.url)
    cache.set("k", b"")
    assert list(cache.scan("")) == ["k"]
    cache.close()


def test_the_database_of_the_url_is_used(server: RedisServer) -> None:
    first, second = RedisCache(server.url), RedisCache(server.url.removesuffix("0") + "3")
    second.set("only-there", b"1")
    assert first.get("only-there") is None
    first.close()
    second.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379",
        "redis://",
        "redis://127.0.0.1:6379/first",
        "redis://127.0.0.1:99999",
        "redis://user:hush@127.0.0.1:6379",
        "redis://127.0.0.1:6379?password=hush",
        "redis://127.0.0.1:6379?ssl_ca_certs=/ca.pem",
        "rediss://127.0.0.1:6379?ssl_cert_reqs=none",
    ],
)
def test_a_url_that_is_none_or_holds_secrets_is_refused_without_them_in_the_words(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        RedisCache(url)
    assert "hush" not in str(caught.value)
