"""The reads of a cassette, asked of a runtime again, and the differences.

A request that was recorded several times is asked as often as any other. Its answer counts as the
same if it equals any of the recorded ones. Compared is what a runtime says about its state, not
what it measures: of statistics only which fields there are. The order of lists is ignored.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from criproxy.client import CriClient
from criproxy.cri.environment import decode_message
from criproxy.cri.messages import is_map, request_class, response_class
from criproxy.cri.methods import Method
from criproxy.cri.redaction import Redactor
from criproxy.cri.text_redaction import redact_text
from criproxy.relay.endpoints import Endpoint
from criproxy.replay.matching import describe
from criproxy.replay.measuring import MeasuringRelay
from criproxy.replay.recorded_calls import RecordedCall, RecordedCalls
from criproxy.rules.messages.diff import diff_messages

MAX_REQUESTS: Final = 10_000
"""Different requests that are asked."""

MAX_CHANGES: Final = 20
"""Differences of one answer that are reported."""

_TIMEOUT: Final = 30.0
"""Seconds that a call may take."""

_MARK: Final = re.compile(r"\[redacted: \d+ bytes\]")

_MEASURING: Final = re.compile("Stats|Metrics|ImageFsInfo")
"""The methods whose numbers are measurements."""

_SAMPLED: Final = frozenset({"usage_nano_cores", "timestamp"})
"""Fields that runtimes fill in once they have sampled."""

_NUMBERS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT64,
        FieldDescriptor.CPPTYPE_FLOAT,
        FieldDescriptor.CPPTYPE_DOUBLE,
    }
)

_NAMES: Final = ("id", "type", "name", "pod_sandbox_id", "mountpoint", "key", "container_path")
"""Fields that tell the items of a list apart."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A request that is answered otherwise than it was recorded."""

    method: str
    request: str
    """The request's fields in words; empty for a request without any that matter."""
    recorded: str
    """The code that was recorded, with its message."""
    now: str
    """The code of the answer, with its message."""
    changes: Sequence[str] = ()
    """Fields that differ, with their values in the recording and now."""


@dataclass(frozen=True, slots=True)
class MethodLatency:
    """How long the calls of a method took, in seconds."""

    method: str
    recorded: Sequence[float]
    now: Sequence[float]

    @property
    def factor(self) -> float:
        """The median now by the recorded one."""
        was = quantile(self.recorded, 0.5)
        return quantile(self.now, 0.5) / was if was else 1.0


@dataclass(slots=True)
class Comparison:
    """What is different."""

    requests: int = 0
    """Different requests that were asked."""
    left_out: int = 0
    """Different requests beyond the limit."""
    differences: list[Difference] = field(default_factory=list)
    latencies: list[MethodLatency] = field(default_factory=list)


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which a fraction of the values is; 0 for none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)] if ordered else 0.0


def compare(
    recorded: RecordedCalls,
    endpoint: Endpoint,
    repeat: int,
    redacted: bool,
    progress: Callable[[float], None] = lambda percent: None,
) -> Comparison:
    """Ask a runtime all recorded reads, each ``repeat`` times, and nothing else.

    ``redacted``: whether secrets in the recording are replaced by marks. Calls are measured by a
    relay as the recorded ones were. Raises UnavailableError if the cassette cannot be read or the
    relay not be started, and grpc errors never: they are answers.
    """
    groups: defaultdict[tuple[str, bytes], list[RecordedCall]] = defaultdict(list)
    for call in recorded.reads():
        if call.is_answered:
            (data,) = recorded.index.messages(call.call.requests)
            groups[call.method.path, data].append(call)
    asked = list(groups.items())[:MAX_REQUESTS]
    result = Comparison(len(asked), len(groups) - len(asked))
    times: defaultdict[str, list[float]] = defaultdict(list)
    redactor = Redactor() if redacted else None
    with MeasuringRelay(endpoint) as relay, ExitStack() as stack:
        clients: dict[str, CriClient] = {}
        for number, ((_, data), calls) in enumerate(asked):
            method = calls[0].method
            version = method.api_version
            if version not in clients:
                client = CriClient(relay.endpoint, version, _TIMEOUT)
                clients[version] = stack.enter_context(client)
            times[method.name] += (call.call.seconds for call in calls)
            answers = [_ask(clients[version], method, data) for _ in range(repeat)]
            difference = _difference(recorded, calls, answers[-1], redactor)
            if difference is not None:
                result.differences.append(difference)
            progress(100 * (number + 1) / len(asked))
        stack.close()  # otherwise the relay waits for the clients to go
        now = relay.durations()
    result.latencies = [
        MethodLatency(name, tuple(was), tuple(now.get(name, ())))
        for name, was in sorted(times.items())
    ]
    return result


