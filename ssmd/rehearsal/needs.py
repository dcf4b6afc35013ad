"""What a rehearsal came to, in a few lines: are all copies equal, and what would a day at this rate need. Pure.

Every number is one that was measured in the run, or such a number a record, times the records of a day at the rate of
the run: so it holds where not all was measured, too (a helper that died and began anew). Nothing is assumed of other
hours. Sizes on the stream are those that nats-server counts against its limits: subject, headers, payload, and
STORED_BYTES of its own for each message (measured with a real one: tests/middleware/test_nats_sizes.py).
What a day writes does not depend on how small the segments of a rehearsal are: their number is that of the environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ssmd.copies import BATCHES, RECORDS
from ssmd.environment import Environment
from ssmd.rehearsal.copies import FORMS
from ssmd.report import Report
from ssmd.status import human_bytes, human_duration

DAY_S: Final = 86_400
STORED_BYTES: Final = 34  # that nats-server adds to a message with headers, in the stream's file
MESSAGE_LIMIT_BYTES: Final = 1 << 20  # max_payload of a nats-server, unless set otherwise: headers and payload
PART_BYTES: Final = 8 << 20  # a larger object goes in parts of so many bytes (ssmd.middleware.objectstore)
PARTS_EXTRA: Final = 3  # and needs a beginning, an end, and a copy to its key
LEAST_S: Final = 1.0  # a shorter run says nothing of a day


@dataclass(frozen=True, slots=True)
class Run:
    """What was recorded: numbers of the recorder."""

    records: int  # also the number of the last one
    seconds: float  # for which it received
    folder: str = ""  # of its journal


def is_equal(run: Run, report: Report | None) -> bool:
    """Whether every record is the same in every copy."""
    return report is not None and not report.counters.get("differing") and report.number >= run.records


def lines(environment: Environment, run: Run, report: Report | None, *, kept: bool) -> Iterator[str]:
    """What `ssmd run` prints last."""
    yield f"Rehearsal of {environment.name}: bus, consumer, store and cache were in memory."
    yield from _verdict(environment, run, report)
    measured = report.counters if report is not None else {}
    if run.seconds >= LEAST_S and measured.get("uploaded") and measured.get("published"):
        yield from _day(environment, run, measured)
    yield "Nothing was kept. --data DIR keeps the journal." if not kept else f"The journal stays in {run.folder}."


def _verdict(environment: Environment, run: Run, report: Report | None) -> Iterator[str]:
    if report is None:
        yield "  NOT COMPARED  the process that rehearses never said anything: see the log"
        return
    if report.counters.get("differing"):
        yield f"  NOT EQUAL   {report.trouble}"
    if report.number < run.records:
        why = f": {report.trouble}" if report.trouble and not report.counters.get("differing") else ""
        yield f"  NOT ALL     {run.records - report.number:,} of {run.records:,} records were not compared in time{why}"
    if is_equal(run, report):
        forms = ", ".join(FORMS[environment.transport.publish])
        segments = int(report.counters.get("segments", 0))
        objects = f"{segments} object{'' if segments == 1 else 's'}"
        yield f"  equal       {run.records:,} records: in the stream ({forms}), with its consumer, in {objects}"


def _day(environment: Environment, run: Run, measured: Mapping[str, float]) -> Iterator[str]:
    rate = run.records / run.seconds
    published, uploaded = (rate * DAY_S / measured[done] for done in ("published", "uploaded"))
    yield f"A day at this rate, extrapolated from {human_duration(run.seconds)} at {rate:,.0f} records a second:"
    plain, packed_bytes = measured["plain_bytes"] * uploaded, measured["segment_bytes"] * uploaded
    segments = segments_a_day(environment, plain)
    stored = packed_bytes + measured["manifest_bytes"] / measured["segments"] * segments
    packed = f" ({human_bytes(plain)} before zstd)" if environment.flusher.compress else ""
    yield f"  journal     {human_bytes(stored)} on disk{packed}, {about(segments)} segments"
    yield from _stream(environment, measured, published)
    puts = segments * (puts_of(packed_bytes / segments) + 1)
    yield f"  bucket      {human_bytes(stored)}, {about(2 * segments)} objects, {about(puts)} PUT requests"
    yield f"Not extrapolated, as it was at the end of these {human_duration(run.seconds)}:"
    yield f"  cache       {measured['cache_keys']:,.0f} keys, {human_bytes(measured['cache_bytes'])}"
    share = measured["largest_bytes"] / MESSAGE_LIMIT_BYTES
    cut = f"; {measured['parts']:,.0f} messages were parts of a larger one" if measured.get("parts") else ""
    yield (
        f"  messages    the largest had {human_bytes(measured['largest_bytes'])}, {share:.1%} of the 1 MiB that NATS "
        f"takes unless set otherwise{cut}"
    )
    yield f"  subjects    {_subjects(measured)}"


def about(count: float) -> str:
    """A count that was extrapolated: three digits of it mean something."""
    return f"{float(f'{count:.3g}'):,.0f}"


def stream_bytes(measured: Mapping[str, float], form: str) -> float:
    """What the messages of a form take on a stream, as nats-server counts it."""
    sent = measured.get(f"{form}_bytes", 0.0) + measured.get(f"{form}_subject_bytes", 0.0)
    return sent + STORED_BYTES * measured.get(f"{form}_messages", 0.0)


def _stream(environment: Environment, measured: Mapping[str, float], times: float) -> Iterator[str]:
    """`times`: so many times the records that were published are those of a day."""
    bus, total = environment.transport, 0.0
    for form in FORMS[bus.publish]:
        size = stream_bytes(measured, form) * times
        total += size
        words = {RECORDS: "one a record", BATCHES: f"each of at most {bus.batch_records} records of a kind"}[form]
        messages = measured.get(f"{form}_messages", 0.0) * times
        yield f"  stream      {human_bytes(size)}, {about(messages)} messages, {words}"
    if not bus.stream_max_age_hours:
        yield "              kept for ever (stream_max_age_hours 0)"
    else:
        held = total * bus.stream_max_age_hours / 24
        yield f"              {human_bytes(held)} in the {bus.stream_max_age_hours} hours of stream_max_age_hours"
    if bus.stream_max_bytes and total:
        hours = bus.stream_max_bytes / total * 24
        yield f"              stream_max_bytes ({human_bytes(bus.stream_max_bytes)}) is room for {hours:,.1f} hours"


def segments_a_day(environment: Environment, plain_bytes: float) -> float:
    """How many segments the environment's rotation makes of so many bytes a day, spread evenly."""
    periods = 1440 / environment.flusher.rotate_minutes
    return periods * (1 + int(plain_bytes / periods / environment.flusher.rotate_bytes))


def puts_of(object_bytes: float) -> int:
    """Requests for one object of this size."""
    return 1 if object_bytes <= PART_BYTES else -int(-object_bytes // PART_BYTES) + PARTS_EXTRA


def _subjects(measured: Mapping[str, float]) -> str:
    said = f"{measured['markets']:,.0f} market names, {measured['changed_names']:,.0f} of them changed to be words"
    if measured.get("shared_names"):
        said += f"; {measured['shared_names']:,.0f} share the subject of another"
    return said
