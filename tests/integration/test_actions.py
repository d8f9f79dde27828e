"""Each action on a third of fifty concurrent calls of a connection; the others are unchanged."""

import asyncio
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.enforce.hooks import webhooks
from criproxy.enforce.hooks.hook import make_hook
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from tests.integration.webhook import Webhook
from tests.support.call_batches import BATCH, MATCHED, Case, check_action, run_batch
from tests.support.cri_peers import (
    EXEC,
    IMAGE,
    STREAM,
    CallSpec,
    CriPeer,
    encode,
    pull,
)
from tests.support.grpc_peers import channel
from tests.support.held import specs
from tests.support.rule_relay import RuleRelay
from tests.support.waiting import LIMIT_SECONDS, wait_until

KIBIBYTE: Final = 1 << 10
MEBIBYTE: Final = 1 << 20
CODE = grpc.StatusCode
HANGS: Final[dict[str, Any]] = {
    "hangs": True,
    "code": CODE.CANCELLED,
    "details": None,
    "sends_headers": False,
}
"""Expectations for a call that hangs until its client cancels it."""


def _rewrite(path: str, value: str, phase: str = "request") -> dict[str, Any]:
    return {"rewrite": {phase: {path: value}}}


def _times(value: str, count: int) -> str:
    return " + ".join([value] * count)


def _image(image: str | int) -> Any:
    """Replace the image of the request, or repeat it a number of times."""

    def change(request: v1.PullImageRequest) -> None:
        request.image.image = image if isinstance(image, str) else request.image.image * image

    return change


def _argument(argument: str | int) -> Any:
    def change(request: v1.ExecSyncRequest) -> None:
        request.cmd[1] = argument if isinstance(argument, str) else request.cmd[1] * argument

    return change


def _stdout(*, times: int = 1, more: bytes = b"", to: bytes | None = None) -> Any:
    def change(response: v1.ExecSyncResponse) -> None:
        response.stdout = response.stdout * times + more if to is None else to

    return change


def _container(response: v1.StreamContainersResponse) -> None:
    response.containers[0].labels["seen"] = "by " + response.containers[0].id


def _label(request: v1.PullImageRequest) -> None:
    request.image.annotations["team"] = "blue"


def _reference(response: v1.PullImageResponse) -> None:
    response.image_ref += "#seen"


DENIED: Final[dict[str, Any]] = {
    "code": CODE.PERMISSION_DENIED,
    "details": "no: „µ“ 100%",
    "reaches_server": False,
}
UNAVAILABLE: Final[dict[str, Any]] = {"code": CODE.UNAVAILABLE, "details": "lost"}
FAULT: Final = {"code": "UNAVAILABLE", "message": "lost"}

