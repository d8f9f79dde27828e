"""HTTP/1 on the socket of the CRI: its beginning, and what would turn it into HTTP/2."""

import pytest

from criproxy.wire.http1 import SwitchScanner, begins_request, forbidden
from tests.support import wire
from tests.support.wire import CUTS


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"", None),
        (b"G", None),
        (b"GET", None),
        (b"GET ", True),
        (b"OPTIONS * HTTP/1.1", True),
        (b"P", None),
        (b"PR", False),
        (wire.PREFACE, False),
        (b"\r\nGET ", False),
        (b"get ", False),
        (b"GETS", False),
        (b"\x16\x03\x01", False),
    ],
)
def test_beginnings(data: bytes, begins: bool | None) -> None:
    """The first bytes tell a request of HTTP/1 from HTTP/2's preface and from anything else."""
    assert begins_request(data) is begins


GET = b"GET /info HTTP/1.1\r\nHost: x\r\n"
SWITCHES = [
    GET + b"Upgrade: h2c\r\n\r\n",
    GET + b"uPGRADE : websocket\r\n\r\n",
    GET + b"Upgrade:\r\n h2c\r\n\r\n",
    GET + b"HTTP2-Settings: AAMAAABk\r\n\r\n",
    b"GET /info HTTP/1.1\nupgrade:h2c\n\n",
    GET + b"\r\n" + GET + b"Upgrade: h2c\r\n\r\n",
    GET + b"\r\n" + wire.PREFACE,
    GET + b"Content-Length: 1\r\n\r\nx" + wire.PREFACE,
]
OTHERS = [
    GET + b"Connection: Upgrade\r\nUpgrade-Insecure-Requests: 1\r\n\r\n",
    b"GET /Upgrade: HTTP/1.1\r\nX-Upgrade: h2c\r\n\r\n",
    b"PUT / HTTP/1.1\r\nContent-Length: 40\r\n\r\nPRI * HTTP/1.1 pri * http/2" + bytes(13),
]


@pytest.mark.parametrize("data", SWITCHES + OTHERS)
def test_switches(data: bytes) -> None:
    """Upgrade fields and prefaces are found however the bytes are cut, before they are complete."""
    for cut in CUTS:
        scanner = SwitchScanner()
        found = False
        for piece in cut(data):
            found = found or scanner.finds(piece)
            scanner.feed(piece)
        assert found is scanner.switched is (data in SWITCHES)


def test_response() -> None:
    """A refused request gets a whole response of status 403, without content for HEAD."""
    head, _, body = forbidden("no", b"GET / HT").partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    assert first == b"HTTP/1.1 403 Forbidden"
    assert {b"Content-Length: 3", b"Connection: close"} <= set(fields)
    assert body == b"no\n"
    assert forbidden("no", b"HEAD / H") == head + b"\r\n\r\n"
