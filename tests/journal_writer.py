"""An independent writer of segments for tests: pycapnp and a CRC of its own, nothing of ssmd.

It writes what the schema's comments say, slowly and plainly; what the flusher writes must read the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import capnp

SCHEMA = capnp.load(str(Path(__file__).resolve().parent.parent / "schemas" / "market_data.capnp"))
NOON = 1_790_000_000_000_000_000  # 2026-09-21T14:13:20Z
DAY = "2026-09-21"
CLOCK = "20260921T141320Z"

_TABLE = []
for _byte in range(256):
    _crc = _byte
    for _ in range(8):
        _crc = (_crc >> 1) ^ 0x82F63B78 if _crc & 1 else _crc >> 1
    _TABLE.append(_crc)


def crc32c(data: bytes, crc: int = 0) -> int:
    crc = ~crc & 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return ~crc & 0xFFFFFFFF


def record(kind: str, body: dict[str, Any], *, frame: bytes = b"", **header: int) -> bytes:
    """One record; `body` by field names of the schema, levels as lists of (price_e4, count_e2), headers as a dict."""
    message = SCHEMA.Record.new_message(num_first_segment_words=1 << 12)
    for name, value in header.items():
        setattr(message, name, value)
    part = message.init("body").init(kind)
    for name, value in body.items():
        if isinstance(value, dict):
            headers = part.init(name, len(value))
            for i, (header, text) in enumerate(value.items()):
                headers[i].name = header
                headers[i].value = text
        elif isinstance(value, list):
            levels = part.init(name, len(value))
            for i, (price, count) in enumerate(value):
                levels[i].priceE4 = price
                levels[i].countE2 = count
        else:
            setattr(part, name, value)
    if frame:
        message.frame = frame
    data = message.to_bytes()
    assert data[:4] == b"\0\0\0\0", "one segment"
    return data


class Mark(NamedTuple):
    """A place in a segment that is being written."""

    end: int
    batch_at: int
    records: int
    number: int


class Journal:
    """Writes the segments of one journal under `root` (the feed's folder)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = 0
        self.now = NOON
        self.max_connection = 0
        self.data = b""
        self._batch_at = 0
        self._records = 0
        self._first = 0
        self._first_ns = 0
        self.ends: list[int] = []  # offset after each record of the open segment

    def add(self, kind: str, body: dict[str, Any], **header: Any) -> int:
        """Appends a numbered record, one microsecond after the last; gives its number."""
        self.number += 1
        self.now += 1000
        header.setdefault("recvNs", self.now)
        self.max_connection = max(self.max_connection, header.get("connection", 0))
        if not self._first:
            self._first, self._first_ns = self.number, header["recvNs"]
        self.data += record(kind, body, number=self.number, **header)
        self._records += 1
        self.ends.append(len(self.data))
        return self.number

    def checkpoint(self, final: bool = False) -> None:
        fields = {
            "maxConnection": self.max_connection,
            "offset": len(self.data),
            "records": self._records,
            "final": final,
        }
        fields["bytes"] = len(self.data) - self._batch_at + len(self._checkpoint(fields))
        batch = self.data[self._batch_at :] + self._checkpoint(fields)
        self.data += self._checkpoint({**fields, "crc32c": crc32c(batch)})
        self._batch_at = len(self.data)
        self.ends.append(len(self.data))

    def _checkpoint(self, fields: dict[str, Any]) -> bytes:
        return record("checkpoint", fields, number=self.number, recvNs=self.now)

    @property
    def folder(self) -> Path:
        return self.root / DAY

    @property
    def stem(self) -> str:
        return f"{CLOCK}-{self._first:012d}"

    def write(self, suffix: str) -> Path:
        """The bytes so far as a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / (self.stem + suffix)
        path.write_bytes(self.data)
        return path

    def mark(self) -> Mark:
        """Where the writer stands, for `back_to`."""
        return Mark(len(self.data), self._batch_at, self._records, self.number)

    def back_to(self, mark: Mark) -> None:
        """What was added since is forgotten, and its numbers are given again; time goes on."""
        self.data, self._batch_at, self._records, self.number = self.data[: mark.end], *mark[1:]

    def begin(self) -> None:
        """Forgets the written segment and begins the next."""
        self.data = b""
        self._batch_at = self._records = self._first = 0
        self.ends = []

    def seal(self) -> Path:
        self.checkpoint(final=True)
        path = self.write(".capnp")
        self.begin()
        return path

    # ---- the records of an ordinary session -------------------------------------------------------------

    def event(self, what: str, connection: int = 0, **body: Any) -> int:
        return self.add("connection", {"what": what, **body}, connection=connection)

    def subscribed(self, channel: str, sid: int, *, connection: int = 1, request: int = 1) -> int:
        frame = {"type": "subscribed", "id": request, "msg": {"channel": channel, "sid": sid}}
        body = {"type": "subscribed", "id": request, "sid": sid, "channel": channel}
        return self.add("control", body, connection=connection, frame=_line(frame))

    def trade(self, seq: int, market: str = "M-1", *, sid: int = 1, connection: int = 1) -> int:
        msg = {"trade_id": f"t{seq}", "market_ticker": market, "yes_price_dollars": "0.4700", "count_fp": "3.00"}
        frame = {"type": "trade", "sid": sid, "seq": seq, "msg": msg}
        body = {"market": market, "tradeId": f"t{seq}", "priceE4": 4700, "countE2": 300}
        return self.add("trade", body, connection=connection, sid=sid, seq=seq, frame=_line(frame))

    def ticker(self, market: str = "M-1", *, sid: int = 3, connection: int = 1) -> int:
        frame = {"type": "ticker", "sid": sid, "msg": {"market_ticker": market, "price_dollars": "0.4700"}}
        body = {"market": market, "present": 4, "priceE4": 4700}
        return self.add("ticker", body, connection=connection, sid=sid, frame=_line(frame))

    def snapshot(
        self,
        seq: int,
        bids: list[tuple[int, int]],
        asks: list[tuple[int, int]],
        market: str = "M-1",
        *,
        sid: int = 2,
        connection: int = 1,
        request: int = 0,
    ) -> int:
        body: dict[str, Any] = {"market": market, "kind": "snapshot", "yesScale": True}
        if bids:
            body["bids"] = bids
        if asks:
            body["asks"] = asks
        if request:
            body["requestId"] = request
        frame = {"type": "orderbook_snapshot", "sid": sid, "seq": seq, "msg": {"market_ticker": market}}
        return self.add("book", body, connection=connection, sid=sid, seq=seq, frame=_line(frame))

    def delta(
        self, seq: int, side: str, price: int, delta: int, market: str = "M-1", *, sid: int = 2, connection: int = 1
    ) -> int:
        body = {"market": market, "kind": "delta", "side": side, "yesScale": True, "priceE4": price, "deltaE2": delta}
        frame = {"type": "orderbook_delta", "sid": sid, "seq": seq, "msg": {"market_ticker": market}}
        return self.add("book", body, connection=connection, sid=sid, seq=seq, frame=_line(frame))

    def entry(self, topic: str, payload: bytes, **headers: str) -> int:
        return self.add("entry", {"topic": topic, "headers": headers, "payload": payload})

    def gap(self, cause: str, *, connection: int = 1, sid: int = 0, **body: Any) -> int:
        return self.add("gap", {"cause": cause, **body}, connection=connection, sid=sid)


def _line(frame: dict[str, Any]) -> bytes:
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"
