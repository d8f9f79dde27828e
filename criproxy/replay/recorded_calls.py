"""The calls of a cassette as they answer requests: by method and fields, and by pod."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError, Message

from criproxy.cassette.call_index import CallIndex, IndexedCall, MessagePart
from criproxy.cri.methods import ENDLESS, Method
from criproxy.cri.naming import EXECS
from criproxy.replay.matching import (
    Key,
    parse_request,
    parse_response,
    preferred_key,
    required_key,
)
from criproxy.wire.reading.calls import End

CREATES: Final = frozenset({"CreateContainer", "RestorePod", "RunPodSandbox"})
"""The methods whose response has new ids."""

BEGINS_POD: Final = frozenset({"RestorePod", "RunPodSandbox"})
"""The methods with which the life of a pod begins."""

_NO_CHANGE: Final = EXECS | {"ReopenContainerLog", "UpdateRuntimeConfig"}
"""Mutating methods that change nothing that other answers show."""


class RecordedEvent(NamedTuple):
    """A message of GetContainerEvents."""

    at: int
    part: MessagePart
    method: Method


@dataclass(frozen=True, slots=True, eq=False)
class RecordedCall:
    """A call that can answer requests."""

    call: IndexedCall
    method: Method
    key: Key
    preferred: Key
    pod: str
    """The id of the pod that it is about; empty if it is about none, or the pod is not known."""

    @property
    def is_answered(self) -> bool:
        """Whether the runtime has ended the call."""
        end = self.call.end
        return end is not None and end.end in (End.STATUS, End.RUNTIME_RESET)


@dataclass(slots=True)
class RecordedPod:
    """What happened to a pod."""

    changes: list[int] = field(default_factory=list)
    """When the calls began that changed it, in order."""
    events: list[RecordedEvent] = field(default_factory=list)
    """Events of its containers, in order."""

    def next_change(self, after: int) -> int | None:
        """Return when the first change after a time began."""
        found = bisect_left(self.changes, after)
        return self.changes[found] if found < len(self.changes) else None


class RecordedCalls:
    """The calls of a cassette that can answer requests."""

    def __init__(self, index: CallIndex) -> None:
        """Read the requests of all calls. Raises CassetteError if the file was changed."""
        self.index = index
        self.pods: defaultdict[str, RecordedPod] = defaultdict(RecordedPod)
        """What happened to each pod, by its recorded id; the empty id: to those not known."""
        self.pod_of: dict[str, str] = {}
        """The pod of each container, by recorded ids."""
        self.unusable = 0
        """Calls that cannot answer, because a part of them is missing or they never ended."""
        self._found: defaultdict[tuple[str, Key], list[RecordedCall]] = defaultdict(list)
        self._methods: set[str] = set()
        streams: list[IndexedCall] = []
        for call in index.calls:
            if call.method is None:
                continue
            if call.method.name.encode() in ENDLESS:
                streams.append(call)
                self._methods.add(call.method.name)
            elif not self._add(call, call.method):
                self.unusable += 1
        self._last_event = -1
        for stream in streams:
            self._add_events(stream)
        for pod in self.pods.values():
            pod.changes.sort()
        changes = [pod.changes[0] for pod in self.pods.values() if pod.changes]
        self.first_change = min(changes, default=index.ended)
        """When the first change of a pod began."""

    def has(self, method: Method) -> bool:
        """Return whether there is any call of a method that can answer."""
        return method.name in self._methods

    def of(self, method: Method, key: Key) -> Sequence[RecordedCall]:
        """Return the calls of a method with a key, in the order in which they began."""
        return self._found.get((method.name, key), ())

    def keys(self, method: Method) -> list[Key]:
        """Return the keys of all calls of a method."""
        return [key for name, key in self._found if name == method.name]

    def request(self, recorded: RecordedCall) -> Message:
        """Return the request of a call."""
        (data,) = self.index.messages(recorded.call.requests)
        return parse_request(recorded.method, data)

    def reads(self) -> list[RecordedCall]:
        """Return the calls that change nothing, in the order in which they began."""
        found = [each for calls in self._found.values() for each in calls]
        return sorted(
            (each for each in found if not each.method.mutating), key=lambda each: each.call.number
        )

    def _add(self, call: IndexedCall, method: Method) -> bool:
        if not call.complete or len(call.requests) != 1:
            return False
        try:
            (data,) = self.index.messages(call.requests)
            request = parse_request(method, data)
            if method.name in CREATES and call.responses:
                (data,) = self.index.messages(call.responses)
                pod = self._learn(request, parse_response(method, data))
            else:
                container = getattr(request, "container_id", "")
                pod = getattr(request, "pod_sandbox_id", "") or self.pod_of.get(container, "")
        except DecodeError:
            return False
        key = required_key(method, request)
        recorded = RecordedCall(call, method, key, preferred_key(method, request), pod)
        if not recorded.is_answered and call.end is not None and not _hung(call):
            return False
        self._found[method.name, key].append(recorded)
        self._methods.add(method.name)
        if method.mutating and pod and method.name not in _NO_CHANGE:
            self.pods[pod].changes.append(call.began)
        return True

    def _learn(self, request: Message, response: Message) -> str:
        """Note which pod the containers belong to that a call has made; return the pod."""
        pod: str = getattr(response, "pod_sandbox_id", "") or getattr(request, "pod_sandbox_id", "")
        for each in (response, *getattr(response, "restored_containers", ())):
            if container := getattr(each, "container_id", ""):
                self.pod_of[container] = pod
        return pod

    def _add_events(self, stream: IndexedCall) -> None:
        """Add the events of a stream, unless another stream has reported them as well."""
        method = stream.method
        assert method is not None
        if stream.began < self._last_event:
            return
        for part in stream.responses:
            if part.missing:
                continue
            (data,) = self.index.messages([part])
            try:
                event = parse_response(method, data)
            except DecodeError:
                continue
            pod = self.pod_of.get(getattr(event, "container_id", ""), "")
            if not pod and getattr(event, "container_id", "") in self.pods:
                pod = event.container_id  # type: ignore[attr-defined]  # an event of a pod sandbox
            self.pods[pod].events.append(RecordedEvent(part.at, part, method))
            self._last_event = max(self._last_event, part.at)


def _hung(call: IndexedCall) -> bool:
    """Return whether a client's deadline passed: the runtime had hung."""
    return call.end is not None and call.end.code == "DEADLINE_EXCEEDED"
