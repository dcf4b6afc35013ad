"""`ssmd last [MARKET ...]`: what was last seen of each market. Options, columns and exit codes: docs/last.md.

Reads the cache that `ssmd run` fills (cache.type redis). Without one it reads the newest segments of the journal into
a cache of its own memory, by the same code. Nothing is decided here about what a value means: `ssmd.lastvalues` did.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmd.cli import hints, options
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError
from ssmd.journal.times import show_time
from ssmd.middleware.interfaces import Cache

if TYPE_CHECKING:
    from ssmd.journal.paths import Segment

DEFAULT_ENVIRONMENT = "kalshi-local"  # for --url and --data alone: its feed, and nothing else of it
PASSWORD_VARIABLE = "REDISCLI_AUTH"  # of redis-cli, too
SILENT_AFTER_S = 15.0  # whoever writes the values says so each second
NOT_RECORDING_AFTER_S = 150.0  # a recorder writes a clock anchor each minute, however quiet the markets are
KEYS_A_READ = 1000
NEAR_NAMES = 5
NEAR_AMONG = 20_000
NAME_WIDTH = 44

Value = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The options of `ssmd last`."""
    p = options.parser("last", "Show what was last seen of markets: best bid and ask, last trade, ticker, status.")
    p.epilog = (
        "Exit codes: 0 all were shown; 1 a market, or every one, is unknown (said on stderr); 2 usage, or Redis\n"
        "refuses us; 4 Redis cannot be reached."
    )
    p.add_argument("markets", nargs="*", metavar="MARKET", help="names of markets; none: all that are known")
    p.add_argument("-e", "--environment", metavar="ENV", help="name of an environment, or path of its file")
    p.add_argument("--url", metavar="URL", help=f"read this Redis (its password: {PASSWORD_VARIABLE})")
    p.add_argument("--feed", metavar="FEED", help="whose markets (default: the environment's feed)")
    options.add_changes(p)
    p.add_argument("--json", action="store_true", help="one JSON object a line, as the cache holds it")
    p.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=1.0,
        metavar="SECONDS",
        help="again and again (default: each second), until Ctrl-C; with --json: what changed",
    )
    return p


def main(arguments: Sequence[str]) -> int:
    """Runs the command; gives its exit code. Raises SsmdError for what the user can mend."""
    given = parser().parse_args(arguments)
    if given.watch is not None and not 0.05 <= given.watch <= 3600:
        raise UsageError(f"--watch {given.watch}: give seconds from 0.05 to 3600")
    words = hints.redis(PASSWORD_VARIABLE) if given.url is not None else hints.S3 if given.data is not None else {}
    with hints.by_url(words), closing(_source(given)) as source:
        if given.watch is not None:
            return _watch(source, given)
        values = source.read(given.markets)
        _print(source, values, given)
        return _complain(source, given.markets, values)


# ---- where the values are --------------------------------------------------------------------------------------------


class Source:
    """Values of a cache, which somebody fills."""

    def __init__(self, cache: Cache, feed: str, place: str) -> None:
        self.cache, self.feed, self.place = cache, feed, place
        self._written: dict[object, object] = {}  # journal -> when somebody last said that it keeps its values

    def read(self, markets: Sequence[str]) -> list[Value]:
        """The values of these markets (of all, for none), sorted by name; those that there are."""
        from ssmd.lastvalues import read_value
        from ssmd.lastvalues.joined import joined
        from ssmd.middleware import names

        beats = self._beats()
        self._written = {beat.get("journal"): beat.get("written_ns") for beat in beats}
        if markets:
            shards = [None, *sorted({str(beat["shard"]) for beat in beats if beat.get("shard") is not None})]
            keys = [names.last_value_key(self.feed, name, shard) for name in dict.fromkeys(markets) for shard in shards]
        else:
            keys = sorted(self.cache.scan(names.last_value_key(self.feed, "")))
        found = []
        for i in range(0, len(keys), KEYS_A_READ):
            found += [read_value(value) for value in self.cache.mget(keys[i : i + KEYS_A_READ])]
        wanted = set(markets)
        by_market: dict[str, list[Value]] = {}
        for value in found:
            if value is not None and (not wanted or value["market"] in wanted):
                by_market.setdefault(value["market"], []).append(value)
        return [joined(by_market[market]) for market in sorted(by_market)]

    def silence(self, value: Value) -> str | None:
        """Why a value may be old, in a sentence: whoever kept it up to date does so no longer."""
        book = value.get("book")
        keeper = book.get("journal", value.get("journal")) if isinstance(book, dict) else value.get("journal")
        written_ns = self._written.get(keeper)
        if not isinstance(written_ns, int):
            return "nobody keeps it up to date"
        silent_s = (time.time_ns() - written_ns) / 1e9
        return f"nobody has kept it up to date for {show_age(silent_s)}" if silent_s > SILENT_AFTER_S else None

    def nothing(self) -> str:
        """Why there is no value at all, and what to do."""
        if self._beats():
            return f"a recorder writes to {self.place}, but it has seen no market of the feed {self.feed} yet"
        return (
            f"{self.place} holds no last values of the feed {self.feed}\n"
            "  start `ssmd run` with cache.type: redis and this cache.url, or read a journal: --data DIR"
        )

    def close(self) -> None:
        self.cache.close()

    def _beats(self) -> list[Value]:
        from ssmd.middleware import names

        keys = list(self.cache.scan(names.writer_key(self.feed, "")))
        return [beat for beat in map(_object, self.cache.mget(keys)) if beat]


