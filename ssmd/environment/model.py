"""The sections of an environment file: every key with its type, bounds and default. docs/environment.md has the table.

What a key may be by itself stands here; rules between keys stand in `judge`. Units are the last part of a key's name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
REHEARSED_MINUTES: Final = 1  # of a segment in a rehearsal, at most
REHEARSED_BYTES: Final = 16 * MIB


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


def split_url(value: object) -> SplitResult | None:
    """The parts of a URL with scheme and host, or None."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        if parts and parts.scheme and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # a port that is none, a broken IPv6 address
        pass
    return None


def _url(value: str) -> str:
    parts = split_url(value)
    if parts is None:
        raise ValueError("is no URL: write scheme://host[:port][/path]")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user name or password: secrets never stand in this file")
    return value


SOURCE = re.compile(r"env:[A-Za-z_]\w*(,[A-Za-z_]\w*)*|file:\S.*", re.ASCII)

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
Prefix = Annotated[
    str,
    _matching(r"([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?", "is no prefix: names joined by '/'"),
]
Clock = Annotated[str, _matching(r"([01][0-9]|2[0-3]):[0-5][0-9]", 'must be a time of day, "HH:MM"')]
Text = Annotated[str, Field(min_length=1)]
Url = Annotated[str, AfterValidator(_url)]
Address = Annotated[str, AfterValidator(_address)]
File = Annotated[Path, Field(strict=False)]
Source = Annotated[
    str,  # the sentence does not repeat the value: whoever pastes a key here must not find it in a log
    _matching(SOURCE.pattern, "must be a reference, env:NAME[,NAME...] or file:PATH: secrets never stand in this file"),
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
    check_books: bool = True  # keep books beside the recording, and ask for those that cannot be right
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
    nap_us: Annotated[int, Field(ge=1, le=1_000_000)] = 3000  # what comes within it is one write: latency against CPU
    compress: bool = True  # zstd for sealed segments


class Transport(_Section):
    """The bus."""

    type: Literal["memory", "nats"] = "memory"
    url: Url | None = None
    stream: Word = "SSMD"
    subject_prefix: Subject = "md"
    publish: Literal["records", "batches", "both"] = "records"  # one message a record, or many of a kind in one
    batch_records: Annotated[int, Field(ge=1, le=65_536)] = 256  # at most so many in one message
    stream_max_bytes: NotNegative = 0  # of a stream that the publisher creates; 0: no limit of its own
    stream_max_age_hours: NotNegative = 72  # likewise; 0: for ever
    durable_only: bool = True  # publish what is synced; false: what is written (sooner, no proof against power cuts)


class Storage(_Section):
    """Where segments go. `path` is the local folder of the journal, whatever the type. `memory`: a rehearsal."""

    type: Literal["memory", "local", "s3"] = "local"
    path: File = Path("data")
    bucket: Text | None = None
    region: Text | None = None
    endpoint: Url | None = None
    prefix: Prefix = ""  # of the keys in the bucket
    archive: File | None = None  # type local: sealed segments are copied to this folder too
    retain_days: Annotated[float, Field(ge=0)] | None = None  # local copies go so long after their upload; unset: never

    @property
    def path_is_given(self) -> bool:
        """Whether somebody said where the journal is: the file, --data or --set. Else `path` is the default."""
        return "path" in self.model_fields_set


class Cache(_Section):
    """Short-lived shared values."""

    type: Literal["memory", "redis"] = "memory"
    url: Url | None = None
    max_size: Positive = 100_000
    ttl_s: Positive = 86_400  # of last values


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

    @property
    def rehearsal(self) -> bool:
        """Whether a run only rehearses: everything behind the journal is in memory, and nothing is kept."""
        return self.storage.type == "memory"

    @property
    def flushing(self) -> Flusher:
        """`flusher` as a run uses it. Segments of a rehearsal are small: they are copied and compared as it goes on."""
        given = self.flusher
        if not self.rehearsal:
            return given
        small = {
            "rotate_minutes": min(given.rotate_minutes, REHEARSED_MINUTES),
            "rotate_bytes": min(given.rotate_bytes, REHEARSED_BYTES),
        }
        return given.model_copy(update=small)
