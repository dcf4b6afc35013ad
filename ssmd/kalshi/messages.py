"""The words of Kalshi's WebSocket protocol: channels, commands, replies, error codes.

Commands are functions that give the exact text to send. Replies are frames turned into frozen dataclasses; data
frames never come here (the decoder writes them into the ring). Not for deciding anything: `protocol` does that.

Invariants: a command that could empty a subscription or mean "all" by accident is refused before it is sent;
`parse_reply` takes any bytes and never raises, and what it does not know it leaves out.
Facts: the protocol sheet, sections 2.1 to 2.7; error texts from Kalshi's AsyncAPI of October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

import ujson

# ---- channels --------------------------------------------------------------------------------------------------------


class Selector(Enum):
    """What naming markets means for a channel."""

    REQUIRED = "required"  # a subscription must name them
    OPTIONAL = "optional"  # named, or none: then all
    IGNORED = "ignored"  # the channel carries everything, whatever is named


@dataclass(frozen=True, slots=True)
class Channel:
    """How one channel is asked for. `everything` is the list that stands for all, None = no list at all."""

    selector: Selector
    sequenced: bool
    book: bool = False
    names: str = "market_tickers"
    everything: tuple[str, ...] | None = None
    add: str = "add_markets"
    delete: str = "delete_markets"


_CF: Final = Channel(
    Selector.REQUIRED,
    sequenced=True,
    names="index_ids",
    everything=("all",),
    add="subscribe_indices",
    delete="unsubscribe_indices",
)

CHANNELS: Final[Mapping[str, Channel]] = {
    "orderbook_delta": Channel(Selector.REQUIRED, sequenced=True, book=True),
    "ticker": Channel(Selector.OPTIONAL, sequenced=False),
    "trade": Channel(Selector.OPTIONAL, sequenced=True),
    "market_lifecycle_v2": Channel(Selector.IGNORED, sequenced=True),
    "multivariate_market_lifecycle": Channel(Selector.IGNORED, sequenced=True),
    "cfbenchmarks_value": _CF,
    "cfbenchmarks_value_5hz": _CF,
    "pyth_value": Channel(
        Selector.REQUIRED,
        sequenced=True,
        names="underlying_tickers",
        everything=("all",),
        add="subscribe_underlyings",
        delete="unsubscribe_underlyings",
    ),
    "fill": Channel(Selector.OPTIONAL, sequenced=False),
    "market_positions": Channel(Selector.OPTIONAL, sequenced=False),
    "user_orders": Channel(Selector.OPTIONAL, sequenced=False),
    "order_group_updates": Channel(Selector.IGNORED, sequenced=True),
    "communications": Channel(Selector.IGNORED, sequenced=True),
}


# ---- error codes -----------------------------------------------------------------------------------------------------


class Reaction(Enum):
    """What an error code asks of us."""

    REFUSE = "refuse"  # the same command never works: record it, go on without
    SPLIT = "split"  # something in the list is wrong: halve it until the culprit stands alone
    LATER = "later"  # their trouble: the same again after a pause
    SMALLER = "smaller"  # a limit: less at once, after a pause
    RESUBSCRIBE = "resubscribe"  # the subscription is gone: make it anew


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row of the exchange's table. `terminal`: the sid sends nothing any more."""

    code: int
    text: str
    reaction: Reaction = Reaction.REFUSE
    terminal: bool = False

    @property
    def retry(self) -> bool:
        """Whether trying again, in some way, is worth it."""
        return self.reaction is not Reaction.REFUSE


