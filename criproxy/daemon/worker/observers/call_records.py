"""Sends calls with their messages to the tail process, while somebody reads their records.

That process is a recorder like the audit log's, whose records are for the readers of the admin
socket. Calls are captured and sent as for the audit log, from a budget and a queue of their own:
what does not fit is left out and counted, and neither a call nor the audit log waits for it.

Imported only if there is an admin socket, since protobuf costs memory.
"""

import asyncio
import socket
from typing import Final

from criproxy.audit.policy import AuditPolicy
from criproxy.audit.spec import AuditSpec
from criproxy.audit.worker.call_observer import CallObserver
from criproxy.audit.worker.recorder_client import ChannelLimits, RecorderClient
from criproxy.daemon.worker.observers.call_subjects import CallSubjects
from criproxy.peers.peer import Connection
from criproxy.relay.listener import CaptureFor
from criproxy.wire.reading.connection import Event
from criproxy.wire.reading.message_capture import (
    CaptureBudget,
    CaptureLimits,
    SelectCapture,
    widest,
)

_CAPTURE_BUDGET: Final = 16 << 20
"""Bytes of the captured messages of all calls in flight."""

_LIMITS: Final = ChannelLimits(items=8192, bytes=8 << 20)
"""Limits on the items that wait for the tail process."""


class CallRecords:
    """The calls of a worker, for their records. Used on the event loop only."""

    def __init__(self, subjects: CallSubjects, listeners: int) -> None:
        """``listeners`` is the number of the worker's."""
        self._subjects = subjects
        self._listeners = listeners
        self._client: RecorderClient | None = None
        self._observer: CallObserver | None = None

    async def open(self, spec: AuditSpec, channel: socket.socket) -> None:
        """Send calls through a channel from now on; a channel of before is closed.

        Returns when the names of pods and containers are sent.
        """
        self.close()
        client = self._client = RecorderClient(
            channel, spec.sinks, {}, self._listeners, self.close, limits=_LIMITS
        )
        budget = CaptureBudget(_CAPTURE_BUDGET)
        self._observer = CallObserver(AuditPolicy(spec.policy), spec.message, client, budget)
        for listing in self._subjects.listings():
            if client is not self._client:
                return
            client.submit(listing)
            await asyncio.sleep(0)

    def close(self) -> None:
        """Send nothing any more, until the next channel. Does not wait."""
        client, self._client, self._observer = self._client, None, None
        if client is not None:
            client.close(within=0.0)

    def observe(self, connection: Connection, event: Event, now: float) -> None:
        """Send a call that has ended."""
        if self._observer is not None:
            self._observer.observe(connection, event, now)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        if self._observer is not None:
            self._observer.forget(connection)

    def capturing(self, capture_for: CaptureFor) -> CaptureFor:
        """Return what captures the messages of records, beside what ``capture_for`` does.

        Messages that ``capture_for`` selects anyway are charged to its budget alone.
        """

        def capture_also(connection: Connection) -> SelectCapture:
            select = capture_for(connection)

            def selected(path: bytes) -> CaptureLimits | None:
                limits = None if select is None else select(path)
                if self._observer is None:
                    return limits
                return widest(limits, self._observer.limits(connection, path))

            return selected

        return capture_also
