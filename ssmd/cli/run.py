"""`ssmd run`: records a feed until it is told to stop. docs/cli.md has the contract.

On a terminal it shows one live line; elsewhere it writes JSON log lines to standard error. When it ends it says in
a few sentences what was captured. gevent's patches must stand before the first socket is imported, so `ssmd.__main__`
applies them when the subcommand is `run`; this module only checks that they are there.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import gevent
import gevent.monkey
import structlog

from ssmd import host
from ssmd.cli import options, rehearsals
from ssmd.connector import Connector, install_signals
from ssmd.environment import Environment
from ssmd.errors import EXIT_INCOMPLETE, EXIT_OK, EXIT_USAGE, SsmdError, UsageError
from ssmd.status import Snapshot, fitted, live_items, summary
from ssmd.terminal import shown

LINE_EVERY_S = 0.5
CLEAR = "\r\x1b[J"  # from the beginning of the row to the end of the screen
REPORT_EVERY_S = 60.0
UNKNOWN_COLUMNS = 80
CHECK_LIMIT_S = 10.0  # the check of the middleware ends by itself in less


def parser() -> argparse.ArgumentParser:
    made = options.parser("run", "Record a feed until stopped (SIGTERM, ^C) or for --duration.")
    options.add_environment(made)
    made.add_argument(
        "--rehearse",
        action="store_true",
        help="bus, store, cache and their journal in memory, all copies compared, and what a day would need; "
        "nothing is kept (docs/rehearsal.md)",
    )
    made.add_argument(
        "--duration", type=_seconds, metavar="SECONDS", help="stop by itself so long after ring and files were opened"
    )
    return made


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, such as 120 (found {text!r})")
    return value


def main(arguments: Sequence[str]) -> int:
    if not gevent.monkey.is_module_patched("socket"):
        raise SsmdError("ssmd run must be started as `python -m ssmd run`: gevent's patches are missing")
    asked = parser().parse_args(list(arguments))
    with rehearsals.staged(asked) as stage:
        return record(asked, stage)


def record(asked: argparse.Namespace, stage: rehearsals.Stage) -> int:
    """A run, from the first question to the last word."""
    environment = stage.environment
    screen = Screen(sys.stderr) if sys.stderr.isatty() else None
    configure_log(screen or sys.stderr, terminal=screen is not None)
    connector = Connector(
        environment, host.secret_reader(environment), environment_arguments=options.as_arguments(asked)
    )
    install_signals(connector)
    check_middleware(environment, options.as_arguments(asked), stopped=lambda: connector.stopping)
    showing = gevent.spawn(_show_line, connector, screen) if screen else gevent.spawn(_report, connector)
    try:
        code = connector.run(asked.duration)
    finally:
        showing.kill()
        if connector.opened:
            end, folder = connector.snapshot(), str(environment.storage.path)
            stage.judge(end, drained=connector.drained)
            words = summary(end, folder=folder, command=command(), sealed=connector.drained, kept=stage.kept)
            print("\n".join([words, *stage.last_words]), flush=True)
    return stage.exit_code(code)


def check_middleware(environment: Environment, arguments: Sequence[str], *, stopped: Callable[[], bool]) -> None:
    """Asks the bus, the object store and the cache before anything is made, in a process that gevent did not patch.

    One that refuses us is a UsageError. One that cannot be reached is a warning: recording never waits for it.
    """
    storage = environment.storage
    if environment.rehearsal:
        return
    kinds = {environment.transport.type, environment.cache.type, storage.type}
    if not kinds & {"nats", "redis", "s3"} and storage.archive is None:
        return
    asked = subprocess.Popen(
        [sys.executable, "-m", "ssmd.middleware", *arguments, "--check"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=host.variables_without(environment, [environment.feed]),
    )
    deadline = time.monotonic() + CHECK_LIMIT_S
    while asked.poll() is None and not stopped() and time.monotonic() < deadline:
        gevent.sleep(0.02)
    if asked.poll() is None:
        asked.kill()
    said = asked.communicate()[1].strip()
    if asked.returncode == EXIT_USAGE:
        raise UsageError(listed(f"environment {environment.name}", said.removeprefix("ssmd.middleware: ")))
    if asked.returncode != EXIT_OK and not stopped():
        reason = said if asked.returncode == EXIT_INCOMPLETE else f"the check ended with {asked.returncode}: {said}"
        structlog.get_logger().warning("the middleware is not there yet; recording begins without it", reason=reason)


def listed(heading: str, said: str) -> str:
    """Several findings below one heading, as the errors of a file; one as it is. Rows that go on are indented."""
    rows = said.splitlines()
    count = sum(not row.startswith(" ") for row in rows)
    return said if count < 2 else "\n  ".join([f"{heading}: {count} errors", *rows])


def command() -> str:
    """How this user can call `ssmd`: the program beside this Python, as short as it can be written from here."""
    program = Path(sys.executable).with_name("ssmd")
    if not program.exists():
        return f"{shlex.quote(sys.executable)} -m ssmd"
    return shlex.quote(str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program))


class Screen:
    """A terminal with one live line at its end: what is printed goes above it. Offers what a log writes to.

    The cursor rests at the beginning of the live line. A terminal that is made narrower breaks the line into rows, and
    the cursor stays at the first of them: clearing from there to the end of the screen leaves nothing of it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._items: Sequence[str] = ()
        self._begun = ""

    def write(self, text: str) -> int:
        """Whole lines only: a log writes its line and the line's end in two calls."""
        self._begun += text
        if self._begun.endswith("\n"):
            self._stream.write(CLEAR + self._begun + self._line())
            self._begun = ""
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def show(self, items: Sequence[str]) -> None:
        """Puts another line in the place of the live one: as many of the items as the terminal is wide."""
        self._items = items
        self.redraw()

    def redraw(self) -> None:
        """Writes the live line again; the terminal may have another width now."""
        self._stream.write(CLEAR + self._line())
        self._stream.flush()

    def _line(self) -> str:
        line = fitted([shown(item) for item in self._items], self._columns() - 1)
        return line + "\r" if line else ""

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or UNKNOWN_COLUMNS
        except (OSError, ValueError):
            return UNKNOWN_COLUMNS


