"""Exports a cassette as packets: HTTP/2 frames are made again from calls and messages.

The order and the times are those of the recording; what a cassette does not have is made up:
headers beyond path, timeout and status, SETTINGS, and windows without end. A unary request ends
with its message.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from struct import pack
from typing import Final

from criproxy import __version__
from criproxy.cassette import pcapng
from criproxy.cassette.pcapng import TcpConnection
from criproxy.cassette.records import (
    AnyRecord,
    Began,
    CallBegan,
    CallEnded,
    ConnectionClosed,
    ConnectionOpened,
    Dropped,
    MessagePassed,
)
from criproxy.cri.methods import METHODS
from criproxy.wire.constants import (
    DEFAULT_WINDOW,
    FLAG_ACK,
    LARGEST_WINDOW,
    PREFACE,
    SETTINGS,
    SETTINGS_INITIAL_WINDOW_SIZE,
    ErrorCode,
)
from criproxy.wire.grpc import StatusCode
from criproxy.wire.http2 import frame_builder
from criproxy.wire.reading.calls import End

_RESETS: Final = {
    "CANCELLED": ErrorCode.CANCEL,
    "DEADLINE_EXCEEDED": ErrorCode.CANCEL,
    "RESOURCE_EXHAUSTED": ErrorCode.ENHANCE_YOUR_CALM,
    "UNAVAILABLE": ErrorCode.REFUSED_STREAM,
}
"""The error codes of RST_STREAM for codes of gRPC; INTERNAL_ERROR for any other."""

_SETTINGS: Final = frame_builder.frame(
    SETTINGS, 0, 0, pack(">HI", SETTINGS_INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
) + frame_builder.window_update(0, LARGEST_WINDOW - DEFAULT_WINDOW)
_ACK: Final = frame_builder.frame(SETTINGS, FLAG_ACK, 0, b"")


@dataclass(slots=True)
class _Call:
    connection: int
    stream: int
    path: str
    request_ended: bool = False
    headers_sent: bool = False


class PacketExport:
    """Converts records to the bytes of a pcapng file."""

    def __init__(self, began: Began) -> None:
        self._began = began
        self._connections: dict[int, TcpConnection] = {}
        self._calls: dict[int, _Call] = {}

    def header(self) -> bytes:
        """Return the beginning of the file."""
        began = self._began
        application = f"criproxy {__version__}"
        return pcapng.header(application, began.listener or "cassette", began.runtime)

    def footer(self) -> bytes:
        """Return the end of the file: nothing."""
        return b""

    def convert(self, record: AnyRecord) -> Iterator[bytes]:
        """Yield what stands for a record; call it with all records, in order."""
        match record:
            case ConnectionOpened():
                who = f"{record.executable} (pid {record.pid}, uid {record.uid})"
                yield from self._open(record.connection, record.at, who)
            case ConnectionClosed():
                connection = self._connections.pop(record.connection, None)
                if connection is not None:
                    yield from self._packets(record.at, connection.close())
            case CallBegan():
                yield from self._begin(record)
            case MessagePassed():
                yield from self._message(record)
            case CallEnded():
                yield from self._end(record)
            case Dropped():
                text = f"{record.records} records are missing before this packet"
                yield from self._note(record.at, text)
            case _:
                pass

    def _open(self, number: int, at: int, comment: str) -> Iterator[bytes]:
        connection = self._connections[number] = TcpConnection(number)
        client = connection.send(False, PREFACE + _SETTINGS)
        runtime = connection.send(True, _SETTINGS + _ACK)
        packets = chain(connection.open(), client, runtime, connection.send(False, _ACK))
        yield from self._packets(at, packets, comment)

    def _begin(self, record: CallBegan) -> Iterator[bytes]:
        if record.connection not in self._connections:  # the record of its opening was lost
            yield from self._open(record.connection, record.at, "")
        call = _Call(record.connection, record.stream, record.path)
        self._calls[record.call] = call
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", record.path.encode("latin-1", "replace")),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        if record.timeout:
            fields.append((b"grpc-timeout", record.timeout.encode("latin-1", "replace")))
        block = frame_builder.literal_headers(record.stream, fields, False)
        yield from self._send(call, record.at, False, block)

    def _message(self, record: MessagePassed) -> Iterator[bytes]:
        call = self._calls.get(record.call)
        if call is None:
            return
        sent = b""
        if record.response and not call.headers_sent:
            call.headers_sent = True
            fields = [(b":status", b"200"), (b"content-type", b"application/grpc")]
            sent += frame_builder.literal_headers(call.stream, fields, False)
        ended = not record.response and call.path in METHODS  # none of them is client-streaming
        call.request_ended |= ended
        comment = ""
        if record.missing:
            comment = f"a message of {record.size} bytes is missing: {record.missing}"
            sent += frame_builder.data(call.stream, b"", ended)
        else:
            prefixed = b"\0" + len(record.data).to_bytes(4, "big") + record.data
            sent += _data(call.stream, prefixed, ended)
        yield from self._send(call, record.at, record.response, sent, comment)

    def _end(self, record: CallEnded) -> Iterator[bytes]:
        call = self._calls.pop(record.call, None)
        if call is None:
            return
        code = _RESETS.get(record.code, ErrorCode.INTERNAL_ERROR)
        reset = frame_builder.reset(call.stream, code)
        if record.end == End.STATUS:
            if not call.request_ended:
                data = frame_builder.data(call.stream, b"", True)
                yield from self._send(call, record.at, False, data)
            status = StatusCode.__members__.get(record.code, StatusCode.UNKNOWN)
            fields = frame_builder.trailers(status, record.message, call.headers_sent)
            block = frame_builder.literal_headers(call.stream, fields, True)
            yield from self._send(call, record.at, True, block)
        elif record.end in (End.RUNTIME_RESET, End.GOAWAY, End.MESSAGE_LIMIT):
            yield from self._send(call, record.at, True, reset, record.message)
        elif record.end == End.CLIENT_RESET:
            yield from self._send(call, record.at, False, reset)

    def _note(self, at: int, text: str) -> Iterator[bytes]:
        """Yield an empty packet of some connection with a comment."""
        for connection in self._connections.values():
            yield from self._packets(at, connection.send(True, b""), text)
            return

    def _send(
        self, call: _Call, at: int, response: bool, data: bytes, comment: str = ""
    ) -> Iterator[bytes]:
        connection = self._connections.get(call.connection)
        if connection is not None:
            yield from self._packets(at, connection.send(response, data), comment)

    def _packets(self, at: int, packets: Iterable[bytes], comment: str = "") -> Iterator[bytes]:
        for each in packets:
            yield pcapng.packet(self._began.began + at, each, comment)
            comment = ""


def _data(stream: int, data: bytes, ended: bool) -> bytes:
    """Return DATA frames of bytes."""
    size = frame_builder.LARGEST_FRAME
    starts = range(0, len(data), size)
    return b"".join(
        frame_builder.data(stream, data[start : start + size], ended and start == starts[-1])
        for start in starts
    )
