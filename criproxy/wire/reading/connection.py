"""Reads both directions of a relayed connection and reports its calls as events.

A client opens a stream with HEADERS, sends messages as DATA and half-closes with END_STREAM. The
runtime answers with HEADERS (or none), DATA, and trailers: HEADERS with END_STREAM. The first of
these ends the call and gives its code; later frames of the stream are ignored::

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

Bytes are read in the order in which they are relayed, so a response is read after its request.
"""

from enum import IntEnum
from itertools import takewhile
from math import inf
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from criproxy.wire import constants, grpc
from criproxy.wire.constants import ErrorCode
from criproxy.wire.errors import HTTP1Error, LimitError, NotHTTP2Error, ProtocolError, WireError
from criproxy.wire.grpc import MessageCounter, StatusCode
from criproxy.wire.hpack.decoder import (
    DEFAULT_FIELD_LIMIT,
    DEFAULT_LIST_LIMIT,
    Decoder,
    Header,
)
from criproxy.wire.http1 import SwitchScanner
from criproxy.wire.http2.frame_counter import FrameCounter
from criproxy.wire.http2.frames import (
    DEFAULT_HEADER_BLOCK_LIMIT,
    FrameReader,
    PartialFrame,
    is_informational,
)
from criproxy.wire.reading.calls import Call, End
from criproxy.wire.reading.message_capture import CapturedMessages, MessageCapture, SelectCapture

DEFAULT_STREAM_LIMIT: Final = 10_000
"""Maximum calls in flight on one connection; with more, its reading stops. Runtimes allow a hundred
to a few thousand."""


_CALL_OVERHEAD: Final = 8
"""Overhead frames that an answered call accounts for. A grpc-go client sends about four around each
of its calls: WINDOW_UPDATE, and PING with its ACK, to estimate the bandwidth."""

_OVERHEAD_BYTES: Final = 1024
"""Bytes of DATA, in either direction, that account for one overhead frame."""

_LONGEST_TRACEPARENT: Final = 256
"""Bytes of a traceparent that is kept with its call. A valid one has 55, a later version's may have
a few more."""

_CLIENT_GONE: Final = b"the client closed the connection"
_RUNTIME_GONE: Final = b"the runtime closed the connection"


class Side(IntEnum):
    """The sender of bytes, or a direction by its sender."""

    CLIENT = 0
    RUNTIME = 1


class CallBegan:
    """A request's headers were received."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class MessagePassed(NamedTuple):
    """A message is whole, of a call whose messages are reported (see ReportLimits)."""

    call: Call
    side: Side
    data: bytes
    """The message as on the wire, without its prefix."""
    compressed: bool
    """Its compressed flag; the algorithm is the ``encoding`` of the reported direction."""
    at: float
    """When its last byte arrived, in seconds."""


class CallEnded:
    """A call ended; its fields are complete."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class ReadingStopped(NamedTuple):
    """The reading stopped and all open calls ended as UNREAD; the last event."""

    reason: str
    """One of :data:`criproxy.wire.errors.REASONS`."""
    detail: str


Event = CallBegan | MessagePassed | CallEnded | ReadingStopped


class FlowState(NamedTuple):
    """The flow control state of what one side sends."""

    window: int
    """The receiver's connection window, in bytes."""
    initial_window: int
    """The receiver's initial stream window in force, in bytes."""
    unacknowledged: tuple[int | None, ...]
    """The same of the receiver's unacknowledged SETTINGS, the oldest first; None: not in them."""
    max_frame_size: int
    decoder: Decoder
    last_stream: int
    """The highest stream that the client has opened."""
    last_served: int
    """The last stream of the runtime's GOAWAY; 2^31-1 without one."""


