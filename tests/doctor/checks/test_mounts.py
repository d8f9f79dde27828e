"""Containers that have a socket with full rights mounted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from criproxy.config.load import parse
from criproxy.doctor.checks.mounts import check
from criproxy.doctor.findings import Outcome
from criproxy.doctor.node.facts import gather
from criproxy.doctor.node.system import System
from criproxy.relay.endpoints import Endpoint
from tests.doctor.nodes import CONTAINER, HOST_MOUNTS, PROXY, RUNTIME, SCOPED, Node, said
from tests.support.raw_sockets import listening

IN_POD = f"/kubepods/pod12345678-1234-1234-1234-123456789abc/{CONTAINER}"
OVERLAY = "50 40 0:50 / / rw - overlay overlay rw"
NONE = ("OK", "no container has a socket with full rights mounted")

INSIDE = """
import ctypes, os, sys
os.chroot(sys.argv[1])
os.chdir("/")
print("ready", flush=True)
sys.stdin.read()
"""
"""What sees one file system alone, as a container does."""


@pytest.fixture
def placed(node: Node) -> Node:
    """A node whose sockets lie in its /run, a file system of its own."""
    for path in (RUNTIME.path, PROXY, SCOPED):
        node.socket(path)
    mounts = [
        f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:21 / {node.root}/run rw - tmpfs t rw\n"
    ]
    (node.proc / str(os.getpid()) / "mountinfo").write_text("".join(mounts))
    return node


@pytest.mark.parametrize(
    ("mount", "inside"),
    [
        ("/containerd/containerd.sock /cri.sock", "/cri.sock"),
        ("/containerd /run/containerd", "/run/containerd/containerd.sock"),
        ("/containerd /host\\040run", "/host run/containerd.sock"),
    ],
)
def test_runtime_in_a_container(placed: Node, mount: str, inside: str) -> None:
    """A container with the socket, or its directory, is named with where it has it."""
    mounts = [OVERLAY, f"51 50 0:21 {mount} ro - tmpfs tmpfs rw"]
    placed.process(20, "/app", mounts=mounts, namespace=2, cgroup=IN_POD)
    placed.process(21, "/child", mounts=mounts, namespace=2, cgroup=IN_POD)
    [finding] = check(placed.facts())
    assert finding.what == (
        "pid 20, /app, uid 0, in container c0ffee000000, of pod "
        f"12345678-1234-1234-1234-123456789abc sees {RUNTIME.path} at {inside}, past criproxy"
    )
    assert finding.outcome is Outcome.FAIL
    assert SCOPED in finding.remedy


def test_whole_run(placed: Node) -> None:
    """The directory above shows criproxy's socket with full rights too, never the scoped one."""
    mounts = [OVERLAY, "51 50 0:21 / /host/run rw - tmpfs tmpfs rw"]
    placed.process(20, "/app", mounts=mounts, namespace=2, cgroup=IN_POD)
    found = [*check(placed.facts())]
    assert [each.outcome for each in found] == [Outcome.FAIL, Outcome.WARN]
    assert [each.what.split(" sees ")[1].split(",")[0] for each in found] == [
        f"{RUNTIME.path} at /host/run/containerd/containerd.sock",
        f"{PROXY} at /host/run/criproxy/criproxy.sock",
    ]


APART = "/run/criproxy-agents/read-only.sock"
WITH_DIRECTORY = f"""
listeners:
- {{endpoint: unix://{PROXY}, runtime: {RUNTIME}}}
- {{endpoint: unix://{APART}, runtime: {RUNTIME}, profile: read-only}}
"""


def test_directory_of_a_scoped_socket(placed: Node) -> None:
    """A container with the scoped socket's directory is as it should be, and what is advised."""
    placed.socket(APART)
    config = parse(WITH_DIRECTORY, "test")
    mounts = [OVERLAY, "51 50 0:21 /criproxy-agents /run/criproxy rw - tmpfs tmpfs rw"]
    placed.process(20, "/app", mounts=mounts, namespace=2, cgroup=IN_POD)
    assert said([*check(placed.facts(config))]) == [NONE]
    mounts = [OVERLAY, "51 50 0:21 /containerd /run/containerd rw - tmpfs tmpfs rw"]
    placed.process(21, "/app", mounts=mounts, namespace=3, cgroup=IN_POD)
    [finding] = check(placed.facts(config))
    assert finding.remedy.startswith("mount the directory /run/criproxy-agents (profile read-only)")


@pytest.mark.parametrize(
    ("root", "what"),
    [
        ("/criproxy/read-only.sock", "it leads nowhere once criproxy has been restarted"),
        ("/criproxy/read-only.sock//deleted", "it is a removed one, which nobody answers"),
    ],
)
def test_file_of_a_scoped_socket(placed: Node, root: str, what: str) -> None:
    """A mounted file is stale after a restart: the directory is what to mount."""
    mounts = [OVERLAY, f"51 50 0:21 {root} /cri.sock rw - tmpfs tmpfs rw"]
    placed.process(20, "/app", mounts=mounts, namespace=2, cgroup=IN_POD)
    [finding] = check(placed.facts())
    assert finding.outcome is Outcome.WARN
    assert finding.what.endswith(f"has the file {SCOPED} mounted at /cri.sock: {what}")
    assert "a directory of its own" in finding.remedy


