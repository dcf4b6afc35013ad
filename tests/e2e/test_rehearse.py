"""`ssmd run -e kalshi-rehearsal` as a user has it: all copies agree, nothing stays; a planted difference is found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from recording import ROOT, read_lines, wait_until

# Makes a part of the helper process lose or change something: Python runs it before anything else.
PLANTED = """
import sys
if "ssmd.rehearsal" in sys.orig_argv:
    from ssmd.middleware.memory import MemoryStorage, MemoryTransport
    from ssmd.middleware.interfaces import Receipt
    {what}
"""
LOSES = """
    whole = MemoryTransport._store
    def lossy(self, message):
        lost = str(message.message_id).endswith(":40")
        return Receipt(self._last) if lost else whole(self, message)
    MemoryTransport._store = lossy
"""
FORGETS = """
    whole = MemoryStorage.list
    MemoryStorage.list = lambda self, prefix="": (i for i in whole(self, prefix) if i.key.endswith(".json"))
"""


class Scene:
    """A machine whose folder for temporary files is the test's."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.planted = folder / "planted"
        self.planted.mkdir()

    def plant(self, what: str) -> None:
        (self.planted / "sitecustomize.py").write_text(PLANTED.format(what=what.strip()))

    def run(
        self, *arguments: str, environment: str = "kalshi-rehearsal", records: int = 500
    ) -> subprocess.CompletedProcess[str]:
        """`ssmd run`, asked to end once so many records were compared (0: it ends by itself)."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KALSHI_", "SSMD_"))}
        command = [sys.executable, "-m", "ssmd", "run", "-e", environment, "--set", "health.address=127.0.0.1:0"]
        log = self.temporary.parent / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={**kept, "TMPDIR": str(self.temporary), "PYTHONPATH": f"{self.planted}:{ROOT}"},
            )
        try:
            if records:
                wait_until(lambda: compared(log.read_text()) >= records or process.poll() is not None, what="records")
                process.terminate()
            printed, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, process.returncode, printed, log.read_text())

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.temporary.iterdir())

    @property
    def rings_left(self) -> list[str]:
        """Of the last run, by its log: other rehearsals on this machine have rings of their own."""
        used = re.findall(r'"ring": "([^"]+)"', (self.temporary.parent / "log").read_text())
        assert used
        return [ring for ring in used if Path(ring).exists()]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def compared(log: str) -> float:
    """The cursor of the helper, as /metrics has it; 0 while nobody answers."""
    found = re.search(r'"address": "([^"]+)"', log)
    if found is None:
        return 0
    try:
        with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=10) as answer:
            page = answer.read().decode()
    except OSError:
        return 0
    counted = re.search(r'^ssmd_cursor_number\{cursor="rehearsal"\} (\S+)', page, re.MULTILINE)
    return float(counted[1]) if counted is not None else 0


def records_of(said: str) -> int:
    found = re.search(r"^  records +([\d,]+):", said, re.MULTILINE)
    assert found is not None, said
    return int(found[1].replace(",", ""))


def test_all_copies_agree_and_nothing_stays(scene: Scene) -> None:
    done = scene.run(records=2500)  # more than a second: enough to say something of a day
    assert done.returncode == 0, done.stderr
    count = records_of(done.stdout)
    assert f"  equal       {count:,} records: in the stream (records, batches)" in done.stdout
    assert f"compared    up to record {count:,}, all" in done.stdout
    assert "A day at this rate, extrapolated from" in done.stdout
    assert "Nothing was kept" in done.stdout and "Prove it" not in done.stdout
    assert (scene.left, scene.rings_left) == ([], [])


def test_a_short_one_ends_by_itself_and_says_how_far_it_came(scene: Scene) -> None:
    """All of what it recorded is compared, or, on a machine that is too busy, it says that not all was."""
    done = scene.run("--duration", "3", records=0)
    proved = "  equal " in done.stdout
    assert proved or "  NOT ALL " in done.stdout or "  NOT COMPARED " in done.stdout
    assert done.returncode == (0 if proved else 1), done.stdout + done.stderr
    assert (scene.left == []) == proved
    assert scene.rings_left == []


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (LOSES, "the stream (records): record 40: missing"),
        (FORGETS, "the objects: records 1 to "),
    ],
    ids=["a message lost", "an object lost"],
)
def test_a_planted_difference_ends_it_with_1_and_is_named(scene: Scene, what: str, told: str) -> None:
    scene.plant(what)
    done = scene.run()
    assert done.returncode == 1, done.stderr
    assert "NOT EQUAL" in done.stdout and told in done.stdout
    assert "  equal " not in done.stdout
    (folder,) = scene.left
    assert folder.startswith("ssmd-rehearsal-kalshi-rehearsal-"), "what differs stays to be looked at"
    assert str(scene.temporary / folder) in done.stdout


def test_a_folder_that_was_given_is_kept_and_used_once(scene: Scene, tmp_path: Path) -> None:
    done = scene.run("--data", str(tmp_path / "mine"))
    assert done.returncode == 0, done.stderr
    assert scene.left == []
    assert "Nothing was kept" not in done.stdout and "Prove it" in done.stdout
    assert len(read_lines(tmp_path / "mine")) == records_of(done.stdout)
    again = scene.run("--data", str(tmp_path / "mine"), records=0)
    assert again.returncode == 2
    assert "there is a journal here already" in again.stderr


def test_any_environment_can_be_rehearsed_and_its_own_folder_is_not_touched(scene: Scene, tmp_path: Path) -> None:
    """An environment with servers that are not there, and secrets that are not set."""
    text = (ROOT / "environments" / "kalshi-loopback.yaml").read_text()
    mine = tmp_path / "kalshi-loopback.yaml"
    keys = "keys: {nats: {type: token, source: 'env:NOT_SET'}, redis: {type: password, source: 'env:NOT_SET'}}\n"
    mine.write_text(text.replace("./data/kalshi-loopback", str(tmp_path / "real")) + keys)
    done = scene.run("--rehearse", environment=str(mine))
    assert done.returncode == 0, done.stderr
    assert "Rehearsal of kalshi-loopback" in done.stdout and "  equal " in done.stdout
    assert not (tmp_path / "real").exists()
    assert scene.left == []
