"""Rules that are looked up by their conditions act as if they were evaluated one after another."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.environment import decode_message
from criproxy.cri.messages import request_class
from criproxy.cri.naming import method_at, resolve
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.cel.expressions import Expression
from criproxy.rules.compiled.rule import Rule
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts, Metadata
from criproxy.wire.hpack.decoder import Header
from tests.support.held import IMAGES, V1, Rules, Scripted
from tests.support.operations import operations
from tests.support.virtual_time import passed, run

EXECUTABLES = ("/usr/bin/kubelet", "/usr/bin/crictl", None)
NAMESPACES = ("", "a", "b", "kube-system")
IMAGE_NAMES = ("", "nginx", "docker.io/library/nginx:1", "r.corp/a/b", "sha256:" + "0" * 64)
LISTENERS = ("unix:///run/a.sock", "unix:///run/b.sock")

_anywhere = st.sampled_from(
    [
        'caller.executable == "/usr/bin/crictl"',
        'caller.executable in ["", "/usr/bin/kubelet"]',
        f'listener == "{LISTENERS[0]}"',
        'method == "PullImage"',
        'metadata["x-a"] == "1"',
        'pod.namespace == "a"',
        '"b" == pod.namespace',
        'pod.namespace in ["a", "kube-system"]',
        'pod.namespace == "a" || pod.namespace == ""',
        'pod.name == "web"',
        'pod.namespace != "a"',
        'pod.labels["app"] == "x"',
        'pod.labels.app == "x"',
        "has(pod.labels.app)",
        'container.name == "web"',
        'image.registry == "docker.io"',
        'image.registry in ["r.corp", ""]',
        'image.tag == "latest"',
        'image.name.startsWith("r.corp/")',
    ]
)
_of_method = {
    "RunPodSandbox": [
        'request.config.metadata.namespace == "a"',
        'request.config.metadata.namespace in ["b", ""]',
        'request.runtime_handler == "kata"',
        'request.config.labels["app"] == "x"',
    ],
    "CreateContainer": [
        'request.config.image.image == "nginx"',
        'request.pod_sandbox_id == "pod-1"',
        'request.config.envs.exists(e, e.value == "x")',
    ],
    "PullImage": ['request.image.image == "nginx"', 'request.image.image in ["r.corp/a/b", ""]'],
    "StopPodSandbox": ['request.pod_sandbox_id == "pod-2"'],
}


def conditions(methods: Sequence[str]) -> st.SearchStrategy[str]:
    own = _of_method.get(methods[0], [])
    atoms = st.one_of(_anywhere, st.sampled_from(own)) if own else _anywhere
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.builds("({}) && ({})".format, inner, inner),
            st.builds("({}) || ({})".format, inner, inner),
            st.builds("!({})".format, inner),
        ),
        max_leaves=3,
    )


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    methods = draw(st.sampled_from([[name] for name in _of_method] + [["*"], ["@mutating"]]))
    match: dict[str, Any] = {"methods": methods}
    if draw(st.integers(0, 9)):
        match["where"] = draw(conditions(methods))
    if not draw(st.integers(0, 3)):
        match["callers"] = {"executable": [draw(st.sampled_from(["*kubelet", "*crictl", ""]))]}
    if not draw(st.integers(0, 5)):
        match["listeners"] = [draw(st.sampled_from(LISTENERS))]
    actions: list[dict[str, Any]] = [
        {"deny": {}},
        {"fault": {"code": "ABORTED", "when": "after"}},
        {"delay": {"fixed": "1s"}},
    ]
    if methods == ["RunPodSandbox"]:
        actions += [
            {"rewrite": {"request": {"config.metadata.namespace": f'"{name}"'}}} for name in "ab"
        ]
    if methods == ["PullImage"]:
        actions.append({"rewrite": {"request": {"image.image": '"r.corp/" + image.repository'}}})
    return {
        "match": match,
        "continue": draw(st.booleans()),
        "mode": draw(st.sampled_from(["enforce", "enforce", "dry-run"])),
        "on_error": draw(st.sampled_from([None, "pass", "fail"])),
        **draw(st.sampled_from(actions)),
    }


def _run_pod(namespace: str, labelled: bool = False) -> v1.RunPodSandboxRequest:
    labels = {"app": "x"} if labelled else {}
    metadata = v1.PodSandboxMetadata(name="web", namespace=namespace, uid="u")
    return v1.RunPodSandboxRequest(config=v1.PodSandboxConfig(metadata=metadata, labels=labels))


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, bytes]:
    """A method and a request, most of which can be decoded."""
    namespace, image = draw(st.sampled_from(NAMESPACES)), draw(st.sampled_from(IMAGE_NAMES))
    pod_id = draw(st.sampled_from(["pod-1", "pod-2", "other", ""]))
    spec = v1.ImageSpec(image=image)
    config = v1.ContainerConfig(metadata=v1.ContainerMetadata(name="web"), image=spec)
    messages: list[tuple[str, Message]] = [
        (f"{V1}/RunPodSandbox", _run_pod(namespace, draw(st.booleans()))),
        (f"{V1}/CreateContainer", v1.CreateContainerRequest(pod_sandbox_id=pod_id, config=config)),
        (f"{IMAGES}/PullImage", v1.PullImageRequest(image=spec)),
        (f"{V1}/StopPodSandbox", v1.StopPodSandboxRequest(pod_sandbox_id=pod_id)),
        (f"{V1}/Version", v1.VersionRequest()),
        ("some.v1.Other/Thing", v1.VersionRequest()),
    ]
    path, message = draw(st.sampled_from(messages))
    return path, message.SerializeToString() if draw(st.integers(0, 7)) else b"\x0a\xff"


class Expected:
    """What a call's rules do, each evaluated when it is its turn."""

    def __init__(
        self, loaded: Rules, path: str, request: bytes, connection: Connection, sent: list[Header]
    ) -> None:
        self.matches: Counter[tuple[str, str, str]] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.acted: list[str] = []
        self.reply: str | None = None
        self._cache = loaded.resources.pod_cache
        self._path, self._request = f"/{path}".encode(), request
        self._method = resolve(self._path)
        self._facts = Facts(
            self._method,
            connection.listener,
            connection.peer,
            Metadata(sent),
            short_names=self._cache.short_names,
        )
        self._evaluate(loaded.policy.ruleset.rules)

    def _evaluate(self, loaded: Sequence[Rule]) -> None:
        for rule in list(self._candidates(loaded)):
            try:
                if not self._matches(rule):
                    continue
                mode = "dry-run" if rule.dry_run else "enforce"
                self.matches[rule.name, rule.action, mode] += 1
                changed = self._act(rule)
            except EvaluationError as error:
                self._failed(rule, error)
            else:
                if changed or (not rule.dry_run and rule.action == "delay"):
                    self.acted.append(rule.name)
                if not rule.continues and not rule.dry_run:
                    return
            if self.reply is not None:
                return

    def _candidates(self, loaded: Sequence[Rule]) -> Iterator[Rule]:
        """Rules without those that are evaluated, and do not match, before the request is there."""
        for rule in loaded:
            if not rule.may_apply_to(self._method):
                continue
            if rule.needs_request(self._method):
                yield rule
                continue
            try:
                matches = rule.matches(self._facts)
            except EvaluationError as error:
                if rule.fails_closed and not rule.dry_run:
                    matches = True  # fails when it is its turn
                else:
                    self._failed(rule, error)
                    continue
            if not matches:
                continue
            yield rule
            if rule.action in ("deny", "delay") and not rule.continues and not rule.dry_run:
                return

    def _matches(self, rule: Rule) -> bool:
        if not rule.matches_client(self._facts.listener, self._facts.caller):
            return False
        if rule.needs_request(self._method):
            self._read()
        return rule.matches(self._facts)

    def _read(self) -> None:
        if self._facts.request is not None:
            return
        method = method_at(self._path)
        if method is None:
            raise EvaluationError("decode", "not a method of the CRI")
        try:
            message = decode_message(request_class(method), self._request)
        except DecodeError:
            raise EvaluationError("decode", "not decodable") from None
        trusted = self._facts.caller.kubelet
        pod, container = self._cache.find(self._method, message, trusted)
        image = self._cache.image(message, container, trusted)
        self._facts = self._facts.with_request(message, pod, container, image)

    def _act(self, rule: Rule) -> bool:
        """Return whether the request was changed."""
        if rule.action == "deny" and not rule.dry_run:
            self.acted.append(rule.name)
            self.reply = "PERMISSION_DENIED"
        if rule.action != "rewrite":
            return False
        self._read()
        facts = self._facts
        after = rule.rewrite_request(facts)
        if after is facts.request or rule.dry_run:
            return False
        self._facts = facts.with_request(after, facts.pod, facts.container, facts.image)
        return True

    def _failed(self, rule: Rule, error: EvaluationError) -> None:
        self.errors[rule.name, error.reason] += 1
        if error.reason != "unknown_pod" and rule.fails_closed and not rule.dry_run:
            self.acted.append(rule.name)
            self.reply = "INTERNAL"


