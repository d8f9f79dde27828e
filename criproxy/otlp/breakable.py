"""The connection of a client that another thread can break off."""

import socket
from contextlib import suppress


class Breakable:
    """The connection of a client. Used by one thread, except ``abort``."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._aborted = False

    def abort(self) -> None:
        """Make a waiting request fail, and all later ones. Thread-safe."""
        self._aborted = True
        connection = self._socket
        if connection is not None:
            with suppress(OSError):
                # Not SSLSocket's, which would have the other thread go on without TLS.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _use(self, sock: socket.socket) -> None:
        """Have ``abort`` shut this socket down. Raises ConnectionAbortedError after it.

        To be called again when the socket is wrapped for TLS: that detaches the one before.
        """
        self._socket = sock
        self._refuse_aborted()

    def _refuse_aborted(self) -> None:
        if self._aborted:
            raise ConnectionAbortedError("it was broken off")
