"""Relays a client whose image service is another process than its runtime.

One client connection carries calls to both services, so streams are relayed instead of bytes: each
of the three connections is terminated by the `h2` library, and headers, message bytes, trailers,
resets and half-closes are copied from stream to stream. SETTINGS, PING and windows are each
connection's own. Slower than a Pair, and used only if a listener's `image` is not its `runtime`.

Backpressure: a peer's window is opened again only for bytes that have been forwarded, so that at
most one window is buffered per connection. A peer that does not read is not read from either.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, cast

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    PingAckReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error, StreamClosedError
from h2.settings import SettingCodes, Settings

from criproxy.concurrency.tasks import Tasks
from criproxy.peers.peer import Connection
from criproxy.relay.client_rate import ClientRate
from criproxy.relay.connection import RelayedConnection
from criproxy.relay.drain import PING_PAYLOAD, STOPPING
from criproxy.relay.interceptor import RelayInterceptor
from criproxy.relay.notifier import Clock, Notifier
from criproxy.relay.pausable import BACKPRESSURE, PausableProtocol
from criproxy.relay.policy import ActivePolicy
from criproxy.wire.constants import ErrorCode
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import ConnectionReader, Side

WINDOW: Final = 1 << 20
"""Bytes that a peer may send, per connection, before some of them have been forwarded."""

_HEADER_LIST: Final = 1 << 20
"""Bytes of a decoded header list that are accepted."""

_STREAMS: Final = 1000
"""SETTINGS_MAX_CONCURRENT_STREAMS towards a client."""

_IMAGE_SERVICE: Final = b".ImageService/"

Headers = list[tuple[bytes, bytes]]
Dial = Callable[[bool], Coroutine[Any, Any, socket.socket]]
"""Connects to the image service (True) or to the runtime (False). Raises OSError."""


class Split(RelayedConnection):
    """A client's connection and the two upstream connections that serve it."""

    def __init__(
        self,
        connection: Connection,
        reader: ConnectionReader,
        notifier: Notifier,
        clock: Clock,
        dial: Dial,
        tasks: Tasks,
        active_policy: ActivePolicy,
    ) -> None:
        super().__init__(connection, reader, notifier, clock)
        self._active_policy = active_policy
        self._interceptor: RelayInterceptor | None = None  # None until there are rules
        self._released: list[bytes] | None = None  # what it forwards while it receives bytes
        self._client_rate: ClientRate | None = None
        self._dial = dial
        self._tasks = tasks
        self._client = _PeerConnection(self, client_side=False)
        self._upstreams: dict[bool, _PeerConnection] = {}
        self._dialling = {True: asyncio.Lock(), False: asyncio.Lock()}
        self._since = clock()
        self._flushing = False
        self._unflushed = False

    async def run(self, client: socket.socket) -> None:
        """Serve a connected client until it has gone; owns the socket from now on."""
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._client, client)
            await self._client.closed
        finally:
            self.notifier.ended(self, Side.RUNTIME)  # without effect if the client went first
            for peer in (self._client, *self._upstreams.values()):
                peer.abort()
            client.close()

    def woken(self) -> None:
        """Called when an upstream has sent something, before it is handled."""
        self._since = self.clock()

    def flush(self) -> None:
        """Write the output of each connection, and what the interceptor produces from it."""
        self._unflushed = True
        if self._flushing:
            return
        self._flushing = True
        try:
            while self._unflushed:
                self._unflushed = False
                self._write_out()
        finally:
            self._flushing = False

    def _write_out(self) -> None:
        for peer in self._upstreams.values():
            peer.write(peer.h2.data_to_send())
        if data := self._client.h2.data_to_send():
            if self._interceptor is not None:
                self._interceptor.received(Side.RUNTIME, data, self._since)
            else:
                self._client.write(data)
                self.notifier.relayed(self, Side.RUNTIME, data, self._since)

    def from_client(self, data: bytes) -> None:
        """Handle bytes of the client."""
        self._since = self.clock()
        book = self._active_policy
        if (
            book.policy is not None
            and self._interceptor is None
            and RelayInterceptor.can_begin(self, book, Side.CLIENT)
        ):
            self._interceptor = RelayInterceptor(
                self,
                book,
                self._client.write,
                self._take,
                lambda: ([], []),
                self.close,
            )
        if self._client.is_closing:  # rules cannot be enforced on it
            return
        if self._interceptor is not None:
            self._released = []
            self._interceptor.received(Side.CLIENT, data, self._since)
            released, self._released = self._released, None
            for piece in released:
                self._client.take(piece)
        else:
            self.notifier.relayed(self, Side.CLIENT, data, self._since)
            self._client.take(data)
        if self._client_rate is not None:
            self._client_rate.check(len(data), self._since)
        if self.drain is not None:
            self.drain.last_received = self._since
            self.advance_drain()

    def _take(self, data: bytes) -> None:
        """Handle client bytes that the interceptor forwards, after the notifier has read them."""
        if self._released is None:
            self._client.take(data)
        else:
            self._released.append(data)

    def cut(self, stream: int) -> None:
        """See ObservedConnection."""
        if self._interceptor is not None and self._interceptor.cut(stream):
            return
        exchange = self._client.exchanges.get(stream)
        if exchange is not None:
            exchange.refuse()
            self.flush()

    def close(self) -> None:
        """See ObservedConnection."""
        self._client.close()

    @property
    def is_relaying(self) -> bool:
        """See RelayedConnection."""
        return self._client.is_connected and not self._client.is_closing

    @property
    def is_readable(self) -> bool:
        """See RelayedConnection. Frames are h2's here, whatever the reader makes of them."""
        return True

    @property
    def has_calls(self) -> bool:
        """See RelayedConnection."""
        busy = self._interceptor is not None and self._interceptor.busy
        return busy or bool(self._client.exchanges)

    def send_goaway(self, last_stream: int, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """See RelayedConnection."""
        self._client.h2.close_connection(code, last_stream_id=last_stream)
        self.flush()

    def limit_client(self, rate: ClientRate) -> None:
        """See RelayedConnection."""
        self._client_rate = rate

    def pause_client(self, seconds: float) -> None:
        """See RelayedConnection."""
        self._client.throttle(seconds)

    def send_ping(self) -> bool:
        """See RelayedConnection."""
        self._client.h2.ping(PING_PAYLOAD)
        self.flush()
        return True

    def ping_acknowledged(self, payload: bytes) -> None:
        """Called when a client acknowledges a PING."""
        if self.drain is not None and payload == PING_PAYLOAD:
            self.drain.acknowledged = True

    def end_call(self, call: Call) -> None:
        """See RelayedConnection."""
        exchange = self._client.exchanges.get(call.stream)
        if exchange is not None:
            exchange.fail(STOPPING)
            self.flush()

    def lost(self, peer: "_PeerConnection") -> None:
        """Handle the close of a connection; that of an upstream ends only its own calls."""
        if peer is self._client:
            if self._interceptor is not None:
                self._interceptor.ended(Side.CLIENT)
            self.notifier.ended(self, Side.CLIENT)
        for exchange in list(peer.exchanges.values()):
            if peer is self._client:
                exchange.abandon(ErrorCodes.CANCEL)
            else:
                exchange.fail("the runtime closed the connection")
        self.flush()

    def begin(self, stream: int, headers: Headers) -> None:
        """Open an exchange for a request of the client."""
        path = next((value for name, value in headers if name == b":path"), b"")
        image = _IMAGE_SERVICE in path
        exchange = _Exchange(self._client, stream)
        exchange.request.add_headers(headers)
        upstream = self._upstreams.get(image)
        if upstream is not None and upstream.usable:
            exchange.join(upstream)
        else:
            self._tasks.start(self._join_later(exchange, image), "dialling for a call")

    async def _join_later(self, exchange: "_Exchange", image: bool) -> None:
        try:
            async with self._dialling[image]:
                upstream = self._upstreams.get(image)
                if upstream is None or not upstream.usable:
                    upstream = await self._connect(image)
        except OSError as error:
            exchange.fail(f"cannot reach the {'image service' if image else 'runtime'}: {error}")
        else:
            exchange.join(upstream)
        self.flush()

    async def _connect(self, image: bool) -> "_PeerConnection":
        sock = await self._dial(image)
        peer = _PeerConnection(self, client_side=True)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: peer, sock=sock)
        self._upstreams[image] = peer
        if self._client.closed.done():
            peer.abort()
        return peer


