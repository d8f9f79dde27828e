"""The recorder's life: it is configured, is given channels by the supervisor, and ends.

Commands of the supervisor, and what the recorder sends::

    configure  open the sinks of ``spec``, a pickled AuditSpec: ``ready``, or ``failed`` with an
               ``error``; items of earlier channels go to the earlier sinks
    channel    serve the channel whose descriptor comes along, until its worker closes it
    reopen     reopen files
    metrics    every second: the sinks' counters, as ``describe`` returns them
    error      an error of a sink, for the log
    lost       the ``count`` of records that could not be written at the end

The recorder ends when the supervisor has closed the control channel, all workers have closed their
channels, and all records are written, or could not be written for :data:`CLOSING` seconds.
"""

import pickle
import select
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from platform import node as host_name
from typing import Any, Final

from criproxy.audit.counts import AuditCounts, SinkCounts
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.recorder.channels import Channels
from criproxy.audit.recorder.encoder import RecordEncoder
from criproxy.audit.recorder.intake import Intake
from criproxy.audit.records.record_builder import RecordBuilder
from criproxy.audit.sinks.factory import make_sinks
from criproxy.audit.spec import AuditSpec
from criproxy.concurrency.process_messages import ControlSocket, Message
from criproxy.concurrency.process_reports import ProcessReports
from criproxy.concurrency.thread_crash import end_process_on_thread_crash

CLOSING: Final = 5.0
"""Seconds that the sinks have to write the waiting records at the end."""

_REPORT: Final = 1.0
"""Seconds between reports of the counters."""

Describe = Callable[[Mapping[str, SinkCounts]], Any]
"""Returns counters by sink as data that MessagePack can encode."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pipeline:
    """The intake, encoder and sinks of one configuration."""

    spec: AuditSpec
    intake: Intake
    encoder: RecordEncoder
    counts: AuditCounts


def serve_recorder(
    control: socket.socket, describe: Describe, wall_ns: Callable[[float], int]
) -> int:
    """Serve until the supervisor closes the control channel; return the exit status.

    ``wall_ns`` converts a time of the calls' clock to nanoseconds since the epoch. To be called in
    the main thread of a process of its own: an error in any thread ends the process.
    """
    end_process_on_thread_crash()
    recorder = _Recorder(ControlSocket(control), describe, wall_ns)
    recorder.run()
    return 0


class _Recorder:
    def __init__(
        self, control: ControlSocket, describe: Describe, wall_ns: Callable[[float], int]
    ) -> None:
        self._control = control
        self._reports = ProcessReports(control, describe)
        self._wall_ns = wall_ns
        self._channels = Channels()
        self._pipeline: _Pipeline | None = None
        self._retiring: list[threading.Thread] = []
        self._counts: list[AuditCounts] = []

    def run(self) -> None:
        """Serve until the supervisor closes the control channel."""
        poll = select.poll()
        poll.register(self._control.sock, select.POLLIN)
        poll.register(self._reports, select.POLLIN)
        try:
            while True:
                ready = [descriptor for descriptor, _ in poll.poll(_REPORT * 1000)]
                self._reports.send_errors()
                if self._control.sock.fileno() in ready:
                    for message, descriptors in self._control.receive():
                        self._handle(message, descriptors)
                else:
                    self._reports.send_counts(self._total())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._close()

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        operation = message["op"]
        if operation == "configure":
            spec = pickle.loads(message["spec"])  # noqa: S301  # the supervisor's own
            self._reports.configured(partial(self._configure, spec))
        elif operation == "channel" and self._pipeline is not None:
            sock = socket.socket(fileno=descriptors[0])
            self._channels.add(sock, self._pipeline.intake, self._pipeline.encoder)
        elif operation == "reopen" and self._pipeline is not None:
            self._pipeline.encoder.reopen()

    def _configure(self, spec: AuditSpec) -> None:
        before = self._pipeline
        if before is not None and spec == before.spec:
            return
        self._pipeline = self._open(spec)
        if before is not None:
            retiring = threading.Thread(target=self._retire, args=(before,))
            retiring.start()
            self._retiring.append(retiring)

    def _open(self, spec: AuditSpec) -> _Pipeline:
        node = spec.node or host_name()
        counts = AuditCounts()
        sinks = make_sinks(spec.sinks, counts, node, self._reports.log_error)
        builder = RecordBuilder(
            AuditPolicy(spec.policy), spec.redact, node, self._wall_ns, spec.message
        )
        intake = Intake()
        encoder = RecordEncoder(builder.make, intake, sinks, self._reports.log_error)
        self._counts.append(counts)
        return _Pipeline(spec, intake, encoder, counts)

    def _retire(self, pipeline: _Pipeline) -> None:
        """Close a pipeline when its last worker has ended."""
        self._channels.wait_for(pipeline.encoder)
        pipeline.encoder.close(CLOSING)

    def _close(self) -> None:
        """Record the workers' last items, write what waits, and report what is lost."""
        if self._pipeline is not None:
            self._retire(self._pipeline)
        for thread in self._retiring:
            thread.join()
        self._channels.close()
        total = self._total()
        lost = sum(each.dropped["closing"] for each in total.values())
        self._reports.close(total, lost, CLOSING)

    def _total(self) -> dict[str, SinkCounts]:
        """Return the counters of all configurations by sink."""
        total = AuditCounts()
        for counts in self._counts:
            for name, each in counts.sinks.items():
                total.sink(name).add(each)
        return total.sinks
