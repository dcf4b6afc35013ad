"""Deltas that no book can take: nothing is missing by the numbers, and yet something is wrong.

The recorder keeps books beside the recording (`ssmd.auditor`), writes a Gap of cause bookState for a market whose book
cannot be right, asks for that book alone, and says when it is whole again.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from recording import events, gaps, wait_until
from scene import BOOKS, Books, Scene, fresh_snapshots, logged, scene

STRANGER = "KXNEVERSEEN-26DEC31-T1.5"  # the simulator's market that nobody subscribed to


def auditors(at: Scene) -> list[int]:
    """Processes of the auditor under the recorder."""
    children = Path(f"/proc/{at.recorder.pid}/task/{at.recorder.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"ssmd.auditor" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_negative_level_is_recorded_and_that_market_alone_is_asked_for(tmp_path: Path) -> None:
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault("negative_level")
        gap = at.wait_gap("bookState")
        end = at.wait_resynced(gap)
        at.finish(books_from=end.number)
        replay = Books()
        for line in at.lines:
            replay.add(line)
        (wrong,) = [line for line in at.lines if line.number in replay.below_zero]
        market = wrong.body["market"]
        assert gap.sid == wrong.sid and gap.body["fromNs"] == wrong.recv_ns
        assert market in gap.body["detail"] and str(wrong.number) in gap.body["detail"]
        assert fresh_snapshots(at.lines, gap.number, end.number) == {market}
        assert len(gaps(at.lines)) == 1 and len(events(at.lines, "opened")) == 1
        assert at.report["books"]["negative_levels"] == 1
        assert f"record {wrong.number} takes a level below zero" in at.report["damage"][0]["what"]


def test_unknown_market_delta_is_kept_and_recorded_once(tmp_path: Path) -> None:
    """There is no book to change and none to ask for: one Gap without an end, and recording goes on."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault("unknown_market_delta")
        at.fault("unknown_market_delta@300ms")
        gap = at.wait_gap("bookState")
        at.wait(
            lambda lines: len([line for line in lines if line.body.get("market") == STRANGER]) == 2, "the second delta"
        )
        at.finish()
        strange = [line for line in at.received() if line.body.get("market") == STRANGER]
        assert [line.kind for line in strange] == ["book", "book"]
        assert STRANGER in gap.body["detail"] and gap.body["fromNs"] == strange[0].recv_ns
        assert [g.number for g in gaps(at.lines)] == [gap.number]
        assert at.report["gaps"][0]["resolved_by"] is None and not at.report["damage"]
        assert at.report["books"]["orphaned_deltas"] == 2
        assert logged(at, "not subscribed to") == 1


def test_the_auditor_may_die_and_says_nothing_twice(tmp_path: Path) -> None:
    """Killed after a first fault: started again, it reads the run once more, and sees the second fault."""
    with scene(tmp_path) as at:
        at.wait_more(100)
        at.fault("negative_level")
        first = at.wait_gap("bookState")
        at.wait_resynced(first)
        (pid,) = wait_until(lambda: auditors(at), what="an auditor")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: [p for p in auditors(at) if p != pid], what="another auditor")
        at.fault("negative_level")
        second = at.wait(lambda lines: gaps(lines, "bookState")[1:], "the second gap")[0]
        end = at.wait_resynced(second)
        at.finish(books_from=end.number)
        assert [g.number for g in gaps(at.lines)] == [first.number, second.number]


def test_without_the_auditor_verify_still_finds_it(tmp_path: Path) -> None:
    """`connector.check_books: false`: no helper process, no Gap; the journal's reader tells."""
    with scene(tmp_path, channels=(BOOKS,), connector__check_books=False) as at:
        at.wait_more(100)
        at.fault("negative_level")
        at.wait_more(100)
        assert not auditors(at)
        assert at.recorder.stop() == 0
        at.account()
        assert not gaps(at.lines)
        assert "below zero" in at.report["damage"][0]["what"] and not at.report["complete"]
