"""What was published before it was proved and is then lost: its numbers are given to no other records."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flaky_bus import FlakyBus
from journal_writer import Journal

from ssmd import host
from ssmd.connector import Connector
from ssmd.errors import UsageError
from ssmd.journal.identity import IDENTITY as IDENTITY_FILE
from ssmd.journal.paths import OPEN, find
from ssmd.journal.published import last_unproved
from ssmd.journal.reader import Reader
from ssmd.journal.untold import UNTOLD
from ssmd.publisher import UNPROVED_RESERVE_RECORDS, Options, Publisher, cursor, move
from ssmd.publisher.cursor import Cursor, Target
from ssmd.store import Store

IDENTITY = "kalshi-0123456789ab"
TARGET = Target(IDENTITY, "nats://127.0.0.1:4222", "SSMD", "md", "records")
ENVIRONMENT = """
name: lost
feed: kalshi
schema: market_data:v1
max_frame_bytes: 65536
exchange: {simulator: {}}
subscriptions: [{channels: [trade], all: true}]
storage: {path: data}
ring: {path: ring, size_bytes: 262144}
flusher: {nap_us: 100, sync_interval_ms: 10}
"""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Records 1 to 3 are proved, 4 to 6 are not, and the ring that had them is gone."""
    made = Journal(tmp_path / "data" / "kalshi")
    for number in range(1, 7):
        made.trade(number)
        if number == 3:
            made.checkpoint()
    made.write(OPEN)
    (made.root / IDENTITY_FILE).write_text(IDENTITY + "\n")
    return made


def publisher(
    journal: Journal,
    bus: FlakyBus,
    *,
    durable_only: bool,
    killed: bool = False,
    log: Callable[..., None] = lambda *_, **__: None,
) -> Publisher:
    """All is published. `killed`: before the cursor file says more than what may have been sent."""
    options = Options("md", durable_only=durable_only)
    made = Publisher(journal.root, bus, TARGET, options, scan_idle_s=0.0, log=log)
    for second in range(100):
        if made.step(0.0 if killed else 10.0 * second) > 0:
            return made
    raise AssertionError("it never came to an end")


def store(journal: Journal) -> Iterator[Store]:
    """As a recorder opens it."""
    folder = journal.root.parent.parent
    file = folder / "lost.yaml"
    file.write_text(ENVIRONMENT)
    made = Store(host.load(file, [f"storage.path={folder / 'data'}", f"ring.path={folder / 'ring'}"]))
    yield made
    made.close(time.monotonic() + 10)


def record(journal: Journal) -> bytes:
    other = Journal(journal.root / "other")
    other.trade(1000)
    return other.data


def begin_records(journal: Journal, opened: Store) -> None:
    """The first records of a run, as the recorder makes them."""
    folder = journal.root.parent.parent
    environment = host.load(folder / "lost.yaml", [f"storage.path={folder / 'data'}", f"ring.path={folder / 'ring'}"])
    connector = Connector(environment, host.secret_reader(environment), environment_arguments=())
    connector._store = opened
    connector._begin_records(opened)


# A recorder that is killed once it has pushed so many records; -1: when the files are cut and no ring is made yet.
KILLED = """
import os, signal, sys
from pathlib import Path
from ssmd import host, store
from ssmd.connector import Connector
folder, pushes = Path(sys.argv[1]), int(sys.argv[2])
environment = host.load(folder / "lost.yaml", [f"storage.path={folder / 'data'}", f"ring.path={folder / 'ring'}"])
class Killed(store.Ring):
    @classmethod
    def create(cls, *arguments):
        os.kill(os.getpid(), signal.SIGKILL)
if pushes < 0:
    store.Ring = Killed
opened = store.Store(environment)
connector = Connector(environment, host.secret_reader(environment), environment_arguments=())
connector._store = opened
real, left = opened.push, [pushes]
def push(data):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return real(data)
opened.push = push
connector._begin_records(opened)
"""


