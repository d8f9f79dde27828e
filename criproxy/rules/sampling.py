"""Delays and faults by chance: how long, how often, and until when.

Each rule has dice of its own. With a seed they fall the same in every run, for the same calls in
the same order.
"""

from bisect import bisect_right
from collections.abc import Mapping
from random import Random
from typing import Final

from criproxy.rules.spec import DelaySpec, FaultSpec

_ALWAYS: Final = 100.0


class Delay:
    """How long the calls of a rule wait."""

    def __init__(self, spec: DelaySpec) -> None:
        self._spec = spec
        self._dice = _dice(spec.seed)
        self._table = _Table(spec.percentiles) if spec.percentiles else None

    def draw(self) -> float:
        """Return how many seconds the next call waits: 0.0 if it is spared.

        The time is the fixed one, or drawn from the percentiles; then up to ``jitter`` more or
        less, each as likely. It is never below zero.
        """
        if not _happens(self._dice, self._spec.percentage):
            return 0.0
        seconds = float(self._spec.fixed or 0.0)
        if self._table is not None:
            seconds = self._table.at(self._dice.uniform(0.0, 100.0))
        jitter = self._spec.jitter
        return max(0.0, seconds + (self._dice.uniform(-jitter, jitter) if jitter else 0.0))


class Fault:
    """Which calls of a rule it strikes."""

    def __init__(self, spec: FaultSpec) -> None:
        self._spec = spec
        self._dice = _dice(spec.seed)
        self._left = spec.times
        self._started: float | None = None

    def started(self, now: float) -> None:
        """Begin the time that the rule is for, at ``now`` (seconds of any one clock)."""
        self._started = now

    def strikes(self, now: float) -> bool:
        """Tell whether the next call is struck; it then counts as one of ``times``.

        ``now`` is of the clock that :meth:`started` was told; where that was not called, the time
        begins with the first call.
        """
        if self._started is None:
            self._started = now
        if self._left == 0 or self._is_over(now - self._started):
            return False
        if not _happens(self._dice, self._spec.percentage):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _is_over(self, elapsed: float) -> bool:
        return self._spec.for_ is not None and elapsed >= self._spec.for_


class _Table:
    """Durations by percentile, on a straight line in between.

    Below the lowest percentile it is that one's duration, above the highest the highest's: the
    table says nothing of what is shorter or longer.
    """

    def __init__(self, percentiles: Mapping[str, float]) -> None:
        points = sorted((float(name[1:]), float(value)) for name, value in percentiles.items())
        self._ranks = [rank for rank, _ in points]
        self._values = [value for _, value in points]

    def at(self, rank: float) -> float:
        """Return the duration at a rank of 0 to 100."""
        above = bisect_right(self._ranks, rank)
        if above == 0:
            return self._values[0]
        if above == len(self._ranks):
            return self._values[-1]
        low, high = self._ranks[above - 1], self._ranks[above]
        part = (rank - low) / (high - low)
        return self._values[above - 1] + part * (self._values[above] - self._values[above - 1])


def _dice(seed: int | None) -> Random:
    return Random(seed)  # noqa: S311 - nothing is kept secret by it


def _happens(dice: Random, percentage: float) -> bool:
    return percentage >= _ALWAYS or dice.uniform(0.0, 100.0) < percentage
