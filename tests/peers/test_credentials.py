"""The process at the other end of a unix socket."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.peers import credentials
from criproxy.peers.cgroups import CgroupLocation, cgroup_location
from criproxy.peers.credentials import Kubelet, peer_of
from criproxy.peers.peer import Peer
from tests.support.process import Process
from tests.support.raw_sockets import accept, dial, listening
from tests.support.requirements import require
from tests.support.waiting import LIMIT_SECONDS

_CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[-1])
sock.recv(1)
"""

UID = "0f0e7b6c-9d3a-4c8e-8a57-2b1c3d4e5f60"
ID = "a1" * 32


@contextlib.contextmanager
def connected(directory: Path, *argv: str, path: Path | None = None) -> Iterator[socket.socket]:
    """A connection of a process that has these arguments and the listener's path behind them."""
    path = path or directory / "x.sock"
    command = [*(argv or (sys.executable, "-c", _CONNECT)), str(path)]
    with (
        listening(path) as listener,
        Process(command, output=directory / "client", env={"PYTHONHOME": sys.base_prefix}),
        accept(listener) as connection,
    ):
        yield connection


def test_self() -> None:
    """pid, uid and gid are the kernel's; the rest is from /proc."""
    ours, theirs = socket.socketpair()
    command = Path("/proc/self/cmdline").read_text().removesuffix("\0").split("\0")
    with ours, theirs:
        assert peer_of(ours) == Peer(
            os.getpid(),
            os.geteuid(),
            os.getegid(),
            os.readlink("/proc/self/exe"),
            tuple(command),
            *cgroup_location(Path("/proc/self/cgroup").read_text()),
        )


def test_process_that_is_gone(short_dir: Path) -> None:
    """Of a process that has ended, only pid, uid and gid are known."""
    path = short_dir / "x.sock"
    client = Process([sys.executable, "-c", _CONNECT, str(path)], output=short_dir / "client")
    with listening(path) as listener, client, accept(listener) as connection:
        assert peer_of(connection).executable == os.path.realpath(sys.executable)
        assert peer_of(connection).command == (sys.executable, "-c", _CONNECT, str(path))
        pid = client.pid
        client.kill()
        assert peer_of(connection) == Peer(pid, os.geteuid(), os.getegid(), None)


def test_names_that_are_not_utf8(short_dir: Path) -> None:
    """Bytes that are not UTF-8 are escaped in paths and arguments."""
    python = os.fsencode(short_dir) + b"/\xff"
    shutil.copy(os.path.realpath(sys.executable), python)
    odd = os.fsdecode(b"\xfe")
    with connected(short_dir, os.fsdecode(python), "-c", _CONNECT, odd) as connection:
        assert peer_of(connection).executable == f"{short_dir}/\\xff"
        assert peer_of(connection).command[:4] == (
            f"{short_dir}/\\xff",
            "-c",
            _CONNECT,
            "\\xfe",
        )


def test_arguments_of_any_length(short_dir: Path) -> None:
    """Empty arguments are kept; a long command line is truncated."""
    script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[-1])\n"
    argv = (sys.executable, "-c", script + "s.recv(1)", "", "a", "")
    with connected(short_dir, *argv) as connection:
        assert peer_of(connection).command == (*argv, str(short_dir / "x.sock"))
    (short_dir / "x.sock").unlink()
    with connected(short_dir, *argv, "b" * 100_000) as connection:
        command = peer_of(connection).command
    assert command[:6] == argv
    assert len(command) == 7
    assert set(command[6]) == {"b"}
    assert sum(map(len, command)) < 10_000


