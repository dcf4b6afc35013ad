"""What a Journal takes, judged in one place for every implementation: topics, headers, payloads. Pure.

A topic is words joined by dots, as a subject is; a header is visible ASCII without line ends. What is outside of these
never reaches a file or a service, so that it fails in the same way everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssmd.errors import LimitError, RejectedError
from ssmd.middleware.interfaces import Headers
from ssmd.middleware.names import matches

TOPIC_LIMIT = 1024  # characters


def checked_topic(topic: str) -> str:
    """The topic as it is. RejectedError for one that is none, LimitError for one that is too long."""
    if len(topic) > TOPIC_LIMIT:
        raise LimitError(f"a topic has at most {TOPIC_LIMIT} characters, this one {len(topic)}: {topic[:64]!r}...")
    words = topic.split(".")
    if not all(words) or "*" in words or ">" in words or " " in topic or not topic.isprintable():
        raise RejectedError(f"{topic!r} is no topic: words joined by dots, no spaces, no * or > for a word")
    return topic


def checked_headers(headers: Headers | None) -> dict[str, str]:
    """A copy of the headers; RejectedError for a name or value that is none."""
    kept = dict(headers or {})
    for text in (*kept, *kept.values()):
        if not text or not text.isascii() or not text.isprintable() or text != text.strip():
            raise RejectedError(f"{text[:80]!r} is no header: visible ASCII, without spaces at its ends")
    return kept


def wanted(topics: Sequence[str], topic: str) -> bool:
    """Whether a reader of these patterns is given entries of a topic; no patterns: all."""
    return not topics or any(matches(pattern, topic) for pattern in topics)
