"""The command `ssmd`: which commands there are, how they end, and that starting one imports only what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ssmd import cli
from ssmd.cli import options
from ssmd.errors import DamageError, ExchangeError, RefusedError, SsmdError, UsageError


def ssmd(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ssmd` as a user would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SSMD_", "KALSHI_"))}
    return subprocess.run(
        [sys.executable, "-m", "ssmd", *arguments],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---- the dispatcher --------------------------------------------------------------------------------------------------


def test_help_lists_every_command_that_is_there() -> None:
    told = ssmd("--help")
    assert told.returncode == 0
    assert told.stderr == ""
    for command in cli.available():
        assert f"  {command.name} " in told.stdout
        assert command.summary in told.stdout
    assert max(len(line) for line in told.stdout.splitlines()) <= 120


def test_a_command_whose_module_is_missing_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, cli.Command("fly", "ssmd.cli.fly", "fly away")))
    assert "fly" not in cli.usage()
    assert cli.main(["fly"]) == 2


def test_without_a_command_the_usage_is_an_error() -> None:
    told = ssmd()
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("usage: ssmd COMMAND")


def test_a_misspelt_command_is_guessed() -> None:
    told = ssmd("verson")
    assert told.returncode == 2
    assert "did you mean `ssmd version`?" in told.stderr


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version_is_that_of_the_package(arguments: list[str], repository: Path) -> None:
    told = ssmd(*arguments)
    assert told.returncode == 0
    assert f'version = "{told.stdout.removeprefix("ssmd ").strip()}"' in (repository / "pyproject.toml").read_text()


@pytest.mark.parametrize("arguments", [["env", "--nonsense"], ["env", "fly"], ["env"], ["version", "x"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert ssmd(*arguments).returncode == 2


class Raises:
    """A subcommand that ends in a given way."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, arguments: Sequence[str]) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("no such file", hint="make one"), 2, "ssmd version: no such file\n  make one\n"),
        (DamageError("cut at 7"), 1, "ssmd version: cut at 7\n"),
        (RefusedError("wrong key"), 3, "ssmd version: wrong key\n"),
        (ExchangeError("no answer"), 4, "ssmd version: no answer\n"),
        (SsmdError("a part died"), 4, "ssmd version: a part died\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_becomes_a_message_and_its_exit_code(
    error: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssmd.cli.version.main", Raises(error))
    assert cli.main(["version"]) == code
    assert capsys.readouterr().err == told


def test_an_unexpected_error_is_a_traceback_and_no_failed_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssmd.cli.version.main", Raises(ZeroDivisionError("oh")))
    assert cli.main(["version"]) == 4
    assert "ZeroDivisionError: oh" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error() -> None:
    """`ssmd --help | true`, with more output than a pipe holds."""
    program = (
        "import sys; from ssmd import cli\n"
        "cli.usage = lambda: 'x' * 1_000_000\n"
        "code = cli.main(['--help']); sys.stderr.write(f'code {code}'); sys.exit(code)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "code 0"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [
        (["version"], "difflib"),
        (["run", "-e", "kalshi-local"], "difflib"),
        (["run", "-e", "kalshi-local"], "gevent"),
        (["run", "-e", "kalshi-local"], "structlog"),
        (["run", "-e", "kalshi-local"], "pydantic"),
        (["cat", "nothing"], "configargparse"),
        (["env", "list"], "pydantic"),
    ],
)
def test_an_interrupt_while_something_is_imported_ends_quietly(
    arguments: list[str], imported: str, tmp_path: Path
) -> None:
    """A module of that name which stands first in the path sends ^C to its process."""
    (tmp_path / f"{imported}.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n")
    told = ssmd(*arguments, PYTHONPATH=f"{tmp_path}:.")
    assert (told.returncode, told.stdout, told.stderr) == (130, "", "")


def test_who_ignores_interrupts_goes_on_ignoring_them(tmp_path: Path) -> None:
    """So a shell starts what stands before `&`."""
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import os, sys; from ssmd.__main__ import main\n"
        "os.kill(os.getpid(), signal.SIGINT); sys.argv = ['ssmd', 'version']; main()\n"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)


HEAVY = ("pyarrow", "sqlalchemy", "obstore", "requests", "gevent", "redis", "nats", "cryptography", "rich")


@pytest.mark.parametrize(
    "arguments", [["version"], ["--help"], ["cat", "--help"], ["verify", "--help"], ["env", "list"]]
)
def test_a_command_imports_nothing_heavy_that_it_does_not_use(arguments: list[str]) -> None:
    program = f"""
import json, sys
from ssmd.__main__ import main
sys.argv = ["ssmd", *{arguments!r}]
sys.stdout = sys.stderr
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.__stdout__)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(told.stdout)}
    assert loaded & set(HEAVY) == set()


def test_a_gevent_command_is_patched_before_anything_is_imported() -> None:
    program = """
