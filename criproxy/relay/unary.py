"""The daemon's own unary calls to a runtime, each on a connection of its own.

They serve the health probe and the listing of pods and containers. Responses are read by the wire
core, so that the daemon needs no gRPC stack (about 15 MiB of memory).
"""

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import TYPE_CHECKING, Final

from criproxy.relay.socket_errors import describe_error
from criproxy.wire import constants as http2
from criproxy.wire import grpc
from criproxy.wire.errors import WireError
from criproxy.wire.grpc import PREFIX_SIZE, StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.http2 import frame_builder
from criproxy.wire.http2.frames import FrameReader

if TYPE_CHECKING:  # that module finds runtimes with this one
    from criproxy.relay.endpoints import Endpoint

MAX_RESPONSE_BYTES: Final = 64 << 20
"""Bytes of a response that are accepted: four times the kubelet's limit. The windows have this size
from the start, so that none has to be updated."""

_CHUNK: Final = 1 << 18
_LEAST_TIMEOUT: Final = 0.001
"""Seconds; a timeout of 0 would make a socket non-blocking."""
_STREAM: Final = 1
_setting: Final = Struct(">HI").pack
_prefix: Final = Struct(">BI")


class Service(Enum):
    """A CRI service, with the method that is called to learn whether it answers: the one with which
    the kubelet validates its connection."""

    RUNTIME = ("runtime", "RuntimeService", "Version")
    IMAGE = ("image service", "ImageService", "ImageFsInfo")

    def __init__(self, description: str, service: str, method: str) -> None:
        self.description = description
        """What it is called in messages."""
        self.service = service
        self.method = method


@dataclass(frozen=True, slots=True)
class UnaryResponse:
    """The result of a call. ``code`` is None if the response could not be read."""

    code: StatusCode | None
    message: str
    response: bytes
    """The response message; empty if there is none."""


async def call(endpoint: "Endpoint", path: bytes, request: bytes) -> UnaryResponse:
    """Make a unary call: ``request`` and the response are messages without gRPC's prefix.

    Has no time limit. Raises OSError if the endpoint cannot be reached or closes the connection
    without a response.
    """
    receive, send = await asyncio.open_unix_connection(endpoint.path, limit=_CHUNK)
    try:
        send.write(_request(path, request))
        handler = _ResponseHandler()
        reader = FrameReader(handler, preface=False)
        while data := await receive.read(_CHUNK):
            try:
                reader.read(data, 0.0)
            except WireError as error:
                return UnaryResponse(None, str(error), b"")
            if handler.ended:
                return handler.response()
        raise ConnectionError("the connection was closed without an answer")
    finally:
        send.close()
        with contextlib.suppress(OSError):
            await send.wait_closed()


async def call_either(endpoint: "Endpoint", service: str, method: str) -> UnaryResponse:
    """Make a call with an empty request, of v1 and if that is unknown of v1alpha2.

    ``service`` is without its package. Has no time limit. Raises OSError as :func:`call` does.
    """
    for path in _paths(service, method):
        answer = await call(endpoint, path, b"")
        if answer.code is not StatusCode.UNIMPLEMENTED:
            break
    return answer


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe found. ``problem`` is None if the endpoint answers with OK, else the reason why
    it is not ready; ``response`` is the message of the answer."""

    problem: str | None
    response: bytes = b""


async def probe(
    endpoint: "Endpoint", within: float, service: Service = Service.RUNTIME
) -> ProbeResult:
    """Call the service's method, of v1 and if that is unknown of v1alpha2, within some seconds."""
    try:
        async with asyncio.timeout(within):
            answer = await call_either(endpoint, service.service, service.method)
    except TimeoutError:
        return ProbeResult(f"no answer within {within:g} s")
    except OSError as error:
        return ProbeResult(describe_error(endpoint.path, error))
    if answer.code is StatusCode.OK:
        return ProbeResult(None, answer.response)
    found = "unreadable answer" if answer.code is None else answer.code.name
    return ProbeResult(f"{service.method} failed: {found}")


