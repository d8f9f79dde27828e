"""A hook script within its runner process: loading it, and calling its functions."""

import asyncio
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.hook import Call, Deny

Function = Callable[[Call], Any]
Delay = Callable[[float], Awaitable[None]]

_MODULE: Final = "_criproxy_hook"

_ERROR_LENGTH: Final = 500
"""Characters of an exception's text that are reported: it goes into the log and to the client."""


class ScriptError(ValueError):
    """A script that cannot be used; the text is one line with file, line and reason."""


class CallFailedError(Exception):
    """A function that failed; the text is one line with the script's line."""


class Script:
    """A loaded script. ``functions`` are those that it has, by phase."""

    def __init__(self, path: str, source: bytes) -> None:
        """Run the source. Raises ScriptError."""
        self._path = path
        self._name = path.rpartition("/")[2]
        module = self._run(source)
        found = {name: self._function(module, name) for name in ("request", "response")}
        self.functions = {name: each for name, each in found.items() if each is not None}
        if not self.functions:
            raise ScriptError(f"{path}: needs a function request(call) or response(call)")
        self.has_deny = any(value is Deny for value in vars(module).values())

    def is_async(self, phase: str) -> bool:
        """Return whether the function of a phase is async."""
        return inspect.iscoroutinefunction(self.functions[phase])

    def call(self, phase: str, call: Call) -> Message | None:
        """Call a plain function; return the message if it has changed.

        Raises Deny, and CallFailedError.
        """
        before = _copy(call.message)
        try:
            _refuse_result(self.functions[phase](call))
            return _outcome(call, before)
        except Deny:
            raise
        except BaseException as error:
            raise self._failure(error) from error

    async def call_async(self, phase: str, call: Call) -> Message | None:
        """Call an async function; otherwise as :meth:`call`."""
        before = _copy(call.message)
        try:
            _refuse_result(await self.functions[phase](call))
            return _outcome(call, before)
        except (Deny, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> CallFailedError:
        if isinstance(error, CallFailedError):
            return error
        return CallFailedError(_describe(error, self._path, self._name))

    def _run(self, source: bytes) -> ModuleType:
        module = ModuleType(_MODULE)
        module.__file__ = self._path
        sys.modules[_MODULE] = module  # dataclasses look the types of their fields up there
        try:
            code = compile(source, self._path, "exec", dont_inherit=True)
            exec(code, module.__dict__)  # noqa: S102 - the purpose of a hook
        except (Exception, SystemExit) as error:
            raise ScriptError(_describe(error, self._path, self._path)) from error
        return module

    def _function(self, module: ModuleType, name: str) -> Function | None:
        function = getattr(module, name, None)
        if function is None:
            return None
        if not inspect.isfunction(function):
            raise ScriptError(f"{self._path}: {name} has to be a function, this is {function!r}")
        location = f"{self._path}:{inspect.unwrap(function).__code__.co_firstlineno}"
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ScriptError(f"{location}: {name} must not yield")
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise ScriptError(f"{location}: {name} has to take one argument, the call") from error
        return function


def _copy(message: Any) -> Message:
    copy: Message = type(message)()
    copy.CopyFrom(message)
    return copy


def _refuse_result(result: object) -> None:
    """Refuse a result, which would be lost: a coroutine, or a message meant to be forwarded."""
    if inspect.iscoroutine(result):
        result.close()
    if result is not None:
        name = type(result).__name__
        raise TypeError(f"returned {name}; a hook returns nothing, it changes call.message")


def _outcome(call: Call, before: Message) -> Message | None:
    after = call.message
    if type(after) is not type(before):
        ours, theirs = type(before).__name__, type(after).__name__
        raise CallFailedError(f"call.message is {theirs} now, it has to be {ours}")
    changed: Message | None = None if after == before else after
    return changed


def _describe(error: BaseException, path: str, name: str) -> str:
    """Return in one line what was raised, and by which line of the script."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{name}:{error.lineno}: {type(error).__name__}: {error.msg}"
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    text = text[:_ERROR_LENGTH]
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    return f"{text} ({name}:{lines[-1]})" if lines else f"{text} ({name})"
