"""The latency of the embedded runtime's calls, checked on samples without measuring time."""

from random import Random

import pytest

from criproxy.cri.methods import METHODS
from criproxy.embedded.latency import LONGEST, MEDIANS, OTHERS, Latency, parse_latency


def test_real_times_lie_around_the_medians() -> None:
    """Half the samples are below a method's median, and none is far beyond it."""
    latency = Latency(source=Random(1))
    samples = sorted(latency.sample("StartContainer") for _ in range(2001))
    assert samples[1000] == pytest.approx(MEDIANS["StartContainer"], rel=0.1)
    assert samples[-1] <= MEDIANS["StartContainer"] * LONGEST


def test_factor_scales_the_real_times() -> None:
    """``0.5x`` gives half of what ``real`` gives."""
    real, half = Latency(source=Random(1)), Latency(factor=0.5, source=Random(1))
    assert half.sample("Version") == pytest.approx(real.sample("Version") / 2)
    assert parse_latency("0.5x").factor == 0.5


def test_none_and_fixed_are_exact() -> None:
    """``none`` is no time at all and a duration is that duration, for every method."""
    assert {parse_latency("none").sample(m.name) for m in METHODS.values()} == {0.0}
    assert {parse_latency("5ms").sample(m.name) for m in METHODS.values()} == {0.005}


@pytest.mark.parametrize("text", ["", "fast", "x", "-1x", "5", "1.5.5x"])
def test_other_words_are_refused_with_what_can_be_written(text: str) -> None:
    """Anything else is a ValueError that lists what can be written."""
    with pytest.raises(ValueError, match="real, none, a factor"):
        parse_latency(text)


def test_table_names_only_methods_of_the_cri() -> None:
    """Every name in the table of medians is a method, and slower than the others."""
    assert {method.name for method in METHODS.values()} >= set(MEDIANS)
    assert min(MEDIANS.values()) > OTHERS
