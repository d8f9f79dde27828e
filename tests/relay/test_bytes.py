"""Bytes pass unchanged between plain sockets: order, half-close and disconnection."""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from criproxy.wire.reading.connection import ConnectionReader, Event, Side
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.relaying import Recorder, Relay, read_with
from tests.support.waiting import LIMIT_SECONDS, wait_until
from tests.support.wire import PREFACE


class Ends(NamedTuple):
    client: socket.socket
    runtime: socket.socket
    relay: Relay


@contextlib.contextmanager
def connected(directory: Path, loop: str, recorder: Recorder | None = None) -> Iterator[Ends]:
    """A client and a runtime with a relay between them."""
    path = directory / "runtime.sock"
    with (
        listening(path) as listener,
        Relay(directory, path, loop=loop, recorder=recorder) as relay,
        dial(relay.path) as client,
        accept(listener) as runtime,
    ):
        yield Ends(client, runtime, relay)


@pytest.fixture
def ends(short_dir: Path, loop: str) -> Iterator[Ends]:
    with connected(short_dir, loop) as ends:
        yield ends


def send_cut(sock: socket.socket, data: bytes, chance: random.Random) -> None:
    """Send all in pieces of random sizes, and end the sending."""
    position = 0
    while position < len(data):
        size = chance.choice((1, 9, 100, 5_000, 70_000, 300_000))
        sock.sendall(data[position : position + size])
        position += size
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("start", [b"", PREFACE], ids=["garbage", "preface"])
def test_random_bytes_in_random_pieces(ends: Ends, seed: int, start: bytes) -> None:
    """Whatever the bytes and the pieces, each side gets what the other sent, both at once."""
    chance = random.Random(seed)
    sent = [start + chance.randbytes(chance.randrange(3_000_000)) for _ in range(2)]
    senders = [
        threading.Thread(target=send_cut, args=(sock, data, random.Random(seed)))
        for sock, data in zip(ends[:2], sent, strict=True)
    ]
    got: dict[str, bytes] = {}
    reader = threading.Thread(target=lambda: got.update(client=receive_all(ends.client)))
    for thread in (*senders, reader):
        thread.start()
    got["runtime"] = receive_all(ends.runtime)
    for thread in (*senders, reader):
        thread.join()
    assert got["runtime"] == sent[0]
    assert got["client"] == sent[1]
    ends.relay.recorder.all_closed()
    assert len(ends.relay.recorder.stopped) == 1


def test_half_close_is_a_half_close(ends: Ends) -> None:
    """The end of one direction is passed on, and the other direction goes on."""
    ends.client.sendall(b"question")
    ends.client.shutdown(socket.SHUT_WR)
    assert receive_all(ends.runtime) == b"question"
    for answer in (b"one", b"two"):
        ends.runtime.sendall(answer)
        assert receive(ends.client, 3) == answer
    ends.runtime.shutdown(socket.SHUT_WR)
    assert receive_all(ends.client) == b""
    ends.relay.recorder.all_closed()


def test_half_close_by_the_runtime(ends: Ends) -> None:
    """The runtime may end its sending first, and still be sent to."""
    ends.runtime.sendall(b"last words")
    ends.runtime.shutdown(socket.SHUT_WR)
    assert receive_all(ends.client) == b"last words"
    ends.client.sendall(b"heard")
    assert receive(ends.runtime, 5) == b"heard"
    ends.client.close()
    assert receive_all(ends.runtime) == b""
    ends.relay.recorder.all_closed()


def test_gone_after_a_half_close(ends: Ends) -> None:
    """A client that half-closes and then closes ends the connection, whatever the runtime does."""
    ends.client.shutdown(socket.SHUT_WR)
    assert receive_all(ends.runtime) == b""
    ends.client.close()
    ends.relay.recorder.all_closed()


