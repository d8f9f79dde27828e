"""A hostile client as a process: ``python -m tests.attacks.attacker NAME VERSION SOCKET``.

It repeats one attack on several connections until SIGTERM. A connection that is closed is opened
again. It writes ``began`` once every connection has sent something, and at its end a line of JSON
with what it has done.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tests.attacks.inputs import BY_NAME, Attack
from tests.support import wire

STEP_SECONDS: Final = 0.2
"""How long a blocked read or write waits before it looks whether to stop."""
READ_BYTES: Final = 1 << 18
INITIAL_WINDOW: Final = 65_535


class Stopped(Exception):  # noqa: N818  # no error: the process is to end
    """SIGTERM has come."""


class HostileClient:
    """Repeats ``attack`` on one connection after the other, until ``stop`` is set."""

    def __init__(self, attack: Attack, version: str, path: str, stop: threading.Event) -> None:
        self.began = threading.Event()
        self.counts: Counter[str] = Counter()
        self._attack = attack
        self._version = version
        self._path = path
        self._stop = stop

    def run(self) -> None:
        """Attack until ``stop`` is set."""
        with suppress(Stopped):
            while True:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                    sock.settimeout(STEP_SECONDS)
                    try:
                        self._connect(sock)
                        self._one_connection(sock)
                    except OSError:
                        self.began.set()  # refused is an answer as well
                        self._pause()

    def _connect(self, sock: socket.socket) -> None:
        while True:
            self._check()
            with suppress(TimeoutError, BlockingIOError):
                sock.connect(self._path)
                return
            self._pause()

    def _one_connection(self, sock: socket.socket) -> None:
        self.counts["connections"] += 1
        connection = _Connection(sock, self._check)
        connection.send(wire.PREFACE + wire.settings())
        if not self._attack.stays:
            connection.handshake()
        for chunk in self._attack.chunks(self._version):
            if self._attack.windows:
                connection.wait_for_window(chunk)
            connection.send(chunk)
            self.began.set()
            self.counts["chunks"] += 1
            self.counts["bytes"] += len(chunk)
            if self._attack.reads:
                connection.read_available()
        if self._attack.stays:
            connection.wait_for_end()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _pause(self) -> None:
        self._stop.wait(0.01)
        self._check()


class _Connection:
    """A blocking connection that follows the windows of what it sends."""

    def __init__(self, sock: socket.socket, check: Callable[[], None]) -> None:
        self._sock = sock
        self._check = check
        self._received = bytearray()
        self._window = INITIAL_WINDOW
        self._initial = INITIAL_WINDOW
        self._streams: dict[int, int] = {}
        self._settings_seen = False

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._check()
            with suppress(TimeoutError):
                view = view[self._sock.send(view) :]

    def handshake(self) -> None:
        while not self._settings_seen:
            self._read()
        self.send(wire.settings(ack=True))

    def wait_for_end(self) -> None:
        while True:
            self._read()

    def read_available(self) -> None:
        """Read what has come, without waiting. Raises ConnectionError at the end."""
        while select.select([self._sock], [], [], 0)[0]:
            self._read()

    def wait_for_window(self, chunk: bytes) -> None:
        """Wait until the DATA frames of a chunk fit the windows, and count them."""
        for stream, size in _data_frames(chunk):
            while min(self._window, self._initial + self._streams.get(stream, 0)) < size:
                self._read()
            self._window -= size
            self._streams[stream] = self._streams.get(stream, 0) - size

    def _read(self) -> None:
        self._check()
        with suppress(TimeoutError):
            data = self._sock.recv(READ_BYTES)
            if not data:
                raise ConnectionResetError("the peer has closed the connection")
            self._received += data
            self._parse()

    def _parse(self) -> None:
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + size:
                return
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:9], "big")
            payload = bytes(self._received[9 : 9 + size])
            del self._received[: 9 + size]
            self._frame(kind, flags, stream, payload)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == wire.GOAWAY:
            raise ConnectionResetError("the peer has sent GOAWAY")
        if kind == wire.SETTINGS and not flags & wire.ACK:
            self._settings_seen = True
            for at in range(0, len(payload), 6):
                if payload[at : at + 2] == b"\0\4":
                    self._initial = int.from_bytes(payload[at + 2 : at + 6], "big")
        elif kind == wire.WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream:
                self._streams[stream] = self._streams.get(stream, 0) + increment
            else:
                self._window += increment


def _data_frames(chunk: bytes) -> list[tuple[int, int]]:
    """Return the stream and length of each DATA frame in a chunk."""
    found, at = [], 0
    while at < len(chunk):
        size = int.from_bytes(chunk[at : at + 3], "big")
        if chunk[at + 3] == wire.DATA:
            found.append((int.from_bytes(chunk[at + 5 : at + 9], "big"), size))
        at += 9 + size
    return found


def main() -> None:
    """Attack until SIGTERM."""
    name, version, path = sys.argv[1:]
    os.nice(5)  # the proxy and its other clients share the machine's cores with it
    attack = BY_NAME[name]
    stop = threading.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the threads inherit it
    clients = [HostileClient(attack, version, path, stop) for _ in range(attack.connections)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for client in clients:
        client.began.wait()
    print("began", flush=True)
    signal.sigwait({signal.SIGTERM})
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(sum((client.counts for client in clients), Counter[str]())), flush=True)


if __name__ == "__main__":
    main()
