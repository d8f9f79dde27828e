"""Collects the calls of which pods start, and makes a span of each start. No I/O and no clock.

A start is over when no call of it has come for a while: the CRI does not say how many containers a
pod will have. A call that is not sampled is held until then, so that the span of a start that is
sampled has all of its calls below it. What is kept is bounded: the start that was longest without a
call makes room.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from criproxy.timeline.logged_call import LoggedCall
from criproxy.timeline.pod_start import KINDS, PodStart
from criproxy.timeline.pod_starts import PodStarts
from criproxy.traces.channel import TracedCall
from criproxy.traces.exporter.spans import StartContext, call_span, pod_start_span

UNSETTLED: Final = 900.0
"""Seconds without a call after which a start counts as given up that has failed, or in which not
every container has started: the kubelet waits for five minutes at most before it tries again, and
a call is seen at its end, which for a pull may come as late."""

_STARTS: Final = 1000
"""Starts that are kept: more than the pods of a node."""

_CALLS_OF_START: Final = 256
"""Calls of a start that are kept, which has more only if it fails for hours."""

_CALLS: Final = 20_000
"""Calls that are kept, some 20 MiB."""


class _Pod(NamedTuple):
    namespace: str
    name: str
    uid: str


@dataclass(slots=True)
class _OpenStart:
    """A start to which further calls may belong."""

    context: StartContext
    due: float
    """When it is to be seen whether it is over."""
    last: float
    """When its last call came."""
    calls: list[TracedCall] = field(default_factory=list)
    held: list[TracedCall] = field(default_factory=list)
    """Those without a span so far, because they are not sampled."""
    has_started: bool = False
    """Whether a container has started."""


class PodStartTracker:
    """Follows the starts of pods. Times are seconds of any clock that does not go back."""

    def __init__(
        self, settle: float, slower_than: float | None, new_span_id: Callable[[], bytes]
    ) -> None:
        """``settle``: seconds without a call after which a start is over.

        ``slower_than``: seconds from which a start is sampled although none of its calls is.
        """
        self._settle = settle
        self._slower_than = slower_than
        self._new_span_id = new_span_id
        self._open: dict[_Pod, _OpenStart] = {}  # the one with the latest call is the last
        self._kept = 0

    def add(self, call: TracedCall, now: float) -> list[Span]:
        """Take a call; return the spans that are to be sent now."""
        pod = _pod_of(call)
        if call.method not in KINDS or not pod.name:
            return _spans_of([call])
        spans = []
        start = self._open.pop(pod, None)
        if call.method == "RunPodSandbox" and (start is None or start.has_started):
            if start is not None:
                spans += self._finish(start)
            start = _OpenStart(_context_of(call, self._new_span_id()), 0.0, now)
        if start is None:  # its beginning was not seen, or it is over
            return _spans_of([call])
        self._open[pod] = start
        start.last, start.due = now, now + self._settle
        start.has_started |= call.method == "StartContainer" and call.code == "OK"
        if len(start.calls) < _CALLS_OF_START:
            start.calls.append(call)
            self._kept += 1
            if not call.sampled:
                start.held.append(call)
        spans += _spans_of([call], start.context)
        while len(self._open) > _STARTS or self._kept > _CALLS:
            spans += self._finish(self._open.pop(next(iter(self._open))))
        return spans

    def sweep(self, now: float) -> list[Span]:
        """Return the spans of the starts that are over."""
        spans = []
        for pod, start in list(self._open.items()):
            if now < start.due:
                continue
            if now - start.last >= UNSETTLED or _start_of(start).state == "started":
                del self._open[pod]
                spans += self._finish(start)
            else:
                start.due = start.last + UNSETTLED
        return spans

    def finish(self) -> list[Span]:
        """Return the spans of all starts, as far as they have come."""
        starts, self._open = list(self._open.values()), {}
        return [span for start in starts for span in self._finish(start)]

    def _finish(self, start: _OpenStart) -> list[Span]:
        """Return the span of a start and those of its held calls; none if it is not sampled."""
        self._kept -= len(start.calls)
        pod_start = _start_of(start)
        slow = self._slower_than is not None and pod_start.seconds >= self._slower_than
        if not slow and len(start.held) == len(start.calls):
            return []
        held = [call_span(call, start.context) for call in start.held]
        return [*held, pod_start_span(pod_start, start.calls, start.context)]


def _pod_of(call: TracedCall) -> _Pod:
    subject = call.subject
    return _Pod(subject.get("namespace", ""), subject.get("pod", ""), subject.get("pod_uid", ""))


def _context_of(first: TracedCall, span_id: bytes) -> StartContext:
    """Return the context of a start by its first call: in the trace of that, beside it."""
    return StartContext(first.trace_id, span_id, first.parent_id, first.in_head)


def _spans_of(calls: Iterable[TracedCall], start: StartContext | None = None) -> list[Span]:
    return [call_span(call, start) for call in calls if call.sampled]


def _start_of(start: _OpenStart) -> PodStart:
    starts = PodStarts(max_pods=1, max_calls=_CALLS_OF_START)
    for call in start.calls:
        starts.add(_logged(call))
    found = starts.finish()
    return found[0] if found else PodStart([_logged(call) for call in start.calls])


def _logged(call: TracedCall) -> LoggedCall:
    subject = call.subject
    return LoggedCall(
        service=call.service,
        method=call.method,
        began=call.began / 1e9,
        until=call.ended / 1e9,
        code=call.code or "UNREAD",
        message=call.message,
        listener=call.listener,
        pid=call.pid,
        executable=call.executable,
        namespace=subject.get("namespace", ""),
        pod=subject.get("pod", ""),
        pod_uid=subject.get("pod_uid", ""),
        pod_id=subject.get("pod_id", ""),
        container=subject.get("container", ""),
        container_id=subject.get("container_id", ""),
        image=subject.get("image", ""),
        rules=call.rules,
        held=call.held,
    )
