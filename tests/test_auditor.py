"""The auditor on journals written by hand: which books it tells, when, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest
from journal_writer import Journal

from ssmd.auditor import Auditor
from ssmd.book import BELOW_ZERO, WITHOUT_SNAPSHOT, Suspect
from ssmd.journal.paths import OPEN


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    j = Journal(tmp_path / "kalshi")
    j.event("started")
    j.event("opened", 1)
    return j


class Told:
    """Writes the journal so far as an open segment, and gives what the auditor then says."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._auditor = Auditor(journal.root, 0)

    def __call__(self) -> list[Suspect]:
        self._journal.write(OPEN)
        return list(self._auditor.step())


@pytest.fixture
def told(journal: Journal) -> Told:
    return Told(journal)


def test_a_sound_book_is_not_spoken_of(journal: Journal, told: Told) -> None:
    journal.snapshot(1, [(4700, 300)], [])
    journal.delta(2, "bid", 4700, -300)
    assert told() == []


def test_a_level_below_zero_is_told_once_with_its_record(journal: Journal, told: Told) -> None:
    journal.snapshot(1, [(4700, 300)], [])
    number = journal.delta(2, "bid", 4700, -301)
    assert told() == [Suspect(number, 1, 2, "M-1", journal.now, BELOW_ZERO)]
    journal.delta(3, "bid", 4700, -1)
    assert told() == []


def test_a_book_that_goes_wrong_after_its_snapshot_is_told_again(journal: Journal, told: Told) -> None:
    journal.snapshot(1, [], [])
    journal.delta(2, "bid", 4700, -1)
    assert len(told()) == 1
    journal.snapshot(3, [], [], request=9)
    assert told() == []
    number = journal.delta(4, "ask", 4700, -1)
    assert [suspect.number for suspect in told()] == [number]


def test_what_a_snapshot_has_mended_before_it_was_read_is_not_told(journal: Journal, told: Told) -> None:
    journal.snapshot(1, [], [])
    journal.delta(2, "bid", 4700, -1)
    journal.snapshot(3, [], [], request=9)
    assert told() == []


def test_a_delta_without_snapshot_is_told_on_a_sid_seen_from_its_start(journal: Journal, told: Told) -> None:
    journal.snapshot(1, [], [])
    number = journal.delta(2, "bid", 4700, 5, "M-2")
    assert told() == [Suspect(number, 1, 2, "M-2", journal.now, WITHOUT_SNAPSHOT)]


def test_a_sid_that_was_not_seen_from_its_start_may_have_had_its_snapshots_before(journal: Journal, told: Told) -> None:
    journal.delta(7, "bid", 4700, 5)
    journal.delta(8, "bid", 4700, -6)
    assert told() == []


def test_books_of_a_closed_connection_are_forgotten(journal: Journal, told: Told) -> None:
    """Also by those of others that stand behind them."""
    for connection in (1, 2, 3):
        for market in ("M-1", "M-2"):
            journal.snapshot(0, [(4700, 300)], [], market, connection=connection)
    journal.delta(0, "bid", 4700, -400, "M-2", connection=1)
    journal.delta(0, "bid", 4700, -400, "M-2", connection=3)
    assert [suspect.connection for suspect in told()] == [1, 3]
    journal.event("closed", 1)
    assert told() == []
    journal.delta(0, "bid", 4700, -400, "M-1", connection=2)
    journal.delta(0, "bid", 4700, -300, "M-1", connection=3)
    assert [(suspect.connection, suspect.market) for suspect in told()] == [(2, "M-1")]


def test_it_goes_on_over_a_rotation(journal: Journal, told: Told) -> None:
    journal.snapshot(1, [(4700, 300)], [])
    assert told() == []
    (journal.folder / (journal.stem + OPEN)).unlink()
    journal.seal()
    journal.delta(2, "bid", 4700, -301)
    assert [suspect.market for suspect in told()] == ["M-1"]
