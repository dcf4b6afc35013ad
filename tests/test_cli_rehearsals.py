"""Where the journal of a rehearsal is, what becomes of it, and that nothing of what is recorded for real is touched."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from ssmd import host
from ssmd.cli import options, run
from ssmd.cli.rehearsals import Stage, staged
from ssmd.environment import Environment
from ssmd.errors import UsageError
from ssmd.helpers import HELPERS, Standing
from ssmd.report import Report
from ssmd.status import Snapshot

TEXT = """
name: mine
feed: kalshi
schema: market_data:v1
exchange: {simulator: {}}
subscriptions: [{channels: [trade], all: true}]
"""
REAL = """
transport: {type: nats, url: "nats://127.0.0.1:1", publish: both}
storage: {type: s3, bucket: b, region: r, prefix: p, path: %(folder)s/real}
cache: {type: redis, url: "redis://127.0.0.1:1"}
ring: {path: %(folder)s/real-ring}
"""
MEMORY = "transport: {type: memory}\ncache: {type: memory}\njournal: {type: memory}\n"
HELPER = next(helper for helper in HELPERS if helper.name == "rehearsal")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(TEXT + text)
    return str(path)


def end(number: int = 10, **counters: float) -> Snapshot:
    """A run of ten records, as it ended."""
    report = Report("rehearsal", number, 10, 0.0, "record 3: missing" if counters.get("differing") else None, counters)
    standing = Standing(HELPER, report)
    return Snapshot(
        elapsed_s=5.0, frames=10, records=10, written_bytes=1, ring_used_bytes=0, lag_records=0, gaps=0,
        unresolved=False, reconnects=0, live=1, clients=1, unparsed=0, recording_s=4.0, last_number=10,
        helpers=(standing,),
    )  # fmt: skip


def test_rehearse_takes_the_whole_environment_but_its_services_folder_and_ring(tmp_path: Path, temporary: Path) -> None:
    asked = run.parser().parse_args(["-e", file(tmp_path, REAL % {"folder": tmp_path}), "--rehearse"])
    with staged(asked) as stage:
        found = stage.environment
        assert found.rehearsal and (found.transport.publish, found.storage.prefix) == ("both", "p")
        assert found.storage.path.parent == temporary and found.storage.path.name.startswith("ssmd-rehearsal-mine-")
        assert found.ring.path != tmp_path / "real-ring"
        assert (found.storage.path / "THIS-IS-A-REHEARSAL").exists()
        assert what_helpers_load(asked) == found
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "real").exists() and not (tmp_path / "real-ring").exists()


def what_helpers_load(asked: object) -> Environment:
    """An environment by the arguments that a helper process is given."""
    made = options.parser("try", "Tries.")
    options.add_environment(made)
    return options.load(made.parse_args(options.as_arguments(asked)))  # type: ignore[arg-type]


def test_a_run_that_is_no_rehearsal_is_left_as_it_is(tmp_path: Path, temporary: Path) -> None:
    asked = run.parser().parse_args(["-e", file(tmp_path, ""), "--data", str(tmp_path / "d")])
    with staged(asked) as stage:
        assert stage.environment == host.load(tmp_path / "mine.yaml", data=tmp_path / "d")
        stage.judge(end(), drained=False)
        assert stage.kept and stage.last_words == [] and stage.exit_code(0) == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (MEMORY + "storage: {type: memory}", ["--data", "FOLDER/own"]),
        (MEMORY + "storage: {type: memory, path: FOLDER/own}", []),
        ("storage: {path: FOLDER/real}", ["--rehearse", "--data", "FOLDER/own"]),
        ("storage: {path: FOLDER/real}", ["--rehearse", "--set", "storage.path=FOLDER/own"]),
    ],
    ids=["--data", "the file of a rehearsal", "--rehearse --data", "--rehearse --set"],
)
def test_a_folder_that_was_named_for_it_is_used_and_stays(
    tmp_path: Path, temporary: Path, text: str, arguments: list[str]
) -> None:
    folder = str(tmp_path)
    given = [argument.replace("FOLDER", folder) for argument in arguments]
    asked = run.parser().parse_args(["-e", file(tmp_path, text.replace("FOLDER", folder)), *given])
    with staged(asked) as stage:
        assert stage.environment.storage.path == tmp_path / "own"
        assert stage.kept
        (tmp_path / "own").mkdir()
    assert (tmp_path / "own").exists() and list(temporary.iterdir()) == []


def test_a_ring_that_was_named_for_it_is_used(tmp_path: Path) -> None:
    arguments = ["--rehearse", "--set", f"ring.path={tmp_path}/mine-ring"]
    with staged(run.parser().parse_args(["-e", file(tmp_path, ""), *arguments])) as stage:
        assert stage.environment.ring.path == tmp_path / "mine-ring"


def test_a_folder_with_a_journal_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    segment = tmp_path / "real" / "kalshi" / "2026-11-22" / "20261122T000000Z-000000000001.capnp"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(b"precious")
    asked = run.parser().parse_args(["-e", file(tmp_path, ""), "--rehearse", "--data", str(tmp_path / "real")])
    with pytest.raises(UsageError, match="there is a journal here already"), staged(asked):
        pass
    assert segment.read_bytes() == b"precious"


def rehearsed(tmp_path: Path) -> Stage:
    asked = run.parser().parse_args(["-e", file(tmp_path, MEMORY + "storage: {type: memory}")])
    with staged(asked) as stage:
        return stage


@pytest.mark.parametrize(
    ("ended", "drained", "kept", "code"),
    [
        (end(), True, False, 0),
        (end(9), True, True, 1),
        (end(differing=1), True, True, 1),
        (end(), False, True, 1),
    ],
    ids=["all equal", "not all compared", "a difference", "records left in the ring"],
)
def test_what_is_not_proved_equal_ends_with_1_and_stays(
    tmp_path: Path, ended: Snapshot, drained: bool, kept: bool, code: int
) -> None:
    stage = rehearsed(tmp_path)
    stage.judge(ended, drained=drained)
    assert (stage.kept, stage.exit_code(0), stage.exit_code(4)) == (kept, code, 4)
    assert any("stays in" in line for line in stage.last_words) == kept


def test_the_folder_goes_when_the_run_never_began(tmp_path: Path, temporary: Path) -> None:
    asked = run.parser().parse_args(["-e", file(tmp_path, MEMORY + "storage: {type: memory}")])
    with pytest.raises(UsageError), staged(asked):
        raise UsageError("the port is in use")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["journal.id", "archiver.cursor", ".ring", "recovered.json"])
def test_a_folder_with_the_notes_of_a_journal_is_refused_before_its_first_segment(tmp_path: Path, name: str) -> None:
    root = tmp_path / "real" / "kalshi"
    root.mkdir(parents=True)
    (root / name).write_text("precious")
    asked = run.parser().parse_args(["-e", file(tmp_path, ""), "--rehearse", "--data", str(tmp_path / "real")])
    with pytest.raises(UsageError, match="there is a journal here already"), staged(asked):
        pass
    assert (root / name).read_text() == "precious"


def test_a_ring_that_is_there_already_is_refused(tmp_path: Path) -> None:
    """Its records may be those of a real journal that has no segment yet."""
    ring = tmp_path / "ring"
    ring.write_bytes(b"precious")
    arguments = ["--rehearse", "--data", str(tmp_path / "own"), "--set", f"ring.path={ring}"]
    with (
        pytest.raises(UsageError, match="holds records already"),
        staged(run.parser().parse_args(["-e", file(tmp_path, ""), *arguments])),
    ):
        pass
    assert ring.read_bytes() == b"precious"
