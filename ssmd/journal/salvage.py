"""Records that a damaged ring still holds, and that go on where the files end. Pure but for reading one file.

A ring is set aside when its commits, its positions or a record in it cannot be believed, and then the files alone
decide. What it holds is mostly whole all the same, and it holds more than was waiting: also what was written to the
open segment since its last checkpoint, until the producer comes round again. So records are taken back where all
of this holds, and else none:

* the header's own fields are right: magic, version, size, and a head and a tail that can be;
* a record with the very number that follows the files' last one begins within the last lap before the head;
* from it on one whole, valid record follows the other, each with the next number, none beyond the head;
* where they pass the tail, a record begins exactly there.

The first record that does not check out ends it: what comes after a hole is left in the file that was set aside.
Layout: csrc/ring_internal.h (its static asserts hold the offsets).
"""

from __future__ import annotations

import struct
from pathlib import Path

from ssmd.native.walk import View, ViewReader

_HEADER_BYTES = 64 * 1024
_MAGIC = b"ssmdring"
_START = struct.Struct("<8sIIQ")  # magic, version, header bytes, capacity
_VERSION = 1
_HEAD_AT, _TAIL_AT = 128, 256
_NUMBER_AT = 16  # in a record
_CHECKPOINT = 10
_LARGEST_BYTES = 1 << 30  # of a ring that is looked at


def salvage(ring: Path, last_number: int) -> list[bytes]:
    """The records of the ring file that follow record `last_number`, in order."""
    found = _held(ring)
    if found is None:
        return []
    data, head, tail = found
    capacity = len(data) // 2
    wanted = struct.pack("<Q", last_number + 1)
    at = data.find(wanted, _NUMBER_AT)
    while 0 <= at < capacity + _NUMBER_AT:
        offset = at - _NUMBER_AT
        position = head - (head - offset) % capacity  # of the last lap that ends at the head
        if offset % 8 == 0 and position < head:
            taken = _chain(data, offset, position, head, tail, last_number + 1)
            if taken:
                return taken
        at = data.find(wanted, at + 1)
    return []


def _held(ring: Path) -> tuple[bytes, int, int] | None:
    """The data area twice in a row, head and tail; None where the header cannot be believed."""
    try:
        if ring.stat().st_size > _LARGEST_BYTES:
            return None
        raw = ring.read_bytes()
    except OSError:
        return None
    if len(raw) < _HEADER_BYTES:
        return None
    magic, version, header_bytes, capacity = _START.unpack_from(raw)
    (head,), (tail,) = struct.unpack_from("<Q", raw, _HEAD_AT), struct.unpack_from("<Q", raw, _TAIL_AT)
    right = (magic, version, header_bytes, capacity) == (_MAGIC, _VERSION, _HEADER_BYTES, len(raw) - _HEADER_BYTES)
    if not right or capacity & (capacity - 1) or head % 8 or tail % 8 or not tail <= head <= tail + capacity:
        return None
    data = raw[_HEADER_BYTES:]
    return data + data, head, tail


def _chain(data: bytes, offset: int, position: int, head: int, tail: int, number: int) -> list[bytes]:
    """The records from `offset` on, which is `position` of the ring, as far as all is right."""
    reader, taken, starts, first = ViewReader(), [], set(), position
    stop = offset + head - position
    while offset < stop:
        views, used = reader.read(data, offset, stop, position)
        for view in views:
            if not _follows(view, number):
                used = 0
                break
            at = offset + view.offset - position
            taken.append(data[at : at + view.length])
            starts.add(view.offset)
            number += 1
        if used == 0 or not views:
            break
        offset, position = offset + used, position + used
    passes_tail = taken and first < tail < max(starts) + len(taken[-1])
    return taken if not passes_tail or tail in starts else []


def _follows(view: View, number: int) -> bool:
    return view.number == number and view.kind != _CHECKPOINT
