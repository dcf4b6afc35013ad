"""Nothing is skipped silently: the last section of a run names what was not run, in one process and in several."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_passes(): pass

@pytest.mark.parametrize("number", range(2))
def test_lacks_something(number): pytest.skip("no such program")

@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_is_slow(number): pass
"""


def last_lines(folder: Path, repository: Path, *arguments: str) -> list[str]:
    """What a run of those tests says last, without the line of the result."""
    shutil.copy(repository / "tests" / "conftest.py", folder)
    (folder / "test_these.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow: is slow\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "pytest.ini", *arguments],
        cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(params=["one process", "two workers"])
def processes(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "one process":
        return []
    if importlib.util.find_spec("xdist") is None:
        pytest.skip("pytest-xdist is not installed (pip install pytest-xdist)")
    return ["-p", "xdist.plugin", "-n", "2"]


def test_what_was_skipped_and_what_a_marker_left_out_is_listed_once(
    tmp_path: Path, repository: Path, processes: list[str]
) -> None:
    said = last_lines(tmp_path, repository, "-m", "not slow", *processes)
    assert [line for line in said if "not run, " in line] == [
        "3 tests not run, marked slow: `make slow` runs them",
        "2 tests not run, test_these.py: no such program",
    ]
    assert sum("= not run =" in line for line in said) == 1


def test_a_run_of_everything_says_so_once(tmp_path: Path, repository: Path, processes: list[str]) -> None:
    said = last_lines(tmp_path, repository, "test_these.py::test_passes", *processes)
    assert said.count("everything was run") == 1
    assert not any("not run" in line for line in said)
