"""The REST client against a small HTTP server on loopback; bodies follow section 5 of the protocol sheet.

Where the exchange's real bodies are at hand (the fixture `shared`) those are read as well.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ssmd.errors import EXIT_REFUSED, ExchangeError, RefusedError, UsageError
from ssmd.kalshi import auth, rest
from ssmd.kalshi.planner import Needs
from ssmd.kalshi.rest import Filter, MarketStatus

NOW_MS = 1790363592125
ED_KEY = ed25519.Ed25519PrivateKey.generate()
CREDENTIALS = auth.Credentials(
    "key-id", auth.load_key(ED_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
)


@dataclass
class Request:
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Server:
    """Answers each request with what `reply` says: (status, body)."""

    reply: Callable[[Request], tuple[int, Any]] = lambda request: (200, {})
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/trade-api/v2"


def serve(server: Server, context: ssl.SSLContext | None = None) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            request = Request(parts.path, query, dict(self.headers.items()))
            server.requests.append(request)
            status, body = server.reply(request)
            data = body if isinstance(body, bytes) else json.dumps(body, sort_keys=True).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    if context is not None:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        server.scheme = "https"
    server.port = listener.server_address[1]
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    return listener


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    listener = serve(served)
    yield served
    listener.shutdown()
    listener.server_close()


class Time:
    """A clock that only sleeping moves, and what was slept."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@dataclass
class Bench:
    client: rest.RestClient
    time: Time
    warnings: list[str]


def bench(server: Server, **options: Any) -> Bench:
    time, warnings = Time(), []
    client = rest.RestClient(
        server.url,
        now_ms=lambda: NOW_MS,
        sleep=time.sleep,
        monotonic=lambda: time.now_s,
        uniform=lambda low, high: high,
        warn=warnings.append,
        **options,
    )
    return Bench(client, time, warnings)


def market(ticker: str, status: str = "active", **more: Any) -> dict[str, Any]:
    event = ticker.rpartition("-")[0]
    return {
        "ticker": ticker,
        "event_ticker": event,
        "status": status,
        "open_time": "2026-06-11T05:39:29Z",
        "close_time": "2026-06-25T16:00:00Z",
        **more,
    }


def pages(*rows: list[dict[str, Any]]) -> Callable[[Request], tuple[int, Any]]:
    """Pages c0, c1, ...: the cursor of a page is the number of the next one."""

    def reply(request: Request) -> tuple[int, Any]:
        number = int(request.query.get("cursor", "c0")[1:])
        return 200, {"cursor": f"c{number + 1}" if number + 1 < len(rows) else "", "markets": rows[number]}

    return reply


# ---- what comes back -------------------------------------------------------------------------------------------------


def test_a_market_is_read_with_exact_times(server: Server) -> None:
    server.reply = pages([market("KXBTC-26SEP2516-B74250", open_time="2026-08-20T00:36:00.63094Z", something_new=[1])])
    assert list(bench(server).client.markets(event="KXBTC-26SEP2516")) == [
        rest.Market(
            ticker="KXBTC-26SEP2516-B74250",
            event_ticker="KXBTC-26SEP2516",
            series="KXBTC",
            status=MarketStatus.ACTIVE,
            open_ns=1787186160_630940000,
            close_ns=1782403200_000000000,
        )
    ]


STATUSES = {
    "initialized": (MarketStatus.INITIALIZED, Filter.UNOPENED),
    "active": (MarketStatus.ACTIVE, Filter.OPEN),
    "inactive": (MarketStatus.INACTIVE, Filter.PAUSED),
    "closed": (MarketStatus.CLOSED, Filter.CLOSED),
    "determined": (MarketStatus.DETERMINED, Filter.CLOSED),
    "disputed": (MarketStatus.DISPUTED, Filter.CLOSED),
    "amended": (MarketStatus.AMENDED, Filter.CLOSED),
    "finalized": (MarketStatus.FINALIZED, Filter.SETTLED),
}


@pytest.mark.parametrize("word", list(STATUSES))
def test_all_eight_statuses_are_mapped(server: Server, word: str) -> None:
    server.reply = pages([market("A-1-X", word)])
    at = bench(server)
    (found,) = at.client.markets()
    assert (found.status, rest.FILTER_OF[found.status]) == STATUSES[word]
    assert at.warnings == []


def test_every_status_but_unknown_has_a_filter() -> None:
    assert set(rest.FILTER_OF) == set(MarketStatus) - {MarketStatus.UNKNOWN}


