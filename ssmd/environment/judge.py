"""Judges the data of an environment file, in two passes over the same data, so that all errors come out at once.

`judge_keys` (pydantic) looks at each key by itself; `judge_rules` at keys against each other and at the machine. The
second works on the raw data with look-ups that always answer: an error of the first kind never hides one of its own.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ssmd.environment.model import MIB, Environment, Reconnect, Ring, split_url
from ssmd.environment.problems import KeyPath, Problem, key_text

SCHEMA: Final = "market_data:v1"  # the only schema that this version writes
RECORD_OVERHEAD_BYTES: Final = 4096  # what a record of a frame too large to decode needs beside the frame


# ---- each key by itself ----------------------------------------------------------------------------------------------


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a type is, or is made of: Exchange | None, dict[Name, Key], tuple[Subscription, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _known_keys(path: KeyPath) -> list[str]:
    """The keys that the section at `path` may hold."""
    section: type[BaseModel] = Environment
    for part in path:
        field = section.model_fields.get(str(part))
        section = (_section_in(field.annotation) if field else None) or section
    return [field.alias or name for name, field in section.model_fields.items()]


SENTENCES: Final = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text (put it in quotes)",
    "string_too_short": "must not be empty",
    "path_type": "must be a path",
    "tuple_type": "must be a list: [a, b]",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a section with keys of its own",
    "model_attributes_type": "must be a section with keys of its own",
    "too_short": "must hold at least one entry",
    "finite_number": "must be a finite number",
    "invalid_key": "a key must be text: put it in quotes",
}


def _sentence(error: ErrorDetails, path: KeyPath) -> str:
    """pydantic's error in our words: what is wrong and what would be right."""
    context = error.get("ctx", {})
    kind = error["type"]
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        return "is no key that I know" + (f": did you mean {close[0]}?" if close else f"; known: {', '.join(known)}")
    if kind == "missing":
        return "is missing: add it"
    if kind in SENTENCES:
        sentence = SENTENCES[kind]
    elif kind == "literal_error":
        sentence = f"must be {context['expected']}".replace("'", "")
    elif kind in ("greater_than_equal", "greater_than", "less_than_equal", "less_than"):
        words = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
        sentence = "must be " + " ".join(f"{words[key]} {context[key]}" for key in words if key in context)
    elif kind == "value_error":
        sentence = str(context["error"])
    else:
        sentence = error["msg"]
    return sentence + _found(error["input"], path)


def _found(value: object, path: KeyPath) -> str:
    """The offending value, unless it might be a secret."""
    secret = path[0] == "keys" or any(str(part).endswith(("url", "proxy", "endpoint")) for part in path)
    if secret or not isinstance(value, (str, int, float)) or len(str(value)) > 60:
        return ""
    return f" (found {value!r})"


def judge_keys(data: dict[Any, Any]) -> tuple[Environment | None, list[Problem]]:
    try:
        return Environment.model_validate(data), []
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            path = tuple(part for part in detail["loc"] if part != "[key]")
            problems.append(Problem(path, _sentence(detail, path)))
        return None, problems


# ---- keys against each other -----------------------------------------------------------------------------------------


class Data:
    """Unjudged data with defaults: every look-up answers, whatever stands there."""

    def __init__(self, data: dict[Any, Any]) -> None:
        self.data = data

    def at(self, *path: str, default: Any = None) -> Any:
        value: Any = self.data
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def section(self, *path: str) -> dict[Any, Any]:
        value = self.at(*path)
        return value if isinstance(value, dict) else {}

    def number(self, *path: str, default: float) -> float | None:
        """None where something else than a finite number stands."""
        value = self.at(*path, default=default)
        wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
        return None if wrong else value


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _scheme_problem(path: KeyPath, url: object, secure: str, plain: str) -> Iterator[Problem]:
    """A URL must have the secure scheme; the plain one only on this machine."""
    parts = split_url(url)
    if parts is None:  # judged as a URL already
        return
    if parts.scheme not in (secure, plain):
        yield Problem(path, f"must start with {secure}://")
    elif parts.scheme == plain and not _is_loopback(parts.hostname or ""):
        yield Problem(path, f"must start with {secure}://: {plain}:// is for this machine (127.0.0.1) only")


