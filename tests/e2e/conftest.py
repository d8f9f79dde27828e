"""One real containerd for all end-to-end tests, with an image in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd


@pytest.fixture(scope="session")
def runtime(session_dir: Path) -> Iterator[Containerd]:
    """A containerd that has the busybox image."""
    with Containerd(session_dir / "containerd") as containerd:
        containerd.import_image()
        yield containerd


@pytest.fixture(params=["v1", "v1alpha2"])
def version(request: pytest.FixtureRequest) -> str:
    """Each version of the API."""
    return str(request.param)
