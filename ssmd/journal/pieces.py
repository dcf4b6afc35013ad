"""Records of a segment that comes in pieces from elsewhere (an object of a store), without holding it whole.

For: whoever compares or copies records by their bytes. Not for: judging them; of all checks of a segment only the
framing is looked at here. Invariant: whatever the bytes are, the answer is whole records or a ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

import zstandard

# Segments of the message less one, words, number, kind: where csrc/ssmd.h puts them.
_HEAD: Final = struct.Struct("<II8xQ48xH")
LARGEST_BYTES: Final = 256 << 20  # of a record: SSMD_RECORD_LIMIT of csrc/walk.h

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


def records_of(pieces: Iterable[bytes]) -> Iterator[Found]:
    """The records of a segment's bytes that come in pieces, whatever their sizes."""
    rest = b""
    for piece in pieces:
        rest = rest + piece if rest else piece
        whole = _whole(rest)
        if whole:
            yield from records_in(rest[:whole])
            rest = rest[whole:]
    if rest:
        raise ValueError(f"it ends with {len(rest)} bytes that are no whole record")


def _whole(data: bytes) -> int:
    """Length of the whole records that data begins with."""
    at, stop, least = 0, len(data), _HEAD.size
    while stop - at >= least:
        others, words, _, _ = _HEAD.unpack_from(data, at)
        size = 8 + 8 * words
        if others or not least <= size <= LARGEST_BYTES:
            raise ValueError(f"no record begins {at} bytes into a piece")
        if at + size > stop:
            break
        at += size
    return at


def decompressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a zstd file that comes in pieces. ValueError where they are damaged or cut off."""
    context = zstandard.ZstdDecompressor()
    frame = context.decompressobj()
    begun = False
    try:
        for piece in pieces:
            while piece:
                begun = True
                yield frame.decompress(piece)
                piece = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame, begun = context.decompressobj(), False
    except zstandard.ZstdError as error:
        raise ValueError(f"does not decompress: {error}") from error
    if begun:
        raise ValueError("is cut off")
