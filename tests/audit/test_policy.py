"""The audit policy: which calls are recorded, and at which level."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.audit.policy import AuditPolicy, Decision, Outcome, covers
from criproxy.audit.spec import LEVELS, AuditRuleSpec
from criproxy.config.value_types import decode
from criproxy.cri.methods import METHODS, READS
from criproxy.cri.naming import MethodName, resolve
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.facts import Pod
from criproxy.wire.grpc import StatusCode

KUBELET = Peer(1, 0, 0, "/usr/bin/kubelet", unit="kubelet.service", kubelet=True)
AGENT = Peer(2, 1000, 100, "/opt/agent", unit="agent.service")
POD = Pod("id", "shop", "web-0", "uid", labels={"app": "web", "tier": "front"})
INVENTED = "/runtime.v9.RuntimeService/Invented"
EXECS = {"Exec", "ExecSync", "Attach", "PortForward"}


def method_name(method: str) -> MethodName:
    path = method if method.startswith("/") else f"/runtime.v1.RuntimeService/{method}"
    return resolve(path.encode())


def connection(peer: Peer, listener: str = "unix:///run/a.sock") -> Connection:
    return Connection(listener, peer, 0.0)


def policy(*rules: dict[str, Any]) -> AuditPolicy:
    return AuditPolicy(msgspec.convert(list(rules), list[AuditRuleSpec], dec_hook=decode))


def decide(
    policy: AuditPolicy,
    method: str = "StartContainer",
    peer: Peer = KUBELET,
    *,
    listener: str = "unix:///run/a.sock",
    pod: Pod | None = POD,
    code: StatusCode | None = StatusCode.OK,
    duration: float | None = 1.0,
    exit_code: int | None = None,
    ended: bool = True,
) -> str:
    where = connection(peer, listener)
    outcome = Outcome(code, duration, exit_code) if ended else None
    return policy.decide(method_name(method), where, pod, outcome).level


@pytest.mark.parametrize("path", [*METHODS, INVENTED])
def test_the_default_policy(path: str) -> None:
    """The kubelet's reads are not recorded and its changes are as metadata; ways into a container,
    and all that anybody else does, are recorded with the request."""
    method = path.rpartition("/")[2]
    default = AuditPolicy()
    for pod, code in ((POD, StatusCode.OK), (None, StatusCode.NOT_FOUND), (None, None)):
        for peer in (AGENT, KUBELET):
            reads = peer is KUBELET and method in READS
            asks = peer is AGENT or method in EXECS
            expected = "None" if reads else "Request" if asks else "Metadata"
            assert decide(default, path, peer, pod=pod, code=code) == expected
            if method != "ExecSync":
                assert decide(default, path, peer, pod=pod, ended=False) == expected
    assert default.max_level(method_name(path), connection(KUBELET)) == expected
    assert default.max_level(method_name(path), connection(AGENT)) == "Request"


@pytest.mark.parametrize(
    ("call", "level"),
    [
        ({"exit_code": 0}, "None"),
        ({"ended": False}, "None"),
        ({"exit_code": 1}, "Request"),
        ({"exit_code": -1}, "Request"),
        ({"exit_code": None}, "Request"),
        ({"exit_code": 0, "code": StatusCode.DEADLINE_EXCEEDED}, "Request"),
        ({"exit_code": 0, "code": None}, "Request"),
        ({"exit_code": 0, "peer": AGENT}, "Request"),
        ({"ended": False, "peer": AGENT}, "Request"),
        ({"method": "Exec"}, "Request"),
        ({"method": "Exec", "ended": False}, "Request"),
    ],
)
@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_exec_probes(call: dict[str, Any], level: str, version: str) -> None:
    """By default an ExecSync of the kubelet's is recorded unless it ended with OK and exit code 0;
    as long as it runs, that is not known, and it has no record."""
    path = f"/runtime.{version}.RuntimeService/{call.get('method', 'ExecSync')}"
    assert decide(AuditPolicy(), **(call | {"method": path})) == level


def test_each_rule_of_the_default_policy() -> None:
    """The first matching rule decides."""
    rules = [msgspec.to_builtins(rule) for rule in AuditPolicy.DEFAULT]
    calls = [
        ("Version", KUBELET, "None", "Metadata"),
        ("ExecSync", KUBELET, "None", "Request"),
        ("Exec", KUBELET, "Request", "Metadata"),
        ("Version", AGENT, "Request", "Metadata"),
        ("StartContainer", KUBELET, "Metadata", "Metadata"),
    ]
    assert len(rules) == len(calls) + 1
    for number, (method, peer, level, otherwise) in enumerate(calls):
        with_it, without = policy(*rules), policy(*rules[:number], *rules[number + 1 :])
        assert decide(with_it, method, peer, exit_code=0) == level
        assert decide(without, method, peer, exit_code=0) == otherwise
    assert decide(policy(rules[-1]), "Version", KUBELET) == "Metadata"


@pytest.mark.parametrize(
    ("rule", "call", "fits"),
    [
        ({}, {}, True),
        ({"methods": ["Start*"]}, {}, True),
        ({"methods": ["RuntimeService/Start*", "x"]}, {}, True),
        ({"methods": ["Stop*"]}, {}, False),
        ({"methods": []}, {}, False),
        ({"methods": ["@read"]}, {"method": INVENTED}, False),
        ({"methods": ["@mutating"]}, {"method": INVENTED}, True),
        ({"methods": ["@exec"]}, {"method": "Attach"}, True),
        ({"callers": {"uid": [0]}}, {}, True),
        ({"callers": {"uid": [0]}}, {"peer": AGENT}, False),
        ({"callers": {"gid": [100]}}, {"peer": AGENT}, True),
        ({"callers": {"executable": ["/opt/*"]}}, {"peer": AGENT}, True),
        ({"callers": {"executable": ["/opt/*"], "uid": [0]}}, {"peer": AGENT}, False),
        ({"callers": {"unit": ["agent.*"]}}, {"peer": AGENT}, True),
        ({"callers": {"kubelet": True}}, {}, True),
        ({"callers": {"kubelet": False}}, {}, False),
        ({"listeners": ["*/a.sock"]}, {}, True),
        ({"listeners": ["*/a.sock"]}, {"listener": "unix:///run/b.sock"}, False),
        ({"namespaces": ["sh*"]}, {}, True),
        ({"namespaces": ["sh*"]}, {"pod": None}, False),
        ({"namespaces": [""]}, {"pod": None}, True),
        ({"pods": ["web-*"]}, {}, True),
        ({"pods": ["db-*"]}, {}, False),
        ({"pods": ["*"]}, {"pod": None}, True),
        ({"labels": {"app": "w*"}}, {}, True),
        ({"labels": {"app": "w*", "tier": "back"}}, {}, False),
        ({"labels": {"none": "*"}}, {}, False),
        ({"labels": {"app": "*"}}, {"pod": None}, False),
        ({"codes": ["OK"]}, {}, True),
        ({"codes": ["NOT_FOUND", "UNKNOWN"]}, {"code": StatusCode.UNKNOWN}, True),
        ({"codes": ["NOT_FOUND"]}, {}, False),
        ({"codes": ["OK"]}, {"code": None}, False),
        ({"codes": ["OK"]}, {"ended": False}, False),
        ({"exit_codes": [0]}, {"exit_code": 0}, True),
        ({"exit_codes": [1, 2]}, {"exit_code": 0}, False),
        ({"exit_codes": [0]}, {}, False),
        ({"exit_codes": [0]}, {"ended": False}, False),
        ({"exit_codes": []}, {"exit_code": 0}, False),
        ({"longer_than": "500ms"}, {}, True),
        ({"longer_than": "1s"}, {}, False),
        ({"longer_than": "1s"}, {"duration": None}, False),
        ({"longer_than": "0s"}, {"ended": False}, False),
    ],
)
def test_what_a_rule_asks_for(rule: dict[str, Any], call: dict[str, Any], fits: bool) -> None:
    """A rule applies to calls that meet all its conditions; the next rule applies to the others."""
    rules = policy({"level": "Request", **rule}, {"level": "Metadata"})
    assert decide(rules, **call) == ("Request" if fits else "Metadata")


@pytest.mark.parametrize(
    ("rule", "unrecorded"),
    [
        ({"codes": ["OK"]}, True),
        ({"exit_codes": [0]}, True),
        ({"longer_than": "1s"}, True),
        ({"codes": ["OK"], "namespaces": ["shop"]}, True),
        ({"codes": ["OK"], "namespaces": ["bank"]}, False),
        ({"codes": ["OK"], "methods": ["Stop*"]}, False),
    ],
)
def test_calls_that_their_outcome_may_leave_out(rule: dict[str, Any], unrecorded: bool) -> None:
    """As long as a call runs whose outcome may leave it unrecorded, it has no record: half of one
    would stay in the log."""
    rules = policy({"level": "None", **rule}, {"level": "Metadata"})
    assert decide(rules, ended=False) == ("None" if unrecorded else "Metadata")


def test_the_first_that_fits_decides() -> None:
    """Rules after the first match do not apply; without a match nothing is recorded."""
    rules = policy(
        {"level": "Metadata", "methods": ["Start*"], "omit": ["caller.command"]},
        {"level": "RequestResponse", "methods": ["Start*", "Stop*"]},
    )
    where = connection(AGENT)
    decision = rules.decide(method_name("StartContainer"), where, None, None)
    assert decision == Decision("Metadata", ("caller.command",))
    assert decide(rules, "StopContainer") == "RequestResponse"
    assert decide(rules, "Version") == "None"
    assert rules.max_level(method_name("StartContainer"), where) == "Metadata"
    assert rules.max_level(method_name("Version"), where) == "None"


def test_the_ceiling_is_that_of_what_may_turn_out() -> None:
    """The highest level considers the rules whose other conditions are unknown at first."""
    rules = policy(
        {"level": "RequestResponse", "codes": ["INTERNAL"], "callers": {"uid": [0]}},
        {"level": "Request", "namespaces": ["shop"]},
        {"level": "Metadata"},
        {"level": "RequestResponse"},
    )
    assert rules.max_level(method_name("Version"), connection(KUBELET)) == "RequestResponse"
    assert rules.max_level(method_name("Version"), connection(AGENT)) == "Request"


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


SPECS = st.builds(
    AuditRuleSpec,
    level=st.sampled_from(LEVELS),
    methods=st.lists(st.sampled_from(["*", "@read", "@mutating", "@exec", "Start*"]), max_size=2),
    callers=st.sampled_from([rule.callers for rule in AuditPolicy.DEFAULT]),
    listeners=maybe(st.just(["*/a.sock"])),
    namespaces=maybe(st.sampled_from([["shop"], ["*"], [""]])),
    pods=maybe(st.sampled_from([["web-*"], [""]])),
    labels=maybe(st.sampled_from([{}, {"app": "web"}])),
    codes=maybe(st.sampled_from([["OK"], ["INTERNAL", "UNKNOWN"]])),
    exit_codes=maybe(st.sampled_from([[0], [1, 2]])),
    longer_than=maybe(st.sampled_from([0.0, 1.0])),
)


@given(
    specs=st.lists(SPECS, max_size=5),
    method=st.sampled_from([*METHODS, INVENTED]),
    peer=st.sampled_from([KUBELET, AGENT]),
    listener=st.sampled_from(["unix:///run/a.sock", "unix:///run/b.sock"]),
    pod=st.sampled_from([POD, None]),
    code=st.sampled_from([StatusCode.OK, StatusCode.INTERNAL, None]),
    duration=st.sampled_from([0.5, 2.0, None]),
    exit_code=st.sampled_from([0, 1, None]),
    ended=st.booleans(),
)
def test_nothing_is_decided_above_the_ceiling(
    specs, method, peer, listener, pod, **outcome
) -> None:
    """The messages captured from the beginning suffice for any later decision."""
    rules = AuditPolicy(specs)
    max_level = rules.max_level(method_name(method), connection(peer, listener))
    level = decide(rules, method, peer, listener=listener, pod=pod, **outcome)
    assert covers(max_level, level)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"methods": ["@reads"]}, "'@reads' is no group of methods: @read, @mutating, @exec"),
        ({"codes": ["OKAY"]}, "'OKAY' is no gRPC code; write it like PERMISSION_DENIED"),
        ({"omit": ["auditID"]}, "'auditID' is nothing that a record can do without: caller, "),
    ],
)
def test_rules_that_are_none(rule: dict[str, Any], error: str) -> None:
    """Conditions that never match and paths that must not be omitted are configuration errors."""
    with pytest.raises(msgspec.ValidationError) as refused:
        policy({"level": "Request", **rule})
    assert str(refused.value).startswith(error)
