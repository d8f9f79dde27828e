"""One call of a split connection: a stream of the client's and one of an upstream's."""

from collections import deque
from contextlib import suppress
from typing import Final

from h2.errors import ErrorCodes
from h2.exceptions import H2Error, StreamClosedError

from criproxy.relay.connections.h2_peer import PeerConnection
from criproxy.wire.grpc import MessageCounter, StatusCode
from criproxy.wire.http2.frames import is_informational

Headers = list[tuple[bytes, bytes]]

_RESPONSE_FIELDS: Final = (b":status", b"content-type")
"""What trailers do not have of a response that consists of them alone."""


_RECORDED: Final = 64 << 10
"""Bytes of a request that are kept to be sent again; those of reads are a filter or an id."""

_PIECE: Final = 64
"""Bytes that a piece of data counts for beside its own."""


class Exchange:
    """One call: the client's stream and, once it has one, the upstream's."""

    def __init__(
        self,
        client: PeerConnection,
        stream: int,
        *,
        image: bool,
        repeats: bool,
        endless: bool,
    ) -> None:
        """``repeats``: it may be made again if its upstream is lost before it answers.

        ``endless``: so may it after whole messages of the response, which go on with those of the
        next upstream.
        """
        self.image = image
        """Whether it is a call of the image service."""
        self._repeats = repeats
        self._endless = endless
        self._restarted = False
        self._sides: dict[PeerConnection, int] = {client: stream}
        self._client = client
        self.request = Direction(client, stream)
        if repeats:
            self.request.record()
        self.response: Direction | None = None
        client.exchanges[stream] = self

    def flow_from(self, peer: PeerConnection) -> "Direction":
        """Return the direction of which ``peer`` is the source."""
        if peer is self._client:
            return self.request
        assert self.response is not None
        return self.response

    def join(self, upstream: PeerConnection) -> None:
        """Open the upstream's stream and forward the request, unless the client has reset it."""
        stream = self._sides[self._client]
        if self._client.exchanges.get(stream) is not self:
            return
        theirs = upstream.h2.get_next_available_stream_id()
        self._sides[upstream] = theirs
        upstream.exchanges[theirs] = self
        self.request.sink, self.request.sink_stream = upstream, theirs
        resumed = self.response is not None
        self.response = Direction(upstream, theirs)
        self.response.sink, self.response.sink_stream = self._client, stream
        if self._endless:
            self.response.messages = MessageCounter()
        if resumed:
            self.response.resume()
        self.pump()

    def restart(self) -> bool:
        """Prepare to be made again on another upstream, this one being lost.

        Returns False if that cannot be: the call may change something, or the client has had some
        of the response already.
        """
        begun = self.response is not None and self.response.begun
        if not self._repeats or self.request.recorded is None:
            return False
        if begun:
            assert self.response is not None
            if not self._endless or not self.response.is_between_messages:
                return False
        elif self._restarted and not self._endless:
            return False  # it may be what the upstream crashes from
        self._restarted = True
        for peer, stream in list(self._sides.items()):
            if peer is not self._client:
                del self._sides[peer]
                peer.exchanges.pop(stream, None)
        self.request.rewind()
        if not begun:
            self.response = None
        return True

    def pump(self) -> None:
        """Forward what the windows allow, in both directions."""
        try:
            for flow in (self.request, self.response):
                if flow is not None:
                    flow.pump()
        except StreamClosedError:
            self.abandon(ErrorCodes.CANCEL)
        except H2Error:  # over the upstream's MAX_CONCURRENT_STREAMS
            self.abandon(ErrorCodes.REFUSED_STREAM)
        else:
            if self.response is not None and self.response.ended and self.request.ended:
                self._forget()

    def abandon(self, code: ErrorCodes) -> None:
        """Reset the streams that are still open, and remove the exchange."""
        for peer, stream in self._sides.items():
            if not peer.closed.done():
                with suppress(H2Error):
                    peer.h2.reset_stream(stream, code)
        self._forget()

    def refuse(self) -> None:
        """Reset both streams, the client's with ENHANCE_YOUR_CALM (RESOURCE_EXHAUSTED)."""
        with suppress(H2Error):
            self._client.h2.reset_stream(self._sides[self._client], ErrorCodes.ENHANCE_YOUR_CALM)
        self.abandon(ErrorCodes.CANCEL)

    def fail(self, message: str) -> None:
        """End the client's stream with UNAVAILABLE, in the upstream's place."""
        trailers = [
            (b"grpc-status", b"%d" % StatusCode.UNAVAILABLE),
            (b"grpc-message", message.encode("ascii", "replace")),
        ]
        if self.response is None or not self.response.begun:
            trailers[:0] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        with suppress(H2Error):
            self._client.h2.send_headers(self._sides[self._client], trailers, end_stream=True)
        self.abandon(ErrorCodes.NO_ERROR)

    def _forget(self) -> None:
        for peer, stream in self._sides.items():
            peer.exchanges.pop(stream, None)
        for flow in (self.request, self.response):
            if flow is not None:
                flow.drop()


