"""A client whose image service is another process than its runtime.

One HTTP/2 connection carries calls to both services, so bytes cannot simply be passed on: streams
are. The client talks HTTP/2 with us, we with each of the two, on the `h2` library, and what makes
a call passes from stream to stream unchanged: headers, message bytes, trailers, resets, half-close.
What belongs to a connection (SETTINGS, PING, windows) is between us and each peer. Slower than a
Pair, and only where a listener's `image` is not its `runtime`.

Backpressure: a peer's window is opened again only for what has been passed on, so that at most a
window's worth waits here for each connection. A peer that does not read is not read from either.
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
from criproxy.relay.interceptor import RelayInterceptor
from criproxy.relay.notifier import Clock, Notifier, ObservedConnection
from criproxy.relay.policy import ActivePolicy
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.connection import ConnectionReader, Side

WINDOW: Final = 1 << 20
"""Bytes that a peer may send before some of them have been passed on, per connection."""

_HEADER_LIST: Final = 1 << 20
"""Bytes of decoded headers that a message may have."""

_STREAMS: Final = 1000
"""Calls at once that a client is told it may make on one connection."""

_IMAGE_SERVICE: Final = b".ImageService/"

Headers = list[tuple[bytes, bytes]]
Dial = Callable[[bool], Coroutine[Any, Any, socket.socket]]
"""Connects to the image service (True) or to the runtime (False). Raises OSError."""


class Split(ObservedConnection):
    """One client, and two processes that serve it. :meth:`run` lasts as long as the client."""

    def __init__(
        self,
        connection: Connection,
        reader: ConnectionReader,
        witness: Notifier,
        clock: Clock,
        dial: Dial,
        tasks: Tasks,
        rulebook: ActivePolicy,
    ) -> None:
        super().__init__(connection, reader, witness, clock)
        self._rulebook = rulebook
        self._sieve: RelayInterceptor | None = None  # None as long as there have been no rules
        self._sieved: list[bytes] | None = None  # what it lets through while it is given bytes
        self._dial = dial
        self._tasks = tasks
        self._client = _Leg(self, client_side=False)
        self._upstreams: dict[bool, _Leg] = {}
        self._dialling = {True: asyncio.Lock(), False: asyncio.Lock()}
        self._since = clock()
        self._flushing = False
        self._unflushed = False

    async def run(self, client: socket.socket) -> None:
        """Serve a connected client until it is gone; the socket belongs to this now."""
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._client, client)
            await self._client.closed
        finally:
            self.witness.ended(self, Side.RUNTIME)  # unless the client went first
            for leg in (self._client, *self._upstreams.values()):
                leg.abort()
            client.close()

    def woken(self) -> None:
        """Take notice that a peer has sent something: what follows from it began now."""
        self._since = self.clock()

    def flush(self) -> None:
        """Write what has come about on each connection, and what comes about by that: the sieve may
        have something for this side when it is given something of it."""
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
        for leg in self._upstreams.values():
            leg.write(leg.h2.data_to_send())
        if data := self._client.h2.data_to_send():
            if self._sieve is not None:
                self._sieve.received(Side.RUNTIME, data, self._since)
            else:
                self._client.write(data)
                self.witness.relayed(self, Side.RUNTIME, data, self._since)

    def from_client(self, data: bytes) -> None:
        """Take what the client has sent."""
        self._since = self.clock()
        book = self._rulebook
        if (
            book.policy is not None
            and self._sieve is None
            and RelayInterceptor.can_begin(self, book, Side.CLIENT)
        ):
            self._sieve = RelayInterceptor(
                self,
                book,
                self._client.write,
                self._take,
                lambda: ([], []),
                self.close,
            )
        if self._client.is_closing:  # because rules cannot be kept on it
            return
        if self._sieve is not None:
            self._sieved = []
            self._sieve.received(Side.CLIENT, data, self._since)
            sieved, self._sieved = self._sieved, None
            for piece in sieved:
                self._client.take(piece)
        else:
            self.witness.relayed(self, Side.CLIENT, data, self._since)
            self._client.take(data)

    def _take(self, data: bytes) -> None:
        """Take what the sieve lets through: once it has shown to the witness what came."""
        if self._sieved is None:
            self._client.take(data)
        else:
            self._sieved.append(data)

    def cut(self, stream: int) -> None:
        """See Watched."""
        if self._sieve is not None and self._sieve.cut(stream):
            return
        exchange = self._client.exchanges.get(stream)
        if exchange is not None:
            exchange.refuse()
            self.flush()

    def close(self) -> None:
        """See Watched."""
        self._client.abort()

    def lost(self, leg: "_Leg") -> None:
        """Take notice that a connection is gone. With an upstream only its own calls end."""
        if leg is self._client:
            if self._sieve is not None:
                self._sieve.ended(Side.CLIENT)
            self.witness.ended(self, Side.CLIENT)
        for exchange in list(leg.exchanges.values()):
            if leg is self._client:
                exchange.abandon(ErrorCodes.CANCEL)
            else:
                exchange.fail("the runtime closed the connection")
        self.flush()

    def begin(self, stream: int, headers: Headers) -> None:
        """Begin an exchange for a request of the client."""
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

    async def _connect(self, image: bool) -> "_Leg":
        sock = await self._dial(image)
        leg = _Leg(self, client_side=True)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: leg, sock=sock)
        self._upstreams[image] = leg
        if self._client.closed.done():
            leg.abort()
        return leg


class _Leg(asyncio.Protocol):
    """An HTTP/2 connection to one peer."""

    def __init__(self, split: Split, client_side: bool) -> None:
        self._split = split
        self._client_side = client_side
        self.h2 = _connection(client_side)
        self.exchanges: dict[int, _Exchange] = {}
        self.closed = asyncio.get_running_loop().create_future()
        self._going = False
        self._transport: asyncio.Transport | None = None

    @property
    def usable(self) -> bool:
        """Whether new streams may be opened."""
        return not (self._going or self.closed.done())

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is sent to the peer."""
        return self._transport is not None and self._transport.is_closing()

    def abort(self) -> None:
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
        """Act on what the peer has sent."""
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
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():  # it is cancelled with whoever waited for it
            self.closed.set_result(None)
        self._split.lost(self)

    def _handle(self, event: Any) -> None:
        if isinstance(event, RequestReceived):
            self._split.begin(event.stream_id, event.headers)
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
        """Let the peer send as much again as has been passed on."""
        if length and not self.closed.done():
            self.h2.acknowledge_received_data(length, stream)


