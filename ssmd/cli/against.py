"""`ssmd verify --against URL`: finds what a URL names, has `ssmd.against` compare it, and prints what came of it.

    nats://host:port/STREAM?prefix=md               what a publisher put into a stream (tls:// likewise)
    s3://bucket/prefix?region=R&endpoint=URL        what an archiver put into a bucket
    file:///folder?prefix=a                         the same in a folder

Credentials never stand in a URL (other users of the machine see it): NATS_USER and NATS_PASSWORD, or NATS_TOKEN, or
NATS_CREDS (a file); AWS_ACCESS_KEY_ID and the other variables of AWS, AWS_ENDPOINT_URL among them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ssmd.against import Outcome, compare
from ssmd.copies import BATCHES, OBJECTS, RECORDS, Objects, Source, Stream, prefixes_of
from ssmd.errors import UsageError
from ssmd.journal.identity import archived_identity, feed_of, identity, known_identity
from ssmd.journal.objects import find_objects
from ssmd.journal.paths import DAY, Segment, State, find
from ssmd.journal.pieces import numbered_in
from ssmd.journal.reader import Reader
from ssmd.journal.recorder import recorder_of
from ssmd.middleware.interfaces import Storage

S = TypeVar("S")

FORMS = {"records": (RECORDS,), "batches": (BATCHES,), "both": (RECORDS, BATCHES)}
EXAMPLES = "such as nats://127.0.0.1:4222/SSMD, s3://bucket/prefix or file:///folder"
CURSOR = "publisher.cursor"  # of a journal's publisher, beside the journal


@dataclass(frozen=True, slots=True)
class GivenJournal:
    """One journal as it was given: by its segments, here or in an archive."""

    root: Path
    identity: str
    feed: str
    segments: Sequence[Segment]

    @property
    def live(self) -> bool:
        """It is being written, or was when its recorder died: what is not everywhere yet may still come."""
        return any(segment.state == State.OPEN for segment in self.segments)

    @property
    def goes_on(self) -> bool:
        """There are later records than those that were given: of a day, or of a file of many."""
        last = self.segments[-1]
        if last.stored is None:
            there = [segment for segment in find([self.root], must_exist=False) if segment.journal == self.root]
        else:
            place = str(last.path).removesuffix(last.stored.key).rstrip("/")
            folder = last.stored.key.rsplit("/", 2 if DAY.match(last.path.parent.name) else 1)[0]
            there = find_objects(last.stored.storage, place, folder)[0]
        return any(segment.first_number > last.first_number for segment in there)

    @property
    def recorded(self) -> bool:
        """A recorder of this machine has it now: that copies are behind is as it should be."""
        return self.live and recorder_of(self.root) != 0

    @property
    def first(self) -> int:
        return next((number for data in self.records() for number, _, _ in numbered_in(data)), 1)

    def records(self) -> Iterator[bytes]:
        """Its records, many in a row, those of the open segment's tail too: they may be published already."""
        for segment in self.segments:
            for batch in Reader([segment]).batches(segment):
                yield bytes(batch.data[batch.start : batch.stop])


def journals_of(segments: Iterable[Segment]) -> list[GivenJournal]:
    """The journals that segments belong to. UsageError for one that has no identity: nothing of it was published."""
    by_journal = groupby(segments, key=lambda segment: segment.journal)
    return [_journal(root, list(members)) for root, members in by_journal]