def test_an_unknown_status_is_not_active_and_is_told_once(server: Server) -> None:
    server.reply = pages([market("A-1-X", "open"), market("A-1-X2", "open")])
    at = bench(server)
    assert {found.status for found in at.client.markets()} == {MarketStatus.UNKNOWN}
    assert len([w for w in at.warnings if "'open'" in w and "A-1-X " in w]) == 1


def test_rows_without_ticker_or_of_another_shape_are_left_out(server: Server) -> None:
    server.reply = lambda request: (200, {"markets": [{}, None, 3, {"ticker": 7}, market("A-1-X")], "cursor": None})
    assert [m.ticker for m in bench(server).client.markets()] == ["A-1-X"]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-06-11T05:39:31.28563Z", 1781156371_285630000),
        ("2026-06-11T07:39:31+02:00", 1781156371_000000000),
        ("2026-06-11T05:39:31.1234567891Z", 1781156371_123456789),
        ("2026-02-30T00:00:00Z", 0),
        ("0001-01-01T00:00:00Z", 0),
        ("2026-06-11", 0),
        ("", 0),
        (None, 0),
        (1781156371, 0),
    ],
)
def test_times_are_exact_or_zero(text: object, ns: int) -> None:
    assert rest.time_ns(text) == ns


def test_exchange_status_reads_the_real_form(server: Server) -> None:
    server.reply = lambda request: (200, {"exchange_active": True, "trading_active": False})
    at = bench(server)
    assert at.client.exchange_status() == rest.ExchangeStatus(True, False, 0)
    assert server.requests[0].path == "/trade-api/v2/exchange/status"


def test_exchange_status_tells_when_it_resumes(server: Server) -> None:
    body = {"exchange_active": False, "exchange_estimated_resume_time": "1970-01-01T00:00:09Z"}
    server.reply = lambda request: (200, body)
    assert bench(server).client.exchange_status() == rest.ExchangeStatus(False, False, 9_000_000_000)


def test_events_and_series_are_read(server: Server) -> None:
    def reply(request: Request) -> tuple[int, Any]:
        if request.path.endswith("/series"):
            return 200, {"series": [{"ticker": "S", "title": "T", "category": "C", "frequency": "daily", "tags": None}]}
        return 200, {"events": [{"event_ticker": "S-1", "series_ticker": "S", "title": "E"}], "cursor": ""}

    server.reply = reply
    client = bench(server).client
    assert list(client.events(series="S", status=Filter.OPEN)) == [rest.MarketEvent("S-1", "S", "E")]
    assert list(client.series()) == [rest.Series("S", "T", "C", "daily")]
    assert server.requests[0].query == {"limit": "200", "series_ticker": "S", "status": "open"}


def test_null_stands_for_an_empty_list(server: Server) -> None:
    server.reply = lambda request: (200, {"markets": None, "cursor": ""})
    assert list(bench(server).client.markets()) == []


def test_a_body_without_the_list_is_an_error(server: Server) -> None:
    server.reply = lambda request: (200, {"rows": []})
    with pytest.raises(ExchangeError, match="without a list of markets"):
        list(bench(server).client.markets())


# ---- what is asked ---------------------------------------------------------------------------------------------------


def test_combos_are_excluded_unless_asked_for(server: Server) -> None:
    server.reply = pages([market("A-1-X")])
    client = bench(server).client
    list(client.markets(status=Filter.OPEN))
    list(client.markets(series="A"))
    list(client.markets(combos=True))
    list(client.markets(series="KXMVENFL"))
    asked = [request.query for request in server.requests]
    assert asked == [
        {"limit": "1000", "status": "open", "mve_filter": "exclude"},
        {"limit": "1000", "series_ticker": "A", "mve_filter": "exclude"},
        {"limit": "1000"},
        {"limit": "1000", "series_ticker": "KXMVENFL"},
    ]


@pytest.mark.parametrize("pair", [("series", "event"), ("series", "tickers"), ("event", "tickers")])
def test_filters_that_could_contradict_each_other_are_not_taken_together(server: Server, pair: tuple[str, str]) -> None:
    arguments: dict[str, Any] = {"series": "A", "event": "A-1", "tickers": ["A-1-X"]}
    with pytest.raises(ValueError, match="exclude each other"):
        list(bench(server).client.markets(**{name: arguments[name] for name in pair}))
    assert server.requests == []


