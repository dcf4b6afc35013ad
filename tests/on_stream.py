"""What a journal holds and what a stream holds, each read without ssmd: pycapnp and nats-py alone."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nats
from nats.js.api import StreamConfig
from recording import records_of, segment_bytes, segment_files

READ_TIMEOUT_S = 20.0


class Stored(NamedTuple):
    """One numbered record of a segment file."""

    number: int
    kind: str  # as subjects have it
    market: str
    raw: bytes


class Held(NamedTuple):
    """One message of a stream."""

    sequence: int
    subject: str
    message_id: str
    headers: Mapping[str, str]
    payload: bytes


def journal_records(folder: Path) -> list[Stored]:
    """The numbered records of all journals under a storage folder, checkpoints left out."""
    found = []
    for path in segment_files(folder):
        content, at = segment_bytes(path), 0
        for record, end in records_of(content, path.name):
            kind = record.body.which()
            body = getattr(record.body, kind)
            market = getattr(body, "market", "")
            if kind == "book":
                kind = "book_delta" if str(body.kind) == "delta" else "book_snapshot"
            if kind != "checkpoint":
                found.append(Stored(record.number, kind, market, content[at:end]))
            at = end
    return found


def stream_messages(url: str, stream: str = "SSMD") -> list[Held]:
    """Everything a stream holds, in its order."""
    return asyncio.run(_messages(url, stream))


async def _messages(url: str, stream: str) -> list[Held]:
    client = await nats.connect(url)
    try:
        context = client.jetstream()
        state = (await context.stream_info(stream)).state
        held: list[Held] = []
        if not state.messages:
            return held
        subscription = await context.subscribe(">", stream=stream, ordered_consumer=True, pending_msgs_limit=10**7)
        while not held or held[-1].sequence < state.last_seq:
            message = await subscription.next_msg(timeout=READ_TIMEOUT_S)
            headers = dict(message.headers or {})
            message_id = headers.pop("Nats-Msg-Id", "")
            held.append(Held(message.metadata.sequence.stream, message.subject, message_id, headers, message.data))
        return held
    finally:
        await client.close()


def make_stream(url: str, *, name: str = "SSMD", subjects: Sequence[str] = ("md.>",), **settings: Any) -> None:
    """A stream that somebody else made, or (`name` is there) its settings changed."""
    asyncio.run(_make_stream(url, StreamConfig(name=name, subjects=list(subjects), **settings)))


async def _make_stream(url: str, config: StreamConfig) -> None:
    client = await nats.connect(url)
    try:
        context = client.jetstream()
        known = [info.config.name for info in await context.streams_info()]
        await (context.update_stream(config) if config.name in known else context.add_stream(config))
    finally:
        await client.close()


def assert_stream_is_journal(held: Sequence[Held], records: Sequence[Stored], *, prefix: str = "md") -> None:
    """Every record is in the stream exactly once, byte for byte, on each subject in the journal's order."""
    assert records
    ids = [message.message_id for message in held]
    assert len(ids) == len(set(ids)), "a message is stored twice"
    numbers = [int(one.rpartition(":")[2]) for one in ids]
    assert sorted(numbers) == [record.number for record in records], "records are missing, or there are others"
    wanted: dict[str, list[Stored]] = defaultdict(list)
    for record in records:
        word = re.sub(r"[^A-Za-z0-9_-]", "_", record.market) or "_"
        wanted[f"{prefix}.{record.kind}.{word}"].append(record)
    found: dict[str, list[Held]] = defaultdict(list)
    for message in held:
        found[message.subject].append(message)
    assert found.keys() == wanted.keys()
    for subject, messages in found.items():
        assert [message.payload for message in messages] == [record.raw for record in wanted[subject]], subject


def assert_batches_are_journal(held: Sequence[Held], records: Sequence[Stored], *, prefix: str = "md") -> None:
    """The same for batches: the payloads of a kind, in a row, are its records."""
    assert records
    ids = [message.message_id for message in held]
    assert len(ids) == len(set(ids)), "a batch is stored twice"
    for kind in {record.kind for record in records}:
        mine = [record for record in records if record.kind == kind]
        batches = [message for message in held if message.subject == f"{prefix}.batch.{kind}"]
        assert b"".join(message.payload for message in batches) == b"".join(record.raw for record in mine), kind
        assert sum(int(message.headers["Ssmd-Count"]) for message in batches) == len(mine)
    assert {message.subject for message in held} == {f"{prefix}.batch.{record.kind}" for record in records}
