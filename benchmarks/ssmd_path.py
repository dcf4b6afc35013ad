"""ssmd's own path for the benchmark: the real client, decoder, ring and flusher thread, without sign-in helpers around.

Everything between the handshake and the last fsync is what `ssmd run` runs; only the REST look-up, the health server
and the archiver are left out, which do nothing per message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import gevent
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ssmd import host
from ssmd.environment import parse
from ssmd.kalshi import auth, client, handshake, planner
from ssmd.store import Store

_ENVIRONMENT = """
name: bench
feed: kalshi
schema: market_data:v1
exchange: {{simulator: {{}}}}
subscriptions: [{{channels: [orderbook_delta, trade, ticker], markets: [M]}}]
normalizer: {normalizer}
connector: {{reconnect: {{min_ms: 600000, max_s: 3600}}}}
flusher: {{nap_us: {nap_us}, keep_frames: {keep_frames}}}
storage: {{path: "{path}"}}
ring: {{path: "{path}/ring", size_bytes: {ring_bytes}}}
"""


class _Recorder:
    """What a client needs of the connector, and nothing else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.next_connection = store.next_connection
        self.wire = store.wire
        self.ticks = store.ticks
        self.now_ns = time.time_ns

    def record(self, data: bytes) -> int:
        while (number := self._store.push(data)) == 0:
            gevent.sleep(0.001)
        return number

    def count_gap(self, cause: str) -> None:
        pass


def prepare(
    url: str,
    folder: Path,
    *,
    normalizer: str = "c",
    keep_frames: bool = True,
    nap_us: int = 3000,
    ring_bytes: int = 1 << 22,
) -> Callable[[], int]:
    """Opens the journal; the function returned records one connection to its end and gives the messages in files."""
    folder.mkdir(parents=True, exist_ok=True)
    ring = Path(f"/dev/shm/ssmd-bench-{folder.name}")
    text = _ENVIRONMENT.format(
        normalizer=normalizer, nap_us=nap_us, keep_frames=str(keep_frames).lower(), path=folder, ring_bytes=ring_bytes
    ).replace(f"{folder}/ring", f"{ring}.ring")
    environment = parse(text, host.machine(), source="bench", stem="bench")
    store = Store(environment)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    endpoints = handshake.Endpoints(
        url, "", os.environ.get("SSMD_BENCH_CA") or None, None, auth.Credentials("bench", auth.load_key(pem))
    )
    plan = planner.ConnectionPlan({"orderbook_delta": ("M",)})
    recording = client.Client("bench", plan, lambda: endpoints, _Recorder(store), environment)

    def stop_at_end() -> None:
        while recording.state.closes == 0:
            gevent.sleep(0.25)  # seldom: what the harness costs is not ours to pay
        recording.stop()

    def record() -> int:
        gevent.spawn(stop_at_end)
        recording.run()
        frames = int(store.counters()["frames"])
        assert store.close(time.monotonic() + 30), "not everything was written"
        return frames

    return record
