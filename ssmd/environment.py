"""One YAML file = one environment: what is recorded, from where, and where to. docs/environment.md lists every key.

`parse` turns the text of a file into one frozen `Environment`, or into one error that lists everything that is wrong
with it, each line with its key path and what to do. Secrets stand in the text as references (`env:A,B`, `file:PATH`),
never as values, and no message of this module repeats what stands in the place of a secret.

Pure: no file, clock or environment variable is read here. What depends on the machine comes in as a `Machine`;
`ssmd.host` knows the real one, and its `load` is what programs call. Two passes over the same data find all errors at
once: pydantic judges each key by itself, `_rules` judges keys against each other on the raw data, so that an error of
the first kind never hides one of the second.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import SplitResult, urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ssmd.errors import UsageError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

SCHEMA: Final = "market_data:v1"  # the only schema that this version writes
RECORD_OVERHEAD_BYTES: Final = 4096  # what a record of a frame too large to decode needs beside the frame
SECRET_FORBIDDEN_MODE: Final = 0o077  # permission bits that the file of a secret may not have


# ---- kinds of values -------------------------------------------------------------------------------------------------


def _matching(pattern: str, sentence: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(sentence)
        return value

    return AfterValidator(check)


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        below = 1 << (value.bit_length() - 1)
        raise ValueError(f"must be a power of two, such as {below} or {below * 2}")
    return value


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host.strip("[]") or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080 (port 0: any free one)")
    return value


def _split_url(value: object) -> SplitResult | None:
    """The parts of a URL with scheme and host, or None."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        if parts and parts.scheme and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # a port that is none, a broken IPv6 address
        pass
    return None


def _url(value: str) -> str:
    parts = _split_url(value)
    if parts is None:
        raise ValueError("is no URL: write scheme://host[:port][/path]")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user name or password: secrets never stand in this file")
    return value


_SOURCE = re.compile(r"env:[A-Za-z_]\w*(,[A-Za-z_]\w*)*|file:\S.*", re.ASCII)

