"""`ssmd verify`: whole journals, every kind of trouble, and the last batch cut and flipped at every byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from journal_writer import DAY, NOON, Journal

from ssmd.cli import cat, verify
from ssmd.errors import UsageError
from ssmd.journal import manifest
from ssmd.journal.identity import make_identity
from ssmd.journal.paths import MANIFEST, OPEN, Segment, find
from ssmd.journal.source import GoneError

REPOSITORY = Path(__file__).resolve().parent.parent


def whole_run(j: Journal, *, stop: bool = True) -> None:
    """A run on one connection: trades, a book that is asked for once more, tickers."""
    j.event("started")
    j.event("opened", 1, url="wss://example.com/ws")
    j.subscribed("trade", 1)
    j.subscribed("orderbook_delta", 2)
    j.subscribed("ticker", 3)
    j.snapshot(1, [(4600, 100), (4700, 300)], [(5200, 200)])
    j.trade(1)
    j.delta(2, "bid", 4700, -300)
    j.ticker()
    j.checkpoint()
    j.trade(2)
    j.delta(3, "ask", 5100, 50)
    j.snapshot(4, [(4600, 100)], [(5100, 50), (5200, 200)], request=9)
    if stop:
        j.event("closed", 1, reason="stopped as asked")
        j.event("stopped")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "kalshi")


class Verified:
    """One run of the command with --json."""

    def __init__(self, capsys: pytest.CaptureFixture[Any], *arguments: object) -> None:
        self.code = verify.main([*map(str, arguments), "--json"])
        self.report: dict[str, Any] = json.loads(capsys.readouterr().out)

    def __getattr__(self, name: str) -> Any:
        return self.report[name]


@pytest.fixture
def check(journal: Journal, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    return lambda *arguments: Verified(capsys, journal.root, *arguments)


def test_a_whole_run_is_complete(journal: Journal, check: Any) -> None:
    whole_run(journal)
    journal.seal()
    found = check()
    assert found.code == 0
    assert found.complete is True
    assert (found.segments, found.records, found.frames) == (1, 14, 10)
    assert found.by_kind == {
        "trade": 2,
        "ticker": 1,
        "book_snapshot": 2,
        "book_delta": 2,
        "control": 3,
        "connection": 4,
        "checkpoint": 2,
    }
    assert (found.gaps, found.damage, found.unparsed) == ([], [], 0)
    assert found.books["checked"] == 1 and found.books["mismatched"] == 0
    assert [entry["channel"] for entry in found.blind] == ["ticker"]
    (connection,) = found.connections
    assert connection["id"] == 1 and connection["reason"] == "stopped as asked"
    assert connection["by_sid"]["2"] == {
        "channel": "orderbook_delta",
        "first_seq": 1,
        "last_seq": 4,
        "missing": [],
        "frames": 4,
        "repeats": 0,
    }


def test_the_human_form_says_complete_in_one_line(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    whole_run(journal)
    journal.seal()
    assert verify.main([str(journal.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "segments 1   records 14   frames 10"
    assert lines[-1] == "complete: nothing is missing that can be known to be missing"
    assert "\x1b" not in "".join(lines)


def test_open_and_compressed_segments_count_like_sealed_ones(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    plain = journal.seal()
    plain.with_name(plain.name + ".zst").write_bytes(zstandard.compress(plain.read_bytes()))
    plain.unlink()
    journal.trade(3)
    journal.write(OPEN)
    found = check()
    assert (found.code, found.segments, found.records) == (0, 2, 13)


def test_records_behind_the_last_checkpoint_are_counted_as_unproved(
    journal: Journal, check: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_run(journal, stop=False)
    journal.write(OPEN)
    assert (check().code, check().unproved) == (0, 3)
    verify.main([str(journal.root)])
    said = capsys.readouterr().out
    assert "tail     3 records behind the last checkpoint of the open segment are whole, but no CRC" in said
    assert "after a kill the next start proves or cuts them" in said


def test_a_recorded_sequence_gap_is_listed_with_what_resolved_it(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    at = journal.gap("sequence", sid=1, fromSeq=3, toSeq=5)
    journal.trade(6)
    resolved = journal.event("resynced", 1, gapNumber=at)
    journal.seal()
    found = check()
    assert found.code == 1 and found.complete is False
    (entry,) = found.gaps
    assert (entry["cause"], entry["connection"], entry["sid"]) == ("sequence", 1, 1)
    assert (entry["from_seq"], entry["to_seq"], entry["resolved_by"]) == (3, 5, resolved)
    assert found.connections[0]["by_sid"]["1"]["missing"] == [[3, 5]]
    assert found.damage == []


def test_a_number_far_off_is_one_hole_and_the_numbers_around_it_are_followed(journal: Journal, check: Any) -> None:
    """The books too: a wrong number must not make all that follows a repeat."""
    whole_run(journal, stop=False)
    journal.gap("sequence", sid=2, fromSeq=5, toSeq=4_999_999_999)
    journal.delta(5_000_000_000, "ask", 5300, 10)
    journal.snapshot(5, [(4600, 100)], [(5100, 50)], request=10)
    journal.delta(6, "ask", 5100, -50)
    journal.snapshot(7, [(4600, 100)], [], request=11)
    journal.seal()
    found = check()
    assert [(g["cause"], g["from_seq"], g["to_seq"]) for g in found.gaps] == [("sequence", 5, 4_999_999_999)]
    assert found.damage == []
    assert (found.books["checked"], found.connections[0]["by_sid"]["2"]["repeats"]) == (2, 0)


def test_a_sequence_hole_over_a_rotation_is_found_without_its_gap_record(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    journal.seal()
    journal.trade(9)
    journal.seal()
    found = check()
    assert found.code == 1
    assert [(g["cause"], g["from_seq"], g["to_seq"]) for g in found.gaps] == [("unrecorded", 3, 8)]


def test_a_recorded_gap_may_be_allowed_and_is_listed_all_the_same(
    journal: Journal, check: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_run(journal, stop=False)
    journal.gap("sequence", sid=1, fromSeq=3, toSeq=5)
    journal.trade(6)
    journal.seal()
    found = check("--allow-gaps")
    assert (found.code, found.complete, len(found.gaps)) == (0, False, 1)
    assert verify.main([str(journal.root), "--allow-gaps"]) == 0
    said = capsys.readouterr().out
    assert "sequence, on connection 1 sid 1, seq 3 to 5" in said and "not complete: 1 gap recorded" in said


def test_a_hole_without_its_gap_record_is_never_allowed(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    journal.gap("sequence", sid=1, fromSeq=3, toSeq=5)
    journal.trade(6)
    journal.trade(9)
    journal.seal()
    found = check("--allow-gaps")
    assert [gap["cause"] for gap in found.gaps] == ["sequence", "unrecorded"]
    assert found.code == 1


def test_a_run_that_ended_without_a_record_of_that_is_never_allowed(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    journal.event("started")
    journal.event("stopped")
    journal.seal()
    assert check("--allow-gaps").code == 1


def test_an_archive_that_lacks_the_journal_is_never_allowed(journal: Journal, tmp_path: Path) -> None:
    whole_run(journal)
    journal.seal()
    make_identity(journal.root)
    (tmp_path / "archive").mkdir()
    against = ["--against", (tmp_path / "archive").as_uri()]
    assert verify.main([str(journal.root), "--allow-gaps"]) == 0
    assert verify.main([str(journal.root), "--allow-gaps", *against]) == 1


def test_damage_is_never_allowed(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    journal.seal()
    journal.number += 5
    journal.trade(3)
    journal.seal()
    assert check("--allow-gaps").code == 1


def test_a_hole_in_the_record_numbers_is_damage_at_the_record_behind_it(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    journal.seal()
    journal.number += 5
    journal.trade(3)
    second = journal.seal()
    found = check()
    assert found.code == 1
    assert found.damage == [{"segment": str(second), "offset": 0, "what": "records 13 to 17 are missing (5)"}]


def test_a_missing_segment_is_a_hole_in_the_numbers(journal: Journal, check: Any) -> None:
    for seq in (1, 2, 3):
        journal.trade(seq)
        path = journal.seal()
        if seq == 2:
            path.unlink()
    assert "records 2 to 2 are missing" in check().damage[0]["what"]


def test_a_book_that_differs_from_its_snapshot_is_told(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    number = journal.snapshot(5, [(100, 100)], [], request=10)
    journal.seal()
    found = check()
    assert found.code == 1
    assert found.books["mismatched"] == 1
    assert f"the snapshot of record {number} differs" in found.damage[0]["what"]


def test_a_delta_that_came_twice_is_not_applied_twice(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    for _ in range(2):
        journal.delta(5, "bid", 4600, -100)
    journal.snapshot(6, [], [(5100, 50), (5200, 200)], request=10)
    journal.seal()
    found = check()
    assert found.code == 0
    assert (found.books["checked"], found.books["negative_levels"]) == (2, 0)
    assert found.connections[0]["by_sid"]["2"]["repeats"] == 1


def test_books_are_left_out_when_asked(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    journal.snapshot(5, [(100, 100)], [], request=10)
    journal.seal()
    found = check("--no-books")
    assert found.code == 0
    assert found.books["checked"] == 0


def test_unparsed_frames_are_counted_and_no_hole(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    journal.add("unparsed", {"reason": "unknownType", "type": "new"}, frame=b"{}", connection=1)
    journal.seal()
    assert (check().code, check().unparsed) == (0, 1)


def test_two_journals_in_one_folder_keep_their_own_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for feed in ("a", "b"):
        j = Journal(tmp_path / feed)
        whole_run(j)
        j.seal()
    found = Verified(capsys, tmp_path)
    assert (found.code, found.records, len(found.connections)) == (0, 28, 2)


def test_trailing_bytes_of_an_open_segment_are_damage(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    journal.checkpoint()
    good = len(journal.data)
    path = journal.write(OPEN)
    path.write_bytes(journal.data + journal.data[:12])
    found = check()
    assert found.code == 1
    assert found.damage == [
        {
            "segment": str(path),
            "offset": good,
            "what": "incomplete record of 12 bytes at the end of an open segment",
        }
    ]


def test_zero_bytes_after_a_power_cut_are_named(journal: Journal, check: Any) -> None:
    whole_run(journal, stop=False)
    path = journal.write(OPEN)
    path.write_bytes(journal.data + b"\0" * 4096)
    assert "zero bytes" in check().damage[0]["what"]


# ---- the last batch, cut and flipped at every byte -------------------------------------------------------------


def two_batches(j: Journal) -> tuple[int, Path]:
    """A sealed segment: a batch of trades 1 and 2, then the last batch with trade 3. Gives the end of the first."""
    j.trade(1)
    j.trade(2)
    j.checkpoint()
    good = len(j.data)
    j.trade(3)
    return good, j.seal()


def stops_at_the_first_batch(path: Path, good: int, capfdbinary: pytest.CaptureFixture[bytes], at: int) -> None:
    assert verify.main([str(path), "--json"]) == 1, at
    report = json.loads(capfdbinary.readouterr().out)
    assert (report["complete"], report["records"], report["last_number"]) == (False, 2, 2), at
    (damage,) = report["damage"]
    assert damage["segment"] == str(path) and damage["offset"] >= good and damage["what"], at
    assert cat.main([str(path), "--kind", "trade"]) == 1, at
    sys.stdout.flush()
    out, err = capfdbinary.readouterr()
    assert [json.loads(line)["number"] for line in out.splitlines()] == [1, 2], at
    assert str(path).encode() in err, at


def test_a_sealed_file_cut_at_any_byte_of_its_last_batch(
    journal: Journal, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    good, path = two_batches(journal)
    data = path.read_bytes()
    for at in range(good, len(data)):
        path.write_bytes(data[:at])
        stops_at_the_first_batch(path, good, capfdbinary, at)


def test_a_sealed_file_with_any_byte_of_its_last_batch_flipped(
    journal: Journal, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    good, path = two_batches(journal)
    data = path.read_bytes()
    for at in range(good, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        stops_at_the_first_batch(path, good, capfdbinary, at)


def test_an_open_file_cut_at_any_byte_of_its_tail_keeps_the_whole_records(
    journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmd.journal.reader._HALF_WRITTEN_S", 0)
    journal.trade(1)
    journal.checkpoint()
    journal.trade(2)
    path = journal.write(OPEN)
    good, whole = journal.ends[1], len(journal.data)
    for at in range(good, whole):
        path.write_bytes(journal.data[:at])
        found = Verified(capsys, path)
        assert found.records == 1, at
        assert found.code == (0 if at == good else 1), at


# ---- manifests -------------------------------------------------------------------------------------------------


def test_a_manifest_that_agrees_is_fine_and_one_that_differs_is_damage(journal: Journal, check: Any) -> None:
    whole_run(journal)
    (segment,) = find([journal.seal()])
    held = manifest.compute(segment)
    path = manifest.write(segment, held)
    assert check().code == 0
    manifest.write(segment, {**held, "records": 13})
    found = check()
    assert found.code == 1
    assert found.damage == [
        {"segment": str(path), "offset": 0, "what": "the manifest says records = 13, the bytes say 14"}
    ]


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_manifest_that_is_no_json_is_damage(journal: Journal, check: Any, text: str) -> None:
    whole_run(journal)
    path = journal.seal()
    path.with_name(path.name.removesuffix(".capnp") + MANIFEST).write_text(text)
    assert check().code == 1


# ---- decoding again --------------------------------------------------------------------------------------------


# ---- on behind damage ------------------------------------------------------------------------------------------


def five_batches(journal: Journal) -> tuple[list[int], Path]:
    """Trades 1 and 2, 3 and 4, ... 9 and 10, each two proved by a checkpoint; where the batches end."""
    journal.event("started", reason="environment test")
    ends = []
    for seq in range(1, 11):
        journal.trade(seq)
        if seq % 2 == 0 and seq < 10:
            journal.checkpoint()
            ends.append(len(journal.data))
    path = journal.seal()
    return [*ends, path.stat().st_size], path


def test_behind_damage_reading_goes_on_where_a_checkpoint_proves_it(
    journal: Journal, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Whichever byte of the second of five batches is wrong: its records are lost, and nothing else."""
    ends, path = five_batches(journal)
    data = path.read_bytes()
    for at in range(ends[0], ends[1]):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        found = Verified(capfdbinary, path)
        assert found.code == 1, at
        (damage,) = found.damage
        assert (damage["segment"], damage["lost_from"], damage["lost_to"]) == (str(path), ends[0], ends[1]), at
        assert damage["lost_records"] == 2, at
        assert "numbers 4 to 5" in damage["what"], at
        assert found.records == 9 and found.last_number == 11, at
        assert [(g["cause"], g["from_seq"], g["to_seq"]) for g in found.gaps] == [("unrecorded", 3, 4)], at
    assert cat.main([str(path), "--kind", "trade"]) == 1
    sys.stdout.flush()
    out, err = capfdbinary.readouterr()
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2, 5, 6, 7, 8, 9, 10]
    assert f"bytes {ends[0]} to {ends[1]}".encode() in err


