"""The programs ssmd is measured beside, each as its users write it: read every message, keep it in a file.

Each function records one connection until it closes and returns how many messages it kept. Run as a child process:
`python benchmarks/peers.py NAME URL FILE` prints one JSON line with messages, CPU seconds of all threads and wall
seconds, both counted from after the imports. `floor` is the bare C loop of floor.c: receive, walk frames, stamp, write.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def _tls(url: str) -> ssl.SSLContext | None:
    if not url.startswith("wss:"):
        return None
    context = ssl.create_default_context()
    context.check_hostname = False  # the benchmark's own certificate; ssmd itself checks (its path cannot do otherwise)
    context.verify_mode = ssl.CERT_NONE
    return context


def picows_bytes(url: str, path: str) -> Callable[[], int]:
    """picows, no parsing: stamp and bytes into a buffered file."""
    import picows

    class Listener(picows.WSListener):  # type: ignore[misc]
        def __init__(self) -> None:
            self.count = 0
            self.file = open(path, "wb", buffering=1 << 18)

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.TEXT:
                self.file.write(time.time_ns().to_bytes(8, "little"))
                self.file.write(frame.get_payload_as_bytes())
                self.count += 1
            elif frame.msg_type == picows.WSMsgType.CLOSE:
                transport.disconnect()

    return lambda: _run_picows(picows, Listener, url)


def picows_orjson(url: str, path: str) -> Callable[[], int]:
    """picows and orjson: parsed, stamp and bytes into a buffered file."""
    import orjson
    import picows

    class Listener(picows.WSListener):  # type: ignore[misc]
        def __init__(self) -> None:
            self.count = 0
            self.file = open(path, "wb", buffering=1 << 18)

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.TEXT:
                payload = frame.get_payload_as_bytes()
                message = orjson.loads(payload)
                if message["type"]:
                    self.file.write(time.time_ns().to_bytes(8, "little"))
                    self.file.write(payload)
                    self.count += 1
            elif frame.msg_type == picows.WSMsgType.CLOSE:
                transport.disconnect()

    return lambda: _run_picows(picows, Listener, url)


def _run_picows(picows: Any, listener_class: Any, url: str) -> int:
    async def record() -> int:
        transport, listener = await picows.ws_connect(listener_class, url, ssl_context=_tls(url))
        await transport.wait_disconnected()
        listener.file.close()
        return int(listener.count)

    return asyncio.run(record())


def websockets_json(url: str, path: str) -> Callable[[], int]:
    """websockets and the standard json: the script that everybody writes."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async def record() -> int:
        count = 0
        async with connect(url, max_size=None, compression=None, ssl=_tls(url)) as connection:
            with open(path, "w", buffering=1 << 18) as file:
                try:
                    async for message in connection:
                        parsed = json.loads(message)
                        file.write(json.dumps({"recv_ns": time.time_ns(), "message": parsed}) + "\n")
                        count += 1
                except ConnectionClosed:
                    pass
        return count

    return lambda: asyncio.run(record())


def aiohttp_orjson(url: str, path: str) -> Callable[[], int]:
    """aiohttp and orjson: parsed, stamp and bytes into a buffered file."""
    import aiohttp
    import orjson

    async def record() -> int:
        count = 0
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0, ssl=_tls(url) or True) as connection,
        ):
            with open(path, "wb", buffering=1 << 18) as file:
                async for message in connection:
                    data = message.data.encode()
                    if orjson.loads(data)["type"]:
                        file.write(time.time_ns().to_bytes(8, "little"))
                        file.write(data)
                        count += 1
        return count

    return lambda: asyncio.run(record())


def websocket_client_ujson(url: str, path: str) -> Callable[[], int]:
    """websocket-client and ujson, as in ssmd's own stack without its C library."""
    import ujson
    import websocket

    def record() -> int:
        count = 0
        options = {"sslopt": {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}} if url.startswith("wss:") else {}
        connection = websocket.create_connection(url, skip_utf8_validation=True, **options)
        with open(path, "wb", buffering=1 << 18) as file:
            try:
                while message := connection.recv():
                    data = message if isinstance(message, bytes) else message.encode()
                    if ujson.loads(data)["type"]:
                        file.write(time.time_ns().to_bytes(8, "little"))
                        file.write(data)
                        count += 1
            except websocket.WebSocketConnectionClosedException:
                pass
        return count

    return record


def floor(url: str, path: str) -> Callable[[], int]:
    """The bare C loop: receive, walk frames, stamp, write. ws only."""
    library = ctypes.CDLL(str(Path(__file__).resolve().parent.parent / "build" / "libfloor.so"))
    library.floor_record.restype = ctypes.c_int64
    library.floor_record.argtypes = (ctypes.c_int, ctypes.c_char_p)

    def record() -> int:
        parts = urlsplit(url)
        connection = socket.create_connection((parts.hostname, parts.port))
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        reply = b""
        while not reply.endswith(b"\r\n\r\n"):
            reply += connection.recv(1)
        return int(library.floor_record(connection.fileno(), path.encode()))

    return record


def ssmd(url: str, path: str, normalizer: str = "c", keep_frames: bool = True) -> Callable[[], int]:
    """ssmd's own path: client read loop, C decoder, ring, native flusher, segment files synced."""
    from ssmd_path import prepare

    return prepare(url, Path(path), keep_frames=keep_frames, nap_us=int(os.environ.get("SSMD_BENCH_NAP_US", "3000")))


def ssmd_python(url: str, path: str) -> Callable[[], int]:
    """ssmd with the plain Python normalizer."""
    from ssmd_path import prepare

    return prepare(url, Path(path), normalizer="python")


PEERS: dict[str, Callable[[str, str], Callable[[], int]]] = {
    "floor": floor,
    "ssmd": ssmd,
    "picows": picows_bytes,
    "picows+orjson": picows_orjson,
    "aiohttp+orjson": aiohttp_orjson,
    "websockets+json": websockets_json,
    "websocket-client+ujson": websocket_client_ujson,
}


def main() -> None:
    name, url, path = sys.argv[1:4]
    record = PEERS[name](url, path)
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    messages = record()
    after, end = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        json.dumps(
            {
                "messages": messages,
                "cpu_s": cpu_s,
                "wall_s": end - begin,
                "threads": threading.active_count(),
                "max_rss_kb": after.ru_maxrss,
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "ssmd":
        from gevent import monkey

        monkey.patch_all()
    main()
