"""The publisher: a reader of the journal that puts every record on the bus, once, in order, however long that takes.

`Publisher.step` does one bounded piece of work and never waits but for the bus:

    follower ──groups──> planner ──messages──> window ──publish_all──> bus
                                                  |                     |
    cursor file <── number, sequence ── confirmed ┴──── receipts <──────┘

Why nothing is lost: the cursor moves over a record only when the bus has confirmed its message. Why nothing is doubled:
a message that is sent again has the id that it had, and the bus knows ids for minutes; whenever it is not certain what
the bus holds beyond the cursor (after a crash, or a failure with messages on their way), the publisher first reads the
stream from the cursor's place on and takes out what is there. What comes to the bus later than that look was sent
within the time for which the bus knows ids. So a journal whose first record is seconds old needs no look: whatever of
it anybody has published, the bus knows. Why in order: what follows a message that was not confirmed is sent again
behind it, one window at a time.

Not for: how messages travel (ssmd.middleware), what records mean, when to look (`__main__` has the loop).
"""

from __future__ import annotations

import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ssmd.errors import LimitError, MiddlewareError, PublishError, SsmdError, StorageError
from ssmd.journal.published import last_unproved
from ssmd.middleware import names
from ssmd.middleware.interfaces import Delivery, Receipt, Start, Transport
from ssmd.middleware.stored import IDLE_S as SCAN_IDLE_S
from ssmd.publisher import cursor as cursors
from ssmd.publisher import meeting
from ssmd.publisher.cursor import Cursor, Target
from ssmd.publisher.end import JournalEnd
from ssmd.publisher.incoming import Incoming, Log
from ssmd.publisher.meeting import published_of, refuse_ahead
from ssmd.publisher.plan import Held, Mode, Planner, Work
from ssmd.report import Report
from ssmd.steps import Ages

WINDOW_MESSAGES = 4096
WINDOW_BYTES = 4 << 20
RESERVE_RECORDS = 100_000  # so far beyond the cursor may be sent before the cursor file says so
UNPROVED_RESERVE_RECORDS = 4096  # the same where it costs numbers if the journal loses its end
SAVE_EVERY_S = 1.0
PUBLISH_TIMEOUT_S = 10.0
SILENT_S = 2.0  # a call that the bus has not answered for so long is trouble already
IDLE_S, IDLE_TO_S = 0.02, 1.0  # pause when there is nothing to publish
IDLE_SHARE = 20  # of it against the look before: idling costs a twentieth of a core at most
BACKOFF_FROM_S, BACKOFF_TO_S = 0.1, 5.0
LATE_S = 300.0  # a record that waits longer is told, even while all goes well
LONG_LOOK_S = 1.0  # a look at the stream that takes longer is told
YOUNG_NS = 15 * 10**9  # every stream that is accepted knows the ids of so long ago, and as long again
SCAN_MARGIN_NS = 600 * 10**9  # the bus has a clock of its own
CATCH_UP_S = 10.0  # for a flusher that writes again what was cut off

TO_FILL = "To have them there, in their order: stop, remove the stream, and say --move-to 1."

COUNTERS = ("messages", "records", "bytes", "duplicates", "retries", "missed")


@dataclass(frozen=True, slots=True)
class Options:
    """What is published, and how. The names are those of the environment's section `transport`."""

    prefix: str
    mode: Mode = "records"
    batch_records: int = 256
    durable_only: bool = True

    @property
    def subjects(self) -> list[str]:
        """Everything that is published stands here."""
        return [f"{self.prefix}.>"]


def _quiet(event: str, *, level: str = "info", **fields: object) -> None:
    """No log."""


