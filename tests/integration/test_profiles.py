"""A listener with a profile between grpcio peers: no denied call reaches the runtime."""

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
    CallSpec,
    CriPeer,
    encode,
    execute,
    pull,
    start_call,
    stream,
)
from tests.support.grpc_peers import channel
from tests.support.held import specs
from tests.support.rule_relay import RuleRelay
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


def use_profile(relay: RuleRelay, name: str, *rules: dict[str, Any], **profile: Any) -> None:
    """Give the listener a profile, and rules in addition."""
    spec = msgspec.convert({"methods": ["@read"], **profile}, ProfileSpec)
    found = profile_of(name, {"mine": spec})
    assert found is not None

    def swap() -> None:
        resources = relay._resources
        policy = RulePolicy(compile_rules(specs(rules)), resources, updates_pod_cache=True)
        relay.active_policy.policy = ProfilePolicy(found, resources, policy)
        relay.active_policy.http1_refusal = f"criproxy: profile {name}"

    relay.call(swap)


def add_to_pod_cache(relay: RuleRelay, *containers: str, namespace: str = "shop") -> None:
    """Add containers of one pod to the pod cache."""
    pod = v1.PodSandbox(id="pod", metadata={"namespace": namespace})
    listed = [v1.Container(id=each, pod_sandbox_id="pod") for each in containers]
    relay.call(
        lambda: relay._resources.pod_cache.add_listing(
            v1.ListPodSandboxResponse(items=[pod]).SerializeToString(),
            v1.ListContainersResponse(containers=listed).SerializeToString(),
        )
    )


def empty_call(path: str) -> CallSpec:
    """Return a call with an empty request."""
    return CallSpec(
        path,
        (UNKNOWN if path not in METHODS else encode(request_class(METHODS[path])()),),
    )


def test_changes_at_a_read_only_socket(relay: RuleRelay, peer: CriPeer) -> None:
    """All changing methods in both versions and all unknown methods are denied on one connection;
    the runtime gets none of them. Every read is answered."""
    use_profile(relay, "read-only")
    with channel(relay.path) as client:
        for path in CHANGES:
            outcome = start_call(client, empty_call(path)).outcome()
            assert (path, outcome.code) == (path, CODE.PERMISSION_DENIED)
            assert METHODS[path].name in outcome.details
            assert "read-only" in outcome.details
        for path in INVENTED:
            call = client.unary_unary(path)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=LIMIT_SECONDS)
            assert caught.value.code() is CODE.UNIMPLEMENTED  # type: ignore[attr-defined]
        assert peer.received == {}
        for number, path in enumerate(sorted(METHODS)):
            if not METHODS[path].mutating:
                outcome = start_call(client, empty_call(path), number).outcome()
                assert (path, outcome.code) == (path, CODE.OK)
                assert peer.received[str(number)].path == path
                for message in outcome.messages:
                    assert UNKNOWN not in message
                    response_class(METHODS[path]).FromString(message)
    assert len(relay.recorder.opened) == 1
    assert sum(relay.counts.denied.values()) == len(CHANGES) + len(INVENTED)
    reasons = [call.denied for call in relay.recorder.ended if call.denied]
    assert reasons == ["method"] * len(CHANGES) + ["unknown_method"] * len(INVENTED)


def test_images_only(relay: RuleRelay, peer: CriPeer) -> None:
    """An images-only socket passes pulls byte for byte; pods may not even be listed."""
    use_profile(relay, "images-only")
    with channel(relay.path) as client:
        outcome = start_call(client, pull("nginx")).outcome()
        assert outcome.code is CODE.OK
        assert UNKNOWN in outcome.messages[0]
        assert start_call(client, stream("a")).outcome().code is CODE.PERMISSION_DENIED
        assert [each.path for each in peer.received.values()] == [PULL]


def test_streams_of_a_namespace(relay: RuleRelay) -> None:
    """A stream's messages are forwarded if they are about visible pods."""
    use_profile(relay, "mine", namespaces=["shop"])
    add_to_pod_cache(relay, "1", "3")
    with channel(relay.path) as client:
        outcome = start_call(client, stream("x", messages=5)).outcome()
        assert outcome.code is CODE.OK
        seen = [v1.StreamContainersResponse.FromString(each) for each in outcome.messages]
        assert seen == []  # the peer's containers name no pod
        outcome = start_call(client, empty_call(EVENTS)._replace(messages=5)).outcome()
        assert outcome.code is CODE.OK
        events = [v1.ContainerEventResponse.FromString(each) for each in outcome.messages]
        assert [each.container_id for each in events] == ["1", "3"]


def test_fifty_at_once(relay: RuleRelay, peer: CriPeer) -> None:
    """Of fifty concurrent calls on a connection, those not allowed are denied, others answered."""
    use_profile(relay, "mine", methods=["@read", "ExecSync", "PullImage"], namespaces=["shop"])
    add_to_pod_cache(relay, "c")
    calls_to_make = [
        execute("true"),
        CallSpec(
            "/runtime.v1.RuntimeService/ExecSync", (v1.ExecSyncRequest().SerializeToString(),)
        ),
        pull("nginx"),
        empty_call("/runtime.v1.RuntimeService/StopContainer"),
        empty_call(EVENTS),
    ] * 10
    codes = [CODE.OK, CODE.PERMISSION_DENIED, CODE.OK, CODE.PERMISSION_DENIED, CODE.OK] * 10
    with channel(relay.path) as client:
        calls = [start_call(client, ask, number) for number, ask in enumerate(calls_to_make)]
        assert [each.outcome().code for each in calls] == codes
        relay.assert_nothing_held()
    assert sorted(map(int, peer.received)) == [
        at for at, code in enumerate(codes) if code is CODE.OK
    ]
    assert {key[2]: count for key, count in relay.counts.denied.items()} == {
        "unknown_pod": 10,
        "method": 10,
    }


def test_reload_of_rules(relay: RuleRelay, peer: CriPeer) -> None:
    """Reloads of rules do not change the profile; the rules apply in addition."""
    with channel(relay.path) as client:
        stop = empty_call("/runtime.v1.RuntimeService/StopContainer")
        use_profile(relay, "read-only")
        assert start_call(client, stream("a")).outcome().code is CODE.OK
        deny = {"match": {"methods": ["StreamContainers"]}, "deny": {"code": "ABORTED"}}
        use_profile(relay, "read-only", deny)
        assert start_call(client, stream("a")).outcome().code is CODE.ABORTED
        assert start_call(client, stop).outcome().code is CODE.PERMISSION_DENIED
        use_profile(relay, "read-only")
        assert start_call(client, stream("a")).outcome().code is CODE.OK
        assert start_call(client, stop).outcome().code is CODE.PERMISSION_DENIED
        assert {each.path for each in peer.received.values()} == {STREAM}


def test_refused_callers(relay: RuleRelay, peer: CriPeer) -> None:
    """Each call of a caller that `allow` does not admit is denied; the runtime receives none."""
    policy = DenyAllPolicy("callers with uid 12", relay.counts)
    relay.call(lambda: setattr(relay.active_policy, "policy", policy))
    with channel(relay.path) as client:
        for ask in (pull("nginx"), stream("a"), empty_call(EVENTS)):
            outcome = start_call(client, ask).outcome()
            assert outcome.code is CODE.PERMISSION_DENIED
            assert outcome.details == "criproxy: this listener is not for callers with uid 12"
    assert peer.received == {}
    relay.recorder.calls(3)
    assert {call.denied for call in relay.recorder.ended} == {"caller"}
