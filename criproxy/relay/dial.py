"""Connecting to the runtime, and waiting for one that is not there yet."""

import asyncio
import select
import socket
from typing import Final

from criproxy.relay.endpoints import Endpoint
from criproxy.relay.notifier import Clock

_FIRST_WAIT: Final = 0.01
_LONGEST_WAIT: Final = 0.25
"""Seconds between attempts: they grow from the first to the longest, so that a runtime's full
backlog costs little and its absence costs little too."""


class ClientGoneError(OSError):
    """The client has hung up while it was waiting for the runtime."""


def connect(endpoint: Endpoint) -> socket.socket:
    """Connect to a unix socket without waiting: it answers at once or not at all (unix(7)).

    Raises OSError: FileNotFoundError and ConnectionRefusedError where nobody listens,
    BlockingIOError where the backlog is full, PermissionError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(endpoint.path)
    except BaseException:
        sock.close()
        raise
    return sock


async def dial(
    endpoint: Endpoint, client: socket.socket, patience: float, clock: Clock
) -> socket.socket:
    """Connect to the runtime for a client that waits, trying for ``patience`` seconds.

    Raises ClientGoneError when the client has hung up meanwhile, and the last OSError when the
    time is over.
    """
    give_up = clock() + patience
    wait = _FIRST_WAIT
    while True:
        try:
            return connect(endpoint)
        except OSError:
            left = give_up - clock()
            if left <= 0:
                raise
        if is_hung_up(client):
            raise ClientGoneError from None
        await asyncio.sleep(min(wait, left))
        wait = min(wait * 2, _LONGEST_WAIT)


def is_hung_up(sock: socket.socket) -> bool:
    """Tell whether the peer has closed its socket, not only ended its sending; or we ours."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(happened & select.POLLHUP for _, happened in poll.poll(0))
