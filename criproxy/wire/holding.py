"""Streams that are taken out of a connection and handled on their own, the rest flowing on.

(Interface; the machine follows.)
"""

from dataclasses import dataclass, field
from typing import Protocol

from criproxy.wire.connection import Side
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack import Header


class StreamHandler(Protocol):
    """Is told what comes on a held stream, in order, on the event loop.

    It may command the stream from within each of these, and at any time until :meth:`over`.
    """

    def opened(self) -> None:
        """Take notice that the request's headers went on: from now on commands are taken."""

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

    def over(self) -> None:
        """Take notice that the call has ended without the handler: reset, GOAWAY, connection gone,
        or answered by the runtime before its request was released. Commands do nothing from now on.
        """


@dataclass(frozen=True, slots=True)
class Hold:
    """What is to be held of a stream that has just been opened, and who handles it."""

    handler: StreamHandler
    request: bool
    response: bool
    metadata: list[Header] = field(default_factory=list)
    """Added to the request's headers."""


class HeldStream:
    """A stream that is held, and the commands for it. ``side`` is whose direction is meant:
    CLIENT for the request, RUNTIME for the response."""

    id: int
    path: bytes
    headers: list[Header]
    """The request's, as they came."""

    def send(self, side: Side, payload: bytes, compressed: bool = False) -> None:
        """Send a message on in a held direction, in place of the oldest one not yet sent on."""
        raise NotImplementedError

    def drop(self, side: Side) -> None:
        """Let go of the oldest message that the handler was given and has not sent on."""
        raise NotImplementedError

    def end(self, side: Side) -> None:
        """Let a direction's end go on, as it came, behind what has been sent."""
        raise NotImplementedError

    def pass_on(self, side: Side) -> None:
        """Hold the direction no longer: what still comes of it, its end too, goes on as it is.

        Messages that the handler was given are to be sent before.
        """
        raise NotImplementedError

    def answer(self, code: StatusCode, message: str) -> None:
        """End the call for the client with a status, in the runtime's place.

        What was sent on of the response before goes first; what was not is dropped. The runtime's
        side is reset with CANCEL unless it is done: if it has not been sent the request it is
        never asked.
        """
        raise NotImplementedError
