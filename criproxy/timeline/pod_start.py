"""One start of a pod: how its time divides among calls and waits, and what the cause was."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final

from criproxy.timeline.logged_call import LoggedCall

SANDBOX, PULL, CREATE, START = "sandbox", "pull", "create", "start"
RETRY, AFTER_START, KUBELET = "retry", "after_start", "kubelet"

KINDS: Final = {
    "RunPodSandbox": SANDBOX,
    "PullImage": PULL,
    "CreateContainer": CREATE,
    "StartContainer": START,
}
"""The kinds of phases that are calls, by method."""

WAITS: Final = (RETRY, AFTER_START, KUBELET)
"""The kinds of phases between calls: before another attempt at what has failed, after the start of
a container, and all others."""

_NETWORK: Final = re.compile(r"\bcni\b|network", re.IGNORECASE)


def format_seconds(seconds: float) -> str:
    """Return a duration as text: ``31.2 s``, below a second ``310 ms``."""
    return f"{seconds:.1f} s" if seconds >= 0.9995 else f"{seconds * 1000:.0f} ms"


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a start, from ``began`` (seconds since the epoch) for ``seconds``.

    ``subject`` is the image of a pull, the container of a call about one, what is tried again (in
    words), or empty. ``call`` is None for a wait. Phases do not overlap: time in which two calls
    ran belongs to the earlier one.
    """

    kind: str
    subject: str
    began: float
    seconds: float
    call: LoggedCall | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """What took most of a start, or what keeps it from ending, with a text for people."""

    kind: str
    subject: str
    seconds: float
    text: str


