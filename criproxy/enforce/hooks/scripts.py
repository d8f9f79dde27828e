"""Hooks that are Python files: functions ``request`` and ``response`` that are given the call.

A plain function runs in a thread, so that it may block; an async one runs on the loop, and may not.
"""

import asyncio
import inspect
import itertools
import sys
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.concurrency.threads import DaemonThreads
from criproxy.enforce.hooks.hook import HookDenial, delay
from criproxy.hook import Call, Deny
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.spec import HookSpec

Function = Callable[[Call], Any]

WORKERS: Final = 8
"""Threads that a script's plain functions have. One that overruns its time limit cannot be stopped,
and keeps its thread; so many may do so before the script is not called any more."""

_TEXT: Final = 500
"""Characters of an exception's text that are told: it goes into the log, and to the client."""

_numbers: Final = itertools.count(1)


class ScriptError(ValueError):
    """A script that cannot be used: one line with file, line and reason."""


class ScriptHook:
    """Asks a script. Made anew, it loads the file anew."""

    def __init__(self, spec: HookSpec, base_dir: Path) -> None:
        """``base_dir`` is what a relative path starts from. Raises ScriptError."""
        assert spec.script is not None
        self._path = base_dir / spec.script
        module = _load(self._path)
        weakref.finalize(self, sys.modules.pop, module.__name__, None)
        self._request = _function(module, "request", self._path)
        self._response = _function(module, "response", self._path)
        if self._request is None and self._response is None:
            raise ScriptError(f"{self._path}: needs a function request(call) or response(call)")
        self.has_deny = any(value is Deny for value in vars(module).values())
        self.has_request = self._request is not None
        self.has_response = self._response is not None
        self.timeout = float(spec.timeout)
        self._workers = DaemonThreads(WORKERS, f"criproxy-{self._path.name}")

    async def request(self, message: Message, facts: Facts) -> Message:
        """See Hook."""
        return await self._ask(self._request, message, facts)

    async def response(self, message: Message, facts: Facts) -> Message:
        """See Hook."""
        return await self._ask(self._response, message, facts)

    async def _ask(self, function: Function | None, message: Message, facts: Facts) -> Message:
        if function is None:
            return message
        if inspect.iscoroutinefunction(function):
            call = Call(_copy(message), facts, delay)
            try:
                _refuse_result(await function(call))
            except asyncio.CancelledError:
                raise
            except (Exception, SystemExit) as error:  # SystemExit would end the daemon
                raise self._failure(error) from error
            return _outcome(call, message)
        if self._workers.stuck:
            raise EvaluationError("timeout", f"all workers are stuck in {self._path.name}")
        return await self._workers.run(lambda: self._call(function, message, facts))

    def _call(self, function: Function, message: Message, facts: Facts) -> Message:
        call = Call(_copy(message), facts, None)
        try:
            _refuse_result(function(call))
        except BaseException as error:
            raise self._failure(error) from error
        return _outcome(call, message)

    def _failure(self, error: BaseException) -> Exception:
        if isinstance(error, EvaluationError):
            return error
        if isinstance(error, Deny):
            return HookDenial(error.code, str(error.message))
        return EvaluationError("script", _told(error, self._path, self._path.name))


def _load(path: Path) -> ModuleType:
    """Run a script as a module of its own; nothing of what it was earlier is used."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ScriptError(f"{path}: cannot be read: {error.strerror}") from error
    module = ModuleType(f"_criproxy_hook_{next(_numbers)}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look there for the types of their fields
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - that is what a hook is for
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ScriptError(_told(error, path, str(path))) from error
    return module


def _function(module: ModuleType, name: str, path: Path) -> Function | None:
    function = getattr(module, name, None)
    if function is None:
        return None
    if not inspect.isfunction(function):
        raise ScriptError(f"{path}: {name} has to be a function, this is {function!r}")
    place = f"{path}:{inspect.unwrap(function).__code__.co_firstlineno}"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ScriptError(f"{place}: {name} must not yield")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise ScriptError(f"{place}: {name} has to take one argument, the call") from error
    return function


def _copy(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _refuse_result(result: object) -> None:
    """A result would be lost silently: that of a coroutine, or a message meant to go on."""
    if inspect.iscoroutine(result):
        result.close()
    if result is not None:
        what = type(result).__name__
        raise TypeError(f"returned {what}; a hook returns nothing, it changes call.message")


def _outcome(call: Call, message: Message) -> Message:
    after = call.message
    if type(after) is not type(message):
        ours, theirs = type(message).__name__, type(after).__name__
        raise EvaluationError("script", f"call.message is {theirs} now, it has to be {ours}")
    return message if after == message else after


def _told(error: BaseException, path: Path, name: str) -> str:
    """Tell in one line what was raised, and by which line of the script."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{name}:{error.lineno}: {type(error).__name__}: {error.msg}"
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")[:_TEXT]
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f"{text} ({name}:{lines[-1]})" if lines else f"{text} ({name})"