def judge_rules(data: Data, stem: str | None, has_timezone: Callable[[str], bool]) -> Iterator[Problem]:
    """Everything that is wrong between keys, or with what the machine has."""
    yield from _secret_values(data.data)
    name = data.at("name")
    if stem is not None and isinstance(name, str) and name != stem:
        yield Problem(("name",), f"must be the file's name without .yaml, {stem!r} (found {name!r})")
    if isinstance(data.at("schema"), str) and data.at("schema") != SCHEMA:
        yield Problem(("schema",), f"must be {SCHEMA}: this version writes no other (found {data.at('schema')!r})")
    yield from _key_rules(data)
    yield from _exchange_rules(data)
    yield from _subscription_rules(data)
    yield from _size_rules(data)
    yield from _service_rules(data)
    zone = data.at("schedule", "timezone")
    if isinstance(zone, str) and zone and not has_timezone(zone):
        yield Problem(
            ("schedule", "timezone"), f"is no time zone of this machine, such as America/New_York (found {zone!r})"
        )


def _key_rules(data: Data) -> Iterator[Problem]:
    for name in data.section("keys"):
        key = data.section("keys", name)
        if "source" in key and "fields" in key:
            yield Problem(("keys", name), "has both source and fields: keep one of them")
        if not key.get("source") and not key.get("fields") and key.get("required", True) is True:
            yield Problem(("keys", name, "source"), "is missing: a required key needs a source, env:NAME or file:PATH")


def _exchange_rules(data: Data) -> Iterator[Problem]:
    exchange = data.section("exchange")
    if "simulator" in exchange:
        for key in ("websocket_url", "rest_url", "ca_file", "proxy"):
            if key in exchange:
                yield Problem(("exchange", key), "has no meaning beside exchange.simulator: remove one of them")
    elif isinstance(data.at("exchange"), dict) and "websocket_url" not in exchange:
        yield Problem(("exchange", "websocket_url"), "is missing: give it, or write exchange.simulator: {}")
    yield from _scheme_problem(("exchange", "websocket_url"), exchange.get("websocket_url"), "wss", "ws")
    yield from _scheme_problem(("exchange", "rest_url"), exchange.get("rest_url"), "https", "http")
    proxy = split_url(exchange.get("proxy"))
    if proxy and proxy.scheme != "http":
        yield Problem(("exchange", "proxy"), "must start with http:// (a proxy that knows CONNECT)")


def _subscription_rules(data: Data) -> Iterator[Problem]:
    subscriptions = data.at("subscriptions")
    exchange = data.section("exchange")
    for index, entry in enumerate(subscriptions if isinstance(subscriptions, list) else ()):
        path: KeyPath = ("subscriptions", index)
        if not isinstance(entry, dict):
            continue
        given = [key for key in ("markets", "series", "events", "all") if entry.get(key) not in ([], False, None)]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            yield Problem(path, f"needs exactly one of markets, series, events or all: true (found {found})")
        if ("series" in given or "events" in given) and exchange and not {"rest_url", "simulator"} & exchange.keys():
            yield Problem(("exchange", "rest_url"), f"is missing: {key_text(path)} needs it to find its markets")


def _size_rules(data: Data) -> Iterator[Problem]:
    ring_bytes = data.number("ring", "size_bytes", default=Ring().size_bytes)
    frame_bytes = data.number("max_frame_bytes", default=MIB)
    if ring_bytes and frame_bytes and 2 * (frame_bytes + RECORD_OVERHEAD_BYTES) > ring_bytes:
        sentence = f"with {RECORD_OVERHEAD_BYTES} bytes more must fit into half of ring.size_bytes ({ring_bytes})"
        yield Problem(("max_frame_bytes",), f"{sentence}: lower it, or enlarge the ring")
    index = data.number("shard", "index", default=0)
    count = data.number("shard", "count", default=1)
    if index is not None and count is not None and index >= count:
        yield Problem(("shard", "index"), f"must be less than shard.count ({count})")
    least = data.number("connector", "reconnect", "min_ms", default=Reconnect().min_ms)
    most_s = data.number("connector", "reconnect", "max_s", default=Reconnect().max_s)
    if least is not None and most_s is not None and least > most_s * 1000:
        yield Problem(("connector", "reconnect", "min_ms"), f"must be at most connector.reconnect.max_s ({most_s} s)")


