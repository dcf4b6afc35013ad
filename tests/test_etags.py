"""What an etag proves, by S3's rules written out."""

from __future__ import annotations

import hashlib

import pytest

from ssmd.middleware.etags import of_one_part, proves
from ssmd.middleware.interfaces import ObjectInfo

DATA = b"the content"
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()


def info(etag: str, *, size_bytes: int = len(DATA), multipart: bool = False) -> ObjectInfo:
    return ObjectInfo("key", size_bytes, etag, 0, multipart=multipart)


@pytest.mark.parametrize(
    ("found", "proved"),
    [
        (info(MD5), True),
        (info(MD5, size_bytes=3), False),
        (info("0" * 32), False),
        (info(MD5, multipart=True), False),  # the service's own: it may look like anything
        (info(of_one_part(MD5), multipart=True), True),
        (info(of_one_part(MD5), size_bytes=3, multipart=True), False),
        (info(MD5 + "-1", multipart=True), False),
        (info(of_one_part(MD5)[:-1] + "2", multipart=True), False),
    ],
)
def test_only_size_and_etag_together_prove_the_bytes(found: ObjectInfo, proved: bool) -> None:
    assert proves(found, size_bytes=len(DATA), md5=MD5) is proved


def test_the_etag_of_one_part_is_the_md5_of_the_md5() -> None:
    """What the moto server gives for 12 MiB of twelve bytes of rising value, a MiB each."""
    data = b"".join(bytes([i]) * (1 << 20) for i in range(12))
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert of_one_part(md5) == "9bb3e7e4647af5f6a9ec880ba4726e21-1"
