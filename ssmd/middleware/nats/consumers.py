"""Consumers on the server: how messages come from a place on. Made, found, deleted; what they give is read elsewhere.

One of no name serves who keeps his place himself: it acknowledges nothing, and the server removes it when nobody asks
it for ABANDONED_S. One of a durable name is called `{durable}-{generation}`: docs of `subscription.py`.

Facts: JetStream API, CONSUMER.CREATE, CONSUMER.DURABLE.CREATE, .NAMES, .INFO, .DELETE, .MSG.NEXT (nats-server 2.9).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

from ssmd.errors import MiddlewareError
from ssmd.middleware.interfaces import Start
from ssmd.middleware.nats.client import BusClient
from ssmd.middleware.nats.stream import NS, api

ABANDONED_S: Final = 60.0  # the server removes a consumer of no name that nobody asks
ACK_WAIT_S: Final = 86_400.0  # the server gives nothing again by itself: the next subscriber asks for it


def given_from(position: int | None, start: Start, pattern: str | None) -> dict[str, Any]:
    """What a consumer gives: everything behind `position`, else from `start` on; `pattern` None: all subjects."""
    config: dict[str, Any] = {"replay_policy": "instant", "max_deliver": -1}
    if pattern is not None:
        config["filter_subject"] = pattern
    if position is not None:
        return config | {"deliver_policy": "by_start_sequence", "opt_start_seq": position + 1}
    if start.at == "number":
        return config | {"deliver_policy": "by_start_sequence", "opt_start_seq": max(start.value, 1)}
    if start.at == "time":
        return config | {"deliver_policy": "by_start_time", "opt_start_time": _rfc3339(start.value)}
    return config | {"deliver_policy": "all"}


async def make(client: BusClient, stream: str, config: dict[str, Any]) -> str:
    """A consumer of no name; gives the one that the server found for it."""
    config = config | {"ack_policy": "none", "inactive_threshold": round(ABANDONED_S * NS)}
    doing = f"read {config.get('filter_subject', 'all')} of stream {stream}"
    made = await api(client, f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config}, doing)
    return str(made["name"])


async def make_durable(client: BusClient, stream: str, durable: str, generation: int, config: dict[str, Any]) -> str:
    """A generation of a durable name; gives its name."""
    name = f"{durable}-{generation}"
    config = config | {"durable_name": name, "ack_policy": "explicit", "ack_wait": round(ACK_WAIT_S * NS)}
    config |= {"max_ack_pending": -1}
    doing = f"read {config.get('filter_subject', 'all')} of stream {stream} as {durable}"
    await api(client, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": config}, doing)
    return name


async def ask(client: BusClient, stream: str, consumer: str, inbox: str, count: int, expires_s: float | None) -> None:
    """Has a consumer send so many messages to the inbox, within this time; None: those that are there now."""
    asked: dict[str, Any] = {"batch": count}
    asked |= {"no_wait": True} if expires_s is None else {"expires": round(expires_s * NS)}
    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", json.dumps(asked).encode(), reply=inbox)


async def generations(client: BusClient, stream: str, durable: str) -> list[int]:
    """Those that there are of a durable name, in order."""
    wanted = re.compile(re.escape(durable) + r"-([0-9]+)")
    found: list[int] = []
    offset, total = 0, 1
    while offset < total:
        answer = await api(client, f"CONSUMER.NAMES.{stream}", {"offset": offset}, f"list consumers of {stream}")
        names = answer.get("consumers") or []
        total = answer.get("total", 0)
        found.extend(int(match[1]) for match in map(wanted.fullmatch, names) if match)
        if not names:
            break
        offset += len(names)
    return sorted(found)


async def acknowledged(client: BusClient, stream: str, durable: str, generation: int) -> int | None:
    """The place up to which a generation was acknowledged; None where it never began anywhere."""
    name = f"{durable}-{generation}"
    info = await api(client, f"CONSUMER.INFO.{stream}.{name}", None, f"find consumer {name}")
    floor = int(info["ack_floor"]["stream_seq"])
    began = info["config"].get("opt_start_seq")
    if began is not None:
        return max(floor, int(began) - 1)
    return floor if floor else None


async def delete(client: BusClient, stream: str, consumer: str) -> None:
    """No error where it is gone already, or the bus is away: it goes by itself."""
    try:
        await api(client, f"CONSUMER.DELETE.{stream}.{consumer}", None, f"delete consumer {consumer}")
    except MiddlewareError:
        pass


def _rfc3339(time_ns: int) -> str:
    seconds, rest = divmod(max(time_ns, 0), NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
