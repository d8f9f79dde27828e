"""Asking the runtime for its Version, to know that it answers.

The request is the same few bytes each time, and the answer is read by the wire core: so the
daemon needs no gRPC stack, whose memory it can do without.
"""

import asyncio
import contextlib
from struct import Struct
from typing import Final

from criproxy.relay.endpoints import Endpoint
from criproxy.relay.observer import Clock
from criproxy.wire import http2
from criproxy.wire.calls import Call
from criproxy.wire.connection import CallEnded, ConnectionReader, Side
from criproxy.wire.grpc import StatusCode

_frame_header: Final = Struct(">HBBBI").pack
_EMPTY_MESSAGE: Final = bytes(5)
"""A VersionRequest with nothing set: no bytes behind the prefix."""

_PATHS: Final = (b"/runtime.v1.RuntimeService/Version", b"/runtime.v1alpha2.RuntimeService/Version")


async def probe(endpoint: Endpoint, within: float, clock: Clock) -> str | None:
    """Call Version, of v1 and where that is unknown of v1alpha2, within ``within`` seconds.

    Returns None when the runtime answers with OK, else what is wrong with it in a few words.
    """
    try:
        async with asyncio.timeout(within):
            for path in _PATHS:
                call = await _call(endpoint, path, clock)
                if call.code is not StatusCode.UNIMPLEMENTED:
                    break
    except TimeoutError:
        return f"no answer within {within:g} s"
    except OSError as error:
        return error.strerror or str(error)
    except ConnectionError as error:
        return str(error)
    if call.code is StatusCode.OK:
        return None
    return f"Version failed: {'unreadable answer' if call.code is None else call.code.name}"


async def _call(endpoint: Endpoint, path: bytes, clock: Clock) -> Call:
    reader = ConnectionReader()
    receive, send = await asyncio.open_unix_connection(endpoint.path)
    try:
        request = _request(path)
        reader.receive(Side.CLIENT, request, clock())
        send.write(request)
        while data := await receive.read(1 << 16):
            for event in reader.receive(Side.RUNTIME, data, clock()):
                if isinstance(event, CallEnded):
                    return event.call
        raise ConnectionError("the connection was closed without an answer")
    finally:
        send.close()
        with contextlib.suppress(OSError):
            await send.wait_closed()


def _request(path: bytes) -> bytes:
    """Build a client's first bytes and one unary call on stream 1."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", b"criproxy"),
    )
    block = b"".join(
        b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields
    )
    return b"".join(
        (
            http2.PREFACE,
            _frame_header(0, 0, http2.SETTINGS, 0, 0),
            _frame_header(0, len(block), http2.HEADERS, http2.FLAG_END_HEADERS, 1),
            block,
            _frame_header(0, len(_EMPTY_MESSAGE), http2.DATA, http2.FLAG_END_STREAM, 1),
            _EMPTY_MESSAGE,
        )
    )
