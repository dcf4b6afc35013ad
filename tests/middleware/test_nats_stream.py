"""What a stream must be like, and what its refusals mean."""

from __future__ import annotations

from typing import Any

import pytest

from ssmd.errors import (
    ConflictError,
    LimitError,
    MiddlewareError,
    MissingStreamError,
    RejectedError,
    UnavailableError,
)
from ssmd.middleware.interfaces import Message
from ssmd.middleware.nats.messages import place_of
from ssmd.middleware.nats.publishing import encode
from ssmd.middleware.nats.refusals import refusal
from ssmd.middleware.nats.stream import facts_of, judge

S = 1_000_000_000


def facts(**config: Any) -> Any:
    given = {"name": "SSMD", "subjects": ["md.>"], "retention": "limits", "discard": "old", "duplicate_window": 120 * S}
    state = {"messages": 5, "bytes": 500, "first_seq": 1, "last_seq": 5}
    return facts_of({"config": given | config, "state": state, "created": "2026-11-22T12:00:00.5Z"})


# ---- what a stream must be like --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "subjects", "wrong"),
    [
        ({}, ["md.>"], None),
        ({"subjects": ["md.trade.>", "md.ticker.*"]}, ["md.trade.X", "md.ticker.Y"], None),
        ({"subjects": ["md.trade.>"]}, ["md.>"], RejectedError),
        ({"subjects": ["md.*"]}, ["md.>"], RejectedError),
        ({"subjects": ["other.>"]}, ["md.>"], ConflictError),
        ({"subjects": []}, ["md.>"], ConflictError),
        ({"retention": "workqueue"}, ["md.>"], RejectedError),
        ({"retention": "interest"}, ["md.>"], RejectedError),
        ({"duplicate_window": S}, ["md.>"], RejectedError),
        ({"duplicate_window": S, "max_age": S}, ["md.>"], None),
        ({"duplicate_window": 30 * S}, ["md.>"], None),
    ],
)
def test_a_stream_is_judged_by_what_it_stores_and_how_it_keeps(
    config: dict[str, Any], subjects: list[str], wrong: type[MiddlewareError] | None
) -> None:
    found = judge(facts(**config), subjects)
    assert type(found) is (wrong or type(None))


@pytest.mark.parametrize(
    ("config", "server", "most"),
    [({}, 1 << 20, (1 << 20) - 512), ({"max_msg_size": 1000}, 1 << 20, 488), ({"max_msg_size": -1}, 4096, 3584)],
)
def test_the_largest_payload_leaves_room_for_headers_within_server_and_stream(
    config: dict[str, Any], server: int, most: int
) -> None:
    assert facts(**config).max_payload_bytes(server) == most


@pytest.mark.parametrize(
    ("config", "refuses", "room"),
    [
        ({"max_msgs": 10}, False, True),
        ({"discard": "new"}, False, True),
        ({"discard": "new", "max_msgs": 10}, True, True),
        ({"discard": "new", "max_msgs": 9}, True, False),
        ({"discard": "new", "max_bytes": 599}, True, False),
        ({"discard": "new", "max_bytes": 600}, True, True),
    ],
)
def test_only_a_stream_that_discards_the_new_refuses_and_its_room_is_what_it_lacks(
    config: dict[str, Any], refuses: bool, room: bool
) -> None:
    found = facts(**config)
    assert (found.refuses_when_full, found.has_room(5, 100)) == (refuses, room or not refuses)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "number", "words", "kind", "retryable"),
    [
        (503, 10076, "JetStream not enabled", RejectedError, False),
        (503, 10039, "JetStream not enabled for account", RejectedError, False),
        (404, 10059, "stream not found", MissingStreamError, False),
        (400, 10054, "message size exceeds maximum allowed", LimitError, False),
        (503, 10077, "maximum bytes exceeded", LimitError, True),
        (500, 10047, "insufficient storage resources available", LimitError, True),
        (400, 10065, "subjects overlap with an existing stream", ConflictError, False),
        (400, 10058, "stream name already in use", ConflictError, False),
        (503, 10008, "JetStream system temporarily unavailable", UnavailableError, True),
        (500, 99999, "something of tomorrow", UnavailableError, True),
        (400, 99999, "something of tomorrow", RejectedError, False),
    ],
)
def test_a_refusal_says_whose_it_is_and_keeps_the_words(
    code: int, number: int, words: str, kind: type[MiddlewareError], retryable: bool
) -> None:
    found = refusal({"code": code, "err_code": number, "description": words}, "store a message")
    assert type(found) is kind
    assert found.retryable is retryable
    assert words in str(found.evidence)


# ---- the protocol ----------------------------------------------------------------------------------------------------


def test_a_message_on_the_wire() -> None:
    message = Message("md.trade.A", b"pay\r\nload", {"Kind": "trade"}, "j:7")
    head = b"NATS/1.0\r\nNats-Msg-Id: j:7\r\nKind: trade\r\n\r\n"
    assert encode(message, b"_INBOX.q", 42) == (
        b"HPUB md.trade.A _INBOX.q.42 %d %d\r\n" % (len(head), len(head) + 9) + head + b"pay\r\nload\r\n"
    )
    assert encode(Message("md.trade.A", b"x"), b"_INBOX.q", 0) == b"PUB md.trade.A _INBOX.q.0 1\r\nx\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.SSMD.c1.1.4711.9.1795379733675086254.3",
        "$JS.ACK.hub.ACCHASH.SSMD.c1.1.4711.9.1795379733675086254.3.x7",
    ],
    ids=["plain", "with a domain"],
)
def test_place_and_time_of_a_message_stand_in_the_subject_that_acknowledges_it(reply: str) -> None:
    assert place_of(reply) == (4711, 1795379733675086254)
