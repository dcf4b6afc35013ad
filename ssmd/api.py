"""What `import ssmd` offers to other programs: `ssmd.tail`. Wiring only: ssmd.consumer does the work. docs/tail.md.

import ssmd

for record in ssmd.tail("data", start="beginning", kinds=["trade"]):
    print(record.number, record.market, record.read().body.trade.priceE4)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from ssmd import environment as env
from ssmd.consumer import BusTail, FileTail, Tail, TailRecord, Wanted
from ssmd.environment import Environment
from ssmd.environment.model import split_url
from ssmd.errors import SsmdError, UsageError
from ssmd.journal.identity import IDENTITY, known_identity
from ssmd.journal.paths import feed_root, find
from ssmd.journal.times import parse_time
from ssmd.middleware import interfaces
from ssmd.middleware.interfaces import Start
from ssmd.native.walk import KIND_BITS

__all__ = ["Start", "Tail", "TailRecord", "tail"]

From = Literal["journal", "nats"]
CREDENTIALS = {"user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN", "creds": "NATS_CREDS"}
_TIME_DIGITS = 18  # a number with so many is nanoseconds, not the number of a record


def tail(
    *paths: str | Path,
    environment: str | Path | None = None,
    url: str | None = None,
    stream: str = "SSMD",
    prefix: str = "md",
    source: From | None = None,
    start: Start | str | int | datetime = "end",
    kinds: Sequence[str] = (),
    markets: Sequence[str] = (),
    journal: str | None = None,
    data: str | Path | None = None,
    settings: Sequence[str] = (),
    on_trouble: Callable[[SsmdError], None] | None = None,
) -> Tail:
    """The records of journals from `start` on, and then as they come, without an end.

    Where from: `paths` (files, folders or globs of journals on this machine), an `environment` (its name or file; with
    `data` and `settings` as --data and --set), or the NATS server at `url` (with `stream` and subject `prefix`). With
    files and a bus, records come from the files up to the position where the bus goes on. `source`: "journal" or
    "nats"; unless given: nats with `url`, else what the environment's journal.type says, else journal.

    `start`: "beginning", "end", a record's number, a time (ISO 8601, datetime, or nanoseconds as text), or a `Start`.
    `kinds` and `markets`: only these. `journal`: only the one of this identity. `on_trouble`: see `ssmd.Tail`.

    Raises UsageError for what cannot be meant, RejectedError where the bus refuses.
    """
    loaded = _environment(environment, data, settings)
    wanted = Wanted(kind_mask(kinds), frozenset(markets)) if kinds else Wanted(markets=frozenset(markets))
    where = _source(source, loaded, url)
    begin = start_of(start)
    roots = list(paths) or ([feed_root(loaded.storage.path, loaded.feed)] if loaded is not None else [])
    if where == "journal":
        if not roots:
            raise UsageError("whose records? no path and no environment was given", hint="give a PATH, or -e ENV")
        return Tail(FileTail(roots, begin, wanted, journal=journal), on_trouble=on_trouble)
    if loaded is not None and url is None:
        prefix = loaded.transport.subject_prefix
    bus = _bus(loaded, url, stream, prefix)
    try:
        made = BusTail(bus, prefix, begin, wanted, journal=journal, files=_journals(roots))
    except BaseException:
        bus.close()
        raise
    return Tail(made, on_trouble=on_trouble)


def kind_mask(names: Sequence[str]) -> int:
    """Filter bits for kind names; `book` is both kinds of book record."""
    known = {name: bit for name, bit in KIND_BITS.items() if name != "checkpoint"}
    known["book"] = known["book_snapshot"] | known["book_delta"]
    mask = 0
    for name in names:
        if name not in known:
            raise UsageError(f"{name!r} is no kind of record", hint=f"known: {' '.join(known)}")
        mask |= known[name]
    return mask


def start_of(given: Start | str | int | datetime) -> Start:
    """Where to begin, as people say it."""
    if isinstance(given, Start):
        return given
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise UsageError(f"start {given}: a time without zone", hint="give it one: datetime.now(UTC)")
        return Start.time(parse_time(given.isoformat()))
    text = str(given).strip()
    if text in ("beginning", "end"):
        return Start.beginning() if text == "beginning" else Start.end()
    if text.isascii() and text.isdigit() and (isinstance(given, int) or len(text) < _TIME_DIGITS):
        return Start.number(int(text))
    try:
        return Start.time(parse_time(text))
    except UsageError:
        raise UsageError(
            f"start {text!r} is no place in a journal",
            hint="write beginning, end, the number of a record, or a time: 2026-11-22T16:58:30Z",
        ) from None


def _environment(name: str | Path | None, data: str | Path | None, settings: Sequence[str]) -> Environment | None:
    if name is None:
        return None
    from ssmd import host

    return host.load(name, settings, data=data)


def _source(asked: From | None, environment: Environment | None, url: str | None) -> From:
    if asked is not None:
        if asked not in ("journal", "nats"):
            raise UsageError(f"source {asked!r}: there is none of this name", hint="journal or nats")
        return asked
    if url is not None or (environment is not None and environment.journal.type == "nats"):
        return "nats"
    return "journal"


def _bus(environment: Environment | None, url: str | None, stream: str, prefix: str) -> interfaces.Transport:
    from ssmd.middleware import factory

    if url is not None:
        return factory.transport(_section(url, stream, prefix), _credentials())
    if environment is None:
        raise UsageError(
            "which bus? neither a URL nor an environment was given", hint="give --url nats://HOST:PORT, or -e ENV"
        )
    if environment.transport.type != "nats":
        raise UsageError(
            f"environment {environment.name} has no bus: transport.type is {environment.transport.type}",
            hint="read its files: --from journal",
        )
    from ssmd import host

    return factory.MiddlewareFactory(environment, host.secret_reader(environment)).transport()


def _section(url: str, stream: str, prefix: str) -> env.Transport:
    """A section as of an environment, judged in the same way."""
    parts = split_url(url)
    if parts is None or parts.scheme not in ("nats", "tls"):
        raise UsageError(f"{url!r} names no NATS server", hint="write nats://HOST:PORT or tls://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "a URL must hold no user name or password: others see the command line",
            hint=f"set {', '.join(CREDENTIALS.values())}",
        )
    try:
        return env.Transport(type="nats", url=url, stream=stream, subject_prefix=prefix)
    except ValueError:
        raise UsageError(
            f"stream {stream!r} with prefix {prefix!r}: not both are names on a bus",
            hint="a stream is letters, digits, '-', '_'; a prefix such words with dots between",
        ) from None


def _credentials() -> dict[str, str]:
    """For a bus that is named by its URL: from variables, as `ssmd verify --against` has them."""
    from ssmd import host

    found = {field: os.environ[name] for field, name in CREDENTIALS.items() if os.environ.get(name)}
    if "creds" in found:
        found["creds"] = host.secret("file:" + found["creds"]) or ""
    return found


def _journals(paths: Sequence[str | Path]) -> Mapping[str, Path]:
    """The journals under some paths that have an identity: only those can be found again on a bus."""
    folders = {segment.journal for segment in find(paths, must_exist=False)}
    folders |= {Path(path) for path in paths if (Path(path) / IDENTITY).exists()}
    named = {known_identity(folder): folder for folder in sorted(folders)}
    return {name: folder for name, folder in named.items() if name is not None}
