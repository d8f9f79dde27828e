"""Responses of status 1xx before the response: answers of the proxy's own behind them are whole."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from criproxy.relay.connections.drain import STOPPING
from criproxy.wire.grpc import StatusCode, parse_message
from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.endpoints import Block, Endpoint, Stream
from tests.support.raw_sockets import accept, dial, listening
from tests.support.relaying import Relay
from tests.support.rule_relay import RuleRelay

SERVICE = b"/runtime.v1.RuntimeService/"
EARLY = [(b":status", b"103"), (b"grpc-status", b"0"), (b"content-type", b"text/plain")]
HEADERS = [(b":status", b"200"), (b"content-type", b"application/grpc")]
DENY = {"message": "not here"}
MODES = ["bytes", "split", "shielded"]


class End:
    """One end of a relay, played by the test; its endpoint checks what it is sent."""

    def __init__(self, side: Side, sock: socket.socket) -> None:
        self.endpoint = Endpoint(side)
        self.endpoint.settle()
        self._sock = sock

    def open(self, method: bytes, *, ended: bool = True) -> Stream:
        """Open a stream whose request is one empty message, or only its headers."""
        stream = self.endpoint.open(wire.request_fields(SERVICE + method))
        if ended:
            self.ask(stream)
        self.flush()
        return stream

    def ask(self, stream: Stream, content: bytes = b"") -> None:
        self.endpoint._send_data(stream, wire.message(content), True, None)
        self.flush()

    def call(self, number: int, *, ended: bool = True) -> Stream:
        """Wait for a request, or for its headers."""
        streams = self.endpoint.streams
        while number not in streams or (ended and not streams[number].received.ended):
            self.receive()
        return streams[number]

    def send(self, stream: Stream, *items: Any) -> None:
        stream.outgoing.extend(items)
        while self.endpoint.push(stream, 1 << 16):
            pass
        self.flush()

    def receive_headers(self, stream: Stream, blocks: int) -> None:
        while len(stream.received.headers) < blocks:
            self.receive()

    def leave(self) -> None:
        self._sock.close()

    def receive(self) -> None:
        data = self._sock.recv(1 << 16)
        assert data, "the connection was closed"
        self.endpoint.receive(data)
        self.flush()

    def flush(self) -> None:
        self._sock.sendall(self.endpoint.out)
        self.endpoint.out.clear()


@contextlib.contextmanager
def both_ends(relay: Relay, listener: socket.socket) -> Iterator[tuple[End, End]]:
    """Yield a client and the runtime, whose connection is made at the client's first call."""
    with dial(relay.path) as client_socket:
        client = End(Side.CLIENT, client_socket)
        client.flush()
        first = client.open(b"Version", ended=False)
        with accept(listener) as runtime_socket:
            runtime = End(Side.RUNTIME, runtime_socket)
            runtime.call(first.number, ended=False)
            yield client, runtime


@pytest.fixture
def listener(short_dir: Path) -> Iterator[socket.socket]:
    with listening(short_dir / "runtime.sock") as sock:
        yield sock


@pytest.fixture(params=MODES)
def relay(request: pytest.FixtureRequest, short_dir: Path, loop: str) -> Iterator[Relay]:
    runtime, mode = short_dir / "runtime.sock", request.param
    image = short_dir / "images.sock" if mode == "split" else None
    shields = mode == "shielded"
    with Relay(short_dir, runtime, image=image, loop=loop, shields_reads=shields) as relay:
        yield relay


def answered(stream: Stream, code: StatusCode, message: str, informational: int) -> None:
    """Assert that a client was sent 1xx responses, then an answer that consists of trailers."""
    *early, last = stream.received.headers
    assert [dict(fields) for fields in early] == [dict(EARLY)] * informational
    fields = dict(last)
    assert last[0][0] == b":status"
    assert (fields[b":status"], fields[b"content-type"]) == (b"200", b"application/grpc")
    assert fields[b"grpc-status"] == b"%d" % code
    assert parse_message(fields[b"grpc-message"]) == message
    assert stream.received.ended


def test_response_behind_them(relay: Relay, listener: socket.socket) -> None:
    """They reach the client one by one, before the response."""
    with both_ends(relay, listener) as (client, runtime):
        called = client.open(b"Status")
        stream = runtime.call(called.number)
        runtime.send(stream, Block(EARLY))
        client.receive_headers(called, 1)
        runtime.send(stream, Block(EARLY))
        client.receive_headers(called, 2)
        runtime.send(stream, Block(HEADERS), Block([(b"grpc-status", b"5")], end=True))
        client.receive_headers(called, 4)
        assert called.received == stream.sent
        assert relay.recorder.calls(1)[0][:3] == ("Status", "NOT_FOUND", "status")