def _source(given: argparse.Namespace) -> Source:
    from ssmd import host
    from ssmd.journal.paths import feed_root, is_url
    from ssmd.middleware.factory import MiddlewareFactory

    archive = given.data if given.data is not None and is_url(given.data) else None
    if archive is not None and given.watch is not None:
        raise UsageError("--watch: an archive does not grow by records", hint="watch the journal itself, or Redis")
    if given.environment is None and given.url is None and given.data is None:
        hint = "give -e ENV, --url redis://HOST:PORT or --data DIR"
        raise UsageError("where the values are is not said", hint=hint)
    if given.url is not None and given.data is not None:
        raise UsageError("--url and --data are two places: give one of them")
    changes = list(given.set)
    if given.url is not None:
        changes += ["cache.type=redis", "cache.url=" + json.dumps(given.url), *_password()]
    elif given.data is not None:
        changes += ["cache.type=memory"]
    data = None if archive is not None else given.data
    environment = host.load(given.environment or DEFAULT_ENVIRONMENT, changes, data=data)
    feed = given.feed or environment.feed
    feed_root(Path(), feed)  # a plain word, or a UsageError
    cache = MiddlewareFactory(environment, host.secret_reader(environment)).cache()
    if environment.cache.type == "redis":
        return Source(cache, feed, str(environment.cache.url))
    named = given.feed is not None or given.environment is not None
    from ssmd.cli.replayed import Replay

    place = archive or str(environment.storage.path)
    return Replay(cache, feed, place, _segments(place), only_feed=named, max_markets=environment.cache.max_size)


def _segments(place: str) -> list[Segment]:
    """Those under a folder, or in an archive."""
    from ssmd.journal.paths import find, is_url

    if not is_url(place):
        return find([place], must_exist=False)
    from ssmd.cli.sources import located

    return located([place])[0]


def _object(value: bytes | None) -> Value:
    """The JSON object in bytes; an empty one if it is none."""
    try:
        said = json.loads(value) if value is not None else None
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}


def _password() -> list[str]:
    return [
        "keys.redis.type=password",
        "keys.redis.required=false",
        f"keys.redis.source=env:{PASSWORD_VARIABLE}",
    ]


# ---- what is said ----------------------------------------------------------------------------------------------------


def _print(source: Source, values: Sequence[Value], given: argparse.Namespace) -> None:
    if given.json:
        for value in values:
            print(json.dumps(value, ensure_ascii=True, separators=(",", ":")))
    elif values:
        now_ns = time.time_ns()
        shown_values = [doubted(value, source.silence(value)) for value in values]
        if len(given.markets) == 1:
            print("\n".join(block(shown_values[0], now_ns)))
        else:
            print("\n".join(table(shown_values, now_ns)))


def _complain(source: Source, markets: Sequence[str], values: Sequence[Value]) -> int:
    """What is wrong with the answer, on stderr."""
    if not values and not (markets and source.read(())):
        print(f"ssmd last: {source.nothing()}", file=sys.stderr)
        return EXIT_INCOMPLETE
    stale = _stale(source, values)
    if stale is not None:
        print(f"ssmd last: {stale}", file=sys.stderr)
    known = {value["market"] for value in values}
    unknown = [market for market in dict.fromkeys(markets) if market not in known]
    for market in unknown:
        near = near_names(market, [value["market"] for value in source.read(())])
        hint = f"\n  did you mean {', '.join(map(shown, near))}?" if near else ""
        print(f"ssmd last: nothing was seen of {shown(market)}{hint}", file=sys.stderr)
    return EXIT_INCOMPLETE if unknown else EXIT_OK


def near_names(wanted: str, known: Sequence[str]) -> list[str]:
    """Names that are like it: those that contain it (or begin alike), then those that are spelt alike."""
    low = wanted.lower()
    holding = [name for name in known if low in name.lower()]
    if len(holding) < NEAR_NAMES:
        among = {name.lower(): name for name in known[:NEAR_AMONG]}
        close = difflib.get_close_matches(low, list(among), n=NEAR_NAMES, cutoff=0.6)
        holding += [among[name] for name in close if among[name] not in holding]
    return holding[:NEAR_NAMES]


