"""Decodes stored frames again and compares: does each record still say what its frame says?

For `ssmd verify --redecode`: after a decoder was mended, it finds the records that the old one got wrong. It uses the
plain Python twin, the specification, not the C that wrote them: slow, but an independent witness.
"""

from __future__ import annotations

from ssmd import records
from ssmd.journal.paths import Segment
from ssmd.journal.reader import Batch
from ssmd.native.walk import View, ViewReader
from ssmd.normalizer import normalize
from ssmd.quality import DamageFact

NO_LIMIT_BYTES = 1 << 30
_OPENED_MODE_BIT = 1  # bit of ConnectionEvent.useYesPrice in the byte at its offset 2
_OWN = frozenset(
    {records.Kind.GAP, records.Kind.CONNECTION, records.Kind.CLOCK, records.Kind.CHECKPOINT, records.Kind.ENTRY}
)


class Redecoder:
    """One pass over a journal; `check` fits `ssmd.journal.account.Check`."""

    def __init__(self) -> None:
        self._views = ViewReader()
        self._modes: dict[int, bool] = {}  # connection -> use_yes_price

    def check(self, segment: Segment, batch: Batch) -> list[DamageFact]:
        """Records of the batch that differ from what their frame decodes into now."""
        found = []
        at, offset = batch.start, batch.offset
        while at < batch.stop:
            views, used = self._views.read(batch.data, at, batch.stop, offset)
            for view in views:
                start = view.offset - offset + at
                what = self._judge(view, batch.data[start : start + view.length])
                if what is not None:
                    found.append(DamageFact(str(segment.path), view.offset, what))
            at, offset = at + used, offset + used
        return found

    def _judge(self, view: View, raw: bytes) -> str | None:
        if view.kind == records.Kind.CONNECTION:
            if view.sub == records.ConnectionWhat.OPENED:
                self._modes[view.connection] = bool(raw[view.body_at + 2] & _OPENED_MODE_BIT)
            return None
        if view.kind in _OWN or not view.frame_at or self._depended_on_the_ring(view):
            return None
        again = self._again(view, raw, self._modes.get(view.connection, True))
        if again == raw or (view.connection not in self._modes and self._again(view, raw, False) == raw):
            return None
        return f"record {view.number} ({records.Kind(view.kind).field}) is not what its frame decodes into"

    def _again(self, view: View, raw: bytes, use_yes_price: bool) -> bytes:
        return normalize(
            raw[view.frame_at : view.frame_at + view.frame_bytes],
            number=view.number,
            recv_ns=view.recv_ns,
            recv_ticks=view.recv_ticks,
            connection=view.connection,
            use_yes_price=use_yes_price,
            binary=view.kind == records.Kind.UNPARSED and view.sub == records.Reason.BINARY,
            limit_bytes=NO_LIMIT_BYTES,
        )

    @staticmethod
    def _depended_on_the_ring(view: View) -> bool:
        """Too large for the ring it was written to: here there is no ring."""
        return view.kind == records.Kind.UNPARSED and view.sub == records.Reason.TOO_COMPLEX
