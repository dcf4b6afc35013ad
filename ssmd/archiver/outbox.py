"""What waits for the Storage, and how it goes on when the Storage does not answer.

`step` copies every segment that waits (ssmd.archiver.upload) and removes local copies that may go (retention); it never
raises what the Storage or one segment did wrong. A Storage that fails as a whole is left alone for a time that doubles
up to a minute, with jitter, for ever. A segment that fails alone (another's object in its place, damaged bytes) is
told, does not hold up the others, and is tried again after ten minutes. A mark says what was there when it was made:
at the start and every ten minutes the newest copies and the oldest are looked at again, and where one is gone or was
changed, all of them; what the Storage has lost is told and copied again. How far the copies reach without a hole is
kept in `archiver.cursor` beside the journal, for those who find that its beginning is no longer here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssmd.archiver import GoOn, always, name_of
from ssmd.archiver.retention import Rule, expire, finish
from ssmd.archiver.upload import Mark, Target, mark_path, read_mark, still_there, upload
from ssmd.errors import (
    ConflictError,
    DamageError,
    LimitError,
    MiddlewareError,
    MissingObjectError,
    RejectedError,
    SsmdError,
    StorageError,
    UnavailableError,
)
from ssmd.journal import manifest
from ssmd.journal.archived import Archived, read_archived, write_archived
from ssmd.journal.paths import Segment, State

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
AGAIN_S = 600.0  # one segment that failed alone
EXPIRE_EVERY_S = 10.0
SPOT_EVERY_S = 600.0
SPOT_NEWEST = 2  # copies that are looked at, and the oldest one
SLOW_S = 30.0  # one step of the Storage that takes longer is told

Say = Callable[..., None]  # (event, level=..., **fields)


@dataclass(slots=True)
class Counters:
    """Since the process began."""

    objects: int = 0
    bytes: int = 0
    retries: int = 0
    removed: int = 0


class Outbox:
    """One journal's way to one Storage; `compressed`: segments wait until they are; `lasting`: copies are to stay.

    `step` belongs to one thread; what is read beside it may be a moment old.
    """

    def __init__(
        self,
        root: Path,
        target: Target,
        rule: Rule | None,
        *,
        compressed: bool = True,
        lasting: bool = True,
        say: Say,
        monotonic: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.counters = Counters()
        self.refused: RejectedError | None = None  # the Storage's last word, if it was that
        self._root, self._target, self._rule, self._compressed = root, target, rule, compressed
        self._say, self._monotonic, self._now_ns, self._jitter = say, monotonic, now_ns, jitter
        self._marks: dict[str, Mark | None] = {}
        self._failed: dict[str, tuple[SsmdError, float]] = {}  # by stem; when it is tried again
        self._trouble: str | None = None
        self._failures = 0
        self._not_before = 0.0
        self._expire_at = 0.0
        self._finished = False  # nothing is left of removals that were cut short
        self._checked = False
        self._lasting = lasting
        self._spot_at = 0.0
        self._vanished: str | None = None  # copies that the Storage had and lost
        self._beyond_help = False  # and what is no longer here may be among them
        self._busy: tuple[str, float] | None = None
        known = read_archived(root)
        self._cursor = known.number if known is not None and known.place == target.place else 0

    @property
    def cursor(self) -> int:
        """The last record up to which every one is proved to be in the Storage."""
        return self._cursor

    @property
    def healthy(self) -> bool:
        return self._trouble is None and not self._failed and self._vanished is None

    def trouble(self) -> str | None:
        """What is wrong now, in a sentence."""
        busy, failed = self._busy, next(iter(self._failed.values()), None)
        if self._trouble is not None:
            wait_s = max(self._not_before - self._monotonic(), 0.0)
            return f"{self._trouble}; next attempt in {wait_s:.0f} s"
        if busy is not None and self._monotonic() - busy[1] > SLOW_S:
            return f"{self._target.place} is slow: {busy[0]} is under way for {self._monotonic() - busy[1]:.0f} s"
        return sentence(failed[0]) if failed is not None else self._vanished

    def waiting(self, segments: Sequence[Segment]) -> list[Segment]:
        """Of sealed segments those that are not proved to be in the Storage, in their order."""
        return [segment for segment in segments if self.mark(segment) is None]

    def mark(self, segment: Segment) -> Mark | None:
        if self._marks.get(segment.stem) is None:
            self._marks[segment.stem] = read_mark(segment, self._target.place)
        return self._marks[segment.stem]

    def step(self, segments: Sequence[Segment], go_on: GoOn = always) -> None:
        """All that can be done now for these sealed segments, oldest first."""
        if self._monotonic() < self._not_before:
            return
        try:
            if not self._checked:
                self._busy = ("the first question", self._monotonic())
                self._target.storage.check(writable=True)
                self._checked = True
            self._spot_check(segments, go_on)
            for segment in self.waiting(segments):
                if not self._upload(segment, go_on):
                    break
            self._forget_gone(segments)
            self._advance(segments)
            self._expire(segments, go_on)
        except (UnavailableError, RejectedError) as error:
            self._storage_failed(error)
        else:
            self._storage_works()
        finally:
            self._busy = None

    # ---- what was copied before --------------------------------------------------------------------------------------

    def _spot_check(self, segments: Sequence[Segment], go_on: GoOn) -> None:
        """Whether the copies are still there: a few of them, and all where one is not."""
        if not self._lasting or self._monotonic() < self._spot_at:
            return
        self._busy = ("the look at what was copied", self._monotonic())
        marked = [segment for segment in segments if self.mark(segment) is not None]
        few = {segment.stem: segment for segment in marked[:1] + marked[-SPOT_NEWEST:]}
        if not all(self._is_there(segment) for segment in few.values()):
            gone = []
            for segment in marked:
                if not go_on("look again", segment):
                    return
                if not self._is_there(segment):
                    gone.append(segment)
            if gone:
                self._copy_again(gone, marked)
        self._spot_at = self._monotonic() + SPOT_EVERY_S

    def _is_there(self, segment: Segment) -> bool:
        mark = self.mark(segment)
        storage = self._target.storage
        return mark is not None and still_there(storage, mark.segment) and still_there(storage, mark.manifest)

    def _copy_again(self, gone: Sequence[Segment], marked: Sequence[Segment]) -> None:
        """These wait again. What is no longer here cannot be looked at: that is told where all the others are gone."""
        first = min(segment.first_number for segment in gone)
        what = f"{len(gone)} segments that were copied to {self._target.place} are gone from there, or were changed"
        if len(gone) == len(marked) and marked[0].first_number > 1:
            what += f"; records before {marked[0].first_number} are no longer here: look for them there (ssmd verify)"
            self._beyond_help = True
        self._say("copies are gone: copied again", level="error", reason=what, first=gone[0].stem, last=gone[-1].stem)
        self._vanished = what
        self._set_cursor(min(self._cursor, first - 1))
        try:
            for segment in gone:
                mark_path(segment).unlink(missing_ok=True)
                self._marks.pop(segment.stem, None)
        except OSError as error:  # a disk that refuses: the next look tries again
            self._say("marks of copies cannot be removed", level="error", reason=str(error))

    # ---- one segment -------------------------------------------------------------------------------------------------

    def _upload(self, segment: Segment, go_on: GoOn) -> bool:
        """False when a stop was asked for."""
        if not self._is_due(segment):
            return True
        began = self._monotonic()
        self._busy = (f"the copy of {name_of(segment)}", began)
        try:
            done = upload(segment, self._target, now_ns=self._now_ns, go_on=go_on)
        except (ConflictError, DamageError, LimitError, MissingObjectError, StorageError) as error:
            self._segment_failed(segment, error)
            return True
        self.counters.objects += done.objects
        self.counters.bytes += done.bytes
        if done.mark is None:
            return False
        self._marks[segment.stem] = done.mark
        self._failed.pop(segment.stem, None)
        seconds = round(self._monotonic() - began, 3)
        self._say("uploaded", segment=name_of(segment), objects=done.objects, bytes=done.bytes, seconds=seconds)
        return True

    def _is_due(self, segment: Segment) -> bool:
        """It has its last form (else two forms of it could come into the Storage), and its time after a failure."""
        if (self._compressed and segment.state == State.SEALED) or not manifest.path_of(segment).exists():
            return False
        _, again_at = self._failed.get(segment.stem, (None, 0.0))
        return self._monotonic() >= again_at

    def _segment_failed(self, segment: Segment, error: SsmdError) -> None:
        known = self._failed.get(segment.stem)
        if known is None or str(known[0]) != str(error):
            self._say("not uploaded", level="error", segment=str(segment.path), reason=str(error))
        passing = isinstance(error, MissingObjectError | StorageError)
        self._failed[segment.stem] = (error, self._monotonic() + (FIRST_WAIT_S if passing else AGAIN_S))

    def _forget_gone(self, segments: Sequence[Segment]) -> None:
        """Failures of segments that somebody has taken away."""
        if self._failed:
            here = {segment.stem for segment in segments}
            self._failed = {stem: failure for stem, failure in self._failed.items() if stem in here}

    def _advance(self, segments: Sequence[Segment]) -> None:
        """The cursor, up to the first segment that is not in the Storage."""
        number = self._cursor
        for segment in segments:
            mark = self.mark(segment)
            if mark is None:
                break
            number = max(number, mark.last_number)
        if self._vanished is not None and not self._beyond_help and not self.waiting(segments):
            self._vanished = None
        self._set_cursor(number)

    def _set_cursor(self, number: int) -> None:
        if number == self._cursor:
            return
        try:
            write_archived(self._root, Archived(number, self._target.place))
        except OSError:  # a full disk: the marks say it all, this is for people
            return
        self._cursor = number

    # ---- local copies ------------------------------------------------------------------------------------------------

    def _expire(self, segments: Sequence[Segment], go_on: GoOn) -> None:
        if self._rule is None or self._monotonic() < self._expire_at:
            return
        self._busy = ("the question for what was copied", self._monotonic())
        try:
            if not self._finished:
                finish(self._root, go_on)
                self._finished = True
            gone = expire(self._root, segments, self._target, self._rule, now_ns=self._now_ns(), go_on=go_on)
            for segment in gone:
                self.counters.removed += 1
                self._say("removed here", segment=name_of(segment), kept_in=self._target.place)
        except (ConflictError, StorageError) as error:
            self._marks.clear()
            self._finished = False
            self._spot_at = 0.0  # what else is not there?
            self._say("not removed", level="error", reason=str(error))
        self._expire_at = self._monotonic() + EXPIRE_EVERY_S

    # ---- the Storage as a whole --------------------------------------------------------------------------------------

    def _storage_failed(self, error: MiddlewareError) -> None:
        self._failures += 1
        self.counters.retries += 1
        self.refused = error if isinstance(error, RejectedError) else None
        wait_s = min(FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 30), LONGEST_WAIT_S) * (0.5 + self._jitter() / 2)
        self._not_before = self._monotonic() + wait_s
        told, self._trouble = self._trouble, sentence(error)
        if told != self._trouble:
            self._say("the storage does not take segments", level="warning", reason=str(error), evidence=error.evidence)

    def _storage_works(self) -> None:
        if self._trouble is not None:
            self._say("the storage takes segments again", after_failures=self._failures)
        self._failures, self._trouble, self.refused = 0, None, None


def sentence(error: SsmdError) -> str:
    """An error and its hint in one line."""
    return "; ".join(part for part in (str(error.args[0]), error.hint) if part)
