"""PodStarts: the starts in a sequence of calls, their phases and their causes."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.timeline import pod_starts
from criproxy.timeline.logged_call import LoggedCall
from criproxy.timeline.pod_start import (
    AFTER_START,
    CREATE,
    KUBELET,
    PULL,
    RETRY,
    SANDBOX,
    START,
    PodStart,
)
from criproxy.timeline.pod_starts import SETTLED, PodStarts
from tests.timeline.calls import EPOCH, NGINX, Calls


def starts_in(calls: Iterable[LoggedCall]) -> list[PodStart]:
    found = PodStarts()
    early = [start for call in calls for start in found.add(call)]
    assert early == []
    assert (found.dropped, found.unnamed) == (0, 0)
    return found.finish()


def phases_of(start: PodStart) -> list[tuple[str, str, float]]:
    return [(each.kind, each.subject, round(each.seconds, 3)) for each in start.phases]


def slow_pull() -> Calls:
    calls = Calls()
    calls.sandbox(1.0)
    calls.wait(0.3)
    calls.pull(31.2)
    calls.wait(0.5)
    calls.container()
    return calls


def test_a_start() -> None:
    """The time of a start divides among its calls and the kubelet's waits; the cause is a pull."""
    (start,) = starts_in(slow_pull().made)
    assert phases_of(start) == [
        (SANDBOX, "", 1.0),
        (KUBELET, "", 0.3),
        (PULL, NGINX, 31.2),
        (KUBELET, "", 0.5),
        (CREATE, "app", 0.5),
        (START, "app", 0.5),
    ]
    assert start.state == "started"
    assert (start.began, round(start.seconds, 3)) == (EPOCH, 34.0)
    assert start.seconds_of(KUBELET) == pytest.approx(0.8)
    assert start.cause.text == f"image pull of {NGINX}: 31.2 s of 34.0 s"
    assert start.pod_id == "p1"


def test_an_image_that_is_present() -> None:
    """Without a pull, the cause may be the sandbox with its network, or the kubelet."""
    calls = Calls()
    calls.sandbox(3.0)
    calls.call("ImageStatus", 0.1, image=NGINX)
    calls.container()
    (start,) = starts_in(calls.made)
    assert start.seconds_of(PULL) == 0
    assert start.cause.text == "pod sandbox and its network: 3.0 s of 4.1 s"
    calls = Calls()
    calls.sandbox(1.0)
    calls.wait(20.0)
    calls.container()
    (start,) = starts_in(calls.made)
    assert start.cause.text == "the kubelet, between calls: 20.0 s of 22.0 s"


def test_a_rule_held_the_call() -> None:
    """A cause that rules had wait names them and for how long."""
    calls = Calls()
    calls.sandbox()
    calls.pull(10.0, rules=("slow", "other"), held=9.0)
    calls.container()
    (start,) = starts_in(calls.made)
    expected = f"image pull of {NGINX}: 10.0 s of 12.0 s (9.0 s held by slow, other)"
    assert start.cause.text == expected


def test_a_pull_that_is_tried_again() -> None:
    """Attempts at one pull are one cause, and the back-off between them is another."""
    calls = Calls()
    calls.sandbox()
    calls.pull(8.0, code="UNAVAILABLE")
    calls.wait(2.0)
    calls.pull(7.0)
    calls.container()
    (start,) = starts_in(calls.made)
    assert start.state == "started"
    assert start.cause.text == f"image pull of {NGINX}, 2 attempts: 15.0 s of 19.0 s"
    assert (RETRY, f"image pull of {NGINX}", 2.0) in phases_of(start)
    calls = Calls()
    calls.sandbox()
    for code in ("UNAVAILABLE", "UNAVAILABLE", "OK"):
        calls.pull(1.0, code=code)
        calls.wait(20.0 if code != "OK" else 0.0)
    calls.container()
    (start,) = starts_in(calls.made)
    expected = f"wait for another attempt, image pull of {NGINX}: 40.0 s of 45.0 s"
    assert start.cause.text == expected


def test_a_start_that_fails() -> None:
    """The cause of a start that does not end is what fails, however short."""
    calls = Calls()
    calls.sandbox(20.0)
    calls.pull(0.5, code="NOT_FOUND")
    calls.wait(30.0)
    calls.pull(0.5, code="NOT_FOUND")
    (start,) = starts_in(calls.made)
    assert start.state == "failing"
    failure = f"image pull of {NGINX}, 2 attempts, last failed with NOT_FOUND"
    assert start.cause.text == f"{failure}: 1.0 s of 51.0 s"


def test_a_network_that_fails() -> None:
    """RunPodSandbox tells its network apart only when that fails."""
    calls = Calls()
    message = 'failed to setup network for sandbox "p1": plugin type="bridge" failed'
    calls.sandbox(1.0, "UNKNOWN", message=message, pod_id="")
    calls.wait(12.0)
    calls.sandbox(1.0, "UNKNOWN", message=message, pod_id="")
    (start,) = starts_in(calls.made)
    failure = "pod sandbox (its network), 2 attempts, last failed with UNKNOWN"
    assert start.cause.text == f"{failure}: 2.0 s of 14.0 s"


def test_a_call_in_flight() -> None:
    """A call that still runs is the cause; when its end is known, that counts."""
    calls = Calls()
    calls.sandbox()
    calls.pull(30.0, code="")
    (start,) = starts_in(calls.made)
    assert start.state == "running"
    assert start.cause.text == f"image pull of {NGINX}, still running: 30.0 s of 31.0 s"
    calls.now = 1.0
    calls.pull(50.0)
    for order in (calls.made, calls.made[::-1]):
        (start,) = starts_in(order)
        assert (start.state, start.seconds) == ("unfinished", 51.0)


