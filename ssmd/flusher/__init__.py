"""The flusher as a process of its own: `python -m ssmd.flusher`, on the ring of another process.

The work is done by csrc/flusher.c on a native thread; see docs/flusher.md.
"""
