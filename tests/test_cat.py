"""`ssmd cat`: what it prints, what it leaves out, how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from journal_writer import NOON, Journal

from ssmd.cli import cat
from ssmd.errors import UsageError
from ssmd.journal.paths import OPEN, Segment

REPOSITORY = Path(__file__).resolve().parent.parent
SCHEMA = REPOSITORY / "schemas" / "market_data.capnp"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Two segments, one of them open: a session with a trade, a ticker and a book."""
    j = Journal(tmp_path / "kalshi")
    j.event("started")
    j.event("opened", 1, url="wss://example.com/ws")
    j.subscribed("trade", 1)
    j.trade(1, "A")
    j.ticker("A", sid=3)
    j.snapshot(1, [(4600, 100), (4700, 300)], [(5200, 200)], "B")
    j.seal()
    j.delta(2, "ask", 5200, -200, "B")
    j.checkpoint()
    j.trade(2, "B")
    j.write(OPEN)
    return j


class Output:
    """One run of the command inside this process."""

    def __init__(self, capfdbinary: pytest.CaptureFixture[bytes], *arguments: object) -> None:
        self.code = cat.main([str(argument) for argument in arguments])
        sys.stdout.flush()
        self.out, self.err = capfdbinary.readouterr()

    @property
    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(journal: Journal, capfdbinary: pytest.CaptureFixture[bytes]):  # type: ignore[no-untyped-def]
    return lambda *arguments: Output(capfdbinary, journal.root, *arguments)


def command(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    """The command as its own process."""
    line = [sys.executable, "-m", "ssmd", "cat", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=REPOSITORY, **{**pipes, **options})  # type: ignore[call-overload,no-any-return]


def test_json_prints_every_record_in_order(run) -> None:  # type: ignore[no-untyped-def]
    kinds = [o["kind"] for o in run().objects]
    assert kinds == [
        *("connection", "connection", "control", "trade", "ticker", "book_snapshot", "checkpoint"),
        *("book_delta", "checkpoint", "trade"),
    ]


def test_iso_adds_times_that_people_can_read(run) -> None:  # type: ignore[no-untyped-def]
    (trade,) = run("--kind", "trade", "--market", "A", "--iso").objects
    assert trade["recv_time"] == "2026-09-21T14:13:20.000004000Z"
    assert trade["recv_ns"] == NOON + 4000
    assert trade["exchange_time"] is None


def test_iso_is_for_json_alone(run) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="--iso"):
        run("--iso", "--format", "frame")


def test_a_filter_that_nothing_matches_is_told(run) -> None:  # type: ignore[no-untyped-def]
    found = run("--kind", "trade", "--market", "NONE\x1b")
    assert (found.code, found.out) == (0, b"")
    assert found.err == b"ssmd cat: nothing matches --kind trade --market NONE\\x1b\n"
    assert run().err == b""


def test_json_has_the_fields_of_the_header_and_the_body(run) -> None:  # type: ignore[no-untyped-def]
    (trade,) = run("--kind", "trade", "--market", "A").objects
    expected = {
        "number": 4,
        "recv_ns": NOON + 4000,
        "connection": 1,
        "sid": 1,
        "seq": 1,
        "kind": "trade",
        "market": "A",
        "price_e4": 4700,
        "count_e2": 300,
        "trade_id": "t1",
    }
    assert expected.items() <= trade.items()
    assert isinstance(trade["frame"], str) and trade["frame"].endswith("\n")


def test_json_shows_levels_as_pairs(run) -> None:  # type: ignore[no-untyped-def]
    (snapshot,) = run("--kind", "book_snapshot").objects
    assert snapshot["bids"] == [[4600, 100], [4700, 300]]
    assert snapshot["asks"] == [[5200, 200]]


def test_frame_prints_each_frame_as_received_replies_included(run) -> None:  # type: ignore[no-untyped-def]
    lines = run("--format", "frame").out.splitlines(keepends=True)
    assert [json.loads(line)["type"] for line in lines] == [
        *("subscribed", "trade", "ticker", "orderbook_snapshot", "orderbook_delta", "trade"),
    ]
    assert lines[0] == b'{"type":"subscribed","id":1,"msg":{"channel":"trade","sid":1}}\n'


