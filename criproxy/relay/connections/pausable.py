"""A protocol whose peer is read from unless there is a reason not to."""

import asyncio
from typing import Final

from mypy_extensions import mypyc_attr

BACKPRESSURE: Final = 1
"""Reason: what the peer sends cannot be written to the other side."""

THROTTLED: Final = 2
"""Reason: the peer sends too many frames."""


@mypyc_attr(allow_interpreted_subclasses=True)
class PausableProtocol(asyncio.Protocol):
    """Combines the reasons for not reading, which come and go on their own."""

    _transport: asyncio.Transport | None = None
    _paused = 0
    _throttled: asyncio.TimerHandle | None = None  # ends the last throttling

    def pause_reading(self, reason: int) -> None:
        """Read nothing from the peer until each reason for that is gone."""
        transport = self._transport
        if not self._paused and transport is not None and not transport.is_closing():
            transport.pause_reading()
        self._paused |= reason

    def resume_reading(self, reason: int) -> None:
        """Read again, unless there is another reason not to."""
        transport = self._transport
        was_paused, self._paused = self._paused, self._paused & ~reason
        if not was_paused or self._paused or transport is None:
            return
        if not transport.is_closing():
            transport.resume_reading()

    def throttle(self, seconds: float) -> None:
        """Read nothing from the peer for some time, from now on, whatever an earlier call said."""
        self.pause_reading(THROTTLED)
        if self._throttled is not None:
            self._throttled.cancel()
        loop = asyncio.get_running_loop()
        self._throttled = loop.call_later(seconds, self.resume_reading, THROTTLED)
