"""What every test shares: when the end-to-end tests run, and a directory short enough for sockets.

A test marked ``e2e`` needs a real container runtime. Where the machine lacks one it is skipped,
with the reason; with ``CRIPROXY_E2E=required`` in the environment it fails instead.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import missing
from tests.support.requirements import require


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """A directory for the whole run whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="crp-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory for one test whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="crp-"))
    yield path
    shutil.rmtree(path)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("e2e") is not None:
        require(missing())
