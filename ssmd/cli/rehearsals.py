"""`ssmd run --rehearse`, and environments that are rehearsals: where their journal is, and their last words.

The journal of a rehearsal goes through ring and flusher into files as any other. Unless somebody says where, those are
in a folder for temporary files, which is removed at the end; a run that is killed leaves it, and its name says what it
is. It stays, too, where copies differ or the end was no clean one: somebody will want to look.

Invariant: the journal of a recorder that keeps what it records is never touched by a rehearsal.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ssmd.cli import options
from ssmd.environment import REHEARSED, Environment
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError
from ssmd.journal.identity import IDENTITY
from ssmd.journal.paths import feed_root, find
from ssmd.journal.recorder import RING_NOTE
from ssmd.journal.untold import UNTOLD
from ssmd.status import Snapshot

NOTE = """This folder belongs to a rehearsal of ssmd (environment {name}), which removes it when it ends.
It is here still because that run goes on, was killed, or found copies that differ. Then it can be removed.
"""


class Stage:
    """The environment of a run, and, for a rehearsal, what becomes of its journal and what is said of it."""

    def __init__(self, environment: Environment, scratch: Path | None) -> None:
        self.environment = environment
        self.scratch = scratch
        self.kept = True  # the journal stays
        self.last_words: list[str] = []
        self._equal = True

    def judge(self, end: Snapshot, *, drained: bool) -> None:
        """After the last report of the helper."""
        if not self.environment.rehearsal:
            return
        from ssmd.rehearsal.needs import Run, is_equal, lines

        run = Run(end.last_number, end.recording_s, str(self.environment.storage.path))
        report = next((standing.report for standing in end.helpers if standing.helper.name == "rehearsal"), None)
        self._equal = drained and is_equal(run, report)
        self.kept = self.scratch is None or not self._equal
        self.last_words = list(lines(self.environment, run, report, kept=self.kept))

    def exit_code(self, code: int) -> int:
        """Of the run that ended with `code`."""
        return code if self._equal or code != EXIT_OK else EXIT_INCOMPLETE


@contextlib.contextmanager
def staged(asked: argparse.Namespace) -> Iterator[Stage]:
    """What a run works with, as asked for. `asked` is then also what its helper processes are told."""
    if asked.rehearse:
        ring = [] if _sets(asked, "ring") else ["ring.path="]  # that of the file may hold records of a real journal
        asked.set = [*asked.set, *ring, *(f"{section}.type=memory" for section in REHEARSED)]
    environment = options.load(asked)
    if not environment.rehearsal:
        yield Stage(environment, None)
        return
    if _folder_is_given(asked, environment):
        _refuse_journal(environment)
        yield Stage(environment, None)
        return
    scratch = _scratch(environment)
    asked.data = str(scratch)
    stage = Stage(options.load(asked), scratch)
    stage.kept = False  # until it is judged
    try:
        yield stage
    finally:
        if not stage.kept:
            shutil.rmtree(scratch, ignore_errors=True)


def _folder_is_given(asked: argparse.Namespace, environment: Environment) -> bool:
    """The folder in the file is, for --rehearse, that of what is recorded for real."""
    in_file = environment.storage.path_is_given and not asked.rehearse
    return asked.data is not None or _sets(asked, "storage") or in_file


def _sets(asked: argparse.Namespace, section: str) -> bool:
    """Whether the path of a section is given by --set."""
    return any(setting.partition("=")[0].strip() in (section, f"{section}.path") for setting in asked.set)


def _refuse_journal(environment: Environment) -> None:
    root = feed_root(environment.storage.path, environment.feed)
    notes = (IDENTITY, RING_NOTE, UNTOLD)  # a journal whose records all wait in its ring has no segment yet
    noted = any((root / name).exists() for name in notes) or any(root.glob("*.cursor"))
    if noted or find([root], must_exist=False):
        raise UsageError(
            f"{root}: there is a journal here already, and a rehearsal begins with an empty one",
            hint="Give it a folder of its own with --data DIR, or none: it then makes one, and removes it.",
        )
    ring = Path(str(environment.ring.path))
    if ring.exists():
        raise UsageError(
            f"ring.path: {ring} holds records already, and a rehearsal begins with an empty ring",
            hint="Give it another with --set ring.path=FILE, or another folder with --data DIR.",
        )


def _scratch(environment: Environment) -> Path:
    from ssmd.rehearsal import SCRATCH_NOTE

    folder = Path(tempfile.mkdtemp(prefix=f"ssmd-rehearsal-{environment.name}-"))
    (folder / SCRATCH_NOTE).write_text(NOTE.format(name=environment.name))
    return folder
