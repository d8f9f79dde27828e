"""Effects: what a rule does to one call. In dry-run their texts are logged instead."""

from dataclasses import dataclass

from google.protobuf.message import Message

from criproxy.enforce.evaluation.concurrency_limit import ConcurrencyLimit
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header


class LocalReply(Exception):  # noqa: N818 - an effect, not an error
    """The call is answered in the runtime's place. Raised, it ends the evaluation."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"answer {self.code.name}: {self.message}"


class ProfileDenial(Exception):  # noqa: N818 - an effect, not an error
    """The listener's profile denies the call; ``reason`` is a value of the metric's label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class AddMetadata:
    """Adds headers to the request's."""

    metadata: list[Header]

    def __str__(self) -> str:
        return "add " + ", ".join(name.decode(errors="replace") for name, _ in self.metadata)


@dataclass(frozen=True, slots=True)
class Wait:
    """Delays the call for a number of seconds."""

    seconds: float

    def __str__(self) -> str:
        return f"wait {self.seconds:.3f}s"


@dataclass(frozen=True, slots=True)
class Hang:
    """Keeps the call waiting until its deadline or its cancellation."""

    def __str__(self) -> str:
        return "hang"


@dataclass(frozen=True, slots=True)
class AcquireSlot:
    """Acquires a slot of a concurrency limit, waiting for one if none is free."""

    limit: ConcurrencyLimit

    def __str__(self) -> str:
        return "wait for a place"


@dataclass(frozen=True, slots=True)
class CallHook:
    """Calls the rule's hook with the message."""

    def __str__(self) -> str:
        return "ask the hook"


@dataclass(frozen=True, slots=True)
class ReplaceMessage:
    """Forwards another message in place of the one that came."""

    message: Message

    def __str__(self) -> str:
        return "change the message"


@dataclass(frozen=True, slots=True)
class DropMessage:
    """Does not forward the message."""

    def __str__(self) -> str:
        return "drop the message"


@dataclass(frozen=True, slots=True)
class TruncateStream:
    """Ends the response stream after this message with a status."""

    reply: LocalReply

    def __str__(self) -> str:
        return f"end the stream here, {self.reply}"


Effect = (
    LocalReply
    | Wait
    | Hang
    | AcquireSlot
    | CallHook
    | ReplaceMessage
    | DropMessage
    | TruncateStream
)
