"""A rehearsal: everything behind the journal, done for real and in memory, compared, and forgotten.

`storage.type: memory` makes a run one. The journal is recorded as ever, into a folder of its own; one helper process
does with it what publisher, archiver and lastvalues do elsewhere, by their own code, over the memory implementations:

    segment files ──> Publisher ──> Transport ──┬──> Meter: how large is all that
      │  │  │                                   └──> BusTail, a consumer ──> Journal ─┐
      │  │  └───────> archiver.Service ──> Storage ─────────────────┐                 │
      │  └──────────> lastvalues.Service ──> Cache                  │ compare         │ compare
      └─────────────────────────────────────────────────────────────┴─────────────────┘

The stream and the consumer's journal are compared up to the record that the publisher says is published, then both
forget it; a segment with its object when that is uploaded, then the object is deleted. So what is held is what was not
compared yet: `held` counts it. One thread steps all of it, one thing after the other; `finish` is for the end, when the
recorder has sealed its last segment.

What stood in memory died with its process: a helper that is started anew copies again whatever the folder still has.

Not for: making the implementations, the loop, signals (`__main__`), sentences about a day (`needs`).
Invariant: a record counts as compared only when every copy that should hold it was read back and its bytes were equal;
a difference is never taken back.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from ssmd import archiver
from ssmd.against import Outcome, compare
from ssmd.archiver.service import Destination
from ssmd.archiver.service import Service as ArchiverService
from ssmd.archiver.upload import Mark, read_mark
from ssmd.consumer import BusTail, Wanted
from ssmd.copies import Objects, Source, Stream
from ssmd.environment import Environment
from ssmd.errors import SsmdError
from ssmd.journal import manifest
from ssmd.journal.archived import CURSOR as ARCHIVER_CURSOR
from ssmd.journal.follow import Follower
from ssmd.journal.listing import Listing
from ssmd.journal.paths import ARCHIVED, COMPRESSED, MANIFEST, SEALED, Segment
from ssmd.journal.pieces import Found, numbered_in
from ssmd.journal.reader import Reader
from ssmd.lastvalues import LastValues
from ssmd.lastvalues.service import Clocks
from ssmd.lastvalues.service import Service as LastValuesService
from ssmd.middleware.interfaces import Cache, Forgetful, Journal, Start, Storage, Transport
from ssmd.publisher import Options, Publisher
from ssmd.publisher.cursor import Target
from ssmd.publisher.cursor import path_of as cursor_path
from ssmd.rehearsal.copies import FORMS, Consumer, Kept, Meter, cache_contents, differences
from ssmd.report import Report

PLACE: Final = "memory"  # where copies are, as cursors and marks name it
SCRATCH_NOTE: Final = "THIS-IS-A-REHEARSAL"  # in a data folder that goes with the run
LOOK_EVERY_S: Final = 1.0  # at sealed segments
PATIENCE_S: Final = 3.0  # for the consumer: then what it has counts
LAST_PATIENCE_S: Final = 0.7  # the same when all must end
READ_BYTES: Final = 1 << 20
IDLE_S: Final = 0.05
TOLD: Final = 3  # differences that stay told in words; the others are counted, and stand in the log

Log = Callable[..., None]  # log(event, level="info", **fields)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the factory made of the environment."""

    bus: Transport
    storage: Storage
    cache: Cache
    journal: Journal


