"""Processes other than criproxy that are connected to a runtime's socket."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.config.load import load, parse
from criproxy.doctor.checks.connections import check
from criproxy.doctor.findings import Outcome
from criproxy.doctor.node.facts import gather
from criproxy.doctor.node.system import System
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.peers.sock_diag import LISTEN, UnixSocket
from criproxy.relay.endpoints import Endpoint
from tests.doctor.nodes import CONTAINER, PROXY, RUNTIME, Node, said
from tests.support.criproxy import Criproxy
from tests.support.direct_client import connected
from tests.support.waiting import wait_until


@pytest.fixture
def alive(node: Node) -> Node:
    """A node with its containerd and a criproxy that is connected to it."""
    node.process(10, "/usr/bin/containerd", fds=[1, 2])
    node.process(11, "/usr/bin/python3.11", ["criproxy", "run"], fds=[3, 4])
    node.listens(RUNTIME.path, 1)
    node.listens(PROXY, 3)
    node.connected(RUNTIME.path, 4)
    return node


def test_nobody_but_criproxy(alive: Node) -> None:
    """Who listens at the configuration's endpoint is criproxy, and may be connected."""
    assert said([*check(alive.facts())]) == [
        ("OK", f"nobody but criproxy is connected to {RUNTIME} now")
    ]


@pytest.mark.parametrize(
    ("executable", "outcome", "remedy"),
    [
        ("/usr/bin/crictl", Outcome.WARN, "/etc/crictl.yaml"),
        ("/usr/bin/ctr", Outcome.WARN, "native API"),
        ("/usr/local/bin/nerdctl (deleted)", Outcome.WARN, "native API"),
        ("/opt/agent", Outcome.FAIL, "point it at unix:///run/criproxy/read-only.sock"),
    ],
)
def test_stranger(alive: Node, executable: str, outcome: Outcome, remedy: str) -> None:
    """Whoever else is connected is named, with how many connections, and what to do."""
    alive.process(20, executable, [executable, "go", "--token", "s3cret"], fds=[5, 6])
    alive.connected(RUNTIME.path, 5)
    alive.connected(RUNTIME.path, 6)
    [finding] = check(alive.facts())
    assert finding.what == (
        f"pid 20, {executable} ({executable} go), uid 0, in some.service "
        f"holds 2 connections to {RUNTIME}"
    )
    assert finding.outcome is outcome
    assert remedy in finding.remedy


def test_client_in_a_container(alive: Node) -> None:
    """A container's process is a way around criproxy whatever it calls itself."""
    alive.process(20, "/usr/bin/crictl", cgroup=f"/k8s.io/{CONTAINER}", fds=[5])
    alive.connected(RUNTIME.path, 5)
    [finding] = check(alive.facts())
    assert "in container c0ffee000000 holds 1 connection" in finding.what
    assert finding.outcome is Outcome.FAIL


def test_process_that_calls_itself_criproxy(alive: Node) -> None:
    """A criproxy that listens elsewhere, or who says to be one, is a stranger."""
    alive.process(20, "/usr/bin/python3.11", ["python3", "/opt/bin/criproxy", "run"], fds=[5])
    alive.connected(RUNTIME.path, 5)
    [finding] = check(alive.facts())
    assert (finding.outcome, "-c" in finding.remedy) == (Outcome.WARN, True)


def test_kubelet_past_criproxy(alive: Node) -> None:
    """A kubelet that is not pointed at criproxy is a failure."""
    alive.process(20, "/usr/bin/kubelet", fds=[5])
    alive.connected(RUNTIME.path, 5)
    [finding] = check(alive.facts())
    assert finding.outcome is Outcome.FAIL
    assert finding.what.startswith("the kubelet (pid 20, ")


def test_kubelet_that_is_pointed_at_criproxy(alive: Node) -> None:
    """What a kubelet still holds then is cAdvisor's, which is nothing to remedy."""
    flag = f"--container-runtime-endpoint=unix://{PROXY}"
    alive.process(20, "/usr/bin/kubelet", ["kubelet", flag], fds=[5])
    alive.connected(RUNTIME.path, 5)
    [finding] = check(alive.facts())
    assert finding.outcome is Outcome.OK
    assert "cAdvisor" in finding.what


def test_runtime_itself(alive: Node) -> None:
    """A runtime may be its own client."""
    alive.connected(RUNTIME.path, 2)
    [finding] = check(alive.facts())
    assert finding.outcome is Outcome.OK


def test_client_that_waits(alive: Node) -> None:
    """Who has connected is found before the runtime has accepted him."""
    alive.process(20, "/opt/agent", fds=[5])
    alive.table.append(UnixSocket(1, LISTEN, RUNTIME.path, waiting=(5,)))
    [finding] = check(alive.facts())
    assert finding.what.startswith("pid 20, /opt/agent")


