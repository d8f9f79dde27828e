"""Gives the relay's events to an observer a little later, in order: the relay goes first."""

import asyncio
from collections import deque
from typing import Final

from criproxy.peers.peer import Connection
from criproxy.relay.notifier import Observer
from criproxy.wire.reading.connection import Event, MessagePassed

_LATER: Final = 0.02
"""Seconds for which events are collected."""

_A_FEW: Final = 64
"""Events that are observed before the event loop does other work: it takes half a millisecond."""

_MOST_EVENTS: Final = 4096
_MOST_BYTES: Final = 4 << 20
"""Events, and bytes of messages in them, that may wait; with more, all are observed at once."""


class DeferredObserver:
    """See Observer. Used on one event loop only."""

    def __init__(self, observer: Observer) -> None:
        """``observer`` gets all events, and needs no other time than they have."""
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Connection, Event]] = deque()
        self._bytes = 0
        self._timer: asyncio.Handle | None = None

    def connection_opened(self, connection: Connection) -> None:
        """See Observer."""
        self._observer.connection_opened(connection)

    def connection_closed(self, connection: Connection) -> None:
        """See Observer."""
        self.flush()
        self._observer.connection_closed(connection)

    def connection_refused(self, connection: Connection, reason: str, detail: str) -> None:
        """See Observer."""
        self._observer.connection_refused(connection, reason, detail)

    def observe(self, connection: Connection, event: Event) -> None:
        """See Observer."""
        waiting = self._waiting
        waiting.append((connection, event))
        if isinstance(event, MessagePassed):
            self._bytes += len(event.data)
        if len(waiting) > _MOST_EVENTS or self._bytes > _MOST_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_LATER, self._observe_a_few)

    def flush(self) -> None:
        """Have all events observed that wait."""
        while self._waiting:
            self._observe_next()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _observe_a_few(self) -> None:
        self._timer = None
        for _ in range(min(_A_FEW, len(self._waiting))):
            self._observe_next()
        if self._waiting:
            self._timer = self._loop.call_soon(self._observe_a_few)

    def _observe_next(self) -> None:
        connection, event = self._waiting.popleft()
        if isinstance(event, MessagePassed):
            self._bytes -= len(event.data)
        try:
            self._observer.observe(connection, event)
        except Exception as error:  # a fault of ours: the next event is still observed
            what = f"observing {type(event).__name__} failed"
            self._loop.call_exception_handler({"message": what, "exception": error})
