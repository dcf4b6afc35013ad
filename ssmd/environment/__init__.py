"""One YAML file = one environment: what is recorded, from where, and where to. docs/environment.md lists every key.

`parse` turns the text of a file into one frozen `Environment`, or into one error that lists everything that is wrong
with it, each line with its key path and what to do. Secrets stand in the text as references (`env:A,B`, `file:PATH`),
never as values, and no message repeats what stands in the place of a secret.

Pure: no file, clock or environment variable is read here. What depends on the machine comes in as a `Machine`;
`ssmd.host` knows the real one, and its `load` is what programs call.

    text  --text-->  plain data  --judge-->  problems, or an Environment (model)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ssmd.environment.judge import Data, judge_keys, judge_rules
from ssmd.environment.model import (
    Cache,
    Connector,
    Environment,
    Exchange,
    Flusher,
    Health,
    Journal,
    Key,
    KeyField,
    Reconnect,
    Ring,
    Schedule,
    Shard,
    Simulator,
    Storage,
    Subscription,
    Transport,
)
from ssmd.environment.problems import InvalidEnvironment, KeyPath, Problem, key_text
from ssmd.environment.references import resolve_secret
from ssmd.environment.text import override, read_yaml, with_key_fields, without_nulls

__all__ = [
    "Cache",
    "Connector",
    "Environment",
    "Exchange",
    "Flusher",
    "Health",
    "InvalidEnvironment",
    "Journal",
    "Key",
    "KeyField",
    "Machine",
    "Problem",
    "Reconnect",
    "Ring",
    "Schedule",
    "Shard",
    "Simulator",
    "Storage",
    "Subscription",
    "Transport",
    "describe",
    "key_text",
    "parse",
    "resolve_secret",
    "ring_path",
    "simulator_arguments",
    "unserved",
]

PATH_KEYS: tuple[tuple[str, ...], ...] = (
    ("storage", "path"),
    ("storage", "archive"),
    ("ring", "path"),
    ("exchange", "ca_file"),
    ("exchange", "simulator", "frames"),
    ("exchange", "simulator", "ledger"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What an environment means depends on these facts of the machine."""

    absolute: Callable[[str], Path]  # a path as written -> the one path of that file, however it was written
    shared_memory: Path | None  # a folder in memory that we may write, /dev/shm
    has_timezone: Callable[[str], bool]


def parse(
    text: str, machine: Machine, *, source: str, stem: str | None = None, overrides: Sequence[str] = ()
) -> Environment:
    """The environment of a file's text.

    `source` names the file in errors, `stem` is what its `name` must be (None: anything). `overrides` are
    `key.path=value`, the value being YAML; they replace what stands in the file and are judged like it.
    Raises InvalidEnvironment with every problem found.
    """
    data, problems = read_yaml(text)
    if data is None and not problems:
        problems = [Problem((), "is empty: see docs/environment.md")]
    if data is not None and not isinstance(data, dict):
        problems = [Problem((), "must be a mapping of keys to values: see docs/environment.md")]
    if not isinstance(data, dict):
        raise InvalidEnvironment(source, problems)

    overridden = []
    for setting in overrides:
        path, problem = override(data, setting)
        overridden.append(path)
        if problem:
            problems.append(problem)
    data = without_nulls(data)
    problems += with_key_fields(data)
    path_is_given = Data(data).at("storage", "path") is not None
    _with_absolute_paths(data, machine)
    environment, wrong_keys = judge_keys(data)
    problems += wrong_keys
    problems += judge_rules(Data(data), stem, machine.has_timezone)
    problems = _once_each(problems, overridden)
    if problems or environment is None:
        raise InvalidEnvironment(source, problems)
    if not path_is_given:
        environment.storage.model_fields_set.discard("path")
    if environment.ring.path is None:
        ring = environment.ring.model_copy(update={"path": _default_ring_path(environment, machine)})
        environment = environment.model_copy(update={"ring": ring})
    return environment


