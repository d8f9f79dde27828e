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

import os
import pickle
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from criproxy.concurrency.process_messages import ControlSocket, Message
from criproxy.concurrency.thread_crash import end_process_on_thread_crash
from criproxy.errors import CriproxyError, UsageError
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
        self._describe = describe
        self._selector = selectors.DefaultSelector()
        self._selector.register(control.sock, selectors.EVENT_READ)
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._event, selectors.EVENT_READ)
        self._pipeline: Pipeline | None = None
        self._pipelines: list[Pipeline] = []  # that in force, and those that have calls
        self._retiring: dict[Pipeline, threading.Thread] = {}
        self._retired = TraceCounts()
        self._reported: Any = None
        self._next_report = 0.0
        self._errors: SimpleQueue[str] = SimpleQueue()

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
                self._send_errors()
                if monotonic() >= self._next_report:
                    for pipeline in self._pipelines:
                        pipeline.sweep(monotonic())
                    self._forget_closed()
                    self._report()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._close()

    # Commands

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        operation = message["op"]
        if operation == "configure":
            self._configure(pickle.loads(message["spec"]))  # noqa: S301  # the supervisor's own
        elif operation == "channel" and self._pipeline is not None:
            sock = socket.socket(fileno=descriptors[0])
            sock.setblocking(False)
            self._pipeline.channels += 1
            channel = _Channel(sock, self._pipeline)
            self._selector.register(sock, selectors.EVENT_READ, channel)

    def _configure(self, spec: TracesSpec) -> None:
        before = self._pipeline
        if before is None or spec != before.spec:
            try:
                # Imported here, so that a missing package is reported, and not the crash of this.
                from criproxy.traces.exporter.pipeline import Pipeline

                self._pipeline = Pipeline(spec, self._log_error)
            except CriproxyError as error:
                usage = isinstance(error, UsageError)
                self._control.send({"op": "failed", "error": str(error), "usage": usage})
                return
            self._pipelines.append(self._pipeline)
            if before is not None and not before.channels:
                self._retire(before)
        self._control.send({"op": "ready"})

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
        lost = self._total().dropped["closing"]
        with suppress(OSError):
            self._send_errors()
            self._report()
            if lost:
                self._control.send({"op": "lost", "count": lost, "waited_s": CLOSING})
        self._selector.close()
        os.close(self._event)

    # Reports

    def _report(self) -> None:
        self._next_report = monotonic() + _REPORT
        described = self._describe(self._total())
        if described != self._reported:
            self._reported = described
            self._control.send({"op": "metrics", "snapshot": described})

    def _total(self) -> TraceCounts:
        """Return the counters of all configurations."""
        total = TraceCounts()
        total.add(self._retired)
        for pipeline in (*self._pipelines, *self._retiring):
            pipeline.add_counts(total)
        return total

    def _log_error(self, trouble: str) -> None:
        self._errors.put(trouble)
        os.eventfd_write(self._event, 1)

    def _send_errors(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        with suppress(Empty):
            while True:
                self._control.send({"op": "error", "trouble": self._errors.get_nowait()})
