"""A rehearsal, step by step: what is compared, what is found, what is held, what is measured.

Journals are written by pycapnp alone (journal_writer); expected sizes are counted from them here, by the rules of the
publisher's page and of the NATS protocol. The whole, as a user runs it: tests/e2e/test_rehearse.py.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from journal_writer import Journal
from on_stream import Stored, journal_records

from ssmd import environment as env
from ssmd import publisher
from ssmd import rehearsal as under_test
from ssmd.archiver import outbox
from ssmd.archiver import service as archiver_service
from ssmd.errors import LimitError, UsageError
from ssmd.middleware.interfaces import Headers, Message, ObjectInfo, Receipt, Start
from ssmd.middleware.memory import MemoryCache, MemoryJournal, MemoryStorage, MemoryTransport
from ssmd.rehearsal import Parts, Rehearsal

IDENTITY = "kalshi-0123456789ab"
MODES = ("records", "batches", "both")
TEXT = """
name: small
feed: kalshi
schema: market_data:v1
exchange: {simulator: {}}
subscriptions: [{channels: [trade], all: true}]
transport: {type: memory}
storage: {type: memory}
cache: {type: memory}
journal: {type: memory}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power, nobody reads the log, and nobody is waited for who has nothing to give."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(archiver_service, "say", lambda *words, **fields: None)
    monkeypatch.setattr(under_test, "LAST_PATIENCE_S", 0.05)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "data" / "kalshi")
    made.root.mkdir(parents=True)
    (made.root / "journal.id").write_text(IDENTITY + "\n")
    return made


def environment(tmp_path: Path, *settings: str) -> env.Environment:
    machine = env.Machine(Path, None, lambda name: name == "UTC")
    given = [f"storage.path={tmp_path / 'data'}", *settings]
    return env.parse(TEXT, machine, source="small.yaml", stem="small", overrides=given)


def parts(**changed: Any) -> Parts:
    made: dict[str, Any] = {
        "bus": MemoryTransport(), "storage": MemoryStorage(), "cache": MemoryCache(), "journal": MemoryJournal(),
    }  # fmt: skip
    return Parts(**made | changed)


@pytest.fixture
def rehearse(tmp_path: Path) -> Iterator[Callable[..., Rehearsal]]:
    made: list[Rehearsal] = []

    def begin(*settings: str, scratch: bool = False, **changed: Any) -> Rehearsal:
        found = environment(tmp_path, *settings)
        root = found.storage.path / "kalshi"
        made.append(
            Rehearsal(found, root, IDENTITY, parts(**changed), scratch=scratch, log=lambda *words, **fields: None)
        )
        return made[-1]

    yield begin
    for rehearsal in made:
        rehearsal.close()


def finish(rehearsal: Rehearsal) -> bool:
    return rehearsal.finish(time.monotonic() + 30)


def fill(journal: Journal, segments: int = 2, groups: int = 2, trades: int = 6) -> list[Stored]:
    for _ in range(segments):
        for _ in range(groups):
            for i in range(trades):
                journal.trade(i + 1, market=f"M-{i % 3}")
                journal.delta(i + 1, "bid", 4500, 100, market="KX.A")
            journal.ticker()
            journal.checkpoint()
        journal.seal()
    return journal_records(journal.root.parent)


# ---- all is well -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_record_is_found_equal_in_every_copy(
    journal: Journal, rehearse: Callable[..., Rehearsal], mode: str
) -> None:
    stored = fill(journal)
    rehearsal = rehearse(f"transport.publish={mode}")
    assert finish(rehearsal)
    report = rehearsal.report()
    assert (report.number, report.end, report.trouble) == (stored[-1].number, stored[-1].number, None)
    assert (report.counters["differing"], report.counters["segments"]) == (0, 2)
    assert (report.counters["published"], report.counters["uploaded"]) == (len(stored), len(stored))