@dataclass(frozen=True, slots=True)
class _Answer:
    code: str
    details: str
    message: Message | None
    """The response, of a stream all messages merged; None after an error."""


def _ask(client: CriClient, method: Method, data: bytes) -> _Answer:
    request = request_class(method).FromString(data)
    try:
        response = client.call(method.name, request, deadline=_TIMEOUT)
        if method.server_streaming:
            response = _merged(response_class(method), response)
    except grpc.RpcError as error:
        return _Answer(error.code().name, error.details() or "", None)
    return _Answer("OK", "", response)


def _merged(kind: type[Message], messages: Iterable[Message]) -> Message:
    merged = kind()
    for each in messages:
        merged.MergeFrom(each)
    return merged


def _recorded_answer(recorded: RecordedCalls, call: RecordedCall) -> _Answer:
    end = call.call.end
    assert end is not None
    if end.code != "OK":
        return _Answer(end.code, end.message, None)
    kind = response_class(call.method)
    messages = recorded.index.messages(call.call.responses)
    return _Answer("OK", "", _merged(kind, (decode_message(kind, data) for data in messages)))


def _difference(
    recorded: RecordedCalls, calls: Sequence[RecordedCall], now: _Answer, redactor: Redactor | None
) -> Difference | None:
    if now.message is not None and redactor is not None:
        redactor.redact(now.message)
    method = calls[-1].method
    was: _Answer | None = None
    for call in reversed(calls):
        try:
            answer = _recorded_answer(recorded, call)
        except DecodeError:
            continue
        if _same(method, answer, now):
            return None
        was = was or answer
    if was is None:
        return None
    changes: list[str] = []
    if was.message is not None and now.message is not None:
        found = diff_messages(was.message, now.message)
        changes = [str(each) for each in found[:MAX_CHANGES]]
        if len(found) > MAX_CHANGES:
            changes.append(f"({len(found) - MAX_CHANGES} more)")
    request = describe(method, calls[-1].key).replace("filter (none)", "")
    return Difference(method.name, request, _shown(was), _shown(now), changes)


def _same(method: Method, was: _Answer, now: _Answer) -> bool:
    """Return whether two answers are the same; both are left without what is not compared."""
    if was.message is None or now.message is None:
        return was.code == now.code  # texts name what has changed elsewhere, such as times
    is_measuring = _MEASURING.search(method.name) is not None
    for message in (was.message, now.message):
        _normalize(message, is_measuring)
    return was.message == now.message


def _shown(answer: _Answer) -> str:
    details = redact_text(answer.details, limit=1000)
    return f"{answer.code}: {details}" if details else answer.code


def _normalize(message: Message, is_measuring: bool) -> None:
    """Remove from a message, in place, what differs between two answers of the same state."""
    for field_, value in message.ListFields():
        name = field_.name
        if is_measuring and name in _SAMPLED:
            message.ClearField(name)
        elif is_map(field_):
            for key in list(value):
                if isinstance(value[key], str):
                    value[key] = _MARK.sub("[redacted]", value[key])
        elif field_.message_type is not None:
            for each in value if field_.is_repeated else (value,):
                _normalize(each, is_measuring)
            if field_.is_repeated:
                value.sort(key=_name_of)
        elif field_.cpp_type == FieldDescriptor.CPPTYPE_STRING and field_.is_repeated:
            if name in ("repo_tags", "repo_digests"):
                value.sort()
        elif is_measuring and field_.cpp_type in _NUMBERS:
            message.ClearField(name)
        elif isinstance(value, str):
            setattr(message, name, _MARK.sub("[redacted]", value))


def _name_of(item: Any) -> tuple[str, ...]:
    for shown in (item, *(getattr(item, name, item) for name in ("attributes", "fs_id"))):
        found = [value for name in _NAMES if isinstance(value := getattr(shown, name, None), str)]
        if found:
            return tuple(found)
    return ()
