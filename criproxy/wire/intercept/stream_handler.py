"""What whoever handles a held stream is told, and what it can do with the stream.

The rules' side of :mod:`criproxy.wire.intercept.interceptor`, which has the dispatcher.
"""

from dataclasses import dataclass, field
from struct import Struct
from typing import Final, Protocol

from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.reading.connection import Side

_prefix: Final = Struct(">BI").pack


class StreamHandler(Protocol):
    """Is told what comes on a held stream, in order, on the event loop.

    It may command the stream from within each of these, and at any time until :meth:`over`.
    """

    def opened(self) -> None:
        """Take notice that the request's headers went on, unless it is to be hidden: from now on
        commands are taken."""

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        """Take a whole message that ``side`` sent in a direction that is held.

        It is the handler's now: nothing of it goes on unless the handler sends it. ``payload`` is
        without the five-byte prefix, whose flag ``compressed`` is (the stream's grpc-encoding).
        """

    def ended(self, side: Side, trailers: list[Header]) -> None:
        """Take notice that a held direction is complete: no more messages of ``side`` will come.

        ``trailers`` are the runtime's (with ``:status`` among them where they are all that it
        answered), empty for the client. The end goes on only with :meth:`HeldStream.end`.
        """

    def too_large(self, side: Side, limit: int) -> None:
        """Decide now: what is held is over a limit, in bytes.

        If the handler neither answers nor passes on the direction (having sent on first what it
        has of it), the stream is answered with RESOURCE_EXHAUSTED.
        """

    def closed(self) -> None:
        """Take notice that the call is over, once for each and however it ended.

        The client has its end or has gone, or the runtime gave it an answer before its request was
        released. Commands do nothing from now on.
        """


@dataclass(frozen=True, slots=True)
class Hold:
    """What is to be held of a stream that has just been opened, and who handles it."""

    handler: StreamHandler
    request: bool
    response: bool
    metadata: list[Header] = field(default_factory=list)
    """Added to the request's headers."""
    hidden: bool = False
    """Whether the runtime is to hear nothing of the call, its headers neither: the handler is to
    answer it. ``request`` has to be held."""


class StreamCommands(Protocol):
    """What carries the commands out: see :class:`HeldStream` for each."""

    def send(self, stream: "HeldStream", side: Side, message: bytes) -> None:
        """``message`` is with its prefix."""

    def drop(self, stream: "HeldStream", side: Side) -> None: ...  # noqa: D102

    def end(self, stream: "HeldStream", side: Side) -> None: ...  # noqa: D102

    def release(self, stream: "HeldStream", side: Side) -> None: ...  # noqa: D102

    def reply(self, stream: "HeldStream", code: StatusCode, message: str) -> None: ...  # noqa: D102

    def detach(self, stream: "HeldStream") -> None: ...  # noqa: D102


class HeldStream:
    """A stream that is held, and the commands for it.

    ``side`` says whose direction is meant: CLIENT the request's, RUNTIME the response's. Commands
    for a stream that is over do nothing, nor do those for a direction that is not held.
    """

    __slots__ = ("_commands", "headers", "id", "path")

    def __init__(
        self, commands: StreamCommands, stream: int, path: bytes, headers: list[Header]
    ) -> None:
        self._commands = commands
        self.id = stream
        self.path = path
        self.headers = headers
        """The request's, as they came."""

    def send(self, side: Side, payload: bytes, compressed: bool = False) -> None:
        """Send a message on, in place of the oldest that the handler was given and still has."""
        self._commands.send(self, side, _prefix(compressed, len(payload)) + payload)

    def drop(self, side: Side) -> None:
        """Let go of the oldest message that the handler was given and still has."""
        self._commands.drop(self, side)

    def end(self, side: Side) -> None:
        """Let a direction's end go on, as it came, behind what has been sent."""
        self._commands.end(self, side)

    def release(self, side: Side) -> None:
        """Hold the direction no longer: what still comes of it, its end too, goes on as it is.

        Messages that the handler was given are to be sent before.
        """
        self._commands.release(self, side)

    def reply(self, code: StatusCode, message: str) -> None:
        """End the call for the client with a status, in the runtime's place.

        What was sent on of the response before goes first; what was not is dropped. The runtime's
        side is reset with CANCEL unless it is done: if it has not been sent the request it is
        never asked.
        """
        self._commands.reply(self, code, message)

    def detach(self) -> None:
        """Have nothing more to do with the stream, of which both directions have been passed on.

        The handler is not told when it is over.
        """
        self._commands.detach(self)
