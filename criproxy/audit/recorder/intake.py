"""The items that wait to be made into records, with an equal share for each listener.

Items of different listeners are taken by deficit round robin (Shreedhar and Varghese, 1995): a
listener with many items waiting delays another's by one quantum at most.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from criproxy.audit.items import Item

_QUANTUM: Final = 64 << 10
"""Bytes of items that a listener may have taken in its turn."""

_COST: Final = 1 << 10
"""Bytes that an item counts in addition to its size: making a record costs that of some KiB."""


class Source(Protocol):
    """Receives what was done with the items of a worker's queue."""

    def taken(self, count: int) -> int:
        """Called when items were made into records. Returns the number of the first of them."""

    def done(self, first: int, count: int, durable: bool) -> None:
        """Called with that number when the records are written or dropped. Thread-safe."""

    def set_full(self, full: bool) -> None:
        """Called with whether there is no room for further records of the listener."""


class WaitingItem(NamedTuple):
    """An item in the intake."""

    source: Source
    decode: Callable[[], Item]
    size: int


class Turn(NamedTuple):
    """The items of one listener that are taken together, the oldest first."""

    listener: str
    items: Sequence[WaitingItem]


class Intake:
    """Queues of items by listener. The channels' limits bound their number."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[WaitingItem]] = {}
        self._turns: deque[str] = deque()  # the listeners with items
        self._deficits: dict[str, int] = {}
        self._closed = False
        self._changed = threading.Condition()

    def put(self, listener: str, item: WaitingItem) -> None:
        """Append an item. Thread-safe."""
        with self._changed:
            queue = self._queues.get(listener)
            if queue is None:
                queue = self._queues[listener] = deque()
                self._deficits[listener] = 0
                self._turns.append(listener)
                self._changed.notify()
            queue.append(item)

    def take(self) -> Turn | None:
        """Wait for items, and return those of the next turn; None once it is closed and empty."""
        with self._changed:
            while not self._turns:
                if self._closed:
                    return None
                self._changed.wait()
            while True:
                listener = self._turns[0]
                items = self._take_from(listener)
                if items:
                    return Turn(listener, items)

    def close(self) -> None:
        """Let :meth:`take` return None when all items are taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _take_from(self, listener: str) -> list[WaitingItem]:
        queue = self._queues[listener]
        deficit = self._deficits[listener] + _QUANTUM
        items = []
        while queue and (cost := queue[0].size + _COST) <= deficit:
            deficit -= cost
            items.append(queue.popleft())
        self._turns.popleft()
        if queue:
            self._deficits[listener] = deficit
            self._turns.append(listener)
        else:
            del self._queues[listener], self._deficits[listener]
        return items