@pytest.mark.parametrize("asked", [{"series": "NOSUCH"}, {"event": "NOSUCH"}])
def test_a_name_that_brings_nothing_is_told_with_the_name(server: Server, asked: dict[str, str]) -> None:
    server.reply = pages([])
    at = bench(server)
    assert list(at.client.markets(status=Filter.OPEN, **asked)) == []
    assert any("NOSUCH" in warning and "open" in warning for warning in at.warnings)


def test_a_ticker_that_does_not_exist_is_told(server: Server) -> None:
    server.reply = pages([market("A-1-X")])
    at = bench(server)
    assert [m.ticker for m in at.client.markets(tickers=["A-1-X", "A-1-Y", "A-1-X"])] == ["A-1-X"]
    assert server.requests[0].query["tickers"] == "A-1-X,A-1-Y"
    assert at.warnings == ["no such market: A-1-Y"]


def test_many_tickers_are_asked_for_in_parts(server: Server) -> None:
    names = [f"A-1-{n:03}" for n in range(250)]

    def reply(request: Request) -> tuple[int, Any]:
        return 200, {"markets": [market(t) for t in request.query["tickers"].split(",")], "cursor": ""}

    server.reply = reply
    assert [m.ticker for m in bench(server).client.markets(tickers=names)] == names
    assert [len(r.query["tickers"].split(",")) for r in server.requests] == [100, 100, 50]


def test_a_filter_that_was_not_applied_is_an_error(server: Server) -> None:
    server.reply = pages([market("B-1-X")])
    with pytest.raises(ExchangeError, match=r"event A-1, got B-1-X of event B-1"):
        list(bench(server).client.markets(event="A-1"))


def test_resolve_asks_for_what_is_open_paused_or_to_come(server: Server) -> None:
    def reply(request: Request) -> tuple[int, Any]:
        query = request.query
        name = query.get("series_ticker") or query.get("event_ticker") or "ALL-1"
        event = name if "-" in name else f"{name}-1"
        return 200, {"markets": [market(f"{event}-{query['status']}")], "cursor": ""}

    server.reply = reply
    resolved = bench(server).client.resolve(Needs(series=("S",), events=("E-9",), open_markets=True))
    assert resolved.series == {"S": ("S-1-open", "S-1-unopened", "S-1-paused")}
    assert resolved.events == {"E-9": ("E-9-open", "E-9-unopened", "E-9-paused")}
    assert resolved.open_markets == ("ALL-1-open",)


def test_resolve_does_not_ask_for_all_markets_when_nobody_needs_them(server: Server) -> None:
    resolved = bench(server).client.resolve(Needs())
    assert resolved.open_markets is None
    assert server.requests == []


# ---- pages -----------------------------------------------------------------------------------------------------------


def test_pages_follow_the_cursor_to_the_empty_one(server: Server) -> None:
    server.reply = pages([market("A-1-X"), market("A-1-Y")], [market("A-1-Z")], [])
    assert [m.ticker for m in bench(server).client.markets()] == ["A-1-X", "A-1-Y", "A-1-Z"]
    assert [r.query.get("cursor") for r in server.requests] == [None, "c1", "c2"]


def test_a_row_that_moved_to_the_next_page_comes_once(server: Server) -> None:
    server.reply = pages([market("A-1-X"), market("A-1-Y")], [market("A-1-Y"), market("A-1-Z")])
    assert [m.ticker for m in bench(server).client.markets()] == ["A-1-X", "A-1-Y", "A-1-Z"]


def test_a_cursor_that_repeats_ends_in_an_error(server: Server) -> None:
    count = iter(range(1000))
    server.reply = lambda request: (200, {"markets": [market(f"A-1-{next(count)}")], "cursor": "same"})
    with pytest.raises(ExchangeError, match="circle"):
        list(bench(server).client.markets())
    assert len(server.requests) == 2


def test_a_cursor_taken_for_the_first_page_ends_in_an_error(server: Server) -> None:
    count = iter(range(1000))
    server.reply = lambda request: (200, {"markets": [market("A-1-X")], "cursor": f"garbage{next(count)}"})
    with pytest.raises(ExchangeError, match="circle after 1 rows"):
        list(bench(server).client.markets())
    assert len(server.requests) == 2


# ---- signatures ------------------------------------------------------------------------------------------------------


def test_requests_are_signed_without_the_query_string(server: Server) -> None:
    server.reply = pages([market("A-1-X")])
    list(bench(server, credentials=CREDENTIALS).client.markets(series="A"))
    headers = server.requests[0].headers
    assert headers["KALSHI-ACCESS-KEY"] == "key-id"
    assert headers["KALSHI-ACCESS-TIMESTAMP"] == str(NOW_MS)
    signature = base64.b64decode(headers["KALSHI-ACCESS-SIGNATURE"])
    ED_KEY.public_key().verify(signature, f"{NOW_MS}GET/trade-api/v2/markets".encode())


