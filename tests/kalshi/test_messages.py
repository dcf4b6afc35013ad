"""Commands are compared as text, byte for byte; replies are read from frames written after section 2 of the sheet."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd.kalshi import messages
from ssmd.kalshi.messages import CHANNELS, ERROR_CODES, Error, Ok, Reaction, Selector, Subscribed, Unknown, Unsubscribed

# ---- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
def test_the_price_mode_of_a_book_is_always_said(mode: bool) -> None:
    assert messages.subscribe(1, "orderbook_delta", ["A", "B-T83399.99"], use_yes_price=mode) == (
        b'{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"],"market_tickers":["A","B-T83399.99"],'
        b'"use_yes_price":' + (b"true" if mode else b"false") + b"}}"
    )


@pytest.mark.parametrize("channel", [name for name in CHANNELS if name != "orderbook_delta"])
def test_the_price_mode_is_said_of_books_only(channel: str) -> None:
    assert b"use_yes_price" not in messages.subscribe(1, channel, None)


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("ticker", b'{"id":7,"cmd":"subscribe","params":{"channels":["ticker"]}}'),
        ("trade", b'{"id":7,"cmd":"subscribe","params":{"channels":["trade"]}}'),
        ("market_lifecycle_v2", b'{"id":7,"cmd":"subscribe","params":{"channels":["market_lifecycle_v2"]}}'),
        (
            "cfbenchmarks_value",
            b'{"id":7,"cmd":"subscribe","params":{"channels":["cfbenchmarks_value"],"index_ids":["all"]}}',
        ),
        (
            "pyth_value",
            b'{"id":7,"cmd":"subscribe","params":{"channels":["pyth_value"],"underlying_tickers":["all"]}}',
        ),
    ],
)
def test_all_of_a_channel_is_said_in_the_channels_own_way(channel: str, text: bytes) -> None:
    assert messages.subscribe(7, channel, None) == text


def test_names_stand_under_the_channels_own_word() -> None:
    assert messages.subscribe(1, "cfbenchmarks_value_5hz", ["BRTI"]) == (
        b'{"id":1,"cmd":"subscribe","params":{"channels":["cfbenchmarks_value_5hz"],"index_ids":["BRTI"]}}'
    )


def test_a_channel_that_ignores_names_is_sent_none() -> None:
    assert b"market_tickers" not in messages.subscribe(1, "market_lifecycle_v2", ["A"])


def test_options_are_sent_where_they_have_a_meaning() -> None:
    assert messages.subscribe(1, "ticker", ["A"], send_initial_snapshot=True, skip_ticker_ack=True) == (
        b'{"id":1,"cmd":"subscribe","params":{"channels":["ticker"],"market_tickers":["A"],'
        b'"send_initial_snapshot":true,"skip_ticker_ack":true}}'
    )
    assert b"send_initial_snapshot" not in messages.subscribe(1, "trade", ["A"], send_initial_snapshot=True)


def test_updates_name_one_sid_and_an_action() -> None:
    assert messages.add_markets(2, "trade", 3, ["A"]) == (
        b'{"id":2,"cmd":"update_subscription","params":{"sids":[3],"action":"add_markets","market_tickers":["A"]}}'
    )
    assert messages.delete_markets(2, "trade", 3, ["A"]) == (
        b'{"id":2,"cmd":"update_subscription","params":{"sids":[3],"action":"delete_markets","market_tickers":["A"]}}'
    )
    assert messages.get_snapshot(2, 3, ["A", "B"]) == (
        b'{"id":2,"cmd":"update_subscription","params":{"sids":[3],"action":"get_snapshot","market_tickers":["A","B"]}}'
    )
    assert messages.add_markets(2, "cfbenchmarks_value", 3, ["BRTI"]) == (
        b'{"id":2,"cmd":"update_subscription","params":{"sids":[3],"action":"subscribe_indices","index_ids":["BRTI"]}}'
    )
    assert messages.delete_markets(2, "pyth_value", 3, ["BTC"]) == (
        b'{"id":2,"cmd":"update_subscription","params":{"sids":[3],"action":"unsubscribe_underlyings",'
        b'"underlying_tickers":["BTC"]}}'
    )


def test_the_commands_that_end_and_list_subscriptions_are_as_documented() -> None:
    assert messages.unsubscribe(4, [1, 2]) == b'{"id":4,"cmd":"unsubscribe","params":{"sids":[1,2]}}'
    assert messages.list_subscriptions(5) == b'{"id":5,"cmd":"list_subscriptions"}'


@pytest.mark.parametrize(
    "call",
    [
        lambda: messages.subscribe(1, "orderbook_delta", None),
        lambda: messages.subscribe(1, "orderbook_delta", []),
        lambda: messages.subscribe(1, "ticker", []),
        lambda: messages.add_markets(1, "trade", 1, []),
        lambda: messages.delete_markets(1, "trade", 1, []),
        lambda: messages.get_snapshot(1, 1, []),
        lambda: messages.get_snapshot(1, 0, ["A"]),
        lambda: messages.unsubscribe(1, []),
        lambda: messages.subscribe(0, "ticker", None),
        lambda: messages.list_subscriptions(-1),
    ],
)
def test_a_command_that_could_mean_something_else_is_not_made(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError):
        call()


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1))
def test_any_ticker_survives_the_way_into_json(tickers: list[str]) -> None:
    try:
        text = messages.subscribe(1, "trade", tickers)
    except UnicodeEncodeError:  # a lone surrogate is no text that a file could have held
        return
    assert json.loads(text)["params"]["market_tickers"] == tickers
    assert b"\n" not in text


# ---- error codes -----------------------------------------------------------------------------------------------------


def test_the_table_holds_all_28_codes_under_their_numbers() -> None:
    assert sorted(ERROR_CODES) == list(range(1, 29))
    assert all(code == row.code for code, row in ERROR_CODES.items())


def test_only_10_and_25_end_a_subscription() -> None:
    assert [code for code, row in ERROR_CODES.items() if row.terminal] == [10, 25]


def test_what_is_worth_a_retry() -> None:
    reactions = {code: row.reaction for code, row in ERROR_CODES.items() if row.retry}
    assert reactions == {
        7: Reaction.RESUBSCRIBE,
        10: Reaction.RESUBSCRIBE,
        11: Reaction.SPLIT,
        16: Reaction.SPLIT,
        17: Reaction.LATER,
        18: Reaction.LATER,
        25: Reaction.RESUBSCRIBE,
        26: Reaction.SMALLER,
        27: Reaction.SMALLER,
    }


def test_a_code_that_nobody_knows_is_refused_not_retried() -> None:
    row = messages.error_code(99)
    assert (row.code, row.reaction, row.terminal) == (99, Reaction.REFUSE, False)


def test_every_channel_of_the_sheet_is_known_with_its_sequence() -> None:
    unsequenced = {name for name, rule in CHANNELS.items() if not rule.sequenced}
    assert unsequenced == {"ticker", "fill", "market_positions", "user_orders"}
    assert len(CHANNELS) == 13
    assert [name for name, rule in CHANNELS.items() if rule.book] == ["orderbook_delta"]
    ignored = {name for name, rule in CHANNELS.items() if rule.selector is Selector.IGNORED}
    assert ignored == {
        "market_lifecycle_v2",
        "multivariate_market_lifecycle",
        "communications",
        "order_group_updates",
    }


def test_the_documentation_shows_the_same_table(repository: Path) -> None:
    rows = re.findall(
        r"^\| (\d+) \| (.+?) \| (\w+) \| (yes)? ?\|$", (repository / "docs" / "kalshi.md").read_text(), re.M
    )
    shown = [(int(code), text, reaction, terminal == "yes") for code, text, reaction, terminal in rows]
    assert shown == [(row.code, row.text, row.reaction.value, row.terminal) for row in ERROR_CODES.values()]


# ---- replies ---------------------------------------------------------------------------------------------------------

REPLIES = [
    (
        b'{"type":"subscribed","id":1,"msg":{"channel":"orderbook_delta","sid":1}}\n',
        Subscribed(1, 1, "orderbook_delta"),
    ),
    (
        b'{"id":1,"msg":{"channel":"trade","sid":3},"type":"subscribed","sending_ts_ms":1790363592125}',
        Subscribed(1, 3, "trade"),
    ),
    (
        b'{"type":"ok","id":5,"sid":1,"seq":4,"msg":{"market_tickers":["A","B","C"]}}\n',
        Ok(5, 1, 4, ("A", "B", "C")),
    ),
    (b'{"type":"ok","id":3,"sid":3,"msg":{"market_tickers":["A"]}}', Ok(3, 3, 0, ("A",))),
    (b'{"type":"ok","id":3,"sid":3,"seq":1,"market_tickers":["A"]}', Ok(3, 3, 1, ("A",))),  # until February 2026
    (b'{"type":"ok","id":3,"sid":3,"seq":1}', Ok(3, 3, 1)),
    (b'{"type":"ok","id":3,"sid":3,"msg":{"market_tickers":[]}}', Ok(3, 3, 0, ())),
    (b'{"type":"ok","id":3,"sid":3,"msg":{"market_tickers":null}}', Ok(3, 3)),
    (
        b'{"type":"ok","id":3,"msg":[{"channel":"orderbook_delta","sid":1},{"channel":"ticker","sid":2}]}',
        Ok(3, subscriptions=(("orderbook_delta", 1), ("ticker", 2))),
    ),
    (b'{"type":"ok","id":3,"msg":[]}', Ok(3, subscriptions=())),
    (b'{"type":"unsubscribed","id":2,"sid":2,"seq":707}\n', Unsubscribed(2, 2, 707)),
    (b'{"type":"error","id":1,"msg":{"code":8,"msg":"Unknown channel name"}}', Error(1, 8, "Unknown channel name")),
    (
        b'{"type":"error","sid":3,"seq":2,"msg":{"code":13,"msg":"Unsupported action"}}',
        Error(0, 13, "Unsupported action", 3, 2),
    ),
    (
        b'{"type":"error","id":1,"msg":{"code":16,"msg":"Market not found","market_ticker":"X"}}',
        Error(1, 16, "Market not found", tickers=("X",)),
    ),
    (
        b'{"type":"error","id":1,"msg":{"code":11,"msg":"","market_tickers":["X","Y"]}}',
        Error(1, 11, "", tickers=("X", "Y")),
    ),
    (b'{"type":"error"}', Error(0, 0, "")),
    (b'{"type":"subscribed","id":"1","msg":{"channel":7,"sid":-1}}', Subscribed(0, 0, "")),
    (b'{"type":"subscribed","id":true,"msg":[]}', Subscribed(0, 0, "")),
    (b'{"type":"pong"}', Unknown("pong")),
    (b'{"type":7}', Unknown("")),
    (b"{}", Unknown("")),
    (b"[]", Unknown("")),
    (b"3", Unknown("")),
    (b"", Unknown("")),
    (b"\xff", Unknown("")),
    (b'{"type":"ok"', Unknown("")),
    (b'{"type":' + b"[" * 100_000, Unknown("")),
]


@pytest.mark.parametrize(("frame", "reply"), REPLIES, ids=range(len(REPLIES)))
def test_a_reply_is_read(frame: bytes, reply: messages.Reply) -> None:
    assert messages.parse_reply(frame) == reply


@pytest.mark.parametrize("frame", [frame for frame, _ in REPLIES if len(frame) < 300], ids=range(len(REPLIES) - 1))
def test_every_prefix_of_a_reply_is_no_reply(frame: bytes) -> None:
    for end in range(len(frame.rstrip())):
        assert messages.parse_reply(frame[:end]) == Unknown("")


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_read_without_an_exception(frame: bytes) -> None:
    messages.parse_reply(frame)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.sampled_from(["subscribed", "ok", "unsubscribed", "error"]),
    st.fixed_dictionaries({}, optional={"id": _json, "sid": _json, "seq": _json, "msg": _json}),
)
def test_a_reply_of_odd_types_is_read_into_fields_of_the_right_types(kind: str, fields: dict[str, object]) -> None:
    reply = messages.parse_reply(json.dumps({"type": kind, **fields}).encode())
    if not isinstance(reply, Unknown):  # a lone surrogate is not JSON to every reader
        assert type(reply).__name__.lower() == kind
        assert isinstance(reply.id, int) and reply.id >= 0
        assert isinstance(reply.sid, int) and reply.sid >= 0


def test_real_replies_are_read(shared: Path) -> None:
    read: dict[str, set[int]] = {}
    for line in (shared / "kalshi" / "frames.jsonl").read_text().splitlines():
        frame = json.loads(line)["frame"]
        text = frame if isinstance(frame, str) else json.dumps(frame)
        fields = json.loads(text)
        reply = messages.parse_reply(text.encode())
        kind = fields["type"]
        if kind in ("subscribed", "ok", "unsubscribed", "error"):
            assert type(reply).__name__.lower() == kind
            read.setdefault(kind, set()).add(reply.sid)  # type: ignore[union-attr]
        else:
            assert reply == Unknown(kind)
    assert set(read) == {"subscribed", "ok", "unsubscribed", "error"}
    assert all(0 not in sids for sids in read.values())
