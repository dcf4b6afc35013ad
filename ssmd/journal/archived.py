"""How far a journal is proved to be in an archive: `archiver.cursor` in its folder.

    {"number": 1000, "place": "s3://bucket"}     every record up to 1000 is there, and its manifest vouches for it

Written by the archiver; read by whoever finds that the beginning of a journal is no longer here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ssmd.journal.files import replace_file

CURSOR = "archiver.cursor"


@dataclass(frozen=True, slots=True)
class Archived:
    """The last record, and where all up to it are."""

    number: int
    place: str


def read_archived(root: Path) -> Archived | None:
    """What the archiver of the journal at `root` says; None where it says nothing that can be read."""
    try:
        held = json.loads((root / CURSOR).read_bytes())
        return Archived(int(held["number"]), str(held["place"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def write_archived(root: Path, archived: Archived) -> None:
    """Whole or not at all. OSError when the disk refuses."""
    replace_file(root / CURSOR, json.dumps({"number": archived.number, "place": archived.place}).encode() + b"\n")
