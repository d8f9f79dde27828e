"""A listener: takes clients at a socket and pairs each with a connection to the runtime."""

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from criproxy.concurrency.tasks import Tasks
from criproxy.peers.credentials import peer_of
from criproxy.peers.peer import Connection, Peer
from criproxy.relay.dial import ClientGoneError, dial
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.notifier import Clock, Notifier, Observer
from criproxy.relay.pair import Pair
from criproxy.relay.policy import ActivePolicy
from criproxy.relay.sockets import Access, BoundSocket, access_of, bind
from criproxy.wire.reading.connection import ConnectionReader
from criproxy.wire.reading.message_capture import SelectCapture

_ACCEPTED_AT_ONCE: Final = 64
"""Clients taken at one wake-up, so that a flood of them does not keep the others waiting."""

_PAUSE: Final = 0.1
"""Seconds without accepting when there are no file descriptors left."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener allows itself."""

    connections: int
    """Clients at once; the next ones wait in the socket's backlog."""
    runtime_wait: float
    """Seconds for which a client is held while the runtime is not there."""
    write_buffer: int
    """Bytes that wait for a slow reader, per direction, before the writer is stopped."""
    header_block: int
    """Bytes of one header block above which a connection is relayed unread."""
    streams: int
    """Calls in flight on one connection above which it is relayed unread."""
    message: int | None = None
    """Bytes of a message above which its call is ended with RESOURCE_EXHAUSTED; None for any."""


def captures_nothing(connection: Connection) -> SelectCapture | None:
    """Say for a client that nothing of its calls is kept."""
    return None


class ListenerEvents(Protocol):
    """What a listener tells the operator, beside what it tells the observer."""

    def runtime_unreachable(self, listener: str, runtime: str, peer: Peer, error: OSError) -> None:
        """A client was held until ``runtime_wait`` was over and is closed now."""

    def accept_paused(self, listener: str, reason: str) -> None:
        """No more clients are taken for now: they wait in the backlog."""


class Listener:
    """One socket that clients connect to. :meth:`open`, then :meth:`close`."""

    def __init__(
        self,
        endpoint: Endpoint,
        runtime: Endpoint,
        image: Endpoint,
        access: Access,
        limits: Limits,
        observer: Observer,
        events: ListenerEvents,
        tasks: Tasks,
        clock: Clock,
        policy_of: Callable[[Connection], ActivePolicy],
        capture_for: Callable[[Connection], SelectCapture | None] = captures_nothing,
        identify: Callable[[socket.socket], Peer] = peer_of,
    ) -> None:
        """``access`` holds what is configured; the rest is copied from the runtime's socket.

        The last three are asked once for each client, when it has been accepted: who it is
        (``identify``), then, once the observer knows of the connection, which rules hold on it
        (``policy_of``) and of which of its calls the messages are kept (``capture_for``; None: of
        none). Where one of them raises, the client is closed.
        """
        self.endpoint = endpoint
        self.runtime = runtime
        self.image = image
        self._access = access
        self._limits = limits
        self._observer = observer
        self._notifier = Notifier(observer, clock)
        self._events = events
        self._tasks = tasks
        self._clock = clock
        self._policy_of = policy_of
        self._capture_for = capture_for
        self._identify = identify
        self._bound: BoundSocket | None = None
        self._access_copied = False
        self._clients = 0
        self._full = False

    def open(self) -> None:
        """Bind and accept. Raises UnavailableError or EndpointError (see sockets.bind)."""
        self._loop = asyncio.get_running_loop()
        copied = access_of(self.runtime)
        self._access_copied = copied is not None
        self._bound = bind(self.endpoint, self._access.or_else(copied or Access()))
        self._start_accepting()

    def close(self) -> None:
        """Take no more clients and remove the socket; those that are connected stay."""
        if self._bound is not None:
            self._stop_accepting()
            self._bound.close()
            self._bound = None

    @property
    def is_open(self) -> bool:
        """Whether clients can connect."""
        return self._bound is not None

    def _start_accepting(self) -> None:
        if self._bound is not None and not self._full:
            self._loop.add_reader(self._bound.socket.fileno(), self._accept, self._bound.socket)

    def _stop_accepting(self) -> None:
        if self._bound is not None:
            self._loop.remove_reader(self._bound.socket.fileno())

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if self._clients >= self._limits.connections:
                self._full = True
                self._stop_accepting()
                reason = f"{self._clients} clients are connected (limits.connections)"
                self._events.accept_paused(str(self.endpoint), reason)
                return
            try:
                client, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._stop_accepting()
                self._loop.call_later(_PAUSE, self._start_accepting)
                self._events.accept_paused(str(self.endpoint), str(error.strerror))
                return
            client.setblocking(False)
            self._clients += 1
            self._tasks.start(self._serve(client), f"connection at {self.endpoint}")

    async def _serve(self, client: socket.socket) -> None:
        try:
            connection = Connection(str(self.endpoint), self._identify(client), self._clock())
            self._observer.connection_opened(connection)
            try:
                await self._relay(client, connection)
            finally:
                self._observer.connection_closed(connection)
        finally:
            client.close()
            self._clients -= 1
            if self._full:
                self._full = False
                self._start_accepting()

    async def _relay(self, client: socket.socket, connection: Connection) -> None:
        reader = ConnectionReader(
            header_block_limit=self._limits.header_block,
            stream_limit=self._limits.streams,
            message_limit=inf if self._limits.message is None else self._limits.message,
            select_capture=self._capture_for(connection),
        )
        active_policy = self._policy_of(connection)
        if self.image != self.runtime:
            await self._relay_split(client, connection, reader, active_policy)
            return
        try:
            runtime = await self._dial(client, connection, self.runtime)
        except OSError:
            return
        write_buffer = self._limits.write_buffer
        pair = Pair(connection, reader, self._notifier, self._clock, write_buffer, active_policy)
        await pair.run(client, runtime)

    async def _relay_split(
        self,
        client: socket.socket,
        connection: Connection,
        reader: ConnectionReader,
        active_policy: ActivePolicy,
    ) -> None:
        from criproxy.relay.split import Split  # h2 is loaded only where it is needed

        def dial(image: bool) -> Coroutine[Any, Any, socket.socket]:
            to = self.image if image else self.runtime
            return self._dial(client, connection, to)

        split = Split(
            connection, reader, self._notifier, self._clock, dial, self._tasks, active_policy
        )
        await split.run(client)

    async def _dial(
        self, client: socket.socket, connection: Connection, to: Endpoint
    ) -> socket.socket:
        """Connect to one of the two, and see to what follows from its being there or not.

        Raises OSError where it is not, and ClientGoneError where nobody waits any longer.
        """
        try:
            connected = await dial(to, client, self._limits.runtime_wait, self._clock)
        except ClientGoneError:
            raise
        except OSError as error:
            self._events.runtime_unreachable(connection.listener, str(to), connection.peer, error)
            raise
        if not self._access_copied and self._bound is not None:
            self._copy_access(self._bound)
        return connected

    def _copy_access(self, bound: BoundSocket) -> None:
        """Take over owner and mode from a runtime that was not there when we began."""
        copied = access_of(self.runtime)
        if copied is not None:
            self._access_copied = True
            bound.grant(self._access.or_else(copied))
