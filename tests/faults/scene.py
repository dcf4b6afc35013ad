"""One recorder and one simulated exchange, brought into trouble on purpose: what every test of this folder shares.

The tests hold three accounts of the same minutes against each other: the journal (read with pycapnp alone), the
simulator's ledger of what it sent, and what `ssmd verify` says. Books are rebuilt here from the journal's records in
a few lines of their own and compared with the simulator's REST side. Nothing waits for a time to pass: everything is
polled for, with a generous deadline.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recording import (
    DATA_KINDS,
    Line,
    Recorder,
    assert_numbers_have_no_hole,
    environment_file,
    events,
    gaps,
    line_of,
    markets,
    read_lines,
    records_of,
    segment_bytes,
    segment_files,
    verify,
    wait_until,
)

from ssmd.simulator.process import SimulatorProcess

MARKETS, RATE = 6, 300
BOOKS = "orderbook_delta"
BOTH_SIDES = tuple[dict[int, int], dict[int, int]]  # bids, asks: price in 1e-4 dollars -> count in 1e-2 contracts


@contextmanager
def scene(
    folder: Path,
    *simulator: str,
    channels: Sequence[str] = (BOOKS, "trade", "ticker", "market_lifecycle_v2"),
    live: bool = True,
    **environment: Any,
) -> Iterator[Scene]:
    """A recorder of a simulated exchange. `simulator` are options of it, `environment` as in `environment_file`."""
    options = [] if "--frames" in simulator else ["--markets", str(MARKETS), "--rate", str(RATE)]
    with SimulatorProcess(*options, *simulator) as exchange:
        file = environment_file(folder, exchange, channels=channels, **environment)
        with Recorder(file, exchange) as recorder:
            made = Scene(exchange, recorder, channels, markets(exchange) if BOOKS in channels else [])
            if live:
                recorder.wait_live()
            yield made


@dataclass
class _Seen:
    """What was read of a segment so far, and up to where."""

    lines: list[Line] = field(default_factory=list)
    end: int = 0


@dataclass
class Scene:
    exchange: SimulatorProcess
    recorder: Recorder
    channels: Sequence[str]
    tickers: list[str]
    lines: list[Line] = field(default_factory=list)  # of the whole journal, after `finish`
    report: dict[str, Any] = field(default_factory=dict)  # of `ssmd verify --json`, after `finish`
    _seen: dict[str, _Seen] = field(default_factory=dict)  # by segment
    _sent: dict[int, list[bytes]] = field(default_factory=dict)  # by the simulator's number of the socket
    _theirs: list[int] = field(default_factory=list)  # the simulator's numbers, in the order of our sockets
    _happened: list[dict[str, Any]] = field(default_factory=list)

    # ---- while it runs --------------------------------------------------------------------------------------

    def fault(self, spec: str) -> None:
        """Strikes now."""
        self.exchange.fault(spec)

    def now(self) -> list[Line]:
        """The journal as far as it is written."""
        for path in segment_files(self.recorder.data):
            stem = path.name.partition(".")[0]
            try:
                content = segment_bytes(path)
            except FileNotFoundError:  # sealed or compressed since it was listed: next time
                break
            seen = self._seen.setdefault(stem, _Seen())
            for record, end in records_of(content, path.name, seen.end):
                seen.end = end
                if (line := line_of(record)) is not None:
                    seen.lines.append(line)
        return [line for seen in self._seen.values() for line in seen.lines]

    def wait(self, find: Callable[[list[Line]], Any], what: str) -> Any:
        """Polls the journal until `find` gives something true."""
        return wait_until(lambda: find(self.now()) or self.recorder.fail_if_dead(), what=what)

    def wait_more(self, frames: int = 200) -> None:
        """Recording goes on: so many frames more than now."""
        self.recorder.wait_frames(int(self.recorder.metric("ssmd_frames_received_total")) + frames)

    def wait_gap(self, cause: str) -> Line:
        found: list[Line] = self.wait(lambda lines: gaps(lines, cause), f"a gap of cause {cause}")
        return found[0]

    def wait_resynced(self, gap: Line) -> Line:
        """The event that ends a gap: it names the gap's number."""
        event: Line = self.wait(lambda lines: resynced(lines, gap), f"the end of {gap}")
        return event

    # ---- at the end -----------------------------------------------------------------------------------------

    def finish(self, *, books_from: int = 0, more: int = 200) -> None:
        """Recording goes on, books are right, the recorder ends in order; then journal, ledger and verify agree.

        `books_from`: books are compared as they are from that record number on. `more`: frames to wait for first.
        """
        self.wait_more(more)
        if self.tickers:
            self._books_agree(books_from)
        assert self.recorder.stop() == 0, self.recorder.log
        self.account()

    def account(self) -> None:
        """Journal, ledger and `ssmd verify` tell the same."""
        self.exchange.stop()
        self._read_ledger()
        self.lines = read_lines(self.recorder.data)
        assert_numbers_have_no_hole(self.lines)
        self._journal_is_ledger()
        self._holes_are_gaps()
        code, self.report = verify(self.recorder.data)
        self._verify_agrees(code)

    def sent(self, connection: int = 1) -> list[bytes]:
        """The frames that the simulator wrote to our `connection`-th socket (after `finish`)."""
        return self._sent.get(self._theirs[connection - 1], [])

    def received(self, connection: int = 1) -> list[Line]:
        """The records of the frames that came on the `connection`-th socket (after `finish`)."""
        return frames_of(self.lines, self._numbers()[connection - 1])

    def happened(self, event: str) -> list[dict[str, Any]]:
        """What else the ledger tells (after `finish`)."""
        return [entry for entry in self._happened if entry["event"] == event]

    def struck(self, name: str) -> list[dict[str, Any]]:
        """What the ledger says about a fault that was carried out (after `finish`)."""
        return [entry for entry in self.happened("fault") if entry["name"] == name]

    # ---- the accounts ---------------------------------------------------------------------------------------

    def _numbers(self) -> list[int]:
        return [line.connection for line in events(self.lines, "opened")]

    def _read_ledger(self) -> None:
        for row in self.exchange.ledger_path.read_bytes().split(b"\n")[:-1]:
            entry = json.loads(row)
            if "text" in entry:
                self._sent.setdefault(entry["connection"], []).append(entry["text"].encode())
            else:
                self._happened.append(entry)

    def _journal_is_ledger(self) -> None:
        """Per socket, the journal holds the first frames that were sent on it, each once, byte for byte, in order."""
        free = [entry["connection"] for entry in self.happened("opened")]
        for connection in self._numbers():
            received = [line.frame for line in frames_of(self.lines, connection)]
            same = [number for number in free if self._sent.get(number, [])[: len(received)] == received]
            assert same, f"connection {connection}: its frames are not what was sent on any socket"
            self._theirs.append(same[0])
            free.remove(same[0])

    def _holes_are_gaps(self) -> None:
        """Each hole in the numbers of the frames received is one Gap record, right before its successor, with times."""
        expected = []
        for number in self._numbers():
            expected += holes(frames_of(self.lines, number))
        found = [
            (g.number, g.connection, g.sid, g.body["fromSeq"], g.body["toSeq"], g.body["fromNs"], g.body["toNs"])
            for g in gaps(self.lines, "sequence")
        ]
        assert found == sorted(expected)

    def _verify_agrees(self, code: int) -> None:
        """`ssmd verify` lists exactly the Gap records that are there, and the numbers that are missing on each sid."""
        listed = [
            (g["number"], g["cause"].replace("_", "").lower(), g["connection"], g["sid"], g["from_seq"], g["to_seq"])
            for g in self.report["gaps"]
        ]
        recorded = [
            (g.number, g.body["cause"].lower(), g.connection, g.sid, g.body["fromSeq"], g.body["toSeq"])
            for g in gaps(self.lines)
        ]
        assert listed == recorded
        for entry in self.report["gaps"]:
            ends = [e.number for e in events(self.lines, "resynced") if e.body["gapNumber"] == entry["number"]]
            assert len(ends) <= 1, "a gap ends once"
            assert not ends or entry["resolved_by"] == ends[0]
        missing = {
            (each["id"], int(sid)): [tuple(hole) for hole in entry["missing"]]
            for each in self.report["connections"]
            for sid, entry in each["by_sid"].items()
            if entry["missing"]
        }
        expected: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for gap in gaps(self.lines, "sequence"):
            expected.setdefault((gap.connection, gap.sid), []).append((gap.body["fromSeq"], gap.body["toSeq"]))
        assert missing == expected
        assert self.report["complete"] == (code == 0) == (not recorded and not self.report["damage"])
        blind = [entry["channel"] for entry in self.report["blind"]]
        assert blind == (["ticker"] if "ticker" in self.channels and self._sent else [])

    def _books_agree(self, since: int) -> None:
        """Every book, as REST shows it at one instant, is one that the records give at some moment after `since`.

        REST is asked when the journal has reached `since`; the instant that it shows is in the journal too as soon as
        the frames that are under way have arrived.
        """
        since = max(since, self.now()[-1].number)
        wanted = self.rest_books()
        self.wait(lambda lines: set(wanted) <= reached(lines, wanted, since), "books as the exchange's REST side has")

    def rest_books(self) -> dict[str, BOTH_SIDES]:
        """All books at one instant, on the YES scale."""
        query = "&".join(f"tickers={ticker}" for ticker in self.tickers)
        with urllib.request.urlopen(f"{self.exchange.rest_url}/markets/orderbooks?{query}") as reply:
            rows = json.load(reply)["orderbooks"]
        books = {}
        for row in rows:
            yes, no = (dict(map(units, row["orderbook_fp"][f"{side}_dollars"])) for side in ("yes", "no"))
            books[row["ticker"]] = (yes, {10_000 - price: count for price, count in no.items()})
        assert set(books) == set(self.tickers)
        return books


