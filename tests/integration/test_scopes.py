"""A listener with a profile, between grpcio's peers: nothing that is denied gets to the runtime."""

from typing import Any

import grpc
import msgspec
import pytest

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.enforce.policies.deny_policy import DenyAllPolicy
from criproxy.enforce.policies.profile_policy import ProfilePolicy
from criproxy.enforce.policies.rule_policy import RulePolicy
from criproxy.rules.compiled.ruleset import compile_rules
from criproxy.rules.profiles.profile import ProfileSpec, profile_of
from tests.support.cri_peers import (
    ECHO,
    EVENTS,
    PULL,
    STREAM,
    UNKNOWN,
    Ask,
    CriPeer,
    execute,
    make,
    pull,
    stream,
    written,
)
from tests.support.grpc_peers import channel
from tests.support.held import specs
from tests.support.ruled import RuledRelay
from tests.support.waiting import LIMIT_SECONDS

CODE = grpc.StatusCode
CHANGES = sorted(path for path, each in METHODS.items() if each.mutating)
INVENTED = (
    "/runtime.v1.RuntimeService/ExecEverything",
    "/runtime.v9.RuntimeService/Version",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/containerd.services.tasks.v1.Tasks/Kill",
    ECHO,
)


def scope(relay: RuledRelay, name: str, *rules: dict[str, Any], **profile: Any) -> None:
    """Have the listener be one with a profile, with rules in addition."""
    spec = msgspec.convert({"methods": ["@read"], **profile}, ProfileSpec)
    found = profile_of(name, {"mine": spec})
    assert found is not None

    def swap() -> None:
        resources = relay._resources
        policy = RulePolicy(compile_rules(specs(rules)), resources, updates_pod_cache=True)
        relay.active_policy.policy = ProfilePolicy(found, resources, policy)

    relay.call(swap)


def knows(relay: RuledRelay, *containers: str, namespace: str = "shop") -> None:
    """Have the memory know containers, all of one pod."""
    pod = v1.PodSandbox(id="pod", metadata={"namespace": namespace})
    listed = [v1.Container(id=each, pod_sandbox_id="pod") for each in containers]
    relay.call(
        lambda: relay._resources.pod_cache.listed(
            v1.ListPodSandboxResponse(items=[pod]).SerializeToString(),
            v1.ListContainersResponse(containers=listed).SerializeToString(),
        )
    )


def empty(path: str) -> Ask:
    """A call with an empty request."""
    return Ask(path, (UNKNOWN if path not in METHODS else written(request_class(METHODS[path])()),))


def test_changes_at_a_read_only_socket(relay: RuledRelay, peer: CriPeer) -> None:
    """Every method that changes something, in both versions, and all invented ones are denied on
    one connection; the runtime is asked none of them. Every read is answered."""
    scope(relay, "read-only")
    with channel(relay.path) as client:
        for path in CHANGES:
            outcome = make(client, empty(path)).outcome()
            assert (path, outcome.code) == (path, CODE.PERMISSION_DENIED)
            assert METHODS[path].name in outcome.details
            assert "read-only" in outcome.details
        for path in INVENTED:
            call = client.unary_unary(path)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=LIMIT_SECONDS)
            assert caught.value.code() is CODE.PERMISSION_DENIED  # type: ignore[attr-defined]
        assert peer.asked == {}
        for number, path in enumerate(sorted(METHODS)):
            if not METHODS[path].mutating:
                outcome = make(client, empty(path), number).outcome()
                assert (path, outcome.code) == (path, CODE.OK)
                assert peer.asked[str(number)].path == path
                for message in outcome.messages:
                    assert UNKNOWN not in message
                    response_class(METHODS[path]).FromString(message)
    assert len(relay.recorder.opened) == 1
    assert sum(relay.counts.denied.values()) == len(CHANGES) + len(INVENTED)
    reasons = [call.denied for call in relay.recorder.ended if call.denied]
    assert reasons == ["method"] * len(CHANGES) + ["unknown_method"] * len(INVENTED)


