"""Who is at the other end of a unix socket (SO_PEERCRED, unix(7))."""

import os
import socket
from struct import Struct
from typing import Final

from criproxy.peers import Peer

_UCRED: Final = Struct("iII")


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel and /proc for the process that connected. Never fails for want of /proc."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    try:
        found = os.readlink(b"/proc/%d/exe" % pid)
    except OSError:
        return Peer(pid, uid, gid, None)
    # A path may hold any bytes; logs and pages hold UTF-8.
    return Peer(pid, uid, gid, found.decode(errors="backslashreplace"))
