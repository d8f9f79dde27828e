from typing import Any

import pytest

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Peer
from criproxy.rules.cel.expressions import CompileError, compiled, source_of
from criproxy.rules.cel.variables import VariableTypes, VariableValues, values_of
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Container, Facts, Image, Pod
from tests.support.rules import facts

PULL = "/runtime.v1.ImageService/PullImage"
SCOPE = VariableTypes("runtime.v1.PullImageRequest", None, "runtime.v1")
POD = Pod("p1", "shop", "web-0", "uid-1", {"app": "web"}, {"note": "x"})
IMAGE = Image("a.io/b:1", "a.io", "b", "1", "", "sha256:1")
CONTAINER = Container("c1", "main", "nginx", {"tier": "front"}, {"a": "b"}, "p1")


def call(**more: Any) -> Facts:
    request = v1.PullImageRequest(image=v1.ImageSpec(image="docker.io/nginx"))
    known = {"pod": POD, "container": CONTAINER, "image": IMAGE, "metadata": {"x-id": "7"}}
    return facts(PULL, request, **{**known, **more})


def evaluate(source: str, of: Facts) -> Any:
    expression = compiled(source, SCOPE)
    return expression.evaluate(values_of(of).activation(expression.names))


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("request.image.image", "docker.io/nginx"),
        ("[pod.namespace, pod.name, pod.uid]", ["shop", "web-0", "uid-1"]),
        ("pod.labels['app'] + pod.annotations.note", "webx"),
        ("[container.id, container.name, container.image]", ["c1", "main", "nginx"]),
        ("[image.name, image.registry, image.repository]", ["a.io/b:1", "a.io", "b"]),
        ("[image.tag, image.digest, image.id]", ["1", "", "sha256:1"]),
        ("container.labels.tier + container.annotations['a']", "frontb"),
        ("[caller.pid, caller.uid, caller.gid]", [7, 0, 0]),
        ("caller.executable", "/usr/bin/kubelet"),
        ("listener", "/run/criproxy/criproxy.sock"),
        ("api_version + ' ' + method", "v1 PullImage"),
        ("metadata['x-id']", "7"),
        ("has(pod.labels.app) && !has(pod.labels.none)", True),
        ("request.image.image.replace('docker.io', 'mirror').split('/')", ["mirror", "nginx"]),
        ("base64.decode('eA==') == b'x'", True),
        ("MountPropagation.PROPAGATION_BIDIRECTIONAL", 2),
        ("[1, 2].map(pod, pod + 1)", [2, 3]),
    ],
)
def test_variables_and_functions(source: str, value: Any) -> None:
    """Each variable has its value in a call; the extensions for strings and base64 are
    available."""
    assert evaluate(source, call()) == value


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("true", set()),
        ("request.image.image == pod.name", {"request", "pod"}),
        ("[1].exists(request, request == 1)", set()),
        ("[request].exists(pod, pod.image.image == '')", {"request"}),
        ("'pod' == 'container'", set()),
        ("request.sandbox_config.metadata.name == 'metadata'", {"request"}),
        ("has(container.name)", {"container"}),
        ("method == listener || api_version == 'v1'", {"method", "listener", "api_version"}),
    ],
)
def test_used_variables(source: str, names: set[str]) -> None:
    """A word in a string, a field of that name, or a variable of a macro is not a used variable."""
    assert compiled(source, SCOPE).names == names


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "request.image.imagee",
            "1:14: undefined field 'imagee' not found in struct 'runtime.v1.ImageSpec'; did"
            " you mean 'image'?",
        ),
        (
            "pod.namspace",
            "1:4: undefined field 'namspace' not found in struct 'criproxy.rules.Pod'; did"
            " you mean 'namespace'?",
        ),
        (
            "caller.user",
            "1:7: undefined field 'user' not found in struct 'criproxy.rules.Caller'; there"
            " are pid, uid, gid, executable, unit, kubelet",
        ),
        (
            "reqest.image",
            "1:7: undeclared reference to 'reqest.image' (in container 'runtime.v1'); did you"
            " mean 'request'?",
        ),
        (
            "metod == ''",
            "1:1: undeclared reference to 'metod' (in container 'runtime.v1'); did you mean"
            " 'method'?",
        ),
        (
            "method.startswith('a')",
            "1:18: undeclared reference to 'startswith' (in container 'runtime.v1'); did you"
            " mean 'startsWith'?",
        ),
        (
            "method == 'a' ||\n  method == 1",
            "2:10: found no matching overload for '_==_' applied to '(string, int)'",
        ),
        (
            "response.x",
            "1:9: undeclared reference to 'response.x' (in container 'runtime.v1'); only"
            " rewrite.response and fault.drop are about the response",
        ),
        ("method ==", "1:10: Syntax error: mismatched input '<EOF>'"),
        ("zzzzzz", "1:1: undeclared reference to 'zzzzzz' (in container 'runtime.v1')"),
        ("method.matches('[')", "1:16: invalid regular expression: missing ]: ["),
        (
            "['a'].exists(x, matches(x, '(') || true)",
            "1:28: invalid regular expression: missing ): (",
        ),
        ("'\ud800'", "is not text that UTF-8 can have"),
        (
            "'" + "x" * 100_000 + "'",
            "expression size exceeds codepoint limit. input size: 100002, limit: 100000",
        ),
    ],
)
def test_compile_errors(source: str, error: str) -> None:
    """An error in an expression is one line with line:column, and with a suggestion."""
    with pytest.raises(CompileError) as caught:
        compiled(source, SCOPE)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("source", "known", "reason", "detail"),
    [
        ("pod.name", {"pod": None}, "unknown_pod", "the call's pod is not known"),
        ("container.name", {"container": None}, "unknown_pod", "the call's container is not known"),
        ("image.name", {"image": None}, "unknown_pod", "the call's image is not known"),
        ("has(pod.labels.x)", {"pod": None}, "unknown_pod", "the call's pod is not known"),
        ("metadata['none']", {}, "cel", 'Key not found in map : "none"'),
        ("pod.labels['none']", {}, "cel", 'Key not found in map : "none"'),
        ("[1][int(caller.pid)]", {}, "cel", "Index error: index=7 size=1"),
        ("1 / caller.uid", {}, "cel", "divide by zero"),
        ("int(method)", {}, "cel", "cannot convert string to int"),
    ],
)
def test_evaluation_errors(source: str, known: dict[str, Any], reason: str, detail: str) -> None:
    """An expression without a value in a call raises EvaluationError with one line."""
    with pytest.raises(EvaluationError) as caught:
        evaluate(source, call(**known))
    assert (caught.value.reason, caught.value.detail) == (reason, detail)


