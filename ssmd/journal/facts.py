"""The facts that verdicts and manifests need from Gap, ConnectionEvent and Control records."""

from __future__ import annotations

from ssmd import records
from ssmd.native.walk import View
from ssmd.quality import EventFact, GapFact, SubscribedFact

Fact = GapFact | EventFact | SubscribedFact


def fact_of(view: View, raw: bytes, segment: str) -> Fact | None:
    """What the record at `view` says; None for replies that say nothing of interest."""
    if view.kind == records.Kind.CONTROL and view.sub != records.ControlType.SUBSCRIBED:
        return None
    shown = records.to_json(records.read(raw))
    if view.kind == records.Kind.GAP:
        return GapFact(
            number=view.number,
            recv_ns=view.recv_ns,
            cause=shown["cause"],
            connection=view.connection,
            sid=view.sid,
            from_seq=shown["from_seq"] or 0,
            to_seq=shown["to_seq"] or 0,
            from_ns=shown["from_ns"] or 0,
            to_ns=shown["to_ns"] or 0,
            detail=shown["detail"],
            segment=segment,
            offset=view.offset,
        )
    if view.kind == records.Kind.CONNECTION:
        return EventFact(
            number=view.number,
            recv_ns=view.recv_ns,
            what=shown["what"],
            connection=view.connection,
            sid=view.sid,
            reason=shown["reason"],
            code=shown["code"] or 0,
            gap_number=shown["gap_number"] or 0,
            channel=shown["channel"],
        )
    return SubscribedFact(view.number, view.connection, shown["control_sid"] or 0, shown["channel"] or "")
