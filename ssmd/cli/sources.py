"""What the paths of `ssmd cat`, `ssmd verify` and `ssmd last --data` name: files, folders, globs, and archives by URL.

    s3://bucket/prefix?region=R&endpoint=URL     what an archiver put into a bucket, or one object of it
    file:///folder                               the same as /folder

Credentials never stand in a URL: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the other variables of AWS, AWS_REGION
and AWS_ENDPOINT_URL among them. A journal that is given both by its folder and by its archive is read as one: a segment
that is in both is read here. Imported only where a URL is given: it brings the object store's library.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ssmd import environment as env
from ssmd.errors import UsageError
from ssmd.journal.objects import beside_local, find_objects
from ssmd.journal.paths import Segment, find, in_order, is_url
from ssmd.journal.strays import Stray, strays
from ssmd.middleware import factory

EXAMPLES = "write s3://bucket/prefix?region=R&endpoint=URL (the last two may be left out), or file:///folder"
OPTIONS = ("region", "endpoint")


def located(paths: Sequence[str]) -> tuple[list[Segment], list[Stray]]:
    """Segments under paths and URLs, in the order of their records, and what lies astray there."""
    urls = [(path, _parsed(path)) for path in paths if is_url(path)]
    local = [path for path in paths if not is_url(path)]
    local += [_local_path(url, parts) for url, parts in urls if parts.scheme == "file"]
    segments, astray = find(local), strays(local)
    roots = {segment.journal for segment in segments}
    for url, parts in urls:
        if parts.scheme == "s3":
            objects, lost = _in_bucket(url, parts)
            segments += beside_local(objects, roots)
            astray += lost
    return in_order(segments), astray


def _parsed(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError("this is no URL", hint=EXAMPLES) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "a URL must hold no user name or password: others see the command line",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if parts.scheme not in ("s3", "file"):
        raise UsageError(f"{url}: I do not know what this is", hint=EXAMPLES)
    return parts


def _local_path(url: str, parts: SplitResult) -> str:
    if parts.netloc or not parts.path.startswith("/"):
        raise UsageError(f"{url}: write file:// and an absolute path, file:///folder")
    return unquote(parts.path)


def _in_bucket(url: str, parts: SplitResult) -> tuple[list[Segment], list[Stray]]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise UsageError(f"{url}: unknown option {name}", hint=f"known: {', '.join(OPTIONS)}")
    if not parts.netloc:
        raise UsageError(f"{url}: which bucket?", hint=EXAMPLES)
    prefix = unquote(parts.path).strip("/")
    try:
        section = env.Storage(
            type="s3",
            bucket=parts.netloc,
            prefix=prefix,
            region=options.get("region"),
            endpoint=options.get("endpoint"),
        )
    except ValueError as error:  # of pydantic, one finding a line
        raise UsageError(f"{url}: {str(error).splitlines()[2].strip()}", hint=EXAMPLES) from None
    storage = factory.storage(section, {})
    storage.check(writable=False)
    found = find_objects(storage, f"s3://{parts.netloc}", prefix)
    if not any(found):
        raise UsageError(
            f"no segments under s3://{parts.netloc}/{prefix}", hint="an archive's objects end in .capnp.zst"
        )
    return found
