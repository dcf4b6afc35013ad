"""A proxy in front of an HTTP server that answers errors, or late, as it is told: an object store in trouble."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASSED_ON = ("content-type", "content-length", "content-range", "etag", "last-modified", "accept-ranges")


@dataclass(frozen=True)
class Answer:
    """What the proxy answers in place of the server."""

    status: int
    code: str = ""  # of the error, as S3 writes it
    drop: bool = False  # passes the request on and then closes the connection: the answer is lost

    @property
    def body(self) -> bytes:
        return f"<Error><Code>{self.code}</Code><Message>as ordered</Message></Error>".encode() if self.code else b""


Judge = Callable[[str, str], Answer | None]  # method, path -> an answer in place of the server's, or None


class FlakyProxy:
    """Passes everything on until told otherwise: `answer` is asked for every request, `delay_s` holds each up."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.answer: Judge = lambda method, path: None
        self.delay_s = 0.0
        self.dropped_headers: Sequence[str] = ()  # of requests
        self.replaced_headers: Mapping[str, str] = {}  # of answers
        self.cut_at = -1  # bytes of an answer's content, after which the connection is closed; -1: never
        self.seen: Counter[str] = Counter()  # requests by method
        self.paths: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FlakyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                proxy.seen[self.command] += 1
                proxy.paths.append((self.command, self.path))
                if proxy.delay_s:
                    time.sleep(proxy.delay_s)
                instead = proxy.answer(self.command, self.path)
                if instead is None or instead.drop:
                    self._pass_on(body, lose=instead is not None)
                else:
                    self._send(instead.status, [], instead.body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def _pass_on(self, body: bytes, *, lose: bool) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=20)
                try:
                    connection.request(self.command, self.path, body, self._asked())
                    reply = connection.getresponse()
                    content = reply.read()
                except OSError:
                    self.close_connection = True
                    return
                finally:
                    connection.close()
                if lose:
                    self.close_connection = True
                    return
                self._send(reply.status, reply.getheaders(), content)

            def _asked(self) -> dict[str, str]:
                return {
                    name: value for name, value in self.headers.items() if name.lower() not in proxy.dropped_headers
                }

            def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response(status)
                kept = {name.lower(): value for name, value in headers if name.lower() in PASSED_ON}
                kept |= {name: value for name, value in proxy.replaced_headers.items() if name in kept}
                kept.setdefault("content-length", str(len(content)))
                for name, value in kept.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    cut = self.command == "GET" and 0 <= proxy.cut_at < len(content)
                    self.wfile.write(content[: proxy.cut_at] if cut else content)
                    self.close_connection = self.close_connection or cut

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler
