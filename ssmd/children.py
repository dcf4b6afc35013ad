"""Helper processes of `ssmd run`: started, watched, restarted, ended.

A child that dies is started again after a back-off that doubles up to 30 s. One that the recording needs
(`needed`) and that dies with a usage error (exit 2) before it ever worked is not: its message is the user's.
Any other may refuse what it finds for as long as that is there: `refusal` has its words, the recording goes on.
Children die with their parent (PR_SET_PDEATHSIG), so a killed connector leaves no orphan behind. Their output
lines pass into our log.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import gevent
from gevent.event import Event

from ssmd.errors import UsageError

MAX_BACKOFF_S = 30.0
STEADY_S = 30.0  # a child that lived this long starts its back-off anew
WORKS_AFTER_S = 10.0  # a child that refuses does so before
_PR_SET_PDEATHSIG = 1


def _die_with_parent(parent: int, *, waits: bool = False) -> Callable[[], None]:
    """What a child does before it is its program: it dies with us, and (`waits`) keeps a signal for its program."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        if waits:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # kept over exec, and so is what comes meanwhile
        # The parent's handler still stands until exec. It would take the signal of a parent that dies in between, and
        # nobody would ever hear of it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One helper: `name` for log and metrics, `arguments` after `python`."""

    name: str
    arguments: tuple[str, ...]
    on_line: Callable[[str], None] | None = None
    drain_last: bool = False  # ends only after the ring is drained: it works on what others leave
    asks_for_signals: bool = False  # it blocks SIGTERM and asks for it: one that comes while it starts must wait too
    variables: Mapping[str, str] | None = None  # its environment variables; None = ours
    needed: bool = False  # nothing can be recorded without it: that it refuses to start ends the run


class Child:
    """Runs one helper for ever; `run` is a greenlet body."""

    def __init__(self, spec: ChildSpec, log: Callable[..., None]) -> None:
        self.spec = spec
        self.restarts = 0
        self._refusal = ""  # what the last process said, if that ended with a usage error
        self._started_s = 0.0  # the last process, time.monotonic()
        self._last_lines: deque[str] = deque(maxlen=10)  # of the last process
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._stopping = Event()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the last process, None while it lives and before there was one; negative: the signal that killed it."""
        return self._process.poll() if self._process is not None else None

    @property
    def refusal(self) -> str:
        """Why it does not work, in its words; empty again once a process after that one seems to work."""
        works = self.alive and time.monotonic() - self._started_s > WORKS_AFTER_S
        return "" if works else self._refusal

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def run(self) -> None:
        backoff_s = 0.5
        while not self._stopping.is_set():
            started = self._started_s = time.monotonic()
            self._start()
            self._pass_lines()
            code = self._process_end()
            if self._stopping.is_set():
                return
            lived_s = time.monotonic() - started
            said = "\n".join(self._last_lines) or "it said nothing"
            if code == 2 and self.spec.needed and lived_s < STEADY_S and self.restarts == 0:
                raise UsageError(f"the helper process {self.spec.name} cannot run: {said}")
            self._refusal = self._words() if code == 2 else ""
            if lived_s >= STEADY_S:
                backoff_s = 0.5
            self.restarts += 1
            self._log(
                "child died",
                level="error",
                child=self.spec.name,
                exit_code=code,
                restart_in_s=backoff_s,
                said=self._last_lines[-1] if self._last_lines else None,
            )
            self._stopping.wait(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    def _words(self) -> str:
        """What the last process said that is no log line and no report: an error and its hint."""
        return " ".join(line.strip() for line in self._last_lines if line.strip() and not line.startswith("{"))

    def terminate(self) -> None:
        """Asks the child to end; `run` returns once it has."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def wait(self, timeout_s: float) -> bool:
        """Whether the child is gone within the time."""
        deadline = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline:
            gevent.sleep(0.01)
        return not self.alive

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *self.spec.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self.spec.variables,
            preexec_fn=_die_with_parent(os.getpid(), waits=self.spec.asks_for_signals),
            start_new_session=True,  # a ^C of the terminal is ours to pass on, in the right order
        )
        self._log("child started", child=self.spec.name, child_pid=self._process.pid)

    def _pass_lines(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._last_lines.clear()
        with self._process.stdout as lines:
            for line in lines:
                self._last_lines.append(line.rstrip("\n"))
                if self.spec.on_line is not None:
                    self.spec.on_line(self._last_lines[-1])

    def _process_end(self) -> int:
        assert self._process is not None
        return self._process.wait()


def python_module(name: str, *arguments: str) -> Sequence[str]:
    return ("-m", name, *arguments)
