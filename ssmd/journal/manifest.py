"""Manifests: what a sealed segment holds, recomputed from its bytes, as one JSON object beside it.

For: the archiver that writes them, `ssmd verify` that recomputes and compares them. Everything in one follows from
the bytes of its segment alone, so that two programs must come to the same one. docs/journal.md lists the keys.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ssmd.errors import DamageError, MissingObjectError
from ssmd.journal.facts import fact_of
from ssmd.journal.files import replace_file
from ssmd.journal.paths import MANIFEST, SEALED, Segment
from ssmd.journal.reader import Batch, Reader
from ssmd.native.tally import Tally
from ssmd.quality import EventFact, GapFact, SubscribedFact

VERSION = 1


class Builder:
    """Collects one segment's manifest while its batches pass by."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._sha256 = hashlib.sha256()
        self._tally = Tally(books=False)
        self._gaps: list[GapFact] = []
        self._events: list[EventFact] = []
        self._channels: dict[tuple[int, int], str] = {}

    def add(self, batch: Batch) -> None:
        self._sha256.update(memoryview(batch.data)[batch.start : batch.stop])
        shift = batch.start - batch.offset
        for view in self._tally.add(batch.data, batch.start, batch.stop, batch.offset):
            at = view.offset + shift
            fact = fact_of(view, batch.data[at : at + view.length], "")
            if isinstance(fact, GapFact):
                self._gaps.append(fact)
            elif isinstance(fact, EventFact):
                self._events.append(fact)
            elif isinstance(fact, SubscribedFact):
                self._channels[fact.connection, fact.sid] = fact.channel

    def manifest(self) -> dict[str, Any]:
        totals = self._tally.totals()
        return {
            "version": VERSION,
            "segment": self._segment.stem + SEALED,
            "bytes": totals.bytes,
            "sha256": self._sha256.hexdigest(),
            "records": totals.records,
            "frames": totals.frames,
            "by_kind": totals.kinds(),
            "first_number": totals.first_number,
            "last_number": totals.last_number,
            "first_recv_ns": totals.first_recv_ns,
            "last_recv_ns": totals.last_recv_ns,
            "connections": self._connections(),
            "gaps": [_gap(gap) for gap in self._gaps],
            "reconnects": self._reconnects(),
        }

    def _connections(self) -> list[dict[str, Any]]:
        missing: dict[tuple[int, int], list[list[int]]] = {}
        for hole in self._tally.holes():
            missing.setdefault((hole.connection, hole.sid), []).append([hole.from_seq, hole.to_seq])
        channels = [channel for channel in self._tally.channels() if channel.frames]
        return [
            {
                "connection": c.connection,
                "sid": c.sid,
                "channel": self._channels.get((c.connection, c.sid)),
                "first_seq": c.first_seq,
                "last_seq": c.last_seq,
                "frames": c.frames,
                "missing": missing.get((c.connection, c.sid), []),
            }
            for c in sorted(channels)
        ]

    def _reconnects(self) -> int:
        """Connections opened after another was closed in the same run, within the segment."""
        count, closed = 0, 0
        for event in self._events:
            if event.what == "started":
                closed = 0
            elif event.what == "closed":
                closed += 1
            elif event.what == "opened" and closed:
                closed -= 1
                count += 1
        return count


def _gap(gap: GapFact) -> dict[str, Any]:
    return {
        "number": gap.number,
        "cause": gap.cause,
        "connection": gap.connection,
        "sid": gap.sid,
        "from_seq": gap.from_seq,
        "to_seq": gap.to_seq,
        "from_ns": gap.from_ns,
        "to_ns": gap.to_ns,
    }


def compute(segment: Segment) -> dict[str, Any]:
    """The manifest of a sealed segment. DamageError where its bytes do not check out."""
    reader = Reader([segment])
    builder = Builder(segment)
    for batch in reader.batches(segment):
        builder.add(batch)
    if reader.damage:
        raise DamageError(str(reader.damage[0]))
    return builder.manifest()


def path_of(segment: Segment) -> Path:
    return segment.beside(MANIFEST)


def write(segment: Segment, manifest: dict[str, Any]) -> Path:
    """Puts a manifest beside its segment, whole or not at all."""
    path = path_of(segment)
    replace_file(path, json.dumps(manifest, indent=1).encode() + b"\n")
    return path


def read(path: Path) -> dict[str, Any]:
    """A stored manifest. DamageError where it is no JSON object."""
    return parsed(path.read_bytes(), str(path))


def parsed(text: bytes, name: str) -> dict[str, Any]:
    """The manifest in a text; `name` says where it stands."""
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{name}: no JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise DamageError(f"{name}: not a JSON object")
    return manifest


def stored(segment: Segment) -> dict[str, Any] | None:
    """The manifest that stands beside a sealed segment, or among the objects; None where there is none."""
    if not segment.sealed:
        return None
    if segment.stored is None:
        path = path_of(segment)
        return read(path) if path.exists() else None
    key = segment.stored.key.rpartition("/")[0] + "/" + path_of(segment).name
    try:
        return parsed(segment.stored.storage.get(key.removeprefix("/")), str(path_of(segment)))
    except MissingObjectError:
        return None


def differences(stored: dict[str, Any], computed: dict[str, Any]) -> list[str]:
    """In words, where a stored manifest says something else than the bytes. Keys of later versions are not judged."""
    return [
        f"the manifest says {key} = {_short(stored.get(key))}, the bytes say {_short(value)}"
        for key, value in computed.items()
        if stored.get(key) != value and not (key == "version" and stored.get(key, 0) > VERSION)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
