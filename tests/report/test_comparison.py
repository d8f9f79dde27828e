"""Comparisons of two logs: what became slower or faster, and what cannot be told."""

from pathlib import Path
from random import Random

import pytest

from criproxy.report.computing.bootstrap import (
    BIN,
    LEAST_SLICES,
    Interval,
    SlicedDurations,
    intervals,
)
from criproxy.report.computing.comparison import compare, verdict
from criproxy.report.figures import Change, Comparison
from tests.report.made import Line, call
from tests.report.straightforward import rank
from tests.report.tables import table_of, write

Slice = dict[int, int]


def compared(directory: Path, before: list[Line], after: list[Line]) -> Comparison:
    files = write(directory / "before.jsonl", before), write(directory / "after.jsonl", after)
    with table_of(files[0]) as earlier, table_of(files[1]) as later:
        return compare(earlier, files[:1], later)


def some(method: str, seed: int, factor: float = 1.0, number: int = 400) -> list[Line]:
    """Calls of a method over an hour; their median is ``factor`` * 10 ms."""
    random = Random(seed)
    return [
        call(method, random.uniform(0, 3600), factor * 0.01 * random.lognormvariate(0, 0.4))
        for _ in range(number)
    ]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """ExecSync became 1.5 times as slow, ListContainers twice as fast, Status stayed."""
    before = [*some("ExecSync", 1), *some("ListContainers", 2), *some("Status", 3)]
    after = [*some("ExecSync", 4, 1.5), *some("ListContainers", 5, 0.5), *some("Status", 6)]
    before += [call("Version"), call("ExecSync", code="UNAVAILABLE", duration=99)]
    after += [call("Version", duration=5), call("ContainerStatus", code="NOT_FOUND")]
    return compared(tmp_path_factory.mktemp("logs"), before, after)


def change(comparison: Comparison, method: str, quantile: str = "p50") -> Change:
    (found,) = [
        each for each in comparison.changes if (each.method, each.quantile) == (method, quantile)
    ]
    return found


@pytest.mark.parametrize(
    ("method", "expected", "ratio"),
    [("ExecSync", "slower", 1.5), ("ListContainers", "faster", 0.5), ("Status", "same", 1.0)],
)
@pytest.mark.parametrize("quantile", ["p50", "p95"])
def test_verdicts(
    comparison: Comparison, method: str, expected: str, ratio: float, quantile: str
) -> None:
    """A change is told with its ratio, whose interval has the true one."""
    found = change(comparison, method, quantile)
    assert found.verdict == expected
    assert found.low is not None
    assert found.high is not None
    assert found.low <= ratio <= found.high
    assert found.high < 1.5 * found.low


def test_quantiles(comparison: Comparison) -> None:
    """The quantiles are those of the calls that ended with OK."""
    lines = some("ExecSync", 1), some("ExecSync", 4, 1.5)
    earlier, later = ([line["duration_s"] for line in each] for each in lines)
    found = change(comparison, "ExecSync", "p95")
    assert (found.before_s, found.after_s) == (rank(0.95, earlier), rank(0.95, later))
    assert (found.before_calls, found.after_calls) == (400, 400)


def test_too_few(comparison: Comparison) -> None:
    """Of a few calls nothing is told, and a method that was called once only is left out."""
    found = change(comparison, "Version")
    assert (found.verdict, found.low, found.high) == ("too few calls", None, None)
    assert "ContainerStatus" not in {each.method for each in comparison.changes}


def test_order(comparison: Comparison) -> None:
    """What became slower comes first, then what became faster."""
    verdicts = [each.verdict for each in comparison.changes]
    order = ["slower", "faster", "same", "too few calls"]
    assert verdicts == sorted(verdicts, key=order.index)


def test_error_rates(comparison: Comparison) -> None:
    """The shares of failed calls are told where they differ."""
    rates = {each.method: (each.before, each.after) for each in comparison.error_rates}
    assert rates == {
        "ExecSync": (pytest.approx(1 / 401), 0.0),
        "ContainerStatus": (None, 1.0),
    }


def test_same_log(tmp_path: Path) -> None:
    """A log against itself has no change."""
    lines = some("ExecSync", 1) + some("Status", 2)
    assert {each.verdict for each in compared(tmp_path, lines, lines).changes} == {"same"}


def test_few_slow_minutes(tmp_path: Path) -> None:
    """Many calls of a few slow minutes do not make a method slower: minutes count, not calls."""
    random = Random(7)

    def minutes(slow: int) -> list[Line]:
        return [
            call("Status", 60 * minute + n / 10, (0.1 if minute < slow else 0.01) + n / 1e5)
            for minute in range(60)
            for n in range(100 if minute < slow else random.randrange(5, 10))
        ]

    found = compared(tmp_path, minutes(2), minutes(6))
    assert change(found, "Status").ratio > 5
    assert change(found, "Status").verdict == "same"


@pytest.mark.parametrize(
    ("ratio", "interval", "expected"),
    [
        (1.5, Interval(1.2, 1.8), "slower"),
        (0.5, Interval(0.4, 0.6), "faster"),
        (1.04, Interval(1.03, 1.05), "same"),
        (1.5, Interval(0.9, 2.5), "same"),
        (9.0, None, "too few calls"),
    ],
)
def test_verdict(ratio: float, interval: Interval | None, expected: str) -> None:
    """A change counts if its interval excludes 1 and it is large enough to matter."""
    assert verdict(ratio, interval) == expected


class _All(Random):
    """Draws each slice once."""

    def choices(self, population, *more, k=1, **other):  # type: ignore[no-untyped-def]
        return list(population)


@pytest.mark.parametrize("quantile", [0.01, 0.5, 0.95, 1.0])
def test_quantile_of_a_draw(quantile: float) -> None:
    """A draw's quantile is that of the calls of its slices, in the middle of a bin."""
    random = Random(3)
    slices = [{random.randrange(50): random.randrange(1, 9) for _ in range(5)} for _ in range(6)]
    found = SlicedDurations(slices).draw(_All(), [quantile])
    bins = [bin_ for each in slices for bin_, calls in each.items() for _ in range(calls)]
    assert found == [pytest.approx(BIN ** (rank(quantile, bins) + 0.5))]


def test_least_slices() -> None:
    """There is an interval from a number of slices on."""
    enough, few = ([{1: 9}] * count for count in (LEAST_SLICES, LEAST_SLICES - 1))
    random = Random(1)
    assert intervals(SlicedDurations(enough), SlicedDurations(few), [0.5], 0.9, random) == [None]
    (found,) = intervals(SlicedDurations(enough), SlicedDurations(enough), [0.5], 0.9, random)
    assert found == Interval(1 / BIN, BIN)  # as exact as the bins are
