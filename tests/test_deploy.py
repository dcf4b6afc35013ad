"""What docs/deploy.md and deploy/ name is there: metrics, keys of the environment, units that systemd understands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ssmd import environment as env
from ssmd import host
from ssmd.cli import options
from ssmd.metrics import METRICS


def test_each_metric_of_the_page_is_one_that_there_is(repository: Path) -> None:
    named = set(re.findall(r"`?(ssmd_[a-z_]+)", (repository / "docs" / "deploy.md").read_text()))
    served = {spec.name + "_total" * (spec.kind == "counter") for spec in METRICS}
    assert named and named - served == set()


@pytest.mark.parametrize("unit", ["ssmd@.service", "ssmd-verify@.service", "ssmd-verify@.timer"])
def test_systemd_understands_the_units(repository: Path, tmp_path: Path, unit: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in (repository / "deploy").iterdir():
        text = path.read_text().replace("/opt/ssmd/.venv/bin/ssmd", "/bin/true")
        (tmp_path / path.name.replace("@", "@kalshi-prod")).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit.replace("@", "@kalshi-prod"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = "\n".join(line for line in done.stderr.splitlines() if "kalshi-prod" in line)
    assert (done.returncode, said) == (0, "")


def test_the_unit_leaves_settings_to_the_variable(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A --set on the command line would replace SSMD_SET, and each shard would record everything."""
    unit = (repository / "deploy" / "ssmd@.service").read_text()
    (command,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert "--set" not in command
    made = options.parser("run", "")
    options.add_environment(made)
    monkeypatch.setenv("SSMD_SET", "[shard.index=1, shard.count=3]")
    found = options.load(made.parse_args(command.replace("%i", "kalshi-local").split()[2:]))
    assert (found.shard.index, found.shard.count) == (1, 3)
    assert str(found.storage.path) == "/var/lib/ssmd/kalshi-local"


@pytest.mark.parametrize("name", ["kalshi-dev", "kalshi-prod"])
def test_the_sections_that_stand_as_comments_are_right_once_they_are_taken_out(repository: Path, name: str) -> None:
    """Users delete the `#`: what comes out must be accepted as a whole."""
    text = (repository / "environments" / f"{name}.yaml").read_text()
    head, _, shown = text.partition("# What is recorded can go further.")
    sections, _, credentials = shown.partition("# Their credentials")
    taken_out = [line.removeprefix("# ") for line in sections.splitlines() if re.match(r"# ( |\w+:$)", line)]
    keys = [line.removeprefix("# ") for line in credentials.splitlines() if re.match(r"#   \w+: \{", line)]
    head = re.sub(r"storage:\n(  .*\n)+", "", head).replace("keys:\n", "keys:\n" + "\n".join(keys) + "\n")
    found = env.parse(head + "\n".join(taken_out) + "\n", host.machine(), source=name, stem=name)
    assert (found.transport.type, found.storage.type, found.cache.type) == ("nats", "s3", "redis")
    assert {"nats", "s3", "redis", "kalshi"} == set(found.keys)
    assert found.storage.retain_days == 7
