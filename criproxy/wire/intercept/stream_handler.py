"""The interface between held streams and their handlers, which are policies."""

from dataclasses import dataclass, field
from struct import Struct
from typing import Final, Protocol

from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.reading.connection import Side

_prefix: Final = Struct(">BI").pack


class StreamHandler(Protocol):
    """Receives the events of a held stream, in order, on the event loop.

    It may call the stream's commands from within each method, and at any time until :meth:`closed`.
    """

    def opened(self) -> None:
        """Called when the stream accepts commands.

        The request's headers have been forwarded, unless the call is hidden.
        """

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        """Handle a whole message that ``side`` sent in a held direction.

        It is not forwarded unless the handler sends it. ``payload`` is without the five-byte
        prefix; ``compressed`` is the prefix's flag (with the stream's grpc-encoding).
        """

    def ended(self, side: Side, trailers: list[Header]) -> None:
        """Handle the end of a held direction.

        ``trailers`` are the runtime's (with ``:status`` if they are Trailers-Only), empty for the
        client. The end is forwarded only by :meth:`HeldStream.end`.
        """

    def limit_exceeded(self, side: Side, reason: str, detail: str) -> None:
        """Called when a direction may not be held any longer.

        ``reason`` is HELD_LIMIT or HELD_TIME (criproxy.wire.intercept.held_bytes), ``detail`` says
        in one line which limit is exceeded. If the handler neither replies nor releases the
        direction (after it has sent the messages that it has), the call is ended with
        RESOURCE_EXHAUSTED.
        """

    def closed(self) -> None:
        """Called once when the call has ended for the client, in any way.

        Commands have no effect from now on.
        """


@dataclass(frozen=True, slots=True)
class Hold:
    """Which directions of a new stream to hold, and its handler."""

    handler: StreamHandler
    request: bool
    response: bool
    metadata: list[Header] = field(default_factory=list)
    """Added to the request's headers."""
    hidden: bool = False
    """Whether nothing of the call, not even its headers, is sent to the runtime: the handler has to
    reply. ``request`` has to be held."""
    whole_request: bool = False
    """Whether the request is one message: its time limit is until its end."""


class StreamCommands(Protocol):
    """Executes the commands of :class:`HeldStream`."""

    def send(self, stream: "HeldStream", side: Side, message: bytes) -> None:
        """``message`` is with its prefix."""

    def drop(self, stream: "HeldStream", side: Side) -> None: ...  # noqa: D102

    def end(self, stream: "HeldStream", side: Side) -> None: ...  # noqa: D102

    def release(self, stream: "HeldStream", side: Side) -> None: ...  # noqa: D102

    def reply(self, stream: "HeldStream", code: StatusCode, message: str) -> None: ...  # noqa: D102

    def detach(self, stream: "HeldStream") -> None: ...  # noqa: D102


class HeldStream:
    """A held stream, and the commands for it.

    ``side`` is the direction's sender: CLIENT for the request, RUNTIME for the response. Commands
    have no effect on a closed stream, nor on a direction that is not held.
    """

    __slots__ = ("_commands", "headers", "id", "path")

    def __init__(
        self, commands: StreamCommands, stream: int, path: bytes, headers: list[Header]
    ) -> None:
        self._commands = commands
        self.id = stream
        self.path = path
        self.headers = headers
        """The request's, as received."""

    def send(self, side: Side, payload: bytes, compressed: bool = False) -> None:
        """Send a message in place of the oldest that the handler was given and still has."""
        self._commands.send(self, side, _prefix(compressed, len(payload)) + payload)

    def drop(self, side: Side) -> None:
        """Discard the oldest message that the handler was given and still has."""
        self._commands.drop(self, side)

    def end(self, side: Side) -> None:
        """Forward a direction's end, as received, behind what has been sent."""
        self._commands.end(self, side)

    def release(self, side: Side) -> None:
        """Stop holding the direction: the rest of it, its end too, is forwarded unchanged.

        Messages that the handler was given have to be sent before.
        """
        self._commands.release(self, side)

    def reply(self, code: StatusCode, message: str) -> None:
        """End the call for the client with a local reply.

        Output of the response is sent before; held messages are discarded. The stream is reset with
        CANCEL towards the runtime unless it has finished.
        """
        self._commands.reply(self, code, message)

    def detach(self) -> None:
        """Detach the handler from a stream whose directions have both been released.

        :meth:`StreamHandler.closed` is not called any more.
        """
        self._commands.detach(self)
