"""The page at /ui: whom it answers, what it tells a browser to forbid, and its events."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from criproxy.daemon.supervisor.http.ui import live_overview
from criproxy.daemon.supervisor.http.ui.application import MAX_STREAMS, Ui
from criproxy.daemon.supervisor.http.ui.live_overview import LiveOverview
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.observe.http import LET_LAST, HTTPServer
from tests.overview.states import call, state
from tests.support.criproxy import Criproxy
from tests.support.waiting import LIMIT_SECONDS, wait_until

FILES = ["/ui", "/ui/page.css", "/ui/page.js", "/ui/icon.svg"]


class Daemon:
    """What the page shows, and how often it was looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self.calls: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.failures: list[Exception] = []

    def look(self) -> dict[str, Any]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return state(float(self.looks), calls=self.calls, starts=[])


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def overview(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> LiveOverview:
    monkeypatch.setattr(live_overview, "_INTERVAL", 0.001)
    return LiveOverview(daemon.look, daemon.failures.append)


@pytest.fixture
def ui(overview: LiveOverview) -> Ui:
    def other(environ: Any, start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"other"]

    return Ui(other, overview)


class Answer:
    """The answer to a request; a context manager that ends it."""

    def __init__(self, ui: Ui, path: str, method: str = "GET", **fields: str) -> None:
        headers = {f"HTTP_{name.upper()}": value for name, value in fields.items()}
        headers.setdefault("HTTP_HOST", "localhost:9440")
        self.let_last = False
        environ = {"PATH_INFO": path, "REQUEST_METHOD": method, LET_LAST: self._lasts}
        self.body = ui(environ | headers, self._start)

    def _start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
        self.status = int(status.split()[0])
        self.headers = dict(headers)

    def _lasts(self) -> None:
        self.let_last = True

    @property
    def text(self) -> str:
        """The whole body."""
        return b"".join(self.body).decode()

    def close(self) -> None:
        """End it, as a server does when its client has gone."""
        if hasattr(self.body, "close"):
            self.body.close()


@pytest.mark.parametrize("path", [*FILES, "/ui/events"])
def test_headers(ui: Ui, path: str) -> None:
    """The page may load what is its own and nothing else, in no frame, and is not stored."""
    with closing(Answer(ui, path)) as answer:
        assert answer.status == 200
        policy = dict(
            each.split(" ", 1) for each in answer.headers["Content-Security-Policy"].split("; ")
        )
        assert policy.pop("require-trusted-types-for") == "'script'"
        own = {f"{kind}-src" for kind in ("script", "style", "connect", "img")}
        none = {"default-src", "base-uri", "form-action", "frame-ancestors"}
        assert policy == dict.fromkeys(own, "'self'") | dict.fromkeys(none, "'none'")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"


def test_files(ui: Ui) -> None:
    """The page names files of its own alone, has no script or style within it, and its script
    makes no markup of texts."""
    text = {path: Answer(ui, path).text for path in FILES}
    assert re.findall(r'(?:href|src)="([^"]*)"', text["/ui"]) == [
        "/ui/icon.svg",
        "/ui/page.css",
        "/ui/page.js",
    ]
    assert not re.search(r"<style|\son\w+=|style=|<script[^>]*>[^<]", text["/ui"])
    assert not re.search(r"https?://|@import|url\(", text["/ui/page.css"] + text["/ui/page.js"])
    assert not re.search(r"HTML|\.write\(|eval|DOMParser|Function\(", text["/ui/page.js"])
    kinds = [Answer(ui, path).headers["Content-Type"].split(";")[0] for path in FILES]
    assert kinds == ["text/html", "text/css", "text/javascript", "image/svg+xml"]


def test_other_methods_and_paths(ui: Ui) -> None:
    """HEAD has the headers alone, other methods are refused; other paths are not the page's."""
    head, get = Answer(ui, "/ui", "HEAD"), Answer(ui, "/ui")
    assert (head.status, head.headers, head.text) == (200, get.headers, "")
    assert Answer(ui, "/ui/events", "HEAD").text == ""
    refused = Answer(ui, "/ui", "POST")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    moved = Answer(ui, "/ui/")
    assert (moved.status, moved.headers["Location"]) == (308, "/ui")
    assert Answer(ui, "/ui/page.html").text == Answer(ui, "/calls").text == "other"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:9440", "127.8.8.8", "[::1]:9440", "[::1]"]
)
def test_hosts(ui: Ui, host: str) -> None:
    """This machine may be named, with any port."""
    assert Answer(ui, "/ui", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:9440",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "0.0.0.0:9440",
        "192.168.0.1",
        "[::]",
        "[::1",
        "127.0.0.1@evil.example",
    ],
)
def test_other_hosts(ui: Ui, host: str) -> None:
    """A name that a site can let resolve to this machine gets nothing but metrics and checks."""
    for path in (*FILES, "/ui/events", "/calls", "/v1/state"):
        answer = Answer(ui, path, host=host)
        assert (answer.status, "use localhost" in answer.text) == (421, True)
    for path in ("/metrics", "/healthz", "/readyz"):
        assert Answer(ui, path, host=host).text == "other"


