"""What __init__.py offers by name, for type checkers: they do not see through its __getattr__."""

from ssmd.api import Start as Start
from ssmd.api import Tail as Tail
from ssmd.api import TailRecord as TailRecord
from ssmd.api import tail as tail

__version__: str
