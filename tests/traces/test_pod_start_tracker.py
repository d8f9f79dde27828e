"""PodStartTracker: one span over the calls of a start, when it is over, and within bounds."""

from collections.abc import Callable, Iterable
from itertools import count

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from criproxy.traces.channel import TracedCall
from criproxy.traces.exporter import pod_start_tracker
from criproxy.traces.exporter.pod_start_tracker import UNSETTLED, PodStartTracker
from tests.support.trace_receiver import attributes
from tests.traces.traced_calls import EPOCH, NGINX, Calls

SETTLE = 30.0


def tracker(slower_than: float | None = None) -> PodStartTracker:
    numbers = count(1000)
    return PodStartTracker(SETTLE, slower_than, lambda: next(numbers).to_bytes(8, "big"))


def add(to: PodStartTracker, calls: Iterable[TracedCall], now: float = 0.0) -> list[Span]:
    return [span for call in calls for span in to.add(call, now)]


def starts(spans: Iterable[Span]) -> list[Span]:
    return [span for span in spans if span.name == "pod start"]


def test_a_start_has_its_calls_below_it() -> None:
    """Calls without a caller's span are children of the start's, which begins and ends with them
    and tells the cause."""
    pod, to = Calls(), tracker()
    spans = add(to, [pod.sandbox(1.0), pod.pull(31.0), *pod.container()])
    assert len(spans) == 4  # they are not held, as they are sampled
    assert to.sweep(SETTLE - 1) == []
    (start,) = to.sweep(SETTLE)
    assert {span.parent_span_id for span in spans} == {start.span_id}
    assert {span.trace_id for span in [*spans, start]} == {pod.trace_id}
    assert (start.parent_span_id, start.flags, start.kind) == (b"", 1, Span.SPAN_KIND_INTERNAL)
    assert {span.flags for span in spans} == {0x101}  # their parent is of this process
    assert start.start_time_unix_nano == EPOCH * 10**9
    assert start.end_time_unix_nano == round((EPOCH + pod.now) * 1e9)
    found = attributes(start)
    assert found["k8s.pod.name"] == "web"
    assert found["criproxy.pod_start.state"] == "started"
    assert found["criproxy.pod_start.cause.kind"] == "pull"
    assert found["criproxy.pod_start.cause.subject"] == NGINX
    assert found["criproxy.pod_start.cause.text"] == f"image pull of {NGINX}: 31.0 s of 32.2 s"
    assert found["criproxy.pod_start.pull"] == pytest.approx(31)
    assert found["criproxy.pod_start.sandbox"] == pytest.approx(1)
    assert len(start.links) == 0
    assert to.finish() == []


def test_a_start_in_a_callers_trace() -> None:
    """Where the caller traces, the start is beside its first call, whose parents stay, and has
    links to all calls, also those of other traces."""
    pod, to = Calls(), tracker()
    own = {"trace_id": b"T" * 16}
    calls = [
        pod.sandbox(parent_id=b"P" * 8, **own),
        pod.pull(1.0, parent_id=b"Q" * 8, **own),
        *pod.container(parent_id=b"R" * 8, trace_id=b"U" * 16),
    ]
    spans = add(to, calls)
    assert [span.parent_span_id for span in spans] == [b"P" * 8, b"Q" * 8, b"R" * 8, b"R" * 8]
    assert {span.flags for span in spans} == {0x301}
    (start,) = to.finish()
    assert (start.trace_id, start.parent_span_id) == (b"T" * 16, b"P" * 8)
    assert [(link.trace_id, link.span_id) for link in start.links] == [
        (call.trace_id, call.span_id) for call in calls
    ]


def test_a_start_that_is_not_sampled() -> None:
    """If no call of a start is sampled, and it is not slow, there is no span of it."""
    pod, to = Calls(sampled=False), tracker(slower_than=10)
    assert add(to, [pod.sandbox(), pod.pull(2.0), *pod.container()]) == []
    assert to.sweep(SETTLE) == []


@pytest.mark.parametrize("why", ["slow", "one call"])
def test_a_sampled_start_is_whole(why: str) -> None:
    """If a start is slow, or one of its calls is sampled, all its calls have spans, each once."""
    pod, to = Calls(sampled=False), tracker(slower_than=10)
    calls = [pod.sandbox(), pod.pull(2.0), *pod.container()]
    if why == "slow":
        calls += [pod.pull(9.0), *pod.container("second")]
    else:
        calls[1].sampled = True
    sent = add(to, calls)
    assert len(sent) == (0 if why == "slow" else 1)
    sent += to.sweep(SETTLE)
    (start,) = starts(sent)
    ids = [span.span_id for span in sent if span is not start]
    assert sorted(ids) == sorted(call.span_id for call in calls)
    assert {span.parent_span_id for span in sent if span is not start} == {start.span_id}


