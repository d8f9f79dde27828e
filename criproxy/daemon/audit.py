"""The audit log in the daemon's processes: what a worker does for it, and the recorder.

Imported only if the configuration has an audit log, since protobuf costs memory.
"""

import asyncio
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector

from criproxy.audit.counts import AuditCounts, SinkCounts
from criproxy.audit.items import RuntimeListing
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.recorder.control import ControlSocket, Message
from criproxy.audit.recorder.server import serve_recorder
from criproxy.audit.sinks.sink_queue import Done
from criproxy.audit.spec import AuditSpec, sink_names
from criproxy.audit.worker.call_observer import REFUSED, CallObserver
from criproxy.audit.worker.recorder_client import RecorderClient
from criproxy.errors import UnavailableError, UsageError
from criproxy.observe.log import Log
from criproxy.observe.metrics import SinkMetrics
from criproxy.observe.metrics_merge import Snapshot, snapshot
from criproxy.peers.peer import Connection
from criproxy.relay.audit_gate import AuditGate, GatedPolicy
from criproxy.relay.notifier import Clock
from criproxy.relay.policy import Policy
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.message_capture import CaptureBudget

_CAPTURE_BUDGET: Final = 64 << 20
"""Bytes of memory for the captured messages of all calls in flight."""

_CLOSING: Final = 5.0
"""Seconds that a worker has at its end to send what waits for the recorder."""

_SWITCH_INTERVAL: Final = 0.001
"""Seconds after which the recorder's encoder gives the interpreter to the thread that reads."""


class Audit:
    """The audit log in a worker. It is the gate's AuditLog (:mod:`criproxy.relay.audit_gate`)."""

    def __init__(
        self, spec: AuditSpec, log: Log, clock: Clock, channel: socket.socket, listeners: int
    ) -> None:
        """Use a channel to the recorder. To be made on the event loop.

        ``clock`` is the calls' clock, in seconds; ``listeners`` the number of the worker's.
        """
        self._log = log
        self._clock = clock
        counts = AuditCounts()
        for name in sink_names(spec.sinks):
            counts.sink(name)
        self.sinks = counts.sinks
        """Counters of the records that this worker has dropped, by sink."""
        self.refused_calls = 0
        """Calls that were refused because they could not be recorded."""
        self._client = RecorderClient(channel, spec.sinks, self.sinks, listeners, self._log_error)
        self.call_observer = CallObserver(
            AuditPolicy(spec.policy), spec.message, self._client, CaptureBudget(_CAPTURE_BUDGET)
        )
        self.received_after = float(spec.received_after)
        self.synced = self._client.synced
        self.max_wait = self._client.max_wait
        self.gate = AuditGate(self, clock) if self._client.blocking else None
        """Holds calls for a sink that must not lose a record."""
        self.records = self.call_observer.records
        self.when_room = self._client.when_room
        self.is_full = self._client.is_full
        self.reconnect = self._client.reconnect
        """Uses another channel after the recorder was restarted. The new recorder knows no pods:
        a listing has to be submitted again."""

    @property
    def full(self) -> bool:
        """See AuditLog."""
        return self._client.full

    @property
    def waiting(self) -> int:
        """The number of calls that wait to be recorded."""
        return 0 if self.gate is None else self.gate.waiting

    def before(self, policy: Policy | None) -> Policy | None:
        """Return the policy that applies the gate, if there is one, and then ``policy``."""
        return policy if self.gate is None else GatedPolicy(self.gate, policy)

    def received(self, connection: Connection, call: Call, done: Done) -> None:
        """See AuditLog."""
        self.call_observer.received(connection, call, self._clock(), done)

    def refused(self, call: Call | None) -> None:
        """See AuditLog."""
        self.refused_calls += 1
        if call is not None:
            call.denied = REFUSED

    def add_listing(self, pods: bytes, containers: bytes) -> None:
        """Submit a runtime's responses to ListPodSandbox and ListContainers."""
        self._client.submit(RuntimeListing(pods, containers))

    def close(self) -> None:
        """Send what waits for the recorder, within a few seconds."""
        unsent = self._client.close(_CLOSING)
        if unsent:
            self._log.warning("audit records lost", records=unsent, waited_s=_CLOSING)

    def _log_error(self, trouble: str) -> None:
        self._log.error("audit log in trouble", trouble=trouble)


def run_recorder(control: socket.socket) -> int:
    """Run the recorder in this process until the supervisor closes ``control``."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    def describe(sinks: Mapping[str, SinkCounts]) -> Snapshot:
        metrics = SinkMetrics(sinks)
        registry.register(metrics)
        try:
            return snapshot(registry)
        finally:
            registry.unregister(metrics)

    return serve_recorder(control, describe, wall_clock_ns(time.perf_counter))


def wall_clock_ns(clock: Clock) -> Callable[[float], int]:
    """Return a function that converts times of a monotonic clock to nanoseconds since the epoch."""
    offset = time.time_ns() - round(clock() * 1e9)
    return lambda moment: offset + round(moment * 1e9)


def start_recorder() -> socket.socket:
    """Fork the recorder; return the socket for :class:`RecorderProcess`.

    To be called before any thread or event loop exists.
    """
    ours, theirs = socket.socketpair()
    sys.stderr.flush()
    if os.fork():
        theirs.close()
        return ours
    status = 1
    try:
        ours.close()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        status = run_recorder(theirs)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class RecorderProcess:
    """The recorder, as the process that has forked it sees it. For the event loop."""

    def __init__(self, control: socket.socket, spec: AuditSpec, log: Log) -> None:
        """Have the sinks opened. Raises UnavailableError and UsageError if that fails."""
        self._sock = control
        self._control = ControlSocket(control)
        self._log = log
        self.snapshot: Snapshot = []
        """The metrics that the recorder reported last."""
        self._control.send({"op": "configure", "spec": pickle.dumps(spec)})
        while True:
            for message, _ in self._receive():
                if message["op"] == "ready":
                    asyncio.get_running_loop().add_reader(control.fileno(), self._read)
                    return
                if message["op"] == "failed":
                    kind = UsageError if message["usage"] else UnavailableError
                    raise kind(message["error"])

    def connect(self) -> socket.socket:
        """Make a channel, and return the worker's end."""
        ours, theirs = socket.socketpair()
        self._control.send({"op": "channel"}, [theirs.fileno()])
        theirs.close()
        return ours

    def reopen(self) -> None:
        """Have files reopened."""
        self._control.send({"op": "reopen"})

    def close(self) -> None:
        """Let the recorder write what waits, and wait for its end."""
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.shutdown(socket.SHUT_WR)
        try:
            while True:
                for message, _ in self._receive():
                    self._handle(message)
        except EOFError:
            self._sock.close()

    def _receive(self) -> Any:
        return self._control.receive()

    def _read(self) -> None:
        try:
            for message, _ in self._receive():
                self._handle(message)
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def _handle(self, message: Message) -> None:
        operation = message["op"]
        if operation == "metrics":
            self.snapshot = message["snapshot"]
        elif operation == "error":
            self._log.error("audit log in trouble", trouble=message["trouble"])
        elif operation == "lost":
            self._log.warning(
                "audit records lost", records=message["records"], waited_s=message["waited_s"]
            )
