"""The WSGI application of the page.

::

    /ui             the page
    /ui/events      what it shows, as server-sent events
    /ui/page.css, /ui/page.js, /ui/icon.svg

A browser lets any site that it visits send requests to an address of this machine. So where the
page is served, requests have to name this machine as their host, which those of a site do not that
lets its own name resolve to a loopback address (DNS rebinding), and other sites may do no more than
link here. The page has a policy by which it loads nothing of others and runs no script but its own.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from criproxy.config.value_types import is_loopback
from criproxy.daemon.supervisor.http.ui.live_overview import LiveOverview
from criproxy.observe.http import LET_LAST

PAGE: Final = "/ui"
EVENTS: Final = "/ui/events"

MAX_STREAMS: Final = 8
"""Clients at once that are sent events: a share of the connections."""

_SIGN_OF_LIFE: Final = 5.0
"""Seconds without an event after which a comment shows whether the client is still there."""

_NOTHING: Final = b":\n\n"
"""A comment."""

_FOR_ALL: Final = frozenset({"/metrics", "/healthz", "/readyz"})
"""Paths of scrapers and probes, which may name any host."""

_FILES: Final = {
    PAGE: ("page.html", "text/html; charset=utf-8"),
    "/ui/page.css": ("page.css", "text/css; charset=utf-8"),
    "/ui/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
}

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),  # names of pods; and files that fit the daemon
)


class Ui:
    """Serves the page, and has another application answer all other paths."""

    def __init__(self, pages: WSGIApplication, overview: LiveOverview) -> None:
        """Read the files of the page. ``overview`` may be shared with other applications."""
        directory = Path(__file__).with_name("static")
        self._files = {
            path: (kind, (directory / name).read_bytes()) for path, (name, kind) in _FILES.items()
        }
        self._pages = pages
        self._overview = overview
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Respond to a request (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        if path in _FOR_ALL:
            return self._pages(environ, start)
        if not _names_this_machine(environ):
            reason = "the request names another host; use localhost, or a loopback address"
            return _refuse(start, "421 Misdirected Request", reason)
        if _is_of_another_site(environ):
            return _refuse(start, "403 Forbidden", "other sites may not use this")
        if path == f"{PAGE}/":
            return _refuse(start, "308 Permanent Redirect", f"it is at {PAGE}", ("Location", PAGE))
        if path != EVENTS and path not in self._files:
            return self._pages(environ, start)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start, "405 Method Not Allowed", "use GET", ("Allow", "GET, HEAD"))
        if path == EVENTS:
            return self._events(environ, start)
        kind, body = self._files[path]
        start("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body))), *_HEADERS])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _events(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        headers = [("Content-Type", "text/event-stream"), *_HEADERS]
        if environ["REQUEST_METHOD"] == "HEAD":
            start("200 OK", headers)
            return []
        if not self._streams.acquire(blocking=False):
            reason = f"{MAX_STREAMS} look at the page already"
            return _refuse(start, "503 Service Unavailable", reason)
        start("200 OK", headers)
        return _EventStream(self._overview, self._streams, environ[LET_LAST])


class _EventStream:
    """The body of a response with events, until it is closed."""

    def __init__(
        self,
        overview: LiveOverview,
        streams: threading.BoundedSemaphore,
        let_last: Callable[[], None],
    ) -> None:
        """``streams`` is released at the end."""
        self._overview = overview
        self._streams = streams
        self._let_last = let_last
        overview.open()

    def __iter__(self) -> Iterator[bytes]:
        self._let_last()
        yield _NOTHING  # headers are sent with the first bytes
        number = 0
        while True:
            number, event = self._overview.after(number, _SIGN_OF_LIFE)
            yield event or _NOTHING

    def close(self) -> None:
        """End the stream (PEP 3333)."""
        self._overview.close()
        self._streams.release()


def _names_this_machine(environ: WSGIEnvironment) -> bool:
    """Return whether the host of a request is a name of this machine that no site can take.

    The port may be any: it may have been forwarded.
    """
    try:
        host = urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)


def _is_of_another_site(environ: WSGIEnvironment) -> bool:
    """Return whether a browser says that another site has made the request.

    A link is none: its target is shown, and the site does not see it.
    """
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST"):
        return True
    own = environ.get("HTTP_SEC_FETCH_SITE", "none") in ("none", "same-origin")
    return not own and environ.get("HTTP_SEC_FETCH_DEST") != "document"


def _refuse(
    start: StartResponse, status: str, reason: str, *headers: tuple[str, str]
) -> list[bytes]:
    body = f"{reason}\n".encode()
    length = ("Content-Length", str(len(body)))
    start(status, [("Content-Type", "text/plain; charset=utf-8"), length, *_HEADERS, *headers])
    return [body]
