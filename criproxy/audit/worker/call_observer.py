"""Observes calls on the event loop, and submits to the recorder what may be recorded.

Whether calls of a path may be recorded, and which messages are captured, is decided once for each
connection and path; other calls cost nothing.
"""

from collections.abc import Iterable
from random import Random
from typing import Final, NamedTuple

from criproxy.audit.items import CallAtStage, UnreadConnection
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.records.capture import SUBJECT_BYTES, CaptureSelector
from criproxy.audit.sinks.sink_queue import Done
from criproxy.audit.worker.recorder_client import RecorderClient
from criproxy.cri.naming import resolve
from criproxy.peers.peer import Connection
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallEnded, Event, ReadingStopped
from criproxy.wire.reading.message_capture import CaptureBudget, CaptureLimits, SelectCapture

REFUSED: Final = "audit"
"""The value of ``Call.denied`` for a call that was refused because it could not be recorded."""

_PATHS: Final = 256
"""Cached paths of a connection: the CRI has less than a hundred, clients may invent others."""

_LONGEST_PATH: Final = 256
"""Bytes of the longest cached path: longer than any of the CRI."""

_VERSION: Final = 4 << 76 | 2 << 62
_WITHOUT_VERSION: Final = ~(0xF << 76 | 0x3 << 62)


class _PathPolicy(NamedTuple):
    """The part of the audit policy that depends only on a path and its connection."""

    recorded: bool
    """Whether they may be recorded."""
    limits: CaptureLimits | None
    """What is captured, for records or for the pod cache."""
    sent: CaptureLimits
    """What is sent to the recorder of what was captured for any purpose."""


class CallObserver:
    """Submits calls to the recorder. Used on the event loop only."""

    def __init__(
        self,
        policy: AuditPolicy,
        message_limit: int,
        client: RecorderClient,
        budget: CaptureBudget,
    ) -> None:
        """``message_limit`` is in bytes of the recorded messages of one direction.

        ``budget`` bounds the captures of all calls in flight.
        """
        self._policy = policy
        self._capture_limits = CaptureSelector(message_limit).limits
        self._client = client
        self._budget = budget
        self._connections: dict[Connection, dict[bytes, _PathPolicy]] = {}
        self._ids: dict[Call, str] = {}  # of calls in flight that have a record
        # Seeded here, not at import: processes forked from one parent must not share its state.
        self._random = Random()  # noqa: S311 - ids have to differ, not to be secret

    def capture_for(self, connection: Connection) -> SelectCapture:
        """Add a connection; return the selection of its captures."""
        self._connections[connection] = {}
        return lambda path: self.limits(connection, path)

    def limits(self, connection: Connection, path: bytes) -> CaptureLimits | None:
        """Return what is captured of a call, also on a connection that was not added."""
        return self._path_policy(connection, path).limits

    def forget(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        self._connections.pop(connection, None)
        self._client.forget(connection)

    def records(self, connection: Connection, path: bytes) -> bool:
        """Return whether calls of a ``:path`` may be recorded, as far as is known in advance."""
        return self._path_policy(connection, path).recorded

    def observe(self, connection: Connection, event: Event, now: float) -> None:
        """Submit an ended call or an unread connection."""
        if isinstance(event, CallEnded):
            self._ended(connection, event.call, now)
        elif isinstance(event, ReadingStopped):
            self._client.submit(UnreadConnection(connection, event.reason, event.detail, now))

    def received(
        self, connection: Connection, call: Call, now: float, done: Done | None = None
    ) -> None:
        """Record that a call has begun; call ``done`` when that record is durable."""
        audit_id = self._ids.get(call)  # set if the call runs for long, too
        if audit_id is None:
            audit_id = self._ids[call] = self._new_id()
        sent = self._path_policy(connection, call.path).sent
        item = CallAtStage("RequestReceived", audit_id, connection, call, now, sent)
        self._client.submit(item, done)

    def sweep(self, calls: Iterable[tuple[Call, Connection]], now: float, age: float) -> None:
        """Record that calls have begun that have run for ``age`` seconds.

        ``calls`` are the calls in flight, the oldest first.
        """
        for call, connection in calls:
            if now - call.began < age:
                return
            if call not in self._ids and self.records(connection, call.path):
                self.received(connection, call, now)

    def _ended(self, connection: Connection, call: Call, now: float) -> None:
        audit_id = self._ids.pop(call, None)
        if call.denied == REFUSED and audit_id is None:
            self._client.count_dropped("refused")
            return
        path_policy = self._path_policy(connection, call.path)
        if path_policy.recorded or call.denied or path_policy.limits is not None:
            at = now if call.ended is None else call.ended
            audit_id = audit_id or self._new_id()
            sent = path_policy.sent
            self._client.submit(
                CallAtStage("ResponseComplete", audit_id, connection, call, at, sent)
            )

    def _path_policy(self, connection: Connection, path: bytes) -> _PathPolicy:
        known = self._connections.get(connection)
        if known is None or len(path) > _LONGEST_PATH:  # a call may end late
            return self._make_path_policy(connection, path)
        path_policy = known.get(path)
        if path_policy is None:
            if len(known) >= _PATHS:
                known.clear()
            path_policy = known[path] = self._make_path_policy(connection, path)
        return path_policy

    def _make_path_policy(self, connection: Connection, path: bytes) -> _PathPolicy:
        method_name = resolve(path)
        max_level = self._policy.max_level(method_name, connection)
        limits = self._capture_limits(method_name, max_level)
        wants = limits.request or limits.response
        return _PathPolicy(
            max_level != "None",
            limits._replace(budget=self._budget) if wants else None,
            limits._replace(request=max(limits.request, SUBJECT_BYTES)),
        )

    def _new_id(self) -> str:
        """Return a random UUID (RFC 9562, section 5.4), in a third of the time of uuid.uuid4."""
        text = f"{self._random.getrandbits(128) & _WITHOUT_VERSION | _VERSION:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
