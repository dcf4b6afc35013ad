"""Frames for tests: the real ones (read at run time, never copied), and a generator of made-up ones.

The generator is no test of meaning: it makes many frames of every type, both formats, in random key order, with unknown
keys, nulls and odd values, to feed two implementations with. The seed decides everything.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any


def real_frames(shared: Path) -> list[bytes]:
    """The captured frames as bytes: an object is written compactly with the newline that the wire has."""
    lines = (shared / "kalshi" / "frames.jsonl").read_text().splitlines()
    return [wire_form(json.loads(line)["frame"]) for line in lines]


def wire_form(frame: Any) -> bytes:
    if isinstance(frame, str):
        return frame.encode()
    return json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


class Raw(str):
    """JSON text that goes into a frame as it is: numbers with exponents, escapes, broken things."""


def dump(value: Any, pick: random.Random) -> str:
    """JSON text with random white space; `Raw` is put in as it stands."""
    space = pick.choice(["", "", "", "", " ", "\n", "\t "])
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        members = [f"{dump(key, pick)}{space}:{space}{dump(item, pick)}" for key, item in value.items()]
        return "{" + space + f",{space}".join(members) + space + "}"
    if isinstance(value, list):
        return "[" + space + f",{space}".join(dump(item, pick) for item in value) + space + "]"
    return json.dumps(value, ensure_ascii=False)


# Values that sit on the edges of the page's rules: most are wrong for most fields.
ODD: list[Any] = [
    None, "", True, False, 0, -1, 1, [], {}, "x", "0", "-0", "yes", "no", "maybe", "1.2345", "1.23456",
    "1.234500", "-0.0001", "00012.50", ".5", "5.", "+1", "1e3", " 1", "123456789012345", "1234567890123456",
    "0.000000000000000", "0.0000000000000000", "92233720368547758.07", "92233720368547758.08",
    "-92233720368547758.08", "214748.3647", "214748.3648", "-214748.3648", "92233720368.54775807",
    "92233720368.54775808", "-92233720368.54775808", Raw("-0"), Raw("1.0"), Raw("1e2"), Raw("1E+400"),
    Raw("999999999999999"), Raw("1000000000000000"), Raw("-999999999999999"), Raw("9" * 400), 4294967295,
    4294967296, 21474836, 21474837, -21474836, -21474837, Raw('"a\\u0062"'), Raw('"\\ud800"'), Raw('"\\n"'),
    Raw('"\\/"'), "é", "日本", "😀", "\x7f", 8999999999999, 9000000000000, 8999999999, 9000000000, [[1, 2]],
    [["0.5000", "1.00"]], [[1]], [[1, 2, 3]], [["", 1]], [[None, 1]], [1], [["0.5000", "1.00"], [50, 1]],
    {"value": "1.5"}, {"value": 1}, {"event_ticker": "EV"}, {"value": "1", "value ": 2},
    "2026-06-11T06:31:29.957081Z", "2200-12-31T23:59:59.999999999Z", "2201-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z", "2024-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "2026-06-11T06:31:60Z",
    "2026-06-11T24:00:00Z", "2026-06-11T06:31:29.Z", "2026-06-11T06:31:29.1234567890Z", "2026-06-11t06:31:29Z",
    "2026-06-11T06:31:29", "2026-13-01T00:00:00Z", "2026-00-10T00:00:00Z", "2026-04-31T00:00:00Z", "y" * 64,
    "y" * 65, "y" * 300, "0000000000000001",
    Raw("[" * 30 + "]" * 30), Raw("[" * 31 + "]" * 31), Raw("[" * 32 + "]" * 32),
    Raw('{"a":' * 30 + "1" + "}" * 30), Raw('{"a":' * 31 + "1" + "}" * 31), Raw('{"a":' * 32 + "1" + "}" * 32),
    "1970-01-01T00:00:00Z", "2026-06-11T23:59:59.000000001Z", Raw("10000000000000000"),
]  # fmt: skip

CHANGES = [
    "created",
    "activated",
    "deactivated",
    "close_date_updated",
    "determined",
    "settled",
    "price_level_structure_updated",
    "metadata_updated",
    "reopened",
]

UNKNOWN_KEYS = [
    Raw('"t\\u0079pe"'),
    "extra",
    "new_field",
    "é",
    "a\\u0062",
    "x" * 80,
    "market_ticker ",
    "Type",
    "",
    "ts_ms",
]


class Frames:
    """An endless supply of frames, decided by the seed."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def frame(self) -> bytes:
        """One frame: mostly sound, sometimes odd in one or two places."""
        pick = self.pick
        top = self.sound()
        for _ in range(pick.choice([0, 0, 0, 1, 1, 2])):
            self.spoil(top)
        return self.text(top)

    def sound(self, name: str | None = None) -> dict[str, Any]:
        """A frame that means something, as an object; of a random type unless one is given."""
        pick = self.pick
        busy = ["orderbook_delta", "orderbook_snapshot", "ticker", "trade", "market_lifecycle_v2"]
        name = name or pick.choice(sorted(MAKERS) + 4 * busy)
        top: dict[str, Any] = {"type": name, "sid": pick.choice([1, 2, 3]), "seq": pick.randrange(1, 10**6)}
        top["msg"] = MAKERS[name](self, top)
        if pick.random() < 0.3:
            top["sending_ts_ms"] = self.ms()
        if pick.random() < 0.2:
            top["id"] = pick.randrange(0, 1000)
        return top

    def text(self, top: dict[str, Any]) -> bytes:
        pick = self.pick
        if isinstance(top.get("msg"), dict):
            top["msg"] = self.shuffled(top["msg"])
        if pick.random() < 0.5:
            top = self.shuffled(top)
        return (dump(top, pick) + pick.choice(["", "\n", " \r\n"])).encode("utf-8", "surrogatepass")

    def shuffled(self, of: dict[str, Any]) -> dict[str, Any]:
        keys = list(of)
        self.pick.shuffle(keys)
        return {key: of[key] for key in keys}

    def spoil(self, top: dict[str, Any]) -> None:
        """Something unusual in one place."""
        pick = self.pick
        msg = top.get("msg")
        target = msg if isinstance(msg, dict) and msg and pick.random() < 0.8 else top
        action = pick.randrange(4)
        if action == 0:
            target[pick.choice(UNKNOWN_KEYS)] = pick.choice(ODD)
        elif action == 1:
            target.pop(pick.choice(sorted(target)), None)
        elif action == 2:
            target[Raw(json.dumps(pick.choice(sorted(target)), ensure_ascii=False))] = pick.choice(
                ODD
            )  # a duplicate key
        else:
            target[pick.choice(sorted(target))] = pick.choice(ODD)

    # ---- parts

    def ticker(self) -> str:
        return self.pick.choice(["KXBTCD-26SEP2516-T83399.99", "KXA-1", "FED-23DEC-T3.00", "KXÉ-1", "K" * 70])

    def dollars(self) -> str:
        pick = self.pick
        return pick.choice(
            [f"{pick.random():.4f}", "0.9840", "0.0000", "1.0000", f"{pick.random():.6f}", "0.5", "0.080000"]
        )

    def count(self) -> str:
        pick = self.pick
        return pick.choice([f"{pick.uniform(-5000, 5000):.2f}", "3.00", "0.01", "-4444.00", "12", "148.780"])

    def s(self) -> int:
        return self.pick.choice([1790363592, 0, 1, 2**31, self.pick.randrange(10**10)])

    def ms(self) -> int:
        return self.pick.choice([1790363592101, 0, self.pick.randrange(10**13)])

    def rfc(self) -> str:
        fraction = self.pick.choice(["", ".5", ".957081", ".63094", ".539836022"])
        return f"20{self.pick.randrange(10, 99)}-02-{self.pick.randrange(1, 31):02}T06:31:29{fraction}Z"

    def times(self, msg: dict[str, Any], ms_key: str = "ts_ms") -> None:
        pick = self.pick
        if pick.random() < 0.8:
            msg["ts"] = pick.choice([self.rfc(), self.s()])
        if pick.random() < 0.7:
            msg[ms_key] = self.ms()

    def family(self, msg: dict[str, Any], new: dict[str, Any], old: dict[str, Any]) -> None:
        """Fields of the new format, of the old, or of both (the transition of early 2026)."""
        which = self.pick.choice(["new", "new", "old", "both"])
        if which != "old":
            msg |= new
        if which != "new":
            msg |= old

    # ---- types

    def trade(self, top: dict[str, Any]) -> dict[str, Any]:
        pick = self.pick
        msg: dict[str, Any] = {"trade_id": "5d937db7-0c71-43cb", "market_ticker": self.ticker()}
        self.family(
            msg,
            {"yes_price_dollars": self.dollars(), "no_price_dollars": self.dollars(), "count_fp": self.count()},
            {"yes_price": pick.randrange(101), "no_price": pick.randrange(101), "count": pick.randrange(5000)},
        )
        msg["taker_side"] = pick.choice(["yes", "no", "both"])
        if pick.random() < 0.5:
            msg |= {"taker_outcome_side": pick.choice(["yes", "no"]), "taker_book_side": "bid"}
            msg["is_block_trade"] = pick.choice([True, False])
        self.times(msg)
        return msg

    def quote(self, top: dict[str, Any]) -> dict[str, Any]:
        pick = self.pick
        msg: dict[str, Any] = {"market_id": "uuid", "market_ticker": self.ticker()}
        new = {key: self.dollars() for key in ("price_dollars", "yes_bid_dollars", "yes_ask_dollars")}
        sizes = ("volume_fp", "open_interest_fp", "yes_bid_size_fp", "yes_ask_size_fp", "last_trade_size_fp")
        new |= {key: self.count() for key in sizes}
        old: dict[str, Any] = {
            key: pick.randrange(101) for key in ("price", "yes_bid", "yes_ask", "volume", "open_interest")
        }
        old |= {"Clock": 6598272643, "price_dollars": pick.choice(["", self.dollars()])}
        self.family(msg, new, old)
        msg |= {"dollar_volume": pick.randrange(-100, 10**9), "dollar_open_interest": pick.randrange(10**9)}
        for key in pick.sample(sorted(msg), pick.randrange(3)):
            msg.pop(key)
        self.times(msg)
        return msg

    def snapshot(self, top: dict[str, Any]) -> dict[str, Any]:
        pick = self.pick
        msg: dict[str, Any] = {"market_ticker": self.ticker(), "market_id": ""}
        for side in ("yes", "no"):
            if pick.random() < 0.8:
                n = pick.randrange(5)
                self.family(
                    msg,
                    {f"{side}_dollars_fp": [[self.dollars(), self.count()] for _ in range(n)]},
                    {
                        side: [[pick.randrange(101), pick.randrange(5000)] for _ in range(n)],
                        f"{side}_dollars": [[self.dollars(), pick.randrange(5000)] for _ in range(n)],
                    },
                )
        return msg

    def delta(self, top: dict[str, Any]) -> dict[str, Any]:
        pick = self.pick
        msg: dict[str, Any] = {"market_ticker": self.ticker(), "market_id": "uuid", "side": pick.choice(["yes", "no"])}
        self.family(
            msg,
            {"price_dollars": self.dollars(), "delta_fp": self.count()},
            {"price": pick.randrange(101), "delta": pick.randrange(-500, 500)},
        )
        if pick.random() < 0.1:
            msg |= {"client_order_id": "c", "subaccount": 1}
        self.times(msg)
        return msg

    def lifecycle(self, top: dict[str, Any]) -> dict[str, Any]:
        pick = self.pick
        change = pick.choice(CHANGES)
        msg: dict[str, Any] = {"market_ticker": self.ticker(), "event_type": change}
        for key in ("open_ts", "close_ts", "determination_ts", "settled_ts"):
            if pick.random() < 0.4:
                msg[key] = self.s()
        if pick.random() < 0.4:
            metadata = {
                "name": "é",
                "event_ticker": pick.choice(["EV-1", "", None, 5, Raw('"a\\n"')]),
                "floor_strike": 6.5,
            }
            msg["additional_metadata"] = pick.choice([metadata, metadata, None, "text", []])
        if pick.random() < 0.3:
            msg |= {"result": pick.choice(["yes", "no", "scalar", ""]), "settlement_value": self.dollars()}
        if pick.random() < 0.3:
            msg["event_ticker"] = pick.choice(["EV-2", ""])
        if pick.random() < 0.2:
            msg |= {"price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}], "exchange_index": 0}
        return msg

    def event(self, top: dict[str, Any]) -> dict[str, Any]:
        return {"event_ticker": "KXEV-26", "title": "…", "subtitle": "", "collateral_return_type": "MECNET"}

    def fee(self, top: dict[str, Any]) -> dict[str, Any]:
        return {"event_ticker": "KXEV-26", "fee_type_override": None, "fee_multiplier_override": 1.5}

    def index(self, top: dict[str, Any]) -> dict[str, Any]:
        pick = self.pick
        key = "underlying_ticker" if top["type"] == "pyth_value" else "index_id"
        msg: dict[str, Any] = {key: "BRTI", "received_at": self.ms(), "data": Raw('"{\\"value\\":\\"1\\"}"')}
        if pick.random() < 0.6:
            msg["value_usd"] = pick.choice(["84017.28000000", "84017.28", "0.00000001", "-5"])
        if pick.random() < 0.6:
            msg["avg_60s_data"] = pick.choice([{"value": "85850.67000000", "window_size": 0}, {}, None])
        self.times(msg, "source_ts_ms")
        return msg

    def subscribed(self, top: dict[str, Any]) -> dict[str, Any]:
        del top["sid"], top["seq"]
        return {"channel": "trade", "sid": self.pick.randrange(1, 9)}

    def acknowledged(self, top: dict[str, Any]) -> Any:
        return self.pick.choice([{"market_tickers": ["A", "B"]}, [{"channel": "trade", "sid": 1}], None, "text", 5])

    def error(self, top: dict[str, Any]) -> dict[str, Any]:
        return {
            "code": self.pick.randrange(1, 29),
            "msg": self.pick.choice(["Unsupported action", Raw('"a \\"b\\""'), ""]),
        }

    def other(self, top: dict[str, Any]) -> dict[str, Any]:
        return {"anything": [1, 2.5, {"deep": None}]}


MAKERS = {
    "trade": Frames.trade,
    "ticker": Frames.quote,
    "orderbook_snapshot": Frames.snapshot,
    "orderbook_delta": Frames.delta,
    "market_lifecycle_v2": Frames.lifecycle,
    "multivariate_market_lifecycle": Frames.lifecycle,
    "event_lifecycle": Frames.event,
    "event_fee_update": Frames.fee,
    "cfbenchmarks_value": Frames.index,
    "cfbenchmarks_value_5hz": Frames.index,
    "pyth_value": Frames.index,
    "subscribed": Frames.subscribed,
    "ok": Frames.acknowledged,
    "unsubscribed": Frames.acknowledged,
    "error": Frames.error,
    "fill": Frames.other,
    "rfq_created": Frames.other,
    "cfbenchmarks_value_indexlist": Frames.other,
    "brand_new_type": Frames.other,
    "n" * 70: Frames.other,
}
