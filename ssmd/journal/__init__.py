"""Journals: finding, reading, following and mending segment files.

`paths` owns every name, `reader` reads what is there, `follow` waits for more, `recover` mends after a crash.
Reading needs the C walker only; pycapnp is imported when the body of a record is asked for.
"""

from ssmd.journal.paths import Segment, State, find
from ssmd.journal.reader import Batch, Damage, Reader, Record
from ssmd.journal.times import parse_time, show_time

__all__ = ["Batch", "Damage", "Reader", "Record", "Segment", "State", "find", "parse_time", "show_time"]
