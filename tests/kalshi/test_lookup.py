"""Looking up markets in a process of its own: what comes back, which errors, and what is never shown.

The exchange is a web server of a few lines here; how REST is read is tested in test_rest.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ssmd.errors import ExchangeError, RefusedError, UsageError
from ssmd.kalshi import lookup
from ssmd.kalshi.lookup import Asked, look_up
from ssmd.kalshi.planner import Needs, Resolved

MARKETS = {"KXA": ["KXA-1", "KXA-2"], "KXB": ["KXB-1"]}


class Exchange(BaseHTTPRequestHandler):
    """Kalshi's /markets with one page, all of them open; `status` other than 200 refuses everything."""

    status: ClassVar[int] = 200

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        series = query.get("series_ticker", list(MARKETS))
        names = [name for one in series for name in MARKETS.get(one, [])] if query["status"] == ["open"] else []
        rows = [{"ticker": name, "event_ticker": name[:3], "status": "active"} for name in names]
        body = json.dumps({"markets": rows, "cursor": ""} if self.status == 200 else {"error": {"code": "NOT_FOUND"}})
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """Where the exchange of this test is, and a key."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with ThreadingHTTPServer(("127.0.0.1", 0), Exchange) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Asked(f"http://127.0.0.1:{server.server_port}/trade-api/v2", None, None, "id", pem)
        server.shutdown()
        thread.join()


def no_warning(sentence: str) -> None:
    raise AssertionError(sentence)


def test_tickers_come_back_by_what_was_asked(asked: Asked) -> None:
    assert look_up(asked, Needs(series=("KXA", "KXB")), no_warning) == Resolved(
        series={"KXA": ("KXA-1", "KXA-2"), "KXB": ("KXB-1",)}
    )


def test_all_open_markets_come_back(asked: Asked) -> None:
    assert look_up(asked, Needs(open_markets=True), no_warning).open_markets == ("KXA-1", "KXA-2", "KXB-1")


def test_what_was_not_asked_is_none(asked: Asked) -> None:
    assert look_up(asked, Needs(series=("KXA",)), no_warning).open_markets is None


def test_a_refusal_keeps_its_kind_and_its_hint(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exchange, "status", 401)
    with pytest.raises(RefusedError) as caught:
        look_up(asked, Needs(open_markets=True), no_warning)
    assert "HTTP 401" in str(caught.value)
    assert "KALSHI_API_KEY is not known" in (caught.value.hint or "")


def test_an_exchange_that_is_not_there_is_worth_a_retry(asked: Asked) -> None:
    with pytest.raises(ExchangeError):
        look_up(replace(asked, rest_url="http://127.0.0.1:1/trade-api/v2"), Needs(open_markets=True), lambda _: None)


def test_a_key_that_is_none_is_the_users_to_mend(asked: Asked) -> None:
    with pytest.raises(UsageError):
        look_up(replace(asked, private_key="no key"), Needs(open_markets=True), no_warning)


def test_a_process_that_ends_without_an_answer_is_told_with_its_last_words(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup.sys, "executable", "/bin/false")
    with pytest.raises(ExchangeError, match="exit code 1 and no answer"):
        look_up(asked, Needs(open_markets=True), no_warning)


def test_the_key_is_in_no_repr_and_in_no_command_line(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, dict[str, object]]] = []
    real = lookup.subprocess.Popen
    monkeypatch.setattr(lookup.subprocess, "Popen", lambda *a, **kw: calls.append((a, kw)) or real(*a, **kw))
    look_up(asked, Needs(open_markets=True), no_warning)
    secret = asked.private_key.splitlines()[1]
    assert secret not in repr(asked)
    assert secret not in repr(calls)
    assert "env" not in calls[0][1]
