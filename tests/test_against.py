"""A journal against copies of it: what is missing, doubled, different, extra, behind, dropped, or only there.

The expected values are counted by hand; copies are made by taking the journal's own records apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd.against import NAMED_BLOCKS, Outcome, compare
from ssmd.copies import BLOCK, LISTED, Chunk, Stream, sums_of
from ssmd.journal.pieces import Found, records_in
from ssmd.middleware.interfaces import Delivery, Message
from ssmd.middleware.memory import MemoryTransport
from ssmd.native.sums import digest

TRADE, TICKER, GAP, CHECKPOINT = 1, 2, 7, 10
ROW = 100  # records that a copy or a journal gives at once, a group

Piece = tuple[str, int, int, bytes]  # form, number, kind, the record's bytes


def record(number: int, text: str = "", kind: int = TRADE) -> bytes:
    """A record with its number and kind in the places of csrc/ssmd.h, and whatever behind them."""
    body = text.encode().ljust(-(-max(len(text), 8) // 8) * 8, b"\0")
    rest = struct.pack("<8xQ48xQ", number, kind) + body
    return struct.pack("<II", 0, len(rest) // 8) + rest


def found(numbers: Iterable[int], text: str = "as recorded") -> list[Found]:
    return [(number, TRADE, record(number, text)) for number in numbers]


def rows(records: Sequence[Found]) -> list[bytes]:
    """Records as a reader gives them: many in a row."""
    return [b"".join(raw for _, _, raw in records[at : at + ROW]) for at in range(0, len(records), ROW)]


@dataclass
class Copy:
    """A target that holds what the test put there."""

    pieces: list[Piece]
    limit: int | None = None
    forms: Sequence[str] = ("",)
    keeps_older: bool = False
    dropping: bool = False
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    name: str = "copy"

    def read(self) -> Iterator[Chunk]:
        for form, pieces in groupby(self.pieces, key=lambda piece: piece[0]):
            for data in rows([(number, kind, raw) for _, number, kind, raw in pieces]):
                yield Chunk(form, data, sums_of(data))


def copy_of(records: Iterable[Found], **more: object) -> Copy:
    return Copy([("", *one) for one in records], **more)  # type: ignore[arg-type]


def outcome_of(journal: Sequence[Found], target: Copy, *others: Copy, first: int = 1) -> Outcome:
    return compare(lambda: rows(journal), [target, *others], first=first)[0]


def counts(outcome: Outcome) -> dict[str, int]:
    """The counts that are not zero."""
    names = ("records", "behind", "dropped", "older", "missing", "doubled", "different", "extra")
    return {name: getattr(outcome, name) for name in names if getattr(outcome, name)}


N = 2 * BLOCK + 100
ALL = range(1, N + 1)


def test_an_equal_copy_is_equal_whatever_its_order() -> None:
    outcome = outcome_of(found(ALL), copy_of(reversed(found(ALL))))
    assert counts(outcome) == {"records": N}
    assert outcome.equal


def test_what_lies_above_the_highest_number_is_behind_and_no_difference() -> None:
    outcome = outcome_of(found(ALL), copy_of(found(range(1, 51))))
    assert counts(outcome) == {"records": 50, "behind": N - 50}
    assert outcome.equal


def test_what_lies_above_the_publishers_cursor_is_not_judged() -> None:
    """The highest number of a copy proves nothing about those below it while batches are on their way."""
    outcome = outcome_of(found(ALL), copy_of([*found(range(1, 51)), *found([60, 61])], limit=50))
    assert counts(outcome) == {"records": 50, "behind": N - 50}


def test_what_is_missing_below_the_cursor_is_missing_even_at_the_end() -> None:
    outcome = outcome_of(found(ALL), copy_of(found(range(1, N)), limit=N))
    assert counts(outcome) == {"records": N - 1, "missing": 1}
    assert outcome.ranges == {"missing": [[N, N]]}


def test_missing_doubled_different_and_extra_are_named() -> None:
    there = [one for one in found(ALL) if one[0] not in (5, 6, 7, 5000)]
    there += found([9]) + found([N + 3])
    there = [(n, kind, record(n, "other bytes") if n == 4097 else raw) for n, kind, raw in there]
    outcome = outcome_of(found(ALL), copy_of(there))
    assert counts(outcome) == {"records": N - 5, "missing": 4, "doubled": 1, "different": 1, "extra": 1}
    assert outcome.ranges == {
        "missing": [[5, 7], [5000, 5000]],
        "doubled": [[9, 9]],
        "different": [[4097, 4097]],
        "extra": [[N + 3, N + 3]],
    }
    assert not outcome.equal


def test_two_records_that_took_each_others_bytes_are_different() -> None:
    """The sum of a block is that of its records' bytes, and a number is a part of them."""
    swapped = [(1, TRADE, record(1, "b")), (2, TRADE, record(2, "a"))]
    right = [(1, TRADE, record(1, "a")), (2, TRADE, record(2, "b"))]
    assert outcome_of(right, copy_of([*swapped, *found([3])])).equal is False


