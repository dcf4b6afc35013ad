"""Frames that are missing, doubled, strange, broken, large, cut up or slow, on a connection that lives on.

What was received is in the journal once, byte for byte; what was not is a Gap record; books come back by themselves
(`Scene.finish` checks that and the agreement of journal, ledger and `ssmd verify` in every test).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from recording import events, gaps
from scene import BOOKS, MARKETS, Books, fresh_snapshots, logged, resynced, scene


def test_seq_gap_is_recorded_with_its_range_and_the_books_are_asked_for_anew(tmp_path: Path) -> None:
    """Three deltas are held back: one Gap, a snapshot of every market of the sid, one event that names the Gap."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault("seq_gap=3")
        gap = at.wait_gap("sequence")
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        held_back = [(entry["sid"], entry["seq"]) for entry in at.struck("seq_gap") if "seq" in entry]
        assert [sid for sid, _ in held_back] == [gap.sid] * 3
        first, *_, last = (seq for _, seq in held_back)
        assert [(g.sid, g.body["fromSeq"], g.body["toSeq"]) for g in gaps(at.lines)] == [(gap.sid, first, last)]
        assert (end.sid, end.body["channel"], end.body["markets"]) == (gap.sid, BOOKS, MARKETS)
        assert fresh_snapshots(at.lines, gap.number, end.number) == set(at.tickers)
        assert len(events(at.lines, "opened")) == 1, "without a reconnect"


def test_seq_gaps_that_follow_each_other_are_each_recorded_and_each_ended(tmp_path: Path) -> None:
    """A gap in the middle of a resync starts it anew; both Gap records are named in the end."""
    with scene(tmp_path, "--rate", "600") as at:
        at.wait_more(100)
        at.fault("seq_gap/150ms x3".replace(" ", ""))
        found = at.wait(lambda lines: len(g := gaps(lines, "sequence")) >= 3 and g, "three gaps")
        ends = [at.wait_resynced(gap) for gap in found]
        at.finish(books_from=max(end.number for end in ends))
        for gap, end in zip(found, ends, strict=True):
            assert fresh_snapshots(at.lines, gap.number, end.number) == set(at.tickers)


def test_seq_gap_on_a_channel_without_books_stays_a_hole(tmp_path: Path) -> None:
    """Trades cannot be asked for again: the Gap has its range, and nothing pretends to end it."""
    with scene(tmp_path, channels=("trade",)) as at:
        at.wait_more(20)
        at.fault("seq_gap=2")
        gap = at.wait_gap("sequence")
        at.wait_more(20)
        assert at.recorder.stop() == 0
        at.account()
        assert gap.body["toSeq"] - gap.body["fromSeq"] == 1
        assert at.report["gaps"][0]["resolved_by"] is None
        assert logged(at, "cannot be repaired") == 1