def test_missing_request() -> None:
    """A missing request is an error, not an empty message."""
    with pytest.raises(EvaluationError) as caught:
        evaluate("request.image.image == ''", facts(PULL))
    assert caught.value.reason == "decode"


@pytest.mark.parametrize(
    ("source", "value"),
    [("pod.name == 'x' || method == 'PullImage'", True), ("pod.name == 'x' && false", False)],
)
def test_unknown_pod_in_logical_operators(source: str, value: bool) -> None:
    """An unknown pod is no error if the result does not depend on it."""
    assert evaluate(source, call(pod=None)) is value


def test_unknown_executable() -> None:
    """An unknown executable is the empty string, since CEL has no None to compare with."""
    assert evaluate("caller.executable == ''", call(caller=Peer(0, 1000, 1000, None))) is True


@pytest.mark.parametrize(
    ("caller", "unit", "kubelet"),
    [
        (Peer(7, 0, 0, None, unit="kubelet.service", kubelet=True), "kubelet.service", True),
        (Peer(7, 0, 0, "/usr/bin/kubelet"), "", False),
    ],
)
def test_unit_and_kubelet(caller: Peer, unit: str, kubelet: bool) -> None:
    """The caller's unit and kubelet flag are available; an unknown unit is the empty string."""
    assert evaluate("caller.unit", call(caller=caller)) == unit
    assert evaluate("caller.kubelet", call(caller=caller)) is kubelet


def test_values_are_created_once_per_call() -> None:
    """Rules that use the same variables share their values."""
    of = call()
    names = frozenset({"request", "pod"})
    assert values_of(of).activation(names) is values_of(of).activation(names)


def test_response_variable() -> None:
    """Expressions about responses may use both messages."""
    scope = VariableTypes(
        "runtime.v1.PullImageRequest", "runtime.v1.PullImageResponse", "runtime.v1"
    )
    expression = compiled("request.image.image + response.image_ref", scope)
    values = VariableValues(call(), v1.PullImageResponse(image_ref="@1"))
    assert expression.evaluate(values.activation(expression.names)) == "docker.io/nginx@1"


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("a.b", "a.b"),
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (-5, "-5"),
        (1.5, "1.5"),
        (1e30, "1e+30"),
        ((1 << 64) - 1, "18446744073709551615u"),
    ],
)
def test_yaml_scalars_are_literals(value: Any, source: str) -> None:
    """A YAML scalar that is not a string is a CEL literal."""
    assert source_of(value) == source
    if not isinstance(value, str):
        assert evaluate(source, call()) == value
