"""The connector's numbers for Prometheus.

One table names every metric, where its value comes from, and what it means; the page in docs/ is made from it.
Values are read when somebody asks, so a message costs nothing here, and every counter stands there at zero
from the start. Not for: history, alerts, pushing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Reading = float | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """`kind` is counter or gauge; `label` names the one label of a family, None for a plain number."""

    name: str
    kind: str
    help: str
    label: str | None = None


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("ssmd_frames_received", "counter", "Messages received from the exchange, replies included"),
    MetricSpec("ssmd_received_bytes", "counter", "Payload bytes of those messages"),
    MetricSpec("ssmd_records", "counter", "Records put into the ring, by kind", "kind"),
    MetricSpec("ssmd_gaps", "counter", "Gap records, by cause", "cause"),
    MetricSpec("ssmd_repeats", "counter", "Frames whose sequence number did not rise"),
    MetricSpec("ssmd_untracked", "counter", "Frames whose sequence numbers are not followed: more than 1024 sids"),
    MetricSpec("ssmd_unknown_fields", "counter", "Unknown keys skipped in decoded messages"),
    MetricSpec("ssmd_unknown_types", "counter", "Messages of a type that ssmd does not know (kept as unparsed)"),
    MetricSpec("ssmd_unknown_values", "counter", "Enumeration values that ssmd does not know"),
    MetricSpec("ssmd_malformed_fields", "counter", "Optional fields of another shape than expected, left out"),
    MetricSpec("ssmd_connections_opened", "counter", "Sockets opened, by client", "client"),
    MetricSpec("ssmd_connections_closed", "counter", "Sockets lost or closed, by client", "client"),
    MetricSpec("ssmd_connect_failures", "counter", "Attempts to connect that failed, by client", "client"),
    MetricSpec("ssmd_stalls", "counter", "Sockets given up because nothing came, by client", "client"),
    MetricSpec("ssmd_resyncs", "counter", "Order books brought back after a gap, by client", "client"),
    MetricSpec("ssmd_live", "gauge", "1 while every subscription of the client is confirmed", "client"),
    MetricSpec("ssmd_last_received_timestamp_seconds", "gauge", "When the client last received anything", "client"),
    MetricSpec("ssmd_ring_capacity_bytes", "gauge", "Size of the ring"),
    MetricSpec("ssmd_ring_used_bytes", "gauge", "Bytes in the ring that are not yet written to a file"),
    MetricSpec(
        "ssmd_ring_full_seconds", "counter", "Time for which a socket was not read because the ring was full", "client"
    ),
    MetricSpec("ssmd_record_number", "gauge", "Last record number, by cursor: ring, written, durable", "cursor"),
    MetricSpec("ssmd_written_bytes", "counter", "Bytes written to segment files since the ring was made"),
    MetricSpec("ssmd_files_lost", "counter", "Times that the data folder or the open segment was deleted or replaced"),
    MetricSpec("ssmd_segments_sealed", "counter", "Segments sealed since the ring was made"),
    MetricSpec("ssmd_syncs", "counter", "Times data was made durable since the ring was made"),
    MetricSpec("ssmd_sync_longest_seconds", "gauge", "Longest of those"),
    MetricSpec("ssmd_flusher_error", "gauge", "errno of the flusher's present error, 0 = none"),
    MetricSpec("ssmd_child_restarts", "counter", "Restarts of helper processes", "child"),
    MetricSpec("ssmd_cursor_number", "gauge", "Last record that a helper is done with", "cursor"),
    MetricSpec("ssmd_cursor_lag_records", "gauge", "Records that a helper could do and has not done", "cursor"),
    MetricSpec("ssmd_cursor_lag_seconds", "gauge", "Age of the oldest of those, 0 = there is none", "cursor"),
    # What helpers count: `counters` of their reports, ssmd_{part}_{counter}
    MetricSpec("ssmd_archiver_objects", "counter", "Objects put into the storage: segments and their manifests"),
    MetricSpec("ssmd_archiver_bytes", "counter", "Bytes of those objects"),
    MetricSpec(
        "ssmd_archiver_retries", "counter", "Times the storage did not take segments, and was left alone for a while"
    ),
    MetricSpec("ssmd_archiver_removed", "counter", "Segments removed here after their copy was proved"),
    MetricSpec("ssmd_publisher_messages", "counter", "Messages that the bus has confirmed"),
    MetricSpec("ssmd_publisher_records", "counter", "Records in those messages"),
    MetricSpec("ssmd_publisher_bytes", "counter", "Payload bytes of those messages"),
    MetricSpec("ssmd_publisher_duplicates", "counter", "Messages that the bus had already: sent again after a failure"),
    MetricSpec("ssmd_publisher_retries", "counter", "Attempts to publish that failed and were made again"),
    MetricSpec("ssmd_publisher_missed", "counter", "Records that were removed before they could be published"),
    MetricSpec("ssmd_lastvalues_writes", "counter", "Writes to the cache, each of many markets"),
    MetricSpec("ssmd_lastvalues_markets", "counter", "Values in those writes"),
    MetricSpec("ssmd_lastvalues_bytes", "counter", "Bytes of those values"),
    MetricSpec("ssmd_lastvalues_retries", "counter", "Attempts to write that failed and were made again"),
    MetricSpec("ssmd_lastvalues_rewrites", "counter", "Times the cache was found empty or outdated and filled again"),
    MetricSpec("ssmd_rehearsal_differing", "counter", "Records that a copy lacked, had twice, or had otherwise"),
    MetricSpec("ssmd_rehearsal_records_messages", "counter", "Messages of one record that a rehearsal published"),
    MetricSpec("ssmd_rehearsal_records_bytes", "counter", "Bytes of those messages, headers included"),
    MetricSpec("ssmd_rehearsal_batches_messages", "counter", "Messages of many records that a rehearsal published"),
    MetricSpec("ssmd_rehearsal_batches_bytes", "counter", "Bytes of those messages, headers included"),
    MetricSpec("ssmd_rehearsal_segments", "counter", "Segments that a rehearsal uploaded and compared"),
    MetricSpec("ssmd_rehearsal_segment_bytes", "counter", "Bytes of those segments as they were uploaded"),
)


class _Collector:
    def __init__(self, read: Callable[[], Mapping[str, Reading]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        readings = self._read()
        for spec in METRICS:
            family: Metric
            make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
            family = make(spec.name, spec.help, labels=[spec.label] if spec.label else None)
            reading = readings.get(spec.name, 0.0 if spec.label is None else {})
            if isinstance(reading, Mapping):
                for label, value in reading.items():
                    family.add_metric([label], value)
            else:
                family.add_metric([], reading)
            yield family


def exposition(read: Callable[[], Mapping[str, Reading]]) -> Callable[[], bytes]:
    """A function that gives the page of `/metrics`; `read` is called once for each page."""
    registry = CollectorRegistry()
    registry.register(_Collector(read))
    return lambda: generate_latest(registry)
