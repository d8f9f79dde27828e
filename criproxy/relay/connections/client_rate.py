"""Slows down a client whose frames cost work and carry nothing, then ends its connection.

Which frames count: see :mod:`criproxy.wire.http2.frame_rate`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from criproxy.wire.constants import ErrorCode
from criproxy.wire.http2.frame_rate import FrameRate

if TYPE_CHECKING:
    from criproxy.relay.connections.relayed import RelayedConnection

_INTERVAL: Final = 0.02
"""Seconds between two looks at a client's frames, unless it sends much at once."""

_MUCH: Final = 4096
"""Bytes of a client behind which its frames are looked at in any case: they may be 455."""

_LONGEST_PAUSE: Final = 1.0
"""Seconds for which a client is not read from at once."""


class ClientRate:
    """Watches the frames of one client."""

    def __init__(
        self, connection: "RelayedConnection", limit: float, exceeded: Callable[[], None]
    ) -> None:
        """``limit``: frames per second. ``exceeded`` is called once, before the end."""
        self._connection = connection
        self._rate = FrameRate(limit, connection.clock())
        self._exceeded = exceeded
        self._next = 0.0
        self._size = 0  # bytes since the last look
        self._ended = False

    def check(self, size: int, now: float) -> None:
        """Act on ``size`` bytes of the client that have been relayed at ``now``, in seconds."""
        self._size += size
        if (now < self._next and self._size < _MUCH) or self._ended:
            return
        self._next, self._size = now + _INTERVAL, 0
        connection = self._connection
        reader = connection.reader
        pause = self._rate.update(reader.overhead, now)
        if self._rate.is_exceeded:
            self._ended = True
            self._exceeded()
            connection.send_goaway(reader.last_stream, ErrorCode.ENHANCE_YOUR_CALM)
            connection.close()
        elif pause > 0:
            connection.pause_client(min(pause, _LONGEST_PAUSE))
