"""Random delays and faults: duration, frequency and end, compared with their specification."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.configtypes.values import Duration
from criproxy.rules.sampling import Delay, Fault
from criproxy.rules.spec import DelaySpec, FaultSpec

DRAWS = 20_000
WITHIN = 0.015
"""The tolerance of a share of DRAWS: over four standard deviations."""

PERCENTILES = {"p50": Duration(0.01), "p90": Duration(0.2), "p99": Duration(2), "p100": Duration(3)}


def draws(spec: DelaySpec, count: int = DRAWS) -> list[float]:
    delay = Delay(spec)
    return [delay.draw() for _ in range(count)]


def count_faults(fault: Fault, count: int, now: float = 0.0) -> int:
    return sum(fault.occurs(now) for _ in range(count))


def share(drawn: list[float], below: float) -> float:
    return sum(each <= below for each in drawn) / len(drawn)


# Delays


def test_fixed() -> None:
    """A fixed delay of all calls is constant."""
    assert set(draws(DelaySpec(fixed=Duration(2)), 100)) == {2.0}


def test_jitter() -> None:
    """Jitter is uniformly distributed in both directions, within its bounds."""
    drawn = draws(DelaySpec(fixed=Duration(2), jitter=Duration(0.5), seed=1))
    assert 1.5 <= min(drawn) < 1.51
    assert 2.49 < max(drawn) <= 2.5
    for quarter in (1, 2, 3):
        assert share(drawn, 1.5 + quarter / 4) == pytest.approx(quarter / 4, abs=WITHIN)


@pytest.mark.parametrize("percentage", [0, 0.5, 10, 50, 100])
def test_percentage_of_delays(percentage: float) -> None:
    """The given percentage of calls is delayed."""
    drawn = draws(DelaySpec(fixed=Duration(2), percentage=percentage, seed=2))
    assert set(drawn) <= {0.0, 2.0}
    assert share(drawn, 0.0) == pytest.approx(1 - percentage / 100, abs=WITHIN)
    if percentage in (0, 100):
        assert len(set(drawn)) == 1


def test_percentiles() -> None:
    """The drawn delays have the given percentiles, and the interpolated ones between them."""
    drawn = draws(DelaySpec(percentiles=PERCENTILES, seed=3))
    for name, value in PERCENTILES.items():
        assert share(drawn, value) == pytest.approx(float(name[1:]) / 100, abs=WITHIN)
    assert share(drawn, (0.01 + 0.2) / 2) == pytest.approx(0.70, abs=WITHIN)
    assert min(drawn) == 0.01
    assert max(drawn) == pytest.approx(3, abs=0.1)


def test_outside_of_percentiles() -> None:
    """Below the lowest and above the highest percentile, the duration is constant."""
    drawn = draws(DelaySpec(percentiles={"p20": Duration(1), "p90": Duration(2)}, seed=4))
    assert drawn.count(1.0) / DRAWS == pytest.approx(0.20, abs=WITHIN)
    assert drawn.count(2.0) / DRAWS == pytest.approx(0.10, abs=WITHIN)
    assert set(draws(DelaySpec(percentiles={"p99.9": Duration(1)}), 100)) == {1.0}


@given(
    values=st.dictionaries(st.integers(0, 100), st.floats(0, 1000), min_size=1, max_size=6),
    jitter=st.floats(0, 2000),
    seed=st.integers(),
)
def test_bounds(values: dict[int, float], jitter: float, seed: int) -> None:
    """For any table and jitter, no delay is negative or outside the sum of both."""
    ordered = dict(zip(sorted(values), sorted(values.values()), strict=True))
    spec = DelaySpec(
        percentiles={f"p{rank}": Duration(value) for rank, value in ordered.items()},
        jitter=Duration(jitter),
        seed=seed,
    )
    least, most = min(values.values()) - jitter, max(values.values()) + jitter
    for drawn in draws(spec, 20):
        assert max(0.0, least) <= drawn <= most or drawn == pytest.approx(most)


@given(st.integers())
def test_seed_of_delays(seed: int) -> None:
    """The same seed gives the same delays."""
    spec = DelaySpec(percentiles=PERCENTILES, jitter=Duration(1), percentage=50, seed=seed)
    assert draws(spec, 20) == draws(spec, 20)


def test_no_seed() -> None:
    """Without a seed, two rules have different delays."""
    spec = DelaySpec(fixed=Duration(5), jitter=Duration(1))
    assert draws(spec, 20) != draws(spec, 20)


# Faults


@pytest.mark.parametrize("percentage", [0, 0.5, 5, 50, 100])
def test_percentage_of_faults(percentage: float) -> None:
    """The fault occurs in the given percentage of calls."""
    fault = Fault(FaultSpec(code="UNAVAILABLE", percentage=percentage, seed=5))
    count = count_faults(fault, DRAWS)
    assert count / DRAWS == pytest.approx(percentage / 100, abs=WITHIN)
    if percentage in (0, 100):
        assert count == DRAWS * percentage / 100


def test_independent() -> None:
    """Faults of consecutive calls are independent."""
    fault = Fault(FaultSpec(code="UNAVAILABLE", percentage=50, seed=6))
    after = [second for first, second in pairwise(fault.occurs(0) for _ in range(DRAWS)) if first]
    assert sum(after) / len(after) == pytest.approx(0.5, abs=2 * WITHIN)


@pytest.mark.parametrize("percentage", [30, 100])
def test_times(percentage: float) -> None:
    """The fault occurs at most ``times`` times; calls without the fault do not count."""
    fault = Fault(FaultSpec(code="UNAVAILABLE", percentage=percentage, times=20, seed=7))
    assert count_faults(fault, 1000) == 20
    assert count_faults(fault, 1000) == 0


def test_time_limit() -> None:
    """The time starts when the rules are loaded, and the fault does not occur after its end."""
    fault = Fault(FaultSpec(code="UNAVAILABLE", for_=Duration(600)))
    fault.start(1000.0)
    assert fault.occurs(1000.0)
    assert fault.occurs(1599.9)
    assert not fault.occurs(1600.0)


def test_time_limit_from_the_first_call() -> None:
    """Without a start, the time starts with the first call."""
    fault = Fault(FaultSpec(code="UNAVAILABLE", for_=Duration(600)))
    assert fault.occurs(5000.0)
    assert fault.occurs(5599.0)
    assert not fault.occurs(5600.0)


def test_seed_of_faults() -> None:
    """The same seed gives the same faults; another seed gives others."""
    rows = [
        [fault.occurs(0) for _ in range(100)]
        for fault in (
            Fault(FaultSpec(code="UNAVAILABLE", percentage=50, seed=seed)) for seed in (8, 8, 9)
        )
    ]
    assert rows[0] == rows[1] != rows[2]
