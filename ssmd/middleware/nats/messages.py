"""Messages as the bus sends them, made into deliveries.

nats-py's own way to headers costs more than the message: here the one header that every record has is found by one
expression, and only what looks otherwise is taken apart line by line. Pure.
"""

from __future__ import annotations

import re
from typing import Final

from ssmd.middleware.interfaces import NO_HEADERS, Delivery, Message
from ssmd.middleware.nats.parser import Raw

MESSAGE_ID: Final = "Nats-Msg-Id"
_ONLY_ID: Final = re.compile(rb"NATS/1\.0\r\nNats-Msg-Id: ?([!-~]+)\r\n\r\n")
_STATUS: Final = re.compile(rb"NATS/1\.0 +([0-9]{3})")


def place_of(reply: str | bytes) -> tuple[int, int]:
    """Place in the stream and time (UTC ns) of a message, from the subject that acknowledges it:

    $JS.ACK.<stream>.<consumer>.<deliveries>.<place>.<number here>.<time>.<messages behind it>, since 2.10 optionally
    with a domain and an account in front.
    """
    words = reply.split(".") if isinstance(reply, str) else reply.split(b".")
    shift = 5 if len(words) < 11 else 7
    return int(words[shift]), int(words[shift + 2])


def behind(reply: bytes) -> int:
    """How many messages the stream had behind it, of those that its consumer gives."""
    words = reply.split(b".")
    return int(words[8 if len(words) < 11 else 10])


def status_of(headers: bytes) -> str:
    """The status of what is no message but says something about them, '' = it says none."""
    found = _STATUS.match(headers)
    return found[1].decode() if found else ""


def headers_of(headers: bytes) -> dict[str, str]:
    """All headers by name; of several of one name the last."""
    found = {}
    for line in headers.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


def _text(subject: bytes) -> str:
    return subject.decode("utf-8", "replace")


def delivery_of(raw: Raw, sequence: int, time_ns: int) -> Delivery:
    subject, reply, headers, payload = raw
    only_id = _ONLY_ID.fullmatch(headers)
    if only_id is not None:
        message = Message(_text(subject), payload, NO_HEADERS, only_id[1].decode())
    else:
        others = headers_of(headers)
        message_id = others.pop(MESSAGE_ID, None)
        message = Message(_text(subject), payload, others, message_id)
    return Delivery(message, sequence, time_ns, None, reply.decode())
