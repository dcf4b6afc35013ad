"""Collects the facts of journals from their bytes, for `ssmd.quality` to judge.

The counting is done in C; only Gap, ConnectionEvent and Control records are decoded here. Manifests beside sealed
segments are recomputed in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from ssmd.errors import DamageError
from ssmd.journal import manifest
from ssmd.journal.archived import read_archived
from ssmd.journal.facts import fact_of
from ssmd.journal.paths import Segment
from ssmd.journal.reader import Batch, Reader
from ssmd.journal.strays import Stray
from ssmd.native.tally import Tally
from ssmd.quality import Account, DamageFact, EventFact, GapFact, SubscribedFact

# Called with every batch: (segment, batch) -> damage that it found (verify's --redecode).
Check = Callable[[Segment, Batch], list[DamageFact]]


def accounts(
    segments: Iterable[Segment], strays: Sequence[Stray] = (), *, books: bool = True, check: Check | None = None
) -> list[Account]:
    """One account for each journal that the segments and the strays belong to."""
    found = {
        str(journal): account(str(journal), list(members), books=books, check=check)
        for journal, members in groupby(segments, key=lambda segment: segment.journal)
    }
    for stray in strays:
        facts = found.setdefault(str(stray.journal), Account(journal=str(stray.journal)))
        facts.damage.append(DamageFact(str(stray.path), 0, stray.what))
    return list(found.values())


def account(journal: str, segments: list[Segment], *, books: bool = True, check: Check | None = None) -> Account:
    """The facts of one journal; `segments` in the order of their records."""
    facts = Account(journal=journal, segments=len(segments))
    archived = read_archived(Path(journal))
    if archived is not None:
        facts.archived, facts.archive = archived.number, archived.place
    tally = Tally(books=books)
    for segment in segments:
        _add_segment(facts, tally, segment, check)
    facts.totals = tally.totals()
    facts.channels = tally.channels()
    facts.holes = tally.holes()
    return facts


def _add_segment(facts: Account, tally: Tally, segment: Segment, check: Check | None) -> None:
    reader = Reader([segment])
    stored = _stored_manifest(facts, segment)
    builder = manifest.Builder(segment) if stored is not None else None
    for batch in reader.batches(segment):
        _add_batch(facts, tally, segment, batch)
        if builder is not None:
            try:
                builder.add(batch)
            except DamageError:  # of a record that is listed already
                builder = None
        if check is not None:
            facts.damage += check(segment, batch)
    facts.findings += tally.findings(str(segment.path), len(facts.findings))
    facts.damage += [
        DamageFact(str(d.segment), d.offset, d.what, d.lost_from, d.lost_to, d.lost_records) for d in reader.damage
    ]
    if builder is not None and stored is not None and not reader.damage:
        path = manifest.path_of(segment)
        facts.damage += [DamageFact(str(path), 0, what) for what in manifest.differences(stored, builder.manifest())]


def _add_batch(facts: Account, tally: Tally, segment: Segment, batch: Batch) -> None:
    shift = batch.start - batch.offset
    before = 0 if batch.proved else tally.totals().records
    for view in tally.add(batch.data, batch.start, batch.stop, batch.offset):
        at = view.offset + shift
        try:
            fact = fact_of(view, batch.data[at : at + view.length], str(segment.path))
        except DamageError as error:  # a text that is no UTF-8: whatever else is wrong, the rest is judged
            facts.damage.append(DamageFact(str(segment.path), view.offset, str(error)))
            continue
        if isinstance(fact, GapFact):
            facts.gaps.append(fact)
        elif isinstance(fact, EventFact):
            facts.events.append(fact)
        elif isinstance(fact, SubscribedFact):
            facts.subscriptions.append(fact)
    if not batch.proved:
        facts.unproved += tally.totals().records - before


def _stored_manifest(facts: Account, segment: Segment) -> dict[str, object] | None:
    try:
        return manifest.stored(segment)
    except DamageError as error:
        facts.damage.append(DamageFact(str(manifest.path_of(segment)), 0, str(error)))
        return None
