"""Records in a row of bytes, taken apart by their lengths: what a batch of a segment holds, or a message of a bus.

For: whoever compares or copies records by their bytes. Not for: judging them; of a record's checks only that of its
framing is made here. Invariant: whatever the bytes are, the answer is whole records or a ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

# Segments of the message less one, words, number, kind: where csrc/ssmd.h puts them.
_HEAD: Final = struct.Struct("<II8xQ48xH")

CHECKPOINT: Final = 10  # the one kind without a number of its own

Found = tuple[int, int, bytes]  # number, kind, the record's bytes


def records_in(data: bytes) -> Iterator[Found]:
    """The records of `data`. ValueError where no whole record begins."""
    at, stop = 0, len(data)
    read, least = _HEAD.unpack_from, _HEAD.size
    while at < stop:
        if stop - at < least:
            raise ValueError(f"{stop - at} bytes at {at} are no record")
        others, words, number, kind = read(data, at)
        end = at + 8 + 8 * words
        if others or end > stop or end - at < least:
            raise ValueError(f"no whole record begins at {at}")
        yield number, kind, data[at:end]
        at = end


def numbered_in(data: bytes) -> Iterator[Found]:
    """Those that have a number: all but checkpoints."""
    return (found for found in records_in(data) if found[1] != CHECKPOINT)
