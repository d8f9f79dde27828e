"""The admin socket: HTTP on a unix socket of mode 0600.

It serves the pages of the HTTP endpoint, and beside them, versioned::

    /v1/state   calls in flight, counters of methods, and the pods that are starting
    /v1/pods    the last pod starts
    /v1/tail    the line of each call as it ends, until the reader goes
    /v1/records the audit record of each call as it ends, with its messages
    /v1/capture to a POST: the path of a cassette that was begun
"""

from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import msgspec

from criproxy.daemon.supervisor.http.live_calls import MAX_READERS, LiveCalls
from criproxy.daemon.supervisor.http.live_state import VERSION, LiveState
from criproxy.daemon.supervisor.listening import criproxy_at
from criproxy.errors import CriproxyError
from criproxy.observe.http import UnixHTTPServer
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.sockets import Access, bind

_MODE: Final = 0o600

_JSON: Final = "application/json"
_LINES: Final = "application/x-ndjson"


class AdminPages:
    """The WSGI application."""

    def __init__(
        self,
        pages: WSGIApplication,
        state: LiveState,
        lines: LiveCalls,
        records: LiveCalls,
        capture: Callable[[], str],
    ) -> None:
        """``lines`` and ``records`` are of calls; ``pages`` answers all other paths.

        ``capture`` begins a cassette and returns its path.
        """
        self._pages = pages
        self._streams = {"/v1/tail": lines, "/v1/records": records}
        self._capture = capture
        self._answers: dict[str, Callable[[], Any]] = {
            "/v1/state": state.state,
            "/v1/pods": state.pods,
        }

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Respond to a request (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        if path in self._streams:
            return _stream(self._streams[path], start)
        if path == "/v1/capture" and environ.get("REQUEST_METHOD") == "POST":
            return self._begin_cassette(start)
        answer = self._answers.get(path)
        if answer is None:
            return self._pages(environ, start)
        try:
            body = msgspec.json.encode(answer())
        except (TimeoutError, RuntimeError):
            return _unavailable(start, "the daemon's event loop does not turn")
        return _json(start, body)

    def _begin_cassette(self, start: StartResponse) -> Iterable[bytes]:
        try:
            answer = {"version": VERSION, "path": self._capture()}
        except (TimeoutError, RuntimeError):
            return _unavailable(start, "the daemon's event loop does not turn")
        except CriproxyError as error:
            return _unavailable(start, str(error))
        return _json(start, msgspec.json.encode(answer))


class AdminSocket:
    """Serves an application on a unix socket that only the daemon's user may connect to."""

    def __init__(self, endpoint: Endpoint, application: WSGIApplication, replaces: bool) -> None:
        """Listen and serve. Raises UnavailableError or EndpointError.

        ``replaces``: the admin socket of another criproxy is replaced.
        """
        replaced = criproxy_at(endpoint) if replaces else None
        self._bound = bind(endpoint, Access(mode=_MODE), replaced)
        self._server = UnixHTTPServer(self._bound.socket, application)

    def serve(self, application: WSGIApplication) -> None:
        """Serve another application from now on."""
        self._server.serve(application)

    def close(self) -> None:
        """Stop serving; remove the socket, unless another criproxy has replaced it."""
        self._server.close()
        self._bound.close()


def _stream(calls: LiveCalls, start: StartResponse) -> Iterable[bytes]:
    try:
        reader = calls.open()
    except CriproxyError as error:
        return _unavailable(start, str(error))
    if reader is None:
        return _unavailable(start, f"{MAX_READERS} read the calls already")
    start("200 OK", [("Content-Type", _LINES)])
    return calls.lines(reader)


def _json(start: StartResponse, body: bytes) -> list[bytes]:
    start("200 OK", [("Content-Type", _JSON), ("Content-Length", str(len(body)))])
    return [body]


def _unavailable(start: StartResponse, reason: str) -> list[bytes]:
    body = f"{reason}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start("503 Service Unavailable", headers)
    return [body]
