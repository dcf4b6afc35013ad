"""Kalshi's REST side, as far as a recorder needs it: which markets there are, and whether the exchange is open.

For looking up what a subscription means (`resolve`), pages of markets, events and series, and the exchange's status.
Not for order books: unauthenticated answers come from a cache of 15 s and never mend a gap. GET only.

Invariants. Certificates are always checked: there is no switch. Every request takes tokens before it is sent, and 429,
5xx and lost connections are tried again with growing, random pauses, a bounded number of times. A page that repeats
ends the paging with an error instead of going round for ever; a name that brings no market is told, not passed over.
Unknown fields are fine, an unknown status is not "active". The only importer of `requests`.
Facts: the protocol sheet, sections 1.2, 1.6 and 5.
"""

from __future__ import annotations

import json
import random
import re
import ssl
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import requests.utils

from ssmd.errors import ExchangeError, RefusedError, SsmdError, UsageError
from ssmd.kalshi import auth
from ssmd.kalshi.planner import Needs, Resolved

COST_TOKENS: Final = 10  # of one request, where the exchange lists no other
BASIC_TOKENS_PER_S: Final = 200  # the lowest tier's refill, and its bucket of June 2026
MARKETS_A_PAGE: Final = 1000  # the exchange's maxima
EVENTS_A_PAGE: Final = 200
TICKERS_A_REQUEST: Final = 100  # keeps the URL short
MAX_PAGES: Final = 10_000
ATTEMPTS: Final = 8
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
TIMEOUT_S: Final = 15.0
EVIDENCE_CHARS: Final = 300  # of a body in an error message
MAX_BODY_BYTES: Final = 64 * 1024 * 1024  # of an answer, after decompression; a full page of markets has 2 to 3 MB
BODY_S: Final = 60.0  # for all of an answer, however slowly it comes


