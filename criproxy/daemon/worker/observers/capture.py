"""Captures in a worker: records of all calls, and the channel to the capturer.

Imported only if the configuration has captures.
"""

import socket
from collections.abc import Callable
from typing import Final

from criproxy.capture.channel import RecordChannel
from criproxy.capture.counts import CaptureCounts
from criproxy.capture.deferred import DeferredObserver
from criproxy.capture.observer import RecordingObserver
from criproxy.observe.logs.log import Log
from criproxy.peers.peer import Connection
from criproxy.relay.listener import CaptureFor
from criproxy.relay.notifier import Clock
from criproxy.wire.reading.message_capture import CaptureLimits, SelectCapture

_CLOSING: Final = 1.0
"""Seconds that a worker has at its end to send what waits for the capturer."""

_WAITING: Final = 20 << 20
"""Bytes of records that may wait for the capturer: more than the largest message has."""


class Capture:
    """Captures in a worker."""

    def __init__(
        self, log: Log, clock: Clock, channel: socket.socket, lost: Callable[[], object]
    ) -> None:
        """Use a channel to the capturer. To be made on the event loop.

        ``clock`` is the calls' clock, in seconds. ``lost`` is called when the capturer has ended:
        ``reconnect`` needs another channel.
        """
        self._log = log
        self._lost = lost
        self._channel = RecordChannel(channel, self._report_lost, _WAITING)
        self._recorder = RecordingObserver(self._channel, clock, began=0.0)
        self.observer = DeferredObserver(self._recorder)
        """Makes the records, after the bytes of other calls were relayed."""
        self.counts = CaptureCounts(dropped=self._channel.dropped)
        """Counters of the records that this worker has dropped."""

    def capturing(self, capture_for: CaptureFor) -> CaptureFor:
        """Return what has all messages reported, beside what ``capture_for`` has kept."""

        def capture_also(connection: Connection) -> SelectCapture:
            select = capture_for(connection)

            def selected(path: bytes) -> CaptureLimits | None:
                reported = self._recorder.select_capture(path)
                kept = None if select is None else select(path)
                return reported if kept is None else kept._replace(reported=reported.reported)

            return selected

        return capture_also

    def reconnect(self, channel: socket.socket) -> bool:
        """Use another channel if the capturer has ended, and return whether it does."""
        self.observer.flush()  # the next capturer does not know these calls
        used = self._channel.reconnect(channel)
        if used:
            self._recorder.begin_again()
        return used

    def close(self) -> None:
        """Send what waits for the capturer, within a second."""
        self.observer.flush()
        unsent = self._channel.close(_CLOSING)
        if unsent:
            self._log.warning("captured records lost", records=unsent, waited_s=_CLOSING)

    def _report_lost(self) -> None:
        self._log.error(
            "capture in trouble",
            trouble="the capturer has ended, and what it had kept is lost; calls are captured "
            "again when it is started again",
        )
        self._lost()