def test_a_remark_is_told_where_something_is_missing_and_is_no_fault_elsewhere() -> None:
    whole = copy_of(found(range(1, 10)), remarks=["messages were removed"])
    assert outcome_of(found(range(1, 10)), whole).equal
    lacking = copy_of(found([1, 3]), remarks=["messages were removed"])
    assert outcome_of(found(range(1, 4)), lacking).faults == ["messages were removed"]


def test_what_a_copy_has_beyond_a_journal_that_grows_is_no_difference() -> None:
    """It was recorded, sealed and copied while the comparison went on."""
    whole = copy_of(found(range(1, N + 2 * BLOCK)))
    (outcome,) = compare(lambda: rows(found(ALL)), [whole], first=1, live=True)
    assert counts(outcome) == {"records": N}
    assert outcome.equal
    assert not compare(lambda: rows(found(ALL)), [whole], first=1)[0].equal


def test_a_hole_in_the_last_block_of_a_journal_that_grows_is_missing() -> None:
    lacking = copy_of(found([*range(1, N - 5), *range(N - 4, N + 100)]))
    (outcome,) = compare(lambda: rows(found(ALL)), [lacking], first=1, live=True)
    assert counts(outcome) == {"records": N - 1, "missing": 1}


def test_an_empty_copy_is_wholly_behind() -> None:
    outcome = outcome_of(found(ALL), copy_of([]))
    assert counts(outcome) == {"behind": N}


def test_an_empty_copy_with_a_cursor_is_wholly_missing() -> None:
    assert counts(outcome_of(found(ALL), copy_of([], limit=N))) == {"missing": N}


def test_what_a_stream_dropped_by_its_limits_is_not_called_lost() -> None:
    outcome = outcome_of(found(ALL), copy_of(found(range(BLOCK + 10, N + 1)), dropping=True))
    assert counts(outcome) == {"records": N - BLOCK - 9, "dropped": BLOCK + 9}
    assert outcome.equal


def test_a_hole_behind_the_dropped_part_is_missing_all_the_same() -> None:
    outcome = outcome_of(found(ALL), copy_of(found([*range(10, 20), *range(21, N + 1)]), dropping=True))
    assert counts(outcome) == {"records": N - 10, "dropped": 9, "missing": 1}


def test_the_same_beginning_without_a_limit_of_the_stream_is_missing() -> None:
    outcome = outcome_of(found(ALL), copy_of(found(range(10, N + 1))))
    assert counts(outcome) == {"records": N - 9, "missing": 9}


