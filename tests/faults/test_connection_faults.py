"""Sockets that fall silent, are cut off or say goodbye: each loss is a record, and the next socket ends it.

After each of them there is a closed event with its reason, a Gap with its cause whose beginning is the last sign of
life, an event that names that Gap, and fresh snapshots of every market. `Scene.finish` checks books and accounts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from recording import Line, events, gaps
from scene import BOOKS, MARKETS, Scene, fresh_snapshots, scene

PINGS = ("--ping-interval", "0.3")
SOON_S = 2.0  # silence of so long is a dead socket


def wait_reconnected(at: Scene, cause: str) -> tuple[Line, Line]:
    """The Gap of the only loss, and the event that ends it; whatever is true of every loss is checked here."""
    gap = at.wait_gap(cause)
    end = at.wait_resynced(gap)
    at.finish(books_from=end.number)
    assert [g.number for g in gaps(at.lines)] == [gap.number]
    closed, first, second = (
        events(at.lines, "closed")[0],
        events(at.lines, "opened")[0],
        events(at.lines, "opened")[1],
    )
    assert gap.connection == closed.connection == first.connection
    assert end.connection == second.connection > first.connection
    assert closed.body["messages"] == len(at.received(1)) and closed.body["openedNs"] == first.recv_ns
    assert at.received(1)[-1].recv_ns <= gap.body["fromNs"] <= gap.recv_ns, "from the last sign of life on"
    assert fresh_snapshots(at.lines, second.number, end.number) == set(at.tickers)
    assert at.report["gaps"][0]["to_ns"] == end.recv_ns
    assert at.received(2)[0].recv_ns > gap.recv_ns and len(at.received(2)) > 200
    return gap, end


@pytest.mark.parametrize("name", ["stall", "half_open"])
def test_silence_without_pings_ends_the_socket_and_is_a_gap(tmp_path: Path, name: str) -> None:
    """The socket looks open and gives nothing: everything sent before is kept, and a new socket is made."""
    with scene(tmp_path, *PINGS, connector__stall_after_s=SOON_S) as at:
        at.wait_more(100)
        at.fault(name)
        gap, _ = wait_reconnected(at, "stall")
        assert gap.recv_ns - gap.body["fromNs"] >= SOON_S * 1e9, "not before the time"
        assert [line.frame for line in at.received(1)] == at.sent(1), "all that was sent before the silence"
        assert "stall" in events(at.lines, "closed")[0].body["reason"]


def test_a_short_silence_is_no_loss(tmp_path: Path) -> None:
    """The exchange pauses for a second and goes on: one socket, no gap."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault("stall~1s")
        at.finish()
        assert at.report["complete"] and len(events(at.lines, "opened")) == 1


def test_a_quiet_market_is_no_stall(tmp_path: Path) -> None:
    """Not one frame for longer than the limit, but the exchange's pings come: it lives."""
    frames = tmp_path / "frames.jsonl"
    frames.write_text('{"type":"trade","sid":70,"seq":1,"msg":{}}\n')
    options = (*PINGS, "--frames", str(frames), "--rate", "50")
    with scene(tmp_path, *options, channels=("trade",), connector__stall_after_s=1.0) as at:
        last = at.wait(lambda lines: [line for line in lines if line.sid == 70], "the only frame")[-1]
        at.wait(lambda _: at.recorder.metric("ssmd_last_received_timestamp_seconds") > last.recv_ns / 1e9 + 2, "pings")
        assert at.recorder.stop() == 0
        at.account()
        assert at.report["complete"] and len(events(at.lines, "opened")) == 1


def test_reset_is_a_gap_that_ends_with_the_next_subscription(tmp_path: Path) -> None:
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault("reset")
        wait_reconnected(at, "disconnect")
        closed = events(at.lines, "closed")[0]
        assert closed.body["code"] == 0 and "reset" in closed.body["reason"].lower()


def test_every_reset_of_many_is_recorded(tmp_path: Path) -> None:
    """Three resets: four sockets, three closed events, three Gaps, each named once when it ends."""
    with scene(tmp_path, "--fault", "reset@400ms:all") as at:
        lost = at.wait(lambda lines: len(g := gaps(lines, "disconnect")) >= 3 and g[:3], "three losses")
        at.exchange.clear()
        ends = [at.wait_resynced(gap) for gap in lost]
        at.finish(books_from=max(end.number for end in ends))
        opened = [line.connection for line in events(at.lines, "opened")]
        assert opened == sorted(set(opened)) and [gap.connection for gap in lost] == opened[:3]
        named = [end.body["gapNumber"] for end in events(at.lines, "resynced")]
        assert sorted(named) == [gap.number for gap in gaps(at.lines)]


@pytest.mark.parametrize("code", [1001, 1012])
def test_close_frame_is_answered_and_recorded_with_its_code(tmp_path: Path, code: int) -> None:
    """All that the exchange sent before it said goodbye is there."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault(f"close_frame={code}")
        wait_reconnected(at, "disconnect")
        assert [line.frame for line in at.received(1)] == at.sent(1)
        closed = events(at.lines, "closed")[0]
        assert closed.body["code"] == code and str(code) in closed.body["reason"]
        assert at.happened("close")[0]["code"] == code, "our answer"


def test_one_lost_socket_of_two_does_not_touch_the_other(tmp_path: Path) -> None:
    """Books are spread over two sockets; one is reset: its markets have a gap, the others go on."""
    with scene(tmp_path, channels=(BOOKS,), connector__max_markets_per_connection=MARKETS // 2) as at:
        at.wait_more(100)
        at.exchange.fault("reset", connection=2)
        gap = at.wait_gap("disconnect")
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        opened = [line.connection for line in events(at.lines, "opened")]
        assert len(opened) == 3 and gap.connection in opened[:2] and end.connection == opened[2]
        (other,) = set(opened[:2]) - {gap.connection}
        closed = {line.connection: line.body["reason"] for line in events(at.lines, "closed")}
        assert closed[other] == "stopped as asked"
        while_away = [line for line in at.lines if line.connection == other and gap.number < line.number < end.number]
        assert [line for line in while_away if line.kind == "book"], "the other socket was recorded all the while"
        renewed = fresh_snapshots(at.lines, gap.number, end.number)
        assert len(renewed) == MARKETS // 2
