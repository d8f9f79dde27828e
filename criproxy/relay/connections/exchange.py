"""One call of a split connection: a stream of the client's and one of an upstream's."""

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from criproxy.relay.connections.h2_peer import PeerConnection
from criproxy.wire.grpc import MessageCounter, StatusCode
from criproxy.wire.http2.frame_builder import trailers
from criproxy.wire.http2.frames import is_informational

if TYPE_CHECKING:
    from criproxy.relay.connections.upstream import Upstream

Headers = list[tuple[bytes, bytes]]

_RESPONSE_FIELDS: Final = (b":status", b"content-type")
"""What trailers do not have of a response that consists of them alone."""

_FIELD_OVERHEAD: Final = 32
"""Bytes that a field counts for beside its name and value (RFC 9113 section 6.5.2)."""

_RECORDED: Final = 64 << 10
"""Bytes of a request that are kept to be sent again; those of reads are a filter or an id."""

_PIECE: Final = 64
"""Bytes that a recorded piece of data counts for beside its own."""

_JOINED: Final = 16 << 10
"""Bytes of data that waits up to which more is appended to it, instead of a piece of its own."""


def size_of(headers: Headers) -> int:
    """Return what a header list counts for, in bytes."""
    return sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in headers)


class Exchange:
    """One call: the client's stream and, once it has one, the upstream's."""

    def __init__(
        self,
        client: PeerConnection,
        stream: int,
        headers: Headers,
        upstream: "Upstream",
        *,
        deadline: float | None,
        repeats: bool,
        endless: bool,
    ) -> None:
        """``upstream`` is the one that serves it. ``deadline``: the client's, on the loop's clock.

        ``repeats``: it may be made again if its upstream is lost before it answers. ``endless``: so
        may it after whole messages of the response, which go on with those of the next connection.
        """
        self.upstream = upstream
        self.deadline = deadline
        self._repeats = repeats
        self._endless = endless
        self._restarted = False
        self._client, self._stream = client, stream
        self._server: PeerConnection | None = None  # None while it waits, and once that has left
        self._server_stream = 0
        self._late_reset: int | None = None  # for the client, behind the complete response
        self.request = Direction()
        self.request.source, self.request.source_stream = client, stream
        if repeats:
            self.request.record()
        self.response = Direction()
        self.response.sink, self.response.sink_stream = client, stream
        client.exchanges[stream] = self
        self.request.add_headers(headers)
        self.size = size_of(headers)
        """What its headers count for, in bytes."""

    @property
    def is_open(self) -> bool:
        """Whether the client waits for its end."""
        return self._client.exchanges.get(self._stream) is self

    def flow_from(self, peer: PeerConnection) -> "Direction":
        """Return the direction of which ``peer`` is the source."""
        return self.request if peer is self._client else self.response

    def join(self, server: PeerConnection) -> None:
        """Open a stream on a connection of the upstream's, and forward the request."""
        stream = server.h2.get_next_available_stream_id()
        self._server, self._server_stream = server, stream
        server.exchanges[stream] = self
        self.request.sink, self.request.sink_stream = server, stream
        self.response.begin(server, stream)
        if self._endless:
            self.response.messages = MessageCounter()
        self.pump()

    def restart(self) -> bool:
        """Prepare to be made again on another connection, its own being lost.

        Returns False if that cannot be: the call may change something, or the client has had some
        of the response already.
        """
        if not self._repeats or self.request.recorded is None:
            return False
        if self.response.is_headed:
            if not self._endless or not self.response.is_between_messages:
                return False
        elif self._restarted and not self._endless:
            return False  # it may be what the upstream crashes from
        self._restarted = True
        self._leave(None)
        self.request.rewind()
        return True

    def pump(self) -> None:
        """Forward what the windows allow, in both directions."""
        try:
            self.request.pump()
            self.response.pump()
            if self._late_reset is not None and self.response.ended:
                if not self.request.is_complete:
                    self._client.h2.reset_stream(self._stream, self._late_reset)
                self._forget()
        except H2Error:
            self.abandon(ErrorCodes.CANCEL, ErrorCodes.CANCEL)
        else:
            if self.response.ended and self.request.ended:
                self._forget()

    def reset_by(self, peer: PeerConnection, code: int) -> None:
        """Handle a peer's RST_STREAM.

        A server may reset a stream whose request it does not need the rest of, once its response is
        complete (RFC 9113 section 8.1): the client gets both, in this order.
        """
        if peer is self._client:
            self.abandon(None, code)
        elif self.response.is_complete:
            self._end_behind_response(code)
        else:
            with suppress(H2Error):
                self.response.pump()
            self.abandon(code, None)

    def lose_server(self, message: str) -> None:
        """Handle the loss of the upstream's connection, where it is not made again."""
        if self.response.is_complete:
            self._end_behind_response(ErrorCodes.NO_ERROR)
            self.pump()
        else:
            self.fail(message)

    def abandon(self, to_client: int | None, to_server: int | None) -> None:
        """Reset both streams, as far as there is a code for them, and remove the exchange."""
        self._leave(to_server)
        if to_client is not None and not self._client.closed.done():
            with suppress(H2Error):
                self._client.h2.reset_stream(self._stream, to_client)
        self._forget()

    def refuse(self, code: int) -> None:
        """Reset the client's stream with ``code``, and cancel the upstream's."""
        self.abandon(code, ErrorCodes.CANCEL)

    def fail(self, message: str, code: StatusCode = StatusCode.UNAVAILABLE) -> None:
        """End the client's stream with a status in the upstream's place, behind what waits."""
        self._leave(ErrorCodes.CANCEL)
        response = self.response
        if not response.is_complete:
            response.finish(trailers(code, message, response.is_headed))
        self._end_behind_response(ErrorCodes.NO_ERROR)
        self.pump()

    def _end_behind_response(self, code: int) -> None:
        """Forward the rest of a complete response, then reset the client's stream if it is open."""
        self._leave(None)
        self.upstream.remove(self)
        self.request.discard()
        self._late_reset = code

    def _leave(self, code: int | None) -> None:
        """Have no stream at the upstream any more; ``code``: that of its reset."""
        server, self._server = self._server, None
        if server is None:
            return
        server.exchanges.pop(self._server_stream, None)
        self.request.sink = None
        if code is not None and not server.closed.done():
            with suppress(H2Error):
                server.h2.reset_stream(self._server_stream, code)

    def _forget(self) -> None:
        self._leave(None)
        self._client.exchanges.pop(self._stream, None)
        self.upstream.remove(self)
        self.request.drop()
        self.response.drop()