class _PeerConnection(PausableProtocol):
    """An HTTP/2 connection to one peer."""

    def __init__(self, split: Split, client_side: bool) -> None:
        self._split = split
        self._client_side = client_side
        self.h2 = _connection(client_side)
        self.exchanges: dict[int, _Exchange] = {}
        self.closed = asyncio.get_running_loop().create_future()
        self._going = False

    @property
    def usable(self) -> bool:
        """Whether new streams may be opened."""
        return not (self._going or self.closed.done())

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is sent to the peer."""
        return self._transport is not None and self._transport.is_closing()

    @property
    def is_connected(self) -> bool:
        """Whether the connection has been made."""
        return self._transport is not None

    def close(self) -> None:
        """Close after what is buffered has been written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def write(self, data: bytes) -> None:
        """Send to the peer."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(WINDOW - self.h2.inbound_flow_control_window)
        self._split.flush()

    def data_received(self, data: bytes) -> None:
        if self._client_side:
            self._split.woken()
            self.take(data)
        else:
            self._split.from_client(data)

    def take(self, data: bytes) -> None:
        """Handle bytes of the peer."""
        try:
            for event in self.h2.receive_data(data):
                self._handle(event)
        except H2Error:  # h2 has a GOAWAY ready for the peer
            self._split.flush()
            if self._transport is not None:
                self._transport.close()
            return
        for exchange in list(self.exchanges.values()):
            exchange.pump()
        self._split.flush()

    def pause_writing(self) -> None:
        self.pause_reading(BACKPRESSURE)

    def resume_writing(self) -> None:
        self.resume_reading(BACKPRESSURE)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():  # cancelled together with run()
            self.closed.set_result(None)
        self._split.lost(self)

    def _handle(self, event: Any) -> None:
        if isinstance(event, RequestReceived):
            self._split.begin(event.stream_id, event.headers)
            return
        if isinstance(event, PingAckReceived):
            self._split.ping_acknowledged(event.ping_data)
            return
        if isinstance(event, ConnectionTerminated):
            self._going = True
            for stream, exchange in list(self.exchanges.items()):
                if self._client_side and stream > (event.last_stream_id or 0):
                    exchange.abandon(ErrorCodes.REFUSED_STREAM)
            return
        found = self.exchanges.get(getattr(event, "stream_id", None) or 0)
        if found is None:
            if isinstance(event, DataReceived):
                self.acknowledge(event.flow_controlled_length, event.stream_id)
            return
        flow = found.flow_from(self)
        if isinstance(event, ResponseReceived | InformationalResponseReceived | TrailersReceived):
            flow.add_headers(event.headers)
        elif isinstance(event, DataReceived):
            flow.add_data(event.data, event.flow_controlled_length)
        elif isinstance(event, StreamEnded):
            flow.add_end()
        elif isinstance(event, StreamReset):
            found.abandon(ErrorCodes(event.error_code))

    def acknowledge(self, length: int, stream: int) -> None:
        """Open the peer's windows by ``length`` bytes, which have been forwarded."""
        if length and not self.closed.done():
            self.h2.acknowledge_received_data(length, stream)


