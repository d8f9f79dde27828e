"""An HTTP server in front of a registry that keeps pulls waiting until a test releases them."""

import re
import threading
from collections import defaultdict
from typing import Self

from tests.support.http_server import Handler, HttpServer, Response
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
        self._registry = registry.host
        self._server = HttpServer(self._respond)
        self._server.daemon_threads = False  # so that none outlives it
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
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.open_for(*self._open)
        self._server.close()

    def _pass(self, repository: str) -> None:
        self.received.append(repository)
        if self._closing:
            return
        self._waiting.append(repository)
        self._open[repository].wait()
        self._waiting.remove(repository)

    def _respond(self, request: Handler, _: bytes) -> Response:
        if received := _REPOSITORY.match(request.path):
            self._pass(received[1])
        headers = {"location": f"http://{self._registry}{request.path}", "connection": "close"}
        return Response(status=307, headers=headers)
