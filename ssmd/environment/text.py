"""From the text of a file, and `--set key.path=value`, to plain data. No message quotes a value of the text.

YAML, but with the scalars of version 1.2 (`no` is a text, 17:30 is no number), and with less of it: aliases and a key
given twice are errors.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ssmd.environment.model import SOURCE
from ssmd.environment.problems import KeyPath, Problem


class _Loader(yaml.SafeLoader):
    """Safe, with scalars, keys and aliases as said above."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.problems: list[Problem] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    self.problems.append(Problem((), f"line {line}: the key {key.value!r} stands here a second time"))
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}  # none of the base class's
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,19}|0x[0-9a-fA-F]{1,16}", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value, 16) if node.value.startswith("0x") else int(node.value)


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def read_yaml(text: str) -> tuple[Any, list[Problem]]:
    """The data and what is wrong with the text. Messages quote no value of it."""
    try:
        aliases = [token.start_mark.line + 1 for token in yaml.scan(text) if isinstance(token, yaml.AliasToken)]
        if aliases:
            return None, [Problem((), f"line {line}: aliases (*name) are not known here") for line in aliases]
        loader = _Loader(text)
        return loader.get_single_data(), loader.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = re.sub(r"'.*'", "'...'", str(error.problem or error.context))  # it may quote the text
        return None, [Problem((), f"{where}is no YAML: {what}")]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return None, [Problem((), f"is no YAML: {type(error).__name__}")]


def without_nulls(data: Any) -> Any:
    """`key:` with nothing after it means the same as no key."""
    if isinstance(data, dict):
        return {key: without_nulls(value) for key, value in data.items() if value is not None}
    if isinstance(data, list):
        return [without_nulls(value) for value in data]
    return data


def override(data: dict[Any, Any], setting: str) -> tuple[KeyPath, Problem | None]:
    """Puts one `key.path=value` into the data."""
    dotted, equals, text = setting.partition("=")
    parts: KeyPath = tuple(
        int(part) if re.fullmatch(r"[0-9]{1,9}", part) else part for part in dotted.strip().split(".")
    )
    if not equals or "" in parts:
        return parts, Problem((), "--set wants key.path=value, such as --set flusher.sync_interval_ms=100")
    value, problems = read_yaml(text)
    if problems:
        return parts, Problem(parts, f"the value of --set {problems[0].sentence}")
    target: Any = data
    for part in parts[:-1]:
        if isinstance(target, list) and isinstance(part, int) and part < len(target):
            target = target[part]
        elif isinstance(target, dict):
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
        else:
            return parts, Problem(parts, "is no key of a mapping or place in a list: see --set")
    last = parts[-1]
    in_list = isinstance(target, list) and isinstance(last, int) and last < len(target)
    if not in_list and not isinstance(target, dict):
        return parts, Problem(parts, "is no key of a mapping or place in a list: see --set")
    target[last] = value
    return parts, None


# ---- short forms -----------------------------------------------------------------------------------------------------


def with_key_fields(data: dict[Any, Any]) -> list[Problem]:
    """Brings the short forms of `fields` into the long one, in place.

    `fields: {a: env:A}` is `fields: {a: {source: env:A}}`; `fields: [a, b]` with `source: env:A,B` gives each field its
    variable, in order.
    """
    problems = []
    keys = data.get("keys")
    for name, key in keys.items() if isinstance(keys, dict) else ():
        if not isinstance(key, dict):
            continue
        fields, source = key.get("fields"), key.get("source")
        if isinstance(fields, dict):
            key["fields"] = {
                field: {"source": value} if isinstance(value, str) else value for field, value in fields.items()
            }
        elif isinstance(fields, list) and isinstance(source, str) and SOURCE.fullmatch(source):
            sources = [f"env:{variable}" for variable in source[4:].split(",")] if source[:4] == "env:" else [source]
            if len(sources) == len(fields) and all(isinstance(field, str) for field in fields):
                key["fields"] = {field: {"source": value} for field, value in zip(fields, sources, strict=True)}
                del key["source"]
            else:
                sentence = f"lists {len(fields)} fields, but source names {len(sources)}: one for each, in order"
                problems.append(Problem(("keys", name, "fields"), sentence))
    return problems
