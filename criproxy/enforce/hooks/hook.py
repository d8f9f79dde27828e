"""Code of the user's that is asked about a call's messages: a script, or a webhook."""

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal, Protocol

from criproxy.rules.errors import EvaluationError
from criproxy.wire.grpc import StatusCode

if TYPE_CHECKING:  # for its types alone: importing it costs the memory of protobuf
    from google.protobuf.message import Message

    from criproxy.rules.facts import Facts
    from criproxy.rules.spec import HookSpec


_time: Final = ContextVar[asyncio.Timeout]("time")
"""What holds the hook that is being asked to its timeout."""


class HookDenial(Exception):  # noqa: N818 - a verdict, not an error
    """A hook's refusal of the call."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Hook(Protocol):
    """Is given the messages of the calls that a rule matches.

    Each method returns the message that is to go on: the same object, or a changed copy; it never
    changes the one that it is given. It raises Denied to refuse the call, and EvaluationError
    (criproxy.rules.errors) when it has no answer. It is called by :func:`ask`.
    """

    has_request: bool
    """Whether it wants requests."""
    has_response: bool
    """Whether it wants responses; of a server stream, each message."""
    has_deny: bool
    """Whether it is able to refuse calls, where the rule does not say whether it may."""
    timeout: float
    """Seconds that it may take for a message, beside those for which it has the call wait."""

    async def request(self, message: "Message", facts: "Facts") -> "Message":
        """Look at a request before the runtime gets it."""

    async def response(self, message: "Message", facts: "Facts") -> "Message":
        """Look at a response before the client gets it."""


async def ask(
    hook: Hook,
    spec: "HookSpec",
    half: Literal["request", "response"],
    message: "Message",
    facts: "Facts",
) -> "Message":
    """Ask a hook about a message, within its time.

    Raises Denied where it refuses the call and ``spec`` does not forbid it; and EvaluationError
    where it has no answer, or one that it may not give.
    """
    about = hook.request if half == "request" else hook.response
    try:
        async with asyncio.timeout(hook.timeout) as time:
            _time.set(time)
            return await about(message, facts)
    except TimeoutError as error:
        raise EvaluationError("timeout", f"no answer within {hook.timeout:g} s") from error
    except HookDenial as denied:
        if spec.may_deny is not False:
            raise
        kind = "webhook" if spec.script is None else "script"
        detail = f"refuses the call with {denied.code.name}, and the rule has may_deny: false"
        raise EvaluationError(kind, detail) from denied


async def pause(seconds: float) -> None:
    """Have the call wait on behalf of the hook that is being asked: its time stands still."""
    time = _time.get(None)
    if time is not None and (until := time.when()) is not None:
        time.reschedule(until + max(seconds, 0.0))
    await asyncio.sleep(seconds)
