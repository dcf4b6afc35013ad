"""Stamps and names at the price of nanoseconds: CPU ticks, their UTC, and strings as small numbers.

The interner is one of the whole process: an id stays good until it ends, and means nothing outside of it. Any thread
may call these functions. At most a million names of at most 256 bytes.
"""

from __future__ import annotations

from ssmd.native.clock import now_tsc, ticks_to_ns
from ssmd.native.names import intern, resolve

__all__ = ["intern", "now_tsc", "resolve", "ticks_to_ns"]
