"""Hints in the words of the command line. What is opened by a URL stands in no environment.

The middleware calls what can be mended by its key in an environment (`storage.endpoint`), for that is where programs
have it from. A command that was given a URL has no such keys: it opens and reads inside `by_url`, which puts there what
the user typed or set. A hint that names a key for which there are no words is a fault (tests/test_hints.py looks).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ssmd.errors import SsmdError

Words = Mapping[str, str]  # what a hint says -> what it says to who gave a URL

_NATS: Final = {
    "keys.nats": "NATS_USER and NATS_PASSWORD, NATS_TOKEN, or NATS_CREDS (a file)",
    "transport.stream_max_bytes": "its max_bytes",
    "transport.stream_max_age_hours": "its max_age",
}
_AGAINST_NATS: Final = _NATS | {
    "transport.stream": "the stream in the URL, nats://HOST:PORT/STREAM",
    "transport.subject_prefix": "?prefix= of the URL",
}
TAIL_NATS: Final[Words] = _NATS | {"transport.stream": "--stream", "transport.subject_prefix": "--prefix"}
S3: Final = {
    "keys.s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "keys.s3, or AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
    "keys.s3 (or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
    "storage.bucket": "the bucket in the URL",
    "storage.endpoint": "?endpoint= of the URL, AWS_ENDPOINT_URL",
    "storage.prefix": "the prefix in the URL",
    "storage.region": "?region= of the URL, AWS_REGION",
}
AGAINST: Final[Words] = _AGAINST_NATS | S3


def redis(variable: str) -> Words:
    """Of a Redis whose password is in this variable."""
    return {"cache.url": "--url", "keys.redis": f"the variable {variable} (its password)"}


def reworded(error: SsmdError, words: Words) -> None:
    """Changes the error's hint."""
    if error.hint is not None and words:
        known = "|".join(re.escape(said) for said in sorted(words, key=len, reverse=True))
        error.hint = re.sub(known, lambda found: words[found[0]], error.hint)


@contextmanager
def by_url(words: Words) -> Iterator[None]:
    """Around what opens or reads something that was given by its URL."""
    try:
        yield
    except SsmdError as error:
        reworded(error, words)
        raise
