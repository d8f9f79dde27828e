"""The HTTP endpoint as a client sees it."""

import contextlib
import errno
import gzip
import http.client
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from prometheus_client import CollectorRegistry, Counter

from criproxy.errors import UnavailableError
from criproxy.observe.http import _UNIX_CONNECTIONS, HTTPServer, Pages, UnixHTTPServer
from tests.support.waiting import LIMIT_SECONDS, wait_until


class State:
    """The state that the pages show."""

    health: str | None = None
    readiness: str | None = None
    calls: Any = None
    rules: Any = None


@pytest.fixture(scope="module")
def told() -> State:
    return State()


@pytest.fixture
def state(told: State) -> State:
    told.health = told.readiness = told.calls = told.rules = None
    return told


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client is cut for being slow, except where a test is about that."""
    monkeypatch.setattr("criproxy.observe.http._TIMEOUT", LIMIT_SECONDS)
    monkeypatch.setattr("criproxy.observe.http._Handler.timeout", LIMIT_SECONDS)


@pytest.fixture(scope="module")
def pages(told: State) -> Pages:
    registry = CollectorRegistry()
    Counter("seen", "Things seen.", registry=registry).inc(3)
    return Pages(
        registry,
        lambda: told.health,
        lambda: told.readiness,
        lambda: told.calls,
        lambda: told.rules,
    )


@pytest.fixture(scope="module")
def server(pages: Pages) -> Iterator[HTTPServer]:
    server = HTTPServer("127.0.0.1", 0, pages)
    yield server
    server.close()


def get(
    server: HTTPServer, path: str, headers: dict[str, str] | None = None
) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(server.address, timeout=LIMIT_SECONDS)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_metrics(server: HTTPServer) -> None:
    """/metrics is in Prometheus' text format."""
    status, kind, body = get(server, "/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert b"seen_total 3.0\n" in body


def test_compressed_metrics(server: HTTPServer) -> None:
    """/metrics is compressed for clients that accept gzip."""
    _, _, body = get(server, "/metrics", {"Accept-Encoding": "gzip"})
    assert b"seen_total 3.0\n" in gzip.decompress(body)


@pytest.mark.parametrize(("path", "name"), [("/healthz", "health"), ("/readyz", "readiness")])
def test_checks(server: HTTPServer, state: State, path: str, name: str) -> None:
    """A check responds 200 ``ok``, or 503 with the problem."""
    assert get(server, path) == (200, "text/plain; charset=utf-8", b"ok\n")
    setattr(state, name, "runtime ü: gone")
    assert get(server, path)[::2] == (503, "runtime ü: gone\n".encode())


@pytest.mark.parametrize("name", ["calls", "rules"])
def test_lists(server: HTTPServer, state: State, name: str) -> None:
    """/calls and /rules are indented JSON."""
    said = {name: [{"method": "Version", "age_s": 1.5}]}
    setattr(state, name, said)
    status, kind, body = get(server, f"/{name}")
    assert (status, kind, json.loads(body)) == (200, "application/json", said)
    assert body.count(b"\n") > 3


@pytest.mark.parametrize("path", ["/", "/metricss", "/healthz/", "/calls/1", "/rule", "/%00"])
def test_other_paths(server: HTTPServer, path: str) -> None:
    """Any other path is 404 with the list of paths."""
    status, _, body = get(server, path)
    assert status == 404
    assert b"/metrics /healthz /readyz /calls /rules" in body


def test_slow_client_keeps_nobody_waiting(server: HTTPServer, state: State) -> None:
    """A slow client does not delay another."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as slow:
        slow.sendall(b"GET /metr")
        assert get(server, "/healthz")[0] == 200
        slow.sendall(b"ics HTTP/1.0\r\n\r\n")
        assert slow.recv(15) == b"HTTP/1.0 200 OK"


def test_client_that_leaves_in_the_middle(
    server: HTTPServer, state: State, capfd: pytest.CaptureFixture[str]
) -> None:
    """A client that disconnects early causes no traceback."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert get(server, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


def connect(server: HTTPServer) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS)


