"""The directions of calls that are held."""

from typing import Any

import pytest

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Connection, Peer
from criproxy.wire.grpc import StatusCode
from tests.support.calls import CONNECTION
from tests.support.held import CLIENT, IMAGES, Rules, Scripted
from tests.support.virtual_time import passed, run, settle

PULL = f"{IMAGES}/PullImage"
OTHER = Connection(CONNECTION.listener, Peer(1, 1000, 1000, "/usr/bin/agent"), 0.0)


def rule(action: dict[str, Any], **more: Any) -> dict[str, Any]:
    match = {"methods": ["PullImage"]}
    match |= {key: more.pop(key) for key in ("where", "callers", "methods") if key in more}
    return {"match": match, **action, **more}


def pull(image: str = "docker.io/nginx") -> v1.PullImageRequest:
    return v1.PullImageRequest(image=v1.ImageSpec(image=image))


DENY: dict[str, Any] = {"deny": {}}
CUT = {"fault": {"code": "UNAVAILABLE", "cut_after": 1}}
ANSWER = {"rewrite": {"response": {"image_ref": '"x"'}}}


def test_other_methods() -> None:
    """A method that no rule names is not wanted."""

    async def main() -> None:
        rules = Rules(rule(DENY))
        assert rules.policy.wanted(f"/{PULL}".encode())
        assert rules.policy.wanted(f"/{PULL}".replace("v1.", "v1alpha2.").encode())
        assert not rules.policy.wanted(b"/runtime.v1.RuntimeService/Version")
        assert not rules.policy.wanted(b"")

    run(main)


@pytest.mark.parametrize("where", [None, 'request.image.image != ""'])
@pytest.mark.parametrize(
    "callers", [{"uid": [12]}, {"gid": [34]}, {"executable": ["*/kubelet"]}, {"uid": [0, 12]}]
)
def test_callers(where: str | None, callers: dict[str, Any]) -> None:
    """A call of another caller than the rule's is not held, whatever the other conditions."""

    async def main() -> None:
        more = {} if where is None else {"where": where}
        rules = Rules(rule(DENY, callers=callers, **more))
        assert rules.call(PULL).hold is not None
        assert rules.call(PULL, connection=OTHER).hold is None

    run(main)


def test_metadata_alone() -> None:
    """A condition on the request's headers alone is evaluated when the stream opens."""

    async def main() -> None:
        rules = Rules(rule(DENY, where='metadata["x-a"] == "1,2"'))
        both = [(b"x-a", b"1"), (b"x-a", b"2")]
        assert rules.call(PULL, headers=both).hold is not None
        assert rules.call(PULL, headers=both[:1]).hold is None

    run(main)


@pytest.mark.parametrize(
    ("action", "request_held", "response_held"),
    [
        (DENY, True, False),
        ({"delay": {"fixed": "1s"}}, True, False),
        ({"delay": {"fixed": "1s", "when": "after"}}, False, True),
        ({"fault": {"code": "ABORTED"}}, True, False),
        ({"fault": {"code": "ABORTED", "when": "after"}}, False, True),
        ({"fault": {"hang": True}}, True, False),
        ({"limit": {"in_flight": 1}}, True, False),
        ({"rewrite": {"request": {"image.image": '"x"'}}}, True, False),
        (ANSWER, False, True),
        (
            {"rewrite": {"response": {"image_ref": "request.image.image"}}},
            True,
            True,
        ),
    ],
)
def test_what_is_held(action: dict[str, Any], request_held: bool, response_held: bool) -> None:
    """Only those directions are held that the rule reads or delays."""

    async def main() -> None:
        hold = Rules(rule(action)).call(PULL).hold
        assert hold is not None
        assert (hold.request, hold.response) == (request_held, response_held)

    run(main)


def test_response_is_released() -> None:
    """The response is not held once no rule acts on it."""

    async def main() -> None:
        rules = Rules(rule(ANSWER, where='request.image.image == "mine"'))
        call = rules.call(PULL)
        assert call.hold is not None
        assert call.hold.response
        call.asks(pull())
        assert [command[0] for command in call.done] == ["send", "end", "pass on"]

    run(main)


def test_rules_after_a_certain_one() -> None:
    """Rules after one that acts for certain hold nothing."""

    async def main() -> None:
        hold = Rules(rule(DENY), rule(ANSWER)).call(PULL).hold
        assert hold is not None
        assert not hold.response

    run(main)


