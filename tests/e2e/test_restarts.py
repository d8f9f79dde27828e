"""A containerd behind criproxy that starts late or restarts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from criproxy.client import CriClient
from tests.e2e.recorder import Recorder
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.waiting import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def own_runtime(short_dir: Path) -> Iterator[Containerd]:
    """A containerd that is the test's alone, not started."""
    containerd = Containerd(short_dir / "containerd")
    yield containerd
    containerd.stop()


def test_next_connection_works_after_a_restart(
    own_runtime: Containerd, short_dir: Path, version: str
) -> None:
    """A client whose runtime was killed sees UNAVAILABLE; once that is back, calls are answered."""
    own_runtime.start()
    with (
        Criproxy(short_dir, own_runtime.endpoint) as proxy,
        Recorder(proxy.endpoint, version) as client,
    ):
        assert client.call("Version").runtime_name == "containerd"
        own_runtime.kill()
        wait_until(lambda: proxy.metric("criproxy_connections") == 0, "closed connection")
        with (
            CriClient(proxy.endpoint, version, timeout=1) as waiting,
            pytest.raises(grpc.RpcError) as error,
        ):
            waiting.Version()
        assert error.value.code() in {
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.UNAVAILABLE,
        }
        own_runtime.start()
        assert client.call("Version").runtime_name == "containerd"


def test_client_is_held_until_the_runtime_comes(own_runtime: Containerd, short_dir: Path) -> None:
    """A call made before the runtime is there is answered when it comes, not refused."""
    with (
        Criproxy(short_dir, own_runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        ThreadPoolExecutor() as pool,
    ):
        assert proxy.get("/readyz")[0] == 503
        answer = pool.submit(client.Version)
        wait_until(lambda: proxy.metric("criproxy_connections") == 1, "held client")
        assert not answer.done()
        own_runtime.start()
        assert answer.result().runtime_name == "containerd"
        assert wait_until(lambda: proxy.get("/readyz")[0] == 200, "readiness")
        assert proxy.metric("criproxy_runtime_up") == 1


def test_containers_outlive_a_restart_seen_through_the_proxy(
    own_runtime: Containerd, short_dir: Path
) -> None:
    """What ran before the runtime restarted is listed after it, over a new connection."""
    own_runtime.start()
    own_runtime.import_image()
    sandbox = {
        "metadata": {"name": "p", "uid": "u", "namespace": "e2e"},
        "linux": {"cgroup_parent": own_runtime.cgroup_parent},
    }
    with (
        Criproxy(short_dir, own_runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        made = client.RunPodSandbox(config=sandbox).pod_sandbox_id
        own_runtime.restart()
        assert _sandboxes(client) == [made]
        client.StopPodSandbox(pod_sandbox_id=made)
        client.RemovePodSandbox(pod_sandbox_id=made)
        assert _sandboxes(client) == []


def _sandboxes(client: CriClient) -> list[str]:
    # The first call after a restart may still meet the old connection's end.
    def listed() -> tuple[list[str]]:
        try:
            return ([item.id for item in client.ListPodSandbox().items],)
        except grpc.RpcError as error:
            raise ConnectionError(error) from error

    return wait_until(listed, "list of sandboxes")[0]
