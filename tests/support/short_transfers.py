"""Has a process transfer a few bytes at a time where a system call may do less than it is asked to.

:func:`short_transfers` returns the environment for such a process and those that it starts.
"""

import os
import random
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.customized import customized

_chance = random.Random(1)


def short_transfers(directory: Path) -> Mapping[str, str]:
    """The environment of a process whose reads, receives and sends are short."""
    return customized(directory, "from tests.support.short_transfers import install; install()")


def install() -> None:
    """Shorten the transfers of this process; those of a datagram remain whole.

    Writes to files remain whole as well: lines of several processes in one file would mix.
    """
    for name in ("send", "recv", "recv_into", "recvmsg", "sendmsg"):
        setattr(socket.socket, name, _shortened(name, getattr(socket.socket, name)))
    read = os.read
    setattr(os, "read", lambda fd, size: read(fd, _short(size)))  # noqa: B010


def _short(size: int) -> int:
    return min(size, _chance.choice((1, 7, 100, 3_000)))


def _shortened(name: str, whole: Any) -> Any:
    def shortened(sock: socket.socket, what: Any, *arguments: Any) -> Any:
        if sock.type == socket.SOCK_STREAM:
            if name == "sendmsg":
                data = b"".join(what)
                what = [data[: _short(len(data))]]
            elif name in ("recv", "recvmsg"):
                what = _short(what)
            else:
                what = memoryview(what)[: _short(len(what))]
        return whole(sock, what, *arguments)

    return shortened
