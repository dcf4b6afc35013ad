"""The C library, one module a part: the only importers of `ssmd._native`. No work is done at import."""
