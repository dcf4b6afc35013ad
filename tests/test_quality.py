"""From facts to the verdict, with facts written by hand; and the C tally held equal to its plain twin."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from journal_writer import Journal

from ssmd.native.tally import Tally
from ssmd.native.walk import ViewReader
from ssmd.quality import (
    Account,
    Channel,
    DamageFact,
    EventFact,
    Finding,
    GapFact,
    Hole,
    Report,
    SubscribedFact,
    Totals,
    judge,
    merge,
)
from ssmd.tally import Delta, PlainTally, Seen, Snapshot

# ---- verdicts --------------------------------------------------------------------------------------------------


def event(number: int, what: str, connection: int = 0, **fields: Any) -> EventFact:
    return EventFact(number, number * 10, what, connection, **fields)


def channel(connection: int, sid: int, first: int, last: int, kinds: int = 1 << 1) -> Channel:
    return Channel(connection, sid, first, last, last - first + 1, 0, 50, 500, 900, kinds)


def gap(number: int, cause: str, connection: int = 0, **fields: Any) -> GapFact:
    return GapFact(number, number * 10, cause, connection, **{"sid": 0, **fields})


def causes(report: Report) -> list[str]:
    return [entry["cause"] for entry in report.gaps]


RUN = [event(1, "started"), event(2, "opened", 1), event(8, "closed", 1, reason="stop"), event(9, "stopped")]


def test_a_run_that_was_stopped_is_complete() -> None:
    report = judge(Account(events=RUN, channels=[channel(1, 1, 1, 5)]))
    assert report.complete
    assert (report.gaps, report.damage, report.blind) == ([], [], [])


def test_stop_and_start_as_asked_is_no_hole() -> None:
    assert judge(Account(events=[*RUN, event(10, "started"), event(11, "opened", 2)])).complete


def test_a_run_that_is_still_going_is_complete_so_far() -> None:
    assert judge(Account(events=RUN[:2])).complete


@pytest.mark.parametrize("cause", ["sequence", "disconnect", "stall", "outage", "refused", "undecoded", "damage"])
def test_any_gap_record_makes_it_incomplete(cause: str) -> None:
    fields = {"sid": 1, "from_seq": 3, "to_seq": 4} if cause == "sequence" else {}
    holes = [Hole(1, 1, 3, 4, 0, 0, 5)] if fields else []
    report = judge(Account(gaps=[gap(5, cause, 1, **fields)], holes=holes))
    assert not report.complete
    assert causes(report) == [cause]
    assert report.damage == []


def test_a_gap_is_resolved_by_the_event_that_names_it() -> None:
    events = [event(7, "resynced", 1, gap_number=4), event(8, "resynced", 1, gap_number=5)]
    (entry,) = judge(Account(gaps=[gap(5, "undecoded", 1, from_ns=50)], events=events)).gaps
    assert (entry["resolved_by"], entry["from_ns"], entry["to_ns"]) == (8, 50, 80)


def test_a_lost_connection_is_resolved_by_the_next_full_subscription() -> None:
    events = [event(6, "opened", 2), event(7, "subscribed", 2)]
    (entry,) = judge(Account(gaps=[gap(5, "disconnect", 1)], events=events)).gaps
    assert entry["resolved_by"] == 7


def test_a_subscription_before_the_gap_does_not_resolve_it() -> None:
    (entry,) = judge(Account(gaps=[gap(5, "disconnect", 1)], events=[event(4, "subscribed", 2)])).gaps
    assert entry["resolved_by"] is None


def test_a_hole_without_its_gap_record_is_unrecorded() -> None:
    report = judge(Account(holes=[Hole(1, 2, 5, 7, 100, 200, 30)]))
    (entry,) = report.gaps
    assert (entry["cause"], entry["sid"], entry["from_seq"], entry["to_seq"]) == ("unrecorded", 2, 5, 7)
    assert (entry["from_ns"], entry["to_ns"]) == (100, 200)


def test_a_gap_record_without_its_hole_is_a_contradiction() -> None:
    facts = Account(gaps=[gap(5, "sequence", 1, sid=2, from_seq=5, to_seq=7, segment="s", offset=64)])
    (damage,) = judge(facts).damage
    assert (damage.segment, damage.offset) == ("s", 64)
    assert "seq 5 to 7" in damage.what


def test_numbers_missing_at_the_start_of_a_sid_are_a_hole_when_its_connection_was_opened_here() -> None:
    report = judge(Account(events=[event(2, "opened", 1)], channels=[channel(1, 1, 4, 9)]))
    assert [(g["from_seq"], g["to_seq"]) for g in report.gaps] == [(1, 3)]


def test_a_journal_read_from_the_middle_does_not_miss_what_came_before() -> None:
    assert judge(Account(channels=[channel(1, 1, 4, 9)])).complete


def test_a_gap_record_at_the_start_of_a_sid_is_matched() -> None:
    facts = Account(
        events=[event(2, "opened", 1)],
        channels=[channel(1, 1, 4, 9)],
        gaps=[gap(3, "sequence", 1, sid=1, from_seq=1, to_seq=3)],
    )
    report = judge(facts)
    assert causes(report) == ["sequence"] and report.damage == []


def test_a_connection_lost_without_a_gap_record_is_listed() -> None:
    events = [event(2, "opened", 1), event(5, "closed", 1, reason="reset"), event(6, "opened", 2)]
    (entry,) = judge(Account(events=events)).gaps
    assert (entry["cause"], entry["connection"], entry["from_ns"], entry["to_ns"]) == ("disconnect", 1, 50, 60)


def test_a_connection_lost_with_its_gap_record_is_listed_once() -> None:
    events = [event(2, "opened", 1), event(5, "closed", 1), event(7, "opened", 2)]
    assert causes(judge(Account(events=events, gaps=[gap(6, "stall", 1)]))) == ["stall"]


def test_several_sockets_closed_by_a_stop_are_no_holes() -> None:
    events = [event(2, "opened", 1), event(3, "opened", 2), event(5, "closed", 1), event(6, "closed", 2)]
    assert judge(Account(events=[*events, event(7, "stopped")])).complete


def test_a_run_that_died_needs_an_outage_record() -> None:
    events = [event(1, "started"), event(2, "opened", 1), event(9, "started"), event(11, "opened", 2)]
    assert causes(judge(Account(events=events))) == ["outage"]
    assert causes(judge(Account(events=events, gaps=[gap(8, "outage")]))) == ["outage"]
    assert len(judge(Account(events=events, gaps=[gap(8, "outage")])).gaps) == 1


def test_findings_are_told_in_words() -> None:
    findings = [
        Finding("s", 8, 15, 12, 0, 0),
        Finding("s", 8, 9, 16, 0, 0),
        Finding("s", 8, 20, 0, 1, 1),
        Finding("s", 8, 21, 0, 2, 1),
    ]
    report = judge(Account(findings=findings))
    assert not report.complete
    assert [d.what for d in report.damage] == [
        "records 12 to 14 are missing (3)",
        "record 9 stands where 16 should be",
        "the snapshot of record 20 differs from the book that the deltas before it give",
        "the delta of record 21 takes a level below zero",
    ]


def test_damage_makes_it_incomplete() -> None:
    assert not judge(Account(damage=[DamageFact("s", 0, "x")])).complete


def test_ticker_is_blind_as_soon_as_it_is_subscribed() -> None:
    report = judge(Account(subscriptions=[SubscribedFact(3, 1, 7, "ticker")]))
    assert report.complete
    assert [entry["channel"] for entry in report.blind] == ["ticker"]


def test_a_sid_without_numbers_is_blind_by_what_its_frames_are() -> None:
    report = judge(Account(channels=[Channel(1, 7, 0, 0, 5, 0, 50, 500, 900, 1 << 2)]))
    assert [entry["channel"] for entry in report.blind] == ["ticker"]


def test_connections_list_their_sids_with_ranges_and_what_is_missing() -> None:
    facts = Account(
        events=RUN,
        channels=[channel(1, 1, 1, 9)],
        subscriptions=[SubscribedFact(3, 1, 1, "trade"), SubscribedFact(4, 1, 2, "ticker")],
        holes=[Hole(1, 1, 6, 6, 0, 0, 50), Hole(1, 1, 2, 4, 0, 0, 40)],
    )
    (connection,) = judge(facts).connections
    assert (connection["id"], connection["opened_ns"], connection["closed_ns"], connection["reason"]) == (
        *(1, 20, 80, "stop"),
    )
    assert connection["by_sid"]["1"]["missing"] == [[2, 4], [6, 6]]
    assert connection["by_sid"]["1"]["channel"] == "trade"
    assert (connection["by_sid"]["1"]["first_seq"], connection["by_sid"]["1"]["last_seq"]) == (1, 9)
    assert connection["by_sid"]["2"]["channel"] == "ticker"


def test_the_json_form_has_the_keys_of_the_interface() -> None:
    keys = judge(Account()).as_json().keys()
    assert keys >= {
        *("complete", "segments", "records", "frames", "by_kind", "unparsed", "first_recv_ns", "last_recv_ns"),
        *("connections", "gaps", "damage", "blind", "books"),
    }


def test_two_journals_are_reported_as_one_sum() -> None:
    one = judge(Account(segments=1, totals=Totals(records=2, first_recv_ns=5, last_recv_ns=7)))
    two = judge(Account(segments=2, totals=Totals(records=3, first_recv_ns=4, last_recv_ns=6), gaps=[gap(1, "outage")]))
    both = merge([one, two])
    assert (both.segments, both.totals.records, both.complete) == (3, 5, False)
    assert (both.totals.first_recv_ns, both.totals.last_recv_ns) == (4, 7)


def test_of_several_journals_each_gap_run_and_connection_names_its_own() -> None:
    events = [EventFact(1, 5, "started", 0), EventFact(2, 6, "opened", 1)]
    one = judge(Account(journal="/a/kalshi", events=events, gaps=[gap(3, "outage")]))
    two = judge(Account(journal="/b/kalshi", events=events, gaps=[gap(3, "outage")]))
    both = merge([one, two])
    for entries in (both.gaps, both.runs, both.connections):
        assert [entry["journal"] for entry in entries] == ["/a/kalshi", "/b/kalshi"]
    assert all("journal" not in entry for entry in one.gaps + one.runs + one.connections)


# ---- the C tally and its twin ----------------------------------------------------------------------------------


class Both:
    """A journal written for C, and the same records for the plain twin."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root)
        self.seen: list[dict[str, Any]] = []

    def add(self, kind: str, ordinal: int, body: dict[str, Any], sub: int = 0, **fields: Any) -> None:
        book, market = fields.pop("book", None), body.get("market")
        self.journal.add(kind, body, **fields)
        frame = fields.get("frame")
        self.seen.append(
            {
                "number": self.journal.number,
                "recv_ns": self.journal.now,
                "connection": fields.get("connection", 0),
                "sid": fields.get("sid", 0),
                "seq": fields.get("seq", 0),
                "kind": ordinal,
                "sub": sub,
                "frame_bytes": None if frame is None else len(frame),
                "market": market,
                "book": book,
            }
        )

    def records(self) -> list[Seen]:
        """With the places where the records came to stand."""
        starts = [0, *self.journal.ends]
        return [
            Seen(**fields, offset=start, length=end - start)
            for fields, start, end in zip(self.seen, starts, self.journal.ends, strict=False)
        ]


