"""Hooks that are Python files."""

import asyncio
import gc
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from criproxy.configtypes.values import Duration
from criproxy.enforce.hooks import scripts
from criproxy.enforce.hooks.factory import make_hook
from criproxy.enforce.hooks.hook import HookDenial, call_hook
from criproxy.enforce.hooks.scripts import ScriptError, ScriptHook
from criproxy.rules.errors import EvaluationError
from criproxy.rules.spec import HookSpec
from criproxy.wire.grpc import StatusCode
from tests.enforce.hook_calls import PB, UNKNOWN, create, facts, run
from tests.support import virtual_time
from tests.support.waiting import LIMIT_SECONDS, wait_until

VERSIONS = pytest.mark.parametrize("version", ["v1", "v1alpha2"])
KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """Write a script, and make a hook of it."""

    def write(source: str, timeout: float = 3) -> ScriptHook:
        (tmp_path / "hook.py").write_text(source)
        return ScriptHook(HookSpec(script="hook.py", timeout=Duration(timeout)), tmp_path)

    return write


def ask(hook: ScriptHook, message: Any, **known: Any) -> Any:
    return run(hook.request(message, facts(**known)))


def failure(hook: ScriptHook, message: Any = None) -> EvaluationError:
    with pytest.raises(EvaluationError) as caught:
        ask(hook, create() if message is None else message)
    return caught.value


@KINDS
@VERSIONS
def test_change(script: Any, kind: str, version: str) -> None:
    """A changed message goes on as a copy: all else as it was, fields that are not known too."""
    hook = script(f"{kind} request(call):\n    call.message.config.labels['team'] = 'blue'\n")
    before = create(version)
    before.config.MergeFromString(UNKNOWN)
    expected = type(before)()
    expected.CopyFrom(before)
    expected.config.labels["team"] = "blue"
    after = ask(hook, before, version=version)
    assert after == expected
    assert "team" not in before.config.labels


@KINDS
def test_no_change(script: Any, kind: str) -> None:
    """A message that is only read goes on as the same object."""
    hook = script(f"{kind} request(call):\n    assert call.message.config.labels['app']\n")
    before = create()
    assert ask(hook, before) is before


@VERSIONS
def test_facts(script: Any, version: str) -> None:
    """A script is told what is known of the call."""
    hook = script(
        "def response(call):\n"
        "    call.message.container_id = ' '.join(map(str, [call.method, call.api_version,\n"
        "        call.pod.namespace, call.container.name, call.caller.pid, call.listener,\n"
        "        call.metadata['k'], call.request.config.labels['app']]))\n"
    )
    known = facts(version=version, metadata={"k": "v"}, request=create(version))
    after: Any = run(hook.response(PB[version].CreateContainerResponse(container_id="x"), known))
    expected = f"CreateContainer {version} shop nginx 812 kubelet v web"
    assert after.container_id == expected


def test_unknown_pod(script: Any) -> None:
    """What is not known is None."""
    hook = script("def request(call):\n    assert call.pod is call.container is None\n")
    known = facts()
    bare = type(known)(known.method_name, known.listener, known.caller)
    run(hook.request(create(), bare))


def test_request_is_a_copy(script: Any) -> None:
    """What a script does to call.request is seen by nobody else."""
    hook = script("def response(call):\n    call.request.config.labels.clear()\n")
    sent = create()
    run(hook.response(PB["v1"].CreateContainerResponse(), facts(request=sent)))
    assert sent == create()


@pytest.mark.parametrize("name", ["request", "response"])
def test_one_function(script: Any, name: str) -> None:
    """A script with one function is asked about those messages alone."""
    hook = script(f"def {name}(call):\n    pass\n")
    assert (hook.has_request, hook.has_response) == (name == "request", name == "response")


def test_both_functions(script: Any) -> None:
    """A script may have both functions; the rule's time limit is the hook's."""
    hook = script("def request(call): pass\nasync def response(call): pass\n")
    assert (hook.has_request, hook.has_response, hook.timeout) == (True, True, 3.0)


@KINDS
@pytest.mark.parametrize("code", ['"RESOURCE_EXHAUSTED"', "8", "StatusCode.RESOURCE_EXHAUSTED"])
def test_deny(script: Any, kind: str, code: str) -> None:
    """A call is refused with a code by name, number or StatusCode, and a message."""
    hook = script(
        "from criproxy.hook import Deny, StatusCode\n"
        f"{kind} request(call):\n    raise Deny({code}, 'not here')\n"
    )
    with pytest.raises(HookDenial) as caught:
        ask(hook, create())
    assert (caught.value.code, caught.value.message) == (StatusCode.RESOURCE_EXHAUSTED, "not here")


