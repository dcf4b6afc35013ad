"""Records from a bus, in the order of each journal; with journal files at hand, without a hole.

A stream keeps some time back, and a bus may be away; the files have all of their own journal. So a journal whose files
are here has two ways to come, and changes between them at a position that both know, the number of a record:

    REPLAY   records come from the files; what the stream gives meanwhile is only looked at
       |  the stream gives what follows the last record from the files: nothing between the two can be missing
       v
    LIVE     records come from the stream (`order.Sequencer` puts them in order)
       |  numbers are missing, or the bus cannot be reached
       '-> REPLAY, from the next number on

Files that do not reach to where the stream is (copies of another machine) are left behind after PATIENCE_S: what the
stream has from there on is read from its place in the stream, and what neither has is told as missing. A journal
without files is always LIVE. Whatever was given is never given again: numbers only rise.

Not for: waiting and ending (`ssmd.consumer.Tail`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ssmd.consumer.files import FileTail, missing
from ssmd.consumer.order import Missing, Parts, Sequencer
from ssmd.consumer.record import Gate, TailRecord, Wanted, records_in
from ssmd.errors import DamageError, LaggedError, MissingStreamError, SsmdError, UnavailableError
from ssmd.journal.paths import find
from ssmd.middleware.interfaces import Delivery, Start, Subscription, Transport
from ssmd.middleware.names import BEFORE_HEADER, Published, published
from ssmd.native.walk import ViewReader

PATIENCE_S = 2.0  # for files: what the stream has was in the files before
SETTLE_S = 0.5  # nothing came for so long: what waits for its beginning begins
DELIVERIES_A_STEP = 1000
TIME_MARGIN_NS = 60 * 10**9  # the bus has a clock of its own
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
TELL_EVERY_S = 30.0  # that the bus is away still
PROBE_S = 0.3  # for the answer of a stream; one that comes later only means a start further back than needed

Given = TailRecord | SsmdError


class BusTail:
    """What publishers put on a bus under `prefix`, from `start` on. `files`: folders of journals by their identities.

    Raises RejectedError where the bus refuses us; while it cannot be reached, `step` gives that error each half minute.
    A stream that is not there yet is waited for, and told once: all that it has when it comes is new.
    """

    def __init__(
        self,
        transport: Transport,
        prefix: str,
        start: Start,
        wanted: Wanted,
        *,
        journal: str | None = None,
        files: Mapping[str, Path] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._pattern = f"{prefix}.>"
        self._start = start
        self._wanted = wanted
        self._journal = journal
        self._monotonic = monotonic
        self._parts = Parts()
        self._views = ViewReader()
        self._channels: dict[str, _Channel] = {}
        self._subscription: Subscription | None = None
        self._from = Start.end()  # where to subscribe ...
        self._find_number = 0  # ... or, not 0: at this record of `journal`
        self._whole = False  # the stream was read from its very first message
        self._first_delivery = True
        self._failures = 0
        self._retry_at_s = self._tell_at_s = 0.0
        self._away: UnavailableError | None = None  # why there is no subscription; not told yet
        self._absent: MissingStreamError | None = None  # there is no stream yet; told
        self._last_delivery_s = monotonic()
        self._settled = False
        self._files = {name: root for name, root in (files or {}).items() if journal in (None, name)}
        for name, root in self._files.items():
            if start.at != "end" and not self._stream_has_more(name, root):
                self._channels[name] = _Channel(name, start, wanted, root, replay=True, monotonic=monotonic)
        if journal is None or journal not in self._channels:  # else what the stream had before now is in the files
            self._begin_at_start()
        self._connect()

    def step(self, timeout_s: float) -> Iterator[Given]:
        """What came by now, waiting at most `timeout_s` for something; a bounded piece of it."""
        for channel in self._channels.values():
            yield from channel.replay()
        yield from self._receive(0.0 if self.moved else timeout_s)
        for channel in self._channels.values():
            place = channel.give_up_files()
            if place is not None:
                self._move_to(channel.name, place)

    @property
    def moved(self) -> bool:
        """There may be more at once, although nothing was given."""
        return any(channel.moved for channel in self._channels.values())

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._unsubscribe()
        self._transport.close()

    # ---- the stream --------------------------------------------------------------------------------------------------

    def _begin_at_start(self) -> None:
        start = self._start
        if start.at == "time":
            self._from = Start.time(max(start.value - TIME_MARGIN_NS, 0))
        elif start.at == "number":
            self._from = Start.beginning()
            self._find_number = start.value if self._journal is not None else 0
        else:
            self._from = start

    def _stream_has_more(self, name: str, root: Path) -> bool:
        """Whether the stream has older records of a journal than its files, which retention has cut."""
        segments = find([root], must_exist=False)
        oldest = segments[0].first_number if segments else 0
        if oldest <= 1 or (self._start.at == "number" and self._start.value >= oldest):
            return False
        try:
            first = self._number_from(1, name)
        except (UnavailableError, MissingStreamError):
            return False
        return first is not None and first < oldest

    def _connect(self) -> None:
        """Subscribes; while the bus is away there is no subscription, and `_receive` tells it and tries again."""
        self._away = None
        try:
            if self._find_number and self._journal is not None:
                self._from = self._find(self._journal, self._find_number)
                self._find_number = 0
            self._subscription = self._transport.subscribe(self._pattern, start=self._from)
            self._absent = None
        except UnavailableError as error:
            self._subscription, self._away = None, error
        except MissingStreamError as error:
            self._subscription, self._away = None, UnavailableError("the bus cannot be read")
            self._await_stream(error)

    def _await_stream(self, error: MissingStreamError) -> None:
        if self._absent is None:
            self._absent = error
            self._away = UnavailableError(str(error.args[0]), hint=error.hint, evidence=error.evidence)
            self._failures = 0  # whatever it was before: this is told
        if self._start.at == "end":
            self._start = self._from = Start.beginning()

    def _move_to(self, journal: str, number: int) -> None:
        """Goes on where the stream has this record. Other journals see again what they had, and drop it."""
        self._unsubscribe()
        try:
            self._from = self._find(journal, number)
        except (UnavailableError, MissingStreamError):
            self._from = Start.beginning()
        self._connect()

    def _find(self, journal: str, number: int) -> Start:
        """A place in the stream that is not behind the first message with this record or a later one.

        By halving: for a place, the next message of that journal says on which side the record is.
        """
        low, high = 1, 2  # nothing wanted before low; high is behind it, or not known to be
        while (found := self._number_from(high, journal)) is not None and found < number:
            low, high = high, high * 2
        while high - low > DELIVERIES_A_STEP:
            middle = (low + high) // 2
            found = self._number_from(middle, journal)
            if found is not None and found < number:
                low = middle
            else:
                high = middle
        return Start.number(low) if low > 1 else Start.beginning()

    def _number_from(self, place: int, journal: str) -> int | None:
        """Last number of the first message of a journal from a place in the stream on; None where there is none."""
        subscription = self._transport.subscribe(self._pattern, start=Start.number(place))
        try:
            while True:
                try:
                    delivery = subscription.next(PROBE_S)
                except LaggedError:
                    continue
                if delivery is None:
                    return None
                what = published(delivery.message.message_id)
                if what is not None and what.journal == journal:
                    return what.last
        finally:
            subscription.unsubscribe()

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                subscription.unsubscribe()
            except SsmdError:
                pass  # it is not ours any more, whatever the bus says

    def _receive(self, timeout_s: float) -> Iterator[Given]:
        for _ in range(DELIVERIES_A_STEP):
            try:
                delivery = self._next(timeout_s)
            except UnavailableError as error:
                yield from self._failed(error, timeout_s)
                return
            if delivery is None:
                break
            timeout_s = 0.0
            self._failures, self._settled = 0, False
            self._last_delivery_s = self._monotonic()
            if self._first_delivery:
                self._first_delivery = False
                self._whole = self._from.at == "beginning" and delivery.sequence == 1
            yield from self._take(delivery)
        else:
            return
        if not self._settled and self._monotonic() - self._last_delivery_s >= SETTLE_S:
            self._settled = True
            for channel in self._channels.values():
                yield from channel.settle()

    def _next(self, timeout_s: float) -> Delivery | None:
        if self._subscription is None:
            if self._monotonic() < self._retry_at_s:
                time.sleep(min(timeout_s, max(self._retry_at_s - self._monotonic(), 0.0)))
                return None
            if self._away is None:
                self._connect()
            if self._subscription is None:
                away, self._away = self._away, None
                raise away or UnavailableError("the bus cannot be reached")
        while True:
            try:
                return self._subscription.next(timeout_s)
            except LaggedError:
                continue  # numbers say what is missing, and of which journal

    def _failed(self, error: UnavailableError, timeout_s: float) -> Iterator[Given]:
        """The bus is away: told now and then; journals that have files go on with them."""
        if not self._failures or (self._absent is None and self._monotonic() >= self._tell_at_s):
            self._tell_at_s = self._monotonic() + TELL_EVERY_S
            yield error
        if not self._failures:
            for channel in self._channels.values():
                channel.fall_back()
        pause_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._retry_at_s = self._monotonic() + pause_s
        self._failures += 1
        if not any(channel.replaying for channel in self._channels.values()):
            time.sleep(min(pause_s, timeout_s))

    def _take(self, delivery: Delivery) -> Iterator[Given]:
        found = self._parts.whole(delivery.message)
        if found is None or self._journal not in (None, found[0].journal):
            return
        what, payload = found
        channel = self._channels.get(what.journal)
        if channel is None:
            root, begin = self._files.get(what.journal), self._whole and self._start.at == "beginning"
            channel = _Channel(what.journal, self._start, self._wanted, root, whole=begin, monotonic=self._monotonic)
            self._channels[what.journal] = channel
        said = delivery.message.headers.get(BEFORE_HEADER, "")
        yield from channel.offer(what, payload, int(said) if said.isdigit() else what.first - 1, self._views)


class _Channel:
    """One journal: REPLAY while `replaying`, else LIVE. `whole`: its first message is the first that there ever was."""

    def __init__(
        self,
        name: str,
        start: Start,
        wanted: Wanted,
        root: Path | None,
        *,
        replay: bool = False,
        whole: bool = False,
        monotonic: Callable[[], float],
    ) -> None:
        self.name = name
        self._gate = Gate(start)
        self._wanted = wanted
        self._root = root
        self._monotonic = monotonic
        self._replay: FileTail | None = None
        self._last = 0  # number of the last record that was given, or passed over on purpose
        self._beyond = 0  # highest number that the stream gave and that was only looked at
        self._moved_s = monotonic()
        self._whole = whole
        self._sequencer: Sequencer[Given] = Sequencer(start.value if start.at == "number" else None)
        if replay:
            self._begin_replay(start)

    @property
    def replaying(self) -> bool:
        return self._replay is not None

    @property
    def moved(self) -> bool:
        """The last piece from the files was not empty: there may be more."""
        return self._replay is not None and self._replay.moved

    def close(self) -> None:
        if self._replay is not None:
            self._replay.close()
            self._replay = None

    # ---- REPLAY ------------------------------------------------------------------------------------------------------

    def replay(self) -> Iterator[Given]:
        """A bounded piece from the files."""
        replay, root = self._replay, self._root
        if replay is None or root is None:
            return
        for given in replay.step():
            if isinstance(given, SsmdError) or (given.view.number > self._last and self._gate.admits(given)):
                yield given
        position = replay.position(root)
        if position > self._last:
            self._last = position
            self._moved_s = self._monotonic()

    def fall_back(self) -> None:
        """To the files, if there are some."""
        number = self._sequencer.next
        if self._root is not None and self._replay is None and number is not None:
            self._last = number - 1
            self._begin_replay(Start.number(number), after=number - 1)

    def give_up_files(self) -> int | None:
        """The number that is wanted from the stream, where the files do not reach to what it has; None: all is well."""
        if self._replay is None or self._beyond <= self._last or self._monotonic() - self._moved_s < PATIENCE_S:
            return None
        self.close()
        self._root = None
        self._sequencer = Sequencer(self._last + 1)
        return self._last + 1

    def _begin_replay(self, start: Start, *, after: int = 0) -> None:
        assert self._root is not None
        self._replay = FileTail([self._root], start, self._wanted, proved_only=True, after=after)
        self._beyond = 0
        self._moved_s = self._monotonic()

    def _may_join(self, what: Published, before: int) -> bool:
        """Whether the stream has come to where the files are, and goes on there with this message or the next."""
        if what.last < self._last:
            return False
        if before <= self._last and self._beyond <= self._last:
            return True
        self._beyond = max(self._beyond, what.last)
        return False

    # ---- LIVE --------------------------------------------------------------------------------------------------------

    def offer(self, what: Published, payload: bytes, before: int, views: ViewReader) -> Iterator[Given]:
        """The records of one message from the stream."""
        if self._replay is not None:
            if not self._may_join(what, before):
                return
            self.close()
            self._sequencer = Sequencer(self._last + 1)
        records = records_in(self.name, payload, views)
        items: list[tuple[int, Given]]
        if what.kind is None:
            record = next(records, None)
            damage = f"{self.name}: a message of {len(payload)} bytes is no record"
            items = [(what.first, record if record is not None else DamageError(damage))]
        else:
            items = [(record.view.number, record) for record in records]
            if self._whole and self._sequencer.next is None:
                self._sequencer.next = before + 1
        yield from self._given(self._sequencer.offer(items, before=before, single=what.kind is None))

    def settle(self) -> Iterator[Given]:
        """Nothing came for a while. What waits for lost records would wait for the next message; files have them."""
        if self._replay is None:
            yield from self._given(self._sequencer.settle())
            if self._sequencer.waits:
                self.fall_back()

    def _given(self, items: Iterator[Given | Missing]) -> Iterator[Given]:
        admits, has = self._gate.admits, self._wanted.has
        for item in items:
            if isinstance(item, TailRecord):
                if admits(item) and has(item):
                    yield item
            elif isinstance(item, Missing):
                if self._root is not None:
                    self._last = item.first - 1
                    self._begin_replay(Start.number(item.first))
                    return  # what waits comes from the files too
                yield missing(self.name, item.first, item.last)
            else:
                yield item