@given(
    st.lists(rules(), max_size=12),
    calls(),
    st.sampled_from(EXECUTABLES),
    st.sampled_from(LISTENERS),
    st.sampled_from([[], [(b"x-a", b"1")]]),
    st.sampled_from(["docker.io", "", None]),
)
def test_sequential_evaluation(
    loaded: list[dict[str, Any]],
    call: tuple[str, bytes],
    executable: str | None,
    listener: str,
    headers: list[Header],
    short_names: str | None,
) -> None:
    """Matches, failures, actions and the reply are those of evaluating each rule in order."""

    async def main() -> None:
        policy = Rules(*loaded)
        policy.resources.pod_cache.short_names = short_names
        _remember_pods(policy)
        path, request = call
        connection = Connection(listener, Peer(1, 0, 0, executable), 0.0)
        scripted = policy.call(path, headers=headers, connection=connection)
        sent = [(b":path", b""), (b"content-type", b"application/grpc"), *headers]
        scripted.asks(request)
        await passed(100)  # longer than all delays
        expected = Expected(policy, path, request, connection, sent)
        if scripted.hold is None:
            assert not expected.acted
        replies = [done[1].name for done in scripted.done if done[0] == "answer"]
        assert replies == ([] if expected.reply is None else [expected.reply])
        assert policy.counts.matches == expected.matches
        assert policy.counts.errors == expected.errors
        assert list(scripted.call.rules) == list(dict.fromkeys(expected.acted))

    run(main)