def test_most_connections(server: HTTPServer, state: State) -> None:
    """Connections above the limit are closed; there is room when others have ended."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(64)]
        for each in held:
            each.sendall(b"GET /healthz HTTP/1.0\r\n")
        with connect(server) as refused:
            assert refused.recv(1) == b""
        for each in held:
            each.sendall(b"\r\n")
            assert each.recv(15) == b"HTTP/1.0 200 OK"
    wait_until(lambda: not server._server._opened, "end of all connections")
    assert get(server, "/healthz")[0] == 200


@pytest.mark.parametrize("sent", [b"", b"x"])
def test_connection_that_lasts_for_too_long(
    server: HTTPServer, state: State, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """A connection is cut when its time is over, also while bytes come now and then."""
    monkeypatch.setattr("criproxy.observe.http._TIMEOUT", 0.3)

    def is_cut() -> bool:
        try:
            client.sendall(sent)
            return client.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    with connect(server) as client:
        client.settimeout(0.05)
        client.sendall(b"GET /healthz HTTP/1.0\r\nX-Slow: ")
        wait_until(is_cut, "end of the connection")


def test_long_request(server: HTTPServer, state: State) -> None:
    """A request with more bytes than any has is not read to its end."""
    field = b"X-Long: " + b"x" * 1000 + b"\r\n"
    with connect(server) as client, pytest.raises(ConnectionError):
        client.sendall(field * (1 << 16))


def test_no_descriptors_left(
    server: HTTPServer, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without descriptors the server waits instead of trying again and again."""
    waits: list[float] = []
    monkeypatch.setattr("criproxy.observe.http.time.sleep", waits.append)
    monkeypatch.setattr("socketserver.TCPServer.get_request", _fail_once(server))
    assert get(server, "/healthz")[0] == 200
    assert waits == [0.1]


def _fail_once(server: HTTPServer) -> Callable[[Any], Any]:
    errors = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def get_request(self: Any) -> Any:
        if errors:
            raise errors.pop()
        return self.socket.accept()

    return get_request


def test_ipv6(pages: Pages, state: State) -> None:
    """An IPv6 address is supported and shown in brackets."""
    server = HTTPServer("::1", 0, pages)
    try:
        assert server.address.startswith("[::1]:")
        assert get(server, "/healthz")[0] == 200
    finally:
        server.close()


def test_port_taken(server: HTTPServer, pages: Pages) -> None:
    """A port in use is one error line with the address and remedy."""
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(UnavailableError) as caught:
        HTTPServer("127.0.0.1", port, pages)
    assert str(caught.value) == (
        f"cannot serve metrics at 127.0.0.1:{port}: Address already in use; "
        "choose another address with --metrics-address or metrics.address"
    )


def test_address_that_is_not_ours(pages: Pages) -> None:
    """An address of another machine is one error line."""
    with pytest.raises(UnavailableError, match=r"cannot serve metrics at 192\.0\.2\.1:9440: "):
        HTTPServer("192.0.2.1", 9440, pages)


def test_closed(pages: Pages) -> None:
    """A closed server has released its port."""
    server = HTTPServer("127.0.0.1", 0, pages)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        get(server, "/healthz")


class Unix:
    """A server on a unix socket, whose responses go on until they are let end."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.end = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self.server = UnixHTTPServer(self._listening, self._answer)

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
        start("200 OK", [])
        yield b"begun\n"
        self.end.wait(LIMIT_SECONDS)
        yield b"ended\n"

    def connect(self) -> socket.socket:
        """Connect; the server may close it before anything can be sent."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(LIMIT_SECONDS)
        client.connect(self.path)
        return client

    def get(self) -> socket.socket:
        """Return the connection of a request that has been sent."""
        client = self.connect()
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return client

    def close(self) -> None:
        self.end.set()
        self.server.close()
        self._listening.close()


@pytest.fixture
def unix(short_dir: Path) -> Iterator[Unix]:
    unix = Unix(short_dir / "http.sock")
    yield unix
    unix.close()


def test_unix_socket(unix: Unix) -> None:
    """A response on a unix socket is sent as it comes, however long it lasts."""
    with unix.get() as client, client.makefile("rb") as response:
        assert response.readline() == b"HTTP/1.0 200 OK\r\n"
        while response.readline() != b"\r\n":
            pass
        assert response.readline() == b"begun\n"
        unix.server._server.service_actions()
        unix.end.set()
        assert response.read() == b"ended\n"


def test_most_connections_of_a_unix_socket(unix: Unix) -> None:
    """Connections above the limit are closed; those that last are cut when it is closed."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(unix.get()) for _ in range(_UNIX_CONNECTIONS)]
        for client in clients:
            assert client.recv(1)
        with unix.connect() as another:
            assert another.recv(1) == b""
        unix.server.close()
        for client in clients:
            while client.recv(4096):
                pass