Name = Annotated[
    str, _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "may hold letters, digits, '.', '_', '-' only (at most 64)")
]
Feed = Annotated[str, _matching(r"[a-z][a-z0-9_-]{0,31}", "may hold small letters, digits, '_', '-' only (at most 32)")]
Channel = Annotated[str, _matching(r"[a-z][a-z0-9_]{0,63}", "is no channel name: small letters, digits and '_'")]
Ticker = Annotated[str, _matching(r"[A-Za-z0-9._-]{1,128}", "is no ticker: letters, digits, '.', '_' and '-'")]
Subject = Annotated[
    str,
    _matching(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", "is no subject: words of letters, digits, '_', '-', dots between"),
]
Word = Annotated[str, _matching(r"[A-Za-z0-9_-]{1,64}", "may hold letters, digits, '_', '-' only (at most 64)")]
Clock = Annotated[str, _matching(r"([01][0-9]|2[0-3]):[0-5][0-9]", 'must be a time of day, "HH:MM"')]
Text = Annotated[str, Field(min_length=1)]
Url = Annotated[str, AfterValidator(_url)]
Address = Annotated[str, AfterValidator(_address)]
File = Annotated[Path, Field(strict=False)]
Source = Annotated[
    str,  # the sentence does not repeat the value: whoever pastes a key here must not find it in a log
    _matching(
        _SOURCE.pattern, "must be a reference, env:NAME[,NAME...] or file:PATH: secrets never stand in this file"
    ),
]
Channels = Annotated[tuple[Channel, ...], Field(strict=False, min_length=1)]
Tickers = Annotated[tuple[Ticker, ...], Field(strict=False)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


# ---- sections --------------------------------------------------------------------------------------------------------


class _Section(BaseModel):
    """A mapping of the file: strict types, frozen, unknown keys refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class KeyField(_Section):
    """One value of a key."""

    source: Source
    description: str = ""


class Key(_Section):
    """A secret by reference: one value (`source`), or several (`fields`, each with its own source)."""

    type: Literal["api_key", "password", "token"]
    description: str = ""
    required: bool = True
    source: Source | None = None
    fields: dict[Word, KeyField] = Field(default_factory=dict)
    rotation_days: Positive | None = None

    @property
    def sources(self) -> dict[str, str]:
        """Field -> source; a key without fields has the one field `value`."""
        if self.fields:
            return {name: field.source for name, field in self.fields.items()}
        return {"value": self.source} if self.source else {}


class Simulator(_Section):
    """An exchange of our own as a child process on loopback; each key is the flag of that name of `ssmd simulate`."""

    markets: Annotated[int, Field(ge=1, le=100_000)] = 20
    rate: Annotated[float, Field(ge=0)] = 1000.0  # messages a second to a client of all channels; 0: no limit
    seed: NotNegative = 1
    port: Port = 0
    tls: bool = False
    profile: Literal["new", "old", "both"] = "new"  # format of the messages
    frames: File | None = None  # serve these (JSONL) instead of generated markets
    loop: bool = False  # frames again and again
    ledger: File | None = None  # what was sent, to compare a journal with
    faults: Texts = ()
    ping_interval: Annotated[float, Field(ge=0)] = 10.0  # seconds; 0: none
    connection_limit: Positive = 200


class Exchange(_Section):
    """Where the exchange is: a WebSocket (and REST) address, or the simulator."""

    websocket_url: Url | None = None
    rest_url: Url | None = None
    ca_file: File | None = None  # PEM certificates trusted instead of the system's
    proxy: Url | None = None
    simulator: Simulator | None = None


class Subscription(_Section):
    """Channels, and the markets of them: by ticker, by series, by event, or all."""

    channels: Channels
    markets: Tickers = ()
    series: Tickers = ()
    events: Tickers = ()
    all: bool = False


class Shard(_Section):
    """This connector takes the markets of `index` of `count`."""

    index: NotNegative = 0
    count: Annotated[int, Field(ge=1, le=1024)] = 1


class Reconnect(_Section):
    """The back-off between connection attempts: doubles from min to max, with jitter, for ever."""

    min_ms: Annotated[int, Field(ge=1, le=600_000)] = 250
    max_s: Annotated[float, Field(gt=0, le=3600)] = 30.0


class Connector(_Section):
    """How the sockets are kept."""

    stall_after_s: Annotated[float, Field(ge=0.1, le=3600)] = 25.0  # nothing received for so long = a dead socket
    reconnect: Reconnect = Reconnect()
    subscribe_batch: Annotated[int, Field(ge=1, le=10_000)] = 256  # markets named in one command
    max_markets_per_connection: Annotated[int, Field(ge=1, le=500_000)] = 10_000  # beyond: one more socket
    use_yes_price: bool = True  # ask for NO prices on the YES scale; records are the same either way


class Ring(_Section):
    """The shared memory between connector and flusher."""

    path: File | None = None  # set by parse, see ring_path
    size_bytes: Annotated[int, Field(ge=64 * KIB, le=16 * GIB), AfterValidator(_power_of_two)] = 4 * MIB


class Flusher(_Section):
    """The writer of segments."""

    mode: Literal["thread", "process"] = "thread"
    sync_interval_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 1000
    sync_bytes: Annotated[int, Field(ge=4 * KIB, le=16 * GIB)] = 4 * MIB
    rotate_minutes: Annotated[int, Field(ge=1, le=1440)] = 60
    rotate_bytes: Annotated[int, Field(ge=64 * KIB, le=64 * GIB)] = 256 * MIB
    keep_frames: bool = True  # store the exchange's own bytes in each record
    nap_us: Annotated[int, Field(ge=1, le=1_000_000)] = 1000  # pause when the ring is empty: latency against CPU
    compress: bool = True  # zstd for sealed segments


class Transport(_Section):
    """The bus."""

    type: Literal["memory", "nats"] = "memory"
    url: Url | None = None
    stream: Word = "SSMD"
    subject_prefix: Subject = "md"


class Storage(_Section):
    """Where segments go. `path` is the local folder of the journal, whatever the type."""

    type: Literal["memory", "local", "s3"] = "local"
    path: File = Path("data")
    bucket: Text | None = None
    region: Text | None = None
    endpoint: Url | None = None


class Cache(_Section):
    """Short-lived shared values."""

    type: Literal["memory", "redis"] = "memory"
    url: Url | None = None
    max_size: Positive = 100_000


class Journal(_Section):
    """What a journal is made of."""

    type: Literal["memory", "file", "nats"] = "file"


class Schedule(_Section):
    """Which day's folder a record belongs to."""

    timezone: Text = "UTC"
    day_start: Clock = "00:00"


class Health(_Section):
    """Where /metrics, /healthz, /readyz and the live page are served."""

    address: Address = "127.0.0.1:8080"

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


class Environment(_Section):
    """A whole file, with defaults filled in, paths absolute and `ring.path` set. Made by `parse` only."""

    name: Name
    feed: Feed
    schema_name: str = Field(alias="schema")
    keys: dict[Name, Key] = Field(default_factory=dict)
    exchange: Exchange
    subscriptions: Annotated[tuple[Subscription, ...], Field(strict=False, min_length=1)]
    shard: Shard = Shard()
    connector: Connector = Connector()
    normalizer: Literal["c", "python"] = "c"
    max_frame_bytes: Annotated[int, Field(ge=1 * KIB, le=64 * MIB)] = 1 * MIB
    ring: Ring = Ring()
    flusher: Flusher = Flusher()
    transport: Transport = Transport()
    storage: Storage = Storage()
    cache: Cache = Cache()
    journal: Journal = Journal()
    schedule: Schedule = Schedule()
    health: Health = Health()


# ---- errors ----------------------------------------------------------------------------------------------------------

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and a sentence that says what to do."""

    path: KeyPath
    sentence: str

    def __str__(self) -> str:
        return f"{key_text(self.path)}: {self.sentence}" if self.path else self.sentence


class InvalidEnvironment(UsageError):
    """A file that is refused, with everything that is wrong with it."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


def key_text(path: KeyPath) -> str:
    """('subscriptions', 0, 'markets') -> subscriptions[0].markets"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


# ---- YAML ------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe, with the scalars of YAML 1.2 (`no` is a text and 17:30 no number); a key given twice is an error."""

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
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value, 16) if node.value.startswith("0x") else int(node.value)


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def _read_yaml(text: str) -> tuple[Any, list[Problem]]:
    """The data and what is wrong with the text. Messages quote no value of it."""
    try:
        loader = _Loader(text)
        return loader.get_single_data(), loader.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return None, [Problem((), f"{where}is no YAML: {error.problem or error.context}")]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return None, [Problem((), f"is no YAML: {type(error).__name__}")]


def _without_nulls(data: Any) -> Any:
    """`key:` with nothing after it means the same as no key."""
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items() if value is not None}
    if isinstance(data, list):
        return [_without_nulls(value) for value in data]
    return data


