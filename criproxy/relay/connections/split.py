"""Relays a client whose image service is another process than its runtime.

One client connection carries calls to both services, so streams are relayed instead of bytes: each
of the three connections is terminated by the `h2` library, and headers, message bytes, trailers,
resets and half-closes are copied from stream to stream. SETTINGS, PING and windows are each
connection's own. Slower than a Pair, and used only if a listener's `image` is not its `runtime`, or
if it shields reads from restarts of the runtime.

Backpressure: a peer's window is opened again only for bytes that have been forwarded, so that at
most one window is buffered per connection. A peer that does not read is sent no more messages and
no more calls, and a client that does not read is not read from either.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from h2.errors import ErrorCodes

from criproxy.concurrency.tasks import Tasks
from criproxy.cri.methods import ENDLESS, READS
from criproxy.peers.peer import Connection
from criproxy.relay.connections.client_rate import ClientRate
from criproxy.relay.connections.drain import PING_PAYLOAD, STOPPING
from criproxy.relay.connections.exchange import Exchange, Headers
from criproxy.relay.connections.h2_peer import STREAMS, PeerConnection
from criproxy.relay.connections.interceptor import RelayInterceptor
from criproxy.relay.connections.relayed import RelayedConnection
from criproxy.relay.connections.upstream import LOST, Upstream
from criproxy.relay.notifier import Clock, Notifier
from criproxy.relay.policy import ActivePolicy
from criproxy.wire.constants import ErrorCode
from criproxy.wire.grpc import parse_timeout
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import ConnectionReader, Side

_RESTART_DELAY: Final = 0.1
"""Seconds before a call is made again, so that an upstream that crashes at once costs little."""

_IMAGE_SERVICE: Final = b".ImageService/"

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
        write_buffer: int,
        dial: Dial,
        tasks: Tasks,
        active_policy: ActivePolicy,
        shields_reads: bool = False,
    ) -> None:
        """``write_buffer``: bytes buffered for a slow reader before it is sent no more messages.

        ``shields_reads``: calls that change nothing are made again if their upstream is lost.
        """
        super().__init__(connection, reader, notifier, clock)
        self._active_policy = active_policy
        self._interceptor: RelayInterceptor | None = None  # None until there are rules
        self._released: list[bytes] | None = None  # what it forwards while it receives bytes
        self._client_rate: ClientRate | None = None
        self._shields_reads = shields_reads
        self._client = PeerConnection(self, write_buffer)
        self._runtime, self._image = (
            Upstream(self, name, partial(dial, image), write_buffer, tasks)
            for name, image in (("runtime", False), ("image service", True))
        )
        self._since = clock()
        self._flushing = False
        self._unflushed = False

    async def run(self, client: socket.socket, received: bytes = b"") -> None:
        """Serve a connected client until it has gone; owns the socket from now on.

        ``received``: what has been read from it already.
        """
        loop = asyncio.get_running_loop()
        self._client.received = received
        try:
            await loop.connect_accepted_socket(lambda: self._client, client)
            await self._client.closed
        finally:
            self.notifier.ended(self, Side.RUNTIME)  # without effect if the client went first
            self._client.abort()
            self._runtime.close()
            self._image.close()
            client.close()

    @property
    def client_to_boundary(self) -> int | None:
        """See Owner."""
        interceptor = self._interceptor
        if interceptor is not None and (self.reader.reading or not interceptor.raw):
            return interceptor.to_boundary(Side.CLIENT)
        return self._client.to_boundary

    def woken(self, arrived: float) -> None:
        """Called when an upstream has sent something, before it is handled."""
        self._since = arrived

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
        for upstream in (self._runtime, self._image):
            upstream.advance()
            for peer in upstream.peers:
                peer.write(peer.h2.data_to_send())
                if peer.going and not peer.exchanges:
                    peer.close()
        if data := self._client.h2.data_to_send():
            if self._interceptor is not None:
                self._interceptor.received(Side.RUNTIME, data, self._since)
            else:
                self._client.write(data)
                self.notifier.relayed(self, Side.RUNTIME, data, self._since)

    def from_client(self, data: bytes, arrived: float) -> None:
        """Handle bytes of the client, which came at ``arrived`` (seconds)."""
        self._since = arrived
        if self._active_policy.policy is not None and self._interceptor is None:
            known, data = RelayInterceptor.relay_until_known(
                self,
                self._active_policy,
                Side.CLIENT,
                data,
                lambda part: self._take_from_client(part, arrived),
            )
            if known:
                self._interceptor = RelayInterceptor(
                    self,
                    self._active_policy,
                    self._client.write,
                    self._take,
                    lambda: ([], []),
                    self.close,
                )
        self._take_from_client(data, arrived)

    def _take_from_client(self, data: bytes, arrived: float) -> None:
        if self._client.is_closing:  # rules cannot be enforced on it
            return
        if self._interceptor is not None:
            self._released = []
            self._interceptor.received(Side.CLIENT, data, self._since)
            released, self._released = self._released, None
            for piece in released:
                self._client.receive(piece)
        else:
            self.notifier.relayed(self, Side.CLIENT, data, self._since)
            self._client.receive(data)
        if self._client_rate is not None:
            self._client_rate.check(len(data), self.clock())
        if self.drain is not None:
            self.drain.last_received = arrived
            self.advance_drain()

    def _take(self, data: bytes) -> None:
        """Handle client bytes that the interceptor forwards, after the notifier has read them."""
        if self._released is None:
            self._client.receive(data)
        else:
            self._released.append(data)

    def cut(self, stream: int) -> None:
        """See ObservedConnection."""
        if self._interceptor is not None and self._interceptor.cut(stream):
            return
        exchange = self._client.exchanges.get(stream)
        if exchange is not None:
            exchange.refuse(ErrorCodes.ENHANCE_YOUR_CALM)
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
        return busy or bool(self._client.exchanges) or self._client.parts_wait

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

    @property
    def can_end_calls(self) -> bool:
        """See RelayedConnection."""
        return True

    def end_call(self, call: Call) -> None:
        """See RelayedConnection."""
        exchange = self._client.exchanges.get(call.stream)
        if exchange is not None:
            exchange.fail(STOPPING)
            self.flush()

    def lost(self, peer: PeerConnection) -> None:
        """Handle the close of a connection; that of an upstream ends only its own calls."""
        if peer is self._client:
            if self._interceptor is not None:
                self._interceptor.ended(Side.CLIENT)
            self.notifier.ended(self, Side.CLIENT)
            for exchange in list(peer.exchanges.values()):
                exchange.abandon(None, ErrorCodes.CANCEL)
        else:
            self._end_calls(peer, list(peer.exchanges.values()))
            self._upstream_of(peer).peers.discard(peer)
        self.flush()

    def going(self, peer: PeerConnection, left_out: list[Exchange]) -> None:
        """Called at an upstream's GOAWAY, with the calls that it leaves out as not processed."""
        for exchange in left_out:
            if not self._restart(exchange):
                exchange.abandon(ErrorCodes.REFUSED_STREAM, None)
        self._end_calls(peer, [])

    def _end_calls(self, peer: PeerConnection, exchanges: list[Exchange]) -> None:
        """End the calls of an upstream's connection, which takes no more of them."""
        for exchange in [*exchanges, *self._upstream_of(peer).leave(peer)]:
            if exchange.response.is_complete or not self._restart(exchange):
                exchange.lose_server(LOST)

    def _upstream_of(self, peer: PeerConnection) -> Upstream:
        return self._image if peer in self._image.peers else self._runtime

    def _restart(self, exchange: Exchange) -> bool:
        """Make a call again whose connection is lost; return False if it cannot be."""
        if not exchange.restart():
            return False
        exchange.upstream.remove(exchange)
        asyncio.get_running_loop().call_later(_RESTART_DELAY, self._make_again, exchange)
        return True

    def _make_again(self, exchange: Exchange) -> None:
        if exchange.is_open:
            exchange.upstream.add(exchange)
            self.flush()

    def begin(self, stream: int, headers: Headers) -> None:
        """Open an exchange for a request of the client."""
        if len(self._client.exchanges) >= STREAMS:
            self._client.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            return
        path = timeout = b""
        for name, value in headers:
            if name == b":path":
                path = value
            elif name == b"grpc-timeout":
                timeout = value
        seconds = parse_timeout(timeout)
        method = path.rpartition(b"/")[2]
        exchange = Exchange(
            self._client,
            stream,
            headers,
            self._image if _IMAGE_SERVICE in path else self._runtime,
            deadline=None if seconds is None else asyncio.get_running_loop().time() + seconds,
            repeats=self._shields_reads and method.decode("latin-1") in READS,
            endless=method in ENDLESS,
        )
        exchange.upstream.add(exchange)