def killed(journal: Journal, pushes: int) -> None:
    folder = journal.root.parent.parent
    (folder / "lost.yaml").write_text(ENVIRONMENT)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(pushes)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize("lost_again", [False, True], ids=["the ring stays", "the ring is lost again"])
@pytest.mark.parametrize("kills", [[-1], [0], [1], [2], [3], [-1, -1, 0, 0, 1, 1]], ids=str)
def test_killed_before_it_is_told_what_was_lost_is_told_once(
    journal: Journal, kills: list[int], lost_again: bool
) -> None:
    publisher(journal, FlakyBus(), durable_only=False)
    for pushes in kills:
        killed(journal, pushes)
        if lost_again:
            (journal.root.parent.parent / "ring").unlink(missing_ok=True)
    for opened in store(journal):
        begin_records(journal, opened)
    found = [record.json() for record in Reader(find([journal.root])) if record.kind == "gap"]
    details = [gap["detail"] for gap in found if gap["cause"] == "damage"]
    assert sum("records 4 to 6 are lost" in detail for detail in details) == 1
    assert sum("no checkpoint proves what follows" in detail for detail in details if "-000000000001" in detail) == 1
    assert min(gap["number"] for gap in found) == 7
    assert not (journal.root / UNTOLD).exists()
    for opened in store(journal):
        assert (opened.found.cut, opened.found.withheld) == ((), None)


@pytest.mark.parametrize("clean", [True, False])
def test_numbers_that_were_published_unproved_are_not_given_to_other_records(journal: Journal, clean: bool) -> None:
    bus = FlakyBus()
    publisher(journal, bus, durable_only=False, killed=not clean)
    on_bus = [(message.message_id, message.payload) for message in bus.messages()]
    assert [message_id for message_id, _ in on_bus] == [f"{IDENTITY}:{number}" for number in range(1, 7)]
    for opened in store(journal):
        last = 6 if clean else 6 + UNPROVED_RESERVE_RECORDS
        assert opened.found.last_number == 3
        assert opened.found.withheld == (4, last)
        assert opened.push(record(journal)) == last + 1
    bus.forget_ids()
    again = publisher(journal, bus, durable_only=False)
    new = [(message.message_id, message.payload) for message in bus.messages()][len(on_bus) :]
    assert [message_id for message_id, _ in new] == [f"{IDENTITY}:{last + 1}"]
    assert again.report().trouble is None
    assert again.report().counters["missed"] == 0


def test_numbers_that_are_left_out_are_told_once_and_are_no_trouble(journal: Journal) -> None:
    bus = FlakyBus()
    publisher(journal, bus, durable_only=False, killed=True)
    for opened in store(journal):
        opened.push(record(journal))
    told: list[tuple[str, dict[str, object]]] = []
    made = publisher(journal, bus, durable_only=False, log=lambda event, **fields: told.append((event, fields)))
    assert made.report().trouble is None
    assert [fields for event, fields in told if "numbers that no record has" in event] == [
        {"first": 4, "last": 6 + UNPROVED_RESERVE_RECORDS}
    ]


def test_what_retention_took_is_told_also_where_numbers_were_sent_unproved(journal: Journal) -> None:
    journal.seal()
    for segment in journal.root.rglob("*.capnp*"):
        segment.unlink()
    journal.trade(7)
    journal.seal()
    cursor.save(journal.root, TARGET, Cursor(0, 20, 0, 20))
    made = publisher(journal, FlakyBus(), durable_only=False)
    assert made.report().counters["missed"] == 6
    assert "1 to 6 are gone from the journal" in str(made.report().trouble)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_publishing_only_what_is_proved_from_now_on_is_no_reason_to_refuse_what_was_lost(
    journal: Journal, clean: bool, recorded: bool
) -> None:
    """The hint of the log is followed while the recorder is up again, with and without a record of its own."""
    bus = FlakyBus()
    publisher(journal, bus, durable_only=False, killed=not clean)
    for opened in store(journal):
        assert opened.found.withheld is not None
        last = opened.push(record(journal)) if recorded else 0
        bus.forget_ids()
        if not recorded:
            publisher(journal, bus, durable_only=True)
    if recorded:
        publisher(journal, bus, durable_only=True)
        assert bus.messages()[-1].message_id == f"{IDENTITY}:{last}"