@dataclass(frozen=True)
class PodStart:
    """The calls of one start, in the order in which they began; the first is RunPodSandbox.

    Calls of containers that had run before are not among them, nor are pulls for these.
    """

    calls: Sequence[LoggedCall]

    @property
    def pod(self) -> LoggedCall:
        """A call that names the pod and its node."""
        return self.calls[0]

    @property
    def began(self) -> float:
        """When RunPodSandbox was called, in seconds since the epoch."""
        return self.calls[0].began

    @property
    def ended(self) -> float:
        """When the last call ended, or was last seen in flight."""
        return max(call.until for call in self.calls)

    @property
    def seconds(self) -> float:
        """The time from beginning to end."""
        return self.ended - self.began

    @property
    def pod_id(self) -> str:
        """The id of the last sandbox; empty if none was made."""
        return next((call.pod_id for call in reversed(self.calls) if call.pod_id), "")

    @cached_property
    def obstacle(self) -> LoggedCall | None:
        """The call that runs, otherwise the last that failed without a later success; or None."""
        left: dict[tuple[str, str], LoggedCall] = {}
        for call in self.calls:
            left.pop(_target(call), None)
            if call.running or call.failed:
                left[_target(call)] = call
        return max(left.values(), key=lambda call: (call.running, call.until), default=None)

    @property
    def state(self) -> str:
        """The state at the last call.

        ``started``: every container that was created has started. ``running``: a call is in flight.
        ``failing``: a call has failed and was not made again with success. ``unfinished``: neither,
        but no container has started yet, or one is created and not started.
        """
        if self.obstacle is not None:
            return "running" if self.obstacle.running else "failing"
        created = {call.container for call in self.calls if call.method == "CreateContainer"}
        started = {call.container for call in self.calls if call.method == "StartContainer"}
        return "started" if started and created <= started else "unfinished"

    @cached_property
    def phases(self) -> Sequence[Phase]:
        """The calls and the waits between them, without overlap; their sum is ``seconds``."""
        return tuple(self._phases())

    def seconds_of(self, *kinds: str) -> float:
        """Return the time of all phases of some kinds."""
        return sum(phase.seconds for phase in self.phases if phase.kind in kinds)

    @cached_property
    def cause(self) -> Cause:
        """What keeps the start from ending, otherwise what took the longest in it."""
        causes = [self._cause(list(each)) for _, each in groupby(self._by_subject(), _subject)]
        if self.obstacle is not None:
            kind, subject = _target(self.obstacle)
            return next(each for each in causes if (each.kind, each.subject) == (kind, subject))
        return max(causes, key=lambda each: each.seconds)

    def phase_at(self, now: float) -> Cause:
        """Return what goes on at a time (seconds since the epoch) in a start that has not ended.

        That is the call that runs, otherwise the wait since the last one.
        """
        last = self.obstacle
        if last is not None and last.running:
            kind, subject = _target(last)
            return _cause_of(kind, subject, now - last.began)
        last = max(self.calls, key=lambda call: call.until)
        if last.failed:
            kind, subject = RETRY, _words(*_target(last), [])
        else:
            kind, subject = _wait(last, last, set())
        return _cause_of(kind, subject, now - last.until)

    def _phases(self) -> Iterator[Phase]:
        at, before = self.began, self.calls[0]
        failed: set[tuple[str, str]] = set()
        for call in self.calls:
            if call.began > at:
                kind, subject = _wait(before, call, failed)
                yield Phase(kind, subject, at, call.began - at)
                at = call.began
            seconds = max(call.until - at, 0.0)
            yield Phase(*_target(call), max(at, call.began), seconds, call)
            at += seconds
            before = call
            if call.failed:
                failed.add(_target(call))

    def _by_subject(self) -> list[Phase]:
        return sorted(self.phases, key=_subject)

    def _cause(self, phases: list[Phase]) -> Cause:
        kind, subject = _subject(phases[0])
        calls = [phase.call for phase in phases if phase.call is not None]
        seconds = sum(phase.seconds for phase in phases)
        words = _words(kind, subject, calls)
        if len(calls) > 1:
            words += f", {len(calls)} attempts"
        if calls and calls[-1].running:
            words += ", still running"
        elif calls and calls[-1].failed:
            words += f", {'last ' if len(calls) > 1 else ''}failed with {calls[-1].code}"
        text = f"{words}: {format_seconds(seconds)} of {format_seconds(self.seconds)}"
        held = sum(call.held for call in calls)
        if held:
            rules = dict.fromkeys(rule for call in calls for rule in call.rules)
            text += f" ({format_seconds(held)} held by {', '.join(rules)})"
        return Cause(kind, subject, seconds, text)


def _cause_of(kind: str, subject: str, seconds: float) -> Cause:
    return Cause(kind, subject, max(seconds, 0.0), _words(kind, subject, []))


def _subject(phase: Phase) -> tuple[str, str]:
    return phase.kind, phase.subject


def _target(call: LoggedCall) -> tuple[str, str]:
    """Return the kind of a call, and what it is about; two of the same are attempts at the same."""
    kind = KINDS[call.method]
    if kind == SANDBOX:
        return kind, ""
    return kind, call.image if kind == PULL else call.container or call.container_id


def _wait(before: LoggedCall, after: LoggedCall, failed: set[tuple[str, str]]) -> tuple[str, str]:
    """Return the kind and the subject of the wait between two calls."""
    if _target(after) in failed:
        return RETRY, _words(*_target(after), [])
    if before.method == "StartContainer" and not before.failed:
        return AFTER_START, before.container or before.container_id
    return KUBELET, ""


def _words(kind: str, subject: str, calls: Sequence[LoggedCall]) -> str:
    if kind == SANDBOX:
        network = any(call.failed and _NETWORK.search(call.message) for call in calls)
        return "pod sandbox (its network)" if network else "pod sandbox and its network"
    if kind == PULL:
        return f"image pull of {subject}"
    if kind == RETRY:
        return f"wait for another attempt, {subject}"
    if kind == AFTER_START:
        return f"wait after the start of container {subject}"
    if kind == KUBELET:
        return "the kubelet, between calls"
    return f"{'creation' if kind == CREATE else 'start'} of container {subject}"