def _journal(root: Path, segments: Sequence[Segment]) -> GivenJournal:
    """By its `journal.id`; in an archive a journal is called by its folder: {feed}/{identity}/{day}."""
    known = None if segments[0].stored is not None and segments[0].stored.journal is None else known_identity(root)
    return GivenJournal(root, known or archived_identity(root) or identity(root), feed_of(root), segments)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of one journal."""

    journal: GivenJournal
    outcomes: Sequence[Outcome]
    recorded: bool  # was being recorded when it was compared

    @property
    def complete(self) -> bool:
        """All is there, but what may be on its way while the journal is being written."""
        return all(outcome.equal and (self.recorded or not outcome.behind) for outcome in self.outcomes)

    @property
    def behind(self) -> int:
        """Records that one of the copies does not have yet."""
        return max((outcome.behind for outcome in self.outcomes), default=0)

    def as_json(self) -> dict[str, Any]:
        return {
            "journal": self.journal.identity,
            "complete": self.complete,
            "targets": [outcome.as_json() for outcome in self.outcomes],
        }


def compare_all(segments: Iterable[Segment], urls: Sequence[str]) -> list[Comparison]:
    """Compares every journal with everything that the URLs name."""
    places = [Place(url) for url in urls]  # all judged before anything is asked
    comparisons = []
    for journal in journals_of(segments):
        with ExitStack() as opened:
            sources = [place.open(journal, opened) for place in places]
            live = journal.live or journal.goes_on
            recorded = journal.recorded  # before: a recorder that ends meanwhile has its helpers finish
            outcomes = compare(journal.records, sources, first=journal.first, live=live)
            comparisons.append(Comparison(journal, outcomes, recorded))
    return comparisons


# ---- what a URL names ------------------------------------------------------------------------------------------------


class Place:
    """One URL, judged. UsageError says what is wrong with it, and never repeats a password."""

    def __init__(self, url: str) -> None:
        try:
            self._parts = urlsplit(url)
            self._options = dict(
                parse_qsl(self._parts.query, keep_blank_values=True, strict_parsing=bool(self._parts.query))
            )
            _ = self._parts.port
        except ValueError:
            raise UsageError("--against: this is no URL", hint=EXAMPLES) from None
        if self._parts.username is not None or self._parts.password is not None:
            raise UsageError(
                "--against: a URL must hold no user name or password: others see the command line",
                hint="set NATS_USER and NATS_PASSWORD, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        opener = OPENERS.get(self._parts.scheme)
        if opener is None:
            raise UsageError(f"--against {url}: I do not know what this is", hint=EXAMPLES)
        self._opener, allowed = opener
        for name in self._options:
            if name not in allowed:
                raise UsageError(f"--against {url}: unknown option {name}", hint=f"known: {', '.join(allowed)}")
        self.name = url.partition("?")[0]

    def open(self, journal: GivenJournal, opened: ExitStack) -> Source:
        """The source; what it needs is closed with `opened`."""
        return self._opener(self.name, self._parts, self._options, journal, opened)


def _open_stream(
    name: str, parts: SplitResult, options: Mapping[str, str], journal: GivenJournal, opened: ExitStack
) -> Source:
    from ssmd import environment as env
    from ssmd import host
    from ssmd.middleware import factory

    stream = unquote(parts.path).strip("/") or "SSMD"
    prefix = options.get("prefix", "md")
    section = _judged(
        name, env.Transport, type="nats", url=f"{parts.scheme}://{parts.netloc}", stream=stream, subject_prefix=prefix
    )
    variables = {"user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN", "creds": "NATS_CREDS"}
    credentials = {field: os.environ[name] for field, name in variables.items() if os.environ.get(name)}
    if "creds" in credentials:
        credentials["creds"] = host.secret("file:" + credentials["creds"]) or ""
    bus = factory.transport(section, credentials)
    opened.callback(bus.close)
    bus.check()
    cursor = _cursor(journal.root, stream, prefix)
    forms = FORMS.get(options.get("publish") or str(cursor.get("publish", "")), ())
    limit = cursor["number"] if isinstance(cursor.get("number"), int) else None
    return Stream(name, bus, prefix=prefix, journal=journal.identity, limit=limit, forms=forms)


def _cursor(root: Path, stream: str, prefix: str) -> dict[str, Any]:
    """What the journal's publisher says it has published to this stream, {} where it says nothing."""
    try:
        said = json.loads((root / CURSOR).read_bytes())
    except (OSError, ValueError):
        return {}
    ours = isinstance(said, dict) and (said.get("stream"), said.get("prefix")) == (stream, prefix)
    return said if ours else {}


def _open_bucket(
    name: str, parts: SplitResult, options: Mapping[str, str], journal: GivenJournal, opened: ExitStack
) -> Source:
    from ssmd import environment as env
    from ssmd.middleware import factory

    if not parts.netloc:
        raise UsageError(f"--against {name}: which bucket?", hint=EXAMPLES)
    section = _judged(
        name,
        env.Storage,
        type="s3",
        bucket=parts.netloc,
        region=options.get("region"),
        endpoint=options.get("endpoint"),
        prefix=unquote(parts.path).strip("/"),
    )
    storage = factory.storage(section, {})
    opened.callback(storage.close)
    storage.check(writable=False)
    return _objects(name, storage, section.prefix, journal)


