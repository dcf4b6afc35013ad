"""How things are called outside of ssmd: subjects, message ids, object keys, cache keys. Pure.

Nothing that an exchange sends becomes part of one of these except through `token` (subjects, object keys: two names may
give one) or `exact` (cache keys: two names never do). docs/middleware.md.

    subject     {prefix}.{kind}.{market}              md.trade.KXBTC-26
    batches     {prefix}.batch.{kind}                 md.batch.book_delta
    message id  {journal}:{number}                    kalshi-5f0c9a1e22b4:17
                {journal}:{first}-{last}:{kind}       kalshi-5f0c9a1e22b4:17-310:trade    of a batch
                {id}.{part}                           kalshi-5f0c9a1e22b4:17.2            of a part of either
    object      {prefix}/{feed}/{journal}/{day}/{file}
    cache       ssmd:last:{feed}:{market}             ssmd:last:kalshi:KXBTC-26
                ssmd:last:{feed}:{market}:{shard}     ssmd:last:kalshi:KXBTC-26:0    where there are shards
                ssmd:writer:{feed}:{journal}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_TOKEN = 128  # characters; a longer name ends in a digest of the whole

# Headers of a batch (its journal, its first and last number, how many records) and of a part ("2/3").
JOURNAL_HEADER = "Ssmd-Journal"
FIRST_HEADER = "Ssmd-First"
LAST_HEADER = "Ssmd-Last"
COUNT_HEADER = "Ssmd-Count"
PART_HEADER = "Ssmd-Part"
# Of a batch: every record up to this number was published before it (records of other batches lie between its own).
BEFORE_HEADER = "Ssmd-Before"
WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what names of streams and durable subscriptions are

_OUTSIDE = re.compile(r"[^A-Za-z0-9_-]")
_OUTSIDE_FILE = re.compile(r"[^A-Za-z0-9._-]")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_KEY = re.compile(
    r"((?P<prefix>.+)/)?(?P<feed>[A-Za-z0-9_-]+)/(?P<journal>[A-Za-z0-9_-]+)/"
    rf"(?P<day>{_DAY.pattern})/(?P<file>[A-Za-z0-9_-][A-Za-z0-9._-]*)"
)
_NOT_EXACT = re.compile(rb"[^A-Za-z0-9._-]")
_NONE = "_"  # the token of a record without a market


def token(text: str | None) -> str:
    """A name as one word of a subject or key: letters, digits, '-', '_'; anything else becomes '_'.

    An empty or missing one is '_'. One longer than MAX_TOKEN is cut and ends in a digest, so that two long names that
    begin alike stay two.
    """
    if not text:
        return _NONE
    word = _OUTSIDE.sub("_", text)
    if len(word) <= MAX_TOKEN:
        return word
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{word[: MAX_TOKEN - len(digest) - 1]}-{digest}"


def exact(text: str) -> str:
    """A name as one part of a cache key, from which it can be told from every other name.

    Letters, digits, '.', '-', '_' stay; any other byte of its UTF-8 is %XX. One that is longer than MAX_TOKEN then is
    cut and ends in '~' and a digest of the whole: '~' stands in no other name.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    word = _NOT_EXACT.sub(lambda found: b"%%%02X" % found[0][0], encoded).decode()
    if len(word) <= MAX_TOKEN:
        return word
    digest = hashlib.sha256(encoded).hexdigest()[:32]
    return f"{word[: MAX_TOKEN - len(digest) - 1]}~{digest}"


def subject(prefix: str, kind: str, market: str | None) -> str:
    """Where a record is published."""
    return f"{prefix}.{kind}.{token(market)}"


def batch_subject(prefix: str, kind: str) -> str:
    """Where many records of one kind are published as one message."""
    return f"{prefix}.batch.{kind}"


def message_id(journal: str, number: int) -> str:
    """By this the bus knows a record again."""
    return f"{journal}:{number}"


class ObjectName(NamedTuple):
    """What the key of an archived file says: `object_key` makes it, `object_name` reads it."""

    prefix: str  # of the environment, '' = none
    feed: str
    journal: str  # its identity
    day: str  # YYYY-MM-DD
    file: str


