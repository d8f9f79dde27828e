"""Binds a listener's socket, or adopts one that was bound by systemd or an earlier process.

A new socket is bound under a temporary name in the same directory, given its owner and mode, made
to listen and then renamed into place. A socket that a live process listens at is never replaced. A
lock on the directory keeps two processes from replacing the same stale socket at once.
"""

import contextlib
import fcntl
import grp
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from criproxy.errors import EndpointError, UnavailableError
from criproxy.peers.credentials import peer_pid
from criproxy.relay.dial import connect
from criproxy.relay.endpoints import Endpoint

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn caps it."""

DEFAULT_MODE: Final = 0o660
"""The mode that runtimes give their sockets."""

_DIRECTORY_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Access:
    """A socket's mode and owner, which decide who may connect. None leaves a value unchanged."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None

    def or_else(self, other: "Access") -> "Access":
        """Return a copy with the values that are None taken from another."""
        return Access(
            other.mode if self.mode is None else self.mode,
            other.uid if self.uid is None else self.uid,
            other.gid if self.gid is None else self.gid,
        )


def access_of(endpoint: Endpoint) -> Access | None:
    """Read a socket's mode and owner; None if there is no such socket.

    The owner is None unless this process is root: others may not set it.
    """
    try:
        found = os.stat(endpoint.path)
    except OSError:
        return None
    mode = stat.S_IMODE(found.st_mode)
    return Access(mode, found.st_uid, found.st_gid) if os.geteuid() == 0 else Access(mode)


def parse_owner(text: str) -> tuple[int | None, int | None]:
    """Parse ``user``, ``user:group`` or ``:group``, names or numbers, as chown(1) does.

    Raises ValueError, naming the user or group that does not exist.
    """
    user, _, group = text.partition(":")
    try:
        uid = None if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {user!r}") from None
    try:
        gid = None if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group!r}") from None
    return uid, gid


