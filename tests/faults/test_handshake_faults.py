"""Handshakes that are refused: for good (401), for now (429, 502), or because the clocks differ.

A refused handshake is a record with its status. What may pass is tried again, for ever; a refused sign-in ends the
recorder with exit 3 and a sentence that helps: at once if none was ever accepted, else after some tries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recording import events, gaps
from scene import fresh_snapshots, scene


@pytest.mark.parametrize(("name", "code"), [("http_429", 429), ("http_502", 502)])
def test_a_handshake_that_is_refused_for_now_is_tried_again(tmp_path: Path, name: str, code: int) -> None:
    """Each refusal is a record; what the run did not see before its first subscription is one Gap."""
    with scene(tmp_path, "--fault", f"{name}x2") as at:
        gap = at.wait_gap("disconnect")
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        refused = events(at.lines, "refused")
        assert [line.body["code"] for line in refused] == [code, code]
        assert len({line.connection for line in refused} | {events(at.lines, "opened")[0].connection}) == 3
        assert refused[-1].number < events(at.lines, "opened")[0].number < end.number
        assert [g.number for g in gaps(at.lines)] == [gap.number], "one Gap, however many attempts"
        assert gap.body["fromNs"] <= refused[0].recv_ns and str(code) in gap.body["detail"]
        assert fresh_snapshots(at.lines, gap.number, end.number) == set(at.tickers)


@pytest.mark.parametrize(("name", "code"), [("http_429", 429), ("http_502", 502)])
def test_a_loss_lasts_until_the_exchange_takes_us_again(tmp_path: Path, name: str, code: int) -> None:
    """A reset, and then two refusals: one Gap from the reset to the end of the new subscription."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault(f"{name}x2")
        at.fault("reset")
        gap = at.wait_gap("disconnect")
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        refused = events(at.lines, "refused")
        assert [line.body["code"] for line in refused] == [code, code]
        assert all(gap.number < line.number < end.number for line in refused)
        assert len(gaps(at.lines)) == 1
        assert at.report["gaps"][0]["to_ns"] == end.recv_ns


def test_a_refused_key_ends_the_recorder_with_exit_3(tmp_path: Path) -> None:
    """A retry changes nothing: one attempt, one record of it, a sentence about the key, and an orderly end."""
    with scene(tmp_path, "--fault", "http_401", live=False) as at:
        assert at.recorder.wait() == 3
        at.account()
        (refused,) = events(at.lines, "refused")
        assert refused.body["code"] == 401 and "401" in refused.body["reason"]
        assert len(events(at.lines, "stopped")) == 1 and not events(at.lines, "opened")
        assert "KALSHI_API_KEY" in at.recorder.log
        (gap,) = gaps(at.lines)
        assert gap.body["cause"] == "disconnect" and "401" in gap.body["detail"], "why nothing was seen"
        assert at.report["gaps"][0]["resolved_by"] is None


QUICKLY: dict[str, Any] = {"connector__reconnect": {"min_ms": 50, "max_s": 0.3}}


def test_a_refusal_after_a_success_is_tried_again(tmp_path: Path) -> None:
    """Five in a row pass: a clock is mended, a sign-in service comes back. One Gap from the loss to the new books."""
    with scene(tmp_path, **QUICKLY) as at:
        at.wait_more(100)
        at.fault("http_401x5")
        at.fault("reset")
        gap = at.wait_gap("disconnect")
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        assert [line.body["code"] for line in events(at.lines, "refused")] == [401] * 5
        assert [g.number for g in gaps(at.lines)] == [gap.number]


def test_a_key_that_is_refused_for_good_after_a_loss_leaves_an_open_gap(tmp_path: Path) -> None:
    """The recorder ends with exit 3; the journal says since when nothing was seen, and that this never ended."""
    with scene(tmp_path, **QUICKLY) as at:
        at.wait_more(100)
        at.fault("http_401x99")
        at.fault("reset")
        assert at.recorder.wait() == 3
        at.account()
        (gap,) = gaps(at.lines, "disconnect")
        assert len(events(at.lines, "refused")) == 6, "five are borne"
        assert not events(at.lines, "resynced")
        assert at.report["gaps"][0]["number"] == gap.number and at.report["gaps"][0]["resolved_by"] is None


def test_a_clock_that_is_off_is_waited_for_once_the_key_was_good(tmp_path: Path) -> None:
    """However often it is refused for that: the key is not wrong, and the recording goes on when NTP is done."""
    with scene(tmp_path, **QUICKLY) as at:
        at.wait_more(100)
        at.fault("clock_skew=60")
        at.fault("reset")
        gap = at.wait_gap("disconnect")
        at.wait(lambda lines: len(events(lines, "refused")) > 8, "refusals")
        assert at.recorder.get("/healthz")[0] == 503
        at.exchange.clear()
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        assert {line.body["code"] for line in events(at.lines, "refused")} == {401}
        assert [g.number for g in gaps(at.lines)] == [gap.number]


def test_clocks_that_differ_are_named_as_the_reason(tmp_path: Path) -> None:
    with scene(tmp_path, "--fault", "clock_skew=60", live=False) as at:
        assert at.recorder.wait() == 3
        at.account()
        (refused,) = events(at.lines, "refused")
        assert refused.body["code"] == 401 and "header_timestamp_expired" in refused.body["reason"]
        assert "clock" in at.recorder.log and "NTP" in at.recorder.log
