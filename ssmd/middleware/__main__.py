"""`python -m ssmd.middleware -e ENV --check`: is the middleware of an environment there, and does it let us in?

`ssmd run` calls it before it makes anything, in a process of its own (the libraries want threads and event loops that
are not gevent's); users may, too. It changes nothing but what `check` of an interface may: nothing that exists. All
parts are asked at once, and one that has not answered after LIMIT_S counts as one that cannot be reached: recording
never waits for a bus.

Exit codes: 0 all is there · 1 something cannot be reached now (recording may begin, and publishing or uploading begins
when it can) · 2 something refuses us, or is not what the environment says.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from ssmd import host
from ssmd.cli import options as flags
from ssmd.environment import Environment
from ssmd.errors import (
    EXIT_FAILED,
    EXIT_INCOMPLETE,
    EXIT_OK,
    EXIT_USAGE,
    LimitError,
    SsmdError,
    UnavailableError,
)
from ssmd.middleware.factory import MiddlewareFactory
from ssmd.middleware.interfaces import Journal, Transport

LIMIT_S = 5.0
NATS_PORT = 4222


class _Part(Protocol):
    def close(self) -> None: ...


P = TypeVar("P", bound=_Part)


@dataclass(slots=True)
class Finding:
    """What one section of the environment came to. `error` None: it is there and lets us in."""

    section: str
    place: str
    error: BaseException | None = None

    @property
    def exit_code(self) -> int:
        error = self.error
        if error is None:
            return EXIT_OK
        if isinstance(error, SsmdError):
            return EXIT_INCOMPLETE if error.retryable else EXIT_USAGE
        return EXIT_FAILED

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.section}: ok: {self.place}"
        told = str(self.error) if isinstance(self.error, SsmdError) else f"{type(self.error).__name__}: {self.error}"
        word = {EXIT_INCOMPLETE: "not reachable", EXIT_USAGE: "refused"}.get(self.exit_code, "failed")
        if isinstance(self.error, LimitError) and self.error.retryable:
            word = "full"
        return f"{self.section}: {word}: {told}"


def parts(environment: Environment, factory: MiddlewareFactory) -> list[tuple[str, str, Callable[[], None]]]:
    """Section, place and check of everything that this environment works with."""
    transport, storage, cache = environment.transport, environment.storage, environment.cache
    found: list[tuple[str, str, Callable[[], None]]] = []
    if environment.rehearsal:  # all of it is in the process that will have it
        return found
    if environment.journal.type == "nats":
        found.append(("journal", str(transport.url), lambda: _check_bus(str(transport.url), factory.journal)))
    else:
        root = str(storage.path / environment.feed)
        found.append(("journal", root, lambda: _checked(factory.journal(), lambda journal: journal.check())))
    if transport.type == "nats":
        place = f"{transport.url} stream {transport.stream}"
        found.append(("transport", place, lambda: _check_bus(str(transport.url), factory.transport)))
    if storage.type == "s3" or storage.archive is not None:
        place = f"bucket {storage.bucket}" if storage.type == "s3" else str(storage.archive)
        found.append(("storage", place, lambda: _check_storage(factory)))
    if cache.type == "redis":
        found.append(("cache", str(cache.url), lambda: _checked(factory.cache(), lambda cache: cache.check())))
    return found


def _check_bus(url: str, make: Callable[[], Transport | Journal]) -> None:
    """A bus connects again and again for as long as it is asked; where nobody listens that is known at once."""
    bus = make()  # first: a library or a secret that is missing is the user's, whether the bus is there or not
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port or NATS_PORT), timeout=LIMIT_S).close()
    except OSError as error:
        bus.close()
        raise UnavailableError(f"the bus at {url} cannot be reached: {error.strerror or error}") from None
    _checked(bus, lambda bus: bus.check())


def _check_storage(factory: MiddlewareFactory) -> None:
    storage = factory.storage()
    if storage is not None:
        _checked(storage, lambda storage: storage.check(writable=True))


def _checked(part: P, check: Callable[[P], None]) -> None:
    try:
        check(part)
    finally:
        part.close()


def look(environment: Environment, factory: MiddlewareFactory, *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Asks all parts at once; gives what each said, in the order of the environment's sections."""
    asked = []
    for section, place, check in parts(environment, factory):
        finding = Finding(section, place)
        thread = threading.Thread(target=_ask, args=(finding, check), daemon=True)
        thread.start()
        asked.append((finding, thread))
    deadline = time.monotonic() + limit_s
    findings = []
    for finding, thread in asked:
        thread.join(max(deadline - time.monotonic(), 0))
        findings.append(_silent(finding, limit_s) if thread.is_alive() else finding)
    return findings


def _ask(finding: Finding, check: Callable[[], None]) -> None:
    try:
        check()
    except Exception as error:
        finding.error = error


def _silent(finding: Finding, limit_s: float) -> Finding:
    error = UnavailableError(f"{finding.place} did not answer within {limit_s:.0f} s")
    return Finding(finding.section, finding.place, error)


def main(arguments: Sequence[str] | None = None) -> int:
    made = flags.parser("middleware", (__doc__ or "").split("\n\n")[0])
    made.prog = "python -m ssmd.middleware"
    flags.add_environment(made)
    made.add_argument("--check", action="store_true", required=True, help="ask each part, and say what it answered")
    try:
        environment = flags.load(made.parse_args(arguments))
        findings = look(environment, MiddlewareFactory(environment, host.secret_reader(environment)))
    except SsmdError as error:
        print(f"ssmd.middleware: {error}", file=sys.stderr)
        return error.exit_code
    for finding in findings:
        print(finding, file=sys.stderr if finding.error else sys.stdout)
    return max((finding.exit_code for finding in findings), default=EXIT_OK)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a part that does not answer holds its thread, and that would hold the end up