class Direction:
    """One direction of an exchange: what the source has sent and the sink has not been sent yet."""

    def __init__(self, source: PeerConnection, stream: int) -> None:
        self._source = source
        self._stream = stream
        self.sink: PeerConnection | None = None
        self.sink_stream = 0
        self.begun = False
        """Whether the sink was sent headers, other than informational ones."""
        self.ended = False
        self._waiting: deque[Headers | bytes] = deque()
        self._credits: deque[int] = deque()  # flow-controlled bytes of each piece of data
        self._end_waits = False
        self._resumed = False
        self.recorded: list[Headers | bytes] | None = None
        """All that the source has sent; None if that is not recorded, or too much."""
        self.messages: MessageCounter | None = None

    def record(self) -> None:
        """Keep what the source sends from now on, to be able to :meth:`rewind`."""
        self.recorded = []
        self._room = _RECORDED

    def rewind(self) -> None:
        """Send all that was recorded again, to a sink that is yet to be set."""
        assert self.recorded is not None
        self.drop()
        self.sink = None
        self.begun = self.ended = False
        self._waiting.extend(self.recorded)
        self._credits.extend(0 for item in self.recorded if isinstance(item, bytes))

    def resume(self) -> None:
        """Go on with a response whose headers the sink has from an earlier source."""
        self.begun = self._resumed = True

    @property
    def is_between_messages(self) -> bool:
        """Whether all that came are whole messages, and the sink has them all."""
        return not self._waiting and self.messages is not None and self.messages.at_boundary

    def add_headers(self, headers: Headers) -> None:
        """Append headers or trailers of the source."""
        if self._resumed:
            if is_informational(headers):
                return
            self._resumed = False
            if not any(name == b"grpc-status" for name, _ in headers):
                return
            headers = [each for each in headers if each[0] not in _RESPONSE_FIELDS]
        if self.recorded is not None:
            self.recorded.append(headers)
        self._waiting.append(headers)

    def add_data(self, data: bytes, credit: int) -> None:
        """Append data of the source; ``credit``: its flow-controlled bytes."""
        if self.messages is not None:
            self.messages.feed(data, 0, len(data))
        if self.recorded is not None:
            self._room -= len(data) + _PIECE
            self.recorded.append(data)
            if self._room < 0:
                self.recorded = None
        self._waiting.append(data)
        self._credits.append(credit)

    def add_end(self) -> None:
        """End the direction behind what was appended."""
        self._end_waits = True

    def pump(self) -> None:
        """Forward what the sink's windows allow. Raises H2Error if it refuses a frame."""
        if self.sink is None or self.ended:
            return
        h2 = self.sink.h2
        while self._waiting:
            item = self._waiting[0]
            if isinstance(item, bytes):
                room = h2.local_flow_control_window(self.sink_stream)
                size = min(len(item), room, h2.max_outbound_frame_size)
                if not size and item:
                    return
                self._waiting.popleft()
                last = size == len(item) and self._is_last()
                h2.send_data(self.sink_stream, item[:size], end_stream=last)
                if size < len(item):
                    self._waiting.appendleft(item[size:])
                    continue
                self._source.acknowledge(self._credits.popleft(), self._stream)
            else:
                self._waiting.popleft()
                last = self._is_last()
                h2.send_headers(self.sink_stream, item, end_stream=last)
                self.begun = self.begun or not is_informational(item)
            self.ended = last
        if self._end_waits and not self.ended:
            h2.end_stream(self.sink_stream)
            self.ended = True

    def drop(self) -> None:
        """Discard what waits, and open the source's window for it."""
        self._waiting.clear()
        while self._credits:
            self._source.acknowledge(self._credits.popleft(), self._stream)

    def _is_last(self) -> bool:
        return self._end_waits and not self._waiting
