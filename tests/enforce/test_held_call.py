"""One held call under rules: the commands that its handler gives the stream, in order."""

import asyncio
import gc
import gzip
import zlib
from typing import Any

import pytest
from google.protobuf.message import Message

from criproxy.concurrency.steps import LARGE, LargeMessageExecutor, Steps
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.enforce.evaluation.evaluation import RuleEvaluation
from criproxy.enforce.evaluation.payloads import HeldMessage
from criproxy.enforce.held_call import HeldCall
from criproxy.enforce.hooks.hook import HookDenial
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.wire.grpc import StatusCode
from tests.support.held import CLIENT, IMAGES, RUNTIME, Done, Rules, Scripted
from tests.support.virtual_time import passed, run, settle

PULL = f"{IMAGES}/PullImage"
EVENTS = "GetContainerEvents"
OUTSIDE = "some.v1.Service/Call"
UNKNOWN = b"\xfa\x3f\x03new"
"""A field 1023 that no version of the API has."""


def pull(image: str = "docker.io/nginx") -> v1.PullImageRequest:
    return v1.PullImageRequest(image=v1.ImageSpec(image=image))


def pulled(image: str = "sha256:1") -> v1.PullImageResponse:
    return v1.PullImageResponse(image_ref=image)


def event(container: str) -> v1.ContainerEventResponse:
    return v1.ContainerEventResponse(container_id=container)


def sent(side: Any, message: Message | bytes) -> Done:
    return "send", side, message if isinstance(message, bytes) else message.SerializeToString()


def forwarded_request(*messages: Message | bytes) -> list[Done]:
    """Return the commands that forward a request."""
    return [*(sent(CLIENT, message) for message in messages), ("end", CLIENT)]


def forwarded_response(*messages: Message | bytes) -> list[Done]:
    """Return the commands that forward a response."""
    return [*(sent(RUNTIME, message) for message in messages), ("end", RUNTIME)]


def reply(code: StatusCode, message: str) -> Done:
    return "answer", code, message


def rule(action: dict[str, Any], *methods: str, **more: Any) -> dict[str, Any]:
    """Return a rule for some methods, or for all; ``where`` and ``callers`` go into its match."""
    match = {"methods": list(methods) or ["*"]}
    match |= {key: more.pop(key) for key in ("where", "callers") if key in more}
    return {"match": match, **action, **more}


DENY: dict[str, Any] = {"deny": {}}
DENIED = reply(StatusCode.PERMISSION_DENIED, "denied by rule r0")
TO_MIRROR = {"rewrite": {"request": {"image.image": '"mirror/" + request.image.image'}}}
FROM_DOCKER = 'request.image.image.startsWith("docker.io/")'
FAULT = {"fault": {"code": "UNAVAILABLE"}}
INJECTED = reply(StatusCode.UNAVAILABLE, "fault injected by rule r0")
BROKEN = 'request.image.annotations["none"] == ""'
"""A condition whose evaluation fails on every request: there is no such key."""


class FakeHook:
    """A hook that returns or raises ``outcome`` after ``takes`` seconds."""

    has_deny = True
    timeout = 1.0

    def __init__(self, *phases: str, outcome: Any = None, takes: float = 0.0) -> None:
        self.has_request, self.has_response = "request" in phases, "response" in phases
        self.seen: list[tuple[str, Message, Facts]] = []
        self._outcome, self._takes = outcome, takes

    def start(self, log: object) -> None: ...

    def stop(self) -> None: ...

    async def request(self, message: Message, facts: Facts) -> Message:
        return await self._do("request", message, facts)

    async def response(self, message: Message, facts: Facts) -> Message:
        return await self._do("response", message, facts)

    async def _do(self, phase: str, message: Message, facts: Facts) -> Message:
        self.seen.append((phase, message, facts))
        await asyncio.sleep(self._takes)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return message if self._outcome is None else self._outcome


class _SteppedExecutor(LargeMessageExecutor):
    """Runs each function when the test calls :meth:`step`."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[asyncio.Event] = []

    def run(self, size: int, function: Any, *args: Any, **kwargs: Any) -> Steps[Any]:
        """See LargeMessageExecutor."""
        self._steps.append(asyncio.Event())
        yield self._steps[-1].wait
        return function(*args, **kwargs)

    async def step(self) -> None:
        await settle()
        self._steps[-1].set()
        await settle()


HOOK = {"hook": {"script": "hook.py"}}


# Denials


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        ({}, DENIED),
        ({"message": "not here"}, reply(StatusCode.PERMISSION_DENIED, "not here")),
        ({"code": "ABORTED"}, reply(StatusCode.ABORTED, "denied by rule r0")),
    ],
)
@pytest.mark.parametrize("where", [None, FROM_DOCKER])
def test_deny(deny: dict[str, str], expected: Done, where: str | None) -> None:
    """A denied call is answered with the rule's code and message; nothing is forwarded."""

    async def main() -> None:
        where_ = {} if where is None else {"where": where}
        rules = Rules(rule({"deny": deny}, "PullImage", **where_))
        call = rules.call(PULL)
        assert call.hold is not None
        assert call.done == []
        call.asks(pull())
        assert call.done == [expected]
        assert call.call.rules == ("r0",)
        assert rules.counts.matches == {("r0", "deny", "enforce"): 1}

    run(main)


def test_no_match() -> None:
    """A call that no rule matches is forwarded unchanged; its response is not held."""

    async def main() -> None:
        rules = Rules(rule(DENY, "PullImage", where=FROM_DOCKER))
        call = rules.call(PULL)
        data = pull("quay.io/nginx").SerializeToString() + UNKNOWN
        call.asks(data)
        assert call.done == forwarded_request(data)
        assert call.hold is not None
        assert not call.hold.response
        assert call.call.rules == ()
        assert rules.counts.matches == {}

    run(main)


# Rewriting


def test_rewrite_request() -> None:
    """A rewritten request is forwarded in place of the original, with its unknown fields."""

    async def main() -> None:
        rules = Rules(rule(TO_MIRROR, "PullImage"))
        call = rules.call(PULL)
        call.asks(pull().SerializeToString() + UNKNOWN)
        (command, end) = call.done
        assert v1.PullImageRequest.FromString(command[2]).image.image == "mirror/docker.io/nginx"
        assert UNKNOWN in command[2]
        assert end == ("end", CLIENT)
        assert call.call.rules == ("r0",)

    run(main)


