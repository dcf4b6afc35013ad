"""Days of a time zone: lengths over clock changes, names, borders. Expected instants are written by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ssmd.errors import UsageError
from ssmd.schedule import DayTable, day_table

HOUR = 3_600_000_000_000


def ns(text: str) -> int:
    """UTC ns of an ISO time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


AROUND = ns("2026-07-01T12:00:00")


def start_of(table: DayTable, day: int) -> int:
    return table.starts_ns[table.days.index(day)]


def test_days_of_utc_begin_at_midnight() -> None:
    table = day_table(around_ns=AROUND)
    assert start_of(table, 20260701) == ns("2026-07-01T00:00:00")
    assert table.day_of(ns("2026-07-01T00:00:00") - 1) == 20260630
    assert table.day_of(ns("2026-07-01T23:59:59")) == 20260701


def test_the_table_covers_a_year_back_and_ten_ahead() -> None:
    table = day_table(around_ns=AROUND)
    assert table.starts_ns[0] <= ns("2025-07-01T00:00:00")
    assert table.starts_ns[-1] >= ns("2036-06-30T00:00:00")


@pytest.mark.parametrize(
    ("day", "starts", "hours"),
    [
        (20260307, "2026-03-07T05:00:00", 24),
        (20260308, "2026-03-08T05:00:00", 23),  # clocks go forward at 02:00
        (20261031, "2026-10-31T04:00:00", 24),
        (20261101, "2026-11-01T04:00:00", 25),  # and back
        (20261102, "2026-11-02T05:00:00", 24),
    ],
)
def test_days_of_new_york_have_23_and_25_hours_when_its_clocks_change(day: int, starts: str, hours: int) -> None:
    table = day_table("America/New_York", around_ns=AROUND)
    index = table.days.index(day)
    assert table.starts_ns[index] == ns(starts)
    assert table.starts_ns[index + 1] - table.starts_ns[index] == hours * HOUR


def test_a_day_may_begin_in_the_evening_and_has_the_name_of_the_date_it_begins_on() -> None:
    table = day_table("America/New_York", "18:00", around_ns=AROUND)
    assert start_of(table, 20260701) == ns("2026-07-01T22:00:00")
    assert table.day_of(ns("2026-07-01T21:59:59")) == 20260630
    assert table.day_of(ns("2026-07-02T12:00:00")) == 20260701


def test_a_start_that_the_clocks_jump_over_is_where_it_would_have_been() -> None:
    table = day_table("America/New_York", "02:30", around_ns=AROUND)
    assert start_of(table, 20260308) == ns("2026-03-08T07:30:00")  # 02:30 EST, which the wall shows as 03:30 EDT


def test_a_start_that_the_clocks_show_twice_is_the_first() -> None:
    table = day_table("America/New_York", "01:30", around_ns=AROUND)
    assert start_of(table, 20261101) == ns("2026-11-01T05:30:00")


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "Europe/Dublin"])
@pytest.mark.parametrize("day_start", ["00:00", "02:30", "23:59"])
def test_every_day_of_a_zone_begins_after_the_one_before(zone: str, day_start: str) -> None:
    table = day_table(zone, day_start, around_ns=ns("2011-12-30T00:00:00"), years=2)
    assert all(a < b for a, b in zip(table.starts_ns, table.starts_ns[1:], strict=False))
    assert len(set(table.days)) == len(table.days)


def test_a_date_that_the_zone_never_had_is_no_day() -> None:
    """Samoa went from 29 to 31 December 2011."""
    table = day_table("Pacific/Apia", around_ns=ns("2011-12-30T00:00:00"), years=1)
    assert 20111230 not in table.days
    assert table.day_of(ns("2011-12-30T09:59:59")) == 20111229
    assert table.day_of(ns("2011-12-30T10:00:00")) == 20111231


def test_outside_the_table_days_are_those_of_utc() -> None:
    table = day_table("America/New_York", "18:00", around_ns=AROUND, years=1)
    assert table.day_of(ns("1999-12-31T23:59:59")) == 19991231
    assert table.day_of(ns("2100-01-01T00:00:00")) == 21000101
    assert DayTable((), ()).day_of(-1) == 19691231


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "America"])
def test_an_unknown_zone_is_the_users_error(zone: str) -> None:
    with pytest.raises(UsageError, match="time zone"):
        day_table(zone, around_ns=AROUND)


@pytest.mark.parametrize("day_start", ["24:00", "7:00", "07:60", "0700", "", "07:00\n"])
def test_a_malformed_start_is_the_users_error(day_start: str) -> None:
    with pytest.raises(UsageError, match="time of day"):
        day_table("UTC", day_start, around_ns=AROUND)