def _watch(source: Source, given: argparse.Namespace) -> int:
    """Shows them again and again; ends at Ctrl-C."""
    screen = sys.stdout.isatty() and not given.json
    before: dict[str, Value] = {}
    try:
        while True:
            values = source.read(given.markets)
            if given.json:
                _print(source, [value for value in values if before.get(value["market"]) != value], given)
                before = {value["market"]: value for value in values}
            else:
                print("\n".join(_frame(source, values, screen=screen)))
            sys.stdout.flush()
            time.sleep(given.watch)
    except KeyboardInterrupt:
        return EXIT_OK


def _frame(source: Source, values: Sequence[Value], *, screen: bool) -> Iterator[str]:
    """One picture of --watch: what fits on the screen, or all."""
    doubts = [doubted(value, source.silence(value)) for value in values]
    lines = list(table(doubts, time.time_ns())) if values else [source.nothing()]
    if screen:
        rows = max(shutil.get_terminal_size().lines - 3, 5)
        if len(lines) > rows:
            lines = [*lines[:rows], f"... and {len(lines) - rows} more: name the markets that you want"]
        yield "\x1b[H\x1b[J" + lines[0]
        lines = lines[1:]
    yield from lines
    stale = _stale(source, values)
    if stale is not None:
        yield f"! {stale}"


def _stale(source: Source, values: Sequence[Value]) -> str | None:
    """How many of the values may be old, and why."""
    reasons = [reason for reason in map(source.silence, values) if reason is not None]
    if not reasons:
        return None
    return f"{reasons[0]} ({len(reasons):,} of {len(values):,} markets)"


def doubted(value: Value, why: str | None) -> Value:
    """The value for people: a book that nobody keeps any more is not shown as a price."""
    if why is None or value.get("trouble") or value.get("quote") != "book":
        return value
    book = value.get("book")
    return value | {"trouble": why, "book": {**(book if isinstance(book, dict) else {}), "was": value}}


# ---- one value -------------------------------------------------------------------------------------------------------


TRADED = (None, "active", "initialized")  # statuses of a market whose quotes may be believed; the clock may say more


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool
    cell: Callable[[Value, int], str]


def _trade_cell(value: Value, name: str, show: Callable[[object], str]) -> str:
    trade = value.get("trade")
    return show(trade.get(name)) if isinstance(trade, dict) else "-"


COLUMNS = (
    Column("market", False, lambda value, now_ns: shown(value["market"], NAME_WIDTH)),
    Column("bid $", True, lambda value, now_ns: _quote(value, "bid_e4", dollars)),
    Column("contracts", True, lambda value, now_ns: _quote(value, "bid_size_e2", contracts)),
    Column("ask $", True, lambda value, now_ns: _quote(value, "ask_e4", dollars)),
    Column("contracts", True, lambda value, now_ns: _quote(value, "ask_size_e2", contracts)),
    Column("trade $", True, lambda value, now_ns: _trade_cell(value, "price_e4", dollars)),
    Column("contracts", True, lambda value, now_ns: _trade_cell(value, "count_e2", contracts)),
    Column("taker", False, lambda value, now_ns: _trade_cell(value, "taker_side", _word)),
    Column("status", False, lambda value, now_ns: _status(value, now_ns)),
    Column("age", True, lambda value, now_ns: _age(value.get("recv_ns"), now_ns)),
    Column("", False, lambda value, now_ns: _note(value)),
)


