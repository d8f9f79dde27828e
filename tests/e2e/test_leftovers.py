"""The end-to-end tests leave nothing behind on the machine."""

import contextlib
import subprocess
from pathlib import Path

import pytest

from criproxy.client import CriClient
from tests.support.containerd import CNI_CACHE, Containerd
from tests.support.waiting import LIMIT_SECONDS

pytestmark = pytest.mark.e2e


def test_nothing_stays_of_a_stopped_containerd(short_dir: Path) -> None:
    """A pod that is still running goes with its containerd: processes, mounts, network, cgroups."""
    with Containerd(short_dir / "containerd") as runtime:
        runtime.import_image()
        sandbox = {
            "metadata": {"name": "left", "uid": "u", "namespace": "e2e"},
            "linux": {"cgroup_parent": runtime.cgroup_parent},
        }
        with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
            made = client.RunPodSandbox(config=sandbox).pod_sandbox_id
        assert len(_traces(runtime, made)) == 5
    assert _traces(runtime, made) == []


def _traces(runtime: Containerd, sandbox: str) -> list[str]:
    """Which kinds of thing there are that bear the runtime's name, its directory or the pod's."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            commands.append(path.read_bytes())
    links = subprocess.run(["ip", "link"], check=True, capture_output=True, text=True).stdout
    found = {
        "process": any(str(runtime.address).encode() in command for command in commands),
        "mount": str(runtime.directory) in Path("/proc/self/mounts").read_text(),
        "bridge": runtime.name in links,
        "cgroup": any(Path("/sys/fs/cgroup").glob(f"**/{runtime.name}")),
        "attachment": any(CNI_CACHE.glob(f"*{sandbox}*")),
    }
    return [kind for kind, is_there in found.items() if is_there]