def _service_rules(data: Data) -> Iterator[Problem]:
    needs = {
        ("transport", "nats"): ("url",),
        ("cache", "redis"): ("url",),
        ("storage", "s3"): ("bucket", "region"),
    }
    for (section, kind), keys in needs.items():
        if data.at(section, "type") == kind:
            for key in keys:
                if key not in data.section(section):
                    yield Problem((section, key), f"is missing: {section}.type {kind} needs it")
    if data.at("journal", "type") == "nats" and data.at("transport", "type") != "nats":
        yield Problem(("journal", "type"), "nats needs transport.type nats (its url and stream are used)")
    schemes = {("transport", "url"): ("nats", "tls"), ("cache", "url"): ("redis", "rediss")}
    for (section, key), allowed in schemes.items():
        parts = split_url(data.at(section, key))
        if parts and parts.scheme not in allowed:
            yield Problem((section, key), "must start with " + " or ".join(f"{scheme}://" for scheme in allowed))
    yield from _scheme_problem(("storage", "endpoint"), data.at("storage", "endpoint"), "https", "http")
    yield from _upload_rules(data)
    yield from _credential_rules(data)


def _upload_rules(data: Data) -> Iterator[Problem]:
    """What concerns sealed segments needs a place where they go: a bucket, or the folder `archive`.

    A rehearsal is given the keys of any other environment: it has no use for some of them.
    """
    storage, s3 = data.section("storage"), data.at("storage", "type") == "s3"
    if storage.get("type") == "memory":
        return
    if s3 and "archive" in storage:
        yield Problem(("storage", "archive"), "has no meaning with storage.type s3: segments go to the bucket")
    for key in ("retain_days", "prefix"):
        if key in storage and storage[key] != "" and not s3 and "archive" not in storage:
            sentence = "needs a place that segments are uploaded to: storage.type s3, or storage.archive"
            yield Problem(("storage", key), sentence)
    path, archive = storage.get("path"), storage.get("archive")
    if isinstance(path, str) and isinstance(archive, str) and _one_in_the_other(path, archive):
        yield Problem(
            ("storage", "archive"), "must lie outside of storage.path: tools that read it would find all twice"
        )


def _one_in_the_other(first: str, second: str) -> bool:
    """Of two absolute paths."""
    shorter, longer = sorted((first.rstrip("/") + "/", second.rstrip("/") + "/"), key=len)
    return longer.startswith(shorter)


# The fields that a key of a service may have: one of these sets. A key without fields has the field `value`.
SERVICE_FIELDS: Final = {
    "nats": ({"user", "password"}, {"token"}, {"creds"}, {"value"}),
    "s3": ({"access_key_id", "secret_access_key"}, {"access_key_id", "secret_access_key", "session_token"}),
    "redis": ({"password"}, {"user", "password"}, {"value"}),
}


def _credential_rules(data: Data) -> Iterator[Problem]:
    """A misspelt field would mean to ask without a password."""
    for name, allowed in SERVICE_FIELDS.items():
        key = data.section("keys", name)
        fields = (
            set(key["fields"]) if isinstance(key.get("fields"), dict) else ({"value"} if "source" in key else set())
        )
        if fields and fields not in allowed:
            choices = "; or ".join(", ".join(sorted(choice)) for choice in allowed if choice != {"value"})
            path = ("keys", name, "fields" if "fields" in key else "source")
            yield Problem(path, f"must be the fields {choices}: docs/environment.md")


_UUID = re.compile(r"\b[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")


def _is_key_id(text: str) -> bool:
    """A file may be called after the key that it holds."""
    return not text.startswith("file:") and bool(_UUID.search(text))


def _secret_values(data: Any, path: KeyPath = ()) -> Iterator[Problem]:
    """Texts that look like a secret itself: private key blocks anywhere, key ids under `keys`."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _secret_values(value, (*path, str(key)))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _secret_values(value, (*path, index))
    elif isinstance(data, str) and ("-----BEGIN" in data or (path[0] == "keys" and _is_key_id(data))):
        yield Problem(
            path, "looks like a secret: revoke it if this file was shared, and write env:NAME or file:PATH here"
        )
