"""Code of the user's that is asked about a call's messages: a script, or a webhook."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from criproxy.wire.grpc import StatusCode

if TYPE_CHECKING:  # for its types alone: importing it costs the memory of protobuf
    from google.protobuf.message import Message

    from criproxy.rules.facts import Facts
    from criproxy.rules.spec import HookSpec


class Denied(Exception):  # noqa: N818 - a verdict, not an error
    """A hook's refusal of the call."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Hook(Protocol):
    """Is given the messages of the calls that a rule matches.

    Each method returns the message that is to go on: the same object, or a changed copy; it never
    changes the one that it is given. It raises Denied to refuse the call, and EvaluationError
    (criproxy.rules.errors) when it has no answer. Whoever calls holds it to ``timeout``.
    """

    has_request: bool
    """Whether it wants requests."""
    has_response: bool
    """Whether it wants responses; of a server stream, each message."""
    timeout: float
    """Seconds that it may take for a message."""

    async def request(self, message: "Message", facts: "Facts") -> "Message":
        """Look at a request before the runtime gets it."""

    async def response(self, message: "Message", facts: "Facts") -> "Message":
        """Look at a response before the client gets it."""


def make_hook(spec: "HookSpec", base_dir: Path) -> Hook:
    """Make the hook that a rule asks for; a script's path is relative to ``base_dir``.

    Raises ValueError, or OSError, for what cannot be used.
    """
    if spec.script is not None:
        from criproxy.enforce.scripts import ScriptHook

        return ScriptHook(spec, base_dir)
    from criproxy.enforce.webhooks import Webhook

    return Webhook(spec)
