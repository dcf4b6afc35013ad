"""The archiver's loop: a worker that archives, copies and removes, and a watch that reports and ends it.

The worker is a thread of its own because a step of it may take long (a large segment, a Storage that hangs): the watch
reports each second all the same, and ends within two seconds of a signal whatever the worker is in; every step can be
killed. What was sealed just before the signal is given its manifest first, then, as far as the time reaches, the rest.
Signals are blocked and asked for, so that no step is cut short before its time.
"""

from __future__ import annotations

import fcntl
import signal
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from ssmd import archiver
from ssmd.archiver.outbox import Outbox, sentence
from ssmd.archiver.retention import Rule
from ssmd.archiver.upload import Target
from ssmd.errors import DamageError, SsmdError
from ssmd.helperlog import sayer, tell
from ssmd.journal import manifest
from ssmd.journal.identity import make_identity
from ssmd.journal.listing import Listing
from ssmd.journal.paths import Segment
from ssmd.middleware.interfaces import Storage
from ssmd.report import Report
from ssmd.steps import Ages

LOOK_EVERY_S = 1.0
LOCK = "archiver.lock"
LAST_LOOK_S = 1.5  # of the two seconds that a stop may take
ENDING = frozenset({signal.SIGTERM, signal.SIGINT})

say = sayer("archiver")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where segments are copied to; `rule`: when local copies go, None = never.

    `lasting`: copies must stay there, and are looked for again; a rehearsal deletes those that it compared.
    """

    storage: Storage
    place: str
    prefix: str
    feed: str
    rule: Rule | None
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a journal is: see ssmd.report."""

    number: int = 0
    end: int = 0
    waits_since_ns: int = 0  # 0 = nothing waits


