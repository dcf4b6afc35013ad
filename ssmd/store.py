"""The recording end of a run: ring, writer and flusher of one journal, opened in the order that loses nothing.

    ring file there, of this boot     go on with it: the flusher writes what a dead run left, numbers continue
    of another size than asked for    emptied into the files, then made anew
    ring gone, or of another boot     the segment files decide (ssmd.journal.recover), a new ring starts from them
    files shorter than committed      bytes were lost on disk: the files decide, what the ring still holds goes into a
                                      segment of its own, and the ring is made anew
    ring damaged                      set aside as {ring}.damaged, then as if it were gone; what it still holds that
                                      goes on where the files end is put behind them (ssmd.journal.salvage)

A clean end removes the ring: all it held is in sealed files then. One process holds a journal at a time; the locks of
the ring and of the journal's folder see to that. Not for: sockets, decoding, what a record means.
"""

from __future__ import annotations

import glob
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from ssmd import records
from ssmd.children import Child
from ssmd.environment import Environment
from ssmd.errors import DamageError, SsmdError, StorageError, UsageError
from ssmd.journal import untold
from ssmd.journal.files import replace_file
from ssmd.journal.identity import IDENTITY, known_identity, make_identity
from ssmd.journal.published import last_unproved
from ssmd.journal.recorder import RING_NOTE
from ssmd.journal.recover import Cut, Recovery, recover
from ssmd.journal.salvage import salvage
from ssmd.journal.untold import Untold
from ssmd.metrics import Reading
from ssmd.native import clock
from ssmd.native.failure import InUseError, MissingError, StaleError
from ssmd.native.flusher import Flusher, FlusherOptions, FlusherThread, Stop
from ssmd.native.ring import FlusherState, Resume, Ring, Role
from ssmd.native.wire import Connection, Writer
from ssmd.schedule import day_table
from ssmd.wire import WireConnection

T = TypeVar("T")

LEFTOVER_FLUSHER_S = 6.0  # a flusher that was asked to end has 5
LOSS_ALARM_NS = 60_000_000_000  # so long health tells of a loss


def flusher_options(environment: Environment, *, forget_segment: bool = False) -> FlusherOptions:
    """What of the environment concerns the flusher, wherever it runs."""
    flusher, schedule = environment.flushing, environment.schedule
    return FlusherOptions(
        root=journal_root(environment),
        sync_interval_ms=flusher.sync_interval_ms,
        sync_bytes=flusher.sync_bytes,
        rotate_minutes=flusher.rotate_minutes,
        rotate_bytes=flusher.rotate_bytes,
        nap_us=flusher.nap_us,
        days=day_table(schedule.timezone, schedule.day_start, around_ns=time.time_ns()),
        forget_segment=forget_segment,
    )


