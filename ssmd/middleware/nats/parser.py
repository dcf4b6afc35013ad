"""Reads what comes many times a read out of the connection's bytes: acknowledgements, and messages of a stream.

nats-py gives every message its own regular expressions, header parser, queue and task: 10 to 20 us. A publisher gets an
acknowledgement of 30 bytes for each record, all on its own inbox and all of the same form, a reader gets each record:

    MSG _INBOX.k3.17 2  28\\r\\n{"stream":"SSMD", "seq":4711}\\r\\n      (two spaces: there is no reply subject)
    HMSG md.trade.A 7 $JS.ACK.SSMD.… 43 343\\r\\nNATS/1.0\\r\\nNats-Msg-Id: k-5f:17\\r\\n\\r\\n<300 bytes>\\r\\n

So this parser takes runs of acknowledgements with one regular expression, and splits the messages of subscriptions that
are `tap`ped, a whole read at a time. Everything else, refusals included, is left to nats-py's, command by command. It
never decides what a message means.

Invariant: whatever a read cuts, the same is taken, in the order of the bytes. Bytes are either ours (`_cut`: a message
of a tap whose end is still to come) or nats-py's (`buf`), never both.

Facts: the NATS client protocol (MSG, HMSG); nats-py 2.16, protocol/parser.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser

LINE_END_BYTES: Final = 2

# Serial of the message within its connection, place in the stream, and b"true" or b"" for a duplicate.
Ack = tuple[bytes, bytes, bytes]
# Subject, subject to reply to (b"" = none), headers as they came (b"" = none), payload.
Raw = tuple[bytes, bytes, bytes, bytes]

# H or nothing, subject, sid, reply, bytes of headers, bytes in all.
_MESSAGE: Final = re.compile(rb"(?:(H)|)MSG ([^\s]+) ([0-9]+) +(?:([^\s]+) +)??(?(1)([0-9]+) +|())([0-9]+)\r\n")


class BusParser(Parser):
    """nats-py's parser, with short cuts for runs of acknowledgements and for tapped subscriptions."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._run: re.Pattern[bytes] | None = None
        self._one: re.Pattern[bytes] | None = None
        self._acknowledged: Callable[[list[Ack]], None] | None = None
        self._taps: dict[bytes, Callable[[list[Raw]], None]] = {}
        self._cut: list[bytes] = []  # of a message of a tap, as it was read
        self._lacking = 0  # bytes to its end

    def watch(self, inbox: str, stream: str, taken: Callable[[list[Ack]], None]) -> None:
        """From now on acknowledgements of `stream` on `inbox`.<serial> go to `taken`."""
        one = (
            rb"MSG " + re.escape(inbox.encode()) + rb"\.([0-9]+) [0-9]+ +[0-9]+\r\n"
            rb'\{"stream":"' + re.escape(stream.encode()) + rb'", ?"seq":([0-9]+)(?:, ?"duplicate": ?(true))?\}\r\n'
        )
        self._one = re.compile(one)
        self._run = re.compile(rb"(?:" + one + rb")++")
        self._acknowledged = taken

    def tap(self, sid: int, taken: Callable[[list[Raw]], None]) -> None:
        """From now on the messages of this subscription go to `taken`, those of one read at once."""
        self._taps[b"%d" % sid] = taken

    def untap(self, sid: int) -> None:
        self._taps.pop(b"%d" % sid, None)

    async def parse(self, data: bytes = b"") -> None:
        """Bytes as they were read."""
        if self._lacking:
            self._cut.append(data)
            self._lacking -= len(data)
            if self._lacking > 0:
                return
            data, self._cut, self._lacking = b"".join(self._cut), [], 0
        elif self.state == AWAITING_MSG_PAYLOAD:  # a message that the last read cut: its rest first, by itself
            wanted = max(self.needed + LINE_END_BYTES - len(self.buf), 0)
            await super().parse(data[:wanted])
            data = data[wanted:]
        elif self.buf:  # a line that the last read cut
            data = bytes(self.buf) + data
            self.buf.clear()
        at = 0
        while at < len(data):
            at = self._take_acks(data, at)
            at = self._take_messages(data, at)
            if self._lacking:
                self._cut.append(data[at:])
                return
            if at < len(data):
                end = self._end(data, at)
                await super().parse(data[at:end])
                at = end

    def _take_acks(self, data: bytes, at: int) -> int:
        """Takes the run of acknowledgements at a place; gives the place behind it."""
        if self._run is None or self._one is None or self._acknowledged is None:
            return at
        run = self._run.match(data, at)
        if run is None:
            return at
        self._acknowledged(self._one.findall(data, at, run.end()))
        return run.end()

    def _take_messages(self, data: bytes, at: int) -> int:
        """Takes the run of messages of one tap at a place; gives the place behind it. `_lacking`: one is cut there."""
        if not self._taps:
            return at
        match, size = _MESSAGE.match, len(data)
        mine = taken = None
        found: list[Raw] = []
        while (line := match(data, at)) is not None:
            _, subject, sid, reply, header_bytes, _, all_bytes = line.groups()
            if sid != mine:
                if sid not in self._taps:
                    break
                if taken is not None:
                    taken(found)
                mine, taken, found = sid, self._taps[sid], []
            begin = line.end()
            end = begin + int(all_bytes)
            if end + LINE_END_BYTES > size:
                self._lacking = end + LINE_END_BYTES - size
                break
            middle = begin + int(header_bytes) if header_bytes else begin
            found.append((subject, reply or b"", data[begin:middle], data[middle:end]))
            at = end + LINE_END_BYTES
        if taken is not None:
            taken(found)
        return at

    @staticmethod
    def _end(data: bytes, at: int) -> int:
        """The end of the command at a place, or of the data where that comes first."""
        line = _MESSAGE.match(data, at)
        if line is not None:
            return min(line.end() + int(line[7]) + LINE_END_BYTES, len(data))
        end = data.find(b"\r\n", at)
        return len(data) if end < 0 else end + LINE_END_BYTES