@mypyc_attr(allow_interpreted_subclasses=True)
class ConnectionReader:
    """Reads both directions of one HTTP/2 connection.

    Call :meth:`receive` with every byte of each side in order, and :meth:`end` when the connection
    ends. After it has returned ReadingStopped it ignores all bytes.
    """

    __slots__ = ("_counters", "_readers", "_streams", "header_block_limit", "http1", "reading")

    def __init__(
        self,
        *,
        header_block_limit: int = DEFAULT_HEADER_BLOCK_LIMIT,
        header_list_limit: int = DEFAULT_LIST_LIMIT,
        header_field_limit: int = DEFAULT_FIELD_LIMIT,
        stream_limit: int = DEFAULT_STREAM_LIMIT,
        message_limit: float = inf,
        select_capture: SelectCapture | None = None,
    ) -> None:
        """``header_block_limit`` and ``message_limit`` are in bytes.

        A call with a larger message ends as MESSAGE_LIMIT. A larger header block, or more calls in
        flight than ``stream_limit``, stop the reading. Of a header list of more bytes than
        ``header_list_limit``, or more fields than ``header_field_limit``, the fields within the
        limits are read; one that is too costly stops the reading (see :meth:`Decoder.decode`).
        ``select_capture`` returns the capture limits of each gRPC call.
        """
        self._streams = streams = _Streams(stream_limit, message_limit, select_capture)
        requests = _Requests(streams, Side.CLIENT)
        responses = _Responses(streams, Side.RUNTIME)
        limits = (header_block_limit, header_list_limit, header_field_limit)
        client = FrameReader(requests, True, *limits)
        runtime = FrameReader(responses, False, *limits)
        requests.peer, responses.peer = runtime, client
        self._readers = (client, runtime)
        self._counters: tuple[FrameCounter, FrameCounter] | None = None
        """Once the reading of HTTP/2 has stopped."""
        self.header_block_limit = header_block_limit
        self.reading = True
        """Whether the connection is still read."""
        self.http1: SwitchScanner | None = None
        """What the client has sent, if that is HTTP/1."""

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls in flight, in the order in which they began."""
        return tuple(self._streams.open.values())

    @property
    def has_calls(self) -> bool:
        """Whether calls are in flight."""
        return bool(self._streams.open)

    def calls_after(self, stream: int) -> tuple[Call, ...]:
        """Return the calls in flight of the streams above ``stream``, in order.

        The cost is that of the calls returned, however many others there are.
        """
        latest = reversed(self._streams.open.values())
        return tuple(takewhile(lambda call: call.stream > stream, latest))[::-1]

    @property
    def not_started(self) -> bool:
        """Whether the client has sent nothing yet."""
        return self._readers[Side.CLIENT].not_started

    def to_boundary(self, side: Side) -> int | None:
        """Return the bytes until a frame may be inserted into what ``side`` sends.

        None where it is unknown: see :attr:`FrameReader.to_boundary`.
        """
        return self._readers[side].to_boundary if self.reading else None

    def until_known(self, side: Side) -> int:
        """Return how many bytes of ``side`` may follow before :meth:`to_boundary` can be known.

        0: it is known, or will never be, because the connection is not read any more.
        """
        return self._readers[side].until_known if self.reading else 0

    def call(self, stream: int) -> Call | None:
        """Return the call in flight on a stream."""
        return self._streams.open.get(stream)

    @property
    def overhead(self) -> int:
        """The client's frames that carried nothing, less those that its calls and data explain.

        For :meth:`criproxy.wire.http2.frame_rate.FrameRate.update`.
        """
        client, runtime = self._readers
        streams = self._streams
        overhead = client.overhead_frames + streams.overhead
        answered, data_bytes = streams.answered, client.flow + runtime.flow
        if self._counters is not None:
            unread, responses = self._counters
            overhead += unread.overhead
            answered += responses.ends
            data_bytes += unread.data_bytes + responses.data_bytes
        return overhead - answered * _CALL_OVERHEAD - data_bytes // _OVERHEAD_BYTES

    @property
    def last_stream(self) -> int:
        """The highest stream that the client has opened."""
        return self._streams.last

    @property
    def last_served(self) -> int:
        """The last stream that the runtime's GOAWAY names; 2^31-1 if there was none."""
        return self._streams.served

    def decoder(self, side: Side) -> Decoder:
        """Return the decoder of a side's header blocks, in step with the last one that was read."""
        return self._readers[side].decoder

    def partial_frame(self, side: Side) -> PartialFrame:
        """Return the incomplete frame of ``side`` at which the reading stands."""
        return self._readers[side].partial_frame()

    def flow(self, side: Side) -> FlowState:
        """Return the flow control state of what ``side`` sends."""
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
        """Read the next bytes of ``side``; ``now`` is when they arrived, in seconds."""
        if not self.reading:
            if self._counters is not None:
                self._counters[side].count(data)
            elif self.http1 is not None and side is Side.CLIENT:
                self.http1.feed(data)
            return []
        try:
            self._readers[side].read(data, now)
        except WireError as error:
            if isinstance(error, HTTP1Error) and side is Side.CLIENT:
                self.http1 = SwitchScanner()
                self.http1.feed(error.beginning)
            elif not isinstance(error, NotHTTP2Error):
                self._counters = self._count(Side.CLIENT), self._count(Side.RUNTIME)
            return self.stop(error.reason, str(error), now)
        return self._take_events() if self._streams.events else []

    def _count(self, side: Side) -> FrameCounter:
        """Return what counts the frames of a side from where its reading has stopped."""
        skip, received = self._readers[side].unread()
        counter = FrameCounter(skip, self._streams.last if side is Side.CLIENT else 0)
        counter.count(received)
        return counter

    def stop(self, reason: str, detail: str, now: float) -> list[Event]:
        """Stop the reading; ``reason`` is one of :data:`criproxy.wire.errors.REASONS`."""
        self.reading = False
        self._end_all(End.UNREAD, None, b"", now)
        self._streams.events.append(ReadingStopped(reason, detail))
        return self._take_events()

    def end(self, side: Side, now: float) -> list[Event]:
        """End the calls in flight: ``side`` has closed the connection."""
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
    """The open streams of a connection, and the events not returned yet."""

    __slots__ = (
        "answered",
        "events",
        "last",
        "limit",
        "message_limit",
        "open",
        "overhead",
        "select_capture",
        "served",
    )

    def __init__(
        self, limit: int, message_limit: float, select_capture: SelectCapture | None
    ) -> None:
        self.open: dict[int, Call] = {}
        self.last = 0  # the highest stream that the client has opened
        self.served = constants.LARGEST_STREAM  # the last stream of the runtime's GOAWAY
        self.limit = limit
        self.message_limit = message_limit
        self.select_capture = select_capture
        self.answered = 0  # calls that the runtime ended with a status
        self.overhead = 0  # calls that were denied, and header blocks of streams opened before
        self.events: list[Event] = []

    def finish(
        self, call: Call, end: End, code: StatusCode | None, message: bytes, now: float
    ) -> None:
        del self.open[call.stream]
        call.end = end
        call.code = code
        call.message = message
        call.ended = now
        if end is End.STATUS:
            if call.denied:
                self.overhead += 1
            else:
                self.answered += 1
        if call.capture is not None:
            call.capture.end()
        self.events.append(CallEnded(call))

    def report(self, call: Call, side: Side, reported: CapturedMessages, now: float) -> None:
        for data, compressed in reported.take():
            self.events.append(MessagePassed(call, side, data, compressed, now))

    def refuse(self, call: Call, size: int, now: float) -> None:
        message = b"a message of %d bytes is over the limit of %d" % (size, self.message_limit)
        self.finish(call, End.MESSAGE_LIMIT, StatusCode.RESOURCE_EXHAUSTED, message, now)


