"""Summaries of calls by method, and the comparison of two counts."""

from collections import Counter
from typing import Any

import pytest

from criproxy.demo.summary import differences, percentile, rows


def _call(method: str, code: str, duration: float, overhead: float) -> dict[str, Any]:
    return {"method": method, "code": code, "duration_s": duration, "overhead_s": overhead}


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1.0), (50, 2.0), (75, 3.0), (95, 4.0), (100, 4.0)]
)
def test_a_percentile_is_the_nearest_rank(percent: float, value: float) -> None:
    """A percentile is a value that was there, never one between two."""
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == value


def test_no_values_have_a_percentile_of_zero() -> None:
    """Of no values at all the percentile is 0."""
    assert percentile([], 50) == 0.0


def test_rows_are_by_method_and_then_for_all() -> None:
    """Each method has a row by name; the last is for all that end by themselves."""
    calls = [
        _call("Version", "OK", 0.1, 0.01),
        _call("StopContainer", "NOT_FOUND", 0.3, 0.03),
        _call("Version", "OK", 0.2, 0.03),
    ]
    stop, version, whole = rows(calls, {"Version": 0.4, "StopContainer": 0.4})
    assert (stop.method, stop.calls, stop.errors) == ("StopContainer", 1, 1)
    assert (version.calls, version.errors, version.latency) == (2, 0, (0.1, 0.2, 0.2))
    assert version.added == 0.01
    assert version.share == pytest.approx(0.1)
    assert (whole.calls, whole.errors) == (3, 1)
    assert whole.share == pytest.approx(0.07 / 0.8)


def test_a_stream_that_its_client_ends_is_no_error_and_has_no_latency() -> None:
    """Event streams end with their client: their code is no error, their duration no latency."""
    cancelled, failed = (
        rows([_call("GetContainerEvents", code, 20.0, 0.1)], {})[0]
        for code in ("CANCELLED", "UNIMPLEMENTED")
    )
    assert (cancelled.errors, cancelled.latency, cancelled.share) == (0, None, None)
    assert failed.errors == 1


def test_differences_name_method_code_and_both_counts() -> None:
    """What two counts do not have alike is named; streams are left out."""
    client = Counter({("Version", "OK"): 2, ("Status", "OK"): 1})
    proxy = Counter(
        {("Version", "OK"): 1, ("Status", "OK"): 1, ("GetContainerEvents", "CANCELLED"): 1}
    )
    assert differences(client, client) == []
    assert differences(client, proxy) == ["Version OK: client 2, proxy 1"]
