"""Calls the Export method of OTLP over gRPC at one endpoint, one call at a time.

The HTTP/2 below is the ``h2`` library's: the daemon does without grpcio. Each call has a connection
of its own, since there are few, and nothing reads one that is idle. Which codes are worth another
try is OTLP's ("OTLP/gRPC, Failures").
"""

import socket
import ssl
from base64 import b64decode
from collections.abc import Iterable, Mapping
from struct import Struct
from time import monotonic
from typing import Final

import h2.config
import h2.connection
import h2.events

from criproxy import __version__
from criproxy.errors import UsageError
from criproxy.otlp.answer import Answer, Outcome, Pauses, parse_endpoint
from criproxy.otlp.breakable import Breakable
from criproxy.wire.grpc import StatusCode, parse_message

_EXAMPLE: Final = "http://127.0.0.1:4317"
_PREFIX: Final = Struct(">?I")
_LARGEST_ANSWER: Final = 1 << 16
_LONGEST_MESSAGE: Final = 1024
"""Characters of a status message that are kept."""

_CHUNK: Final = 64 << 10

_AGAIN: Final = frozenset(
    {
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.ABORTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
"""The codes after which the same request is sent again. RESOURCE_EXHAUSTED is one, too, if its
details have a RetryInfo."""
_RETRY_INFO: Final = b"google.rpc.RetryInfo"

_HTTP_AGAIN: Final = (b"429", b"502", b"503", b"504")
"""The HTTP statuses of something before the server that gRPC maps to UNAVAILABLE."""

Headers = dict[bytes, bytes]


class GrpcClient(Breakable):
    """A client of one method. It is a Client (:mod:`criproxy.otlp.answer`)."""

    def __init__(
        self, method: bytes, endpoint: str, headers: Mapping[str, str], timeout: float
    ) -> None:
        """``headers`` are the metadata of each call, which may take ``timeout`` seconds.

        Raises UsageError for what is no HTTP URL, or one with a path.
        """
        super().__init__()
        url = parse_endpoint(endpoint, _EXAMPLE)
        if url.target not in (b"", b"/"):
            raise UsageError(
                f"otlp endpoint {endpoint!r} has a path, which gRPC does not use; "
                f"write it like {_EXAMPLE}"
            )
        self._address = url.host.decode().strip("[]"), url.origin.port
        self._tls = _tls_context() if url.scheme == b"https" else None
        self._timeout = timeout
        port = b"" if url.port is None else b":%d" % url.port
        self._headers = [
            (b":method", b"POST"),
            (b":scheme", url.scheme),
            (b":path", method),
            (b":authority", url.host + port),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"grpc-timeout", b"%dm" % max(1, min(round(timeout * 1000), 99_999_999))),
            (b"user-agent", f"criproxy/{__version__}".encode()),
            *((name.lower().encode(), value.encode()) for name, value in headers.items()),
        ]
        self._pauses = Pauses()

    def post(self, body: bytes) -> Answer:
        """See Client."""
        try:
            exchange = self._exchange(_PREFIX.pack(False, len(body)) + body)
        except Exception as error:  # h2's have no common base class with OSErrors
            return self._pauses.unavailable(str(error) or type(error).__name__)
        finally:
            self._socket = None
        status = exchange.headers.get(b":status", b"")
        code, message = _status_of(exchange.headers)
        if code is None and status != b"200":
            because = f"it answered with the HTTP status {status.decode('latin-1')}"
            if status in _HTTP_AGAIN:
                return self._pauses.unavailable(because)
            return Answer(Outcome.REJECTED, because=f"{because}; is it an endpoint of gRPC?")
        if code is None:
            return self._pauses.unavailable("its answer has no gRPC status")
        because = f"it answered {code.name}" + (f": {message}" if message else "")
        if code in _AGAIN or (
            code is StatusCode.RESOURCE_EXHAUSTED and _asks_for_retry(exchange.headers)
        ):
            return self._pauses.unavailable(because)
        self._pauses.reset()
        if code is not StatusCode.OK:
            return Answer(Outcome.REJECTED, because=because)
        return Answer(Outcome.ACCEPTED, bytes(exchange.data[_PREFIX.size :]))

    def close(self) -> None:
        """See Client; no connection is kept."""

    def _exchange(self, message: bytes) -> "_Exchange":
        deadline = monotonic() + self._timeout
        with socket.create_connection(self._address, self._timeout) as plain:
            self._use(plain)
            if self._tls is None:
                return _Exchange(plain, deadline).run(self._headers, message)
            with self._tls.wrap_socket(
                plain, server_hostname=self._address[0], do_handshake_on_connect=False
            ) as encrypted:
                self._use(encrypted)
                encrypted.do_handshake()
                return _Exchange(encrypted, deadline).run(self._headers, message)


class _Exchange:
    """One call on a connection of its own."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.headers: Headers = {}
        """Of the response, and of its trailers."""
        self.data = bytearray()
        """The response's messages, with their prefixes."""
        self._sock = sock
        self._deadline = deadline
        self._ended = False
        self._stream = 0
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )

    def run(self, headers: Iterable[tuple[bytes, bytes]], message: bytes) -> "_Exchange":
        """Send a request and read the response. Raises OSError and h2's exceptions."""
        self._h2.initiate_connection()
        stream = self._stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, headers)
        left = memoryview(message)
        while not self._ended:
            while left and not self._ended and (room := self._room(stream)):
                self._h2.send_data(stream, left[:room].tobytes(), end_stream=len(left) <= room)
                left = left[room:]
            self._flush()
            self._receive()
        return self

    def _room(self, stream: int) -> int:
        window = self._h2.local_flow_control_window(stream)
        return max(0, min(window, self._h2.max_outbound_frame_size))

    def _flush(self) -> None:
        self._limit_time()
        self._sock.sendall(self._h2.data_to_send())

    def _receive(self) -> None:
        self._limit_time()
        data = self._sock.recv(_CHUNK)
        if not data:
            raise ConnectionError("it closed the connection without an answer")
        for event in self._h2.receive_data(data):
            self._apply(event)

    def _apply(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.headers |= dict(event.headers or ())
        elif isinstance(event, h2.events.DataReceived):
            self.data += event.data or b""
            if len(self.data) > _LARGEST_ANSWER:
                raise ConnectionError(f"its answer is larger than {_LARGEST_ANSWER} bytes")
            length = event.flow_controlled_length or 0
            if length and event.stream_id is not None:
                self._h2.acknowledge_received_data(length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._ended = True
        elif isinstance(event, h2.events.StreamReset):
            if b"grpc-status" not in self.headers:
                raise ConnectionError(f"it reset the stream with the code {event.error_code}")
            self._ended = True
        elif isinstance(event, h2.events.ConnectionTerminated) and (
            (event.last_stream_id or 0) < self._stream
        ):
            raise ConnectionError(f"it sent GOAWAY with the code {event.error_code}")

    def _limit_time(self) -> None:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    return context


def _status_of(headers: Headers) -> tuple[StatusCode | None, str]:
    """Return the gRPC code and message; None where there is no code."""
    text = headers.get(b"grpc-status", b"")
    if not text.isdigit():
        return None, ""
    try:
        code = StatusCode(int(text))
    except ValueError:
        code = StatusCode.UNKNOWN
    return code, parse_message(headers.get(b"grpc-message", b""))[:_LONGEST_MESSAGE]


def _asks_for_retry(headers: Headers) -> bool:
    encoded = headers.get(b"grpc-status-details-bin", b"")
    try:
        return _RETRY_INFO in b64decode(encoded + b"=" * (-len(encoded) % 4))
    except ValueError:
        return False