class _Direction:
    """Handles the frames that are alike in both directions. SETTINGS apply to the peer."""

    __slots__ = ("_side", "_streams", "peer")

    peer: FrameReader

    def __init__(self, streams: _Streams, side: Side) -> None:
        self._streams = streams
        self._side = side

    def _counter(self, call: Call) -> MessageCounter:
        """Return the message counter of this direction."""
        raise NotImplementedError

    def _captured(self, capture: MessageCapture) -> CapturedMessages | None:
        """Return the captured messages of this direction."""
        raise NotImplementedError

    def _reported(self, capture: MessageCapture) -> CapturedMessages | None:
        """Return the messages of this direction that are reported."""
        raise NotImplementedError

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
                    reported = self._reported(call.capture)
                    if reported is not None:
                        reported.feed(chunk, start, end)
                        if reported.messages:
                            self._streams.report(call, self._side, reported, now)
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

    def _counter(self, call: Call) -> MessageCounter:
        return call.request

    def _captured(self, capture: MessageCapture) -> CapturedMessages | None:
        return capture.request

    def _reported(self, capture: MessageCapture) -> CapturedMessages | None:
        return capture.reported_request

    def headers(self, stream: int, headers: list[Header], ended: bool, now: float) -> None:
        streams = self._streams
        if stream <= streams.last:
            streams.overhead += 1
            call = streams.open.get(stream)
            if call is not None and ended:
                call.half_closed = True
            return
        if not stream & 1:
            raise ProtocolError(f"a client opens stream {stream}")
        if len(streams.open) >= streams.limit:
            raise LimitError(f"more than {streams.limit} calls are in flight")
        path = timeout = content_type = b""
        traceparent: bytes | None = None
        for name, value in headers:
            if name == b":path":
                path = value
            elif name == b"grpc-timeout":
                timeout = value
            elif name == b"content-type":
                content_type = value
            elif name == b"traceparent":
                whole = traceparent is None and len(value) <= _LONGEST_TRACEPARENT
                traceparent = value if whole else b""
        streams.last = stream
        is_grpc = content_type.startswith(b"application/grpc")
        call = Call(stream, path, timeout, is_grpc, now, streams.message_limit)
        call.half_closed = ended
        if traceparent:
            call.traceparent = traceparent
        if streams.select_capture is not None and is_grpc:
            limits = streams.select_capture(path)
            if limits is not None:
                call.capture = capture = MessageCapture(limits, streams.message_limit)
                _set_encoding(capture.request, capture.reported_request, headers)
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
        """Ignore it: a client's GOAWAY is about streams of the runtime, which opens none."""


