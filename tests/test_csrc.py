"""The C unit tests (csrc/tests, cmocka), each program as one test here. `make test-c` runs them alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "csrc" / "tests"
BUILD = FOLDER.parent / "build"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("test_*.c"))
STRESS = sorted(path.stem for path in FOLDER.glob("stress_*.c"))
HEADERS = "#include <setjmp.h>\n#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <cmocka.h>\n"


@pytest.fixture(scope="module")
def cmocka() -> None:
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler})")
    tried = subprocess.run([compiler, "-E", "-x", "c", "-"], input=HEADERS, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip("cmocka is not installed: apt-get install libcmocka-dev")


def make(target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", "-C", str(FOLDER), target],
        env={name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@contextmanager
def building() -> Iterator[None]:
    """One builds at a time: two processes of tests would write the same objects."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("program", PROGRAMS + STRESS)
def test_a_program_of_c_tests_passes(program: str, cmocka: None) -> None:
    with building():
        built = make(f"../build/plain/{program}")
    assert built.returncode == 0, built.stdout[-5000:] + built.stderr[-5000:]
    told = make(f"run-plain-{program}")
    assert told.returncode == 0, told.stdout[-5000:] + told.stderr[-5000:]
