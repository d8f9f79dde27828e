"""Plain sockets for both sides of a relay: the runtime's and its clients'."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from criproxy.peers.credentials import peer_pid
from tests.support.waiting import LIMIT_SECONDS


def dial(path: Path) -> socket.socket:
    """A connected client."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(LIMIT_SECONDS)
    try:
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


def listening_pid(path: Path) -> int:
    """Return the id of the process that called listen() on a socket last."""
    with dial(path) as client:
        return peer_pid(client)


@contextlib.contextmanager
def listening(path: Path, backlog: int = 128) -> Iterator[socket.socket]:
    """A listening socket, for :func:`accept`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(LIMIT_SECONDS)
        sock.bind(str(path))
        sock.listen(backlog)
        yield sock


def accept(sock: socket.socket) -> socket.socket:
    """The next connection."""
    accepted, _ = sock.accept()
    accepted.settimeout(LIMIT_SECONDS)
    return accepted


def receive(sock: socket.socket, size: int) -> bytes:
    """Receive a number of bytes; fewer only where the stream ends."""
    parts = []
    while size and (part := sock.recv(min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_all(sock: socket.socket) -> bytes:
    """Receive until the stream ends."""
    return receive(sock, 1 << 40)
