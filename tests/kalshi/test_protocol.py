"""The session, fed with literals: frames as the protocol sheet shows them, actions compared as values.

Three kinds of test: a table of every state against every thing that can happen; single facts; and a small exchange of
this file's own (it shares no code with the session) against which random histories must end in the plan.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd.book import Suspect
from ssmd.kalshi.actions import Action, Close, RecordEvent, RecordGap, SendPing, SendPong, SendText, Warn
from ssmd.kalshi.channel import TRANSITIONS, Input, State
from ssmd.kalshi.planner import ALL, ConnectionPlan, Markets
from ssmd.kalshi.protocol import Session, SessionError, Settings
from ssmd.records import ConnectionWhat, GapCause
from ssmd.wire import Event, EventKind

BOOK, TICKER, TRADE = "orderbook_delta", "ticker", "trade"
SECOND = 1_000_000_000
SUBSCRIBED, RESYNCED = ConnectionWhat.SUBSCRIBED, ConnectionWhat.RESYNCED


def plan_of(**channels: Markets | str) -> ConnectionPlan:
    names = {"book": BOOK, "ticker": TICKER, "trade": TRADE, "status": "market_lifecycle_v2"}
    made = {names[name]: tuple(given) if isinstance(given, str) else given for name, given in channels.items()}
    return ConnectionPlan(made)


class Talk:
    """A session with a clock in seconds; keeps what was said and hands back each call's actions."""

    def __init__(self, plan: ConnectionPlan, *, open: bool = True, **options: Any) -> None:
        self.session = Session(plan, settings=Settings(**options))
        self.s = 100.0
        self.out: list[Action] = []
        self.commands: list[dict[str, Any]] = []
        if open:
            self.keep(self.session.opened(self.now))

    @property
    def now(self) -> int:
        return int(self.s * SECOND)

    def keep(self, actions: list[Action]) -> list[Action]:
        self.out = actions
        self.commands += [json.loads(a.data) for a in actions if isinstance(a, SendText)]
        return actions

    def event(self, kind: EventKind, **fields: Any) -> list[Action]:
        return self.keep(self.session.receive(Event(kind, **fields), self.now))

    def say(self, frame: Mapping[str, Any] | str) -> list[Action]:
        """A reply of the exchange."""
        text = frame if isinstance(frame, str) else json.dumps(frame, separators=(",", ":")) + "\n"
        return self.event(EventKind.REPLY, data=text.encode())

    def subscribed(self, command_id: int, channel: str, sid: int) -> list[Action]:
        return self.say({"type": "subscribed", "id": command_id, "msg": {"channel": channel, "sid": sid}})

    def ok(self, command_id: int, sid: int, tickers: Iterable[str] | None = None, seq: int = 1) -> list[Action]:
        body = {} if tickers is None else {"market_tickers": list(tickers)}
        return self.say({"type": "ok", "id": command_id, "sid": sid, "seq": seq, "msg": body})

    def error(self, code: int, **where: Any) -> list[Action]:
        body = {"code": code, "msg": "words", **where.pop("msg", {})}
        return self.say({"type": "error", **where, "msg": body})

    def gap(self, sid: int, number: int = 7) -> list[Action]:
        return self.event(EventKind.GAP, sid=sid, seq=10, first=5, last=9, number=number)

    def snapshots(self, command_id: int, tickers: Iterable[str], sid: int = 1) -> list[Action]:
        """Snapshots in answer to get_snapshot; hands back the actions of all of them."""
        return self.keep_all(
            self.session.receive(Event(EventKind.SNAPSHOT, id=command_id, sid=sid, data=t.encode()), self.now)
            for t in tickers
        )

    def keep_all(self, calls: Iterable[list[Action]]) -> list[Action]:
        return self.keep([action for call in calls for action in call])

    def wait(self, seconds: float, heard: bool = True) -> list[Action]:
        """Time passes; `heard`: the exchange's pings come in all the while."""
        self.s += seconds
        if heard:
            self.session.received_data(self.now)
        return self.keep(self.session.tick(self.now))

    def list_is_right(self) -> list[Action]:
        """Answers list_subscriptions with what the session holds."""
        held = [{"channel": view.name, "sid": view.sid} for view in self.session.channels if view.sid]
        return self.say({"type": "ok", "id": self.last["id"], "msg": held})

    @property
    def last(self) -> dict[str, Any]:
        return self.commands[-1]

    def state(self, channel: str = BOOK) -> State | None:
        return next((view.state for view in self.session.channels if view.name == channel), None)


def text(command: Mapping[str, Any]) -> SendText:
    return SendText(json.dumps(command, separators=(",", ":")).encode())


