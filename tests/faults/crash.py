"""What the crash tests share: ring files and processes, looked at without ssmd, and the judgement of a killed journal.

The ring's header is read here by the layout that csrc/ring.h draws, so that what the ring held at the instant of a kill
is known from the file itself and not from the code that has to bring it home.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from recording import DATA_KINDS, Line, Recorder, events, gaps, segment_bytes, segment_files, wait_until

HEADER_BYTES = 64 * 1024
VERSION_AT, BOOT_ID_AT, HEAD_AT, TAIL_AT, COMMITS_AT, COMMIT_BYTES = 8, 32, 128, 256, 384, 128
NUMBER_AT, RECV_NS_AT, KIND_AT = 16, 24, 72  # in a record
CRC_AT, FINAL_AT = 96, 128  # in a checkpoint
CHECKPOINT = b"\x0a\0"


# ---- ring -----------------------------------------------------------------------------------------------------------


def ring_path(tmp_path: Path) -> Path:
    """A ring of the test's own: on tmpfs where there is one, as in production, with a name that can be found again."""
    memory = Path("/dev/shm")
    folder = memory if os.access(memory, os.W_OK | os.X_OK) else tmp_path
    return folder / f"ssmd-test-{os.getpid()}-{tmp_path.name}.ring"


def held_in_ring(path: Path) -> dict[int, bytes]:
    """Number -> bytes of every record that is published in a ring file and not committed to a segment yet.

    The producer must be dead. A living consumer does no harm: it moves the tail, not the bytes.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    capacity = len(data) - HEADER_BYTES
    (tail,) = struct.unpack_from("<Q", data, TAIL_AT)
    (head,) = struct.unpack_from("<Q", data, HEAD_AT)
    area = data[HEADER_BYTES:] * 2  # no record is cut by the ring's end
    at = max(tail, committed_position(data))
    held = {}
    while at < head:
        start = at % capacity
        size = 8 + 8 * int.from_bytes(area[start + 4 : start + 8], "little")
        record = area[start : start + size]
        held[int.from_bytes(record[NUMBER_AT : NUMBER_AT + 8], "little")] = record
        at += size
    assert at == head, "a ring holds whole records only"
    return held


def committed_position(ring: bytes) -> int:
    """The position in the newer whole slot of the commit line, 0 where nothing was committed."""
    found = [(0, 0)]
    for slot in range(2):
        words = struct.unpack_from("<13Q", ring, COMMITS_AT + slot * COMMIT_BYTES)
        if words[0] == words[12]:
            found.append((words[0], words[1]))
    return max(found)[1]


# ---- processes ------------------------------------------------------------------------------------------------------


def processes_naming(text: str | Path) -> dict[int, str]:
    """pid -> command line of every living process that has the text in its arguments."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if str(text) in command:
                found[int(folder.name)] = command.strip()
    return found


def helper(recorder: Recorder, name: str) -> int | None:
    """pid of the recorder's helper process `name` (flusher, archiver), None while there is none."""
    found = processes_naming(recorder.environment).items()
    return next((pid for pid, command in found if f"-m ssmd.{name}" in command), None)


def wait_helper(recorder: Recorder, name: str, *, other_than: int | None = None) -> int:
    """pid of the helper, once there is one, and one that is not `other_than`."""

    def look() -> int | None:
        found = helper(recorder, name)
        return found if found != other_than else None

    return int(wait_until(look, what=f"a process {name}"))