def test_two_places_of_damage_in_one_segment_are_both_told(journal: Journal, check: Any) -> None:
    ends, path = five_batches(journal)
    data = bytearray(path.read_bytes())
    data[ends[0] + 100] ^= 1
    data[ends[2] + 100] ^= 1
    path.write_bytes(data)
    found = check()
    assert [(d["lost_from"], d["lost_to"]) for d in found.damage] == [(ends[0], ends[1]), (ends[2], ends[3])]
    assert found.records == 7


def test_a_stretch_of_zeros_over_several_batches_is_one_damage(journal: Journal, check: Any) -> None:
    ends, path = five_batches(journal)
    data = bytearray(path.read_bytes())
    data[ends[0] + 8 : ends[2] + 8] = bytes(ends[2] - ends[0])
    path.write_bytes(data)
    (damage,) = check().damage
    assert (damage["lost_from"], damage["lost_to"], damage["lost_records"]) == (ends[0], ends[3], 6)


def test_damage_at_the_beginning_of_a_segment_is_lost_up_to_its_checkpoint(journal: Journal, check: Any) -> None:
    ends, path = five_batches(journal)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    found = check()
    (damage,) = found.damage
    assert (damage["lost_from"], damage["lost_to"], damage["lost_records"]) == (0, ends[0], 3)
    assert found.first_number == 4


