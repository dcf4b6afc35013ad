"""What an etag proves. Pure.

S3's etag of an object that was put by one request is its MD5. Of one that came in parts it is the MD5 of the parts'
MD5s and their count, `{32 hex}-{count}`. Of one part (a large object of ours, after the server's copy of it: see
ssmd.middleware.objectstore) that is the MD5 of the object's MD5, and can be computed from that alone. Services are free
to do otherwise: an etag that does not fit proves nothing, and who wants to know reads the object back.
"""

from __future__ import annotations

import hashlib

from ssmd.middleware.interfaces import ObjectInfo


def proves(info: ObjectInfo, *, size_bytes: int, md5: str) -> bool:
    """Whether size and etag show that the object holds the bytes of this MD5 (hex). False: it cannot be told."""
    if info.size_bytes != size_bytes:
        return False
    return info.etag == (of_one_part(md5) if info.multipart else md5)


def of_one_part(md5: str) -> str:
    """The etag of an object of this MD5 that was put as one part."""
    return hashlib.md5(bytes.fromhex(md5), usedforsecurity=False).hexdigest() + "-1"
