"""Decides when a recording that is kept in memory is written: by a call that is waited for.

Streams take no time here: they last as long as their clients want.
"""

from collections.abc import Sequence
from typing import Final

from criproxy.cassette.open_calls import OpenCall, OpenCalls
from criproxy.cassette.records import AnyRecord, CallEnded
from criproxy.timeline.filters import CallFilter
from criproxy.timeline.logged_call import LoggedCall

_SECOND: Final = 1e9


class Trigger:
    """Follows the records of a recording; :meth:`see` each, and ask for :meth:`overdue` calls."""

    def __init__(self, wanted: Sequence[CallFilter]) -> None:
        """``wanted``: the conditions on a call; it has to meet those of one filter."""
        self._wanted = wanted
        self._shortest = min((each.slower_than for each in wanted if each.slower_than), default=0.0)
        self._open = OpenCalls()
        self._reported: set[int] = set()  # the calls in flight that were overdue

    def see(self, record: AnyRecord) -> LoggedCall | None:
        """Take the next record; return the call that it ends if that meets the conditions."""
        call = self._open.follow(record)
        if call is None or not isinstance(record, CallEnded):
            return None
        self._reported.discard(record.call)
        ended = self._logged(call, record.at, record)
        self._open.learn(call, record)
        return ended if self._selects(ended) else None

    def overdue(self, now: int) -> LoggedCall | None:
        """Return a call in flight that meets the conditions, because it has run for so long; each
        of them once.

        ``now`` is in nanoseconds since the beginning.
        """
        if not self._shortest:
            return None
        before = now - self._shortest * _SECOND
        for number, call in self._open.calls.items():
            if call.began.at > before:
                return None  # all others began later
            if call.method.server_streaming or number in self._reported:
                continue
            running = self._logged(call, now)
            if any(each.slower_than and each.selects(running) for each in self._wanted):
                self._reported.add(number)
                return running
        return None

    def _selects(self, call: LoggedCall) -> bool:
        return any(each.selects(call) for each in self._wanted)

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