def _open_folder(
    name: str, parts: SplitResult, options: Mapping[str, str], journal: GivenJournal, opened: ExitStack
) -> Source:
    from ssmd import environment as env
    from ssmd.middleware import factory

    folder = Path(unquote(parts.path))
    if parts.netloc or not folder.is_absolute():
        raise UsageError(f"--against {name}: write file:// and an absolute path, file:///folder")
    if not folder.is_dir():
        raise UsageError(f"--against {name}: there is no such folder")
    above = _above(folder, journal)
    storage = factory.storage(env.Storage(archive=above), {})
    opened.callback(storage.close)
    below = options.get("prefix", "") or folder.relative_to(above).as_posix().removeprefix(".")
    return _objects(name, storage, below, journal)


def _above(folder: Path, journal: GivenJournal) -> Path:
    """The folder from which the journal's keys count, where this one is that of its feed, its own, or a day's."""
    for place, name in enumerate(folder.parts):
        if name == journal.identity and place > 1:
            return Path(*folder.parts[: place - 1])
    return folder.parent if folder.name == journal.feed and (folder / journal.identity).is_dir() else folder


def _objects(name: str, storage: Storage, below: str, journal: GivenJournal) -> Objects:
    """The journal's objects, at whatever depth of the archive the URL points."""
    try:
        prefixes = prefixes_of(storage, below, journal.feed, journal.identity)
    except UsageError as error:
        raise UsageError(f"--against {name}: {error.args[0]}", hint=error.hint) from None
    if len(prefixes) > 1:
        places = ", ".join(f"'{prefix}'" for prefix in prefixes[:5])
        raise UsageError(
            f"--against {name}: {journal.identity} is there under several prefixes", hint=f"give one of them: {places}"
        )
    prefix = prefixes[0] if prefixes else below
    return Objects(name, storage, prefix=prefix, feed=journal.feed, journal=journal.identity)


def _judged(name: str, section: Callable[..., S], **keys: Any) -> S:
    """A section of an environment, which judges its keys."""
    try:
        return section(**keys)
    except ValueError as error:  # of pydantic: one finding takes two lines
        lines = str(error).splitlines()
        found = f"{lines[1]} {lines[2].strip().partition(' [')[0]}" if len(lines) > 2 else str(error)
        raise UsageError(f"--against {name}: {found}", hint=EXAMPLES) from None


Opener = Callable[[str, SplitResult, Mapping[str, str], GivenJournal, ExitStack], Source]
OPENERS: dict[str, tuple[Opener, tuple[str, ...]]] = {
    "nats": (_open_stream, ("prefix", "publish")),
    "tls": (_open_stream, ("prefix", "publish")),
    "s3": (_open_bucket, ("region", "endpoint")),
    "file": (_open_folder, ("prefix",)),
}


# ---- in words --------------------------------------------------------------------------------------------------------


def lines(comparison: Comparison) -> Iterator[str]:
    """What came of a comparison, for people."""
    for outcome in comparison.outcomes:
        yield f"against  {outcome.target}{f' ({outcome.form})' if outcome.form else ''}: {_sentence(outcome)}"
        for kind, ranges in outcome.ranges.items():
            numbers = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in ranges)
            yield f"  {kind}: {numbers}{' and more' if _named(ranges) < getattr(outcome, kind) else ''}"
        for fault in outcome.faults:
            yield f"  {fault}"
        if outcome.form == OBJECTS and outcome.behind and not (outcome.records or outcome.older or outcome.extra):
            yield f"  nothing of the journal {comparison.journal.identity} is there: is the prefix right?"
        if outcome.behind and not comparison.recorded:
            yield "  nobody records here now: let them finish, python -m ssmd.publisher -e ENV --once, or ssmd.archiver"


def _named(ranges: Sequence[Sequence[int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _sentence(outcome: Outcome) -> str:
    parts = [f"{outcome.records:,} records are the same, once each"]
    for count, words in (
        (outcome.missing, "are missing"),
        (outcome.doubled, "copies too many"),
        (outcome.different, "differ"),
        (outcome.extra, "are not in the journal"),
        (outcome.behind, "are not there yet"),
        (outcome.dropped, "were removed by the stream's own limits"),
        (outcome.older, "are only there: they are older than the first record here"),
    ):
        if count:
            parts.append(f"{count:,} {words}")
    return ", ".join(parts) + (" (counted only: too much differs to name it)" if outcome.counted_only else "")