def test_rewrite_with_a_value_that_is_not_utf8() -> None:
    """A request of v1alpha2 is rewritten whatever its environment is, which is unchanged."""

    async def main() -> None:
        where = r'request.config.envs.exists(e, e.value.contains("\n"))'
        rewrite = {"rewrite": {"request": {"config.log_path": '"x"'}}}
        rules = Rules(rule(rewrite, "CreateContainer", where=where))
        call = rules.call("runtime.v1alpha2.RuntimeService/CreateContainer")
        envs = [v1.KeyValue(key="A", value=b"\xff\n")]
        call.asks(v1.CreateContainerRequest(config=v1.ContainerConfig(envs=envs)))
        expected = v1.ContainerConfig(envs=envs, log_path="x")
        assert v1.CreateContainerRequest.FromString(call.done[0][2]).config == expected
        assert call.call.rules == ("r0",)

    run(main)


def test_rewrite_response() -> None:
    """A rewritten response is forwarded in place of the original, before its trailers."""

    async def main() -> None:
        rules = Rules(rule({"rewrite": {"response": {"image_ref": '"x"'}}}, "PullImage"))
        call = rules.call(PULL)
        call.asks(pull())
        assert call.done in (
            [],
            forwarded_request(pull()),
        )  # whether the request is held is up to the rule
        call.forget()
        call.answers(pulled())
        assert call.done == forwarded_response(pulled("x"))
        assert call.call.rules == ("r0",)

    run(main)


def test_failed_response_is_left() -> None:
    """A failed response is not rewritten."""

    async def main() -> None:
        rules = Rules(rule({"rewrite": {"response": {"image_ref": '"x"'}}}, "PullImage"))
        call = rules.call(PULL)
        call.asks(pull())
        call.forget()
        call.answers(status=StatusCode.NOT_FOUND)
        assert call.done == forwarded_response()
        assert call.call.rules == ()

    run(main)


def test_images_both_ways() -> None:
    """Images are renamed in requests, and back in responses."""

    async def main() -> None:
        pairs = [{"from": "docker.io/*", "to": "mirror.local/*"}]
        rules = Rules(rule({"rewrite_images": pairs}, "ImageService/*"))
        call = rules.call(PULL)
        call.asks(pull("docker.io/library/nginx:1"))
        assert call.done == forwarded_request(pull("mirror.local/library/nginx:1"))
        call = rules.call(f"{IMAGES}/ListImages")
        call.asks(v1.ListImagesRequest())
        call.forget()
        call.answers(
            v1.ListImagesResponse(images=[v1.Image(repo_tags=["mirror.local/library/a:1"])])
        )
        assert call.done == forwarded_response(
            v1.ListImagesResponse(images=[v1.Image(repo_tags=["docker.io/library/a:1"])])
        )

    run(main)


def test_metadata() -> None:
    """Metadata is added when the stream opens; nothing is held for that alone."""

    async def main() -> None:
        adds = {"rewrite": {"metadata": {"add": {"x-node": '"n1"'}}}}
        rules = Rules(rule(adds, "PullImage", callers={"uid": [12]}))
        call = rules.call(PULL)
        assert call.hold is not None
        assert (call.hold.request, call.hold.response) == (False, False)
        assert call.hold.metadata == [(b"x-node", b"n1")]
        assert call.call.rules == ("r0",)

    run(main)


# Order


def test_first_match_acts() -> None:
    """The first rule that matches acts; later ones are not evaluated."""

    async def main() -> None:
        rules = Rules(
            rule(DENY, "PullImage", where='request.image.image == "other"'),
            rule(TO_MIRROR, "PullImage"),
            rule(DENY, "PullImage"),
        )
        call = rules.call(PULL)
        call.asks(pull())
        assert call.done[0] == sent(CLIENT, pull("mirror/docker.io/nginx"))
        assert call.call.rules == ("r1",)

    run(main)


def test_continue() -> None:
    """After a rule with ``continue``, the next one sees the changed request."""

    async def main() -> None:
        rules = Rules(
            rule(TO_MIRROR, "PullImage", where=FROM_DOCKER, **{"continue": True}),
            rule(TO_MIRROR, "PullImage", where='request.image.image.startsWith("mirror/")'),
            rule(DENY, "PullImage"),
        )
        call = rules.call(PULL)
        call.asks(pull())
        assert call.done == forwarded_request(pull("mirror/mirror/docker.io/nginx"))
        assert call.call.rules == ("r0", "r1")

    run(main)


def test_responses_in_the_order_of_rules() -> None:
    """Each matching rule changes the response as the earlier ones left it."""

    async def main() -> None:
        def append(text: str) -> dict[str, Any]:
            return {"rewrite": {"response": {"image_ref": f'response.image_ref + "{text}"'}}}

        rules = Rules(
            rule(append("1"), "PullImage", **{"continue": True}),
            rule(append("2"), "PullImage", where="false"),
            rule(append("3"), "PullImage"),
            rule(append("4"), "PullImage"),
        )
        call = rules.call(PULL)
        call.asks(pull())
        call.forget()
        call.answers(pulled("0"))
        assert call.done == forwarded_response(pulled("013"))

    run(main)


# Faults


def test_fault_before() -> None:
    """A fault answers in the runtime's place, up to its number of times."""

    async def main() -> None:
        rules = Rules(rule({"fault": {"code": "UNAVAILABLE", "times": 1}}, "PullImage"))
        first, second = rules.call(PULL), rules.call(PULL)
        first.asks(pull())
        second.asks(pull())
        assert first.done == [INJECTED]
        assert second.done == forwarded_request(pull())
        assert (first.call.rules, second.call.rules) == (("r0",), ())
        assert rules.counts.matches == {("r0", "fault", "enforce"): 2}

    run(main)


def test_fault_after() -> None:
    """The runtime is asked, and its response replaced; a failure of its own is forwarded."""

    async def main() -> None:
        fault = {"fault": {"code": "UNAVAILABLE", "when": "after"}}
        for status, expected in (
            (StatusCode.OK, [INJECTED]),
            (StatusCode.NOT_FOUND, forwarded_response()),
        ):
            call = Rules(rule(fault, "PullImage")).call(PULL)
            call.asks(pull())
            assert [done for done in call.done if done[1] is CLIENT] in (
                [],
                forwarded_request(pull()),
            )
            call.forget()
            call.answers(*[pulled()][: status is StatusCode.OK], status=status)
            assert call.done == expected

    run(main)


