"""The exporter's life, as :mod:`criproxy.concurrency.channel_server` has it.

At its end it sends what waits, for :data:`CLOSING` seconds at most.
"""

import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from criproxy.concurrency.channel_server import ChannelServer
from criproxy.concurrency.thread_crash import end_process_on_thread_crash
from criproxy.traces.channel import CallReceiver
from criproxy.traces.counts import TraceCounts
from criproxy.traces.spec import TracesSpec

if TYPE_CHECKING:
    from criproxy.traces.exporter.pipeline import Pipeline

CLOSING: Final = 5.0
"""Seconds that waiting spans have to be sent at the end."""

_PERIOD: Final = 1.0
"""Seconds between reports of the counters."""

Describe = Callable[[TraceCounts], Any]
"""Returns counters as data that MessagePack can encode."""


def serve_exporter(control: socket.socket, describe: Describe) -> int:
    """Serve until the supervisor closes the control channel; return the exit status.

    To be called in the main thread of a process of its own: an error in any thread ends it.
    """
    end_process_on_thread_crash()
    _Exporter(control, describe, _PERIOD).run()
    return 0


class _CallChannel:
    """Gives the calls of one worker to a pipeline; see Receiver."""

    def __init__(self, pipeline: "Pipeline") -> None:
        self._pipeline = pipeline
        self._receiver = CallReceiver()

    def receive(self, data: bytes) -> None:
        for call in self._receiver.receive(data):
            self._pipeline.add(call, monotonic())

    def ended(self) -> None:
        """Nothing is open: a call comes when it has ended."""


class _Exporter(ChannelServer["Pipeline", TraceCounts]):
    def __init__(self, control: socket.socket, describe: Describe, period: float) -> None:
        super().__init__(control, describe, period)
        self._retiring: dict[Pipeline, threading.Thread] = {}
        self._retired = TraceCounts()

    def make_consumer(self, spec: TracesSpec) -> "Pipeline":
        # Imported here, so that a missing package is reported, and not the crash of this.
        from criproxy.traces.exporter.pipeline import Pipeline

        return Pipeline(spec, self.reports.log_error)

    def make_receiver(self, consumer: "Pipeline") -> _CallChannel:
        return _CallChannel(consumer)

    def retire(self, consumer: "Pipeline") -> None:
        """Send what waits in a pipeline that gets no more calls."""
        consumer.finish()
        retiring = threading.Thread(target=consumer.close, args=(CLOSING,))
        self._retiring[consumer] = retiring
        retiring.start()

    def tick(self) -> None:
        for pipeline in self.consumers:
            pipeline.sweep(monotonic())
        for pipeline in [each for each in self._retiring if each.closed]:
            self._retiring.pop(pipeline).join()
            pipeline.add_counts(self._retired)  # nothing else of it is needed

    def counts(self) -> TraceCounts:
        total = TraceCounts()
        total.add(self._retired)
        for pipeline in (*self.consumers, *self._retiring):
            pipeline.add_counts(total)
        return total

    def finish(self) -> tuple[int, float]:
        for thread in self._retiring.values():
            thread.join()
        return self.counts().dropped["closing"], CLOSING