def test_in_batches_a_kind_may_be_dropped_further_than_another() -> None:
    """Spans are published kind by kind: the first message that is left may be the second one of its span."""
    journal = [(n, TICKER if n % 2 else TRADE, record(n, "", TICKER if n % 2 else TRADE)) for n in range(1, 101)]
    left = [one for one in journal if one[0] >= 40 or (one[0] >= 20 and one[1] == TRADE)]
    outcome = outcome_of(journal, copy_of(left, dropping=True))
    assert counts(outcome) == {"records": len(left), "dropped": 100 - len(left)}


def rare(numbers: Iterable[int], *gaps: int) -> list[Found]:
    """Trades, and Gap records at a few places."""
    return [(n, GAP if n in gaps else TRADE, record(n, "", GAP if n in gaps else TRADE)) for n in numbers]


def test_in_single_records_only_what_lies_before_the_first_that_is_left_was_dropped() -> None:
    """Whatever its kind: a Gap record in the middle that is not there was lost, though it is the first of its kind."""
    journal = rare(range(1, 101), 50, 90)
    left = [("records", *one) for one in journal if one[0] >= 10 and one[0] != 50]
    outcome = outcome_of(journal, Copy(left, forms=("records",), dropping=True))
    assert counts(outcome) == {"records": 90, "dropped": 9, "missing": 1}
    assert outcome.ranges == {"missing": [[50, 50]]}


@pytest.mark.parametrize("gaps", [(150,), (150, 190)])
def test_in_batches_no_kind_is_dropped_further_than_the_oldest_group_that_is_left(gaps: tuple[int, ...]) -> None:
    journal = rare(range(1, 2 * ROW + 1), *gaps)  # two groups
    left = [("batches", *one) for one in journal if one[0] >= 10 and one[0] != 150]
    outcome = outcome_of(journal, Copy(left, forms=("batches",), dropping=True))
    assert counts(outcome) == {"records": 190, "dropped": 9, "missing": 1}


def test_too_many_differences_are_counted_without_names() -> None:
    numbers = range(1, (NAMED_BLOCKS + 3) * BLOCK)
    there = [n for n in numbers if n % BLOCK != 1]
    outcome = outcome_of(found(numbers, ""), copy_of(found(there, "")))
    assert outcome.counted_only
    assert counts(outcome)["missing"] == NAMED_BLOCKS + 3
    assert len(outcome.ranges["missing"]) == LISTED


def test_each_form_is_compared_by_itself() -> None:
    pieces = [("records", *one) for one in found(ALL)] + [("batches", *one) for one in found(range(1, N)) * 1]
    outcomes = compare(lambda: rows(found(ALL)), [Copy(pieces, forms=("records", "batches"), limit=N)], first=1)
    assert {outcome.form: counts(outcome) for outcome in outcomes} == {
        "records": {"records": N},
        "batches": {"records": N - 1, "missing": 1},
    }


def test_a_form_that_should_be_there_and_is_not_is_missing() -> None:
    target = Copy([("records", *one) for one in found(ALL)], forms=("records", "batches"), limit=N)
    outcomes = compare(lambda: rows(found(ALL)), [target], first=1)
    assert {outcome.form: counts(outcome) for outcome in outcomes}["batches"] == {"missing": N}


# ---- local copies are gone -------------------------------------------------------------------------------------------


def test_records_whose_local_copies_are_removed_are_only_there() -> None:
    local = found(range(101, N + 1))
    outcome = outcome_of(local, copy_of(found(ALL), keeps_older=True), first=101)
    assert counts(outcome) == {"records": N - 100, "older": 100}
    assert outcome.equal


def test_the_store_stands_for_the_journal_where_that_is_gone() -> None:
    local = found(range(101, N + 1))
    stream = copy_of(found([*range(1, 50), *range(51, N + 1)]))
    outcome = outcome_of(local, stream, copy_of(found(ALL), keeps_older=True), first=101)
    assert counts(outcome) == {"records": N - 100, "older": 99, "missing": 1}