def test_other_ways_in(placed: Node) -> None:
    """NRI's, ttrpc's and debug sockets, and the shims' directory, are looked for as well."""
    paths = ["/run/nri/nri.sock", "/run/containerd/debug.sock", "/run/containerd/s/0a1b"]
    for path in paths:
        placed.socket(path)
    mounts = [
        OVERLAY,
        "51 50 0:21 /nri /var/run/nri rw - tmpfs tmpfs rw",
        "52 50 0:21 /containerd/s /shims rw - tmpfs tmpfs rw",
    ]
    placed.process(20, "/app", mounts=mounts, namespace=2, cgroup=IN_POD)
    [finding] = check(placed.facts())
    assert finding.outcome is Outcome.WARN
    assert "/run/nri/nri.sock at /var/run/nri/nri.sock" in finding.what
    assert "/run/containerd/s at /shims" in finding.what
    assert "debug" not in finding.what


@pytest.mark.parametrize("separator", ["\r", "\u2028", "\x85"])
def test_mount_points_with_line_separators(placed: Node, separator: str) -> None:
    """A container cannot hide its mount behind a mount point with a line separator."""
    mounts = [OVERLAY, f"51 50 0:21 /containerd /a{separator}b ro - tmpfs tmpfs rw"]
    placed.process(20, "/app", mounts=mounts, namespace=2, cgroup=IN_POD)
    [finding] = check(placed.facts())
    assert f"at /a{separator}b/containerd.sock" in finding.what


def test_service_of_the_node(placed: Node) -> None:
    """A service with a private /tmp sees the node's tree otherwise: it is no container."""
    own = (placed.proc / str(os.getpid()) / "mountinfo").read_text().splitlines()
    placed.process(20, "/app", mounts=own, namespace=2)
    assert said([*check(placed.facts())]) == [NONE]
    placed.process(21, "/app", mounts=own, namespace=3, cgroup=IN_POD)
    assert "pid 21, " in next(iter(check(placed.facts()))).what


def test_doctor_in_a_container(placed: Node) -> None:
    """Where the doctor is in a container, what the first process sees is the node's tree."""
    node = ["22 1 8:9 / / rw - ext4 /dev/sda9 rw", "23 22 0:21 / /run rw - tmpfs tmpfs rw"]
    (placed.proc / "1/mountinfo").write_text("\n".join(node))
    (placed.proc / str(os.getpid()) / "ns/mnt").unlink()
    (placed.proc / str(os.getpid()) / "ns/mnt").symlink_to("mnt:[7]")
    placed.process(20, "/app", mounts=node, namespace=2)
    assert said([*check(placed.facts())]) == [NONE]


def test_those_who_need_it(placed: Node) -> None:
    """The runtime and criproxy may be in containers; the kubelet is named without being blamed."""
    mounts = [OVERLAY, "51 50 0:21 / /run rw - tmpfs tmpfs rw"]
    placed.listens(RUNTIME.path, 1)
    placed.listens(PROXY, 2)
    placed.process(20, "/usr/bin/containerd", mounts=mounts, namespace=2, fds=[1])
    placed.process(21, "/criproxy", mounts=mounts, namespace=3, cgroup=IN_POD, fds=[2])
    assert said([*check(placed.facts())]) == [NONE]
    placed.process(22, "/usr/bin/kubelet", mounts=mounts, namespace=4)
    assert {each.outcome for each in check(placed.facts())} == {Outcome.OK}


def test_process_that_cannot_be_read(placed: Node) -> None:
    """Without rights to a process's namespaces its mounts are not known."""
    directory = placed.process(20, "/app", namespace=2)
    (directory / "ns/mnt").unlink()
    assert said([*check(placed.facts())]) == [
        (
            "cannot tell",
            "whether every process is without the runtime's socket: 1 would not tell",
        )
    ]


def test_no_socket(node: Node) -> None:
    """Without a runtime's socket there is nothing to look for."""
    node.process(20, "/app", mounts=[*HOST_MOUNTS], namespace=2)
    [finding] = check(node.facts())
    assert finding.outcome is Outcome.CANNOT_TELL


def _may_mount() -> bool:
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="needs root, to mount")
def test_real_mount(short_dir: Path) -> None:
    """A real socket that is bound into another mount namespace's root is found there."""
    runtime = Endpoint(str(short_dir / "cri.sock"))
    root = short_dir / "root"
    root.mkdir()
    script = (
        f"mount -t tmpfs none {root} && touch {root}/inside.sock && "
        f"mount --bind {runtime.path} {root}/inside.sock && "
        f'exec "$0" -c "$1" {root}'
    )
    with listening(Path(runtime.path)):
        config = parse(f"listeners: [{{runtime: {runtime}}}]", "test")
        with subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, sys.executable, INSIDE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            found = [*check(gather(System(), config, [runtime]))]
    [finding] = [each for each in found if f"pid {process.pid}," in each.what]
    assert finding.what.endswith(f" sees {runtime.path} at /inside.sock, past criproxy")
