"""One line for each call: who asked for what, how it ended, how long it took. Never a payload."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from criproxy.cri.naming import Named, resolve
from criproxy.observe.flight import matches
from criproxy.observe.log import LEVELS, Log
from criproxy.observe.metrics import code_label
from criproxy.peers import Connection
from criproxy.wire.calls import Call
from criproxy.wire.grpc import StatusCode, parse_message

_LONGEST_MESSAGE: Final = 1024
"""Characters of a status message that are logged."""


class CallLog:
    """Writes a call's line when it has ended, and a warning when it has become slow.

    A call that changes something or fails is logged at info, one that only reads at debug.
    ``methods`` has other levels by glob (``off`` among them), the first that matches counts; a
    failed call stays at info at least unless it is ``off``. A call that was slow is a warning.
    """

    def __init__(
        self,
        log: Log,
        level: str,
        methods: Mapping[str, str],
        wall_clock_of: Callable[[float], float],
    ) -> None:
        """``wall_clock_of`` turns a time of the calls' clock into seconds since the epoch."""
        self._log = log
        self._threshold = LEVELS[level]
        self._methods = tuple(methods.items())
        self._wall_clock_of = wall_clock_of
        self._levels = lru_cache(maxsize=2048)(self._level)

    def ended(self, connection: Connection, call: Call, slow: bool) -> None:
        """Write the line of a call that has ended."""
        named = resolve(call.path)
        level = self._levels(named, call.code is not StatusCode.OK, slow)
        if level is None:
            return
        fields = self._fields(connection, call, named)
        fields["code"] = code_label(call)
        if call.message:
            fields["message"] = parse_message(call.message)[:_LONGEST_MESSAGE]
        fields["end"] = call.end
        if call.ended is not None:
            fields["duration_s"] = round(call.ended - call.began, 6)
        if call.first_byte is not None:
            fields["first_byte_s"] = round(call.first_byte - call.began, 6)
        fields["overhead_s"] = round(call.overhead, 6)
        fields["request_messages"] = call.request.messages
        fields["request_bytes"] = call.request.bytes
        fields["response_messages"] = call.response.messages
        fields["response_bytes"] = call.response.bytes
        if slow:
            fields["slow"] = True
        getattr(self._log, level)("call", **fields)

    def slow(self, connection: Connection, call: Call, now: float) -> None:
        """Warn of a call that has been running for long."""
        fields = self._fields(connection, call, resolve(call.path))
        self._log.warning("slow call", **fields, age_s=round(now - call.began, 3))

    def _level(self, named: Named, failed: bool, slow: bool) -> str | None:
        """The level of a call's line; None where it is not to be written."""
        level = "info" if named.mutating or failed else "debug"
        for pattern, chosen in self._methods:
            if matches(pattern, named):
                if chosen == "off":
                    return None
                if not failed or LEVELS[chosen] > LEVELS[level]:
                    level = chosen
                break
        if slow:
            level = "warning"
        return level if LEVELS[level] >= self._threshold else None

    def _fields(self, connection: Connection, call: Call, named: Named) -> dict[str, Any]:
        peer = connection.peer
        began = datetime.fromtimestamp(self._wall_clock_of(call.began), UTC)
        return {
            "listener": connection.listener,
            "pid": peer.pid,
            "uid": peer.uid,
            "executable": peer.executable,
            "service": named.service,
            "method": named.method,
            "api_version": named.api_version,
            "began": began.isoformat(timespec="microseconds"),
        }
