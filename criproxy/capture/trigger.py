"""Decides when a recording that is kept in memory is written: by a call that is waited for.

Streams take no time here: they last as long as their clients want.
"""

from typing import Final

from criproxy.cassette.open_calls import OpenCall, OpenCalls
from criproxy.cassette.records import AnyRecord, CallEnded
from criproxy.timeline.filters import CallFilter
from criproxy.timeline.logged_call import LoggedCall

_SECOND: Final = 1e9


class Trigger:
    """Follows the records of a recording; :meth:`see` each, and ask for :meth:`overdue` calls."""

    def __init__(self, wanted: CallFilter) -> None:
        self._wanted = wanted
        self._open = OpenCalls()

    def see(self, record: AnyRecord) -> bool:
        """Take the next record; return whether it ends a call that meets the conditions."""
        call = self._open.follow(record)
        if call is None or not isinstance(record, CallEnded):
            return False
        is_met = self._wanted.selects(self._logged(call, record.at, record))
        self._open.learn(call, record)
        return is_met

    def overdue(self, now: int) -> bool:
        """Return whether a call in flight meets the conditions, because it has run for so long.

        ``now`` is in nanoseconds since the beginning.
        """
        if not self._wanted.slower_than:
            return False
        before = now - self._wanted.slower_than * _SECOND
        for call in self._open.calls.values():
            if call.began.at > before:
                return False  # all others began later
            is_stream = call.method.server_streaming
            if not is_stream and self._wanted.selects(self._logged(call, now)):
                return True
        return False

    def _logged(self, call: OpenCall, until: int, end: CallEnded | None = None) -> LoggedCall:
        subject = self._open.subject(call)
        connection = self._open.connections.get(call.began.connection)
        names = subject.flat_fields()
        return LoggedCall(
            service=call.method.service,
            method=call.method.method,
            began=call.began.at / _SECOND,
            until=(call.began.at if call.method.server_streaming else until) / _SECOND,
            running=end is None,
            code="" if end is None else end.code,
            executable="" if connection is None else connection.executable,
            namespace=names.get("namespace", ""),
            pod=names.get("pod", ""),
        )
