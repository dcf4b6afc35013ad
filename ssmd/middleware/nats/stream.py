"""A JetStream stream: what is asked of it, what it must be like, and how one is made.

A stream of ours keeps by limits (no reader removes anything) and discards the old: a live bus that its own limits
could stop for all would be worth nothing, and the journal has what the stream gave up. Who was too slow is told so.

Facts: JetStream API, $JS.API.STREAM.* (nats-server 2.9).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import nats.errors

from ssmd.errors import ConflictError, MiddlewareError, RejectedError, UnavailableError
from ssmd.middleware.names import meets, uncovered
from ssmd.middleware.nats.client import BusClient, while_connected
from ssmd.middleware.nats.refusals import JETSTREAM_OFF, is_missing_message, refusal

API_TIMEOUT_S: Final = 5.0
NS: Final = 1_000_000_000
DUPLICATE_WINDOW_S: Final = 120.0  # of a stream that we make: two minutes of ids, JetStream's own default
LEAST_DUPLICATE_WINDOW_S: Final = 30.0  # less: what is sent again after a short outage could be stored twice
HEADER_ROOM_BYTES: Final = 512  # of each message, for id and headers: the limits of server and stream count them too
BEGINS_AGAIN: Final = "stream {} was made anew, or lost its end: what is new begins at {}, and {} was to come"


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """A stream as it is. -1 (or 0 for times) means: no limit."""

    name: str
    created: str  # when it was made: tells it from another one of that name
    subjects: tuple[str, ...]
    retention: str
    discard: str
    max_messages: int
    max_bytes: int
    max_message_size: int
    max_age_ns: int
    duplicate_window_ns: int
    messages: int
    size_bytes: int
    first: int
    last: int

    @property
    def refuses_when_full(self) -> bool:
        return self.discard == "new" and (self.max_messages > 0 or self.max_bytes > 0)

    def max_payload_bytes(self, server_max_bytes: int) -> int:
        """The largest payload that server and stream take."""
        most = server_max_bytes if self.max_message_size <= 0 else min(server_max_bytes, self.max_message_size)
        return max(most - HEADER_ROOM_BYTES, 1)

    def has_room(self, messages: int, size_bytes: int) -> bool:
        """Whether so much more fits for certain."""
        enough_messages = self.max_messages <= 0 or self.messages + messages <= self.max_messages
        return enough_messages and (self.max_bytes <= 0 or self.size_bytes + size_bytes <= self.max_bytes)


async def api(client: BusClient, verb: str, body: dict[str, Any] | None, doing: str) -> dict[str, Any]:
    """One request to JetStream's API, its answer, and its refusals as our errors."""
    asked = b"" if body is None else json.dumps(body).encode()
    try:
        request = client.request(f"$JS.API.{verb}", asked, timeout=API_TIMEOUT_S)
        answer = await while_connected(client, request, API_TIMEOUT_S + 1.0)
    except nats.errors.NoRespondersError as error:
        raise RejectedError(
            f"the bus cannot {doing}: it has no JetStream", hint=JETSTREAM_OFF, evidence=str(error)
        ) from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise UnavailableError(
            f"the bus cannot be reached: it did not {doing}", evidence=str(error) or type(error).__name__
        ) from error
    try:
        found: dict[str, Any] = json.loads(answer.data)
    except ValueError as error:
        raise UnavailableError(f"the bus did not {doing}", evidence=repr(answer.data[:200])) from error
    if "error" in found:
        raise refusal(found["error"], doing)
    return found


async def stream_facts(client: BusClient, name: str) -> StreamFacts:
    """RejectedError where there is no such stream."""
    return facts_of(await api(client, f"STREAM.INFO.{name}", None, f"find stream {name}"))


def facts_of(answer: dict[str, Any]) -> StreamFacts:
    config, state = answer["config"], answer["state"]
    return StreamFacts(
        name=config["name"],
        created=answer["created"],
        subjects=tuple(config.get("subjects") or ()),
        retention=config.get("retention", "limits"),
        discard=config.get("discard", "old"),
        max_messages=config.get("max_msgs", -1),
        max_bytes=config.get("max_bytes", -1),
        max_message_size=config.get("max_msg_size", -1),
        max_age_ns=config.get("max_age", 0),
        duplicate_window_ns=config.get("duplicate_window", 0),
        messages=state["messages"],
        size_bytes=state["bytes"],
        first=state["first_seq"],
        last=state["last_seq"],
    )


