"""Replies to commands that come late or in another order: data before, between and after them is data."""

from __future__ import annotations

import json
from pathlib import Path

from recording import events, gaps
from scene import BOOKS, MARKETS, Scene, fresh_snapshots, scene

CHANNELS = (BOOKS, "trade", "ticker", "market_lifecycle_v2")


def replies(at: Scene) -> dict[str, tuple[int, int, int]]:
    """Channel -> (place of its reply among the frames sent, id, sid)."""
    found = {}
    for place, frame in enumerate(map(json.loads, at.sent())):
        if frame["type"] == "subscribed":
            found[frame["msg"]["channel"]] = (place, frame["id"], frame["msg"]["sid"])
    return found


def places_of_data(at: Scene, sid: int) -> list[int]:
    return [place for place, frame in enumerate(map(json.loads, at.sent())) if frame.get("sid") == sid]


def assert_all_subscribed(at: Scene) -> None:
    """Every channel is known by the sid that its reply gave, and is whole."""
    said = {channel: sid for channel, (_, _, sid) in replies(at).items()}
    assert {line.body["channel"]: line.sid for line in events(at.lines, "subscribed")} == said
    assert set(said) == set(at.channels)
    assert {entry["channel"] for entry in at.report["connections"][0]["by_sid"].values()} == set(at.channels)
    assert not gaps(at.lines) and at.report["complete"]


def test_replies_in_swapped_order_are_matched_by_id(tmp_path: Path) -> None:
    with scene(tmp_path, "--fault", "reorder_acks") as at:
        at.finish()
        by_sid = sorted(replies(at).values(), key=lambda reply: reply[2])
        assert [command for _, command, _ in by_sid] == [2, 1, 3, 4], "the first command was carried out second"
        assert_all_subscribed(at)


def test_data_before_every_reply_is_kept(tmp_path: Path) -> None:
    """All four replies are a second late; what comes meanwhile is recorded, numbers from 1."""
    with scene(tmp_path, *["--fault", "ack_late=1"] * 4) as at:
        at.finish()
        book, trades = (replies(at)[channel] for channel in (BOOKS, "trade"))
        early = [place for place in places_of_data(at, book[2]) if place < book[0]]
        assert len(early) > MARKETS, "snapshots and deltas before the reply"
        assert [place for place in places_of_data(at, trades[2]) if place < trades[0]]
        assert_all_subscribed(at)


def test_data_between_the_replies_is_kept(tmp_path: Path) -> None:
    """One reply is late, the others come at once: data of all channels stands between them."""
    with scene(tmp_path, "--fault", "ack_late=1") as at:
        at.finish()
        places = sorted(place for place, _, _ in replies(at).values())
        assert places[-1] - places[0] > 20
        assert len({sid for _, _, sid in replies(at).values() if places_of_data(at, sid)}) >= 3
        assert_all_subscribed(at)


def test_a_gap_before_the_reply_is_mended_after_it(tmp_path: Path) -> None:
    """Numbers go missing on a sid whose reply has not come yet: the loss is remembered, and the books asked for."""
    with scene(tmp_path, "--fault", "ack_late=1.5", "--fault", "seq_gap@200ms", channels=(BOOKS,)) as at:
        gap = at.wait_gap("sequence")
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        reply = next(line for line in at.received() if line.kind == "control")
        assert gap.number < reply.number < end.number
        assert fresh_snapshots(at.lines, reply.number, end.number) == set(at.tickers)
