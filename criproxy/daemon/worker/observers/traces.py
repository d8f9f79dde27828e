"""The traces in a worker: which calls have a span, and the channel to the exporter.

Imported only if the configuration has traces.
"""

import socket
from collections.abc import Callable
from typing import Final

from criproxy.observe.logs.log import Log
from criproxy.observe.logs.subject_fields import SubjectFields
from criproxy.traces.counts import TraceCounts
from criproxy.traces.sampling import Sampler
from criproxy.traces.spec import TracesSpec
from criproxy.traces.worker.call_sender import CallSender
from criproxy.traces.worker.call_tracer import CallTracer

_CLOSING: Final = 1.0
"""Seconds that a worker has at its end to send what waits for the exporter."""


class Traces:
    """The traces in a worker."""

    def __init__(
        self,
        spec: TracesSpec,
        log: Log,
        channel: socket.socket,
        subject_of: SubjectFields,
        wall_ns: Callable[[float], int],
        lost: Callable[[], object],
    ) -> None:
        """Use a channel to the exporter. To be made on the event loop.

        ``wall_ns`` converts a time of the calls' clock to nanoseconds since the epoch. ``lost`` is
        called when the exporter has ended: ``reconnect`` needs another channel.
        """
        self._log = log
        self._lost = lost
        self.counts = TraceCounts()
        """Counters of the spans that this worker has dropped."""
        self._sender = CallSender(channel, self.counts, self._report_lost)
        self.call_tracer = CallTracer(
            Sampler(spec.sampling),
            subject_of,
            wall_ns,
            self._sender.send,
            pod_starts=spec.pod_starts is not None,
        )
        self.reconnect = self._sender.reconnect
        """Uses another channel if the exporter has ended, and returns whether it does."""

    def close(self) -> None:
        """Send what waits for the exporter, within a second."""
        unsent = self._sender.close(_CLOSING)
        if unsent:
            self._log.warning("spans lost", spans=unsent, waited_s=_CLOSING)

    def _report_lost(self) -> None:
        self._log.error(
            "traces in trouble",
            trouble="the exporter has ended; calls wait in memory until it is started again, as "
            "far as their limit goes",
        )
        self._lost()
