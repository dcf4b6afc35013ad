"""What helpers report, and what becomes of it: sentences, readings, the closing summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmd import host
from ssmd.helpers import HELPERS, SILENT_AFTER_S, Helper, Reports, Standing, helpers_of
from ssmd.report import Report, report_of

PUBLISHER = Helper("publisher", "published", lambda environment: True)


def heard(report: Report, *, process: int = 0, now_s: float = 100.0) -> Reports:
    reports = Reports([PUBLISHER])
    reports.expect("publisher", now_s=now_s)
    reports.take("publisher", report, process=process, now_s=now_s)
    return reports


def test_a_report_is_the_same_after_its_line_was_read() -> None:
    report = Report("publisher", number=900, end=1000, lag_s=0.4, trouble="no", counters={"retries": 3.0})
    assert report_of(json.loads(report.line())) == report


@pytest.mark.parametrize("said", [{}, {"report": None}, {"report": {"part": "x", "colour": 1}}, {"report": {}}])
def test_what_is_no_report_is_told_from_one(said: dict[str, object]) -> None:
    assert report_of(said) is None


def test_a_helper_that_is_well_is_no_trouble() -> None:
    assert heard(Report("publisher", 10, 10)).trouble("publisher", now_s=101.0) is None


def test_what_a_helper_says_is_wrong_is_passed_on() -> None:
    reports = heard(Report("publisher", 10, 90, 5.0, "NATS cannot be reached: 80 records behind, the oldest for 5 s"))
    assert reports.trouble("publisher", now_s=101.0) == "NATS cannot be reached: 80 records behind, the oldest for 5 s"


def test_a_helper_that_fell_silent_is_trouble_and_its_lag_is_told() -> None:
    reports = heard(Report("publisher", 10, 1210, 4.0))
    assert reports.trouble("publisher", now_s=100.0 + SILENT_AFTER_S) is None
    assert reports.trouble("publisher", now_s=120.0) == (
        "has not reported for 20 s; it was 1,200 records behind, the oldest for 4 s then"
    )


def test_a_helper_that_never_reported_is_trouble_from_its_start_on() -> None:
    reports = Reports([PUBLISHER])
    assert reports.trouble("publisher", now_s=1000.0) is None
    reports.expect("publisher", now_s=1000.0)
    assert reports.trouble("publisher", now_s=1001.0) is None
    assert reports.trouble("publisher", now_s=1016.0) == "has not reported for 16 s"


def test_cursors_stand_at_zero_before_the_first_report() -> None:
    assert Reports([PUBLISHER]).cursors() == {
        "ssmd_cursor_number": {"publisher": 0.0},
        "ssmd_cursor_lag_records": {"publisher": 0.0},
        "ssmd_cursor_lag_seconds": {"publisher": 0.0},
    }


def test_a_cursor_and_its_lag_in_records_and_seconds_are_readings() -> None:
    assert heard(Report("publisher", number=900, end=1000, lag_s=0.5)).cursors() == {
        "ssmd_cursor_number": {"publisher": 900.0},
        "ssmd_cursor_lag_records": {"publisher": 100.0},
        "ssmd_cursor_lag_seconds": {"publisher": 0.5},
    }


def test_counters_do_not_fall_when_another_process_counts_from_zero() -> None:
    reports = heard(Report("publisher", counters={"retries": 5.0, "bytes": 100.0}))
    reports.take("publisher", Report("publisher", counters={"retries": 6.0, "bytes": 120.0}), process=0, now_s=101.0)
    reports.take("publisher", Report("publisher", counters={"retries": 0.0}), process=1, now_s=110.0)
    reports.take("publisher", Report("publisher", counters={"retries": 2.0}), process=1, now_s=111.0)
    assert reports.counters() == {"ssmd_publisher_retries": 8.0, "ssmd_publisher_bytes": 120.0}


def test_standings_name_what_was_done() -> None:
    report = Report("publisher", 1, 1)
    assert heard(report).standings() == (Standing(PUBLISHER, report),)


def test_an_environment_has_the_helpers_that_its_services_need(repository: Path) -> None:
    environment = host.load(repository / "environments" / "kalshi-local.yaml")
    assert [helper.name for helper in helpers_of(environment)] == ["archiver"]
    with_bus = environment.model_copy(
        update={"transport": environment.transport.model_copy(update={"type": "nats", "url": "nats://127.0.0.1:4222"})}
    )
    assert [helper.name for helper in helpers_of(with_bus)] == ["archiver", "publisher"]
    with_cache = environment.model_copy(update={"cache": environment.cache.model_copy(update={"type": "redis"})})
    assert [helper.name for helper in helpers_of(with_cache)] == ["archiver", "lastvalues"]


def test_a_rehearsal_has_one_helper_that_does_the_work_of_all_others(repository: Path) -> None:
    environment = host.load(repository / "environments" / "kalshi-rehearsal.yaml")
    assert [helper.name for helper in helpers_of(environment)] == ["rehearsal"]


def test_every_helper_is_named_once() -> None:
    assert len({helper.name for helper in HELPERS}) == len(HELPERS)
