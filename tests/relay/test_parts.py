"""A chunk of very many frames is handled in parts, with turns of the event loop between them."""

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from criproxy.wire.reading.connection import ConnectionReader, Event, Side
from tests.support import wire
from tests.support.grpc_peers import SERVICE, Peer
from tests.support.handlers import POLICIES
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.relaying import Relay, read_with
from tests.support.waiting import LIMIT_SECONDS, wait_until

FRAMES = b"".join(wire.frame(0xF0, payload=number.to_bytes(4, "big")) for number in range(5000))
"""Frames of an unknown kind, numbered so that their order shows."""
AT_ONCE = 8192
"""Bytes of such frames that may be handled in a turn; those above are of a whole chunk."""
OPENING = wire.PREFACE + wire.settings() + wire.headers(1, wire.block(*wire.request_fields()))
STATUS = wire.block((b":status", b"200"), (b"grpc-status", b"0"))
ANSWERING = wire.settings() + wire.settings(ack=True)


Turns = Counter[tuple[int, Side]]


class Ends(NamedTuple):
    client: socket.socket
    runtime: socket.socket
    relay: Relay


@pytest.fixture(params=["no rules", "rules for none", "held and sent on"])
def ends(
    request: pytest.FixtureRequest, short_dir: Path, loop: str, turns: Turns
) -> Iterator[Ends]:
    """A client and a runtime that have sent their first frames; a call is in flight."""
    path = short_dir / "runtime.sock"
    policy = POLICIES[request.param]()
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop, policy=policy, frame_rate=1e9) as relay,
        dial(relay.path) as client,
        accept(listener) as runtime,
    ):
        client.sendall(OPENING)
        assert receive(runtime, len(OPENING)) == OPENING
        runtime.sendall(ANSWERING)
        assert receive(client, len(ANSWERING)) == ANSWERING
        yield Ends(client, runtime, relay)


@contextlib.contextmanager
def at_once(relay: Relay) -> Iterator[None]:
    """Keep the relay's loop from reading what is sent within the block, until it is left."""
    blocked, go_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        go_on.wait(LIMIT_SECONDS)

    relay.loop.call_soon_threadsafe(block)
    assert blocked.wait(LIMIT_SECONDS)
    try:
        yield
    finally:
        go_on.set()


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """The bytes of each side that the relay's readers were shown in each turn of the loop."""
    handled: Turns = Counter()
    turn = [0]

    def next_turn() -> None:
        turn[0] += 1

    class Counting(ConnectionReader):
        def receive(self, side: Side, data: bytes, now: float) -> list[Event]:
            handled[turn[0], side] += len(data)
            asyncio.get_running_loop().call_soon(next_turn)
            return super().receive(side, data, now)

    read_with(monkeypatch, Counting)
    return handled


@pytest.mark.parametrize("first", ["client", "runtime"])
def test_order_and_end(ends: Ends, turns: Turns, first: str) -> None:
    """All frames are forwarded in order, in many turns, and the half-close follows them."""
    sender, receiver = (ends[0], ends[1]) if first == "client" else (ends[1], ends[0])
    last = wire.reset(1) if first == "client" else wire.headers(1, STATUS, end=True)
    with at_once(ends.relay):
        sender.sendall(FRAMES + last)
        sender.shutdown(socket.SHUT_WR)
    received = receive_all(receiver)
    assert received[: len(FRAMES)] == FRAMES
    assert received[len(FRAMES) + 3] == last[3]
    assert max(turns.values()) <= AT_ONCE


@pytest.mark.parametrize("first", ["client", "runtime"])
def test_close(ends: Ends, turns: Turns, first: str) -> None:
    """A side that closes is followed by the close of the other one, behind all of its frames."""
    sender, receiver = (ends[0], ends[1]) if first == "client" else (ends[1], ends[0])
    with at_once(ends.relay):
        sender.sendall(FRAMES)
        sender.close()
    assert receive_all(receiver)[: len(FRAMES)] == FRAMES
    assert max(turns.values()) <= AT_ONCE
    ends.relay.recorder.all_closed()


@pytest.mark.parametrize("first", ["client", "runtime"])
def test_close_and_a_failed_write(ends: Ends, turns: Turns, first: str) -> None:
    """So it is where a write to the side that has closed fails first."""
    sender, receiver = (ends[0], ends[1]) if first == "client" else (ends[1], ends[0])
    with at_once(ends.relay):
        receiver.sendall(wire.ping(ack=True))  # is read first, and cannot be written any more
        sender.sendall(FRAMES)
        sender.close()
    assert receive_all(receiver)[: len(FRAMES)] == FRAMES
    assert max(turns.values()) <= AT_ONCE
    ends.relay.recorder.all_closed()