def test_socket_that_was_bound_by_another_name(alive: Node) -> None:
    """A socket is known by its file where its name is another."""
    file = alive.socket(RUNTIME.path).stat()
    alive.process(20, "/opt/agent", fds=[5])
    alive.table.append(UnixSocket(7, 1, "containerd.sock", (file.st_dev, file.st_ino), 5))
    [finding] = check(alive.facts())
    assert finding.what.startswith("pid 20, /opt/agent")


def test_holder_that_is_not_seen(alive: Node) -> None:
    """A connection whose holder is in no /proc of ours is said to be there."""
    alive.connected(RUNTIME.path, 5)
    [finding] = check(alive.facts())
    assert (finding.outcome, "hostPID" in finding.remedy) == (Outcome.CANNOT_TELL, True)


def test_descriptors_that_may_not_be_read(alive: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rights a connection is there and its holder is not named."""

    def refuse(proc: Path, pid: int) -> Iterator[int]:
        raise PermissionError

    monkeypatch.setattr("criproxy.peers.socket_holders._sockets_of", refuse)
    [finding] = check(alive.facts())
    assert finding.what == (
        f"who holds 1 connection to {RUNTIME}: 4 of the processes do not let their descriptors "
        "be seen"
    )
    assert "root" in finding.remedy


def test_runtime_that_is_not_seen(node: Node) -> None:
    """Without a listener at the runtime's socket its clients are not known."""
    [finding] = check(node.facts())
    assert finding.outcome is Outcome.CANNOT_TELL
    assert "network namespace" in finding.remedy


def test_kernel_that_does_not_tell(node: Node) -> None:
    """So it is where the kernel has no sock_diag."""
    node.no_sockets = "the kernel does not tell"
    [finding] = check(node.facts())
    assert said([finding]) == [
        ("cannot tell", "who is connected to the runtime: the kernel does not tell")
    ]


def test_real_processes(short_dir: Path) -> None:
    """A real process that dials the runtime is found; one that goes through criproxy is not."""
    runtime = Endpoint(str(short_dir / "cri.sock"))
    with EmbeddedRuntime(str(runtime)), Criproxy(short_dir, str(runtime)) as criproxy:
        config = load(criproxy.file).config
        with connected(criproxy.path), connected(Path(runtime.path)) as direct:
            facts = wait_until(
                lambda: (
                    (now := gather(System(), config, [runtime])).clients[runtime.path].total() == 2
                    and now
                ),
                "criproxy's own connection to the runtime",
            )
            # The runtime is within this process; so are connections that other tests left open.
            found = [each for each in check(facts) if f"pid {direct.pid}," in each.what]
        assert criproxy.process.pid in facts.criproxy_pids
        assert facts.clients[runtime.path][direct.pid] == 1
        assert set(facts.clients[runtime.path]) - facts.criproxy_pids == {direct.pid}
    [finding] = found
    assert f"{Path(sys.executable).resolve()} (" in finding.what
    assert finding.outcome is Outcome.FAIL


def test_mend_without_a_scoped_listener(alive: Node) -> None:
    """Where no listener has a profile, one is what to write."""
    config = parse("", "test")
    [listener] = config.listeners
    assert listener.endpoint.path == PROXY
    alive.process(20, "/opt/agent", fds=[5])
    alive.connected(RUNTIME.path, 5)
    [finding] = check(alive.facts(config))
    assert "profile: read-only" in finding.remedy


NRI, SHIM = "/run/nri/nri.sock", "/run/containerd/s/0a1b"


@pytest.mark.parametrize(
    ("path", "executable", "reported"),
    [
        (NRI, "/opt/plugin", True),
        ("/run/containerd/debug.sock", "/usr/bin/ctr", True),
        ("/run/containerd/containerd.sock.ttrpc", "/usr/bin/containerd-shim-runc-v2", False),
        ("/run/containerd/containerd.sock.ttrpc", "/opt/agent", True),
        (SHIM, "/usr/bin/containerd", False),
        (SHIM, "/opt/docker/containerd", False),
        (SHIM, "/opt/agent", True),
    ],
)
def test_other_ways_in(alive: Node, path: str, executable: str, reported: bool) -> None:
    """Who is connected to NRI's, ttrpc's, debug and shims' sockets is named, except the runtime."""
    alive.socket(path)
    alive.table.append(UnixSocket(70, LISTEN, path))
    if executable == "/usr/bin/containerd":
        [pid] = alive.facts().runtime_pids
        (alive.proc / f"{pid}/fd/9").symlink_to("socket:[77]")
    else:
        alive.process(30, executable, fds=[77])
    alive.connected(path, 77)
    found = [each for each in check(alive.facts()) if "which criproxy does not see" in each.what]
    assert [each.outcome for each in found] == ([Outcome.WARN] if reported else [])
    if reported:
        assert "pid 30, " in found[0].what