def kill_nine(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def assert_no_process_left(recorder: Recorder) -> None:
    """No helper outlives the recorder by more than the moment that its own end takes."""
    folder = recorder.environment.parent
    wait_until(lambda: not processes_naming(folder), what="the end of all helper processes")


# ---- judgement ------------------------------------------------------------------------------------------------------


def framed(data: bytes) -> Iterator[bytes]:
    """The records of a segment; fails where it does not end at a record's end."""
    offset = 0
    while offset < len(data):
        assert data[offset : offset + 4] == bytes(4), f"no record begins at {offset}"
        size = 8 + 8 * int.from_bytes(data[offset + 4 : offset + 8], "little")
        assert offset + size <= len(data), f"the file ends inside the record at {offset}"
        yield data[offset : offset + size]
        offset += size


def stored_records(folder: Path) -> dict[int, bytes]:
    """Number -> bytes of every record in the files, none twice; each file is sealed and ends as sealed ones do."""
    found: dict[int, bytes] = {}
    for path in segment_files(folder):
        assert not path.name.endswith(".open"), f"{path.name} is not sealed"
        record = b""
        for record in framed(segment_bytes(path)):
            if record[KIND_AT : KIND_AT + 2] != CHECKPOINT:  # a checkpoint repeats the number before it
                number = int.from_bytes(record[NUMBER_AT : NUMBER_AT + 8], "little")
                assert number not in found, f"record {number} is in the files twice"
                found[number] = record
        assert record[KIND_AT : KIND_AT + 2] == CHECKPOINT and record[FINAL_AT] == 1, f"{path.name} has no end"
    return found


def assert_stored(held: dict[int, bytes], stored: dict[int, bytes]) -> None:
    """What a ring held is in the files, each record under its number and byte for byte."""
    lost = [number for number, record in held.items() if stored.get(number) != record]
    assert not lost, f"{len(lost)} of {len(held)} records that the ring held are not in the files, first {lost[0]}"


def assert_frames_are_a_prefix(lines: Sequence[Line], ledger_path: Path) -> int:
    """On each socket the journal holds the first frames that were sent on it. Gives how many frames there are in all.

    Sockets are matched by time: the exchange opens one just before the recorder says that it is open.
    """
    opened_at, sent = read_sockets(ledger_path)
    stored: dict[int, list[bytes]] = {line.connection: [] for line in events(lines, "opened")}
    for line in lines:
        if line.kind in DATA_KINDS and line.frame:
            stored[line.connection].append(line.frame)
    used = set()
    for event in events(lines, "opened"):
        socket = max((ns, number) for number, ns in opened_at.items() if ns <= event.recv_ns)[1]
        assert socket not in used, "two connections of the journal are one socket of the exchange"
        used.add(socket)
        frames = stored[event.connection]
        assert frames == sent[socket][: len(frames)], f"connection {event.connection} differs from what was sent"
    return sum(map(len, stored.values()))


def read_sockets(ledger_path: Path) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Of each socket in a ledger: when it was opened (ns), and the frames that were sent on it."""
    opened: dict[int, int] = {}
    sent: dict[int, list[bytes]] = {}
    for row in ledger_path.read_bytes().split(b"\n")[:-1]:
        entry: dict[str, Any] = json.loads(row)
        if entry.get("event") == "opened":
            opened[entry["connection"]] = entry["ns"]
            sent[entry["connection"]] = []
        elif "text" in entry:
            sent[entry["connection"]].append(entry["text"].encode())
    return opened, sent


def assert_outages_are_told(lines: Sequence[Line]) -> int:
    """The number of outages: one Gap record wherever a run follows one that did not stop as asked, and nowhere else.

    It is the first record of the new run and begins where the records of the old run end. The last run, which came to
    receive everything, says that the outage is over.
    """
    told = [line.number for line in gaps(lines, "outage")]
    known = set(told)
    for before, line in pairwise(lines):
        stopped = before.kind == "connection" and before.body["what"] == "stopped"
        if line.number in known:
            assert not stopped, f"record {line.number} tells of an outage after a run that stopped as asked"
            assert line.body["fromNs"] == before.recv_ns, f"outage {line.number} does not begin where records end"
        elif line.kind == "connection" and line.body["what"] == "started":
            assert stopped or before.number in known, f"the run that starts at {line.number} is silent on its outage"
    over = {line.body["gapNumber"] for line in events(lines, "resynced")}
    assert not told or told[-1] in over, "the last outage has no end"
    return len(told)