def test_hang() -> None:
    """A call that hangs is kept until its client cancels it, or until its deadline."""

    async def main() -> None:
        rules = Rules(rule({"fault": {"hang": True}}, "PullImage"))
        endless, limited = rules.call(PULL), rules.call(PULL, timeout=b"5S")
        for call in (endless, limited):
            call.asks(pull())
        await passed(4.0)
        assert limited.done == []
        await passed(1.0)
        (command,) = limited.done
        assert command[1] is StatusCode.DEADLINE_EXCEEDED
        assert limited.call.held == pytest.approx(5.0)
        await passed(3600.0)
        assert endless.done == []
        assert endless.call.held_by(asyncio.get_running_loop().time()) > 3600
        endless.close()
        assert endless.call.held > 3600
        await settle()
        assert len(rules.resources.tasks) == 0

    run(main)


def test_cut_after() -> None:
    """A stream ends with the code after a number of messages; a shorter one is unchanged."""

    async def main() -> None:
        cut = {"fault": {"code": "UNAVAILABLE", "cut_after": 2}}
        long, short = Rules(rule(cut, EVENTS)).call(EVENTS), Rules(rule(cut, EVENTS)).call(EVENTS)
        for call in (long, short):
            call.asks(v1.GetEventsRequest())
            call.forget()
        long.answers(event("a"), event("b"), event("c"))
        assert long.done == [sent(RUNTIME, event("a")), sent(RUNTIME, event("b")), INJECTED]
        short.answers(event("a"))
        assert short.done == forwarded_response(event("a"))

    run(main)


def test_cut_after_none() -> None:
    """A stream that is cut after no message is answered in place of its first message."""

    async def main() -> None:
        rules = Rules(rule({"fault": {"code": "UNAVAILABLE", "cut_after": 0}}, EVENTS))
        call = rules.call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        call.answers(event("a"))
        assert call.done == [INJECTED]

    run(main)


def test_drop() -> None:
    """Messages of a stream that the rule drops are not forwarded; the others are."""

    async def main() -> None:
        rules = Rules(rule({"fault": {"drop": 'response.container_id == "b"'}}, EVENTS))
        call = rules.call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        call.answers(event("a"), event("b"), event("c"))
        assert call.done == [
            sent(RUNTIME, event("a")),
            ("drop", RUNTIME),
            *forwarded_response(event("c")),
        ]

    run(main)


# Delays


def test_delay_before() -> None:
    """The request is forwarded after the delay; the call has the time that it was held."""

    async def main() -> None:
        rules = Rules(rule({"delay": {"fixed": "2s"}}, "PullImage"))
        call = rules.call(PULL, timeout=b"3S")
        call.asks(pull())
        await passed(1.9)
        assert call.done == []
        await passed(0.2)
        assert call.done == forwarded_request(pull())
        assert call.call.rules == ("r0",)
        assert call.call.held == pytest.approx(2.0)
        await passed(5.0)
        assert call.done == forwarded_request(
            pull()
        )  # its deadline has passed, which the runtime handles

    run(main)


def test_delay_after() -> None:
    """The response is forwarded after the delay; the request is forwarded at once."""

    async def main() -> None:
        rules = Rules(rule({"delay": {"fixed": "2s", "when": "after"}}, "PullImage"))
        call = rules.call(PULL)
        call.asks(pull())
        call.forget()
        call.answers(pulled())
        await passed(1.9)
        assert call.done == []
        await passed(0.2)
        assert call.done == forwarded_response(pulled())

    run(main)


def test_delay_of_a_stream() -> None:
    """A stream's response is delayed at its beginning, and keeps its order."""

    async def main() -> None:
        rules = Rules(rule({"delay": {"fixed": "2s", "when": "after"}}, EVENTS))
        call = rules.call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        call.says(RUNTIME, event("a"), event("b"), end=False)
        await passed(2.1)
        assert call.done == [sent(RUNTIME, event("a")), sent(RUNTIME, event("b"))]
        call.forget()
        call.answers(event("c"))
        assert call.done == forwarded_response(event("c"))

    run(main)


@pytest.mark.parametrize("timeout", [b"1S", b"1000m"])
def test_deadline_while_waiting(timeout: bytes) -> None:
    """A call that waits is answered at its deadline; the runtime does not get it."""

    async def main() -> None:
        rules = Rules(rule({"delay": {"fixed": "1h"}}, "PullImage"))
        call = rules.call(PULL, timeout=timeout)
        await passed(0.5)  # the deadline counts from the beginning of the call
        call.asks(pull())
        await passed(0.4)
        assert call.done == []
        await passed(0.2)
        (command,) = call.done
        assert command[:2] == ("answer", StatusCode.DEADLINE_EXCEEDED)
        assert call.call.held == pytest.approx(0.5)

    run(main)


def test_no_task_without_waiting() -> None:
    """A rule without a wait is done within the callback."""

    async def main() -> None:
        rules = Rules(rule({"delay": {"fixed": "2s", "percentage": 0}}, "PullImage"))
        call = rules.call(PULL)
        call.asks(pull())
        assert call.done == forwarded_request(pull())
        assert call.call.rules == ()

    run(main)


WAITING: dict[str, tuple[dict[str, Any], str]] = {
    "delay": ({"delay": {"fixed": "10s"}}, "request"),
    "delay after": ({"delay": {"fixed": "10s", "when": "after"}}, "response"),
    "hang": ({"fault": {"hang": True}}, "request"),
    "hang after": ({"fault": {"hang": True, "when": "after"}}, "response"),
    "hook": (HOOK, "request"),
    "hook after": (HOOK, "response"),
}


@pytest.mark.parametrize(("action", "phase"), WAITING.values(), ids=WAITING)
def test_over_while_waiting(action: dict[str, Any], phase: str) -> None:
    """A call that ends while it waits leaves no command, no task and no error."""

    async def main() -> None:
        rules = Rules(rule(action, "PullImage"), hooks={"r0": FakeHook(phase, takes=0.9)})
        for before in (0.0, 0.5):  # when the wait begins, and during it
            call = rules.call(PULL)
            call.asks(pull())
            if phase == "response":
                call.forget()
                call.answers(pulled())
            assert call.done == []
            if before:
                await passed(before)
            call.close()
            await passed(20.0)
            assert call.done == []
            assert call.call.held == pytest.approx(before)
        assert len(rules.resources.tasks) == 0
        assert rules.crashed == []
        assert rules.counts.errors == {}

    run(main)


