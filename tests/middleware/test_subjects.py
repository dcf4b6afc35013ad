"""Patterns of subjects: which covers another, and which meet. The witness tries every subject of up to four words."""

from __future__ import annotations

from itertools import product

from ssmd.middleware.names import covers, matches, meets, uncovered

WORDS = ("a", "b", "c")
SUBJECTS = [".".join(words) for count in (1, 2, 3, 4) for words in product(WORDS, repeat=count)]
PATTERNS = [
    ".".join((*words, *end))
    for count in (0, 1, 2)
    for words in product(("a", "b", "*"), repeat=count)
    for end in ((), (">",), ("a",), ("*",))
    if words or end
]
MATCHED = {pattern: {subject for subject in SUBJECTS if matches(pattern, subject)} for pattern in PATTERNS}


def test_a_pattern_covers_another_when_every_subject_of_that_is_one_of_its_own() -> None:
    for pattern, other in product(PATTERNS, repeat=2):
        assert covers(pattern, other) == (MATCHED[other] <= MATCHED[pattern]), (pattern, other)


def test_two_patterns_meet_when_there_is_a_subject_of_both() -> None:
    for pattern, other in product(PATTERNS, repeat=2):
        assert meets(pattern, other) == bool(MATCHED[other] & MATCHED[pattern]), (pattern, other)


def test_what_no_stored_pattern_covers_is_named() -> None:
    assert uncovered(["md.trade.>", "md.ticker.*"], ["md.trade.X", "md.ticker.>", "md.book.X"]) == [
        "md.ticker.>",
        "md.book.X",
    ]