CASES: Final = {
    "deny": Case({"deny": {"message": "no: „µ“ 100%"}}, **DENIED),
    "deny a large one": Case({"deny": {"message": "no: „µ“ 100%"}}, EXEC, pad=300_000, **DENIED),
    "deny a stream": Case({"deny": {"message": "no: „µ“ 100%"}}, STREAM, **DENIED),
    "delay before": Case({"delay": {"fixed": "100ms", "jitter": "50ms"}}),
    "delay after": Case({"delay": {"fixed": "100ms", "when": "after"}}, size=100_000),
    "delay a stream": Case({"delay": {"percentiles": {"p50": "50ms"}, "when": "after"}}, STREAM),
    "fault before": Case({"fault": FAULT}, reaches_server=False, **UNAVAILABLE),
    "fault after": Case({"fault": FAULT | {"when": "after"}}, size=100_000, **UNAVAILABLE),
    "fault after a stream": Case({"fault": FAULT | {"when": "after"}}, STREAM, **UNAVAILABLE),
    "hang before": Case({"fault": {"hang": True}}, reaches_server=False, **HANGS),
    "hang after": Case({"fault": {"hang": True, "when": "after"}}, size=100_000, **HANGS),
    "cut at once": Case(
        {"fault": FAULT | {"cut_after": 0}},
        STREAM,
        messages=lambda messages: [],
        **UNAVAILABLE,
    ),
    "cut": Case(
        {"fault": FAULT | {"cut_after": 2}},
        STREAM,
        messages=lambda messages: messages[:2],
        **UNAVAILABLE,
    ),
    "cut a large one": Case(
        {"fault": FAULT | {"cut_after": 3}},
        STREAM,
        messages=lambda messages: messages[:3],
        size=100_000,
        **UNAVAILABLE,
    ),
    "cut after all": Case({"fault": FAULT | {"cut_after": 100}}, STREAM),
    "drop": Case(
        {"fault": {"drop": 'response.containers[0].id in ["0", "3", "5"]'}},
        STREAM,
        messages=lambda messages: [messages[1], messages[2], messages[4]],
    ),
    "drop all": Case({"fault": {"drop": True}}, STREAM, messages=lambda messages: []),
    "request shorter": Case(_rewrite("image.image", '"x"'), request=_image("x"), pad=1000),
    "request emptied": Case(_rewrite("cmd[1]", '""'), EXEC, request=_argument(""), pad=300_000),
    "request longer": Case(
        _rewrite("image.image", _times("request.image.image", 2)), request=_image(2), pad=1000
    ),
    "request over 64 KiB": Case(
        _rewrite("image.image", _times("request.image.image", 9)), request=_image(9), pad=8192
    ),
    "request over 1 MiB": Case(
        _rewrite("cmd[1]", _times("request.cmd[1]", 17)),
        EXEC,
        request=_argument(17),
        pad=64 * KIBIBYTE,
    ),
    "request of a stream": Case(
        _rewrite("filter.id", '"x"'),
        STREAM,
        request=lambda request: setattr(request.filter, "id", "x"),
    ),
    "response shorter": Case(
        _rewrite("stdout", 'b"x"', "response"), EXEC, response=_stdout(to=b"x"), size=100_000
    ),
    "response longer": Case(
        _rewrite("stdout", 'response.stdout + b"x"', "response"),
        EXEC,
        response=_stdout(more=b"x"),
    ),
    "response to 4 MiB": Case(
        _rewrite("stdout", _times("response.stdout", 16), "response"),
        EXEC,
        response=_stdout(times=16),
        matched_by=("request",),
        size=256 * KIBIBYTE,
    ),
    "response of 4 MiB": Case(
        _rewrite("stdout", 'response.stdout + b"x"', "response"),
        EXEC,
        response=_stdout(more=b"x"),
        size=4 * MEBIBYTE,
        matched_by=("metadata",),
    ),
    "response of a stream": Case(
        _rewrite('containers[0].labels["seen"]', '"by " + response.containers[0].id', "response"),
        STREAM,
        response=_container,
        size=30_000,
    ),
    "metadata": Case(
        {"rewrite": {"metadata": {"add": {"x-more": '"a " + api_version', "x-z": '"z"'}}}},
        headers=(("x-more", "a v1"), ("x-z", "z")),
        matched_by=("metadata",),
    ),
    "limit": Case({"limit": {"in_flight": 3, "queue": 50, "wait": "1m"}}, max_in_flight=3),
    "limit by method": Case(
        {"limit": {"in_flight": 3, "per": "method"}}, STREAM, max_in_flight=3, size=30_000
    ),
    "limit by caller": Case({"limit": {"in_flight": 1, "per": "caller"}}, EXEC, max_in_flight=1),
}


def _each() -> list[Any]:
    """Return every case with both conditions, alternating the event loop."""
    both = [
        (name, case, matched_by) for name, case in CASES.items() for matched_by in case.matched_by
    ]
    return [
        pytest.param(case, matched_by, loop, id=f"{name}-{matched_by}-{loop}")
        for (name, case, matched_by), loop in zip(both, cycle(("uvloop", "asyncio")), strict=False)
    ]


