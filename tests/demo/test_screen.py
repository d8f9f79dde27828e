"""The format of the demo's lines."""

import sys

import pytest

from criproxy.demo.screen import Screen, duration


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"),
    [(True, "", True), (True, "1", False), (False, "", False)],
)
def test_colours_are_for_terminals(
    terminal: bool,
    no_color: str,
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Colours are used on a terminal alone, and not there either if NO_COLOR is set."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    Screen(on_closed=lambda: None).call("Version", "", "UNAVAILABLE", 0.001)
    assert ("\x1b[31m" in capsys.readouterr().out) == coloured


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000421, "42 µs"), (0.0042, "4.2 ms"), (0.9996, "999.6 ms"), (12.345, "12.35 s")],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, text: str) -> None:
    """Durations are written in microseconds, milliseconds or seconds, by their size."""
    assert duration(seconds) == text
