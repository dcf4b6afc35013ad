"""What the command line decides, and the frames of a file. Data only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ssmd.simulator.render import Format


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line decides; times in seconds."""

    markets: int = 20
    rate: float = 1000.0
    seed: int = 1
    format: Format = Format.NEW
    whole: bool = False
    lifecycle: bool = True
    sending_ts: bool = True
    deflate: bool = False
    ping_interval_s: float = 10.0
    pong_timeout_s: float = 30.0
    connection_limit: int = 200
    market_limit: int = 500_000
    buffer_bytes: int = 64 * 1024 * 1024
    paid: bool = False
    frames: tuple[str, ...] | None = None
    loop: bool = False
    faults: tuple[str, ...] = ()


def read_frames(path: Path) -> tuple[str, ...]:
    """The frames of a JSONL file: a string is taken verbatim, an object is written compactly in its order."""
    frames = []
    for line in path.read_text().splitlines():
        if not line.strip():
            continue
        value = json.loads(line)
        if isinstance(value, dict) and "frame" in value:
            value = value["frame"]
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        frames.append(text if text.endswith("\n") else text + "\n")
    return tuple(frames)
