"""The capturer's life, as :mod:`criproxy.concurrency.channel_server` has it, with a command::

capture    begin a cassette: ``captured`` with its ``path``, or with an ``error``
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from criproxy.capture.capturer.numbering import Numbers, WorkerNumbering
from criproxy.capture.capturer.recording import RingRecording
from criproxy.capture.channel import RecordReceiver
from criproxy.capture.counts import CaptureCounts
from criproxy.capture.spec import CaptureSpec
from criproxy.concurrency.channel_server import ChannelServer
from criproxy.concurrency.process_messages import Message
from criproxy.errors import CriproxyError, UnavailableError

_PERIOD: Final = 0.5
"""Seconds between looks at the calls in flight: a client can have thousands, each takes 15 µs."""

_NICENESS: Final = 10
"""The workers, and the runtime, go first where CPUs are short."""

Describe = Callable[[CaptureCounts], Any]
"""Returns counters as data that MessagePack can encode."""


def serve_capturer(control: socket.socket, describe: Describe) -> int:
    """Serve until the supervisor closes the control channel; return the exit status.

    To be called in the main thread of a process of its own, which gets a low priority.
    """
    os.nice(_NICENESS)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # preempts nobody
    _Capturer(control, describe, _PERIOD).run()
    return 0


class _RecordChannel:
    """Gives the records of one worker to a recording; see Receiver."""

    def __init__(self, recording: RingRecording, numbers: Numbers, began: int) -> None:
        self._recording = recording
        self._receiver = RecordReceiver()
        self._numbering = WorkerNumbering(numbers, began)
        self._began = began

    def receive(self, data: bytes) -> None:
        for received in self._receiver.receive(data):
            record = self._numbering.convert(received)
            if record is not None:
                self._recording.add(record, time.perf_counter_ns() - self._began)

    def ended(self) -> None:
        now = time.perf_counter_ns()
        for record in self._numbering.ended(now):
            self._recording.add(record, now - self._began)


class _Capturer(ChannelServer[RingRecording, CaptureCounts]):
    def __init__(self, control: socket.socket, describe: Describe, period: float) -> None:
        super().__init__(control, describe, period)
        self._counts = CaptureCounts()
        self._numbers = Numbers()
        self._began = time.perf_counter_ns()  # the clock of calls

    def make_consumer(self, spec: CaptureSpec) -> RingRecording:
        return RingRecording(spec, self._counts, self._wall_ns, self.reports.log_error)

    def make_receiver(self, consumer: RingRecording) -> _RecordChannel:
        return _RecordChannel(consumer, self._numbers, self._began)

    def retire(self, consumer: RingRecording) -> None:
        consumer.close()

    def tick(self) -> None:
        for recording in self.consumers:
            recording.tick(self._now())
        self._counts.ring_bytes = sum(each.kept_bytes for each in self.consumers)

    def counts(self) -> CaptureCounts:
        return self._counts

    def finish(self) -> tuple[int, float]:
        return 0, 0.0

    def handle(self, message: Message) -> None:
        if message["op"] == "capture":
            self.control.send({"op": "captured", **self._capture()})

    def _capture(self) -> dict[str, str]:
        try:
            if self.current is None:
                raise UnavailableError(
                    "nothing is captured any more; set capture.directory, and reload (SIGHUP)"
                )
            return {"path": str(self.current.command(self._now()))}
        except CriproxyError as error:
            return {"error": str(error)}

    def _now(self) -> int:
        return time.perf_counter_ns() - self._began

    def _wall_ns(self) -> int:
        return time.time_ns() - self._now()
