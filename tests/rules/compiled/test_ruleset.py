"""Compilation of rules from YAML, matching, and their effects on messages."""

from typing import Any

import pytest

from criproxy.cri.naming import resolve
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.pb import runtime_v1alpha2_pb2 as v1alpha2
from criproxy.peers.peer import Peer
from criproxy.rules.compiled import ruleset
from criproxy.rules.compiled.rule import Rule
from criproxy.rules.errors import EvaluationError, RuleError
from criproxy.rules.facts import Pod
from criproxy.rules.image_names import image_of
from tests.support.rules import facts, one_rule, rule_set

RUNTIME, IMAGES = "/runtime.v1.RuntimeService", "/runtime.v1.ImageService"
PULL = f"{IMAGES}/PullImage"
FOREIGN = "/containerd.services.images.v1.Images/Create"

ISSUE = """
- name: mirror-docker-hub
  match:
    methods: [PullImage]
    where: request.image.image.startsWith("docker.io/")
    callers: {uid: [0], executable: ["/usr/bin/kubelet"]}
  rewrite:
    request: {image.image: '"mirror.local/" + request.image.image'}
- name: team-label
  match: {methods: [RunPodSandbox]}
  rewrite: {request: {'config.labels["team"]': '"blue-" + request.config.metadata.namespace'}}
- name: slow-pulls
  match: {methods: [PullImage]}
  delay: {fixed: 2s, jitter: 500ms, percentage: 10}
- name: flaky-start
  match: {methods: [StartContainer], where: 'pod.namespace == "chaos"'}
  fault: {code: UNAVAILABLE, message: "injected", percentage: 5, when: after, for: 10m, seed: 7}
- name: only-signed
  match:
    methods: [CreateContainer]
    where: '!request.config.image.image.startsWith("registry.corp/")'
  deny: {code: PERMISSION_DENIED, message: "image not allowed on this node"}
"""


def pull(image: str = "docker.io/nginx", module: Any = v1) -> Any:
    return module.PullImageRequest(image=module.ImageSpec(image=image))


def names(text: str, path: str) -> list[str]:
    plan = rule_set(text).rules_for(path.encode())
    return [] if plan is None else [rule.name for rule in plan.rules]


def refused(text: str) -> RuleError:
    with pytest.raises(RuleError) as caught:
        rule_set(text)
    return caught.value


# Selection of rules


def test_rules_of_a_method_are_in_order() -> None:
    """A short method name matches both API versions; a method that no rule matches has no rules."""
    for version in ("v1", "v1alpha2"):
        assert names(ISSUE, f"/runtime.{version}.ImageService/PullImage") == [
            "mirror-docker-hub",
            "slow-pulls",
        ]
    assert rule_set(ISSUE).rules_for(f"{RUNTIME}/Version".encode()) is None
    assert rule_set(ISSUE).rules_for(FOREIGN.encode()) is None
    assert rule_set(ISSUE).rules_for(b"\xff nonsense") is None
    assert rule_set("[]").rules_for(PULL.encode()) is None


