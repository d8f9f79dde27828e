"""The HTTP endpoint: /metrics, /healthz, /readyz, /calls, /rules; and HTTP on a unix socket.

It serves on its own threads, so that slow or hanging scrapers do not delay calls. Connections, the
time that each may take, and the bytes of its request are limited.

The server is wsgiref's, which prometheus_client has imported anyway. waitress would take 0.5 MiB
more, and limits only the time without any byte, so that a client may hold a connection for ever.
"""

import contextlib
import io
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import msgspec
from prometheus_client import CollectorRegistry, make_wsgi_app

from criproxy.errors import UnavailableError

_TIMEOUT: Final = 10.0
"""Seconds that a connection may last, and that a client may send or read nothing."""

_CONNECTIONS: Final = 64
"""Connections at once, each of which has a thread; further ones are closed."""

_REQUEST_BYTES: Final = 16 << 10
"""Bytes that are read from a connection: more than any scraper's request line and headers."""

LET_LAST: Final = "criproxy.let_last"
"""The key of the WSGI environment under which is what lets a response last.

It is called without arguments, on the thread of the request. The connection is not cut for its age
any more; it is if its client does not read in time what is sent to it at once, and when the server
is closed or serves another application. The application limits the number of such responses.
"""

_SENDING: Final = 10.0
"""Seconds within which a client has to read what a lasting response sends at once."""

_LASTING_BUFFER: Final = 64 << 10
"""Bytes that the kernel keeps of a lasting response for a client that does not read, or twice as
many: what is sent to it later would be old. By default they are some MiB."""

_UNIX_CONNECTIONS: Final = 32
"""Connections at once to a unix socket, which only the daemon's user can have."""

_PAUSE: Final = 0.1
"""Seconds without accepting after file descriptors have run out."""

_TEXT: Final = "text/plain; charset=utf-8"
_STATUS: Final = {200: "200 OK", 404: "404 Not Found", 503: "503 Service Unavailable"}


class Pages:
    """The WSGI application. Its callables are called on the thread of the request.

    ``health`` and ``readiness`` return None, or a line with the problem; ``calls`` and ``rules``
    return the JSON values of /calls and /rules.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Callable[[], str | None],
        readiness: Callable[[], str | None],
        calls: Callable[[], Any],
        rules: Callable[[], Any],
    ) -> None:
        self._metrics: WSGIApplication = make_wsgi_app(registry)
        self._checks = {"/healthz": health, "/readyz": readiness}
        self._lists = {"/calls": calls, "/rules": rules}

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Respond to a request (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return self._metrics(environ, start)
        if path in self._checks:
            wrong = self._checks[path]()
            return _answer(start, 503 if wrong else 200, _TEXT, f"{wrong or 'ok'}\n".encode())
        if path in self._lists:
            body = msgspec.json.format(msgspec.json.encode(self._lists[path]()), indent=2)
            return _answer(start, 200, "application/json", body + b"\n")
        known = "/metrics /healthz /readyz /calls /rules"
        return _answer(start, 404, _TEXT, f"there is: {known}\n".encode())


class HTTPServer:
    """Serves pages at an address on its own threads."""

    def __init__(
        self, host: str, port: int, pages: WSGIApplication, inherited: socket.socket | None = None
    ) -> None:
        """Bind and start serving; port 0 chooses a free one. Raises UnavailableError.

        A listening socket that is ``inherited`` is served instead, and belongs to the server.
        """
        try:
            self._server = _Server((host, port), _Handler, inherited)
        except OSError as error:
            raise UnavailableError(
                f"cannot serve metrics at {_address(host, port)}: {error.strerror or error}; "
                "choose another address with --metrics-address or metrics.address"
            ) from error
        self.serve(pages)
        self.address = _address(host, self._server.server_port)
        """The bound address with its port."""
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def fileno(self) -> int:
        """The descriptor of the listening socket."""
        return self._server.fileno()

    def serve(self, pages: WSGIApplication) -> None:
        """Serve other pages from now on; responses that last end."""
        self._server.set_app(pages)
        self._server.cut_lasting()

    def close(self) -> None:
        """Stop serving. Responses that last end."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_lasting()
        self._thread.join()


