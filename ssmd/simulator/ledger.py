"""The ledger: every text frame that was handed to a socket, one JSON line each.

    {"connection":3,"ns":1796000000000000000,"text":"{\\"type\\":...}\\n"}      a frame (UTF-8)
    {"connection":3,"ns":...,"base64":"..."}                                    a frame that is not UTF-8
    {"connection":3,"ns":...,"event":"opened"|"closed"|"ping"|"fault",...}      anything else worth knowing

`text` encoded as UTF-8, or `base64` decoded, is the payload of the WebSocket message, byte for byte
(fragments put together, compression undone). A line is written before the socket gets the bytes, so
a frame in the ledger may not have arrived, but a frame that arrived is in the ledger (up to the last
0.2 s if the simulator itself is killed). Not a log: nothing is in it that was not sent, except events.
"""

from __future__ import annotations

import base64
import json
from json.encoder import encode_basestring_ascii  # the C function under json.dumps for one string
from pathlib import Path


class Ledger:
    """Appends to one file; `flush` is to be called at least each 0.2 s."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=1 << 20)

    def text(self, connection: int, ns: int, payload: str) -> None:
        self._file.write(b'{"connection":%d,"ns":%d,"text":%b}\n' % (connection, ns, _quoted(payload)))

    def raw(self, connection: int, ns: int, payload: bytes) -> None:
        """As `text`, for bytes that may not be UTF-8."""
        try:
            self.text(connection, ns, payload.decode())
        except UnicodeDecodeError:
            coded = base64.b64encode(payload)
            self._file.write(b'{"connection":%d,"ns":%d,"base64":"%b"}\n' % (connection, ns, coded))

    def event(self, connection: int, ns: int, event: str, **fields: object) -> None:
        line = {"connection": connection, "ns": ns, "event": event} | fields
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _quoted(payload: str) -> bytes:
    return encode_basestring_ascii(payload).encode()
