"""ssmd: a market-data recorder. Nothing lost, and every hole recorded.

For other programs: `ssmd.tail` (docs/tail.md). It is imported when it is asked for: commands must start fast.
"""

import importlib

__version__ = "0.1.0"

_OFFERED = ("Start", "Tail", "TailRecord", "tail")  # of ssmd.api; __init__.pyi says the same to type checkers


def __getattr__(name: str) -> object:
    if name in _OFFERED:
        return getattr(importlib.import_module("ssmd.api"), name)
    raise AttributeError(f"module 'ssmd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])
