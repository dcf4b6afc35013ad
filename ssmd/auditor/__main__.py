"""`python -m ssmd.auditor ROOT`: watches the order books of a journal while it is written. `ssmd run` starts it.

Each book that cannot be right is a JSON line on standard output: {"suspect": {number, connection, sid, market,
recv_ns, why}}. It keeps nothing that a signal could spoil, so a signal ends it at once, whatever it
is in.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ssmd.auditor import Auditor
from ssmd.cli import options as flags
from ssmd.errors import EXIT_OK
from ssmd.helperlog import sayer

LOOK_EVERY_S = 0.25  # ten looks a second cost as much as the reading itself
ENDING = (signal.SIGTERM, signal.SIGINT)


def stop(*_: object) -> None:
    """What a signal does."""
    sayer("auditor")("stopped")
    os._exit(EXIT_OK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until it is ended."""
    for ending in ENDING:
        signal.signal(ending, stop)
    made = flags.parser("auditor", (__doc__ or "").split("\n\n")[0])
    made.prog = "python -m ssmd.auditor"
    made.add_argument("root", type=Path, metavar="ROOT", help="folder of the feed's journal")
    made.add_argument("--since-ns", type=int, default=0, metavar="NS", help="leave out segments from before (UTC ns)")
    given = made.parse_args(arguments)
    os.nice(10)  # recording comes first
    auditor = Auditor(given.root, given.since_ns)
    while True:
        for suspect in auditor.step():
            print(json.dumps({"suspect": asdict(suspect)}), flush=True)
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
