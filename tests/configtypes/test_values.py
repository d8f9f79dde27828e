"""Durations as Go and Kubernetes write them."""

import pytest

from criproxy.configtypes.values import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("30s", 30.0),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1h0m1s", 3601.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("5.s", 5.0),
        ("7us", 7e-6),
        ("7µs", 7e-6),
        ("7ns", 7e-9),
        ("1s1s", 2.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """The parts of a duration are added up, as in Go."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "+1s", "1 s", "1s ", "1d", "1,5s", "1S", "x"]
)
def test_invalid_durations(text: str) -> None:
    """Any other text is an error that says how to write a duration."""
    with pytest.raises(ValueError, match="is not a duration; write it like 30s, 500ms or 1m30s"):
        parse_duration(text)
