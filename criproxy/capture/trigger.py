"""Decides when a recording that is kept in memory is written: by a call that is waited for.

Streams take no time here: they last as long as their clients want.
"""

from collections.abc import Sequence
from math import inf
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
        self._after: dict[int, float] = {}
        # The seconds after which calls in flight meet the conditions; infinite once they were
        # reported.

    def see(self, record: AnyRecord) -> LoggedCall | None:
        """Take the next record; return the call that it ends if that meets the conditions."""
        call = self._open.follow(record)
        if call is None or not isinstance(record, CallEnded):
            return None
        self._after.pop(record.call, None)
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
            if call.method.server_streaming:
                continue
            after = self._after.get(number)
            if after is None:
                after = self._find_after(number, call)
            if now - call.began.at >= after * _SECOND:
                self._after[number] = inf
                return self._logged(call, now)
        return None

    def _find_after(self, number: int, call: OpenCall) -> float:
        """Return the seconds after which a call in flight meets the conditions.

        They are kept, because a large request takes long to decode, unless the call's pod is not
        known yet, which a listing may name.
        """
        endless = self._logged(call, inf)
        after = min(
            (
                each.slower_than
                for each in self._wanted
                if each.slower_than and each.selects(endless)
            ),
            default=inf,
        )
        if endless.pod or not (endless.pod_id or endless.container_id):
            self._after[number] = after
        return after

    def _selects(self, call: LoggedCall) -> bool:
        return any(each.selects(call) for each in self._wanted)

    def _logged(self, call: OpenCall, until: float, end: CallEnded | None = None) -> LoggedCall:
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
            pod_id=names.get("pod_id", ""),
            container_id=names.get("container_id", ""),
        )
