"""A client's connection paired with one to the runtime, and the bytes between them.

Each byte that one side sends is written to the other unchanged, then read by the Notifier.
Backpressure is forwarded: while bytes wait to be written to one side, the other is not read from.
So is the end: a half-close as a half-close, a close as a close once all bytes have been written.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from criproxy.peers.peer import Connection
from criproxy.relay.connections.bounded import BoundedProtocol
from criproxy.relay.connections.client_rate import ClientRate
from criproxy.relay.connections.drain import PING_PAYLOAD, STOPPING, PingAckFilter
from criproxy.relay.connections.interceptor import DELIVERY, RelayInterceptor
from criproxy.relay.connections.pausable import BACKPRESSURE
from criproxy.relay.connections.relayed import RelayedConnection
from criproxy.relay.dial import is_hung_up
from criproxy.relay.notifier import Clock, Notifier
from criproxy.relay.policy import ActivePolicy
from criproxy.wire.constants import ErrorCode
from criproxy.wire.grpc import StatusCode
from criproxy.wire.http2.frame_builder import goaway, literal_headers, ping, reset, trailers
from criproxy.wire.http2.work import INTERCEPTED, READ, part_size
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import ConnectionReader, Side

_UNREAD: Final = 64 << 10
"""Bytes that are handled at once of a connection that is not read: they may be 7,000 frames."""

_POLL_INTERVAL: Final = 1.0
"""Seconds between polls of a peer that has half-closed its connection."""


class Pair(RelayedConnection):
    """Relays bytes between two sockets. :meth:`run` lasts until both are closed."""

    def __init__(
        self,
        connection: Connection,
        reader: ConnectionReader,
        notifier: Notifier,
        clock: Clock,
        write_buffer: int,
        active_policy: ActivePolicy,
    ) -> None:
        """``write_buffer``: bytes buffered for a slow reader before the writer is not read from."""
        super().__init__(connection, reader, notifier, clock)
        self.write_buffer = write_buffer
        self.active_policy = active_policy
        self.interceptor: RelayInterceptor | None = None  # None until there are rules
        self._filter: PingAckFilter | None = None  # None until the drain's PING
        self._client = _SideProtocol(self, Side.CLIENT)
        self._runtime = _SideProtocol(self, Side.RUNTIME)
        self._client.other, self._runtime.other = self._runtime, self._client
        self._closed = asyncio.get_running_loop().create_future()

    async def run(
        self, client: socket.socket, runtime: socket.socket, received: bytes = b""
    ) -> None:
        """Relay between two connected sockets, which it owns, until both are closed.

        ``received``: what has been read from the client already. Aborts both when it is cancelled.
        """
        loop = asyncio.get_running_loop()
        self._client.socket, self._runtime.socket = client, runtime
        if received:
            self._client.data_received(received)
        try:
            await loop.create_unix_connection(lambda: self._runtime, sock=runtime)
            await loop.connect_accepted_socket(lambda: self._client, client)
            self._client.begin()
            self._runtime.begin()
            await self._closed
        finally:
            self.notifier.ended(self, Side.RUNTIME)  # as the client sees it
            self._client.abort()
            self._runtime.abort()
            client.close()
            runtime.close()

    def hang_up(self, side: Side) -> None:
        """Close both sides because ``side`` has closed, after what it had sent is delivered."""
        if side is Side.RUNTIME and self._is_delivering():
            return
        if self.interceptor is not None:
            self.interceptor.ended(side)
        self.close(side)

    def close(self, side: Side = Side.RUNTIME) -> None:
        """See ObservedConnection. ``side`` is the one that is reported to have closed it."""
        self.notifier.ended(self, side)
        self._client.close()
        self._runtime.close()

    def _is_delivering(self) -> bool:
        """Keep the client open for a while, and return True, if a complete response is held."""
        if (
            self.interceptor is None
            or self._client.closed
            or not self.interceptor.ended(Side.RUNTIME)
        ):
            return False
        asyncio.get_running_loop().call_later(DELIVERY, self.close)
        self._runtime.close()
        return True

    def half_closed(self, side: Side) -> None:
        """Forward the half-close of a side, once nothing of it is held."""
        end = self._runtime if side is Side.CLIENT else self._client
        if self.interceptor is None:
            end.end_writing()
        elif self.interceptor.busy:
            asyncio.get_running_loop().call_later(_POLL_INTERVAL, self.half_closed, side)
        else:
            if side is Side.CLIENT:
                self.interceptor.half_closed()
            end.end_writing()

    def install_interceptor(self) -> None:
        """Apply the policy from now on: the client's next frame boundary is known."""
        self.interceptor = RelayInterceptor(
            self,
            self.active_policy,
            self._client.write,
            self._runtime.write,
            lambda: (self._client.take_inserts(), self._runtime.take_inserts()),
            self.close,
        )

    def cut(self, stream: int) -> None:
        """See ObservedConnection. To each peer it is as if the other had reset the stream; peers
        ignore frames that still come for one.
        """
        if self.interceptor is not None and self.interceptor.cut(stream):
            return
        self._runtime.insert(reset(stream, ErrorCode.CANCEL))
        self._client.insert(reset(stream, ErrorCode.ENHANCE_YOUR_CALM))

    @property
    def is_relaying(self) -> bool:
        """See RelayedConnection."""
        return self._client.is_open and self._runtime.is_open

    @property
    def is_readable(self) -> bool:
        """See RelayedConnection."""
        return self.reader.reading

    @property
    def has_calls(self) -> bool:
        """See RelayedConnection."""
        busy = self.interceptor is not None and self.interceptor.busy
        return busy or self.reader.has_calls or self._client.parts_wait or self._runtime.parts_wait

    def advance_drain(self) -> None:
        """See RelayedConnection."""
        if self.is_relaying:
            self._runtime.insert_at_boundary()
            self._client.insert_at_boundary()
        super().advance_drain()

    def send_goaway(self, last_stream: int, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """See RelayedConnection. A runtime's own GOAWAY that names a lower stream stays in force
        (RFC 9113 section 6.8)."""
        if last_stream <= self.reader.last_served:
            self._client.insert(goaway(last_stream, code))

    def limit_client(self, rate: ClientRate) -> None:
        """See RelayedConnection."""
        self._client.check_rate = rate.check

    def pause_client(self, seconds: float) -> None:
        """See RelayedConnection."""
        self._client.throttle(seconds)

    def send_ping(self) -> bool:
        """See RelayedConnection. The client's bytes are filtered from now on."""
        assert self.drain is not None
        if self.interceptor is not None and self.interceptor.leftover():
            return False
        self._filter = PingAckFilter.start(self, self.drain)
        if self._filter is None:
            return False
        self._client.insert(ping(PING_PAYLOAD))
        return True

    @property
    def can_end_calls(self) -> bool:
        """See RelayedConnection. Without an interceptor a header block of ours has to stand between
        two whole frames, and before no dynamic table size update that is due."""
        if self.interceptor is not None and not self.interceptor.raw:
            return True
        reader = self.reader
        return (
            reader.to_boundary(Side.RUNTIME) == 0 and not reader.decoder(Side.RUNTIME).must_shrink
        )

    def end_call(self, call: Call) -> None:
        """See RelayedConnection."""
        headers_sent = bool(call.http_status)
        if self.interceptor is not None and not self.interceptor.raw:
            self.interceptor.end_call(call.stream, STOPPING, headers_sent)
        else:
            fields = trailers(StatusCode.UNAVAILABLE, STOPPING, headers_sent)
            frames = literal_headers(call.stream, fields, ended=True)
            self._client.write(frames)
            self.notifier.relayed(self, Side.RUNTIME, frames, self.clock())
            self._runtime.insert(reset(call.stream, ErrorCode.CANCEL))

    def part_size(self, side: Side, data: bytes, start: int) -> int:
        """Return how many bytes of a side, from ``start`` on, are handled at once."""
        interceptor = self.interceptor
        raw = interceptor is None or interceptor.raw
        if raw and not self.reader.reading:
            return min(len(data) - start, _UNREAD)  # they are forwarded, and their frames counted
        if side is Side.CLIENT and self._filter is not None and self._filter.is_waiting:
            to_boundary = None
        elif interceptor is None:
            to_boundary = self.reader.to_boundary(side)
        else:
            to_boundary = interceptor.to_boundary(side)
        return part_size(data, start, to_boundary, READ if raw else INTERCEPTED)

    def filter(self, side: Side, data: bytes, now: float) -> bytes:
        """Return what is to be forwarded of bytes that came while the connection is drained."""
        assert self.drain is not None
        self.drain.last_received = now
        if side is Side.CLIENT and self._filter is not None:
            return self._filter.filter(data)
        return data

    def leftover(self, side: Side) -> bytes:
        """Return what the filter has kept of the bytes of a side that has half-closed."""
        return self._filter.leftover() if side is Side.CLIENT and self._filter is not None else b""

    def lost(self) -> None:
        """Called when a side's transport is closed."""
        if self._client.closed and self._runtime.closed and not self._closed.done():
            self._closed.set_result(None)


class _SideProtocol(BoundedProtocol):
    """One side of a pair."""

    other: "_SideProtocol"
    socket: socket.socket

    def __init__(self, pair: Pair, side: Side) -> None:
        super().__init__()
        self.clock = pair.clock
        self._pair = pair
        self._side = side
        self._forward: Callable[[bytes], None] | None = None  # None until both sides are connected
        self._early: list[bytes] = []  # what came before that
        self._inserts: list[bytes] = []  # frames of ours to be inserted into this side's bytes
        self._ended = False
        self.closed = False
        self.check_rate: Callable[[int, float], None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether bytes are relayed to this side."""
        transport = self._transport
        return self._forward is not None and transport is not None and not transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send to this side: at once if nothing waits to be sent, else behind that.

        A transport of uvloop writes at the end of the loop's turn only, which delays the peer.
        """
        transport = self._transport
        assert transport is not None
        if transport.is_closing():
            return
        sent = 0
        if not transport.get_write_buffer_size():
            try:
                sent = self.socket.send(data)
            except OSError:  # full or closed: the transport handles it
                sent = 0
        if sent < len(data):
            transport.write(data[sent:])

    def insert(self, frame: bytes) -> None:
        """Write a frame of our own to this side at the next frame boundary."""
        self.other._inserts.append(frame)
        self.other.insert_at_boundary()

    def take_inserts(self) -> list[bytes]:
        """Remove and return the frames of ours that wait to be inserted into this side's bytes."""
        inserts, self._inserts = self._inserts, []
        return inserts

    def begin(self) -> None:
        """Relay from now on: both sides are connected."""
        self._forward = self.other.write
        for data in self._early:
            self.data_received(data)
        self._early.clear()
        if self._ended:
            self._ended = False
            self.eof_received()

    def close(self) -> None:
        """Close after what is buffered has been written."""
        self.drop_parts()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self.drop_parts()
        if self._transport is not None and not self.closed:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._pair.write_buffer)

    def data_received(self, data: bytes) -> None:
        if self._forward is None:
            self._early.append(data)
        else:
            super().data_received(data)

    def part_size(self, data: bytes, start: int) -> int:
        return self._pair.part_size(self._side, data, start)

    def take(self, data: bytes, arrived: float) -> None:
        if self._pair.drain is None and not self._inserts:
            self._relay(data, arrived)
        else:
            self._relay_around_inserts(data, arrived)
        if self.check_rate is not None:
            self.check_rate(len(data), self.clock())

    def _relay_around_inserts(self, data: bytes, now: float) -> None:
        pair = self._pair
        if pair.drain is not None:
            data = pair.filter(self._side, data, now)
        if self._inserts:
            data = self._insert_within(data, now)
        if data:
            self._relay(data, now)
        pair.advance_drain()

    def _relay(self, data: bytes, now: float) -> None:
        pair = self._pair
        if pair.active_policy.policy is not None and pair.interceptor is None:
            known, data = RelayInterceptor.relay_until_known(
                pair,
                pair.active_policy,
                self._side,
                data,
                lambda part: self._relay_part(part, now),
            )
            if known:
                pair.install_interceptor()
        self._relay_part(data, now)

    def _relay_part(self, data: bytes, now: float) -> None:
        pair = self._pair
        if pair.interceptor is not None:
            pair.interceptor.received(self._side, data, now)
        elif self._forward is not None:
            self._forward(data)
            pair.notifier.relayed(pair, self._side, data, now)

    def eof_received(self) -> bool:
        self.after_parts(self._end)
        return True  # the transport stays: the other direction goes on

    def _end(self) -> None:
        """Handle the end of what the peer sends."""
        self._ended = True
        if self._forward is not None:
            if rest := self._pair.leftover(self._side):
                self._relay(rest, self._pair.clock())
            if self.other._ended or is_hung_up(self.socket):
                self._pair.hang_up(self._side)
            else:
                self._pair.half_closed(self._side)
                self._watch_for_hang_up()

    def _watch_for_hang_up(self) -> None:
        """Poll whether a peer that has half-closed its connection has closed it.

        The loop does not poll a socket after EOF, and the other side may have nothing to send.
        """
        if not self.closed:
            if is_hung_up(self.socket):
                self._pair.hang_up(self._side)
            else:
                asyncio.get_running_loop().call_later(_POLL_INTERVAL, self._watch_for_hang_up)

    def pause_writing(self) -> None:
        self.other.pause_reading(BACKPRESSURE)

    def resume_writing(self) -> None:
        self.other.resume_reading(BACKPRESSURE)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is not None and self.other.is_open:
            self.take_rest(self.socket)
        self.after_parts(self._lost)

    def _lost(self) -> None:
        self._pair.hang_up(self._side)
        self._pair.lost()

    def _insert_within(self, data: bytes, now: float) -> bytes:
        """Relay up to the next frame boundary, insert our frames there, and return the rest."""
        gap = self._pair.reader.to_boundary(self._side)
        if gap is None or gap >= len(data):
            return data
        if gap:
            self._relay(data[:gap], now)
        self.insert_at_boundary()
        return data[gap:]

    def insert_at_boundary(self) -> None:
        """Write the frames of ours that wait, if the last one of this side is complete."""
        if (
            self._inserts
            and self._forward is not None
            and self._pair.reader.to_boundary(self._side) == 0
        ):
            self._forward(b"".join(self._inserts))
            self._inserts.clear()

    def end_writing(self) -> None:
        """Half-close the connection to the peer."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