def test_duplicate_is_kept_as_received_and_changes_no_book(tmp_path: Path) -> None:
    """Two deltas come twice: four frames are kept, no number is missing, and the books do not count them twice."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault("duplicate=2")
        at.wait(lambda lines: at.recorder.metric("ssmd_repeats_total") == 2, "two repeats")
        at.finish()
        frames = at.sent()
        assert sum(a == b for a, b in pairwise(frames)) == 2
        assert not gaps(at.lines) and at.report["complete"]
        assert sum(sid["repeats"] for each in at.report["connections"] for sid in each["by_sid"].values()) == 2
        assert at.report["books"]["negative_levels"] == 0


def test_unknown_type_is_kept_counted_and_warned_about_once(tmp_path: Path) -> None:
    """Its number counts, so no false gap follows; its bytes are there."""
    with scene(tmp_path) as at:
        at.fault("unknown_type=volume_profile")
        at.fault("unknown_type=volume_profile@300ms")
        at.wait(lambda lines: at.recorder.metric("ssmd_unknown_types_total") == 2, "two frames of an unknown type")
        at.finish()
        strange = [line for line in at.lines if line.kind == "unparsed"]
        assert [(line.body["reason"], line.body["type"]) for line in strange] == [("unknownType", "volume_profile")] * 2
        assert all(line.sid and line.seq for line in strange)
        assert at.report["complete"] and at.report["unparsed"] == 2
        assert logged(at, "type:volume_profile") == 1


def test_unknown_field_does_not_keep_a_frame_from_being_decoded(tmp_path: Path) -> None:
    with scene(tmp_path) as at:
        at.fault("unknown_field=5")
        at.wait(lambda lines: at.recorder.metric("ssmd_unknown_fields_total") == 10, "five frames, two fields each")
        at.finish()
        strange = [line for line in at.received() if b"simulated_field" in line.frame]
        assert len(strange) == 5 and all(line.kind != "unparsed" for line in strange)
        assert at.report["complete"] and at.report["unparsed"] == 0
        assert logged(at, "field:simulated_field") == logged(at, "field:simulated_top") == 1


def test_bad_json_is_kept_and_is_no_gap(tmp_path: Path) -> None:
    with scene(tmp_path) as at:
        at.fault("bad_json")
        at.wait(lambda lines: [line for line in lines if line.kind == "unparsed"], "the broken frame")
        at.finish()
        (broken,) = [line for line in at.lines if line.kind == "unparsed"]
        assert broken.body["reason"] == "badJson" and (broken.sid, broken.seq) == (0, 0)
        assert at.report["complete"] and not gaps(at.lines)


def test_huge_frame_within_the_limit_is_kept_whole(tmp_path: Path) -> None:
    with scene(tmp_path) as at:
        at.fault("huge_frame=1000000")
        at.wait(lambda lines: [line for line in lines if len(line.frame) == 1_000_000], "the large frame")
        at.finish()
        assert at.report["complete"] and len(events(at.lines, "opened")) == 1


@pytest.mark.parametrize("normalizer", ["c", "python"])
def test_huge_frame_beyond_the_limit_ends_the_connection_and_leaves_its_length_and_beginning(
    tmp_path: Path, normalizer: str
) -> None:
    """Close code 1009, Gap records for the frame and for the time until the next socket is subscribed."""
    with scene(tmp_path, normalizer=normalizer) as at:
        at.fault("huge_frame=2097152")
        too_large, lost = at.wait_gap("frameTooLarge"), at.wait_gap("disconnect")
        ends = [at.wait_resynced(too_large), at.wait_resynced(lost)]
        assert at.recorder.metric("ssmd_gaps_total", "frame_too_large") == 1
        at.finish(books_from=max(end.number for end in ends))
        huge = at.sent(1)[len(at.received(1))]
        assert len(huge) == too_large.body["lengthBytes"] == 2_097_152
        assert too_large.body["head"] and huge.startswith(too_large.body["head"])
        assert len(too_large.body["head"]) <= 256
        (closed,) = [line for line in events(at.lines, "closed") if line.connection == too_large.connection]
        assert closed.body["code"] == 1009 and closed.body["messages"] == len(at.received(1))
        assert fresh_snapshots(at.lines, lost.number, ends[1].number) == set(at.tickers)


def test_fragmented_frames_are_put_together_around_control_frames(tmp_path: Path) -> None:
    with scene(tmp_path) as at:
        at.fault("fragmented=40")
        at.finish()
        assert at.struck("fragmented")
        assert at.report["complete"] and at.report["unparsed"] == 0


def test_old_format_gives_the_same_books(tmp_path: Path) -> None:
    """The connection goes over to integer cents and back; the books never notice."""
    with scene(tmp_path, "--fault", "old_format@500ms") as at:
        at.wait(lambda lines: [line for line in lines if b'"price":' in line.frame], "a frame in the old format")
        at.wait_more(200)
        at.fault("old_format=new")
        at.finish()
        kinds = {line.kind for line in at.lines if line.frame and b"_fp" not in line.frame}
        assert {"book", "trade"} <= kinds
        assert at.report["complete"] and at.report["unparsed"] == 0


@pytest.mark.parametrize("name", ["error_10", "error_25"])
def test_a_terminal_error_is_a_gap_that_ends_with_a_new_subscription(tmp_path: Path, name: str) -> None:
    """The sid is dead: a new one of the same channel, numbers from 1, fresh snapshots, on the same socket."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault(name)
        gap = at.wait_gap("channelError" if name == "error_10" else "bufferOverflow")
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        assert gap.sid and gap.sid != end.sid and end.body["channel"] == BOOKS
        assert fresh_snapshots(at.lines, gap.number, end.number) == set(at.tickers)
        renewed = [line for line in events(at.lines, "subscribed") if line.sid == end.sid]
        assert [line.body["markets"] for line in renewed] == [MARKETS]
        assert not [line for line in at.received() if line.sid == gap.sid and line.number > gap.number]
        assert next(line.seq for line in at.received() if line.sid == end.sid and line.seq) == 1
        assert len(events(at.lines, "opened")) == 1


