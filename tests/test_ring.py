"""The ring's Python door: opening, making anew, and every refusal in words that help.

Positions, torn commits and crashes are tested in C (csrc/tests/test_ring.c).
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_writer import NOON, record

from ssmd.errors import DamageError, UsageError
from ssmd.native.failure import InUseError, MissingError, StaleError
from ssmd.native.ring import Commit, FlusherState, Resume, Ring, Role

BYTES = 65536
VERSION_AT, BOOT_ID_AT = 8, 32  # csrc/ring.h, header of version 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring"


@pytest.fixture
def ring(path: Path) -> Iterator[Ring]:
    with Ring.open(path, BYTES, role=Role.PRODUCER) as opened:
        yield opened


def gap(number: int, detail: str = "") -> bytes:
    return record("gap", {"detail": detail}, number=number, recvNs=NOON + number, connection=2)


def stopped(number: int) -> bytes:
    return record("connection", {"what": "stopped", "reason": "as asked"}, number=number, recvNs=NOON + number)


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_what_is_pushed_comes_out_once_and_in_order(ring: Ring, path: Path) -> None:
    pushed = [gap(number, "x" * number) for number in range(1, 20)]
    assert all(ring.push(one) for one in pushed)
    with Ring.open(path, role=Role.CONSUMER) as consumer:
        assert consumer.peek() == b"".join(pushed)
        consumer.release(len(pushed[0]))
        assert consumer.peek() == b"".join(pushed[1:])
        assert ring.tail == len(pushed[0])
        assert ring.head == sum(map(len, pushed))


def test_a_full_ring_says_so_and_takes_the_record_later(ring: Ring, path: Path) -> None:
    large = gap(1, "x" * 30000)
    assert ring.push(large)
    assert ring.push(large)
    assert not ring.push(large)
    with Ring.open(path, role=Role.CONSUMER) as consumer:
        consumer.release(len(large))
    assert ring.push(large)


def test_a_record_that_can_never_fit_is_an_error(ring: Ring) -> None:
    assert ring.limit == BYTES // 2
    with pytest.raises(ValueError, match="the limit of this ring is 32768"):
        ring.push(bytes(BYTES // 2 + 8))


def test_half_words_are_an_error(ring: Ring) -> None:
    with pytest.raises(ValueError, match="cannot push 12 bytes"):
        ring.push(bytes(12))


def test_a_new_journal_starts_clean_at_zero(ring: Ring) -> None:
    assert ring.resume() == Resume()
    assert ring.commit() == Commit()
    assert ring.status().state == FlusherState.NONE
    assert ring.status().error == ""


def test_a_producer_goes_on_behind_the_last_record(path: Path) -> None:
    with Ring.open(path, BYTES, role=Role.PRODUCER) as ring:
        ring.push(gap(1))
        ring.push(gap(2))
    with Ring.open(path, role=Role.PRODUCER) as ring:
        assert ring.resume() == Resume(last_number=2, last_recv_ns=NOON + 2, max_connection=2, clean=False)


def test_a_journal_that_was_stopped_as_asked_is_clean(ring: Ring) -> None:
    """The record comes from pycapnp here: C must find `what` where the library puts it."""
    ring.push(gap(1))
    ring.push(stopped(2))
    assert ring.resume() == Resume(last_number=2, last_recv_ns=NOON + 2, max_connection=2, clean=True)


def test_bytes_that_are_no_records_are_damage(ring: Ring) -> None:
    ring.push(b"\xee" * 104)
    with pytest.raises(DamageError, match="whole records"):
        ring.resume()


def test_a_ring_made_anew_knows_where_the_journal_stands(path: Path) -> None:
    known = Resume(last_number=41, last_recv_ns=NOON, max_connection=3, clean=False)
    with Ring.open(path, BYTES, role=Role.PRODUCER) as ring:
        ring.push(gap(1))
    Ring.create(path, BYTES, known)
    with Ring.open(path, role=Role.PRODUCER) as ring:
        assert ring.resume() == known
        assert (ring.head, ring.tail) == (0, 0)
        assert ring.commit().durable_number == 41


def test_a_second_producer_is_told_who_is_the_first(ring: Ring, path: Path) -> None:
    with pytest.raises(InUseError, match=f"process {os.getpid()} is its producer") as caught:
        Ring.open(path, role=Role.PRODUCER)
    assert caught.value.pid == os.getpid()
    assert caught.value.exit_code == 2
    assert "Stop that process" in str(caught.value)


def test_a_ring_in_use_is_not_made_anew(ring: Ring, path: Path) -> None:
    with pytest.raises(InUseError):
        Ring.create(path, BYTES)


def test_an_owner_that_was_killed_owns_nothing(path: Path) -> None:
    program = (
        "import sys, time; from ssmd.native.ring import Ring, Role; "
        "ring = Ring.open(sys.argv[1], 65536, role=Role.PRODUCER); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with Ring.open(path, role=Role.OBSERVER) as observer:
            assert observer.owner(Role.PRODUCER) == child.pid
            assert observer.owner(Role.CONSUMER) == 0
            with pytest.raises(InUseError, match=f"process {child.pid} "):
                Ring.open(path, role=Role.PRODUCER)
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert observer.owner(Role.PRODUCER) == 0
        Ring.open(path, role=Role.PRODUCER).close()
    finally:
        child.kill()
        child.wait()


def test_an_observer_takes_no_role_and_cannot_write(ring: Ring, path: Path) -> None:
    with Ring.open(path, role=Role.OBSERVER) as observer:
        assert observer.capacity == BYTES
        with pytest.raises(ValueError, match="cannot push"):
            observer.push(gap(1))


@pytest.mark.parametrize("role", [Role.OBSERVER, Role.CONSUMER])
def test_a_ring_that_is_not_there_is_named(path: Path, role: Role) -> None:
    with pytest.raises(MissingError, match="ring: open: No such file"):
        Ring.open(path, role=role, create=False)
    assert not path.exists()


def test_a_ring_of_another_version_names_both(path: Path) -> None:
    Ring.create(path, BYTES)
    patch(path, VERSION_AT, struct.pack("<I", 7))
    with pytest.raises(UsageError, match="a ring of version 7, this ssmd knows version 1") as caught:
        Ring.open(path, role=Role.PRODUCER)
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_ring_is_left_alone(path: Path) -> None:
    path.write_text("notes")
    for attempt in (lambda: Ring.open(path, role=Role.PRODUCER), lambda: Ring.create(path, BYTES)):
        with pytest.raises(UsageError, match="not a ring of ssmd"):
            attempt()
    assert path.read_text() == "notes"


def test_another_size_than_asked_is_refused_with_both(path: Path) -> None:
    Ring.create(path, BYTES)
    with pytest.raises(UsageError, match="found 65536 bytes, expected 131072"):
        Ring.open(path, 2 * BYTES, role=Role.PRODUCER)


def test_a_ring_of_another_boot_is_stale(path: Path) -> None:
    Ring.create(path, BYTES)
    patch(path, BOOT_ID_AT, b"00000000")
    with pytest.raises(StaleError, match="before the last boot"):
        Ring.open(path, role=Role.PRODUCER)
    Ring.create(path, BYTES)
    Ring.open(path, role=Role.PRODUCER).close()


def test_a_folder_without_permission_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Ring.open("/proc/ring", BYTES, role=Role.PRODUCER)
    assert caught.value.exit_code == 2
    assert "Check that the path exists" in str(caught.value)


def test_a_closed_ring_says_that_it_is_closed(path: Path) -> None:
    ring = Ring.open(path, BYTES, role=Role.PRODUCER)
    ring.close()
    ring.close()
    with pytest.raises(ValueError, match="closed"):
        ring.push(gap(1))
    assert "closed" in repr(ring)
