"""`ssmd` and `python -m ssmd`: patches the standard library where the command is a gevent program, then runs it.

The patches must come before anything imports a socket, so this module imports nothing but the light dispatcher.
"""

from __future__ import annotations

import sys

from ssmd import cli


def main() -> int:
    arguments = sys.argv[1:]
    command = cli.find(arguments)
    if command is not None and command.gevent:
        from gevent import monkey

        monkey.patch_all()
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
