"""Time slices: a span of time in equal parts of a round length. Pure."""

from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000
"""Microseconds, the unit of the times here."""

_STEPS: Final = (
    *(1_000, 10_000, 100_000),
    *(seconds * SECOND for seconds in (1, 2, 5, 10, 15, 30)),
    *(minutes * 60 * SECOND for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * 3600 * SECOND for hours in (1, 2, 3, 6, 12)),
)
_DAY: Final = 86_400 * SECOND


@dataclass(frozen=True, slots=True)
class Slices:
    """Slices of ``length`` microseconds, which begin at multiples of it; ``first`` is the start."""

    first: int
    length: int
    count: int

    def starts(self) -> list[int]:
        """Return when each begins, in microseconds since the epoch."""
        return [self.first + number * self.length for number in range(self.count)]


def sliced(began: int, ended: int, most: int) -> Slices:
    """Return at most ``most`` slices that include both times (microseconds since the epoch)."""
    days = 1
    steps = iter(_STEPS)
    while True:
        length = next(steps, 0)
        if not length:
            length = days * _DAY
            days *= 2
        first = began // length * length
        count = (ended - first) // length + 1
        if count <= most:
            return Slices(first, length, count)
