"""The memory twins of the middleware: the references of the contract suites, and what a rehearsal runs on.

They live and die with their process. docs/decisions says who runs which.
"""

from ssmd.middleware.memory.cache import MemoryCache
from ssmd.middleware.memory.journal import MemoryJournal
from ssmd.middleware.memory.storage import MemoryStorage
from ssmd.middleware.memory.transport import MemoryTransport

__all__ = ["MemoryCache", "MemoryJournal", "MemoryStorage", "MemoryTransport"]
