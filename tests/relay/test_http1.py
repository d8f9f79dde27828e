"""HTTP/1 on a listener: relayed where all calls are allowed, refused elsewhere."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest

from tests.support import wire
from tests.support.grpc_peers import through
from tests.support.handlers import POLICIES
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.relaying import Relay
from tests.support.waiting import LIMIT_SECONDS, wait_until

GET = b"GET /info HTTP/1.1\r\nHost: x\r\n"
H2C = GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"
REFUSAL = "criproxy: profile mine allows calls of the CRI alone"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = f"you asked for {self.path}".encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None: ...


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        return self.socket.accept()[0], ("local", 0)


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[Path]:
    """A runtime that serves HTTP/1."""
    path = short_dir / "runtime.sock"
    with _Server(str(path), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield path
        server.shutdown()
        thread.join()


Make = Callable[[], Relay]
MODES = ["no rules", "rules for none", "held and sent on", "split", "shielded"]


@pytest.fixture(params=MODES)
def make(request: pytest.FixtureRequest, short_dir: Path, loop: str) -> Make:
    """Makes a relay in front of runtime.sock."""
    mode = request.param

    def relay() -> Relay:
        return Relay(
            short_dir,
            short_dir / "runtime.sock",
            image=short_dir / "images.sock" if mode == "split" else None,
            policy=POLICIES[mode]() if mode in POLICIES else POLICIES["rules for none"](),
            shields_reads=mode == "shielded",
            loop=loop,
        )

    return relay


class Client(http.client.HTTPConnection):
    """A client of HTTP/1 on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = dial(self._path)


def test_requests(make: Make, runtime: Path) -> None:
    """Requests pass, one after the other on a connection; the other calls are as before."""
    with make() as relay, contextlib.closing(Client(relay.path)) as client:
        for name in ("info", "containers/0123"):
            client.request("GET", f"/{name}")
            response = client.getresponse()
            assert (response.status, response.read()) == (
                200,
                f"you asked for /{name}".encode() * 1000,
            )
        content = bytes(range(256)) * 4000
        client.request("PUT", "/x", body=content)
        assert client.getresponse().read() == content
        wait_until(lambda: relay.recorder.stopped, "event")
        assert [event.reason for event in relay.recorder.stopped] == ["http1"]
        assert not relay.recorder.refused


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_slow_client_and_pipelining(make: Make, runtime: Path, version: bytes) -> None:
    """A request may come byte by byte, and further ones before it is answered."""
    ask = b"GET /%s HTTP/" + version + b"\r\nConnection: keep-alive\r\n\r\n"
    last = b"GET /c HTTP/" + version + b"\r\nConnection: close\r\n\r\n"
    with make() as relay, dial(relay.path) as client:
        sent = (
            b"PUT /p HTTP/"
            + version
            + b"\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nput"
        )
        for at in range(len(sent)):
            client.sendall(sent[at : at + 1])
        client.sendall(ask % b"a" + ask % b"b" + last)
        got = receive_all(client)
    assert got.count(b" 200 OK\r\n") == 4
    for name in (b"a", b"b", b"c"):
        assert b"you asked for /" + name in got


def test_bytes_are_unchanged(make: Make, short_dir: Path) -> None:
    """Every byte passes as it is, with half-closes, however it is cut."""
    request = b"POST /x HTTP/1.1\r\nX: \xff\r\n\r\n" + bytes(range(256))
    for cut in (wire.whole, wire.byte_by_byte):
        with listening(short_dir / "runtime.sock") as sock, make() as relay:
            with dial(relay.path) as client:
                for piece in cut(request):
                    client.sendall(piece)
                client.shutdown(socket.SHUT_WR)
                with accept(sock) as upstream:
                    assert receive_all(upstream) == request
                    upstream.sendall(b"HTTP/1.1 200 OK\r\n\r\nrest")
                assert receive_all(client) == b"HTTP/1.1 200 OK\r\n\r\nrest"
            relay.recorder.all_closed()
        (short_dir / "runtime.sock").unlink(missing_ok=True)


def test_runtime_that_is_away(make: Make, short_dir: Path) -> None:
    """A client of HTTP/1 waits for a runtime that is not there yet, as others do."""
    with make() as relay, dial(relay.path) as client:
        client.sendall(GET + b"\r\n")
        wait_until(lambda: relay.recorder.opened, "connection")
        with listening(short_dir / "runtime.sock") as sock, accept(sock) as upstream:
            assert receive(upstream, len(GET) + 2) == GET + b"\r\n"


def test_drain(make: Make, runtime: Path) -> None:
    """An idle connection of HTTP/1 is closed by a drain, so is a client that has sent nothing."""
    with make() as relay, dial(relay.path) as client, dial(relay.path) as silent:
        client.sendall(GET + b"\r\n")
        assert receive(client, 15) == b"HTTP/1.1 200 OK"
        wait_until(lambda: len(relay.recorder.opened) == 2, "connections")
        draining = relay.drain()
        receive_all(client)
        receive_all(silent)
        assert draining.result(LIMIT_SECONDS).cut == 0


