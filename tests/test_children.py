"""Helper processes end with their parent, whenever it is killed; a refusal ends it only where it needs the helper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gevent
import pytest

from ssmd.children import Child, ChildSpec, _die_with_parent
from ssmd.errors import UsageError

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


def test_a_helper_that_refuses_to_work_is_tried_again_and_its_words_are_kept() -> None:
    refuses = (
        "import sys; print('{\"event\": \"x\"}'); print('x: the cursor is ahead'); print('hint: move it'); sys.exit(2)"
    )
    child = Child(ChildSpec("publisher", ("-c", refuses)), lambda event, **fields: None)
    keeper = gevent.spawn(child.run)
    with gevent.Timeout(60):
        while child.restarts < 2:
            gevent.sleep(0.02)
    assert not keeper.ready()
    assert child.refusal == "x: the cursor is ahead hint: move it"
    child.kill()
    keeper.join(60)


def test_a_refusal_is_over_when_a_later_process_ends_otherwise(tmp_path: Path) -> None:
    refuses_once = (
        "import os, sys; path = sys.argv[1]\n"
        "if not os.path.exists(path): open(path, 'w').close(); print('no'); sys.exit(2)\n"
        "sys.exit(1)"
    )
    child = Child(ChildSpec("publisher", ("-c", refuses_once, str(tmp_path / "x"))), lambda event, **fields: None)
    keeper = gevent.spawn(child.run)
    with gevent.Timeout(60):
        while child.restarts < 2:
            gevent.sleep(0.02)
    assert child.refusal == ""
    child.kill()
    keeper.join(60)


def test_one_that_the_recording_needs_ends_it_by_refusing() -> None:
    refuses = "import sys; print('the ring is in use'); sys.exit(2)"
    child = Child(ChildSpec("flusher", ("-c", refuses), needed=True), lambda event, **fields: None)
    with gevent.Timeout(60), pytest.raises(UsageError, match="flusher cannot run: the ring is in use"):
        child.run()
