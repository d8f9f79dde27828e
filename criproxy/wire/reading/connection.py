"""The streams of one connection, read in both directions, and the events that they make.

Theory. A client opens a stream with HEADERS, sends messages as DATA and half-closes with
END_STREAM. The runtime answers with HEADERS (or none), DATA, and trailers: HEADERS with
END_STREAM. The call is over for the client with the runtime's END_STREAM, with an RST_STREAM of
either side, with a GOAWAY that leaves its stream out, or with the connection; whatever comes
first gives its code, and what still comes for the stream afterwards is of no interest::

                     HEADERS from the client
                               |
                               v          HEADERS, DATA
                       +--- running ---+  of both sides
                       |       ^_______|
                       |
          END_STREAM from the runtime     -> grpc-status, or the :status it came with
          RST_STREAM from the runtime     -> the code that gRPC maps its error to
          RST_STREAM from the client      -> CANCELLED, or DEADLINE_EXCEEDED
          GOAWAY, a lower last stream     -> UNAVAILABLE
          the connection ends             -> UNAVAILABLE (runtime), CANCELLED (client)
                       |
                       v
                     ended

A stream's bytes are read in the order in which they are relayed, so a response is never seen
before its request.
"""

from enum import IntEnum
from math import inf
from operator import attrgetter
from typing import ClassVar, Final, NamedTuple

from criproxy.wire import constants, grpc
from criproxy.wire.constants import ErrorCode
from criproxy.wire.errors import LimitError, ProtocolError, WireError
from criproxy.wire.grpc import MessageCounter, StatusCode
from criproxy.wire.hpack.decoder import Decoder, Header
from criproxy.wire.http2.frames import DEFAULT_HEADER_BLOCK_LIMIT, FrameReader, PartialFrame
from criproxy.wire.reading.calls import Call, End
from criproxy.wire.reading.message_capture import CapturedMessages, MessageCapture, SelectCapture

DEFAULT_STREAM_LIMIT: Final = 10_000
"""Calls in flight that are followed on one connection. Runtimes allow a hundred to a few
thousand; a client that opens more costs its own connection's reading, not memory."""


_CLIENT_GONE: Final = b"the client closed the connection"
_RUNTIME_GONE: Final = b"the runtime closed the connection"


class Side(IntEnum):
    """Whose bytes: the one that sent them."""

    CLIENT = 0
    RUNTIME = 1


class CallBegan(NamedTuple):
    """A request's headers passed."""

    call: Call


class CallEnded(NamedTuple):
    """A call ended; its fields are complete now."""

    call: Call


class ReadingStopped(NamedTuple):
    """The connection is not read any further; its open calls end as UNREAD. Comes last."""

    reason: str
    """One of :data:`criproxy.wire.errors.REASONS`."""
    detail: str


Event = CallBegan | CallEnded | ReadingStopped


class FlowState(NamedTuple):
    """How things stand with what one side sends."""

    window: int
    """Bytes of DATA that the other takes on the whole connection."""
    initial_window: int
    """Bytes that the other takes on a new stream."""
    unacknowledged: tuple[int | None, ...]
    """The same of the other's SETTINGS that have no ACK yet, the oldest first."""
    max_frame_size: int
    decoder: Decoder
    last_stream: int
    """The highest stream that the client has opened."""
    last_served: int
    """The highest stream that the runtime will serve: what its GOAWAY says, if there was one."""


