"""A listener: accepts clients at a socket and pairs each with a connection to the upstream."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from math import inf
from typing import Any, Final, NamedTuple, Protocol

from criproxy.concurrency.tasks import Tasks
from criproxy.peers.credentials import peer_of
from criproxy.peers.peer import Connection, Peer
from criproxy.relay.capture import PULL_BUDGET, with_pull_requests
from criproxy.relay.connections.client_rate import ClientRate
from criproxy.relay.connections.drain import SILENCE, dismiss, send_away
from criproxy.relay.connections.pair import Pair
from criproxy.relay.connections.relayed import RelayedConnection
from criproxy.relay.dial import ClientGoneError, DrainingError, dial
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.notifier import Clock, Notifier, Observer
from criproxy.relay.own_sockets import OwnSockets
from criproxy.relay.policy import ActivePolicy
from criproxy.relay.sockets import Access, SocketFile, access_of
from criproxy.wire.errors import HTTP1Error
from criproxy.wire.http1 import begins_request, forbidden
from criproxy.wire.http2.frame_rate import DEFAULT_FRAME_RATE
from criproxy.wire.reading.connection import ConnectionReader
from criproxy.wire.reading.message_capture import CaptureBudget, SelectCapture

_ACCEPTED_AT_ONCE: Final = 64
"""Clients accepted at one wake-up, so that many at once do not delay those that are connected."""

_PAUSE: Final = 0.1
"""Seconds without accepting after file descriptors have run out."""

_DRAIN_INTERVAL: Final = 0.1
"""Seconds between looks at the connections that are drained."""

_READ_SIZE: Final = 1 << 16
"""Bytes that are read at once of what a client sends first."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one listener."""

    connections: int
    """Clients at once; further ones wait in the socket's backlog."""
    runtime_wait: float
    """Seconds for which a client is kept while the runtime cannot be reached."""
    write_buffer: int
    """Bytes buffered for a slow reader, per direction, before the writer is not read from."""
    header_block: int
    """Bytes of one header block above which a connection is relayed unread."""
    header_list: int
    """Bytes of a decoded header list that are read at most."""
    header_fields: int
    """Fields of a header list that are read at most."""
    streams: int
    """Calls in flight on one connection above which it is relayed unread."""
    message: int | None = None
    """Bytes of a message above which its call ends with RESOURCE_EXHAUSTED; None for no limit."""
    frame_rate: float = DEFAULT_FRAME_RATE
    """Frames per second that cost work and carry nothing, above which a client is slowed down."""


class DrainResult(NamedTuple):
    """The number of calls of a drained listener, by how they ended."""

    finished: int
    """Calls that ended while it was drained."""
    cut: int
    """Calls that were in flight when the time was over."""


CaptureFor = Callable[[Connection], SelectCapture | None]
"""Returns what selects the captures of a connection's calls."""


def captures_nothing(connection: Connection) -> SelectCapture | None:
    """Capture no messages of a client's calls."""
    return None


class ListenerEvents(Protocol):
    """Receives what a listener reports beside the events of its connections."""

    def runtime_unreachable(self, listener: str, runtime: str, peer: Peer, error: OSError) -> None:
        """Called when a client is closed because ``runtime_wait`` is over."""

    def accept_paused(self, listener: str, reason: str) -> None:
        """Called when no more clients are accepted for now: they wait in the backlog."""

    def rate_exceeded(self, connection: Connection) -> None:
        """Called when a client is disconnected because it goes on sending too many frames."""


