"""Opens one signed-in WebSocket to Kalshi: TLS, proxy, handshake, and what each refusal means.

websocket-client does the work; here are the ways in which it can fail, told apart by what helps: another try
(ExchangeError) or another key (RefusedError). Certificates and host names are always checked. Not for: what happens on
the socket afterwards (client, reading).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import gevent
import websocket

from ssmd.errors import ExchangeError, RefusedError, SsmdError, UsageError
from ssmd.kalshi import auth
from ssmd.kalshi.tls import TlsSocket

CONNECT_TIMEOUT_S = 15.0  # without a byte
HANDSHAKE_LIMIT_S = 60.0  # for all of it: an answer that comes byte by byte would be waited for without end
EVIDENCE_CHARS = 300  # of an answer in an error message
CLOCK_OFF_S = 5.0  # worth telling when a sign-in is refused; the exchange's own answer is right to a second
_WS_PATH = "/trade-api/ws/v2"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where to go and as whom. `ca_file` None = the machine's certificate authorities."""

    websocket_url: str
    rest_url: str
    ca_file: str | None
    proxy: str | None
    credentials: auth.Credentials


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Certificates and host names are always checked; the one thing to choose is whose signature counts."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"exchange.ca_file: {ca_file} cannot be used: {error}", hint="Give a readable PEM file of certificates."
        ) from None
    context.sslsocket_class = TlsSocket  # type: ignore[assignment]  # no kin, but all that is asked of one
    return context


def connect(endpoints: Endpoints, *, now_ms: int) -> websocket.WebSocket:
    """Opens and signs in one WebSocket.

    Raises RefusedError for 401/403 (a retry does not help), ExchangeError for all that a retry may mend.
    """
    path = urlsplit(endpoints.websocket_url).path or _WS_PATH
    headers = auth.headers(endpoints.credentials, now_ms, "GET", path)
    options: dict[str, Any] = {"header": [f"{name}: {value}" for name, value in headers.items()], "redirect_limit": 0}
    if endpoints.websocket_url.startswith("wss://"):
        options["sslopt"] = {"context": tls_context(endpoints.ca_file)}
    options |= _proxy_options(endpoints.proxy)
    limit = gevent.Timeout.start_new(HANDSHAKE_LIMIT_S)
    try:
        return websocket.create_connection(
            endpoints.websocket_url, timeout=CONNECT_TIMEOUT_S, skip_utf8_validation=True, **options
        )
    except gevent.Timeout as error:
        if error is not limit:
            raise
        raise ExchangeError(
            f"cannot connect to {endpoints.websocket_url}: no whole answer within {HANDSHAKE_LIMIT_S:.0f} s"
        ) from None
    except websocket.WebSocketBadStatusException as error:
        raise _bad_status(error, now_ms) from None
    except ssl.SSLCertVerificationError as error:
        raise ExchangeError(
            f"the certificate of {endpoints.websocket_url} was not accepted: {error.verify_message}",
            hint="If a proxy or a private authority stands between, name its certificate in exchange.ca_file.",
        ) from None
    except Exception as error:  # whatever an answer that is none of HTTP makes of the library
        what = str(error)[:EVIDENCE_CHARS] or type(error).__name__
        raise ExchangeError(f"cannot connect to {endpoints.websocket_url}: {what}") from None
    finally:
        limit.close()


class StatusError(ExchangeError):
    """The handshake was answered with an HTTP status other than 101."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _bad_status(error: websocket.WebSocketBadStatusException, now_ms: int) -> SsmdError:
    body = bytes(error.resp_body or b"")[:EVIDENCE_CHARS].decode("utf-8", "replace").strip()
    if not 100 <= (error.status_code or 0) <= 999:
        return ExchangeError(f"the handshake was answered with something that is no HTTP: status {error.status_code}")
    if error.status_code in (401, 403):
        said = f"the exchange refused the sign-in (HTTP {error.status_code}): {body}"
        return RefusedError(said + _clock_words(error.resp_headers or {}, now_ms), hint=auth.refusal_hint(body))
    return StatusError(f"the handshake was answered with HTTP {error.status_code}: {body}", error.status_code)


def _clock_words(headers: Mapping[str, str], now_ms: int) -> str:
    """How far this machine's clock is from the exchange's, if that is so far that signatures are refused."""
    try:
        theirs_s = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return ""
    off_s = now_ms / 1000 - theirs_s
    if abs(off_s) < CLOCK_OFF_S:
        return ""
    return f" (the clock of this machine is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the exchange's)"


def _proxy_options(proxy: str | None) -> dict[str, Any]:
    if not proxy:
        return {}
    parts = urlsplit(proxy)
    options: dict[str, Any] = {
        "http_proxy_host": parts.hostname,
        "http_proxy_port": parts.port or 80,
        "proxy_type": parts.scheme or "http",
    }
    if parts.username:
        options["http_proxy_auth"] = (parts.username, parts.password or "")
    return options
