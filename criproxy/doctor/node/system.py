"""The machine as a doctor reads it: processes, the kernel's sockets, files. Nothing is changed.

What a process tells is read when it is asked for; a machine may have ten thousand of them.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from criproxy.doctor.node.sock_diag import UnixSocket, unix_sockets
from criproxy.errors import CriproxyError
from criproxy.peers.cgroups import CgroupLocation, cgroup_location
from criproxy.relay.endpoints import Endpoint

CAP_SYS_PTRACE: Final = 19
"""Its bit in a set of capabilities (capabilities(7)): what lets a process read others' /proc."""

_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")
_LONGEST: Final = 1 << 20
"""Bytes that are read of any one file."""
_ANSWER_WITHIN: Final = 3.0
"""Seconds that a listener may take over a Version call."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as far as /proc tells of it."""

    pid: int
    uid: int | None
    executable: str | None
    command: tuple[str, ...]
    place: CgroupLocation

    @property
    def name(self) -> str:
        """The executable's file name, else the command's first word's, else nothing."""
        path = self.executable or (self.command[0] if self.command else "")
        return path.removesuffix(" (deleted)").rpartition("/")[2]

    def __str__(self) -> str:
        executable = self.executable or "an unknown executable"
        spoken = _without_options(self.command)
        if spoken not in ("", executable):
            executable += f" ({spoken})"
        uid = "unknown" if self.uid is None else self.uid
        words = [f"pid {self.pid}", executable, f"uid {uid}"]
        if self.place.unit:
            words.append(f"in {self.place.unit}")
        if self.place.container:
            words.append(f"in container {self.place.container[:12]}")
        if self.place.pod_uid:
            words.append(f"of pod {self.place.pod_uid}")
        return ", ".join(words)


def answers(endpoint: Endpoint) -> str | None:
    """Ask a socket for its runtime's version; None if it answers, else in one line why not."""
    from criproxy.client.failures import ask_version  # grpcio is slow to import

    try:
        ask_version(endpoint, "v1", _ANSWER_WITHIN)
    except CriproxyError as error:
        return str(error)
    return None


@dataclass
class System:
    """Where everything is read from; a test gives it a made-up tree."""

    proc: Path = Path("/proc")
    root: Path = Path("/")
    """What absolute paths of files start from."""
    sockets: Callable[[], list[UnixSocket]] = unix_sockets
    answers: Callable[[Endpoint], str | None] = answers
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    which: Callable[[str], str | None] = shutil.which

    def path(self, path: str) -> Path:
        """Return where an absolute path of this machine is to be read."""
        return self.root / path.lstrip("/")

    @cached_property
    def pids(self) -> list[int]:
        """Every process there is, as of the first asking."""
        with os.scandir(self.proc) as entries:
            return sorted(int(entry.name) for entry in entries if entry.name.isdecimal())

    def process(self, pid: int) -> Process:
        """Read what is known of a process; less is, without rights or once it is gone."""
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
        """Return the path of what a process runs; None where /proc does not say."""
        return self.link(pid, "exe")

    def status(self, pid: int) -> dict[str, str]:
        """Read the fields of /proc/PID/status."""
        lines = (line.partition(":") for line in self.text(pid, "status").splitlines())
        return {key: value.strip() for key, _, value in lines}

    def text(self, pid: int, name: str) -> str:
        """Read a file of a process; the empty string where that cannot be done."""
        try:
            with open(self.proc / str(pid) / name, "rb") as file:
                return file.read(_LONGEST).decode(errors="backslashreplace")
        except OSError:
            return ""

    def link(self, pid: int, name: str) -> str | None:
        """Read a link of a process; None where that cannot be done."""
        with suppress(OSError):
            return os.readlink(self.proc / str(pid) / name)
        return None

    def holders(self, inodes: set[int]) -> tuple[dict[int, list[int]], int]:
        """Find who holds sockets: pids by inode, and how many processes would not tell.

        Those that are gone by now are not counted.
        """
        found: dict[int, list[int]] = {}
        closed = 0
        for pid in self.pids if inodes else ():
            try:
                for inode in self._sockets_of(pid):
                    if inode in inodes and pid not in found.setdefault(inode, []):
                        found[inode].append(pid)
            except PermissionError:
                closed += 1
            except OSError:
                continue
        return found, closed

    def _sockets_of(self, pid: int) -> Iterator[int]:
        directory = f"{self.proc}/{pid}/fd"
        for number in os.listdir(directory):
            with suppress(FileNotFoundError):
                if match := _SOCKET.fullmatch(os.readlink(f"{directory}/{number}")):
                    yield int(match[1])


def _without_options(command: tuple[str, ...]) -> str:
    """Return a command up to its first option: passwords stand behind those."""
    words: list[str] = []
    for word in command:
        if word.startswith("-"):
            break
        words.append(word)
    return " ".join(words)
