"""What a helper process writes for people: JSON lines on standard error, in the form of `ssmd run`'s own log.

    {"part": "publisher", "event": "publishing again", "level": "info", "timestamp": "…T21:56:42.123456Z"}

`ssmd run` reads them and puts them into its log; by hand they are the log. A field that is None is left out. Each line
is one write, for several threads may write. Reports are another matter (ssmd/report.py); they go through `tell` too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

Say = Callable[..., None]  # say(event, level="info", **fields)


def sayer(part: str) -> Say:
    """The log of the helper of this name."""

    def say(event: str, *, level: str = "info", **fields: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        told = {name: value for name, value in fields.items() if value is not None}
        tell(json.dumps({"part": part, **told, "event": event, "level": level, "timestamp": now}))

    return say


def tell(line: str) -> None:
    """To whoever started us; a pipe that nobody reads any more is no reason to miss the signal that comes with it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
