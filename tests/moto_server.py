"""The moto server, with one thing as in S3: a write that depends on what is there is judged and done in one step.

moto looks, and writes later: of two writers at once, both find nothing. `python tests/moto_server.py PORT`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class Application:
    """moto's own, but conditional requests go through one by one."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT" and environ.keys() & {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"}:
            with self._lock:
                return list(self._moto(environ, start_response))
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), Application(), threaded=True, request_handler=MotoRequestHandler)
