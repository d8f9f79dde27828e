"""Which calls end the waiting of a recording that is kept in memory."""

import pytest

from criproxy.audit.records.subject import CallSubject
from criproxy.capture.trigger import Trigger
from criproxy.cassette.open_calls import OpenCall, OpenCalls
from criproxy.cassette.records import AnyRecord, CallEnded, ConnectionOpened
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.timeline.filters import CallFilter
from tests.support.cassettes import SECOND, Made

POD = "a" * 64
METADATA = v1.PodSandboxMetadata(name="web", namespace="shop", uid="u")
RUN = Made(
    "RunPodSandbox",
    *(1, 3, v1.RunPodSandboxRequest(config=v1.PodSandboxConfig(metadata=METADATA))),
    [v1.RunPodSandboxResponse(pod_sandbox_id=POD)],
)
STOP = Made(
    "StopPodSandbox",
    *(4, 9, v1.StopPodSandboxRequest(pod_sandbox_id=POD)),
    code="UNKNOWN",
    message="no",
)
EVENTS = Made(
    "GetContainerEvents", *(0.5, 100, v1.GetEventsRequest()), code="CANCELLED", end="client_reset"
)


def met(wanted: CallFilter) -> list[str]:
    """The methods of the calls whose end meets the conditions."""
    trigger = Trigger([wanted])
    trigger.see(ConnectionOpened(connection=1, at=0, executable="/usr/bin/kubelet"))
    found = []
    for number, call in enumerate((RUN, STOP, EVENTS), 1):
        if any(trigger.see(record) is not None for record in call.make(number)):
            found.append(call.method)
    return found


@pytest.mark.parametrize(
    ("wanted", "methods"),
    [
        (CallFilter(codes=("UNKNOWN",)), ["StopPodSandbox"]),
        (CallFilter(codes=("!OK",)), ["StopPodSandbox", "GetContainerEvents"]),
        (CallFilter(slower_than=1.5), ["RunPodSandbox", "StopPodSandbox"]),
        (CallFilter(slower_than=1.5, codes=("OK",)), ["RunPodSandbox"]),
        (CallFilter(namespaces=("sh*",)), ["RunPodSandbox", "StopPodSandbox"]),
        (CallFilter(pods=("db",)), []),
        (CallFilter(callers=("kubelet",), methods=("@read",)), ["GetContainerEvents"]),
        (CallFilter(callers=("crictl",)), []),
    ],
)
def test_calls_that_end(wanted: CallFilter, methods: list[str]) -> None:
    """A call has to meet all conditions; a stream takes no time."""
    assert met(wanted) == methods


def test_calls_in_flight() -> None:
    """A call that has not ended meets a duration once it has run for so long, and only once until
    its end; a stream never does."""
    slow = CallFilter(slower_than=2, namespaces=("shop",))
    trigger = Trigger([CallFilter(codes=("UNKNOWN",)), slow])
    began: list[AnyRecord] = [*EVENTS.make(1)[:2], *RUN.make(2)[:2]]
    assert not any(trigger.see(record) for record in began)
    assert trigger.overdue(int(2.9 * SECOND)) is None
    running = trigger.overdue(int(3.1 * SECOND))
    assert running is not None
    assert (running.method, running.pod, running.running) == ("RunPodSandbox", "web", True)
    assert trigger.overdue(int(4 * SECOND)) is None
    (ended,) = [call for record in RUN.make(2)[2:] if (call := trigger.see(record)) is not None]
    assert (ended.code, ended.running) == ("OK", False)
    other = Trigger([CallFilter(slower_than=2, namespaces=("other",))])
    assert not any(other.see(record) for record in began)
    assert other.overdue(1000 * SECOND) is None
    assert Trigger([CallFilter(codes=("OK",))]).overdue(1000 * SECOND) is None


def test_a_request_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call in flight, which may have a large request, is not looked into again and again: it is
    known after which time it meets which conditions, if ever."""
    looked: list[int] = []
    subject = OpenCalls.subject

    def look(calls: OpenCalls, call: OpenCall, end: CallEnded | None = None) -> CallSubject:
        looked.append(call.began.call)
        return subject(calls, call, end)

    monkeypatch.setattr(OpenCalls, "subject", look)
    first = CallFilter(slower_than=2, namespaces=("other",))
    trigger = Trigger([first, CallFilter(slower_than=60, namespaces=("shop",))])
    for record in RUN.make(1)[:2]:
        trigger.see(record)
    for second in range(3, 60):
        assert trigger.overdue(second * SECOND) is None
    assert looked == [1]
    running = trigger.overdue(61 * SECOND)
    assert running is not None
    assert running.duration == 60
    for second in range(62, 100):
        assert trigger.overdue(second * SECOND) is None
    assert looked == [1, 1]


def test_a_pod_that_is_named_later() -> None:
    """A call in flight about a pod that is not known yet meets conditions on it as soon as a
    listing names it."""
    trigger = Trigger([CallFilter(slower_than=2, pods=("web",))])
    for record in STOP.make(1)[:2]:
        trigger.see(record)
    assert trigger.overdue(7 * SECOND) is None
    listed = v1.ListPodSandboxResponse(items=[v1.PodSandbox(id=POD, metadata=METADATA)])
    listing = Made("ListPodSandbox", 7, 7.5, v1.ListPodSandboxRequest(), [listed])
    for record in listing.make(2):
        trigger.see(record)
    running = trigger.overdue(8 * SECOND)
    assert running is not None
    assert (running.method, running.pod) == ("StopPodSandbox", "web")
