"""What is wrong with an environment file, all of it in one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssmd.errors import UsageError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and a sentence that says what to do."""

    path: KeyPath
    sentence: str

    def __str__(self) -> str:
        return f"{key_text(self.path)}: {self.sentence}" if self.path else self.sentence


class InvalidEnvironment(UsageError):
    """A file that is refused, with everything that is wrong with it."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


def key_text(path: KeyPath) -> str:
    """('subscriptions', 0, 'markets') -> subscriptions[0].markets"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
