"""What docs/deploy.md and deploy/ name is there: metrics, keys of the environment, units that systemd understands."""

from __future__ import annotations

import getpass
import os
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
    for path in (repository / "deploy").glob("*@.*"):
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


# ---- ssmdctl ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ssmdctl(repository: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """The wrapper on a host of its own, whose Python says how it was called."""
    python = tmp_path / "clone" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "<%s>" "$@"; printf " in %s\\n" "$PWD"; env\n')
    python.chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "var" / "one").mkdir(parents=True)
    variables = {
        "SSMDCTL_CLONE": str(tmp_path / "clone"),
        "SSMDCTL_SETTINGS": str(tmp_path / "etc"),
        "SSMDCTL_JOURNALS": str(tmp_path / "var"),
        "SSMDCTL_USER": getpass.getuser(),
    }
    return lambda *words: subprocess.run(
        [str(repository / "deploy" / "ssmdctl"), *words],
        env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_ssmdctl_calls_a_helper_as_its_unit_does(ssmdctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = ssmdctl("one", "publisher", "--move-to", "1")
    called = f"<-m><ssmd.publisher><-e><one><--data><{tmp_path}/var/one><--move-to><1> in {tmp_path}/etc"
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, called)
    assert f"KALSHI_PRIVATE_KEY_PATH={tmp_path}/etc/one.pem" in done.stdout.splitlines()


def test_ssmdctl_reads_variables_as_systemd_does_and_runs_nothing(ssmdctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "etc" / "one.env").write_text(
        '# a comment\n\nSSMD_SET=\'[shard.index=0, shard.count=3]\'\nPASSWORD=a b $(touch made) `x` "y\n  QUOTED="z"  '
    )
    said = ssmdctl("one", "last").stdout.splitlines()
    assert "SSMD_SET=[shard.index=0, shard.count=3]" in said
    assert 'PASSWORD=a b $(touch made) `x` "y' in said
    assert "QUOTED=z" in said
    assert not list(tmp_path.rglob("made"))


def test_ssmdctl_verifies_against_the_targets_of_the_night(ssmdctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "etc" / "one.verify.env").write_text("AGAINST=--against nats://h:1/S --against s3://b/p\nNATS_USER=u\n")
    said = ssmdctl("one", "verify", "--json").stdout
    called = "<--against><nats://h:1/S><--against><s3://b/p><--json>"
    assert f"<-m><ssmd><verify><--allow-gaps><{tmp_path}/var/one>{called}" in said
    assert "NATS_USER=u" in said.splitlines()


@pytest.mark.parametrize("words", [["one"], ["one", "nonsense"], ["two", "verify"], ["../one", "verify"]])
def test_ssmdctl_refuses_what_it_does_not_know(ssmdctl, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    done = ssmdctl(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_the_page_uses_the_wrapper_with_commands_that_it_has(repository: Path) -> None:
    page = (repository / "docs" / "deploy.md").read_text()
    named = set(re.findall(r"ssmdctl NAME ([a-z]+)", page))
    known = set(re.findall(r"ssmdctl NAME (.*)", (repository / "deploy" / "ssmdctl").read_text()))
    assert named and named <= set(re.findall(r"\w+", " ".join(known)))
    assert "python -m ssmd" not in page
