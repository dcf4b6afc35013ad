"""What a recovery took from a journal and no Gap record names yet: kept beside the journal until one does.

A recovery cuts bytes off and withholds numbers; a recorder that is killed before it has recorded that would leave a
journal that says nothing of it, and give numbers that are on a bus to other records. The note is written before
anything is cut and before the new ring is made, and removed once the records that tell it are on the disk.

The records that tell it are the first that a run gives numbers to: the withheld numbers, then the cuts in order. So the
last number of ring or files says how many of them are told.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from ssmd.errors import StorageError
from ssmd.journal.files import replace_file, sync_folder
from ssmd.journal.recover import Cut

UNTOLD = "recovered.json"  # in the journal's folder


@dataclass(frozen=True, slots=True)
class Untold:
    """What is to be told. `first` 0: no number has been set aside for that yet."""

    cuts: tuple[Cut, ...] = ()
    withheld: tuple[int, int] | None = None
    last_recv_ns: int = 0  # of the last record before all this
    first: int = 0  # number of the record that tells the first of `counted`
    counted: int = 0  # what is told from `first` on; cuts behind these were found later

    def __bool__(self) -> bool:
        return bool(self.cuts or self.withheld)

    @property
    def is_numbered(self) -> bool:
        """Whether numbers are set aside for all of it."""
        return bool(self.first) and self.counted == len(self.cuts) + (self.withheld is not None)

    @property
    def last(self) -> int:
        """Number of the record that tells the last of `counted`."""
        return self.first + self.counted - 1

    def with_cut(self, cut: Cut) -> Untold:
        return self if cut in self.cuts else replace(self, cuts=(*self.cuts, cut))

    def left(self, last_number: int) -> Untold:
        """What is not told yet where `last_number` is the last record."""
        if not self.first:
            return self
        told = min(max(last_number - self.first + 1, 0), self.counted)
        cuts_told = max(told - 1, 0) if self.withheld else told
        return replace(self, cuts=self.cuts[cuts_told:], withheld=None if told else self.withheld, first=0, counted=0)

    def numbered(self, last_number: int) -> Untold:
        """To be told in the records behind `last_number`."""
        return replace(self, first=last_number + 1, counted=len(self.cuts) + (self.withheld is not None))


def load(root: Path) -> Untold:
    """What the note in the journal's folder says; nothing where there is none, or none that can be read."""
    try:
        known = json.loads((root / UNTOLD).read_bytes())
        cuts = tuple(
            Cut(Path(segment), int(offset), int(size), str(what), Path(kept) if kept else None)
            for segment, offset, size, what, kept in known["cuts"]
        )
        withheld = (int(known["withheld"][0]), int(known["withheld"][1])) if known["withheld"] else None
        return Untold(cuts, withheld, int(known["last_recv_ns"]), int(known["first"]), int(known["counted"]))
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return Untold()


def save(root: Path, untold: Untold) -> None:
    """Durably, whole."""
    known = {
        "cuts": [
            [str(cut.segment), cut.offset, cut.bytes, cut.what, str(cut.kept) if cut.kept else None]
            for cut in untold.cuts
        ],
        "withheld": untold.withheld,
        "last_recv_ns": untold.last_recv_ns,
        "first": untold.first,
        "counted": untold.counted,
    }
    try:
        replace_file(root / UNTOLD, json.dumps(known).encode() + b"\n")
    except OSError as error:
        raise StorageError(f"{root / UNTOLD}: cannot be written: {error.strerror}", hint="Free space first.") from error


def remove(root: Path) -> None:
    """All is told. Where it cannot be removed it stays: the numbers say that it is told."""
    try:
        (root / UNTOLD).unlink(missing_ok=True)
        sync_folder(root)
    except OSError:
        return