def test_path_without_its_slash() -> None:
    """A path without its slash is the same method, since a runtime may answer to it."""

    async def main() -> None:
        rules = Rules(
            rule(DENY, methods=["PullImage"], where='request.image.image == "docker.io/nginx"'),
            rule(DENY, methods=["StopContainer"], where='pod.name == "a"'),
        )
        call = Scripted(rules, b"runtime.v1.ImageService/PullImage")
        call.asks(pull())
        assert call.done == [("answer", StatusCode.PERMISSION_DENIED, "denied by rule r0")]
        call = Scripted(rules, b"runtime.v1.ImageService/PullImage")
        call.asks(pull("quay.io/a"))
        assert call.done[-1] == ("end", CLIENT)
        assert rules.policy.wanted(b"runtime.v1.RuntimeService/RunPodSandbox")

    run(main)


def test_pod_cache_on_demand() -> None:
    """Calls that create pods are held only where a rule reads pods."""

    async def main() -> None:
        path = b"/runtime.v1.RuntimeService/RunPodSandbox"
        assert not Rules(rule(DENY)).policy.wanted(path)
        for asks in (
            rule(DENY, methods=["StopContainer"], where='pod.name == "a"'),
            rule({"limit": {"in_flight": 1, "per": "pod"}}, methods=["StopContainer"]),
        ):
            assert Rules(asks).policy.wanted(path)

    run(main)


@pytest.mark.parametrize("on_error", ["pass", "fail"])
def test_conditions_that_fail_at_once(on_error: str) -> None:
    """A condition that fails on the headers follows on_error: not held, or failed in its turn."""

    async def main() -> None:
        rules = Rules(rule(DENY, where='metadata["none"] == ""', on_error=on_error))
        call = rules.call(PULL)
        assert (call.hold is not None) is (on_error == "fail")
        call.asks(pull())
        assert [command[0] for command in call.done] == ["answer"] * (on_error == "fail")
        assert rules.counts.errors == {("r0", "cel"): 1}

    run(main)


def test_deadline_from_headers() -> None:
    """The deadline is that of the headers where the call is not observed."""

    async def main() -> None:
        rules = Rules(rule({"delay": {"fixed": "1h"}}))
        call = rules.call(PULL, timeout=b"2S", followed=False)
        call.asks(pull())
        await passed(1.5)
        assert call.done == []
        await passed(1.0)
        assert [command[0] for command in call.done] == ["answer"]

    run(main)


def test_reload_keeps_what_is_the_same() -> None:
    """A limit keeps its slots and a fault its count through a reload that leaves the rule as it
    was; a changed rule begins anew, and calls end under the rules that they began with."""

    async def main() -> None:
        limit = rule({"limit": {"in_flight": 1}}, name="pulls", **{"continue": True})
        once = rule({"fault": {"code": "ABORTED", "times": 1}}, name="once")
        before = Rules(limit, once)
        first, second = before.call(PULL), before.call(PULL)
        first.asks(pull())  # takes the slot and the fault
        assert first.done[0][0] == "answer"
        second.asks(pull())
        assert second.done[0][0] == "send"

        after = Rules(limit, once, rule(DENY, methods=["Version"]), previous=before)
        third = after.call(PULL)
        third.asks(pull())
        await settle()
        assert third.done == []  # the second has the slot
        second.close()
        await settle()
        assert [command[0] for command in third.done] == ["send", "end"]

        other = rule({"limit": {"in_flight": 2}}, name="pulls", **{"continue": True})
        changed = Rules(other, previous=after)
        fourth = changed.call(PULL)
        fourth.asks(pull())
        assert [command[0] for command in fourth.done] == ["send", "end"]

    run(main)


def test_reload_keeps_pods() -> None:
    """The pod cache is kept through a reload."""

    async def main() -> None:
        asks = rule(DENY, methods=["StopPodSandbox"], where='pod.name == "a"')
        before = Rules(asks)
        call = before.call("RunPodSandbox")
        config = v1.PodSandboxConfig(metadata=v1.PodSandboxMetadata(name="a"))
        call.asks(v1.RunPodSandboxRequest(config=config))
        call.answers(v1.RunPodSandboxResponse(pod_sandbox_id="1"))
        call = Rules(asks, previous=before).call("StopPodSandbox")
        call.asks(v1.StopPodSandboxRequest(pod_sandbox_id="1"))
        assert [command[0] for command in call.done] == ["answer"]

    run(main)


def test_too_large_for_the_pod_cache() -> None:
    """A call held only for the pod cache passes if it is too large."""

    async def main() -> None:
        rules = Rules(rule(DENY, methods=["StopPodSandbox"], where='pod.name == "a"'))
        call = rules.call("RunPodSandbox")
        call.limit_exceeded(CLIENT)
        assert call.done == [("pass on", CLIENT)]
        call.forget()
        call.answers(b"\xff\xff")
        assert [command[0] for command in call.done] == ["send", "end"]

    run(main)
