"""Keeps the last values of a journal in a cache: reads what is new, writes what changed, survives the cache.

    journal -- Follower --> LastValues -- at most every 100 ms, one mset --> Cache
                                 '------- once a second: the writer's key, read and written again

The cache may be away for long: nothing is queued, the newest value of each market waits in LastValues, and is written
when it is back. It may come back empty, or with what it held a while ago: the writer's key is then not what was
written last, and every market is written again. What the cache holds from an earlier run is taken over first
(`LastValues.carry`), so a restart forgets no last trade.

Not for: signals, sleeping, options (`__main__`, `ssmd last`). Each method does a bounded piece of work.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from ssmd.errors import MiddlewareError, SsmdError, StorageError
from ssmd.journal.manifest import stored
from ssmd.journal.paths import Segment, State, find
from ssmd.journal.reader import Batch, Damage, SegmentReader
from ssmd.lastvalues import LastValues, read_value
from ssmd.middleware import names
from ssmd.middleware.interfaces import Cache, Start
from ssmd.native.latest import Sync
from ssmd.native.walk import KIND_BITS, Filter, ViewReader
from ssmd.records import ConnectionWhat
from ssmd.report import Report
from ssmd.steps import Ages

WRITE_EVERY_S: Final = 0.1
BEAT_EVERY_S: Final = 1.0
TEND_EVERY_S: Final = 30.0
REWRITE_EVERY_S: Final = 5.0  # not sooner again: two writers of one journal must not drive each other
MARKETS_A_WRITE: Final = 2000
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 2.0

# How far back a start reads: all of the run that writes the journal, since its sockets brought the snapshots of the
# books; then a little of those before it, for trades of quiet markets; but never more than the limit.
HISTORY_BYTES: Final = 128 << 20
LIMIT_BYTES: Final = 16 << 30


# ---- where to begin --------------------------------------------------------------------------------------------------


def begin(root: Path, *, history_bytes: int = HISTORY_BYTES, limit_bytes: int = LIMIT_BYTES) -> Start:
    """Where in the journal at `root` to begin to read, by whole segments."""
    segments = find([root], must_exist=False)
    return begin_in(segments, history_bytes=history_bytes, limit_bytes=limit_bytes)


def begin_in(
    segments: Sequence[Segment], *, history_bytes: int = HISTORY_BYTES, limit_bytes: int = LIMIT_BYTES
) -> Start:
    """The same for a journal of these segments, wherever they are."""
    first, read, started = 0, 0, False
    for segment in reversed(segments):
        if read >= (history_bytes if started else limit_bytes):
            return Start.number(first)
        first = segment.first_number
        size, starts = _starts(segment)
        read, started = read + size, started or starts
    return Start.beginning()


def _starts(segment: Segment) -> tuple[int, bool]:
    """Bytes of a segment that can be read, and whether a run of the recorder begins in it.

    A manifest that counts no events of connections saves the reading.
    """
    with contextlib.suppress(SsmdError, OSError):
        manifest = stored(segment) or {}
        kinds, size = manifest.get("by_kind"), manifest.get("bytes")
        if isinstance(kinds, dict) and isinstance(size, int) and "connection" not in kinds:
            return size, False
    views = ViewReader(Filter(kinds=KIND_BITS["connection"]))
    size, starts = 0, False
    try:
        reader = SegmentReader(segment, live=segment.state == State.OPEN)
    except StorageError:  # removed or unreadable: whoever reads it next will say so
        return 0, False
    try:
        while (batch := reader.poll()) is not None:
            size += batch.stop - batch.start
            starts = starts or any(view.sub == ConnectionWhat.STARTED for view in _views(views, batch))
    finally:
        reader.close()
    return size, starts


def _views(views: ViewReader, batch: Batch) -> Iterator[Any]:
    at, offset = batch.start, batch.offset
    while at < batch.stop:
        found, used = views.read(batch.data, at, batch.stop, offset)
        if not used:
            return
        yield from found
        at, offset = at + used, offset + used


# ---- the service -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where time comes from: UTC ns, seconds that never jump, and a number from 0 to 1 for jitter."""

    now_ns: Callable[[], int]
    seconds: Callable[[], float]
    chance: Callable[[], float] = random.random


class Batches(Protocol):
    """What is read: a Follower, or what an archive holds now."""

    @property
    def damage(self) -> list[Damage]:
        """What was found so far."""

    def batches(self) -> Iterator[tuple[Segment, Batch]]:
        """All that can be read now and was not given yet."""

    def close(self) -> None: ...