class Service:
    """Archives the journal at `root`, and copies it to `destination` if there is one."""

    def __init__(self, root: Path, wanted: archiver.Options, destination: Destination | None = None) -> None:
        self._root = root
        self._wanted = wanted
        self._destination = destination
        self._outbox: Outbox | None = None
        self._listing = Listing(root)  # the worker's
        self._done: set[Path] = set()
        self._failed: dict[Path, SsmdError] = {}  # each told once; damaged segments are left as they are
        self._facts: dict[str, tuple[int, int]] = {}  # stem -> last number, its receive time
        self._standing = Standing()
        self._ages = Ages(time.time_ns(), time.monotonic_ns())
        self._ending = threading.Event()
        self._stop_at = float("inf")  # of the monotonic clock: no step begins after it
        self._files = threading.Lock()  # who archives locally
        self._last_manifests = threading.Event()
        self._lock: IO[bytes] | None = None
        self.blocked: str | None = None

    # ---- the watch ---------------------------------------------------------------------------------------------------

    def run(self, *, reports: bool) -> None:
        """Until a signal comes; then at most two seconds more. Raises what ended the worker."""
        died: list[BaseException] = []
        worker = threading.Thread(target=self._work, args=(died,), name="archive", daemon=True)
        worker.start()
        while signal.sigtimedwait(ENDING, LOOK_EVERY_S) is None:
            if reports:
                tell(self.report().line())
            if not worker.is_alive():
                raise died[0]
        deadline = time.monotonic() + LAST_LOOK_S
        self._stop_at = deadline
        self._ending.set()
        if self._lock is not None and self._files.acquire(timeout=LAST_LOOK_S / 2):
            try:
                self._manifests(deadline)
            finally:
                self._files.release()
        self._last_manifests.set()
        worker.join(max(deadline + 0.2 - time.monotonic(), 0.0))
        if reports:
            tell(self.report().line())

    def report(self) -> Report:
        standing, outbox = self._standing, self._outbox
        age_ns = self._ages.age_ns(standing.waits_since_ns, time.time_ns(), time.monotonic_ns())
        waits_s = age_ns / 1e9 if standing.waits_since_ns else 0.0
        said = Report(
            "archiver",
            number=standing.number,
            end=max(standing.end, standing.number),
            lag_s=round(waits_s, 3),
            counters=asdict(outbox.counters) if outbox else {},
        )
        trouble = outbox.trouble() or self._damage_trouble() if outbox else None
        trouble = self.blocked or trouble
        return replace(said, trouble=f"{trouble}; {said.behind}" if trouble and said.lag_records else trouble)

    def _damage_trouble(self) -> str | None:
        """A segment that cannot be archived is never copied, and what is behind it never removed."""
        failed = next(iter(dict(self._failed).items()), None)
        return f"{failed[0].name} is not archived: {sentence(failed[1])}" if failed else None

    # ---- the worker --------------------------------------------------------------------------------------------------

    def _work(self, died: list[BaseException]) -> None:
        try:
            while not self._ending.is_set():
                self.look(self._until_asked)
                self._ending.wait(LOOK_EVERY_S)
            self._last_manifests.wait()
            self.look(self._until_late)
        except BaseException as error:  # the watch tells it
            died.append(error)

    def look(self, go_on: archiver.GoOn = archiver.always) -> int:
        """Does all that is waiting; gives how many segments could not be archived or copied."""
        if not self.is_ours():
            return 1
        with self._files:
            self._archive_all(go_on)
            self._forget_gone()
        sealed = [segment for segment in self._listing.segments() if segment.sealed]
        outbox = self._outbox_of_journal()
        if outbox is not None:
            outbox.step(sealed, go_on)
        self._standing = self._judge(sealed)
        return len(self._failed) + (len(outbox.waiting(sealed)) if outbox is not None else 0)

    def is_ours(self) -> bool:
        """Whether we are the one archiver that works here (or there is nothing here yet); `blocked` says why not."""
        if self._lock is not None or not self._root.is_dir():
            return True
        try:
            lock = (self._root / LOCK).open("ab")
        except OSError as error:
            self.blocked = f"nothing can be written to {self._root}: {error.strerror}"
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            self.blocked = f"another archiver works on {self._root}, and this one waits for its end"
            return False
        self._lock, self.blocked = lock, None
        return True

    def close(self) -> None:
        """Another may work here now; the next `look` takes the lock again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def refused(self) -> SsmdError | None:
        """The Storage's refusal, where it was the user's to mend."""
        return self._outbox.refused if self._outbox is not None else None

    def _until_asked(self, step: str, segment: Segment) -> bool:
        return not self._ending.is_set()

    def _until_late(self, step: str, segment: Segment) -> bool:
        return time.monotonic() < self._stop_at

    def _outbox_of_journal(self) -> Outbox | None:
        """Made once there is a journal."""
        given = self._destination
        if self._outbox is None and given is not None and self._root.is_dir():
            journal = make_identity(self._root)
            target = Target(given.storage, given.place, given.prefix, given.feed, journal)
            self._outbox = Outbox(
                self._root, target, given.rule, compressed=self._wanted.compress, lasting=given.lasting, say=say
            )
        return self._outbox

    # ---- local files -------------------------------------------------------------------------------------------------

    def _archive_all(self, go_on: archiver.GoOn) -> None:
        for segment in archiver.unfinished(self._listing.segments(), self._wanted, known=self._done):
            if not self._is_damaged(segment) and not self._archive(segment, go_on):
                break

    def _is_damaged(self, segment: Segment) -> bool:
        return isinstance(self._failed.get(segment.path), DamageError)

    def _archive(self, segment: Segment, go_on: archiver.GoOn) -> bool:
        began = time.monotonic()
        try:
            if not archiver.archive(segment, self._wanted, go_on):
                return False
        except SsmdError as error:
            self._tell(segment, error)
            return True
        self._failed.pop(segment.path, None)
        say("archived", segment=archiver.name_of(segment), seconds=round(time.monotonic() - began, 3))
        return True

    def _tell(self, segment: Segment, error: SsmdError) -> None:
        """A failure, unless it is the one that was told before: on a full disk it comes again each second."""
        if str(self._failed.get(segment.path)) != str(error):
            say("not archived", level="error", segment=str(segment.path), reason=str(error))
        self._failed[segment.path] = error

    def _forget_gone(self) -> None:
        """Failures of segments that somebody has taken away."""
        if self._failed:
            here = {segment.path for segment in self._listing.segments()}
            self._failed = {path: error for path, error in self._failed.items() if path in here}

    def _manifests(self, deadline: float) -> None:
        """Manifests for what was sealed while we were being stopped, newest first."""
        only_manifests = replace(self._wanted, compress=False)
        for segment in reversed(archiver.pending([self._root], only_manifests)):
            if time.monotonic() > deadline or self._is_damaged(segment):
                continue
            try:
                archiver.archive(segment, only_manifests)
            except SsmdError as error:
                self._tell(segment, error)

    # ---- how far -----------------------------------------------------------------------------------------------------

    def _judge(self, sealed: list[Segment]) -> Standing:
        """The last record that is done with, and the last that could be: all in the order of the journal."""
        outbox, number, end, waits = self._outbox, 0, 0, 0
        if outbox is not None:
            number = end = outbox.cursor
        for segment in sealed:
            last, received_ns = self._fact(segment)
            end = max(end, last)
            done = last > 0 and (outbox is None or outbox.mark(segment) is not None)
            if done and not waits:
                number = max(number, last)
            elif not done and not waits:
                waits = received_ns or segment.start_ns or 1
        return Standing(number, end, waits)

    def _fact(self, segment: Segment) -> tuple[int, int]:
        """Of the manifest; (0, 0) while there is none."""
        known = self._facts.get(segment.stem)
        if known is None:
            try:
                held = manifest.read(manifest.path_of(segment))
            except (OSError, DamageError):
                return 0, 0
            known = int(held.get("last_number") or 0), int(held.get("last_recv_ns") or 0)
            self._facts[segment.stem] = known
        return known
