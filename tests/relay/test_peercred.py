"""Who is at the other end."""

import os
import shutil
import socket
import sys
from pathlib import Path

from criproxy.peers import Peer
from criproxy.relay.peercred import peer_of
from tests.support.process import Process
from tests.support.raw_sockets import accept, listening

_CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.recv(1)
"""


def test_self() -> None:
    """The kernel vouches for pid, uid and gid; /proc names the executable."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        executable = os.readlink("/proc/self/exe")
        assert peer_of(ours) == Peer(os.getpid(), os.geteuid(), os.getegid(), executable)


def test_process_that_is_gone(short_dir: Path) -> None:
    """Of a process that is gone already, the kernel still knows what it was, /proc does not."""
    path = short_dir / "x.sock"
    client = Process([sys.executable, "-c", _CONNECT, str(path)], output=short_dir / "client")
    with listening(path) as listener, client, accept(listener) as connection:
        assert peer_of(connection).executable == os.path.realpath(sys.executable)
        pid = client.pid
        client.kill()
        assert peer_of(connection) == Peer(pid, os.geteuid(), os.getegid(), None)


def test_executable_with_an_odd_name(short_dir: Path) -> None:
    """An executable whose path is not UTF-8 is named so that everything can print it."""
    path = short_dir / "x.sock"
    python = os.fsencode(short_dir) + b"/\xff"
    shutil.copy(os.path.realpath(sys.executable), python)
    argv = [os.fsdecode(python), "-c", _CONNECT, str(path)]
    home = {"PYTHONHOME": sys.base_prefix}
    with (
        listening(path) as listener,
        Process(argv, output=short_dir / "client", env=home),
        accept(listener) as connection,
    ):
        assert peer_of(connection).executable == f"{short_dir}/\\xff"
