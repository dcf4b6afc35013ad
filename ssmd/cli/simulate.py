"""`ssmd simulate`: becomes `python -m ssmd.simulator` with the same flags, which has its own gevent patches."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    os.execv(sys.executable, [sys.executable, "-m", "ssmd.simulator", *arguments])
