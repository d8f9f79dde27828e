"""Reads the kernel's unix sockets with their peers (sock_diag(7), NETLINK_SOCK_DIAG, UNIX_DIAG).

/proc/net/unix has no peers. The kernel reports the sockets of the caller's network namespace to any
user. An accepted socket has the name and the file of the listening one; a client's socket has
neither, but is its peer. Netlink numbers are in native byte order, attributes padded to 4 bytes.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct, error
from typing import Final

from criproxy.errors import UnavailableError

ESTABLISHED: Final = 1
LISTEN: Final = 10
"""Socket states (include/net/tcp_states.h)."""

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 0x001
_NLM_F_DUMP_INTR: Final = 0x010
"""The table changed during the dump: entries may be missing."""
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_UDIAG_SHOW: Final = 0x1 | 0x2 | 0x4 | 0x8
"""Name, file (VFS), peer, connections not yet accepted (ICONS)."""
_UNIX_DIAG_NAME: Final = 0
_UNIX_DIAG_VFS: Final = 1
_UNIX_DIAG_PEER: Final = 2
_UNIX_DIAG_ICONS: Final = 3

_NLMSGHDR: Final = Struct("=IHHII")
"""Length with the header, type, flags, sequence, port."""
_NLMSGERR: Final = Struct("=i")
_REQUEST: Final = Struct("=BBHIIIII")
"""unix_diag_req: family, protocol, pad, states, inode, show, two of the cookie."""
_RESPONSE: Final = Struct("=BBBBIII")
"""unix_diag_msg: family, type, state, pad, inode, two of the cookie."""
_NLATTR: Final = Struct("=HH")
_VFS: Final = Struct("=II")
_PEER: Final = Struct("=I")

_MINOR_BITS: Final = 20
"""Width of the minor number in a kernel device number (include/linux/kdev_t.h)."""

_BUFFER: Final = 256 << 10
"""Bytes; the kernel fills at most 32 KiB at a time."""
_TIMEOUT: Final = 5.0
"""Seconds to wait for a part of the dump."""
_ATTEMPTS: Final = 5
"""Maximum number of dumps until one is not interrupted by changes."""


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """One entry of the kernel's table of unix sockets."""

    inode: int
    """As /proc/PID/fd shows it."""
    state: int
    name: str = ""
    """The address as it was bound; the empty string for none. An abstract one begins with @."""
    file: tuple[int, int] | None = None
    """The device (st_dev) and the inode of the file that it is bound to."""
    peer: int = 0
    """The inode of the other end; 0 for none."""
    waiting: tuple[int, ...] = ()
    """The inodes of clients that have connected and are not accepted yet."""


def unix_sockets() -> list[UnixSocket]:
    """Ask the kernel for every unix socket of this network namespace.

    Raises UnavailableError where it has no sock_diag for them (CONFIG_UNIX_DIAG).
    """
    try:
        for _ in range(_ATTEMPTS):
            found, complete = _dump()
            if complete:
                break
    except OSError as problem:
        raise UnavailableError(
            f"the kernel does not tell its unix sockets (sock_diag): {problem.strerror or problem}"
        ) from problem
    return found


def _dump() -> tuple[list[UnixSocket], bool]:
    """Return the sockets, and whether the dump was uninterrupted. Raises OSError."""
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW, 0, 0)
    flags = _NLM_F_REQUEST | _NLM_F_DUMP
    size = _NLMSGHDR.size + len(body)
    found: list[UnixSocket] = []
    complete = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.send(_NLMSGHDR.pack(size, _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body)
        while True:
            for kind, flags, content in messages(netlink.recv(_BUFFER)):
                complete = complete and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return found, complete
                if kind == _NLMSG_ERROR:
                    code = -_NLMSGERR.unpack_from(content)[0]
                    raise OSError(code, os.strerror(code))
                if kind == _SOCK_DIAG_BY_FAMILY:
                    found.append(read_socket(content))


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the type, flags and content of each netlink message.

    Raises OSError for a truncated one.
    """
    at = 0
    while at < len(data):
        try:
            size, kind, flags, _, _ = _NLMSGHDR.unpack_from(data, at)
        except error:
            raise OSError("a netlink message is cut short") from None
        if size < _NLMSGHDR.size or at + size > len(data):
            raise OSError("a netlink message is cut short")
        yield kind, flags, data[at + _NLMSGHDR.size : at + size]
        at += _aligned(size)


def read_socket(content: bytes) -> UnixSocket:
    """Parse a unix_diag_msg and its attributes; unknown attributes are skipped.

    Raises OSError for a truncated message.
    """
    try:
        _, _, state, _, inode, _, _ = _RESPONSE.unpack_from(content)
        name, file, peer = "", None, 0
        waiting: tuple[int, ...] = ()
        for kind, value in _attributes(content[_RESPONSE.size :]):
            if kind == _UNIX_DIAG_NAME:
                name = _name(value)
            elif kind == _UNIX_DIAG_VFS:
                file_inode, device = _VFS.unpack_from(value)
                major, minor = device >> _MINOR_BITS, device & ((1 << _MINOR_BITS) - 1)
                file = (os.makedev(major, minor), file_inode)
            elif kind == _UNIX_DIAG_PEER:
                peer = _PEER.unpack_from(value)[0]
            elif kind == _UNIX_DIAG_ICONS:
                waiting = tuple(each for (each,) in _PEER.iter_unpack(value) if each)
    except error:
        raise OSError("a socket's description is cut short") from None
    return UnixSocket(inode, state, name, file, peer, waiting)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size, kind = _NLATTR.unpack_from(data, at)
        if size < _NLATTR.size or at + size > len(data):
            raise error
        yield kind, data[at + _NLATTR.size : at + size]
        at += _aligned(size)


def _aligned(size: int) -> int:
    return size + 3 & ~3


def _name(raw: bytes) -> str:
    text = raw.decode(errors="backslashreplace")
    return "@" + text[1:] if text.startswith("\0") else text.removesuffix("\0")