def test_a_start_that_goes_on() -> None:
    """A start in which a container waits for its image is not over until that has come."""
    pod, to = Calls(), tracker()
    add(to, [pod.sandbox()])
    assert to.sweep(SETTLE) == to.sweep(UNSETTLED - 1) == []
    add(to, [pod.pull(600.0), *pod.container()], now=UNSETTLED - 1)
    assert to.sweep(UNSETTLED) == []
    (start,) = to.sweep(UNSETTLED - 1 + SETTLE)
    assert attributes(start)["criproxy.pod_start.state"] == "started"


def test_a_start_that_fails() -> None:
    """A start that fails and is not tried again ends after a longer time, as an error."""
    pod, to = Calls(), tracker()
    add(to, [pod.sandbox(), pod.pull(1.0, "NOT_FOUND")])
    assert to.sweep(SETTLE) == []
    (start,) = to.sweep(UNSETTLED)
    assert attributes(start)["criproxy.pod_start.state"] == "failing"
    assert start.status.code == start.status.STATUS_CODE_ERROR
    assert "failed with NOT_FOUND" in start.status.message


def test_a_sandbox_that_is_made_anew_begins_another_start() -> None:
    """RunPodSandbox after a container has started ends the start before; after a failure of
    RunPodSandbox it does not."""
    pod, to = Calls(), tracker()
    spans = add(to, [pod.sandbox(code="UNKNOWN"), pod.sandbox(), *pod.container()])
    assert starts(spans) == []
    (first,) = starts(add(to, [pod.sandbox()]))
    second = add(to, pod.container())
    (start,) = to.finish()
    assert first.span_id != start.span_id
    assert {span.parent_span_id for span in second} == {start.span_id}


@pytest.mark.parametrize("made", [Calls.container, lambda pod: [pod.pull(1.0)]])
def test_calls_after_a_start(made: Callable[[Calls], list[TracedCall]]) -> None:
    """What comes when a start is over, such as a container's restart, has no parent, and no span
    if it is not sampled."""
    pod, to = Calls(), tracker()
    add(to, [pod.sandbox(), *pod.container()])
    assert len(to.sweep(SETTLE)) == 1
    spans = add(to, made(pod))
    assert spans
    assert {span.parent_span_id for span in spans} == {b""}
    pod.sampled = False
    assert add(to, made(pod)) == to.finish() == []


def test_calls_that_start_no_pod() -> None:
    """Other calls, and pulls for no pod, are spans of their own."""
    pod, to = Calls(), tracker()
    others = [pod.call("ListContainers", 0.1), pod.call("PullImage", 0.1, subject={})]
    assert [span.parent_span_id for span in add(to, others)] == [b"", b""]
    assert to.finish() == []


def test_the_number_of_starts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the start that was longest without a call ends, as far as it has come."""
    monkeypatch.setattr(pod_start_tracker, "_STARTS", 2)
    to = tracker()
    pods = [Calls(name) for name in "abc"]
    assert starts(add(to, [pod.sandbox() for pod in pods[:2]])) == []
    add(to, [pods[0].pull(1.0)])
    (start,) = starts(add(to, [pods[2].sandbox()]))
    assert attributes(start)["k8s.pod.name"] == "b"


def test_the_number_of_calls_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a start nor all together keep more calls than they may; each sampled call has its
    span in any case."""
    monkeypatch.setattr(pod_start_tracker, "_CALLS_OF_START", 5)
    monkeypatch.setattr(pod_start_tracker, "_CALLS", 8)
    to = tracker()
    pods = [Calls("a"), Calls("b")]
    spans = add(to, [pods[0].sandbox(), *(pods[0].pull(1.0, "UNKNOWN") for _ in range(20))])
    assert (len(spans), starts(spans)) == (21, [])
    spans = add(to, [pods[1].sandbox(), *(pods[1].pull(1.0) for _ in range(3))])
    (start,) = starts(spans)
    assert attributes(start)["k8s.pod.name"] == "a"