def test_events_end_behind_them(relay: Relay, listener: socket.socket) -> None:
    """A stream of events that has sent them alone ends with a whole answer when it is drained."""
    with both_ends(relay, listener) as (client, runtime):
        events = client.open(b"GetContainerEvents")
        runtime.send(runtime.call(events.number), Block(EARLY), Block(EARLY))
        client.receive_headers(events, 2)
        relay.drain()
        client.receive_headers(events, 3)
        answered(events, StatusCode.UNAVAILABLE, STOPPING, informational=2)


def test_runtime_leaves_behind_them(short_dir: Path, listener: socket.socket, loop: str) -> None:
    """A split call whose runtime has sent them alone ends with a whole answer when that is lost."""
    images, runtime_path = short_dir / "images.sock", short_dir / "runtime.sock"
    with (
        Relay(short_dir, runtime_path, image=images, loop=loop) as relay,
        both_ends(relay, listener) as (client, runtime),
    ):
        called = client.open(b"StopContainer")
        runtime.send(runtime.call(called.number), Block(EARLY))
        client.receive_headers(called, 1)
        runtime.leave()
        client.receive_headers(called, 2)
        message = "the runtime closed the connection"
        answered(called, StatusCode.UNAVAILABLE, message, informational=1)


def test_shielded_read_behind_them(short_dir: Path, listener: socket.socket, loop: str) -> None:
    """They are not the beginning of an answer: a read is made again, and events go on."""
    runtime_path = short_dir / "runtime.sock"
    with (
        Relay(short_dir, runtime_path, loop=loop, shields_reads=True) as relay,
        both_ends(relay, listener) as (client, runtime),
    ):
        called, events = client.open(b"Status"), client.open(b"GetContainerEvents")
        runtime.send(runtime.call(called.number), Block(EARLY))
        event = wire.message(b"event")
        stream = runtime.call(events.number)
        runtime.send(stream, Block(EARLY), Block(HEADERS), bytearray(event))
        client.receive_headers(called, 1)
        client.receive_headers(events, 2)
        while not events.received.data:
            client.receive()
        runtime.leave()
        with accept(listener) as sock:
            second = End(Side.RUNTIME, sock)
            for number in (1, 3, 5):
                stream = second.call(number, ended=False)
                method = stream.received.fields[b":path"].removeprefix(SERVICE)
                ok = Block([(b"grpc-status", b"0")], end=True)
                if method != b"Version":
                    second.send(stream, Block(EARLY), Block(HEADERS), bytearray(event), ok)
            client.receive_headers(called, 4)
            client.receive_headers(events, 3)
    statuses = [dict(fields).get(b":status") for fields in called.received.headers]
    assert statuses == [b"103", b"103", b"200", None]
    statuses = [dict(fields).get(b":status") for fields in events.received.headers]
    assert statuses == [b"103", b"200", None]
    assert events.received.data == event * 2


@pytest.mark.parametrize(
    ("match", "action", "code"),
    [
        ({"where": "request.container_id == ''"}, {"deny": DENY}, StatusCode.PERMISSION_DENIED),
        ({}, {"fault": {**DENY, "code": "ABORTED", "when": "after"}}, StatusCode.ABORTED),
    ],
    ids=["deny", "fault"],
)
def test_rules_behind_them(
    short_dir: Path,
    listener: socket.socket,
    loop: str,
    match: dict[str, Any],
    action: dict[str, Any],
    code: StatusCode,
) -> None:
    """The answer of a rule is whole if the runtime has sent them alone, or its own trailers."""
    rule = {"name": "it", "match": {"methods": ["ContainerStatus"], **match}, **action}
    with (
        RuleRelay(short_dir, short_dir / "runtime.sock", loop=loop) as relay,
        both_ends(relay, listener) as (client, runtime),
    ):
        relay.load(rule)
        called = client.open(b"ContainerStatus", ended=False)
        stream = runtime.call(called.number, ended=False)
        runtime.send(stream, Block(EARLY), Block(EARLY))
        client.receive_headers(called, 2)
        client.ask(called)
        if code is StatusCode.ABORTED:
            runtime.call(called.number)
            runtime.send(stream, Block([*HEADERS, (b"grpc-status", b"0")], end=True))
        client.receive_headers(called, 3)
        answered(called, code, DENY["message"], informational=2)
