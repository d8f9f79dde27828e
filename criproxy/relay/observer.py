"""What the relay tells, and when: bytes are read once they have been written, some at a time.

Neither reading nor whoever watches may delay a call. So a :class:`Witness` is shown bytes when they
are on their way, and keeps them for a moment: what a few calls have left behind is read together.
That is possible because nothing here changes a byte, and it pays: for a single call the reader's
code and tables have mostly left the processor's caches, and reading it takes five to ten times as
long as it does in company. When bytes came and went is noted at once.
"""

import asyncio
import traceback
from collections.abc import Callable
from typing import Final, Protocol

from criproxy.peers import Connection
from criproxy.wire.calls import End
from criproxy.wire.connection import ConnectionReader, Event, ReadingStopped, Side
from criproxy.wire.errors import INTERNAL_ERROR

_CHUNKS: Final = 64
"""Pieces that are read together: what some sixteen calls of a kubelet come in."""

_BYTES: Final = 1 << 18
"""Bytes that may wait to be read; larger messages are read as they pass."""

_MOMENT: Final = 0.005
"""Seconds for which bytes wait to be read at most."""

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


class Watched:
    """A connection, the reader that its bytes are shown to, and what is to be done with a call."""

    connection: Connection
    reader: ConnectionReader

    def cut(self, stream: int) -> None:
        """End a call to both sides: its stream carries a message that is too large."""
        raise NotImplementedError


class Witness:
    """Reads what has been relayed and tells the observer, within a moment and in order."""

    def __init__(self, observer: Observer, clock: Clock, prompt: bool = False) -> None:
        """``prompt``: read each piece as soon as it is written, because something may follow."""
        self._chunks = 1 if prompt else _CHUNKS
        self._observer = observer
        self._clock = clock
        self._waiting: list[tuple[Watched, Side, bytes, float, float]] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def relayed(self, watched: Watched, side: Side, data: bytes, since: float) -> None:
        """Take notice of what ``side`` sent, which has been written; ``since`` is when it came."""
        waiting = self._waiting
        waiting.append((watched, side, data, since, self._clock()))
        self._size += len(data)
        if len(waiting) >= self._chunks or self._size >= _BYTES:
            self.settle()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT, self.settle)

    def settle(self) -> None:
        """Read and tell of all that has been relayed so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        self._size = 0
        for watched, side, data, since, written in waiting:
            try:
                events = watched.reader.receive(side, data, since)
            except Exception:  # ours, not the connection's: its bytes go on
                events = watched.reader.stop(INTERNAL_ERROR, traceback.format_exc(), since)
            if events:
                self._tell(watched, events, written - since)

    def ended(self, watched: Watched, side: Side) -> None:
        """End the calls of a connection that ``side`` has ended for good."""
        now = self._clock()
        self.settle()
        self._tell(watched, watched.reader.end(side, now), 0.0)

    def _tell(self, watched: Watched, events: list[Event], spent: float) -> None:
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
