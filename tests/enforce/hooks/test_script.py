"""Hook scripts within their process: loading them, and calling their functions."""

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.message import Message

from criproxy.enforce.hooks.script import CallFailedError, Script, ScriptError
from criproxy.hook import Call, Deny
from criproxy.wire.grpc import StatusCode
from tests.enforce.hook_calls import PB, UNKNOWN, create, facts, run

PATH = "/hooks/hook.py"
VERSIONS = pytest.mark.parametrize("version", ["v1", "v1alpha2"])
KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


def call(source: str, message: Message, **known: Any) -> Message | None:
    """Call the function ``request`` of a script."""
    script = Script(PATH, source.encode())
    made = Call(message, facts(**known), asyncio.sleep if script.is_async("request") else None)
    if script.is_async("request"):
        return run(script.call_async("request", made))
    return script.call("request", made)


@KINDS
@VERSIONS
def test_change(kind: str, version: str) -> None:
    """A changed message keeps its other fields, with the unknown ones."""
    message = create(version)
    message.config.MergeFromString(UNKNOWN)
    expected = type(message)()
    expected.CopyFrom(message)
    expected.config.labels["team"] = "blue"
    source = f"{kind} request(call):\n    call.message.config.labels['team'] = 'blue'\n"
    assert call(source, message, version=version) == expected


@KINDS
def test_no_change(kind: str) -> None:
    """A message that is only read is unchanged."""
    source = f"{kind} request(call):\n    assert call.message.config.labels['app']\n"
    assert call(source, create()) is None


def test_unknown_pod() -> None:
    """Unknown pods and containers are None."""
    known = facts()
    bare = type(known)(known.method_name, known.listener, known.caller)
    source = b"def request(call):\n    assert call.pod is call.container is None\n"
    assert Script(PATH, source).call("request", Call(create(), bare, None)) is None


def test_request_is_a_copy() -> None:
    """Changes of call.request have no effect."""
    sent = create()
    made = Call(PB["v1"].CreateContainerResponse(), facts(request=sent), None)
    source = b"def response(call):\n    call.request.config.labels.clear()\n"
    assert Script(PATH, source).call("response", made) is None
    assert sent == create()


@KINDS
@pytest.mark.parametrize("code", ['"RESOURCE_EXHAUSTED"', "8", "StatusCode.RESOURCE_EXHAUSTED"])
def test_deny(kind: str, code: str) -> None:
    """A call is denied with a code by name, number or StatusCode, and a message."""
    source = (
        "from criproxy.hook import Deny, StatusCode\n"
        f"{kind} request(call):\n    raise Deny({code}, 'not here')\n"
    )
    assert Script(PATH, source.encode()).has_deny
    with pytest.raises(Deny) as caught:
        call(source, create())
    assert (caught.value.code, caught.value.message) == (StatusCode.RESOURCE_EXHAUSTED, "not here")


@pytest.mark.parametrize("code", ["'NOPE'", "0", "'OK'", "99"])
def test_deny_with_a_wrong_code(code: str) -> None:
    """A code that gRPC does not have, or that denies nothing, is an error of the script."""
    with pytest.raises(CallFailedError, match=r"^ValueError: .*\(hook.py:3\)$"):
        call(
            f"from criproxy.hook import Deny\ndef request(call):\n    raise Deny({code})", create()
        )


@KINDS
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{}['x']", "KeyError: 'x' (hook.py:4)"),
        ("raise ValueError('a\\nb')", "ValueError: a b (hook.py:4)"),
        ("raise SystemExit", "SystemExit (hook.py:4)"),
        ("raise StopIteration(1)", None),
        ("call.message.config.nope = 1", None),
        ("call.message = 5", "call.message is int now, it has to be CreateContainerRequest"),
        ("return call.message", None),
    ],
)
def test_errors(kind: str, line: str, text: str | None) -> None:
    """An exception of a script is described in one line, with the script's own line."""
    with pytest.raises(CallFailedError) as caught:
        call(f"\n{kind} request(call):\n    pass\n    {line}\n", create())
    assert "\n" not in str(caught.value)
    assert text is None or str(caught.value) == text


def test_another_type() -> None:
    """A message of the other API version cannot replace the call's."""
    source = (
        "from criproxy.cri.pb import runtime_v1alpha2_pb2 as pb\n"
        "def request(call):\n    call.message = pb.CreateContainerRequest()\n"
    )
    with pytest.raises(CallFailedError, match="has to be CreateContainerRequest"):
        call(source, create())


def test_replaced() -> None:
    """A script may replace the call's message by another one of the same type."""
    source = "def request(call):\n    call.message = type(call.message)(pod_sandbox_id='z')\n"
    assert call(source, create()) == PB["v1"].CreateContainerRequest(pod_sandbox_id="z")


def test_delay_in_a_plain_function() -> None:
    """A plain function that asks for a delay gets an error that says how to write it."""
    text = r"RuntimeError: call.delay is for async functions; write it as async def \(hook.py:2\)"
    with pytest.raises(CallFailedError, match=text):
        call("def request(call):\n    call.delay(1)\n", create())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def request(call)\n    pass\n", f"{PATH}:1: SyntaxError: expected ':'"),
        ("\nimport no_such_module\n", f"No module named 'no_such_module' ({PATH}:2)"),
        ("\n\n1 / 0\n", f"ZeroDivisionError: division by zero ({PATH}:3)"),
        ("raise SystemExit(3)\n", f"SystemExit: 3 ({PATH}:1)"),
        ("x = 1\n", f"{PATH}: needs a function request(call) or response(call)"),
        ("request = 5\n", f"{PATH}: request has to be a function, this is 5"),
        ("\ndef request(): pass\n", f"{PATH}:2: request has to take one argument, the call"),
        ("def request(a, b): pass\n", f"{PATH}:1: request has to take one argument, the call"),
        ("def response(*, call): pass\n", f"{PATH}:1: response has to take one argument, the call"),
        ("def request(call): yield\n", f"{PATH}:1: request must not yield"),
        ("async def request(call): yield\n", f"{PATH}:1: request must not yield"),
    ],
)
def test_load_errors(source: str, text: str) -> None:
    """The error for a script that cannot be used contains file, line and reason, in one line."""
    with pytest.raises(ScriptError) as caught:
        Script(PATH, source.encode())
    assert str(caught.value).endswith(text)
    assert "\n" not in str(caught.value)


def test_module() -> None:
    """A script can use what looks its module up, as dataclasses do."""
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Box:\n    value: int\n"
        "def request(call):\n    call.message.pod_sandbox_id = str(Box(1).value) + __file__\n"
    )
    changed: Any = call(source, create())
    assert changed.pod_sandbox_id == f"1{PATH}"


def test_example() -> None:
    """The example in deploy/hooks labels a container, and denies a privileged one."""
    source = (Path(__file__).parents[3] / "deploy" / "hooks" / "label.py").read_text()
    request = create()
    request.sandbox_config.metadata.namespace = "shop"
    changed: Any = call(source, request)
    assert changed.config.labels["example.com/namespace"] == "shop"
    request.config.linux.security_context.privileged = True
    with pytest.raises(Deny, match="no privileged containers in namespace shop"):
        call(source, request)


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the entry of sys.modules that loading a script replaces."""
    monkeypatch.setitem(sys.modules, "_criproxy_hook", ModuleType("_criproxy_hook"))
