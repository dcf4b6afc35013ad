"""Who records into a journal now: the process that has the ring which the journal's note names.

For: readers that must know whether more may come (`verify --against`). Not for: locking (ring and folder
have locks of their own).
"""

from __future__ import annotations

from pathlib import Path

from ssmd.errors import SsmdError
from ssmd.native.ring import Ring, Role

RING_NOTE = ".ring"  # in the journal's folder: the path of the ring that was last used with it


def recorder_of(root: Path) -> int:
    """The pid of the process that records into the journal at `root` on this machine, 0: nobody does."""
    try:
        path = Path((root / RING_NOTE).read_text("utf-8").rstrip("\n"))
        with Ring.open(path, role=Role.OBSERVER, create=False) as ring:
            return ring.owner(Role.PRODUCER)
    except (OSError, UnicodeDecodeError, SsmdError):
        return 0
