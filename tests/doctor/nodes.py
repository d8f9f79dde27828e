"""A fictitious node: the /proc, files and sockets that the doctor reads."""

import os
from collections.abc import Sequence
from pathlib import Path

from criproxy.config.load import parse
from criproxy.config.schema import Config
from criproxy.doctor.findings import Finding
from criproxy.doctor.node.facts import Facts, gather
from criproxy.doctor.node.system import System
from criproxy.errors import UnavailableError
from criproxy.peers.sock_diag import ESTABLISHED, LISTEN, UnixSocket
from criproxy.relay.endpoints import Endpoint

RUNTIME = Endpoint("/run/containerd/containerd.sock")
PROXY = "/run/criproxy/criproxy.sock"
SCOPED = "/run/criproxy/read-only.sock"

CONFIG = f"""
listeners:
- {{endpoint: unix://{PROXY}, runtime: {RUNTIME}}}
- {{endpoint: unix://{SCOPED}, runtime: {RUNTIME}, profile: read-only}}
"""

CONTAINER = "c0ffee" + "0" * 58
HOST_MOUNTS = (
    "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw",
    "23 22 0:21 / /run rw shared:2 - tmpfs tmpfs rw",
    "24 22 0:5 / /proc rw - proc proc rw",
)
ALL = "000001ffffffffff"
"""Every capability."""


class Node:
    """A tree below ``root`` and the kernel's sockets, filled by what a test says."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.proc = self.root / "proc"
        self.table: list[UnixSocket] = []
        self.no_sockets = ""
        self.answer: dict[str, str] = {}
        """By path: why a listener does not answer."""
        self.system = System(
            proc=self.proc,
            root=self.root,
            sockets=self._sockets,
            version_error=lambda endpoint: self.answer.get(endpoint.path),
            environ={},
            which=lambda name: None,
        )
        self.proc.mkdir()
        self.process(1, "/usr/lib/systemd/systemd")
        self.process(os.getpid(), "/usr/bin/python3", ["criproxy", "doctor"])

    def process(
        self,
        pid: int,
        executable: str,
        command: Sequence[str] = (),
        *,
        uid: int = 0,
        cgroup: str = "/system.slice/some.service",
        mounts: Sequence[str] = HOST_MOUNTS,
        namespace: int = 1,
        pid_namespace: int = 1,
        capabilities: str = ALL,
        fds: Sequence[int] = (),
    ) -> Path:
        """Have a process; ``fds`` are the inodes of its sockets."""
        self.system.__dict__.pop("pids", None)  # as it was when it was asked first
        directory = self.proc / str(pid)
        for name in ("fd", "ns"):
            (directory / name).mkdir(parents=True)
        words = [*(command or [executable])]
        (directory / "cmdline").write_text("\0".join(words) + "\0")
        (directory / "status").write_text(
            f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{capabilities}\n"
        )
        (directory / "cgroup").write_text(f"0::{cgroup}\n")
        (directory / "mountinfo").write_text("\n".join(mounts) + "\n")
        (directory / "exe").symlink_to(executable)
        (directory / "ns/mnt").symlink_to(f"mnt:[{namespace}]")
        (directory / "ns/pid").symlink_to(f"pid:[{pid_namespace}]")
        (directory / "fd/0").symlink_to("/dev/null")
        for number, inode in enumerate(fds, 3):
            (directory / f"fd/{number}").symlink_to(f"socket:[{inode}]")
        return directory

    def started(self, directory: Path, seconds: int) -> None:
        """Let a process have started so many seconds after the epoch, when the node booted."""
        (self.proc / "stat").write_text("cpu 1 2\nbtime 0\nprocesses 9\n")
        ticks = seconds * os.sysconf("SC_CLK_TCK")
        (directory / "stat").write_text(f"20 (a b) c) S {' '.join('0' * 18)} {ticks} 0\n")

    def unit(self, name: str, text: str) -> None:
        """Have a systemd unit, or a drop-in of one."""
        self.file(f"/etc/systemd/system/{name}", text)

    def file(self, path: str, text: str = "", mode: int = 0o600) -> Path:
        """Have a file."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        file.write_text(text)
        file.chmod(mode)
        return file

    def socket(self, path: str, mode: int = 0o660) -> Path:
        """Have a socket in the file system."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        os.mknod(file, 0o140000 | mode)
        file.chmod(mode)
        return file

    def listens(self, path: str, inode: int) -> None:
        """Have a socket of the kernel's that listens at a path."""
        self.table.append(UnixSocket(inode, LISTEN, path))

    def connected(self, path: str, client: int) -> None:
        """Have a connection to a path whose client's end is this inode."""
        self.table.append(UnixSocket(900_000 + client, ESTABLISHED, path, None, client))
        self.table.append(UnixSocket(client, ESTABLISHED, "", None, 900_000 + client))

    def facts(self, config: Config | None = None) -> Facts:
        return gather(self.system, config or parse(CONFIG, "test"), [RUNTIME])

    def _sockets(self) -> list[UnixSocket]:
        if self.no_sockets:
            raise UnavailableError(self.no_sockets)
        return self.table


def said(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """The outcomes and what they are about."""
    return [(finding.outcome.value, finding.what) for finding in findings]
