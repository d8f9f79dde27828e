"""Hooks that are Python files, with functions ``request`` and ``response``.

A script runs in a process of its own (criproxy.enforce.hooks.runner): one that computes does not
hold the worker's interpreter, and one that does not return is killed at its time limit and started
anew. Its global variables are lost then.
"""

import asyncio
import os
import weakref
from functools import partial
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from criproxy.concurrency.steps import LARGE
from criproxy.concurrency.tasks import run_in_thread_if
from criproxy.enforce.hooks import runner_protocol as protocol
from criproxy.enforce.hooks.hook import HookDenial, timeout_extension
from criproxy.enforce.hooks.runner_process import (
    LOAD_TIME,
    RunnerProcess,
    ScriptSource,
    kill_process,
    start_process,
)
from criproxy.enforce.hooks.script import ScriptError
from criproxy.enforce.hooks.script_output import ScriptOutput
from criproxy.enforce.resources import Log
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.image_names import checked
from criproxy.rules.spec import HookSpec
from criproxy.wire.grpc import StatusCode

_START_INTERVAL: Final = 1.0
"""Seconds between two starts of a script's process: one that always crashes must not take the
CPU."""

_RETIRED: Final = 2
"""Processes with overdue calls that may finish their other calls; further ones are killed."""


class ScriptHook:
    """Calls a script. A new one reads the file anew."""

    def __init__(self, spec: HookSpec, base_dir: Path) -> None:
        """Load the script in a process that ends then. ``base_dir``: where a relative path begins.

        Raises ScriptError.
        """
        assert spec.script is not None
        script = _read(base_dir / spec.script)
        loaded = _load(script)
        self.has_deny = loaded.has_deny
        self.has_request = loaded.has_request
        self.has_response = loaded.has_response
        self.timeout = float(spec.timeout)
        self._runners = _Runners(script)
        weakref.finalize(self, self._runners.stop_from_any_thread)

    def start(self, log: Log | None) -> None:
        """Start the process, on the event loop. What the script prints goes to ``log``."""
        self._runners.start(log)

    async def request(self, message: Message, facts: Facts) -> Message:
        """See Hook."""
        return await self._call("request", message, facts)

    async def response(self, message: Message, facts: Facts) -> Message:
        """See Hook."""
        return await self._call("response", message, facts)

    def stop(self) -> None:
        """See Hook. Without this the process ends when the hook is collected."""
        self._runners.stop()

    async def _call(self, phase: str, message: Message, facts: Facts) -> Message:
        size = message.ByteSize()
        call = await run_in_thread_if(size > LARGE, _encode, phase, message, facts)
        runner = self._runners.current()
        outcome = await runner.call(call, self.timeout, timeout_extension())
        if outcome.denial is not None:
            code, text = outcome.denial
            raise HookDenial(StatusCode(code), text)
        if outcome.error is not None:
            raise EvaluationError("script", outcome.error)
        if outcome.changed is None:
            return message
        changed = outcome.changed
        parse = type(message).FromString
        return await run_in_thread_if(len(changed) > LARGE, parse, changed)


class _Runners:
    """The current process of a script, and those that finish their calls."""

    def __init__(self, script: ScriptSource) -> None:
        self._script = script
        self._log: Log | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = 0
        self._current: RunnerProcess | None = None
        self._retired: list[RunnerProcess] = []
        self._earliest = 0.0

    def start(self, log: Log | None) -> None:
        self._log = log
        self.current()

    def current(self) -> RunnerProcess:
        """Return the process for the next call; start one if there is none."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.stop_from_any_thread()
            self._loop, self._earliest, self._owner = loop, 0.0, os.getpid()
        if self._current is None:
            output = None if self._log is None else partial(_log_line, self._log, self._script)
            runner = RunnerProcess(self._script, ScriptOutput(output), self._ended)
            self._current = runner
            now = loop.time()
            delay = max(self._earliest - now, 0.0)
            self._earliest = now + delay + _START_INTERVAL
            runner.start(delay)
        return self._current

    def _ended(self, runner: RunnerProcess) -> None:
        """Give no more calls to a process, which is overdue or has ended."""
        if runner is self._current:
            self._current = None
            self._retired.append(runner)
            while len(self._retired) > _RETIRED:
                self._retired.pop(0).kill()
        if runner.has_ended and runner in self._retired:
            self._retired.remove(runner)

    def stop(self) -> None:
        """Kill the processes, on the event loop."""
        for runner in self._take():
            runner.kill()

    def _take(self) -> list[RunnerProcess]:
        runners = [*self._retired, *([self._current] if self._current else [])]
        self._current, self._retired = None, []
        return runners

    def stop_from_any_thread(self) -> None:
        """Kill the processes, also where the event loop has ended."""
        runners = self._take()
        if self._loop is None or self._owner != os.getpid():
            return  # started by the process that this one was forked from
        for runner in runners:
            if self._loop.is_closed():
                runner.kill_process()
            else:
                self._loop.call_soon_threadsafe(runner.kill)


def _read(path: Path) -> ScriptSource:
    try:
        return ScriptSource(path, path.read_bytes())
    except OSError as error:
        raise ScriptError(f"{path}: cannot be read: {error.strerror}") from error


def _load(script: ScriptSource) -> protocol.Loaded:
    """Load a script in a process of its own, which ends then. Raises ScriptError."""
    process, channel = start_process(None)
    try:
        with channel:
            channel.settimeout(LOAD_TIME)
            channel.sendall(protocol.frame(script.load()))
            answer = protocol.receive(channel, protocol.from_runner)
    except TimeoutError:
        raise ScriptError(f"{script.path}: not loaded within {LOAD_TIME:g} s") from None
    except (EOFError, OSError):
        status = process.wait()
        raise ScriptError(f"{script.path}: ended with status {status} while loading") from None
    finally:
        kill_process(process)
    if isinstance(answer, protocol.LoadFailed):
        raise ScriptError(answer.error)
    assert isinstance(answer, protocol.Loaded)
    return answer


def _encode(phase: str, message: Message, facts: Facts) -> protocol.Call:
    request = facts.request
    if request is message:
        request = None
    return protocol.Call(
        0,
        phase,
        message.DESCRIPTOR.full_name,
        message.SerializeToString(),
        facts.method_name,
        facts.listener,
        facts.caller,
        dict(facts.metadata),
        facts.pod,
        facts.container,
        checked(facts.image),
        "" if request is None else request.DESCRIPTOR.full_name,
        None if request is None else request.SerializeToString(),
    )


def _log_line(log: Log, script: ScriptSource, line: str) -> None:
    log.info("script output", script=str(script.path), line=line)
