"""The process that connected to a unix socket (SO_PEERCRED, unix(7); /proc, proc(5)).

The kernel records pid, uid and gid when the client connects. Everything else is read from /proc
when the client is accepted, and left out if the pid may belong to another process by then. A
process controls its executable and its command line, but not its cgroup.
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
"""From asm-generic/socket.h, since Linux 6.5; the socket module does not define it."""

_CGROUPS: Final = "cgroup"

_COMMAND_LENGTH: Final = 8 << 10
"""Bytes of a command line that are read; each connection keeps a copy."""

_CGROUPS_LENGTH: Final = 64 << 10
"""Bytes of /proc/PID/cgroup that are read: a dozen hierarchies with a path of 4 KiB each."""

_DELETED: Final = " (deleted)"
"""The suffix that /proc adds to an executable whose file has been replaced."""


class Kubelet(NamedTuple):
    """Recognizes the node's kubelet: by globs, one of which has to match."""

    executable: Sequence[str] = ()
    unit: Sequence[str] = ()

    def matches(self, uid: int, executable: str | None, location: CgroupLocation) -> bool:
        """Return whether a process is the kubelet: root, outside any container, matching a glob.

        An executable inside a container may have any name.
        """
        return (
            uid == 0
            and location.container is None
            and location.pod_uid is None
            and (
                _matches_any(self.executable, (executable or "").removesuffix(_DELETED))
                or _matches_any(self.unit, location.unit or "")
            )
        )


NO_KUBELET: Final = Kubelet()


class _Process(NamedTuple):
    """The properties of a process in /proc; None for each that could not be read."""

    executable: str | None = None
    command: tuple[str, ...] = ()
    cgroups: str | None = None


def peer_pid(connection: socket.socket) -> int:
    """Return the process at the other end: of a listening socket the one that called listen()."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[0])


def peer_of(connection: socket.socket, kubelet: Kubelet = NO_KUBELET) -> Peer:
    """Return the process that connected. What cannot be read from /proc is left out."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    process = _process(connection, pid)
    if process.cgroups is None:
        return Peer(pid, uid, gid, process.executable, process.command)
    location = cgroup_location(process.cgroups)
    is_kubelet = kubelet.matches(uid, process.executable, location)
    return Peer(pid, uid, gid, process.executable, process.command, *location, is_kubelet)


def _process(connection: socket.socket, pid: int) -> _Process:
    if not pid:  # the process is in a PID namespace outside ours
        return _Process()
    try:
        directory = os.open(b"/proc/%d" % pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return _Process()
    try:  # an open directory never shows another process: it is empty once its process is gone
        executable = command = cgroups = None
        with suppress(OSError):
            executable = _text(os.readlink(b"exe", dir_fd=directory))
        with suppress(OSError):
            command = _read(directory, "cmdline", _COMMAND_LENGTH)
        with suppress(OSError):
            cgroups = _text(_read(directory, _CGROUPS, _CGROUPS_LENGTH))
        if not _is_alive(connection):
            return _Process()
        arguments = command.removesuffix(b"\0").split(b"\0") if command else ()
        return _Process(executable, tuple(map(_text, arguments)), cgroups)
    finally:
        os.close(directory)


def _read(directory: int, name: str, size: int) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(file, size)
    finally:
        os.close(file)


def _is_alive(connection: socket.socket) -> bool:
    """Return whether the process that connected still exists, so that its pid is its own.

    True also before Linux 6.5, where this cannot be determined.
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
    """Decode a path or argument, which may be any bytes, for logs, which are UTF-8."""
    return raw.decode(errors="backslashreplace")


def _matches_any(globs: Sequence[str], text: str) -> bool:
    return any(fnmatchcase(text, glob) for glob in globs)
