"""Reports what the relay sees to an observer, after the bytes have been written.

Bytes are written to the peer first and read afterwards, so that reading delays no call. Nothing
here changes a byte. The time between a chunk's arrival and its writing is a call's overhead.
"""

import asyncio
import traceback
from collections.abc import Callable
from typing import Protocol

from mypy_extensions import mypyc_attr

from criproxy.peers.peer import Connection
from criproxy.wire.errors import INTERNAL_ERROR
from criproxy.wire.reading.calls import End
from criproxy.wire.reading.connection import (
    CallBegan,
    CallEnded,
    ConnectionReader,
    Event,
    Side,
)

Clock = Callable[[], float]
"""Returns monotonic seconds."""


class Observer(Protocol):
    """Receives the events of connections, in order, on the event loop."""

    def connection_opened(self, connection: Connection) -> None:
        """Called when a client has been accepted."""

    def connection_closed(self, connection: Connection) -> None:
        """Called when both sockets of a connection are closed."""

    def observe(self, connection: Connection, event: Event) -> None:
        """Called for each event; ``overhead`` of its call already includes this chunk."""

    def connection_refused(self, connection: Connection, reason: str, detail: str) -> None:
        """Called when a connection is closed because rules apply to it and it cannot be read, or
        because it is HTTP/1 where that is not served.

        ``reason`` is one of :data:`criproxy.wire.errors.REASONS`.
        """


class Notifier:
    """Reads relayed bytes and reports their events to the observer."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self.calls_ended = 0
        """Calls that have ended on all connections."""

    def relayed(
        self, observed: "ObservedConnection", side: Side, data: bytes, since: float
    ) -> None:
        """Read bytes that ``side`` sent at ``since`` (seconds) and that have been written."""
        written = self._clock()
        try:
            events = observed.reader.receive(side, data, since)
        except Exception:  # a fault of ours: the bytes are still relayed
            events = observed.reader.stop(INTERNAL_ERROR, traceback.format_exc(), since)
        if events:
            self._report(observed, events, written - since)

    def ended(self, observed: "ObservedConnection", side: Side) -> None:
        """End the calls in flight of a connection that ``side`` has closed."""
        self._report(observed, observed.reader.end(side, self._clock()), 0.0)

    def refused(self, observed: "ObservedConnection", reason: str, detail: str) -> None:
        """Report that a connection is closed because its rules cannot be enforced."""
        self._observer.connection_refused(observed.connection, reason, detail)

    def _report(self, observed: "ObservedConnection", events: list[Event], spent: float) -> None:
        for event in events:
            if isinstance(event, (CallBegan, CallEnded)):
                event.call.overhead += spent
                self.calls_ended += isinstance(event, CallEnded)
                if event.call.end is End.MESSAGE_LIMIT:
                    observed.cut(event.call.stream)
            try:
                self._observer.observe(observed.connection, event)
            except Exception as error:  # a fault of ours: the next event is still reported
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"observing {type(event).__name__} failed", "exception": error}
                )


@mypyc_attr(allow_interpreted_subclasses=True)
class ObservedConnection:
    """A relayed connection as the notifier sees it; base of Pair and Split."""

    def __init__(
        self, connection: Connection, reader: ConnectionReader, notifier: Notifier, clock: Clock
    ) -> None:
        """``notifier`` feeds the connection's bytes to ``reader``."""
        self.connection = connection
        self.reader = reader
        self.notifier = notifier
        self.clock = clock

    def cut(self, stream: int) -> None:
        """Reset a stream towards both sides: a message on it is over ``limits.message``."""
        raise NotImplementedError

    def close(self) -> None:
        """Close both sides of the connection."""
        raise NotImplementedError