class Patient:
    """A stream whose failures are nobody's business: a log on a full disk, or into a closed pipe, ends no recording."""

    def __init__(self, stream: TextIO | Screen) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure_log(stream: TextIO | Screen, *, terminal: bool) -> None:
    """Coloured lines for people, JSON lines for programs."""
    renderer: Any = structlog.processors.JSONRenderer()
    if terminal:
        renderer = structlog.dev.ConsoleRenderer(
            0, pad_level=False, exception_formatter=structlog.dev.plain_traceback
        )  # 0: no columns, for which few terminals are wide enough
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%SZ" if terminal else "iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(Patient(stream)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


def _show_line(connector: Connector, screen: Screen) -> None:
    before = connector.snapshot()
    gevent.signal_handler(signal.SIGWINCH, screen.redraw)
    try:
        while True:
            gevent.sleep(LINE_EVERY_S)
            now = connector.snapshot()
            screen.show(live_items(now, before))
            before = now
    finally:
        screen.show([])


def _report(connector: Connector) -> None:
    log = structlog.get_logger()
    before: Snapshot = connector.snapshot()
    while True:
        gevent.sleep(REPORT_EVERY_S)
        now = connector.snapshot()
        log.info(
            "recording",
            messages=now.frames,
            messages_per_s=round((now.frames - before.frames) / (now.elapsed_s - before.elapsed_s)),
            records=now.records,
            written_bytes=now.written_bytes,
            lag_records=now.lag_records,
            gaps=now.gaps,
            reconnects=now.reconnects,
            live=f"{now.live}/{now.clients}",
            trouble=now.trouble or None,
        )
        before = now
