"""Reports what the relay sees to an observer, after the bytes have been written.

Reading must not delay a call. Therefore :class:`Notifier` is given bytes once they are on their
way: the peer already works while they are read. This is possible because nothing here changes a
byte, and it makes the time between a chunk's arrival and its writing known.
"""

import asyncio
import traceback
from collections.abc import Callable
from typing import Protocol

from criproxy.peers.peer import Connection
from criproxy.wire.errors import INTERNAL_ERROR
from criproxy.wire.reading.calls import End
from criproxy.wire.reading.connection import ConnectionReader, Event, ReadingStopped, Side

Clock = Callable[[], float]
"""Seconds that only grow."""


class Observer(Protocol):
    """Is told of connections and of what passes on them, on the event loop, in order."""

    def connection_opened(self, connection: Connection) -> None:
        """Take notice of a client that has connected."""

    def connection_closed(self, connection: Connection) -> None:
        """Take notice that both ends of a connection are closed."""

    def observe(self, connection: Connection, event: Event) -> None:
        """Take notice of an event; the calls in it already have their ``overhead`` added."""

    def connection_refused(self, connection: Connection, reason: str, detail: str) -> None:
        """Take notice that a connection is being closed: rules hold on it that need it read.

        ``reason`` is one of :data:`criproxy.wire.errors.REASONS`.
        """


class Notifier:
    """Reads what has been relayed and tells the observer."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock

    def relayed(self, watched: "ObservedConnection", side: Side, data: bytes, since: float) -> None:
        """Take notice of what ``side`` sent, which has been written; ``since`` is when it came."""
        written = self._clock()
        try:
            events = watched.reader.receive(side, data, since)
        except Exception:  # ours, not the connection's: its bytes go on
            events = watched.reader.stop(INTERNAL_ERROR, traceback.format_exc(), since)
        if events:
            self._tell(watched, events, written - since)

    def ended(self, watched: "ObservedConnection", side: Side) -> None:
        """End the calls of a connection that ``side`` has ended for good."""
        self._tell(watched, watched.reader.end(side, self._clock()), 0.0)

    def refused(self, watched: "ObservedConnection", reason: str, detail: str) -> None:
        """Tell that a connection is closed because what rules it needs cannot be kept."""
        self._observer.connection_refused(watched.connection, reason, detail)

    def _tell(self, watched: "ObservedConnection", events: list[Event], spent: float) -> None:
        for event in events:
            if not isinstance(event, ReadingStopped):
                event.call.overhead += spent
                if event.call.end is End.MESSAGE_LIMIT:
                    watched.cut(event.call.stream)
            try:
                self._observer.observe(watched.connection, event)
            except Exception as error:  # ours as well: the next event is still told
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"observing {type(event).__name__} failed", "exception": error}
                )


class ObservedConnection:
    """What relays a connection: who watches it, and what is to be done with a call then."""

    def __init__(
        self, connection: Connection, reader: ConnectionReader, witness: Notifier, clock: Clock
    ) -> None:
        """``reader`` is shown the connection's bytes by ``witness``."""
        self.connection = connection
        self.reader = reader
        self.witness = witness
        self.clock = clock
        self.missed = False
        """Whether rules came that have to be kept, and not where they could be from then on."""

    def cut(self, stream: int) -> None:
        """End a call to both sides: its stream carries a message that is too large."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection to both sides."""
        raise NotImplementedError
