"""The search for a runtime where a real containerd has, and has not, its CRI plugin."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.errors import EndpointError
from criproxy.relay.endpoints import find_runtime, why_no_runtime
from tests.support.containerd import Containerd
from tests.support.process import Process
from tests.support.waiting import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.e2e

_CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]

[grpc]
  address = "{directory}/containerd.sock"
"""


@pytest.fixture
def without_cri(short_dir: Path) -> Iterator[Path]:
    """The socket of a containerd whose CRI plugin is disabled, as Docker's package has it."""
    config = short_dir / "config.toml"
    config.write_text(_CONFIG.format(directory=short_dir))
    process = Process(["containerd", "--config", str(config)], output=short_dir / "out")
    process.start()
    path = short_dir / "containerd.sock"
    wait_until(path.exists, "containerd's socket", report=lambda: process.stderr)
    yield path
    process.kill()


def test_containerd_without_cri(without_cri: Path, runtime: Containerd) -> None:
    """A containerd whose CRI plugin is disabled does not end the search for one that has it."""
    wait_until(lambda: "CRI plugin" in (_error(without_cri) or ""), "answer of containerd")
    found = find_runtime((str(without_cri), str(runtime.address)), LIMIT_SECONDS)
    assert str(found) == runtime.endpoint
    with pytest.raises(EndpointError, match="is the CRI plugin disabled"):
        find_runtime((str(without_cri),), LIMIT_SECONDS)


def _error(path: Path) -> str | None:
    return why_no_runtime(str(path), LIMIT_SECONDS)