def test_older_records_that_differ_in_store_and_stream_are_different() -> None:
    local = found(range(101, N + 1))
    stream = copy_of(found(range(1, 101), "other") + local)
    outcome = outcome_of(local, stream, copy_of(found(ALL), keeps_older=True), first=101)
    assert outcome.different and outcome.counted_only


def test_without_a_store_older_records_of_a_stream_are_only_told() -> None:
    local = found(range(101, N + 1))
    assert counts(outcome_of(local, copy_of(found(ALL)), first=101)) == {"records": N - 100, "older": 100}


# ---- a stream --------------------------------------------------------------------------------------------------------

JOURNAL = "kalshi-0123456789ab"


def stream_of(messages: Sequence[Message]) -> Stream:
    bus = MemoryTransport(subjects=["md.>"])
    bus.publish_all(messages)
    return Stream("bus", bus, prefix="md", journal=JOURNAL)


def single(number: int, message_id: str | None = None) -> Message:
    return Message("md.trade.M", record(number), {}, message_id or f"{JOURNAL}:{number}")


def batch(*numbers: int) -> Message:
    payload = b"".join(map(record, numbers))
    return Message("md.batch.trade", payload, {}, f"{JOURNAL}:{numbers[0]}-{numbers[-1]}:trade")


def numbers_of(stream: Stream) -> list[tuple[str, int]]:
    return [(form, number) for form, number, _, _ in pieces_of(stream)]


def pieces_of(stream: Stream) -> list[Piece]:
    return [(form, *one) for form, data, _ in stream.read() for one in records_in(data)]


def test_a_stream_that_pauses_is_read_to_the_end_that_it_had_when_the_reading_began() -> None:
    class Slow(MemoryTransport):
        """Gives nothing at first, as a busy server does, and is published to meanwhile."""

        def subscribe(self, *given: Any, **more: Any) -> Any:
            subscription = super().subscribe(*given, **more)
            really, came = subscription.next, iter([False])

            def next_one(timeout_s: float) -> Delivery | None:
                if next(came, True):
                    return really(timeout_s)
                self.publish(single(3))
                return None

            subscription.next = next_one  # type: ignore[method-assign]
            return subscription

    bus = Slow(subjects=["md.>", "other"])
    bus.publish_all([single(1), single(2), Message("other", b"last", {}, "x")])
    stream = Stream("bus", bus, prefix="md", journal=JOURNAL)
    assert numbers_of(stream) == [("records", 1), ("records", 2)]
    assert bus.last_sequence() == 4


def test_a_stream_is_read_in_both_forms() -> None:
    stream = stream_of([single(1), single(2), batch(1, 2)])
    assert numbers_of(stream) == [("records", 1), ("records", 2), ("batches", 1), ("batches", 2)]
    assert (stream.faults, stream.dropping) == ([], False)


def test_messages_of_other_journals_and_programs_are_left_out() -> None:
    others = [single(7, "kalshi-ffffffffffff:7"), Message("md.note", b"hello"), Message("md.x", b"", {}, "a:b:c")]
    assert numbers_of(stream_of([*others, single(1)])) == [("records", 1)]


def test_what_came_in_parts_is_one_record() -> None:
    raw = record(1, "x" * 300)
    parts = [
        Message("md.trade.M", raw[at : at + 150], {"Ssmd-Part": f"{i}/3"}, f"{JOURNAL}:1.{i}")
        for i, at in enumerate(range(0, len(raw), 150), 1)
    ]
    stream = stream_of([*parts, single(2)])
    assert pieces_of(stream) == [("records", 1, TRADE, raw), ("records", 2, TRADE, record(2))]
    lacking = stream_of([parts[0], parts[2], single(2)])
    assert numbers_of(lacking) == [("records", 2)]
    assert "is not the part that was due: 2 of 3" in lacking.faults[0]


