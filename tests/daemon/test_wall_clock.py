"""The time of day of calls."""

import time

from hypothesis import given
from hypothesis import strategies as st

from criproxy.daemon.wall_clock import WallClock

SECOND = 1_000_000_000
EPOCH = 1_700_000_000 * SECOND


class Machine:
    """A machine with its clocks, in nanoseconds."""

    def __init__(self) -> None:
        self.monotonic, self.suspended, self.set_by = 100 * SECOND, 0, 0
        self.preempted = 0
        self.clock = WallClock(
            lambda: self.monotonic, self.wall, lambda: self.monotonic + self.suspended
        )

    def wall(self) -> int:
        """Read the system's clock, before and after which the process may have to wait."""
        self.monotonic += self.preempted
        read = EPOCH + self.monotonic + self.suspended + self.set_by
        self.monotonic += self.preempted
        return read

    def now(self) -> float:
        return self.monotonic / SECOND

    def epoch(self, moment: float) -> float:
        """Convert a time, in seconds since EPOCH."""
        return (self.clock.ns(moment) - EPOCH) / SECOND


def test_clock_that_is_set() -> None:
    """When the system's clock is set, times follow it, and durations are as they were."""
    machine = Machine()
    began = machine.now()
    assert machine.epoch(began) == 100
    machine.set_by = 3600 * SECOND
    machine.monotonic += 5 * SECOND
    assert machine.epoch(machine.now()) == 3705
    assert machine.epoch(began) == 3700
    machine.set_by = -50 * SECOND
    assert machine.epoch(began) == 50


def test_suspension() -> None:
    """What began before a suspension keeps its time, and what comes after it follows the clock."""
    machine = Machine()
    began = machine.now()
    assert machine.epoch(began) == 100
    for count in (1, 2):
        machine.suspended += 600 * SECOND
        machine.monotonic += 5 * SECOND
        assert machine.epoch(machine.now()) == 100 + count * 605
        assert machine.epoch(began) == 100


@given(st.lists(st.integers(0, 50_000_000), max_size=20))
def test_busy_machine(delays: list[int]) -> None:
    """However long a process waits between two clocks, a time is converted as it was before."""
    machine = Machine()
    for machine.preempted in delays:
        assert machine.epoch(100.0) == 100.0


def test_real_clocks() -> None:
    """The clock of calls is the one that it converts, and it converts to the system's."""
    before = time.time()
    converted = WallClock()(time.perf_counter())
    assert before - 0.1 <= converted <= time.time() + 0.1
