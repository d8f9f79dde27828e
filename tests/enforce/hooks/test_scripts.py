"""Hook scripts in a process of their own: calls, time limits, crashes and output."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from criproxy.configtypes.values import Duration
from criproxy.enforce.hooks import runner_process, scripts
from criproxy.enforce.hooks.hook import HookDenial, call_hook
from criproxy.enforce.hooks.runner_process import RunnerProcess
from criproxy.enforce.hooks.scripts import ScriptError, ScriptHook
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Image
from criproxy.rules.spec import HookSpec
from criproxy.wire.grpc import StatusCode
from tests.enforce.hook_calls import PB, create, facts
from tests.support.relaying import LOOPS
from tests.support.waiting import LIMIT_SECONDS, wait_until

T = TypeVar("T")
Make = Callable[..., ScriptHook]


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run coroutines, one after the other, on one event loop."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield lambda main: runner.run(asyncio.wait_for(main, LIMIT_SECONDS))


@pytest.fixture
def script(tmp_path: Path, run: Any) -> Iterator[Make]:
    """Write scripts, and make hooks of them. Their processes end with the test."""
    hooks: list[ScriptHook] = []

    def write(source: str, timeout: float = LIMIT_SECONDS) -> ScriptHook:
        (tmp_path / "hook.py").write_text(source)
        hooks.append(ScriptHook(HookSpec(script="hook.py", timeout=Duration(timeout)), tmp_path))
        return hooks[-1]

    yield write
    processes = [each for hook in hooks for each in _processes(hook)]
    run(_stop(hooks))
    for process in processes:
        wait_until(lambda process=process: not _is_alive(process), "end of a process")  # type: ignore[misc]


async def _stop(hooks: list[ScriptHook]) -> None:
    for hook in hooks:
        hook.stop()
    await asyncio.sleep(0.01)


def _runners(hook: ScriptHook) -> list[RunnerProcess]:
    runners = hook._runners
    return [*runners._retired, *([runners._current] if runners._current else [])]


def _processes(hook: ScriptHook) -> list[int]:
    return [each._process.pid for each in _runners(hook) if each._process is not None]


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


async def ask(hook: ScriptHook, **known: Any) -> Any:
    """Call the hook with a request as the rules do."""
    spec = HookSpec(script="hook.py")
    return await call_hook(hook, spec, "request", create(), facts(**known))


async def failure(hook: ScriptHook) -> EvaluationError:
    with pytest.raises(EvaluationError) as caught:
        await ask(hook)
    return caught.value


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_response(script: Make, run: Any, kind: str, version: str) -> None:
    """A function gets the message and what is known of the call; its change is returned."""
    hook = script(
        f"{kind} response(call):\n"
        "    call.message.container_id = ' '.join(map(str, [call.method, call.api_version,\n"
        "        call.pod.namespace, call.container.name, call.caller.pid, call.listener,\n"
        "        call.metadata['k'], call.request.config.labels['app']]))\n"
    )
    assert (hook.has_request, hook.has_response, hook.has_deny) == (False, True, False)
    known = facts(version=version, metadata={"k": "v"}, request=create(version))
    response = PB[version].CreateContainerResponse(container_id="x")
    after = run(hook.response(response, known))
    assert after.container_id == f"CreateContainer {version} shop nginx 812 kubelet v web"
    assert response.container_id == "x"


@pytest.mark.parametrize("phase", ["request", "response"])
def test_image(script: Make, run: Any, phase: str) -> None:
    """A function knows the image of the call by the name that a person uses."""
    image = Image("r.io/a/b:c", "r.io", "a/b", "c", "", "sha256:1")
    hook = script(
        f"def {phase}(call):\n"
        "    i = call.image\n"
        "    raise ValueError(f'{i.name} {i.registry} {i.repository} {i.tag} {i.id}')\n"
    )
    known = facts(image=image, request=create())
    message = create() if phase == "request" else PB["v1"].CreateContainerResponse()
    with pytest.raises(EvaluationError, match=r"r\.io/a/b:c r\.io a/b c sha256:1"):
        run(getattr(hook, phase)(message, known))


def test_no_change(script: Make, run: Any) -> None:
    """An unchanged message is returned as the same object; state is kept between calls."""
    hook = script(
        "seen = []\ndef request(call):\n    seen.append(1)\n"
        "    if len(seen) > 1: call.message.pod_sandbox_id = str(len(seen))\n"
    )
    message = create()
    assert run(hook.request(message, facts())) is message
    assert run(ask(hook)).pod_sandbox_id == "2"


def test_large_message(script: Make, run: Any) -> None:
    """A message of megabytes is passed to the process and back."""
    hook = script("def request(call):\n    call.message.pod_sandbox_id *= 2\n")
    message = create()
    message.pod_sandbox_id = "x" * (1 << 20)
    after = run(hook.request(message, facts()))
    assert len(after.pod_sandbox_id) == 2 << 20


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_deny(script: Make, run: Any, kind: str) -> None:
    """A denial is raised with its code and message; where the rule forbids it, it is an error."""
    hook = script(f"from criproxy.hook import Deny\n{kind} request(call): raise Deny(8, 'no')\n")
    assert hook.has_deny
    with pytest.raises(HookDenial) as caught:
        run(ask(hook))
    assert (caught.value.code, caught.value.message) == (StatusCode.RESOURCE_EXHAUSTED, "no")
    spec = HookSpec(script="hook.py", may_deny=False)
    with pytest.raises(EvaluationError, match="refuses the call with RESOURCE_EXHAUSTED"):
        run(call_hook(hook, spec, "request", create(), facts()))


def test_errors(script: Make, run: Any) -> None:
    """The error of a script's exception has its text and its line."""
    error = run(failure(script("def request(call):\n    {}['x']\n")))
    assert (error.reason, error.detail) == ("script", "KeyError: 'x' (hook.py:2)")


