"""Figures of a window of time, from the daemon's states at its beginning and its end."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.overview.figures import Window, figures, quantile
from tests.overview.states import call, method, state


def row(found: dict[str, object], name: str) -> dict[str, object]:
    methods = found["methods"]
    assert isinstance(methods, list)
    (row,) = [each for each in methods if each["method"] == name]
    assert isinstance(row, dict)
    return row


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ([], 0.5, None),
        ([(1.0, 0), (None, 0)], 0.5, None),
        ([(1.0, 4), (None, 0)], 0.5, 0.5),
        ([(1.0, 0), (3.0, 10), (None, 0)], 0.5, 2.0),
        ([(1.0, 5), (3.0, 5), (None, 0)], 0.5, 1.0),
        ([(1.0, 5), (3.0, 5), (None, 0)], 0.99, 2.96),
        ([(1.0, 1), (3.0, 1), (None, 8)], 0.9, 3.0),
        ([(None, 8)], 0.5, 0.0),
    ],
)
def test_quantiles(
    buckets: list[tuple[float | None, float]], share: float, expected: float | None
) -> None:
    """A quantile is interpolated in its bucket, and at most the last bound."""
    assert quantile(buckets, share) == (expected and pytest.approx(expected))


@given(values=st.lists(st.floats(0.001, 9.99), min_size=1, max_size=50), share=st.floats(0.01, 1.0))
def test_a_quantile_is_in_the_bucket_of_its_value(values: list[float], share: float) -> None:
    """The estimate is in the same bucket as the value of that rank."""
    bounds = [0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0]
    counts = [0] * len(bounds)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    estimate = quantile([*zip(bounds, counts, strict=True), (None, 0)], share)
    assert estimate is not None
    rank = share * len(values)
    exact = sorted(values)[max(math.ceil(rank - 1e-9), 1) - 1]
    index = bisect_left(bounds, exact)
    lower = bounds[index - 1] if index else 0.0
    assert lower - 1e-9 <= estimate <= bounds[index] + 1e-9


def test_a_window() -> None:
    """Rates and quantiles are those of the calls that ended between two states."""
    before = state(100.0, methods=[method("Status", {"OK": 90}, (1.0, 90), (2.0, 90), (None, 90))])
    after = state(
        110.0,
        methods=[
            method("Status", {"OK": 100, "UNKNOWN": 10}, (1.0, 90), (2.0, 110), (None, 110)),
            method("Version", {"OK": 5}, (1.0, 5), (2.0, 5), (None, 5)),
        ],
        calls=[call("Status"), call("Status"), call("PullImage")],
    )
    found = figures(after, before)
    assert (found["version"], found["window_s"]) == (1, 10.0)
    assert found["calls"] == after["calls"]
    assert row(found, "Status") == {
        "service": "runtime.v1.RuntimeService",
        "method": "Status",
        "in_flight": 2,
        "calls": 20,
        "errors": 10,
        "rate": 2.0,
        "error_rate": 1.0,
        "p50_s": 1.5,
        "p95_s": 1.95,
        "p99_s": 1.99,
    }
    assert (row(found, "Version")["calls"], row(found, "Version")["p50_s"]) == (5, 0.5)
    pull = row(found, "PullImage")
    assert (pull["in_flight"], pull["calls"], pull["p50_s"]) == (1, 0, None)


def test_since_the_start() -> None:
    """Without an earlier state, or with one of a daemon before this one, all calls count."""
    after = state(10.0, methods=[method("Version", {"OK": 5}, (1.0, 5), (None, 5))])
    before = state(99.0, methods=[method("Version", {"OK": 50}, (1.0, 50), (None, 50))])
    before["started"] = "2026-11-28T07:00:00.000000Z"
    assert figures(after) == figures(after, before)
    found = figures(after)
    assert (found["window_s"], row(found, "Version")["rate"]) == (10.0, 0.5)


def test_what_a_window_keeps() -> None:
    """A window shows the calls and pods of the last state, and keeps none of them."""
    window = Window(10.0)
    for calls in ([call(), call()], [call()], []):
        found = window.add(state(5.0, calls=calls))
        assert len(found["calls"]) == len(calls)
    assert all("calls" not in kept for kept in window._states)
    assert len(window._states) == 3


def test_the_first_state_of_a_window_moves_on() -> None:
    """Figures are about the last seconds: what was before them does not count any more."""
    window = Window(10.0)
    totals = {0: 0, 4: 100, 8: 110, 12: 120, 16: 130, 20: 140}
    found = [
        window.add(state(100.0 + second, methods=[method("Version", {"OK": total})]))
        for second, total in totals.items()
    ]
    assert [each["window_s"] for each in found] == [100.0, 4.0, 8.0, 12.0, 12.0, 12.0]
    assert [row(each, "Version")["calls"] for each in found] == [0, 100, 110, 120, 30, 30]