class Direction:
    """One direction of an exchange: what the source has sent and the sink has not been sent yet."""

    def __init__(self) -> None:
        self.source: PeerConnection | None = None
        self.source_stream = 0
        self.sink: PeerConnection | None = None
        self.sink_stream = 0
        self.is_headed = False
        """Whether headers came that are not informational (1xx)."""
        self.is_complete = False
        """Whether the source has ended it."""
        self.ended = False
        """Whether the sink has been sent the end."""
        self._waiting: deque[Headers | bytearray] = deque()
        self._unacknowledged = 0  # bytes of data that the source's windows do not have back yet
        self._resumes = False
        self._discards = False
        self.recorded: list[Headers | bytes] | None = None
        """All that the source has sent; None if that is not recorded, or too much."""
        self._room = _RECORDED
        self.messages: MessageCounter | None = None

    def record(self) -> None:
        """Keep what the source sends from now on, to be able to :meth:`rewind`."""
        self.recorded = []

    def rewind(self) -> None:
        """Send all that was recorded again, to a sink that is yet to be set."""
        assert self.recorded is not None
        self.drop()
        self.ended = False
        self._waiting.extend(bytearray(e) if isinstance(e, bytes) else e for e in self.recorded)

    def begin(self, source: PeerConnection, stream: int) -> None:
        """Continue with a source, which sends headers anew that the sink may have already."""
        self.drop()
        self.source, self.source_stream = source, stream
        self._resumes = self.is_headed

    def discard(self) -> None:
        """Discard what waits and what is still to come."""
        self.drop()
        self.sink = None
        self._discards = True

    def finish(self, headers: Headers) -> None:
        """End it behind what waits, in the source's place."""
        self._waiting.append(headers)
        self.is_complete = True

    @property
    def is_between_messages(self) -> bool:
        """Whether all that came are whole messages, and the sink has them all."""
        return not self._waiting and self.messages is not None and self.messages.at_boundary

    def add_headers(self, headers: Headers) -> None:
        """Append headers or trailers of the source."""
        if self._discards:
            return
        informational = is_informational(headers)
        if self._resumes:
            if informational:
                return
            self._resumes = False
            if not any(name == b"grpc-status" for name, _ in headers):
                return
            headers = [each for each in headers if each[0] not in _RESPONSE_FIELDS]
        self.is_headed |= not informational
        self._record(headers, size_of(headers))
        self._waiting.append(headers)

    def add_data(self, data: bytes, length: int) -> None:
        """Append data of the source; ``length``: its flow-controlled bytes, with padding."""
        kept = 0 if self._discards else len(data)
        if self.source is not None:
            self.source.acknowledge(length - kept, self.source_stream)
        if not kept:
            return
        if self.messages is not None:
            self.messages.feed(data, 0, len(data))
        self._record(data, len(data) + _PIECE)
        self._unacknowledged += kept
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, bytearray) and len(last) < _JOINED:
            last += data
        else:
            self._waiting.append(bytearray(data))

    def _record(self, item: Headers | bytes, size: int) -> None:
        if self.recorded is not None:
            self._room -= size
            self.recorded.append(item)
            if self._room < 0:
                self.recorded = None

    def pump(self) -> None:
        """Forward what the sink's windows allow. Raises H2Error if it refuses a frame."""
        sink = self.sink
        if sink is None or self.ended or sink.closed.done():
            return
        h2 = sink.h2
        while self._waiting:
            item = self._waiting[0]
            if isinstance(item, bytearray):
                room = h2.local_flow_control_window(self.sink_stream) if sink.writable else 0
                size = min(len(item), room, h2.max_outbound_frame_size)
                if size <= 0:  # a window is negative after SETTINGS that made it smaller
                    return
                piece = bytes(item[:size])
                del item[:size]
                if not item:
                    self._waiting.popleft()
                self.ended = self.is_complete and not self._waiting
                h2.send_data(self.sink_stream, piece, end_stream=self.ended)
                self._acknowledge(size)
            else:
                self._waiting.popleft()
                self.ended = self.is_complete and not self._waiting
                h2.send_headers(self.sink_stream, item, end_stream=self.ended)
        if self.is_complete and not self.ended:
            self.ended = True
            h2.end_stream(self.sink_stream)

    def drop(self) -> None:
        """Discard what waits, and open the source's window for it."""
        self._waiting.clear()
        self._acknowledge(self._unacknowledged)

    def _acknowledge(self, size: int) -> None:
        size = min(size, self._unacknowledged)  # less than what is sent of a recorded request
        self._unacknowledged -= size
        if size and self.source is not None:
            self.source.acknowledge(size, self.source_stream)
