"""A client's connection and the runtime's, and the bytes between them.

Each byte that one side sends is written to the other as it came, and shown to the Witness.
Backpressure is passed on: what cannot be written to one side stops the reading of the
other. So is the end: a half-close as a half-close, a hang-up as a close once all has been written.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, cast

from criproxy.peers.peer import Connection
from criproxy.relay.dial import is_hung_up
from criproxy.relay.interceptor import DELIVERY, RelayInterceptor
from criproxy.relay.notifier import Clock, Notifier, ObservedConnection
from criproxy.relay.policy import ActivePolicy
from criproxy.wire.constants import ErrorCode
from criproxy.wire.http2.frame_builder import reset
from criproxy.wire.reading.connection import ConnectionReader, Side

_POLL_INTERVAL: Final = 1.0
"""Seconds between looks at a peer that has ended its sending."""

_READ_SIZE: Final = 1 << 18
"""Bytes that are read at once of what a socket still holds."""


class Pair(ObservedConnection):
    """Two sockets and what they have in common. :meth:`run` lasts as long as they do."""

    def __init__(
        self,
        connection: Connection,
        reader: ConnectionReader,
        notifier: Notifier,
        clock: Clock,
        write_buffer: int,
        active_policy: ActivePolicy,
    ) -> None:
        """``write_buffer``: bytes that wait for a slow reader before the writer is stopped."""
        super().__init__(connection, reader, notifier, clock)
        self.write_buffer = write_buffer
        self.active_policy = active_policy
        self.interceptor: RelayInterceptor | None = None  # None as long as there have been no rules
        self._client = _SideProtocol(self, Side.CLIENT)
        self._runtime = _SideProtocol(self, Side.RUNTIME)
        self._client.other, self._runtime.other = self._runtime, self._client
        self._closed = asyncio.get_running_loop().create_future()

    async def run(self, client: socket.socket, runtime: socket.socket) -> None:
        """Relay between two connected sockets until both are closed; they belong to it now.

        Cancelled, it cuts both off.
        """
        loop = asyncio.get_running_loop()
        self._client.socket, self._runtime.socket = client, runtime
        try:
            await loop.create_unix_connection(lambda: self._runtime, sock=runtime)
            await loop.connect_accepted_socket(lambda: self._client, client)
            self._client.begin()
            self._runtime.begin()
            await self._closed
        finally:
            self.notifier.ended(self, Side.RUNTIME)  # to the client it is the runtime that went
            self._client.abort()
            self._runtime.abort()
            client.close()
            runtime.close()

    def hang_up(self, side: Side) -> None:
        """End both sides because ``side`` is gone: what it had sent is still delivered."""
        if side is Side.RUNTIME and self._is_delivering():
            return
        if self.interceptor is not None:
            self.interceptor.ended(side)
        self.close(side)

    def close(self, side: Side = Side.RUNTIME) -> None:
        """See Watched. ``side`` is the one that is said to have ended it."""
        self.notifier.ended(self, side)
        self._client.close()
        self._runtime.close()

    def _is_delivering(self) -> bool:
        """Keep the client for a while where what the runtime had answered is still held."""
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
        """Pass on that a side sends nothing more, once nothing of it is held."""
        end = self._runtime if side is Side.CLIENT else self._client
        if self.interceptor is None:
            end.end_writing()
        elif self.interceptor.busy:
            asyncio.get_running_loop().call_later(_POLL_INTERVAL, self.half_closed, side)
        else:
            if side is Side.CLIENT:
                self.interceptor.half_closed()
            end.end_writing()

    def install_interceptor(self, side: Side) -> None:
        """Begin to keep rules on the connection, now that ``side`` has sent something, unless this
        is within a frame's header."""
        if RelayInterceptor.can_begin(self, self.active_policy, side):
            self.interceptor = RelayInterceptor(
                self,
                self.active_policy,
                self._client.write,
                self._runtime.write,
                lambda: (self._client.take_inserts(), self._runtime.take_inserts()),
                self.close,
            )

    def cut(self, stream: int) -> None:
        """See Watched. The peers sort out what is still under way for the stream: to each it is as
        if the other had reset it, and what comes for a stream that was reset is ignored.
        """
        if self.interceptor is not None and self.interceptor.cut(stream):
            return
        self._runtime.insert(reset(stream, ErrorCode.CANCEL))
        self._client.insert(reset(stream, ErrorCode.ENHANCE_YOUR_CALM))

    def lost(self) -> None:
        """Take notice that a side's transport is closed for good."""
        if self._client.closed and self._runtime.closed and not self._closed.done():
            self._closed.set_result(None)


