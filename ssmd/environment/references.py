"""What a reference to a secret means: `env:A,B` and `file:PATH`. Who reads variables and files is an argument."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

from ssmd.errors import UsageError

FORBIDDEN_MODE: Final = 0o077  # permission bits that the file of a secret may not have


def resolve_secret(
    source: str, *, variable: Callable[[str], str | None], read: Callable[[str], tuple[str, int]]
) -> str | None:
    """The secret that `source` refers to, or None if no variable that it names is set.

    `env:A,B`: the first of the variables that is set and not empty. A variable whose name ends in _PATH holds the path
    of a file with the secret. `file:PATH`: that file. `read` gives a file's text and permission bits; a file that
    others may read is refused. Errors name variables and files, never what they hold.
    """
    kind, _, rest = source.partition(":")
    if kind == "file":
        return _read_secret(rest, read)
    for name in rest.split(","):
        value = variable(name)
        if value:
            return _read_secret(value, read) if name.endswith("_PATH") else value
    return None


def _read_secret(path: str, read: Callable[[str], tuple[str, int]]) -> str:
    text, mode = read(path)
    if mode & FORBIDDEN_MODE:
        raise UsageError(
            f"{path}: others may read this secret (mode {mode & 0o777:o})", hint=f"run: chmod 600 {shlex.quote(path)}"
        )
    if not text.strip():
        raise UsageError(f"{path}: the file of a secret is empty")
    return text
