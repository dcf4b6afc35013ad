"""`ssmd tail` and `ssmd.tail` as users run them: other processes, a real recorder, a real NATS server.

What must come is read from the segment files by pycapnp alone (tests/recording.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from journal_writer import NOON, Journal
from recording import ROOT, Recorder, environment_file, read_lines, ssmd, wait_until
from servers import NatsServer

from ssmd.api import start_of, tail
from ssmd.errors import SsmdError, UnavailableError, UsageError
from ssmd.journal.identity import make_identity
from ssmd.journal.paths import OPEN
from ssmd.middleware.interfaces import Start
from ssmd.middleware.nats import NatsTransport
from ssmd.publisher import Options, Publisher
from ssmd.publisher.cursor import Target
from ssmd.simulator.process import SimulatorProcess


class Follower:
    """An `ssmd tail` as a process of its own. It never outlives the test."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self._out = out
        with out.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ssmd", "tail", *arguments], cwd=ROOT, stdout=file, stderr=subprocess.PIPE
            )

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Whole lines so far."""
        return [json.loads(line) for line in self._out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    @property
    def numbers(self) -> list[int]:
        return [record["number"] for record in self.records]

    def wait_for(self, number: int) -> None:
        wait_until(lambda: self.numbers[-1:] and self.numbers[-1] >= number, what=f"record {number} in the tail")

    def end(self, how: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and what it said on standard error."""
        self.process.send_signal(how)
        _, told = self.process.communicate(timeout=20)
        return self.process.returncode, told.decode()


def recorded(recorder: Recorder) -> list[int]:
    return [line.number for line in read_lines(recorder.data)]


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with SimulatorProcess("--rate", "800") as running:
        yield running


# ---- from files ------------------------------------------------------------------------------------------------------


def test_a_tail_of_files_over_a_kill_a_restart_and_rotations_gives_every_record_once(
    tmp_path: Path, simulator: SimulatorProcess
) -> None:
    file = environment_file(tmp_path, simulator, flusher__rotate_bytes=65536)
    with (
        Recorder(file, simulator) as recorder,
        Follower(tmp_path / "out", str(recorder.data), "--start", "beginning") as follower,
    ):
        recorder.wait_frames(300)
        recorder.kill()
        recorder.start()
        recorder.wait_frames(300)
        assert recorder.stop() == 0
        recorder.start()
        recorder.wait_frames(300)
        assert recorder.stop() == 0
        numbers = recorded(recorder)
        follower.wait_for(numbers[-1])
        assert follower.numbers == numbers
        assert follower.end() == (0, "")