def random_records(both: Both, rng: random.Random, count: int) -> None:
    seqs: dict[tuple[int, int], int] = {}
    for _ in range(count):
        at = (rng.randint(1, 2), rng.randint(1, 3))
        where = {"connection": at[0], "sid": at[1], "frame": b"{}"}
        roll = rng.random()
        if roll < 0.85:
            seqs[at] = max(0, seqs.get(at, 0) + rng.choice([1] * 20 + [0, 2, 5]))
            if rng.random() < 0.005:  # one wrong number, or a jump for good
                where["seq"] = seqs[at] + 2_000_000
                seqs[at] = where["seq"] if rng.random() < 0.3 else seqs[at] - 1
            else:
                where["seq"] = seqs[at]
        market = f"MARKET-{rng.randint(1, 4)}" * rng.randint(1, 2)
        if roll < 0.5:
            side, price, change = rng.randint(0, 2), rng.randint(1, 5) * 100, rng.randint(-2, 6)
            names = ("unknown", "bid", "ask")
            body = {"market": market, "kind": "delta", "side": names[side], "priceE4": price, "deltaE2": change}
            both.add("book", 3, body, 1, book=Delta(side, price, change), **where)
        elif roll < 0.65:
            bids = [(rng.randint(1, 5) * 100, rng.randint(0, 3)) for _ in range(rng.randint(0, 3))]
            asks = [(rng.randint(5, 9) * 100, rng.randint(1, 3)) for _ in range(rng.randint(0, 2))]
            asked = rng.choice([0, 7])
            body = {"market": market, "kind": "snapshot", "requestId": asked}
            body |= {"bids": bids} if bids else {}
            body |= {"asks": asks} if asks else {}
            both.add("book", 3, body, 0, book=Snapshot(bids, asks, asked), **where)
            if rng.random() < 0.3:  # asked for again at once: nothing has changed
                again = {**body, "requestId": 8}
                both.add("book", 3, again, 0, book=Snapshot(bids, asks, 8), **{**where, "seq": 0})
        elif roll < 0.8:
            both.add("trade", 1, {"market": market}, 0, **where)
        elif roll < 0.85:
            both.add("control", 6, {"type": "ok"}, 1, **where)
        elif roll < 0.9:
            both.add("ticker", 2, {"market": market}, 0, connection=at[0], sid=9, frame=b"{ }")
        elif roll < 0.94:
            both.add("gap", 7, {"cause": "undecoded"}, 7, connection=at[0], sid=rng.choice([0, at[1]]))
        elif roll < 0.96:
            both.add("connection", 8, {"what": "closed"}, 4, connection=at[0])
        elif roll < 0.98:
            both.journal.number += rng.randint(1, 3)
        else:
            both.add("clock", 9, {})