def test_without_credentials_nothing_is_signed(server: Server) -> None:
    bench(server).client.exchange_status()
    assert not [name for name in server.requests[0].headers if name.upper().startswith("KALSHI")]


def test_a_netrc_file_of_the_user_is_not_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    bench(server).client.exchange_status()
    assert "Authorization" not in server.requests[0].headers


# ---- errors ----------------------------------------------------------------------------------------------------------

REFUSALS = {
    "clock": ({"error": {"code": "header_timestamp_expired", "message": "header timestamp expired"}}, "NTP"),
    "key id": (
        {"error": {"code": "authentication_error", "message": "authentication_error", "details": "NOT_FOUND"}},
        "KALSHI_API_KEY is not known",
    ),
    "signature": (
        {
            "error": {
                "code": "authentication_error",
                "message": "authentication_error",
                "details": "INCORRECT_API_KEY_SIGNATURE",
            }
        },
        "does not belong",
    ),
    "no headers": (
        {"error": {"code": "token_authentication_failure", "message": "token authentication failure"}},
        "Check KALSHI_API_KEY",
    ),
}


@pytest.mark.parametrize("name", list(REFUSALS))
def test_a_refused_sign_in_is_not_tried_again_and_says_what_to_do(server: Server, name: str) -> None:
    body, remedy = REFUSALS[name]
    server.reply = lambda request: (401, body)
    with pytest.raises(RefusedError) as caught:
        bench(server, credentials=CREDENTIALS).client.exchange_status()
    assert caught.value.exit_code == EXIT_REFUSED
    assert remedy in (caught.value.hint or "")
    assert len(server.requests) == 1


