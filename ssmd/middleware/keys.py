"""Keys of objects: which ones there can be. Pure; every Storage asks here before it touches anything.

A key is 1 to 1,024 bytes of UTF-8 (the limit of S3): names joined by '/'. A name that is empty, '.' or '..', or has a
control character in it, could mean another place, or none, to a file system, a URL or a terminal: it is refused. The
name `.ssmd` is our own (parts on their way, the probe of `check`): no key has it, and no listing shows it.
"""

from __future__ import annotations

import unicodedata

from ssmd.errors import LimitError, MiddlewareError, RejectedError

MAX_KEY_BYTES = 1024
OWN = ".ssmd"
_REFUSED = frozenset({"", ".", "..", OWN})


def checked_key(key: str) -> str:
    """The key as it is. RejectedError for one that is none, LimitError for one that is too long."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise RejectedError(f"{key!a} is no key of an object: it is no text", hint=_HINT) from None
    if size > MAX_KEY_BYTES:
        raise LimitError(f"a key of {size} bytes is too long: {key[:40]!a}...", hint=f"at most {MAX_KEY_BYTES} bytes")
    if not _REFUSED.isdisjoint(key.split("/")):
        raise RejectedError(f"{key!a} is no key of an object", hint=_HINT)
    if any(unicodedata.category(character) == "Cc" for character in key):
        raise RejectedError(f"{key!a} is no key of an object: it has control characters", hint=_HINT)
    return key


_HINT = f"a key is names joined by '/', none of them empty, '.', '..' or '{OWN}'"


def folder_of(prefix: str) -> str | None:
    """The whole names that a prefix begins with, joined; '' = none, None = no key begins like that."""
    folder = prefix.rpartition("/")[0]
    if not folder:
        return None if prefix.startswith("/") else ""
    try:
        return checked_key(folder)
    except MiddlewareError:
        return None


def is_listed(key: str) -> bool:
    """Whether listings show it: neither our own, nor another's that is no key."""
    try:
        checked_key(key)
    except MiddlewareError:
        return False
    return True