@pytest.mark.parametrize("code", ["'NOPE'", "0", "'OK'", "99"])
def test_deny_with_a_wrong_code(script: Any, code: str) -> None:
    """A code that gRPC does not have, or that refuses nothing, is the script's error."""
    hook = script(
        f"from criproxy.hook import Deny\ndef request(call):\n    raise Deny({code}, '')\n"
    )
    error = failure(hook)
    assert error.reason == "script"
    assert error.detail.startswith("ValueError: ")
    assert error.detail.endswith("(hook.py:3)")


@KINDS
@pytest.mark.parametrize(
    ("line", "told"),
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
def test_errors(script: Any, kind: str, line: str, told: str | None) -> None:
    """What a script raises is told in one line, with the script's own line."""
    error = failure(script(f"\n{kind} request(call):\n    pass\n    {line}\n"))
    assert error.reason == "script"
    assert "\n" not in error.detail
    assert told is None or error.detail == told


def test_another_type(script: Any) -> None:
    """A message of the other API version cannot take the place of the call's."""
    hook = script(
        "from criproxy.cri.pb import runtime_v1alpha2_pb2 as pb\n"
        "def request(call):\n    call.message = pb.CreateContainerRequest()\n"
    )
    assert "has to be CreateContainerRequest" in failure(hook).detail


def test_replaced(script: Any) -> None:
    """A script may put another message of the same type in the place of the call's."""
    hook = script("def request(call):\n    call.message = type(call.message)(pod_sandbox_id='z')\n")
    assert ask(hook, create()) == PB["v1"].CreateContainerRequest(pod_sandbox_id="z")


def test_delay(script: Any) -> None:
    """An async function may keep the call waiting, and goes on behind that."""
    hook = script(
        "async def request(call):\n"
        "    await call.delay(0.001)\n    call.message.pod_sandbox_id = 'late'\n"
    )
    assert ask(hook, create()).pod_sandbox_id == "late"


def test_delay_in_a_plain_function(script: Any) -> None:
    """A plain function that asks for a delay is told that it has to be async."""
    error = failure(script("def request(call):\n    call.delay(1)\n"))
    assert error.detail == (
        "RuntimeError: call.delay is for async functions; write it as async def (hook.py:2)"
    )


def test_delay_past_the_limit(script: Any) -> None:
    """The time for which a script has the call wait is not its own; what it takes besides is."""
    waits = "async def request(call):\n    await call.delay(2)\n    await call.delay(3)\n"
    hangs = f"{waits}    await asyncio.sleep(3600)\n"

    async def asked(source: str) -> str | None:
        hook = script(f"import asyncio\n{source}", timeout=1)
        try:
            await call_hook(hook, HookSpec(script="hook.py"), "request", create(), facts())
        except EvaluationError as error:
            return str(error)
        return None

    async def main() -> None:
        time = asyncio.get_running_loop().time
        assert (await asked(waits), time()) == (None, 5.0)
        assert (await asked(hangs), time()) == ("timeout: no answer within 1 s", 11.0)

    virtual_time.run(main)


def test_refusal_that_the_rule_does_not_allow(script: Any) -> None:
    """A refusal is a failure of the script's where its rule says that it may not refuse."""
    hook = script("from criproxy.hook import Deny\nasync def request(call): raise Deny(7, 'no')\n")
    assert hook.has_deny

    async def main(may_deny: bool | None) -> None:
        spec = HookSpec(script="hook.py", may_deny=may_deny)
        await call_hook(hook, spec, "request", create(), facts())

    for allowed in (None, True):
        with pytest.raises(HookDenial):
            run(main(allowed))
    with pytest.raises(EvaluationError, match="refuses the call with PERMISSION_DENIED"):
        run(main(False))


def test_plain_functions_do_not_block(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a plain function blocks, the loop goes on."""
    gate = _gate(monkeypatch)
    hook = script("import gate\ndef request(call):\n    gate.leave.wait(120)\n")

    async def main() -> None:
        asked = asyncio.create_task(hook.request(create(), facts()))
        await asyncio.sleep(0)
        gate.leave.set()
        await asked

    run(main())


def test_stuck_workers(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all workers are left with functions that never return, a call fails at once.

    Once they return, the script is asked again.
    """
    monkeypatch.setattr(scripts, "WORKERS", 2)
    gate = _gate(monkeypatch)
    hook = script(
        "import gate\ndef request(call):\n    gate.entered.release()\n    gate.leave.wait(120)\n"
    )

    async def main() -> None:
        asked = [asyncio.create_task(hook.request(create(), facts())) for _ in range(3)]
        for _ in range(2):
            await asyncio.to_thread(gate.entered.acquire, timeout=LIMIT_SECONDS)
        for each in asked:  # the third has no worker yet, and is not left with one
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(EvaluationError) as caught:
            await hook.request(create(), facts())
        assert caught.value.reason == "timeout"
        assert caught.value.detail == "all workers are stuck in hook.py"
        gate.leave.set()
        await asyncio.to_thread(wait_until, lambda: not hook._workers.stuck, "free worker")
        await hook.request(create(), facts())

    run(main())


def test_more_calls_than_workers(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls past the number of workers wait for their turn."""
    monkeypatch.setattr(scripts, "WORKERS", 2)
    hook = script("def request(call):\n    call.message.pod_sandbox_id += '!'\n")

    async def main() -> None:
        asked = [hook.request(create(), facts()) for _ in range(20)]
        assert {each.pod_sandbox_id for each in await asyncio.gather(*asked)} == {"s1!"}

    run(main())


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def request(call)\n    pass\n", ":1: SyntaxError: expected ':'"),
        ("\nimport no_such_module\n", "No module named 'no_such_module' ({}:2)"),
        ("\n\n1 / 0\n", "ZeroDivisionError: division by zero ({}:3)"),
        ("raise SystemExit(3)\n", "SystemExit: 3 ({}:1)"),
        ("x = 1\n", ": needs a function request(call) or response(call)"),
        ("request = 5\n", ": request has to be a function, this is 5"),
        ("\ndef request(): pass\n", ":2: request has to take one argument, the call"),
        ("def request(a, b): pass\n", ":1: request has to take one argument, the call"),
        ("def response(*, call): pass\n", ":1: response has to take one argument, the call"),
        ("def request(call): yield\n", ":1: request must not yield"),
        ("async def request(call): yield\n", ":1: request must not yield"),
    ],
)
def test_load_errors(script: Any, tmp_path: Path, source: str, told: str) -> None:
    """A script that cannot be used is told of when it is loaded: file, line and reason."""
    loaded = set(sys.modules)
    with pytest.raises(ScriptError) as caught:
        script(source)
    text = str(caught.value)
    assert str(tmp_path / "hook.py") in text
    assert told.format(tmp_path / "hook.py") in text
    assert "\n" not in text
    del caught
    gc.collect()
    assert not {name for name in set(sys.modules) - loaded if "criproxy_hook" in name}


def test_missing_file(tmp_path: Path) -> None:
    """A script that is not there is named with its path."""
    with pytest.raises(ScriptError, match=r"/no.py: cannot be read: No such file or directory"):
        ScriptHook(HookSpec(script="no.py"), tmp_path)


def test_reload(script: Any) -> None:
    """A script that is loaded again is the new one, and its globals are its own."""
    source = (
        "seen = []\ndef request(call):\n"
        "    seen.append(1)\n    call.message.pod_sandbox_id = 'A%d' % len(seen)\n"
    )
    first = script(source)
    second = script(source.replace("A", "B"))  # as long, and within the same second
    assert ask(first, create()).pod_sandbox_id == "A1"
    assert ask(first, create()).pod_sandbox_id == "A2"
    assert ask(second, create()).pod_sandbox_id == "B1"


def test_modules_go(script: Any) -> None:
    """A script can use what looks its module up, and its module goes with the hook."""
    hook = script(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Box:\n    value: int\n"
        "def request(call):\n    call.message.pod_sandbox_id = str(Box(1).value)\n"
    )
    assert ask(hook, create()).pod_sandbox_id == "1"
    name = hook._request.__module__
    assert name in sys.modules
    del hook
    gc.collect()
    assert name not in sys.modules


def test_example() -> None:
    """The example in deploy/hooks labels a container, and refuses a privileged one."""
    path = Path(__file__).parents[3] / "deploy" / "hooks"
    hook = make_hook(HookSpec(script="label.py"), path)
    before = create()
    before.sandbox_config.metadata.namespace = "shop"
    after: Any = run(hook.request(before, facts()))
    assert after.config.labels["example.com/namespace"] == "shop"
    before.config.linux.security_context.privileged = True
    with pytest.raises(HookDenial, match="no privileged containers in namespace shop"):
        run(hook.request(before, facts()))


def _gate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that scripts can import, to be waited for in and to wait for."""
    gate: Any = ModuleType("gate")
    gate.entered = threading.Semaphore(0)
    gate.leave = threading.Event()
    monkeypatch.setitem(sys.modules, "gate", gate)
    return gate