def test_a_compressed_segment_is_read_on_behind_damage_too(journal: Journal, check: Any) -> None:
    ends, path = five_batches(journal)
    data = bytearray(path.read_bytes())
    data[ends[1] + 100] ^= 1
    path.with_name(path.name + ".zst").write_bytes(zstandard.compress(bytes(data)))
    path.unlink()
    (damage,) = check().damage
    assert (damage["lost_from"], damage["lost_to"]) == (ends[1], ends[2])


def test_a_record_that_claims_to_be_larger_than_the_file_hides_nothing_behind_it(journal: Journal, check: Any) -> None:
    ends, path = five_batches(journal)
    data = bytearray(path.read_bytes())
    data[ends[0] + 4 : ends[0] + 8] = (1 << 20).to_bytes(4, "little")
    path.write_bytes(data)
    (damage,) = check().damage
    assert (damage["lost_from"], damage["lost_to"]) == (ends[0], ends[1])


def test_an_open_segment_is_read_on_behind_damage_and_to_its_tail(journal: Journal, check: Any) -> None:
    for seq in range(1, 6):
        journal.trade(seq)
        if seq < 5:
            journal.checkpoint()
    path = journal.write(OPEN)
    data = bytearray(path.read_bytes())
    data[journal.ends[1] + 100] ^= 1
    path.write_bytes(data)
    found = check()
    (damage,) = found.damage
    assert (damage["lost_records"], found.records, found.unproved) == (1, 4, 1)


