"""Random delays and faults: their duration, their frequency and their end.

Each rule has its own random numbers. With a seed they are the same in every run, for the same calls
in the same order.
"""

from bisect import bisect_right
from collections.abc import Mapping
from random import Random
from typing import Final

from criproxy.rules.spec import DelaySpec, FaultSpec

_ALWAYS: Final = 100.0


class Delay:
    """The delays of a rule's calls."""

    def __init__(self, spec: DelaySpec) -> None:
        self._spec = spec
        self._random = _random(spec.seed)
        self._table = _Table(spec.percentiles) if spec.percentiles else None

    def draw(self) -> float:
        """Return the delay of the next call in seconds, 0.0 for none.

        The delay is fixed or drawn from the percentiles, plus a uniformly distributed jitter, and
        never negative.
        """
        if not _sample(self._random, self._spec.percentage):
            return 0.0
        seconds = float(self._spec.fixed or 0.0)
        if self._table is not None:
            seconds = self._table.at(self._random.uniform(0.0, 100.0))
        jitter = self._spec.jitter
        return max(0.0, seconds + (self._random.uniform(-jitter, jitter) if jitter else 0.0))


class Fault:
    """The calls of a rule in which its fault occurs."""

    def __init__(self, spec: FaultSpec) -> None:
        self._spec = spec
        self._random = _random(spec.seed)
        self._left = spec.times
        self._started: float | None = None

    def start(self, now: float) -> None:
        """Start the time during which the fault occurs, at ``now`` (seconds of any clock)."""
        self._started = now

    def occurs(self, now: float) -> bool:
        """Return whether the fault occurs in the next call, and count it as one of ``times``.

        ``now`` is of the clock of :meth:`start`; without :meth:`start`, the time starts with the
        first call.
        """
        if self._started is None:
            self._started = now
        if self._left == 0 or self._is_over(now - self._started):
            return False
        if not _sample(self._random, self._spec.percentage):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _is_over(self, elapsed: float) -> bool:
        return self._spec.for_ is not None and elapsed >= self._spec.for_


class _Table:
    """Durations by percentile, interpolated linearly, and constant outside the given ones."""

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


def _random(seed: int | None) -> Random:
    return Random(seed)  # noqa: S311 - not for cryptography


def _sample(random: Random, percentage: float) -> bool:
    return percentage >= _ALWAYS or random.uniform(0.0, 100.0) < percentage