class _Responses(_Direction):
    """The runtime's frames."""

    __slots__ = ()

    def _counter(self, call: Call) -> MessageCounter:
        return call.response

    def _captured(self, capture: MessageCapture) -> CapturedMessages | None:
        return capture.response

    def _reported(self, capture: MessageCapture) -> CapturedMessages | None:
        return capture.reported_response

    def headers(self, stream: int, headers: list[Header], ended: bool, now: float) -> None:
        streams = self._streams
        call = streams.open.get(stream)
        if call is None:
            if not 0 < stream <= streams.last:
                raise ProtocolError(f"a response on stream {stream}, which is idle")
            return
        if is_informational(headers):
            if ended:
                message = b"the stream ended with an informational response"
                streams.finish(call, End.STATUS, StatusCode.INTERNAL, message, now)
            return
        if call.first_byte is None:
            call.first_byte = now
        if ended:
            self._trailers(call, headers, now)
        elif not call.http_status:
            for name, value in headers:
                if name == b":status":
                    call.http_status = value
                    if call.capture is not None:
                        capture = call.capture
                        _set_encoding(capture.response, capture.reported_response, headers)
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


def _set_encoding(
    captured: CapturedMessages | None, reported: CapturedMessages | None, headers: list[Header]
) -> None:
    """Set the grpc-encoding of a direction by its header list; empty if it has none."""
    for name, value in headers:
        if name == b"grpc-encoding":
            if captured is not None:
                captured.encoding = value
            if reported is not None:
                reported.encoding = value
            return