# Limits


def test_limit() -> None:
    """A call waits until an earlier one is over."""

    async def main() -> None:
        rules = Rules(rule({"limit": {"in_flight": 1}}, "PullImage"))
        first, second, third = (rules.call(PULL) for _ in range(3))
        for call in (first, second, third):
            call.asks(pull())
        await passed(1.0)
        assert (first.done, second.done, third.done) == (forwarded_request(pull()), [], [])
        first.close()
        await passed(1.0)
        assert (second.done, third.done) == (forwarded_request(pull()), [])
        second.close()
        await passed(1.0)
        assert third.done == forwarded_request(pull())
        assert (first.call.rules, third.call.rules) == ((), ("r0",))
        assert third.call.held == pytest.approx(2.0)

    run(main)


def test_limit_over_while_waiting() -> None:
    """A call that ends while it waits for a slot acquires none."""

    async def main() -> None:
        rules = Rules(rule({"limit": {"in_flight": 1}}, "PullImage"))
        first, second, third = (rules.call(PULL) for _ in range(3))
        for call in (first, second, third):
            call.asks(pull())
        await settle()
        second.close()
        await settle()
        first.close()
        await settle()
        assert (second.done, third.done) == ([], forwarded_request(pull()))

    run(main)


def test_limit_handed_to_a_call_that_ends() -> None:
    """A slot given to a call in the iteration in which it ends goes to the next."""

    async def main() -> None:
        rules = Rules(rule({"limit": {"in_flight": 1}}, "PullImage"))
        first, second, third = (rules.call(PULL) for _ in range(3))
        for call in (first, second, third):
            call.asks(pull())
        await settle()
        first.close()
        second.close()
        await settle()
        assert (second.done, third.done) == ([], forwarded_request(pull()))

    run(main)


@pytest.mark.parametrize(("queue", "waits"), [(0, False), (5, True)])
def test_limit_refuses(queue: int, waits: bool) -> None:
    """A call that finds the queue full, or waits too long, fails with the rule's name."""

    async def main() -> None:
        limit = {"limit": {"in_flight": 1, "queue": queue, "wait": "3s"}}
        rules = Rules(rule(limit, "PullImage"))
        first, second = rules.call(PULL), rules.call(PULL)
        first.asks(pull())
        second.asks(pull())
        await settle()
        assert bool(second.done) is not waits
        await passed(3.5)
        (command,) = second.done
        assert command[:2] == ("answer", StatusCode.RESOURCE_EXHAUSTED)
        assert "rule r0" in command[2]
        assert rules.counts.errors == {("r0", "queue"): 1}

    run(main)


def test_limit_per_pod() -> None:
    """Each pod has its own slots, as known from its creation."""

    async def main() -> None:
        rules = Rules(rule({"limit": {"in_flight": 1, "per": "pod"}}, "StopPodSandbox"))
        for name in ("a", "b"):
            create_pod(rules, name)
        calls = []
        for name in ("a", "b", "a"):
            calls.append(rules.call("StopPodSandbox"))
            calls[-1].asks(v1.StopPodSandboxRequest(pod_sandbox_id=name))
        await settle()
        assert [bool(call.done) for call in calls] == [True, True, False]
        for call in calls:
            call.close()
        await settle()

    run(main)


# Hooks


def test_hook() -> None:
    """A hook gets the typed messages and the facts; the message that it returns is forwarded."""

    async def main() -> None:
        hook = FakeHook("request", outcome=pull("other"))
        rules = Rules(rule(HOOK, "PullImage"), hooks={"r0": hook})
        call = rules.call(PULL)
        call.asks(pull())
        await settle()
        assert call.done == forwarded_request(pull("other"))
        ((phase, message, facts),) = hook.seen
        assert (phase, message) == ("request", pull())
        assert facts.caller.uid == 12
        assert call.call.rules == ("r0",)

        hook = FakeHook("response", outcome=pulled("other"))
        rules = Rules(rule(HOOK, "PullImage"), hooks={"r0": hook})
        call = rules.call(PULL)
        call.asks(pull())
        call.forget()
        call.answers(pulled())
        await settle()
        assert call.done == forwarded_response(pulled("other"))
        ((phase, message, facts),) = hook.seen
        assert (phase, message, facts.request) == ("response", pulled(), pull())

    run(main)


@pytest.mark.parametrize("phase", ["request", "response"])
@pytest.mark.parametrize(
    ("raised", "message"), [("no", "no"), ("", "denied by rule r0")], ids=["own", "default"]
)
def test_hook_denies(phase: str, raised: str, message: str) -> None:
    """A hook's denial is the reply."""

    async def main() -> None:
        hook = FakeHook(phase, outcome=HookDenial(StatusCode.ABORTED, raised))
        call = Rules(rule(HOOK, "PullImage"), hooks={"r0": hook}).call(PULL)
        call.asks(pull())
        if phase == "response":
            call.forget()
            call.answers(pulled())
        await settle()
        assert call.done == [reply(StatusCode.ABORTED, message)]

    run(main)


@pytest.mark.parametrize("on_error", ["pass", "fail"])
@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (EvaluationError("script", "it broke"), "script"),
        (ZeroDivisionError("it broke"), "internal"),
        (None, "timeout"),
    ],
    ids=["script", "bug", "late"],
)
def test_hook_fails(outcome: Exception | None, reason: str, on_error: str) -> None:
    """A hook that fails, or takes too long, follows on_error, and is counted and logged."""

    async def main() -> None:
        hook = FakeHook("request", outcome=outcome, takes=2.0 if outcome is None else 0.0)
        rules = Rules(
            rule(HOOK, "PullImage", on_error=on_error),
            rule({"deny": {"message": "next"}}, "PullImage"),
            hooks={"r0": hook},
        )
        call = rules.call(PULL)
        call.asks(pull())
        await passed(3.0)
        if on_error == "pass":  # as if the rule had not matched
            assert call.done == [reply(StatusCode.PERMISSION_DENIED, "next")]
        else:
            (command,) = call.done
            assert command[:2] == ("answer", StatusCode.INTERNAL)
            assert command[2].startswith("criproxy: rule r0: ")
        assert rules.counts.errors == {("r0", reason): 1}
        (line,) = rules.log.of("rule failed")
        assert (line["rule"], line["reason"], line["method"]) == ("r0", reason, "PullImage")

    run(main)


