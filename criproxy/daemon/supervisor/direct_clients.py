"""Who is connected to a runtime's socket past criproxy, for a metric.

A look asks the kernel for its unix sockets, and reads the descriptors of all processes only if
there is a connection that was not there before and is not criproxy's own.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from criproxy.common.printable import printable
from criproxy.errors import UnavailableError
from criproxy.observe.logs.log import Log
from criproxy.observe.metrics import DIRECT_CLIENTS
from criproxy.peers.cgroups import cgroup_location
from criproxy.peers.credentials import Kubelet
from criproxy.peers.sock_diag import UnixSocket, unix_sockets
from criproxy.peers.socket_holders import (
    PROC,
    bound_at,
    client_inodes,
    holders_of,
    listening_sockets,
    pids_of,
)

KUBELET: Final = "kubelet"
OTHER: Final = "other"
UNKNOWN: Final = "unknown"

_RESERVED: Final = frozenset({KUBELET, OTHER, UNKNOWN})
"""What no file's name may stand for: alerts leave out the kubelet."""

_EFFECTIVE_UID: Final = re.compile(r"^Uid:\t\d+\t(\d+)", re.MULTILINE)
"""In /proc/PID/status (proc_pid_status(5))."""

_NAME_LENGTH: Final = 64
"""Characters of a name in the metric; the name of a file has at most 255 bytes."""

Counts = Mapping[tuple[str, str], int]
"""Connections by the path of the runtime's socket and the name of the process."""


class DirectClients:
    """Looks at the clients of runtimes' sockets."""

    def __init__(
        self,
        runtimes: Sequence[str],
        kubelet: Kubelet,
        proc: Path = PROC,
        sockets: Callable[[], list[UnixSocket]] = unix_sockets,
    ) -> None:
        """``runtimes`` are paths; ``proc`` and ``sockets`` are where processes and the kernel's
        sockets are read."""
        self._runtimes = runtimes
        self._kubelet = kubelet
        self._proc = proc
        self._sockets = sockets
        self._identified: dict[int, str | None] = {}
        """Names by the inode of a connection; None for criproxy's own and the runtime's."""
        self._names: set[str] = set()
        """Those that have series of their own: a metric must not grow with the names of files."""

    async def watch(self, interval: float, found: Callable[[Counts], None], log: Log) -> None:
        """Look every ``interval`` seconds, and pass on what was found. Never returns.

        What the kernel refuses is logged once until it succeeds again.
        """
        failed = None
        while True:
            try:
                counts = await asyncio.to_thread(self.look)
            except (OSError, UnavailableError) as error:
                if failed != str(error):
                    log.warning("direct clients not seen", error=str(error))
                failed, counts = str(error), {}
            else:
                failed = None
            found(counts)
            await asyncio.sleep(interval)

    def look(self) -> Counts:
        """Return who is connected now. Raises UnavailableError or OSError if that is not told."""
        sockets = self._sockets()
        runtime_of: dict[int, str] = {}
        servers: set[int] = set()
        for path in self._runtimes:
            real = os.path.realpath(path)
            at_path = bound_at({path, real}, real, sockets)
            servers |= {each.inode for each in listening_sockets(at_path)}
            runtime_of |= dict.fromkeys(client_inodes(at_path), path)
        self._identified = {
            inode: name for inode, name in self._identified.items() if inode in runtime_of
        }
        self._identify(runtime_of.keys() - self._identified.keys(), servers)
        return Counter(
            (path, name)
            for inode, path in runtime_of.items()
            if (name := self._identified.get(inode, UNKNOWN)) is not None
        )

    def _identify(self, inodes: set[int], servers: set[int]) -> None:
        """Find the processes of connections; one that is not found is looked for again."""
        if not inodes:
            return
        own = self._own_pids()
        mine, _ = holders_of(inodes, own, self._proc)
        self._identified |= dict.fromkeys(mine)
        others = inodes - mine.keys()
        if not others:
            return
        pids = [pid for pid in pids_of(self._proc) if pid not in own]
        holders, _ = holders_of(others | servers, pids, self._proc)
        runtime_pids = {pid for inode in servers for pid in holders.get(inode, ())}
        for inode in others & holders.keys():
            pid = holders[inode][0]
            self._identified[inode] = None if pid in runtime_pids else self._name(pid)

    def _own_pids(self) -> set[int]:
        """Return this process and those that descend from it (CONFIG_PROC_CHILDREN)."""
        found: set[int] = set()
        left = [os.getpid()]
        while left:
            pid = left.pop()
            found.add(pid)
            with suppress(OSError):
                for task in (self._proc / str(pid) / "task").iterdir():
                    with suppress(OSError):  # the thread has ended
                        left += map(int, (task / "children").read_text().split())
        return found

    def _name(self, pid: int) -> str:
        directory = self._proc / str(pid)
        try:
            executable = os.readlink(directory / "exe")
            status = (directory / "status").read_text(errors="backslashreplace")
            cgroups = (directory / "cgroup").read_text(errors="backslashreplace")
        except OSError:
            return UNKNOWN
        uid = _EFFECTIVE_UID.search(status)
        location = cgroup_location(cgroups)
        if uid is not None and self._kubelet.matches(int(uid[1]), executable, location):
            return KUBELET
        name = printable(executable.removesuffix(" (deleted)").rpartition("/")[2])[:_NAME_LENGTH]
        known = name in self._names or len(self._names) < DIRECT_CLIENTS
        if name in _RESERVED or not known:
            return OTHER
        self._names.add(name)
        return name
