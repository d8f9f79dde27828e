"""The embedded runtime's socket, its kept lists, and many calls at once."""

import os
import socket
import stat
from pathlib import Path

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import EndpointError, UnavailableError
from tests.support.waiting import LIMIT_SECONDS

MIB = 1 << 20


def test_socket_is_there_while_it_runs(short_dir: Path) -> None:
    """The socket can be opened by owner and group while the runtime runs, and goes with it."""
    path = short_dir / "cri.sock"
    with EmbeddedRuntime(f"unix://{path}"):
        assert stat.filemode(path.stat().st_mode) == "srw-rw----"
    assert not path.exists()


def test_runtime_can_start_again(short_dir: Path) -> None:
    """The same endpoint can be served again, with fresh state."""
    runtime = EmbeddedRuntime(str(short_dir / "cri.sock"), pods=2)
    for _ in range(2):
        with runtime, CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
            client.RunPodSandbox(config={"metadata": {"name": "new"}})
            assert len(client.ListPodSandbox().items) == 3


def test_stale_socket_is_replaced(short_dir: Path) -> None:
    """A socket file without a listener is replaced."""
    path = str(short_dir / "cri.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with EmbeddedRuntime(path), CriClient(path, timeout=LIMIT_SECONDS) as client:
        assert client.Version().version


def test_live_socket_is_not_stolen(short_dir: Path) -> None:
    """A socket with a listener is kept; the error names it."""
    path = str(short_dir / "cri.sock")
    with EmbeddedRuntime(path), CriClient(path, timeout=LIMIT_SECONDS) as client:
        with pytest.raises(UnavailableError, match=f"{path}: somebody listens there"):
            EmbeddedRuntime(path).start()
        assert client.Version().version


def test_other_files_are_left_alone(short_dir: Path) -> None:
    """A file that is no socket is refused and kept."""
    path = short_dir / "cri.sock"
    path.write_text("mine")
    with pytest.raises(EndpointError, match="something else than a socket"):
        EmbeddedRuntime(str(path)).start()
    assert path.read_text() == "mine"


def test_missing_directory_is_named(short_dir: Path) -> None:
    """A path in a directory that does not exist is refused in words."""
    with pytest.raises(EndpointError, match="its directory does not exist"):
        EmbeddedRuntime(str(short_dir / "none" / "cri.sock")).start()


def test_pods_make_a_list_of_one_mebibyte(short_dir: Path) -> None:
    """1200 pods make the list of containers at least 1 MiB, and more than grpcio's own limit
    can be had."""
    for pods, size in ((1200, MIB), (5000, 4 * MIB)):
        with (
            EmbeddedRuntime(str(short_dir / "cri.sock"), pods=pods) as runtime,
            CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client,
        ):
            answer = client.ListContainers()
            assert len(answer.containers) == pods
            assert answer.ByteSize() > size


def test_kept_lists_follow_the_state(client: CriClient) -> None:
    """A list that was asked for before shows every later change, in every version and filter."""
    with CriClient(client.endpoint, "v1alpha2", timeout=LIMIT_SECONDS) as old:
        for name in ("a", "b", "c"):
            id_ = client.RunPodSandbox(config={"metadata": {"name": name}}).pod_sandbox_id
            for one in (client, old):
                assert one.ListPodSandbox().items[-1].id == id_
                assert one.ListPodSandbox(filter={"id": id_}).items[0].id == id_
        client.StopPodSandbox(pod_sandbox_id=id_)
        ready = {"state": {"state": client.messages.SANDBOX_READY}}
        assert len(client.ListPodSandbox(filter=ready).items) == 2


def test_many_calls_at_once(client: CriClient) -> None:
    """Thousands of calls at once are all answered, however many others hang."""
    pod = client.RunPodSandbox(config={"metadata": {"name": "a"}}).pod_sandbox_id
    config = {"metadata": {"name": "c"}, "image": {"image": "busybox:1.36"}}
    container = client.CreateContainer(pod_sandbox_id=pod, config=config).container_id
    client.StartContainer(container_id=container)
    slow = client.messages.ExecSyncRequest(container_id=container, cmd=["sleep", "infinity"])
    hanging = [client.raw("ExecSync").future(slow) for _ in range(200)]
    request = client.messages.VersionRequest()
    futures = [client.raw("Version").future(request) for _ in range(3000)]
    assert {future.result().version for future in futures} == {"0.1.0"}
    for call in hanging:
        assert call.cancel()


def test_stopping_ends_what_runs(short_dir: Path) -> None:
    """When the runtime stops, open streams end with an error instead of hanging."""
    with EmbeddedRuntime(str(short_dir / "cri.sock")) as runtime:
        client = CriClient(runtime.endpoint, timeout=LIMIT_SECONDS)
        events = client.GetContainerEvents()
        assert events.initial_metadata() is not None
    with pytest.raises(grpc.RpcError):
        next(events)
    client.close()
    assert os.listdir(short_dir) == []