class Rehearsal:
    """The rehearsal of one journal, whose recorder has made it. One thread; `root` is ours, and locked by the caller.

    `scratch`: segments that were compared are removed.
    """

    def __init__(
        self,
        environment: Environment,
        root: Path,
        journal: str,
        parts: Parts,
        *,
        scratch: bool,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        forget_notes(root)  # of an earlier process that was killed
        bus, section = environment.transport, environment.storage
        self._root, self._journal, self._parts, self._scratch, self._log = root, journal, parts, scratch, log
        self._environment, self._monotonic = environment, monotonic
        prefix = bus.subject_prefix
        options = Options(prefix, bus.publish, bus.batch_records, bus.durable_only)
        target = Target(journal, PLACE, bus.stream, prefix, bus.publish)
        self._publisher = Publisher(root, parts.bus, target, options, ring=environment.ring.path, log=log)
        self._meter = Meter(parts.bus, f"{prefix}.>")
        tail = BusTail(parts.bus, prefix, Start.beginning(), Wanted(), journal=journal)
        self._consumer = Consumer(tail, parts.journal, prefix=prefix, on_trouble=self._consumer_said)
        wanted = archiver.Options(compress=environment.flusher.compress)
        place = Destination(parts.storage, PLACE, section.prefix, environment.feed, None, lasting=False)
        self._archiver = ArchiverService(root, wanted, place)
        self._listing = Listing(root)
        self._last_values = self._service_of_last_values()
        self._follower = self._new_follower()
        self._pending: deque[Found] = deque()  # read from the files, not compared yet
        self._read_to = 0
        self._compared = 0  # in the stream and by the consumer
        self._due: int | None = None  # up to here the publisher has published, and nothing beyond was compared
        self._due_since_s = 0.0
        self._place = 1  # in the stream, of the first message that was not compared
        self._kept_from = 1  # in the consumer's journal
        self._patience_s = PATIENCE_S
        self._look_at_s = 0.0
        self._done: dict[Path, bool] = {}  # segment's folder and stem -> its object is the same; while it is here
        self._until_s = float("inf")  # no piece of work with a segment begins after it
        self._waits_from = 0  # the first record of a sealed segment that was not; 0 = none waits
        self._cached = (0, 0)
        self._published = 0  # records that were compared in the stream
        self._sizes = {"segments": 0, "uploaded": 0, "segment_bytes": 0, "plain_bytes": 0, "manifest_bytes": 0}
        self._differing = 0
        self._told: list[tuple[int, str]] = []

    def _new_follower(self) -> Follower:
        proved = self._environment.transport.durable_only
        return Follower([self._root], proved_only=proved, limit_bytes=READ_BYTES)

    def _service_of_last_values(self) -> LastValuesService:
        cache, feed = self._environment.cache, self._environment.feed
        values = LastValues(feed, journal=self._journal, max_markets=cache.max_size)
        clocks = Clocks(time.time_ns, self._monotonic)
        follower = Follower([self._root])
        return LastValuesService(values, follower, self._parts.cache, clocks, journal=self._journal, ttl_s=cache.ttl_s)

    # ---- working -----------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """A bounded piece of everything; gives how long to wait before the next, in seconds."""
        now_s = self._monotonic()
        worked = self._publish(now_s)
        self._meter.read()
        worked = self._consumer.step() or worked
        worked = self._read_files() or worked
        worked = self._compare_due(now_s) or worked
        worked = self._keep_last_values() or worked
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            self._look_at_segments()
        return 0.0 if worked else IDLE_S

    def finish(self, until_s: float) -> bool:
        """All that there is, as far as the time reaches; whether that was all. The recorder has ended."""
        self._patience_s, self._until_s = LAST_PATIENCE_S, until_s
        while not (complete := self._is_complete()) and self._in_time():
            if self.step():
                self._look_at_segments()
                time.sleep(IDLE_S / 10)
        while self._last_values.read() and self._in_time():
            pass
        self._last_values.write(now=True)
        self._look_at_segments()  # what waited for the last values to be read may go
        self._cached = cache_contents(self._parts.cache)
        self._publisher.finish()
        return complete

    def _is_complete(self) -> bool:
        """Every record of the files was compared in every copy that should hold it, or was found to differ."""
        report = self._publisher.report()
        published = self._publisher.idle and self._due is None and report.number >= report.end
        return published and self._compared >= report.end and not self._uncompared()

    def close(self) -> None:
        """Copies end with the process; what was noted of them goes now."""
        self._publisher.close()
        self._archiver.close()
        self._consumer.close()
        self._follower.close()
        self._last_values.close()
        forget_notes(self._root)

    # ---- the bus -----------------------------------------------------------------------------------------------------

    def _publish(self, now_s: float) -> bool:
        """One step of the publisher, unless what it published before is still to be compared."""
        if self._due is not None:
            return False
        self._publisher.step(now_s)
        number = self._publisher.report().number
        if number <= self._compared:
            return not self._publisher.idle
        self._due, self._due_since_s = number, now_s
        return True

    def _read_files(self) -> bool:
        """The records that the copies are compared with, as far as they are due."""
        if self._due is None or self._read_to >= self._due:
            return False
        for _, batch in self._follower.batches():
            found = numbered_in(batch.data[batch.start : batch.stop])
            self._pending.extend(record for record in found if record[0] > self._compared)
            self._read_to = max(self._read_to, batch.last_number)
        return True

    def _compare_due(self, now_s: float) -> bool:
        due = self._due
        if due is None or self._read_to < due:
            return False
        if self._consumer.received < due and now_s - self._due_since_s < self._patience_s:
            return False
        bus, prefix = self._parts.bus, self._environment.transport.subject_prefix
        span: list[Found] = []
        while self._pending and self._pending[0][0] <= due:
            span.append(self._pending.popleft())
        forms = FORMS[self._environment.transport.publish]
        copies: Sequence[Source] = (
            Stream("the stream", bus, prefix=prefix, journal=self._journal, limit=due, forms=forms, place=self._place),
            Kept(self._parts.journal, self._kept_from, journal=self._journal, limit=due),
        )
        self._published += len(span)
        records = b"".join(raw for _, _, raw in span)
        for outcome in compare(lambda: [records], copies, first=span[0][0] if span else due):
            self._judge(outcome)
        self._forget(due)
        return True

    def _forget(self, due: int) -> None:
        """What was compared is not needed any more, whatever it came to."""
        self._compared, self._due = due, None
        self._consumer.compared = due
        self._place = self._meter.places.behind(due)
        self._kept_from = self._consumer.places.behind(due)
        for part, before in ((self._parts.bus, self._place), (self._parts.journal, self._kept_from)):
            if isinstance(part, Forgetful):
                part.forget(before)

    def _consumer_said(self, trouble: SsmdError) -> None:
        """Records that did not come are named by the comparison; this is for who looks for the reason."""
        self._log("the consumer of the stream was told", level="warning", reason=str(trouble))

    # ---- last values -------------------------------------------------------------------------------------------------

    def _keep_last_values(self) -> bool:
        worked = self._last_values.read()
        self._last_values.write()
        return worked

    # ---- the store ---------------------------------------------------------------------------------------------------

    def _look_at_segments(self) -> None:
        """Has the archiver do its work, and compares what it did."""
        self._archiver.look(lambda step, segment: self._in_time())
        segments = self._sealed()
        for segment in segments:
            mark = None if _key(segment) in self._done else read_mark(segment, PLACE)
            if mark is not None and self._in_time():
                self._done[_key(segment)] = self._compare_object(segment, mark)
        if self._scratch:
            self._remove(segments)
        here = {_key(segment) for segment in segments}
        self._done = {key: same for key, same in self._done.items() if key in here}
        self._waits_from = next((s.first_number for s in segments if _key(s) not in self._done), 0)

    def _in_time(self) -> bool:
        return self._monotonic() < self._until_s

    def _sealed(self) -> list[Segment]:
        return [segment for segment in self._listing.segments() if segment.sealed]

    def _uncompared(self) -> list[Segment]:
        return [segment for segment in self._sealed() if _key(segment) not in self._done]

    def _compare_object(self, segment: Segment, mark: Mark) -> bool:
        """Whether the object holds what the segment does. An equal one is deleted."""
        storage, section = self._parts.storage, self._environment.storage
        objects = Objects(
            "the objects",
            storage,
            prefix=section.prefix,
            feed=self._environment.feed,
            journal=self._journal,
            limit=mark.last_number,
        )
        (outcome,) = compare(lambda: _records_of(segment), [objects], first=mark.first_number)
        self._sizes["segments"] += 1
        self._sizes["uploaded"] += mark.last_number - mark.first_number + 1 if mark.last_number else 0
        self._sizes["segment_bytes"] += mark.segment.size_bytes
        self._sizes["manifest_bytes"] += mark.manifest.size_bytes
        self._sizes["plain_bytes"] += int(manifest.read(manifest.path_of(segment)).get("bytes") or 0)
        same = self._judge(outcome)
        for copy in (mark.segment, mark.manifest):  # a differing one would be compared with the next segment again
            storage.delete(copy.key)
        return same

    def _remove(self, segments: Sequence[Segment]) -> None:
        """Segments that every copy agreed with, oldest first; never the newest: a flusher that starts anew needs it."""
        done_with = min(self._compared, self._last_values.values.number)
        for segment, after in pairwise(segments):
            if not self._done.get(_key(segment), False) or after.first_number - 1 > done_with:
                return
            for suffix in (SEALED, COMPRESSED, MANIFEST, ARCHIVED):
                segment.beside(suffix).unlink(missing_ok=True)

    # ---- telling -----------------------------------------------------------------------------------------------------

    def _judge(self, outcome: Outcome) -> bool:
        found = differences(outcome)
        for count, sentence in found:
            self._differing += count
            self._log("a copy differs", level="error", what=sentence)
        self._told += found[: TOLD - len(self._told)]
        return not found

    @property
    def held(self) -> dict[str, int]:
        """How much of it is in memory now: records of files, messages, entries, objects."""
        reader = self._parts.journal.reader(Start.beginning())
        entries = 0
        while reader.next() is not None:
            entries += 1
        reader.close()
        return {
            "records": len(self._pending),
            "messages": len(self._meter.places),
            "entries": entries,
            "objects": sum(1 for _ in self._parts.storage.list()),
        }

    def report(self) -> Report:
        """`number`: every record up to it was compared, in every copy that should hold it by now."""
        published = self._publisher.report()
        number = min(self._compared, self._waits_from - 1) if self._waits_from else self._compared
        waits_s = self._monotonic() - self._due_since_s if self._due is not None else 0.0
        return Report(
            "rehearsal",
            number,
            max(published.end, number),
            round(max(published.lag_s, waits_s), 3),
            self._trouble(published.trouble),
            self._counters(),
        )

    def _trouble(self, published: str | None) -> str | None:
        """A difference for good, anything else while it lasts."""
        if self._told:
            more = self._differing - sum(count for count, _ in self._told)
            told = "; ".join(sentence for _, sentence in self._told)
            return f"the copies differ: {told}" + (f"; {more:,} more in the log" if more else "")
        return published or self._archiver.report().trouble or self._last_values.trouble

    def _counters(self) -> dict[str, float]:
        markets, (keys, key_bytes) = self._consumer.markets, self._cached
        return {
            **self._sizes,
            **self._meter.counters,
            "largest_bytes": self._meter.largest_bytes,
            "markets": len(markets),
            "changed_names": markets.changed,
            "shared_names": markets.shared,
            "cache_keys": keys,
            "cache_bytes": key_bytes,
            "published": self._published,
            "differing": self._differing,
        }


def forget_notes(root: Path) -> None:
    """Removes what a rehearsal noted of copies in memory, which end with their process. Notes of others stay."""
    for path, key in ((cursor_path(root), "url"), (root / ARCHIVER_CURSOR, "place")):
        if _says(path, key) == PLACE:
            path.unlink(missing_ok=True)
    for path in root.glob(f"*/*{ARCHIVED}"):
        if _says(path, "place") == PLACE:
            path.unlink(missing_ok=True)


def _says(path: Path, key: str) -> object:
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return held.get(key) if isinstance(held, dict) else None


def _key(segment: Segment) -> Path:
    """A segment, whatever its present form."""
    return segment.beside("")


def _records_of(segment: Segment) -> Iterator[bytes]:
    """Its proved records, many in a row."""
    for batch in Reader([segment]).batches(segment):
        yield batch.data[batch.start : batch.stop]