class SocketFile:
    """A socket in the file system, recognized by device and inode even if its path is reused."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Take what is at the path now; symbolic links are not followed."""
        self.endpoint = endpoint
        self._identity = self._find()

    def grant(self, access: Access) -> None:
        """Set owner and mode, unless the path leads elsewhere by now. Raises OSError."""
        if self._is_unchanged():
            _grant(self.endpoint.path, access)

    def unlink(self) -> None:
        """Remove the socket, unless the path leads elsewhere by now."""
        if self._is_unchanged():
            os.unlink(self.endpoint.path)

    def _is_unchanged(self) -> bool:
        return self._identity is not None and self._find() == self._identity

    def _find(self) -> tuple[int, int] | None:
        try:
            found = os.lstat(self.endpoint.path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


class BoundSocket:
    """A listening socket of this process and its file."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self.socket = sock
        self.endpoint = endpoint
        self._file = SocketFile(endpoint)

    def grant(self, access: Access) -> None:
        """Set owner and mode; see :meth:`SocketFile.grant`."""
        self._file.grant(access)

    def unlink(self) -> None:
        """Remove the socket from the file system, unless the path leads elsewhere by now."""
        self._file.unlink()

    def close(self) -> None:
        """Close the socket and unlink it."""
        self.socket.close()
        self._file.unlink()


def bind(endpoint: Endpoint, access: Access, replaced: int | None = None) -> BoundSocket:
    """Listen at an endpoint; makes parent directories and replaces a stale socket.

    The socket of the process ``replaced`` is replaced, too: clients that connect from then on reach
    this one. Raises EndpointError if something that is not a socket is at the path, and
    UnavailableError if another process listens there or the file system refuses.
    """
    path = Path(endpoint.path)
    try:
        _make_directories(path.parent)
        with locked_directory(path.parent) as directory:
            _refuse_if_taken(endpoint, replaced)
            # Through the open directory the temporary name is short, whatever the path's length.
            short = f"/proc/self/fd/{directory}/.criproxy.{os.getpid()}"
            sock = _listen(short, access)
            try:
                os.rename(short, path.name, dst_dir_fd=directory)
            except BaseException:
                sock.close()
                os.unlink(short)
                raise
            return BoundSocket(sock, endpoint)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen at {endpoint}: {error.strerror or error}; "
            "choose another --listen path or run with the rights to it"
        ) from error


def inherit(sock: socket.socket, endpoint: Endpoint) -> BoundSocket:
    """Take over a socket from an earlier process of this daemon, which vouches for its path.

    The credentials that clients see (SO_PEERCRED) stay the earlier process's until listen() is
    called again.
    """
    sock.setblocking(False)
    return BoundSocket(sock, endpoint)


def adopt(sock: socket.socket, endpoint: Endpoint) -> BoundSocket:
    """Take over a socket that systemd listens at.

    Calls listen() again: the backlog and the credentials that clients see (SO_PEERCRED) are then
    this process's. Raises EndpointError if it is not a listening unix stream socket, or not the one
    at the endpoint's path.
    """
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise EndpointError(f"cannot adopt a socket for {endpoint}: not a unix stream socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise EndpointError(f"cannot adopt a socket for {endpoint}: it does not listen")
    sock.setblocking(False)
    sock.listen(BACKLOG)
    if not _is_bound_to(sock, endpoint):
        raise EndpointError(
            f"cannot adopt a socket for {endpoint}: it is bound to {sock.getsockname()!r}; "
            "make ListenStream= of criproxy.socket the same path"
        )
    return BoundSocket(sock, endpoint)


def _is_bound_to(sock: socket.socket, endpoint: Endpoint) -> bool:
    """Return whether the name that a socket was bound to leads to the endpoint's file."""
    name = sock.getsockname()
    try:
        return isinstance(name, str) and os.path.samefile(name, endpoint.path)
    except (OSError, ValueError):
        return False


def _listen(path: str, access: Access) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # left by a process of the same id that died here
        sock.setblocking(False)
        umask = os.umask(0o777)  # nobody may connect before owner and mode are right
        try:
            sock.bind(path)
        finally:
            os.umask(umask)
        _grant(path, access.or_else(Access(mode=DEFAULT_MODE)))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return sock


def _grant(path: str, access: Access) -> None:
    found = os.stat(path)
    uid = found.st_uid if access.uid is None else access.uid
    gid = found.st_gid if access.gid is None else access.gid
    if (uid, gid) != (found.st_uid, found.st_gid):
        os.chown(path, uid, gid)
    if access.mode is not None and access.mode != stat.S_IMODE(found.st_mode):
        os.chmod(path, access.mode)


def _make_directories(path: Path) -> None:
    """Make a directory and its parents, writable only by their owner whatever the umask."""
    if path.is_dir():
        return
    _make_directories(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(_DIRECTORY_MODE)


@contextlib.contextmanager
def locked_directory(path: Path) -> Iterator[int]:
    """Lock a directory against other processes that replace sockets in it; yield a descriptor."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(directory)


def listening_process(endpoint: Endpoint) -> int | None:
    """Return the id of the process that listens at an endpoint; None where nobody does."""
    try:
        with connect(endpoint) as client:
            return peer_pid(client)
    except OSError:
        return None


def _refuse_if_taken(endpoint: Endpoint, replaced: int | None) -> None:
    try:
        found = os.stat(endpoint.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise EndpointError(
            f"cannot listen at {endpoint}: there is something there that is not a socket; "
            "remove it or choose another path"
        )
    try:
        with connect(endpoint) as client:
            pid = peer_pid(client)
            if pid == replaced or not Path(f"/proc/{pid}").exists():
                return  # it is to be replaced; or its supervisor has died, and the workers drain
    except ConnectionRefusedError:
        return  # stale
    except BlockingIOError:
        pass  # the backlog is full: somebody listens
    raise UnavailableError(
        f"cannot listen at {endpoint}: another process listens there; "
        "stop it or choose another path with --listen"
    )
