"""The capturer's life: it is configured, is given channels by the supervisor, and ends.

Commands of the supervisor, and what the capturer sends::

    configure  keep records by ``spec``, a pickled CaptureSpec: ``ready``, or ``failed`` with an
               ``error``; records of earlier channels are kept by the earlier configuration
    retire     keep no records any more, once the channels are closed
    channel    serve the channel whose descriptor comes along, until its worker closes it
    capture    begin a cassette: ``captured`` with its ``path``, or with an ``error``
    metrics    every second: the counters, as ``describe`` returns them
    error      an error of writing, for the log

The capturer ends when the supervisor has closed the control channel and the workers their channels,
or have not for :data:`_READING` seconds.
"""

import os
import pickle
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Final

from criproxy.capture.capturer.numbering import Numbers, WorkerNumbering
from criproxy.capture.capturer.recording import RingRecording
from criproxy.capture.channel import RecordReceiver
from criproxy.capture.counts import CaptureCounts
from criproxy.capture.spec import CaptureSpec
from criproxy.concurrency.process_messages import ControlSocket, Message
from criproxy.concurrency.process_reports import ProcessReports
from criproxy.errors import CriproxyError, UnavailableError

_READING: Final = 2.0
"""Seconds that the workers' last records have to be read at the end."""

_TICK: Final = 0.5
"""Seconds between looks at the calls in flight: a client can have thousands, each takes 15 µs."""

_CHUNK: Final = 256 << 10

_NICENESS: Final = 10
"""The workers, and the runtime, go first where CPUs are short."""

Describe = Callable[[CaptureCounts], Any]
"""Returns counters as data that MessagePack can encode."""


@dataclass(slots=True, eq=False)
class _Channel:
    """The capturer's end of a worker's channel."""

    sock: socket.socket
    recording: RingRecording
    numbering: WorkerNumbering
    receiver: RecordReceiver = field(default_factory=RecordReceiver)


def serve_capturer(control: socket.socket, describe: Describe) -> int:
    """Serve until the supervisor closes the control channel; return the exit status.

    To be called in the main thread of a process of its own, which gets a low priority.
    """
    os.nice(_NICENESS)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # preempts nobody
    _Capturer(ControlSocket(control), describe).run()
    return 0


class _Capturer:
    def __init__(self, control: ControlSocket, describe: Describe) -> None:
        self._control = control
        self._reports = ProcessReports(control, describe)
        self._selector = selectors.DefaultSelector()
        self._selector.register(control.sock, selectors.EVENT_READ)
        self._selector.register(self._reports, selectors.EVENT_READ)
        self._counts = CaptureCounts()
        self._numbers = Numbers()
        self._began = time.perf_counter_ns()  # the clock of calls
        self._current: RingRecording | None = None
        self._recordings: list[RingRecording] = []  # that in force, and those that have channels
        self._next_tick = 0.0

    def run(self) -> None:
        """Serve until the supervisor closes the control channel."""
        try:
            while True:
                for key, _ in self._selector.select(_TICK):
                    if key.fileobj is self._control.sock:
                        for message, descriptors in self._control.receive():
                            self._handle(message, descriptors)
                    elif key.data is not None:
                        self._read(key.data)
                if monotonic() >= self._next_tick:
                    for recording in self._recordings:
                        recording.tick(self._now())
                    self._reports.send_counts(self._counts)
                    self._next_tick = monotonic() + _TICK
                self._reports.send_errors()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._close()

    # Commands

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        operation = message["op"]
        if operation == "configure":
            spec = pickle.loads(message["spec"])  # noqa: S301  # the supervisor's own
            self._reports.configured(partial(self._configure, spec))
        elif operation == "retire":
            self._replace(None)
        elif operation == "channel" and self._current is not None:
            self._open_channel(socket.socket(fileno=descriptors[0]), self._current)
        elif operation == "capture":
            self._control.send({"op": "captured", **self._capture()})

    def _configure(self, spec: CaptureSpec) -> None:
        same = next((each for each in self._recordings if each.spec == spec), None)
        log_error = self._reports.log_error
        self._replace(same or RingRecording(spec, self._counts, self._wall_ns, log_error))

    def _replace(self, recording: RingRecording | None) -> None:
        before, self._current = self._current, recording
        if recording is not None and recording not in self._recordings:
            self._recordings.append(recording)
        if before is not None:
            self._close_unused(before)

    def _capture(self) -> dict[str, str]:
        try:
            if self._current is None:
                raise UnavailableError("capture is not configured any more")
            return {"path": str(self._current.command(self._now()))}
        except CriproxyError as error:
            return {"error": str(error)}

    # Records

    def _open_channel(self, sock: socket.socket, recording: RingRecording) -> None:
        sock.setblocking(False)
        recording.channels += 1
        channel = _Channel(sock, recording, WorkerNumbering(self._numbers, self._began))
        self._selector.register(sock, selectors.EVENT_READ, channel)

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
        for received in channel.receiver.receive(data):
            record = channel.numbering.convert(received)
            if record is not None:
                self._add(channel.recording, record)

    def _add(self, recording: RingRecording, record: Any) -> None:
        try:
            recording.add(record, self._now())
        except Exception as error:  # a bug must not end what is kept
            if not self._counts.dropped["failed"]:
                self._reports.log_error(
                    "a record could not be kept, and is counted as dropped; "
                    f"this is a fault of criproxy's: {error!r}"
                )
            self._counts.dropped["failed"] += 1

    def _close_channel(self, channel: _Channel) -> None:
        self._selector.unregister(channel.sock)
        channel.sock.close()
        recording = channel.recording
        for record in channel.numbering.ended(time.perf_counter_ns()):
            self._add(recording, record)
        recording.channels -= 1
        self._close_unused(recording)

    # The end

    def _close_unused(self, recording: RingRecording) -> None:
        if recording is not self._current and not recording.channels:
            recording.close()
            self._recordings.remove(recording)

    def _close(self) -> None:
        """Read the workers' last records, and end what is being written."""
        self._selector.unregister(self._control.sock)
        deadline = monotonic() + _READING
        while any(each.channels for each in self._recordings):
            left = deadline - monotonic()
            if left <= 0:
                break
            for key, _ in self._selector.select(left):
                if key.data is not None:
                    self._read(key.data)
        for recording in self._recordings:
            recording.close()
        self._selector.close()
        self._reports.close(self._counts, 0, 0.0)

    def _now(self) -> int:
        return time.perf_counter_ns() - self._began

    def _wall_ns(self) -> int:
        return time.time_ns() - self._now()