def _with_absolute_paths(data: dict[Any, Any], machine: Machine) -> None:
    storage = data.setdefault("storage", {})
    if isinstance(storage, dict):
        storage.setdefault("path", str(Storage.model_fields["path"].default))
    for *sections, key in PATH_KEYS:
        section = Data(data).section(*sections)
        if isinstance(section.get(key), str) and section[key]:
            section[key] = str(machine.absolute(section[key]))


def _once_each(problems: Sequence[Problem], overridden: Sequence[KeyPath]) -> list[Problem]:
    """The first problem of each key, in the order found; those that --set brought about say so."""
    first: dict[tuple[KeyPath, str], Problem] = {}
    for problem in problems:
        path = problem.path
        by_override = any(path[: len(key)] == key for key in overridden if path)
        told = Problem(path, problem.sentence + " [from --set]") if by_override else problem
        first.setdefault((path, "" if path else problem.sentence), told)
    return list(first.values())


def _default_ring_path(environment: Environment, machine: Machine) -> Path:
    """In memory where there is such a folder: a disk's file system stalls the producer while something syncs."""
    data = environment.storage.path
    if machine.shared_memory is None:
        return data / environment.feed / "ring"
    digest = hashlib.sha256(str(data).encode()).hexdigest()[:8]
    return machine.shared_memory / f"ssmd-{environment.name}-{digest}.ring"


def ring_path(environment: Environment) -> Path:
    """The ring's file: `ring.path`, or the default that depends on the name and the data folder.

    Two environments, or one with two data folders, never share a ring; every process that loads the same
    environment with the same data folder finds the same one.
    """
    if environment.ring.path is None:
        raise ValueError("an Environment comes out of parse, which sets ring.path")
    return environment.ring.path


REHEARSED = ("transport", "storage", "cache", "journal")  # all of them in memory, or it is no rehearsal


def unserved(environment: Environment) -> list[Problem]:
    """What the environment asks for in vain. A program that would silently do without must refuse it instead.

    A run keeps what it records, or it is a rehearsal from end to end: what goes out of one would outlive its journal.
    """
    kinds = {section: getattr(environment, section).type for section in REHEARSED}
    if environment.rehearsal:
        sentence = "must be memory where storage.type is memory: a rehearsal, which keeps nothing (--rehearse sets all)"
        kept = [(section, kind) for section, kind in kinds.items() if kind != "memory"]
        return [Problem((section, "type"), f"{sentence} (found {kind!r})") for section, kind in kept]
    if kinds["journal"] == "memory":
        sentence = "what is recorded must outlive the recorder: use file, or nats for readers on other hosts"
        return [Problem(("journal", "type"), f"memory: {sentence}. Only a rehearsal has it, with storage.type memory")]
    return []


def simulator_arguments(simulator: Simulator) -> list[str]:
    """The flags of `ssmd simulate` for this section: one for each key, no renaming."""
    flags: list[str] = []
    for name in Simulator.model_fields:
        value = getattr(simulator, name)
        if name == "faults":
            for fault in value:
                flags += ["--fault", fault]
        elif value is True:
            flags += [f"--{name.replace('_', '-')}"]
        elif value is not None and value is not False:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def describe(environment: Environment) -> str:
    """The environment as YAML, defaults and absolute paths filled in. Holds references to secrets, never secrets.

    Of a service that is not used (type: memory) only its type is shown, and what the file says beside that.
    """
    data = _without_empty(environment.model_dump(mode="json", by_alias=True, exclude_none=True))
    for name in ("transport", "cache"):
        section = getattr(environment, name)
        if section.type == "memory":
            given = section.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            data[name] = {"type": section.type, **given}
    if environment.rehearsal and not environment.storage.path_is_given:  # a run makes a folder for itself
        del data["storage"]["path"], data["ring"]["path"]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def _without_empty(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_empty(value) for key, value in data.items() if value not in ("", [], {})}
    if isinstance(data, list):
        return [_without_empty(value) for value in data]
    return data
