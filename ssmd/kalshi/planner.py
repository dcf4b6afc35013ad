"""From the subscriptions of an environment to what each connection asks for, and from one such plan to the next.

    subscriptions --needs--> what REST must look up --plan--> Plan: per connection, channel -> markets or ALL
    (held, want) --next_step--> subscribe · add · delete · unsubscribe, one batch at a time

Pure: what was looked up comes in as `Resolved`, and the same input gives the same plan. Not for talking to anyone.

Invariants: a limit that cannot hold all markets is an error in words, never a shorter list. A subscription is never
emptied by deletes, for one without markets can mean all markets; and a plan without markets is no subscription at all.
Markets stay on the connection where they are when a plan is made with the previous one at hand.
Facts: the protocol sheet, sections 1.4 and 2.1 to 2.3.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, Protocol, TypeAlias

from ssmd.errors import UsageError
from ssmd.kalshi.messages import CHANNELS, Selector

COMMAND_BATCH: Final = 1000  # tickers in one command
MAX_SUBSCRIPTIONS: Final = 500_000  # markets x channels of one connection: the exchange's limit since June 2026
MAX_CONNECTIONS: Final = 200  # of one account, documented default; Basic has fewer


class All(Enum):
    """Every market of a channel, those to come included."""

    ALL = "all"


ALL: Final = All.ALL
Markets: TypeAlias = tuple[str, ...] | Literal[All.ALL]


class Subscription(Protocol):
    """One entry of the environment's `subscriptions`: channels, and one of the four ways to name markets."""

    @property
    def channels(self) -> Sequence[str]: ...
    @property
    def markets(self) -> Sequence[str]: ...
    @property
    def series(self) -> Sequence[str]: ...
    @property
    def events(self) -> Sequence[str]: ...
    @property
    def all(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be looked up by REST before `plan` can answer."""

    series: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    open_markets: bool = False


@dataclass(frozen=True, slots=True)
class Resolved:
    """What was looked up: market tickers by series, by event, and of all open markets (None = not asked)."""

    series: Mapping[str, Collection[str]] = field(default_factory=dict)
    events: Mapping[str, Collection[str]] = field(default_factory=dict)
    open_markets: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class ConnectionPlan:
    """What one connection asks for: channel -> sorted tickers, or ALL. No channel has an empty tuple."""

    channels: Mapping[str, Markets] = field(default_factory=dict)

    @property
    def tickers(self) -> frozenset[str]:
        """Every ticker that is named on any channel."""
        return frozenset(t for markets in self.channels.values() if markets is not ALL for t in markets)

    @property
    def subscriptions(self) -> int:
        """Markets times channels, as the exchange counts them; a channel for ALL counts as one."""
        return sum(1 if markets is ALL else len(markets) for markets in self.channels.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """All connections of one shard. `warnings` are sentences that a person must see."""

    connections: tuple[ConnectionPlan, ...]
    warnings: tuple[str, ...] = ()

    @property
    def tickers(self) -> frozenset[str]:
        return frozenset[str]().union(*(connection.tickers for connection in self.connections))


# ---- from subscriptions to a plan ------------------------------------------------------------------------------------


def needs(subscriptions: Sequence[Subscription]) -> Needs:
    """What `plan` will want to find in `Resolved`. Raises UsageError for a subscription that makes no sense."""
    series: dict[str, None] = {}
    events: dict[str, None] = {}
    open_markets = False
    for index, subscription in enumerate(subscriptions):
        _check(index, subscription)
        rules = [CHANNELS[name] for name in subscription.channels]
        if any(rule.names == "market_tickers" and rule.selector is not Selector.IGNORED for rule in rules):
            series |= dict.fromkeys(subscription.series)
            events |= dict.fromkeys(subscription.events)
        open_markets |= subscription.all and any(rule.book for rule in rules)
    return Needs(tuple(series), tuple(events), open_markets)


def plan(
    subscriptions: Sequence[Subscription],
    resolved: Resolved | None = None,
    *,
    shard_index: int = 0,
    shard_count: int = 1,
    max_markets_per_connection: int | None = None,
    max_connections: int = MAX_CONNECTIONS,
    previous: Plan | None = None,
) -> Plan:
    """The connections of this shard.

    Overlapping subscriptions are merged; ALL wins over names. A channel for ALL belongs to one shard only and stands
    on its first connection. Raises UsageError where a limit cannot hold all markets or something was not looked up.
    """
    if not 0 <= shard_index < shard_count:
        raise UsageError(f"shard.index: {shard_index} is not below shard.count {shard_count}")
    warnings: list[str] = []
    merged = _merged(subscriptions, resolved or Resolved(), warnings)
    whole = [name for name, markets in merged.items() if markets is ALL and shard_of(name, shard_count) == shard_index]
    named: dict[str, AbstractSet[str]] = {}
    for channel, markets in merged.items():
        if not isinstance(markets, All):
            named[channel] = {ticker for ticker in markets if shard_of(ticker, shard_count) == shard_index}
    tickers = frozenset[str]().union(*named.values())
    groups = _spread(tickers, max_markets_per_connection, max_connections, previous)
    if whole and not groups:
        groups = [set()]
    connections = tuple(_connection(whole if number == 0 else [], named, group) for number, group in enumerate(groups))
    for number, connection in enumerate(connections):
        if connection.subscriptions > MAX_SUBSCRIPTIONS:
            raise UsageError(
                f"connection {number} would hold {connection.subscriptions:,} subscriptions (markets times channels); "
                f"the exchange allows {MAX_SUBSCRIPTIONS:,}",
                hint="Set connector.max_markets_per_connection lower, so that there are more connections.",
            )
    if not any(connection.channels for connection in connections):
        warnings.append(
            "there is nothing to subscribe to"
            + (f" on shard {shard_index} of {shard_count}" if shard_count > 1 else "")
            + ": nothing will be recorded"
        )
    return Plan(connections, tuple(warnings))


def shard_of(name: str, count: int) -> int:
    """Which shard a ticker (or a channel for ALL) belongs to: the same on every machine and in every version."""
    return zlib.crc32(name.encode()) % count


def _check(index: int, subscription: Subscription) -> None:
    where = f"subscriptions[{index}]"
    ways = {"markets": subscription.markets, "series": subscription.series, "events": subscription.events}
    given = [name for name, tickers in ways.items() if tickers] + (["all"] if subscription.all else [])
    if len(given) != 1:
        raise UsageError(
            f"{where}: names its markets in {len(given)} ways" + (f" ({', '.join(given)})" if given else ""),
            hint="Give exactly one of markets, series, events, or all: true.",
        )
    for channel in subscription.channels:
        rule = CHANNELS.get(channel)
        if rule is None:
            raise UsageError(
                f"{where}.channels: {channel!r} is not a channel of Kalshi", hint=f"It has: {', '.join(CHANNELS)}."
            )
        if rule.names != "market_tickers" and given[0] in ("series", "events"):
            raise UsageError(
                f"{where}: {channel} has no {given[0]}",
                hint=f"Name its {rule.names.replace('_', ' ')} under markets, or say all: true.",
            )


def _merged(
    subscriptions: Sequence[Subscription], resolved: Resolved, warnings: list[str]
) -> dict[str, set[str] | Literal[All.ALL]]:
    """Channel -> all that is wanted of it, over all subscriptions."""
    merged: dict[str, set[str] | Literal[All.ALL]] = {}
    for index, subscription in enumerate(subscriptions):
        _check(index, subscription)
        for channel in subscription.channels:
            wanted = _wanted(index, subscription, channel, resolved, warnings)
            present = merged.setdefault(channel, set())
            if wanted is ALL or present is ALL:
                merged[channel] = ALL
            else:
                present.update(wanted)
    return merged


def _wanted(
    index: int, subscription: Subscription, channel: str, resolved: Resolved, warnings: list[str]
) -> Collection[str] | Literal[All.ALL]:
    """What one subscription wants of one channel."""
    rule = CHANNELS[channel]
    where = f"subscriptions[{index}]"
    if rule.selector is Selector.IGNORED:
        if not subscription.all:
            warnings.append(f"{where}: {channel} cannot be narrowed: it brings all markets")
        return ALL
    if subscription.all:
        if not rule.book:
            return ALL
        if resolved.open_markets is None:
            raise UsageError(
                f"{where}: {channel} cannot be asked for all markets, and the open ones were not looked up"
            )
        if not resolved.open_markets:
            _warn_once(warnings, f"{where}: no market is open: {channel} has nothing to subscribe to")
        return resolved.open_markets
    tickers: set[str] = set(subscription.markets)
    for kind, names, found in (
        ("series", subscription.series, resolved.series),
        ("event", subscription.events, resolved.events),
    ):
        for name in names:
            if name not in found:
                raise UsageError(f"{where}: the markets of {kind} {name} were not looked up")
            if not found[name]:
                _warn_once(warnings, f"{where}: {kind} {name} has no market that is open or to be opened")
            tickers.update(found[name])
    return tickers


def _warn_once(warnings: list[str], sentence: str) -> None:
    if sentence not in warnings:
        warnings.append(sentence)


def _spread(
    tickers: AbstractSet[str], limit: int | None, max_connections: int, previous: Plan | None
) -> list[set[str]]:
    """Tickers in groups, one a connection: where they were before, else in order and evenly."""
    if not tickers:
        return []
    most = limit if limit is not None else len(tickers)
    if len(tickers) > most * max_connections:
        raise UsageError(
            f"{len(tickers):,} markets do not fit: {max_connections} connections of {most:,} markets each hold "
            f"{most * max_connections:,}, so {len(tickers) - most * max_connections:,} would not be recorded",
            hint="Raise connector.max_markets_per_connection, subscribe to less, or add a shard.",
        )
    groups = [set(tickers & connection.tickers) for connection in previous.connections] if previous else []
    homeless: list[str] = []
    taken: set[str] = set()
    for group in groups:
        group -= taken
        for ticker in sorted(group)[most:]:  # the limit was lowered since
            group.discard(ticker)
        taken |= group
    homeless = sorted(tickers - taken)
    wanted = -(-len(tickers) // most)
    groups += [set() for _ in range(wanted - len(groups))]
    for group, share in zip(groups, _shares([len(group) for group in groups], len(homeless), most), strict=True):
        group.update(homeless[:share])
        homeless = homeless[share:]
    while groups and not groups[-1]:
        groups.pop()
    return groups


def _shares(loads: Sequence[int], newcomers: int, most: int) -> list[int]:
    """How many newcomers go to each group so that loads come out even and none is above `most`."""
    low, high = 0, most
    while low < high:  # the lowest level at which all newcomers have found room
        level = (low + high) // 2
        if sum(max(level - load, 0) for load in loads) >= newcomers:
            high = level
        else:
            low = level + 1
    shares = [max(low - load, 0) for load in loads]
    surplus = sum(shares) - newcomers
    for index in range(len(shares) - 1, -1, -1):
        if surplus > 0 and shares[index] > 0:
            shares[index] -= 1
            surplus -= 1
    return shares


def _connection(whole: Sequence[str], named: Mapping[str, AbstractSet[str]], group: AbstractSet[str]) -> ConnectionPlan:
    channels: dict[str, Markets] = dict.fromkeys(whole, ALL)
    for channel, tickers in named.items():
        here = tuple(sorted(tickers & group))
        if here:
            channels[channel] = here
    return ConnectionPlan(dict(sorted(channels.items())))


# ---- from one plan to the next ---------------------------------------------------------------------------------------


class StepKind(Enum):
    SUBSCRIBE = "subscribe"
    ADD = "add"
    DELETE = "delete"
    UNSUBSCRIBE = "unsubscribe"


@dataclass(frozen=True, slots=True)
class Step:
    """One command on one channel. `markets`: what it names; for UNSUBSCRIBE nothing."""

    kind: StepKind
    markets: Markets = ()


Held: TypeAlias = AbstractSet[str] | Literal[All.ALL] | None


def next_step(held: Held, want: Held, batch: int = COMMAND_BATCH) -> Step | None:
    """What to do next so that `held` becomes `want`; None = nothing.

    None or an empty set = not subscribed. Deletes go before adds, to make room, and always leave a market that stays.
    """
    if isinstance(held, All):
        return None if isinstance(want, All) else Step(StepKind.UNSUBSCRIBE)
    if not held:
        if isinstance(want, All):
            return Step(StepKind.SUBSCRIBE, ALL)
        return Step(StepKind.SUBSCRIBE, tuple(sorted(want)[:batch])) if want else None
    if isinstance(want, All) or not want or held.isdisjoint(want):
        return Step(StepKind.UNSUBSCRIBE)
    if extra := held - want:
        return Step(StepKind.DELETE, tuple(sorted(extra)[:batch]))
    if missing := want - held:
        return Step(StepKind.ADD, tuple(sorted(missing)[:batch]))
    return None


def after(held: Held, step: Step) -> Held:
    """What is held once a step was confirmed."""
    if step.kind is StepKind.UNSUBSCRIBE:
        return None
    if isinstance(step.markets, All) or isinstance(held, All):
        return ALL
    present = held or frozenset()
    return present - set(step.markets) if step.kind is StepKind.DELETE else present | set(step.markets)


def difference(old: ConnectionPlan, new: ConnectionPlan, batch: int = COMMAND_BATCH) -> Iterator[tuple[str, Step]]:
    """The steps from one plan to another, channel by channel, as a session that is in step with `old` takes them."""
    for channel in sorted({*old.channels, *new.channels}):
        held, want = _set(old.channels.get(channel)), _set(new.channels.get(channel))
        while (step := next_step(held, want, batch)) is not None:
            yield channel, step
            held = after(held, step)


def _set(markets: Markets | None) -> Held:
    return markets if markets is None or isinstance(markets, All) else frozenset(markets)