@pytest.mark.parametrize("first", ["client", "runtime"])
def test_hang_up_after_all_bytes(ends: Ends, first: str) -> None:
    """A side that hangs up ends the other's connection, once what it had sent is delivered."""
    leaving, staying = (ends[0], ends[1]) if first == "client" else (ends[1], ends[0])
    data = random.Random(1).randbytes(2_000_000)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(receive_all(staying)))
    reader.start()
    leaving.sendall(data)
    leaving.close()
    reader.join()
    assert got == [data]
    with pytest.raises(BrokenPipeError):
        staying.sendall(b"anybody there?")
    ends.relay.recorder.all_closed()


@pytest.mark.parametrize("first", ["client", "runtime"])
def test_last_words_outlive_a_failed_write(ends: Ends, first: str) -> None:
    """What a side sent before it hung up is delivered, although writing to it fails already."""
    leaving, staying = (ends[0], ends[1]) if first == "client" else (ends[1], ends[0])
    ends.client.sendall(b"c")
    ends.runtime.sendall(b"r")
    assert (ends.runtime.recv(1), ends.client.recv(1)) == (b"c", b"r")
    blocked, go_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        go_on.wait(LIMIT_SECONDS)

    ends.relay.loop.call_soon_threadsafe(block)
    assert blocked.wait(LIMIT_SECONDS)
    staying.sendall(b"too late")  # is read first, and cannot be written any more
    leaving.sendall(b"last words" * 5000)
    leaving.close()
    go_on.set()
    assert receive_all(staying) == b"last words" * 5000
    ends.relay.recorder.all_closed()


class CrashingReader(ConnectionReader):
    """Fails at the first bytes."""

    def receive(self, side: Side, data: bytes, now: float) -> list[Event]:
        raise RuntimeError("a bug")


def test_crash_of_the_reader(short_dir: Path, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the reader's own costs the connection's reading, not its bytes."""
    read_with(monkeypatch, CrashingReader)
    with connected(short_dir, loop) as ends:
        ends.client.sendall(PREFACE)
        assert receive(ends.runtime, len(PREFACE)) == PREFACE
        ends.runtime.sendall(b"answer")
        assert receive(ends.client, 6) == b"answer"
        wait_until(lambda: ends.relay.recorder.stopped, "event")
    reason, detail = ends.relay.recorder.stopped[0]
    assert reason == "internal_error"
    assert "RuntimeError: a bug" in detail


def test_reading_stops_once_for_a_connection(ends: Ends) -> None:
    """Bytes that are not HTTP/2 are reported once, however many follow."""
    for _ in range(5):
        ends.client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert receive(ends.runtime, 35).startswith(b"GET /")
        ends.runtime.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        assert receive(ends.client, 19).endswith(b"OK\r\n\r\n")
    wait_until(lambda: ends.relay.recorder.stopped, "event")
    ends.client.close()
    ends.relay.recorder.all_closed()
    assert [event.reason for event in ends.relay.recorder.stopped] == ["http1"]


class Crashing(Recorder):
    """Fails at the first event that is reported to it."""

    crashed = False

    def observe(self, connection: object, event: object) -> None:
        if not self.crashed:
            self.crashed = True
            raise RuntimeError("a bug")
        super().observe(connection, event)  # type: ignore[arg-type]


def test_crash_of_the_observer(short_dir: Path, loop: str) -> None:
    """A fault of the observer's is reported, and neither bytes nor later events are lost."""
    with connected(short_dir, loop, Crashing()) as ends:
        ends.client.sendall(b"garbage, all of it; far more than a preface")
        assert receive(ends.runtime, 43)
        wait_until(lambda: ends.relay.crashes, "report")
        with dial(ends.relay.path) as another:
            another.sendall(b"garbage, all of it; far more than a preface")
            wait_until(lambda: ends.relay.recorder.stopped, "event")
        assert [str(error) for error in ends.relay.crashes] == ["a bug"]
        ends.relay.crashes.clear()
