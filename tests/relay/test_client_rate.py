"""A client whose frames carry nothing is slowed down, then its connection ends."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.wire.constants import ErrorCode
from tests.support import wire
from tests.support.grpc_peers import SERVICE, Peer, channel
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.relaying import Relay
from tests.support.waiting import LIMIT_SECONDS, wait_until

RATE = 20.0
"""Frames per second: a low limit."""

FRAMES = {
    "ping": wire.ping(),
    "settings": wire.settings(),
    "window updates of 1": wire.window_update(0, 1),
    "priority": wire.frame(wire.PRIORITY, 0, 1, b"\0\0\0\0\x10"),
    "unknown": wire.frame(0xF0),
}


@pytest.fixture(params=[False, True], ids=["pair", "split"])
def image(request: pytest.FixtureRequest, short_dir: Path) -> Path | None:
    """Each test runs also where the image service is another process."""
    return short_dir / "images.sock" if request.param else None


@contextlib.contextmanager
def runtime(path: Path) -> Iterator[None]:
    """A runtime that sends SETTINGS and reads all that comes, without an answer."""

    def serve(connected: socket.socket) -> None:
        with connected, contextlib.suppress(OSError):
            connected.sendall(wire.settings())
            receive_all(connected)

    def run() -> None:
        while True:
            connected = accept(listener)
            if over.is_set():
                connected.close()
                return
            threads.append(threading.Thread(target=serve, args=(connected,)))
            threads[-1].start()

    over = threading.Event()
    threads: list[threading.Thread] = []
    with listening(path) as listener:
        accepting = threading.Thread(target=run)
        accepting.start()
        try:
            yield
        finally:
            over.set()
            dial(path).close()
            accepting.join()
            for thread in threads:
                thread.join()


def flood(client: socket.socket, frame: bytes) -> None:
    """Send a frame again and again until the connection ends."""
    with contextlib.suppress(OSError):
        while True:
            client.sendall(frame * 20)


@pytest.mark.parametrize("kind", FRAMES)
def test_connection_is_ended(short_dir: Path, loop: str, image: Path | None, kind: str) -> None:
    """The connection ends with ENHANCE_YOUR_CALM, reported once; others go on."""
    path = short_dir / "runtime.sock"
    with (
        runtime(path),
        Relay(short_dir, path, image=image, loop=loop, frame_rate=RATE) as relay,
        dial(relay.path) as client,
    ):
        client.sendall(wire.PREFACE + wire.settings())
        got = receive(client, 9)  # SETTINGS, without which there is no GOAWAY
        flooding = threading.Thread(target=flood, args=(client, FRAMES[kind]))
        flooding.start()
        with contextlib.suppress(ConnectionResetError):  # what it sent was not read to the end
            while part := client.recv(1 << 16):
                got += part
        flooding.join(LIMIT_SECONDS)
        # More than a thousand SETTINGS without an ACK are not read, so nothing can be inserted.
        if image or kind != "settings":
            assert got.endswith(wire.goaway(0, ErrorCode.ENHANCE_YOUR_CALM))
        wait_until(lambda: len(relay.recorder.closed) == 1, "end of the connection")
        assert relay.recorder.too_fast == relay.recorder.opened
        with dial(relay.path) as other:
            other.sendall(wire.PREFACE)
            assert receive(other, 9)[3] == wire.SETTINGS


STOPPING = {
    "settings": wire.settings() * 1000,
    "block": wire.frame(wire.HEADERS, 0, 1) + wire.frame(wire.CONTINUATION, 0, 1) * 129,
    "idle stream": wire.data(1, b"?"),
}


@pytest.mark.parametrize("kind", STOPPING)
def test_a_connection_that_is_not_read(short_dir: Path, loop: str, kind: str) -> None:
    """A client that exceeds a limit of the reader, or sends DATA on an idle stream, which grpc-go's
    servers ignore, is no longer read, but still limited."""
    path = short_dir / "runtime.sock"
    with (
        runtime(path),
        Relay(short_dir, path, loop=loop, frame_rate=100) as relay,
        dial(relay.path) as client,
    ):
        client.sendall(wire.PREFACE + wire.settings())
        client.sendall(STOPPING[kind])
        wait_until(lambda: relay.recorder.stopped, "end of the reading")
        flood(client, FRAMES["ping"])
        wait_until(lambda: len(relay.recorder.closed) == 1, "end of the connection")
        assert relay.recorder.too_fast == relay.recorder.opened


def test_client_is_slowed_down(short_dir: Path, loop: str, image: Path | None) -> None:
    """A client above the limit, but not far, is read from later; its connection stays."""
    path = short_dir / "runtime.sock"
    with (
        runtime(path),
        Relay(short_dir, path, image=image, loop=loop, frame_rate=RATE) as relay,
        dial(relay.path) as client,
    ):
        client.sendall(wire.PREFACE + wire.settings())
        wait_until(lambda: relay.recorder.opened, "connection")
        client.sendall(FRAMES["priority"] * int(RATE * 11))
        client.sendall(wire.settings(ack=True) + wire.headers(1, wire.block(*REQUEST)))
        wait_until(lambda: relay.recorder.begun, "call")
        assert relay.recorder.too_fast == []
        assert relay.recorder.closed == []


REQUEST = wire.request_fields(b"/test.Peer/Hang")


def test_calls_are_not_limited(short_dir: Path, peer: Peer, loop: str, image: Path | None) -> None:
    """A gRPC client that makes calls as fast as it can is neither slowed down nor ended."""
    with (
        Relay(short_dir, peer.path, image=image, loop=loop, frame_rate=RATE) as relay,
        channel(relay.path) as one,
    ):
        call = one.unary_unary(f"/{SERVICE}/Unary")
        for _ in range(500):
            assert call(b"x" * 100, timeout=LIMIT_SECONDS) == b"x" * 100
        assert relay.recorder.too_fast == []
        assert len(relay.recorder.opened) == 1
