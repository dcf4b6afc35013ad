"""What all tests share: the folder of shared data, and the rule that nothing is skipped silently.

The last section of a run lists every test that was not run with its reason, and how many a marker left out. Under
pytest-xdist each worker collects all tests and leaves out the same ones; the one that reports hears of it from them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from journal_writer import Journal
    from servers import S3Server

REPOSITORY = Path(__file__).resolve().parent.parent
LEFT_OUT = pytest.StashKey[Counter[str]]()
HOW_TO_RUN = {"slow": "make slow", "wheel": "make wheel-test"}


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real frames of exchanges, which stays outside of the repository: SSMD_SHARED or ../shared."""
    folder = Path(os.environ.get("SSMD_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "kalshi" / "frames.jsonl").is_file():
        pytest.skip("no captured frames here: set SSMD_SHARED to the folder that holds kalshi/frames.jsonl")
    return folder


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal of the feed kalshi, empty, below a storage folder."""
    from journal_writer import Journal

    return Journal(tmp_path / "data" / "kalshi")


@pytest.fixture
def a_quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing loses power: hundreds of syncs would be most of a test's time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A stand-in for S3 that the tests of a module share; `store` is the same, emptied."""
    from servers import S3Server

    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def store(shared_store: S3Server) -> S3Server:
    shared_store.reset()
    return shared_store


def pytest_deselected(items: Iterable[pytest.Item]) -> None:
    for item in items:
        counter = item.config.stash.setdefault(LEFT_OUT, Counter())
        counter[next((name for name in HOW_TO_RUN if item.get_closest_marker(name)), "")] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (told := getattr(session.config, "workeroutput", None)) is not None:
        told["left_out"] = dict(session.config.stash.get(LEFT_OUT, Counter()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended; one that broke told nothing."""
    if left_out := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[LEFT_OUT] = Counter(left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    not_run: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        where = report.nodeid.partition("::")[0]
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple | list) else str(report.longrepr)
        line = f"{where}: {reason.removeprefix('Skipped: ')}"
        not_run[line] = not_run.get(line, 0) + 1
    for marker, count in config.stash.get(LEFT_OUT, Counter()).items():
        reason = f"marked {marker}: `{HOW_TO_RUN[marker]}` runs them" if marker else "left out by the arguments"
        not_run[reason] = count
    if not_run:
        terminalreporter.section("not run")
        for line, count in sorted(not_run.items()):
            terminalreporter.write_line(f"{count} test{'s' if count > 1 else ''} not run, {line}")
    else:
        terminalreporter.write_line("everything was run")
