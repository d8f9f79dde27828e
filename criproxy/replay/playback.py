"""Decides which recorded call answers a request. No I/O; time is a parameter.

Each pod has a position in the recording. A call that changes the pod moves it to the end of the
recorded one; from there it goes on with the time that passes, but not past the next recorded
change, which the client has yet to make. A read is answered by the latest recorded one before the
position, of those since the last change; if there is none, by the first before the next change.
Reads about no pod follow the pod that was changed last.

Of calls that change something, the first recorded one answers the first request with the same
fields, the second the second, and the last one all others.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.common.printable import shorten
from criproxy.cri.methods import FALLBACKS, Method
from criproxy.replay.identities import Identities
from criproxy.replay.matching import (
    Key,
    describe,
    parse_response,
    preferred_key,
    required_key,
)
from criproxy.replay.recorded_calls import (
    BEGINS_POD,
    CREATES,
    RecordedCall,
    RecordedCalls,
    RecordedEvent,
)

_SHOWN_KEYS: Final = 5
"""Recorded requests that an error names."""

_SHOWN_LENGTH: Final = 400
"""Characters of such a request: grpcio accepts 8 KiB of trailers, in which the error has to be."""

_MAX_USED: Final = 100_000
"""Requests that are remembered, the newest: a client's next one gets the next recorded call."""

_LISTS: Final = {
    "ListContainers": "containers",
    "ListContainerStats": "stats",
    "ListPodSandbox": "items",
    "ListPodSandboxStats": "stats",
}
"""Lists whose filters can be applied to a recorded list without one, and the field of the items."""


@dataclass(slots=True)
class _Position:
    """Where in the recording a pod is."""

    anchor: int
    """The end of the last change."""
    since: float
    """When that was, in seconds of the caller's clock."""
    emitted: int = 0
    """Events of the pod that were reported."""

    def at(self, now: float, pace: float) -> float:
        """Return the position, without regard to the next change. ``pace``: see Playback."""
        if not pace:
            return inf
        return self.anchor + (now - self.since) / pace * 1e9


@dataclass(frozen=True, slots=True)
class Choice:
    """The recorded call that answers a request."""

    recorded: RecordedCall
    request: Message
    """The request in terms of the cassette."""
    sent: Message
    """The request as it came, as v1."""
    filtered: bool = False
    """Whether the filter of the request has yet to be applied to the recorded answer."""


class NotRecordedError(Exception):
    """A request that no recorded call answers; the text says which are there."""

    def __init__(self, text: str, unimplemented: bool = False) -> None:
        super().__init__(text)
        self.unimplemented = unimplemented
        """Whether clients do without the method where a runtime does not implement it."""