def test_a_message_that_holds_another_record_than_it_says_is_a_fault() -> None:
    stream = stream_of([single(1, f"{JOURNAL}:2")])
    assert numbers_of(stream) == [("records", 1)]
    assert "is called kalshi-0123456789ab:2 and holds record 1" in stream.faults[0]
    assert not outcome_of(found([1], ""), stream).equal  # type: ignore[arg-type]


def test_a_message_that_holds_no_record_is_a_fault() -> None:
    stream = stream_of([Message("md.trade.M", b"no record at all", {}, f"{JOURNAL}:1")])
    assert numbers_of(stream) == []
    assert "no record" in stream.faults[0]


def test_many_single_messages_are_read_whole_whatever_comes_between() -> None:
    numbers = range(1, 700)
    others = Message("md.trade.M", record(5), {}, "kalshi-ffffffffffff:5")
    stream = stream_of([message for n in numbers for message in (single(n), others)] + [batch(1, 2)])
    assert sorted(numbers_of(stream)) == sorted([("records", n) for n in numbers] + [("batches", 1), ("batches", 2)])
    assert stream.faults == []


def test_a_checkpoint_among_the_messages_is_a_fault() -> None:
    raw = record(3, kind=CHECKPOINT)
    stream = stream_of([single(1), Message("md.trade.M", raw, {}, f"{JOURNAL}:3")])
    assert [chunk.sums[0].records for chunk in stream.read()] == [1]
    assert "1 checkpoints" in stream.faults[0]


# ---- sums ------------------------------------------------------------------------------------------------------------


def test_sums_are_those_of_the_records_whatever_their_order_and_grouping() -> None:
    """The plain reader is the specification: C finds the same records, and no others."""
    raws = [record(n, "x" * (n % 50), TRADE if n % 3 else CHECKPOINT) for n in (1, 4095, 4096, 9000, 2, 8191, 3)]
    numbered = [(number, raw) for number, kind, raw in records_in(b"".join(raws)) if kind != CHECKPOINT]
    wanted: dict[int, list[int]] = {}
    for number, raw in numbered:
        entry = wanted.setdefault(number // BLOCK, [0, 0])
        entry[0] += 1
        entry[1] = (entry[1] + digest(raw)) % 2**64
    found_in: dict[int, list[int]] = {}
    for row in sums_of(b"".join(raws)):
        entry = found_in.setdefault(row.block, [0, 0])
        entry[0] += row.records
        entry[1] = (entry[1] + row.total) % 2**64
    assert found_in == wanted


def test_more_runs_than_one_call_gives_are_all_there() -> None:
    numbers = [n * BLOCK for n in range(1, 1001)]
    sums = sums_of(b"".join(map(record, numbers)))
    assert [(row.block, row.records, row.lowest, row.highest) for row in sums] == [
        (number // BLOCK, 1, number, number) for number in numbers
    ]


@given(st.binary(max_size=400))
@settings(derandomize=True, deadline=None, database=None)
def test_of_any_bytes_c_takes_what_the_plain_reader_takes(data: bytes) -> None:
    for bytes_of in (data, record(1) + data, struct.pack("<II", 0, 12) + data):
        try:
            wanted: int | None = sum(kind != CHECKPOINT for _, kind, _ in records_in(bytes_of))
        except ValueError:
            wanted = None
        try:
            counted: int | None = sum(row.records for row in sums_of(bytes_of))
        except ValueError:
            counted = None
        assert counted == wanted


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_records_are_taken_apart_by_their_lengths() -> None:
    three = [record(1, "a"), record(2, "a longer text than that"), record(3)]
    assert list(records_in(b"".join(three))) == [(n, TRADE, raw) for n, raw in enumerate(three, 1)]


@pytest.mark.parametrize("cut", range(1, len(record(1))))
def test_bytes_that_end_inside_a_record_are_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="record"):
        list(records_in(record(1)[:cut]))


def test_bytes_that_are_no_record_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole record begins at 0"):
        list(records_in(b"{'this': 'is JSON'}".ljust(200)))