def test_client_that_reads_nothing(ends: Ends, short_dir: Path) -> None:
    """A client that has ended its reading and goes on sending does not keep the loop."""
    ends.client.shutdown(socket.SHUT_RD)
    over = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                ends.client.sendall(FRAMES)

    def drain() -> None:
        while ends.runtime.recv(1 << 20):
            pass

    threads = [threading.Thread(target=each) for each in (flood, drain)]
    for thread in threads:
        thread.start()
    try:
        ends.runtime.sendall(wire.ping(ack=True))  # cannot be written
        for _ in range(10):
            ends.relay.call(lambda: None)
    finally:
        over.set()
        threads[0].join()
        ends.client.close()
        threads[1].join()
    ends.relay.recorder.all_closed()


def test_drain(ends: Ends, turns: Turns) -> None:
    """A call behind the frames of a chunk is served before a drained connection is closed."""
    drained = ends.relay.drain()
    goaway = receive(ends.client, 17 + 17)
    assert (goaway[3], goaway[17 + 3]) == (wire.GOAWAY, wire.PING)
    request = wire.headers(3, wire.block(*wire.request_fields(b"/test/Other")), end=True)
    ack = wire.frame(wire.PING, wire.ACK, 0, goaway[-8:])
    with at_once(ends.relay):
        ends.client.sendall(FRAMES + wire.reset(1) + request + ack + FRAMES)
    assert receive(ends.runtime, len(FRAMES)) == FRAMES
    received = receive(ends.runtime, 13 + 9)
    while not received.endswith(FRAMES[-26:]):
        received += ends.runtime.recv(1 << 20)
    assert ack not in received
    assert max(turns.values()) <= AT_ONCE
    ends.runtime.sendall(wire.headers(3, STATUS, end=True))
    answer = receive_all(ends.client)
    assert answer[3] == wire.HEADERS
    assert answer.endswith(wire.goaway(3))
    assert drained.result(LIMIT_SECONDS)


def test_split(short_dir: Path, peer: Peer, loop: str, turns: Turns) -> None:
    """The frames of a client of two upstreams are answered in order, in many turns."""
    request = wire.headers(1, wire.block(*wire.request_fields(f"/{SERVICE}/Unary".encode())))
    pings = b"".join(wire.frame(wire.PING, 0, 0, bytes(7) + bytes((n,))) for n in range(250)) * 8
    images = short_dir / "images.sock"
    with (
        Relay(short_dir, peer.path, image=images, loop=loop, frame_rate=1e9) as relay,
        dial(relay.path) as client,
    ):
        client.sendall(wire.PREFACE + wire.settings())
        wait_until(lambda: relay.recorder.opened, "connection")
        with at_once(relay):
            client.sendall(pings + request + wire.data(1, wire.message(b"m"), end=True))
        frames: list[bytes] = []
        rest = b""
        while not any(each[3] == wire.HEADERS and each[4] & wire.END_STREAM for each in frames):
            more, rest = whole_frames(rest + client.recv(1 << 20))
            frames += more
        acknowledged = [each[9:] for each in frames if each[3:5] == bytes((wire.PING, wire.ACK))]
        assert acknowledged == [each[9:] for each in whole_frames(pings)[0]]
        assert max(turns.values()) <= AT_ONCE
        assert relay.recorder.calls(1)[0].code == "OK"


@pytest.mark.parametrize("image", ["pair", "split"])
@pytest.mark.parametrize("policy", ["no rules", "rules for none"])
def test_parts_of_a_throttled_client(
    short_dir: Path, peer: Peer, loop: str, policy: str, image: str
) -> None:
    """All frames of a chunk count at once: it ends the connection, however small its parts are."""
    images = short_dir / "images.sock" if image == "split" else None
    rules = POLICIES[policy]()
    with (
        Relay(short_dir, peer.path, image=images, loop=loop, policy=rules, frame_rate=100) as relay,
        dial(relay.path) as client,
    ):
        client.sendall(wire.PREFACE + wire.settings())
        receive(client, 9)
        with at_once(relay):
            client.sendall(FRAMES)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(1 << 16):
                pass
        relay.recorder.all_closed()
        assert relay.recorder.too_fast == relay.recorder.opened


def whole_frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the complete frames, and the rest."""
    frames = []
    while len(data) >= 9 and len(data) >= (end := 9 + int.from_bytes(data[:3], "big")):
        frames.append(data[:end])
        data = data[end:]
    return frames, data