@pytest.mark.parametrize("window", [1, 3, 5, 20])
@pytest.mark.parametrize("mode", MODES)
def test_what_of_the_next_group_is_there_already_waits_for_its_turn(
    journal: Journal, rehearse: Callable[..., Rehearsal], mode: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window of messages seldom ends where a group does: the consumer has records then that are not due yet."""
    monkeypatch.setattr(publisher, "WINDOW_MESSAGES", window)
    last = fill(journal, groups=3)[-1].number
    rehearsal = rehearse(f"transport.publish={mode}")
    assert finish(rehearsal)
    report = rehearsal.report()
    assert (report.number, report.trouble, report.counters["differing"]) == (last, None, 0)
    assert rehearsal.held == {"records": 0, "messages": 0, "entries": 0, "objects": 0}


def test_a_record_larger_than_a_message_may_be_is_compared_as_a_whole(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    journal.entry("large", b"x" * 20_000)
    journal.seal()
    rehearsal = rehearse("transport.publish=both", bus=MemoryTransport(max_payload_bytes=4096))
    assert finish(rehearsal)
    assert rehearsal.report().counters["differing"] == 0
    assert rehearsal.report().counters["parts"] == 10  # five for the record, five for the batch


def test_the_last_values_are_in_the_cache(journal: Journal, rehearse: Callable[..., Rehearsal]) -> None:
    fill(journal)
    cache = MemoryCache()
    rehearsal = rehearse(cache=cache)
    finish(rehearsal)
    keys = set(cache.scan(""))
    assert keys == {f"ssmd:last:kalshi:{name}" for name in ("M-0", "M-1", "M-2", "KX.A")} | {
        f"ssmd:writer:kalshi:{IDENTITY}"
    }
    held = sum(len(key) + len(cache.get(key) or b"") for key in keys)
    counters = rehearsal.report().counters
    assert (counters["cache_keys"], counters["cache_bytes"]) == (5, held)


def test_what_comes_while_it_goes_on_is_compared_too(journal: Journal, rehearse: Callable[..., Rehearsal]) -> None:
    rehearsal = rehearse("transport.publish=both")
    rehearsal.step()
    assert rehearsal.report().number == 0
    for _ in range(3):
        last = fill(journal, segments=1)[-1].number
        while rehearsal.report().number < last:
            rehearsal.step()
    assert finish(rehearsal) and rehearsal.report().counters["segments"] == 3


# ---- differences -----------------------------------------------------------------------------------------------------

Tamper = Callable[[Message], list[Message]]


class TamperedBus(MemoryTransport):
    """Stores what `tamper` makes of each message, and confirms it in any case."""

    def __init__(self, tamper: Tamper) -> None:
        super().__init__()
        self._tamper = tamper

    def _store(self, message: Message) -> Receipt:
        for made in self._tamper(message):
            self._known.clear()
            super()._store(made)
        return Receipt(self._last)


def changed(message: Message) -> Message:
    flipped = bytes([message.payload[-1] ^ 1])
    return Message(message.subject, message.payload[:-1] + flipped, message.headers, message.message_id)


def tampering(with_id: Callable[[str], bool], made: Callable[[Message], list[Message]]) -> TamperedBus:
    return TamperedBus(lambda message: made(message) if with_id(str(message.message_id)) else [message])


@pytest.mark.parametrize("number", [1, 7, 26])  # the first of all, one in the middle, the last of a segment
@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda message: [], "missing"),
        (lambda message: [changed(message)], "different"),
        (lambda message: [message, message], "there twice"),
    ],
    ids=["lost", "changed", "doubled"],
)
def test_a_record_that_the_bus_spoils_is_named(
    journal: Journal, rehearse: Callable[..., Rehearsal], made: Any, told: str, number: int
) -> None:
    fill(journal)
    bus = tampering(lambda message_id: message_id == f"{IDENTITY}:{number}", made)
    rehearsal = rehearse(bus=bus)
    finish(rehearsal)
    report = rehearsal.report()
    assert f"the stream (records): record {number}: {told}" in str(report.trouble)
    assert report.counters["differing"] > 0


def test_a_batch_that_the_bus_loses_is_named_by_its_records(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    stored = fill(journal)
    trades = [record.number for record in stored if record.kind == "trade"][:6]  # those of the first group
    assert trades == [1, 3, 5, 7, 9, 11]
    bus = tampering(lambda message_id: message_id == f"{IDENTITY}:1-11:trade", lambda message: [])
    rehearsal = rehearse("transport.publish=batches", bus=bus)
    finish(rehearsal)
    trouble = str(rehearsal.report().trouble)
    assert "the stream (batches): records 1, 3, 5, 7, 9 and 1 more: missing" in trouble


def test_what_differs_much_is_told_in_a_few_words(journal: Journal, rehearse: Callable[..., Rehearsal]) -> None:
    """Of four groups of 13 all but the last record of each: 48 are missing in two copies; some are named."""
    fill(journal)
    lasts = {f"{IDENTITY}:{number}" for number in (13, 26, 39, 52)}
    rehearsal = rehearse(bus=tampering(lambda message_id: message_id not in lasts, lambda message: []))
    finish(rehearsal)
    report = rehearsal.report()
    assert report.counters["differing"] == 96
    assert "records 1 to 12, 14 to 25" in str(report.trouble)
    assert len(str(report.trouble)) < 400


def test_what_is_found_different_stays_told_while_the_rest_goes_on(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    last = fill(journal)[-1].number
    rehearsal = rehearse(bus=tampering(lambda message_id: message_id == f"{IDENTITY}:3", lambda message: []))
    assert finish(rehearsal), "all was compared, although not all is well"
    assert rehearsal.report().number == last
    assert "record 3" in str(rehearsal.report().trouble)


def test_a_record_that_the_consumer_s_journal_loses_is_named(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    class Losing(MemoryJournal):
        def append(self, topic: str, payload: bytes, headers: Headers | None = None) -> int:
            return 0 if dict(headers or {})["Ssmd-Number"] == "5" else super().append(topic, payload, headers)

    fill(journal)
    rehearsal = rehearse(journal=Losing())
    finish(rehearsal)
    assert "what a consumer of the stream received: record 5: missing" in str(rehearsal.report().trouble)


class SpoilingStorage(MemoryStorage):
    """Loses the segments themselves as soon as they are proved: `head` answers, `list` and `get` do not have them."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if info.key.endswith(".json"))


def test_an_object_that_the_store_loses_is_named_by_its_records(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    fill(journal, segments=1)
    rehearsal = rehearse(storage=SpoilingStorage())
    finish(rehearsal)
    trouble = str(rehearsal.report().trouble)
    assert trouble.startswith("the copies differ: the objects: records 1 to 26: missing; ")
    assert "the segment of this manifest is gone" in trouble


def test_a_store_that_has_no_room_is_told(journal: Journal, rehearse: Callable[..., Rehearsal]) -> None:
    fill(journal)
    rehearsal = rehearse(storage=MemoryStorage(max_bytes=100))
    assert not rehearsal.finish(time.monotonic() + 0.3)
    report = rehearsal.report()
    assert "more than the 100 bytes" in str(report.trouble)
    assert report.number == 0, "no record is in every copy"


def test_an_end_without_time_begins_no_work_and_says_what_is_left(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    fill(journal)
    storage = MemoryStorage()
    rehearsal = rehearse(storage=storage)
    assert not rehearsal.finish(time.monotonic())
    report = rehearsal.report()
    assert (report.number, report.end, report.trouble) == (0, 52, None)
    assert len(list(journal.folder.glob("*.capnp"))) == 2 and list(storage.list()) == []


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_held_of_what_was_compared(journal: Journal, rehearse: Callable[..., Rehearsal], mode: str) -> None:
    """Sixteen segments pass: at no step more is held than one of them has."""
    bus, kept, storage = MemoryTransport(), MemoryJournal(), MemoryStorage()
    rehearsal = rehearse(f"transport.publish={mode}", scratch=True, bus=bus, journal=kept, storage=storage)
    most: dict[str, int] = defaultdict(int)
    for _ in range(16):
        last = fill(journal, segments=1)[-1].number
        while rehearsal.report().number < last:
            rehearsal.step()
            for name, count in rehearsal.held.items():
                most[name] = max(most[name], count)
    assert finish(rehearsal) and rehearsal.report().counters["segments"] == 16
    assert most["records"] <= 26 and most["entries"] <= 26 and most["messages"] <= 26 + 6
    assert rehearsal.held == {"records": 0, "messages": 0, "entries": 0, "objects": 0}
    assert len(bus._stored) == 0 and len(bus._known) == 0
    assert list(storage.list()) == [] and storage._held_bytes == 0


def test_in_a_scratch_folder_segments_go_when_they_were_compared(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    fill(journal, segments=4)
    rehearsal = rehearse(scratch=True)
    finish(rehearsal)
    left = sorted(path.name.split("-")[1].split(".")[0] for path in journal.folder.glob("*.capnp*"))
    assert left == ["000000000079"], "the newest stays"


def test_in_a_folder_of_the_user_s_segments_stay(journal: Journal, rehearse: Callable[..., Rehearsal]) -> None:
    fill(journal, segments=4)
    finish(rehearse(scratch=False))
    assert len(list(journal.folder.glob("*.capnp.zst"))) == 4


def test_objects_that_were_compared_and_deleted_are_not_missed(
    journal: Journal, rehearse: Callable[..., Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archiver looks from time to time whether its copies are still there; here each time that it looks at all."""
    monkeypatch.setattr(outbox, "SPOT_EVERY_S", 0.0)
    storage = MemoryStorage()
    rehearsal = rehearse(storage=storage)
    for _ in range(3):
        fill(journal, segments=1)
        assert finish(rehearsal)
    report = rehearsal.report()
    assert (report.trouble, report.counters["segments"], report.counters["differing"]) == (None, 3, 0)
    assert list(storage.list()) == []


def test_a_segment_whose_object_differs_stays_to_be_looked_at(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    fill(journal, segments=3)
    rehearsal = rehearse(scratch=True, storage=SpoilingStorage())
    finish(rehearsal)
    assert len(list(journal.folder.glob("*.capnp.zst"))) == 3


def test_a_bus_that_forgets_gives_nothing_below_the_place_and_knows_no_id_of_it() -> None:
    bus = MemoryTransport(subjects=["md.>"])
    for i in range(4):
        bus.publish(Message("md.a", b"%d" % i, {}, f"id-{i}"))
    bus.forget(3)
    reader = bus.subscribe("md.>", start=Start.beginning())
    assert [reader.next(0.0).sequence, reader.next(0.0).sequence, reader.next(0.0)] == [3, 4, None]  # type: ignore[union-attr]
    assert bus.publish(Message("md.a", b"", {}, "id-0")) == Receipt(5)
    assert bus.publish(Message("md.a", b"", {}, "id-3")) == Receipt(4, duplicate=True)
    assert bus.last_sequence() == 5


def test_a_full_store_takes_nothing_more_until_something_is_deleted() -> None:
    store = MemoryStorage(max_bytes=10)
    store.put("a", b"123456")
    with pytest.raises(LimitError, match="more than the 10 bytes"):
        store.put("b", b"12345")
    store.put("a", b"1234567890")  # replaced: not added to what was there
    store.delete("a")
    store.delete("a")
    store.put("b", b"1234567890")
    assert [info.key for info in store.list()] == ["b"]


# ---- again -----------------------------------------------------------------------------------------------------------


def kill(rehearsal: Rehearsal, root: Path) -> None:
    """What it noted of its copies stays beside the journal."""
    noted = {path: path.read_bytes() for path in [root / "publisher.cursor", *root.glob("*/*.archived.json")]}
    rehearsal.close()
    for path, content in noted.items():
        path.write_bytes(content)


def test_a_journal_that_is_kept_says_nothing_of_copies_that_are_gone(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    """A publisher or archiver that finds it later begins with it as with any other."""
    fill(journal)
    rehearsal = rehearse()
    finish(rehearsal)
    rehearsal.close()
    left = {path.name for path in journal.root.iterdir() if path.is_file()}
    assert left <= {"journal.id", "publisher.lock", "archiver.lock"}
    assert {"".join(path.suffixes) for path in journal.folder.iterdir()} == {".capnp.zst", ".manifest.json"}


def test_a_helper_that_is_started_anew_copies_everything_again(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    last = fill(journal)[-1].number
    first = rehearse("transport.publish=both")
    finish(first)
    kill(first, journal.root)
    fill(journal, segments=1)
    again = rehearse("transport.publish=both")
    assert again.report().number == 0
    assert finish(again)
    assert (again.report().number, again.report().trouble) == (last + 26, None)
    assert again.report().counters["segments"] == 3


def test_a_helper_that_is_started_anew_goes_on_where_the_folder_begins(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    fill(journal, segments=3)
    first = rehearse(scratch=True)
    finish(first)
    kill(first, journal.root)
    again = rehearse(scratch=True)
    assert finish(again)
    report = again.report()
    assert (report.number, report.trouble, report.counters["segments"]) == (78, None, 1)
    assert (report.counters["published"], report.counters["uploaded"]) == (26, 26), "sizes are those of these"


def test_the_cursor_of_a_real_publisher_is_left_alone(journal: Journal, rehearse: Callable[..., Rehearsal]) -> None:
    fill(journal)
    cursor = journal.root / "publisher.cursor"
    text = (
        f'{{"number": 3, "sent": 3, "sequence": 3, "journal": "{IDENTITY}", "url": "nats://h", "stream": "SSMD", '
        '"prefix": "md", "publish": "records"}'
    )
    cursor.write_text(text)
    with pytest.raises(UsageError, match="published to another place"):
        rehearse()
    assert cursor.read_text() == text


# ---- sizes -----------------------------------------------------------------------------------------------------------


def header_of(message_id: str, **headers: object) -> bytes:
    """What a NATS client writes before the payload (docs of the NATS protocol: HPUB)."""
    lines = [f"Nats-Msg-Id: {message_id}", *(f"Ssmd-{name}: {value}" for name, value in headers.items())]
    return ("NATS/1.0\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def word(market: str) -> str:
    return market.replace(".", "_") or "_"


def test_messages_of_single_records_are_measured_with_their_headers(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    stored = fill(journal)
    rehearsal = rehearse()
    finish(rehearsal)
    counters = rehearsal.report().counters
    sizes = [len(record.raw) + len(header_of(f"{IDENTITY}:{record.number}")) for record in stored]
    assert counters["records_messages"] == len(stored)
    assert counters["records_bytes"] == sum(sizes)
    assert counters["largest_bytes"] == max(sizes)
    subjects = [f"md.{record.kind}.{word(record.market)}" for record in stored]
    assert counters["records_subject_bytes"] == sum(map(len, subjects))
    assert "batches_messages" not in counters


def batches_of(stored: Sequence[Stored], group: int, limit: int) -> Iterator[tuple[list[Stored], int]]:
    """The batches of groups of so many records, and the record before each group."""
    for at in range(0, len(stored), group):
        kinds: dict[str, list[Stored]] = {}
        for record in stored[at : at + group]:
            kinds.setdefault(record.kind, []).append(record)
        for records in kinds.values():
            for i in range(0, len(records), limit):
                yield records[i : i + limit], at


def test_batches_are_measured_with_their_headers(journal: Journal, rehearse: Callable[..., Rehearsal]) -> None:
    stored = fill(journal)
    rehearsal = rehearse("transport.publish=both", "transport.batch_records=4")
    finish(rehearsal)
    sizes = []
    for records, before in batches_of(stored, 13, 4):
        first, last = records[0].number, records[-1].number
        kind = records[0].kind
        names = {"Journal": IDENTITY, "First": first, "Last": last, "Count": len(records), "Before": before}
        header = header_of(f"{IDENTITY}:{first}-{last}:{kind}", **names)
        sizes.append(len(header) + sum(len(record.raw) for record in records))
    counters = rehearsal.report().counters
    assert (counters["batches_messages"], counters["batches_bytes"]) == (len(sizes), sum(sizes))
    assert counters["records_messages"] == len(stored)


def test_segments_are_measured_as_they_lie_on_the_disk(journal: Journal, rehearse: Callable[..., Rehearsal]) -> None:
    fill(journal)
    plain = sum(path.stat().st_size for path in journal.folder.glob("*.capnp"))
    rehearsal = rehearse()
    finish(rehearsal)
    counters = rehearsal.report().counters
    assert counters["plain_bytes"] == plain
    assert counters["segment_bytes"] == sum(path.stat().st_size for path in journal.folder.glob("*.capnp.zst"))
    assert counters["manifest_bytes"] == sum(path.stat().st_size for path in journal.folder.glob("*.manifest.json"))


def test_names_that_are_no_words_and_those_that_become_one_word_are_counted(
    journal: Journal, rehearse: Callable[..., Rehearsal]
) -> None:
    for market in ("PLAIN-1", "A.B", "A:B", "A_B", "C D", "C D"):
        journal.trade(1, market=market)
    journal.seal()
    rehearsal = rehearse()
    finish(rehearsal)
    counters = rehearsal.report().counters
    assert (counters["markets"], counters["changed_names"], counters["shared_names"]) == (5, 3, 2)