class _SideProtocol(asyncio.Protocol):
    """One side of a pair."""

    other: "_SideProtocol"
    socket: socket.socket

    def __init__(self, pair: Pair, side: Side) -> None:
        self._pair = pair
        self._side = side
        self._transport: asyncio.Transport | None = None
        self._forward: Callable[[bytes], None] | None = None  # None until both are attached
        self._early: list[bytes] = []  # what came before that
        self._inserts: list[bytes] = []  # frames of ours among what this side sends
        self._ended = False
        self.closed = False

    def write(self, data: bytes) -> None:
        """Send to this side: at once where nothing waits, else behind what does.

        A transport would write only when the loop has gone through all that has come; the peer can
        be at work by then.
        """
        transport = self._transport
        assert transport is not None
        if transport.is_closing():
            return
        sent = 0
        if not transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # full or gone: the transport sees to it
                sent = self.socket.send(data)
        if sent < len(data):
            transport.write(data[sent:])

    def insert(self, frame: bytes) -> None:
        """Write a frame of our own to this side, as soon as no other is on its way to it."""
        self.other._inserts.append(frame)
        self.other._insert_at_boundary()

    def take_inserts(self) -> list[bytes]:
        """Hand over the frames of ours that wait to be put in among what this side sends."""
        inserts, self._inserts = self._inserts, []
        return inserts

    def begin(self) -> None:
        """Relay from now on: both sides are attached."""
        self._forward = self.other.write
        for data in self._early:
            self.data_received(data)
        self._early.clear()
        if self._ended:
            self.eof_received()

    def close(self) -> None:
        """Close once what waits here has been written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None and not self.closed:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._pair.write_buffer)

    def data_received(self, data: bytes) -> None:
        if self._forward is None:
            self._early.append(data)
            return
        pair = self._pair
        now = pair.clock()
        if self._inserts:
            data = self._insert_within(data, now)
        self._relay(data, now)

    def _relay(self, data: bytes, now: float) -> None:
        pair = self._pair
        if pair.active_policy.policy is not None and pair.interceptor is None:
            pair.install_interceptor(self._side)
        if pair.interceptor is not None:
            pair.interceptor.received(self._side, data, now)
        elif self._forward is not None:
            self._forward(data)
            pair.notifier.relayed(pair, self._side, data, now)

    def eof_received(self) -> bool:
        self._ended = True
        if self._forward is not None:
            if self.other._ended or is_hung_up(self.socket):
                self._pair.hang_up(self._side)
            else:
                self._pair.half_closed(self._side)
                self._watch_for_hang_up()
        return True  # the transport stays: the other direction goes on

    def _watch_for_hang_up(self) -> None:
        """Look now and then whether a peer that has ended its sending has gone altogether.

        A socket at its end is not polled any more, and a runtime may have nothing to send.
        """
        if not self.closed:
            if is_hung_up(self.socket):
                self._pair.hang_up(self._side)
            else:
                asyncio.get_running_loop().call_later(_POLL_INTERVAL, self._watch_for_hang_up)

    def pause_writing(self) -> None:
        transport = self.other._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()

    def resume_writing(self) -> None:
        transport = self.other._transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is not None:
            self._read_rest()
        self._pair.hang_up(self._side)
        self._pair.lost()

    def _read_rest(self) -> None:
        """Relay what the peer sent before it went: a write to it has failed before it was read."""
        with contextlib.suppress(OSError):
            while data := self.socket.recv(_READ_SIZE):
                self.data_received(data)

    def _insert_within(self, data: bytes, now: float) -> bytes:
        """Relay up to the end of the frame that passes, and what is inserted; return the rest."""
        gap = self._pair.reader.to_boundary(self._side)
        if gap is None or gap >= len(data):
            return data
        if gap:
            self._relay(data[:gap], now)
        self._insert_at_boundary()
        return data[gap:]

    def _insert_at_boundary(self) -> None:
        if self._forward is not None and self._pair.reader.to_boundary(self._side) == 0:
            self._forward(b"".join(self._inserts))
            self._inserts.clear()

    def end_writing(self) -> None:
        """Tell the peer that nothing more will be sent to it."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
