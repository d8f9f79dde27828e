"""One real containerd for all end-to-end tests, with an image in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import registry
from tests.support.containerd import Containerd
from tests.support.registry import Registry
from tests.support.requirements import require


@pytest.fixture(scope="session")
def runtime(session_dir: Path) -> Iterator[Containerd]:
    """A containerd that has the busybox image."""
    with Containerd(session_dir / "containerd") as containerd:
        containerd.import_image()
        yield containerd


@pytest.fixture
def image(runtime: Containerd, short_dir: Path) -> Iterator[str]:
    """The name of an image that the runtime has yet to pull."""
    require(registry.missing())
    with Registry(short_dir / "registry") as source:
        source.push(runtime, "library/slow:1")
        yield f"{source.host}/library/slow:1"


@pytest.fixture(params=["v1", "v1alpha2"])
def version(request: pytest.FixtureRequest) -> str:
    """Each version of the API."""
    return str(request.param)
