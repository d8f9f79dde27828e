"""Handlers of held streams, each with one behaviour, and a policy that applies them."""

from collections.abc import Callable
from typing import Final

from criproxy.peers.peer import Connection
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import Side


class Handler:
    """Forwards each message unchanged, and each end. Records its events."""

    def __init__(self, stream: HeldStream) -> None:
        self.stream = stream
        self.reported: list[str] = []

    def opened(self) -> None:
        self.reported.append("opened")

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        self.stream.send(side, payload, compressed)

    def ended(self, side: Side, trailers: list[Header]) -> None:
        self.reported.append(f"{side.name} ended")
        self.stream.end(side)

    def limit_exceeded(self, side: Side, reason: str, detail: str) -> None:
        self.reported.append(f"{side.name} {reason}")

    def closed(self) -> None:
        self.reported.append("closed")


class Looking(Handler):
    """Releases a direction after its first message."""

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        self.stream.send(side, payload, compressed)
        self.stream.release(side)


class LettingGo(Handler):
    """Releases both directions at once."""

    def opened(self) -> None:
        self.stream.release(Side.CLIENT)
        self.stream.release(Side.RUNTIME)


class Gathering(Handler):
    """Forwards a direction when it is complete."""

    def __init__(self, stream: HeldStream) -> None:
        super().__init__(stream)
        self.messages: tuple[list[tuple[bytes, bool]], ...] = ([], [])

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        self.messages[side].append((payload, compressed))

    def ended(self, side: Side, trailers: list[Header]) -> None:
        for payload, compressed in self.messages[side]:
            self.stream.send(side, payload, compressed)
        super().ended(side, trailers)


Make = Callable[[HeldStream], Handler]


class EachCall:
    """A policy that holds the calls of the paths for which there is a handler."""

    enforcing = False

    def __init__(
        self,
        make: Callable[[HeldStream], Handler | None],
        *,
        request: bool = True,
        response: bool = True,
    ) -> None:
        self._make = make
        self._request = request
        self._response = response
        self.handlers: list[Handler] = []

    def wanted(self, path: bytes) -> bool:
        return True

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold | None:
        assert call is None or call.stream == stream.id
        handler = self._make(stream)
        if handler is None:
            return None
        self.handlers.append(handler)
        return Hold(handler, self._request, self._response)


def _every_other() -> EachCall:
    return EachCall(lambda stream: Handler(stream) if stream.id & 2 else None)


POLICIES: Final[dict[str, Callable[[], EachCall | None]]] = {
    "no rules": lambda: None,
    "rules for none": lambda: EachCall(lambda stream: None),
    "held and sent on": lambda: EachCall(Handler),
    "looked at": lambda: EachCall(Looking),
    "let go": lambda: EachCall(LettingGo),
    "responses held": lambda: EachCall(Handler, request=False),
    "requests held": lambda: EachCall(Handler, response=False),
    "every other held": _every_other,
}
"""Policies under which every call passes as it would without."""