# ---- overrides -------------------------------------------------------------------------------------------------------


def _override(data: dict[Any, Any], setting: str) -> tuple[KeyPath, Problem | None]:
    """Puts one `key.path=value` into the data."""
    dotted, equals, text = setting.partition("=")
    parts: KeyPath = tuple(int(part) if part.isdigit() else part for part in dotted.strip().split("."))
    if not equals or "" in parts:
        return parts, Problem((), "--set wants key.path=value, such as --set flusher.sync_interval_ms=100")
    value, problems = _read_yaml(text)
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


# ---- judging each key by itself --------------------------------------------------------------------------------------


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
    fixed = {
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
    if kind in fixed:
        sentence = fixed[kind]
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


def _judge_keys(data: dict[Any, Any]) -> tuple[Environment | None, list[Problem]]:
    try:
        return Environment.model_validate(data), []
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            path = tuple(part for part in detail["loc"] if part != "[key]")
            problems.append(Problem(path, _sentence(detail, path)))
        return None, problems


# ---- judging keys against each other ---------------------------------------------------------------------------------


class _Raw:
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
        """None where something else than a number stands."""
        value = self.at(*path, default=default)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _scheme_problem(path: KeyPath, url: object, secure: str, plain: str) -> Iterator[Problem]:
    """A URL must have the secure scheme; the plain one only on this machine."""
    parts = _split_url(url)
    if parts is None:  # judged as a URL already
        return
    if parts.scheme not in (secure, plain):
        yield Problem(path, f"must start with {secure}://")
    elif parts.scheme == plain and not _is_loopback(parts.hostname or ""):
        yield Problem(path, f"must start with {secure}://: {plain}:// is for this machine (127.0.0.1) only")


def _rules(raw: _Raw, stem: str | None, machine: Machine) -> Iterator[Problem]:
    name = raw.at("name")
    if stem is not None and isinstance(name, str) and name != stem:
        yield Problem(("name",), f"must be the file's name without .yaml, {stem!r} (found {name!r})")
    if isinstance(raw.at("schema"), str) and raw.at("schema") != SCHEMA:
        yield Problem(("schema",), f"must be {SCHEMA}: this version writes no other (found {raw.at('schema')!r})")
    yield from _key_rules(raw)
    yield from _exchange_rules(raw)
    yield from _subscription_rules(raw)
    yield from _size_rules(raw)
    yield from _service_rules(raw)
    zone = raw.at("schedule", "timezone")
    if isinstance(zone, str) and zone and not machine.has_timezone(zone):
        yield Problem(
            ("schedule", "timezone"), f"is no time zone of this machine, such as America/New_York (found {zone!r})"
        )


def _key_rules(raw: _Raw) -> Iterator[Problem]:
    for name in raw.section("keys"):
        key = raw.section("keys", name)
        if "source" in key and "fields" in key:
            yield Problem(("keys", name), "has both source and fields: keep one of them")
        if not key.get("source") and not key.get("fields") and key.get("required", True) is True:
            yield Problem(("keys", name, "source"), "is missing: a required key needs a source, env:NAME or file:PATH")


def _with_key_fields(data: dict[Any, Any]) -> list[Problem]:
    """Brings the short forms of `fields` into the long one, in place.

    `fields: {a: env:A}` is `fields: {a: {source: env:A}}`; `fields: [a, b]` with `source: env:A,B` gives each field its
    variable, in order.
    """
    problems = []
    keys = _Raw(data).section("keys")
    for name, key in keys.items():
        if not isinstance(key, dict):
            continue
        fields, source = key.get("fields"), key.get("source")
        if isinstance(fields, dict):
            key["fields"] = {
                field: {"source": value} if isinstance(value, str) else value for field, value in fields.items()
            }
        elif isinstance(fields, list) and isinstance(source, str) and _SOURCE.fullmatch(source):
            sources = [f"env:{variable}" for variable in source[4:].split(",")] if source[:4] == "env:" else [source]
            if len(sources) == len(fields) and all(isinstance(field, str) for field in fields):
                key["fields"] = {field: {"source": value} for field, value in zip(fields, sources, strict=True)}
                del key["source"]
            else:
                sentence = f"lists {len(fields)} fields, but source names {len(sources)}: one for each, in order"
                problems.append(Problem(("keys", name, "fields"), sentence))
    return problems


def _exchange_rules(raw: _Raw) -> Iterator[Problem]:
    exchange = raw.section("exchange")
    if "exchange" in raw.data and isinstance(raw.at("exchange"), dict):
        if "simulator" in exchange:
            for key in ("websocket_url", "rest_url", "ca_file", "proxy"):
                if key in exchange:
                    yield Problem(("exchange", key), "has no meaning beside exchange.simulator: remove one of them")
        elif "websocket_url" not in exchange:
            yield Problem(("exchange", "websocket_url"), "is missing: give it, or write exchange.simulator: {}")
    yield from _scheme_problem(("exchange", "websocket_url"), exchange.get("websocket_url"), "wss", "ws")
    yield from _scheme_problem(("exchange", "rest_url"), exchange.get("rest_url"), "https", "http")
    proxy = _split_url(exchange.get("proxy"))
    if proxy and proxy.scheme != "http":
        yield Problem(("exchange", "proxy"), "must start with http:// (a proxy that knows CONNECT)")


def _subscription_rules(raw: _Raw) -> Iterator[Problem]:
    subscriptions = raw.at("subscriptions")
    exchange = raw.section("exchange")
    listed = isinstance(subscriptions, list)
    for index, entry in enumerate(subscriptions if listed else ()):
        path: KeyPath = ("subscriptions", index)
        if not isinstance(entry, dict):
            continue
        given = [key for key in ("markets", "series", "events", "all") if entry.get(key) not in ([], False, None)]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            yield Problem(path, f"needs exactly one of markets, series, events or all: true (found {found})")
        if ("series" in given or "events" in given) and exchange and not {"rest_url", "simulator"} & exchange.keys():
            yield Problem(("exchange", "rest_url"), f"is missing: {key_text(path)} needs it to find its markets")


def _size_rules(raw: _Raw) -> Iterator[Problem]:
    ring_bytes = raw.number("ring", "size_bytes", default=Ring().size_bytes)
    frame_bytes = raw.number("max_frame_bytes", default=MIB)
    if ring_bytes and frame_bytes and frame_bytes + RECORD_OVERHEAD_BYTES > ring_bytes / 2:
        sentence = f"with {RECORD_OVERHEAD_BYTES} bytes more must fit into half of ring.size_bytes ({int(ring_bytes)})"
        yield Problem(("max_frame_bytes",), f"{sentence}: lower it, or enlarge the ring")
    index = raw.number("shard", "index", default=0)
    count = raw.number("shard", "count", default=1)
    if index is not None and count is not None and index >= count:
        yield Problem(("shard", "index"), f"must be less than shard.count ({count})")
    least = raw.number("connector", "reconnect", "min_ms", default=Reconnect().min_ms)
    most_s = raw.number("connector", "reconnect", "max_s", default=Reconnect().max_s)
    if least is not None and most_s is not None and least > most_s * 1000:
        yield Problem(("connector", "reconnect", "min_ms"), f"must be at most connector.reconnect.max_s ({most_s} s)")


def _service_rules(raw: _Raw) -> Iterator[Problem]:
    needs = {
        ("transport", "nats"): ("url",),
        ("cache", "redis"): ("url",),
        ("storage", "s3"): ("bucket", "region"),
    }
    for (section, kind), keys in needs.items():
        if raw.at(section, "type") == kind:
            for key in keys:
                if key not in raw.section(section):
                    yield Problem((section, key), f"is missing: {section}.type {kind} needs it")
    if raw.at("journal", "type") == "nats" and raw.at("transport", "type") != "nats":
        yield Problem(("journal", "type"), "nats needs transport.type nats (its url and stream are used)")
    schemes = {("transport", "url"): ("nats", "tls"), ("cache", "url"): ("redis", "rediss")}
    for (section, key), allowed in schemes.items():
        parts = _split_url(raw.at(section, key))
        if parts and parts.scheme not in allowed:
            yield Problem((section, key), "must start with " + " or ".join(f"{scheme}://" for scheme in allowed))
    yield from _scheme_problem(("storage", "endpoint"), raw.at("storage", "endpoint"), "https", "http")


_UUID = re.compile(r"\b[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")


def _secret_values(data: Any, path: KeyPath = ()) -> Iterator[Problem]:
    """Texts that look like a secret itself: private key blocks anywhere, key ids under `keys`."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _secret_values(value, (*path, str(key)))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _secret_values(value, (*path, index))
    elif isinstance(data, str) and ("-----BEGIN" in data or (path[0] == "keys" and _UUID.search(data))):
        yield Problem(
            path, "looks like a secret: revoke it if this file was shared, and write env:NAME or file:PATH here"
        )


# ---- parse -----------------------------------------------------------------------------------------------------------

_PATH_KEYS: tuple[tuple[str, ...], ...] = (
    ("storage", "path"),
    ("ring", "path"),
    ("exchange", "ca_file"),
    ("exchange", "simulator", "frames"),
    ("exchange", "simulator", "ledger"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What an environment means depends on these facts of the machine."""

    current: Path  # relative paths start here
    home: Path  # what ~ stands for
    shared_memory: Path | None  # a folder in memory that we may write, /dev/shm
    has_timezone: Callable[[str], bool]

    def absolute(self, path: str) -> str:
        if path == "~" or path.startswith("~/"):
            return str(self.home / path[2:])
        return str(self.current / path)


def parse(
    text: str, machine: Machine, *, source: str, stem: str | None = None, overrides: Sequence[str] = ()
) -> Environment:
    """The environment of a file's text.

    `source` names the file in errors, `stem` is what its `name` must be (None: anything). `overrides` are
    `key.path=value`, the value being YAML; they replace what stands in the file and are judged like it.
    Raises InvalidEnvironment with every problem found.
    """
    data, problems = _read_yaml(text)
    if data is None and not problems:
        problems = [Problem((), "is empty: see docs/environment.md")]
    if data is not None and not isinstance(data, dict):
        problems = [Problem((), "must be a mapping of keys to values: see docs/environment.md")]
    if not isinstance(data, dict):
        raise InvalidEnvironment(source, problems)

    overridden = []
    for setting in overrides:
        path, problem = _override(data, setting)
        overridden.append(path)
        if problem:
            problems.append(problem)
    data = _without_nulls(data)
    problems += _with_key_fields(data)
    _with_absolute_paths(data, machine)
    environment, wrong_keys = _judge_keys(data)
    problems += _secret_values(data)
    problems += wrong_keys
    problems += _rules(_Raw(data), stem, machine)
    problems = _once_each(problems, overridden)
    if problems or environment is None:
        raise InvalidEnvironment(source, problems)
    if environment.ring.path is None:
        ring = environment.ring.model_copy(update={"path": _default_ring_path(environment, machine)})
        environment = environment.model_copy(update={"ring": ring})
    return environment


def _with_absolute_paths(data: dict[Any, Any], machine: Machine) -> None:
    storage = data.setdefault("storage", {})
    if isinstance(storage, dict):
        storage.setdefault("path", str(Storage.model_fields["path"].default))
    for *sections, key in _PATH_KEYS:
        section = _Raw(data).section(*sections)
        if isinstance(section.get(key), str) and section[key]:
            section[key] = machine.absolute(section[key])


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


# ---- secrets ---------------------------------------------------------------------------------------------------------


def resolve_secret(
    source: str, *, variable: Callable[[str], str | None], read: Callable[[str], tuple[str, int]]
) -> str | None:
    """The secret that `source` refers to, or None if no variable that it names is set.

    `env:A,B`: the first of the variables that is set and not empty. A variable whose name ends in _PATH holds the path
    of a file with the secret. `file:PATH`: that file. `read` gives a file's text and permission bits; a file that
    others may read is refused. Errors name variables and files, never what they hold.
    """
    kind, _, rest = source.partition(":")
    if kind == "file":
        return _read_secret(rest, read)
    for name in rest.split(","):
        value = variable(name)
        if value:
            return _read_secret(value, read) if name.endswith("_PATH") else value
    return None


def _read_secret(path: str, read: Callable[[str], tuple[str, int]]) -> str:
    text, mode = read(path)
    if mode & SECRET_FORBIDDEN_MODE:
        raise UsageError(
            f"{path}: others may read this secret (mode {mode & 0o777:o})", hint=f"run: chmod 600 {shlex.quote(path)}"
        )
    if not text.strip():
        raise UsageError(f"{path}: the file of a secret is empty")
    return text


# ---- describe --------------------------------------------------------------------------------------------------------


def describe(environment: Environment) -> str:
    """The environment as YAML, defaults and absolute paths filled in. Holds references to secrets, never secrets."""
    data = _without_empty(environment.model_dump(mode="json", by_alias=True, exclude_none=True))
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def _without_empty(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_empty(value) for key, value in data.items() if value not in ("", [], {})}
    if isinstance(data, list):
        return [_without_empty(value) for value in data]
    return data
