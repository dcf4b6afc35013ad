"""Socket to file: ssmd and its peers, interleaved in one run, CPU of all threads per message.

    python benchmarks/path.py [--messages N] [--rounds N] [--rate R] [--tls] [--peers a,b,c]

The server runs on one core, the client on the other. Each round runs every program once, in turn, so that a machine
that wanders does so for all; medians over the rounds are compared. `--rate 0` keeps the socket full, else frames are
paced.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import multiprocessing
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import feed

HERE = Path(__file__).resolve().parent
FULL = ("floor", "ssmd", "picows", "picows+orjson", "aiohttp+orjson", "websockets+json", "websocket-client+ujson")


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, made now."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
    certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return certificate_path, key_path


def build_floor() -> None:
    target = HERE.parent / "build" / "libfloor.so"
    target.parent.mkdir(exist_ok=True)
    command = ["cc", "-O3", "-shared", "-fPIC", "-o", str(target), str(HERE / "floor.c")]
    subprocess.run(command, check=True)


def serve(
    port: multiprocessing.Queue[int], count: int, rate: float, tls: tuple[Path, Path] | None, rounds: int
) -> None:
    """A process body: says its port, then sends `count` frames to each of `rounds` clients."""
    os.sched_setaffinity(0, {0})
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    messages = [feed.websocket_frame(payload) for payload in feed.frames(count)]  # before anybody waits for an answer
    listener = socket.create_server(("127.0.0.1", 0))
    port.put(listener.getsockname()[1])
    feed.serve(listener, messages, rate, context, rounds)


def run(peers: list[str], *, count: int, rounds: int, rate: float, tls: bool) -> dict[str, list[dict[str, float]]]:
    """Results per peer, one for each round."""
    results: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as folder:
        pair = certificate(Path(folder)) if tls else None
        port: multiprocessing.Queue[int] = multiprocessing.Queue()
        server = multiprocessing.Process(target=serve, args=(port, count, rate, pair, rounds * len(peers)), daemon=True)
        server.start()
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port.get(timeout=120)}/trade-api/ws/v2"
        environment = {**os.environ, "SSMD_BENCH_CA": str(pair[0]) if pair else ""}
        for number in range(rounds):
            for peer in peers:
                output = Path(folder) / f"{peer}-{number}"
                command = [sys.executable, str(HERE / "peers.py"), peer, url, str(output)]
                pinned = ["taskset", "-c", "1", *command] if shutil.which("taskset") else command
                done = subprocess.run(pinned, capture_output=True, text=True, check=False, env=environment)
                if done.returncode != 0:
                    raise SystemExit(f"{peer} failed:\n{done.stderr}")
                result = json.loads(done.stdout.splitlines()[-1])
                assert result["messages"] == count, f"{peer} kept {result['messages']} of {count} messages"
                results[peer].append(result)
                shutil.rmtree(output, ignore_errors=True)
                output.unlink(missing_ok=True) if output.is_file() else None
        server.kill()
    return results


def ratios(results: dict[str, list[dict[str, float]]], peer: str, against: str) -> list[float]:
    """CPU of one program against another's, round by round: what disturbs the machine disturbs both."""
    return [a["cpu_s"] / b["cpu_s"] for a, b in zip(results[peer], results[against], strict=True)]


def report(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Markdown rows: CPU a message (median, min, max), messages a second of one core, ssmd's CPU against this one's."""
    cpu = {p: [r["cpu_s"] / r["messages"] * 1e6 for r in rows] for p, rows in results.items()}
    lines = [
        "| program | CPU µs a message (min - max) | messages/s | ssmd needs of it (min - max) |",
        "|---|---|---|---|",
    ]
    for peer, values in cpu.items():
        middle = statistics.median(values)
        speed = statistics.median([r["messages"] / r["wall_s"] for r in results[peer]])
        taken = ratios(results, "ssmd", peer) if "ssmd" in results else [1.0]
        needs = f"{statistics.median(taken):.3f} ({min(taken):.3f} - {max(taken):.3f})"
        lines.append(f"| {peer} | {middle:.2f} ({min(values):.2f} - {max(values):.2f}) | {speed:,.0f} | {needs} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--peers", default=",".join(FULL))
    options = parser.parse_args()
    build_floor()
    peers = [peer for peer in options.peers.split(",") if not (options.tls and peer == "floor")]
    print(
        "\n".join(report(run(peers, count=options.messages, rounds=options.rounds, rate=options.rate, tls=options.tls)))
    )


if __name__ == "__main__":
    main()
