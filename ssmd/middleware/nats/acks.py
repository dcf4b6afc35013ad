"""Reads the bus's acknowledgements out of the connection's bytes, a whole read at a time.

nats-py gives every message its own regular expressions, header parser, queue and task: 10 to 20 us, for an
acknowledgement of 30 bytes. A publisher gets one for each record, all on its own inbox and all of the same form:

    MSG _INBOX.k3.17 2  28\\r\\n{"stream":"SSMD", "seq":4711}\\r\\n      (two spaces: there is no reply subject)

So this parser takes a run of them at the head of what was read with one regular expression, and leaves everything else,
refusals included, to nats-py's. It never decides what a message means: what does not look exactly so is not taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser

LINE_END_BYTES = 2

# Serial of the message within its connection, place in the stream, and b"true" or b"" for a duplicate.
Ack = tuple[bytes, bytes, bytes]


class AckParser(Parser):
    """nats-py's parser, with a short cut for runs of acknowledgements on `inbox`."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._run: re.Pattern[bytes] | None = None
        self._one: re.Pattern[bytes] | None = None
        self._taken: Callable[[list[Ack]], None] | None = None

    def watch(self, inbox: str, stream: str, taken: Callable[[list[Ack]], None]) -> None:
        """From now on acknowledgements of `stream` on `inbox`.<serial> go to `taken`."""
        one = (
            rb"MSG " + re.escape(inbox.encode()) + rb"\.([0-9]+) [0-9]+ +[0-9]+\r\n"
            rb'\{"stream":"' + re.escape(stream.encode()) + rb'", ?"seq":([0-9]+)(?:, ?"duplicate": ?(true))?\}\r\n'
        )
        self._one = re.compile(one)
        self._run = re.compile(rb"(?:" + one + rb")++")
        self._taken = taken

    async def parse(self, data: bytes = b"") -> None:
        """Bytes as they were read."""
        if self.state == AWAITING_MSG_PAYLOAD:  # a message that the last read cut: its rest first, by itself
            wanted = max(self.needed + LINE_END_BYTES - len(self.buf), 0)
            await super().parse(data[:wanted])
            data = data[wanted:]
            if not data:
                return
        if self._run is not None and self._one is not None and self._taken is not None:
            if self.buf:
                data = bytes(self.buf) + data
                self.buf.clear()
            run = self._run.match(data)
            if run is not None:
                self._taken(self._one.findall(data, 0, run.end()))
                data = data[run.end() :]
        if data:
            await super().parse(data)
