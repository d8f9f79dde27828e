"""The exporter's life: it is configured, is given channels by the supervisor, and ends.

Commands of the supervisor, and what the exporter sends::

    configure  export by ``spec``, a pickled TracesSpec: ``ready``, or ``failed`` with an ``error``;
               calls of earlier channels are exported by the earlier configuration
    channel    serve the channel whose descriptor comes along, until its worker closes it
    metrics    every second: the counters, as ``describe`` returns them
    error      an error of the export, for the log
    lost       the ``count`` of spans that could not be sent at the end

The exporter ends when the supervisor has closed the control channel and the workers' calls are
exported, or could not be for :data:`CLOSING` seconds.
"""

import pickle
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from criproxy.concurrency.process_messages import ControlSocket, Message
from criproxy.concurrency.process_reports import ProcessReports
from criproxy.concurrency.thread_crash import end_process_on_thread_crash
from criproxy.traces.channel import CallReceiver
from criproxy.traces.counts import TraceCounts
from criproxy.traces.spec import TracesSpec

if TYPE_CHECKING:
    from criproxy.traces.exporter.pipeline import Pipeline

CLOSING: Final = 5.0
"""Seconds that waiting spans have to be sent at the end."""

_READING: Final = 2.0
"""Seconds that the workers' last calls have to be read at the end."""

_REPORT: Final = 1.0
"""Seconds between reports of the counters."""

_CHUNK: Final = 256 << 10

Describe = Callable[[TraceCounts], Any]
"""Returns counters as data that MessagePack can encode."""


@dataclass(slots=True, eq=False)
class _Channel:
    """The exporter's end of a worker's channel."""

    sock: socket.socket
    pipeline: "Pipeline"
    receiver: CallReceiver = field(default_factory=CallReceiver)


def serve_exporter(control: socket.socket, describe: Describe) -> int:
    """Serve until the supervisor closes the control channel; return the exit status.

    To be called in the main thread of a process of its own: an error in any thread ends it.
    """
    end_process_on_thread_crash()
    _Exporter(ControlSocket(control), describe).run()
    return 0


class _Exporter:
    def __init__(self, control: ControlSocket, describe: Describe) -> None:
        self._control = control
        self._reports = ProcessReports(control, describe)
        self._selector = selectors.DefaultSelector()
        self._selector.register(control.sock, selectors.EVENT_READ)
        self._selector.register(self._reports, selectors.EVENT_READ)
        self._pipeline: Pipeline | None = None
        self._pipelines: list[Pipeline] = []  # that in force, and those that have calls
        self._retiring: dict[Pipeline, threading.Thread] = {}
        self._retired = TraceCounts()
        self._next_report = 0.0

    def run(self) -> None:
        """Serve until the supervisor closes the control channel."""
        try:
            while True:
                for key, _ in self._selector.select(_REPORT):
                    if key.fileobj is self._control.sock:
                        for message, descriptors in self._control.receive():
                            self._handle(message, descriptors)
                    elif key.data is not None:
                        self._read(key.data)
                self._reports.send_errors()
                if monotonic() >= self._next_report:
                    for pipeline in self._pipelines:
                        pipeline.sweep(monotonic())
                    self._forget_closed()
                    self._reports.send_counts(self._total())
                    self._next_report = monotonic() + _REPORT
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._close()

    # Commands

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        operation = message["op"]
        if operation == "configure":
            spec = pickle.loads(message["spec"])  # noqa: S301  # the supervisor's own
            self._reports.configured(partial(self._configure, spec))
        elif operation == "channel" and self._pipeline is not None:
            sock = socket.socket(fileno=descriptors[0])
            sock.setblocking(False)
            self._pipeline.channels += 1
            channel = _Channel(sock, self._pipeline)
            self._selector.register(sock, selectors.EVENT_READ, channel)

    def _configure(self, spec: TracesSpec) -> None:
        before = self._pipeline
        if before is not None and spec == before.spec:
            return
        # Imported here, so that a missing package is reported, and not the crash of this.
        from criproxy.traces.exporter.pipeline import Pipeline

        self._pipeline = Pipeline(spec, self._reports.log_error)
        self._pipelines.append(self._pipeline)
        if before is not None and not before.channels:
            self._retire(before)

    # Calls

    def _read(self, channel: _Channel) -> None:
        try:
            data = channel.sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close_channel(channel)
            return
        for call in channel.receiver.receive(data):
            channel.pipeline.add(call, monotonic())

    def _close_channel(self, channel: _Channel) -> None:
        self._selector.unregister(channel.sock)
        channel.sock.close()
        pipeline = channel.pipeline
        pipeline.channels -= 1
        if not pipeline.channels and pipeline is not self._pipeline:
            self._retire(pipeline)

    # The end

    def _retire(self, pipeline: "Pipeline") -> None:
        """Send what waits in a pipeline that gets no more calls."""
        pipeline.finish()
        self._pipelines.remove(pipeline)
        retiring = threading.Thread(target=pipeline.close, args=(CLOSING,))
        self._retiring[pipeline] = retiring
        retiring.start()

    def _forget_closed(self) -> None:
        """Keep the counters of pipelines that are closed, and nothing else of them."""
        for pipeline in [each for each in self._retiring if each.closed]:
            self._retiring.pop(pipeline).join()
            pipeline.add_counts(self._retired)

    def _close(self) -> None:
        """Read the workers' last calls, send what waits, and report what is lost."""
        self._selector.unregister(self._control.sock)
        deadline = monotonic() + _READING
        while any(each.channels for each in self._pipelines):
            left = deadline - monotonic()
            if left <= 0:
                break
            for key, _ in self._selector.select(left):
                if key.data is not None:
                    self._read(key.data)
        for pipeline in list(self._pipelines):
            self._retire(pipeline)
        for thread in self._retiring.values():
            thread.join()
        self._selector.close()
        total = self._total()
        self._reports.close(total, total.dropped["closing"], CLOSING)

    def _total(self) -> TraceCounts:
        """Return the counters of all configurations."""
        total = TraceCounts()
        total.add(self._retired)
        for pipeline in (*self._pipelines, *self._retiring):
            pipeline.add_counts(total)
        return total
