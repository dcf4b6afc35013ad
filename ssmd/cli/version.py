"""`ssmd version`."""

from __future__ import annotations

from collections.abc import Sequence

import ssmd
from ssmd.cli import options
from ssmd.errors import EXIT_OK


def main(arguments: Sequence[str]) -> int:
    options.parser("version", "Print the version.").parse_args(list(arguments))
    print(f"ssmd {ssmd.__version__}")
    return EXIT_OK
