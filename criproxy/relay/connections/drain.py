"""Draining: moves a connection's client to another process without failing a call.

The order of RFC 9113 section 6.8, as grpc-go's and C-core's servers keep it in a graceful stop::

    GOAWAY(NO_ERROR, last stream 2^31-1)    the client opens its next calls on a new connection
    PING                                    its ACK shows that the client has seen the GOAWAY
    calls in flight end                     those that the client opened before it saw it, too
    GOAWAY(NO_ERROR, the last stream)       then both connections are ended
    the client closes its socket            ours is closed then, or after a second

On a connection without a call the first GOAWAY waits for one, for a second at most: in gRPC C-core
a GOAWAY that comes with the handshake is lost, the connection stays open unused, and the call that
it was made for waits until the server closes it.

Streams of events, which have no end of their own, end with UNAVAILABLE, as if the runtime stopped.
A client whose runtime is absent gets SETTINGS and GOAWAY(NO_ERROR, last stream 0) at once.
"""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from criproxy.cri.methods import ENDLESS
from criproxy.wire.constants import (
    FLAG_ACK,
    FRAME_HEADER_SIZE,
    LARGEST_STREAM,
    PING,
    PREFACE,
    SETTINGS,
    ErrorCode,
)
from criproxy.wire.http2.frame_builder import frame, goaway
from criproxy.wire.http2.frames import unpack_header
from criproxy.wire.reading.connection import Side

if TYPE_CHECKING:
    from criproxy.relay.connections.relayed import RelayedConnection

PING_PAYLOAD: Final = b"criproxy"
"""The payload of the PING whose ACK is waited for; a PING has eight bytes."""

STOPPING: Final = "criproxy is stopping or being replaced"
"""The message of an UNAVAILABLE call."""

SILENCE: Final = 1.0
"""Seconds without a byte after which a connection is closed that has no HTTP/2 to drain: it is not
read any more, or its client has not sent a preface."""

_FIRST_CALL: Final = 1.0
"""Seconds that a connection without a call is given to make one."""

_ANSWER: Final = 5.0
"""Seconds that a client has to answer the PING on a connection without a call, as in grpc-go."""

_READ_SIZE: Final = 1 << 16


class Drain:
    """The state of one connection's drain."""

    def __init__(self, connection: "RelayedConnection") -> None:
        self.acknowledged = False
        """Whether the client has seen the GOAWAY: it opens no more streams here."""
        self.last_received = connection.clock()
        """When the last bytes came, in seconds."""
        self._connection = connection
        self._began = self.last_received
        self._goaway_sent: float | None = None
        """When the first GOAWAY was sent, in seconds."""
        self._ping_sent = False
        self._looked_at = 0  # the last stream that was looked at for an endless call

    def advance(self) -> None:
        """Take the steps that are possible now."""
        connection = self._connection
        reader = connection.reader
        now = connection.clock()
        silent = now - self.last_received >= SILENCE
        if not connection.is_readable:
            if silent:
                connection.close()
            return
        unused = not reader.last_stream
        if self._goaway_sent is None:
            if unused and now - self._began < _FIRST_CALL:
                return
            connection.send_goaway(LARGEST_STREAM)
            self._goaway_sent = now
        if not self._ping_sent:
            self._ping_sent = connection.send_ping()
        self._end_endless_calls()
        unanswered = now - self._goaway_sent >= _ANSWER
        given_up = unused and (unanswered or (silent and reader.not_started))
        if (self.acknowledged or given_up) and not connection.has_calls:
            connection.send_goaway(reader.last_stream)
            connection.close()

    def _end_endless_calls(self) -> None:
        """Look at each call once: :meth:`advance` is called for each chunk of bytes."""
        connection = self._connection
        for call in connection.reader.calls_after(self._looked_at):
            if not connection.can_end_calls:
                return
            if call.path.rpartition(b"/")[2] in ENDLESS:
                connection.end_call(call)
            self._looked_at = call.stream


async def dismiss(client: socket.socket, last: bytes) -> None:
    """Send a client ``last`` and read from it until it closes the connection, for a while: a reset
    could overtake what was sent."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(SILENCE):
            await loop.sock_sendall(client, last)
            client.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(client, _READ_SIZE):
                pass


async def send_away(client: socket.socket) -> None:
    """Tell a client that waits for its upstream to make all of its calls on another connection.

    GOAWAY with last stream 0 says that none was processed (RFC 9113 section 6.8).
    """
    await dismiss(client, frame(SETTINGS, 0, 0, b"") + goaway(0, ErrorCode.NO_ERROR))


class PingAckFilter:
    """Removes the ACK of the drain's PING from the bytes of a client.

    The beginning of a frame that may be it is kept until the rest comes: at most 16 bytes.
    """

    def __init__(self, drain: Drain, skip: int) -> None:
        """``skip``: bytes until the next frame header, of a frame that is under way."""
        self._drain = drain
        self._skip = skip
        self._partial = b""

    @classmethod
    def start(cls, connection: "RelayedConnection", drain: Drain) -> "PingAckFilter | None":
        """Return a filter for the client's next bytes; None if their frames are not known."""
        reader = connection.reader
        skip = len(PREFACE) if reader.not_started else reader.to_boundary(Side.CLIENT)
        return None if skip is None else cls(drain, skip)

    def filter(self, data: bytes) -> bytes:
        """Return what of the client's next bytes is to be forwarded."""
        if self._drain.acknowledged:
            return data
        if self._partial:
            data, self._partial = self._partial + data, b""
        position, size = self._skip, len(data)
        while size - position >= FRAME_HEADER_SIZE:
            high, low, kind, flags, _ = unpack_header(data, position)
            start = position + FRAME_HEADER_SIZE
            end = start + (high << 8 | low)
            if kind == PING and flags & FLAG_ACK and end - start == len(PING_PAYLOAD):
                if end > size:
                    break
                if data[start:end] == PING_PAYLOAD:
                    self._drain.acknowledged = True
                    return data[:position] + data[end:]
            position = end
        self._skip = max(0, position - size)
        if position < size:
            self._partial = data[position:]
        return data[:position]

    @property
    def is_waiting(self) -> bool:
        """Whether it keeps the beginning of a frame."""
        return bool(self._partial)

    def leftover(self) -> bytes:
        """Return the beginning of a frame whose rest will not come."""
        rest, self._partial = self._partial, b""
        return rest
