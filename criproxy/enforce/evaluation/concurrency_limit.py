"""Limits how many calls are at the runtime at a time; others wait in a first-in, first-out queue.

A released slot goes to the call that has waited longest. A call that stops waiting, for whatever
reason, leaves nothing behind, and a queue without calls is deleted: clients that come and go do not
make the table grow.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from decimal import Decimal

from criproxy.rules.facts import Facts
from criproxy.rules.spec import LimitSpec


class LimitExceededError(Exception):
    """A call got no slot: the queue is full, or it has waited for as long as it may."""


@dataclass(slots=True)
class _Queue:
    """The calls of one key: those in flight, and a future for each that waits, set when it gets a
    slot."""

    in_flight: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class ConcurrencyLimit:
    """The slots of one rule: ``in_flight`` of them for every key."""

    def __init__(self, spec: LimitSpec) -> None:
        self._spec = spec
        self._queues: dict[Hashable, _Queue] = {}

    def __len__(self) -> int:
        """Return how many keys have calls in flight or waiting."""
        return len(self._queues)

    @property
    def in_flight(self) -> int:
        """Number of slots in use, of all keys."""
        return sum(queue.in_flight for queue in self._queues.values())

    @property
    def waiting(self) -> int:
        """Number of calls that wait, of all keys."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    def key(self, facts: Facts) -> Hashable:
        """Return the key whose slots a call uses: its method, caller or pod, or None for the rule.

        A method is the same in both API versions. A caller is a user and a program, since programs
        such as crictl are another process for every call. A pod is Kubernetes's, whatever its
        sandboxes; calls whose pod is not known share one key.
        """
        match self._spec.per:
            case "method":
                return facts.method_name.method
            case "caller":
                return facts.caller.uid, facts.caller.executable
            case "pod":
                pod = facts.pod
                return None if pod is None else (pod.namespace, pod.name, pod.uid)
        return None

    def try_acquire(self, key: Hashable) -> bool:
        """Acquire a slot if one is free and no call waits for it. Return whether it was acquired;
        it is to be released with :meth:`release` then."""
        queue = self._queues.setdefault(key, _Queue())
        if queue.waiting or queue.in_flight >= self._spec.in_flight:
            return False
        queue.in_flight += 1
        return True

    async def acquire(self, key: Hashable) -> None:
        """Wait for a slot and acquire it. It is to be released with :meth:`release`.

        Raises LimitExceededError if the queue is full or no slot becomes free in time. Then, and
        where the wait is cancelled, no slot has been acquired.
        """
        if self.try_acquire(key):
            return
        queue = self._queues[key]
        if len(queue.waiting) >= self._spec.queue:
            raise LimitExceededError(self._queue_full())
        slot = asyncio.get_running_loop().create_future()
        queue.waiting.append(slot)
        try:
            async with asyncio.timeout(self._spec.wait):
                await slot
        except BaseException as error:
            self._stop_waiting(key, slot)
            if isinstance(error, TimeoutError):
                raise LimitExceededError(f"waited {_duration(self._spec.wait)}") from None
            raise

    def release(self, key: Hashable) -> None:
        """Release a slot: it is given to the next call that waits, or becomes free."""
        queue = self._queues[key]
        while queue.waiting:
            slot = queue.waiting.popleft()
            if not slot.done():
                slot.set_result(None)
                return
        queue.in_flight -= 1
        if not queue.in_flight:
            del self._queues[key]

    def _stop_waiting(self, key: Hashable, slot: asyncio.Future[None]) -> None:
        if slot.done() and not slot.cancelled():  # it was given a slot in the same loop iteration
            self.release(key)
            return
        queue = self._queues.get(key)  # None if the last slot was released in the same iteration
        if queue is not None and slot in queue.waiting:
            queue.waiting.remove(slot)

    def _queue_full(self) -> str:
        if self._spec.queue:
            return f"queue is full ({self._spec.queue} wait)"
        return f"{self._spec.in_flight} in flight, and there is no queue"


def _duration(seconds: float | None) -> str:
    """Format a duration as it is written in a configuration: ``5m``, ``1.5s``."""
    value = Decimal(repr(float(seconds or 0)))
    for unit, size in (("h", 3600), ("m", 60)):
        if value and value % size == 0:
            return f"{value / size:f}".removesuffix(".0") + unit
    return f"{value.normalize():f}s"