# Failed evaluations


@pytest.mark.parametrize("on_error", ["pass", "fail"])
@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"\xff\xff\xff"], "decode"),
        ([], "decode"),
        ([pull(), pull("b")], "decode"),
        ([pull()], "cel"),
    ],
    ids=["undecodable", "none", "two", "cel"],
)
def test_request_that_cannot_be_read(
    messages: list[Message | bytes], reason: str, on_error: str
) -> None:
    """A request on which a rule cannot be evaluated follows its on_error: it is forwarded as it is,
    or answered with INTERNAL and the rule's name."""

    async def main() -> None:
        rules = Rules(rule(DENY, "PullImage", where=BROKEN, on_error=on_error))
        call = rules.call(PULL)
        call.asks(*messages)
        if on_error == "pass":
            assert call.done == forwarded_request(*messages)
        else:
            (command,) = call.done
            assert command[:2] == ("answer", StatusCode.INTERNAL)
            assert command[2].startswith("criproxy: rule r0: ")
            assert call.call.rules == ("r0",)
        assert rules.counts.errors == {("r0", reason): 1}

    run(main)


def test_certain_rules_act_on_unreadable_requests() -> None:
    """A rule that needs nothing of the request acts on one that cannot be decoded."""

    async def main() -> None:
        call = Rules(rule(DENY, "PullImage")).call(PULL)
        call.asks(b"\xff\xff\xff")
        assert call.done == [DENIED]

    run(main)


@pytest.mark.parametrize("on_error", ["pass", "fail"])
@pytest.mark.parametrize(
    "messages", [[], [pulled(), pulled()], [b"\xff\xff"]], ids=["none", "two", "undecodable"]
)
def test_response_that_cannot_be_read(messages: list[Message | bytes], on_error: str) -> None:
    """A response that a rule cannot rewrite follows its on_error."""

    async def main() -> None:
        action = {"rewrite": {"response": {"image_ref": '"x"'}}}
        rules = Rules(rule(action, "PullImage", on_error=on_error))
        call = rules.call(PULL)
        call.asks(pull())
        call.forget()
        call.answers(*messages)
        if on_error == "pass":
            assert call.done == forwarded_response(*messages)
        else:
            assert [command[:2] for command in call.done] == [("answer", StatusCode.INTERNAL)]
        assert rules.counts.errors == {("r0", "decode"): 1}

    run(main)


def test_failures_are_logged_once_a_call() -> None:
    """A rule that fails on each message of a stream is counted each time and logged once."""

    async def main() -> None:
        action = {"rewrite": {"response": {"container_id": '"x"'}}}
        rules = Rules(rule(action, EVENTS))
        call = rules.call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        call.answers(b"\xff", b"\xff", event("a"))
        assert call.done == forwarded_response(b"\xff", b"\xff", event("x"))
        assert rules.counts.errors == {("r0", "decode"): 2}
        assert len(rules.log.of("rule failed")) == 1

    run(main)


def create_pod(rules: Rules, pod: str, namespace: str = "ns") -> None:
    """Create a pod through the rules."""
    call = rules.call("RunPodSandbox")
    config = v1.PodSandboxConfig(metadata=v1.PodSandboxMetadata(name=pod, namespace=namespace))
    request = v1.RunPodSandboxRequest(config=config)
    response = v1.RunPodSandboxResponse(pod_sandbox_id=pod)
    call.asks(request)
    call.answers(response)
    assert call.done == [*forwarded_request(request), *forwarded_response(response)]


def test_pods() -> None:
    """A pod is known from its creation on; an unknown one matches nothing, and is counted."""

    async def main() -> None:
        rules = Rules(rule(DENY, "StopPodSandbox", where='pod.namespace == "chaos"'))
        create_pod(rules, "a", "chaos")
        create_pod(rules, "b", "quiet")
        done = []
        for pod in ("a", "b", "c"):
            call = rules.call("StopPodSandbox")
            call.asks(v1.StopPodSandboxRequest(pod_sandbox_id=pod))
            done.append([command[0] for command in call.done])
        assert done == [["answer"], ["send", "end"], ["send", "end"]]
        assert rules.counts.errors == {("r0", "unknown_pod"): 1}
        assert rules.log == []

    run(main)


def test_pods_of_failed_calls() -> None:
    """A pod whose creation failed is not known; one whose response was replaced is."""

    async def main() -> None:
        rules = Rules(
            rule(DENY, "StopPodSandbox", where='pod.name == "a"'),
            rule({"fault": {"code": "UNAVAILABLE", "when": "after"}}, "RunPodSandbox"),
        )
        config = v1.PodSandboxConfig(metadata=v1.PodSandboxMetadata(name="a", namespace="ns"))
        known = []
        for status in (StatusCode.UNKNOWN, StatusCode.OK):
            call = rules.call("RunPodSandbox")
            call.asks(v1.RunPodSandboxRequest(config=config))
            call.answers(v1.RunPodSandboxResponse(pod_sandbox_id="a"), status=status)
            call = rules.call("StopPodSandbox")
            call.asks(v1.StopPodSandboxRequest(pod_sandbox_id="a"))
            known.append(call.done[0][0] == "answer")
        assert known == [False, True]

    run(main)


def test_pods_that_cannot_be_read() -> None:
    """A response that the pod cache cannot read is forwarded, and logged."""

    async def main() -> None:
        rules = Rules(rule(DENY, "StopPodSandbox", where='pod.name == "a"'))
        call = rules.call("RunPodSandbox")
        call.asks(v1.RunPodSandboxRequest())
        call.forget()
        call.answers(b"\xff\xff")
        assert call.done == forwarded_response(b"\xff\xff")
        assert len(rules.log.of("not remembered")) == 1

    run(main)


def test_large_pods_are_decoded_off_the_loop() -> None:
    """The messages for the pod cache are decoded in a thread if they are large."""

    async def main() -> None:
        executor = _SteppedExecutor()
        rules = Rules(
            rule(DENY, "StopPodSandbox", where='pod.name == "a"'), message_executor=executor
        )
        call = rules.call("RunPodSandbox")
        metadata = v1.PodSandboxMetadata(name="a", uid="u" * LARGE)
        request = v1.RunPodSandboxRequest(config=v1.PodSandboxConfig(metadata=metadata))
        response = v1.RunPodSandboxResponse(pod_sandbox_id="a")
        call.asks(request)
        call.answers(response)
        assert call.done == forwarded_request(request)
        await executor.step()
        assert call.done == [*forwarded_request(request), *forwarded_response(response)]
        assert rules.resources.pod_cache.pod("a") is not None

    run(main)


