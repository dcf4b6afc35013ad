"""What a rehearsal says at its end: the verdict, and what a day would need, from numbers that are reckoned by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmd import environment as env
from ssmd.middleware import objectstore
from ssmd.rehearsal import needs
from ssmd.rehearsal.needs import Run, about, is_equal, lines, puts_of, segments_a_day, stream_bytes
from ssmd.report import Report

MIB = 1 << 20
TEXT = """
name: small
feed: kalshi
schema: market_data:v1
exchange: {simulator: {}}
subscriptions: [{channels: [trade], all: true}]
transport: {type: memory}
storage: {type: memory}
cache: {type: memory}
journal: {type: memory}
"""
RUN = Run(records=864, seconds=86.4, folder="/d")  # a thousandth of a day: everything is times 1,000
MEASURED: dict[str, float] = {
    "published": 864,
    "uploaded": 864,
    "segments": 2,
    "segment_bytes": 1024,
    "plain_bytes": 10 * 1024,
    "manifest_bytes": 2050,
    "records_messages": 864,
    "records_bytes": 864 * 100,
    "records_subject_bytes": 864 * 10,
    "batches_messages": 10,
    "batches_bytes": 90_000,
    "batches_subject_bytes": 190,
    "largest_bytes": 10_486,
    "markets": 3,
    "changed_names": 1,
    "cache_keys": 4,
    "cache_bytes": 4096,
}


def environment(*settings: str) -> env.Environment:
    machine = env.Machine(Path, None, lambda name: name == "UTC")
    return env.parse(TEXT, machine, source="small.yaml", stem="small", overrides=settings)


def report(number: int = 864, *, trouble: str | None = None, **counters: float) -> Report:
    return Report("rehearsal", number, 864, 0.0, trouble, {**MEASURED, "differing": 0, **counters})


def said(found: Report | None, *settings: str, run: Run = RUN, kept: bool = False) -> str:
    return "\n".join(lines(environment(*settings), run, found, kept=kept))


def test_all_is_said_in_a_few_lines() -> None:
    """Journal: 1,000 x 1,024 bytes and 24 manifests of 1,025. Stream: (100 + 10 + 34) x 864,000 bytes."""
    assert said(report()) == (
        "Rehearsal of small: bus, consumer, store and cache were in memory.\n"
        "  equal       864 records: in the stream (records), with its consumer, in 2 objects\n"
        "A day at this rate, extrapolated from 1m26s at 10 records a second:\n"
        "  journal     1.0 MiB on disk (9.8 MiB before zstd), 24 segments\n"
        "  stream      118.7 MiB, 864,000 messages, one a record\n"
        "              356.0 MiB in the 72 hours of stream_max_age_hours\n"
        "  bucket      1.0 MiB, 48 objects, 48 PUT requests\n"
        "Not extrapolated, as it was at the end of these 1m26s:\n"
        "  cache       4 keys, 4.0 KiB\n"
        "  messages    the largest had 10.2 KiB, 1.0% of the 1 MiB that NATS takes unless set otherwise\n"
        "  subjects    3 market names, 1 of them changed to be words\n"
        "Nothing was kept. --data DIR keeps the journal."
    )


def test_both_forms_of_a_stream_are_told_and_added() -> None:
    """(90,000 + 190 + 34 x 10) x 1,000 bytes beside 124,416,000."""
    words = said(report(), "transport.publish=both", "transport.batch_records=7")
    assert "stream      86.3 MiB, 10,000 messages, each of at most 7 records of a kind" in words
    assert "615.0 MiB in the 72 hours" in words
    assert "in the stream (records, batches)," in words


def test_what_was_measured_of_a_part_of_the_records_is_told_for_all_of_them() -> None:
    """Half of them uploaded, a quarter published: twice the journal, four times the stream."""
    words = said(report(published=216, uploaded=432))
    assert "journal     2.0 MiB on disk (19.5 MiB before zstd), 24 segments" in words
    assert "stream      474.6 MiB, 3,460,000 messages, one a record" in words


def test_a_limit_of_the_stream_is_told_as_a_time() -> None:
    """124,416,000 bytes a day are 5,184,000 an hour."""
    words = said(report(), "transport.stream_max_bytes=10368000", "transport.stream_max_age_hours=0")
    assert "kept for ever (stream_max_age_hours 0)" in words
    assert "stream_max_bytes (9.9 MiB) is room for 2.0 hours" in words


def test_names_that_share_a_subject_and_parts_are_told() -> None:
    words = said(report(shared_names=2, parts=6))
    assert "3 market names, 1 of them changed to be words; 2 share the subject of another" in words
    assert "; 6 messages were parts of a larger one" in words


def test_a_difference_is_the_verdict() -> None:
    found = report(trouble="the copies differ: the stream (records): record 7: missing", differing=1)
    assert "  NOT EQUAL   the copies differ: the stream (records): record 7: missing" in said(found)
    assert "  equal " not in said(found)
    assert not is_equal(RUN, found)


def test_records_that_were_not_compared_are_no_equal_ones() -> None:
    found = report(800, trouble="the storage is full")
    assert "  NOT ALL     64 of 864 records were not compared in time: the storage is full" in said(found)
    assert not is_equal(RUN, found)


def test_a_helper_that_said_nothing_has_compared_nothing() -> None:
    assert "NOT COMPARED" in said(None) and "A day" not in said(None)
    assert not is_equal(RUN, None)


def test_equal_is_what_reaches_the_last_record_without_a_difference() -> None:
    assert is_equal(RUN, report())


def test_a_run_of_less_than_a_second_says_nothing_of_a_day() -> None:
    assert "A day" not in said(report(), run=Run(864, 0.5))


def test_a_journal_that_stays_is_not_said_to_be_gone() -> None:
    words = said(report(), kept=True)
    assert "Nothing was kept" not in words and words.endswith("The journal stays in /d.")


@pytest.mark.parametrize(
    ("minutes", "limit", "plain_mib_a_day", "segments"),
    [
        (60, 256 * MIB, 100, 24),  # an hour has much less than 256 MiB
        (60, 256 * MIB, 24 * 600, 72),  # 600 MiB an hour: two full ones, and the rest at the hour
        (1440, 16 * MIB, 160, 11),
        (1, 256 * MIB, 0, 1440),
    ],
)
def test_segments_of_a_day_follow_the_environment_s_rotation(
    minutes: int, limit: int, plain_mib_a_day: int, segments: int
) -> None:
    found = environment(f"flusher.rotate_minutes={minutes}", f"flusher.rotate_bytes={limit}")
    assert segments_a_day(found, plain_mib_a_day * MIB) == segments


def test_a_large_object_takes_a_request_for_each_part_and_three_more() -> None:
    assert needs.PART_BYTES == objectstore.PART_BYTES == objectstore.MAX_SINGLE_BYTES
    assert [puts_of(8 * MIB), puts_of(8 * MIB + 1), puts_of(24 * MIB)] == [1, 2 + 3, 3 + 3]


def test_an_extrapolated_count_has_three_digits() -> None:
    assert [about(7), about(1234), about(167_159_246)] == ["7", "1,230", "167,000,000"]


def test_a_form_that_was_not_published_takes_nothing() -> None:
    assert stream_bytes({}, "batches") == 0