def kinds(actions: Iterable[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def of(kind: type, actions: Iterable[Action]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def live(markets: str = "ABC", **options: Any) -> Talk:
    """One book subscription, confirmed as sid 1 by command 1; command 2 (the list) is answered."""
    talk = Talk(plan_of(book=markets), **options)
    talk.subscribed(1, BOOK, 1)
    talk.list_is_right()
    return talk


# ---- every state against everything that can happen ------------------------------------------------------------------


def absent() -> Talk:
    talk = Talk(plan_of(book="ABC"))
    talk.error(18, id=1)
    return talk


def subscribing() -> Talk:
    return Talk(plan_of(book="ABC"))


def updating() -> Talk:
    talk = live()
    talk.keep(talk.session.change_plan(plan_of(book="ABCD"), talk.now))
    return talk


def resyncing() -> Talk:
    talk = live()
    talk.gap(1)
    return talk


def leaving() -> Talk:
    talk = live()
    talk.keep(talk.session.change_plan(plan_of(), talk.now))
    return talk


STATES: dict[State, Callable[[], Talk]] = {
    State.ABSENT: absent,
    State.SUBSCRIBING: subscribing,
    State.LIVE: live,
    State.UPDATING: updating,
    State.RESYNCING: resyncing,
    State.LEAVING: leaving,
}

# What can happen. Replies carry the id of the last command that was sent, and sid 1.
HAPPENINGS: dict[str, Callable[[Talk], list[Action]]] = {
    "subscribed": lambda t: t.subscribed(t.last["id"], BOOK, 1),
    "ok": lambda t: t.ok(t.last["id"], 1, "ABCD" if t.state() is State.UPDATING else "ABC"),
    "unsubscribed": lambda t: t.say({"type": "unsubscribed", "id": t.last["id"], "sid": 1, "seq": 9}),
    "error 13": lambda t: t.error(13, id=t.last["id"]),
    "error 13, sid": lambda t: t.error(13, sid=1, seq=9),
    "error 18": lambda t: t.error(18, id=t.last["id"]),
    "error 10, id": lambda t: t.error(10, id=t.last["id"]),
    "error 25, sid": lambda t: t.error(25, sid=1, seq=9),
    "snapshot": lambda t: t.snapshots(t.last["id"], "A"),
    "snapshots": lambda t: t.snapshots(t.last["id"], "CAB"),
    "gap": lambda t: t.gap(1),
    "undecoded": lambda t: t.event(EventKind.UNDECODED, sid=1, seq=9, reason=5, data=b"orderbook_delta"),
    "10 s": lambda t: t.wait(10),
    "10 s twice": lambda t: t.keep_all([t.wait(10), t.wait(10)]),
    "no plan": lambda t: t.keep(t.session.change_plan(plan_of(), t.now)),
    "more": lambda t: t.keep(t.session.change_plan(plan_of(book="ABCDE"), t.now)),
}

A, S, L, U, R, X = State.ABSENT, State.SUBSCRIBING, State.LIVE, State.UPDATING, State.RESYNCING, State.LEAVING
GONE = None  # the channel is not wanted any more and forgotten
SEND, GAP, EVENT, WARN, CLOSE = "SendText", "RecordGap", "RecordEvent", "Warn", "Close"

# (state, happening) -> (state afterwards, actions), by hand from the essay of the module and the protocol sheet.
MATRIX: dict[tuple[State, str], tuple[State | None, list[str]]] = {
    # Waiting to subscribe again; command 1 is over, and what comes late for it changes nothing.
    (A, "subscribed"): (A, []),
    (A, "ok"): (A, []),
    (A, "unsubscribed"): (A, []),
    (A, "error 13"): (A, []),
    (A, "error 13, sid"): (A, [WARN]),
    (A, "error 18"): (A, []),
    (A, "error 10, id"): (A, [WARN]),
    (A, "error 25, sid"): (A, [WARN]),
    (A, "snapshot"): (A, []),
    (A, "snapshots"): (A, []),
    (A, "gap"): (A, [WARN]),
    (A, "undecoded"): (A, [WARN]),
    (A, "10 s"): (S, [SEND]),
    (A, "10 s twice"): (S, [SEND, WARN, SEND]),
    (A, "no plan"): (GONE, []),
    (A, "more"): (A, []),  # the pause goes on
    # Subscribe was sent. What concerns a sid that nobody knows yet is kept until the reply says whose it is.
    (S, "subscribed"): (L, [EVENT, SEND]),
    (S, "ok"): (L, [EVENT, SEND]),
    (S, "unsubscribed"): (A, [GAP, WARN]),
    (S, "error 13"): (A, [GAP, WARN]),
    (S, "error 13, sid"): (S, [WARN]),
    (S, "error 18"): (A, [WARN]),
    (S, "error 10, id"): (A, [GAP, WARN]),
    (S, "error 25, sid"): (S, []),
    (S, "snapshot"): (S, []),
    (S, "snapshots"): (S, []),
    (S, "gap"): (S, []),
    (S, "undecoded"): (S, []),
    (S, "10 s"): (S, [WARN, SEND]),
    (S, "10 s twice"): (S, [WARN, SEND, CLOSE]),
    (S, "no plan"): (S, []),
    (S, "more"): (S, []),
    # Confirmed, nothing on its way.
    (L, "subscribed"): (L, []),
    (L, "ok"): (L, []),
    (L, "unsubscribed"): (A, [GAP, WARN]),
    (L, "error 13"): (L, []),
    (L, "error 13, sid"): (L, [WARN]),
    (L, "error 18"): (L, []),
    (L, "error 10, id"): (L, [WARN]),
    (L, "error 25, sid"): (A, [GAP, WARN]),
    (L, "snapshot"): (L, []),
    (L, "snapshots"): (L, []),
    (L, "gap"): (R, [WARN, SEND]),
    (L, "undecoded"): (R, [WARN, GAP, SEND]),
    (L, "10 s"): (L, []),
    (L, "10 s twice"): (L, []),
    (L, "no plan"): (X, [SEND]),
    (L, "more"): (U, [SEND]),
    # add_markets was sent.
    (U, "subscribed"): (U, [WARN]),
    (U, "ok"): (L, [EVENT]),
    (U, "unsubscribed"): (A, [GAP, WARN]),
    (U, "error 13"): (L, [GAP, WARN]),
    (U, "error 13, sid"): (L, [GAP, WARN]),
    (U, "error 18"): (L, [WARN]),
    (U, "error 10, id"): (A, [GAP, WARN]),
    (U, "error 25, sid"): (A, [GAP, WARN]),
    (U, "snapshot"): (U, []),
    (U, "snapshots"): (U, []),
    (U, "gap"): (U, [WARN]),  # the resync comes after the reply, and then covers what is being added
    (U, "undecoded"): (U, [WARN, GAP]),
    (U, "10 s"): (U, [WARN, SEND]),
    (U, "10 s twice"): (U, [WARN, SEND, CLOSE]),
    (U, "no plan"): (U, []),
    (U, "more"): (U, []),
    # get_snapshot was sent, because of gap 7.
    (R, "subscribed"): (R, [WARN]),
    (R, "ok"): (R, []),
    (R, "unsubscribed"): (A, [GAP, WARN]),
    (R, "error 13"): (R, [WARN, SEND]),
    (R, "error 13, sid"): (R, [WARN, SEND]),
    (R, "error 18"): (L, [WARN]),
    (R, "error 10, id"): (A, [GAP, WARN]),
    (R, "error 25, sid"): (A, [GAP, WARN]),
    (R, "snapshot"): (R, []),
    (R, "snapshots"): (L, [EVENT]),
    (R, "gap"): (R, [WARN, SEND]),
    (R, "undecoded"): (R, [WARN, GAP, SEND]),
    (R, "10 s"): (R, [WARN, SEND]),
    (R, "10 s twice"): (X, [WARN, SEND, WARN, SEND]),
    (R, "no plan"): (R, []),
    (R, "more"): (R, []),
    # unsubscribe was sent, because the plan has no such channel any more.
    (X, "subscribed"): (X, [WARN]),
    (X, "ok"): (X, [WARN]),
    (X, "unsubscribed"): (GONE, [SEND]),  # the list is asked for: the exchange shall hold nothing
    (X, "error 13"): (X, [CLOSE]),
    (X, "error 13, sid"): (X, [CLOSE]),
    (X, "error 18"): (X, [WARN]),
    (X, "error 10, id"): (GONE, [SEND]),
    (X, "error 25, sid"): (GONE, [SEND]),
    (X, "snapshot"): (X, []),
    (X, "snapshots"): (X, []),
    (X, "gap"): (X, [WARN]),
    (X, "undecoded"): (X, [WARN, GAP]),
    (X, "10 s"): (X, [WARN, SEND]),
    (X, "10 s twice"): (X, [WARN, SEND, CLOSE]),
    (X, "no plan"): (X, []),
    (X, "more"): (X, []),
}


@pytest.mark.parametrize(("state", "happening"), list(itertools.product(STATES, HAPPENINGS)))
def test_each_thing_that_can_happen_in_each_state(state: State, happening: str) -> None:
    talk = STATES[state]()
    assert talk.state() is state
    after, actions = MATRIX[state, happening]
    assert kinds(HAPPENINGS[happening](talk)) == actions
    assert talk.state() is after


@pytest.mark.parametrize(("state", "cause"), list(itertools.product(State, Input)))
def test_a_pair_moves_as_the_table_says_or_warns_and_stays(state: State, cause: Input) -> None:
    session = Session(plan_of(book="ABC"))
    session.opened(SECOND)
    channel = session._channels[BOOK]
    channel.state = state
    session._out.clear()
    moved = session._move(channel, cause)
    assert moved == (cause in TRANSITIONS[state])
    assert channel.state is TRANSITIONS[state].get(cause, state)
    assert kinds(session._out) == ([] if moved else [WARN])


def test_every_pair_of_the_table_happens_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row of the table is dead: the histories of this file walk all of them."""
    walked: set[tuple[State, Input]] = set()
    move = Session._move

    def watch(self: Session, channel: Any, cause: Input) -> bool:
        walked.add((channel.state, cause))
        return move(self, channel, cause)

    monkeypatch.setattr(Session, "_move", watch)
    for state, happening in itertools.product(STATES, HAPPENINGS):
        HAPPENINGS[happening](STATES[state]())
    test_a_subscription_that_is_not_wanted_is_left("trade")
    legal = {(state, cause) for state, row in TRANSITIONS.items() for cause in row}
    assert legal - walked == set()


def test_the_documentation_shows_the_same_table(repository: Path) -> None:
    text = (repository / "docs" / "kalshi.md").read_text()
    shown = {
        (state, cause, after)
        for state, row in re.findall(r"^\| ([A-Z]+) \| (.+) \|$", text, re.M)
        for cause, after in re.findall(r"([A-Z_]+) -> ([A-Z]+)", row)
    }
    assert shown == {(s.name, c.name, a.name) for s, row in TRANSITIONS.items() for c, a in row.items()}


# ---- subscribing -----------------------------------------------------------------------------------------------------


def test_each_channel_is_asked_for_by_a_command_of_its_own() -> None:
    talk = Talk(plan_of(book="AB", ticker=ALL, trade="A"), use_yes_price=False)
    assert talk.out == [
        SendText(
            b'{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"],"market_tickers":["A","B"],'
            b'"use_yes_price":false}}'
        ),
        SendText(b'{"id":2,"cmd":"subscribe","params":{"channels":["ticker"]}}'),
        SendText(b'{"id":3,"cmd":"subscribe","params":{"channels":["trade"],"market_tickers":["A"]}}'),
    ]


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
@pytest.mark.parametrize("sids", list(itertools.permutations([1, 2, 3])))
def test_replies_in_any_order_lead_to_the_same_end(order: tuple[int, ...], sids: tuple[int, ...]) -> None:
    talk = Talk(plan_of(book="AB", ticker=ALL, trade="A"))
    names = {1: BOOK, 2: TICKER, 3: TRADE}
    for command_id in order[:2]:
        assert talk.subscribed(command_id, names[command_id], sids[command_id - 1]) == []
        assert not talk.session.live
    assert talk.subscribed(order[2], names[order[2]], sids[order[2] - 1]) == [
        RecordEvent(SUBSCRIBED, sids[0], BOOK, 2),
        RecordEvent(SUBSCRIBED, sids[1], TICKER, 0, reason="all markets"),
        RecordEvent(SUBSCRIBED, sids[2], TRADE, 1),
        SendText(b'{"id":4,"cmd":"list_subscriptions"}'),
    ]
    assert talk.session.live
    assert talk.list_is_right() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_reply_among_events_of_data_is_matched_whatever_comes_first(order: tuple[int, ...]) -> None:
    """Data before, between and after the replies is normal: nothing of it changes what is subscribed."""
    talk = Talk(plan_of(book="A", trade="A"))
    steps: list[Callable[[], object]] = [
        lambda: talk.subscribed(1, BOOK, 1),
        lambda: talk.subscribed(2, TRADE, 2),
        lambda: talk.event(EventKind.DRIFT, data=b"field:new"),
        lambda: talk.session.received_data(talk.now),
    ]
    for index in order:
        steps[index]()
    assert [(view.name, view.sid, view.state) for view in talk.session.channels] == [(BOOK, 1, L), (TRADE, 2, L)]


def test_a_merged_subscription_is_answered_by_ok_with_the_sid_that_there_is() -> None:
    talk = Talk(plan_of(book="ABC"))
    assert talk.ok(1, 5, "ABC", seq=12)[0] == RecordEvent(SUBSCRIBED, 5, BOOK, 3)


def test_a_reply_without_id_is_matched_by_its_channel_or_sid() -> None:
    talk = Talk(plan_of(book="ABC", trade="A"))
    talk.say({"type": "subscribed", "msg": {"channel": TRADE, "sid": 1}})
    assert (talk.state(TRADE), talk.state(BOOK)) == (L, S)


def test_more_markets_than_one_command_takes_are_added_batch_by_batch() -> None:
    talk = Talk(plan_of(book="ABCDE"), command_batch=2)
    talk.subscribed(1, BOOK, 9)
    assert talk.out == [
        SendText(
            b'{"id":2,"cmd":"update_subscription","params":{"sids":[9],"action":"add_markets",'
            b'"market_tickers":["C","D"]}}'
        )
    ]
    talk.ok(2, 9, "ABCD")
    assert talk.last["params"]["market_tickers"] == ["E"]
    assert talk.ok(3, 9, "ABCDE")[0] == RecordEvent(SUBSCRIBED, 9, BOOK, 5)


def test_long_lists_are_left_out_of_the_replies() -> None:
    assert "skip_ticker_ack" not in Talk(plan_of(book="ABC"), list_acks_up_to=3).last["params"]
    talk = Talk(plan_of(book="ABC"), list_acks_up_to=2, command_batch=2)
    assert talk.last["params"]["skip_ticker_ack"] is True
    talk.subscribed(1, BOOK, 1)
    talk.ok(2, 1, [])  # an empty list means nothing then
    assert talk.session.channels[0].markets == 3


def test_first_tickers_are_asked_for_where_markets_are_named() -> None:
    talk = Talk(plan_of(ticker="A", trade="A"), initial_tickers=True)
    assert ["send_initial_snapshot" in c["params"] for c in talk.commands] == [True, False]
    assert "send_initial_snapshot" not in Talk(plan_of(ticker=ALL), initial_tickers=True).last["params"]


def test_an_empty_plan_is_live_at_once_and_says_nothing() -> None:
    talk = Talk(plan_of())
    assert talk.out == []
    assert talk.session.live


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"subscribed","id":1,"msg":{"channel":"trade","sid":1}}',
        '{"type":"subscribed","id":1,"msg":{"channel":"orderbook_delta"}}',
        '{"type":"ok","id":1}',
        '{"type":"surprise","id":1}',
        '{"type":"subscribed","id":99,"msg":{"channel":"orderbook_delta","sid":1}}',
        "no json",
    ],
)
def test_a_reply_that_makes_no_sense_is_a_warning_and_the_command_stays_open(frame: str) -> None:
    talk = subscribing()
    assert kinds(talk.say(frame)) == [WARN]
    assert talk.state() is S
    talk.subscribed(1, BOOK, 1)
    assert talk.state() is L


# ---- gaps and resync -------------------------------------------------------------------------------------------------


def test_a_gap_on_a_book_asks_for_snapshots_and_is_resolved_by_the_last_of_them() -> None:
    talk = live("ABC")
    assert talk.gap(1, number=77) == [
        Warn("gap:orderbook_delta", "orderbook_delta (sid 1): numbers 5 to 9 are missing: asking for its books again"),
        SendText(
            b'{"id":3,"cmd":"update_subscription","params":{"sids":[1],"action":"get_snapshot",'
            b'"market_tickers":["A","B","C"]}}'
        ),
    ]
    assert talk.session.open_gaps == (77,)
    assert talk.session.channels[0].suspect == 3
    assert talk.snapshots(3, "CA") == []
    assert talk.snapshots(3, "B") == [RecordEvent(RESYNCED, 1, BOOK, 3, gap_number=77)]
    assert talk.session.open_gaps == ()


def test_many_books_are_resynced_in_batches() -> None:
    talk = live("ABCDE", snapshot_batch=2)
    talk.gap(1, number=77)
    for names in ("AB", "CD", "E"):
        assert talk.last["params"]["market_tickers"] == list(names)
        talk.snapshots(talk.last["id"], names)
    assert talk.out == [RecordEvent(RESYNCED, 1, BOOK, 5, gap_number=77)]


def test_a_second_gap_starts_the_resync_anew_and_the_end_resolves_both() -> None:
    talk = live("AB")
    talk.gap(1, number=77)
    talk.snapshots(3, "A")
    assert of(SendText, talk.gap(1, number=80)) == [
        SendText(
            b'{"id":4,"cmd":"update_subscription","params":{"sids":[1],"action":"get_snapshot",'
            b'"market_tickers":["A","B"]}}'
        )
    ]
    assert talk.snapshots(3, "B") == []  # of the resync that was given up
    assert talk.snapshots(4, "BA") == [
        RecordEvent(RESYNCED, 1, BOOK, 2, gap_number=77),
        RecordEvent(RESYNCED, 1, BOOK, 2, gap_number=80),
    ]


def test_gap_after_gap_waits_ever_longer_and_resolves_all_in_the_end() -> None:
    talk = live("A")
    pauses = []
    for number in range(10, 20):
        talk.gap(1, number=number)
        if not of(SendText, talk.out):
            pauses.append((talk.session._channels[BOOK].wake_ns - talk.now) / SECOND)
            talk.wait(pauses[-1])
        assert talk.last["params"]["action"] == "get_snapshot"
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60]
    assert [e.gap_number for e in of(RecordEvent, talk.snapshots(talk.last["id"], "A"))] == list(range(10, 20))


def test_a_gap_while_the_resync_waits_is_resolved_with_it() -> None:
    talk = live("A")
    for number in (10, 11, 12, 13):
        talk.gap(1, number=number)
    assert of(SendText, talk.out) == []
    talk.wait(0.5)
    assert [e.gap_number for e in of(RecordEvent, talk.snapshots(talk.last["id"], "A"))] == [10, 11, 12, 13]


def test_gaps_far_apart_are_each_resynced_at_once() -> None:
    talk = live("A")
    for number in range(10, 20):
        talk.gap(1, number=number)
        assert kinds(talk.snapshots(talk.last["id"], "A")) == [EVENT]
        talk.wait(10)
        talk.wait(10)
        talk.wait(40)


def test_a_gap_on_another_channel_stays_unresolved_and_is_a_warning() -> None:
    talk = Talk(plan_of(trade="A"))
    talk.subscribed(1, TRADE, 1)
    talk.list_is_right()
    assert kinds(talk.gap(1)) == [WARN]
    assert talk.session.open_gaps == ()


def test_a_gap_before_the_reply_is_resynced_after_it() -> None:
    talk = Talk(plan_of(book="AB"))
    assert talk.gap(1, number=77) == []
    talk.subscribed(1, BOOK, 1)
    assert talk.last["params"]["action"] == "get_snapshot"
    assert talk.snapshots(2, "AB")[:2] == [
        RecordEvent(SUBSCRIBED, 1, BOOK, 2),
        RecordEvent(RESYNCED, 1, BOOK, 2, gap_number=77),
    ]


def test_a_gap_while_markets_are_added_covers_them_too() -> None:
    talk = updating()
    talk.gap(1, number=77)
    talk.ok(3, 1, "ABCD")
    assert talk.last["params"] == {"sids": [1], "action": "get_snapshot", "market_tickers": ["A", "B", "C", "D"]}


def test_markets_are_added_after_the_resync() -> None:
    talk = resyncing()
    talk.keep(talk.session.change_plan(plan_of(book="ABCD"), talk.now))
    assert talk.out == []
    talk.snapshots(3, "ABC")
    assert talk.last["params"]["action"] == "add_markets"
    assert talk.ok(4, 1, "ABCD") == [
        RecordEvent(SUBSCRIBED, 1, BOOK, 4),
        RecordEvent(RESYNCED, 1, BOOK, 4, gap_number=7),
    ]


def test_a_frame_that_could_not_be_decoded_is_a_gap_of_one_number_and_a_resync() -> None:
    talk = live("A")
    out = talk.event(EventKind.UNDECODED, sid=1, seq=9, reason=5, data=b"orderbook_delta")
    assert of(RecordGap, out)[0] == RecordGap(
        token=1,
        cause=GapCause.UNDECODED,
        detail="a frame of type orderbook_delta could not be decoded",
        sid=1,
        from_seq=9,
        to_seq=9,
        from_ns=talk.now,
    )
    assert talk.session.recorded(1, 55) == []
    assert talk.session.open_gaps == (55,)
    assert talk.snapshots(3, "A") == [RecordEvent(RESYNCED, 1, BOOK, 1, gap_number=55)]


def test_a_number_that_is_told_late_still_gets_its_end() -> None:
    talk = live("A")
    talk.event(EventKind.UNDECODED, sid=1, seq=9, data=b"orderbook_delta")
    assert talk.snapshots(3, "A") == []
    assert talk.session.recorded(1, 55) == [RecordEvent(RESYNCED, 1, BOOK, 1, gap_number=55)]
    assert talk.session.recorded(1, 56) == []
    assert talk.session.recorded(99, 57) == []


def test_a_frame_of_another_channel_that_could_not_be_decoded_is_a_warning() -> None:
    talk = Talk(plan_of(trade="A"))
    talk.subscribed(1, TRADE, 1)
    assert kinds(talk.event(EventKind.UNDECODED, sid=1, seq=9, data=b"trade")) == [WARN]


def suspect(market: str, *, sid: int = 1, number: int = 500) -> Suspect:
    return Suspect(number=number, connection=3, sid=sid, market=market, recv_ns=99 * SECOND, why="it is wrong")


def test_one_suspect_market_is_resynced_alone() -> None:
    """The Gap begins when the frame that showed it was received."""
    talk = live("ABC")
    assert talk.keep(talk.session.suspect(suspect("B"), talk.now)) == [
        RecordGap(1, GapCause.BOOK_STATE, "B: it is wrong (record 500)", sid=1, from_ns=99 * SECOND),
        SendText(
            b'{"id":3,"cmd":"update_subscription","params":{"sids":[1],"action":"get_snapshot","market_tickers":["B"]}}'
        ),
    ]
    assert talk.session.suspect(suspect("B"), talk.now) == []
    talk.session.recorded(1, 55)
    assert talk.snapshots(3, "B") == [RecordEvent(RESYNCED, 1, BOOK, 3, gap_number=55)]


def test_what_was_wrong_before_the_last_snapshot_asked_for_is_mended_already() -> None:
    """Who watches the books is behind: he may tell of a record from before the resync."""
    talk = live("A")
    talk.gap(1, number=77)
    talk.event(EventKind.SNAPSHOT, id=3, sid=1, seq=9, number=600, data=b"A")
    assert talk.session.suspect(suspect("A", number=599), talk.now) == []
    assert kinds(talk.session.suspect(suspect("A", number=601), talk.now)) == [GAP, SEND]


def test_a_suspect_during_a_resync_of_everything_is_part_of_it() -> None:
    talk = live("A")
    talk.gap(1, number=77)
    assert talk.session.suspect(suspect("A"), talk.now) == []


def test_a_market_that_becomes_suspect_in_a_resync_of_others_comes_next() -> None:
    talk = live("ABC")
    talk.keep(talk.session.suspect(suspect("B"), talk.now))
    assert kinds(talk.keep(talk.session.suspect(suspect("A"), talk.now))) == [GAP]
    talk.session.recorded(1, 55)
    talk.session.recorded(2, 56)
    talk.snapshots(3, "B")
    assert talk.last["params"]["market_tickers"] == ["A"]
    assert [e.gap_number for e in of(RecordEvent, talk.snapshots(4, "A"))] == [55, 56]


def test_deltas_of_a_market_that_was_not_asked_for_are_one_gap_without_end() -> None:
    """There is no book of it to mend: nothing is sent, and no event ends the Gap."""
    talk = live("ABC")
    out = talk.session.suspect(suspect("Z"), talk.now)
    assert kinds(out) == [GAP, WARN] and of(RecordGap, out)[0].cause is GapCause.BOOK_STATE
    assert talk.session.recorded(1, 55) == []
    assert talk.session.suspect(suspect("Z", number=501), talk.now) == []
    assert talk.session.open_gaps == ()


def test_a_suspect_on_a_sid_that_is_gone_is_a_warning() -> None:
    assert kinds(live("ABC").session.suspect(suspect("A", sid=9), 101 * SECOND)) == [WARN]


def test_snapshots_that_do_not_come_are_asked_for_once_more_and_then_subscribed_anew() -> None:
    talk = live("ABC")
    talk.gap(1, number=77)
    talk.snapshots(3, "A")
    talk.wait(10)
    assert talk.last == {
        "id": 4,
        "cmd": "update_subscription",
        "params": {"sids": [1], "action": "get_snapshot", "market_tickers": ["B", "C"]},
    }
    talk.wait(10)
    assert talk.last == {"id": 5, "cmd": "unsubscribe", "params": {"sids": [1]}}
    talk.say({"type": "unsubscribed", "id": 5, "sid": 1, "seq": 40})
    assert talk.last["params"]["market_tickers"] == ["A", "B", "C"]
    assert talk.subscribed(6, BOOK, 2)[:2] == [
        RecordEvent(SUBSCRIBED, 2, BOOK, 3),
        RecordEvent(RESYNCED, 2, BOOK, 3, gap_number=77),
    ]


def test_each_snapshot_gives_the_others_their_whole_time_again() -> None:
    talk = live("AB")
    talk.gap(1)
    talk.wait(9)
    talk.snapshots(3, "A")
    assert talk.wait(9) == []
    assert kinds(talk.snapshots(3, "B")) == [EVENT]


def test_a_resync_that_is_refused_twice_becomes_a_new_subscription() -> None:
    talk = resyncing()
    talk.error(13, sid=1, seq=11)
    assert talk.last["params"]["action"] == "get_snapshot"
    talk.error(13, id=talk.last["id"])
    assert talk.last["cmd"] == "unsubscribe"


def test_a_resync_that_is_too_much_at_once_is_made_in_smaller_batches() -> None:
    talk = live("ABCD")
    talk.gap(1, number=77)
    talk.error(27, id=3)
    talk.wait(0.5)
    assert talk.last["params"]["market_tickers"] == ["A", "B"]
    talk.snapshots(4, "AB")
    assert talk.last["params"]["market_tickers"] == ["C", "D"]
    assert kinds(talk.snapshots(5, "CD")) == [EVENT]


# ---- dead subscriptions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "cause"), [(10, GapCause.CHANNEL_ERROR), (25, GapCause.BUFFER_OVERFLOW)])
def test_a_dead_sid_is_a_gap_and_is_subscribed_to_again_on_the_same_connection(code: int, cause: GapCause) -> None:
    talk = live("ABC")
    (gap, warning) = talk.error(code, sid=1, seq=44)
    assert gap == RecordGap(1, cause, f"orderbook_delta: error {code} words", sid=1, from_ns=talk.now)
    assert isinstance(warning, Warn)
    talk.session.recorded(1, 90)
    assert talk.session.next_deadline_ns == talk.now + SECOND // 2
    talk.wait(0.5)
    assert talk.last["params"]["market_tickers"] == ["A", "B", "C"]
    assert talk.subscribed(talk.last["id"], BOOK, 2)[:2] == [
        RecordEvent(SUBSCRIBED, 2, BOOK, 3),
        RecordEvent(RESYNCED, 2, BOOK, 3, gap_number=90),
    ]


def test_other_channels_are_not_touched_by_a_dead_sid() -> None:
    talk = Talk(plan_of(book="A", trade="A"))
    talk.subscribed(1, BOOK, 1)
    talk.subscribed(2, TRADE, 2)
    talk.error(25, sid=2, seq=3)
    assert (talk.state(BOOK), talk.state(TRADE)) == (L, A)


def test_a_gap_that_was_being_resynced_is_resolved_by_the_new_subscription() -> None:
    talk = resyncing()
    talk.error(25, sid=1)
    talk.session.recorded(1, 90)
    talk.wait(0.5)
    events = of(RecordEvent, talk.subscribed(talk.last["id"], BOOK, 2))
    assert [event.gap_number for event in events] == [0, 7, 90]


def test_a_sid_that_dies_again_and_again_is_tried_ever_less_often_for_ever() -> None:
    talk = Talk(plan_of(book="A"))
    pauses = []
    for sid in range(1, 12):
        talk.subscribed(talk.last["id"], BOOK, sid)
        talk.list_is_right()
        talk.error(25, sid=sid)
        deadline_ns = talk.session._channels[BOOK].wake_ns
        pauses.append((deadline_ns - talk.now) / SECOND)
        talk.wait(pauses[-1])
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_after_a_calm_minute_the_pauses_start_from_the_first_again() -> None:
    talk = Talk(plan_of(book="A"))
    for sid, calm_s in ((1, 1), (2, 59), (3, 60), (4, 1)):
        talk.subscribed(talk.last["id"], BOOK, sid)
        talk.list_is_right()
        talk.wait(calm_s)
        talk.error(25, sid=sid)
        pause_s = (talk.session._channels[BOOK].wake_ns - talk.now) / SECOND
        assert pause_s == {1: 0.5, 2: 1, 3: 0.5, 4: 1}[sid]
        talk.wait(pause_s)


def test_a_sid_that_dies_before_its_reply_is_dead_with_the_reply() -> None:
    talk = Talk(plan_of(book="A"))
    assert talk.error(25, sid=1, seq=3) == []
    assert of(RecordGap, talk.subscribed(1, BOOK, 1))[0].cause is GapCause.BUFFER_OVERFLOW
    assert talk.state() is A


def test_an_unknown_sid_in_the_reply_to_an_update_means_that_it_is_dead() -> None:
    talk = updating()
    (gap, _) = talk.error(7, id=3)
    assert gap.cause is GapCause.CHANNEL_ERROR
    assert talk.state() is A


def test_an_end_that_nobody_asked_for_is_a_gap_and_a_new_subscription() -> None:
    talk = live("A")
    (gap, _) = talk.say({"type": "unsubscribed", "id": 0, "sid": 1, "seq": 5})
    assert (gap.cause, gap.sid) == (GapCause.CHANNEL_ERROR, 1)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 2, 3, 5, 6, 8, 9, 12, 13, 14, 24, 28, 99])
def test_a_refused_channel_is_a_gap_and_the_others_go_on(code: int) -> None:
    talk = Talk(plan_of(book="AB", trade="A"))
    talk.subscribed(2, TRADE, 1)
    out = talk.error(code, id=1)
    assert of(RecordGap, out) == [
        RecordGap(1, GapCause.REFUSED, out[0].detail, sid=0, from_ns=talk.now)  # type: ignore[union-attr]
    ]
    assert f"orderbook_delta: error {code} words" in of(RecordGap, out)[0].detail
    assert "A, B" in of(RecordGap, out)[0].detail
    assert of(RecordEvent, out) == [RecordEvent(SUBSCRIBED, 1, TRADE, 1)]
    assert talk.session.live
    talk.list_is_right()
    assert talk.wait(24) == []  # not tried again


def test_a_missing_permission_is_said_in_words() -> None:
    (_, warning, *_) = Talk(plan_of(book="A")).error(9, id=1)
    assert "permission" in warning.message  # type: ignore[union-attr]


def test_a_refused_channel_is_tried_again_when_its_plan_changes() -> None:
    talk = Talk(plan_of(book="A"))
    talk.error(14, id=1)
    talk.list_is_right()
    talk.keep(talk.session.change_plan(plan_of(book="AB"), talk.now))
    assert talk.last["params"]["market_tickers"] == ["A", "B"]


@pytest.mark.parametrize(
    "named", [{"market_ticker": "B"}, {"market_tickers": ["B"]}, {"market_tickers": ["B", "unheard-of"]}]
)
def test_a_market_that_an_error_names_is_refused_alone(named: dict[str, Any]) -> None:
    talk = Talk(plan_of(book="ABC"))
    out = talk.error(16, id=1, msg=named)
    assert of(RecordGap, out)[0].detail == "orderbook_delta: error 16 words: not recorded: B"
    assert talk.last["params"]["market_tickers"] == ["A", "C"]
    assert talk.subscribed(2, BOOK, 1)[0] == RecordEvent(SUBSCRIBED, 1, BOOK, 2)


def test_a_long_list_of_refused_markets_is_cut_and_counted() -> None:
    markets = tuple(f"M{n:02}" for n in range(25))
    gap = of(RecordGap, Talk(ConnectionPlan({BOOK: markets})).error(14, id=1))[0]
    assert gap.detail.endswith("M18, M19 and 5 more")


# ---- timeouts --------------------------------------------------------------------------------------------------------


def test_a_command_without_reply_is_sent_once_more_and_then_the_connection_is_given_up() -> None:
    talk = Talk(plan_of(book="A"))
    first = talk.out
    assert talk.wait(9.999999999) == []
    assert of(SendText, talk.wait(0.000000001)) == first
    assert talk.wait(9.9) == []
    assert talk.wait(0.1) == [Close(1001, "no reply to subscribe of orderbook_delta (id 1), sent twice, within 20 s")]
    assert talk.subscribed(1, BOOK, 1) == []
    assert talk.session.next_deadline_ns is None


def test_two_replies_to_a_command_that_was_sent_twice_count_once() -> None:
    talk = Talk(plan_of(book="A"))
    talk.wait(10)
    talk.subscribed(1, BOOK, 1)
    assert talk.ok(1, 1, "A") == []
    assert talk.error(27, id=1) == []
    assert talk.state() is L


@pytest.mark.parametrize("first", [18, 13])
def test_an_error_to_one_of_two_is_not_the_answer_to_the_other(first: int) -> None:
    talk = updating()
    talk.wait(10)
    assert talk.error(first, id=3) == []
    assert talk.ok(3, 1, "ABCD") == [RecordEvent(SUBSCRIBED, 1, BOOK, 4)]


def test_errors_to_both_of_two_are_an_error() -> None:
    talk = updating()
    talk.wait(10)
    talk.error(18, id=3)
    assert kinds(talk.error(18, id=3)) == [WARN]
    assert talk.state() is L


def test_an_unsubscribe_that_was_sent_twice_may_be_answered_by_unknown_sid() -> None:
    talk = leaving()
    talk.wait(10)
    talk.say({"type": "unsubscribed", "id": 3, "sid": 1, "seq": 4})
    assert talk.error(7, id=3) == []


def test_while_we_do_not_read_nothing_is_overdue() -> None:
    talk = Talk(plan_of(book="A"))
    for _ in range(30):
        talk.s += 5
        talk.session.not_reading(talk.now)
        assert talk.keep(talk.session.tick(talk.now)) == []
    talk.s += 9
    assert talk.keep(talk.session.tick(talk.now)) == []
    talk.s += 1
    assert SEND in kinds(talk.keep(talk.session.tick(talk.now)))


# ---- keep-alive ------------------------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_payload() -> None:
    assert live().event(EventKind.PING, data=b"heartbeat") == [SendPong(b"heartbeat")]


def test_silence_is_asked_about_once_and_ends_the_connection_exactly_at_the_limit() -> None:
    talk = live()
    assert talk.wait(11.999999999, heard=False) == []
    assert talk.wait(0.000000001, heard=False) == [SendPing(b"ssmd")]
    assert talk.wait(1, heard=False) == []
    assert talk.wait(11.999999999, heard=False) == []
    assert talk.wait(0.000000001, heard=False) == [Close(1001, "stall: nothing was received for 25.0 s", stalled=True)]
    assert talk.wait(100, heard=False) == []


@pytest.mark.parametrize(
    "heard",
    [
        lambda t: t.event(EventKind.PONG, data=b"ssmd"),
        lambda t: t.event(EventKind.PING, data=b"heartbeat"),
        lambda t: t.event(EventKind.REPEAT, sid=1, seq=3, first=9),
        lambda t: t.say("not even a reply"),
        lambda t: t.session.received_data(t.now),
    ],
)
def test_anything_received_is_a_sign_of_life(heard: Callable[[Talk], object]) -> None:
    talk = live()
    talk.wait(24, heard=False)
    heard(talk)
    assert talk.wait(11, heard=False) == []
    assert talk.wait(1, heard=False) == [SendPing(b"ssmd")]
    assert talk.wait(12.9, heard=False) == []
    assert kinds(talk.wait(0.1, heard=False)) == [CLOSE]


def test_what_we_send_is_no_sign_of_life() -> None:
    talk = live()
    talk.wait(20, heard=False)
    talk.keep(talk.session.change_plan(plan_of(book="ABCD"), talk.now))
    assert kinds(talk.out) == [SEND]
    assert of(Close, talk.wait(5, heard=False))[0].stalled


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_clock_that_is_stepped_neither_ends_a_connection_nor_hides_that_it_is_dead(step_s: int) -> None:
    talk = live()
    talk.wait(10, heard=False)
    talk.s += step_s
    talk.session.clock_stepped(step_s * SECOND)
    assert talk.wait(1.5, heard=False) == []
    assert talk.wait(0.5, heard=False) == [SendPing(b"ssmd")]
    assert talk.wait(12.9, heard=False) == []
    assert kinds(talk.wait(0.1, heard=False)) == [CLOSE]


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_command_is_waited_for_as_long_when_the_clock_is_stepped(step_s: int) -> None:
    talk = subscribing()
    talk.wait(9)
    talk.s += step_s
    talk.session.clock_stepped(step_s * SECOND)
    sent = len(talk.commands)
    talk.wait(0.9)
    assert len(talk.commands) == sent
    talk.wait(0.2)
    assert len(talk.commands) > sent, "sent again, or asked what there is"


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_pause_after_a_failure_lasts_as_long_when_the_clock_is_stepped(step_s: int) -> None:
    plain, stepped = (refused() for _ in range(2))
    stepped.s += step_s
    stepped.session.clock_stepped(step_s * SECOND)
    for _ in range(40):
        assert kinds(plain.wait(0.25)) == kinds(stepped.wait(0.25))
    assert len(plain.commands) > 1, "it tried again"


def refused() -> Talk:
    """A subscription that failed, and is tried again after a pause."""
    talk = Talk(plan_of(book="ABC"))
    talk.error(18, id=1)
    return talk


def test_a_short_limit_still_asks_before_it_ends() -> None:
    talk = live(stall_after_ns=2 * SECOND)
    assert talk.wait(1, heard=False) == [SendPing(b"ssmd")]
    assert kinds(talk.wait(1, heard=False)) == [CLOSE]


def test_the_next_deadline_is_the_ping_then_the_stall() -> None:
    talk = live()
    began_ns = talk.now
    assert talk.session.next_deadline_ns == began_ns + 12 * SECOND
    talk.wait(12, heard=False)
    assert talk.session.next_deadline_ns == began_ns + 25 * SECOND


def test_a_clock_that_is_set_back_is_not_followed() -> None:
    talk = live()
    talk.wait(5)
    talk.s -= 50
    assert talk.wait(0) == []
    assert talk.session.next_deadline_ns == 117 * SECOND


# ---- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "close"),
    [
        (b"\x03\xe9going away", Close(1001, "closed by the exchange: 1001 going away")),
        (b"\x03\xe8", Close(1000, "closed by the exchange: 1000")),
        (b"", Close(1000, "closed by the exchange: 1000")),
        (b"\x03", Close(1000, "closed by the exchange: 1000")),
        (b"\x03\xe8\xff", Close(1000, "closed by the exchange: 1000 �")),
    ],
)
def test_a_close_is_answered_with_its_code_and_ends_the_session(payload: bytes, close: Close) -> None:
    talk = live()
    assert talk.event(EventKind.CLOSE, data=payload) == [close]
    assert not talk.session.live
    assert talk.gap(1) == []
    assert talk.event(EventKind.PING, data=b"x") == []
    assert talk.keep(talk.session.change_plan(plan_of(book="Z"), talk.now)) == []


def test_what_was_open_at_the_end_can_still_be_asked() -> None:
    talk = live("A")
    talk.gap(1, number=77)
    talk.session.closed(talk.now)
    assert talk.session.open_gaps == (77,)
    assert talk.session.tick(talk.now) == []
    assert not talk.session.live


def test_a_session_serves_one_connection() -> None:
    session = Session(plan_of(book="A"))
    with pytest.raises(SessionError, match="not opened"):
        session.tick(SECOND)
    with pytest.raises(SessionError, match="not opened"):
        session.receive(Event(EventKind.PING), SECOND)
    session.opened(SECOND)
    with pytest.raises(SessionError, match="twice"):
        session.opened(SECOND)


def test_a_plan_may_change_before_the_connection_is_open() -> None:
    talk = Talk(plan_of(book="A"), open=False)
    assert talk.session.change_plan(plan_of(trade="B"), talk.now) == []
    talk.keep(talk.session.opened(talk.now))
    assert [c["params"] for c in talk.commands] == [{"channels": ["trade"], "market_tickers": ["B"]}]


def test_a_channel_that_does_not_exist_is_our_own_fault() -> None:
    with pytest.raises(SessionError, match="no-such"):
        Session(ConnectionPlan({"no-such": ALL}))


# ---- warnings --------------------------------------------------------------------------------------------------------


def test_a_repeat_and_something_new_are_warned_of_under_a_key_of_their_own() -> None:
    talk = live()
    (repeat,) = talk.event(EventKind.REPEAT, sid=1, seq=3, first=9)
    (drift,) = talk.event(EventKind.DRIFT, data=b"type:surprise")
    assert isinstance(repeat, Warn) and isinstance(drift, Warn)
    assert (repeat.key, drift.key) == ("repeat:1", "drift:type:surprise")


# ---- plan changes ----------------------------------------------------------------------------------------------------


def changed(talk: Talk, **channels: Markets | str) -> list[Action]:
    return talk.keep(talk.session.change_plan(plan_of(**channels), talk.now))


def test_markets_come_and_go_in_place_deletes_first() -> None:
    talk = live("ABC")
    changed(talk, book="BCD")
    assert talk.last["params"] == {"sids": [1], "action": "delete_markets", "market_tickers": ["A"]}
    talk.ok(3, 1, "BC")
    assert talk.last["params"] == {"sids": [1], "action": "add_markets", "market_tickers": ["D"]}
    assert talk.ok(4, 1, "BCD") == [RecordEvent(SUBSCRIBED, 1, BOOK, 3)]


def test_an_unchanged_plan_sends_nothing() -> None:
    assert changed(live("ABC"), book="ABC") == []


@pytest.mark.parametrize("markets", ["XYZ", ALL])
def test_a_subscription_that_keeps_no_market_is_ended_and_made_anew(markets: Markets | str) -> None:
    talk = Talk(plan_of(trade="AB"))
    talk.subscribed(1, TRADE, 1)
    talk.list_is_right()
    changed(talk, trade=markets)
    assert talk.last == {"id": 3, "cmd": "unsubscribe", "params": {"sids": [1]}}
    talk.say({"type": "unsubscribed", "id": 3, "sid": 1, "seq": 2})
    assert talk.last["cmd"] == "subscribe"


def test_a_channel_that_is_not_in_the_plan_any_more_is_unsubscribed_and_forgotten() -> None:
    talk = leaving()
    assert talk.last == {"id": 3, "cmd": "unsubscribe", "params": {"sids": [1]}}
    talk.say({"type": "unsubscribed", "id": 3, "sid": 1, "seq": 2})
    assert talk.session.channels == ()


def test_a_new_channel_is_subscribed_to() -> None:
    talk = live("A")
    changed(talk, book="A", trade="A")
    assert talk.last["params"] == {"channels": ["trade"], "market_tickers": ["A"]}
    assert talk.subscribed(3, TRADE, 2)[0] == RecordEvent(SUBSCRIBED, 2, TRADE, 1)


def test_a_plan_that_changes_while_a_command_is_out_is_followed_from_the_reply_on() -> None:
    talk = Talk(plan_of(book="AB"))
    changed(talk, book="B")
    assert talk.out == []
    talk.subscribed(1, BOOK, 1)
    assert talk.last["params"] == {"sids": [1], "action": "delete_markets", "market_tickers": ["A"]}


def test_a_plan_that_comes_back_before_the_unsubscribe_is_answered_is_subscribed_anew() -> None:
    talk = leaving()
    changed(talk, book="ABC")
    talk.say({"type": "unsubscribed", "id": 3, "sid": 1, "seq": 2})
    assert talk.last["cmd"] == "subscribe"


# ---- the plan against what the exchange says -------------------------------------------------------------------------


def listed(talk: Talk, **sids: int) -> list[Action]:
    names = {"book": BOOK, "ticker": TICKER, "trade": TRADE, "other": "no-such-channel"}
    body = [{"channel": names[name], "sid": sid} for name, sid in sids.items()]
    return talk.say({"type": "ok", "id": talk.last["id"], "msg": body})


def asked_for_list(markets: str = "ABC") -> Talk:
    talk = Talk(plan_of(book=markets))
    talk.subscribed(1, BOOK, 1)
    assert talk.last == {"id": 2, "cmd": "list_subscriptions"}
    return talk


@pytest.mark.parametrize("theirs", [{}, {"book": 2}])
def test_a_sid_that_the_exchange_does_not_list_is_dead(theirs: dict[str, int]) -> None:
    talk = asked_for_list()
    (gap, _) = listed(talk, **theirs)
    assert (gap.cause, gap.sid) == (GapCause.CHANNEL_ERROR, 1)
    talk.wait(0.5)
    assert talk.last["cmd"] == "subscribe"


@pytest.mark.parametrize("name", ["trade", "other"])
def test_a_subscription_that_is_not_wanted_is_left(name: str) -> None:
    talk = asked_for_list()
    (warning, send) = listed(talk, book=1, **{name: 4})
    assert isinstance(warning, Warn)
    assert send == SendText(b'{"id":3,"cmd":"unsubscribe","params":{"sids":[4]}}')
    talk.say({"type": "unsubscribed", "id": 3, "sid": 4})
    assert [view.name for view in talk.session.channels] == [BOOK]
    assert listed(talk, book=1) == []


def test_a_refused_channel_that_the_exchange_holds_all_the_same_is_left() -> None:
    talk = Talk(plan_of(book="A", trade="A"))
    talk.error(14, id=1)
    talk.subscribed(2, TRADE, 1)
    listed(talk, trade=1, book=2)
    assert talk.last == {"id": 4, "cmd": "unsubscribe", "params": {"sids": [2]}}
    talk.say({"type": "unsubscribed", "id": 4, "sid": 2})
    assert talk.state() is A


def test_a_list_that_is_older_than_our_own_view_is_asked_for_again() -> None:
    talk = asked_for_list()
    talk.error(25, sid=1)
    assert talk.say({"type": "ok", "id": 2, "msg": [{"channel": BOOK, "sid": 1}]}) == []
    talk.wait(0.5)
    talk.subscribed(3, BOOK, 2)
    assert talk.last == {"id": 4, "cmd": "list_subscriptions"}


def test_a_list_that_names_a_sid_of_before_does_not_kill_the_one_of_now() -> None:
    talk = asked_for_list()
    talk.error(25, sid=1)
    talk.wait(0.5)
    talk.subscribed(3, BOOK, 2)
    out = talk.say({"type": "ok", "id": 2, "msg": [{"channel": BOOK, "sid": 1}]})
    assert out == [SendText(b'{"id":4,"cmd":"list_subscriptions"}')]
    assert talk.state() is L


def test_a_list_that_is_refused_or_unreadable_is_a_warning() -> None:
    assert kinds(asked_for_list().error(5, id=2)) == [WARN]
    assert kinds(asked_for_list().say({"type": "ok", "id": 2, "msg": {"odd": 1}})) == [WARN]


def test_a_list_that_is_refused_for_now_is_asked_for_again() -> None:
    talk = asked_for_list()
    assert kinds(talk.error(27, id=2)) == [WARN]
    assert talk.wait(10) == [SendText(b'{"id":2,"cmd":"list_subscriptions"}')]
    assert talk.list_is_right() == []


def test_a_list_that_does_not_come_is_asked_for_once_more_and_then_let_go() -> None:
    talk = asked_for_list()
    assert talk.wait(10) == [SendText(b'{"id":2,"cmd":"list_subscriptions"}')]
    assert kinds(talk.wait(10)) == [WARN]
    assert talk.wait(24) == []
    assert talk.session.live


def test_a_market_that_was_confirmed_but_is_not_listed_is_asked_for_again_and_then_refused() -> None:
    talk = live("A")
    changed(talk, book="AB")
    talk.ok(3, 1, "A")
    assert talk.last["params"] == {"sids": [1], "action": "add_markets", "market_tickers": ["B"]}
    out = talk.ok(4, 1, "A")
    assert of(RecordGap, out)[0].cause is GapCause.REFUSED
    assert of(RecordGap, out)[0].detail.endswith("not recorded: B")
    assert of(SendText, out) == []


def test_a_market_that_nobody_asked_for_is_deleted() -> None:
    talk = live("A")
    changed(talk, book="AB")
    talk.ok(3, 1, "ABZ")
    assert talk.last["params"] == {"sids": [1], "action": "delete_markets", "market_tickers": ["Z"]}
    talk.ok(4, 1, "AB")
    assert talk.session.channels[0].markets == 2


def test_a_market_that_cannot_be_deleted_is_not_deleted_for_ever() -> None:
    talk = live("AB")
    changed(talk, book="A")
    out = talk.ok(3, 1, "AB")
    assert of(SendText, out) == []
    assert talk.session.channels[0].markets == 2


def test_a_refused_delete_is_a_warning_and_the_market_stays() -> None:
    talk = live("AB")
    changed(talk, book="A")
    assert kinds(talk.error(13, id=3)) == [WARN]
    assert talk.state() is L
    assert talk.wait(24) == []


def test_a_subscription_that_was_emptied_is_left_for_it_could_mean_all() -> None:
    talk = live("AB")
    changed(talk, book="A")
    talk.ok(3, 1, [])
    assert talk.last == {"id": 4, "cmd": "unsubscribe", "params": {"sids": [1]}}
    talk.say({"type": "unsubscribed", "id": 4, "sid": 1})
    assert talk.last["params"]["market_tickers"] == ["A"]


# ---- against a small exchange ----------------------------------------------------------------------------------------


class Exchange:
    """Subscriptions as section 2 of the sheet has them, with limits and moods. Replies wait until they are taken."""

    def __init__(self, *, bad: Iterable[str] = (), limit: int | None = None) -> None:
        self.bad, self.limit = set(bad), limit
        self.held: dict[str, tuple[int, set[str] | None]] = {}
        self.sids = itertools.count(1)
        self.replies: list[Event] = []

    def _say(self, frame: dict[str, Any]) -> None:
        self.replies.append(Event(EventKind.REPLY, data=json.dumps(frame).encode()))

    def _error(self, command: dict[str, Any], code: int) -> None:
        self._say({"type": "error", "id": command["id"], "msg": {"code": code, "msg": "no"}})

    def take(self, command: dict[str, Any], mood: int = 0) -> None:
        """Answers a command. `mood`: an error code to answer with instead, 0 = none."""
        params = command.get("params", {})
        if mood:
            self._error(command, mood)
        elif command["cmd"] == "list_subscriptions":
            body = [{"channel": name, "sid": sid} for name, (sid, _) in self.held.items()]
            self._say({"type": "ok", "id": command["id"], "msg": body})
        elif command["cmd"] == "subscribe":
            self._subscribe(command, params["channels"][0], params.get("market_tickers"))
        elif command["cmd"] == "unsubscribe":
            self._unsubscribe(command, params["sids"][0])
        else:
            self._update(command, params)

    def _too_much(self, command: dict[str, Any], markets: set[str] | None) -> bool:
        if markets is not None and markets & self.bad:
            self._error(command, 11)
            return True
        if markets is not None and self.limit is not None and len(markets) > self.limit:
            self._error(command, 26)
            return True
        return False

    def _subscribe(self, command: dict[str, Any], name: str, tickers: Sequence[str] | None) -> None:
        asked = None if tickers is None else set(tickers)
        sid, held = self.held.get(name, (0, set()))
        merged = None if asked is None or held is None else held | asked
        if self._too_much(command, merged):
            return
        if sid:
            self.held[name] = (sid, merged)
            self._say({"type": "ok", "id": command["id"], "sid": sid, "msg": {"market_tickers": sorted(merged or ())}})
        else:
            self.held[name] = (next(self.sids), merged)
            body = {"channel": name, "sid": self.held[name][0]}
            self._say({"type": "subscribed", "id": command["id"], "msg": body})

    def _unsubscribe(self, command: dict[str, Any], sid: int) -> None:
        for name, (number, _) in list(self.held.items()):
            if number == sid:
                del self.held[name]
                self._say({"type": "unsubscribed", "id": command["id"], "sid": sid, "seq": 9})
                return
        self._error(command, 7)

    def _update(self, command: dict[str, Any], params: dict[str, Any]) -> None:
        found = [(name, held) for name, (sid, held) in self.held.items() if [sid] == params["sids"]]
        if not found:
            self._error(command, 7)
            return
        name, held = found[0]
        sid, tickers = params["sids"][0], set(params["market_tickers"])
        assert held is not None, "an update of a subscription to all markets"
        if params["action"] == "get_snapshot":
            assert tickers <= held, "a snapshot of a market that is not subscribed to"
            for ticker in sorted(tickers):
                self.replies.append(Event(EventKind.SNAPSHOT, id=command["id"], sid=sid, data=ticker.encode()))
            return
        after = held | tickers if params["action"] == "add_markets" else held - tickers
        assert after, "an emptied subscription can mean all markets"
        if not self._too_much(command, after):
            self.held[name] = (sid, after)
            body = {"market_tickers": sorted(after)}
            self._say({"type": "ok", "id": command["id"], "sid": sid, "seq": 3, "msg": body})

    def kill(self, name: str, code: int) -> None:
        if name in self.held:
            sid, _ = self.held.pop(name)
            self._say({"type": "error", "sid": sid, "seq": 5, "msg": {"code": code, "msg": "gone"}})


class Run:
    """A session and an exchange. Every Gap record gets a number, as a client would give it."""

    def __init__(self, plan: ConnectionPlan, exchange: Exchange, **options: Any) -> None:
        self.exchange = exchange
        self.session = Session(plan, settings=Settings(**options))
        self.now_ns = SECOND
        self.numbers = itertools.count(1000)
        self.gaps: dict[int, GapCause] = {}
        self.details: list[str] = []
        self.resolved: list[int] = []
        self.closes: list[Close] = []
        self.moods: list[int] = []
        self.lost: list[bool] = []
        self.do(self.session.opened(self.now_ns))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, SendText):
                mood = self.moods.pop() if self.moods else 0
                if not (self.lost.pop() if self.lost else False):
                    self.exchange.take(json.loads(action.data), mood)
            elif isinstance(action, RecordGap):
                number = next(self.numbers)
                self.gaps[number] = action.cause
                self.details.append(action.detail)
                self.do(self.session.recorded(action.token, number))
            elif isinstance(action, RecordEvent) and action.what is RESYNCED:
                self.resolved.append(action.gap_number)
            elif isinstance(action, Close):
                self.closes.append(action)

    def deliver(self, index: int = 0) -> None:
        event = self.exchange.replies.pop(index % len(self.exchange.replies))
        self.do(self.session.receive(event, self.now_ns))

    def gap(self, name: str) -> None:
        if name in self.exchange.held:
            number = next(self.numbers)
            self.gaps[number] = GapCause.SEQUENCE
            sid = self.exchange.held[name][0]
            self.do(self.session.receive(Event(EventKind.GAP, sid=sid, first=1, last=2, number=number), self.now_ns))

    def settle(self, pick: Callable[[int], int] = lambda count: 0) -> None:
        """Delivers and waits until nothing is left to do but to listen."""
        for _ in range(2000):
            if self.closes:
                return
            if self.exchange.replies:
                self.deliver(pick(len(self.exchange.replies)))
                continue
            self.session.received_data(self.now_ns)
            deadline_ns = self.session.next_deadline_ns
            assert deadline_ns is not None
            if all(view.state in (A, L) for view in self.session.channels) and not self._pausing():
                return
            self.now_ns = deadline_ns
            self.session.received_data(self.now_ns)
            self.do(self.session.tick(self.now_ns))
        raise AssertionError("never settles")

    def _pausing(self) -> bool:
        return any(channel.wake_ns for channel in self.session._channels.values())

    def held(self) -> dict[str, Any]:
        return {name: held if held is None else frozenset(held) for name, (_, held) in self.exchange.held.items()}


def wanted(plan: ConnectionPlan) -> dict[str, Any]:
    return {name: None if markets is ALL else frozenset(markets) for name, markets in plan.channels.items()}


def test_a_limit_of_markets_is_found_out_and_the_rest_is_a_gap_in_words() -> None:
    run = Run(plan_of(book="ABCDEFGH"), Exchange(limit=5))
    run.settle()
    (held,) = run.held().values()
    assert len(held) == 5
    assert list(run.gaps.values()) == [GapCause.REFUSED]
    assert all(ticker in run.details[0] for ticker in set("ABCDEFGH") - held)


def test_one_bad_market_in_a_list_is_found_and_refused_alone() -> None:
    markets = tuple(f"M{n:03}" for n in range(200))
    run = Run(ConnectionPlan({BOOK: markets}), Exchange(bad=["M077", "M150"]), command_batch=100)
    run.settle()
    assert run.held() == {BOOK: frozenset(markets) - {"M077", "M150"}}
    assert [detail.rpartition(" ")[2] for detail in run.details] == ["M077", "M150"]


def test_a_single_bad_market_leaves_nothing_to_subscribe_to() -> None:
    run = Run(plan_of(book="A"), Exchange(bad="A"))
    run.settle()
    assert run.held() == {}
    assert list(run.gaps.values()) == [GapCause.REFUSED]
    assert run.session.live


@pytest.mark.parametrize("code", [17, 18, 27])
def test_their_trouble_is_waited_out_however_long_it_lasts(code: int) -> None:
    run = Run(plan_of(), Exchange())
    run.moods = [code] * 40
    run.do(run.session.change_plan(plan_of(book="ABC", trade=ALL), run.now_ns))
    run.settle()
    assert run.held() == {BOOK: frozenset("ABC"), TRADE: None}
    assert run.gaps == {}


_plans = st.fixed_dictionaries(
    {},
    optional={
        BOOK: st.sets(st.sampled_from("ABCDEF"), min_size=1),
        TRADE: st.just(ALL) | st.sets(st.sampled_from("ABCDEF"), min_size=1),
        TICKER: st.just(ALL) | st.sets(st.sampled_from("ABCDEF"), min_size=1),
    },
).map(lambda chosen: ConnectionPlan({n: m if m is ALL else tuple(sorted(m)) for n, m in chosen.items()}))  # type: ignore[type-var]

_steps = st.one_of(
    st.tuples(st.just("plan"), _plans),
    st.tuples(st.just("deliver"), st.integers(0, 5)),
    st.tuples(st.just("gap"), st.sampled_from([BOOK, TRADE])),
    st.tuples(st.just("kill"), st.sampled_from([BOOK, TRADE, TICKER])),
    st.tuples(st.just("mood"), st.sampled_from([18, 27])),
    st.tuples(st.just("lose"), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 11)),
)


@settings(deadline=None, max_examples=200)
@given(_plans, st.lists(_steps, max_size=25), st.integers(1, 3), st.randoms(use_true_random=False))
def test_any_history_ends_in_the_plan_with_every_book_gap_resolved(
    plan: ConnectionPlan, history: list[tuple[str, Any]], batch: int, chance: random.Random
) -> None:
    run = Run(plan, Exchange(), command_batch=batch, snapshot_batch=batch)
    for kind, value in history:
        if kind == "plan":
            plan = value
            run.do(run.session.change_plan(plan, run.now_ns))
        elif kind == "deliver" and run.exchange.replies:
            run.deliver(value)
        elif kind == "gap":
            run.gap(value)
        elif kind == "kill":
            run.exchange.kill(value, 25)
        elif kind == "mood":
            run.moods.append(value)
        elif kind == "lose":
            run.lost.append(value)
        elif kind == "wait":
            run.now_ns += value * SECOND
            run.session.received_data(run.now_ns)
            run.do(run.session.tick(run.now_ns))
    run.moods.clear()
    run.lost.clear()
    run.settle(lambda count: chance.randrange(count))
    if run.closes:  # a command without reply twice: a history can lose replies and wait too long
        return
    assert run.held() == wanted(plan)
    assert run.session.live
    assert run.session.open_gaps == ()
    assert all(view.state is L and view.suspect == 0 for view in run.session.channels)
