"""`ssmd tail --topic T` and `ssmd tail --topics`: a journal as entries under topics, whatever it is made of.

`journal.type` of the environment chooses: segment files or a stream of NATS. A record of the schema is shown as such,
anything else as text. docs/tail.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from ssmd.errors import DamageError, LaggedError, SsmdError, UnavailableError, UsageError
from ssmd.middleware.interfaces import Entry, Journal, JournalReader, Start

_WAIT_S = 0.25  # longest wait in one piece: a signal is seen after it
_RETRY_S = 1.0

Told = Callable[[SsmdError], None]


def run(given: argparse.Namespace, start: Start, told: Told, stopped: Callable[[], bool]) -> None:
    """Prints topics with their counts, or entries until it is stopped."""
    with closing(_journal(given)) as journal:
        if given.topics:
            for topic, count in sorted(journal.topics().items()):
                print(json.dumps({"topic": topic, "entries": count}, ensure_ascii=False))
            return
        with closing(journal.reader(start, topics=given.topic)) as reader:
            _print(reader, given.count, given.duration, told, stopped)


def _journal(given: argparse.Namespace) -> Journal:
    others = {"PATH": given.paths, "--url": given.url, "--from": given.source, "--journal": given.journal}
    others |= {"--kind": given.kind, "--market": given.market, "--format": given.format != "json"}
    refused = [name for name, value in others.items() if value]
    if given.environment is None or refused:
        raise UsageError(
            "--topic and --topics ask the journal of an environment"
            + (f": {', '.join(refused)} do not go with them" if refused else ""),
            hint="ssmd tail -e ENV --topic 'trade.*'",
        )
    from ssmd import host
    from ssmd.middleware.factory import MiddlewareFactory

    environment = host.load(given.environment, given.set, data=given.data)
    if environment.journal.type == "memory":
        raise UsageError(
            f"environment {environment.name}: journal.type is memory: nothing of it outlives the process that has it",
            hint="--set journal.type=file",
        )
    return MiddlewareFactory(environment, host.secret_reader(environment)).journal()


def _print(
    reader: JournalReader, count: int | None, duration_s: float | None, told: Told, stopped: Callable[[], bool]
) -> None:
    end = None if duration_s is None else time.monotonic() + duration_s
    printed, away = 0, False
    while (count is None or printed < count) and not stopped():
        left_s = _WAIT_S if end is None else min(_WAIT_S, end - time.monotonic())
        try:
            entry = reader.next(max(left_s, 0.0))
        except UnavailableError as error:
            if not away:
                told(error)
            away = True
            time.sleep(min(_RETRY_S, max(left_s, 0.0)))
            entry = None
        except (LaggedError, DamageError) as error:
            told(error)
            continue
        if entry is not None:
            away = False
            sys.stdout.write(json.dumps(_shown(entry), ensure_ascii=False) + "\n")
            printed += 1
        else:
            sys.stdout.flush()
        if left_s <= 0 and end is not None:
            return


def _shown(entry: Entry) -> dict[str, Any]:
    shown = {"number": entry.number, "topic": entry.topic, "time_ns": entry.time_ns, "headers": dict(entry.headers)}
    from ssmd import records

    try:
        if records.size_at(entry.payload) == len(entry.payload):
            return {**shown, "record": records.to_json(records.read(entry.payload))}
    except DamageError:
        pass
    return {**shown, "payload": entry.payload.decode("utf-8", "backslashreplace")}