@pytest.mark.parametrize(
    "fields",
    [
        {"sec_fetch_site": "cross-site", "sec_fetch_dest": "empty"},
        {"sec_fetch_site": "same-site", "sec_fetch_dest": "iframe"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost:8000", "sec_fetch_site": "same-site"},
    ],
)
def test_other_sites(ui: Ui, fields: dict[str, str]) -> None:
    """What a browser sends for another site is refused."""
    for path in ("/ui/events", "/ui/page.js", "/calls", "/v1/tail"):
        assert Answer(ui, path, **fields).status == 403


@pytest.mark.parametrize(
    "fields",
    [
        {"sec_fetch_site": "same-origin", "sec_fetch_dest": "empty"},
        {"sec_fetch_site": "none", "sec_fetch_dest": "document"},
        {"sec_fetch_site": "cross-site", "sec_fetch_dest": "document"},
        {"origin": "http://localhost:9440", "sec_fetch_site": "same-origin"},
    ],
)
def test_own_requests_and_links(ui: Ui, fields: dict[str, str]) -> None:
    """The page's own requests are answered, and links to it may be followed."""
    assert Answer(ui, "/ui", **fields).status == 200


def events(answer: Answer) -> Iterator[tuple[str, Any]]:
    """The events of an answer, with their JSON."""
    for part in answer.body:
        assert part.endswith(b"\n\n")
        if part != b":\n\n":
            name, data = part.decode().rstrip("\n").split("\n")
            yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_events(ui: Ui, daemon: Daemon) -> None:
    """The first event is there at once, and another after each look."""
    daemon.calls = [call(pod="a\nb", namespace="\r\n\r\ndata: x")]
    with closing(Answer(ui, "/ui/events")) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        for name, sent in (first := events(answer)):
            assert name == "overview"
            assert sent["summary"].startswith("1 call in flight")
            break
        assert answer.let_last
        times = {next(first)[1]["time"] for _ in range(3)}
        assert len(times) == 3


def test_most_streams(ui: Ui) -> None:
    """There are so many streams at once; one that ends leaves its place."""
    answers = [Answer(ui, "/ui/events") for _ in range(MAX_STREAMS)]
    refused = Answer(ui, "/ui/events")
    assert (refused.status, refused.let_last) == (503, False)
    answers.pop().close()
    answers.append(Answer(ui, "/ui/events"))
    assert [answer.status for answer in answers] == [200] * MAX_STREAMS
    for answer in answers:
        answer.close()


def test_looks(overview: LiveOverview, daemon: Daemon) -> None:
    """The daemon is asked once for all readers, and not without any."""
    assert daemon.looks == 0
    overview.open()
    overview.open()
    number, _ = overview.after(0, LIMIT_SECONDS)
    overview.close()
    later, event = overview.after(number, LIMIT_SECONDS)
    assert later > number
    assert event
    overview.close()
    last, _ = overview.after(0, 0.0)
    assert overview.after(last, 0.05) == (last, b"")


def test_a_reader_that_is_behind(overview: LiveOverview) -> None:
    """It has the last event next, and what it missed is not kept."""
    overview.open()
    number, _ = overview.after(0, LIMIT_SECONDS)
    wait_until(lambda: overview.after(0, 0.0)[0] > number + 5, "five more events")
    assert overview.after(number, 0.0)[0] > number + 5
    overview.close()


def test_no_answer_from_the_daemon(ui: Ui, daemon: Daemon) -> None:
    """The page says what is wrong, and goes on; an error of ours is reported once."""
    daemon.error = TimeoutError()
    with closing(Answer(ui, "/ui/events")) as answer:
        told = events(answer)
        assert next(told) == ("problem", "the daemon's event loop does not turn")
        daemon.error = ValueError("wrong")
        wanted = ("problem", "no figures: the daemon's log has the error")
        wait_until(lambda: next(told) == wanted, "the error")
        assert next(told) == wanted
        daemon.error = None
        wait_until(lambda: next(told)[0] == "overview", "the figures")
    assert [str(error) for error in daemon.failures] == ["wrong"]


@contextmanager
def served(ui: Ui) -> Iterator[HTTPServer]:
    server = HTTPServer("127.0.0.1", 0, ui)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def stream(server: HTTPServer) -> Iterator[http.client.HTTPResponse]:
    """Open a stream that has begun."""
    connection = http.client.HTTPConnection(server.address, timeout=LIMIT_SECONDS)
    connection.request("GET", "/ui/events")
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline() == b":\n"
    yield response
    response.close()
    connection.close()


def test_a_stream_lasts(ui: Ui, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream is not cut for its age. It ends when another application is served, and with the
    server."""
    with served(ui) as server, stream(server) as response:
        monkeypatch.setattr("criproxy.observe.http._TIMEOUT", -1.0)
        server._server.service_actions()
        looks = daemon.looks
        wait_until(lambda: response.readline() and daemon.looks > looks, "another event")
        monkeypatch.undo()
        server.serve(ui)
        read_to_end(response)
        with stream(server) as another:
            server.close()
            read_to_end(another)


def read_to_end(response: http.client.HTTPResponse) -> None:
    while response.readline():
        pass


def test_a_client_that_does_not_read(
    ui: Ui, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut, and meanwhile others are sent their events."""
    monkeypatch.setattr("criproxy.observe.http._SENDING", 0.3)
    daemon.calls = [call(pod="x" * 300, namespace="shop") for _ in range(100)]
    with served(ui) as server, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = server.address.rpartition(":")
        slow.connect((host, int(port)))
        slow.sendall(b"GET /ui/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert slow.recv(15) == b"HTTP/1.0 200 OK"

        def is_cut() -> bool:
            with stream(server) as other:
                assert other.readline() == b"\n"
                assert other.readline() == b"event: overview\n"
            return not server._server._opened

        wait_until(is_cut, "end of the slow client")


def test_a_daemon(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """The page is there once it is enabled, and shows the calls of workers; it leaves again, at the
    same address and socket."""
    admin = f"unix://{short_dir}/admin.sock"
    config = {"admin": {"socket": admin}}
    with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
        assert proxy.get("/ui")[0] == 404
        assert unix_get(short_dir / "admin.sock", "/ui") == 404
        metrics = {"address": "127.0.0.1:0", "ui": True}
        proxy.reload(metrics=metrics, admin={"socket": admin, "ui": True})
        wait_until(lambda: len(proxy.events("configuration loaded")) == 1, "reload")
        assert proxy.get("/ui")[0] == 200
        for path in ("/ui", "/ui/events", "/v1/state"):
            assert unix_get(short_dir / "admin.sock", path) == 200
        connection = http.client.HTTPConnection(
            proxy.event("metrics")["address"], timeout=LIMIT_SECONDS
        )
        connection.request("GET", "/ui/events")
        response = connection.getresponse()
        assert wait_until(lambda: response.readline() == b"event: overview\n", "an event")
        sent = json.loads(response.readline().removeprefix(b"data: "))
        assert sent["summary"].startswith("0 calls in flight")
        proxy.reload(metrics={"address": "127.0.0.1:0"}, admin={"socket": admin})
        read_to_end(response)
        assert proxy.get("/ui")[0] == 404
        assert len(proxy.events("metrics")) == 1
        connection.close()


def unix_get(path: Path, page: str) -> int:
    """Return the status of a page on a unix socket."""
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as response:
        client.settimeout(LIMIT_SECONDS)
        client.connect(str(path))
        client.sendall(f"GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return int(response.readline().split()[1])