ERROR_CODES: Final[Mapping[int, ErrorCode]] = {
    row.code: row
    for row in (
        ErrorCode(1, "Unable to process message"),
        ErrorCode(2, "Params required"),
        ErrorCode(3, "Channels required"),
        ErrorCode(4, "Subscription IDs required"),
        ErrorCode(5, "Unknown command"),
        ErrorCode(6, "Already subscribed"),  # retired: markets are merged now
        ErrorCode(7, "Unknown subscription ID", Reaction.RESUBSCRIBE),
        ErrorCode(8, "Unknown channel name"),
        ErrorCode(9, "Authentication required"),
        ErrorCode(10, "Channel error", Reaction.RESUBSCRIBE, terminal=True),
        ErrorCode(11, "Invalid parameter", Reaction.SPLIT),
        ErrorCode(12, "Exactly one subscription ID is required"),
        ErrorCode(13, "Unsupported action"),
        ErrorCode(14, "Market Ticker required"),
        ErrorCode(15, "Action required"),
        ErrorCode(16, "Market not found", Reaction.SPLIT),  # retired
        ErrorCode(17, "Internal error", Reaction.LATER),  # retired
        ErrorCode(18, "Command timeout", Reaction.LATER),
        ErrorCode(19, "shard_factor must be > 0"),
        ErrorCode(20, "shard_factor required when shard_key set"),
        ErrorCode(21, "shard_key must be >= 0 and < shard_factor"),
        ErrorCode(22, "shard_factor must be <= 100"),
        ErrorCode(23, "Match IDs required"),
        ErrorCode(24, "Index IDs required"),
        ErrorCode(25, "Subscription buffer overflow", Reaction.RESUBSCRIBE, terminal=True),
        ErrorCode(26, "Subscription market limit exceeded", Reaction.SMALLER),
        ErrorCode(27, "Too many requests", Reaction.SMALLER),
        ErrorCode(28, "Underlying tickers required"),
    )
}

CHANNEL_ERROR: Final = 10
AUTHENTICATION_REQUIRED: Final = 9
BUFFER_OVERFLOW: Final = 25
MARKET_LIMIT: Final = 26
LARGEST_SID: Final = 2**32 - 1  # that a record can name
WORDS_CHARS: Final = 300  # of an error's words that are repeated in logs and records; the frame keeps them all


def error_code(code: int) -> ErrorCode:
    """The row of a code; one that is not in the table is refused like most that are."""
    return ERROR_CODES.get(code) or ErrorCode(code, "Unknown error code")


# ---- commands --------------------------------------------------------------------------------------------------------


def subscribe(
    command_id: int,
    channel: str,
    tickers: Sequence[str] | None,
    *,
    use_yes_price: bool = True,
    send_initial_snapshot: bool = False,
    skip_ticker_ack: bool = False,
) -> bytes:
    """Asks for one channel. `tickers` None = all of it, where the channel can say so.

    `use_yes_price` goes with orderbook_delta only, and always: its default is announced to change.
    `send_initial_snapshot` goes with ticker only.
    """
    rule = CHANNELS[channel]
    params: dict[str, Any] = {"channels": [channel]}
    if tickers is None:
        if rule.everything is not None:
            params[rule.names] = list(rule.everything)
        elif rule.selector is Selector.REQUIRED:
            raise ValueError(f"{channel} needs market tickers")
    elif rule.selector is not Selector.IGNORED:
        params[rule.names] = _named(tickers)
    if rule.book:
        params["use_yes_price"] = use_yes_price
    if channel == "ticker" and send_initial_snapshot:
        params["send_initial_snapshot"] = True
    if skip_ticker_ack:
        params["skip_ticker_ack"] = True
    return _command(command_id, "subscribe", params)


def add_markets(command_id: int, channel: str, sid: int, tickers: Sequence[str]) -> bytes:
    """Adds markets to a subscription in place; the others go on undisturbed."""
    return _update(command_id, sid, CHANNELS[channel].add, CHANNELS[channel].names, tickers)


def delete_markets(command_id: int, channel: str, sid: int, tickers: Sequence[str]) -> bytes:
    """Takes markets out of a subscription. Never the last ones: a subscription without markets can mean all."""
    return _update(command_id, sid, CHANNELS[channel].delete, CHANNELS[channel].names, tickers)


def get_snapshot(command_id: int, sid: int, tickers: Sequence[str]) -> bytes:
    """Asks for the whole book of each market, in the sequence of the deltas. orderbook_delta only."""
    return _update(command_id, sid, "get_snapshot", "market_tickers", tickers)


def unsubscribe(command_id: int, sids: Sequence[int]) -> bytes:
    if not sids:
        raise ValueError("no sid to unsubscribe from")
    return _command(command_id, "unsubscribe", {"sids": list(sids)})


