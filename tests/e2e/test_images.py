"""Images from a registry, pulled and removed through criproxy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.recorder import Recorder
from tests.support import registry
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.requirements import require

pytestmark = pytest.mark.e2e

PASSWORD = "hunter2-secret"


@pytest.fixture
def image(runtime: Containerd, short_dir: Path) -> Iterator[str]:
    """The name of an image that a registry has and the runtime has not."""
    require(registry.missing())
    with registry.Registry(short_dir / "registry") as source:
        source.push(runtime, "test/busybox:1")
        yield f"{source.host}/test/busybox:1"


def test_image_is_pulled_and_removed(
    runtime: Containerd, image: str, short_dir: Path, version: str
) -> None:
    """A pull through the proxy returns the image or the error, and no password is logged.

    Directly and through the proxy the answers are the same.
    """
    transcripts = []
    with Criproxy(short_dir, runtime.endpoint) as proxy:
        for endpoint in (runtime.endpoint, proxy.endpoint):
            with Recorder(endpoint, version) as client:
                _pull_and_remove(client, image)
                transcripts.append(client.transcript())
                done = client.counts()
        assert proxy.stop() == 0
    assert transcripts[0] == transcripts[1]
    assert {(method, code) for _, method, code in done} >= {
        ("PullImage", "OK"),
        ("PullImage", "NOT_FOUND"),
        ("RemoveImage", "OK"),
    }
    assert proxy.logged_counts() == done
    assert PASSWORD not in proxy.process.stderr


def _pull_and_remove(client: Recorder, image: str) -> None:
    wanted = {"image": image}
    client.call("ImageStatus", image=wanted)
    client.call("PullImage", image=wanted, auth={"username": "kubelet", "password": PASSWORD})
    client.call("ImageStatus", image=wanted)
    client.call("ListImages", filter={"image": wanted})
    client.call("PullImage", image={"image": f"{image}-absent"})
    client.call("RemoveImage", image=wanted)
    client.call("ImageStatus", image=wanted)
