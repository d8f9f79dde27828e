"""Sends records to systemd's journal in its native protocol; the message is the record's JSON.

``journalctl -t criproxy-audit -o cat`` prints the records as a file has them; fields like
``CRIPROXY_METHOD=ExecSync`` select them. An entry too large for a datagram is sent as the
descriptor of a sealed memory file (systemd, "Native Journal Protocol").
"""

import array
import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from criproxy.audit.sinks.record_head import RecordHead, read_head
from criproxy.audit.sinks.sink import Outlet, Progress
from criproxy.audit.spec import JournaldSpec

_TIMEOUT: Final = 5.0
"""Seconds until a send fails."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE: Final = (errno.EMSGSIZE, errno.ENOBUFS)


class JournaldOutlet(Outlet):
    """Sends each line as a journal entry."""

    def __init__(self, spec: JournaldSpec) -> None:
        self._path = spec.socket
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_TIMEOUT)

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Send lines one by one."""
        done = 0
        try:
            for line in lines:
                self._send(entry(line))
                done += 1
        except OSError as error:
            because = error.strerror or str(error)
            return Progress(
                done,
                trouble=f"cannot send to the journal at {self._path}: {because}; "
                "tried again each second",
            )
        return Progress(done)

    def abort(self) -> None:
        """Make a waiting send fail."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> str:
        """Close the socket."""
        self._socket.close()
        return ""

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            self._send_file(data)

    def _send_file(self, data: bytes) -> None:
        fd = os.memfd_create("criproxy-audit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(fd)


def entry(line: bytes) -> bytes:
    """Encode a record's line as a journal entry."""
    return b"".join(_field(name, value) for name, value in _fields(line))


def _fields(line: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        head = read_head(line)
    except msgspec.DecodeError:
        head = RecordHead(kind="Unreadable")
    yield "MESSAGE", line
    yield "PRIORITY", b"%d" % head.severity
    yield "SYSLOG_IDENTIFIER", b"criproxy-audit"
    values = {
        "KIND": head.kind,
        "AUDIT_ID": head.audit_id,
        "STAGE": head.stage,
        "LISTENER": head.listener,
        "SERVICE": head.service,
        "METHOD": head.method,
        "CODE": head.code,
        "DENIED": head.denied,
    }
    if caller := head.caller:
        values["CALLER_EXECUTABLE"] = caller.executable or ""
        values["CALLER_PID"] = "" if caller.pid is None else str(caller.pid)
        values["CALLER_UID"] = "" if caller.uid is None else str(caller.uid)
    if pod := head.pod:
        values["POD_NAME"], values["POD_NAMESPACE"] = pod.name, pod.namespace
        values["POD_UID"], values["POD_ID"] = pod.uid, pod.id
    if container := head.container:
        values["CONTAINER_NAME"], values["CONTAINER_ID"] = container.name, container.id
    for name, value in values.items():
        if value:
            yield f"CRIPROXY_{name}", value.encode()


def _field(name: str, value: bytes) -> bytes:
    """Encode a field; one with newlines has its length before it."""
    if b"\n" not in value:
        return b"%s=%b\n" % (name.encode(), value)
    return b"%s\n%b%b\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