def list_subscriptions(command_id: int) -> bytes:
    return _command(command_id, "list_subscriptions", None)


def _update(command_id: int, sid: int, action: str, names: str, tickers: Sequence[str]) -> bytes:
    if sid < 1:
        raise ValueError(f"sid {sid} is not a subscription")
    return _command(command_id, "update_subscription", {"sids": [sid], "action": action, names: _named(tickers)})


def _named(tickers: Sequence[str]) -> list[str]:
    if not tickers:
        raise ValueError("an empty list of tickers has another meaning to the exchange")
    return list(tickers)


def _command(command_id: int, name: str, params: dict[str, Any] | None) -> bytes:
    if command_id < 1:
        raise ValueError("ids count from 1: the exchange takes 0 for none")
    command: dict[str, Any] = {"id": command_id, "cmd": name}
    if params is not None:
        command["params"] = params
    return ujson.dumps(command, ensure_ascii=False, escape_forward_slashes=False).encode()


# ---- replies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A channel was subscribed to; its messages carry `sid`. `id` 0 = the reply names no command."""

    id: int
    sid: int
    channel: str


@dataclass(frozen=True, slots=True)
class Ok:
    """A command was done.

    `tickers`: the markets of the subscription afterwards, None = not told. `subscriptions`: the answer to
    list_subscriptions as (channel, sid), None = this is no such answer.
    """

    id: int
    sid: int = 0
    seq: int = 0
    tickers: tuple[str, ...] | None = None
    subscriptions: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """A sid ended."""

    id: int
    sid: int
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Error:
    """Something was refused or went wrong; without id and sid nobody can say what."""

    id: int
    code: int
    message: str
    sid: int = 0
    seq: int = 0
    tickers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.code} {self.message or error_code(self.code).text}"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame that is no reply that we know. `type` is as sent, "" = it has none."""

    type: str


Reply: TypeAlias = Subscribed | Ok | Unsubscribed | Error | Unknown


def parse_reply(frame: bytes) -> Reply:
    """What a reply says. Fields that are absent or of another type are 0, "" or None."""
    try:
        value = ujson.loads(frame)
    except (ValueError, RecursionError, OverflowError):
        return Unknown("")
    if not isinstance(value, dict):
        return Unknown("")
    type_, body = value.get("type"), value.get("msg")
    fields = body if isinstance(body, dict) else {}
    command_id, sid, seq = (_number(value.get(key)) for key in ("id", "sid", "seq"))
    if type_ == "subscribed":
        return Subscribed(command_id, _sid(fields.get("sid")) or sid, _text(fields.get("channel")))
    if type_ == "ok":
        # Until February 2026 market_tickers stood at top level.
        tickers = _texts(fields.get("market_tickers", value.get("market_tickers")))
        return Ok(command_id, sid, seq, tickers, _pairs(body))
    if type_ == "unsubscribed":
        return Unsubscribed(command_id, sid or _sid(fields.get("sid")), seq)
    if type_ == "error":
        named = _texts(fields.get("market_tickers")) or _texts([fields.get("market_ticker")]) or ()
        return Error(command_id, _number(fields.get("code")), _text(fields.get("msg"))[:WORDS_CHARS], sid, seq, named)
    return Unknown(_text(type_))


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _sid(value: object) -> int:
    number = _number(value)
    return number if number <= LARGEST_SID else 0


def _text(value: object) -> str:
    """JSON can spell half a surrogate pair, which no UTF-8 has: ? stands for it."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _texts(value: object) -> tuple[str, ...] | None:
    """A list of texts; None where it is no list, or none of its elements is a text although it has some."""
    if not isinstance(value, list):
        return None
    texts = tuple(_text(item) for item in value if isinstance(item, str))
    return texts if texts or not value else None


def _pairs(value: object) -> tuple[tuple[str, int], ...] | None:
    if not isinstance(value, list):
        return None
    items = (item for item in value if isinstance(item, dict))
    pairs = ((_text(item.get("channel")), _sid(item.get("sid"))) for item in items)
    return tuple(pair for pair in pairs if all(pair))
