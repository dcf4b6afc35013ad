"""Where the exchange's key goes: to the recorder, and to nobody that it starts."""

from __future__ import annotations

from pathlib import Path

from recording import Recorder, environment_file

from ssmd.simulator.process import SimulatorProcess


def children_of(pid: int) -> dict[str, dict[str, str]]:
    """Environment variables of each child process, by its command line."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            process = Path("/proc", child)
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            variables = (process / "environ").read_bytes().decode().rstrip("\0").split("\0")
            found[command] = dict(variable.split("=", 1) for variable in variables)
    return found


def test_helpers_do_not_inherit_the_exchange_s_key(tmp_path: Path) -> None:
    with SimulatorProcess("--rate", "500", "--markets", "3") as exchange:
        environment = environment_file(tmp_path, exchange, flusher__mode="process")
        with Recorder(environment, exchange, env={"OF_OTHERS": "kept"}) as recorder:
            recorder.wait_live()
            children = children_of(recorder.pid)
            own = Path("/proc", str(recorder.pid), "environ").read_bytes()
            assert b"KALSHI_API_KEY=" in own
            assert {
                name for name in ("flusher", "archiver", "auditor") for line in children if f"ssmd.{name}" in line
            } == {
                "flusher",
                "archiver",
                "auditor",
            }
            for command, variables in children.items():
                assert "KALSHI_API_KEY" not in variables, command
                assert variables["OF_OTHERS"] == "kept", command
            assert recorder.stop() == 0, recorder.log