def journal_root(environment: Environment) -> Path:
    """The folder of the feed's journal."""
    return Path(environment.storage.path) / environment.feed


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that were written, and then taken away by somebody."""

    what: str
    since_ns: int  # receive time of the first, 0 = not known


class Store:
    """An open journal with its ring. Raises UsageError where another process has it or the folder cannot be written."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._log = structlog.get_logger()
        self._path = Path(str(environment.ring.path))
        self._root = journal_root(environment)
        _make_folders(self._root, self._path)
        self._untold = untold.load(self._root)  # what recoveries took, this one's included
        self.found = self._prepare()
        self._ring = Ring.open(self._path, environment.ring.size_bytes, role=Role.PRODUCER, create=False)
        self._note_ring()
        self.identity = make_identity(self._root)
        self._sweep()
        resume = self._ring.resume()
        self._writer = Writer(self._ring, self._take_up(resume.last_number))
        self._last_connection = resume.max_connection
        self._plain_counts: Counter[str] = Counter()  # of all the plain normalizer's connections
        before = self._ring.status()
        self._written_before = before.written_bytes
        self._losses_told = before.losses
        self._untracked_told = False
        self._lost_ns = 0  # when the last loss was seen, monotonic clock
        self._heartbeat = (0, 0)  # the flusher's, and since when we have seen this one, monotonic clock
        self._thread: FlusherThread | None = None
        if environment.flusher.mode == "thread":
            try:
                self._thread = self._start_thread()
            except BaseException:
                self._ring.close()
                raise

    # ---- start -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> Recovery:
        """Brings ring and files to a state that a writer and a flusher can go on from; says where that is."""
        try:
            with Ring.open(self._path, role=Role.PRODUCER, create=False) as ring:
                resume, capacity = ring.resume(), ring.capacity
                lacking = self._what_files_lack(ring)
            if lacking:
                return self._rescue(resume, lacking)
            if capacity != self._environment.ring.size_bytes:
                self._empty_ring()
                Ring.create(self._path, self._environment.ring.size_bytes, resume)
        except MissingError:
            return self._from_files(Resume())
        except StaleError:
            self._log.warning("the ring is from before the last boot: the files decide what was recorded")
            return self._from_files(Resume())
        except DamageError as error:
            return self._without_ring(error)
        return Recovery(resume.last_number, resume.last_recv_ns, resume.max_connection, resume.clean)

    # What a recovery took is noted before it is taken and until records on the disk tell it (ssmd.journal.untold): the
    # ring that it makes looks to the next start like that of any run.

    def _note_cut(self, cut: Cut) -> None:
        self._untold = self._untold.with_cut(cut)
        untold.save(self._root, self._untold)

    def _note_lost(self, last_number: int, last_recv_ns: int, *, clean: bool) -> None:
        """Before a ring is made from the files: what they are known to lack, and the numbers that are withheld."""
        left = self._untold.left(last_number)
        left = replace(left, last_recv_ns=left.last_recv_ns or last_recv_ns)
        self._untold = _withheld(left, last_number, 0 if clean else last_unproved(self._root))
        if self._untold:
            untold.save(self._root, self._untold)

    def _take_up(self, last_number: int) -> int:
        """Sets numbers aside for the records that tell what was lost. The last number that is not given any more."""
        known, left, start = self._untold, self._untold.left(last_number), last_number
        if known.is_numbered:
            start = max(last_number, known.first - 1)
        elif known:
            left = _withheld(left, last_number, 0)
            start = left.withheld[1] if left.withheld else last_number
            self._untold = left.numbered(start)
            untold.save(self._root, self._untold)
        if left.withheld:
            self._log.error(
                "records may be on the bus that the journal has lost: their numbers are not given again",
                first=left.withheld[0],
                last=left.withheld[1],
                hint="transport.durable_only: true publishes nothing that the journal can lose",
            )
        if left:
            self.found = replace(
                self.found, cut=left.cuts, withheld=left.withheld, lost_since_ns=left.last_recv_ns, clean=False
            )
        return start

    def _forget_told(self, durable_number: int) -> None:
        """Removes the note once the records that tell it are on the disk."""
        if self._untold and durable_number >= self._untold.last:
            self._untold = Untold()
            untold.remove(self._root)

    def _what_files_lack(self, ring: Ring) -> str:
        """Empty if the files hold all that the ring says they do.

        A killed run's flusher process may still be at work: it writes what the ring holds and ends by itself.
        """
        try:
            self._when_free(ring, lambda: Flusher.open(self._path, flusher_options(self._environment))).abandon()
        except DamageError as error:
            return str(error)
        return ""

    def _when_free(self, ring: Ring, opened: Callable[[], T]) -> T:
        """What `opened` gives, once the ring has no consumer; a consumer that stays is an InUseError."""
        deadline = time.monotonic() + LEFTOVER_FLUSHER_S
        while True:
            try:
                return opened()
            except InUseError:
                if not ring.owner(Role.CONSUMER) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _start_thread(self) -> FlusherThread:
        return self._when_free(self._ring, lambda: FlusherThread.start(self._path, flusher_options(self._environment)))

    def _from_files(self, known: Resume) -> Recovery:
        self._refuse_other_ring()
        found = recover(self._root, before_cut=self._note_cut)
        for cut in found.cut:
            self._untold = self._untold.with_cut(cut)
            self._log.error(
                "damaged bytes were cut off",
                segment=str(cut.segment),
                offset=cut.offset,
                bytes=cut.bytes,
                what=cut.what,
            )
        last_number = max(found.last_number, known.last_number)
        max_connection = max(found.max_connection, known.max_connection)
        clean = found.clean and known.clean and not self._untold.left(last_number)
        resume = Resume(last_number, max(found.last_recv_ns, known.last_recv_ns), max_connection, clean)
        self._note_lost(last_number, resume.last_recv_ns, clean=clean)
        Ring.create(self._path, self._environment.ring.size_bytes, resume)
        return Recovery(last_number, resume.last_recv_ns, max_connection, clean, found.cut)

    def _rescue(self, resume: Resume, lacking: str) -> Recovery:
        """The files were cut behind our back. Nothing that the ring still holds is given up for that."""
        self._log.error("the files lack bytes that were written to them", reason=lacking)
        cut = recover(self._root, before_cut=self._note_cut).cut or (Cut(self._root, 0, 0, lacking, None),)
        for one in cut:
            self._note_cut(one)
        self._empty_ring(forget_segment=True)
        again = self._from_files(replace(resume, clean=False))
        return replace(again, cut=(*cut, *again.cut))

    def _without_ring(self, error: DamageError) -> Recovery:
        """The ring itself cannot be believed: it is kept beside, and the files alone decide."""
        kept = self._path.with_name(self._path.name + ".damaged")
        kept.unlink(missing_ok=True)
        kept.hardlink_to(self._path)
        lost = Cut(self._path, 0, kept.stat().st_size, str(error), kept)
        try:
            self._note_cut(lost)
            found = self._from_files(Resume(clean=False))
        except SsmdError:
            kept.unlink()
            raise
        found, saved = self._salvaged(kept, found)
        self._log.error("the ring is damaged and set aside", reason=str(error), kept=str(kept), saved_records=saved)
        if saved:
            what = f"{lost.what}; its records up to {found.last_number} ({saved}) were taken back"
            told = replace(lost, what=what)
            self._untold = replace(self._untold, cuts=tuple(told if cut == lost else cut for cut in self._untold.cuts))
            lost = told
        return replace(found, cut=(lost, *found.cut))

    def _salvaged(self, kept: Path, found: Recovery) -> tuple[Recovery, int]:
        """Puts what a damaged ring still holds into the new one, from where it is written as all else."""
        saved = 0
        with Ring.open(self._path, role=Role.PRODUCER, create=False) as ring:
            for record in salvage(kept, found.last_number):
                try:
                    if not ring.push(record):
                        self._empty_ring()
                        if not ring.push(record):
                            break
                except (SsmdError, ValueError) as error:
                    self._log.error("not all of a damaged ring's records could be taken back", reason=str(error))
                    break
                saved += 1
            resume = ring.resume()
        if not saved:
            return found, 0
        self._untold = replace(self._untold, last_recv_ns=resume.last_recv_ns)
        found = replace(
            found,
            last_number=resume.last_number,
            last_recv_ns=resume.last_recv_ns,
            max_connection=resume.max_connection,
            clean=False,
        )
        return found, saved

    def _empty_ring(self, *, forget_segment: bool = False) -> None:
        """All that the ring holds, into sealed files."""
        with Flusher.open(self._path, flusher_options(self._environment, forget_segment=forget_segment)) as flusher:
            flusher.close(seal=True)

    # The ring that a journal's last records may wait in belongs to it, whatever ring.path an environment names.

    def _refuse_other_ring(self) -> None:
        try:
            path = Path((self._root / RING_NOTE).read_text("utf-8").rstrip("\n"))
            if path == self._path:
                return
            with Ring.open(path, role=Role.OBSERVER, create=False) as ring:
                recorder = ring.owner(Role.PRODUCER)
        except (FileNotFoundError, MissingError, StaleError):
            return
        if recorder:
            raise InUseError(
                f"storage.path: the journal {self._root} is in use: process {recorder} records into it",
                pid=recorder,
                hint="Stop that process first, or give this one a data folder of its own with --data DIR.",
            )
        raise UsageError(
            f"storage.path: the last records of the journal {self._root} wait in another ring, {path}",
            hint=f"Run once with --set ring.path={path}, or remove that file to do without them.",
        )

    def _note_ring(self) -> None:
        note, text = self._root / RING_NOTE, f"{self._path}\n".encode()
        try:
            if not note.exists() or note.read_bytes() != text:
                replace_file(note, text)
        except OSError as error:
            raise StorageError(f"{note}: cannot be written: {error.strerror}", hint="Free space first.") from error

    def _sweep(self) -> None:
        """Rings half made by runs that were killed in that instant: {ring}.{pid}.{count}.new"""
        for path in self._path.parent.glob(f"{glob.escape(self._path.name)}.*.new"):
            pid = path.name.removeprefix(self._path.name).split(".")[1]
            if not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)

    # ---- recording -------------------------------------------------------------------------------------------------

    def next_connection(self) -> int:
        self._last_connection += 1
        return self._last_connection

    def wire(self, connection: int) -> WireConnection:
        environment = self._environment
        keep_frames, yes_price = environment.flusher.keep_frames, environment.connector.use_yes_price
        if environment.normalizer == "python":
            from ssmd import normalizer  # 2.5 MB that the C path does without

            return normalizer.Connection(
                self._writer,
                connection=connection,
                stamp=_stamp,
                use_yes_price=yes_price,
                keep_frames=keep_frames,
                max_frame_bytes=environment.max_frame_bytes,
                limit_bytes=self._ring.limit,
                counts=self._plain_counts,
            )
        return Connection(
            self._writer,
            connection,
            max_frame_bytes=environment.max_frame_bytes,
            use_yes_price=yes_price,
            keep_frames=keep_frames,
        )

    def push(self, record: bytes) -> int:
        """The number that the record got, 0 when the ring is full."""
        return self._writer.push(record)

    @property
    def record_limit_bytes(self) -> int:
        """No larger record can be pushed."""
        return self._ring.limit

    def ticks(self) -> int:
        return clock.now_tsc()

    def anchor_record(self) -> bytes:
        """A ClockAnchor as of now, which also goes into the ring's header."""
        anchor = clock.anchor()
        ticks, now_ns = clock.stamp()
        self._ring.store_clock(
            ticks=anchor.ticks,
            wall_ns=anchor.wall_ns,
            ns_per_tick_q32=anchor.ns_per_tick_q32,
            source=int(anchor.source),
            uncertainty_ns=anchor.uncertainty_ns,
        )
        return records.clock_anchor(
            recv_ns=now_ns,
            recv_ticks=ticks,
            ticks=anchor.ticks,
            wall_ns=anchor.wall_ns,
            ns_per_tick_q32=anchor.ns_per_tick_q32,
            source=records.ClockSource(anchor.source),
            uncertainty_ns=anchor.uncertainty_ns,
        )

    # ---- looking ---------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Raises StorageError when the flusher's thread has ended by itself."""
        self._forget_told(self._ring.commit().durable_number)
        if self._thread is not None and self._thread.finished():
            raise StorageError(f"the flusher ended by itself: {self._thread.status().error or 'no error is known'}")
        if not self._untracked_told and self.counters()["untracked"]:
            self._untracked_told = True
            self._log.warning(
                "a socket has more subscriptions than sequence numbers are followed for: holes in the others are not "
                "seen while recording (ssmd verify finds them)",
                limit=1024,
            )

    def loss(self) -> Loss | None:
        """What somebody took from under the flusher since the last call. Puts the journal's own files back."""
        status = self._ring.status()
        if status.losses == self._losses_told:
            return None
        self._losses_told = status.losses
        self._lost_ns = time.monotonic_ns()
        try:
            self._note_ring()
            if known_identity(self._root) is None:
                replace_file(self._root / IDENTITY, f"{self.identity}\n".encode())
        except (SsmdError, OSError) as error:
            self._log.error("the journal's own files could not be made again", reason=str(error))
        what = f"{self._root} or the open segment in it was deleted, moved or replaced while it was written"
        if status.lost_last:
            what += f": records {status.lost_first} to {status.lost_last} are no longer there"
        return Loss(f"{what}; what was sealed before may be gone too", status.lost_since_ns)

    def flusher_trouble(self, heartbeat_limit_ns: int) -> str | None:
        """What is wrong with the flusher, in a sentence; None = nothing."""
        status = self._ring.status()
        if status.state == FlusherState.STALLED:
            stuck_s = max(time.time_ns() - status.error_since_ns, 0) / 1e9
            return f"cannot write for {stuck_s:.0f} s: {status.error}; the data waits in the ring"
        if status.state in (FlusherState.NONE, FlusherState.STARTING):
            return "is not running yet"
        if status.state == FlusherState.STOPPED:
            return "has stopped"
        if self._lost_ns and time.monotonic_ns() - self._lost_ns < LOSS_ALARM_NS:
            return "writes again, but the data folder was deleted or replaced under it: records are lost (see the log)"
        silent_ns = self._silent_ns(status.heartbeat_ns)
        return f"has not moved for {silent_ns / 1e9:.0f} s" if silent_ns > heartbeat_limit_ns else None

    def _silent_ns(self, heartbeat_ns: int) -> int:
        """For how long we have seen this heartbeat. It is UTC, which may be stepped: that it changes is what counts."""
        now_ns = time.monotonic_ns()
        if heartbeat_ns != self._heartbeat[0]:
            self._heartbeat = (heartbeat_ns, now_ns)
        return now_ns - self._heartbeat[1]

    def counters(self) -> Mapping[str, Any]:
        """What the decoder counted in this run, whichever of the two it was."""
        counted: dict[str, Any] = dict(self._writer.counters())
        for name, count in self._plain_counts.items():
            counted[name] += count
        return counted

    def markets(self, after: int, limit: int) -> tuple[dict[str, dict[str, int]], int]:
        """What each market had in this run: records, receive time and number of the last one; and how many there are.

        In the order of first sight: those behind the first `after`, at most `limit`.
        """
        page = {
            name: {
                "records": seen.records,
                "last_recv_ns": seen.last_recv_ns,
                "last_number": seen.last_number,
            }
            for name, seen in self._writer.activities(after, limit).items()
        }
        return page, self._writer.market_count

    def cursors(self) -> dict[str, int]:
        """Last record number in the ring, in the files, on the disk."""
        commit = self._ring.commit()
        return {"ring": self._writer.next_number - 1, "written": commit.last_number, "durable": commit.durable_number}

    def written_bytes(self) -> int:
        """Bytes written to files in this run."""
        return self._ring.status().written_bytes - self._written_before

    def ring_used_bytes(self) -> int:
        return self._ring.head - self._ring.tail

    def readings(self) -> dict[str, Reading]:
        counters, status = self.counters(), self._ring.status()
        return {
            "ssmd_frames_received": float(counters["frames"]),
            "ssmd_received_bytes": float(counters["bytes"]),
            "ssmd_records": {kind: float(count) for kind, count in counters["records"].items()},
            "ssmd_repeats": float(counters["repeats"]),
            "ssmd_untracked": float(counters["untracked"]),
            "ssmd_unknown_fields": float(counters["unknown_fields"]),
            "ssmd_unknown_types": float(counters["unknown_types"]),
            "ssmd_unknown_values": float(counters["unknown_values"]),
            "ssmd_malformed_fields": float(counters["malformed"]),
            "ssmd_ring_capacity_bytes": float(self._ring.capacity),
            "ssmd_ring_used_bytes": float(self.ring_used_bytes()),
            "ssmd_record_number": {cursor: float(number) for cursor, number in self.cursors().items()},
            "ssmd_written_bytes": float(status.written_bytes),
            "ssmd_segments_sealed": float(status.segments_sealed),
            "ssmd_files_lost": float(status.losses),
            "ssmd_syncs": float(status.syncs),
            "ssmd_sync_longest_seconds": status.longest_sync_ns / 1e9,
            "ssmd_flusher_error": float(status.sys_errno),
        }

    # ---- end -------------------------------------------------------------------------------------------------------

    def close(self, deadline: float, *, flusher_child: Child | None = None) -> bool:
        """Waits until `deadline` (time.monotonic) for all to be sealed. False: the rest waits in the ring."""
        done = self._child_sealed(flusher_child, deadline) if flusher_child is not None else self._sealed(deadline)
        done = done and self._ring.head == self._ring.tail
        loss = self.loss()
        if loss is not None:
            self._log.error("files were taken away at the end of the run: the next one records that", reason=loss.what)
        if done:
            self._forget_told(self._ring.commit().durable_number)
        if done and loss is None:
            self._path.unlink(missing_ok=True)  # while we hold its lock: nobody can have begun to use it
        elif not done:
            self._log.error(
                "not all could be written: the rest waits in the ring",
                ring=str(self._path),
                trouble=self._ring.status().error,
            )
        return done and loss is None

    def _child_sealed(self, child: Child, deadline: float) -> bool:
        """The same with a flusher process, which was asked to end. What a dead one left is done here."""
        if not child.wait(max(deadline - time.monotonic(), 0.1)):
            return False
        if child.exit_code == 0 and self._ring.head == self._ring.tail and self._ring.status().pid == child.pid:
            return True  # and it was the one that worked: who only waited for another to end has sealed nothing
        self._log.warning("the flusher did not finish its work: the recorder does it", exit_code=child.exit_code)
        try:
            self._thread = self._start_thread()
        except SsmdError as error:
            self._log.error("the flusher's work cannot be finished", reason=str(error))
            return False
        return self._sealed(deadline)

    def _sealed(self, deadline: float) -> bool:
        thread = self._thread
        assert thread is not None
        if not thread.stop(max(deadline - time.monotonic(), 0.1), seal=True):
            thread.request_stop(Stop.NOW)
            return False
        return thread.drained