@pytest.mark.parametrize(("path", "selections"), [(PULL.encode(), 1), (b"/a/" + b"b" * 300, 2)])
def test_rules_of_a_path_are_cached(
    path: bytes, selections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules of a path are selected once, unless the path is longer than the cache allows."""
    rules = rule_set("[{name: a, match: {methods: ['*']}, deny: {}}]")
    asked = []
    monkeypatch.setattr(ruleset, "resolve", lambda path: asked.append(path) or resolve(path))
    assert rules.rules_for(path) is rules.rules_for(path)
    assert asked.count(path) == selections


def test_rules_outside_the_cri_are_shared() -> None:
    """Methods outside the CRI have the same rules if the same apply to them: clients invent
    names."""
    rules = rule_set(
        "[{name: a, match: {methods: ['*']}, deny: {}},"
        " {name: b, match: {methods: ['*/B']}, deny: {}}]"
    )
    found = [rules.rules_for(path) for path in (b"/a/A", b"/a/C", b"/a/B")]
    assert found[0] is found[1]
    assert found[0] is not found[2]


@pytest.mark.parametrize(
    ("rule", "path", "planned"),
    [
        ("rewrite_images: [{from: 'docker.io/*', to: 'm.local/*'}]", PULL, True),
        ("rewrite_images: [{from: 'docker.io/*', to: 'm.local/*'}]", f"{RUNTIME}/Version", False),
        ("rewrite_images: [{from: 'docker.io/*', to: 'm.local/*'}]", FOREIGN, False),
        ("fault: {drop: 'true'}", f"{RUNTIME}/GetContainerEvents", True),
        ("fault: {drop: 'true'}", PULL, False),
        ("fault: {code: UNAVAILABLE, cut_after: 1}", f"{RUNTIME}/GetContainerEvents", True),
        ("fault: {code: UNAVAILABLE, cut_after: 1}", PULL, False),
        ("fault: {code: UNAVAILABLE, cut_after: 1}", FOREIGN, False),
        ("fault: {code: UNAVAILABLE}", FOREIGN, True),
        ("delay: {fixed: 1s}", FOREIGN, True),
        ("rewrite: {metadata: {add: {x-a: '\"b\"'}}}", FOREIGN, True),
        ("hook: {script: a.py}", FOREIGN, False),
        ("{hook: {script: a.py, may_deny: true}}", FOREIGN, True),
        ("{hook: {script: a.py}, on_error: fail}", FOREIGN, True),
    ],
)
def test_a_rule_applies_only_where_its_action_can(rule: str, path: str, planned: bool) -> None:
    """A rule on images, streams or messages applies only to methods that have them."""
    more = rule[1:-1] if rule.startswith("{") else rule
    text = f"[{{name: it, match: {{methods: ['*']}}, {more}}}]"
    assert (names(text, path) == ["it"]) is planned


# Matching


@pytest.mark.parametrize(
    ("callers", "peer", "matches"),
    [
        ("uid: [0, 5]", Peer(1, 5, 9, None), True),
        ("uid: [0]", Peer(1, 5, 9, None), False),
        ("gid: [9]", Peer(1, 5, 9, None), True),
        ("uid: [5], gid: [8]", Peer(1, 5, 9, None), False),
        ("executable: ['/usr/bin/*']", Peer(1, 5, 9, "/usr/bin/kubelet"), True),
        ("executable: ['/usr/bin/*']", Peer(1, 5, 9, "/tmp/kubelet"), False),
        ("executable: ['/usr/bin/*']", Peer(1, 5, 9, None), False),
        ("executable: ['*']", Peer(1, 5, 9, None), True),
        ("executable: ['']", Peer(1, 5, 9, None), True),
        ("uid: []", Peer(1, 5, 9, None), False),
        ("unit: ['k3s*.service']", Peer(1, 5, 9, None, unit="k3s-agent.service"), True),
        ("unit: ['k3s*.service']", Peer(1, 5, 9, None, unit="cron.service"), False),
        ("unit: ['?*']", Peer(1, 5, 9, None), False),
        ("unit: ['*']", Peer(1, 5, 9, None), True),
        ("kubelet: true", Peer(1, 0, 0, None, kubelet=True), True),
        ("kubelet: true", Peer(1, 0, 0, "/usr/bin/kubelet"), False),
        ("kubelet: false", Peer(1, 0, 0, "/usr/bin/kubelet"), True),
        ("kubelet: false", Peer(1, 0, 0, None, kubelet=True), False),
    ],
)
def test_callers(callers: str, peer: Peer, matches: bool) -> None:
    """All given conditions have to hold; an unknown executable is the empty string."""
    rule = rule_set(
        f"[{{name: a, match: {{methods: ['*'], callers: {{{callers}}}}}, deny: {{}}}}]"
    ).rules[0]
    assert rule.matches(facts(PULL, pull(), caller=peer)) is matches
    assert rule.matches_client(facts(PULL).listener, peer) is matches


def test_listeners() -> None:
    """A rule with listeners matches only calls on these."""
    rule = rule_set(
        "[{name: a, match: {methods: ['*'], listeners: ['/run/criproxy/*']}, deny: {}}]"
    ).rules[0]
    assert rule.matches(facts(PULL))
    assert not rule.matches(facts(PULL, listener="/run/other.sock"))


@pytest.mark.parametrize("module", [v1, v1alpha2])
def test_where(module: Any) -> None:
    """The condition is evaluated on the message of the called API version."""
    path = f"/{module.DESCRIPTOR.package}.ImageService/PullImage"
    rule = rule_set(ISSUE).rules[0]
    assert rule.matches(facts(path, pull(module=module)))
    assert not rule.matches(facts(path, pull("quay.io/x", module=module)))


def test_where_may_be_a_plain_boolean() -> None:
    """YAML's true and false are literals."""
    text = "[{name: a, match: {methods: ['*'], where: %s}, deny: {}}]"
    assert rule_set(text % "true").rules[0].matches(facts(PULL))
    assert not rule_set(text % "false").rules[0].matches(facts(PULL))


@pytest.mark.parametrize(
    ("where", "needed"),
    [
        ("true", False),
        ("caller.uid == 0 && method != 'Version'", False),
        ("request.image.image == ''", True),
        ("pod.namespace == 'x'", True),
        ("container.name == 'x'", True),
    ],
)
def test_needs_request(where: str, needed: bool) -> None:
    """A rule that depends only on headers does not need the request's message."""
    rules = rule_set(
        f'[{{name: a, match: {{methods: [PullImage], where: "{where}"}}, deny: {{}}}}]'
    )
    plan = rules.rules_for(PULL.encode())
    assert plan is not None
    assert rules.rules[0].needs_request(plan.method_name) is needed


def test_a_response_rule_may_need_the_request() -> None:
    """A response expression that uses the request needs the request's message."""
    plain = one_rule("PullImage", "rewrite: {response: {image_ref: '\"x\"'}}")
    taking = one_rule("PullImage", "rewrite: {response: {image_ref: request.image.image}}")
    plan = rule_set("[{name: a, match: {methods: ['*']}, deny: {}}]").rules_for(PULL.encode())
    assert plan is not None
    assert not plain.needs_request(plan.method_name)
    assert taking.needs_request(plan.method_name)


def test_unknown_pod_has_its_own_reason() -> None:
    """A condition on an unknown pod raises EvaluationError with the reason unknown_pod."""
    rule = rule_set(ISSUE).rules[3]
    request = v1.StartContainerRequest(container_id="c")
    path = f"{RUNTIME}/StartContainer"
    with pytest.raises(EvaluationError) as caught:
        rule.matches(facts(path, request))
    assert caught.value.reason == "unknown_pod"
    assert rule.matches(facts(path, request, pod=Pod("p", "chaos", "n", "u")))
    assert not rule.matches(facts(path, request, pod=Pod("p", "calm", "n", "u")))


@pytest.mark.parametrize(
    ("rule", "planned"),
    [
        ("deny: {}", True),
        ("deny: {}, on_error: pass", True),
        ("delay: {fixed: 1s}, on_error: fail", True),
        ("delay: {fixed: 1s}", False),
    ],
)
def test_a_message_condition_fails_closed_outside_the_cri(rule: str, planned: bool) -> None:
    """A rule that refuses calls fails for a method outside the CRI; any other does not apply to
    it."""
    match = "{methods: ['*/PullImage'], where: request.image.image == ''}"
    rules = rule_set(f"[{{name: a, match: {match}, {rule}}}]")
    path = b"/runtime.v9.ImageService/PullImage"
    plan = rules.rules_for(path)
    assert (plan is not None) is planned
    if plan is not None:
        assert not plan.rules[0].needs_request(plan.method_name)
        with pytest.raises(EvaluationError) as caught:
            plan.rules[0].matches(facts(path.decode()))
        assert caught.value.reason == "decode"


def test_a_condition_without_messages_applies_outside_the_cri() -> None:
    """Caller, listener, method and metadata are known for every call."""
    rules = rule_set("[{name: a, match: {methods: ['*'], where: caller.uid == 0}, deny: {}}]")
    assert rules.rules[0].matches(facts(FOREIGN))
    assert not rules.rules[0].matches(facts(FOREIGN, caller=Peer(1, 5, 5, None)))


# Effects


def test_a_request_is_rewritten() -> None:
    """The copy is changed, not the original; a message that does not change is returned itself."""
    rule = rule_set(ISSUE).rules[0]
    request = pull()
    assert rule.rewrite_request(facts(PULL, request)).image.image == "mirror.local/docker.io/nginx"
    assert request == pull()
    response = v1.PullImageResponse(image_ref="x")
    assert rule.rewrite_response(facts(PULL, request), response) is response
    with pytest.raises(EvaluationError) as caught:
        rule.rewrite_request(facts(PULL))
    assert caught.value.reason == "decode"


def test_a_response_expression_may_use_the_request() -> None:
    """Expressions for response fields may use the request."""
    rule = one_rule(
        "PullImage",
        "rewrite: {response: {image_ref: 'request.image.image + \"@\" + response.image_ref'}}",
    )
    request = pull()
    after = rule.rewrite_response(facts(PULL, request), v1.PullImageResponse(image_ref="1"))
    assert after == v1.PullImageResponse(image_ref="docker.io/nginx@1")
    assert rule.rewrite_request(facts(PULL, request)) is request


def test_images_are_renamed_both_ways() -> None:
    """rewrite_images changes copies of requests and of responses."""
    rule = one_rule("PullImage", "rewrite_images: [{from: 'docker.io/*', to: 'm.local/*'}]")
    request = pull("docker.io/library/nginx:1")
    there = rule.rewrite_request(facts(PULL, request))
    assert there.image.image == "m.local/library/nginx:1"
    assert request.image.image == "docker.io/library/nginx:1"
    back = rule.rewrite_response(
        facts(PULL, request), v1.PullImageResponse(image_ref="m.local/library/nginx:1")
    )
    assert back.image_ref == "docker.io/library/nginx:1"
    other = pull("quay.io/x")
    assert rule.rewrite_request(facts(PULL, other)) is other


MIRROR = "rewrite_images: [{from: 'docker.io/*', to: 'mirror.local/*'}]"
ELSEWHERE = "rewrite: {request: {image.image: '\"mirror.local/x\"'}}"


@pytest.mark.parametrize("module", [v1, v1alpha2])
@pytest.mark.parametrize(
    ("rule", "image", "password"),
    [
        (MIRROR, "nginx", ""),
        (f"{MIRROR}, auth: keep", "nginx", "s"),
        (MIRROR, "quay.io/x", "s"),
        ("rewrite_images: [{from: 'docker.io/a/*', to: 'docker.io/b/*'}]", "a/x", "s"),
        (ELSEWHERE, "docker.io/x", ""),
        (ELSEWHERE, "mirror.local/y", "s"),
        (f"{ELSEWHERE}, auth: keep", "docker.io/x", "s"),
        (
            "rewrite: {request: {image.image: '\"m.local/x\"', auth.password: '\"new\"'}}",
            "docker.io/x",
            "new",
        ),
        ("rewrite: {request: {image.annotations: '{}'}}", "docker.io/x", "s"),
    ],
)
def test_credentials_stay_with_their_registry(
    module: Any, rule: str, image: str, password: str
) -> None:
    """A pull from a changed registry has no credentials, unless the rule keeps or sets them."""
    request = pull(image, module)
    request.auth.password = "s"
    request.image.annotations["a"] = "b"
    path = f"/{module.DESCRIPTOR.package}.ImageService/PullImage"
    after = one_rule("PullImage", rule).rewrite_request(facts(path, request))
    assert after.auth.password == password
    assert after.HasField("auth") is bool(password)
    assert request.auth.password == "s"


@pytest.mark.parametrize("module", [v1, v1alpha2])
@pytest.mark.parametrize(
    ("rule", "sent"),
    [
        (MIRROR, {}),
        (f"{MIRROR}, auth: keep", {"username": "u", "auth": "a", "identity_token": "i"}),
        (f"{ELSEWHERE}, auth: keep", {"username": "u", "auth": "a", "identity_token": "i"}),
        (
            "rewrite: {request: {image.image: '\"m.local/x\"', auth.username: '\"new\"'}}",
            {"username": "new"},
        ),
        (
            "rewrite: {request: {image.image: '\"m.local/x\"', "
            "auth: 'AuthConfig{registry_token: \"r\"}'}}",
            {"registry_token": "r"},
        ),
        (
            "rewrite: {request: {image.image: '\"m.local/x\"', "
            "auth.server_address: '\"m.local\"'}}, auth: keep",
            {"username": "u", "auth": "a", "identity_token": "i", "server_address": "m.local"},
        ),
    ],
)
def test_credentials_by_field(module: Any, rule: str, sent: dict[str, str]) -> None:
    """Beside the fields that a rule sets none is sent to another registry; what is kept does not
    name the other."""
    request = pull("docker.io/x", module)
    request.auth.MergeFrom(
        module.AuthConfig(username="u", auth="a", identity_token="i", server_address="docker.io")
    )
    path = f"/{module.DESCRIPTOR.package}.ImageService/PullImage"
    after = one_rule("PullImage", rule).rewrite_request(facts(path, request))
    assert after.auth == module.AuthConfig(**sent)


@pytest.mark.parametrize(
    ("more", "image", "password", "left"),
    [
        ("", "m.local/x", "s", ""),
        ("", "m.local/x", "other", "other"),
        ("", "docker.io/y", "s", "s"),
        (", auth: keep", "m.local/x", "s", "s"),
    ],
)
def test_credentials_of_a_hook(more: str, image: str, password: str, left: str) -> None:
    """A hook that changes the registry sends credentials there only if it changes them, too."""
    before, after = pull("docker.io/x"), pull(image)
    before.auth.password, after.auth.password = "s", password
    rule = one_rule("PullImage", "hook: {url: 'http://127.0.0.1/'}" + more)
    rule.drop_auth(facts(PULL, before), before, after)
    assert after.auth.password == left
    assert after.HasField("auth") is bool(left)


@pytest.mark.parametrize(("short_names", "renamed"), [("docker.io", True), ("", False)])
def test_short_names_of_the_runtime(short_names: str, renamed: bool) -> None:
    """A short name is renamed, and has the registry, as the runtime reads it."""
    request = pull("nginx")
    known = facts(PULL, request, short_names=short_names)
    after: Any = one_rule("PullImage", MIRROR).rewrite_request(known)
    assert after.image.image == ("mirror.local/library/nginx:latest" if renamed else "nginx")
    image = image_of("nginx", short_names)
    assert denying('image.registry == "docker.io"').matches(facts(PULL, image=image)) is renamed


def test_short_names_of_an_unknown_runtime() -> None:
    """A rule that needs the image of a short name fails as long as its registry is not known; with
    a full name it does not."""
    rule, mirror = denying('image.registry == "x"'), one_rule("PullImage", MIRROR)
    short, full = (
        facts(PULL, pull(name), short_names=None, image=image_of(name, None))
        for name in ("nginx", "quay.io/x")
    )
    for function in (rule.matches, mirror.rewrite_request):
        with pytest.raises(EvaluationError, match="unknown_runtime"):
            function(short)
    assert not rule.matches(full)
    assert mirror.rewrite_request(full) is full.request


def denying(where: str) -> Rule:
    match = f"match: {{methods: [PullImage], where: '{where}'}}"
    return rule_set(f"[{{name: it, {match}, deny: {{}}}}]").rules[0]


def test_metadata() -> None:
    """Added headers are bytes, in order; a value that no header can have raises EvaluationError."""
    rule = one_rule(
        "'*'", "rewrite: {metadata: {add: {x-method: method, x-who: 'metadata[\"who\"]'}}}"
    )
    assert rule.metadata(facts(PULL, metadata={"who": "me"})) == [
        (b"x-method", b"PullImage"),
        (b"x-who", b"me"),
    ]
    for value in ("é", "a\nb", " a"):
        with pytest.raises(EvaluationError) as caught:
            rule.metadata(facts(PULL, metadata={"who": value}))
        assert caught.value.detail == f"x-who: {value!r} cannot be the value of a header"


def test_drop() -> None:
    """``drop`` is evaluated on each message of a stream, and may use the request."""
    rule = one_rule(
        "GetContainerEvents", "fault: {drop: 'response.container_id.startsWith(\"a\")'}"
    )
    of = facts(f"{RUNTIME}/GetContainerEvents", v1.GetEventsRequest())
    assert rule.drops(of, v1.ContainerEventResponse(container_id="abc"))
    assert not rule.drops(of, v1.ContainerEventResponse(container_id="bcd"))
    assert not one_rule("PullImage", "deny: {}").drops(facts(PULL), v1.PullImageResponse())


@pytest.mark.parametrize(
    ("rule", "request_", "response"),
    [
        ("rewrite: {request: {image.image: '\"x\"'}}", True, False),
        ("rewrite: {response: {image_ref: '\"x\"'}}", False, True),
        ("rewrite: {metadata: {add: {x-a: '\"x\"'}}}", False, False),
        ("rewrite_images: [{from: 'docker.io/*', to: 'm.local/*'}]", True, True),
        ("hook: {script: a.py}", True, True),
        ("delay: {fixed: 1s}", False, False),
        ("delay: {fixed: 1s, when: after}", False, True),
        ("fault: {code: UNAVAILABLE}", False, False),
        ("fault: {code: UNAVAILABLE, when: after}", False, True),
        ("limit: {in_flight: 1}", False, False),
        ("deny: {}", False, False),
    ],
)
def test_messages_that_an_action_uses(rule: str, request_: bool, response: bool) -> None:
    """A message that no action uses is not held."""
    it = one_rule("PullImage", rule)
    assert (it.touches_request, it.touches_response) == (request_, response)


def test_properties_of_rules() -> None:
    """Name, action and modes come from the file; dry_run of the rule set overrides a rule's
    mode."""
    text = """
    - {name: a, match: {methods: ['*']}, continue: true, delay: {fixed: 1s}}
    - {name: b, match: {methods: ['*']}, mode: dry-run, deny: {}}
    - {name: c, match: {methods: ['*']}, hook: {script: a.py, may_deny: true}}
    - {name: d, match: {methods: ['*']}, on_error: pass, deny: {}}
    """
    shown = [
        (r.name, r.action, r.continues, r.dry_run, r.fails_closed) for r in rule_set(text).rules
    ]
    assert shown == [
        ("a", "delay", True, False, False),
        ("b", "deny", False, True, True),
        ("c", "hook", False, False, True),
        ("d", "deny", False, False, False),
    ]
    assert all(rule.dry_run for rule in rule_set(text, dry_run=True).rules)


@pytest.mark.parametrize(
    ("rule", "needs", "enforcing"),
    [
        ("deny: {}", False, True),
        ("deny: {}, mode: dry-run", False, False),
        ("delay: {fixed: 1s}", False, False),
        ("delay: {fixed: 1s}, on_error: fail", False, True),
        ("limit: {in_flight: 1, per: pod}", True, False),
        ("limit: {in_flight: 1, per: caller}", False, False),
        ("hook: {script: a.py}", True, False),
        ("rewrite: {request: {image.image: pod.name}}", True, False),
        ("rewrite: {response: {image_ref: container.name}}", True, False),
    ],
)
def test_needs_pods_and_enforcing(rule: str, needs: bool, enforcing: bool) -> None:
    """A rule set needs pods, and fails closed, only if one of its rules does."""
    rules = rule_set(f"[{{name: a, match: {{methods: [PullImage]}}, {rule}}}]")
    assert (rules.needs_pods, rules.enforcing) == (needs, enforcing)
    where = "[{name: a, match: {methods: [PullImage], where: pod.name == 'x'}, delay: {fixed: 1s}}]"
    assert rule_set(where).needs_pods


# Errors


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        (
            "{methods: [PulImage]}, deny: {}",
            ("match", "methods", 0),
            "no method of the CRI is called 'PulImage'; did you mean 'PullImage'?",
        ),
        (
            "{methods: [PullImage, zzz]}, deny: {}",
            ("match", "methods", 1),
            "no method of the CRI is called 'zzz'",
        ),
        (
            "{methods: [ImageService/PulImage]}, deny: {}",
            ("match", "methods", 0),
            "no method of the CRI is called 'ImageService/PulImage'; did you mean 'PullImage'?",
        ),
        (
            "{methods: [/runtime.v1.ImageService/PulImage]}, deny: {}",
            ("match", "methods", 0),
            "no method of the CRI is called '/runtime.v1.ImageService/PulImage'; did you mean"
            " 'PullImage'?",
        ),
        (
            "{methods: [PullImage], where: request.imagee == ''}, deny: {}",
            ("match", "where"),
            "1:8: undefined field 'imagee' not found in struct 'runtime.v1.PullImageRequest';"
            " did you mean 'image'?",
        ),
        (
            "{methods: [PullImage], where: request.image.image}, deny: {}",
            ("match", "where"),
            "has to be bool, not string",
        ),
        (
            "{methods: [PullImage], where: dyn(true)}, deny: {}",
            ("match", "where"),
            "has to be bool, not dyn",
        ),
        (
            "{methods: [PullImage], where: response.image_ref == ''}, deny: {}",
            ("match", "where"),
            "1:9: undeclared reference to 'response.image_ref' (in container 'runtime.v1');"
            " only rewrite.response and fault.drop are about the response",
        ),
        (
            "{methods: [PullImage, Version], where: request.image.image == ''}, deny: {}",
            ("match", "where"),
            "for runtime.v1.RuntimeService/Version: 1:8: undefined field 'image' not found in"
            " struct 'runtime.v1.VersionRequest'; there are version",
        ),
        (
            "{methods: [CreateContainer], where: 'request.config.CDI_devices.size() > 0'},"
            " deny: {}",
            ("match", "where"),
            "for runtime.v1alpha2.RuntimeService/CreateContainer: 1:15: undefined field"
            " 'CDI_devices' not found in struct 'runtime.v1alpha2.ContainerConfig'; did you"
            " mean 'devices'?",
        ),
        (
            "{methods: [CreateContainer]}, rewrite: {request: {'config.CDI_devices[]':"
            ' \'{"name": "x"}\'}}',
            ("rewrite", "request", "config.CDI_devices[]"),
            "for runtime.v1alpha2.RuntimeService/CreateContainer: undefined field"
            " 'CDI_devices' in runtime.v1alpha2.ContainerConfig; did you mean 'devices'?",
        ),
        (
            "{methods: ['containerd.*/*'], where: request.x == ''}, deny: {}",
            ("match", "where"),
            "1:8: undeclared reference to 'request.x' (in container ''); there is a request"
            " only of the CRI's methods",
        ),
        (
            "{methods: ['containerd.*/*']}, rewrite: {request: {x: 1}}",
            ("match", "methods"),
            "none of them has messages to rewrite",
        ),
        (
            "{methods: [Version]}, rewrite_images: [{from: 'docker.io/*', to: 'm.local/*'}]",
            ("match", "methods"),
            "none of them has images to rename",
        ),
        (
            "{methods: [PullImage]}, rewrite_images: [{from: 'docker.io/*', to: 'm.local/*'},"
            " {from: 'quay.io/*', to: x}]",
            ("rewrite_images", 1, "to"),
            "'x' needs one *, as in docker.io/*",
        ),
        (
            "{methods: [PullImage]}, fault: {drop: 'true'}",
            ("match", "methods"),
            "none of them answers with a stream",
        ),
        (
            "{methods: [GetContainerEvents]}, fault: {drop: response.container_id}",
            ("fault", "drop"),
            "has to be bool, not string",
        ),
        (
            "{methods: [PullImage]}, rewrite: {response: {image_re: '\"x\"'}}",
            ("rewrite", "response", "image_re"),
            "undefined field 'image_re' in runtime.v1.PullImageResponse; did you mean 'image_ref'?",
        ),
        (
            "{methods: [PullImage]}, rewrite: {metadata: {add: {x-a: 'b'}}}",
            ("rewrite", "metadata", "add", "x-a"),
            "1:1: undeclared reference to 'b' (in container 'runtime.v1')",
        ),
        (
            "{methods: [PullImage]}, rewrite: {metadata: {add: {x-a: '1'}}}",
            ("rewrite", "metadata", "add", "x-a"),
            "has to be string, not int",
        ),
        (
            "{methods: [PullImage]}, rewrite: {metadata: {add: {x-a: pod.name}}}",
            ("rewrite", "metadata", "add", "x-a"),
            "metadata goes on before the request's message is there, and cannot hang on pod;"
            " take two rules, the one with metadata with continue: true",
        ),
        (
            "{methods: [PullImage], where: request.image.image == ''}, rewrite: {metadata:"
            " {add: {x-a: method}}}",
            ("match", "where"),
            "metadata goes on before the request's message is there, and cannot hang on"
            " request; take two rules, the one with metadata with continue: true",
        ),
    ],
)
def test_an_error_has_its_keys(text: str, keys: tuple[str | int, ...], message: str) -> None:
    """A compile error has the path of the key, and the method if only some methods have it."""
    error = refused(f"[{{name: it, match: {text}}}]")
    assert (error.rule, error.keys, error.message) == ("it", keys, message)