class UnixHTTPServer:
    """Serves an application on a listening unix socket, on its own threads.

    A response may last as long as it likes, and so may its client take to read it.
    """

    def __init__(self, listening: socket.socket, application: WSGIApplication) -> None:
        """Start serving. The socket stays the caller's, who closes it after :meth:`close`."""
        self._server = _UnixServer(("", 0), _UnixHandler, listening.dup())
        self._server.set_app(application)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="admin", daemon=True
        )
        self._thread.start()

    def serve(self, application: WSGIApplication) -> None:
        """Serve another application from now on; responses that last end."""
        self._server.set_app(application)
        self._server.cut_lasting()

    def close(self) -> None:
        """Stop accepting, and end the responses that go on."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_all()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    connections = _CONNECTIONS

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[WSGIRequestHandler],
        inherited: socket.socket | None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._opened: dict[socket.socket, float] = {}
        """When each connection was accepted; infinity if it may last."""
        self._inherited = inherited
        self.cuts = 0
        """How often the connections that may last were cut."""
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # WSGIServer would resolve the host's name, which may take long.
        if self._inherited is None:
            TCPServer.server_bind(self)
        else:
            self.socket.close()
            self.socket = self._inherited
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; without descriptors wait a moment, for the loop tries at once."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection is served: not above the limit."""
        return len(self._opened) < self.connections

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own."""
        self._opened[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._opened.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut the connections that have lasted for too long; called twice a second."""
        now = time.monotonic()
        for connection, opened in tuple(self._opened.items()):
            if now - opened > _TIMEOUT:
                self._cut(connection)

    def let_last(self, connection: socket.socket, cuts: int) -> None:
        """Do not cut a connection for its age; see LET_LAST.

        ``cuts`` is the count of cuts when its request had been read: it is cut by one since then.
        """
        connection.settimeout(_SENDING)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LASTING_BUFFER)
        self._opened[connection] = math.inf
        if cuts != self.cuts:
            self._cut(connection)

    def cut_lasting(self) -> None:
        """Cut the connections that may last."""
        self.cuts += 1
        for connection, opened in tuple(self._opened.items()):
            if opened == math.inf:
                self._cut(connection)

    def cut_all(self) -> None:
        """Cut all connections."""
        for connection in tuple(self._opened):
            self._cut(connection)

    @staticmethod
    def _cut(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not print tracebacks for clients that disconnect."""


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT

    def setup(self) -> None:
        """Read at most the bytes of a request from the connection."""
        super().setup()
        self.rfile = io.BufferedReader(_RequestReader(self.connection))

    def get_environ(self) -> WSGIEnvironment:
        """Return the environment of a request that was read."""
        environ: WSGIEnvironment = super().get_environ()
        assert isinstance(self.server, _Server)
        environ[LET_LAST] = partial(self.server.let_last, self.connection, self.server.cuts)
        return environ

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
        """Do not log requests: scrapers send one every few seconds."""


class _UnixServer(_Server):
    connections = _UNIX_CONNECTIONS
    request_queue_size = _UNIX_CONNECTIONS  # connect() fails at once where the backlog is full

    def server_bind(self) -> None:
        assert self._inherited is not None
        self.socket.close()
        self.socket = self._inherited
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; a peer has no address, where the handler expects a host."""
        connection, _ = super().get_request()
        return connection, ("", 0)

    def service_actions(self) -> None:
        """Cut no connection."""


class _UnixHandler(_Handler):
    def get_environ(self) -> WSGIEnvironment:
        """Return the environment of a request that was read; its response may last."""
        self.connection.settimeout(None)
        return super().get_environ()


class _RequestReader(io.RawIOBase):
    """Reads a connection. Raises ConnectionAbortedError above the bytes that a request may have."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = _REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._connection.recv_into(buffer)
        self._left -= size
        if self._left < 0:
            raise ConnectionAbortedError(f"a request has more than {_REQUEST_BYTES} bytes")
        return size


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _answer(start: StartResponse, status: int, kind: str, body: bytes) -> list[bytes]:
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    start(_STATUS[status], headers)
    return [body]
