"""Helper processes end with the process that started them, whenever that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ssmd.children import _die_with_parent

# A parent with a handler for SIGTERM, as the recorder has, whose child stands still between its preparation and exec.
PARENT = """
import os, signal, subprocess, sys, time
from ssmd.children import _die_with_parent
signal.signal(signal.SIGTERM, lambda number, frame: None)
prepare = _die_with_parent(os.getpid())
def slowly():
    prepare()
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(0.5)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], preexec_fn=slowly, stdout=sys.stdout)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_parent_killed_before_its_child_became_a_program_leaves_no_child() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = is_running(child)
    if left:
        os.kill(child, signal.SIGKILL)
    parent.stdout.close()
    assert not left


def test_a_signal_that_comes_while_a_child_starts_waits_until_the_child_asks_for_it() -> None:
    asking = "import signal; print(signal.sigtimedwait({signal.SIGTERM}, 60).si_signo)"
    child = subprocess.Popen(
        [sys.executable, "-c", asking],
        stdout=subprocess.PIPE,
        preexec_fn=_die_with_parent(os.getpid(), waits=True),
    )
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=60)[0] == b"15\n"
    assert child.returncode == 0
