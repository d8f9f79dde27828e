"""A short form of each section of ``make chaos``: its claims hold.

The attacks have tests of their own (tests/attacks): their section measures times.
"""

from pathlib import Path

import pytest

from bench.chaos.cli import SECTIONS
from bench.chaos.sizes import QUICK

TESTED = [name for name in SECTIONS if name != "attacks"]


@pytest.mark.parametrize("name", TESTED)
def test_claims_hold(name: str, short_dir: Path) -> None:
    """No claim of the section fails in its short form."""
    report = SECTIONS[name](short_dir, QUICK)
    # In seconds memory is not flat yet: what a worker needs for its first calls comes to it.
    assert not [each for each in report.failed if not each.claim.startswith("memory")]
    assert report.rows