@pytest.mark.parametrize("channel", ["trade", "ticker"])
def test_a_terminal_error_of_any_channel_is_recorded_and_mended(tmp_path: Path, channel: str) -> None:
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault(f"error_10={channel}")
        gap = at.wait_gap("channelError")
        end = at.wait_resynced(gap)
        at.wait(lambda lines: [line for line in lines if line.sid == end.sid and line.kind == channel], "more of it")
        at.finish()
        assert end.body["channel"] == channel and end.sid > gap.sid


def test_empty_snapshot_empties_the_book_and_is_no_gap(tmp_path: Path) -> None:
    """As the exchange does when a market closes: an unsolicited snapshot, which has a number like any frame."""
    with scene(tmp_path) as at:
        market = at.tickers[0]
        at.wait_more(100)
        at.fault(f"empty_snapshot={market}")
        emptied = at.wait(
            lambda lines: [
                line
                for line in lines
                if line.kind == "book"
                and line.body["kind"] == "snapshot"
                and not line.body.get("bids")
                and not line.body.get("asks")
            ],
            "a snapshot without levels",
        )[0]
        at.finish()
        assert emptied.body["market"] == market and emptied.body["requestId"] == 0 and emptied.seq
        replay = Books()
        for line in at.lines:
            replay.add(line)
            if line.number == emptied.number:
                assert replay.books[market] == ({}, {})
        assert not gaps(at.lines) and at.report["complete"]


def test_frames_that_arrive_in_pieces_lose_nothing(tmp_path: Path) -> None:
    """Frames that arrive seven bytes at a time are the same frames."""
    with scene(tmp_path, "--rate", "20") as at:
        at.fault("slow_write=7~1s")
        at.finish(more=50)
        assert at.report["complete"] and len(events(at.lines, "opened")) == 1


def test_five_thousand_messages_at_once_lose_nothing(tmp_path: Path) -> None:
    with scene(tmp_path, ring__size_bytes=1 << 22) as at:
        at.fault("burst=5000")
        at.recorder.wait_frames(5_000)
        at.finish()
        assert at.report["complete"] and len(at.received()) > 5_000


def test_clock_skew_while_connected_loses_nothing(tmp_path: Path) -> None:
    """Times of the exchange jump by a minute; what and when we received is not touched by that."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault("clock_skew=-60")
        at.finish()
        assert at.report["complete"]
        times = [line.recv_ns for line in at.received()]
        assert times == sorted(times)


def test_numbers_of_replies_errors_and_unasked_snapshots_count(tmp_path: Path) -> None:
    """One sid on which ok, error, unsubscribed, snapshots and deltas take turns: no false gap; then one true one."""
    frames = tmp_path / "frames.jsonl"
    market = "KXTEST-26NOV22-T1"
    kinds = [
        ("orderbook_snapshot", {"market_ticker": market, "market_id": "a", "yes_dollars_fp": [["0.4000", "5.00"]]}),
        ("ok", {"market_tickers": [market]}),
        ("orderbook_delta", {"market_ticker": market, "price_dollars": "0.4000", "delta_fp": "1.00", "side": "yes"}),
        ("error", {"code": 13, "msg": "Unsupported action"}),
        ("orderbook_snapshot", {"market_ticker": market, "market_id": "a"}),
        ("unsubscribed", None),
        ("orderbook_delta", {"market_ticker": market, "price_dollars": "0.3000", "delta_fp": "1.00", "side": "no"}),
    ]
    rows = [
        {"type": kind, "sid": 70, "seq": seq} | ({} if msg is None else {"msg": msg})
        for seq, (kind, msg) in enumerate(kinds, 1)
    ]
    rows.append(rows[2] | {"seq": 10})
    frames.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with scene(tmp_path, "--frames", str(frames), "--rate", "50", channels=("trade",)) as at:
        gap = at.wait_gap("sequence")
        assert at.recorder.stop() == 0
        at.account()
        assert [(g.sid, g.body["fromSeq"], g.body["toSeq"]) for g in gaps(at.lines)] == [(70, 8, 9)]
        assert [line.kind for line in at.received() if line.sid == 70] == [
            *("book", "control", "book", "control", "book", "control", "book", "book")
        ]
        assert resynced(at.lines, gap) is None


def test_replies_with_numbers_while_markets_are_added_make_no_gap(tmp_path: Path) -> None:
    """Markets are added two at a time: each `ok` uses a number of the books' sid."""
    with scene(tmp_path, connector__subscribe_batch=2) as at:
        at.finish()
        replies = [line for line in at.received() if line.kind == "control" and line.body["type"] == "ok"]
        assert len([line for line in replies if line.sid and line.seq]) >= MARKETS // 2 - 1
        assert not gaps(at.lines) and at.report["complete"]