@pytest.mark.parametrize(("case", "matched_by", "loop"), _each())
def test_action(relay: RuleRelay, peer: CriPeer, case: Case, matched_by: str) -> None:
    """Matching calls get exactly the action; the others are unchanged in every byte."""
    check_action(relay, peer, case, matched_by)
    matches = {key: count for key, count in relay.counts.matches.items() if count}
    assert matches == {("it", next(iter(case.action)), "enforce"): len(MATCHED)}
    assert not relay.log.of("rule failed")


@pytest.mark.parametrize("name", ["request longer", "response longer", "response of a stream"])
def test_both_halves_compressed(short_dir: Path, loop: str, name: str) -> None:
    """A compressed message is rewritten; one that no rule changes stays compressed."""
    case = CASES[name]
    gzip = grpc.Compression.Gzip
    with (
        CriPeer(short_dir / "peer.sock", compression=gzip) as peer,
        RuleRelay(short_dir, peer.path, loop=loop) as relay,
    ):
        check_action(relay, peer, case, "request", compression=gzip)
        assert not relay.log.of("rule failed")


SCRIPTS: Final = {
    "sync": """
def request(call):
    call.message.image.annotations["team"] = "blue"

def response(call):
    call.message.image_ref += "#seen"
""",
    "async": """
async def request(call):
    await call.delay(0.01)
    call.message.image.annotations["team"] = "blue"

async def response(call):
    await call.delay(0.01)
    call.message.image_ref += "#seen"
""",
}


@pytest.mark.parametrize("matched_by", ["request", "metadata"])
@pytest.mark.parametrize("kind", sorted(SCRIPTS))
def test_script(
    relay: RuleRelay, peer: CriPeer, tmp_path: Path, kind: str, matched_by: str
) -> None:
    """A script changes the messages of the matching calls, and of no others."""
    (tmp_path / "hook.py").write_text(SCRIPTS[kind])
    action = {"hook": {"script": "hook.py", "timeout": "30s"}}
    case = Case(action, request=_label, response=_reference)
    (spec,) = specs([case.rule(matched_by)])
    assert spec.hook is not None
    check_action(relay, peer, case, matched_by, {"it": make_hook(spec.hook, tmp_path)})
    assert not relay.log.of("rule failed")


def test_script_that_denies(relay: RuleRelay, peer: CriPeer, tmp_path: Path) -> None:
    """A script's denial is the reply; the server does not receive the call."""
    (tmp_path / "hook.py").write_text(
        "from criproxy.hook import Deny\n"
        "def request(call):\n"
        "    raise Deny('ABORTED', 'not ' + call.message.image.image)\n"
    )
    case = Case(
        {"hook": {"script": "hook.py", "timeout": "30s", "may_deny": True}},
        code=CODE.ABORTED,
        details="not match/",
        reaches_server=False,
    )
    (spec,) = specs([case.rule("request")])
    assert spec.hook is not None
    check_action(relay, peer, case, "request", {"it": make_hook(spec.hook, tmp_path)})


@pytest.mark.parametrize("matched_by", ["request", "metadata"])
def test_webhook(relay: RuleRelay, peer: CriPeer, tmp_path: Path, matched_by: str) -> None:
    """A webhook's patches are applied to the messages of the matching calls, and of no others."""
    with Webhook() as webhook:
        action = {"hook": {"url": webhook.url, "timeout": "30s"}}
        case = Case(action, request=_label, response=_reference)
        (spec,) = specs([case.rule(matched_by)])
        assert spec.hook is not None
        hook = make_hook(spec.hook, tmp_path)
        assert isinstance(hook, webhooks.Webhook)
        check_action(relay, peer, case, matched_by, {"it": hook})
        asyncio.run_coroutine_threadsafe(hook.close(), relay.loop).result(LIMIT_SECONDS)
        assert webhook.received == 2 * len(MATCHED)
    assert not relay.log.of("rule failed")


