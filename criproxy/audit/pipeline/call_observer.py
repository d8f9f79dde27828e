"""What the event loop does for the audit log, which is as little as can be.

Which calls of a connection may be recorded, and what has to be kept of them, is found out once for
each method; for a call that is not nothing is done at all.
"""

from collections.abc import Iterable
from random import Random
from typing import Final, NamedTuple

from criproxy.audit.items import CallAtStage, UnreadConnection
from criproxy.audit.pipeline.encoder import RecordEncoder
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.records.record_builder import RecordBuilder
from criproxy.audit.sinks.sink_queue import Done
from criproxy.cri.naming import resolve
from criproxy.peers.peer import Connection
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallEnded, Event, ReadingStopped
from criproxy.wire.reading.message_capture import CaptureBudget, CaptureLimits, SelectCapture

REFUSED: Final = "audit"
"""What ``Call.denied`` says of a call that was refused because it could not be recorded."""

_PATHS: Final = 256
"""Paths that are remembered of a connection: the CRI has less than a hundred, the rest is a
client's fancy."""

_LONGEST_PATH: Final = 256
"""Bytes of a path that is remembered: more than any of the CRI's has."""

_VERSION: Final = 4 << 76 | 2 << 62
_WITHOUT_VERSION: Final = ~(0xF << 76 | 0x3 << 62)

_random: Final = Random()  # noqa: S311 - ids have to differ, not to be secret


class _PathPolicy(NamedTuple):
    """What is known beforehand of the calls of a path on a connection."""

    recorded: bool
    """Whether they may be recorded."""
    limits: CaptureLimits | None
    """What is kept of them: for records, or to know pods and containers by their names later."""


class CallObserver:
    """Hands over to the pipeline what is to be recorded. For the event loop alone."""

    def __init__(
        self,
        policy: AuditPolicy,
        maker: RecordBuilder,
        pipeline: RecordEncoder,
        store: CaptureBudget,
    ) -> None:
        """``store`` bounds what is kept of all the calls in flight together."""
        self._policy = policy
        self._maker = maker
        self._pipeline = pipeline
        self._store = store
        self._connections: dict[Connection, dict[bytes, _PathPolicy]] = {}
        self._ids: dict[Call, str] = {}  # of calls in flight that have a record already

    def capture_for(self, connection: Connection) -> SelectCapture:
        """Take in a connection; return what says which of its messages have to be kept."""
        self._connections[connection] = {}
        return lambda path: self._path_policy(connection, path).limits

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that is closed."""
        self._connections.pop(connection, None)

    def records(self, connection: Connection, path: bytes) -> bool:
        """Tell whether calls of a ``:path`` may be recorded, as far as is known beforehand."""
        return self._path_policy(connection, path).recorded

    def observe(self, connection: Connection, event: Event, now: float) -> None:
        """Take notice of what the relay has seen."""
        if isinstance(event, CallEnded):
            self._ended(connection, event.call, now)
        elif isinstance(event, ReadingStopped):
            self._pipeline.submit(UnreadConnection(connection, event.reason, event.detail, now))

    def received(
        self, connection: Connection, call: Call, now: float, done: Done | None = None
    ) -> None:
        """Record that a call has begun.

        ``done`` is told, from a thread, when that record is durable.
        """
        audit_id = self._ids.get(call)  # it may be long under way, and waiting to be recorded
        if audit_id is None:
            audit_id = self._ids[call] = _new_id()
        item = CallAtStage("RequestReceived", audit_id, connection, call, now)
        if done is None:
            self._pipeline.submit(item)
        else:
            self._pipeline.submit_synced(item, done)

    def sweep(self, calls: Iterable[tuple[Call, Connection]], now: float, age: float) -> None:
        """Record that calls have begun which have been running for ``age`` seconds.

        ``calls`` are those in flight, the oldest first.
        """
        for call, connection in calls:
            if now - call.began < age:
                return
            if call not in self._ids and self.records(connection, call.path):
                self.received(connection, call, now)

    def _ended(self, connection: Connection, call: Call, now: float) -> None:
        audit_id = self._ids.pop(call, None)
        if call.denied == REFUSED and audit_id is None:
            self._pipeline.count_dropped("refused")
            return
        path_policy = self._path_policy(connection, call.path)
        if path_policy.recorded or call.denied or call.capture is not None:
            at = now if call.ended is None else call.ended
            item = CallAtStage("ResponseComplete", audit_id or _new_id(), connection, call, at)
            self._pipeline.submit(item)

    def _path_policy(self, connection: Connection, path: bytes) -> _PathPolicy:
        known = self._connections.get(connection)
        if known is None or len(path) > _LONGEST_PATH:  # what ends after it is closed is still told
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
        limits = self._maker.capture_limits(method_name, max_level)
        wants = limits.request or limits.response
        return _PathPolicy(
            max_level != "None", limits._replace(budget=self._store) if wants else None
        )


def _new_id() -> str:
    """Make a random UUID (RFC 9562, section 5.4), in a third of the time that uuid takes."""
    text = f"{_random.getrandbits(128) & _WITHOUT_VERSION | _VERSION:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