class Playback:
    """The state of a replay: :meth:`choose` a call, answer it, then call :meth:`done`."""

    def __init__(self, recorded: RecordedCalls, pace: float, now: float) -> None:
        """``pace`` is what recorded times are multiplied by; 0: nothing takes time. ``now`` is in
        seconds, of any clock, here and below."""
        self.identities = Identities()
        self._recorded = recorded
        self._pace = pace
        self._positions = {"": _Position(0, now)}
        self._last = ""
        self._used: OrderedDict[tuple[str, Key], int] = OrderedDict()

    def choose(self, method: Method, request: Message, now: float) -> Choice:
        """Return the call that answers a request, given as v1's message. Raises NotRecordedError.

        Takes its place: the next request with the same fields gets the next recorded call.
        """
        sent = type(request)()
        sent.CopyFrom(request)
        self.identities.for_cassette(request)
        key = required_key(method, request)
        calls, filtered = self._recorded.of(method, key), False
        if not calls and method.name in _LISTS:
            calls, filtered = self._recorded.of(method, (b"",)), True
        if not calls:
            raise self._not_recorded(method, key)
        wanted = preferred_key(method, request)
        calls = [each for each in calls if each.preferred == wanted] or calls
        if method.mutating:
            clients_key = (method.name, required_key(method, sent))
            used = self._used.pop(clients_key, 0)
            recorded = calls[min(used, len(calls) - 1)]
            self._used[clients_key] = used + 1
            if len(self._used) > _MAX_USED:
                self._used.popitem(last=False)
        else:
            recorded = self._read(calls, now)
        return Choice(recorded, request, sent, filtered)

    def answer(self, choice: Choice, data: bytes) -> Message | None:
        """Return a recorded response in terms of the client; None if it is to be sent as it is.

        Raises DecodeError.
        """
        name = choice.recorded.method.name
        if self.identities.is_empty and not choice.filtered and name not in CREATES:
            return None
        response = parse_response(choice.recorded.method, data)
        if choice.filtered:
            self._filter(choice, response)
        if name in CREATES:
            self._create(choice, response)
        else:
            self.identities.for_client(response)
        return response

    def event(self, event: RecordedEvent, data: bytes) -> Message:
        """Return an event in terms of the client. Raises DecodeError."""
        message = parse_response(event.method, data)
        self.identities.for_client(message)
        return message

    def done(self, choice: Choice, now: float) -> list[RecordedEvent]:
        """Note that a call was answered; return the events that are to be reported by then."""
        recorded = choice.recorded
        pod, end = recorded.pod, recorded.call.end
        if not recorded.method.mutating or not pod or end is None or end.code != "OK":
            return []
        position = self._positions.get(pod)
        changes = self._recorded.pods[pod]
        if position is None or recorded.method.name in BEGINS_POD:
            position = self._positions[pod] = _Position(recorded.call.ended, now)
            position.emitted = sum(each.at < recorded.call.began for each in changes.events)
        elif recorded.call.ended > position.anchor:
            position.anchor, position.since = recorded.call.ended, now
        self._last = pod
        return self._emit(pod, position, position.anchor)

    def due_events(self, now: float) -> list[RecordedEvent]:
        """Return the events that are to be reported by now, as time passes."""
        return [
            event
            for pod, position in self._positions.items()
            for event in self._emit(pod, position, self._until(pod, position, now))
        ]

    def _emit(self, pod: str, position: _Position, until: float) -> list[RecordedEvent]:
        found = []
        events = self._recorded.pods[pod].events
        while position.emitted < len(events) and events[position.emitted].at <= until:
            found.append(events[position.emitted])
            position.emitted += 1
        return found

    def _until(self, pod: str, position: _Position, now: float) -> float:
        """Return a pod's position, before the next change."""
        if not pod and not self._pace:  # nothing has changed yet
            return self._recorded.first_change - 1
        change = self._next_change(pod, position)
        return min(position.at(now, self._pace), inf if change is None else change - 1)

    def _next_change(self, pod: str, position: _Position) -> int | None:
        return self._recorded.pods[pod].next_change(position.anchor + 1) if pod else None

    def _read(self, calls: Sequence[RecordedCall], now: float) -> RecordedCall:
        pod = calls[0].pod or self._last
        if pod not in self._positions:  # the client has not changed it
            pod = ""
        position = self._positions[pod]
        at = self._until(pod, position, now)
        change = self._next_change(pod, position)
        answered = [each for each in calls if each.is_answered] or calls
        since = [each for each in answered if each.call.began >= position.anchor]
        if before := [each for each in since if each.call.began <= at]:
            return before[-1]
        if since and (change is None or since[0].call.began < change):
            return since[0]
        earlier = [each for each in answered if each.call.began < position.anchor]
        return earlier[-1] if earlier else since[0]

    def _create(self, choice: Choice, response: Any) -> None:
        """Give ids to what a call creates, and pair what the client calls otherwise."""
        was: Any = self._recorded.request(choice.recorded)
        now: Any = choice.sent
        self.identities.pair_pods(was.config, now.config)
        created = [
            (each, name, recorded)
            for each in (response, *getattr(response, "restored_containers", ()))
            for name in ("pod_sandbox_id", "container_id")
            if (recorded := getattr(each, name, ""))
        ]
        given = [self.identities.give(recorded) for _, _, recorded in created]
        self.identities.for_client(response)
        for (each, name, _), id_ in zip(created, given, strict=True):
            setattr(each, name, id_)

    def _not_recorded(self, method: Method, key: Key) -> NotRecordedError:
        if not self._recorded.has(method):
            text = f"the cassette has no {method.name}"
            return NotRecordedError(text, method.name in FALLBACKS)
        keys = self._recorded.keys(method)
        shown = "; ".join(_described(method, each) for each in keys[:_SHOWN_KEYS])
        more = f"; and {len(keys) - _SHOWN_KEYS} others" if len(keys) > _SHOWN_KEYS else ""
        return NotRecordedError(
            f"the cassette has no {method.name} with {_described(method, key)}, "
            f"but with {shown}{more}"
        )

    def _filter(self, choice: Choice, response: Any) -> None:
        """Apply the filter of a request to a recorded list without one, in the cassette's terms."""
        items = getattr(response, _LISTS[choice.recorded.method.name])
        request: Any = choice.request
        kept = [each for each in items if self._matches(request.filter, each)]
        del items[:]
        items.extend(kept)

    def _matches(self, wanted: Any, item: Any) -> bool:
        shown = item.attributes if hasattr(item, "attributes") else item
        if (
            hasattr(wanted, "state")
            and wanted.HasField("state")
            and item.state != wanted.state.state
        ):
            return False
        wanted_pod = getattr(wanted, "pod_sandbox_id", "")
        pod = getattr(item, "pod_sandbox_id", "") or self._recorded.pod_of.get(shown.id, "")
        return (
            shown.id.startswith(wanted.id)
            and pod.startswith(wanted_pod)
            and all(shown.labels.get(key) == value for key, value in wanted.label_selector.items())
        )


def _described(method: Method, key: Key) -> str:
    """Return a required key in words, cut in the middle if it is long."""
    return shorten(describe(method, key), _SHOWN_LENGTH)
