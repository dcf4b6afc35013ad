"""`/metrics`, `/healthz`, `/readyz` and `/markets` on one small HTTP server.

A check is a function that returns None when all is well, else a sentence. `/healthz` answers 503 as soon as one has
something to say; a check that raises counts as failed, never as passed. `/readyz` is 200 once every subscription is
confirmed. `/markets` is what each market had in this run. The server runs on the connector's own hub on purpose: when
the hub hangs, so does the probe, and the orchestrator sees it; therefore no page takes long, and `/markets` comes in
parts. Not for: anything that changes state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import parse_qsl

from gevent import socket as gsocket
from gevent.pywsgi import WSGIServer

from ssmd.errors import UsageError

Check = Callable[[], str | None]
Markets = Callable[[int, int], tuple[Mapping[str, Mapping[str, int]], int]]  # (after, limit) -> a part, how many in all

MARKETS_A_PAGE = 1000
MARKETS_LIMIT = 10_000  # a few tens of ms of the hub


def run_checks(checks: Mapping[str, Check]) -> dict[str, str | None]:
    """Every check's sentence, None where all is well."""
    results: dict[str, str | None] = {}
    for name, check in checks.items():
        try:
            results[name] = check()
        except Exception as error:  # a check that cannot tell has failed
            results[name] = f"the check itself failed: {error!r}"
    return results


def _report(results: Mapping[str, str | None]) -> tuple[bool, bytes]:
    well = all(sentence is None for sentence in results.values())
    body = {
        "status": "ok" if well else "failing",
        "checks": {name: {"ok": sentence is None, "detail": sentence} for name, sentence in results.items()},
    }
    return well, json.dumps(body, indent=2).encode() + b"\n"


def _page(markets: Markets, query: str) -> tuple[bool, bytes]:
    """A part of the markets, how many there are, and where the next part is. False: the query makes no sense."""
    try:
        asked = {name: int(value) for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=4)}
        after, limit = asked.pop("after", 0), asked.pop("limit", MARKETS_A_PAGE)
        if asked or after < 0 or not 1 <= limit <= MARKETS_LIMIT:
            raise ValueError
    except ValueError:
        words = f"give after=N (from 0) and limit=N (1 to {MARKETS_LIMIT}), both whole numbers, or nothing"
        return False, json.dumps({"error": words}).encode() + b"\n"
    found, total = markets(after, limit)
    more = after + limit < total
    page = {
        "markets": found,
        "total": total,
        "next": f"/markets?after={after + limit}&limit={limit}" if more else None,
        "note": f"{len(found)} of {total} markets are shown; the others are at `next`" if more else None,
    }
    return True, json.dumps(page).encode() + b"\n"


class HealthServer:
    """Serves the pages at `address` ("host:port"; port 0 takes a free one)."""

    def __init__(
        self,
        address: str,
        *,
        live: Mapping[str, Check],
        ready: Mapping[str, Check],
        metrics: Callable[[], bytes],
        markets: Markets,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._live, self._ready, self._metrics, self._markets = live, ready, metrics, markets
        listener = gsocket.socket(gsocket.AF_INET6 if ":" in host else gsocket.AF_INET, gsocket.SOCK_STREAM)
        listener.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), int(port)))
            listener.listen(64)
        except (OSError, ValueError, OverflowError) as error:
            listener.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"health.address: cannot listen on {address}: {reason}",
                hint="Choose another with --set health.address=127.0.0.1:PORT (0 = any free one).",
            ) from None
        self._server = WSGIServer(listener, self._answer, log=None, error_log=None)
        self._server.start()
        bound = listener.getsockname()
        self.address = f"{bound[0]}:{bound[1]}"

    def stop(self) -> None:
        self._server.stop(timeout=0.2)

    def _answer(self, environ: Mapping[str, str], start_response: Callable[..., object]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        kind = "application/json"
        status = "200 OK"
        if path == "/metrics":
            kind, body = "text/plain; version=0.0.4; charset=utf-8", self._metrics()
        elif path == "/markets":
            well, body = _page(self._markets, environ.get("QUERY_STRING", ""))
            status = status if well else "400 Bad Request"
        elif path in ("/healthz", "/readyz"):
            well, body = _report(run_checks(self._live if path == "/healthz" else {**self._live, **self._ready}))
            status = status if well else "503 Service Unavailable"
        else:
            status, body = "404 Not Found", b'{"error":"try /healthz, /readyz, /metrics or /markets"}\n'
        start_response(
            status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        )
        return [body]
