"""A protocol that handles what its peer sends in parts, one in each turn of the event loop.

A chunk of many small frames would keep the loop from all other connections for as long as it takes
(see :mod:`criproxy.wire.http2.work`). While parts wait, nothing more is read from the peer, and its
end follows the last of them. A peer that is throttled is not read from, but the parts of what it
has sent are handled: all of them count towards its rate.
"""

import asyncio
import contextlib
import socket
from abc import abstractmethod
from collections.abc import Callable
from typing import Final

from mypy_extensions import mypyc_attr

from criproxy.relay.connections.pausable import THROTTLED, PausableProtocol
from criproxy.relay.notifier import Clock
from criproxy.wire.http2.work import SMALL_PART

PARTS_WAIT: Final = 4
"""Reason for not reading from the peer: what it has sent waits for the next turns."""


_LARGEST_REST: Final = 1 << 20
"""Bytes that are read at most behind a failed write: more than a socket's buffer holds."""


@mypyc_attr(allow_interpreted_subclasses=True)
class BoundedProtocol(PausableProtocol):
    """Calls :meth:`take` with what the peer sends, as much as :meth:`part_size` allows."""

    clock: Clock
    _waiting = b""  # what the peer has sent, of which the part from `_position` on waits
    _position = 0
    _arrived = 0.0
    _scheduled = False

    def __init__(self) -> None:
        self._afterwards: list[Callable[[], object]] = []

    @abstractmethod
    def part_size(self, data: bytes, start: int) -> int:
        """Return how many of the bytes from ``start`` on may be handled at once; at least 1."""

    @abstractmethod
    def take(self, data: bytes, arrived: float) -> None:
        """Handle bytes of the peer that came at ``arrived``, in seconds."""

    @property
    def parts_wait(self) -> bool:
        """Whether some of what the peer has sent waits to be handled."""
        return bool(self._waiting)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._waiting:
            self._waiting += data
        elif len(data) <= SMALL_PART:
            self.take(data, self.clock())
        else:
            self._waiting, self._position, self._arrived = data, 0, self.clock()
            self._take_part()

    def take_rest(self, sock: socket.socket) -> None:
        """Take what the peer has sent before it closed, after a write to it has failed.

        It may still be sending, if it has ended its reading alone.
        """
        rest = b""
        with contextlib.suppress(OSError):
            while len(rest) < _LARGEST_REST and (data := sock.recv(_LARGEST_REST)):
                rest += data
        if rest:
            self.data_received(rest)

    def after_parts(self, function: Callable[[], object]) -> None:
        """Call a function as soon as no part waits."""
        if self._waiting:
            self._afterwards.append(function)
        else:
            function()

    def drop_parts(self) -> None:
        """Forget the parts that wait, and what was to follow: the connection is being closed."""
        self._waiting = b""
        self._afterwards.clear()

    def resume_reading(self, reason: int) -> None:
        """See PausableProtocol."""
        super().resume_reading(reason)
        self._schedule()

    @property
    def _is_part_due(self) -> bool:
        return bool(self._waiting) and self._paused & ~THROTTLED == PARTS_WAIT

    def _schedule(self) -> None:
        if self._is_part_due and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._take_next_part)

    def _take_next_part(self) -> None:
        self._scheduled = False
        if self._is_part_due:
            try:
                self._take_part()
            except BaseException:  # a fault of ours; the loop closes a connection for the others
                if self._transport is not None:
                    self._transport.abort()
                raise

    def _take_part(self) -> None:
        data, start = self._waiting, self._position
        try:
            end = start + self.part_size(data, start)
            if end < len(data):
                self._position = end
                self.pause_reading(PARTS_WAIT)
                self.take(data[start:end], self._arrived)
                self._schedule()
                return
            self._waiting = b""
            self.take(data[start:] if start else data, self._arrived)
        except BaseException:
            self.drop_parts()
            raise
        self.resume_reading(PARTS_WAIT)
        while self._afterwards and not self._waiting:
            self._afterwards.pop(0)()
