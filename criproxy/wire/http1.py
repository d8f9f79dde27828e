"""Tells HTTP/1 from HTTP/2, and scans it for requests that would turn it into HTTP/2.

Runtimes may serve HTTP/1 on the socket of the CRI: CRI-O does, for ``crio status``. No call of the
CRI can be made with it, unless a connection is turned into one of HTTP/2: by a request with an
Upgrade field (RFC 7540 section 3.2), or by HTTP/2's preface behind a request.
"""

import re
from typing import Final

_METHODS: Final = (
    b"CONNECT ",
    b"DELETE ",
    b"GET ",
    b"HEAD ",
    b"OPTIONS ",
    b"PATCH ",
    b"POST ",
    b"PUT ",
    b"TRACE ",
)
"""How requests begin (RFC 9110 section 9.1, RFC 5789)."""

_SWITCH: Final = re.compile(rb"(?i:[\r\n](?:upgrade|http2-settings)[ \t:])|PRI \* HTTP/2")
_LONGEST_SWITCH: Final = len(b"\nhttp2-settings:")


def begins_request(data: bytes) -> bool | None:
    """Return whether a client's first bytes are a request of HTTP/1; None if more are needed."""
    if data.startswith(_METHODS):
        return True
    return None if any(method.startswith(data) for method in _METHODS) else False


class SwitchScanner:
    """Scans what a client sends on a connection of HTTP/1 for the beginning of HTTP/2.

    Any Upgrade field counts, and any line that looks like one: where requests and their bodies end
    is not followed, because the runtime may see that in another way.
    """

    __slots__ = ("_tail", "switched")

    def __init__(self) -> None:
        self._tail = b""
        self.switched = False
        """Whether it was found in what was fed."""

    def finds(self, data: bytes) -> bool:
        """Return whether the next bytes would complete such a beginning."""
        return _SWITCH.search(self._tail + data) is not None

    def feed(self, data: bytes) -> None:
        """Take the client's next bytes."""
        self.switched = self.switched or self.finds(data)
        self._tail = (self._tail + data[1 - _LONGEST_SWITCH :])[1 - _LONGEST_SWITCH :]


def forbidden(message: str, request: bytes) -> bytes:
    """Build a response of status 403 behind which the connection is closed.

    ``request``: its beginning; a HEAD request is answered without the message (RFC 9110 section
    9.3.2).
    """
    body = message.encode() + b"\n"
    head = (
        b"HTTP/1.1 403 Forbidden\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\n"
        b"Connection: close\r\n\r\n" % len(body)
    )
    return head if request.startswith(b"HEAD ") else head + body