def _remember_pods(policy: Rules) -> None:
    for number, namespace in ((1, "a"), (2, "kube-system")):
        request = _run_pod(namespace, labelled=number == 1)
        response = v1.RunPodSandboxResponse(pod_sandbox_id=f"pod-{number}")
        policy.resources.pod_cache.update(
            f"/{V1}/RunPodSandbox".encode(),
            request.SerializeToString(),
            response.SerializeToString(),
        )


def test_changed_request() -> None:
    """A rule behind one that changes the request is looked up by the changed field; a rule before
    it is not evaluated again."""

    async def main() -> None:
        def rule(namespace: str, action: dict[str, Any]) -> dict[str, Any]:
            where = f'request.config.metadata.namespace == "{namespace}"'
            return {"match": {"methods": ["RunPodSandbox"], "where": where}, **action}

        change = {"rewrite": {"request": {"config.metadata.namespace": '"b"'}}, "continue": True}
        delay = {"delay": {"fixed": "1s"}, "continue": True}
        policy = Rules(
            rule("b", delay), rule("a", change), rule("a", {"deny": {}}), rule("b", {"deny": {}})
        )
        scripted = policy.call("RunPodSandbox")
        scripted.asks(_run_pod("a"))
        assert scripted.call.rules == ("r1", "r3")

    run(main)


@pytest.mark.parametrize("name", ["nginx", "r.corp/nginx"])
def test_unknown_registry(name: str) -> None:
    """While it is not known how the runtime reads short names, each rule about one fails."""

    async def main() -> None:
        matches = [
            {"methods": ["PullImage"], "where": f'image.registry == "r{number}.corp"'}
            for number in range(3)
        ]
        action = {"fault": {"code": "ABORTED"}}
        policy = Rules(*({"match": each, **action} for each in matches))
        policy.resources.pod_cache.short_names = None
        scripted = policy.call(f"{IMAGES}/PullImage")
        scripted.asks(v1.PullImageRequest(image=v1.ImageSpec(image=name)))
        failed = range(3) if name == "nginx" else ()
        assert policy.counts.errors == {(f"r{n}", "unknown_runtime"): 1 for n in failed}

    run(main)


def test_unknown_pods_before_a_match() -> None:
    """Only rules before the one that ends the evaluation fail because the pod is unknown."""

    async def main() -> None:
        pod, request = 'pod.namespace == "a"', 'request.pod_sandbox_id == "other"'
        matches = [
            {"methods": ["StopPodSandbox"], "where": where} for where in (pod, request, pod, pod)
        ]
        policy = Rules(*({"match": each, "deny": {}} for each in matches))
        scripted = policy.call("StopPodSandbox")
        scripted.asks(v1.StopPodSandboxRequest(pod_sandbox_id="other"))
        assert scripted.call.rules == ("r1",)
        assert policy.counts.errors == {("r0", "unknown_pod"): 1}

    run(main)


def test_unknown_pods_of_many_loads() -> None:
    """What was counted of rules that are no longer in force is kept, however often they change."""

    async def main() -> None:
        match = {"methods": ["StopPodSandbox"], "where": 'pod.namespace == "a"'}
        policy = Rules()
        for _ in range(600):
            policy = Rules({"match": match, "deny": {}}, previous=policy)
            policy.call("StopPodSandbox").asks(v1.StopPodSandboxRequest(pod_sandbox_id="other"))
        assert policy.counts.errors == {("r0", "unknown_pod"): 600}
        assert len(policy.counts._failures.groups) <= 256

    run(main)


