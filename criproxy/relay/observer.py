"""What the relay tells, and when: events are handed on once their bytes are on their way.

Whoever watches must not delay a call. So a pair does not hand its events on itself but leaves
them in a :class:`Tail`, which the event loop comes to after it has written what the wake-up
produced; then the time between a chunk's arrival and its writing is known too.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from criproxy.peers import Connection
from criproxy.wire.connection import Event, ReadingStopped

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


class Tail:
    """Holds events back until the loop has written the bytes that they were read from."""

    def __init__(self, observer: Observer, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._observer = observer
        self._clock = clock
        self._loop = loop
        self._waiting: list[tuple[Connection, list[Event], float]] = []

    def add(self, connection: Connection, events: list[Event], since: float) -> None:
        """Leave events behind; ``since`` is when the bytes that they were read from came."""
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append((connection, events, since))

    def flush(self) -> None:
        """Hand on what waits, its time within the proxy added to the calls it belongs to."""
        waiting, self._waiting = self._waiting, []
        written = self._clock()
        for connection, events, since in waiting:
            spent = written - since
            for event in events:
                if not isinstance(event, ReadingStopped):
                    event.call.overhead += spent
                try:
                    self._observer.observe(connection, event)
                except Exception as error:  # ours, not the call's: the next event is still told
                    self._loop.call_exception_handler(
                        {"message": f"observing {type(event).__name__} failed", "exception": error}
                    )