def object_key(name: ObjectName) -> str:
    """Where a file of a journal is archived: the one owner of object keys.

    The prefix is the environment's, which is a whitelisted text; of the rest every character outside of a whitelist
    becomes '_'. ValueError for a day that is none: it comes from our own folders.
    """
    if not _DAY.fullmatch(name.day):
        raise ValueError(f"{name.day!r} is no day")
    file = _OUTSIDE_FILE.sub("_", name.file).lstrip(".") or _NONE
    parts = [name.prefix, token(name.feed), token(name.journal), name.day, file]
    return "/".join(part for part in parts if part)


def object_name(key: str) -> ObjectName | None:
    """What a key says; None for one of another form."""
    match = _KEY.fullmatch(key)
    return ObjectName(match["prefix"] or "", *match.group("feed", "journal", "day", "file")) if match else None


def batch_id(journal: str, first: int, last: int, kind: str) -> str:
    """The same for a batch: the records of one kind from `first` to `last`."""
    return f"{journal}:{first}-{last}:{kind}"


def cut_id(whole: str, size: int) -> str:
    """What is too large for one message, cut into parts of so many bytes. Parts of two cuts do not fit together."""
    return f"{whole}.{size}"


def part_id(cut: str, part: int) -> str:
    """The same for one part, from 1, of a cut."""
    return f"{cut}.{part}"


class Published(NamedTuple):
    """What a message id says: which records of which journal. `kind` None: one record, `first` is `last`."""

    journal: str
    first: int
    last: int
    kind: str | None = None
    part: int | None = None


# Parts of streams from before cuts had names have no size.
_MESSAGE_ID = re.compile(r"([^:]+):(\d+)(?:-(\d+):([a-z0-9_]+))?(?:\.(?:\d+\.)?(\d+))?")


def published(message_id: str | None) -> Published | None:
    """The records of a message id; None for one that is not a publisher's."""
    found = _MESSAGE_ID.fullmatch(message_id) if message_id else None
    if found is None:
        return None
    journal, first, last, kind, part = found.groups()
    return Published(journal, int(first), int(last or first), kind, int(part) if part else None)


def last_value_key(feed: str, market: str, shard: str | None = None) -> str:
    """Where the cache keeps what was last seen of a market, by one of several shards or by the only recorder (None).

    With "" as the market: what all of them begin with.
    """
    key = f"ssmd:last:{exact(feed)}:{exact(market)}"
    return key if shard is None else f"{key}:{exact(shard)}"


def writer_key(feed: str, journal: str) -> str:
    """Where whoever keeps those values says how far it is. With "" as the journal: what all of them begin with."""
    return f"ssmd:writer:{exact(feed)}:{exact(journal)}"


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one of a pattern's: `*` is one word, `>` at the end one or more."""
    wanted, words = pattern.split("."), subject.split(".")
    for i, word in enumerate(wanted):
        if word == ">" and i == len(wanted) - 1:
            return len(words) > i
        if i >= len(words) or word not in ("*", words[i]):
            return False
    return len(words) == len(wanted)


def covers(pattern: str, other: str) -> bool:
    """Whether every subject of the pattern `other` is one of `pattern`."""
    wanted, words = pattern.split("."), other.split(".")
    for i, word in enumerate(wanted):
        if word == ">" and i == len(wanted) - 1:
            return len(words) > i
        if i >= len(words) or (words[i] == ">" and i == len(words) - 1):
            return False
        if word not in ("*", words[i]):
            return False
    return len(words) == len(wanted)


def meets(pattern: str, other: str) -> bool:
    """Whether there is a subject that is one of both patterns'."""
    ours, theirs = pattern.split("."), other.split(".")
    for i in range(max(len(ours), len(theirs))):
        mine = ours[i] if i < len(ours) else None
        yours = theirs[i] if i < len(theirs) else None
        if (mine == ">" and yours is not None) or (yours == ">" and mine is not None):
            return True
        if mine is None or yours is None or ("*" not in (mine, yours) and mine != yours):
            return False
    return True


def uncovered(stored: Iterable[str], subjects: Iterable[str]) -> list[str]:
    """Those subjects or patterns that none of the stored patterns covers."""
    patterns = tuple(stored)
    return [subject for subject in subjects if not any(covers(pattern, subject) for pattern in patterns)]
