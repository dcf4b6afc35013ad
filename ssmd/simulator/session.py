"""One client's view of the exchange: commands in, frames out. Pure: no socket, no clock.

Rules kept here (protocol facts 2.1 to 2.7): sids count from 1 in the order of the replies; one sid a
channel; subscribing again merges and is answered `ok`; seq counts from 1 for each sid over all its
markets, and `ok`, `error`, `unsubscribed` and snapshots use numbers too; ticker and the private
channels of single users have none; a market's delta never goes before its own snapshot; snapshots
come one a market, other markets' deltas between them; get_snapshot answers carry the command's id.

An error that belongs to a subscription carries sid (and seq) and, as seen on the wire, no id.

Frames are appended to `out` as text; `take` hands them over. `Fragmented` text is to leave in several
WebSocket fragments. Faults that change frames are done here, because only here the numbers are known.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from ssmd.simulator import render
from ssmd.simulator.books import DOLLAR_E4, NO, SIDES, YES, Book
from ssmd.simulator.catalogue import Market
from ssmd.simulator.exchange import BookChange, BookReset, Happening, IndexValue, Lifecycle, Quote, Trade, quote
from ssmd.simulator.faults import Armed
from ssmd.simulator.render import Format, compact


@dataclass(frozen=True, slots=True)
class Channel:
    """What the rules say about a channel."""

    sequenced: bool
    filter: str  # "markets" (required), "markets?" (optional: none = all), "indices", "none"


CHANNELS: dict[str, Channel] = {
    "orderbook_delta": Channel(True, "markets"),
    "ticker": Channel(False, "markets?"),
    "trade": Channel(True, "markets?"),
    "fill": Channel(False, "markets?"),
    "market_positions": Channel(False, "markets?"),
    "user_orders": Channel(False, "markets?"),
    "market_lifecycle_v2": Channel(True, "none"),
    "multivariate_market_lifecycle": Channel(True, "none"),
    "communications": Channel(True, "none"),
    "order_group_updates": Channel(True, "none"),
    "cfbenchmarks_value": Channel(True, "indices"),
    "cfbenchmarks_value_5hz": Channel(True, "indices"),
    "pyth_value": Channel(True, "indices"),
}
PAID = frozenset({"pyth_value"})  # error 9 unless allowed
INDICES = ("BRTI", "ETHUSD_RTI")

ERRORS: dict[int, str] = {
    1: "Unable to process message",
    2: "Params required",
    3: "Channels required",
    4: "Subscription IDs required",
    5: "Unknown command",
    7: "Unknown subscription ID",
    8: "Unknown channel name",
    9: "Authentication required",
    10: "Channel error",
    11: "Invalid parameter",
    12: "Exactly one subscription ID is required",
    13: "Unsupported action",
    14: "Market Ticker required",
    15: "Action required",
    19: "shard_factor must be > 0",
    20: "shard_factor required when shard_key set",
    21: "shard_key must be >= 0 and < shard_factor",
    22: "shard_factor must be <= 100",
    24: "Index IDs required",
    25: "Subscription buffer overflow",
    26: "Subscription market limit exceeded",
    27: "Too many requests",
    28: "Underlying tickers required",
}

SWAP_WAIT_MS = 500
COMMANDS_PER_S = 10_000


class Fragmented(str):
    """A frame that is to leave in several WebSocket fragments."""

    __slots__ = ()


class View(Protocol):
    """What a session sees of the exchange."""

    def market(self, ticker: str) -> Market | None: ...

    def market_of_id(self, market_id: str) -> Market | None: ...

    def tickers(self) -> Iterable[str]: ...

    def book(self, market: Market) -> Book:
        """The book as it stands after everything that was published to the session."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Settings of the server that a session needs."""

    format: Format = Format.NEW
    sending_ts: bool = True
    market_limit: int = 500_000  # markets of all subscriptions of a session
    paid: bool = False  # whether the paid feeds are allowed
    silent: bool = False  # no market data of our own: frames come from a file


