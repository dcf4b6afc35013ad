"""For all tests here: whatever a test did, its ring does not stay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash import ring_path


@pytest.fixture(autouse=True)
def no_ring_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    wanted = "tmp_path" in request.fixturenames
    ring = ring_path(Path(request.getfixturevalue("tmp_path"))) if wanted else None  # asked for now: it ends before us
    yield
    if ring is not None:
        for path in ring.parent.glob(f"{ring.name}*"):
            path.unlink()