SHAPES = {
    "nested": ({"error": {"code": "not_found", "message": "not found", "details": "X"}}, "not_found", "not found: X"),
    "flat": ({"code": "bad_request", "message": "bad request", "details": "why"}, "bad_request", "bad request: why"),
    "bare": ({"msg": "Parameter validation failed"}, "", "Parameter validation failed"),
    "words": ({"error": "too many requests"}, "", "too many requests"),
    "code alone": ({"error": {"code": "gone"}}, "gone", "gone"),
    "HTML": (b"<html>502 Bad Gateway</html>", "", "<html>502 Bad Gateway</html>"),
    "empty": (b"", "", "(empty body)"),
    "other JSON": (b"[1,2]", "", "[1,2]"),
    "not text": (b"\xff\xfe", "", "��"),
    "odd types": ({"error": {"code": 7, "message": None}}, "", '{"error": {"code": 7, "message": null}}'),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_shape_of_error_body_is_read(name: str) -> None:
    body, code, words = SHAPES[name]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert rest.error_fields(data) == (code, words)


def test_an_error_of_ours_is_not_tried_again_and_keeps_the_evidence(server: Server) -> None:
    server.reply = lambda request: (400, {"msg": "Parameter validation failed for GetMarkets"})
    at = bench(server)
    with pytest.raises(rest.ApiError) as caught:
        list(at.client.markets())
    assert caught.value.status == 400
    assert not caught.value.retryable
    assert "HTTP 400: Parameter validation failed for GetMarkets" in str(caught.value)
    assert (len(server.requests), at.time.slept) == (1, [])


def test_429_is_tried_again_with_pauses_that_double(server: Server) -> None:
    answers = iter([(429, {"error": "too many requests"})] * 3 + [(200, {"exchange_active": True})])
    server.reply = lambda request: next(answers)
    at = bench(server, tokens_per_s=1000)
    assert at.client.exchange_status().exchange_active
    assert at.time.slept == [0.5, 1.0, 2.0]


def test_pauses_stop_growing_and_attempts_end(server: Server) -> None:
    server.reply = lambda request: (503, b"<html>down</html>")
    at = bench(server, attempts=9)
    with pytest.raises(rest.ApiError, match="HTTP 503") as caught:
        at.client.exchange_status()
    assert caught.value.retryable
    assert "Thursdays" in (caught.value.hint or "")
    assert at.time.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_pauses_are_random_between_half_and_whole(server: Server) -> None:
    ranges: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        ranges.append((low, high))
        return low

    answers = iter([(500, {}), (502, {}), (200, {})])
    server.reply = lambda request: next(answers)
    time = Time()
    client = rest.RestClient(server.url, sleep=time.sleep, monotonic=lambda: time.now_s, uniform=uniform)
    client.exchange_status()
    assert ranges == [(0.25, 0.5), (0.5, 1.0)]
    assert time.slept == [0.25, 0.5]


def test_each_attempt_is_signed_anew(server: Server) -> None:
    answers = iter([(500, {}), (200, {})])
    server.reply = lambda request: next(answers)
    times = iter([1000, 2000])
    time = Time()
    client = rest.RestClient(
        server.url,
        credentials=CREDENTIALS,
        now_ms=lambda: next(times),
        sleep=time.sleep,
        monotonic=lambda: time.now_s,
    )
    client.exchange_status()
    assert [r.headers["KALSHI-ACCESS-TIMESTAMP"] for r in server.requests] == ["1000", "2000"]


def test_a_redirect_is_not_followed(server: Server) -> None:
    server.reply = lambda request: (302, b"")
    with pytest.raises(rest.ApiError, match="HTTP 302") as caught:
        bench(server).client.exchange_status()
    assert "rest_url leads elsewhere" in (caught.value.hint or "")


def test_a_body_that_is_no_json_object_is_tried_again(server: Server) -> None:
    answers = iter([(200, b"<html>"), (200, b"[]"), (200, {"exchange_active": True})])
    server.reply = lambda request: next(answers)
    assert bench(server).client.exchange_status().exchange_active


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_without_end_is_not_read_to_its_end(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(rest, "MAX_BODY_BYTES", 1 << 20)
    server.reply = lambda request: (status, b" " * ((1 << 20) + 1))
    at = bench(server)
    with pytest.raises(ExchangeError, match="larger than 1 MiB") as caught:
        list(at.client.markets())
    assert not caught.value.retryable
    assert "exchange.rest_url" in str(caught.value)
    assert len(server.requests) == 1


def test_an_answer_that_comes_too_slowly_is_given_up_and_asked_for_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "BODY_S", -1.0)
    at = bench(server)
    with pytest.raises(ExchangeError, match="in time") as caught:
        list(at.client.markets())
    assert caught.value.retryable
    assert len(server.requests) == rest.ATTEMPTS


def test_nobody_listening_is_an_error_that_a_retry_may_mend() -> None:
    with socket.socket() as closed:  # bound, never listening: the port is ours and refuses
        closed.bind(("127.0.0.1", 0))
        at = bench(Server(port=closed.getsockname()[1]), attempts=3, credentials=CREDENTIALS)
        with pytest.raises(ExchangeError, match="no answer from") as caught:
            at.client.exchange_status()
    assert caught.value.retryable
    assert at.time.slept == [0.5, 1.0]
    assert caught.value.__context__ is None  # it would carry the signed headers


# ---- pace ------------------------------------------------------------------------------------------------------------


def test_the_bucket_allows_a_burst_and_then_the_rate(server: Server) -> None:
    at = bench(server, tokens_per_s=200)
    for _ in range(20):
        at.client.exchange_status()
    assert at.time.slept == []
    at.client.exchange_status()
    at.client.exchange_status()
    assert at.time.slept == pytest.approx([0.05, 0.05])


def test_the_bucket_fills_up_again_but_not_above_its_size() -> None:
    time = Time()
    bucket = rest.TokenBucket(100, 50, monotonic=lambda: time.now_s, sleep=time.sleep)
    bucket.take(50)
    time.now_s += 1000
    bucket.take(50)
    assert time.slept == []
    bucket.take(10)
    assert time.slept == pytest.approx([0.1])


def test_a_429_empties_the_bucket(server: Server) -> None:
    answers = iter([(429, {"error": "too many requests"}), (200, {}), (200, {})])
    server.reply = lambda request: next(answers)
    at = bench(server, tokens_per_s=10)
    at.client.exchange_status()  # the pause of 0.5 s earned 5 of the 10 tokens of the second attempt
    assert at.time.slept == pytest.approx([0.5, 0.5])


# ---- TLS and proxies -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signed itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ssmd test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder


@pytest.fixture
def secure(authority: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "ca.pem", authority / "key.pem")
    served = Server()
    listener = serve(served, context)
    yield served
    listener.shutdown()
    listener.server_close()


def test_a_private_authority_is_trusted_when_it_is_named(secure: Server, authority: Path) -> None:
    secure.reply = lambda request: (200, {"exchange_active": True})
    assert bench(secure, ca_file=str(authority / "ca.pem")).client.exchange_status().exchange_active


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONHTTPSVERIFY"])
def test_a_certificate_that_nobody_vouches_for_is_refused_whatever_the_machine_says(
    secure: Server, authority: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "0" if variable.startswith("PYTHON") else str(authority / "ca.pem"))
    at = bench(secure)
    with pytest.raises(ExchangeError, match="no secure connection") as caught:
        at.client.exchange_status()
    assert "exchange.ca_file" in (caught.value.hint or "")
    assert not caught.value.retryable
    assert (secure.requests, at.time.slept) == ([], [])


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "broken"])
def test_a_ca_file_that_cannot_be_used_is_told_at_once(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"exchange\.ca_file"):
        rest.RestClient("https://127.0.0.1/trade-api/v2", ca_file=str(path))


