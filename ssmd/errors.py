"""The errors of ssmd: each says whose fault it was and whether a retry is worth it.

Not for control flow inside a module. Foreign exceptions are translated once, at the module that
imports the foreign library, with the evidence kept in the message and a hint that says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

# Exit codes of every command (docs/cli.md).
EXIT_OK = 0
EXIT_INCOMPLETE = 1  # a check failed, or data is incomplete
EXIT_USAGE = 2  # usage or configuration
EXIT_REFUSED = 3  # refused by the exchange (authentication)
EXIT_FAILED = 4  # a part failed and could not be restarted


class SsmdError(Exception):
    """Base of all errors that ssmd raises on purpose.

    `hint` says what the user can do about it; `retryable` whether the same call may work later.
    """

    exit_code = EXIT_FAILED
    retryable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  {self.hint}" if self.hint else message


class UsageError(SsmdError):
    """The command line, an environment file or the machine's set-up is wrong: the user's to mend."""

    exit_code = EXIT_USAGE


class RefusedError(SsmdError):
    """The exchange refused us for a reason that a retry does not change (authentication)."""

    exit_code = EXIT_REFUSED


class ExchangeError(SsmdError):
    """The exchange answered with an error, or not at all: theirs, and worth a retry."""

    retryable = True


class StorageError(SsmdError):
    """A file, ring or disk operation failed."""


class DamageError(SsmdError):
    """Stored bytes do not check out; nothing was changed."""

    exit_code = EXIT_INCOMPLETE


# ---- of the middleware (ssmd.middleware) -----------------------------------------------------------------------------


class MiddlewareError(SsmdError):
    """A bus, an object store, a cache or a journal failed us. `evidence`: the library's own words."""

    def __init__(self, message: str, *, hint: str | None = None, evidence: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.evidence = evidence


class UnavailableError(MiddlewareError):
    """It cannot be reached, is too slow, or was closed: theirs, and worth a retry."""

    retryable = True


class RejectedError(MiddlewareError):
    """It is there and says no: credentials, rights, a bucket or stream that is missing or another's. The user's."""

    exit_code = EXIT_USAGE


class MissingStreamError(RejectedError):
    """The bus has no stream of this name: nobody has made it yet, or the name is wrong."""


class LimitError(MiddlewareError):
    """More than it takes: a payload too large, a bus that is full."""


class ConflictError(MiddlewareError):
    """There is something else in that place already, and it was left as it is."""


class MissingObjectError(MiddlewareError):
    """There is no object of this key."""


class LaggedError(MiddlewareError):
    """A subscriber or reader missed `missed` messages (0 = how many is not known). Reading goes on behind the hole."""

    retryable = True

    def __init__(self, message: str, *, missed: int, hint: str | None = None, evidence: str | None = None) -> None:
        super().__init__(message, hint=hint, evidence=evidence)
        self.missed = missed


class PublishError(MiddlewareError):
    """Not all of `publish_all` was confirmed. `receipts`: of the confirmed run from the beginning.

    The cause is chained, and `retryable` is that of the cause.
    """

    def __init__(self, message: str, *, receipts: Sequence[object], cause: MiddlewareError) -> None:
        super().__init__(message, hint=cause.hint, evidence=cause.evidence)
        self.receipts = receipts
        self.retryable = cause.retryable
        self.exit_code = cause.exit_code
