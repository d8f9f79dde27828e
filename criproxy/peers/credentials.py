"""Who is at the other end of a unix socket (SO_PEERCRED, unix(7); /proc, proc(5)).

The kernel vouches for pid, uid and gid as they were when the client connected. The rest is what
/proc says of that pid when the client is accepted. It is left out where it may be of another
process: the one that connected can be gone, and its pid be in use again. What a process runs it
says itself (a process may run another executable, or write another command line over its own); its
cgroup it cannot choose.
"""

import errno
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from struct import Struct
from typing import Final, NamedTuple

from criproxy.peers.cgroups import CgroupLocation, cgroup_location
from criproxy.peers.peer import Peer

_UCRED: Final = Struct("iII")

_SO_PEERPIDFD: Final = 77
"""Since Linux 6.5 (asm-generic/socket.h); Python has no name for it."""

_CGROUPS: Final = "cgroup"

_LONGEST_COMMAND: Final = 8 << 10
"""Bytes of a command line that are read: each connection keeps its own."""

_LONGEST_CGROUPS: Final = 64 << 10
"""Bytes: a dozen hierarchies, each with a path of 4 KiB."""

_REPLACED: Final = " (deleted)"
"""What /proc puts behind an executable whose file is another one by now."""


class Kubelet(NamedTuple):
    """How the node's kubelet is known: globs, one of which has to fit."""

    executable: Sequence[str] = ()
    unit: Sequence[str] = ()

    def fits(self, uid: int, executable: str | None, place: CgroupLocation) -> bool:
        """Tell whether a process is the kubelet: root, in no container, and named like it.

        An executable within a container has whatever name its image gives it.
        """
        return (
            uid == 0
            and place.container is None
            and place.pod_uid is None
            and (
                _fits_any(self.executable, (executable or "").removesuffix(_REPLACED))
                or _fits_any(self.unit, place.unit or "")
            )
        )


NO_KUBELET: Final = Kubelet()


class _Process(NamedTuple):
    """What /proc tells of a process; ``cgroups`` is None where it would not say."""

    executable: str | None = None
    command: tuple[str, ...] = ()
    cgroups: str | None = None


def peer_pid(connection: socket.socket) -> int:
    """Return the process at the other end: of a listening socket the one that called listen()."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[0])


def peer_of(connection: socket.socket, kubelet: Kubelet = NO_KUBELET) -> Peer:
    """Ask the kernel and /proc for the process that connected. Never fails for want of /proc."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    process = _process(connection, pid)
    if process.cgroups is None:
        return Peer(pid, uid, gid, process.executable, process.command)
    place = cgroup_location(process.cgroups)
    is_kubelet = kubelet.fits(uid, process.executable, place)
    return Peer(pid, uid, gid, process.executable, process.command, *place, is_kubelet)


def _process(connection: socket.socket, pid: int) -> _Process:
    if not pid:  # in a PID namespace that is not ours
        return _Process()
    try:
        directory = os.open(b"/proc/%d" % pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return _Process()
    try:  # what is read below is of one process: once it is gone there is nothing in its directory
        executable = command = cgroups = None
        with suppress(OSError):
            executable = _text(os.readlink(b"exe", dir_fd=directory))
        with suppress(OSError):
            command = _read(directory, "cmdline", _LONGEST_COMMAND)
        with suppress(OSError):
            cgroups = _text(_read(directory, _CGROUPS, _LONGEST_CGROUPS))
        if not _may_be(connection):
            return _Process()
        arguments = command.removesuffix(b"\0").split(b"\0") if command else ()
        return _Process(executable, tuple(map(_text, arguments)), cgroups)
    finally:
        os.close(directory)


def _read(directory: int, name: str, most: int) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(file, most)
    finally:
        os.close(file)


def _may_be(connection: socket.socket) -> bool:
    """Tell whether what has its pid now may be the process that connected.

    It is where the kernel knows that process still; before Linux 6.5 there is no telling.
    """
    try:
        process = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT
    try:
        signal.pidfd_send_signal(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def _text(raw: bytes) -> str:
    """Paths and arguments may hold any bytes; logs and pages hold UTF-8."""
    return raw.decode(errors="backslashreplace")


def _fits_any(globs: Sequence[str], text: str) -> bool:
    return any(fnmatchcase(text, glob) for glob in globs)