def test_containers_one_after_the_other() -> None:
    """The time after the start of an init container is told apart from the kubelet's."""
    calls = Calls()
    calls.sandbox()
    calls.container("init")
    calls.wait(12.0)
    calls.pull(1.0, "app:1")
    calls.container("app", "app:1")
    calls.pull(2.0, "log:1")
    calls.container("log", "log:1")
    (start,) = starts_in(calls.made)
    assert start.cause.text == "wait after the start of container init: 12.0 s of 19.0 s"
    assert (AFTER_START, "init", 12.0) in phases_of(start)
    assert start.seconds_of(PULL) == 3.0


def test_restarts_are_no_part_of_a_start() -> None:
    """Neither a restarted container, nor the pull before it, nor a late container counts."""
    calls = slow_pull()
    once = starts_in(calls.made)[0].calls
    for _ in range(5):
        calls.wait(10.0)
        calls.pull(1.0)
        calls.container()
    calls.pull(1.0)
    calls.wait(SETTLED + 1)
    calls.pull(3.0, "debug:1")
    calls.container("debugger", "debug:1")
    (start,) = starts_in(calls.made)
    assert start.calls == once


def test_a_sandbox_that_is_made_again() -> None:
    """A sandbox that is replaced before a container ran is of the same start, later of another."""
    calls = Calls()
    calls.sandbox(1.0, "UNKNOWN")
    calls.sandbox(1.0)
    calls.container()
    calls.wait(5.0)
    calls.sandbox(2.0, pod_id="p2")
    calls.container()
    first, second = starts_in(calls.made)
    assert (first.seconds, second.seconds) == (3.0, 3.0)
    assert (first.state, second.state) == ("started", "started")


def test_pods_of_before() -> None:
    """What a pod does whose start was not seen is no start."""
    calls = Calls()
    calls.pull(1.0)
    calls.container()
    assert starts_in(calls.made) == []


@given(st.randoms(use_true_random=False))
def test_any_order_of_lines(random: object) -> None:
    """Interleaved pods, and lines in any order, give the starts of each pod by itself."""
    pods = [Calls(name, now) for name, now in (("a", 0.0), ("b", 0.4), ("c", 10.0))]
    for number, calls in enumerate(pods):
        calls.sandbox()
        calls.pull(1.0, code="UNAVAILABLE")
        calls.wait(number)
        calls.pull(2.0)
        calls.container("init")
        calls.container("app")
        calls.container("app")
    alone = [starts_in(calls.made)[0] for calls in pods]
    mixed = [call for calls in pods for call in calls.made]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert starts_in(mixed) == alone


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.floats(0, 9)), max_size=12))
def test_phases_make_up_the_whole(steps: list[tuple[int, int, float]]) -> None:
    """Whatever calls there are, also at once, their phases and the waits sum up to the whole."""
    calls = Calls()
    calls.sandbox()
    for kind, at, seconds in steps:
        calls.now = float(at)
        if kind == 0:
            calls.pull(seconds, code="NOT_FOUND" if seconds > 4 else "OK")
        else:
            calls.container(f"c{kind}", create=seconds)
    (start,) = starts_in(calls.made)
    assert sum(each.seconds for each in start.phases) == pytest.approx(start.seconds)
    assert start.cause.text


def test_memory_is_bounded() -> None:
    """Above the limits the oldest pod's start is returned, and calls are dropped and counted."""
    found = PodStarts(max_pods=2, max_calls=6)
    early: list[PodStart] = []
    for name in ("a", "b", "c"):
        calls = Calls(name)
        calls.sandbox()
        calls.container()
        for call in calls.made:
            early += found.add(call)
    assert [start.pod.pod for start in early] == ["a"]
    calls = Calls("b", 10.0)
    for _ in range(20):
        calls.pull(1.0)
        calls.container()
    for call in calls.made:
        assert found.add(call) == []
    assert found.dropped == 0  # restarts are forgotten
    calls = Calls("c", 10.0)
    for number in range(4):
        calls.container(f"more-{number}")
    for call in calls.made:
        assert found.add(call) == []
    assert found.dropped == 5
    last = found.finish()
    assert [(start.pod.pod, len(start.calls)) for start in last] == [("b", 3), ("c", 6)]


def test_a_pod_that_fails_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are dropped without a look at those that are kept, until one of these has ended."""
    looks = 0
    starts_of = pod_starts._starts_of

    def counted(calls: Iterable[LoggedCall]) -> list[PodStart]:
        nonlocal looks
        looks += 1
        return starts_of(calls)

    monkeypatch.setattr(pod_starts, "_starts_of", counted)
    found, calls = PodStarts(max_calls=4), Calls()
    calls.sandbox()
    about = {"container": "app", "pod_id": "p1"}
    calls.call("CreateContainer", 1.0, **about)
    running = calls.call("StartContainer", 1.0, "", **about)
    for _ in range(1000):
        calls.call("CreateContainer", 1.0, "UNKNOWN", **about)
    for call in calls.made:
        assert found.add(call) == []
    assert (found.dropped, looks) == (999, 1)
    assert found.add(replace(running, running=False, code="OK")) == []
    assert found.add(calls.call("CreateContainer", 1.0, container="other")) == []
    assert (found.dropped, looks) == (999, 2)  # what came after the start is forgotten
    assert [len(start.calls) for start in found.finish()] == [3]


def test_calls_without_a_pod() -> None:
    """Calls of starts that do not name their pod are counted; other calls are not."""
    found = PodStarts()
    calls = Calls("")
    calls.sandbox()
    calls.call("Version", 1.0)
    for call in calls.made:
        found.add(call)
    assert (found.unnamed, found.finish()) == (1, [])
