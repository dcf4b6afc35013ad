"""The command: options to settings, a private folder for the keys, the ready line, signals, the end.

Exit codes: 0 fine, 2 usage. The ready line is one JSON object on standard output; everything else that is
printed there answers a line of standard input (`fault SPEC`, `clear`, `drop`, `stats`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import configargparse
import gevent
import gevent.event
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from gevent.socket import wait_read

from ssmd.errors import EXIT_OK, EXIT_USAGE, UsageError
from ssmd.simulator import keys
from ssmd.simulator.faults import CATALOGUE, FaultError, parse
from ssmd.simulator.ledger import Ledger
from ssmd.simulator.render import Format
from ssmd.simulator.server import WS_PATH, Server
from ssmd.simulator.settings import Settings, read_frames


def parser() -> configargparse.ArgParser:
    """All options; `docs/simulator.md` has the same table."""
    p = configargparse.ArgParser(
        prog="python -m ssmd.simulator",
        description="A Kalshi exchange on loopback: WebSocket and REST, with faults on demand.",
        auto_env_var_prefix="SSMD_SIMULATOR_",
    )
    p.add("--config", is_config_file=True, help="file with options")
    p.add("--port", type=int, default=0, help="port of WebSocket and REST; 0: a free one")
    p.add("--rest-port", type=int, help="another port for REST; 0: a free one; not given: the same port")
    p.add("--markets", type=int, default=20, help="how many markets are listed (1 to 100000)")
    p.add("--rate", type=float, default=1000.0, help="messages a second to a client of all channels; 0: no limit")
    p.add("--seed", type=int, default=1, help="what happens is the same for the same seed")
    p.add("--duration", type=float, default=0.0, help="stop after so many seconds; 0: never")
    p.add("--frames", type=Path, help="serve these frames (JSONL) instead of generated markets")
    p.add("--loop", action="store_true", help="with --frames: again and again")
    p.add("--ledger", type=Path, help="append every text frame sent to this file")
    p.add("--fault", action="append", default=[], metavar="SPEC", help=f"one of: {', '.join(CATALOGUE)}")
    p.add("--tls", action="store_true", help="wss and https, with a certificate made now")
    p.add("--key-type", action="append", choices=["rsa", "ed25519"], help="a key for clients; may repeat")
    p.add("--pkcs8", action="store_true", help="write RSA keys as PKCS#8 (else PKCS#1)")
    p.add("--key-dir", type=Path, help="where keys go; not given: a private folder, removed at the end")
    p.add("--register", action="append", default=[], metavar="ID=PATH", help="a public key (PEM) to accept too")
    p.add("--profile", choices=[each.value for each in Format], default="new", help="format of the messages")
    p.add("--whole", action="store_true", help="whole contracts and whole cents only")
    p.add("--no-lifecycle", action="store_true", help="no markets are created, paused or settled")
    p.add("--no-sending-ts", action="store_true", help="frames without sending_ts_ms")
    p.add("--deflate", action="store_true", help="accept permessage-deflate where the client offers it")
    p.add("--paid", action="store_true", help="allow the paid channels (pyth_value)")
    p.add("--ping-interval", type=float, default=10.0, help="seconds between pings; 0: none")
    p.add("--pong-timeout", type=float, default=30.0, help="close after so many seconds without pong; 0: never")
    p.add("--connection-limit", type=int, default=200, help="further handshakes get 429")
    p.add("--market-limit", type=int, default=500_000, help="market subscriptions a session; beyond: error 26")
    p.add("--buffer-bytes", type=int, default=64 * 1024 * 1024, help="waiting bytes a client; beyond: error 25")
    p.add("--die-with-parent", action="store_true", help="stop when the parent process is gone")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until told to stop; the exit code."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except UsageError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return EXIT_USAGE


def _run(options: configargparse.Namespace) -> int:
    settings = _settings(options)
    ledger = _ledger(options.ledger)
    folder = Path(tempfile.mkdtemp(prefix="ssmd-simulator-"))
    try:
        folder.chmod(0o700)
        ring = keys.KeyRing()
        _register(ring, options.register)
        key_folder = options.key_dir or folder
        key_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        issued = [keys.issue(ring, key_folder, kind, pkcs8=options.pkcs8) for kind in options.key_type or ["rsa"]]
        context, ca_file = _tls(folder) if options.tls else (None, None)
        server = Server(settings, ring, ledger)
        try:
            port = server.listen(options.port, context)
            rest_port = port if options.rest_port is None else server.listen(options.rest_port, context)
        except OSError as error:
            raise UsageError(f"cannot listen: {error}", hint="Use --port 0 for a free port.") from error
        server.start()
        _serve(options, server, _ready(port, rest_port, issued, ca_file))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return EXIT_OK


def _serve(options: configargparse.Namespace, server: Server, ready: dict[str, object]) -> None:
    stop = gevent.event.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    watchers = [gevent.spawn(_obey, server)]
    if options.die_with_parent:
        watchers.append(gevent.spawn(_watch_parent, os.getppid(), stop))
    print(json.dumps(ready), flush=True)
    stop.wait(options.duration or None)
    gevent.killall(watchers)
    server.stop()


def _obey(server: Server) -> None:
    """Standard input, line by line; its end means nothing."""
    waiting = b""
    while True:
        try:
            wait_read(0)
            chunk = os.read(0, 4096)
        except OSError:
            return
        if not chunk:
            return
        *lines, waiting = (waiting + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                print(server.command(line.decode(errors="replace")), flush=True)


def _watch_parent(parent: int, stop: gevent.event.Event) -> None:
    while os.getppid() == parent:
        gevent.sleep(0.2)
    stop.set()


def _settings(options: configargparse.Namespace) -> Settings:
    if not 1 <= options.markets <= 100_000:
        raise UsageError(f"--markets {options.markets}: 1 to 100000 are possible")
    if options.rate < 0:
        raise UsageError(f"--rate {options.rate}: must not be negative", hint="0 means as fast as the socket takes.")
    try:
        for text in options.fault:
            parse(text)
        frames = read_frames(options.frames) if options.frames else None
    except FaultError as error:
        raise UsageError(f"--fault {error}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"--frames {options.frames}: {error}", hint="One JSON value a line is expected.") from error
    return Settings(
        markets=options.markets,
        rate=options.rate,
        seed=options.seed,
        format=Format(options.profile),
        whole=options.whole,
        lifecycle=not options.no_lifecycle,
        sending_ts=not options.no_sending_ts,
        deflate=options.deflate,
        ping_interval_s=options.ping_interval,
        pong_timeout_s=options.pong_timeout,
        connection_limit=options.connection_limit,
        market_limit=options.market_limit,
        buffer_bytes=options.buffer_bytes,
        paid=options.paid,
        frames=frames,
        loop=options.loop,
        faults=tuple(options.fault),
    )


def _ledger(path: Path | None) -> Ledger | None:
    if path is None:
        return None
    try:
        return Ledger(path)
    except OSError as error:
        raise UsageError(f"--ledger {path}: {error}") from error


def _register(ring: keys.KeyRing, wanted: Sequence[str]) -> None:
    for text in wanted:
        key_id, _, path = text.partition("=")
        try:
            ring.register(key_id, keys.public(load_pem_public_key(Path(path).read_bytes())))
        except (OSError, ValueError) as error:
            raise UsageError(f"--register {text}: {error}", hint="ID=PATH of a public key in PEM form.") from error


def _tls(folder: Path) -> tuple[ssl.SSLContext, Path]:
    files = keys.certify(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.chain_file, files.key_file)
    return context, files.ca_file


def _ready(port: int, rest_port: int, issued: Sequence[keys.ClientKey], ca_file: Path | None) -> dict[str, object]:
    s = "s" if ca_file else ""
    ready: dict[str, object] = {
        "ws_url": f"ws{s}://127.0.0.1:{port}{WS_PATH}",
        "rest_url": f"http{s}://127.0.0.1:{rest_port}/trade-api/v2",
        "key_id": issued[0].key_id,
        "private_key_path": str(issued[0].path),
        "keys": [{"key_id": key.key_id, "type": key.kind, "private_key_path": str(key.path)} for key in issued],
    }
    return ready | ({"ca_file": str(ca_file)} if ca_file else {})
