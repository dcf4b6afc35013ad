"""`ssmd last` without Redis: the values of journals, here or in an archive, read into a cache of this very process."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssmd.cli.last import NOT_RECORDING_AFTER_S, Source, Value, show_age
from ssmd.journal.follow import Follower
from ssmd.journal.identity import archived_identity, feed_of, known_identity
from ssmd.journal.paths import Segment
from ssmd.journal.reader import Batch, Damage, Reader
from ssmd.lastvalues import LastValues
from ssmd.lastvalues.service import Clocks, Service, begin, begin_in
from ssmd.middleware.interfaces import Cache


class Once:
    """The segments of a journal in an archive, from where they matter, in place of a Follower: nothing is added."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        start = begin_in(segments)
        self._left = [segment for segment in segments if segment.first_number >= start.value]
        self._reader = Reader(self._left)

    @property
    def damage(self) -> list[Damage]:
        return self._reader.damage

    def batches(self) -> Iterator[tuple[Segment, Batch]]:
        while self._left:
            segment = self._left.pop(0)
            for batch in self._reader.batches(segment):
                yield segment, batch

    def close(self) -> None:
        """Nothing is open."""


class Replay(Source):
    """Values of a cache that is filled from the journals among some segments, by this very process."""

    def __init__(
        self, cache: Cache, feed: str, place: str, segments: Sequence[Segment], *, only_feed: bool, max_markets: int
    ) -> None:
        super().__init__(cache, feed, place)
        self._max_markets = max_markets
        roots = sorted({segment.journal for segment in segments})
        if not only_feed and roots and all(feed_of(root) != feed for root in roots):
            self.feed = feed_of(roots[0])  # a folder of another name holds it
        ours = [root for root in roots if feed_of(root) == self.feed]
        self._services = [
            self._service(root, [s for s in segments if s.journal == root], str(i) if len(ours) > 1 else None)
            for i, root in enumerate(ours)
        ]

    def _service(self, root: Path, segments: Sequence[Segment], shard: str | None) -> Service:
        archived = any(segment.stored is not None for segment in segments)
        journal = (None if archived else known_identity(root)) or archived_identity(root)
        values = LastValues(self.feed, journal=journal, shard=shard, max_markets=self._max_markets)
        clocks = Clocks(time.time_ns, time.monotonic)
        follower = Once(segments) if archived else Follower([root], start=begin(root))
        # A cache of our own forgets nothing by time: a journal of last year has last values, too.
        return Service(values, follower, self.cache, clocks, journal=journal, ttl_s=100 * 365 * 86_400.0)

    def read(self, markets: Sequence[str]) -> list[Value]:
        for service in self._services:
            while service.read():
                pass
            service.write(now=True)
            for line in service.damage():
                print(f"ssmd last: damage: {line}", file=sys.stderr)
        return super().read(markets)

    def silence(self, value: Value) -> str | None:
        silent_s = (time.time_ns() - max(service.values.recv_ns for service in self._services)) / 1e9
        return f"nothing was recorded for {show_age(silent_s)}" if silent_s > NOT_RECORDING_AFTER_S else None

    def nothing(self) -> str:
        if not self._services:
            return (
                f"there is no journal of the feed {self.feed} under {self.place}\n"
                "  record one with `ssmd run`, or give its folder: --data DIR"
            )
        return f"the journal of {self.feed} under {self.place} holds nothing about a market yet"

    def close(self) -> None:
        for service in self._services:
            service.close()
        super().close()