class _Exchange:
    """One call: the client's stream and, once it has one, the upstream's."""

    def __init__(self, client: _PeerConnection, stream: int) -> None:
        self._sides: dict[_PeerConnection, int] = {client: stream}
        self._client = client
        self.request = _Direction(client, stream)
        self.response: _Direction | None = None
        client.exchanges[stream] = self

    def flow_from(self, peer: _PeerConnection) -> "_Direction":
        """Return the direction of which ``peer`` is the source."""
        if peer is self._client:
            return self.request
        assert self.response is not None
        return self.response

    def join(self, upstream: _PeerConnection) -> None:
        """Open the upstream's stream and forward the request, unless the client has reset it."""
        stream = self._sides[self._client]
        if self._client.exchanges.get(stream) is not self:
            return
        theirs = upstream.h2.get_next_available_stream_id()
        self._sides[upstream] = theirs
        upstream.exchanges[theirs] = self
        self.request.sink, self.request.sink_stream = upstream, theirs
        self.response = _Direction(upstream, theirs)
        self.response.sink, self.response.sink_stream = self._client, stream
        self.pump()

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


class _Direction:
    """One direction of an exchange: what the source has sent and the sink has not been sent yet."""

    def __init__(self, source: _PeerConnection, stream: int) -> None:
        self._source = source
        self._stream = stream
        self.sink: _PeerConnection | None = None
        self.sink_stream = 0
        self.begun = False
        self.ended = False
        self._waiting: deque[Headers | bytes] = deque()
        self._credits: deque[int] = deque()  # flow-controlled bytes of each piece of data
        self._end_waits = False

    def add_headers(self, headers: Headers) -> None:
        self._waiting.append(headers)

    def add_data(self, data: bytes, credit: int) -> None:
        self._waiting.append(data)
        self._credits.append(credit)

    def add_end(self) -> None:
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
                self.begun = True
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


class _Graceful(H2ConnectionStateMachine):
    """Keeps a connection open after GOAWAY, as RFC 9113 section 6.8 says; h2 closes it."""

    def __init__(self) -> None:
        super().__init__()
        self._transitions = self._transitions | {
            (state, goaway): (None, state)
            for state in (
                ConnectionState.IDLE,
                ConnectionState.CLIENT_OPEN,
                ConnectionState.SERVER_OPEN,
            )
            for goaway in (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY)
        }


def _connection(client_side: bool) -> H2Connection:
    """Make an h2 connection with our windows that does not validate or normalize headers."""
    h2 = H2Connection(
        H2Configuration(
            client_side=client_side,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    h2.state_machine = _Graceful()
    values = {
        SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
        SettingCodes.MAX_HEADER_LIST_SIZE: _HEADER_LIST,
        SettingCodes.ENABLE_PUSH: 0,
    }
    if not client_side:
        del values[SettingCodes.ENABLE_PUSH]
        values[SettingCodes.MAX_CONCURRENT_STREAMS] = _STREAMS
    h2.local_settings = Settings(client=client_side, initial_values=values)
    h2.decoder.max_header_list_size = _HEADER_LIST
    return h2
