"""The list of faults and the tests of them are the same list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssmd.simulator.faults import CATALOGUE

SOURCES = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*_faults.py"))


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_every_fault_of_the_simulator_strikes_the_recorder_in_some_test(name: str) -> None:
    assert re.search(rf'"{name}\b', SOURCES), f"no test makes the simulator do {name}"
