"""One end of a connection, played by the test on a socket: a strict endpoint that waits."""

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.endpoints import Block, End, Endpoint, Outgoing, Stream
from tests.support.raw_sockets import accept, dial
from tests.support.waiting import LIMIT_SECONDS
from tests.support.wire import Header

RESPONSE: list[Header] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK: list[Header] = [(b"grpc-status", b"0")]


class Played:
    """A client or a runtime on one connection."""

    def __init__(
        self, side: Side, sock: socket.socket, *settings: tuple[int, int], settles: bool = True
    ) -> None:
        self.end = Endpoint(side)
        if settles:
            self.end.settle(*settings)
        self.socket = sock
        self.flush()

    def wait(self, until: Callable[[], Any], within: float = LIMIT_SECONDS) -> None:
        """Read until something has come. Raises TimeoutError after ``within`` quiet seconds."""
        self.socket.settimeout(within)
        while not until():
            self.read()

    def read(self) -> None:
        """Take what has come, which is something."""
        data = self.socket.recv(1 << 16)
        assert data, "the connection has ended"
        self.end.receive(data)
        self.flush()

    def settled(self) -> None:
        """Wait until the peer has handled all that was sent."""
        self.end.ping(b"settled?")
        self.flush()
        self.wait(lambda: self.end.quiescent)

    def settle(self, *settings: tuple[int, int]) -> None:
        """Send SETTINGS."""
        self.end.settle(*settings)
        self.flush()

    def acknowledge(self, stream: Stream) -> None:
        """Open the windows again by all that came."""
        self.end.acknowledge(None, 1 << 24)
        self.end.acknowledge(stream, 1 << 24)
        self.flush()

    def wait_for_end(self) -> None:
        """Read until the connection ends."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(1 << 16):
                self.end.receive(data)

    def call(self, number: int = 1) -> Stream:
        """Wait for a whole request."""
        streams = self.end.streams
        self.wait(lambda: number in streams and streams[number].received.over)
        return streams[number]

    def begin(
        self, path: bytes, *more: Header, body: bytes | None = b"", end: bool = False
    ) -> Stream:
        """Open a stream; ``body`` is the request's message, None to send headers alone, which
        ``end`` the request."""
        fields = [*wire.request_fields(path), *more]
        stream = self.end.open(fields, end=end)
        if body is not None:
            self.queue(stream, bytearray(wire.message(body)), End(joined=True))
        self.flush()
        return stream

    def queue(self, stream: Stream, *items: Outgoing) -> None:
        """Send what the peer's windows allow, with the next flush."""
        stream.outgoing.extend(items)
        while self.end.push(stream, 1 << 14):
            pass

    def send(self, stream: Stream, *items: Outgoing) -> None:
        self.queue(stream, *items)
        self.flush()

    def answer(self, stream: Stream, content: bytes) -> None:
        """Send a whole response."""
        self.send(stream, *answer(content))

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # what the peer sent before can be read
            self.socket.sendall(self.end.out)
        self.end.out.clear()

    def raw(self, data: bytes) -> None:
        """Send what is queued, and bytes that the endpoint does not know of, at once."""
        self.end.out += data
        self.flush()

    def finish(self, stream: Stream) -> Stream:
        """Wait until the peer has ended a stream or reset it."""
        self.wait(lambda: stream.received.over)
        return stream

    def go(self) -> None:
        """Close the connection, as a runtime that stops."""
        self.socket.close()


def answer(content: bytes) -> list[Outgoing]:
    """What a whole response consists of."""
    return [Block(RESPONSE), bytearray(wire.message(content)), Block(OK, end=True)]


def wait_for_any(until: Callable[[], bool], *ends: Played) -> None:
    """Read from several ends, whichever has been sent something, until something has come."""
    while not until():
        ready = select.select([end.socket for end in ends], [], [], LIMIT_SECONDS)[0]
        assert ready, "nothing comes"
        for end in ends:
            if end.socket in ready:
                end.read()


@contextlib.contextmanager
def played_runtime(
    listener: socket.socket, *settings: tuple[int, int], settles: bool = True
) -> Iterator[Played]:
    """Accept the next connection; ``settles``: send SETTINGS at once."""
    with accept(listener) as sock:
        yield Played(Side.RUNTIME, sock, *settings, settles=settles)


@contextlib.contextmanager
def played_client(path: Path, *settings: tuple[int, int]) -> Iterator[Played]:
    with dial(path) as sock:
        yield Played(Side.CLIENT, sock, *settings)