def test_an_older_kernel(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SO_PEERPIDFD, /proc is trusted."""
    monkeypatch.setattr(credentials, "_SO_PEERPIDFD", 9_999)
    with connected(short_dir) as connection:
        assert peer_of(connection).executable == os.path.realpath(sys.executable)


def test_a_process_that_may_not_be_signalled(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is not root reads /proc of other users' processes."""

    def refuse(pidfd: int, number: int) -> None:
        raise PermissionError

    with connected(short_dir) as connection:
        known = peer_of(connection)
        monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
        assert peer_of(connection) == known
        assert known.executable is not None


def test_no_descriptor_is_left(short_dir: Path) -> None:
    """No descriptor stays open."""
    path = short_dir / "x.sock"
    client = Process([sys.executable, "-c", _CONNECT, str(path)], output=short_dir / "client")
    with listening(path) as listener, client, accept(listener) as connection:
        before = os.listdir("/proc/self/fd")
        peer_of(connection)
        client.kill()
        peer_of(connection)
        assert os.listdir("/proc/self/fd") == before


# The kubelet.

PLAIN = CgroupLocation("kubelet.service")
KUBELET = Kubelet(["*/kubelet", "*/k3s"], ["kubelet.service", "rke2-*.service"])


@pytest.mark.parametrize(
    ("uid", "executable", "location", "is_it"),
    [
        (0, "/usr/bin/kubelet", CgroupLocation(), True),
        (0, "/usr/local/bin/k3s", CgroupLocation("k3s.service"), True),
        (0, "/usr/bin/kubelet (deleted)", CgroupLocation(), True),
        (0, "/usr/bin/hyperkube", PLAIN, True),
        (0, None, CgroupLocation("rke2-server.service"), True),
        (0, "/usr/bin/kubelet-helper", CgroupLocation("cron.service"), False),
        (0, None, CgroupLocation(), False),
        (1000, "/usr/bin/kubelet", PLAIN, False),
        (0, "/usr/bin/kubelet", CgroupLocation(None, ID), False),
        (0, "/usr/bin/kubelet", CgroupLocation(None, None, UID), False),
        (0, "/usr/bin/kubelet", CgroupLocation("kubelet.service", ID, UID), False),
    ],
)
def test_kubelet(uid: int, executable: str | None, location: CgroupLocation, is_it: bool) -> None:
    """The kubelet is a process of root outside any container that matches a glob."""
    assert KUBELET.matches(uid, executable, location) is is_it
    assert not Kubelet().matches(uid, executable, location)


def test_kubelet_needs_a_known_cgroup(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client is the kubelet only if its cgroup is known, since it may be in a container."""
    kubelet = short_dir / "kubelet"
    shutil.copy(os.path.realpath(sys.executable), kubelet)
    root = os.geteuid() == 0
    with connected(short_dir, str(kubelet), "-c", _CONNECT) as connection:
        assert peer_of(connection, KUBELET).kubelet is root
        assert not peer_of(connection).kubelet
        monkeypatch.setattr(credentials, "_CGROUPS", "nothing")
        assert not peer_of(connection, KUBELET).kubelet


# Cgroups and PID namespaces.


def _hierarchy() -> Path | None:
    """Return a writable cgroup hierarchy."""
    for each in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup"):
        if os.access(f"{each}/cgroup.procs", os.W_OK):
            return Path(each)
    return None


def test_a_process_in_a_pod(short_dir: Path) -> None:
    """A process in a pod's container is recognized by its cgroup, and is not the kubelet."""
    root = _hierarchy()
    require([] if root is not None else ["a cgroup hierarchy that can be written to"])
    assert root is not None
    kubelet = short_dir / "kubelet"
    shutil.copy(os.path.realpath(sys.executable), kubelet)
    pod = root / f"criproxy-test-{os.getpid()}-pod{UID}"
    script = f"open({str(pod / ID / 'cgroup.procs')!r}, 'w').write('0')\n{_CONNECT}"
    try:
        (pod / ID).mkdir(parents=True)
        with connected(short_dir, str(kubelet), "-c", script) as connection:
            peer = peer_of(connection, KUBELET)
        assert (peer.container, peer.pod_uid, peer.kubelet) == (ID, UID, False)
    finally:
        (pod / ID).rmdir()
        pod.rmdir()


_REUSED = """
import os, signal, socket, sys
from criproxy.peers.credentials import peer_of
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    first = os.fork()
    if not first:
        socket.socket(socket.AF_UNIX).connect(sys.argv[1])
        os._exit(0)
    os.waitpid(first, 0)
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(first - 1))
    second = os.fork()
    if not second:
        signal.pause()
    assert first == second, (first, second)
    connection, _ = listener.accept()
    with connection:
        print(peer_of(connection) == (type(peer_of(connection)))(first, 0, 0, None))
    os.kill(second, signal.SIGKILL)
"""


def namespace() -> list[str]:
    """Return the command that runs a program in a PID namespace of its own."""
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    can = shutil.which("unshare") and not subprocess.run([*argv, "true"], check=False).returncode
    require([] if can else ["the right to make PID namespaces"])
    return argv


def test_reused_pid(short_dir: Path) -> None:
    """Nothing is reported of a process that has the pid of a client that has ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, credentials._SO_PEERPIDFD))
        except OSError:
            require(["Linux 6.5"])
    argv = [*namespace(), sys.executable, "-c", _REUSED, str(short_dir / "x.sock")]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_a_client_in_a_pid_namespace(short_dir: Path) -> None:
    """A client in a PID namespace below ours is known by its pid in ours."""
    with connected(short_dir, *namespace(), sys.executable, "-c", _CONNECT) as connection:
        peer = peer_of(connection)
        assert peer.pid == int(Path(f"/proc/{peer.pid}").resolve().name)
        assert peer.executable == os.path.realpath(sys.executable)
        assert peer.command == (sys.executable, "-c", _CONNECT, str(short_dir / "x.sock"))


_LISTEN = """
import socket, sys
from criproxy.peers.credentials import peer_of
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("listening", flush=True)
    connection, _ = listener.accept()
    with connection:
        print(peer_of(connection))
"""


def test_a_client_outside_our_pid_namespace(short_dir: Path) -> None:
    """A client outside our PID namespace has pid 0 and no further properties."""
    path = short_dir / "x.sock"
    argv = [*namespace(), sys.executable, "-c", _LISTEN, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        with dial(path):
            output = listener.stdout.readline()
    assert output == f"{Peer(0, os.geteuid(), os.getegid(), None)}\n"