def table(values: Sequence[Value], now_ns: int) -> Iterator[str]:
    """A line for the titles, then one for each market, aligned."""
    rows = [[column.title for column in COLUMNS]]
    rows += [[column.cell(value, now_ns) for column in COLUMNS] for value in values]
    widths = [max(map(_width, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        cells = [_padded(cell, width, column.right) for cell, width, column in zip(row, widths, COLUMNS, strict=True)]
        yield "  ".join(cells).rstrip()


def block(value: Value, now_ns: int) -> Iterator[str]:
    """All that is known of one market, for people."""
    yield shown(value["market"])
    quote = " ".join(
        f"{side} {_quote(value, f'{side}_e4', dollars)} x {_quote(value, f'{side}_size_e2', contracts)}"
        for side in ("bid", "ask")
    )
    book, trade, ticker, status = (value.get(part) for part in ("book", "trade", "ticker", "status"))
    yield _line("quote", f"{quote}  {_note(value) or 'from the order book'}".rstrip(), book or ticker, now_ns)
    if isinstance(trade, dict):
        price, count, taker = dollars(trade.get("price_e4")), contracts(trade.get("count_e2")), trade.get("taker_side")
        text = f"{price} x {count}  taker {_word(taker)}  id {shown(str(trade.get('trade_id')))}"
    yield _line("trade", text if isinstance(trade, dict) else "never seen", trade, now_ns)
    if isinstance(ticker, dict):
        names = ("price", "yes_bid", "yes_ask")
        text = "  ".join(f"{name} {dollars(ticker.get(f'{name}_e4'))}" for name in names)
        text += f"  volume {contracts(ticker.get('volume_e2'))}  open {contracts(ticker.get('open_interest_e2'))}"
    yield _line("ticker", text if isinstance(ticker, dict) else "never seen", ticker, now_ns)
    if isinstance(status, dict):
        times = [(word, status.get(f"{word}_ns")) for word in ("open", "close", "determined", "settled")]
        parts = [_status(value, now_ns), *(f"{word} {show_time(ns)}" for word, ns in times if isinstance(ns, int))]
        text = "  ".join([*parts, *([f"result {shown(str(status['result']))}"] if status.get("result") else [])])
    yield _line("status", text if isinstance(status, dict) else "never seen", status, now_ns)
    yield "  prices in dollars, sizes in contracts, all for YES"


def _line(name: str, text: str, part: object, now_ns: int) -> str:
    if not isinstance(part, dict):
        return f"  {name:<7} {text}"
    return f"  {name:<7} {text}  ({_age(part.get('recv_ns'), now_ns)} ago, record {part.get('number')})"


def _quote(value: Value, name: str, show: Callable[[object], str]) -> str:
    if value.get("trouble"):
        return "?"
    return show(None if _ended_since(value) else value.get(name))


def _ended_since(value: Value) -> str | None:
    """What the exchange called the market after the ticker that the quote is from, where it is not traded so."""
    status, ticker = value.get("status"), value.get("ticker")
    if value.get("quote") != "ticker" or not isinstance(status, dict) or not isinstance(ticker, dict):
        return None
    said = status.get("status")
    later = (status.get("recv_ns") or 0) > (ticker.get("recv_ns") or 0)
    return str(said) if later and said not in TRADED else None


def _note(value: Value) -> str:
    trouble = value.get("trouble")
    if trouble:
        was = (value.get("book") or {}).get("was")
        text = f"; was {dollars(was.get('bid_e4'))} / {dollars(was.get('ask_e4'))}" if isinstance(was, dict) else ""
        return f"book not synced: {shown(str(trouble))}{text}"
    if ended := _ended_since(value):
        return f"the ticker's quote is from before it was {shown(ended)}"
    if value.get("quote") == "ticker":
        empty = value.get("bid_e4") is None and value.get("ask_e4") is None
        return "the ticker shows no quote" if empty else "quote from the ticker"
    return "" if value.get("quote") == "book" else "no quote was seen"


def _status(value: Value, now_ns: int) -> str:
    """What the exchange said, and what the clock says since: markets open and close without a message."""
    status = value.get("status")
    if not isinstance(status, dict):
        return "-"
    said, opens, closes = status.get("status"), status.get("open_ns"), status.get("close_ns")
    if said in TRADED:
        if isinstance(closes, int) and closes <= now_ns:
            return "closed (by the clock)"
        if said == "initialized" and isinstance(opens, int) and opens <= now_ns:
            return "open (by the clock)"
    return _word(said)


def _word(value: object) -> str:
    return "-" if value is None else shown(str(value))


def _age(recv_ns: object, now_ns: int) -> str:
    return show_age((now_ns - recv_ns) / 1e9) if isinstance(recv_ns, int) and recv_ns else "-"


def show_age(seconds: float) -> str:
    """A time span for people: 0.4 s, 12 s, 3 min, 5 h, 2 d."""
    seconds = max(seconds, 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, length_s, until_s in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < until_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def dollars(value_e4: object) -> str:
    """1e-4 dollars: two digits after the point, four where they are needed."""
    if not isinstance(value_e4, int):
        return "-"
    sign, whole, part = "-" if value_e4 < 0 else "", *divmod(abs(value_e4), 10_000)
    digits = f"{part:04d}"
    return f"{sign}{whole}.{digits[:2]}{digits[2:].rstrip('0')}"


def contracts(value_e2: object) -> str:
    """1e-2 contracts: no more digits than are needed."""
    if not isinstance(value_e2, int):
        return "-"
    sign, whole, part = "-" if value_e2 < 0 else "", *divmod(abs(value_e2), 100)
    digits = f"{part:02d}".rstrip("0")
    return f"{sign}{whole:,}" + (f".{digits}" if digits else "")


def shown(text: str, limit: int = 200) -> str:
    """A name as a terminal may show it: nothing in it can move the cursor, and it is not endless."""
    plain = "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def _width(text: str) -> int:
    """Cells of a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