# The cost of a call

_IN_A_POD = 'pod.namespace == "n{}"'
_MANY: dict[str, tuple[str, Message]] = {
    _IN_A_POD: (
        f"{V1}/RunPodSandbox",
        _run_pod("x"),
    ),
    'pod.namespace in ["n{0}", "m{0}"]': (f"{V1}/StopPodSandbox", v1.StopPodSandboxRequest()),
    'request.config.metadata.namespace == "n{}" && has(request.config.linux)': (
        f"{V1}/RunPodSandbox",
        _run_pod("x"),
    ),
    'image.registry == "r{}.corp"': (
        f"{IMAGES}/PullImage",
        v1.PullImageRequest(image=v1.ImageSpec(image="docker.io/nginx")),
    ),
    'image.name == "r{}.corp/a:1" || image.name == "r.corp/a:{}"': (
        f"{IMAGES}/PullImage",
        v1.PullImageRequest(image=v1.ImageSpec(image="docker.io/nginx")),
    ),
    'caller.executable == "/usr/bin/n{}"': (f"{V1}/Version", v1.VersionRequest()),
}
CASES = pytest.mark.parametrize("where", _MANY)


def _call(policy: Rules, where: str) -> Scripted:
    path, request = _MANY[where]
    scripted = policy.call(path)
    scripted.asks(request)
    scripted.close()
    return scripted


@CASES
def test_cost_of_a_call(where: str) -> None:
    """A call takes as many operations with 1,000 rules that compare one field as with 10."""

    async def main() -> None:
        counts = []
        for number in (10, 1000):
            method = _MANY[where][0].rpartition("/")[2]
            match = [{"methods": [method], "where": where.format(n, n)} for n in range(number)]
            policy = Rules(*({"match": each, "deny": {}} for each in match))
            _call(policy, where)  # what is kept of the method and the client
            counts.append(operations(lambda policy=policy: _call(policy, where)))
        assert counts[0] == counts[1]

    run(main)


@pytest.mark.parametrize("key", ["callers", "methods"])
def test_cost_of_other_clients_and_methods(key: str) -> None:
    """A call takes as many operations with 1,000 rules for other clients or methods as with 10."""
    matches: dict[str, dict[str, Any]] = {
        "callers": {"methods": ["*"], "callers": {"executable": ["/usr/bin/other-*"]}},
        "methods": {"methods": ["PullImage"]},
    }

    async def main() -> None:
        counts = []
        for number in (10, 1000):
            policy = Rules(*({"match": matches[key], "deny": {}} for _ in range(number)))
            _call(policy, _IN_A_POD)
            counts.append(operations(lambda policy=policy: _call(policy, _IN_A_POD)))
        assert counts[0] == counts[1]

    run(main)


def test_conditions_that_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a condition that requires more than an equality is evaluated, where that holds."""
    evaluated: list[str] = []
    evaluate = Expression.evaluate

    def recorded(expression: Expression, activation: Any) -> Any:
        evaluated.append(expression.source)
        return evaluate(expression, activation)

    monkeypatch.setattr(Expression, "evaluate", recorded)
    more = 'pod.namespace == "b" && pod.name == "other"'
    sources = ['pod.namespace == "a"', more, 'pod.namespace == "b"', "pod.name.size() == 0"]

    async def main() -> None:
        matches = [{"methods": ["RunPodSandbox"], "where": source} for source in sources]
        policy = Rules(*({"match": each, "deny": {}} for each in matches))
        scripted = policy.call("RunPodSandbox")
        scripted.asks(_run_pod("b"))
        assert scripted.call.rules == ("r2",)

    run(main)
    assert evaluated == [more]


@pytest.mark.parametrize(("where", "looks"), [("pod.name", 1), ("request.config.hostname", 0)])
def test_pods_that_no_rule_reads(where: str, looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pod of a call is looked up only if a rule for its method and its client reads pods."""

    async def main() -> None:
        other = {"match": {"methods": ["StopPodSandbox"], "where": 'pod.name == "a"'}, "deny": {}}
        clients = {"executable": ["/usr/bin/other"]}
        match = {"methods": ["RunPodSandbox"], "where": f'{where} == "a"'}
        foreign = {
            "match": {"methods": ["*"], "where": 'pod.name == "a"', "callers": clients},
            "deny": {},
        }
        policy = Rules(other, {"match": match, "deny": {}}, foreign)
        cache, found = policy.resources.pod_cache, []
        find = cache.find
        monkeypatch.setattr(cache, "find", lambda *args: found.append(args) or find(*args))
        scripted = policy.call("RunPodSandbox")
        scripted.asks(_run_pod("b"))
        assert len(found) == looks

    run(main)
