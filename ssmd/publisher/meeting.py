"""What a publisher finds when it comes to the bus: whose stream that is, and what of our journal it has.

The cursor says what was published, the stream what is there. Where the two do not fit, one of them is not what it was:

    the stream was made anew, or is of an older backup    `changed`: what it has of our journal at its end says where to
                                                          go on (`End`), so that it lacks nothing and keeps its order
    it has records of our journal that the journal does   `refuse_other_content`: the journal is of an older backup, and
    not have, or that are others there                    its numbers are on the bus with other content
    the cursor is ahead of the journal                    `refuse_ahead`: the same, and no bus need be asked

A stream that has removed old messages by its limits is none of these: what is not there says nothing.

Not for: sending (`ssmd.publisher`), the cursor file (`cursor`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ssmd.errors import ConflictError, UsageError
from ssmd.journal.follow import Follower
from ssmd.journal.pieces import records_in
from ssmd.middleware import names
from ssmd.middleware.interfaces import Delivery, Start, Transport
from ssmd.middleware.stored import IDLE_S, stored_now
from ssmd.publisher import cursor as cursors
from ssmd.publisher.cursor import Cursor
from ssmd.publisher.end import JournalEnd
from ssmd.publisher.plan import Held, Mode

OTHER_CONTENT = (
    "Bring back the missing segments. Where they are lost: remove publisher.cursor and journal.id from that folder "
    "while nothing runs; its records are then published as those of another journal."
)


_KEPT = 10_000  # messages, at least, before those that are not needed are forgotten


def _nothing() -> None:
    """Nobody wants to know."""


def published_of(
    bus: Transport,
    prefix: str,
    journal: str | None,
    start: Start,
    *,
    idle_s: float = IDLE_S,
    on_message: Callable[[], None] = _nothing,
) -> Iterator[tuple[names.Published, Delivery]]:
    """What publishers have stored on a bus, in its order from `start` to its present end: of one journal, or of all.

    Others may publish all the while: what comes after the call is not waited for. Messages that the bus itself has
    given up (its limits) are not there and no error. UnavailableError as in `next`. `on_message` is called for each
    message that comes, whoever's it is.
    """
    for delivery in stored_now(bus, start, idle_s=idle_s):
        on_message()
        what = names.published(delivery.message.message_id)
        if what is not None and journal in (None, what.journal) and delivery.message.subject.startswith(f"{prefix}."):
            yield what, delivery


# ---- the stream ------------------------------------------------------------------------------------------------------


def changed(bus: Transport, stream: str, journal: str, cursor: Cursor, *, idle_s: float = IDLE_S) -> str | None:
    """Why the stream is not the one that the cursor is of, or not all of it; None: nothing shows that.

    What stands in the place `newest` tells of everything before it: a stream loses its end, and nothing in between.
    """
    created, last, newest = bus.stream_created(), bus.last_sequence(), cursor.newest
    if cursor.created and created != cursor.created:
        return (
            f"stream {stream} is another one now, made at {created}: records up to {cursor.number:,} were published to "
            f"the one made at {cursor.created}"
        )
    if last < newest:
        where = f"it ends at {last:,}, and {newest:,} was confirmed"
        return f"stream {stream} has lost messages that it had confirmed: {where}"
    if not newest:
        return None
    there = next(stored_now(bus, Start.number(newest), idle_s=idle_s), None)
    if there is None or there.sequence > newest:
        return None  # its limits took it
    what = names.published(there.message.message_id)
    if what is not None and what.journal == journal and what.first <= cursor.sent:
        return None
    return (
        f"stream {stream} has another message in place {newest:,} than the one that it had confirmed: it was "
        "brought back from a backup, and has grown since"
    )


class End:
    """What stands at the end of a stream, of one journal: fed its messages in their order."""

    def __init__(self, mode: Mode, limit: int) -> None:
        """`limit`: the cursor. Nothing beyond it is called whole."""
        self._mode = mode
        self._limit = limit
        self._first = 0  # single record
        self._singles = 0  # all records up to here were sent by themselves
        self._groups: int | None = None  # all groups up to here were sent as batches
        self._kept: list[tuple[str, names.Published]] = []
        self._most = _KEPT

    def add(self, what: names.Published, delivery: Delivery) -> None:
        if what.kind is None:
            self._first = self._first or what.first
            self._singles = max(self._singles, what.first - 1)
        else:
            said = delivery.message.headers.get(names.BEFORE_HEADER, "")
            self._groups = max(self._groups or 0, int(said) if said.isdigit() else what.first - 1)
        self._kept.append((str(delivery.message.message_id), what))
        if len(self._kept) > self._most:
            self._kept = self._beyond()
            self._most = 2 * len(self._kept) + _KEPT

    @property
    def nothing(self) -> bool:
        return not self._first and self._groups is None

    @property
    def whole(self) -> int:
        """Every record up to here was sent before the end: what is missing of them is gone by the stream's limits."""
        singles = self._mode == "records" and self._first
        if singles or self._groups is None:  # of a group of batches that is not there, its singles may be
            whole = self._first - 1 if self._mode == "both" else self._singles
        else:
            whole = self._groups
        return min(whole, self._limit)

    @property
    def held(self) -> Held:
        """What is there beyond `whole`."""
        held = Held()
        for message_id, what in self._beyond():
            held.add(message_id, what)
        return held

    def _beyond(self) -> list[tuple[str, names.Published]]:
        whole = self.whole
        return [kept for kept in self._kept if kept[1].last > whole]