def test_a_proxy_is_used_when_it_is_named(server: Server) -> None:
    server.reply = lambda request: (200, {"exchange_active": True})
    far = Server(port=server.port)
    client = rest.RestClient(
        "http://exchange.invalid/trade-api/v2", proxy=f"http://127.0.0.1:{far.port}", sleep=lambda s: None
    )
    assert client.exchange_status().exchange_active
    assert server.requests[0].headers["Host"] == "exchange.invalid"


def test_loopback_never_goes_through_the_machines_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    bench(server, attempts=1).client.exchange_status()
    assert len(server.requests) == 1


# ---- real bodies -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sample(shared: Path) -> Callable[[str], bytes]:
    return lambda name: (shared / "kalshi" / "rest_samples" / f"{name}.json").read_bytes()


Sample = Callable[[str], bytes]


def test_three_real_pages_follow_each_other(server: Server, sample: Sample) -> None:
    bodies = [sample(f"markets__page{n}") for n in (1, 2, 3)]
    cursors = {json.loads(body)["cursor"]: n for n, body in enumerate(bodies, start=1)}

    def reply(request: Request) -> tuple[int, Any]:
        number = cursors.get(request.query.get("cursor", ""), 0)
        return 200, bodies[number] if number < 3 else {"cursor": "", "markets": []}

    server.reply = reply
    found = list(bench(server).client.markets())
    assert [m.ticker for m in found] == [row["ticker"] for body in bodies for row in json.loads(body)["markets"]]
    assert {m.status for m in found} == {MarketStatus.INITIALIZED}


def test_the_real_answer_to_a_garbage_cursor_is_noticed(server: Server, sample: Sample) -> None:
    first, garbage = sample("markets__page1"), sample("markets__garbage_cursor")
    server.reply = lambda request: (200, garbage if "cursor" in request.query else first)
    with pytest.raises(ExchangeError, match="circle"):
        list(bench(server).client.markets())


def test_real_markets_of_every_status_have_times(server: Server, sample: Sample) -> None:
    for name, status in [("open", "active"), ("closed", "determined"), ("settled", "finalized")]:
        body = json.loads(sample(f"markets__status_{name}"))
        server.reply = lambda request, body=body: (200, {**body, "cursor": ""})
        found = list(bench(server).client.markets(status=Filter(name)))
        assert len(found) == len(body["markets"])
        assert {m.status.value for m in found} == {status}
        assert {rest.FILTER_OF[m.status].value for m in found} == {name}
        assert all(0 < m.open_ns < m.close_ns for m in found)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("bad_signature", "does not belong"),
        ("missing_signature_header", "Check KALSHI_API_KEY"),
        ("skew_minus30s", "NTP"),
        ("skew_minus5min", "NTP"),
        ("skew_plus5min", "NTP"),
        ("unknown_key_id", "not known"),
    ],
)
def test_real_refusals_are_understood(server: Server, sample: Sample, name: str, remedy: str) -> None:
    server.reply = lambda request: (401, sample(f"auth__{name}"))
    with pytest.raises(RefusedError) as caught:
        bench(server).client.exchange_status()
    assert remedy in (caught.value.hint or "")


def test_the_real_limit_error_keeps_its_words(server: Server, sample: Sample) -> None:
    server.reply = lambda request: (400, sample("markets__limit_over_max"))
    with pytest.raises(rest.ApiError, match=r"GetMarketsParams\.Limit"):
        list(bench(server).client.markets())


def test_the_real_exchange_status_is_read(server: Server, sample: Sample) -> None:
    server.reply = lambda request: (200, sample("exchange__status"))
    assert bench(server).client.exchange_status() == rest.ExchangeStatus(True, True, 0)