def test_images_only(relay: RuledRelay, peer: CriPeer) -> None:
    """Images may be pulled at an images-only socket, byte for byte; pods may not even be listed."""
    scope(relay, "images-only")
    with channel(relay.path) as client:
        outcome = make(client, pull("nginx")).outcome()
        assert outcome.code is CODE.OK
        assert UNKNOWN in outcome.messages[0]
        assert make(client, stream("a")).outcome().code is CODE.PERMISSION_DENIED
        assert [each.path for each in peer.asked.values()] == [PULL]


def test_streams_of_a_namespace(relay: RuledRelay) -> None:
    """Of a stream's messages those come that tell of what may be seen."""
    scope(relay, "mine", namespaces=["shop"])
    knows(relay, "1", "3")
    with channel(relay.path) as client:
        outcome = make(client, stream("x", messages=5)).outcome()
        assert outcome.code is CODE.OK
        seen = [v1.StreamContainersResponse.FromString(each) for each in outcome.messages]
        assert seen == []  # the peer's containers name no pod
        outcome = make(client, empty(EVENTS)._replace(messages=5)).outcome()
        assert outcome.code is CODE.OK
        events = [v1.ContainerEventResponse.FromString(each) for each in outcome.messages]
        assert [each.container_id for each in events] == ["1", "3"]


def test_fifty_at_once(relay: RuledRelay, peer: CriPeer) -> None:
    """Fifty calls at once on one connection each come to their own end: those that may not be made
    are denied, the others are answered."""
    scope(relay, "mine", methods=["@read", "ExecSync", "PullImage"], namespaces=["shop"])
    knows(relay, "c")
    asks = [
        execute("true"),
        Ask("/runtime.v1.RuntimeService/ExecSync", (v1.ExecSyncRequest().SerializeToString(),)),
        pull("nginx"),
        empty("/runtime.v1.RuntimeService/StopContainer"),
        empty(EVENTS),
    ] * 10
    codes = [CODE.OK, CODE.PERMISSION_DENIED, CODE.OK, CODE.PERMISSION_DENIED, CODE.OK] * 10
    with channel(relay.path) as client:
        calls = [make(client, ask, number) for number, ask in enumerate(asks)]
        assert [each.outcome().code for each in calls] == codes
        relay.nothing_is_held()
    assert sorted(map(int, peer.asked)) == [at for at, code in enumerate(codes) if code is CODE.OK]
    assert {key[2]: count for key, count in relay.counts.denied.items()} == {
        "unknown_pod": 10,
        "method": 10,
    }


def test_reload_of_rules(relay: RuledRelay, peer: CriPeer) -> None:
    """Rules that come and go change nothing about the profile; they hold in addition."""
    with channel(relay.path) as client:
        stop = empty("/runtime.v1.RuntimeService/StopContainer")
        scope(relay, "read-only")
        assert make(client, stream("a")).outcome().code is CODE.OK
        deny = {"match": {"methods": ["StreamContainers"]}, "deny": {"code": "ABORTED"}}
        scope(relay, "read-only", deny)
        assert make(client, stream("a")).outcome().code is CODE.ABORTED
        assert make(client, stop).outcome().code is CODE.PERMISSION_DENIED
        scope(relay, "read-only")
        assert make(client, stream("a")).outcome().code is CODE.OK
        assert make(client, stop).outcome().code is CODE.PERMISSION_DENIED
        assert {each.path for each in peer.asked.values()} == {STREAM}


def test_refused_callers(relay: RuledRelay, peer: CriPeer) -> None:
    """Who may not connect is told so at each call; the runtime is asked nothing."""
    policy = DenyAllPolicy("callers with uid 12", relay.counts)
    relay.call(lambda: setattr(relay.active_policy, "policy", policy))
    with channel(relay.path) as client:
        for ask in (pull("nginx"), stream("a"), empty(EVENTS)):
            outcome = make(client, ask).outcome()
            assert outcome.code is CODE.PERMISSION_DENIED
            assert outcome.details == "criproxy: this listener is not for callers with uid 12"
    assert peer.asked == {}
    relay.recorder.calls(3)
    assert {call.denied for call in relay.recorder.ended} == {"caller"}
