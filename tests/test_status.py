"""The live line and the closing summary, from literal numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssmd.helpers import Helper, Standing
from ssmd.report import Report
from ssmd.status import Snapshot, fitted, human_bytes, human_duration, live_items, summary


def live_line(now: Snapshot, before: Snapshot, width: int = 1000) -> str:
    return fitted(live_items(now, before), width)


QUIET = Snapshot(
    elapsed_s=10.0,
    frames=1000,
    records=1010,
    written_bytes=2048,
    ring_used_bytes=0,
    lag_records=0,
    gaps=0,
    unresolved=0,
    reconnects=0,
    live=1,
    clients=1,
    unparsed=0,
    by_kind={"book": 900, "trade": 100, "status": 0},
)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5120.0 GiB")])
def test_sizes_are_shown_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.96, "0.9s"), (59, "59.0s"), (61, "1m01s"), (3725, "1h02m05s")])
def test_durations_are_shown_in_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_the_live_line_shows_the_rate_since_the_line_before() -> None:
    line = live_line(replace(QUIET, elapsed_s=12.0, frames=1500), QUIET)
    assert "250 messages/s" in line
    assert "live 1/1 · gaps 0 · lag 0 records · reconnects 0 · 1,010 records" in line


def test_trouble_stands_first_in_the_live_line_where_a_narrow_terminal_shows_it() -> None:
    assert live_line(replace(QUIET, trouble="the disk is full"), QUIET).startswith("TROUBLE: the disk is full · ")


@pytest.mark.parametrize(
    ("width", "line"),
    [(8, "10.0s"), (26, "10.0s · 0 messages/s"), (31, "10.0s · 0 messages/s · live 1/1"), (7, "10.0s"), (4, "10.…")],
)
def test_a_narrow_terminal_shows_the_most_important_items_whole(width: int, line: str) -> None:
    assert live_line(QUIET, QUIET, width) == line


def test_a_start_is_called_one_and_no_trouble() -> None:
    assert live_line(replace(QUIET, elapsed_s=0.5, starting=True, clients=0), QUIET) == "starting ... 0.5s"
    assert live_line(replace(QUIET, starting=True, trouble="it refuses us"), QUIET).startswith("TROUBLE: it refuses us")


def test_the_summary_names_what_was_captured_and_how_to_prove_it() -> None:
    text = summary(QUIET, folder="my data", command=".venv/bin/ssmd", sealed=True)
    assert "Captured 1,000 messages in 10.0s (100 a second)." in text
    assert "1,010: 900 book, 100 trade" in text
    assert "nothing is known to be missing" in text
    assert text.endswith("Prove it: .venv/bin/ssmd verify 'my data'")


def test_the_rate_of_the_summary_is_that_of_the_time_in_which_sockets_were_open() -> None:
    late = replace(QUIET, elapsed_s=33.4, recording_s=20.0)
    text = summary(late, folder="data", command="ssmd", sealed=True)
    assert "Captured 1,000 messages in 20.0s of a run of 33.4s (50 a second)." in text
    soon = summary(replace(QUIET, recording_s=9.5), folder="data", command="ssmd", sealed=True)
    assert "Captured 1,000 messages in 9.5s (105 a second)." in soon


def test_the_summary_says_what_is_not_in_a_file_yet() -> None:
    text = summary(replace(QUIET, lag_records=7), folder="data", command="ssmd", sealed=False)
    assert "NOT sealed" in text
    assert "7 records, not in a file yet" in text


def test_a_run_that_received_nothing_does_not_speak_of_completeness() -> None:
    end = replace(QUIET, frames=0, trouble="the name does not resolve")
    text = summary(end, folder="data", command="ssmd", sealed=True)
    assert text == "NOTHING was recorded in 10.0s: the name does not resolve."


PUBLISHER = Helper("publisher", "published", lambda environment: True)


def test_the_summary_says_that_all_was_published() -> None:
    end = replace(QUIET, last_number=1010, helpers=(Standing(PUBLISHER, Report("publisher", 1010, 1010)),))
    assert "  published   up to record 1,010, all\n" in summary(end, folder="data", command="ssmd", sealed=True)


def test_the_summary_says_what_is_not_published_yet_and_why() -> None:
    """The helper saw up to 900 only: what was written after its last look is behind too."""
    report = Report("publisher", 500, 900, 2.0, "NATS cannot be reached")
    end = replace(QUIET, last_number=1010, helpers=(Standing(PUBLISHER, report),))
    line = "  published   up to record 500; 510 records behind, it goes on at the next start: NATS cannot be reached\n"
    assert line in summary(end, folder="data", command="ssmd", sealed=True)


def test_the_live_line_names_a_helper_that_is_behind_for_long() -> None:
    slow = replace(QUIET, elapsed_s=12.0, helpers=(Standing(PUBLISHER, Report("publisher", 5, 1005, 8.0)),))
    assert "publisher 1,000 records behind, the oldest for 8 s" in live_line(slow, QUIET)
    quick = replace(QUIET, elapsed_s=12.0, helpers=(Standing(PUBLISHER, Report("publisher", 5, 1005, 1.0)),))
    assert "publisher" not in live_line(quick, QUIET)
