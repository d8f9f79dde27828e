"""How many calls may be at the runtime at a time; the others wait in a queue, first come, first in.

A place that is given back goes to the one that has waited longest, never to one that came later.
Who waits no more, for whatever reason, leaves nothing behind, and a queue that nobody is in or
has a place of is forgotten: clients that come and go do not make this grow.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from decimal import Decimal

from criproxy.rules.facts import Facts
from criproxy.rules.spec import LimitSpec


class LimitExceededError(Exception):
    """There is no place for a call: the queue is full, or it has waited as long as it may."""


@dataclass(slots=True)
class _Line:
    """Those in flight of one key, and those that wait, as futures that are done with their turn."""

    in_flight: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class ConcurrencyLimit:
    """The places of one rule: ``in_flight`` of them for every key."""

    def __init__(self, spec: LimitSpec) -> None:
        self._spec = spec
        self._lines: dict[Hashable, _Line] = {}

    def __len__(self) -> int:
        """Return how many keys have calls in flight or waiting."""
        return len(self._lines)

    @property
    def in_flight(self) -> int:
        """How many places are taken, of all keys."""
        return sum(line.in_flight for line in self._lines.values())

    @property
    def waiting(self) -> int:
        """How many wait, for all keys."""
        return sum(len(line.waiting) for line in self._lines.values())

    def key(self, facts: Facts) -> Hashable:
        """Return whose places a call takes: those of its method, caller or pod, or the rule's.

        A method is the same in both API versions. A caller is a user's program, since one such as
        crictl is another process for every call. A pod is Kubernetes's, whatever sandboxes it had;
        calls whose pod is not known share the places of one.
        """
        match self._spec.per:
            case "method":
                return facts.named.method
            case "caller":
                return facts.caller.uid, facts.caller.executable
            case "pod":
                pod = facts.pod
                return None if pod is None else (pod.namespace, pod.name, pod.uid)
        return None

    def take(self, key: Hashable) -> bool:
        """Take a place now, if one is free and nobody waits for it. To be given back if so."""
        line = self._lines.setdefault(key, _Line())
        if line.waiting or line.in_flight >= self._spec.in_flight:
            return False
        line.in_flight += 1
        return True

    async def acquire(self, key: Hashable) -> None:
        """Take a place, when it is this call's turn. It is to be given back with :meth:`release`.

        Raises LimitError if the queue is full or the turn does not come in time. In that case, and
        if it is cancelled, nothing has been taken.
        """
        if self.take(key):
            return
        line = self._lines[key]
        if len(line.waiting) >= self._spec.queue:
            raise LimitExceededError(self._full())
        turn = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        try:
            async with asyncio.timeout(self._spec.wait):
                await turn
        except BaseException as error:
            self._leave(key, turn)
            if isinstance(error, TimeoutError):
                raise LimitExceededError(f"waited {_seconds(self._spec.wait)}") from None
            raise

    def release(self, key: Hashable) -> None:
        """Give a place back: it is the next one's, or free."""
        line = self._lines[key]
        while line.waiting:
            turn = line.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        line.in_flight -= 1
        if not line.in_flight:
            del self._lines[key]

    def _leave(self, key: Hashable, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():  # it was given a place in the same moment
            self.release(key)
            return
        line = self._lines.get(key)  # None if the last place was given back in the same moment
        if line is not None and turn in line.waiting:
            line.waiting.remove(turn)

    def _full(self) -> str:
        if self._spec.queue:
            return f"queue is full ({self._spec.queue} wait)"
        return f"{self._spec.in_flight} in flight, and there is no queue"


def _seconds(wait: float | None) -> str:
    """Write a duration as it was most likely configured: ``5m``, ``1.5s``."""
    value = Decimal(repr(float(wait or 0)))
    for unit, size in (("h", 3600), ("m", 60)):
        if value and value % size == 0:
            return f"{value / size:f}".removesuffix(".0") + unit
    return f"{value.normalize():f}s"
