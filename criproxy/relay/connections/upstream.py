"""One of the two services of a split connection: its connection, and the calls that wait for it.

A call waits while the upstream is dialled, while it has as many streams open as its
SETTINGS_MAX_CONCURRENT_STREAMS allows, and while it does not read. The bound is the number of
streams that a client may have open, and a number of bytes of headers: what is above either is
refused with REFUSED_STREAM, which says that it was not processed (RFC 9113 section 8.7).
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from h2.errors import ErrorCodes

from criproxy.concurrency.tasks import Tasks
from criproxy.relay.connections.exchange import Exchange
from criproxy.relay.connections.h2_peer import Owner, PeerConnection
from criproxy.relay.dial import DrainingError
from criproxy.wire.grpc import StatusCode

_WAITING_HEADERS: Final = 4 << 20
"""Bytes of the header lists of calls that wait, per client and upstream."""

LOST: Final = "the runtime closed the connection"
"""The message of a call that ends with UNAVAILABLE because its upstream's connection is closed."""


class Upstream:
    """The connections of one client to one service. ``peers`` are those that are open."""

    def __init__(
        self,
        owner: Owner,
        name: str,
        dial: Callable[[], Coroutine[Any, Any, socket.socket]],
        write_buffer: int,
        tasks: Tasks,
    ) -> None:
        """``name`` is for messages. ``dial`` connects to it; raises OSError: DrainingError if it
        cannot be reached while the client's connection is drained."""
        self.peers: set[PeerConnection] = set()
        self._owner = owner
        self._name = name
        self._dial = dial
        self._write_buffer = write_buffer
        self._tasks = tasks
        self._peer: PeerConnection | None = None  # that of the next calls
        self._is_dialling = False
        self._is_closed = False
        self._waiting: dict[Exchange, asyncio.TimerHandle | None] = {}
        self._headers = 0  # bytes of those that wait

    def add(self, exchange: Exchange) -> None:
        """Have a call wait until :meth:`advance` forwards it, at its deadline at the latest."""
        if self._headers and self._headers + exchange.size > _WAITING_HEADERS:
            exchange.refuse(ErrorCodes.REFUSED_STREAM)
            return
        timer = None
        if exchange.deadline is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_at(exchange.deadline, self._expire, exchange)
        self._waiting[exchange] = timer
        self._headers += exchange.size

    def remove(self, exchange: Exchange) -> None:
        """Have a call not wait any more, if it does."""
        if exchange in self._waiting:
            self._headers -= exchange.size
            timer = self._waiting.pop(exchange)
            if timer is not None:
                timer.cancel()

    def advance(self) -> None:
        """Forward the calls that may be forwarded now, in their order; dial if there is need."""
        peer = self._peer
        if peer is None:
            if self._waiting and not self._is_dialling and not self._is_closed:
                self._is_dialling = True
                self._tasks.start(self._connect(), f"dialling the {self._name}")
            return
        while self._waiting and peer.has_room:
            exchange = next(iter(self._waiting))
            self.remove(exchange)
            exchange.join(peer)

    def leave(self, peer: PeerConnection) -> list[Exchange]:
        """Forward no more calls to a connection that goes or is lost.

        Returns the calls that waited for it alone, if it never took one.
        """
        if self._peer is not peer:
            return []
        self._peer = None
        return [] if peer.h2.highest_outbound_stream_id else list(self._waiting)

    def close(self) -> None:
        """Close all connections now."""
        self._is_closed = True
        for peer in list(self.peers):
            peer.abort()

    async def _connect(self) -> None:
        try:
            sock = await self._dial()
            peer = PeerConnection(self._owner, self._write_buffer, sock)
            self.peers.add(peer)
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: peer, sock=sock)
            self._peer = None if peer.closed.done() else peer
            if self._is_closed:
                peer.abort()
        except DrainingError:  # the client may make them again at another process
            for exchange in list(self._waiting):
                exchange.refuse(ErrorCodes.REFUSED_STREAM)
        except OSError as error:
            for exchange in list(self._waiting):
                exchange.fail(f"cannot reach the {self._name}: {error}")
        finally:
            self._is_dialling = False
        self._owner.flush()

    def _expire(self, exchange: Exchange) -> None:
        message = f"the {self._name} did not take the call before its deadline"
        exchange.fail(message, StatusCode.DEADLINE_EXCEEDED)
        self._owner.flush()
