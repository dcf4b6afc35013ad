"""`python -m ssmd.simulator`: options, keys, ports, signals; one JSON line when it listens.

gevent patches the standard library here and nowhere else.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from ssmd.simulator.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
