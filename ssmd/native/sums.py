"""Records in sums (csrc/sums.h): how many there are and what they hold, per block of numbers.

For: comparing copies (`ssmd.against`). The key is drawn anew by each process: sums of two processes do not compare.
Invariant: whatever the bytes are, the answer is sums of whole records or a ValueError.
"""

from __future__ import annotations

import secrets
import struct
from typing import NamedTuple

from ssmd._native import ffi, lib
from ssmd.native.failure import DAMAGED, MORE
from ssmd.native.walk import Buffer

_KEY = (secrets.randbits(64), secrets.randbits(64))
_ROWS_A_CALL = 256
_ROW = struct.Struct("<QQQQQ")
if _ROW.size != ffi.sizeof("ssmd_sum"):
    raise ImportError("ssmd_sum of the C library has another layout: build it again (make)")


class Sum(NamedTuple):
    """Of records of one block that follow each other: `struct ssmd_sum`."""

    block: int
    records: int
    total: int  # of their digests; compare it modulo 2**64
    lowest: int  # number
    highest: int


def digest(raw: Buffer) -> int:
    """What one record adds to a sum."""
    return int(lib.ssmd_digest(*_KEY, ffi.from_buffer(raw), len(raw)))


class Sums:
    """Sums up rows of bytes; keeps its arrays for all calls. One thread."""

    __slots__ = ("_block_numbers", "_counts", "_rows", "checkpoints")

    def __init__(self, block_numbers: int) -> None:
        self._block_numbers = block_numbers
        self._rows = ffi.new("ssmd_sum[]", _ROWS_A_CALL)
        self._counts = ffi.new("uint64_t[3]")  # rows, bytes, checkpoints
        self.checkpoints = 0  # passed over by the last call

    def of(self, data: Buffer) -> list[Sum]:
        """A sum for each run of records of one block. ValueError where no whole record begins."""
        found: list[Sum] = []
        start, status, counts = 0, MORE, self._counts
        self.checkpoints = 0
        with ffi.from_buffer("uint8_t[]", data) as pointer:
            while status == MORE:
                left = len(data) - start
                status = lib.ssmd_sums_read(
                    *_KEY,
                    pointer + start,
                    left,
                    self._block_numbers,
                    self._rows,
                    _ROWS_A_CALL,
                    counts,
                    counts + 1,
                    counts + 2,
                )
                found += map(Sum._make, _ROW.iter_unpack(ffi.buffer(self._rows, counts[0] * _ROW.size)))
                start += int(counts[1])
                self.checkpoints += int(counts[2])
        if status == DAMAGED:
            raise ValueError(f"no record begins at {start} of {len(data)} bytes")
        return found
