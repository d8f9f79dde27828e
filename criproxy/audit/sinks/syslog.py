"""Sends records to a syslog server as RFC 5424 messages whose text is the record's JSON.

Over a unix socket or UDP each message is a datagram; a record too large for one is dropped and
counted. Over TCP each has its length before it (RFC 6587, octet counting). Over a unix stream
socket each is a line. Neither UDP nor TCP confirm delivery: what the kernel accepts counts as
written.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import msgspec

from criproxy.audit.dropped import timestamp
from criproxy.audit.sinks.record_head import RecordHead, read_head
from criproxy.audit.sinks.sink import Outlet, Progress
from criproxy.audit.spec import SyslogSpec
from criproxy.errors import UsageError

_FACILITIES: Final = {
    "kern": 0, "user": 1, "daemon": 3, "auth": 4, "syslog": 5, "cron": 9, "authpriv": 10,
    "local0": 16, "local1": 17, "local2": 18, "local3": 19,
    "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}  # fmt: skip
_PORTS: Final = {"udp": 514, "tcp": 601}
_TIMEOUT: Final = 5.0
"""Seconds until connecting or sending fails."""
_BUFFER: Final = 4 << 20
"""Bytes of the send buffer, which limits the size of a unix datagram."""
_MICROSECONDS: Final = len("2026-11-23T10:15:00.123456")
"""RFC 5424 allows no more digits."""
_UNREADABLE: Final = RecordHead(kind="Unreadable")


class SyslogOutlet(Outlet):
    """Sends lines to one server."""

    def __init__(self, spec: SyslogSpec, node: str) -> None:
        """``node`` is the HOSTNAME of each message. Raises UsageError for a bad address."""
        self._address = spec.address
        self._facility = _FACILITIES[spec.facility]
        self._host = (node.encode("ascii", "replace")[:255].replace(b" ", b"-")) or b"-"
        self._scheme, self._target = _parse(spec.address)
        self._socket: socket.socket | None = None
        self._streams = False  # whether a unix socket is a stream socket

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Send lines one by one."""
        done = lost = 0
        trouble = ""
        try:
            for line in lines:
                if not self._send(self._message(line)):
                    lost += 1
                    trouble = f"a record is too large for one message to {self._address}; dropped"
                done += 1
        except OSError as error:
            self._drop_connection()
            because = error.strerror or str(error)
            trouble = f"cannot send to {self._address}: {because}; tried again each second"
        return Progress(done, lost, "too_large" if lost else "", trouble)

    def reopen(self) -> None:
        """Reconnect with the next message."""
        self._drop_connection()

    def abort(self) -> None:
        """Make a waiting send fail."""
        connection = self._socket
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> str:
        """Close the connection."""
        self._drop_connection()
        return ""

    def _message(self, line: bytes) -> bytes:
        try:
            head = read_head(line)
        except msgspec.DecodeError:
            head = _UNREADABLE
        at = timestamp(head.wall_ns(time.time_ns()))
        return b"<%d>1 %s %s criproxy-audit %d %s - %b" % (
            self._facility * 8 + head.severity,
            at[:_MICROSECONDS].encode() + b"Z",
            self._host,
            os.getpid(),
            head.kind.encode("ascii", "replace")[:32].replace(b" ", b"-") or b"-",
            line,
        )

    def _send(self, message: bytes) -> bool:
        """Send a message; return False if it is too large for a datagram. Raises OSError."""
        connection = self._socket or self._connect()
        if self._scheme == "tcp":
            _check_not_closed(connection)
            connection.sendall(b"%d %b" % (len(message), message))
        elif self._streams:
            connection.sendall(message + b"\n")
        else:
            try:
                connection.send(message)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return False
                raise
        return True

    def _connect(self) -> socket.socket:
        if self._scheme == "unix":
            connection = self._connect_unix()
        else:
            kind = socket.SOCK_STREAM if self._scheme == "tcp" else socket.SOCK_DGRAM
            connection = _connect_any(self._target, kind)
        if self._scheme == "tcp":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = connection
        return connection

    def _connect_unix(self) -> socket.socket:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            connection = socket.socket(socket.AF_UNIX, kind)
            try:
                connection.settimeout(_TIMEOUT)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                connection.connect(self._target[0])
            except OSError as error:
                connection.close()
                if error.errno != errno.EPROTOTYPE or kind == socket.SOCK_STREAM:
                    raise
            else:
                self._streams = kind == socket.SOCK_STREAM
                break
        return connection

    def _drop_connection(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _parse(address: str) -> tuple[str, tuple[str, int]]:
    remedy = "write it like unix:///dev/log, udp://host:514 or tcp://host:601"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"syslog address {address!r}: {error}; {remedy}") from error
    if parts.scheme == "unix" and parts.path:
        return "unix", (parts.path, 0)
    if parts.scheme in _PORTS and parts.hostname:
        return parts.scheme, (parts.hostname, port or _PORTS[parts.scheme])
    raise UsageError(f"{address!r} is no syslog address; {remedy}")


def _connect_any(target: tuple[str, int], kind: socket.SocketKind) -> socket.socket:
    """Connect to the first of a host's addresses that accepts. Raises OSError."""
    failure: OSError | None = None
    for family, type_, protocol, _, address in socket.getaddrinfo(*target, type=kind):
        connection = socket.socket(family, type_, protocol)
        try:
            connection.settimeout(_TIMEOUT)
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure or OSError(errno.EADDRNOTAVAIL, "the host has no address")


def _check_not_closed(connection: socket.socket) -> None:
    """Raise if the server has closed the connection: a message would be lost without an error."""
    reading = select.poll()
    reading.register(connection, select.POLLIN)
    if reading.poll(0) and not connection.recv(1, socket.MSG_PEEK):
        raise ConnectionResetError(errno.ECONNRESET, "the server has closed the connection")
