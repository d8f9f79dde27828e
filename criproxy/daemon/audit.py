"""The audit log in the daemon: what it is made of, and when it begins and ends.

Imported only where the configuration asks for it: protobuf's memory is not paid for without.
"""

import time
from collections.abc import Callable
from platform import node as host_name
from typing import Final

from criproxy.audit.counts import AuditCounts
from criproxy.audit.items import RuntimeListing
from criproxy.audit.pipeline.call_observer import REFUSED, CallObserver
from criproxy.audit.pipeline.encoder import RecordEncoder
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.records.record_builder import RecordBuilder
from criproxy.audit.sinks.factory import make_sinks
from criproxy.audit.sinks.sink_queue import Done
from criproxy.audit.spec import AuditSpec
from criproxy.observe.log import Log
from criproxy.peers.peer import Connection
from criproxy.relay.audit_gate import AuditGate, GatedPolicy
from criproxy.relay.notifier import Clock
from criproxy.relay.policy import Policy
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.message_capture import CaptureBudget

_KEPT: Final = 64 << 20
"""Bytes of memory that the messages of calls in flight may take for their records."""

_CLOSING: Final = 5.0
"""Seconds that what waits for the sinks has to be written when the daemon ends."""


class Audit:
    """The audit log, from the recorder on the event loop to the sinks.

    It is the gate's AuditLog (:mod:`criproxy.relay.audit_gate`).
    """

    def __init__(self, spec: AuditSpec, log: Log, clock: Clock) -> None:
        """Open the sinks. Raises UnavailableError and UsageError for what cannot be opened.

        ``clock`` is the one that calls are timed with: seconds.
        """
        self._log = log
        self._clock = clock
        counts = AuditCounts()
        self.sinks = counts.sinks
        """What became of the records, by sink."""
        self.refused_calls = 0
        """Calls that were refused because they could not be recorded."""
        node = spec.node or host_name()
        policy = AuditPolicy(spec.policy)
        maker = RecordBuilder(policy, spec.redact, node, wall_clock_ns(clock), spec.message)
        sinks = make_sinks(spec.sinks, counts, node, self._log_error)
        self._pipeline = RecordEncoder(maker.make, sinks, self._log_error)
        self.recorder = CallObserver(policy, maker, self._pipeline, CaptureBudget(_KEPT))
        self.received_after = float(spec.received_after)
        self.blocking = self._pipeline.blocking
        self.synced = self._pipeline.synced
        self.max_wait = self._pipeline.max_wait
        self.gate = AuditGate(self, clock) if self.blocking else None
        """Where calls wait for a sink that must not lose a record."""
        self.records = self.recorder.records
        self.when_room = self._pipeline.when_room
        self.reopen = self._pipeline.reopen

    @property
    def full(self) -> bool:
        """See AuditLog."""
        return self._pipeline.full

    @property
    def waiting(self) -> int:
        """How many calls wait to be recorded."""
        return 0 if self.gate is None else self.gate.waiting

    def before(self, policy: Policy | None) -> Policy | None:
        """Return what acts on calls where ``policy`` did, behind the gate if there is one."""
        return policy if self.gate is None else GatedPolicy(self.gate, policy)

    def received(self, connection: Connection, call: Call, done: Done) -> None:
        """See AuditLog."""
        self.recorder.received(connection, call, self._clock(), done)

    def refused(self, call: Call | None) -> None:
        """See AuditLog."""
        self.refused_calls += 1
        if call is not None:
            call.denied = REFUSED

    def add_listing(self, pods: bytes, containers: bytes) -> None:
        """Learn what a runtime has already: its answers to ListPodSandbox and ListContainers."""
        self._pipeline.submit(RuntimeListing(pods, containers))

    def close(self) -> None:
        """Write what waits, as far as that can be done in a few seconds."""
        self._pipeline.close(_CLOSING)
        lost = sum(each.dropped["closing"] for each in self.sinks.values())
        if lost:
            self._log.warning("audit records lost", records=lost, waited_s=_CLOSING)

    def _log_error(self, trouble: str) -> None:
        self._log.error("audit log in trouble", trouble=trouble)


def wall_clock_ns(clock: Clock) -> Callable[[float], int]:
    """Return what turns a time of a clock that only grows into nanoseconds since the epoch."""
    offset = time.time_ns() - round(clock() * 1e9)
    return lambda moment: offset + round(moment * 1e9)
