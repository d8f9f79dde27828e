"""Which processes hold the connections to a unix socket: sock_diag(7), and /proc/PID/fd (proc(5)).

A client's socket has no name. It is found as the peer of a socket that was accepted, and its
process by the descriptors of all processes.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from criproxy.peers.sock_diag import LISTEN, UnixSocket

PROC: Final = Path("/proc")

_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


def bound_at(names: Collection[str], real: str, sockets: Iterable[UnixSocket]) -> list[UnixSocket]:
    """Return the sockets bound at a path: the listening one and those accepted on it.

    A socket matches by the file at ``real``, or by the bound name, one of ``names``: that finds
    connections, too, that were made before the socket was bound anew.
    """
    try:
        found = os.stat(real)
        file = (found.st_dev, found.st_ino)
    except OSError:
        file = None
    return [
        each for each in sockets if each.name in names or (file is not None and each.file == file)
    ]


def client_inodes(sockets: Iterable[UnixSocket]) -> set[int]:
    """Return the inodes of the clients' ends, including connections not yet accepted."""
    return {inode for each in sockets for inode in (each.peer, *each.waiting) if inode}


def listening_sockets(sockets: Iterable[UnixSocket]) -> list[UnixSocket]:
    """Return those that listen."""
    return [each for each in sockets if each.state == LISTEN]


def pids_of(proc: Path) -> list[int]:
    """Return the pids of all processes. Raises OSError."""
    with os.scandir(proc) as entries:
        return sorted(int(entry.name) for entry in entries if entry.name.isdecimal())


def holders_of(
    inodes: Collection[int], pids: Iterable[int], proc: Path = PROC
) -> tuple[dict[int, list[int]], int]:
    """Return pids by socket inode, and how many of the processes are unreadable.

    ``pids`` are distinct. Processes that have ended meanwhile are not counted.
    """
    found: dict[int, list[int]] = {}
    unreadable = 0
    for pid in pids if inodes else ():
        try:
            for inode in _sockets_of(proc, pid):
                if inode in inodes and pid not in (holders := found.setdefault(inode, []))[-1:]:
                    holders.append(pid)
        except PermissionError:
            unreadable += 1
        except OSError:
            continue
    return found, unreadable


def _sockets_of(proc: Path, pid: int) -> Iterator[int]:
    directory = f"{proc}/{pid}/fd"
    for number in os.listdir(directory):
        with suppress(FileNotFoundError):
            if match := _SOCKET.fullmatch(os.readlink(f"{directory}/{number}")):
                yield int(match[1])
