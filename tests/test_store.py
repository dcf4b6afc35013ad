"""How a recorder ends its journal when the flusher is a process of its own."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from journal_writer import record

from ssmd import host
from ssmd.journal.paths import State, find
from ssmd.native.flusher import Flusher
from ssmd.store import Store, flusher_options

ENVIRONMENT = """
name: of-two
feed: notes
schema: market_data:v1
max_frame_bytes: 16384
exchange: {simulator: {}}
subscriptions: [{channels: [trade], all: true}]
storage: {path: data}
ring: {path: ring, size_bytes: 65536}
flusher: {mode: process}
"""


@dataclass
class Ended:
    """A flusher process that did as it was asked, and is gone."""

    pid: int
    exit_code: int = 0

    def wait(self, timeout_s: float) -> bool:
        return True


@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_a_journal_is_sealed_whichever_flusher_wrote_the_last_record(tmp_path: Path, whose: str) -> None:
    """The flusher of a killed run may write all while ours waits for its end, is asked to stop, and ends well."""
    file = tmp_path / "of-two.yaml"
    file.write_text(ENVIRONMENT)
    environment = host.load(file, [f"storage.path={tmp_path / 'data'}", f"ring.path={tmp_path / 'ring'}"])
    store = Store(environment)
    trade = record("trade", {"market": "M", "tradeId": "t"}, number=1, recvNs=time.time_ns(), connection=1)
    store.push(trade)
    flusher = Flusher.open(tmp_path / "ring", flusher_options(environment))
    flusher.drain()
    if whose == "its own":
        flusher.close(seal=True)
    else:
        flusher.abandon()
    child = Ended(os.getpid() if whose == "its own" else os.getpid() + 1)
    assert store.close(time.monotonic() + 10, flusher_child=cast(Any, child))
    assert [segment.state for segment in find([tmp_path / "data"])] == [State.SEALED]
    assert not (tmp_path / "ring").exists()