def test_a_consumer_that_is_killed_and_begins_behind_its_last_record_sees_each_once(
    tmp_path: Path, simulator: SimulatorProcess
) -> None:
    with Recorder(environment_file(tmp_path, simulator), simulator) as recorder:
        recorder.wait_frames(50)
        out = tmp_path / "out"
        for _ in range(4):
            first = (json.loads(out.read_bytes().splitlines()[-1])["number"] + 1) if out.exists() else 1
            with Follower(out, str(recorder.data), "--start", str(first)) as seen:
                seen.wait_for(first + 100)
                seen.end(signal.SIGKILL)
            whole = out.read_bytes()
            out.write_bytes(whole[: whole.rindex(b"\n") + 1])  # a line that was cut by the kill was not consumed
        assert recorder.stop() == 0
        numbers = [json.loads(line)["number"] for line in out.read_bytes().splitlines()]
        assert numbers == recorded(recorder)[: len(numbers)] and len(numbers) > 400


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Ten records of a journal that is being written, three of them tickers."""
    made = Journal(tmp_path / "data" / "kalshi")
    for number in range(1, 11):
        made.ticker("KX-2") if number % 3 == 0 else made.trade(number, "KX-1")
    made.write(OPEN)
    return made


def printed(*arguments: str) -> list[dict[str, Any]]:
    done = ssmd("tail", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("start", "numbers"),
    [
        (["--start", "beginning"], list(range(1, 11))),
        (["--start", "7"], [7, 8, 9, 10]),
        (["--start", str(NOON + 8000)], [8, 9, 10]),
        (["--start", "2026-09-21T14:13:20.000008Z"], [8, 9, 10]),
        ([], []),
    ],
)
def test_a_tail_begins_where_it_is_told_to_and_else_at_the_end(
    journal: Journal, start: list[str], numbers: list[int]
) -> None:
    assert [r["number"] for r in printed(str(journal.root), *start, "--duration", "0.3")] == numbers


def test_a_tail_ends_after_so_many_records(journal: Journal) -> None:
    assert [r["number"] for r in printed(str(journal.root), "--start", "3", "--count", "4")] == [3, 4, 5, 6]


def test_a_tail_gives_the_kinds_and_markets_that_were_asked_for(journal: Journal) -> None:
    begin = (str(journal.root), "--start", "beginning")
    assert [r["number"] for r in printed(*begin, "--kind", "ticker,gap", "--count", "3")] == [3, 6, 9]
    assert [r["number"] for r in printed(*begin, "--market", "KX-2", "--count", "3")] == [3, 6, 9]


def test_a_line_is_that_of_cat_and_the_journal(journal: Journal) -> None:
    identity = make_identity(journal.root)
    (line,) = printed(str(journal.root), "--start", "1", "--count", "1")
    assert line.pop("journal") == identity
    (of_cat,) = [json.loads(text) for text in ssmd("cat", str(journal.root)).stdout.splitlines()[:1]]
    assert line == of_cat


def test_frames_and_records_come_as_cat_prints_them(journal: Journal) -> None:
    for form in ("frame", "capnp"):
        arguments = (str(journal.root), "--format", form)
        assert ssmd("tail", *arguments, "--start", "1", "--count", "10").stdout == ssmd("cat", *arguments).stdout


def test_damage_is_a_line_on_standard_error_and_exit_code_1(journal: Journal) -> None:
    data = bytearray(journal.seal().read_bytes())
    data[300] ^= 1
    next(journal.folder.glob("*.capnp")).write_bytes(data)
    journal.trade(1)
    journal.write(OPEN)
    done = ssmd("tail", str(journal.root), "--start", "beginning", "--count", "1")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1 and b"CRC" in done.stderr
    assert json.loads(done.stdout)["number"] == 11


def environment_of(journal: Journal, *lines: str) -> Path:
    file = journal.root.parent.parent / "of-a-test.yaml"
    file.write_text(
        "name: of-a-test\nfeed: kalshi\nschema: market_data:v1\nexchange: {simulator: {}}\n"
        f"subscriptions: [{{channels: [trade], all: true}}]\nstorage: {{path: {journal.root.parent}}}\n"
        + "\n".join(lines)
    )
    return file


def test_a_journal_is_read_by_topics(journal: Journal) -> None:
    journal.entry("notes.of.mine", b"maintenance", By="me")
    journal.write(OPEN)
    arguments = ("-e", str(environment_of(journal)), "--start", "beginning")
    (note,) = printed(*arguments, "--topic", "notes.>", "--count", "1")
    assert (note["number"], note["payload"], note["headers"]) == (11, "maintenance", {"By": "me"})
    trades = printed(*arguments, "--topic", "trade.*", "--count", "7")
    assert [(entry["number"], entry["topic"]) for entry in trades] == [
        (n, "trade.KX-1") for n in (1, 2, 4, 5, 7, 8, 10)
    ]
    assert trades[0]["record"]["price_e4"] == 4700
    assert printed(*arguments, "--topics") == [
        {"topic": "notes.of.mine", "entries": 1},
        {"topic": "ticker.KX-2", "entries": 3},
        {"topic": "trade.KX-1", "entries": 7},
    ]


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "whose records?"),
        (["--from", "nats", "data"], "which bus?"),
        (["data", "--start", "yesterday"], "beginning, end"),
        (["data", "--kind", "nothing"], "known:"),
        (["data", "--kind", "checkpoint"], "known:"),
        (["data", "--count", "0"], "more than 0"),
        (["--url", "http://127.0.0.1:1"], "no NATS server"),
        (["s3://bucket/prefix"], "an archive is not followed\n  use ssmd cat"),
        (["--url", "nats://a:secret@127.0.0.1:1"], "NATS_USER"),
        (["--url", "nats://127.0.0.1:1", "--stream", "a b"], "stream"),
        (["-e", "kalshi-local", "--from", "nats"], "transport.type is memory"),
        (["-e", "no-such-environment"], "no-such-environment"),
        (["--topics"], "of an environment"),
        (["-e", "kalshi-local", "--topic", "a", "--kind", "trade"], "--kind"),
        (["-e", "kalshi-local", "--topics", "--set", "journal.type=memory"], "memory"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(arguments: Sequence[str], said: str) -> None:
    done = ssmd("tail", *arguments)
    told = done.stderr.decode()
    assert done.returncode == 2, told
    assert said in told and "Traceback" not in told and "secret" not in told


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ("beginning", Start.beginning()),
        ("end", Start.end()),
        (17, Start.number(17)),
        ("17", Start.number(17)),
        ("12345678901", Start.number(12345678901)),
        (str(NOON), Start.time(NOON)),
        ("2026-09-21T14:13:20Z", Start.time(NOON)),
        (Start.number(5), Start.number(5)),
    ],
)
def test_a_start_is_said_in_several_ways(given: Any, start: Start) -> None:
    assert start_of(given) == start


@pytest.mark.parametrize("given", ["", "-1", "now", "1.5", "٣"])
def test_what_is_no_start_is_refused(given: str) -> None:
    with pytest.raises(UsageError):
        start_of(given)


# ---- from Python -----------------------------------------------------------------------------------------------------


def script(text: str, *arguments: str, **options: Any) -> str:
    """What a Python script prints, run with nothing but ssmd importable."""
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_five_lines_of_python_are_a_consumer(journal: Journal) -> None:
    told = script(
        """\