# Compression


def deflated(data: bytes) -> bytes:
    return zlib.compress(data)


@pytest.mark.parametrize(
    ("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", deflated)]
)
def test_compressed(encoding: bytes, compress: Any) -> None:
    """A compressed message is read; it is forwarded as it came, or uncompressed if changed."""

    async def main() -> None:
        rules = Rules(rule(TO_MIRROR, "PullImage", where=FROM_DOCKER))
        for image, changed in (("docker.io/a", True), ("quay.io/a", False)):
            call = rules.call(PULL, headers=[(b"grpc-encoding", encoding)])
            data = compress(pull(image).SerializeToString())
            call.asks(data, compressed=True)
            if changed:
                assert call.done[0] == sent(CLIENT, pull("mirror/" + image))
            else:
                assert call.done[0] == ("send", CLIENT, data, "compressed")

        action = {"rewrite": {"response": {"image_ref": '"x"'}}}
        call = Rules(rule(action, "PullImage")).call(PULL)
        call.asks(pull())
        call.forget()
        call.answers(compress(pulled().SerializeToString()), compressed=True)
        assert call.done == forwarded_response(pulled("x"))

    run(main)


def test_compressed_beyond_reading() -> None:
    """A message that cannot be decompressed within the limit follows on_error."""

    async def main() -> None:
        data = gzip.compress(pull().SerializeToString())
        bomb = gzip.compress(pull("x" * 2000).SerializeToString())
        for encoding, payload, reason in (
            (b"snappy", data, "compressed"),
            (b"", data, "compressed"),
            (b"gzip snappy", data, "compressed"),
            (b"gzip", data[:-4], "compressed"),
            (b"gzip", data + data, "compressed"),
            (b"gzip", b"not that", "compressed"),
            (b"gzip", bomb, "held_limit"),
        ):
            rules = Rules(rule(TO_MIRROR, "PullImage", where=FROM_DOCKER), held_limit=1000)
            call = rules.call(PULL, headers=[(b"grpc-encoding", each) for each in encoding.split()])
            call.asks(payload, compressed=True)
            assert call.done == [("send", CLIENT, payload, "compressed"), ("end", CLIENT)]
            assert rules.counts.errors == {("r0", reason): 1}

    run(main)


# Large messages


def test_large_messages_off_the_loop() -> None:
    """A large message is processed in a thread; later messages keep their place."""

    async def main() -> None:
        action = {"rewrite": {"response": {"container_id": 'response.container_id + "x"'}}}
        rules = Rules(rule(action, EVENTS))
        call = rules.call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        large = "l" * (LARGE + 1)
        call.answers(event(large), event("small"))
        assert call.done == []
        await call.has_done(3)
        assert call.done == forwarded_response(event(large + "x"), event("smallx"))
        rules.resources.message_executor.close()

    run(main)


def test_too_large_while_in_a_thread() -> None:
    """A rule whose change is still under way in the thread when there is no time left has failed:
    nothing large is processed on the loop instead."""

    async def main() -> None:
        action = {"rewrite": {"response": {"container_id": 'response.container_id + "x"'}}}
        large = "l" * (LARGE + 1)
        for steps in range(3):  # decoding, rewriting, encoding: which of these is under way
            executor = _SteppedExecutor()
            rules = Rules(rule(action, EVENTS), message_executor=executor)
            call = rules.call(EVENTS)
            call.asks(v1.GetEventsRequest())
            call.forget()
            call.says(RUNTIME, event(large), end=False)
            for _ in range(steps):
                await executor.step()
            assert call.done == []
            call.limit_exceeded(RUNTIME)
            assert call.done == [sent(RUNTIME, event(large)), ("pass on", RUNTIME)]
            # for this message, and for those that are not held any more
            assert rules.counts.errors == {("r0", "held_limit"): 2}
            await settle()
            assert rules.crashed == []

    run(main)


def test_too_large_after_a_change() -> None:
    """A change that is complete is kept when a later rule has no time left, and it has been encoded
    in the thread by then."""

    async def main() -> None:
        action = {"rewrite": {"response": {"container_id": 'response.container_id + "x"'}}}
        wait = {"delay": {"fixed": "1h", "when": "after"}}
        large = "l" * (LARGE + 1)
        executor = _SteppedExecutor()
        change = rule(action, EVENTS, **{"continue": True})
        rules = Rules(change, rule(wait, EVENTS), message_executor=executor)
        call = rules.call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        call.says(RUNTIME, event(large), end=False)
        for _ in range(3):  # decoding, rewriting, encoding
            await executor.step()
        assert call.done == []
        call.limit_exceeded(RUNTIME)
        assert call.done == [sent(RUNTIME, event(large + "x")), ("pass on", RUNTIME)]
        assert rules.counts.errors == {("r0", "held_limit"): 1, ("r1", "held_limit"): 2}

    run(main)


@pytest.mark.parametrize("on_error", ["pass", "fail"])
def test_request_too_large(on_error: str) -> None:
    """A request that is too large to be held follows on_error: its first part is forwarded, and the
    rest after it."""

    async def main() -> None:
        rules = Rules(rule(DENY, "PullImage", where=FROM_DOCKER, on_error=on_error))
        call = rules.call(PULL)
        call.limit_exceeded(CLIENT)
        if on_error == "pass":
            assert call.done == [("pass on", CLIENT)]
        else:
            assert [command[:2] for command in call.done] == [("answer", StatusCode.INTERNAL)]
        assert rules.counts.errors == {("r0", "held_limit"): 1}

    run(main)


def test_request_too_large_for_a_rule_that_does_without() -> None:
    """A rule that needs nothing of the request acts on one that is too large."""

    async def main() -> None:
        call = Rules(rule(DENY, "PullImage")).call(PULL)
        call.limit_exceeded(CLIENT)
        assert call.done == [DENIED]

    run(main)


