"""Which numbers of a journal are on a bus although the journal may lose their records.

A publisher that does not wait for proof (`transport.durable_only: false`) sends records that a lost ring takes back.
Its cursor file says up to which number, before anything is sent. Whoever recovers the journal gives none of these
numbers a second time: on the bus each number has one content, for ever.

For: the recorder, when it goes on from the files alone. Not for: the rest of the cursor (ssmd.publisher.cursor).
"""

from __future__ import annotations

import json
from pathlib import Path

CURSOR = "publisher.cursor"  # in the journal's folder


def last_unproved(root: Path) -> int:
    """No record after this number was sent before it was proved; 0: none was, as far as is known."""
    try:
        number = json.loads((root / CURSOR).read_bytes())["unproved"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0
    return number if type(number) is int and number > 0 else 0