class Publisher:
    """Publishes the journal at `root`. One thread steps; any thread may ask for the report.

    Raises UsageError at once for a cursor that does not fit (see `cursor`, `refuse_ahead`). The journal must be locked.
    """

    def __init__(
        self,
        root: Path,
        bus: Transport,
        target: Target,
        options: Options,
        *,
        ring: Path | None = None,
        log: Log = _quiet,
        scan_idle_s: float = SCAN_IDLE_S,
        wall_ns: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._root, self._bus, self._target, self._options = root, bus, target, options
        self._log, self._wall_ns, self._jitter, self._scan_idle_s = log, wall_ns, jitter, scan_idle_s
        self._ages = Ages(wall_ns(), time.monotonic_ns())
        self._end = JournalEnd(root, ring, durable_only=options.durable_only)
        found = cursors.load(root, target)
        if found is not None:
            refuse_ahead(found, self._end, root, patience_s=CATCH_UP_S)
        self._saved = found or Cursor()
        self._saved_at_s = 0.0
        self._number = self._planned = self._saved.number
        self._sequence = self._saved.sequence  # on the bus: all that is beyond `number` stands behind this place
        self._newest = max(self._saved.newest, self._sequence)  # the highest place that holds a message of ours
        self._held_to = 0  # up to this record messages may stand on the bus out of their place
        self._sent = max(self._saved.sent, self._end.number())  # no record after this one was ever sent from here
        self._unsure = found is None or not found.clean  # what the bus holds beyond the cursor
        self._created = self._saved.created  # the stream, "" = not known
        self._met = False  # the bus was asked once, and all was well
        self._untouched = found is None  # nothing was sent by a publisher that this one knows of
        self._ready = False  # the bus was asked since the last failure
        self._tried = False  # the bus has answered, or could not be reached
        self._planner = Planner(target.journal, options.prefix, mode=options.mode, batch_records=options.batch_records)
        self._incoming = Incoming(
            root,
            self._number,
            log,
            proved_only=options.durable_only,
            anywhere=found is None,
            unproved=self._saved.unproved,
        )
        self._pieces: Iterator[Work] = iter(())
        self._work = Work(covers=self._number)
        self._oldest_ns = 0  # receive time of the first record that waits, 0 = none does
        self._counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._trouble: str | None = None
        self._lost: str | None = None
        self._foreign: str | None = None
        self._failures = 0  # in a row
        self._asked_s: float | None = None  # since when the bus has been asked something, monotonic clock

    # ---- working -----------------------------------------------------------------------------------------------------

    def step(self, now_s: float) -> float:
        """One bounded piece of work; gives how long to wait before the next, in seconds.

        Raises only what the very first answer of the bus says is wrong for good; everything later is tried again.
        """
        began_s = time.monotonic()
        try:
            worked = self._step(now_s)
        except SsmdError as error:
            self._asked_s = None
            if not self._tried and isinstance(error, MiddlewareError) and not error.retryable:
                raise
            self._tried = True
            nap_s = self._failed(error)
            with suppress(StorageError):  # a full bus may take a little at each attempt, and never all
                self._save_sometimes(now_s)
            return nap_s
        if self._trouble is not None:
            self._log("publishing again", number=self._number)
        self._trouble, self._failures, self._tried = None, 0, True
        took_s = time.monotonic() - began_s  # a look at a folder with years of segments takes its time
        return 0.0 if worked else min(max(IDLE_S, took_s * IDLE_SHARE), IDLE_TO_S)

    @property
    def idle(self) -> bool:
        """All that could be read is published, as of the last step."""
        return self._ready and not self._oldest_ns and self._complete

    @property
    def _complete(self) -> bool:
        """No record beyond the cursor was sent: a group's messages go out before the cursor can move to its end."""
        return not self._unsure and self._number >= self._work.last

    def finish(self) -> None:
        """Saves the cursor. What was sent and not confirmed stays marked as such."""
        if self._number != self._saved.number or (self._complete and not self._saved.clean):
            self._save(self._number if self._complete else self._saved.sent)

    def close(self) -> None:
        self._incoming.close()
        self._end.close()

    def _step(self, now_s: float) -> bool:
        self._read()
        if not self._ready:
            self._prepare()
            self._read()
        self._fill()
        if self._work.messages:
            self._publish()
            worked = True
        else:
            worked = self._work.covers > self._number
            self._number = max(self._number, self._work.covers)
        self._look_for_oldest()
        self._save_sometimes(now_s)
        return worked

    def _save_sometimes(self, now_s: float) -> None:
        if now_s - self._saved_at_s >= SAVE_EVERY_S and (self._number != self._saved.number or not self._saved.clean):
            self._save(self._number if self.idle else self._saved.sent)
            self._saved_at_s = now_s

    def _failed(self, error: SsmdError) -> float:
        self._counters["retries"] += 1
        self._failures += 1
        self._ready = False
        cause = error.__cause__ if isinstance(error, PublishError) else error
        sentence = str(cause.args[0]) if cause is not None and cause.args else str(error)
        evidence = getattr(error, "evidence", None)
        if self._trouble is None:
            self._log("cannot publish", level="warning", reason=sentence, evidence=evidence, number=self._number)
        self._trouble = sentence
        if isinstance(error.__cause__ or error, LimitError) and not error.retryable:
            self._begin_again()
        self._look_for_oldest()
        most_s = min(BACKOFF_FROM_S * float(1 << min(self._failures - 1, 10)), BACKOFF_TO_S)
        return most_s * (0.5 + self._jitter() / 2)

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _begin_again(self) -> None:
        """Reads and plans anew from the cursor: the bus takes other sizes than it did."""
        self._incoming.begin_again(self._number)
        self._pieces, self._work, self._planned = iter(()), Work(covers=self._number), self._number
        self._unsure = True

    def _read(self) -> None:
        """Has something in hand, if there is something."""
        if self._incoming.first is not None or self._work.messages:
            return
        self._incoming.read()
        self._look_for_oldest()

    def _fill(self) -> None:
        """Plans until there is a window of messages, or nothing more to plan."""
        work = self._work
        while len(work.messages) < WINDOW_MESSAGES:
            piece = next(self._pieces, None)
            if piece is not None:
                work.extend(piece)
                self._planned = piece.covers
            elif self._incoming.first is not None:
                batch, self._planned = self._incoming.take(self._planned)
                self._counters["missed"] = self._incoming.missed
                self._pieces = self._planner.plan(batch, self._planned)
            else:
                return

    def _look_for_oldest(self) -> None:
        if self._work.recv_ns:
            self._oldest_ns = self._work.recv_ns[0]
        else:
            first = self._incoming.first
            self._oldest_ns = self._planner.first_recv_ns(first) if first is not None else 0

    # ---- publishing --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """The bus is there, stores what we publish, and we know what it holds of that already."""
        self._asked_s = time.monotonic()
        made = self._bus.ensure_stream(self._options.subjects)
        self._planner.max_bytes = self._bus.max_payload_bytes
        if made:
            self._log("made the stream", stream=self._target.stream, subjects=self._options.subjects)
            self._stream_is_new()
            self._unsure = False  # it is empty
        else:
            sentence = self._changed()
            if sentence is not None:
                self._find_end(sentence)
        if self._unsure:
            self._find_held()
        self._created, self._met = self._bus.stream_created(), True
        self._asked_s = None
        self._ready = True

    def _stream_is_new(self) -> None:
        if self._number:
            self._log(
                f"stream {self._target.stream} is new: records up to {self._number} are not in it",
                level="warning",
                hint=TO_FILL,
            )
        self._sequence = self._newest = 0

    def _changed(self) -> str | None:
        """Why the stream is not the one that it was. At the first look also: has anybody published meanwhile?"""
        last = self._bus.last_sequence()
        if not self._met and self._sequence and last > self._sequence:
            self._unsure = True  # there may be records of ours that this journal does not have
        known = replace(self._saved, sent=self._sent, created=self._created, newest=self._newest)
        return meeting.changed(self._bus, self._target.stream, self._target.journal, known, idle_s=self._scan_idle_s)

    def _find_end(self, sentence: str) -> None:
        """It is another stream, or one without its end: goes on where what it has of this journal ends.

        Where it has nothing of it, there is no such place: goes on behind the cursor, and the user is told how to fill
        it.
        """
        self._log(sentence, level="error")
        self._lost = sentence
        end, newest, place = meeting.End(self._options.mode, self._number), meeting.Newest(), 0
        for what, delivery in self._published(Start.beginning()):
            end.add(what, delivery)
            newest.add(what, delivery.message.payload)
            place = self._place_of(what, delivery) or place
        self._compare(newest)
        self._sequence, self._newest = 0, place
        if end.nothing:
            self._log(
                f"stream {self._target.stream} has nothing of this journal: records up to {self._number} are not in it",
                level="error",
                hint=TO_FILL,
            )
            self._unsure = False
            return
        if end.whole < self._number:
            self._log("publishing again what the stream lacks", first=end.whole + 1, last=self._number)
            self._lost = f"{sentence}; published again from record {end.whole + 1} on"
        self._number = end.whole
        self._begin_again()
        self._hold(end.held)
        self._unsure = False

    def _published(self, start: Start) -> Iterator[tuple[names.Published, Delivery]]:
        """What the stream has of this journal. A look that takes long is told."""
        began_s, told = time.monotonic(), False

        def on_message() -> None:
            nonlocal told
            self._asked_s = time.monotonic()  # it answers
            if not told and self._asked_s - began_s >= LONG_LOOK_S:
                told = True
                self._log("looking at what the stream holds", stream=self._target.stream)

        return published_of(
            self._bus,
            self._options.prefix,
            self._target.journal,
            start,
            idle_s=self._scan_idle_s,
            on_message=on_message,
        )

    def _find_held(self) -> None:
        """What the bus holds of this journal beyond the cursor is taken out of what is to be published."""
        start = self._scan_start()
        if start is not None and not self._is_young():
            held, newest, place = Held(), meeting.Newest(), 0
            for what, delivery in self._published(start):
                held.add(str(delivery.message.message_id), what)
                newest.add(what, delivery.message.payload)
                place = self._place_of(what, delivery) or place
            self._compare(newest)
            self._newest = max(self._newest, place)
            if held.ids:
                self._log("the bus holds more than was confirmed", messages=len(held.ids), last=held.last)
                self._look_for_others(held.last)
            self._counters["duplicates"] += self._work.without(held)
            self._hold(held)
        self._unsure = False

    def _place_of(self, what: names.Published, delivery: Delivery) -> int:
        """Where a message stands that was sent from here, 0 for one that was not."""
        return delivery.sequence if what.first <= self._sent else 0

    def _hold(self, held: Held) -> None:
        self._planner.held = held if held.ids else None
        self._held_to = max(self._held_to, held.last)

    def _compare(self, newest: meeting.Newest) -> None:
        """At the first look: refuses a bus that has other records under the numbers of this journal."""
        if self._met or newest.number <= self._number:
            return
        meeting.refuse_other_content(newest, self._root, self._target.journal, unproved=self._saved.unproved)
        self._sent = max(self._sent, newest.number)

    def _is_young(self) -> bool:
        """Whatever of this journal is on the bus was sent so lately that the bus knows its id.

        Record 1 waits and was received seconds ago: no copy of the journal, and nobody who lost the cursor, can have
        published it earlier. Batches count where they are the same whenever they are made.
        """
        first = self._incoming.first
        if not self._untouched or self._work.messages or first is None:
            return False
        if first.first_number != 1 or (self._options.mode != "records" and not self._options.durable_only):
            return False
        return 0 <= self._wall_ns() - self._oldest_ns < YOUNG_NS

    def _look_for_others(self, number: int) -> None:
        """The bus has this record already: tells it where it was never sent from here."""
        if number <= self._sent or self._foreign is not None:
            return
        self._foreign = (
            f"the bus has record {number} of journal {self._target.journal}, which was never sent from here: another "
            "recorder publishes a copy of this journal, and records of one of the two are taken for those of the other"
        )
        self._log(
            self._foreign,
            level="error",
            hint="Was the folder copied to another host, or brought back from a backup? Of two that record, stop one, "
            "and remove publisher.cursor and journal.id from its folder.",
        )

    def _scan_start(self) -> Start | None:
        """Behind the last confirmed message; without one, from the time of the first record that waits."""
        if self._sequence:
            return Start.number(self._sequence + 1)
        return Start.time(max(self._oldest_ns - SCAN_MARGIN_NS, 0)) if self._oldest_ns else None

    def _publish(self) -> None:
        work = self._work
        count = size = 0
        for message in work.messages[:WINDOW_MESSAGES]:
            count += 1
            size += len(message.payload)
            if size >= WINDOW_BYTES:
                break
        if work.last > self._saved.sent:
            self._save(work.last + (RESERVE_RECORDS if self._options.durable_only else UNPROVED_RESERVE_RECORDS))
        self._asked_s = time.monotonic()
        self._untouched = False
        sent = max(self._sent, work.last)
        try:
            receipts = self._bus.publish_all(work.messages[:count], timeout_s=PUBLISH_TIMEOUT_S)
        except PublishError as error:
            self._unsure = True
            self._confirmed([receipt for receipt in error.receipts if isinstance(receipt, Receipt)])
            raise
        except MiddlewareError:
            self._unsure = True
            raise
        else:
            self._asked_s = None
            self._confirmed(receipts)
        finally:
            self._sent = sent

    def _confirmed(self, receipts: Sequence[Receipt]) -> None:
        """The bus has the first messages of what is to be published."""
        count = len(receipts)
        if not count:
            return
        work, counters = self._work, self._counters
        counters["messages"] += count
        counters["records"] += sum(work.records[:count])
        counters["bytes"] += sum(len(message.payload) for message in work.messages[:count])
        duplicates = [str(m.message_id) for m, r in zip(work.messages, receipts, strict=False) if r.duplicate]
        counters["duplicates"] += len(duplicates)
        known = [what.first for what in map(names.published, duplicates) if what is not None]
        self._look_for_others(max(known, default=0))
        last = receipts[-1].sequence
        if last < self._newest and not duplicates:
            self._stream_is_new()
            self._created, self._ready = "", False
        highest = max(receipt.sequence for receipt in receipts) if duplicates else last
        self._newest = max(highest, self._newest)
        self._move_to(work.safe[count - 1], receipts, bisect_left(work.safe, work.safe[count - 1], hi=count))
        work.shed(count)
        if not work.messages and work.covers >= work.last:  # else the group goes on
            self._move_to(work.covers, receipts, count)

    def _move_to(self, number: int, receipts: Sequence[Receipt], count: int) -> None:
        """Every record up to `number` is on the bus; the first `count` of these messages hold no other.

        What is beyond must be found behind the cursor's place again: a batch of a group that is not complete yet was
        confirmed, and does not move it. Nor does anything while messages are held that were sent before a failure.
        """
        self._number = max(self._number, number)
        if count and self._number >= self._held_to:
            self._sequence = max(self._sequence, receipts[count - 1].sequence)

    def _save(self, sent: int) -> None:
        sent = max(sent, self._number)
        unproved = self._saved.unproved if self._options.durable_only else sent
        cursor = Cursor(self._number, sent, self._sequence, unproved, self._created, self._newest)
        cursors.save(self._root, self._target, cursor)
        self._saved = cursor

    # ---- telling -----------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Where it is, now."""
        number, oldest_ns = self._number, self._oldest_ns
        end = max(self._end.number(), self._planned, number)
        age_ns = self._ages.age_ns(oldest_ns, self._wall_ns(), time.monotonic_ns())
        lag_s = age_ns / 1e9 if oldest_ns and end > number else 0.0
        report = Report("publisher", number, end, round(lag_s, 3), None, dict(self._counters))
        told = (self._trouble or self._waiting(), self._incoming.trouble, self._lost, self._foreign)
        sentences = [sentence for sentence in told if sentence]
        if not sentences and lag_s > LATE_S:
            sentences = ["slower than what is recorded"]
        if sentences and report.lag_records:
            sentences.append(report.behind)
        return replace(report, trouble="; ".join(sentences) or None)

    def _waiting(self) -> str | None:
        asked_s = self._asked_s
        silent_s = time.monotonic() - asked_s if asked_s is not None else 0.0
        return f"the bus at {self._target.url} has not answered for {silent_s:.0f} s" if silent_s > SILENT_S else None


def move(root: Path, target: Target, number: int) -> None:
    """Sets the cursor, as the user says, so that `number` is the next record; what the bus has of it is found again."""
    found = None
    with suppress(SsmdError):
        found = cursors.load(root, target)
    found = found or Cursor(unproved=last_unproved(root))  # of another bus, too
    cursors.save(root, target, Cursor(number - 1, max(found.sent, number), 0, found.unproved))