# ---- what lies in the folder and cannot be read ----------------------------------------------------------------


def test_a_manifest_whose_segment_is_gone_is_damage(journal: Journal, check: Any) -> None:
    whole_run(journal)
    path = journal.seal()
    stored = manifest.write(find([path])[0], manifest.compute(find([path])[0]))
    path.unlink()
    found = check()
    assert found.code == 1
    (damage,) = found.damage
    assert damage["segment"] == str(stored)
    assert damage["what"] == "the segment of this manifest is gone: 14 records, 1 to 14"


@pytest.mark.parametrize("form", ["link", "folder", "pipe"])
def test_what_has_a_segment_s_name_and_is_no_file_is_damage(journal: Journal, check: Any, form: str) -> None:
    whole_run(journal)
    path = journal.seal()
    other = path.with_name(path.name.replace("000000000001", "000000000015"))
    if form == "link":
        other.symlink_to(path.with_name("none"))
    elif form == "folder":
        other.mkdir()
    else:
        os.mkfifo(other)
    found = check()
    assert (found.code, found.records) == (1, 14)
    (damage,) = found.damage
    assert damage["segment"] == str(other)
    assert {"link": "a link to nothing", "folder": "a folder", "pipe": "a special file"}[form] in damage["what"]


def test_names_of_files_cannot_write_to_the_terminal(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    whole_run(journal)
    path = journal.seal()
    hostile = path.with_name("\x1b[2J\nnot complete\u202e.capnp")
    path.rename(hostile)
    hostile.write_bytes(hostile.read_bytes()[:-8])
    assert verify.main([str(journal.root)]) == 1
    said = capsys.readouterr().out
    assert "\\x1b[2J\\nnot complete\\u202e.capnp: offset" in said
    assert "\x1b" not in said and "\u202e" not in said


# ---- runs and pauses -------------------------------------------------------------------------------------------


def test_runs_their_environments_and_the_pauses_between_them_are_shown(
    journal: Journal, check: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.event("started", reason="environment kalshi-dev")
    journal.event("stopped")
    stopped_ns = journal.now
    journal.now += 3_600_000_000_000
    journal.event("started", reason="environment kalshi-prod")
    second_ns = journal.now
    journal.event("opened", 1)
    journal.seal()
    found = check()
    assert found.runs == [
        {"started_ns": NOON + 1000, "stopped_ns": stopped_ns, "environment": "kalshi-dev", "clean": True},
        {"started_ns": second_ns, "stopped_ns": 0, "environment": "kalshi-prod", "clean": None},
    ]
    assert found.complete
    verify.main([str(journal.root)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("run      kalshi-dev: started 2026-09-21T14:13:20") for line in lines)
    assert "pause    60 min" not in lines
    assert any(line.startswith("pause    1 h 0 min between a stop as asked and the next start") for line in lines)
    assert any("kalshi-prod" in line and "records still, or was killed" in line for line in lines)


def test_a_run_that_ended_without_saying_so_is_not_clean(journal: Journal, check: Any) -> None:
    journal.event("started", reason="environment a")
    journal.event("started", reason="environment a")
    journal.event("stopped")
    journal.seal()
    assert [run["clean"] for run in check().runs] == [False, True]


def test_redecode_agrees_with_records_that_say_what_their_frames_say(journal: Journal, check: Any) -> None:
    whole_run(journal)
    journal.seal()
    found = check("--redecode")
    # The hand-made snapshots and deltas of the writer have frames without prices: their records say more.
    wrong = [d["what"] for d in found.damage]
    assert all("(book)" in what for what in wrong) and len(wrong) == 4


def test_redecode_finds_a_price_that_is_not_the_frames(journal: Journal, check: Any) -> None:
    frame = (
        b'{"type":"trade","sid":1,"seq":1,"msg":{"market_ticker":"M","yes_price_dollars":"0.4700","count_fp":"1.00"}}'
    )
    good = {"market": "M", "priceE4": 4700, "countE2": 100}
    journal.add("trade", good, connection=1, sid=1, seq=1, frame=frame)
    number = journal.add(
        "trade", {**good, "priceE4": 4800}, connection=1, sid=1, seq=2, frame=frame.replace(b'q":1', b'q":2')
    )
    journal.seal()
    found = check("--redecode")
    assert [d["what"] for d in found.damage] == [f"record {number} (trade) is not what its frame decodes into"]


# ---- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["missing", "."])
def test_nothing_to_read_is_exit_2(tmp_path: Path, what: str) -> None:
    (tmp_path / DAY).mkdir()
    with pytest.raises(UsageError) as caught:
        verify.main([str(tmp_path / what)])
    assert caught.value.exit_code == 2


def test_a_file_that_may_not_be_read_is_exit_2(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.trade(1)
    path = journal.seal()

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert verify.main([str(path)]) == 2


def test_the_command_runs_by_its_name(journal: Journal) -> None:
    whole_run(journal)
    journal.seal()
    done = subprocess.run(
        [sys.executable, "-m", "ssmd", "verify", str(journal.root)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_tail_that_grows_while_it_is_read_is_read_again(
    journal: Journal, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.trade(1)
    journal.trade(2)
    path = journal.write(OPEN)
    whole = journal.data
    path.write_bytes(whole[:-8])
    monkeypatch.setattr(time, "sleep", lambda seconds: path.write_bytes(whole))
    found = check()
    assert (found.code, found.records) == (0, 2)


def test_a_pause_lies_between_runs_of_one_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two shards that stop and start at the same times."""
    for name in ("a", "b"):
        shard = Journal(tmp_path / name / "kalshi")
        shard.now += 10**9 * (name == "b")
        whole_run(shard)
        shard.now += 60 * 10**9
        whole_run(shard)
        shard.seal()
    verify.main([str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("pause", "run ", "numbers"))]
    assert [line.split()[0] for line in lines] == ["run", "run", "pause", "run", "pause", "run"]
    pauses = [line for line in lines if line.startswith("pause")]
    for name, line in zip(("a", "b"), pauses, strict=True):
        assert (
            line.split(maxsplit=1)[1]
            == f"{tmp_path / name / 'kalshi'}: 1 min 0 s between a stop as asked and the next start"
        )


def test_a_pause_is_not_negative_where_the_clock_was_set_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path / "kalshi")
    whole_run(journal)
    journal.now -= 3600 * 10**9
    whole_run(journal)
    journal.seal()
    verify.main([str(tmp_path)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pause")]
    assert "unknown (the clock was set back, 1 h 0 min at least)" in line


@pytest.mark.parametrize(("times", "code"), [(1, 0), (99, 2)])
def test_a_segment_that_is_removed_while_copies_are_compared_is_looked_for_again(
    journal: Journal,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    code: int,
) -> None:
    """As retention does; where it is always quicker, that is said."""
    whole_run(journal)
    journal.seal()
    looks = 0

    def compared(segments: list[Segment], urls: list[str]) -> list[Any]:
        nonlocal looks
        looks += 1
        if looks <= times:
            raise GoneError(f"{segments[0].path}: it is gone")
        return []

    monkeypatch.setattr(verify, "_compared", compared)
    assert verify.main([str(journal.root), "--against", "file:///archive"]) == code
    said = capsys.readouterr()
    assert looks == (2 if code == 0 else verify.LOOKS)
    assert ("retain_days" in said.err) == (code == 2)
