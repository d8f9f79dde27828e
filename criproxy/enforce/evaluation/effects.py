"""What a rule has to say about one call, before that is done, or in dry-run told of."""

from dataclasses import dataclass

from google.protobuf.message import Message

from criproxy.enforce.evaluation.concurrency_limit import ConcurrencyLimit
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header


class LocalReply(Exception):  # noqa: N818 - a verdict, not an error
    """The call is answered in the runtime's place. Raised, it ends the walk."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"answer {self.code.name}: {self.message}"


class ProfileDenial(Exception):  # noqa: N818 - a verdict, not an error
    """A listener's profile has the call denied; ``reason`` is one word for it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class AddMetadata:
    """Headers are added to the request's."""

    metadata: list[Header]

    def __str__(self) -> str:
        return "add " + ", ".join(name.decode(errors="replace") for name, _ in self.metadata)


@dataclass(frozen=True, slots=True)
class Wait:
    """The call waits, for so many seconds."""

    seconds: float

    def __str__(self) -> str:
        return f"wait {self.seconds:.3f}s"


@dataclass(frozen=True, slots=True)
class Hang:
    """The call waits until its deadline, or until the client goes."""

    def __str__(self) -> str:
        return "hang"


@dataclass(frozen=True, slots=True)
class AcquireSlot:
    """The call takes a place, and waits for one if there is none."""

    limit: ConcurrencyLimit

    def __str__(self) -> str:
        return "wait for a place"


@dataclass(frozen=True, slots=True)
class CallHook:
    """The hook is asked."""

    def __str__(self) -> str:
        return "ask the hook"


@dataclass(frozen=True, slots=True)
class ReplaceMessage:
    """Another message goes on."""

    message: Message

    def __str__(self) -> str:
        return "change the message"


@dataclass(frozen=True, slots=True)
class DropMessage:
    """The message does not go on."""

    def __str__(self) -> str:
        return "drop the message"


@dataclass(frozen=True, slots=True)
class TruncateStream:
    """The stream ends with this message."""

    answer: LocalReply

    def __str__(self) -> str:
        return f"end the stream here, {self.answer}"


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