def units(level: list[str]) -> tuple[int, int]:
    """A level of a REST book: "0.4700", "12.00" is 4700 and 1200."""
    return int(level[0].replace(".", "")), int(level[1].replace(".", ""))


# ---- reading a journal ----------------------------------------------------------------------------------------------


def frames_of(lines: Sequence[Line], connection: int) -> list[Line]:
    return [line for line in lines if line.kind in DATA_KINDS and line.frame and line.connection == connection]


def resynced(lines: Sequence[Line], gap: Line) -> Line | None:
    return next((line for line in events(lines, "resynced") if line.body["gapNumber"] == gap.number), None)


def logged(scene: Scene, words: str) -> int:
    """How many lines of the recorder's log have these words."""
    return sum(words in line for line in scene.recorder.log.splitlines())


def holes(received: Sequence[Line]) -> list[tuple[int, int, int, int, int, int, int]]:
    """From the frames' own bytes: (number of the Gap record to be, connection, sid, from, to, before ns, after ns)."""
    expected: dict[int, int] = {}
    last_ns: dict[int, int] = {}
    found = []
    for line in received:
        try:
            frame = json.loads(line.frame)
        except ValueError:
            continue
        sid, seq = frame.get("sid", 0), frame.get("seq", 0)
        if not sid or not seq:
            continue
        if seq > (first := expected.get(sid, 1)):
            found.append((line.number - 1, line.connection, sid, first, seq - 1, last_ns.get(sid, 0), line.recv_ns))
        expected[sid] = max(expected.get(sid, 1), seq + 1)
        last_ns[sid] = line.recv_ns
    return found


