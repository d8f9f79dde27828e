"""Denials and changes that are recorded on a call."""

from typing import Any

from google.protobuf.message import Message

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.enforce.hooks.hook import HookDenial
from criproxy.rules.facts import Facts
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.message_capture import CaptureLimits, MessageCapture
from tests.support.calls import CONNECTION
from tests.support.held import IMAGES, RUNTIME, Rules, Scripted
from tests.support.virtual_time import run, settle

PULL = f"{IMAGES}/PullImage"
EVENTS = "GetContainerEvents"
MATCH = {"methods": ["PullImage"]}


class Hook:
    """Denies calls, or replaces their image."""

    has_request, has_response, has_deny, timeout = True, False, True, 1.0

    def __init__(self, image: str = "") -> None:
        self._image = image

    def start(self, log: object) -> None: ...

    def stop(self) -> None: ...

    async def request(self, message: Message, facts: Facts) -> Message:
        if not self._image:
            raise HookDenial(StatusCode.ABORTED, "no")
        return v1.PullImageRequest(image={"image": self._image})

    async def response(self, message: Message, facts: Facts) -> Message:
        return message


def pull(image: str) -> v1.PullImageRequest:
    return v1.PullImageRequest(image={"image": image})


def captured(call: Scripted) -> Scripted:
    """Capture the messages of a call."""
    call.call.capture = MessageCapture(CaptureLimits(1 << 20, 1 << 20))
    return call


async def called(rule: dict[str, Any], hook: Any = None, dry_run: bool = False) -> Scripted:
    rules = Rules(rule, hooks={"r0": hook} if hook else None, dry_run=dry_run)
    call = captured(rules.call(PULL))
    call.asks(pull("a"))
    await settle()
    name = (CONNECTION.listener, "PullImage", "rule")
    assert rules.counts.denied == ({name: 1} if call.call.denied else {})
    return call


def test_denied_by_a_rule() -> None:
    """A denial by a rule's deny or hook is recorded and counted; a fault and dry-run are not."""

    async def main() -> None:
        deny: dict[str, Any] = {"match": MATCH, "deny": {}}
        hook: dict[str, Any] = {"match": MATCH, "hook": {"script": "-"}}
        fault: dict[str, Any] = {"match": MATCH, "fault": {"code": "ABORTED"}}
        assert (await called(deny)).call.denied == "rule"
        assert (await called(hook, Hook())).call.denied == "rule"
        assert (await called(fault)).call.denied == ""
        assert (await called(deny, dry_run=True)).call.denied == ""

    run(main)


def test_changes() -> None:
    """A rule's change is recorded on a call whose messages are captured: before and after."""

    async def main() -> None:
        rewrite: dict[str, Any] = {
            "match": MATCH,
            "rewrite": {"request": {"image.image": '"b"'}},
        }
        call = await called(rewrite)
        assert call.call.changes == (("r0", "request", pull("a"), pull("b")),)
        call = await called({"match": MATCH, "hook": {"script": "-"}}, Hook("c"))
        assert call.call.changes == (("r0", "request", pull("a"), pull("c")),)
        assert (await called(rewrite, dry_run=True)).call.changes == ()
        call = Rules(rewrite).call(PULL)
        call.asks(pull("a"))
        assert call.call.changes == ()  # its messages are not captured

    run(main)


def test_changes_of_a_stream() -> None:
    """Of a stream only the first changed message is recorded: a stream may be endless."""

    async def main() -> None:
        rule = {"match": {"methods": [EVENTS]}, "rewrite": {"response": {"container_id": '"x"'}}}
        call = captured(Rules(rule).call(EVENTS))
        call.asks(v1.GetEventsRequest())
        for number in range(3):
            event = v1.ContainerEventResponse(container_id=str(number))
            call.says(RUNTIME, event, end=False)
        ((name, phase, before, after),) = call.call.changes
        assert (name, phase) == ("r0", "response")
        assert (before.container_id, after.container_id) == ("0", "x")

    run(main)