def begins_again(facts: StreamFacts, created: str, seen: int) -> bool:
    """Whether places mean nothing any more to a reader that has come to `seen` of the stream made at `created`.

    Another stream of that name has places of its own. One that ends before `seen` came back without its last messages,
    and gives their places again. (Has it grown beyond `seen` by then, nothing shows that.) What is new to the reader is
    what was stored after what it read last: `first_since`.
    """
    return facts.created != created or facts.last < seen


async def first_since(client: BusClient, facts: StreamFacts, from_ns: int) -> int:
    """The place of the first message that was stored at or after a time: times rise with places."""
    low, high = max(facts.first, 1), facts.last + 1
    while low < high:
        middle = (low + high) // 2
        found = await message_from(client, facts.name, middle, ">")
        if found is None or found["seq"] >= high or time_of(found["time"]) >= from_ns:
            high = middle
        else:
            low = int(found["seq"]) + 1
    return low


async def message_from(client: BusClient, name: str, sequence: int, pattern: str) -> dict[str, Any] | None:
    """The first message of a pattern from a place on."""
    asked = {"seq": sequence, "next_by_subj": pattern}
    try:
        answer = await api(client, f"STREAM.MSG.GET.{name}", asked, f"read stream {name}")
    except MiddlewareError as error:
        if is_missing_message(error):
            return None
        raise
    message: dict[str, Any] = answer["message"]
    return message


def time_of(text: str) -> int:
    """UTC ns of RFC 3339 with up to nine digits behind the point, in whatever zone the server writes."""
    seconds, _, rest = text.partition(".")
    if not rest:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()) * NS
    digits = rest[: next((i for i, c in enumerate(rest) if not c.isdigit()), len(rest))]
    zone = rest[len(digits) :].replace("Z", "+00:00")
    whole = datetime.fromisoformat(seconds + zone).astimezone(UTC)
    return int(whole.timestamp()) * NS + int(digits.ljust(9, "0"))


async def create_stream(
    client: BusClient, name: str, subjects: Sequence[str], *, max_bytes: int, max_age_s: float
) -> StreamFacts:
    """Makes a stream. ConflictError where its name or subjects are another's."""
    window_s = min(DUPLICATE_WINDOW_S, max_age_s) if max_age_s else DUPLICATE_WINDOW_S
    config = {
        "name": name,
        "description": "market data recorded by ssmd",
        "subjects": list(subjects),
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "max_bytes": max_bytes or -1,
        "max_age": round(max_age_s * NS),
        "max_msgs": -1,
        "max_msg_size": -1,
        "num_replicas": 1,
        "duplicate_window": round(window_s * NS),
        "allow_direct": True,
    }
    return facts_of(await api(client, f"STREAM.CREATE.{name}", config, f"make stream {name} of {', '.join(subjects)}"))


def judge(facts: StreamFacts, subjects: Sequence[str]) -> MiddlewareError | None:
    """What is wrong with a stream that shall store these subjects and be read by many; None: nothing."""
    stored = ", ".join(facts.subjects) or "no subject"
    missing = uncovered(facts.subjects, subjects)
    if missing and not any(meets(pattern, subject) for pattern in facts.subjects for subject in subjects):
        return ConflictError(
            f"stream {facts.name} is another's: it stores {stored}, and not {', '.join(missing)}",
            hint="Choose another name for the stream (transport.stream), or the prefix that it stores.",
        )
    if missing:
        return RejectedError(
            f"stream {facts.name} does not store {', '.join(missing)}: its subjects are {stored}",
            hint="Add the subjects to the stream (nats stream edit), or delete it and let ssmd make it.",
        )
    if facts.retention != "limits":
        return RejectedError(
            f"stream {facts.name} has retention {facts.retention!r}: what one reader took, others would never see",
            hint="A stream of market data needs retention 'limits'.",
        )
    if 0 < facts.duplicate_window_ns < LEAST_DUPLICATE_WINDOW_S * NS and not (
        0 < facts.max_age_ns <= facts.duplicate_window_ns
    ):
        return RejectedError(
            f"stream {facts.name} forgets message ids after {facts.duplicate_window_ns / NS:g} s: what is sent again "
            "after an outage could be stored twice",
            hint=f"Set its duplicate window to {DUPLICATE_WINDOW_S:g} s (at least {LEAST_DUPLICATE_WINDOW_S:g} s).",
        )
    return None
