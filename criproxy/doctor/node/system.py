"""Reads processes, the kernel's sockets and files of the machine, and changes nothing.

A process's data is read on demand: a machine may have ten thousand processes.
"""

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from criproxy.errors import CriproxyError
from criproxy.peers.cgroups import CgroupLocation, cgroup_location
from criproxy.peers.sock_diag import UnixSocket, unix_sockets
from criproxy.peers.socket_holders import PROC, holders_of, pids_of
from criproxy.relay.endpoints import Endpoint, why_no_runtime

CAP_SYS_PTRACE: Final = 19
"""Bit of the capability to read other processes' /proc (capabilities(7))."""

_MAX_FILE_BYTES: Final = 1 << 20
"""Maximum number of bytes read of one file."""
_START_TIME: Final = 19
"""Index of the start time, in clock ticks, behind the name in /proc/PID/stat (proc_pid_stat(5))."""
_VERSION_SECONDS: Final = 3.0
"""Deadline of the Version call to a listener, in seconds."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as far as its /proc directory is readable."""

    pid: int
    uid: int | None
    executable: str | None
    command: tuple[str, ...]
    cgroup: CgroupLocation

    @property
    def name(self) -> str:
        """File name of the executable, else of the command's first word, else empty."""
        path = self.executable or (self.command[0] if self.command else "")
        return path.removesuffix(" (deleted)").rpartition("/")[2]

    def __str__(self) -> str:
        executable = self.executable or "an unknown executable"
        shown = _without_options(self.command)
        if shown not in ("", executable):
            executable += f" ({shown})"
        uid = "unknown" if self.uid is None else self.uid
        words = [f"pid {self.pid}", executable, f"uid {uid}"]
        if self.cgroup.unit:
            words.append(f"in {self.cgroup.unit}")
        if self.cgroup.container:
            words.append(f"in container {self.cgroup.container[:12]}")
        if self.cgroup.pod_uid:
            words.append(f"of pod {self.cgroup.pod_uid}")
        return ", ".join(words)


def is_socket(path: Path) -> bool:
    """Return whether a path is a socket, as far as this process may read it."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def version_error(endpoint: Endpoint) -> str | None:
    """Call Version on a socket; return None if it answers, else the reason in one line."""
    from criproxy.client.failures import ask_version  # grpcio is slow to import

    try:
        ask_version(endpoint, "v1", _VERSION_SECONDS)
    except CriproxyError as error:
        return str(error)
    return None


@dataclass
class System:
    """Sources of the facts; tests substitute a directory tree."""

    proc: Path = PROC
    root: Path = Path("/")
    """Directory that absolute paths are relative to."""
    sockets: Callable[[], list[UnixSocket]] = unix_sockets
    version_error: Callable[[Endpoint], str | None] = version_error
    why_no_runtime: Callable[[str], str | None] = why_no_runtime
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    which: Callable[[str], str | None] = shutil.which

    def path(self, path: str) -> Path:
        """Return an absolute path of the machine below ``root``."""
        return self.root / path.lstrip("/")

    @cached_property
    def pids(self) -> list[int]:
        """Every pid at the first access."""
        return pids_of(self.proc)

    def process(self, pid: int) -> Process:
        """Read a process; fields are empty without rights or once it has ended."""
        status = self.status(pid)
        uids = status.get("Uid", "").split()
        return Process(
            pid,
            int(uids[1]) if len(uids) > 1 else None,
            self.executable(pid),
            tuple(self.text(pid, "cmdline").rstrip("\0").split("\0")) if status else (),
            cgroup_location(self.text(pid, "cgroup")),
        )

    def executable(self, pid: int) -> str | None:
        """Return the path of a process's executable; None if unreadable."""
        return self.link(pid, "exe")

    def status(self, pid: int) -> dict[str, str]:
        """Read the fields of /proc/PID/status."""
        lines = (line.partition(":") for line in self.text(pid, "status").split("\n"))
        return {key: value.strip() for key, _, value in lines}

    def environment(self, pid: int) -> dict[str, str]:
        """Read a process's environment; empty if unreadable."""
        words = (word.partition("=") for word in self.text(pid, "environ").split("\0"))
        return {key: value for key, equals, value in words if equals}

    def started(self, pid: int) -> float | None:
        """Return when a process started, in seconds since the epoch; None if unreadable."""
        fields = self.text(pid, "stat").rpartition(")")[2].split()
        try:
            lines = (self.proc / "stat").read_text().split("\n")
            booted = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
            return booted + int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
        except (OSError, LookupError, ValueError, StopIteration):
            return None

    def text(self, pid: int, name: str) -> str:
        """Read a file of a process's /proc directory; empty if unreadable."""
        try:
            with open(self.proc / str(pid) / name, "rb") as file:
                return file.read(_MAX_FILE_BYTES).decode(errors="backslashreplace")
        except OSError:
            return ""

    def link(self, pid: int, name: str) -> str | None:
        """Read a link of a process's /proc directory; None if unreadable."""
        with suppress(OSError):
            return os.readlink(self.proc / str(pid) / name)
        return None

    def holders(self, inodes: set[int]) -> tuple[dict[int, list[int]], int]:
        """Return pids by socket inode, and how many processes are unreadable."""
        return holders_of(inodes, self.pids, self.proc)


def _without_options(command: tuple[str, ...]) -> str:
    """Return a command up to its first option: options may contain passwords."""
    words: list[str] = []
    for word in command:
        if word.startswith("-"):
            break
        words.append(word)
    return " ".join(words)
