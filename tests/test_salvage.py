"""What is taken back from a damaged ring: records that cannot be anything else, and none where there is a doubt."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_writer import record

from ssmd.journal.salvage import salvage
from ssmd.native.ring import Ring, Role

CAPACITY = 64 * 1024
HEADER_BYTES = 64 * 1024
HEAD_AT, TAIL_AT, COMMITS_AT = 128, 256, 384


def trade(number: int) -> bytes:
    """A record whose length depends on its number, so that places do not repeat."""
    body = {"market": "M" * (1 + number % 40), "tradeId": f"t{number}"}
    return record("trade", body, number=number, recvNs=number, connection=1, frame=b"x" * (number % 100))


class Scene:
    """A ring with records 1 to `count`, of which the first `released` were taken by a flusher."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._producer = Ring.open(path, CAPACITY, role=Role.PRODUCER)
        self._consumer = Ring.open(path, role=Role.CONSUMER)
        self.count = 0

    def push(self, count: int) -> None:
        for _ in range(count):
            self.count += 1
            self.push_record(trade(self.count))

    def push_record(self, data: bytes) -> None:
        assert self._producer.push(data)

    def release(self, count: int) -> None:
        """All but the last `count` records."""
        waiting = sum(len(trade(number)) for number in range(self.count - count + 1, self.count + 1))
        self._consumer.release(len(self._consumer.peek()) - waiting)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()

    def patch(self, at: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def position(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self.path.read_bytes(), at)[0])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "ring")
    yield made
    made.close()


def trades(first: int, last: int) -> list[bytes]:
    return [trade(number) for number in range(first, last + 1)]


def test_records_that_wait_are_taken_back(scene: Scene) -> None:
    scene.push(20)
    scene.release(10)
    assert salvage(scene.path, 10) == trades(11, 20)


def test_records_that_were_released_are_taken_back_while_they_are_there(scene: Scene) -> None:
    """What a flusher wrote behind its last checkpoint is not proved in the file, and is still in the ring."""
    scene.push(20)
    scene.release(5)
    assert salvage(scene.path, 3) == trades(4, 20)


def test_a_chain_may_go_round_the_end_of_the_ring(scene: Scene) -> None:
    for _ in range(12):
        scene.push(50)
        scene.release(20)
    assert scene.position(HEAD_AT) > CAPACITY + CAPACITY // 2
    assert salvage(scene.path, 560) == trades(561, 600)
    assert salvage(scene.path, 590) == trades(591, 600)


def test_what_was_overwritten_is_not_made_up(scene: Scene) -> None:
    for _ in range(12):
        scene.push(50)
        scene.release(20)
    assert salvage(scene.path, 3) == []


def test_nothing_follows_the_last_record(scene: Scene) -> None:
    scene.push(20)
    assert salvage(scene.path, 20) == []
    assert salvage(scene.path, 1000) == []


def test_a_broken_record_ends_it(scene: Scene) -> None:
    scene.push(20)
    at = HEADER_BYTES + sum(map(len, trades(1, 14)))
    scene.patch(at + 4, b"\xff\xff\xff\xff")
    assert salvage(scene.path, 10) == trades(11, 14)


def test_a_number_that_does_not_follow_ends_it(scene: Scene) -> None:
    scene.push(20)
    at = HEADER_BYTES + sum(map(len, trades(1, 14)))
    scene.patch(at + 16, struct.pack("<Q", 99))
    assert salvage(scene.path, 10) == trades(11, 14)


def test_commits_do_not_matter(scene: Scene) -> None:
    scene.push(20)
    scene.patch(COMMITS_AT, b"\x07" * 256)
    assert salvage(scene.path, 10) == trades(11, 20)


def test_records_beyond_the_head_are_not_taken(scene: Scene) -> None:
    """They were not published: who wrote them may have died in the middle."""
    scene.push(20)
    scene.patch(HEAD_AT, struct.pack("<Q", sum(map(len, trades(1, 15)))))
    assert salvage(scene.path, 10) == trades(11, 15)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (HEAD_AT, 8 * 3 + 1),  # no word begins there
        (HEAD_AT, 1 << 40),  # further than the ring is large
        (TAIL_AT, 1 << 40),  # beyond the head
        (TAIL_AT, 8),  # where no record begins
        (16, 2 * CAPACITY),  # another size than the file's
        (8, 0x1000000000002),  # another version
        (0, 0),  # no ring
    ],
)
def test_a_header_that_cannot_be_believed_gives_nothing(scene: Scene, at: int, value: int) -> None:
    scene.push(20)
    scene.patch(at, struct.pack("<Q", value))
    assert salvage(scene.path, 0) == []


def test_a_file_that_is_cut_or_gone_gives_nothing(scene: Scene, tmp_path: Path) -> None:
    scene.push(20)
    short = tmp_path / "short"
    for size in (0, 100, HEADER_BYTES, HEADER_BYTES + 1000):
        short.write_bytes(scene.path.read_bytes()[:size])
        assert salvage(short, 0) == []
    assert salvage(tmp_path / "none", 0) == []


def test_the_number_in_other_places_misleads_nobody(scene: Scene) -> None:
    """The wanted number stands in frames, too, and looks like the number of a record there."""
    scene.push(3)
    decoy = record("trade", {"market": "M"}, number=4, recvNs=4, frame=struct.pack("<4Q", 5, 5, 5, 5) * 3)
    scene.push_record(decoy)
    scene.count = 4
    scene.push(6)
    assert salvage(scene.path, 4) == trades(5, 10)