class ConnectionReader:
    """Reads both directions of one HTTP/2 connection in passing.

    Give it every byte with :meth:`receive`, each side's in order, and the connection's end with
    :meth:`end`. Once it has answered with ReadingStopped it ignores what it is given.
    """

    __slots__ = ("_readers", "_streams", "header_block_limit", "reading")

    def __init__(
        self,
        *,
        header_block_limit: int = DEFAULT_HEADER_BLOCK_LIMIT,
        stream_limit: int = DEFAULT_STREAM_LIMIT,
        message_limit: float = inf,
        select_capture: SelectCapture | None = None,
    ) -> None:
        """``header_block_limit`` and ``message_limit`` are in bytes.

        A call with a larger message ends as MESSAGE_LIMIT. A larger header block, or more calls in
        flight than ``stream_limit``, stop the reading. ``select_capture`` returns the capture
        limits of each gRPC call.
        """
        self._streams = streams = _Streams(stream_limit, message_limit, select_capture)
        requests = _Requests(streams)
        responses = _Responses(streams)
        client = FrameReader(requests, preface=True, header_block_limit=header_block_limit)
        runtime = FrameReader(responses, preface=False, header_block_limit=header_block_limit)
        requests.peer, responses.peer = runtime, client
        self._readers = (client, runtime)
        self.header_block_limit = header_block_limit
        self.reading = True
        """Whether bytes are still read."""

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls in flight, in the order in which they began."""
        return tuple(self._streams.open.values())

    @property
    def not_started(self) -> bool:
        """Whether nothing of the client's has come yet."""
        return self._readers[Side.CLIENT].not_started

    def to_boundary(self, side: Side) -> int | None:
        """Bytes until a frame may be put in among what ``side`` sends; None where not known."""
        return self._readers[side].to_boundary if self.reading else None

    def call(self, stream: int) -> Call | None:
        """Return the call in flight on a stream."""
        return self._streams.open.get(stream)

    @property
    def last_stream(self) -> int:
        """The highest stream that the client has opened."""
        return self._streams.last

    def decoder(self, side: Side) -> Decoder:
        """Return the decoder of a side's header blocks; it has decoded all that have been read."""
        return self._readers[side].decoder

    def partial_frame(self, side: Side) -> PartialFrame:
        """Return where in what ``side`` sends the reading stands."""
        return self._readers[side].partial_frame()

    def flow(self, side: Side) -> FlowState:
        """Return how things stand with what ``side`` sends, as far as it has been read."""
        source, sink = self._readers[side], self._readers[1 - side]
        return FlowState(
            constants.DEFAULT_WINDOW + sink.granted - source.flow,
            sink.initial_window,
            tuple(sink.unacknowledged),
            source.max_frame_size,
            source.decoder.copy(),
            self._streams.last,
            self._streams.served,
        )

    def receive(self, side: Side, data: bytes, now: float) -> list[Event]:
        """Read the next bytes that ``side`` sent; ``now`` is when they came, in seconds."""
        if not self.reading:
            return []
        try:
            self._readers[side].read(data, now)
        except WireError as error:
            return self.stop(error.reason, str(error), now)
        return self._take_events() if self._streams.events else []

    def stop(self, reason: str, detail: str, now: float) -> list[Event]:
        """Read no further: for whoever gave the bytes and knows why they cannot be read."""
        self.reading = False
        self._end_all(End.UNREAD, None, b"", now)
        self._streams.events.append(ReadingStopped(reason, detail))
        return self._take_events()

    def end(self, side: Side, now: float) -> list[Event]:
        """End the calls in flight: ``side`` ended the connection for good."""
        if side is Side.CLIENT:
            self._end_all(End.CLIENT_GONE, StatusCode.CANCELLED, _CLIENT_GONE, now)
        else:
            self._end_all(End.RUNTIME_GONE, StatusCode.UNAVAILABLE, _RUNTIME_GONE, now)
        return self._take_events()

    def _end_all(self, end: End, code: StatusCode | None, message: bytes, now: float) -> None:
        for call in self.calls:
            self._streams.finish(call, end, code, message, now)

    def _take_events(self) -> list[Event]:
        streams = self._streams
        events, streams.events = streams.events, []
        return events


class _Streams:
    """The open streams of a connection, and the events that wait to be fetched."""

    __slots__ = ("events", "last", "limit", "message_limit", "open", "select_capture", "served")

    def __init__(
        self, limit: int, message_limit: float, select_capture: SelectCapture | None
    ) -> None:
        self.open: dict[int, Call] = {}
        self.last = 0  # the highest stream that the client has opened
        self.served = constants.LARGEST_STREAM  # and that the runtime will serve
        self.limit = limit
        self.message_limit = message_limit
        self.select_capture = select_capture
        self.events: list[Event] = []

    def finish(
        self, call: Call, end: End, code: StatusCode | None, message: bytes, now: float
    ) -> None:
        del self.open[call.stream]
        call.end = end
        call.code = code
        call.message = message
        call.ended = now
        if call.capture is not None:
            call.capture.end()
        self.events.append(CallEnded(call))

    def refuse(self, call: Call, size: int, now: float) -> None:
        message = b"a message of %d bytes is over the limit of %d" % (size, self.message_limit)
        self.finish(call, End.MESSAGE_LIMIT, StatusCode.RESOURCE_EXHAUSTED, message, now)


class _Direction:
    """What the two directions have in common: SETTINGS speak of what the other may send."""

    __slots__ = ("_streams", "peer")

    peer: FrameReader
    _counter: ClassVar["attrgetter[MessageCounter]"]
    """What a call counts of this direction."""
    _captured: ClassVar["attrgetter[CapturedMessages | None]"]
    """The captured messages of it."""

    def __init__(self, streams: _Streams) -> None:
        self._streams = streams

    def setting(self, identifier: int, value: int) -> None:
        if identifier == constants.SETTINGS_HEADER_TABLE_SIZE:
            self.peer.decoder.allow(value)
        elif identifier == constants.SETTINGS_MAX_FRAME_SIZE:
            if not constants.DEFAULT_MAX_FRAME_SIZE <= value <= constants.LARGEST_MAX_FRAME_SIZE:
                raise ProtocolError(f"SETTINGS_MAX_FRAME_SIZE is {value}")
            self.peer.max_frame_size = max(self.peer.max_frame_size, value)

    def settings_acknowledged(self) -> None:
        self.peer.apply_settings()

    def data(self, stream: int, chunk: bytes, start: int, end: int, now: float) -> None:
        call = self._streams.open.get(stream)
        if call is not None:
            counter = self._counter(call)
            if call.is_grpc:
                if call.capture is not None:
                    captured = self._captured(call.capture)
                    if captured is not None:
                        captured.feed(chunk, start, end)
                counter.feed(chunk, start, end)
                if counter.refused:
                    self._streams.refuse(call, counter.refused, now)
            else:
                counter.bytes += end - start
        elif not 0 < stream <= self._streams.last:
            raise ProtocolError(f"DATA on stream {stream}, which is idle")