def test_too_large_to_wait() -> None:
    """Where the handler must decide at once, a rule that would wait counts as failed."""

    async def main() -> None:
        delay = rule({"delay": {"fixed": "2s"}}, **{"continue": True})
        rules = Rules(delay, rule(FAULT, "PullImage"))
        call = rules.call(PULL)
        call.limit_exceeded(CLIENT)
        assert call.done == [reply(StatusCode.UNAVAILABLE, "fault injected by rule r1")]
        assert rules.counts.errors == {("r0", "held_limit"): 1}

        outside = rules.call(OUTSIDE)  # it waits from its opening on
        outside.says(CLIENT, b"1", b"2", end=False)
        await passed(1.0)
        assert outside.done == []
        outside.limit_exceeded(CLIENT)
        assert outside.done == [sent(CLIENT, b"1"), sent(CLIENT, b"2"), ("pass on", CLIENT)]
        await passed(5.0)
        assert len(outside.done) == 3

    run(main)


@pytest.mark.parametrize("on_error", ["pass", "fail"])
def test_response_too_large(on_error: str) -> None:
    """A response that is too large to be held follows on_error."""

    async def main() -> None:
        action = {"rewrite": {"response": {"image_ref": '"x"'}}}
        rules = Rules(rule(action, "PullImage", on_error=on_error))
        call = rules.call(PULL)
        call.asks(pull())
        call.forget()
        call.says(RUNTIME, pulled(), end=False)
        call.limit_exceeded(RUNTIME)
        if on_error == "pass":
            assert call.done == [sent(RUNTIME, pulled()), ("pass on", RUNTIME)]
        else:
            assert [command[:2] for command in call.done] == [("answer", StatusCode.INTERNAL)]
        assert rules.counts.errors == {("r0", "held_limit"): 1}

    run(main)


def test_stream_too_large_while_waiting() -> None:
    """A wait is cancelled when too much is held, and the messages are forwarded in order."""

    async def main() -> None:
        rules = Rules(rule({"delay": {"fixed": "1h", "when": "after"}}, EVENTS))
        call = rules.call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        call.says(RUNTIME, event("a"), event("b"), end=False)
        await passed(1.0)
        assert call.done == []
        call.limit_exceeded(RUNTIME)
        assert call.done == [
            sent(RUNTIME, event("a")),
            sent(RUNTIME, event("b")),
            ("pass on", RUNTIME),
        ]

    run(main)


# Streams, and methods outside the CRI


def test_streams_message_by_message() -> None:
    """Each message of a stream is rewritten and forwarded when it arrives."""

    async def main() -> None:
        action = {"rewrite": {"response": {"container_id": 'response.container_id + "x"'}}}
        call = Rules(rule(action, EVENTS)).call(EVENTS)
        call.asks(v1.GetEventsRequest())
        for name in ("a", "b"):
            call.forget()
            call.says(RUNTIME, event(name), end=False)
            assert call.done == [sent(RUNTIME, event(name + "x"))]
        call.forget()
        call.answers()
        assert call.done == forwarded_response()

    run(main)


def test_fault_after_a_stream() -> None:
    """A stream's messages are forwarded, and its OK status becomes the fault."""

    async def main() -> None:
        fault = {"fault": {"code": "UNAVAILABLE", "when": "after"}}
        call = Rules(rule(fault, EVENTS)).call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        call.answers(event("a"))
        assert call.done == [sent(RUNTIME, event("a")), INJECTED]

    run(main)


def test_outside_the_cri() -> None:
    """A method outside the CRI is denied, failed and delayed when it is opened."""

    async def main() -> None:
        assert Rules(rule(DENY)).call(OUTSIDE).done == [DENIED]
        assert Rules(rule(FAULT)).call(OUTSIDE).done == [INJECTED]
        call = Rules(rule({"delay": {"fixed": "2s"}})).call(OUTSIDE)
        call.says(CLIENT, b"1", end=False)
        await passed(1.0)
        assert call.done == []
        await passed(1.5)
        assert call.done == [sent(CLIENT, b"1"), ("pass on", CLIENT)]
        call = Rules(rule({"delay": {"fixed": "2s"}})).call(OUTSIDE)
        call.says(CLIENT, b"1", b"2")
        await passed(2.5)
        assert call.done == forwarded_request(b"1", b"2")

    run(main)


def test_outside_the_cri_after() -> None:
    """Its response is forwarded message by message; faults and delays after it work."""

    async def main() -> None:
        fault = {"fault": {"code": "UNAVAILABLE", "when": "after"}}
        call = Rules(rule(fault)).call(OUTSIDE)
        call.answers(b"1", b"2")
        assert call.done == [sent(RUNTIME, b"1"), sent(RUNTIME, b"2"), INJECTED]

    run(main)


# Dry-run


DRY: dict[str, tuple[dict[str, Any], str]] = {
    "deny": (DENY, "answer PERMISSION_DENIED: denied by rule r0"),
    "fault": (FAULT, "answer UNAVAILABLE: fault injected by rule r0"),
    "fault after": (
        {"fault": {"code": "UNAVAILABLE", "when": "after"}},
        "answer UNAVAILABLE: fault injected by rule r0",
    ),
    "hang": ({"fault": {"hang": True}}, "hang"),
    "delay": ({"delay": {"fixed": "2s"}}, "wait 2.000s"),
    "rewrite": (TO_MIRROR, "change the message"),
    "rewrite response": ({"rewrite": {"response": {"image_ref": '"x"'}}}, "change the message"),
    "hook": (HOOK, "change the message"),
}


@pytest.mark.parametrize(("action", "would"), DRY.values(), ids=DRY)
@pytest.mark.parametrize("for_all", [False, True])
def test_dry_run(action: dict[str, Any], would: str, for_all: bool) -> None:
    """A rule in dry-run logs its effect, with the changes, and changes nothing."""

    async def main() -> None:
        mode = {} if for_all else {"mode": "dry-run"}
        rules = Rules(
            rule(action, "PullImage", **mode),
            dry_run=for_all,
            hooks={"r0": FakeHook("request", outcome=pull("other"))},
        )
        call = rules.call(PULL)
        call.asks(pull())
        call.answers(pulled())
        held = call.hold is not None and call.hold.response
        assert call.done == [
            *forwarded_request(pull()),
            *(forwarded_response(pulled()) if held else []),
        ] or (call.done == forwarded_response(pulled()))
        assert call.call.rules == ()
        assert call.call.held == 0.0
        await settle()
        (line,) = rules.log.of("dry-run")
        assert (line["rule"], line["would"], line["method"]) == ("r0", would, "PullImage")
        assert bool(line.get("changes")) is (would == "change the message")
        assert rules.counts.matches == {("r0", next(iter(action)), "dry-run"): 1}

    run(main)