@pytest.mark.parametrize("durable_only", [True, False])
def test_a_backup_of_a_run_that_ended_as_asked_is_refused_also_where_numbers_were_sent_unproved(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, durable_only: bool
) -> None:
    """It lost nothing with a ring, so its recorder would give the numbers again."""
    monkeypatch.setattr("ssmd.publisher.CATCH_UP_S", 0.0)
    journal.event("stopped")
    journal.checkpoint()
    journal.write(OPEN)
    cursor.save(journal.root, TARGET, Cursor(20, 20, 20, 20))
    with pytest.raises(UsageError, match=r"the journal .* ends at 7: it is older than the cursor"):
        publisher(journal, FlakyBus(), durable_only=durable_only)


def test_what_is_published_only_when_it_is_proved_costs_no_numbers(journal: Journal) -> None:
    publisher(journal, FlakyBus(), durable_only=True, killed=True)  # it may have sent much more, and all of it proved
    assert last_unproved(journal.root) == 0
    for opened in store(journal):
        assert opened.found.withheld is None
        assert opened.push(record(journal)) == 4


def test_after_a_clean_end_of_the_recorder_no_number_is_held_back(journal: Journal) -> None:
    """The publisher was killed, and nothing of the journal was lost."""
    journal.event("stopped")
    journal.checkpoint()
    journal.write(OPEN)
    publisher(journal, FlakyBus(), durable_only=False, killed=True)
    assert last_unproved(journal.root) > 7
    for opened in store(journal):
        assert opened.found.withheld is None
        assert opened.push(record(journal)) == 8


def test_a_cursor_that_is_moved_still_knows_what_was_sent_unproved(journal: Journal) -> None:
    publisher(journal, FlakyBus(), durable_only=False)
    move(journal.root, TARGET, 1)
    assert last_unproved(journal.root) == 6
    move(journal.root, Target(IDENTITY, "nats://other:4222", "SSMD", "md", "records"), 1)
    assert last_unproved(journal.root) == 6


def test_a_cursor_of_before_says_nothing_of_unproved_records(journal: Journal) -> None:
    cursor.save(journal.root, TARGET, Cursor(6, 6, 6))
    path = cursor.path_of(journal.root)
    known = json.loads(path.read_text())
    del known["unproved"]
    path.write_text(json.dumps(known))
    assert last_unproved(journal.root) == 0
    assert cursor.load(journal.root, TARGET) == Cursor(6, 6, 6)


@pytest.mark.parametrize("text", ["", "[]", '{"unproved": "7"}', '{"unproved": true}', '{"unproved": -1}', "\x00"])
def test_a_cursor_that_cannot_be_read_holds_nothing_back(tmp_path: Path, text: str) -> None:
    (tmp_path / cursor.CURSOR).write_text(text)
    assert last_unproved(tmp_path) == 0


def test_a_gap_record_names_the_numbers_that_are_held_back(journal: Journal) -> None:
    publisher(journal, FlakyBus(), durable_only=False)
    for opened in store(journal):
        begin_records(journal, opened)
    found = [record.json() for record in Reader(find([journal.root])) if record.kind == "gap"]
    assert [gap["cause"] for gap in found] == ["damage", "damage", "outage"]  # these, what was cut off, the time
    assert [gap["number"] for gap in found] == [7, 8, 9]
    assert "records 4 to 6 are lost, and may be on a bus: their numbers are not given again" in found[0]["detail"]