# ---- the journal -----------------------------------------------------------------------------------------------------


def refuse_ahead(cursor: Cursor, end: JournalEnd, root: Path, *, patience_s: float = 0.0) -> None:
    """UsageError when the cursor is ahead of the journal: its numbers would be given to other records.

    Numbers up to `unproved` are not: they may have been lost with a ring, and the recorder goes on behind them, unless
    the run before ended as asked, and so lost nothing. `patience_s`: for the recorder to write them after all.
    """
    lost = cursor.number <= cursor.unproved
    deadline = time.monotonic() + (patience_s if lost else 0.0)
    while cursor.number > (last := max(end.number(), end.in_files())):
        if lost and not _stopped(root, last):
            return
        if time.monotonic() >= deadline:
            raise UsageError(
                f"{cursors.path_of(root)}: records up to {cursor.number} were published, but the journal {root} ends "
                f"at {last}: it is older than the cursor (a backup that was brought back?), and what is recorded now "
                "gets numbers that are on the bus already, with other content",
                hint=OTHER_CONTENT,
            )
        time.sleep(0.1)


def _stopped(root: Path, number: int) -> bool:
    """Whether a run ended as asked with this record, the last one of the journal."""
    follower = Follower([root], start=Start.number(number))
    try:
        last = next((r for r in follower.step() if r.kind != "checkpoint"), None)
        return last is not None and last.kind == "connection" and last.json()["what"] == "stopped"
    finally:
        follower.close()


class Newest:
    """The record with the highest number that a bus has of a journal, as far as it came whole."""

    def __init__(self) -> None:
        self.number = 0
        self.raw = b""

    def add(self, what: names.Published, payload: bytes) -> None:
        if what.part is not None or what.last <= self.number:
            return
        try:
            for number, _, raw in records_in(payload):
                if number > self.number:
                    self.number, self.raw = number, raw
        except ValueError:
            return  # whatever it is, it is not a publisher's


def refuse_other_content(newest: Newest, root: Path, journal: str, *, unproved: int) -> None:
    """ConflictError when the bus has a record that the journal does not reach to, or has with other content.

    Records up to `unproved` may have been lost with a ring; their numbers are given to no others.
    """
    follower = Follower([root], start=Start.number(newest.number))
    try:
        found = next((r for r in follower.step() if r.kind != "checkpoint"), None)
    finally:
        follower.close()
    if found is None:
        if newest.number <= unproved:
            return
        what = f"the journal {root} does not reach to it"
    elif found.view.number == newest.number and found.raw != newest.raw:
        what = f"the journal {root} has another record of that number"
    else:
        return  # the same, or it is not here any more
    raise ConflictError(
        f"the bus has record {newest.number} of journal {journal}, and {what}: the journal is older than what was "
        "published of it (a backup that was brought back, or a copy that is recorded elsewhere), and its numbers are "
        "on the bus already, with other content",
        hint=OTHER_CONTENT,
    )