def test_load_errors(script: Make, tmp_path: Path) -> None:
    """A script that cannot be used is an error when the hook is created."""
    for source, text in (
        ("\n1 / 0\n", f"ZeroDivisionError: division by zero ({tmp_path}/hook.py:2)"),
        ("import os\nos._exit(3)\n", f"{tmp_path}/hook.py: ended with status 3 while loading"),
    ):
        with pytest.raises(ScriptError) as caught:
            script(source)
        assert str(caught.value) == text
    with pytest.raises(ScriptError, match=r"/no.py: cannot be read: No such file or directory"):
        ScriptHook(HookSpec(script="no.py"), tmp_path)


def test_load_that_does_not_end(script: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that does not finish loading is an error."""
    monkeypatch.setattr(scripts, "LOAD_TIME", 0.01)
    with pytest.raises(ScriptError, match=r"not loaded within 0.01 s"):
        script("while True: pass\n")


def test_delays(script: Make, run: Any) -> None:
    """Delays on behalf of the call do not count to the timeout; other time does."""
    waits = "import asyncio\nasync def request(call):\n    await call.delay(0.5)\n"
    hook = script(f"{waits}    call.message.pod_sandbox_id = 'late'\n")
    run(ask(hook))  # it has started
    hook.timeout = 0.4
    while run(_outcome(hook)) != "late":  # a machine under load may take longer
        hook.timeout *= 2
    hook = script(f"{waits}    await asyncio.sleep(3600)\n")
    hook.timeout = 0.4
    assert run(_outcome(hook)) == "timeout: no answer within 0.4 s"


async def _outcome(hook: ScriptHook) -> str:
    try:
        return str((await ask(hook)).pod_sandbox_id)
    except EvaluationError as error:
        return str(error)


def test_concurrent_calls(script: Make, run: Any) -> None:
    """Calls of a plain function that blocks run at the same time, and more than threads wait."""
    hook = script(
        "from threading import Barrier\nbarrier = Barrier(8)\n"
        "def request(call):\n    barrier.wait()\n    call.message.pod_sandbox_id += '!'\n"
    )

    async def main() -> list[Any]:
        return await asyncio.gather(*(ask(hook) for _ in range(32)))

    assert [each.pod_sandbox_id for each in run(main())] == ["s1!"] * 32


HANGS = {
    "waits": "def request(call):\n    if call.metadata: Event().wait()\n",
    "computes": "def request(call):\n    while call.metadata: pass\n",
    "holds the interpreter": (
        "def request(call):\n    if call.metadata: re.match('(a+)+b', 'a' * 64)\n"
    ),
    "computes on the loop": "async def request(call):\n    while call.metadata: pass\n",
    "ignores cancellation": (
        "async def request(call):\n    while call.metadata:\n"
        "        with suppress(BaseException): await asyncio.sleep(3600)\n"
    ),
}
IMPORTS = "import asyncio, re\nfrom contextlib import suppress\nfrom threading import Event\n"


@pytest.mark.parametrize("source", HANGS.values(), ids=HANGS)
def test_function_that_does_not_return(script: Make, run: Any, source: str) -> None:
    """A call past its time limit fails, its process is killed, and the next call gets another."""
    hook = script(IMPORTS + source)
    run(ask(hook))
    (process,) = _processes(hook)
    hook.timeout = 0.2
    error = run(failure_with(hook, {"hang": "yes"}))
    assert error.reason == "timeout"
    hook.timeout = LIMIT_SECONDS
    run(ask(hook))
    run(_until(lambda: not _is_alive(process)))
    assert process not in _processes(hook)
    run(ask(hook))


async def failure_with(hook: ScriptHook, metadata: dict[str, str]) -> EvaluationError:
    with pytest.raises(EvaluationError) as caught:
        await ask(hook, metadata=metadata)
    return caught.value


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)


def test_other_calls_of_an_overdue_process(script: Make, run: Any) -> None:
    """A process with an overdue call finishes its other calls before it is killed."""
    hook = script(
        "from threading import Event\nevent = Event()\n"
        "def request(call):\n"
        "    name = call.metadata.get('do')\n"
        "    if name == 'hang': Event().wait()\n"
        "    if name == 'wait': event.wait()\n"
        "    if name == 'set': event.set()\n"
    )

    async def main() -> None:
        await ask(hook)
        (process,) = _processes(hook)
        other = asyncio.create_task(ask(hook, metadata={"do": "wait"}))
        overdue = _runners(hook)[0]
        await _until(lambda: len(overdue._calls) == 1)
        hook.timeout = 0.2
        assert (await failure_with(hook, {"do": "hang"})).reason == "timeout"
        hook.timeout = LIMIT_SECONDS
        await _until(lambda: overdue is not hook._runners._current)
        assert _is_alive(process)
        hook._runners._current, current = overdue, hook._runners._current
        await ask(hook, metadata={"do": "set"})
        hook._runners._current = current
        await other
        await _until(lambda: not _is_alive(process))

    run(main())


def test_cancelled_call(script: Make, run: Any) -> None:
    """An async function of a cancelled call is cancelled; its process goes on."""
    hook = script(
        "import asyncio\nended = []\n"
        "async def request(call):\n"
        "    if not call.metadata: call.message.pod_sandbox_id = str(len(ended)); return\n"
        "    try: await asyncio.sleep(3600)\n    finally: ended.append(1)\n"
    )

    async def main() -> None:
        await ask(hook)
        (process,) = _processes(hook)
        task = asyncio.create_task(ask(hook, metadata={"k": "v"}))
        await _until(lambda: len(_runners(hook)[0]._calls) == 1)
        task.cancel()
        while (await ask(hook)).pod_sandbox_id != "1":
            pass
        assert _processes(hook) == [process]
        assert not _runners(hook)[0]._calls

    run(main())


@pytest.mark.parametrize("how", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_crash(script: Make, run: Any, how: str) -> None:
    """A process that ends fails the calls that wait for it; the next call gets another process."""
    hook = script(
        f"import os\nfrom threading import Event\ndef request(call):\n"
        f"    if call.metadata.get('do') == 'wait': Event().wait()\n"
        f"    if call.metadata: {how}\n"
    )

    async def main() -> None:
        await ask(hook)
        waiting = asyncio.create_task(failure_with(hook, {"do": "wait"}))
        await _until(lambda: len(_runners(hook)[0]._calls) == 1)
        for error in (await failure_with(hook, {"do": "end"}), await waiting):
            assert error.reason == "script"
            assert error.detail == "hook.py: the process that runs it has ended"
        await ask(hook)

    run(main())


def test_crash_at_each_start(script: Make, run: Any, tmp_path: Path) -> None:
    """A process that ends while loading fails the calls; it is not started at once again."""
    hook = script(
        f"import os\nif os.path.exists({str(tmp_path / 'crash')!r}): os._exit(1)\n"
        "def request(call): pass\n"
    )
    (tmp_path / "crash").touch()

    async def main() -> None:
        time = asyncio.get_running_loop().time
        began = time()
        for _ in range(3):
            assert (await failure(hook)).reason == "script"
        assert time() - began >= 2 * scripts._START_INTERVAL
        (tmp_path / "crash").unlink()
        await ask(hook)

    run(main())


def test_outstanding_calls(script: Make, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls past the number that may wait for a process fail."""
    monkeypatch.setattr(runner_process, "OUTSTANDING", 2)
    hook = script("from threading import Event\ndef request(call):\n    Event().wait()\n")

    async def main() -> None:
        tasks = [asyncio.create_task(ask(hook)) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await failure(hook)).detail == "2 calls wait for hook.py"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())


