"""This machine's part in an environment: its files, environment variables, home, time zones and /dev/shm.

The thin shell around `ssmd.environment`, which is pure. `load` is how every program gets its Environment and
`secret_reader` how it gets secrets; nothing else in ssmd looks for environment files or reads key files.
"""

from __future__ import annotations

import json
import os
import stat
import zoneinfo
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ssmd import environment as env
from ssmd.errors import UsageError

SHARED_MEMORY = Path("/dev/shm")
MAX_SECRET_BYTES = 64 * 1024
MAX_ENVIRONMENT_BYTES = 1024 * 1024


def machine() -> env.Machine:
    """The facts of this machine that an environment depends on."""
    writable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
    return env.Machine(
        absolute=_absolute,
        shared_memory=SHARED_MEMORY if writable else None,
        has_timezone=_has_timezone,
    )


def _absolute(path: str) -> Path:
    """The same for every way to write it, links included: the ring's name depends on the data folder's."""
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError):  # ~ of nobody, a null byte: whoever opens it will say so
        return Path.cwd() / path


def _has_timezone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return True


def folders() -> list[Path]:
    """Where environments are looked for, in this order: here, in the repository, in the installed package."""
    package = Path(__file__).resolve().parent
    candidates = [Path.cwd() / "environments", package.parent / "environments", package / "environments"]
    return [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]


def names() -> dict[str, Path]:
    """Name -> file of every environment that can be given by name; the first folder wins."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find(name_or_path: str | Path) -> Path:
    """The file of an environment: a path as it is, a name looked up in `folders()`."""
    text = str(name_or_path)
    if os.sep in text or text.endswith((".yaml", ".yml")):
        return Path(text).expanduser()
    known = names()
    if text not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise UsageError(f"no environment has the name {text!r}", hint=f"known: {listed}; or give the path of a file")
    return known[text]


def load(name_or_path: str | Path, overrides: Sequence[str] = (), *, data: str | Path | None = None) -> env.Environment:
    """The environment of a name or file, with `key.path=value` overrides; `data` replaces storage.path.

    Raises UsageError (InvalidEnvironment, with every problem, where the file can be read).
    """
    if data is not None and "://" in str(data):
        raise UsageError(f"{data} is no folder of this machine", hint="--data wants one: journals are recorded here")
    path = find(name_or_path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_ENVIRONMENT_BYTES).decode("utf-8")
    except OSError as error:
        hint = "ssmd env list names the environments that there are"
        raise UsageError(f"{path}: cannot be read: {error.strerror}", hint=hint) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no UTF-8 text (byte {error.start})") from None
    if data is not None:
        # JSON's quotes are YAML's: whatever the folder is called, it is text
        overrides = [*overrides, "storage.path=" + json.dumps(str(data), ensure_ascii=False)]
    return env.parse(text, machine(), source=str(path), stem=path.stem, overrides=overrides)


def secret(source: str) -> str | None:
    """The secret that a source (`env:A,B` or `file:PATH`) refers to; None if none of its variables is set."""
    return env.resolve_secret(source, variable=os.environ.get, read=_read_secret_file)


def secret_reader(environment: env.Environment) -> Callable[[str, str], str]:
    """A function (key, field) -> secret, which raises UsageError that says what to set where there is none."""

    def read(key: str, field: str) -> str:
        entry = environment.keys.get(key)
        source = entry.sources.get(field) if entry else None
        if source is None:
            hint = f"add keys.{key} with the field {field} to the environment file: docs/environment.md"
            raise UsageError(f"environment {environment.name} has no keys.{key}.{field}", hint=hint)
        variables = " or ".join(source.partition(":")[2].split(","))
        try:
            value = secret(source)
        except UsageError as error:
            named = f" ({variables})" if source.startswith("env:") else ""
            sentence = f"keys.{key}.{field} of environment {environment.name}{named}: {error.args[0]}"
            raise UsageError(sentence, hint=error.hint) from None
        if value is None:
            raise UsageError(
                f"keys.{key}.{field} of environment {environment.name} is not set", hint=f"set {variables}"
            )
        return value

    return read


def variables_without(environment: env.Environment, keys: Iterable[str]) -> dict[str, str]:
    """Our environment variables for a process that has no use for these `keys` of the environment.

    Left out are those that only they refer to: what another key names as well is kept.
    """
    named: dict[bool, set[str]] = {True: set(), False: set()}
    unwanted = set(keys)
    for name, entry in environment.keys.items():
        for source in entry.sources.values():
            if source.startswith("env:"):
                named[name in unwanted].update(source.removeprefix("env:").split(","))
    dropped = named[True] - named[False]
    return {name: value for name, value in os.environ.items() if name not in dropped}


def secret_states(environment: env.Environment) -> list[tuple[str, str, str]]:
    """For each secret of the environment: its key path, its source, and `set` or `not set`.

    Raises UsageError for a file that cannot be read or that others may read.
    """
    states = []
    for name, entry in environment.keys.items():
        for field, source in entry.sources.items():
            path = f"keys.{name}.fields.{field}" if entry.fields else f"keys.{name}"
            states.append((path, source, "not set" if secret(source) is None else "set"))
    return states


def _read_secret_file(path: str) -> tuple[str, int]:
    """Text and permission bits, both of the file that was opened."""
    try:
        with Path(path).expanduser().open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: is no plain file")
            return file.read(MAX_SECRET_BYTES).decode("utf-8"), stat.S_IMODE(status.st_mode)
    except OSError as error:
        raise UsageError(f"{path}: the secret cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: the secret is no UTF-8 text") from None
