"""Writes one log line for each call: caller, method, code, duration and sizes, but no payload."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from criproxy.cri.naming import MethodName, cached_by_path, matches, resolve
from criproxy.observe.logs.call_line_encoder import CallLineEncoder
from criproxy.observe.logs.log import LEVELS, Log
from criproxy.observe.logs.status_message import status_message
from criproxy.observe.logs.subject_fields import SubjectFields, names_nothing
from criproxy.peers.peer import Connection
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call


class CallLog:
    """Writes a call's line when it has ended, and a warning when it becomes slow.

    A call that mutates or fails is logged at info, a successful read at debug. ``methods`` maps
    globs to other levels or ``off``, the first match applies; a failed call stays at info or above
    unless it is ``off``, and a slow call at warning.
    """

    def __init__(
        self,
        log: Log,
        record: Callable[[bytes], None],
        level: str,
        methods: Mapping[str, str],
        wall_clock_of: Callable[[float], float],
        subject_of: SubjectFields = names_nothing,
    ) -> None:
        """``record`` takes the lines of ended calls, as JSON without a newline; ``log`` writes the
        warnings of slow ones.

        ``wall_clock_of`` converts a time of the calls' clock to seconds since the epoch.
        """
        self._subject_of = subject_of
        self._log = log
        self._record = record
        self._threshold = LEVELS[level]
        self._methods = tuple(methods.items())
        self._wall_clock_of = wall_clock_of
        self._encoder = CallLineEncoder(wall_clock_of)
        self._levels_of = cached_by_path(self._find_levels)

    def ended(self, connection: Connection, call: Call, slow: bool) -> None:
        """Write the line of a call that has ended."""
        levels: _Levels = self._levels_of(call.path)
        level = levels.of(call.code is not StatusCode.OK, slow)
        if level is not None and call.ended is not None:
            self._record(self.line_of(connection, call, level, slow, self._subject_of))

    def line_of(
        self, connection: Connection, call: Call, level: str, slow: bool, subject_of: SubjectFields
    ) -> bytes:
        """Return the line of a call that has ended, as JSON without a newline."""
        message = status_message(call)
        subject = subject_of(connection, call)
        return self._encoder.encode(level, connection, call, message, slow, subject)

    def slow(self, connection: Connection, call: Call, now: float) -> None:
        """Write the warning of a slow call that is in flight."""
        method_name = resolve(call.path)
        self._log.warning(
            "slow call",
            **connection.fields(),
            service=method_name.service,
            method=method_name.method,
            api_version=method_name.api_version,
            began=datetime.fromtimestamp(self._wall_clock_of(call.began), UTC).isoformat(),
            age_s=round(now - call.began, 3),
            **self._subject_of(connection, call),
        )

    def _find_levels(self, path: bytes) -> "_Levels":
        name = resolve(path)
        return _Levels([self._level(name, bool(n & 2), bool(n & 1)) for n in range(4)])

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


class _Levels:
    """The levels of a method's lines; None: not written."""

    __slots__ = ("_levels",)

    def __init__(self, levels: list[str | None]) -> None:
        """``levels``: of calls that succeed, slow ones, those that fail, slow ones of them."""
        self._levels = levels

    def of(self, failed: bool, slow: bool) -> str | None:
        """Return the level of a call's line."""
        return self._levels[2 * failed + slow]
