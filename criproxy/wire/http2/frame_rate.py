"""Limits the rate of a client's frames that cost work and carry nothing (RFC 9113 section 10.5).

These are empty DATA, PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, CONTINUATION and unknown
frames, header blocks of a stream that is open already, and calls that are denied. An orderly client
sends such frames too, around each of its calls and messages, so the reader subtracts those that
its answered calls and the relayed data account for
(:attr:`criproxy.wire.reading.connection.ConnectionReader.overhead`).
"""

from typing import Final

DEFAULT_FRAME_RATE: Final = 1000.0
"""Overhead frames per second of one connection. A kubelet's connections have fewer than one."""

_BURST: Final = 10.0
"""Seconds' worth of overhead frames that a connection may send at once."""


_PATIENCE: Final = 60.0
"""Seconds for which a client may go on to send as much as it is read."""


class FrameRate:
    """A leaky bucket of the overhead frames of one connection.

    It leaks ``limit`` frames per second. The connection is slowed down while it has more than ten
    seconds' worth of them. It is to be ended with ENHANCE_YOUR_CALM at twice as many, which one
    read brings if the frames are small; or when it has been slowed down for a minute on end.
    """

    __slots__ = ("_limit", "_overhead", "_slowed_since", "_time", "level")

    def __init__(self, limit: float, now: float) -> None:
        """``limit``: frames per second. ``now``: the time in seconds."""
        self.level = 0.0
        """Overhead frames in the bucket."""
        self._limit = limit
        self._overhead = 0
        self._slowed_since = -1.0
        self._time = now

    def update(self, overhead: int, now: float) -> float:
        """Set the connection's overhead frames so far, at ``now``, in seconds.

        Returns the seconds for which the client must not be read from.
        """
        leaked = max(0.0, self.level - max(0.0, now - self._time) * self._limit)
        self.level = max(0.0, leaked + overhead - self._overhead)
        self._overhead, self._time = overhead, now
        pause = max(0.0, self.level / self._limit - _BURST)
        if not pause:
            self._slowed_since = -1.0
        elif self._slowed_since < 0:
            self._slowed_since = now
        return pause

    @property
    def is_exceeded(self) -> bool:
        """Whether the connection is to be ended."""
        slowed = self._time - self._slowed_since if self._slowed_since >= 0 else 0.0
        return self.level > 2 * _BURST * self._limit or slowed > _PATIENCE
