"""Converts times of the calls' clock to the time of day, for all that is logged and recorded.

The calls' clock is CLOCK_MONOTONIC (clock_gettime(2)): it does not follow the system's clock when
that is set, and stands still while the machine is suspended. So its distance from the system's
clock is checked at each conversion: every process reads the system's clock, and all agree.
"""

import time
from collections.abc import Callable
from typing import Final

_TOLERANCE: Final = 1_000_000
"""Nanoseconds by which the distance may seem to change without a cause: the clocks are read one
after the other. Below it all conversions of a time are the same."""

_MAX_SUSPENSIONS: Final = 64
"""Remembered suspensions; the times of calls that are older are shifted."""


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class WallClock:
    """Converts times of a monotonic clock, as the system's clock tells the time now."""

    def __init__(
        self,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        wall_ns: Callable[[], int] = time.time_ns,
        boot_ns: Callable[[], int] = _boot_ns,
    ) -> None:
        """``clock_ns`` is the calls' clock, ``wall_ns`` the system's, ``boot_ns`` goes on in
        suspension; all in nanoseconds."""
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._boot_ns = boot_ns
        self._checked = clock_ns()
        self._offset = wall_ns() - self._checked
        self._suspended = boot_ns() - clock_ns()
        self._suspensions: list[tuple[int, int]] = []  # the last check before it, and its length

    def __call__(self, moment: float) -> float:
        """Return a time of the calls' clock (seconds) in seconds since the epoch."""
        return self.ns(moment) / 1e9

    def ns(self, moment: float) -> int:
        """Return a time of the calls' clock (seconds) in nanoseconds since the epoch."""
        self._follow()
        at = round(moment * 1e9)
        before = 0
        for checked, length in self._suspensions:
            if at <= checked:
                before += length
        return at + self._offset - before

    def _follow(self) -> None:
        """Adopt the distance between the clocks, if it has changed."""
        begun = self._clock_ns()
        wall = self._wall_ns()
        ended = self._clock_ns()
        if not wall - ended - _TOLERANCE <= self._offset <= wall - begun + _TOLERANCE:
            self._offset = wall - (begun + ended) // 2
            suspended = self._boot_ns() - self._clock_ns()
            if suspended - self._suspended > _TOLERANCE:
                self._suspensions.append((self._checked, suspended - self._suspended))
                del self._suspensions[:-_MAX_SUSPENSIONS]
            self._suspended = suspended
        self._checked = ended