def test_output(script: Make, run: Any, tmp_path: Path) -> None:
    """What a script prints is logged, line by line."""
    hook = script(
        "import sys\nprint('loaded')\ndef request(call):\n"
        "    print('called')\n    sys.stderr.write('a\\nlong' + 'x' * 9000)\n"
    )
    log = _Log()

    async def main() -> None:
        hook.start(log)
        await ask(hook)
        await _until(lambda: "called" in log.lines and "a" in log.lines)
        hook.stop()
        await _until(lambda: sum(map(len, log.lines)) >= 9000)

    run(main())
    assert log.lines[0] == "loaded"
    assert log.scripts == {str(tmp_path / "hook.py")}


class _Log:
    """Keeps the output of scripts."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.scripts: set[str] = set()

    def info(self, event: str, **fields: Any) -> None:
        assert event == "script output"
        self.scripts.add(fields["script"])
        self.lines.append(fields["line"])

    def warning(self, event: str, **fields: Any) -> None:
        raise AssertionError(event)


def test_new_hook(script: Make, run: Any) -> None:
    """A hook that is created again runs the new source; a collected one ends its process."""
    source = "def request(call):\n    call.message.pod_sandbox_id = '{}'\n"
    first = script(source.format("A"))
    second = script(source.format("B"))
    assert run(ask(first)).pod_sandbox_id == "A"
    assert run(ask(second)).pod_sandbox_id == "B"


def test_end_of_the_worker(script: Make, run: Any, tmp_path: Path) -> None:
    """The process ends when the socket to it is closed."""
    hook = script("def request(call): pass\n")
    run(ask(hook))
    (runner,) = _runners(hook)
    (pid,) = _processes(hook)
    assert runner._transport is not None
    runner._transport.abort()
    run(_until(lambda: not _is_alive(pid)))


def test_children(script: Make, run: Any) -> None:
    """What a script has started is killed with it."""
    hook = script(
        "import subprocess\nfrom threading import Event\n"
        "child = subprocess.Popen(['sleep', '3600'])\n"
        "def request(call):\n"
        "    call.message.pod_sandbox_id = str(child.pid)\n"
        "    if call.metadata: Event().wait()\n"
    )
    child = int(run(ask(hook)).pod_sandbox_id)
    try:
        hook.timeout = 0.2
        run(failure_with(hook, {"k": "v"}))
        run(_until(lambda: not _is_alive(child)))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