def test_frame_adds_a_newline_only_where_there_is_none(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    j = Journal(tmp_path / "kalshi")
    j.add("unparsed", {"reason": "binary"}, frame=b"\x00\xff", connection=1)
    j.add("unparsed", {"reason": "badJson"}, frame=b"x\n", connection=1)
    j.add("clock", {})
    j.seal()
    assert Output(capfdbinary, j.root, "--format", "frame").out == b"\x00\xff\nx\n"


def test_capnp_prints_the_stored_bytes(run, journal: Journal) -> None:  # type: ignore[no-untyped-def]
    stored = b"".join(path.read_bytes() for path in sorted(journal.folder.iterdir()))
    assert run("--format", "capnp").out == stored


@pytest.mark.skipif(shutil.which("capnp") is None, reason="the capnp tool is not installed")
def test_the_stock_capnp_tool_reads_what_capnp_prints(run) -> None:  # type: ignore[no-untyped-def]
    tool = [str(shutil.which("capnp")), "decode", str(SCHEMA), "Record"]
    decoded = subprocess.run(tool, input=run("--format", "capnp").out, capture_output=True, check=True).stdout
    assert decoded.count(b"( number = ") == 10
    assert b'market = "B"' in decoded


def test_kind_may_be_repeated_or_a_list_and_book_means_both(run) -> None:  # type: ignore[no-untyped-def]
    assert [o["kind"] for o in run("--kind", "ticker,gap", "--kind", "book").objects] == [
        *("ticker", "book_snapshot", "book_delta"),
    ]


def test_an_unknown_kind_is_a_usage_error(journal: Journal) -> None:
    with pytest.raises(UsageError, match="book_delta"):
        cat.main([str(journal.root), "--kind", "order"])


def test_from_is_included_and_to_is_not(run) -> None:  # type: ignore[no-untyped-def]
    objects = run("--from", NOON + 4000, "--to", "2026-09-21T14:13:20.000006Z", "--kind", "trade,ticker,book").objects
    assert [o["number"] for o in objects] == [4, 5]


def test_damage_ends_with_1_after_all_before_it_was_printed(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    j = Journal(tmp_path / "kalshi")
    j.trade(1)
    j.checkpoint()
    good = len(j.data)
    j.trade(2)
    path = j.seal()
    path.write_bytes(path.read_bytes()[:-8])
    output = Output(capfdbinary, j.root, "--kind", "trade")
    assert output.code == 1
    assert [o["number"] for o in output.objects] == [1]
    assert str(path).encode() in output.err
    assert b"the last good checkpoint ends at %d" % good in output.err


def test_help_and_usage_need_no_journal() -> None:
    with command("--help") as process:
        assert b"--follow" in process.communicate(timeout=30)[0]
    with command("/nonexistent/journal") as process:
        process.communicate(timeout=30)
        assert process.returncode == 2


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    j = Journal(tmp_path / "kalshi")
    for seq in range(1, 2000):
        j.trade(seq)
    j.write(OPEN)
    with command(j.root) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


def wait_for(path: Path, lines: int) -> list[dict[str, object]]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = path.read_bytes().splitlines()
        if len(found) >= lines:
            return [json.loads(line) for line in found]
        time.sleep(0.02)
    raise AssertionError(f"{path.read_bytes()!r} has not {lines} lines")


def test_follow_waits_for_a_journal_goes_over_rotation_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    j, out = Journal(tmp_path / "data" / "kalshi"), tmp_path / "out"
    with out.open("wb") as file, command(tmp_path / "data", "--follow", "--kind", "trade", stdout=file) as process:
        j.trade(1)
        path = j.write(OPEN)
        wait_for(out, 1)
        j.trade(2)
        j.checkpoint(final=True)
        j.write(OPEN)
        path.rename(path.with_suffix(""))
        j.begin()
        j.trade(3)
        j.write(OPEN)
        assert [o["number"] for o in wait_for(out, 3)] == [1, 2, 3]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_nothing_heavy_is_imported_for_frames() -> None:
    heavy = "{'capnp', 'pydantic', 'zstandard', 'gevent', 'yaml'}"
    code = f"import sys, ssmd.cli.cat; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


def test_a_segment_that_is_removed_before_it_is_read_is_named_and_the_others_are_printed(
    journal: Journal, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As retention does while a long journal is printed."""
    (second,) = journal.root.rglob(f"*{OPEN}")
    wanted = Output(capfdbinary, second).objects
    listed = cat.find

    def and_removed(paths: list[str]) -> list[Segment]:
        segments = listed(paths)
        segments[0].path.unlink()
        return segments

    monkeypatch.setattr(cat, "find", and_removed)
    done = Output(capfdbinary, journal.root)
    assert done.code == 1
    assert b"was removed before it was read: its records are left out" in done.err
    assert done.objects == wanted