class _Exchange:
    """One call: a stream of the client's and, once it has one, of an upstream's."""

    def __init__(self, client: _Leg, stream: int) -> None:
        self._sides: dict[_Leg, int] = {client: stream}
        self._client = client
        self.request = _Flow(client, stream)
        self.response: _Flow | None = None
        client.exchanges[stream] = self

    def flow_from(self, leg: _Leg) -> "_Flow":
        """Return the direction that a peer feeds."""
        if leg is self._client:
            return self.request
        assert self.response is not None
        return self.response

    def join(self, upstream: _Leg) -> None:
        """Go on to an upstream with what the client has sent, unless the client has given up."""
        stream = self._sides[self._client]
        if self._client.exchanges.get(stream) is not self:
            return
        theirs = upstream.h2.get_next_available_stream_id()
        self._sides[upstream] = theirs
        upstream.exchanges[theirs] = self
        self.request.sink, self.request.sink_stream = upstream, theirs
        self.response = _Flow(upstream, theirs)
        self.response.sink, self.response.sink_stream = self._client, stream
        self.pump()

    def pump(self) -> None:
        """Pass on what the windows allow, in both directions."""
        try:
            for flow in (self.request, self.response):
                if flow is not None:
                    flow.pump()
        except StreamClosedError:
            self.abandon(ErrorCodes.CANCEL)
        except H2Error:  # more streams than the upstream takes at once
            self.abandon(ErrorCodes.REFUSED_STREAM)
        else:
            if self.response is not None and self.response.ended and self.request.ended:
                self._forget()

    def abandon(self, code: ErrorCodes) -> None:
        """Reset the streams that are still open, and forget the call."""
        for leg, stream in self._sides.items():
            if not leg.closed.done():
                with suppress(H2Error):
                    leg.h2.reset_stream(stream, code)
        self._forget()

    def refuse(self) -> None:
        """Reset the client's stream so that it reports RESOURCE_EXHAUSTED, and the upstream's."""
        with suppress(H2Error):
            self._client.h2.reset_stream(self._sides[self._client], ErrorCodes.ENHANCE_YOUR_CALM)
        self.abandon(ErrorCodes.CANCEL)

    def fail(self, message: str) -> None:
        """Answer the client in the upstream's place: UNAVAILABLE, as it would have seen itself."""
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
        for leg, stream in self._sides.items():
            leg.exchanges.pop(stream, None)
        for flow in (self.request, self.response):
            if flow is not None:
                flow.drop()


class _Flow:
    """One direction of a call: what one peer has sent and the other has not been sent yet."""

    def __init__(self, source: _Leg, stream: int) -> None:
        self._source = source
        self._stream = stream
        self.sink: _Leg | None = None
        self.sink_stream = 0
        self.begun = False
        self.ended = False
        self._waiting: deque[Headers | bytes] = deque()
        self._credits: deque[int] = deque()  # what each piece of data took of the source's window
        self._end_waits = False

    def add_headers(self, headers: Headers) -> None:
        self._waiting.append(headers)

    def add_data(self, data: bytes, credit: int) -> None:
        self._waiting.append(data)
        self._credits.append(credit)

    def add_end(self) -> None:
        self._end_waits = True

    def pump(self) -> None:
        """Send on what may be sent. Raises H2Error where the sink's stream does not take it."""
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
        """Give the source's window back for what is not sent on."""
        self._waiting.clear()
        while self._credits:
            self._source.acknowledge(self._credits.popleft(), self._stream)

    def _is_last(self) -> bool:
        return self._end_waits and not self._waiting


class _Graceful(H2ConnectionStateMachine):
    """h2 takes a connection for closed at a GOAWAY; gRPC's lets its streams end first."""

    def __init__(self) -> None:
        super().__init__()
        self._transitions = self._transitions | {
            (state, ConnectionInputs.RECV_GOAWAY): (None, state)
            for state in (ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN)
        }


def _connection(client_side: bool) -> H2Connection:
    """Make an h2 connection that takes headers as they are and has our windows."""
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
