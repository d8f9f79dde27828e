"""Hooks: user code that is called with a call's messages, as a script or as a webhook."""

import asyncio
import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal, Protocol

from criproxy.rules.errors import EvaluationError
from criproxy.wire.grpc import StatusCode

if TYPE_CHECKING:  # importing protobuf costs memory
    from pathlib import Path

    from google.protobuf.message import Message

    from criproxy.enforce.resources import Log
    from criproxy.rules.facts import Facts
    from criproxy.rules.spec import HookSpec


_timeout: Final = ContextVar[asyncio.Timeout]("timeout")
"""The timeout of the hook call in the current task."""


class HookDenial(Exception):  # noqa: N818 - an effect, not an error
    """A hook denies the call."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Hook(Protocol):
    """Is called with the messages of the calls that a rule matches, by :func:`call_hook`.

    Both methods return the message to forward: the same object, or a changed copy; they never
    change the message that they are given. They raise HookDenial to deny the call, and
    EvaluationError when they have no answer.
    """

    has_request: bool
    """Whether it is called with requests."""
    has_response: bool
    """Whether it is called with responses; of a response stream, with each message."""
    has_deny: bool
    """Whether it can deny calls, where the rule does not say whether it may."""
    timeout: float
    """Seconds that it may take for a message, without those of its own delays."""

    def start(self, log: "Log") -> None:
        """Prepare for calls; called on the event loop when the hook's rule is put in force."""

    def stop(self) -> None:
        """End what :meth:`start` and calls have begun; on the event loop, when no calls follow."""

    async def request(self, message: "Message", facts: "Facts") -> "Message":
        """Process a request before the runtime gets it."""

    async def response(self, message: "Message", facts: "Facts") -> "Message":
        """Process a response before the client gets it."""


async def call_hook(
    hook: Hook,
    spec: "HookSpec",
    phase: Literal["request", "response"],
    message: "Message",
    facts: "Facts",
) -> "Message":
    """Call a hook with a message, within its timeout, and return the message to forward.

    Raises HookDenial where it denies the call and ``spec`` does not forbid that; EvaluationError
    where it has no answer, or denies although ``spec`` forbids it.
    """
    method = hook.request if phase == "request" else hook.response
    try:
        async with asyncio.timeout(hook.timeout) as timeout:
            _timeout.set(timeout)
            return await method(message, facts)
    except TimeoutError as error:
        raise EvaluationError("timeout", f"no answer within {hook.timeout:g} s") from error
    except HookDenial as denial:
        if spec.may_deny is not False:
            raise
        kind = "webhook" if spec.script is None else "script"
        detail = f"refuses the call with {denial.code.name}, and the rule has may_deny: false"
        raise EvaluationError(kind, detail) from denial


def timeout_extension() -> Callable[[float], None]:
    """Return a function that extends the timeout of the current hook call by a number of
    seconds."""
    timeout = _timeout.get(None)

    def extend(seconds: float) -> None:
        if timeout is not None and (until := timeout.when()) is not None:
            with contextlib.suppress(RuntimeError):  # it is over
                timeout.reschedule(until + max(seconds, 0.0))

    return extend


def make_hook(spec: "HookSpec", base_dir: "Path") -> Hook:
    """Create the hook of a rule; a script's path is relative to ``base_dir``.

    The modules of scripts and webhooks are imported only when they are used.

    Raises ValueError or OSError for a hook that cannot be used.
    """
    if spec.script is not None:
        from criproxy.enforce.hooks.scripts import ScriptHook

        return ScriptHook(spec, base_dir)
    from criproxy.enforce.hooks.webhooks import Webhook

    return Webhook(spec)
