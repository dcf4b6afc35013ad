"""One value of a market from those that several shards keep of it. Pure.

A market's book is recorded by one shard, the trades or tickers of all markets perhaps by another
(ssmd/kalshi/planner.py), so each shard has a key of its own and knows a part. Readers put the parts together: of each
part the one whose record was received last, with the journal that its number counts in. A quote is the book's where
any shard has one, as it is within one journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssmd.lastvalues import PARTS

_QUOTE = ("bid_e4", "bid_size_e2", "ask_e4", "ask_size_e2", "quote", "trouble")

Value = dict[str, Any]


def joined(values: Sequence[Value]) -> Value:
    """The value of one market. `values`: one at least, all of that market."""
    if len(values) == 1:
        return values[0]
    newest: Value = max(values, key=_received)
    shown = dict(newest)  # its number names the last record of all
    sources = {part: _source(values, part) for part in PARTS}
    for part, source in sources.items():
        shown[part] = None if source is None else {**source[part], "journal": source.get("journal")}
    quoted = sources["book"] or sources["ticker"] or shown
    shown |= {name: quoted.get(name) for name in _QUOTE}
    shown["never"] = [part for part in PARTS if shown[part] is None]
    return shown


def _source(values: Sequence[Value], part: str) -> Value | None:
    """The value with the newest of a part."""
    having = [value for value in values if isinstance(value.get(part), dict)]
    return max(having, key=lambda value: _received(value[part]), default=None)


def _received(thing: Value) -> int:
    recv_ns = thing.get("recv_ns")
    return recv_ns if isinstance(recv_ns, int) else 0
