"""Confidence intervals of ratios of quantiles, by the bootstrap over time slices. Pure.

Calls of the same minute are not independent: one slow disk makes all of them slow. Single calls
drawn with replacement would give intervals that are far too narrow, so whole time slices are drawn
(the block bootstrap of Künsch, "The Jackknife and the Bootstrap for General Stationary
Observations", Annals of Statistics 17, 1989, here with blocks that do not overlap). Durations are
counted in bins that are 1 % wide, which limits the precision and makes a draw cheap.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from random import Random
from typing import Final

BIN: Final = 1.01
"""The ratio of a bin's upper bound to its lower one."""

LEAST_SLICES: Final = 5
"""Slices with calls below which there is no interval."""

REPLICATES: Final = 1000
"""Draws; the interval's ends are quantiles of their ratios."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of a ratio."""

    low: float
    high: float


class SlicedDurations:
    """The durations of a method's calls by time slice, in bins, for draws of slices."""

    def __init__(self, counts: Sequence[Mapping[int, int]]) -> None:
        """``counts`` has the calls by bin of each slice with calls."""
        self._sizes = [sum(each.values()) for each in counts]
        self._bins = sorted({bin_ for each in counts for bin_ in each})
        by_slice = [accumulate([each.get(bin_, 0) for bin_ in self._bins]) for each in counts]
        # Of each bin, the calls up to it by slice.
        self._cumulative = list(zip(*by_slice, strict=True))

    @property
    def slices(self) -> int:
        """Slices with calls."""
        return len(self._sizes)

    def draw(self, random: Random, quantiles: Sequence[float]) -> list[float]:
        """Return quantiles (seconds) of as many slices, drawn with replacement."""
        weights = [0] * self.slices
        for drawn in random.choices(range(self.slices), k=self.slices):
            weights[drawn] += 1
        calls = sum(map(mul, weights, self._sizes))
        return [self._quantile(weights, math.ceil(each * calls)) for each in quantiles]

    def _quantile(self, weights: Sequence[int], rank: int) -> float:
        low, high = 0, len(self._bins) - 1
        while low < high:
            middle = (low + high) // 2
            if sum(map(mul, weights, self._cumulative[middle])) >= rank:
                high = middle
            else:
                low = middle + 1
        return float(BIN ** (self._bins[low] + 0.5))


def intervals(
    before: SlicedDurations,
    after: SlicedDurations,
    quantiles: Sequence[float],
    confidence: float,
    random: Random,
) -> list[Interval | None]:
    """Return the interval of after / before for each quantile; None: too few slices."""
    if min(before.slices, after.slices) < LEAST_SLICES:
        return [None] * len(quantiles)
    ratios: list[list[float]] = [[] for _ in quantiles]
    for _ in range(REPLICATES):
        drawn = zip(after.draw(random, quantiles), before.draw(random, quantiles), strict=True)
        for found, (later, earlier) in zip(ratios, drawn, strict=True):
            found.append(later / earlier)
    left_out = int((1 - confidence) / 2 * REPLICATES)
    return [
        # The quantiles of a ratio are off by half a bin each.
        Interval(each[left_out] / BIN, each[-1 - left_out] * BIN)
        for each in map(sorted, ratios)
    ]
