"""An HTTP server in front of a registry that keeps pulls waiting until a test releases them."""

import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.registry import Registry

_REPOSITORY = re.compile(r"/v2/(.+)/(?:manifests|blobs)/")


class RegistryGate:
    """Redirects clients to a registry, for each repository only after :meth:`open_for`.

    Images are pulled from ``host`` in place of the registry's. The first request of a pull waits.
    """

    def __init__(self, registry: Registry) -> None:
        self._open: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._waiting: list[str] = []
        self._closing = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(registry.host))
        self._server.daemon_threads = False  # so that none outlives it
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.received: list[str] = []
        """The repository of each request, in order of arrival."""

    @property
    def waiting(self) -> set[str]:
        """The repositories whose pulls wait."""
        return set(self._waiting)

    def open_for(self, *repositories: str) -> None:
        """Let pulls of repositories go on, now and from now on."""
        for repository in repositories:
            self._open[repository].set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.open_for(*self._open)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _pass(self, repository: str) -> None:
        self.received.append(repository)
        if self._closing:
            return
        self._waiting.append(repository)
        self._open[repository].wait()
        self._waiting.remove(repository)

    def _handler(self, registry: str) -> type[BaseHTTPRequestHandler]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if received := _REPOSITORY.match(self.path):
                    gate._pass(received[1])
                self.send_response(307)
                self.send_header("location", f"http://{registry}{self.path}")
                self.send_header("content-length", "0")
                self.end_headers()

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *arguments: Any) -> None:
                """Log nothing."""

        return Handler