@pytest.mark.parametrize(
    ("fault", "would"),
    [
        (
            {"code": "ABORTED", "cut_after": 1},
            "end the stream here, answer ABORTED: fault injected by rule r0",
        ),
        ({"drop": 'response.container_id == "a"'}, "drop the message"),
    ],
)
def test_dry_run_of_streams(fault: dict[str, Any], would: str) -> None:
    """An effect on a stream is logged in dry-run, and the stream is complete."""

    async def main() -> None:
        rules = Rules(rule({"fault": fault}, EVENTS, mode="dry-run"))
        call = rules.call(EVENTS)
        call.asks(v1.GetEventsRequest())
        call.forget()
        call.answers(event("a"), event("b"))
        assert call.done == forwarded_response(event("a"), event("b"))
        (line,) = rules.log.of("dry-run")
        assert (line["half"], line["would"]) == ("response", would)

    run(main)


def test_dry_run_of_metadata() -> None:
    """Headers that a rule would add are logged by name, and not added."""

    async def main() -> None:
        adds = {"rewrite": {"metadata": {"add": {"x-node": '"n1"'}}}}
        rules = Rules(rule(adds, "PullImage", mode="dry-run"))
        call = rules.call(PULL)
        assert call.hold is not None
        assert call.hold.metadata == []
        assert call.call.rules == ()
        (line,) = rules.log.of("dry-run")
        assert line["would"] == "add x-node"

    run(main)


def test_dry_run_does_not_end_evaluation() -> None:
    """A rule that matches in dry-run does not end the evaluation."""

    async def main() -> None:
        rules = Rules(
            rule(TO_MIRROR, "PullImage", mode="dry-run"),
            rule(DENY, "PullImage", where=FROM_DOCKER, name="second"),
        )
        call = rules.call(PULL)
        call.asks(pull())
        assert call.done == [reply(StatusCode.PERMISSION_DENIED, "denied by rule second")]
        assert call.call.rules == ("second",)

    run(main)


def test_dry_run_never_fails_a_call() -> None:
    """A rule in dry-run whose evaluation fails is counted, and the call forwarded."""

    async def main() -> None:
        rules = Rules(rule(DENY, "PullImage", where=BROKEN, mode="dry-run", on_error="fail"))
        call = rules.call(PULL)
        call.asks(pull())
        assert call.done == forwarded_request(pull())
        assert rules.counts.errors == {("r0", "cel"): 1}

    run(main)


def test_dry_run_of_hooks() -> None:
    """A hook in dry-run is called in the background: its denial is logged, its failure counted."""

    async def main() -> None:
        hooks = {
            "r0": FakeHook("request", outcome=HookDenial(StatusCode.ABORTED, "no")),
            "r1": FakeHook("request", outcome=EvaluationError("script", "it broke")),
        }
        rules = Rules(rule(HOOK, "PullImage"), rule(HOOK, "PullImage"), hooks=hooks, dry_run=True)
        call = rules.call(PULL)
        call.asks(pull())
        assert call.done == forwarded_request(pull())
        await settle()
        (line,) = rules.log.of("dry-run")
        assert line["would"] == "answer ABORTED: no"
        assert rules.counts.errors == {("r1", "script"): 1}

    run(main)


def test_dry_run_of_limits() -> None:
    """A limit in dry-run counts the calls in flight, and logs those that would wait."""

    async def main() -> None:
        rules = Rules(rule({"limit": {"in_flight": 1}}, "PullImage"), dry_run=True)
        first, second = rules.call(PULL), rules.call(PULL)
        for call in (first, second):
            call.asks(pull())
            assert call.done == forwarded_request(pull())
        (line,) = rules.log.of("dry-run")
        assert line["would"] == "wait for a place"
        for call in (first, second):
            call.close()
        third = rules.call(PULL)
        third.asks(pull())
        assert len(rules.log.of("dry-run")) == 1

    run(main)


def test_nothing_after_the_end() -> None:
    """Events after the reply change nothing."""

    async def main() -> None:
        rules = Rules(rule(DENY, "PullImage"))
        call = rules.call(PULL)
        call.asks(pull())
        handler: Any = call.hold and call.hold.handler
        handler.message(RUNTIME, b"", False)
        handler.ended(RUNTIME, [])
        handler.limit_exceeded(RUNTIME, "held_limit", "")
        handler.closed()
        assert call.done == [DENIED]

    run(main)


def test_defect() -> None:
    """A call whose handler raises another exception is answered with INTERNAL."""

    class Broken(Scripted):
        def send(self, *_: Any) -> None:
            raise ValueError("a defect")

    async def main() -> None:
        rules = Rules(rule(DENY, "PullImage", where=FROM_DOCKER))
        call = Broken(rules, f"/{PULL}".encode())
        call.asks(pull("quay.io/other"))
        assert call.done == [reply(StatusCode.INTERNAL, "criproxy: internal error")]
        assert len(rules.log.of("handling failed")) == 1

    run(main)


@pytest.mark.parametrize(
    ("action", "where", "image"),
    [
        (TO_MIRROR, None, "docker.io/nginx"),
        (TO_MIRROR, FROM_DOCKER, "quay.io/nginx"),
        (DENY, FROM_DOCKER, "docker.io/nginx"),
        (DENY, 'image.registry == "quay.io"', "docker.io/nginx"),
        ({"rewrite": {"response": {"image_ref": "response.image_ref"}}}, None, "docker.io/nginx"),
    ],
)
def test_freed_without_the_garbage_collector(
    action: dict[str, Any], where: str | None, image: str
) -> None:
    """What is held of a call is freed as soon as the rules have nothing more to do with it."""
    condition = {} if where is None else {"where": where}

    def number() -> int:
        kinds = (HeldCall, RuleEvaluation, HeldMessage, Facts)
        return sum(type(each) in kinds for each in gc.get_objects())

    async def main() -> None:
        rules = Rules(rule(action, "PullImage", **condition))
        gc.collect()
        gc.disable()
        try:
            before = number()
            call = rules.call(PULL)
            during = number()
            call.asks(pull(image))
            call.answers(pulled())
            call.hold = None
            after = number()
        finally:
            gc.enable()
        assert (during > before, after) == (True, before)

    run(main)
