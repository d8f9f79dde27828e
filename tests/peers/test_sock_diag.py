"""Unix sockets as reported by the kernel."""

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from criproxy.errors import UnavailableError
from criproxy.peers.sock_diag import (
    ESTABLISHED,
    LISTEN,
    UnixSocket,
    messages,
    read_socket,
    unix_sockets,
)

HEADER = struct.pack("=BBBBIII", 1, 1, LISTEN, 0, 4711, 1, 0)


def attribute(kind: int, value: bytes) -> bytes:
    padding = b"\0" * (-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


NAME = attribute(0, b"/run/x.sock\0")
FILE = attribute(1, struct.pack("=II", 77, 8 << 20 | 1))
PEER = attribute(2, struct.pack("=I", 4712))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER, UnixSocket(4711, LISTEN)),
        (HEADER + NAME, UnixSocket(4711, LISTEN, "/run/x.sock")),
        (HEADER + attribute(0, b"/run/x"), UnixSocket(4711, LISTEN, "/run/x")),
        (HEADER + attribute(0, b"\0hidden"), UnixSocket(4711, LISTEN, "@hidden")),
        (
            HEADER + NAME + FILE + PEER,
            UnixSocket(4711, LISTEN, "/run/x.sock", (os.makedev(8, 1), 77), 4712),
        ),
        (
            HEADER + attribute(3, struct.pack("=III", 5, 0, 6)),
            UnixSocket(4711, LISTEN, waiting=(5, 6)),
        ),
        (HEADER + attribute(6, b"\1") + PEER, UnixSocket(4711, LISTEN, "", None, 4712)),
    ],
)
def test_description(content: bytes, expected: UnixSocket) -> None:
    """Name, file and peer are read, padded as they are; other attributes are passed over."""
    assert read_socket(content) == expected


def test_cut_description() -> None:
    """A description that is cut within something is an error, never a wrong answer."""
    whole = HEADER + FILE + PEER
    ends = {len(HEADER), len(HEADER + FILE), len(whole)}
    for size in range(len(whole)):
        if size not in ends:
            with pytest.raises(OSError, match="cut short"):
                read_socket(whole[:size])


def test_messages() -> None:
    """Messages stand one behind the other, each padded to four bytes; a cut one is an error."""
    data = struct.pack("=IHHII", 18, 20, 2, 1, 0) + b"ab\0\0"
    data += struct.pack("=IHHII", 16, 3, 0, 1, 0)
    assert list(messages(data)) == [(20, 2, b"ab"), (3, 0, b"")]
    for size in (1, 15, 17, 21, 35):
        with pytest.raises(OSError, match="cut short"):
            list(messages(data[:size]))


def test_message_without_length() -> None:
    """A length that is less than the header's is an error, and no endless loop."""
    with pytest.raises(OSError, match="cut short"):
        list(messages(bytes(16)))


def test_kernel(short_dir: Path) -> None:
    """The kernel reports the listening socket, and both ends of a connection by their inodes."""
    path = str(short_dir / "a.sock")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(path)
        listening.listen()
        client.connect(path)
        accepted, _ = listening.accept()
        with accepted:
            inode = {each: os.fstat(each.fileno()).st_ino for each in (listening, client, accepted)}
            found = {each.inode: each for each in unix_sockets()}
            at = os.stat(path)
    file = (at.st_dev, at.st_ino)
    assert found[inode[listening]] == UnixSocket(inode[listening], LISTEN, path, file)
    assert found[inode[accepted]] == UnixSocket(
        inode[accepted], ESTABLISHED, path, file, inode[client]
    )
    assert found[inode[client]].peer == inode[accepted]


def test_table_that_changed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked again where its table changed while it was read."""
    answers = [([], False), ([UnixSocket(1, LISTEN)], True)]
    monkeypatch.setattr("criproxy.peers.sock_diag._dump", lambda: answers.pop(0))
    assert unix_sockets() == [UnixSocket(1, LISTEN)]


def test_kernel_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has no sock_diag for unix sockets is said to have none."""

    def refuse() -> None:
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("criproxy.peers.sock_diag._dump", refuse)
    with pytest.raises(UnavailableError, match="sock_diag"):
        unix_sockets()


def test_connection_that_nobody_accepted(short_dir: Path) -> None:
    """Clients that wait to be accepted are reported with the listening socket."""
    path = str(short_dir / "a.sock")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(path)
        listening.listen()
        client.connect(path)
        inode = os.fstat(client.fileno()).st_ino
        waiting = [each.name for each in unix_sockets() if inode in each.waiting]
    assert waiting == [path]