class Service:
    """Reads with `read`, writes with `write`; `report` says how it is. One thread."""

    def __init__(
        self,
        values: LastValues,
        follower: Batches,
        cache: Cache,
        clocks: Clocks,
        *,
        journal: str | None,
        ttl_s: float,
    ) -> None:
        self.values = values
        self.caught_up = False  # all that there was at the start is read
        self.trouble: str | None = None
        self.counters = {"writes": 0, "markets": 0, "bytes": 0, "retries": 0, "rewrites": 0}
        self._follower, self._cache, self._clocks, self._ttl_s = follower, cache, clocks, ttl_s
        self._ages = Ages(clocks.now_ns(), round(clocks.seconds() * 1e9))
        self._batches: Iterator[tuple[Segment, Batch]] | None = None
        self._damages = self._damage_told = 0
        self._run = secrets.token_hex(6)
        self._writer_key = names.writer_key(values.feed, journal or "")
        self._journal = journal
        self._written_number = 0  # everything up to here is in the cache
        self._carried = False
        self._left: list[str] = []  # keys of before, under another shard: the values move
        self._beat = b""  # what the writer's key should hold
        self._beat_at = self._tended_at = self._write_at = clocks.seconds()
        self._rewritten_at = float("-inf")
        self._failures = 0

    # ---- reading ---------------------------------------------------------------------------------------------------

    def read(self) -> bool:
        """Takes in one batch of the journal. False: there is none now."""
        if self._batches is None:
            self._batches = self._follower.batches()
        found = next(self._batches, None)
        if len(self._follower.damage) > self._damages:
            self._damages = len(self._follower.damage)
            self.values.doubt(Sync.DAMAGE)
        if found is None:
            self._batches, self.caught_up = None, True
            return False
        batch = found[1]
        self.values.add(batch.data, batch.start, batch.stop, batch.offset)
        return True

    # ---- writing ---------------------------------------------------------------------------------------------------

    def write(self, *, now: bool = False) -> bool:
        """Writes what changed, if it is time to. False: something is left, for whatever reason.

        `now`: in any case, and all of it if the cache has lost it (the last write before an end).

        Before all is read that there was at the start nothing is written: it would be old values.
        """
        seconds = self._clocks.seconds()
        if not self.caught_up or (seconds < self._write_at and not now):
            return not self.values.waiting
        try:
            self._exchange(seconds, now=now)
        except MiddlewareError as error:
            self._failed(error, seconds)
            return False
        self._failures, self.trouble = 0, None
        self._write_at = seconds + WRITE_EVERY_S
        return True

    def _exchange(self, seconds: float, *, now: bool) -> None:
        if not self._carried:
            self._carry()
        beats = now or seconds >= self._beat_at
        if beats or self._failures:
            self._check_beat(seconds, now=now)
        if seconds >= self._tended_at:
            self._tended_at = seconds + min(TEND_EVERY_S, self._ttl_s / 4)
            self.values.tend(self._clocks.now_ns(), int(self._ttl_s * 1e9))
        while changes := self.values.changes(MARKETS_A_WRITE):
            self._cache.mset({change.key: change.value for change in changes}, ttl_s=self._ttl_s)
            self.values.done(changes, self._clocks.now_ns())
            self.counters["writes"] += 1
            self.counters["markets"] += len(changes)
            self.counters["bytes"] += sum(len(change.value) for change in changes)
        self._written_number = self.values.number
        while self._left:
            self._cache.delete(self._left[-1])
            self._left.pop()
        if beats:
            self._beat_at = seconds + BEAT_EVERY_S
            self._write_beat()

    def _carry(self) -> None:
        """What the cache holds of this journal from before."""
        keys = list(self._cache.scan(names.last_value_key(self.values.feed, "")))
        for i in range(0, len(keys), MARKETS_A_WRITE):
            some = keys[i : i + MARKETS_A_WRITE]
            found = {
                key: value
                for key, said in zip(some, self._cache.mget(some), strict=True)
                if (value := read_value(said))
            }
            self.values.carry(found.values())
            self._left += [
                key for key, value in found.items() if self.values.owns(value) and not self._is_key(key, value)
            ]
        self._carried = True

    def _is_key(self, key: str, value: Mapping[str, Any]) -> bool:
        """Whether a value is where it is kept now: the environment's shard may be another than it was."""
        return key == names.last_value_key(self.values.feed, str(value["market"]), self.values.shard)

    def _check_beat(self, seconds: float, *, now: bool) -> None:
        """Is the writer's key as we left it? If not, the cache was emptied, or is as it was some time ago."""
        if not self._beat and not self.counters["writes"]:
            return  # nothing was written yet
        if self._cache.get(self._writer_key) == self._beat:
            return
        if now or seconds - self._rewritten_at >= REWRITE_EVERY_S:
            self._rewritten_at = seconds
            self.counters["rewrites"] += 1
            self.values.again()

    def _write_beat(self) -> None:
        beat = {
            "journal": self._journal,
            "shard": self.values.shard,
            "run": self._run,
            "number": self._written_number,
            "recv_ns": self.values.recv_ns,
            "written_ns": self._clocks.now_ns(),
            "markets": len(self.values),
        }
        value = json.dumps(beat).encode()
        self._cache.set(self._writer_key, value, ttl_s=self._ttl_s)
        self._beat = value

    def _failed(self, error: MiddlewareError, seconds: float) -> None:
        self._failures += 1
        self.counters["retries"] += 1
        wait_s = min(RETRY_MIN_S * 2 ** min(self._failures - 1, 16), RETRY_MAX_S)
        self._write_at = self._clocks.seconds() + wait_s * (0.5 + self._clocks.chance() / 2)
        self.trouble = f"{error.args[0]}: the newest values of {self.values.waiting} markets wait"

    # ---- how it is -------------------------------------------------------------------------------------------------

    def report(self, end: int = 0) -> Report:
        """`end`: a later record is known to be there."""
        values, waiting_ns = self.values, self.values.waiting_ns
        if not self.caught_up:
            waiting_ns = values.recv_ns
        elif not values.waiting:
            self._written_number = values.number
        age_ns = self._ages.age_ns(waiting_ns, self._clocks.now_ns(), round(self._clocks.seconds() * 1e9))
        lag_s = age_ns / 1e9 if waiting_ns else 0.0
        trouble = self.trouble and f"{self.trouble}, the oldest for {lag_s:.0f} s"
        end = max(end, values.number)
        return Report("lastvalues", self._written_number, end, round(lag_s, 3), trouble, dict(self.counters))

    def damage(self) -> list[Damage]:
        """What was found since the last call."""
        found, self._damage_told = self._follower.damage[self._damage_told :], len(self._follower.damage)
        return found

    def close(self) -> None:
        """The follower only: the cache is its maker's."""
        self._follower.close()
