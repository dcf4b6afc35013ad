"""What a Cache takes, judged in one place for every implementation: keys, values, times to live.

The limits are those of `ssmd.middleware.interfaces.Cache`. What is outside of them never reaches a service, so that it
fails in the same way everywhere.
"""

from __future__ import annotations

from ssmd.errors import LimitError

KEY_LIMIT_BYTES = 512
VALUE_LIMIT_BYTES = 1 << 20
TTL_LIMIT_S = 100 * 365 * 86_400.0  # a hundred years, so that no clock overflows


def checked_key(key: str) -> bytes:
    """The key as bytes."""
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise LimitError(f"the cache key {key[:64]!r} is no UTF-8 text", evidence=str(error)) from None
    if not 1 <= len(encoded) <= KEY_LIMIT_BYTES:
        raise LimitError(f"a cache key has 1 to {KEY_LIMIT_BYTES} bytes, this one {len(encoded)}: {key[:64]!r}")
    return encoded


def checked_value(key: str, value: bytes) -> bytes:
    """The value itself."""
    if len(value) > VALUE_LIMIT_BYTES:
        raise LimitError(f"the value of {key[:64]!r} has {len(value)} bytes; a cache takes {VALUE_LIMIT_BYTES}")
    return value


def checked_ttl(ttl_s: float | None) -> float | None:
    """The time to live itself: more than nothing, or None."""
    if ttl_s is not None and not 0 < ttl_s <= TTL_LIMIT_S:
        raise LimitError(f"a time to live is more than 0 and at most {TTL_LIMIT_S:.0f} s, not {ttl_s}")
    return ttl_s
