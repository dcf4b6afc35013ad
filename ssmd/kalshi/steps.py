"""Notices when the system's clock is set forward or back. Pure: both clocks are arguments.

Its distance from the monotonic clock, which never is, changes by a jump then. NTP mostly slews, by half a millisecond
a second at most; it steps after a boot, or when somebody asks it to.
"""

from __future__ import annotations

STEP_NS = 500_000_000  # less at once does no harm to whatever is waited for


class Steps:
    """Asked often: what the clock drifted between two looks is no step."""

    def __init__(self, now_ns: int, monotonic_ns: int) -> None:
        self._apart_ns = now_ns - monotonic_ns

    def look(self, now_ns: int, monotonic_ns: int) -> int:
        """By how much it was stepped since the last look, 0 = it was not."""
        before, self._apart_ns = self._apart_ns, now_ns - monotonic_ns
        step_ns = self._apart_ns - before
        return step_ns if abs(step_ns) >= STEP_NS else 0
