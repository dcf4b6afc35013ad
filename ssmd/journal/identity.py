"""Who a journal is, outside of this machine: `{feed}-{12 hex}`, such as kalshi-5f0c9a1e22b4.

It stands in the file `journal.id` of the journal's folder, made when the journal is first opened for recording and
never replaced: message ids, object keys and cursors contain it, so that two shards of one feed can share a stream and
a bucket, and nobody takes the numbers of one journal for those of another. A copy of the folder is the same journal.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ssmd.errors import DamageError, StorageError, UsageError
from ssmd.journal.files import TEMPORARY, removed_on_failure, sync_folder
from ssmd.middleware.names import token

IDENTITY = "journal.id"
_FORM = re.compile(r"[A-Za-z0-9_-]{1,128}-[0-9a-f]{12}")
_RANDOM_BYTES = 6


def identity(root: Path) -> str:
    """Identity of the journal at `root` (a feed's folder). UsageError where it has none, DamageError for a bad one."""
    known = known_identity(root)
    if known is None:
        raise UsageError(
            f"{root}: this journal has no identity yet",
            hint=f"It is made when `ssmd run` opens the journal. Expected in {root / IDENTITY}.",
        )
    return known


def known_identity(root: Path) -> str | None:
    """The same, None where there is none: no journal, or one from before identities."""
    path = root / IDENTITY
    try:
        text = path.read_text("ascii").rstrip("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if not _FORM.fullmatch(text):
        raise DamageError(
            f"{path}: this is no identity of a journal",
            hint="Bring it back from a copy. A new one would make every published record a new record.",
        )
    return text


def archived_identity(root: Path) -> str | None:
    """The same of a journal in an archive, whose folder is called by it ({feed}/{identity}/{day}); None for another."""
    return root.name if _FORM.fullmatch(root.name) else None


def feed_of(root: Path) -> str:
    """The feed of the journal at `root`, here or in an archive."""
    return root.parent.name if archived_identity(root) is not None and root.parent.name else root.name


def make_identity(root: Path) -> str:
    """The journal's identity; makes it where there is none. Of many callers at once all are given the same one."""
    known = known_identity(root)
    if known is not None:
        return known
    path = root / IDENTITY
    made = f"{token(root.name)}-{os.urandom(_RANDOM_BYTES).hex()}"
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with removed_on_failure(temporary), temporary.open("wb") as file:
            file.write(f"{made}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # never over another's
        temporary.unlink()
        sync_folder(root)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}", hint="Free space first.") from error
    return identity(root)
