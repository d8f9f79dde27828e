"""The daemon's own listening sockets, none of which may be an upstream: it would dial itself.

A path says little: it may be a link, or lead to the socket through a bind mount, or the upstream's
socket may belong to another listener of the daemon (A to B, B to A). So sockets are compared by
device and inode, and by the process that listens at them.
"""

import errno
import os
import socket
import stat
from collections.abc import Container, Iterable

from criproxy.errors import EndpointError
from criproxy.peers.credentials import peer_pid
from criproxy.relay.endpoints import Endpoint


class OwnSockets:
    """Recognizes the daemon's own sockets."""

    def __init__(self, endpoints: Iterable[Endpoint], pids: Container[int] = ()) -> None:
        """``endpoints`` are those of all listeners, ``pids`` the processes that called listen()."""
        self._endpoints = tuple(endpoints)
        self._pids = pids

    def find(self, upstream: Endpoint) -> Endpoint | None:
        """Return the endpoint whose socket an upstream's path leads to; None if it is no own one.

        Links to the upstream are followed. An own path that is a link is another's socket by now.
        """
        try:
            found = os.stat(upstream.path)
        except OSError:
            return None
        for own in self._endpoints:
            try:
                listening = os.lstat(own.path)
            except OSError:
                continue
            if stat.S_ISSOCK(listening.st_mode) and os.path.samestat(found, listening):
                return own
        return None

    def refuse(self, listener: Endpoint, upstream: Endpoint) -> None:
        """Raise EndpointError if a listener's upstream is an own socket."""
        own = self.find(upstream)
        if own is not None:
            place = "itself" if own == listener else f"listener {own} of the same criproxy"
            path = "" if own == upstream else f", which {upstream} leads to"
            raise EndpointError(
                f"listener {listener} has {place} for a runtime{path}; "
                "name the runtime's own socket with --runtime-endpoint"
            )

    def check_path(self, upstream: Endpoint) -> None:
        """Raise OSError (ELOOP) if an upstream's path leads to an own socket."""
        own = self.find(upstream)
        if own is not None:
            raise OSError(errno.ELOOP, f"it leads to {own}, at which criproxy itself listens")

    def check_peer(self, connected: socket.socket) -> None:
        """Raise OSError (ELOOP) if an own process listens at the socket that was connected to."""
        pid = peer_pid(connected)
        if pid in self._pids:
            raise OSError(errno.ELOOP, f"criproxy itself (process {pid}) listens there")
