"""The calls in flight, and which of them are slow."""

import pytest

from criproxy.cri.naming import matches, resolve
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from tests.support.calls import CONNECTION, RUNTIME, running

PULL = b"/runtime.v1.ImageService/PullImage"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("PullImage", True),
        ("Pull*", True),
        ("*", True),
        ("ImageService/PullImage", True),
        ("ImageService/*", True),
        ("runtime.v1.ImageService/PullImage", True),
        ("/runtime.v1.ImageService/PullImage", True),
        ("runtime.*/PullImage", True),
        ("*/PullImage", True),
        ("Pull[IJ]mage", True),
        ("pullimage", False),
        ("Pull", False),
        ("RuntimeService/*", False),
        ("runtime.v1alpha2.*", False),
        ("", False),
    ],
)
def test_patterns(pattern: str, expected: bool) -> None:
    """A glob matches a whole Method, Service/Method or path."""
    assert matches(pattern, resolve(PULL)) is expected


@pytest.mark.parametrize(
    ("threshold", "methods", "path", "expected"),
    [
        (30, {}, RUNTIME + b"Version", 30),
        (0, {}, RUNTIME + b"Version", None),
        (30, {}, RUNTIME + b"GetContainerEvents", None),
        (30, {"GetContainerEvents": 3600}, RUNTIME + b"GetContainerEvents", 3600),
        (30, {"PullImage": 300, "*": 5}, PULL, 300),
        (30, {"*": 5, "PullImage": 300}, PULL, 5),
        (30, {"PullImage": 0}, PULL, None),
        (0, {"PullImage": 300}, PULL, 300),
        (30, {"PullImage": 300}, RUNTIME + b"Version", 30),
        (30, {}, b"/some.Thing/Else", 30),
    ],
)
def test_thresholds(
    threshold: float, methods: dict[str, float], path: bytes, expected: float | None
) -> None:
    """The first matching glob applies, else the threshold; 0 and streaming exempt."""
    assert SlowCalls(threshold, methods).threshold_of(resolve(path)) == expected


def test_slow_once() -> None:
    """A call is reported once above its threshold, and its end returns that it was slow."""
    calls = CallsInFlight(SlowCalls(30, {}))
    early, late = running(b"Version", 0.0), running(b"Status", 10.0)
    for call in (early, late, running(b"GetContainerEvents", 0.0)):
        calls.began(CONNECTION, call)
    assert calls.newly_slow(29.9) == []
    assert calls.newly_slow(30.0) == [(early, CONNECTION)]
    assert calls.newly_slow(39.0) == []
    assert calls.newly_slow(41.0) == [(late, CONNECTION)]
    assert calls.newly_slow(1000.0) == []
    assert calls.ended(early) is True
    assert calls.ended(early) is False
    assert len(calls) == 2


def test_description() -> None:
    """Calls are described with caller, age and subject, the oldest first."""
    calls = CallsInFlight(SlowCalls(30, {"Version": 4}))
    older, younger = running(b"Version", 1.0), running(b"/some.Thing/Else", 2.0)
    younger.first_byte = 2.5
    younger.rules, younger.held, younger.waiting_since = ("slow",), 0.5, 3.0
    younger.response.messages, younger.response.bytes = 3, 30
    for call in (older, younger):
        calls.began(CONNECTION, call)
    first, second = calls.described(
        5.0, lambda _, call: {"pod": f"of {call.began:g}"}, lambda moment: 1_700_000_000 + moment
    )
    assert first == {
        "listener": CONNECTION.listener,
        "service": "runtime.v1.RuntimeService",
        "method": "Version",
        "began": "2023-11-14T22:13:21.000000Z",
        "age_s": 4.0,
        "slow": True,
        "pid": 4711,
        "uid": 12,
        "gid": 34,
        "executable": "/usr/bin/kubelet",
        "answering": False,
        "request_messages": 0,
        "request_bytes": 0,
        "response_messages": 0,
        "response_bytes": 0,
        "rules": [],
        "held_s": 0.0,
        "pod": "of 1",
    }
    assert (second["service"], second["method"]) == ("some.Thing", "Else")
    assert (second["slow"], second["rules"], second["held_s"]) == (False, ["slow"], 2.5)
    assert (second["answering"], second["response_messages"], second["response_bytes"]) == (
        True,
        3,
        30,
    )