def test_queue_that_is_full(relay: RuleRelay, peer: CriPeer) -> None:
    """Calls beyond the queue fail at once; those in the queue are served in order."""
    case = Case({"limit": {"in_flight": 3, "queue": 5}})
    relay.load(case.rule("request"))
    with channel(relay.path) as one:
        ended = run_batch(
            one,
            peer,
            case.batch(),
            BATCH - len(MATCHED) + 3,
            before=lambda calls: wait_until(
                lambda: sum(call.call.done() for call in calls) == len(MATCHED) - 8, "refusals"
            ),
        )
        codes = Counter(ended[number].outcome.code for number in MATCHED)
        refused = [each for each in ended if each.outcome.code is CODE.RESOURCE_EXHAUSTED]
        assert codes == {CODE.OK: 8, CODE.RESOURCE_EXHAUSTED: len(MATCHED) - 8}
        assert all(each.received is None for each in refused)
        assert {each.outcome.details for each in refused} == {
            "criproxy: rule it: queue is full (5 wait)"
        }
        assert peer.peak_in_flight["match"] <= 3
        relay.assert_restored(relay.pairs[0])


def test_images_renamed(relay: RuleRelay, peer: CriPeer) -> None:
    """The server sees an image by one name, the client by the other; other images keep theirs."""
    pairs = [{"from": "docker.io/*", "to": "mirror.local/*"}]
    names = [
        f"{'quay.io' if number % 3 else 'docker.io/library'}/n{number}:1" for number in range(BATCH)
    ]
    batch = [
        CallSpec(IMAGE, (encode(v1.ImageStatusRequest(image=v1.ImageSpec(image=name))),))
        for name in names
    ]
    with channel(relay.path) as one:
        without = run_batch(one, peer, batch, BATCH)
    relay.load({"name": "it", "match": {"methods": ["*Image*"]}, "rewrite_images": pairs})
    with channel(relay.path) as one:
        ended = run_batch(one, peer, batch, BATCH)
        relay.assert_restored(relay.pairs[1])
    for number, (got, plain) in enumerate(zip(ended, without, strict=True)):
        assert got.received is not None
        assert plain.received is not None
        assert got.outcome == plain.outcome, names[number]
        if number % 3:
            assert got.received == plain.received
        else:
            received = v1.ImageStatusRequest.FromString(got.received.requests[0])
            assert received.image.image == f"mirror.local/library/n{number}:1"


def test_dry_run(relay: RuleRelay, peer: CriPeer) -> None:
    """In dry-run all calls are as without rules, and the effects are logged."""
    batch = Case({}).batch()
    with channel(relay.path) as one:
        without = run_batch(one, peer, batch, BATCH)
    rules = [
        Case(CASES[name].action).rule("request") | {"name": name}
        for name in ("deny", "fault after", "request longer", "limit")
    ]
    relay.load(*rules, dry_run=True)
    with channel(relay.path) as one:
        assert run_batch(one, peer, batch, BATCH) == without
        relay.assert_restored(relay.pairs[1])
    would = Counter(fields["rule"] for fields in relay.log.of("dry-run"))
    assert would["deny"] == would["fault after"] == would["request longer"] == len(MATCHED)


def test_small_budget_and_no_rules_for_large_ones(
    short_dir: Path, peer: CriPeer, loop: str
) -> None:
    """Calls that are not held need no budget: large calls pass where very little may be held."""
    with RuleRelay(short_dir, peer.path, loop=loop, budget=HeldBytesBudget(1000, 1000)) as relay:
        relay.load(Case({"deny": {}}).rule("metadata"))
        batch = [pull("x" * 100_000, group="other", size=100_000) for _ in range(BATCH)]
        with channel(relay.path) as one:
            ended = run_batch(one, peer, batch, BATCH)
        assert {each.outcome.code for each in ended} == {CODE.OK}
