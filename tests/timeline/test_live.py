"""LivePods: which pods are starting, by the calls that have ended and those in flight."""

import json
from typing import Any

from criproxy.timeline.json_form import text_of_time
from criproxy.timeline.live import LivePods
from criproxy.timeline.logged_call import LoggedCall
from criproxy.timeline.pod_starts import SETTLED
from tests.cli.test_pods import logged
from tests.timeline.calls import EPOCH, NGINX, Calls


def pods(calls: Calls, now: float, in_flight: tuple[dict[str, Any], ...] = ()) -> LivePods:
    lines = [json.dumps(logged(call)).encode() for call in calls.made]
    return LivePods(lines, in_flight, EPOCH + now)


def running(call: LoggedCall, age: float) -> dict[str, Any]:
    """The fields of a call in flight."""
    return {
        "listener": "",
        "service": call.service,
        "method": call.method,
        "began": text_of_time(call.began),
        "age_s": age,
        "pid": 1,
        "executable": None,
        "rules": ["slow"],
        "held_s": age / 2,
        "namespace": call.namespace,
        "pod": call.pod,
        "pod_uid": call.pod_uid,
        "image": call.image,
    }


def test_a_call_in_flight() -> None:
    """The phase is the call in flight, of which the cause says for how long a rule held it."""
    calls = Calls()
    calls.sandbox(1.0)
    calls.pull(0.0)
    pull = calls.made.pop()
    (start,) = pods(calls, 9.0, (running(pull, 8.0),)).starting()
    assert (start["state"], start["age_s"]) == ("running", 9.0)
    assert start["phase"] == {
        "kind": "pull",
        "subject": NGINX,
        "seconds": 8.0,
        "text": f"image pull of {NGINX}",
    }
    assert start["cause"]["text"] == (
        f"image pull of {NGINX}, still running: 8.0 s of 9.0 s (4.0 s held by slow)"
    )


def test_waits() -> None:
    """Between calls the phase is the wait since the last one, of a kind that depends on it."""
    calls = Calls()
    calls.sandbox(1.0)
    (start,) = pods(calls, 4.0).starting()
    assert (start["state"], start["phase"]["kind"], start["phase"]["seconds"]) == (
        "unfinished",
        "kubelet",
        3.0,
    )
    calls.pull(1.0, code="UNAVAILABLE")
    (start,) = pods(calls, 4.0).starting()
    assert (start["state"], start["phase"]["kind"], start["phase"]["seconds"]) == (
        "failing",
        "retry",
        2.0,
    )
    calls.pull(1.0)
    calls.container("init")
    calls.call("CreateContainer", 0.5, container="app")
    calls.made.pop()
    assert pods(calls, 4.0).starting() == []
    calls.call("CreateContainer", 0.5, code="UNKNOWN", container="app")
    calls.container("other")
    (start,) = pods(calls, 9.0).starting()
    assert start["phase"]["kind"] == "after_start"
    assert start["phase"]["text"] == "wait after the start of container other"


def test_what_is_not_starting() -> None:
    """A pod that was stopped, or of which nothing was seen for long, is among all starts alone."""
    calls = Calls()
    calls.sandbox(1.0)
    assert len(pods(calls, SETTLED).starting()) == 1
    assert pods(calls, SETTLED + 2).starting() == []
    assert [each["pod"] for each in pods(calls, SETTLED + 2).all()] == ["web"]
    calls.call("StopPodSandbox", 0.1, pod_id="p1")
    assert pods(calls, 3.0).starting() == []
    calls.sandbox(1.0, pod_id="p2")
    (start,) = pods(calls, 3.0).starting()
    assert start["pod_id"] == "p2"