def find_cri_error(path: str, within: float) -> str | None:
    """Call Version on a socket, blocking for at most ``within`` seconds.

    Returns None if there is a CRI service, of whichever version and whatever its answer, else what
    was found instead.
    """
    deadline = time.monotonic() + within
    try:
        for version in _paths(Service.RUNTIME.service, Service.RUNTIME.method):
            answer = _call_blocking(path, version, deadline)
            if answer.code is None:
                return "something listens that does not speak gRPC"
            if answer.code is not StatusCode.UNIMPLEMENTED:
                return None
    except TimeoutError:
        return f"no answer within {within:g} s"
    return "it answers, but has no CRI service (is the CRI plugin disabled?)"


def _call_blocking(path: str, method: bytes, deadline: float) -> UnaryResponse:
    """Make a call with an empty request. Raises OSError, and TimeoutError at the deadline."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(max(deadline - time.monotonic(), _LEAST_TIMEOUT))
        sock.connect(path)
        sock.sendall(_request(method, b""))
        handler = _ResponseHandler()
        reader = FrameReader(handler, preface=False)
        while not handler.ended:
            sock.settimeout(max(deadline - time.monotonic(), _LEAST_TIMEOUT))
            data = sock.recv(_CHUNK)
            if not data:
                raise ConnectionError("it closes connections without an answer")
            try:
                reader.read(data, 0.0)
            except WireError as error:
                return UnaryResponse(None, str(error), b"")
    return handler.response()


def _paths(service: str, method: str) -> list[bytes]:
    """Return the paths of a method in the versions of the CRI, the newest first."""
    return [f"/runtime.{version}.{service}/{method}".encode() for version in ("v1", "v1alpha2")]


class _ResponseHandler:
    """Collects one response, frame by frame. The runtime's SETTINGS are never a limit here."""

    def __init__(self) -> None:
        self.ended = False
        self._code: StatusCode | None = None
        self._message = ""
        self._http_status = b""
        self._body = bytearray()

    def response(self) -> UnaryResponse:
        """Return the response that has come."""
        if self._code is not StatusCode.OK:
            return UnaryResponse(self._code, self._message, b"")
        if len(self._body) < PREFIX_SIZE:
            return UnaryResponse(StatusCode.INTERNAL, "there is no response message", b"")
        compressed, length = _prefix.unpack_from(self._body)
        if compressed or length != len(self._body) - PREFIX_SIZE:
            return UnaryResponse(None, "the response is compressed, or not one message", b"")
        return UnaryResponse(StatusCode.OK, "", bytes(self._body[PREFIX_SIZE:]))

    def headers(self, stream: int, headers: list[Header], ended: bool, now: float) -> None:
        status: bytes | None = None
        message = b""
        for name, value in headers:
            if name == b":status":
                self._http_status = value
            elif name == b"grpc-status":
                status = value
            elif name == b"grpc-message":
                message = value
        if not ended:
            return
        if status is None:
            self._end(grpc.code_of_http(self._http_status), "no grpc-status")
        else:
            self._end(grpc.parse_status(status), grpc.parse_message(message))

    def data(self, stream: int, chunk: bytes, start: int, end: int, now: float) -> None:
        self._body += chunk[start:end]

    def data_ended(self, stream: int, now: float) -> None:
        self._end(StatusCode.INTERNAL, "the stream ended without trailers")

    def reset(self, stream: int, code: int, now: float) -> None:
        self._end(grpc.code_of_reset(code), "the stream was reset")

    def setting(self, identifier: int, value: int) -> None:
        """Ignore it."""

    def settings_acknowledged(self) -> None:
        """Ignore it."""

    def goaway(self, last_stream: int, code: int, now: float) -> None:
        if last_stream < _STREAM:
            self._end(StatusCode.UNAVAILABLE, "the runtime is going")

    def _end(self, code: StatusCode, message: str) -> None:
        self.ended = True
        self._code = code
        self._message = message


def _request(path: bytes, message: bytes) -> bytes:
    """Build the preface, SETTINGS and the call; ``message`` is at most 64 KiB (one window)."""
    window = _setting(http2.SETTINGS_INITIAL_WINDOW_SIZE, MAX_RESPONSE_BYTES)
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", b"criproxy"),
    ]
    return b"".join(
        (
            http2.PREFACE,
            frame_builder.frame(http2.SETTINGS, 0, 0, window),
            frame_builder.window_update(0, MAX_RESPONSE_BYTES - http2.DEFAULT_WINDOW),
            frame_builder.literal_headers(_STREAM, fields, ended=False),
            frame_builder.data(_STREAM, _prefix.pack(0, len(message)) + message, ended=True),
        )
    )
