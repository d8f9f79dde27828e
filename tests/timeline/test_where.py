"""Conditions in CEL on calls that a log tells of."""

import json
from typing import Any

import pytest

from criproxy.rules.errors import EvaluationError
from criproxy.timeline.logged_call import parse_line
from criproxy.timeline.where import Where
from tests.support.audited import KUBELET, fields_of, maker, observed, populated, v1
from tests.timeline.calls import Calls
from tests.timeline.log_lines import logged


@pytest.fixture(scope="module")
def pull() -> bytes:
    """A line of the call log."""
    calls = Calls()
    calls.pull(2.5, code="NOT_FOUND")
    more = {"uid": 12, "executable": "/usr/bin/kubelet", "listener": "unix:///run/c.sock"}
    return json.dumps(logged(calls.made[0]) | more).encode()


@pytest.fixture(scope="module")
def created() -> bytes:
    """A record of the audit log."""
    envs = [v1.KeyValue(key="TOKEN", value=b"\xff secret")]
    image = v1.ImageSpec(image="ghcr.io/shop/app:2")
    config = v1.ContainerConfig(
        metadata=v1.ContainerMetadata(name="app"), image=image, envs=envs, command=["run"]
    )
    request = v1.CreateContainerRequest(pod_sandbox_id="aa" * 32, config=config)
    response = v1.CreateContainerResponse(container_id="cc" * 32)
    item = observed("CreateContainer", request, response, peer=KUBELET)
    return json.dumps(fields_of(populated(maker()), item)).encode()


def holds(source: str, line: bytes, *methods: str) -> bool:
    call = parse_line(line)
    assert call is not None
    return Where(source, methods).holds(call, line)


@pytest.mark.parametrize(
    "source",
    [
        'method == "PullImage" && api_version == "v1"',
        'code == "NOT_FOUND" && duration > duration("2s") && duration < duration("2600ms")',
        'pod.namespace == "shop" && pod.name == "web" && pod.uid != ""',
        'image.name == "docker.io/library/nginx:1" && image.registry == "docker.io"',
        'caller.uid == 12 && caller.executable.endsWith("/kubelet") && caller.pid == 0',
        'listener == "unix:///run/c.sock"',
        '"request" in ["request"]',
    ],
)
def test_call_log(source: str, pull: bytes) -> None:
    """What a line of the call log says can be used, by the names that rules have for it."""
    assert holds(source, pull)
    assert not holds(f"!({source})", pull)
    assert not Where(source).needs_records


@pytest.mark.parametrize(
    "source",
    [
        'request.config.command == ["run"]',
        'request.config.envs.exists(e, e.key == "TOKEN" && e.value == "[redacted: 8 bytes]")',
        'response.container_id.startsWith("ccc")',
        "caller.kubelet && caller.unit == 'kubelet.service' && caller.gid == 0",
        'container.name == "app" && pod.name == "web"',
        'image.registry == "ghcr.io" && image.tag == "2" && code == "OK"',
        "method == 'Version' || request.config.metadata.name == 'app'",
    ],
)
def test_audit_log(source: str, created: bytes) -> None:
    """A record has the messages as well, without secrets, and all of the caller."""
    assert holds(source, created)
    assert not holds(f"!({source})", created)


def test_what_a_line_does_not_say(pull: bytes, created: bytes) -> None:
    """What is not known is an error, except the pod of a call without one, and other methods."""
    assert Where("request.image.image != ''").needs_records
    with pytest.raises(EvaluationError, match="only the audit log says what it is about"):
        holds("request.image.image != ''", pull)
    with pytest.raises(EvaluationError, match="only the audit log says what it is about"):
        holds("caller.kubelet", pull)
    record: dict[str, Any] = json.loads(created)
    del record["requestObject"]
    with pytest.raises(EvaluationError, match="there is no request to look at"):
        holds("request.config.tty", json.dumps(record).encode())
    record["requestObject"] = {"config": []}
    with pytest.raises(EvaluationError, match="not a CreateContainerRequest"):
        holds("request.config.tty", json.dumps(record).encode())
    del record["pod"], record["container"]
    assert not holds("pod.name != 'x'", json.dumps(record).encode())
    assert not holds("request.container_id != 'x'", created)  # it has none, other requests do


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("methd == 'x'", "1:1: undeclared reference to 'methd' .*did you mean 'method'"),
        ("pod.name", "has to be bool, not string"),
        ("pod.labels['a'] == 'b'", "1:4: undefined field 'labels' .*namespace, name, uid"),
        ("metadata['a'] == 'b'", "undeclared reference to 'metadata'"),
        ("request.image.imag == 'x'", "^ImageStatus: 1:14: .*did you mean 'image'"),
        ("request.imag.image == 'x'", "^Version: 1:8: undefined field 'imag'"),
        ("request.image.image", "^ImageStatus: has to be bool, not string"),
        ("1 +", "1:4: Syntax error"),
        ("(" * 1000, "recursion limit"),
        ("pod.name.matches('(')", "missing \\)"),
        ("\udcff == 'x'", "is not text that UTF-8 can have"),
    ],
)
def test_wrong_expressions(source: str, error: str) -> None:
    """A wrong expression is one line with its location, about the method that it fits best."""
    with pytest.raises(ValueError, match=error) as raised:
        Where(source)
    assert "\n" not in str(raised.value)


def test_methods(created: bytes) -> None:
    """An expression is compiled for the methods that are wanted, and is about no others."""
    source = "request.container_id == ''"
    assert not holds(source, created)
    with pytest.raises(ValueError, match="CreateContainer: 1:8: undefined field"):
        Where(source, ("CreateContainer",))
    with pytest.raises(ValueError, match="there is a request only of the CRI's methods"):
        Where(source, ("grpc.health.v1.Health/Check",))
    source = "request.pod_sandbox_id != ''"
    assert holds(source, created, "Create*")
    assert not holds(source, created, "Stop*")


def test_evaluation_is_bounded(pull: bytes) -> None:
    """An expression that would run for years ends with an error."""
    source = "method != ''"
    for variable in "abcdefghij":
        source = f"[1, 2, 3, 4, 5, 6, 7, 8, 9, 10].all({variable}, {source})"
    with pytest.raises(EvaluationError, match="budget exceeded"):
        holds(source, pull)
