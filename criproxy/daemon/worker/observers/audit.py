"""The audit log in a worker: which calls are recorded, and the channel to the recorder.

Imported only if the configuration has an audit log, since protobuf costs memory.
"""

import socket
from collections.abc import Callable
from typing import Final

from criproxy.audit.counts import AuditCounts
from criproxy.audit.items import RuntimeListing
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.sinks.sink_queue import Done
from criproxy.audit.spec import AuditSpec, sink_names
from criproxy.audit.worker.call_observer import REFUSED, CallObserver
from criproxy.audit.worker.recorder_client import RecorderClient
from criproxy.observe.logs.log import Log
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


class Audit:
    """The audit log in a worker. It is the gate's AuditLog (:mod:`criproxy.relay.audit_gate`)."""

    def __init__(
        self,
        spec: AuditSpec,
        log: Log,
        clock: Clock,
        channel: socket.socket,
        listeners: int,
        lost: Callable[[], object],
    ) -> None:
        """Use a channel to the recorder. To be made on the event loop.

        ``clock`` is the calls' clock, in seconds; ``listeners`` the number of the worker's.
        ``lost`` is called when the recorder has ended: ``reconnect`` needs another channel.
        """
        self._log = log
        self._clock = clock
        self._short_names: str | None = None
        counts = AuditCounts()
        for name in sink_names(spec.sinks):
            counts.sink(name)
        self.sinks = counts.sinks
        """Counters of the records that this worker has dropped, by sink."""
        self.refused_calls = 0
        """Calls that were refused because they could not be recorded."""
        self._lost = lost
        self._client = RecorderClient(channel, spec.sinks, self.sinks, listeners, self._report_lost)
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
        """Uses another channel if the recorder has ended, and returns whether it does. The new
        recorder knows no pods: a listing has to be submitted again."""

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

    def add_listing(self, pods: bytes = b"", containers: bytes = b"", images: bytes = b"") -> None:
        """Submit a runtime's responses to ListPodSandbox, ListContainers and ListImages."""
        self._client.submit(RuntimeListing(pods, containers, images, self._short_names))

    def read_short_names(self, short_names: str) -> None:
        """Submit how the runtimes read short names of images, now and with all later listings."""
        self._short_names = short_names
        self.add_listing()

    def close(self) -> None:
        """Send what waits for the recorder, within a few seconds."""
        unsent = self._client.close(_CLOSING)
        if unsent:
            self._log.warning("audit records lost", records=unsent, waited_s=_CLOSING)

    def _report_lost(self) -> None:
        self._log.error(
            "audit log in trouble",
            trouble="the recorder has ended; items wait in memory until it is started again, "
            "as far as their limit goes",
        )
        self._lost()