import sys
import ssmd
for record in ssmd.tail(sys.argv[1], start="beginning", kinds=["trade"]):
    print(record.number, record.market, record.read().body.trade.priceE4)
    if record.number == 10: break
""",
        str(journal.root),
    )
    assert told.splitlines() == [f"{n} KX-1 4700" for n in (1, 2, 4, 5, 7, 8, 10)]


def test_importing_ssmd_brings_nothing_along() -> None:
    heavy = "capnp pydantic yaml nats ssmd.api ssmd.consumer".split()
    told = script(f"import sys, ssmd; print([name for name in {heavy} if name in sys.modules], 'tail' in dir(ssmd))")
    assert told.strip() == "[] True"


def test_type_checkers_are_told_what_ssmd_offers() -> None:
    import ssmd as package

    stub = (ROOT / "ssmd" / "__init__.pyi").read_text()
    for name in package._OFFERED:
        assert f"from ssmd.api import {name} as {name}" in stub
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        package.nothing_of_this_name  # noqa: B018


# ---- from NATS -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


def on_nats(folder: Path, simulator: SimulatorProcess, nats: NatsServer, **changes: Any) -> Path:
    bus = {"transport__type": "nats", "transport__url": nats.url}
    return environment_file(folder, simulator, **bus, **changes)


@pytest.mark.parametrize("publish", ["records", "batches"])
def test_a_stream_gives_what_the_journal_holds_and_goes_on_over_a_restart_of_the_server(
    tmp_path: Path, simulator: SimulatorProcess, nats: NatsServer, publish: str
) -> None:
    file = on_nats(tmp_path, simulator, nats, transport__publish=publish)
    with Recorder(file, simulator) as recorder:
        recorder.wait_frames(200)
        wait_until(lambda: recorder.metric("ssmd_published_number") or stream_is_there(nats), what="a stream")
        with Follower(tmp_path / "out", "--url", nats.url, "--start", "beginning") as follower:
            follower.wait_for(100)
            nats.kill()
            recorder.wait_frames(500)
            nats.start()
            assert recorder.stop() == 0
            numbers = recorded(recorder)
            publish_all(file, simulator)
            follower.wait_for(numbers[-1])
            assert follower.numbers == numbers
            code, told = follower.end()
    assert code == 0, told  # the server was away; nothing was missing


def stream_is_there(nats: NatsServer) -> bool:
    return "error" not in nats.api("STREAM.INFO.SSMD")


def publish_all(environment: Path, simulator: SimulatorProcess) -> None:
    """What the recorder's own publisher had no time for."""
    done = subprocess.run(
        [sys.executable, "-m", "ssmd.publisher", "-e", str(environment), "--once"],
        cwd=ROOT, capture_output=True, timeout=60, env={**os.environ, "KALSHI_API_KEY": simulator.key_id},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("publish", ["records", "batches"])
def test_files_lead_into_a_stream_that_kept_only_the_newest_messages(
    tmp_path: Path, simulator: SimulatorProcess, nats: NatsServer, publish: str
) -> None:
    file = on_nats(
        tmp_path, simulator, nats, transport__publish=publish, transport__stream_max_bytes=100_000,
        flusher__rotate_bytes=65536,
    )  # fmt: skip
    with Recorder(file, simulator) as recorder:
        recorder.wait_frames(800)
        wait_until(lambda: stream_is_there(nats), what="a stream")
        with Follower(tmp_path / "out", "-e", str(file), "--from", "nats", "--start", "beginning") as follower:
            recorder.wait_frames(1500)
            assert recorder.stop() == 0
            numbers = recorded(recorder)
            publish_all(file, simulator)
            follower.wait_for(numbers[-1])
            assert follower.numbers == numbers
            assert follower.end() == (0, "")
        topics = printed("-e", str(file), "--set", "journal.type=nats", "--topics")
        assert sum(topic["entries"] for topic in topics) > 1
        # The stream alone has the newest records only, and says so.
        done = ssmd("tail", "--url", nats.url, "--start", "1", "--journal", journal_of(recorder), "--count", "1")
        assert done.returncode == 1 and b"are missing" in done.stderr
        assert json.loads(done.stdout)["number"] > numbers[len(numbers) // 2]


def journal_of(recorder: Recorder) -> str:
    return (recorder.data / "kalshi" / "journal.id").read_text().strip()


def test_two_shards_on_one_stream_are_told_apart(tmp_path: Path, simulator: SimulatorProcess, nats: NatsServer) -> None:
    shards = []
    for index in range(2):
        (tmp_path / str(index)).mkdir()
        file = on_nats(
            tmp_path / str(index), simulator, nats, channels=["orderbook_delta"], shard__index=index, shard__count=2,
            ring__path=str(tmp_path / str(index) / "ring"),
        )  # fmt: skip
        shards.append(Recorder(file, simulator))
    with shards[0], shards[1]:
        for one in shards:
            one.wait_frames(50)
            assert one.stop() == 0
            publish_all(one.environment, simulator)
        both = tail(url=nats.url, start="beginning")
        found = list(iter(lambda: both.next(1.0), None))
        both.close()
        for one in shards:
            assert [r.number for r in found if r.journal == journal_of(one)] == recorded(one)
        count = len(recorded(shards[1]))
        only = printed(
            "--url", nats.url, "--start", "beginning", "--journal", journal_of(shards[1]), "--count", str(count)
        )
        assert [r["number"] for r in only] == recorded(shards[1])


def test_a_stream_that_is_not_there_yet_is_waited_for_and_told_once(nats: NatsServer) -> None:
    done = ssmd("tail", "--url", nats.url, "--stream", "NOTHING", "--duration", "1.5")
    assert done.returncode == 0
    told = done.stderr.decode().splitlines()
    assert len(told) == 1
    assert "stream NOTHING: there is none: trying again" in told[0] and "correct --stream" in told[0]


@pytest.mark.parametrize("start", ["end", "beginning", "1"])
def test_what_comes_into_a_stream_that_was_made_after_the_tail_is_given_from_its_first_record(
    tmp_path: Path, nats: NatsServer, start: str
) -> None:
    journal = Journal(tmp_path / "kalshi")
    identity = make_identity_in(journal.root)
    told: list[SsmdError] = []
    with tail(url=nats.url, start=start, journal=identity, on_trouble=told.append) as records:
        assert records.next(0.5) is None
        for number in range(1, 6):
            journal.trade(number)
        journal.seal()
        bus = NatsTransport(nats.url, stream="SSMD")
        target = Target(identity, nats.url, "SSMD", "md", "batches")
        made = Publisher(journal.root, bus, target, Options("md", "batches"))
        while made.step(time.monotonic()) == 0:
            pass
        found = [records.next(20.0) for _ in range(5)]
        bus.close()
    assert [record.number for record in found if record is not None] == [1, 2, 3, 4, 5]
    assert [type(one) for one in told] == [UnavailableError]


def make_identity_in(root: Path) -> str:
    root.mkdir(parents=True)
    return make_identity(root)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ([], "ssmd tail: waiting for new records; --start beginning shows the old ones"),
        (["--start", "11"], "ssmd tail: waiting for new records"),
        (["--start", "beginning"], ""),
    ],
)
def test_a_person_at_a_terminal_is_told_what_is_waited_for(journal: Journal, start: list[str], told: str) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "ssmd", "tail", str(journal.root), "--duration", "0.5", *start]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs, timeout=60)
    os.write(theirs, b"\n")  # nothing to read would be waited for
    os.close(theirs)
    assert (done.returncode, os.read(ours, 4096).decode().strip()) == (0, told)
    os.close(ours)


def test_a_bus_that_is_away_is_told_with_its_address_and_that_it_is_tried_again() -> None:
    done = ssmd("tail", "--url", "nats://127.0.0.1:1", "--duration", "1")
    assert done.returncode == 0
    assert b"127.0.0.1:1" in done.stderr and b"trying again" in done.stderr