@pytest.mark.parametrize("cut", [wire.whole, wire.byte_by_byte], ids=["whole", "bytes"])
@pytest.mark.parametrize("mode", MODES[1:])
def test_upgrade(short_dir: Path, loop: str, mode: str, cut: wire.Cut) -> None:
    """Where there are rules, no request for HTTP/2 reaches the runtime whole, nor a preface."""
    openings = [H2C, GET + b"\r\n" + H2C, GET + b"\r\n" + wire.PREFACE + wire.settings()]
    for opening in openings:
        with listening(short_dir / "runtime.sock") as sock:
            relaying = Relay(
                short_dir,
                short_dir / "runtime.sock",
                image=short_dir / "images.sock" if mode == "split" else None,
                policy=POLICIES[mode if mode in POLICIES else "rules for none"](),
                shields_reads=mode == "shielded",
                loop=loop,
            )
            with relaying as relay, dial(relay.path) as client:
                with contextlib.suppress(OSError):
                    for piece in cut(opening):
                        client.sendall(piece)
                with accept(sock) as upstream:
                    got = receive_all(upstream)
                answer = b""
                with contextlib.suppress(ConnectionResetError):  # what it sent later was not read
                    answer = receive_all(client)
                relay.recorder.all_closed()
        (short_dir / "runtime.sock").unlink(missing_ok=True)
        assert opening.startswith(got)
        rest = got.removeprefix(GET + b"\r\n")
        assert b"\r\n\r\n" not in rest
        assert b"PRI * HTTP/2" not in rest
        assert [reason for reason, _ in relay.recorder.refused] == ["http1"]
        if cut is wire.whole:
            assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")


def test_upgrade_without_rules(short_dir: Path, loop: str) -> None:
    """Without rules it passes; where rules that must be kept are loaded then, it is closed."""
    path = short_dir / "runtime.sock"
    policy = POLICIES["rules for none"]()
    assert policy is not None
    policy.enforcing = True
    with (
        listening(path) as sock,
        Relay(short_dir, path, loop=loop) as relay,
        dial(relay.path) as client,
        dial(relay.path) as other,
    ):
        client.sendall(H2C)
        with accept(sock) as upstream:
            assert receive(upstream, len(H2C)) == H2C
            other.sendall(GET + b"\r\n")
            with accept(sock) as other_upstream:
                assert receive(other_upstream, len(GET) + 2) == GET + b"\r\n"
                relay.call(lambda: setattr(relay.active_policy, "policy", policy))
                client.sendall(wire.PREFACE)
                assert receive_all(upstream) == b""
                other.sendall(GET + b"\r\n")
                assert receive(other_upstream, len(GET) + 2) == GET + b"\r\n"
                with contextlib.suppress(OSError):
                    other.sendall(H2C)
                assert receive_all(other_upstream) == b""
    assert [reason for reason, _ in relay.recorder.refused] == ["http1"] * 2


@pytest.fixture
def scoped(short_dir: Path, loop: str) -> Iterator[Relay]:
    with Relay(short_dir, short_dir / "runtime.sock", loop=loop) as relay:
        relay.active_policy.http1_refusal = REFUSAL
        yield relay


@pytest.mark.parametrize(
    "request_", [GET + b"\r\n", H2C, b"PUT /x HTTP/1.0\r\nContent-Length: 9\r\n\r\n", b"GET "]
)
@pytest.mark.parametrize("cut", [wire.whole, wire.byte_by_byte], ids=["whole", "bytes"])
def test_refused(scoped: Relay, short_dir: Path, request_: bytes, cut: wire.Cut) -> None:
    """A scoped listener answers with 403, and the runtime is not connected to."""
    with listening(short_dir / "runtime.sock") as sock, dial(scoped.path) as client:
        with contextlib.suppress(OSError):
            for piece in cut(request_):
                client.sendall(piece)
        head, _, body = receive_all(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert b"Connection: close" in head
        assert body == REFUSAL.encode() + b"\n"
        client.close()
        scoped.recorder.all_closed()
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.accept()
    assert scoped.recorder.refused == [("http1", REFUSAL)]


def test_refused_without_a_runtime(scoped: Relay) -> None:
    """The answer does not wait for a runtime."""
    with contextlib.closing(Client(scoped.path)) as client:
        client.request("GET", "/info")
        response = client.getresponse()
        assert (response.status, response.read()) == (403, REFUSAL.encode() + b"\n")
        client.request("HEAD", "/info")
        assert client.getresponse().status == 403


def test_others_at_a_scoped_listener(short_dir: Path, peer: Any, loop: str) -> None:
    """Calls are as elsewhere, and a client that sends nothing and leaves is let go."""
    with Relay(short_dir, peer.path, loop=loop) as relay:
        relay.active_policy.http1_refusal = REFUSAL
        outcome = through(relay.path, "unary_unary", "Unary", b"hello")
        assert outcome.messages == (b"hello",)
        dial(relay.path).close()
        with dial(relay.path) as client:
            client.sendall(b"P")
            client.shutdown(socket.SHUT_WR)
            receive_all(client)
        relay.recorder.all_closed()
        assert not relay.recorder.refused