@dataclass(slots=True, eq=False)
class Subscription:
    """One sid. `markets` keeps the order of the client; None means all."""

    sid: int
    channel: str
    sequenced: bool
    markets: dict[str, None] | None = None
    indices: dict[str, None] = field(default_factory=dict)
    yes_price: bool = False
    short_ack: bool = False
    seq: int = 0
    pending: dict[str, None] = field(default_factory=dict)  # markets whose first snapshot is due

    def number(self) -> str:
        """The next `,"seq":N`, or nothing on a channel without numbers."""
        if not self.sequenced:
            return ""
        self.seq += 1
        return f',"seq":{self.seq}'


class CommandError(Exception):
    """A command that is answered with an error; with `subscription` it is scoped to that sid."""

    def __init__(self, code: int, subscription: Subscription | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.subscription = subscription


Params = dict[str, object]


class Session:
    """The state of one client connection above the WebSocket."""

    def __init__(self, view: View, terms: Terms) -> None:
        self._view = view
        self._terms = terms
        self.format = terms.format
        self.armed = Armed()
        self.subscriptions: dict[str, Subscription] = {}  # by channel
        self.version = 0  # counts changes of what is subscribed
        self.notes: list[dict[str, object]] = []  # faults done to frames, for the ledger
        self._next_sid = 1
        self._out: list[str] = []
        self._command: tuple[dict[str, object], int] | None = None  # held back: (command, until ms)
        self._late: deque[tuple[int, str]] = deque()  # (due ms, frame without its end)
        self._second = 0
        self._commands = 0
        self._commands_table: dict[str, Callable[[int, Params, int], None]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "update_subscription": self._update,
            "list_subscriptions": self._list,
        }

    # ---- from the outside

    def take(self) -> list[str]:
        """The frames since the last call, in order."""
        out, self._out = self._out, []
        return out

    @property
    def subscribed(self) -> bool:
        return bool(self.subscriptions)

    def receive(self, text: str, now_ms: int) -> None:
        """One text frame of the client."""
        try:
            command = json.loads(text)
        except ValueError:
            return self._error(0, 1, now_ms)
        if not isinstance(command, dict):
            return self._error(0, 1, now_ms)
        if self.armed.swap and self._command is None:
            self.armed.swap -= 1
            self._command = (command, now_ms + SWAP_WAIT_MS)
            return None
        self._execute(command, now_ms)
        self._release(now_ms, forced=True)
        return None

    def publish(self, happening: Happening, now_ms: int) -> None:
        """Tells the client what happened, if it asked for that."""
        match happening:
            case BookChange():
                self._publish_change(happening, now_ms)
            case Trade():
                sub = self._wanting("trade", happening.market)
                if sub:
                    body = render.trade(happening, self.format) + render.trade_time(happening.ts_us, self.format)
                    self._data(sub, "trade", body, now_ms)
            case Quote():
                sub = self._wanting("ticker", happening.market)
                if sub:
                    self._publish_quote(sub, happening, now_ms)
            case BookReset():
                sub = self._wanting("orderbook_delta", happening.market)
                if sub and happening.market.ticker not in sub.pending:
                    self._snapshot(sub, happening.market.ticker, now_ms)
            case Lifecycle():
                sub = self.subscriptions.get("market_lifecycle_v2")
                if sub:
                    self._data(sub, happening.kind, render.lifecycle(happening), now_ms)
            case IndexValue():
                for channel in ("cfbenchmarks_value", "cfbenchmarks_value_5hz"):
                    sub = self.subscriptions.get(channel)
                    if channel == "cfbenchmarks_value" and not happening.full_second:
                        continue
                    if sub and (happening.index_id in sub.indices or "all" in sub.indices):
                        self._data(sub, channel, render.index_value(happening, channel), now_ms)

    def pump(self, now_ms: int) -> bool:
        """A share of the snapshots that are due, and held replies whose time has come. True: there is more."""
        self._release(now_ms, forced=False)
        while self._late and self._late[0][0] <= now_ms:
            self._send(self._late.popleft()[1], now_ms)
        return any(self._pump_first(sub, now_ms) for sub in self.subscriptions.values() if sub.pending)

    def _pump_first(self, sub: Subscription, now_ms: int) -> bool:
        for ticker in list(islice(sub.pending, max(8, len(sub.pending) // 16))):
            del sub.pending[ticker]
            market = self._view.market(ticker)
            if sub.channel == "orderbook_delta":
                self._snapshot(sub, ticker, now_ms)
            elif market:
                self._publish_quote(sub, quote(market), now_ms)
        if not sub.pending:
            self.version += 1
        return bool(sub.pending)

    def verbatim(self, text: str) -> None:
        """Sends a frame from a file as it is; only faults that keep its bytes touch it."""
        if self.armed.drop:
            self.armed.drop -= 1
            self._note("seq_gap")
            return
        if self.armed.fragment:
            self.armed.fragment -= 1
            text = Fragmented(text)
        self._out.append(text)
        if self.armed.repeat:
            self.armed.repeat -= 1
            self._out.append(text)

    def end(self, channel: str, code: int, now_ms: int) -> None:
        """A terminal error: the sid is dead, the client has to subscribe again."""
        sub = self.subscriptions.pop(channel)
        self.version += 1
        self._scoped_error(sub, code, now_ms)

    # ---- commands

    def _execute(self, command: dict[str, object], now_ms: int) -> None:
        identity = command.get("id", 0)
        if not isinstance(identity, int) or isinstance(identity, bool) or identity < 0:
            return self._error(0, 1, now_ms)
        if now_ms // 1000 != self._second:
            self._second, self._commands = now_ms // 1000, 0
        self._commands += 1
        if self._commands > COMMANDS_PER_S:
            return self._error(identity, 27, now_ms)
        name = command.get("cmd")
        action = self._commands_table.get(name) if isinstance(name, str) else None
        if action is None:
            return self._error(identity, 5, now_ms)
        params = command.get("params")
        if name == "list_subscriptions":
            params = {}
        if not isinstance(params, dict):
            return self._error(identity, 2, now_ms)
        try:
            action(identity, params, now_ms)
        except CommandError as error:
            if error.subscription:
                self._scoped_error(error.subscription, error.code, now_ms)
            else:
                self._error(identity, error.code, now_ms)
        return None

    def _release(self, now_ms: int, *, forced: bool) -> None:
        """Carries out the command that was held back, once another went before it or its time is up."""
        if self._command and (forced or now_ms >= self._command[1]):
            command, self._command = self._command[0], None
            self._execute(command, now_ms)

    def _subscribe(self, identity: int, params: Params, now_ms: int) -> None:
        names = params.get("channels")
        if not isinstance(names, list) or not names:
            raise CommandError(3)
        if any(name not in CHANNELS for name in names):
            raise CommandError(8)
        wanted = [(name, *self._filter(name, params)) for name in dict.fromkeys(names)]
        self._check_limit(wanted)
        for name, markets, indices in wanted:
            held = self.subscriptions.get(name)
            if held:
                self._merge(held, markets, indices, params, now_ms)
                self._ok(identity, held, now_ms)
            else:
                self._open(identity, name, markets, indices, params, now_ms)

    def _filter(self, name: str, params: Params) -> tuple[dict[str, None] | None, dict[str, None]]:
        """(markets, indices) of a subscribe for one channel, or the error that it deserves."""
        if name in PAID and not self._terms.paid:
            raise CommandError(9)
        rule = CHANNELS[name].filter
        if rule == "indices":
            indices = _strings(params.get("underlying_tickers" if name == "pyth_value" else "index_ids"))
            if not indices:
                raise CommandError(28 if name == "pyth_value" else 24)
            return None, indices
        if name == "communications":
            _check_shard(params)
        if rule == "none":
            return None, {}
        markets = self._markets(params, ids=name == "ticker")
        if rule == "markets" and not markets:
            raise CommandError(14)
        return markets, {}

    def _markets(self, params: Params, *, ids: bool) -> dict[str, None] | None:
        """The markets that a command names, by ticker, or by id where the channel knows ids; None: it names none."""
        given = [key for key in ("market_ticker", "market_tickers", "market_id", "market_ids") if params.get(key)]
        if len(given) > 1:
            raise CommandError(11)
        if not given:
            return None
        value = params[given[0]]
        names = _strings([value] if given[0] in ("market_ticker", "market_id") else value)
        if given[0].startswith("market_id"):
            if not ids:
                raise CommandError(11)
            found = (self._view.market_of_id(name) for name in names)
            return {market.ticker: None for market in found if market}
        return names

    def _check_limit(self, wanted: Iterable[tuple[str, dict[str, None] | None, dict[str, None]]]) -> None:
        held = sum(len(sub.markets or ()) for sub in self.subscriptions.values())
        if held + sum(len(markets or ()) for _, markets, _ in wanted) > self._terms.market_limit:
            raise CommandError(26)

    def _open(
        self,
        identity: int,
        name: str,
        markets: dict[str, None] | None,
        indices: dict[str, None],
        params: Params,
        now_ms: int,
    ) -> None:
        sub = Subscription(self._next_sid, name, CHANNELS[name].sequenced, markets, indices)
        sub.yes_price = params.get("use_yes_price") is True
        sub.short_ack = params.get("skip_ticker_ack") is True
        self._next_sid += 1
        self.subscriptions[name] = sub
        self.version += 1
        reply = f'{{"type":"subscribed"{_id(identity)},"msg":{{"channel":"{name}","sid":{sub.sid}}}'
        if self.armed.late:
            self.armed.late -= 1
            self._late.append((now_ms + self.armed.late_ms, reply))
        else:
            self._send(reply, now_ms)
        self._first(sub, markets or {}, params, now_ms)

    def _merge(
        self,
        sub: Subscription,
        markets: dict[str, None] | None,
        indices: dict[str, None],
        params: Params,
        now_ms: int,
    ) -> None:
        """Adds to a subscription; the new markets' snapshots follow after the reply."""
        sub.indices |= indices
        sub.short_ack = sub.short_ack or params.get("skip_ticker_ack") is True
        if markets is None:
            if CHANNELS[sub.channel].filter == "markets?":
                sub.markets = None
        elif sub.markets is not None:
            new = {name: None for name in markets if name not in sub.markets}
            sub.markets |= new
            self._first(sub, new, params, now_ms)
        self.version += 1

    def _first(self, sub: Subscription, markets: dict[str, None], params: Params, now_ms: int) -> None:
        """What new markets are to get first, by `pump`: books always, tickers if asked for."""
        if self._terms.silent:
            return
        if sub.channel == "orderbook_delta":
            sub.pending |= markets
        elif sub.channel == "ticker" and params.get("send_initial_snapshot") is True:
            sub.pending |= markets if sub.markets is not None else dict.fromkeys(self._view.tickers())

    def _unsubscribe(self, identity: int, params: Params, now_ms: int) -> None:
        sids = params.get("sids")
        if not isinstance(sids, list) or not sids:
            raise CommandError(4)
        for sid in sids:
            sub = self._of_sid(sid)
            if sub is None:
                self._error(identity, 7, now_ms)
                continue
            del self.subscriptions[sub.channel]
            self.version += 1
            self._send(f'{{"type":"unsubscribed"{_id(identity)},"sid":{sub.sid}{sub.number()}', now_ms)

    def _update(self, identity: int, params: Params, now_ms: int) -> None:
        sub = self._one(params)
        action = params.get("action")
        if not isinstance(action, str) or not action:
            raise CommandError(15, sub)
        if action == "get_snapshot":
            return self._get_snapshot(identity, sub, params, now_ms)
        if action in ("add_markets", "delete_markets"):
            if not CHANNELS[sub.channel].filter.startswith("markets"):
                raise CommandError(13, sub)
            try:
                markets = self._markets(params, ids=sub.channel == "ticker")
            except CommandError as error:
                raise CommandError(error.code, sub) from None
            if not markets:
                raise CommandError(14, sub)
            if action == "add_markets":
                held = sum(len(each.markets or ()) for each in self.subscriptions.values())
                if held + len(markets) > self._terms.market_limit:
                    raise CommandError(26, sub)
                self._merge(sub, markets, {}, params, now_ms)
            else:
                self._delete(sub, markets)
            return self._ok(identity, sub, now_ms)
        return self._update_indices(identity, sub, action, params, now_ms)

    def _one(self, params: Params) -> Subscription:
        """The subscription that an update names, by exactly one of sid and sids."""
        sid, sids = params.get("sid"), params.get("sids")
        if sids is not None:
            if sid is not None or not isinstance(sids, list) or len(sids) != 1:
                raise CommandError(12)
            sid = sids[0]
        if sid is None:
            raise CommandError(12)
        sub = self._of_sid(sid)
        if sub is None:
            raise CommandError(7)
        return sub

    def _of_sid(self, sid: object) -> Subscription | None:
        return next((sub for sub in self.subscriptions.values() if sub.sid == sid), None)

    def _delete(self, sub: Subscription, markets: dict[str, None]) -> None:
        """Takes markets out. A filtered ticker or trade channel whose last market goes means all markets."""
        if sub.markets is not None:
            for name in markets:
                sub.markets.pop(name, None)
                sub.pending.pop(name, None)
            if not sub.markets and CHANNELS[sub.channel].filter == "markets?":
                sub.markets = None
        self.version += 1

    def _get_snapshot(self, identity: int, sub: Subscription, params: Params, now_ms: int) -> None:
        if sub.channel != "orderbook_delta":
            raise CommandError(13, sub)
        try:
            markets = self._markets(params, ids=False)
        except CommandError as error:
            raise CommandError(error.code, sub) from None
        if not markets:
            return self._ok(identity, sub, now_ms)
        for name in markets:
            self._snapshot(sub, name, now_ms, identity)
        return None

    def _update_indices(self, identity: int, sub: Subscription, action: str, params: Params, now_ms: int) -> None:
        paid = sub.channel == "pyth_value"
        actions = (
            ("subscribe_underlyings", "unsubscribe_underlyings", "underlying_list")
            if paid
            else ("subscribe_indices", "unsubscribe_indices", "indexlist")
        )
        if CHANNELS[sub.channel].filter != "indices" or action not in actions:
            raise CommandError(13, sub)
        if action == actions[2]:
            kind = "pyth_value_underlying_list" if paid else f"{sub.channel}_indexlist"
            body = compact({"underlying_tickers" if paid else "index_ids": list(INDICES)})
            self._send(f'{{"type":"{kind}"{_id(identity)},"sid":{sub.sid}{sub.number()},"msg":{body}', now_ms)
            return
        names = _strings(params.get("underlying_tickers" if paid else "index_ids"))
        if not names:
            raise CommandError(28 if paid else 24, sub)
        for name in names:
            if action == actions[0]:
                sub.indices[name] = None
            else:
                sub.indices.pop(name, None)
        self._ok(identity, sub, now_ms)

    def _list(self, identity: int, _params: Params, now_ms: int) -> None:
        held = [{"channel": sub.channel, "sid": sub.sid} for sub in self.subscriptions.values()]
        self._send(f'{{"type":"ok"{_id(identity)},"msg":{compact(held)}', now_ms)

    # ---- replies

    def _ok(self, identity: int, sub: Subscription, now_ms: int) -> None:
        if CHANNELS[sub.channel].filter == "indices":
            body = compact({"index_ids": list(sub.indices)})
        elif sub.short_ack:
            body = "{}"
        elif self.format is Format.NEW:
            body = compact({"market_tickers": list(sub.markets or ())})
        else:  # until February 2026 the list stood at top level
            tickers = compact(list(sub.markets or ()))
            self._send(f'{{"type":"ok"{_id(identity)},"sid":{sub.sid}{sub.number()},"market_tickers":{tickers}', now_ms)
            return
        self._send(f'{{"type":"ok"{_id(identity)},"sid":{sub.sid}{sub.number()},"msg":{body}', now_ms)

    def _error(self, identity: int, code: int, now_ms: int) -> None:
        body = compact({"code": code, "msg": ERRORS[code]})
        self._send(f'{{"type":"error"{_id(identity)},"msg":{body}', now_ms)

    def _scoped_error(self, sub: Subscription, code: int, now_ms: int) -> None:
        body = compact({"code": code, "msg": ERRORS[code]})
        self._send(f'{{"type":"error","sid":{sub.sid}{sub.number()},"msg":{body}', now_ms)

    # ---- data

    def _wanting(self, channel: str, market: Market) -> Subscription | None:
        sub = self.subscriptions.get(channel)
        if sub and (sub.markets is None or market.ticker in sub.markets):
            return sub
        return None

    def _publish_change(self, change: BookChange, now_ms: int) -> None:
        sub = self._wanting("orderbook_delta", change.market)
        if sub and change.market.ticker not in sub.pending:
            body = render.delta(change, self.format, yes_price=sub.yes_price)
            self._data(sub, "orderbook_delta", body + render.delta_time(change.ts_us, self.format), now_ms)

    def _publish_quote(self, sub: Subscription, happening: Quote, now_ms: int) -> None:
        body = render.ticker(happening, self.format) + render.ticker_time(happening.ts_us, self.format)
        self._data(sub, "ticker", body, now_ms)

    def _snapshot(self, sub: Subscription, ticker: str, now_ms: int, identity: int = 0) -> None:
        market = self._view.market(ticker)
        book = self._view.book(market) if market else Book()
        body = render.snapshot(market, ticker, book, self.format, yes_price=sub.yes_price)
        head = f'{{"type":"orderbook_snapshot"{_id(identity)},"sid":{sub.sid}{sub.number()}'
        self._send(f'{head},"msg":{body}', now_ms)

    def _data(self, sub: Subscription, kind: str, body: str, now_ms: int) -> None:
        armed = self.armed
        if not armed.frames:
            self._send(f'{{"type":"{kind}","sid":{sub.sid}{sub.number()},"msg":{body}', now_ms)
            return
        number = sub.number()
        target = sub.sequenced and (sub.channel == "orderbook_delta" or "orderbook_delta" not in self.subscriptions)
        if armed.drop and target:
            armed.drop -= 1
            self._note("seq_gap", sub)
            return
        tail = ""
        if armed.strange:
            armed.strange -= 1
            body = f'{{"simulated_field":{{"deep":[1,null,"x"]}},{body[1:]}'
            tail = ',"simulated_top":true'
        text: str = f'{{"type":"{kind}","sid":{sub.sid}{number},"msg":{body}{tail}{self._end(now_ms)}'
        if armed.fragment:
            armed.fragment -= 1
            text = Fragmented(text)
        self._out.append(text)
        if armed.repeat and target:
            armed.repeat -= 1
            self._note("duplicate", sub)
            self._out.append(text)

    def _send(self, head: str, now_ms: int) -> None:
        self._out.append(head + self._end(now_ms))

    def _end(self, now_ms: int) -> str:
        return f',"sending_ts_ms":{now_ms}}}\n' if self._terms.sending_ts else "}\n"

    def _note(self, fault: str, sub: Subscription | None = None) -> None:
        self.notes.append({"name": fault} | ({"sid": sub.sid, "seq": sub.seq} if sub else {}))

    # ---- faults that are frames of their own

    def inject(self, name: str, argument: str, now_ms: int) -> bool:
        """Does a fault of scope SESSION or COMMAND; False: not possible now (nothing suitable subscribed)."""
        armed = self.armed
        match name:
            case "seq_gap":
                armed.drop += int(argument)
            case "duplicate":
                armed.repeat += int(argument)
            case "unknown_field":
                armed.strange += int(argument)
            case "fragmented":
                armed.fragment += int(argument)
            case "reorder_acks":
                armed.swap += 1
            case "ack_late":
                armed.late, armed.late_ms = armed.late + 1, int(float(argument) * 1000)
            case "old_format":
                self.format = Format(argument)
                self.version += 1
            case "error_10" | "error_25":
                return self._inject_end(argument, int(name[6:]), now_ms)
            case "bad_json":
                self._out.append('{"type":"orderbook_delta","sid":1,"seq":7,"msg":{"market_ticker":\n')
            case "unknown_type" | "huge_frame":
                return self._inject_strange(name, argument, now_ms)
            case "negative_level" | "unknown_market_delta":
                return self._inject_delta(name, now_ms)
            case _:
                raise ValueError(name)
        return True

    def _sequenced(self, channel: str = "") -> Subscription | None:
        """The subscription that a fault is done to: the named one, else books, else any with numbers."""
        if channel:
            return self.subscriptions.get(channel)
        books = self.subscriptions.get("orderbook_delta")
        return books or next((sub for sub in self.subscriptions.values() if sub.sequenced), None)

    def _inject_end(self, channel: str, code: int, now_ms: int) -> bool:
        sub = self._sequenced(channel) or next(iter(self.subscriptions.values()), None)
        if sub is None:
            return False
        self.end(sub.channel, code, now_ms)
        return True

    def _inject_strange(self, name: str, argument: str, now_ms: int) -> bool:
        sub = self._sequenced()
        if sub is None:
            return False
        if name == "unknown_type":
            self._send(f'{{"type":{compact(argument)},"sid":{sub.sid}{sub.number()},"msg":{{"value":1}}', now_ms)
            return True
        head = f'{{"type":"simulated_padding","sid":{sub.sid}{sub.number()},"msg":{{"padding":"'
        tail = '"}' + self._end(now_ms)
        self._out.append(head + "x" * max(0, int(argument) - len(head) - len(tail)) + tail)
        return True

    def _inject_delta(self, name: str, now_ms: int) -> bool:
        sub = self.subscriptions.get("orderbook_delta")
        if sub is None:
            return False
        if name == "unknown_market_delta":
            ticker, market_id = "KXNEVERSEEN-26DEC31-T1.5", "00000000-0000-4000-8000-000000000001"
            price, change, side = 5_000, 100, YES
        else:
            market = self._with_levels(sub)
            if market is None:
                return False
            book = self._view.book(market)
            side = YES if book.ladders[YES] else NO
            price = book.best_e4[side]
            ticker, market_id, change = market.ticker, market.market_id, -book.ladders[side][price] - 500
            if sub.yes_price and side == NO and self.format is not Format.OLD:
                price = DOLLAR_E4 - price
        body = render.delta_fields(ticker, market_id, price, change, SIDES[side], self.format)
        body += render.delta_time(now_ms * 1000, self.format)
        self._send(f'{{"type":"orderbook_delta","sid":{sub.sid}{sub.number()},"msg":{body}', now_ms)
        return True

    def market_with_levels(self) -> Market | None:
        """A market whose book the client has, and in which there is something."""
        sub = self.subscriptions.get("orderbook_delta")
        return self._with_levels(sub) if sub else None

    def _with_levels(self, sub: Subscription) -> Market | None:
        for name in sub.markets or ():
            market = self._view.market(name)
            if market and name not in sub.pending and any(self._view.book(market).ladders):
                return market
        return None


def _id(identity: int) -> str:
    return f',"id":{identity}' if identity else ""


def _strings(value: object) -> dict[str, None]:
    """A list of strings as an ordered set; error 11 for anything else, nothing for an absent one."""
    if value is None:
        return {}
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CommandError(11)
    return dict.fromkeys(value)


def _check_shard(params: Params) -> None:
    factor, key = params.get("shard_factor"), params.get("shard_key")
    if factor is None:
        if key is not None:
            raise CommandError(20)
        return
    if not isinstance(factor, int) or factor <= 0:
        raise CommandError(19)
    if factor > 100:
        raise CommandError(22)
    if not isinstance(key, int) or not 0 <= key < factor:
        raise CommandError(21)
