"""The page on the architecture names existing files and directories."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/architecture.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(\w+/[\w./]*)`", PAGE))))
def test_paths(path: str) -> None:
    """Each file and directory that the page names exists."""
    assert (ROOT / path).exists()


def test_packages() -> None:
    """The page names each package of criproxy."""
    packages = {each.parent for each in (ROOT / "criproxy").glob("*/__init__.py")}
    unnamed = [each.name for each in packages if f"`criproxy/{each.name}/" not in PAGE]
    assert unnamed == []
