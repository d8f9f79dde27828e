"""Dispatches the relay's events to the call log, the metrics, audit log, traces and captures."""

import asyncio
from typing import TYPE_CHECKING, Final

from criproxy.observe.calls_in_flight import CallsInFlight
from criproxy.observe.logs.call_log import CallLog
from criproxy.observe.logs.log import Log
from criproxy.observe.metrics import Metrics
from criproxy.peers.peer import Connection, Peer
from criproxy.relay.notifier import Clock
from criproxy.relay.socket_errors import describe_error
from criproxy.wire.errors import HTTP1Error
from criproxy.wire.reading.connection import CallBegan, CallEnded, Event, ReadingStopped

if TYPE_CHECKING:  # importing it costs the memory of protobuf
    from criproxy.audit.worker.call_observer import CallObserver
    from criproxy.capture.deferred import DeferredObserver
    from criproxy.daemon.worker.observers.call_feed import CallFeed
    from criproxy.daemon.worker.observers.call_records import CallRecords
    from criproxy.daemon.worker.observers.call_subjects import CallSubjects
    from criproxy.traces.worker.call_tracer import CallTracer

_SWEEP: Final = 0.5
"""Seconds between looks for calls that have become slow."""


_REPEAT: Final = 10.0
"""Seconds until the same warning of a full listener may come again."""


class EventDispatcher:
    """Receives the relay's events and passes them to the log, the metrics and the list of calls.

    It is the relay's Observer and its listeners' Notices.
    """

    call_observer: "CallObserver | None" = None
    """Observes the calls for the audit log."""
    call_subjects: "CallSubjects | None" = None
    """Learns the names of pods and containers from the calls."""
    call_feed: "CallFeed | None" = None
    """Has the calls for the readers of the admin socket."""
    call_records: "CallRecords | None" = None
    """Has the calls with their messages for them."""
    call_tracer: "CallTracer | None" = None
    """Traces the calls."""
    recording_observer: "DeferredObserver | None" = None
    """Makes records of everything for captures."""
    received_after: float = 0.0
    """The age in seconds at which a running call is recorded in the audit log; 0: never."""

    def __init__(
        self, log: Log, calls: CallsInFlight, call_log: CallLog, metrics: Metrics, clock: Clock
    ) -> None:
        self._log = log
        self._calls = calls
        self._call_log = call_log
        self._metrics = metrics
        self._counts = metrics.calls
        self._clock = clock
        self._paused: dict[str, float] = {}

    def connection_opened(self, connection: Connection) -> None:
        """See Observer."""
        self._metrics.connections.labels(connection.listener).inc()
        if self.recording_observer is not None:
            self.recording_observer.connection_opened(connection)
        self._log.debug("connection opened", **connection.fields())

    def connection_closed(self, connection: Connection) -> None:
        """See Observer."""
        self._metrics.connections.labels(connection.listener).dec()
        if self.call_observer is not None:
            self.call_observer.forget(connection)
        if self.call_records is not None:
            self.call_records.forget(connection)
        if self.recording_observer is not None:
            self.recording_observer.connection_closed(connection)
        age = round(self._clock() - connection.opened, 6)
        self._log.debug("connection closed", **connection.fields(), age_s=age)

    def observe(self, connection: Connection, event: Event) -> None:
        """See Observer."""
        if isinstance(event, CallBegan):
            self._calls.began(connection, event.call)
        elif isinstance(event, CallEnded):
            slow = self._calls.ended(event.call)
            span = None
            if self.call_tracer is not None:
                span = self.call_tracer.ended(connection, event.call)
            self._counts.ended(connection, event.call, span)
            self._call_log.ended(connection, event.call, slow)
            deferred = self.call_feed is not None and self.call_feed.ended(
                connection, event.call, slow
            )
            if self.call_subjects is not None and not deferred:
                self.call_subjects.ended(event.call)  # last: until here what is removed has a name
        elif isinstance(event, ReadingStopped):
            self._metrics.unread.labels(event.reason).inc()
            write = self._log.info if event.reason == HTTP1Error.reason else self._log.warning
            write(
                "connection not read any further",
                **connection.fields(),
                reason=event.reason,
                detail=event.detail,
                note="its bytes are still relayed",
            )
        if self.call_observer is not None:
            self.call_observer.observe(connection, event, self._clock())
        if self.call_records is not None:
            self.call_records.observe(connection, event, self._clock())
        if self.recording_observer is not None:
            self.recording_observer.observe(connection, event)

    def connection_refused(self, connection: Connection, reason: str, detail: str) -> None:
        """See Observer."""
        self._metrics.refused.labels(connection.listener, reason).inc()
        if reason == HTTP1Error.reason:
            self._log.warning("HTTP/1 refused", **connection.fields(), detail=detail)
            return
        self._log.error(
            "connection closed: cannot be read, and a rule must not be missed",
            **connection.fields(),
            reason=reason,
            detail=detail,
        )

    def runtime_unreachable(self, listener: str, runtime: str, peer: Peer, error: OSError) -> None:
        """See Notices."""
        self._log.error(
            "client closed: runtime not there",
            listener=listener,
            runtime=runtime,
            error=describe_error(runtime.removeprefix("unix://"), error),
            pid=peer.pid,
            executable=peer.executable,
        )

    def accept_paused(self, listener: str, reason: str) -> None:
        """See Notices."""
        now = self._clock()
        if now - self._paused.get(listener, -_REPEAT) < _REPEAT:
            return
        self._paused[listener] = now
        self._log.warning(
            "not accepting for now",
            listener=listener,
            reason=reason,
            note="new clients wait in the backlog; raise LimitNOFILE or limits.connections",
        )

    def rate_exceeded(self, connection: Connection) -> None:
        """See ListenerEvents."""
        self._metrics.rate_exceeded.labels(connection.listener).inc()
        self._log.warning(
            "connection ended: too many frames that carry nothing",
            **connection.fields(),
            note="its client was slowed down before; see limits.frame_rate",
        )

    async def sweep(self) -> None:
        """Warn of each call once when it becomes slow, and have those recorded that run for long.

        Never returns.
        """
        while True:
            await asyncio.sleep(_SWEEP)
            now = self._clock()
            for call, connection in self._calls.newly_slow(now):
                self._call_log.slow(connection, call, now)
            if self.call_observer is not None and self.received_after:
                self.call_observer.sweep(self._calls.snapshot(), now, self.received_after)
