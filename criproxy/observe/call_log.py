"""Writes one log line for each call: caller, method, code, duration and sizes, but no payload."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from criproxy.cri.naming import MethodName, matches, resolve
from criproxy.observe.log import LEVELS, Log
from criproxy.observe.metrics import code_label
from criproxy.observe.status_message import status_message
from criproxy.observe.subject_fields import SubjectFields, names_nothing
from criproxy.peers.peer import Connection
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call


class CallLine(msgspec.Struct, omit_defaults=True):
    """The fields of a call's log line. Times are UTC, durations seconds.

    A struct is encoded in a microsecond; structlog's processors take twenty, as much as all the
    rest of relaying a call.
    """

    timestamp: datetime
    """When the call ended (UTC, RFC 3339)."""
    level: str
    """The level of the line."""
    event: str
    """`call`."""
    listener: str
    """The endpoint that received the call."""
    pid: int
    """The client's process id at the time of connecting; 0 for a client of a foreign PID
    namespace."""
    uid: int
    """The client's user id at the time of connecting."""
    executable: str | None
    """The path of the client's executable; null if it could not be determined."""
    service: str
    """The full name of the service: `runtime.v1.RuntimeService`."""
    method: str
    """The name of the method."""
    api_version: str | None
    """`v1` or `v1alpha2`; null for methods outside the CRI."""
    began: datetime
    """When the request's headers arrived (UTC)."""
    code: str
    """The gRPC code that the client reports, or `UNREAD` if the end of the call was not seen."""
    message: str = ""
    """The status message without secrets, of at most 1024 characters; left out if there is none."""
    end: str = ""
    """The event that ended the call."""
    duration_s: float | None = None
    """Seconds until the call ended."""
    first_byte_s: float | None = None
    """Seconds until the response began; left out if it never did."""
    overhead_s: float | None = None
    """Seconds that the call's bytes spent in the proxy, in both directions."""
    request_messages: int | None = None
    """Messages of the request."""
    request_bytes: int | None = None
    """Message bytes of the request."""
    response_messages: int | None = None
    """Messages of the response."""
    response_bytes: int | None = None
    """Message bytes of the response."""
    slow: bool = False
    """`true` if the call was reported as slow; otherwise left out."""
    rules: tuple[str, ...] = ()
    """The rules that acted on the call, in order; left out if there are none."""
    held_s: float | None = None
    """Seconds that rules made the call wait; left out if they did not."""
    namespace: str = ""
    """The namespace of the pod that the call is about. This and the following are left out where
    they are unknown or do not apply, and without `log.pods`."""
    pod: str = ""
    """The name of that pod."""
    pod_uid: str = ""
    """Its uid in Kubernetes."""
    pod_id: str = ""
    """The runtime's id of its sandbox."""
    container: str = ""
    """The name of the container that the call is about."""
    container_id: str = ""
    """The runtime's id of that container."""
    image: str = ""
    """The image that the request names, otherwise the container's."""


class CallLog:
    """Writes a call's line when it has ended, and a warning when it becomes slow.

    A call that mutates or fails is logged at info, a successful read at debug. ``methods`` maps
    globs to other levels or ``off``, the first match applies; a failed call stays at info or above
    unless it is ``off``, and a slow call at warning.
    """

    def __init__(
        self,
        log: Log,
        record: Callable[[CallLine], None],
        level: str,
        methods: Mapping[str, str],
        wall_clock_of: Callable[[float], float],
        subject_of: SubjectFields = names_nothing,
    ) -> None:
        """``record`` writes the lines of ended calls, ``log`` the warnings of slow ones.

        ``wall_clock_of`` converts a time of the calls' clock to seconds since the epoch.
        """
        self._subject_of = subject_of
        self._log = log
        self._record = record
        self._threshold = LEVELS[level]
        self._methods = tuple(methods.items())
        self._wall_clock_of = wall_clock_of
        self._levels = lru_cache(maxsize=2048)(self._level)

    def ended(self, connection: Connection, call: Call, slow: bool) -> None:
        """Write the line of a call that has ended."""
        level = self._levels(resolve(call.path), call.code is not StatusCode.OK, slow)
        if level is not None and call.ended is not None:
            self._record(self.line_of(connection, call, level, slow, self._subject_of))

    def line_of(
        self, connection: Connection, call: Call, level: str, slow: bool, subject_of: SubjectFields
    ) -> CallLine:
        """Return the line of a call that has ended."""
        assert call.ended is not None
        method_name = resolve(call.path)
        peer = connection.peer
        request, response = call.request, call.response
        return CallLine(
            timestamp=self._datetime(call.ended),
            level=level,
            event="call",
            listener=connection.listener,
            pid=peer.pid,
            uid=peer.uid,
            executable=peer.executable,
            service=method_name.service,
            method=method_name.method,
            api_version=method_name.api_version,
            began=self._datetime(call.began),
            code=code_label(call),
            message=status_message(call),
            end=call.end or "",
            duration_s=round(call.ended - call.began, 6),
            first_byte_s=round(call.first_byte - call.began, 6) if call.first_byte else None,
            overhead_s=round(call.overhead, 6),
            request_messages=request.messages,
            request_bytes=request.bytes,
            response_messages=response.messages,
            response_bytes=response.bytes,
            slow=slow,
            rules=call.rules,
            held_s=round(call.held_by(call.ended), 6) or None,
            **subject_of(connection, call),
        )

    def slow(self, connection: Connection, call: Call, now: float) -> None:
        """Write the warning of a slow call that is in flight."""
        method_name = resolve(call.path)
        self._log.warning(
            "slow call",
            **connection.fields(),
            service=method_name.service,
            method=method_name.method,
            api_version=method_name.api_version,
            began=self._datetime(call.began).isoformat(),
            age_s=round(now - call.began, 3),
            **self._subject_of(connection, call),
        )

    def _level(self, method_name: MethodName, failed: bool, slow: bool) -> str | None:
        """Return the level of a call's line; None if it is not written."""
        level = "info" if method_name.mutating or failed else "debug"
        for pattern, chosen in self._methods:
            if matches(pattern, method_name):
                if chosen == "off":
                    return None
                if not failed or LEVELS[chosen] > LEVELS[level]:
                    level = chosen
                break
        if slow:
            level = max(level, "warning", key=LEVELS.__getitem__)
        return level if LEVELS[level] >= self._threshold else None

    def _datetime(self, time: float) -> datetime:
        return datetime.fromtimestamp(self._wall_clock_of(time), UTC)
