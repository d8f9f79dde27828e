"""Connects to an upstream, and waits for one that is not listening yet."""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

from criproxy.relay.endpoints import Endpoint
from criproxy.relay.notifier import Clock
from criproxy.relay.own_sockets import OwnSockets

_FIRST_WAIT: Final = 0.01
_LONGEST_WAIT: Final = 0.25
"""Seconds between attempts: they double from the first to the longest."""


class ClientGoneError(OSError):
    """The client closed its connection while it waited for the upstream."""


def connect(endpoint: Endpoint) -> socket.socket:
    """Connect to a unix socket without blocking (unix(7): it succeeds or fails at once).

    Raises OSError: FileNotFoundError and ConnectionRefusedError if nobody listens,
    BlockingIOError if the backlog is full, PermissionError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(endpoint.path)
    except BaseException:
        sock.close()
        raise
    return sock


class DrainingError(OSError):
    """The upstream cannot be reached, and the client is to be moved to another process."""


async def dial(
    endpoint: Endpoint,
    client: socket.socket,
    patience: float,
    clock: Clock,
    own: OwnSockets,
    is_draining: Callable[[], bool],
) -> socket.socket:
    """Connect to an upstream for a waiting client, trying for ``patience`` seconds.

    Raises ClientGoneError if the client closes its connection meanwhile, DrainingError once
    ``is_draining`` returns True, OSError (ELOOP) at once if the upstream is one of the ``own``
    sockets, and the last OSError when the time is over.
    """
    give_up = clock() + patience
    wait = _FIRST_WAIT
    while True:
        own.check_path(endpoint)
        try:
            connected = connect(endpoint)
        except OSError:
            left = give_up - clock()
            if left <= 0:
                raise
        else:
            try:
                own.check_peer(connected)
            except OSError:
                connected.close()
                raise
            return connected
        if is_hung_up(client):
            raise ClientGoneError from None
        if is_draining():
            raise DrainingError
        await asyncio.sleep(min(wait, left))
        wait = min(wait * 2, _LONGEST_WAIT)


def is_hung_up(sock: socket.socket) -> bool:
    """Return whether the peer has closed its socket (not only half-closed it), or we ours."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(happened & select.POLLHUP for _, happened in poll.poll(0))