class _Requests(_Direction):
    """The client's frames."""

    __slots__ = ()
    _counter = _captured = attrgetter("request")

    def headers(self, stream: int, headers: list[Header], ended: bool, now: float) -> None:
        streams = self._streams
        if stream <= streams.last:
            call = streams.open.get(stream)
            if call is not None and ended:
                call.half_closed = True
            return
        if not stream & 1:
            raise ProtocolError(f"a client opens stream {stream}")
        if len(streams.open) >= streams.limit:
            raise LimitError(f"more than {streams.limit} calls are in flight")
        path = timeout = content_type = b""
        for name, value in headers:
            if name == b":path":
                path = value
            elif name == b"grpc-timeout":
                timeout = value
            elif name == b"content-type":
                content_type = value
        streams.last = stream
        is_grpc = content_type.startswith(b"application/grpc")
        call = Call(stream, path, timeout, is_grpc, now, streams.message_limit)
        call.half_closed = ended
        if streams.select_capture is not None and is_grpc:
            limits = streams.select_capture(path)
            if limits is not None:
                call.capture = MessageCapture(limits, streams.message_limit)
                if call.capture.request is not None:
                    call.capture.request.encoding = _encoding(headers)
        streams.open[stream] = call
        streams.events.append(CallBegan(call))

    def data_ended(self, stream: int, now: float) -> None:
        call = self._streams.open.get(stream)
        if call is not None:
            call.half_closed = True

    def reset(self, stream: int, code: int, now: float) -> None:
        call = self._streams.open.get(stream)
        if call is None:
            return
        if code not in (ErrorCode.CANCEL, ErrorCode.NO_ERROR):
            status = grpc.code_of_reset(code)
        elif call.past_deadline(now):
            status = StatusCode.DEADLINE_EXCEEDED
        else:
            status = StatusCode.CANCELLED
        self._streams.finish(call, End.CLIENT_RESET, status, b"", now)

    def goaway(self, last_stream: int, code: int, now: float) -> None:
        """A client's GOAWAY speaks of the runtime's streams; it opens none."""


class _Responses(_Direction):
    """The runtime's frames."""

    __slots__ = ()
    _counter = _captured = attrgetter("response")

    def headers(self, stream: int, headers: list[Header], ended: bool, now: float) -> None:
        streams = self._streams
        call = streams.open.get(stream)
        if call is None:
            if not 0 < stream <= streams.last:
                raise ProtocolError(f"a response on stream {stream}, which is idle")
            return
        if call.first_byte is None:
            call.first_byte = now
        if ended:
            self._trailers(call, headers, now)
        elif not call.http_status:
            for name, value in headers:
                if name == b":status":
                    if not value.startswith(b"1"):  # informational: the response is yet to come
                        call.http_status = value
                        if call.capture is not None and call.capture.response is not None:
                            call.capture.response.encoding = _encoding(headers)
                    break

    def _trailers(self, call: Call, headers: list[Header], now: float) -> None:
        status: StatusCode | None = None
        message = b""
        for name, value in headers:
            if name == b"grpc-status":
                status = grpc.parse_status(value)
            elif name == b"grpc-message":
                message = value
            elif name == b":status":
                call.http_status = value
        if status is None:
            status = grpc.code_of_http(call.http_status)
            message = b"no grpc-status, :status " + call.http_status
        self._streams.finish(call, End.STATUS, status, message, now)

    def data_ended(self, stream: int, now: float) -> None:
        call = self._streams.open.get(stream)
        if call is not None:
            if call.http_status in (b"", b"200"):
                code, message = StatusCode.INTERNAL, b"the stream ended without trailers"
            else:
                code = grpc.code_of_http(call.http_status)
                message = b"no grpc-status, :status " + call.http_status
            self._streams.finish(call, End.STATUS, code, message, now)

    def reset(self, stream: int, code: int, now: float) -> None:
        call = self._streams.open.get(stream)
        if call is None:
            return
        status = grpc.code_of_reset(code)
        if status is StatusCode.CANCELLED and call.past_deadline(now):
            status = StatusCode.DEADLINE_EXCEEDED
        name = ErrorCode(code).name if code in ErrorCode.__members__.values() else hex(code)
        self._streams.finish(
            call, End.RUNTIME_RESET, status, b"stream reset: " + name.encode(), now
        )

    def goaway(self, last_stream: int, code: int, now: float) -> None:
        streams = self._streams
        streams.served = last_stream
        for call in [call for number, call in streams.open.items() if number > last_stream]:
            streams.finish(call, End.GOAWAY, StatusCode.UNAVAILABLE, b"the runtime is going", now)


def _encoding(headers: list[Header]) -> bytes:
    """Return how the compressed messages behind these headers are compressed."""
    for name, value in headers:
        if name == b"grpc-encoding":
            return value
    return b""