class Listener:
    """Accepts clients at one socket: :meth:`serve`, then :meth:`drain` or :meth:`close`.

    The socket may be shared with other processes that accept clients, too.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        runtime: Endpoint,
        image: Endpoint,
        access: Access | None,
        limits: Limits,
        observer: Observer,
        events: ListenerEvents,
        tasks: Tasks,
        clock: Clock,
        policy_of: Callable[[Connection], ActivePolicy],
        capture_for: CaptureFor = captures_nothing,
        identify: Callable[[socket.socket], Peer] = peer_of,
        *,
        own_sockets: OwnSockets,
        failed: Callable[[str, BaseException], None],
        shields_reads: bool = False,
    ) -> None:
        """``access``: the configured owner and mode of the socket; what it leaves open is copied
        from the runtime's socket when that is first reached. None: both stay as they are.

        Called once for each client when it has been accepted: ``identify``; then, after
        ``connection_opened``, ``policy_of`` and ``capture_for`` (which messages of its calls to
        capture beside the requests of PullImage; None: none). If one of them raises, the client is
        closed.

        ``own_sockets`` are never dialled as an upstream. ``failed`` is called with a name and the
        error if clients cannot be accepted any more. ``shields_reads``: calls that change nothing
        are made again if the runtime restarts before it has answered them.
        """
        self.endpoint = endpoint
        self.runtime = runtime
        self.image = image
        self.access = access or Access()
        self._copies_access = access is not None
        self._limits = limits
        self._observer = observer
        self._notifier = Notifier(observer, clock)
        self._events = events
        self._tasks = tasks
        self._clock = clock
        self._policy_of = policy_of
        self._capture_for = capture_for
        self._pull_budget = CaptureBudget(PULL_BUDGET)
        self._identify = identify
        self._own_sockets = own_sockets
        self._failed = failed
        self._shields_reads = shields_reads
        self._listening: socket.socket | None = None
        self._file: SocketFile | None = None  # None once owner and mode need no more copying
        self._clients = 0
        self._full = False
        self._draining = False
        self._serving: set[asyncio.Task[None]] = set()
        self._connections: dict[RelayedConnection, socket.socket] = {}
        self._kept: dict[RelayedConnection, socket.socket] = {}
        """Duplicates of the clients' sockets that are drained."""
        self._waiting: set[asyncio.Timeout] = set()  # for a client's first bytes

    def serve(self, listening: socket.socket) -> None:
        """Accept clients at a listening socket, which belongs to this listener from now on."""
        self._loop = asyncio.get_running_loop()
        listening.setblocking(False)
        self._listening = listening
        self._file = SocketFile(self.endpoint) if self._copies_access else None
        self._resume_accepting()

    def stop_accepting(self) -> None:
        """Accept no more clients. They can still connect: another process may accept them."""
        if self._listening is not None:
            self._pause_accepting()
            self._listening.close()
            self._listening = None

    async def drain(self, within: float, last: bool = False) -> DrainResult:
        """Move the clients to another process, and return when all connections are closed.

        Those that are open after ``within`` seconds are cut. ``last``: no other process accepts at
        this socket, so the clients that wait in its backlog are accepted, too.
        """
        if last and self._listening is not None:
            self._accept(self._listening)
        self.stop_accepting()
        self._draining = True
        ended, deadline = self._notifier.calls_ended, self._clock() + within
        for waiting in self._waiting:
            waiting.reschedule(self._loop.time() + SILENCE)
        for connection, client in tuple(self._connections.items()):
            self._start_draining(connection, client)
        while self._serving and (left := deadline - self._clock()) > 0:
            await asyncio.wait(self._serving, timeout=min(left, _DRAIN_INTERVAL))
            for connection in tuple(self._connections):
                connection.advance_drain()
        cut = sum(len(connection.reader.calls) for connection in self._connections)
        finished = self._notifier.calls_ended - ended
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        return DrainResult(finished, cut)

    @property
    def is_accepting(self) -> bool:
        """Whether clients are accepted, now or when there is room for them."""
        return self._listening is not None

    def _resume_accepting(self) -> None:
        if self._listening is not None and not self._full:
            self._loop.add_reader(self._listening.fileno(), self._accept, self._listening)

    def _pause_accepting(self) -> None:
        if self._listening is not None:
            self._loop.remove_reader(self._listening.fileno())

    def _accept(self, listening: socket.socket) -> None:
        try:
            self._accept_clients(listening)
        except Exception as error:
            self.stop_accepting()
            self._failed(f"accepting clients at {self.endpoint}", error)

    def _accept_clients(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if self._clients >= self._limits.connections:
                self._full = True
                self._pause_accepting()
                reason = f"{self._clients} clients are connected (limits.connections)"
                self._events.accept_paused(str(self.endpoint), reason)
                return
            try:
                client, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return  # another process was faster, or the client has gone
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause_accepting()
                self._loop.call_later(_PAUSE, self._resume_accepting)
                self._events.accept_paused(str(self.endpoint), str(error.strerror))
                return
            client.setblocking(False)
            self._clients += 1
            task = self._tasks.start(self._serve_client(client), f"connection at {self.endpoint}")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve_client(self, client: socket.socket) -> None:
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
                self._resume_accepting()

    async def _relay(self, client: socket.socket, connection: Connection) -> None:
        reader = ConnectionReader(
            header_block_limit=self._limits.header_block,
            header_list_limit=self._limits.header_list,
            header_field_limit=self._limits.header_fields,
            stream_limit=self._limits.streams,
            message_limit=inf if self._limits.message is None else self._limits.message,
            select_capture=with_pull_requests(self._capture_for(connection), self._pull_budget),
        )
        active_policy = self._policy_of(connection)
        splits = self.image != self.runtime or self._shields_reads
        received, refusal = b"", active_policy.http1_refusal
        try:
            if splits or refusal:
                received = await self._receive_beginning(client)
        except DrainingError:
            await send_away(client)
            return
        except OSError:
            return
        is_http1 = begins_request(received)
        if is_http1 and refusal:
            self._observer.connection_refused(connection, HTTP1Error.reason, refusal)
            await dismiss(client, forbidden(refusal, received))
            return
        if splits and not is_http1:
            await self._relay_split(client, connection, reader, active_policy, received)
            return
        try:
            runtime = await self._dial(client, connection, self.runtime, lambda: self._draining)
        except DrainingError:
            if not is_http1:
                await send_away(client)
            return
        except OSError:
            return
        write_buffer = self._limits.write_buffer
        pair = Pair(connection, reader, self._notifier, self._clock, write_buffer, active_policy)
        async with self._controlled(pair, client):
            await pair.run(client, runtime, received)

    async def _receive_beginning(self, client: socket.socket) -> bytes:
        """Read what a client sends first, until that tells whether it is HTTP/1, or it has gone.

        Raises DrainingError if it has sent too little for a while when the listener is drained.
        """
        received = b""
        try:
            async with asyncio.timeout(SILENCE if self._draining else None) as waiting:
                self._waiting.add(waiting)
                try:
                    while begins_request(received) is None:
                        data = await self._loop.sock_recv(client, _READ_SIZE)
                        if not data:
                            break
                        received += data
                finally:
                    self._waiting.discard(waiting)
        except TimeoutError:
            raise DrainingError from None
        return received

    async def _relay_split(
        self,
        client: socket.socket,
        connection: Connection,
        reader: ConnectionReader,
        active_policy: ActivePolicy,
        received: bytes,
    ) -> None:
        from criproxy.relay.connections.split import Split  # h2 is loaded only where it is needed

        def dial(image: bool) -> Coroutine[Any, Any, socket.socket]:
            to = self.image if image else self.runtime
            return self._dial(client, connection, to, lambda: self._draining)

        split = Split(
            connection,
            reader,
            self._notifier,
            self._clock,
            self._limits.write_buffer,
            dial,
            self._tasks,
            active_policy,
            self._shields_reads,
        )
        async with self._controlled(split, client):
            await split.run(client, received)

    @asynccontextmanager
    async def _controlled(
        self, connection: RelayedConnection, client: socket.socket
    ) -> AsyncIterator[None]:
        """Limit a connection's frame rate, and drain it together with the listener.

        The client of a drained connection is read from until it has closed it: the end of its last
        call may wait to be read, which a client that fails to write meanwhile does not do any more.
        """
        self._connections[connection] = client
        rate = ClientRate(
            connection,
            self._limits.frame_rate,
            lambda: self._events.rate_exceeded(connection.connection),
        )
        connection.limit_client(rate)
        if self._draining:
            self._start_draining(connection, client)
        try:
            yield
            if (kept := self._kept.get(connection)) is not None:
                await dismiss(kept, b"")
        finally:
            del self._connections[connection]
            if (kept := self._kept.pop(connection, None)) is not None:
                kept.close()

    def _start_draining(self, connection: RelayedConnection, client: socket.socket) -> None:
        with suppress(OSError):  # too few descriptors, or the client's socket is closed
            self._kept[connection] = client.dup()
        connection.start_draining()

    async def _dial(
        self,
        client: socket.socket,
        connection: Connection,
        to: Endpoint,
        is_draining: Callable[[], bool],
    ) -> socket.socket:
        """Connect to an upstream for a client, waiting for ``runtime_wait`` at most.

        Raises OSError if it cannot be reached; see :func:`criproxy.relay.dial.dial`.
        """
        try:
            patience = self._limits.runtime_wait
            connected = await dial(
                to, client, patience, self._clock, self._own_sockets, is_draining
            )
        except (ClientGoneError, DrainingError):
            raise
        except OSError as error:
            self._events.runtime_unreachable(connection.listener, str(to), connection.peer, error)
            raise
        if self._file is not None:
            self._copy_access(self._file)
        return connected

    def _copy_access(self, file: SocketFile) -> None:
        """Copy owner and mode of a runtime that was absent when the socket was bound."""
        copied = access_of(self.runtime)
        if copied is not None:
            self._file = None
            with suppress(OSError):  # not this client's fault: it is served
                file.grant(self.access.or_else(copied))