def _withheld(left: Untold, last_number: int, on_bus: int) -> Untold:
    """`left` with the numbers that are not given any more: beyond them nothing of what was lost can be on a bus."""
    on_bus = max(on_bus, left.withheld[1] if left.withheld else 0)
    return replace(left, withheld=(last_number + 1, on_bus) if on_bus > last_number else None)


def _stamp() -> tuple[int, int]:
    ticks, now_ns = clock.stamp()
    return now_ns, ticks


def _make_folders(root: Path, ring: Path) -> None:
    """The folders of journal and ring; none is made if one of them cannot be."""
    if ring.is_dir():
        raise UsageError(f"ring.path: {ring} is a folder", hint="Name a file, with --set ring.path=FILE.")
    wanted = (
        (root, "storage.path", "Choose another with --data DIR, or change its owner or mode."),
        (ring.parent, "ring.path", "Choose another with --set ring.path=FILE, or change its owner or mode."),
    )
    for folder, key, hint in wanted:
        problem = _problem_of(folder)
        if problem:
            raise UsageError(f"{key}: {folder}: {problem}", hint=hint)
    for folder, key, hint in wanted:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{key}: {folder} cannot be made: {error.strerror}", hint=hint) from None


def _problem_of(folder: Path) -> str:
    """Why files cannot be made in a folder, which may not be there yet; empty if they can."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written by this user"