@pytest.mark.parametrize("seed", range(30))
def test_the_c_tally_counts_what_the_plain_twin_counts(tmp_path: Path, seed: int) -> None:
    both = Both(tmp_path)
    random_records(both, random.Random(seed), 400)
    plain, fast = PlainTally(), Tally()
    plain.add(both.records())
    data = both.journal.data
    for _ in fast.add(data, 0, len(data), 0):
        pass
    assert fast.totals() == plain.totals()
    assert fast.channels() == plain.channels()
    assert fast.holes() == plain.holes
    assert fast.findings("", 0) == plain.findings
    assert sorted(fast.suspects()) == sorted(plain.suspects())


def test_the_random_journals_reach_every_count(tmp_path: Path) -> None:
    both = Both(tmp_path)
    random_records(both, random.Random(1), 10_000)
    plain = PlainTally()
    plain.add(both.records())
    totals = plain.totals()
    assert all(getattr(totals, name) for name in Totals._fields)
    assert totals.books_checked > totals.books_mismatched > 0
    assert plain.suspects()


def test_the_events_of_a_batch_come_out_of_the_tally(tmp_path: Path) -> None:
    j = Journal(tmp_path)
    wanted = []
    for seq in range(1, 3000):
        j.trade(seq)
        wanted.append(j.gap("stall"))
    events = list(Tally().add(j.data, 0, len(j.data), 100))
    assert [view.number for view in events] == wanted
    assert events[0].offset == 100 + j.ends[0]


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="offset 0"):
        list(Tally().add(b"\1" * 200, 0, 200, 0))
    assert ViewReader().read(b"\1" * 200, 0, 200, 0) == ([], 0)