class Books:
    """All books of a journal. A snapshot replaces, a delta adds; a number that does not rise says nothing new."""

    def __init__(self) -> None:
        self.books: dict[str, BOTH_SIDES] = {}
        self.below_zero: list[int] = []  # record numbers
        self.without_snapshot: list[int] = []
        self._highest: dict[tuple[int, int], int] = {}

    def add(self, line: Line) -> None:
        if line.seq <= self._highest.get((line.connection, line.sid), 0):
            return
        self._highest[line.connection, line.sid] = line.seq
        if line.kind != "book":
            return
        body = line.body
        if body["kind"] == "snapshot":
            self.books[body["market"]] = (levels(body.get("bids", [])), levels(body.get("asks", [])))
        elif body["market"] not in self.books:
            self.without_snapshot.append(line.number)
        else:
            side = self.books[body["market"]][body["side"] == "ask"]
            left = side.pop(body["priceE4"], 0) + body["deltaE2"]
            if left > 0:
                side[body["priceE4"]] = left
            elif left < 0:
                self.below_zero.append(line.number)


def levels(rows: Sequence[dict[str, int]]) -> dict[int, int]:
    return {row["priceE4"]: row["countE2"] for row in rows}


def reached(lines: Sequence[Line], wanted: dict[str, BOTH_SIDES], since: int) -> set[str]:
    """The markets whose book was as wanted at record `since` or at some moment after it."""
    replay, found = Books(), set()
    for line in lines:
        replay.add(line)
        if line.number == since:
            found |= {market for market, book in wanted.items() if replay.books.get(market) == book}
        elif line.number > since and line.kind == "book":
            market = line.body["market"]
            if market in wanted and replay.books.get(market) == wanted[market]:
                found.add(market)
    return found


def fresh_snapshots(lines: Sequence[Line], after: int, before: int) -> set[str]:
    """Markets that had a snapshot between two records."""
    return {
        line.body["market"]
        for line in lines
        if line.kind == "book" and line.body["kind"] == "snapshot" and after < line.number < before
    }
