"""The table of metrics, the page that shows it, and the exposition."""

from __future__ import annotations

from pathlib import Path

from ssmd.metrics import METRICS, MetricSpec, exposition


def shown_name(spec: MetricSpec) -> str:
    return spec.name + ("_total" if spec.kind == "counter" else "")


def test_the_page_lists_every_metric_as_the_table_has_it(repository: Path) -> None:
    page = (repository / "docs" / "connector.md").read_text()
    for spec in METRICS:
        assert f"| `{shown_name(spec)}` | {spec.kind} | {spec.label or ''} | {spec.help} |" in page


def test_a_metric_without_label_stands_at_zero_before_anything_was_read() -> None:
    lines = exposition(dict)().decode().splitlines()
    for spec in METRICS:
        if spec.label is None:
            assert f"{shown_name(spec)} 0.0" in lines


def test_labels_become_samples_of_their_family() -> None:
    page = exposition(lambda: {"ssmd_gaps": {"sequence": 2.0, "stall": 0.0}})().decode()
    assert 'ssmd_gaps_total{cause="sequence"} 2.0' in page
    assert 'ssmd_gaps_total{cause="stall"} 0.0' in page


def test_every_metric_says_what_it_means_and_bears_the_prefix() -> None:
    for spec in METRICS:
        assert spec.name.startswith("ssmd_") and spec.help and spec.kind in ("counter", "gauge")
