"""Notices when the system's clock is set forward or back. Pure: both clocks are arguments.

Its distance from the monotonic clock, which never is, changes by a jump then. NTP mostly slews, by half a millisecond
a second at most; it steps after a boot, or when somebody asks it to.
"""

from __future__ import annotations

from collections import deque

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


class Ages:
    """How old stamps of the system's clock are, though it was stepped after they were made.

    Without this an hour's step forward makes whatever waits an hour late at once, and hides a lag after a step back.

        stamped ... step of +1 h ... now: their difference is one hour too much

    Steps from before the first look are not known of.
    """

    _REMEMBERED = 16

    def __init__(self, now_ns: int, monotonic_ns: int) -> None:
        self._steps = Steps(now_ns, monotonic_ns)
        self._looked_ns = monotonic_ns
        self._known: deque[tuple[int, int]] = deque(maxlen=self._REMEMBERED)  # last look before it, by how much

    def age_ns(self, stamp_ns: int, now_ns: int, monotonic_ns: int) -> int:
        """Time since `stamp_ns`, never negative. `now_ns` and `monotonic_ns` are now, by either clock."""
        step_ns = self._steps.look(now_ns, monotonic_ns)
        if step_ns:
            self._known.append((self._looked_ns, step_ns))
        self._looked_ns = monotonic_ns
        age_ns = now_ns - stamp_ns
        for since_ns, by_ns in reversed(self._known):
            if 0 <= age_ns <= monotonic_ns - since_ns:
                return age_ns  # made after this step
            age_ns -= by_ns
        return max(age_ns, 0)
