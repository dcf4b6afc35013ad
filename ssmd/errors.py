"""The errors of ssmd: each says whose fault it was and whether a retry is worth it.

Not for control flow inside a module. Foreign exceptions are translated once, at the module that
imports the foreign library, with the evidence kept in the message and a hint that says what to do.
"""

from __future__ import annotations

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
