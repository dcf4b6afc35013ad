"""`ssmd` and `python -m ssmd`: patches the standard library where the command is a gevent program, then runs it.

The patches must come before anything imports a socket, so this module imports nothing but the light dispatcher. A ^C
before the command has begun ends with 130 and says nothing: there is nothing yet that could be left half done, and
an exception in the middle of an import, or of the patches, would be a traceback.
"""

import os
import signal
import sys


def _end_quietly(number: int, frame: object) -> None:
    os._exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # who ignores ^C goes on ignoring it
    signal.signal(signal.SIGINT, _end_quietly)

from ssmd import cli  # noqa: E402


def main() -> int:
    arguments = sys.argv[1:]
    command = cli.find(arguments)
    if command is not None and command.gevent:
        from gevent import monkey

        monkey.patch_all()
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
