"""Values of environment variables in expressions, on both versions of the CRI."""

from typing import Any

import pytest

from criproxy.cri.environment import encode_message, text_of
from criproxy.cri.messages import MODULES
from criproxy.rules.cel.expressions import CompileError, compiled
from criproxy.rules.cel.variables import VariableTypes
from tests.support.rules import facts, one_rule, rule_set

RAW = b"caf\xe9\n"
"""A value in Latin-1: not UTF-8."""

SCOPE = VariableTypes("runtime.v1.CreateContainerRequest", None, "runtime.v1")

versions = pytest.mark.parametrize("version", ["v1", "v1alpha2"])


def call(version: str, **values: bytes) -> Any:
    """Return the facts of a CreateContainer with environment variables."""
    module = MODULES[version]
    of: Any = text_of if version == "v1alpha2" else bytes
    envs = [module.KeyValue(key=key, value=of(value)) for key, value in values.items()]
    request = module.CreateContainerRequest(config=module.ContainerConfig(envs=envs))
    return facts(f"/runtime.{version}.RuntimeService/CreateContainer", request)


@versions
@pytest.mark.parametrize(
    ("where", "values", "matches"),
    [
        (r"request.config.envs.exists(e, e.value.contains('\n'))", {"A": b"x", "B": RAW}, True),
        (r"request.config.envs.exists(e, e.value.contains('\n'))", {"A": b"\xff"}, False),
        ("request.config.envs[0].value == 'é'", {"A": "é".encode()}, True),
        ("request.config.envs[0] . value.startsWith('caf')", {"A": RAW}, True),
        ("request.config.envs.map(e, e.value + '!') == ['a!']", {"A": b"a"}, True),
        ("has(request.config.envs[0].value)", {"A": b"\xff"}, True),
        ("'value' in request.config.labels || size(request.config.envs) == 1", {"A": b""}, True),
        ("string(request.config.envs[0].value) != 'x'", {"A": RAW}, True),
        (
            "request.config.envs.filter(e, e.value.matches('^[0-9]+$')).size() == 1",
            {"A": b"7"},
            True,
        ),
    ],
)
def test_values_are_strings(version: str, where: str, values: Any, matches: bool) -> None:
    """One expression serves both versions, and a value that is not UTF-8 does not fail it."""
    text = where.replace("'", "''")
    (rule,) = rule_set(
        f"[{{name: it, match: {{methods: [CreateContainer], where: '{text}'}}, deny: {{}}}}]"
    ).rules
    assert rule.matches(call(version, **values)) is matches


@versions
@pytest.mark.parametrize(
    "value",
    [
        "request.config.envs",
        "request.config.envs.map(e, {'key': e.key, 'value': e.value})",
        "[request.config.envs[0]]",
    ],
)
def test_values_are_assigned_without_loss(version: str, value: str) -> None:
    """The text of a value becomes its bytes again, also where they are not UTF-8."""
    rule = one_rule("CreateContainer", f'rewrite: {{request: {{config.envs: "{value}"}}}}')
    before = call(version, A=RAW)
    after = rule.rewrite_request(before)
    assert encode_message(after) == encode_message(before.request)
    assert RAW in encode_message(after)


def test_bytes_in_v1_alone() -> None:
    """An expression that compiles only with bytes still does, where the API has bytes."""
    methods = "/runtime.v1.RuntimeService/CreateContainer"
    (rule,) = rule_set(
        f"[{{name: it, match: {{methods: [{methods}],"
        " where: 'request.config.envs[0].value == b\"x\"'}, deny: {}}]"
    ).rules
    assert rule.matches(call("v1", A=b"x"))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "request.config.envs[0].value.contains(1)",
            "1:38: found no matching overload for 'contains' applied to '(string, int)'",
        ),
        (
            "request.config.envs[0].value == '' && reqest == 1",
            "1:39: undeclared reference to 'reqest' (in container 'runtime.v1'); did you mean"
            " 'request'?",
        ),
    ],
)
def test_errors_have_their_location(source: str, error: str) -> None:
    """Errors are those of the expression as it was written."""
    with pytest.raises(CompileError) as caught:
        compiled(source, SCOPE)
    assert str(caught.value) == error


def test_used_variables() -> None:
    """The variables of a rewritten expression are those of the original."""
    source = "request.config.envs.exists(e, e.value == pod.name)"
    assert compiled(source, SCOPE).names == {"request", "pod"}
