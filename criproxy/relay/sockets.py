"""Binding a listener's socket: never stealing a live one, never seen before it listens.

The new socket is bound under a temporary name beside the wanted one, given its owner and mode,
made to listen, and only then renamed into place. A lock on the directory keeps two processes that
start at once from both finding the same stale socket.
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
from criproxy.relay.dial import connect
from criproxy.relay.endpoints import Endpoint

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn caps it."""

DEFAULT_MODE: Final = 0o660
"""What runtimes give their sockets: as root on the node is what it is worth."""

_DIRECTORY_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect: a socket's mode and owner. None for what is to stay as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None

    def or_else(self, other: "Access") -> "Access":
        """Fill what is None from another."""
        return Access(
            other.mode if self.mode is None else self.mode,
            other.uid if self.uid is None else self.uid,
            other.gid if self.gid is None else self.gid,
        )


def access_of(endpoint: Endpoint) -> Access | None:
    """Read a socket's mode and owner; None where there is no such socket.

    The owner is left out where this process is not root, which may not give it on.
    """
    try:
        found = os.stat(endpoint.path)
    except OSError:
        return None
    mode = stat.S_IMODE(found.st_mode)
    return Access(mode, found.st_uid, found.st_gid) if os.geteuid() == 0 else Access(mode)


def parse_owner(text: str) -> tuple[int | None, int | None]:
    """Read ``user``, ``user:group`` or ``:group``, names or numbers, as chown(1) does.

    Raises ValueError, naming what is not known.
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


class BoundSocket:
    """A listening socket and its place in the file system."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint, identity: tuple[int, int]) -> None:
        self.socket = sock
        self.endpoint = endpoint
        self._identity = identity

    def grant(self, access: Access) -> None:
        """Set owner and mode, as far as they are not None. Raises OSError where it may not."""
        if self._is_ours():
            _grant(self.endpoint.path, access)

    def close(self) -> None:
        """Stop listening, and remove the socket if it is still ours."""
        self.socket.close()
        if self._is_ours():
            os.unlink(self.endpoint.path)

    def _is_ours(self) -> bool:
        try:
            found = os.lstat(self.endpoint.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity


def bind(endpoint: Endpoint, access: Access) -> BoundSocket:
    """Listen at an endpoint; parent directories are made, a stale socket is replaced.

    Raises EndpointError when the place is taken by something that is not a socket, and
    UnavailableError when another process listens there or the file system refuses.
    """
    path = Path(endpoint.path)
    try:
        _make_directories(path.parent)
        with _locked(path.parent) as directory:
            _refuse_if_taken(endpoint)
            # Through the open directory the temporary name is short, whatever the path's length.
            short = f"/proc/self/fd/{directory}/.criproxy.{os.getpid()}"
            sock = _listening(short, access)
            try:
                found = os.stat(short)
                os.rename(short, path.name, dst_dir_fd=directory)
            except BaseException:
                sock.close()
                os.unlink(short)
                raise
    except OSError as error:
        raise UnavailableError(
            f"cannot listen at {endpoint}: {error.strerror or error}; "
            "choose another --listen path or run with the rights to it"
        ) from error
    return BoundSocket(sock, endpoint, (found.st_dev, found.st_ino))


def _listening(path: str, access: Access) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # left by a process of our id that died in between
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
    if access.mode is not None:
        os.chmod(path, access.mode)


def _make_directories(path: Path) -> None:
    """Make a directory and its parents, writable by their owner alone whatever the umask."""
    if path.is_dir():
        return
    _make_directories(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(_DIRECTORY_MODE)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(directory)


def _refuse_if_taken(endpoint: Endpoint) -> None:
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
        connect(endpoint).close()
    except ConnectionRefusedError:
        return  # stale: whoever bound it is gone
    except BlockingIOError:
        pass  # its backlog is full, so it lives
    raise UnavailableError(
        f"cannot listen at {endpoint}: another process listens there; "
        "stop it or choose another path with --listen"
    )