import sys
from ssmd import cli, __main__
seen = []
def run(arguments):
    from gevent import monkey
    seen.append(monkey.is_module_patched("socket"))
    return 0
cli._load = lambda command: run
cli.importlib.util.find_spec = lambda name: name
sys.argv = ["ssmd", "run"]
assert __main__.main() == 0
print(seen)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "[True]\n"


# ---- shared flags ----------------------------------------------------------------------------------------------------


def choose(arguments: list[str], monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for name in ("SSMD_ENVIRONMENT", "SSMD_DATA", "SSMD_SET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = options.parser("try", "Tries.")
    options.add_environment(made)
    return options.as_arguments(made.parse_args(arguments))


def test_a_flag_beats_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose(["-e", "flag", "--data", "a"], monkeypatch, SSMD_ENVIRONMENT="variable", SSMD_DATA="b")
    assert chosen == ["-e", "flag", "--data", "a"]


def test_an_environment_variable_stands_for_a_missing_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose([], monkeypatch, SSMD_ENVIRONMENT="variable", SSMD_DATA="b", SSMD_SET="[a.b=1, c=2]")
    assert chosen == ["-e", "variable", "--data", "b", "--set", "a.b=1", "--set", "c=2"]


def test_a_flag_beats_the_file_and_the_variable_does_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSMD_DATA", str(tmp_path))
    made = options.parser("try", "Tries.")
    options.add_environment(made)
    found = options.load(made.parse_args(["-e", "kalshi-local", "--set", "flusher.nap_us=5"]))
    assert (found.storage.path, found.flusher.nap_us) == (tmp_path, 5)


# ---- ssmd env --------------------------------------------------------------------------------------------------------


def test_env_list_names_the_environments_and_their_exchange() -> None:
    told = ssmd("env", "list")
    assert told.returncode == 0
    names = [line.split()[0] for line in told.stdout.splitlines()]
    assert names == ["kalshi-dev", "kalshi-local", "kalshi-loopback", "kalshi-prod", "kalshi-rehearsal"]
    assert "external-api-ws.kalshi.com" in told.stdout


def test_env_check_prints_the_resolved_environment(tmp_path: Path) -> None:
    told = ssmd("env", "check", "kalshi-local", "--data", str(tmp_path), "--set", "shard.count=3")
    assert (told.returncode, told.stderr) == (0, "")
    assert f"path: {tmp_path}\n" in told.stdout
    assert "count: 3\n" in told.stdout


def test_env_check_shows_where_secrets_come_from_and_never_what_they_are() -> None:
    told = ssmd("env", "check", "kalshi-dev", KALSHI_API_KEY="hunter2")
    assert told.returncode == 0
    assert "# keys.kalshi.fields.key_id: env:KALSHI_API_KEY is set\n" in told.stdout
    assert "env:KALSHI_PRIVATE_KEY,KALSHI_PRIVATE_KEY_PATH is not set" in told.stdout
    assert "keys.kalshi.fields.private_key" in told.stderr
    assert "hunter2" not in told.stdout + told.stderr


def test_env_check_ready_fails_where_a_required_secret_is_not_set() -> None:
    assert ssmd("env", "check", "kalshi-dev", "--ready").returncode == 2
    assert ssmd("env", "check", "kalshi-dev", "--ready", KALSHI_API_KEY="a", KALSHI_PRIVATE_KEY="b").returncode == 0


def test_env_check_connect_says_of_each_part_how_it_is(tmp_path: Path) -> None:
    """Nobody listens on port 1; the journal's folder need not be there yet."""
    changes = ["--data", str(tmp_path), "--set", "cache={type: redis, url: 'redis://127.0.0.1:1'}"]
    told = ssmd("env", "check", "kalshi-local", "--connect", *changes)
    assert told.returncode == 1
    assert f"journal: ok: {tmp_path}/kalshi\n" in told.stdout
    assert "cache: not reachable: " in told.stderr and "127.0.0.1:1" in told.stderr
    assert ssmd("env", "check", "kalshi-local", "--ready", *changes).returncode == 0, "asks nobody"


def test_env_check_connect_is_well_where_there_is_nobody_to_ask(tmp_path: Path) -> None:
    told = ssmd("env", "check", "kalshi-local", "--connect", "--data", str(tmp_path))
    assert (told.returncode, told.stderr) == (0, "")


def test_env_check_connect_fails_where_a_part_refuses_us(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    told = ssmd("env", "check", "kalshi-local", "--connect", "--set", f"storage.archive={tmp_path}/file")
    assert told.returncode == 2
    assert "storage: refused: " in told.stderr


ASKED_IN_VAIN = [
    ("storage.type=memory", "journal.type: must be memory where storage.type is memory"),
    ("journal.type=memory", "journal.type: memory"),
]


@pytest.mark.parametrize(("setting", "told"), ASKED_IN_VAIN)
def test_what_no_recorder_can_do_is_refused_by_those_that_would_do_without(
    setting: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = options.parser("try", "Tries.")
    options.add_environment(made)
    with pytest.raises(UsageError, match=told):
        options.load(made.parse_args(["-e", "kalshi-local", "--set", setting]))
    checked = ssmd("env", "check", "kalshi-local", "--set", setting)
    assert checked.returncode == 0
    assert f"ssmd run will refuse to start, {told}" in checked.stderr
    assert ssmd("env", "check", "kalshi-local", "--set", setting, "--ready").returncode == 2


def test_env_check_refuses_a_key_file_that_others_may_read(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("hunter2")
    key.chmod(0o644)
    told = ssmd("env", "check", "kalshi-dev", KALSHI_PRIVATE_KEY_PATH=str(key))
    assert told.returncode == 2
    assert f"{key}: others may read this secret (mode 644)\n  run: chmod 600 {key}\n" in told.stderr
    assert "hunter2" not in told.stdout + told.stderr


def test_env_check_lists_all_errors_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: good\nfeed: 5\n")
    told = ssmd("env", "check", str(path))
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == (
        f"ssmd env: {path}: 5 errors\n"
        "  feed: must be text (put it in quotes) (found 5)\n"
        "  schema: is missing: add it\n"
        "  exchange: is missing: add it\n"
        "  subscriptions: is missing: add it\n"
        "  name: must be the file's name without .yaml, 'bad' (found 'good')\n"
    )


# ---- scripts/run-kalshi.sh -------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, repository: Path) -> Path:
    """A folder with the script and a python that tells how it was called."""
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "run-kalshi.sh"
    script.write_bytes((repository / "scripts" / "run-kalshi.sh").read_bytes())
    script.chmod(0o755)
    return tmp_path


def build(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "called: $*"\n')
    python.chmod(0o755)


def run_kalshi(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SSMD_", "KALSHI_"))}
    return subprocess.run(
        [str(checkout / "scripts" / "run-kalshi.sh"), *arguments],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "first", "called"),
    [
        ([], {}, "kalshi-local (KALSHI_API_KEY is not set", "-e kalshi-local"),
        ([], {"KALSHI_API_KEY": ""}, "kalshi-local (KALSHI_API_KEY is not set", "-e kalshi-local"),
        ([], {"KALSHI_API_KEY": "k"}, "kalshi-dev (KALSHI_API_KEY is set", "-e kalshi-dev"),
        ([], {"KALSHI_API_KEY": "k", "KALSHI_USE_DEMO": "true"}, "kalshi-dev", "-e kalshi-dev"),
        ([], {"KALSHI_API_KEY": "k", "KALSHI_USE_DEMO": "false"}, "kalshi-prod", "-e kalshi-prod"),
        ([], {"KALSHI_API_KEY": "k", "KALSHI_USE_DEMO": "False"}, "kalshi-prod", "-e kalshi-prod"),
        ([], {"KALSHI_API_KEY": "k", "KALSHI_USE_DEMO": "0"}, "kalshi-prod", "-e kalshi-prod"),
        ([], {"KALSHI_USE_DEMO": "false"}, "kalshi-local", "-e kalshi-local"),
        (["mine"], {"KALSHI_API_KEY": "k"}, "mine (as asked)", "-e mine"),
        (["--duration", "5"], {}, "kalshi-local", "-e kalshi-local --duration 5"),
        (["./my.yaml", "--data", "D"], {}, "./my.yaml (as asked)", "-e ./my.yaml --data D"),
    ],
)
def test_run_kalshi_chooses_an_environment_and_says_why(
    checkout: Path, arguments: list[str], variables: dict[str, str], first: str, called: str
) -> None:
    build(checkout)
    told = run_kalshi(checkout, *arguments, **variables)
    lines = told.stdout.splitlines()
    assert told.returncode == 0
    assert lines[0].startswith(f"environment: {first}")
    assert lines[1] == f"called: -m ssmd run {called}"


@pytest.mark.parametrize("arguments", [["-e", "mine"], ["-emine"], ["--duration", "5", "--environment=mine"]])
def test_run_kalshi_has_one_way_to_name_an_environment(checkout: Path, arguments: list[str]) -> None:
    build(checkout)
    told = run_kalshi(checkout, *arguments)
    assert (told.returncode, told.stdout) == (2, "")
    assert "run-kalshi.sh ENVIRONMENT [options]" in told.stderr


def test_run_kalshi_never_prints_the_key(checkout: Path) -> None:
    build(checkout)
    told = run_kalshi(checkout, KALSHI_API_KEY="hunter2")
    assert "hunter2" not in told.stdout + told.stderr


def test_run_kalshi_without_make_says_so(checkout: Path) -> None:
    told = run_kalshi(checkout)
    assert told.returncode == 2
    assert "not built yet" in told.stderr
    assert f"make -C {checkout}" in told.stderr
