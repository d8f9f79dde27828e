"""Who is connected to a runtime's socket past criproxy, as a metric tells it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.daemon.supervisor.direct_clients import DirectClients
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError
from criproxy.observe.metrics import DIRECT_CLIENTS, DaemonMetrics
from criproxy.peers.credentials import NO_KUBELET, Kubelet
from criproxy.peers.sock_diag import ESTABLISHED, LISTEN, UnixSocket
from tests.support.criproxy import Criproxy
from tests.support.direct_client import connected
from tests.support.waiting import wait_until

RUNTIME = "/run/none/containerd.sock"
NODE_KUBELET = Kubelet(["/usr/bin/kubelet"])


class Node:
    """A /proc with processes, and a runtime's socket with connections of theirs."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory
        self.sockets = [UnixSocket(1, LISTEN, RUNTIME)]
        self.dumps = 0
        self.process(os.getpid(), "/usr/bin/python3")
        self.process(2, "/usr/bin/containerd", 1)

    def process(self, pid: int, executable: str, *inodes: int, uid: int = 0) -> None:
        """Add a process with descriptors of sockets."""
        directory = self.proc / str(pid)
        (directory / "fd").mkdir(parents=True)
        for inode in inodes:
            (directory / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")
        (directory / "exe").symlink_to(executable)
        (directory / "status").write_text(f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (directory / "cgroup").write_text("0::/system.slice/x.service\n")

    def descends(self, pid: int, parent: int) -> None:
        """Have a process be the child of another one."""
        directory = self.proc / str(parent) / "task" / str(parent)
        directory.mkdir(parents=True)
        (directory / "children").write_text(f"{pid} ")

    def connect(self, *inodes: int) -> None:
        """Add connections by the inodes of the clients' ends."""
        for inode in inodes:
            self.sockets.append(UnixSocket(inode + 1000, ESTABLISHED, RUNTIME, None, inode))

    def clients(self, kubelet: Kubelet = NO_KUBELET) -> DirectClients:
        """Return what looks at this node."""
        return DirectClients([RUNTIME], kubelet, self.proc, lambda: self.sockets)

    def look(self, clients: DirectClients) -> dict[str, int]:
        """Return connections by name."""
        return {name: count for (_, name), count in clients.look().items()}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node without clients."""
    return Node(tmp_path)


def test_who_is_counted(node: Node) -> None:
    """Connections of criproxy's processes and of the runtime are none; the kubelet is told apart,
    and no other process can be named as it is."""
    node.process(10, "/opt/worker", 10)
    node.descends(10, os.getpid())
    node.process(11, "/usr/local/bin/log-agent", 11, 12)
    node.process(12, "/usr/bin/kubelet", 13)
    node.process(13, "/tmp/kubelet", 14, uid=1000)
    node.process(14, "/tmp/unknown (deleted)", 15)
    node.process(2000, "/usr/bin/containerd", 16)
    node.connect(*range(10, 16), 99)
    assert node.look(node.clients(NODE_KUBELET)) == {
        "log-agent": 2,
        "kubelet": 1,
        "other": 2,
        "unknown": 1,
    }


def test_threads_that_end(node: Node) -> None:
    """The children of a process are all criproxy's own, though a thread ends while it is read."""
    node.process(10, "/opt/worker", 10)
    node.descends(10, os.getpid())
    for thread in range(50):
        (node.proc / str(os.getpid()) / "task" / f"{10**9 + thread}").mkdir()
    node.connect(10)
    assert node.look(node.clients()) == {}


def test_processes_are_read_once(node: Node) -> None:
    """Descriptors are read for new connections alone; one that ended is not counted any more."""
    node.process(11, "/usr/local/bin/log-agent", 11)
    node.connect(11)
    clients = node.clients()
    assert node.look(clients) == {"log-agent": 1}
    (node.proc / "11/fd/11").unlink()
    assert node.look(clients) == {"log-agent": 1}
    node.sockets.pop()
    assert node.look(clients) == {}


def test_names_are_bounded(node: Node) -> None:
    """The first names have series of their own, for as long as the daemon runs."""
    clients = node.clients()
    for pid in range(10, 10 + DIRECT_CLIENTS):
        node.process(pid, f"/bin/first{pid}", pid)
    node.connect(*range(10, 10 + DIRECT_CLIENTS))
    assert len(node.look(clients)) == DIRECT_CLIENTS
    del node.sockets[1:]
    for pid in range(100, 150):
        node.process(pid, f"/bin/later{pid}\n", pid)
    node.process(200, "/bin/first10", 200)
    node.connect(*range(100, 150), 200)
    assert node.look(clients) == {"other": 50, "first10": 1}


def test_metric_keeps_what_stays() -> None:
    """A series goes away with its connections, and those that stay have a value all the time."""
    metrics = DaemonMetrics("0", list)

    def value(name: str) -> float | None:
        labels = {"runtime": f"unix://{RUNTIME}", "process": name}
        return metrics.registry.get_sample_value("criproxy_direct_connections", labels)

    metrics.direct_connected({(RUNTIME, "a"): 1, (RUNTIME, "b"): 2})
    assert (value("a"), value("b")) == (1, 2)
    metrics.direct_connected({(RUNTIME, "b"): 3})
    assert (value("a"), value("b")) == (None, 3)


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[EmbeddedRuntime]:
    """A runtime."""
    with EmbeddedRuntime(str(short_dir / "runtime.sock")) as found:
        yield found


def test_daemon(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """The daemon exports a client that is connected to the real runtime's socket, by its name, and
    not its own connections."""
    path = runtime.endpoint.removeprefix("unix://")
    config = {"probe": {"direct_clients": "1s"}}
    with (
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        connected(Path(path)),
    ):
        name = Path(os.path.realpath(sys.executable)).name
        labels = {"process": name, "runtime": f"unix://{path}"}
        wait_until(
            lambda: proxy.metric("criproxy_direct_connections", **labels) == 1,
            "the client in the metric",
        )


def test_kernel_that_does_not_tell() -> None:
    """A kernel without sock_diag is an error of the look, which the daemon logs."""

    def refuse() -> list[UnixSocket]:
        raise UnavailableError("no sock_diag")

    with pytest.raises(UnavailableError):
        DirectClients([RUNTIME], NO_KUBELET, sockets=refuse).look()
