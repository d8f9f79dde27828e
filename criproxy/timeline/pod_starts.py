"""Finds the starts of pods in a sequence of calls. No I/O and no clock: calls in, starts out.

A start begins with RunPodSandbox. It goes on with what makes a container run for the first time:
pulls, CreateContainer and StartContainer, and further attempts at what has failed; another
RunPodSandbox begins another start once a container has started. Calls may come in any order: a log
has them as they ended, and logs of several files one after the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from criproxy.timeline.logged_call import LoggedCall
from criproxy.timeline.pod_start import KINDS, PodStart

MAX_PODS: Final = 10_000
"""Pods whose calls are kept; above it the starts of the pod that was longest without a call are
returned. A node has hundreds at a time."""

MAX_CALLS: Final = 256
"""Calls of a pod that are kept: more than a start has, unless it fails for hours. Above it, calls
that belong to no start or to an earlier one are forgotten, then further calls are dropped."""

SETTLED: Final = 600.0
"""Seconds without a call after which a pod whose containers have all started counts as started: a
container that comes later, such as an ephemeral one, is no part of the start."""


class _Pod(NamedTuple):
    """What identifies a pod."""

    node: str
    namespace: str
    name: str
    uid: str


_CallId = tuple[str, float, str, str, str]


class PodStarts:
    """Collects calls and returns the starts in them."""

    def __init__(self, max_pods: int = MAX_PODS, max_calls: int = MAX_CALLS) -> None:
        """``max_pods`` and ``max_calls`` (of a pod) bound the memory."""
        self._max_pods = max_pods
        self._max_calls = max_calls
        self._pods: dict[_Pod, dict[_CallId, LoggedCall]] = {}  # the last one used is the last
        self._full: set[_Pod] = set()  # of whose calls none can be forgotten
        self.dropped = 0
        """Calls that were dropped because their pod has too many."""
        self.unnamed = 0
        """Calls of starts that do not name their pod."""

    def add(self, call: LoggedCall) -> list[PodStart]:
        """Add a call; return the starts that had to make room, which mostly are none.

        A call that was added while it was running is replaced by the same call when it has ended.
        """
        if call.method not in KINDS:
            return []
        if not call.pod:
            self.unnamed += 1
            return []
        pod = _Pod(call.node, call.namespace, call.pod, call.pod_uid)
        calls = self._pods.pop(pod, {})
        self._pods[pod] = calls
        known = calls.get(_id(call))
        if known is not None:
            if known.running:
                calls[_id(call)] = call
                self._full.discard(pod)
            return []
        starts: list[PodStart] = []
        if len(calls) >= self._max_calls and pod not in self._full:
            starts = _starts_of(calls.values())
            kept = starts.pop().calls if starts else ()
            calls = self._pods[pod] = {_id(each): each for each in kept}
        if len(calls) < self._max_calls:
            calls[_id(call)] = call
        else:
            self._full.add(pod)
            self.dropped += 1
        if len(self._pods) > self._max_pods:
            oldest = next(iter(self._pods))
            self._full.discard(oldest)
            starts += _starts_of(self._pods.pop(oldest).values())
        return starts

    def finish(self) -> list[PodStart]:
        """Return the starts of all pods that are left, in the order in which they began."""
        starts = [start for calls in self._pods.values() for start in _starts_of(calls.values())]
        self._pods.clear()
        self._full.clear()
        return sorted(starts, key=lambda start: start.began)


def starts_in(calls: Iterable[LoggedCall], found: PodStarts) -> Iterator[PodStart]:
    """Yield the starts in calls, which are collected in ``found``."""
    for call in calls:
        yield from found.add(call)
    yield from found.finish()


def _id(call: LoggedCall) -> _CallId:
    """Return what two lines about the same call have in common."""
    return call.method, round(call.began, 6), call.listener, call.container, call.image


def _starts_of(calls: Iterable[LoggedCall]) -> list[PodStart]:
    starts: list[_OpenStart] = []
    for call in sorted(calls, key=lambda call: (call.began, call.until)):
        if call.method == "RunPodSandbox" and (not starts or starts[-1].started):
            starts.append(_OpenStart())
        if starts:  # otherwise its beginning was not seen
            starts[-1].add(call)
    return [PodStart(tuple(each.close())) for each in starts]


class _OpenStart:
    """The calls of a start, while more may be added, in order of their beginnings."""

    def __init__(self) -> None:
        self.started: set[str] = set()
        """The containers that have started."""
        self._unstarted: set[str] = set()  # created, or tried to
        self._calls: list[LoggedCall] = []
        self._pulls: list[LoggedCall] = []  # it is not known yet whether for a new container

    def add(self, call: LoggedCall) -> None:
        """Add a call, unless it is about a container that has started before."""
        if call.method == "PullImage":
            self._pulls.append(call)
            return
        container = call.container or call.container_id
        if container in self.started or self._is_late([*self._pulls, call]):
            self._pulls.clear()
            return
        self._calls += [*self._pulls, call]
        self._pulls.clear()
        if call.method == "StartContainer" and not call.running and not call.failed:
            self.started.add(container)
            self._unstarted.discard(container)
        elif call.method != "RunPodSandbox":
            self._unstarted.add(container)

    def close(self) -> list[LoggedCall]:
        """Return the calls; pulls that no container followed count if their image is a new one."""
        images = {call.image for call in self._calls if call.method == "CreateContainer"}
        left = [pull for pull in self._pulls if pull.image not in images]
        if not self._is_late(left):
            self._calls += left
        return self._calls

    def _is_late(self, calls: Sequence[LoggedCall]) -> bool:
        """Return whether calls that follow each other come after the start was over."""
        if not self.started or self._unstarted:
            return False
        active = max(each.until for each in self._calls)
        for call in calls:
            if call.began - active > SETTLED:
                return True
            active = max(active, call.until)
        return False
