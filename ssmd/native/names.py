"""Names as small numbers: the interner of the process (csrc/intern.h)."""

from __future__ import annotations

from ssmd._native import ffi, lib


def intern(name: str) -> int:
    """The id of a name: 1, 2, 3 ... in the order of first sight. Raises ValueError where it cannot have one."""
    encoded = name.encode()
    name_id = int(lib.ssmd_intern(lib.ssmd_interner_of_process(), encoded, len(encoded)))
    if name_id == 0:
        raise ValueError(f"no id for a name of {len(encoded)} bytes: it must have 1 to 256, and there is an end to ids")
    return name_id


def resolve(name_id: int) -> str:
    """The name of an id. Raises KeyError for one that was never given."""
    n = ffi.new("size_t *")
    at = lib.ssmd_resolve(lib.ssmd_interner_of_process(), name_id, n) if 0 < name_id < 2**32 else ffi.NULL
    if at == ffi.NULL:
        raise KeyError(name_id)
    return bytes(ffi.buffer(at, n[0])).decode()
