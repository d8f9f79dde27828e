"""Every step of installing and of uninstalling fails, on every layout."""

import pytest

from tests.install.failure_table import COMMANDS, LAYOUTS, PAGE, section
from tests.install.injection import AS_BEFORE, DONE, FAILURES


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_step_fails(layout: str, command: str) -> None:
    """The tree is as it was, or as it was to be, and the page says so of each step."""
    found = section(layout, command)
    header, _, *lines = [line for line in found.splitlines() if line.startswith("| ")]
    assert header.count("|") == len(FAILURES) + 2
    assert lines
    for line in lines:
        assert line.strip("| ").split(" | ")[1:] == [AS_BEFORE, AS_BEFORE, AS_BEFORE, DONE], line
    assert found.strip() in PAGE.read_text(encoding="utf-8"), "run `make docs-reference` and commit"
