"""The C walker through its Python door, on records made by pycapnp (tests/journal_writer.py)."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_writer import NOON, Journal, crc32c, record

from ssmd.native import walk
from ssmd.native.walk import KIND_BITS, Filter, View, ViewReader, Walk

REPOSITORY = Path(__file__).resolve().parent.parent
OFFSETS = {  # csrc/ssmd.h: SSMD_RECORD_*
    "number": 16,
    "recvNs": 24,
    "recvTicks": 32,
    "exchangeNs": 40,
    "sentNs": 48,
    "seq": 64,
}


def views(data: bytes, wanted: Filter | None = None) -> list[View]:
    return ViewReader(wanted).read(data, 0, len(data), 0)[0]


@given(st.binary(max_size=2000), st.integers(0, 2**32 - 1))
def test_crc32c_is_that_of_a_plain_table(data: bytes, before: int) -> None:
    assert walk.crc32c(data, before) == crc32c(data, before)


@pytest.mark.parametrize("name", OFFSETS)
def test_the_fixed_offsets_are_where_pycapnp_puts_the_fields(name: str) -> None:
    data = record("clock", {}, **{name: 0x1122334455667788})
    assert struct.unpack_from("<Q", data, OFFSETS[name])[0] == 0x1122334455667788


def test_kind_connection_and_sid_stand_at_their_fixed_offsets() -> None:
    data = record("checkpoint", {}, connection=7, sid=9)
    assert struct.unpack_from("<II", data, 56) == (7, 9)
    assert struct.unpack_from("<H", data, 72) == (10,)


FULL_BODIES = {
    "unparsed": {"reason": "noType", "type": "odd"},
    "trade": {"market": "M-1", "tradeId": "t", "priceE4": 1, "takerSide": "no", "block": True, "countE2": 5},
    "ticker": {"market": "M-1", "present": 4, "priceE4": 7},
    "book": {"market": "M-1", "kind": "delta", "side": "ask", "priceE4": 1, "deltaE2": -5},
    "status": {"market": "M-1", "event": "E", "change": "settled", "result": "yes", "changeName": "x"},
    "index": {"index": "BTC", "source": "pyth"},
    "control": {"type": "error", "code": 6, "channel": "c", "message": "m"},
    "gap": {"cause": "damage", "head": b"abc", "detail": "d"},
    "connection": {"what": "closed", "reason": "r", "url": "u", "channel": "c"},
    "clock": {"source": "monotonic"},
    "checkpoint": {"final": True},
    "entry": {"topic": "t", "headers": {"a": "b", "c": ""}, "payload": b"p"},
}
# The leading enum of each body above, by its ordinal in the schema.
SUBS = dict(zip(FULL_BODIES, (1, 2, 0, 1, 6, 2, 3, 9, 4, 2, 1, 0), strict=True))


@pytest.mark.parametrize("kind", FULL_BODIES)
def test_a_record_of_each_kind_is_read_with_its_leading_enum(kind: str) -> None:
    data = record(kind, FULL_BODIES[kind], frame=b"{}", number=3, connection=1, sid=2, seq=4)
    (view,) = views(data)
    assert (view.number, view.connection, view.sid, view.seq, view.length) == (3, 1, 2, 4, len(data))
    assert view.kind == list(FULL_BODIES).index(kind)
    assert view.sub == SUBS[kind]
    assert data[view.frame_at : view.frame_at + view.frame_bytes] == b"{}"


@pytest.mark.parametrize("kind", ["trade", "ticker", "book", "status"])
def test_the_market_of_a_record_is_found(kind: str) -> None:
    data = record(kind, FULL_BODIES[kind])
    (view,) = views(data)
    assert data[view.market_at : view.market_at + view.market_bytes] == b"M-1"


def test_a_snapshot_with_levels_on_both_sides_is_valid() -> None:
    data = record("book", {"market": "M", "bids": [(1, 2), (3, 4)], "asks": [(9, 9)]})
    assert len(views(data)) == 1


def test_a_record_is_not_read_from_a_place_in_the_middle() -> None:
    data = record("trade", FULL_BODIES["trade"])
    assert ViewReader().read(data, 8, len(data), 0) == ([], 0)


@given(st.binary(max_size=400))
def test_any_bytes_give_views_or_nothing(data: bytes) -> None:
    ViewReader().read(data, 0, len(data), 0)
    w = Walk()
    while w.next(data, w.offset) == 0:
        pass
    assert w.offset <= len(data)


def three_trades(tmp_path: Path) -> bytes:
    j = Journal(tmp_path)
    j.trade(1, "A")
    j.trade(2, "B")
    j.delta(3, "bid", 5000, 100, "A")
    return j.data


def test_the_filter_keeps_kinds(tmp_path: Path) -> None:
    data = three_trades(tmp_path)
    assert [v.number for v in views(data, Filter(kinds=KIND_BITS["trade"]))] == [1, 2]
    assert [v.number for v in views(data, Filter(kinds=KIND_BITS["book_delta"]))] == [3]
    assert views(data, Filter(kinds=KIND_BITS["book_snapshot"])) == []


def test_the_filter_keeps_markets(tmp_path: Path) -> None:
    data = three_trades(tmp_path)
    assert [v.number for v in views(data, Filter(markets=("A",)))] == [1, 3]
    assert [v.number for v in views(data, Filter(markets=("B", "C")))] == [2]
    assert views(data, Filter(markets=("AB",))) == []
    assert views(data, Filter(markets=("A\0B", ""))) == []


def test_the_filter_keeps_times_from_up_to(tmp_path: Path) -> None:
    data = three_trades(tmp_path)
    wanted = Filter(from_ns=NOON + 1000, to_ns=NOON + 3000)
    assert [v.number for v in views(data, wanted)] == [1, 2]


def test_more_records_than_one_call_holds_are_all_read(tmp_path: Path) -> None:
    one = record("clock", {}, number=1)
    data, reader = one * 10_000, ViewReader()
    at, count = 0, 0
    while at < len(data):
        found, used = reader.read(data, at, len(data), at)
        assert [v.offset for v in found[:2]] == [at, at + len(one)]
        at, count = at + used, count + len(found)
    assert count == 10_000


def test_every_fault_has_words() -> None:
    assert walk.fault_text(walk.FAULT_CRC) == "CRC-32C does not match"
    assert len({walk.fault_text(fault) for fault in range(walk.FAULT_UNSEALED + 1)}) == walk.FAULT_UNSEALED + 1


# ---- libssmd.so ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libssmd.so, built from the sources as `make` builds it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("lib") / "libssmd.so"
    sources = sorted(map(str, (REPOSITORY / "csrc").glob("*.c")))
    flags = ["-std=gnu11", "-O1", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(path), *sources], check=True)
    return path


def run_example(library: Path, segment: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    page = (REPOSITORY / "docs" / "libssmd.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    example = tmp_path / "example.py"
    example.write_text(code)
    line = [sys.executable, "-I", str(example), str(library), str(segment)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_ctypes_example_of_the_page_prints_the_trades_of_a_segment(library: Path, tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1, "A")
    j.ticker("A")
    j.checkpoint()
    j.trade(2, "B")
    done = run_example(library, j.seal(), tmp_path)
    assert (done.returncode, done.stdout) == (0, "1 A 4700\n3 B 4700\n"), done.stderr


def test_the_ctypes_example_refuses_a_damaged_segment(library: Path, tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1, "A")
    path = j.seal()
    path.write_bytes(path.read_bytes()[:-1])
    assert "not proved to its end" in run_example(library, path, tmp_path).stderr