@pytest.mark.parametrize(
    "glob", ["'*'", "Pul*", "Foo*", "containerd.services.images.v1.Images/Create"]
)
def test_globs_of_unknown_methods_are_accepted(glob: str) -> None:
    """Wildcards, and services outside the CRI, may match methods that are not known."""
    assert one_rule(glob, "deny: {}").action == "deny"


def test_names_are_unique() -> None:
    """Two rules of the same name are an error."""
    error = refused(
        "[{name: a, match: {methods: ['*']}, deny: {}}, {name: a, match: {methods: ['*']},"
        " deny: {}}]"
    )
    assert (error.rule, error.keys, error.message) == ("a", ("name",), "two rules have this name")
    assert str(error) == "rule 'a': name: two rules have this name"


def test_groups_of_methods() -> None:
    """A group matches its methods; an unknown group is an error."""
    (rule,) = rule_set("[{name: it, match: {methods: ['@exec']}, deny: {}}]").rules
    assert rule.may_apply_to(resolve(b"/runtime.v1.RuntimeService/ExecSync"))
    assert not rule.may_apply_to(resolve(b"/runtime.v1.RuntimeService/StartContainer"))
    for name in ("@execs", "@*"):
        with pytest.raises(RuleError) as refused:
            rule_set(f"[{{name: it, match: {{methods: ['{name}']}}, deny: {{}}}}]")
        assert refused.value.message == (
            f"'{name}' is no group of methods: @read, @mutating, @exec"
        )
