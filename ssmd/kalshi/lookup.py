"""Looks up markets by REST in a process of its own, which lives only as long as that takes.

    recorder ── one JSON object on stdin: where, as whom, what ──> python -m ssmd.kalshi.lookup ──> Kalshi's REST side
             <── JSON lines: {"warning": ...}, at last {"resolved": ...} or {"error": ...}

Ten thousand markets are tens of megabytes of JSON, and the HTTP library takes eight more: memory that a recorder would
keep for good, and parsing that would hold up its sockets. What comes back is tickers. The key goes through the pipe,
never into arguments or the environment.

Not for: what the answers mean for subscriptions (planner), asking again (the connector does).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ssmd.errors import ExchangeError, RefusedError, SsmdError, UsageError
from ssmd.kalshi.planner import Needs, Resolved

ATTEMPTS = 2  # of one request; the connector asks again, for ever, and says so each time
EVIDENCE_CHARS = 300  # of what a process said that ended without an answer
_PR_SET_PDEATHSIG = 1
_KINDS: dict[str, type[SsmdError]] = {"usage": UsageError, "refused": RefusedError, "exchange": ExchangeError}


@dataclass(frozen=True, slots=True)
class Asked:
    """Where to ask, as whom. `private_key` is PEM text."""

    rest_url: str
    ca_file: str | None
    proxy: str | None
    key_id: str
    private_key: str = field(repr=False)


# ---- the recorder's end ----------------------------------------------------------------------------------------------


def look_up(asked: Asked, needs: Needs, warn: Callable[[str], object]) -> Resolved:
    """Raises what the look-up raised: ExchangeError, RefusedError, UsageError. Waits cooperatively under gevent."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a ^C of the terminal is the recorder's
    )
    try:
        said, complaint = process.communicate(json.dumps({"asked": asdict(asked), "needs": asdict(needs)}).encode())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    for line in said.splitlines():
        answer = json.loads(line)
        if "warning" in answer:
            warn(answer["warning"])
        elif "error" in answer:
            raise _KINDS[answer["kind"]](answer["error"], hint=answer["hint"])
        else:
            return _resolved(answer["resolved"])
    words = complaint.decode("utf-8", "replace").strip()[-EVIDENCE_CHARS:]
    raise ExchangeError(f"looking up the markets ended with exit code {process.returncode} and no answer: {words}")


def _resolved(answer: Mapping[str, Any]) -> Resolved:
    open_markets = answer["open_markets"]
    return Resolved(
        series={name: tuple(tickers) for name, tickers in answer["series"].items()},
        events={name: tuple(tickers) for name, tickers in answer["events"].items()},
        open_markets=None if open_markets is None else tuple(open_markets),
    )


# ---- the process -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Answers what stands on standard input."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    request = json.load(sys.stdin)
    wanted = request["needs"]
    needs = Needs(tuple(wanted["series"]), tuple(wanted["events"]), wanted["open_markets"])
    try:
        _say(resolved=asdict(_resolve(Asked(**request["asked"]), needs)))
    except SsmdError as error:
        kind = next((name for name, kind in _KINDS.items() if isinstance(error, kind)), "exchange")
        _say(error=str(error.args[0]), kind=kind, hint=error.hint)
    return 0


def _resolve(asked: Asked, needs: Needs) -> Resolved:
    from ssmd.kalshi import auth, rest  # the heavy part: only here

    with rest.RestClient(
        asked.rest_url,
        credentials=auth.Credentials(asked.key_id, auth.load_key(asked.private_key)),
        ca_file=asked.ca_file,
        proxy=asked.proxy,
        attempts=ATTEMPTS,
        warn=lambda sentence: _say(warning=sentence),
    ) as client:
        return client.resolve(needs)


def _say(**answer: object) -> None:
    try:
        print(json.dumps(answer), flush=True)
    except BrokenPipeError:  # nobody waits for it any more
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
