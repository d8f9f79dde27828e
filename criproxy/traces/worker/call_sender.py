"""Sends calls to the exporter without ever waiting: what finds no room is dropped and counted."""

import socket
from collections.abc import Callable
from typing import Final

from criproxy.concurrency.frame_sender import FrameSender
from criproxy.traces.channel import TracedCall, frame
from criproxy.traces.counts import TraceCounts

LIMIT: Final = 4 << 20
"""Bytes of calls that may wait for the exporter: some ten thousand."""


class CallSender:
    """The worker's end of a channel to the exporter. Used on one event loop only.

    While the exporter is gone, calls wait for the next one as far as the limit goes.
    """

    def __init__(
        self,
        channel: socket.socket,
        counts: TraceCounts,
        lost: Callable[[], object],
        limit: int = LIMIT,
    ) -> None:
        """``channel`` is a stream socket. ``lost`` is called when the exporter has closed it.

        ``limit`` is in bytes of the calls that wait.
        """
        self._counts = counts
        self._report_lost = lost
        self._sender = FrameSender(channel, self._lost, limit)
        self.reconnect = self._sender.reconnect
        """See FrameSender."""

    def send(self, call: TracedCall) -> bool:
        """Send a call soon; return False if it is dropped, because too many wait."""
        data = frame(call)
        if not self._sender.has_room(len(data)):
            self._counts.dropped["channel_full"] += 1
            return False
        self._sender.send(data)
        return True

    def close(self, within: float) -> int:
        """Send what waits for at most ``within`` seconds; return the number of unsent calls."""
        unsent = self._sender.close(within)
        if unsent:
            self._counts.dropped["closing"] += unsent
        return unsent

    def _lost(self, cut: bool) -> None:
        if cut:
            self._counts.dropped["failed"] += 1
        self._report_lost()
