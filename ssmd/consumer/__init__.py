"""The consumer side: records of journals as they come, from files or from a bus, each once and in order.

`Tail` is what a program loops over; `FileTail` and `BusTail` are where records come from. Built by `ssmd.tail` (see
docs/tail.md) and by the command of the same name. Invariant: within one journal numbers only rise, and a number that is
left out is told.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from ssmd.consumer.bus import BusTail
from ssmd.consumer.files import FileTail
from ssmd.consumer.record import TailRecord, Wanted
from ssmd.errors import SsmdError, UnavailableError

__all__ = ["BusTail", "FileTail", "Tail", "TailRecord", "Wanted"]

_NAPS_S = (0.001, 0.005, 0.02, 0.05, 0.1)
_WAIT_S = 0.25  # longest wait in one piece: `close` from a signal handler is seen after it


class Tail:
    """Records, one after the other, without an end: loop over it, or ask `next`. One thread; close it, or use `with`.

    What goes wrong on the way is an SsmdError: LaggedError (records are missing for good), DamageError (stored bytes
    do not check out), UnavailableError (the bus is away; goes on by itself). `on_trouble` is called with each, and
    reading goes on. Without it, the first two are raised, once each in their place, and the next call goes on behind
    them; the third is a warning in the log.
    """

    def __init__(self, source: FileTail | BusTail, *, on_trouble: Callable[[SsmdError], None] | None = None) -> None:
        self._source = source
        self._on_trouble = on_trouble
        self._ready: deque[TailRecord | SsmdError] = deque()
        self._closed = self._working = False

    def next(self, timeout_s: float | None = None) -> TailRecord | None:
        """The next record; None when none came in time, or it was closed. No timeout: waits for ever."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        naps = 0
        while not self._closed:
            while self._ready:
                given = self._ready.popleft()
                if isinstance(given, TailRecord):
                    return given
                self._tell(given)
            left_s = _WAIT_S if deadline is None else min(_WAIT_S, deadline - time.monotonic())
            self._work(max(left_s, 0.0), naps)
            naps = 0 if self._ready or self._source.moved else naps + 1
            if not self._ready and left_s <= 0:
                return None
        return None

    def _work(self, wait_s: float, naps: int) -> None:
        self._working = True
        try:
            self._ready.extend(self._step(wait_s, naps))
        finally:
            self._working = False
            if self._closed:
                self._source.close()

    def _step(self, wait_s: float, naps: int) -> Iterable[TailRecord | SsmdError]:
        if isinstance(self._source, BusTail):
            return self._source.step(wait_s)
        if naps:
            time.sleep(min(_NAPS_S[min(naps, len(_NAPS_S)) - 1], wait_s))
        return self._source.step()

    def _tell(self, trouble: SsmdError) -> None:
        if self._on_trouble is not None:
            self._on_trouble(trouble)
        elif isinstance(trouble, UnavailableError):
            logging.getLogger("ssmd.tail").warning("%s: waiting for it", trouble)
        else:
            raise trouble

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TailRecord:
        record = self.next()
        if record is None:
            raise StopIteration
        return record

    def close(self) -> None:
        """Ends the loop, also from a signal handler or another thread. Twice does no harm."""
        if not self._closed:
            self._closed = True
            if not self._working:
                self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
