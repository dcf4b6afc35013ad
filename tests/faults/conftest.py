"""For all tests here: whatever a test did, its ring does not stay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash import ring_path


@pytest.fixture(autouse=True)
def no_ring_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "tmp_path" in request.fixturenames:
        ring = ring_path(Path(request.getfixturevalue("tmp_path")))
        for path in ring.parent.glob(f"{ring.name}*"):
            path.unlink()