class ApiError(ExchangeError):
    """The exchange answered a request with an error. `code` is its word for it, "" = it gave none."""

    def __init__(self, message: str, *, status: int, code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.retryable = status == 429 or status >= 500


# ---- what comes back -------------------------------------------------------------------------------------------------


class Filter(Enum):
    """Words that the `status` filter knows. They are never the value of a market's status field."""

    UNOPENED = "unopened"
    OPEN = "open"
    PAUSED = "paused"
    CLOSED = "closed"
    SETTLED = "settled"


class MarketStatus(Enum):
    """The eight values of a market's status, and UNKNOWN for any other."""

    INITIALIZED = "initialized"
    INACTIVE = "inactive"
    ACTIVE = "active"
    CLOSED = "closed"
    DETERMINED = "determined"
    DISPUTED = "disputed"
    AMENDED = "amended"
    FINALIZED = "finalized"
    UNKNOWN = ""


# status -> the filter that finds it. UNKNOWN has none: it is not open, and not closed either.
FILTER_OF: Final[Mapping[MarketStatus, Filter]] = {
    MarketStatus.INITIALIZED: Filter.UNOPENED,
    MarketStatus.ACTIVE: Filter.OPEN,
    MarketStatus.INACTIVE: Filter.PAUSED,
    MarketStatus.CLOSED: Filter.CLOSED,
    MarketStatus.DETERMINED: Filter.CLOSED,
    MarketStatus.DISPUTED: Filter.CLOSED,
    MarketStatus.AMENDED: Filter.CLOSED,
    MarketStatus.FINALIZED: Filter.SETTLED,
}

# What may still send data: markets open by the clock without a message, so those to come belong to it.
RECORDABLE: Final = (Filter.OPEN, Filter.UNOPENED, Filter.PAUSED)


@dataclass(frozen=True, slots=True)
class Market:
    """One market. Times in UTC ns, 0 = not said. `series`: as asked for, else the start of the event's ticker."""

    ticker: str
    event_ticker: str
    series: str
    status: MarketStatus
    open_ns: int
    close_ns: int


@dataclass(frozen=True, slots=True)
class MarketEvent:
    ticker: str
    series: str
    title: str


@dataclass(frozen=True, slots=True)
class Series:
    ticker: str
    title: str
    category: str
    frequency: str


@dataclass(frozen=True, slots=True)
class ExchangeStatus:
    """`resume_ns`: when it is expected back, 0 = not said."""

    exchange_active: bool
    trading_active: bool
    resume_ns: int = 0


# ---- pace ------------------------------------------------------------------------------------------------------------


class TokenBucket:
    """Spends at most `per_s` tokens a second, and `capacity` at once.

    A caller takes its tokens first and then waits until they are earned, so several greenlets queue up in order.
    """

    def __init__(
        self, per_s: float, capacity: float, *, monotonic: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self._per_s, self._capacity = per_s, capacity
        self._monotonic, self._sleep = monotonic, sleep
        self._tokens, self._at_s = capacity, monotonic()

    def take(self, tokens: float) -> None:
        now_s = self._monotonic()
        self._tokens = min(self._capacity, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        self._tokens -= tokens
        if self._tokens < 0:
            self._sleep(-self._tokens / self._per_s)

    def empty(self) -> None:
        """The exchange says that there are no tokens left: it counts all users of the account."""
        self._tokens = min(self._tokens, 0.0)


# ---- the client ------------------------------------------------------------------------------------------------------


class RestClient:
    """GET requests to one exchange. `base_url` ends in `/trade-api/v2`; without credentials nothing is signed.

    `proxy` None = what the machine's variables say (never for loopback). `warn` gets sentences for a person
    (a log, say; Python's warnings unless given).
    """

    def __init__(
        self,
        base_url: str,
        *,
        credentials: auth.Credentials | None = None,
        ca_file: str | None = None,
        proxy: str | None = None,
        tokens_per_s: float = BASIC_TOKENS_PER_S,
        attempts: int = ATTEMPTS,
        timeout_s: float = TIMEOUT_S,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._base_path = urlsplit(self._base_url).path
        self._credentials = credentials
        self._attempts, self._timeout_s = attempts, timeout_s
        self._now_ms, self._sleep, self._uniform = now_ms, sleep, uniform
        self._warn = warn or warnings.warn
        self._warned: set[str] = set()
        self._bucket = TokenBucket(tokens_per_s, tokens_per_s, monotonic=monotonic, sleep=sleep)
        self._session = requests.Session()
        self._session.trust_env = False  # no .netrc, and no certificates or proxies that nobody wrote down here
        self._session.proxies = _proxies(self._base_url, proxy)
        self._session.verify = _checked_ca(ca_file) if ca_file is not None else True

    def __enter__(self) -> RestClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    # ---- questions --------------------------------------------------------------------------------------------------

    def exchange_status(self) -> ExchangeStatus:
        body = self.get("/exchange/status")
        return ExchangeStatus(
            body.get("exchange_active") is True,
            body.get("trading_active") is True,
            time_ns(body.get("exchange_estimated_resume_time")),
        )

    def markets(
        self,
        *,
        series: str | None = None,
        event: str | None = None,
        tickers: Sequence[str] | None = None,
        status: Filter | None = None,
        combos: bool = False,
    ) -> Iterator[Market]:
        """Markets by one of series, event, tickers, or all; each once. Multivariate combos only if asked for.

        Two filters that contradict each other bring no rows and no error, so only one is taken (ValueError). A name
        that brings no market is warned of.
        """
        if sum(x is not None for x in (series, event, tickers)) > 1:
            raise ValueError("series, event and tickers exclude each other")
        if tickers is not None:
            yield from self._by_ticker(tickers, status)
            return
        found = False
        for market in self._markets(series=series, event=event, status=status, combos=combos):
            found = True
            yield market
        if not found and (series or event):
            what = f"series {series}" if series else f"event {event}"
            self._warn_once(
                f"{what} has no markets" + (f" that are {status.value}" if status else "") + ": is the name right?"
            )

    def events(self, *, series: str | None = None, status: Filter | None = None) -> Iterator[MarketEvent]:
        """Events, without multivariate ones (the exchange leaves those out)."""
        params = {"series_ticker": series, "status": status.value if status else None}
        for row in self._rows("/events", "events", "event_ticker", params, EVENTS_A_PAGE):
            yield MarketEvent(_text(row, "event_ticker"), _text(row, "series_ticker"), _text(row, "title"))

    def series(self, *, category: str | None = None) -> Iterator[Series]:
        body = self.get("/series", {"category": category})
        for row in _list(body, "series", "/series"):
            if _text(row, "ticker"):
                yield Series(*(_text(row, key) for key in ("ticker", "title", "category", "frequency")))

    def resolve(self, needs: Needs) -> Resolved:
        """What a plan needs to know: the tickers of each series and event that may send data, and all open ones."""
        return Resolved(
            series={name: self._recordable(series=name) for name in needs.series},
            events={name: self._recordable(event=name) for name in needs.events},
            open_markets=tuple(m.ticker for m in self._markets(status=Filter.OPEN)) if needs.open_markets else None,
        )

    def _recordable(self, *, series: str | None = None, event: str | None = None) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for status in RECORDABLE:
            found |= dict.fromkeys(m.ticker for m in self._markets(series=series, event=event, status=status))
        return tuple(found)

    def _by_ticker(self, tickers: Sequence[str], status: Filter | None) -> Iterator[Market]:
        wanted = list(dict.fromkeys(tickers))
        for start in range(0, len(wanted), TICKERS_A_REQUEST):
            some = wanted[start : start + TICKERS_A_REQUEST]
            missing = set(some)
            for market in self._markets(tickers=some, status=status, combos=True):
                missing.discard(market.ticker)
                yield market
            if missing:
                self._warn_once(f"no such market: {', '.join(sorted(missing))}")

    def _markets(
        self,
        *,
        series: str | None = None,
        event: str | None = None,
        tickers: Sequence[str] | None = None,
        status: Filter | None = None,
        combos: bool = False,
    ) -> Iterator[Market]:
        params = {
            "series_ticker": series,
            "event_ticker": event,
            "tickers": ",".join(tickers) if tickers else None,
            "status": status.value if status else None,
            # Nine of ten open markets are combos. A combo's own series or event is empty without them.
            "mve_filter": None if combos or (series or event or "").startswith("KXMVE") else "exclude",
        }
        for row in self._rows("/markets", "markets", "ticker", params, MARKETS_A_PAGE):
            market = self._market(row, series)
            if event is not None and market.event_ticker != event:
                raise ExchangeError(
                    f"asked for the markets of event {event}, got {market.ticker} of event {market.event_ticker}",
                    hint="The exchange did not apply the filter; its interface may have changed.",
                )
            yield market

    def _market(self, row: Mapping[str, Any], series: str | None) -> Market:
        event = _text(row, "event_ticker")
        said = _text(row, "status")
        try:
            status = MarketStatus(said)
        except ValueError:
            status = MarketStatus.UNKNOWN
        if status is MarketStatus.UNKNOWN:
            self._warn_once(f"market {_text(row, 'ticker')} has a status that ssmd does not know: {said!r}")
        return Market(
            ticker=_text(row, "ticker"),
            event_ticker=event,
            series=series or event.partition("-")[0],
            status=status,
            open_ns=time_ns(row.get("open_time")),
            close_ns=time_ns(row.get("close_time")),
        )

    # ---- pages ------------------------------------------------------------------------------------------------------

    def _rows(
        self, path: str, name: str, key: str, params: Mapping[str, str | None], limit: int
    ) -> Iterator[Mapping[str, Any]]:
        """All rows over all pages, each `key` once."""
        seen: set[str] = set()
        cursors: set[str] = set()
        cursor = ""
        for _ in range(MAX_PAGES):
            body = self.get(path, {**params, "limit": str(limit), "cursor": cursor or None})
            rows = _list(body, name, path)
            fresh = [row for row in rows if _text(row, key) and _text(row, key) not in seen]
            if rows and not fresh and cursor:
                raise _circle(path, len(seen))
            seen.update(_text(row, key) for row in fresh)
            yield from fresh
            cursor = _text(body, "cursor")
            if not cursor:
                return
            if cursor in cursors:
                raise _circle(path, len(seen))
            cursors.add(cursor)
        raise ExchangeError(f"{path} has more than {MAX_PAGES} pages", hint="Narrow what is asked for.")

    # ---- one request ------------------------------------------------------------------------------------------------

    def get(self, path: str, params: Mapping[str, str | None] | None = None) -> Mapping[str, Any]:
        """The JSON object that a GET answers with.

        Raises RefusedError (sign-in), ApiError (any other answer) or ExchangeError (no answer), after the retries
        that make sense.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        limit_s = FIRST_PAUSE_S
        attempt = 1
        while True:
            try:
                return self._once(path, given)
            except ExchangeError as error:
                if not error.retryable or attempt >= self._attempts:
                    raise
            self._sleep(self._uniform(limit_s / 2, limit_s))
            limit_s = min(limit_s * 2, LONGEST_PAUSE_S)
            attempt += 1

    def _once(self, path: str, params: Mapping[str, str]) -> Mapping[str, Any]:
        self._bucket.take(COST_TOKENS)
        signed = {}
        if self._credentials is not None:
            signed = auth.headers(self._credentials, self._now_ms(), "GET", self._base_path + path)
        url = self._base_url + path
        problem: ExchangeError
        try:
            # No redirects: the signature is for this host alone.
            with self._session.get(
                url,
                params=params,
                headers=signed,
                timeout=self._timeout_s,
                allow_redirects=False,
                verify=self._session.verify,
                stream=True,
            ) as response:
                body = _body(url, response)
        except (requests.RequestException, OSError) as error:
            problem = _no_answer(url, error)
        else:
            if response.status_code == 200:
                return _object(url, body)
            if response.status_code == 429:
                self._bucket.empty()
            raise _answer(url, response.status_code, body)
        raise problem

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._warn(sentence)


# ---- set-up ----------------------------------------------------------------------------------------------------------


def _proxies(base_url: str, proxy: str | None) -> dict[str, str]:
    if proxy is not None:
        return {"http": proxy, "https": proxy}
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return {}
    return {str(scheme): str(url) for scheme, url in requests.utils.get_environ_proxies(base_url).items()}


def _checked_ca(ca_file: str) -> str:
    try:
        ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"exchange.ca_file: {ca_file} cannot be used: {error}", hint="Give a readable PEM file of certificates."
        ) from None
    return ca_file


# ---- answers ---------------------------------------------------------------------------------------------------------


def _body(url: str, response: requests.Response) -> bytes:
    """All of an answer, within bounds: who is asked, or stands between, decides neither about memory nor about time."""
    deadline = time.monotonic() + BODY_S
    pieces, size = [], 0
    for piece in response.iter_content(1 << 16):
        size += len(piece)
        if size > MAX_BODY_BYTES:
            problem = ExchangeError(
                f"the answer from {url} is larger than {MAX_BODY_BYTES >> 20} MiB: it was not read to its end",
                hint="Check exchange.rest_url and exchange.proxy: the exchange's pages have a few MB.",
            )
            problem.retryable = False
            raise problem
        if time.monotonic() > deadline:
            raise requests.Timeout(f"only {size} bytes of it came in {BODY_S:.0f} s")
        pieces.append(piece)
    return b"".join(pieces)


# ---- faults ----------------------------------------------------------------------------------------------------------


def _no_answer(url: str, error: Exception) -> ExchangeError:
    if isinstance(error, requests.exceptions.SSLError):
        problem = ExchangeError(
            f"no secure connection to {url}: {error}",
            hint="If a proxy or a private authority stands between, name its certificate in exchange.ca_file.",
        )
        problem.retryable = False
        return problem
    if isinstance(error, requests.exceptions.ProxyError):
        return ExchangeError(f"the proxy did not lead to {url}: {error}", hint="Check exchange.proxy.")
    if isinstance(error, requests.Timeout):
        return ExchangeError(f"no answer from {url} in time: {error}")
    return ExchangeError(f"no answer from {url}: {error}", hint="Check the network and exchange.rest_url.")


def error_fields(body: bytes) -> tuple[str, str]:
    """(code, words) of an error body in any of the exchange's shapes; what is none of them is the words itself.

    nested {"error":{"code","message","details"}}, flat {"code","message","details"}, {"msg"}, {"error":"words"}
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        inner = value.get("error")
        fields = inner if isinstance(inner, dict) else value
        code = _text(fields, "code")
        words = [_text(fields, key) for key in ("message", "msg", "details")]
        if isinstance(inner, str):
            words.insert(0, inner)
        said = ": ".join(dict.fromkeys(word for word in words if word))
        if code or said:
            return code, said or code
    return "", body[:EVIDENCE_CHARS].decode("utf-8", "replace").strip() or "(empty body)"


def _answer(url: str, status: int, body: bytes) -> SsmdError:
    code, words = error_fields(body)
    said = f"{url} answered HTTP {status}: {words[:EVIDENCE_CHARS]}"
    if status in (401, 403):
        return RefusedError(said, hint=auth.refusal_hint(f"{code} {words}"))
    hint = None
    if status == 429:
        hint = "The account's read limit is used up: other programs with the same account count as well."
    elif 300 <= status < 400:
        hint = "exchange.rest_url leads elsewhere: write the address that it leads to."
    elif status == 404:
        hint = "Either the name does not exist or exchange.rest_url does not end in /trade-api/v2."
    elif status in (502, 503, 504):
        hint = "The exchange may be in maintenance: Thursdays 03:00 to 05:00 New York time."
    return ApiError(said, status=status, code=code, hint=hint)


def _circle(path: str, rows: int) -> ExchangeError:
    return ExchangeError(
        f"the pages of {path} go round in a circle after {rows:,} rows",
        hint="The exchange takes a cursor that it does not know for the first page. Asking again may help.",
    )


# ---- fields ----------------------------------------------------------------------------------------------------------


def _object(url: str, body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        head = body[:EVIDENCE_CHARS].decode("utf-8", "replace")
        raise ExchangeError(f"{url} answered with something that is no JSON object: {head!r}")
    return value


def _list(body: Mapping[str, Any], name: str, path: str) -> Iterable[Mapping[str, Any]]:
    """A list of objects. null is an empty list (Go writes it so); no such key means that the interface changed."""
    if name in body and body[name] is None:
        return []
    rows = body.get(name)
    if not isinstance(rows, list):
        raise ExchangeError(f"{path} answered without a list of {name}", hint="Its interface may have changed.")
    return [row for row in rows if isinstance(row, dict)]


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def time_ns(value: object) -> int:
    """UTC ns of an RFC 3339 text, exact; 0 for anything else."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return 0
    try:
        whole = datetime.fromisoformat(match[1] + match[3]).astimezone(UTC)
    except (ValueError, OverflowError):
        return 0
    seconds = int((whole - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return max(0, seconds * 1_000_000_000 + int((match[2] or "0").ljust(9, "0")))
