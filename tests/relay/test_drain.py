"""Draining: clients move to another process, and no call fails."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from criproxy.cri.methods import ENDLESS
from criproxy.relay.connections.drain import PING_PAYLOAD, STOPPING
from criproxy.relay.listener import DrainResult
from criproxy.wire.constants import LARGEST_STREAM, PREFACE
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.http2.frame_builder import literal_headers, trailers
from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.captures import NAMES, capture
from tests.support.grpc_peers import SERVICE, Peer, channel, start
from tests.support.handlers import POLICIES
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.relaying import Relay
from tests.support.waiting import LIMIT_SECONDS, wait_until

MODES = ["no rules", "rules for none", "held and sent on", "every other held", "split"]
"""Policies of a pair; ``split``: a client whose image service is another process."""

GOAWAY = wire.goaway(LARGEST_STREAM)
RETRIES = [("grpc.enable_retries", 1)]
"""As clients have it by default: a call of which nothing has been sent when a GOAWAY comes is made
on the next connection."""

NEVER = 1e9
"""Seconds."""

PING = wire.frame(wire.PING, 0, 0, PING_PAYLOAD)
PING_ACK = wire.frame(wire.PING, wire.ACK, 0, PING_PAYLOAD)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(short_dir: Path, peer: Peer, loop: str, mode: str) -> Callable[..., Relay]:
    """Makes relays in front of the server, in the way of ``mode``."""
    absent = short_dir / "images.sock"

    def relay(first: Relay | None = None) -> Relay:
        return Relay(
            short_dir,
            peer.path,
            image=absent if mode == "split" else None,
            policy=None if mode == "split" else POLICIES[mode](),
            loop=loop,
            shared=first.socket if first is not None else None,
        )

    return relay


@contextlib.contextmanager
def calling(path: Path, failed: list[grpc.RpcError]) -> Iterator[list[int]]:
    """Two clients that make calls one after the other, without waiting for a connection."""
    over = threading.Event()
    counts = [0, 0]

    def run(number: int) -> None:
        with channel(path, RETRIES) as one:
            call = one.unary_unary(f"/{SERVICE}/Unary")
            while not over.is_set():
                try:
                    assert call(b"x" * 3000, timeout=LIMIT_SECONDS) == b"x" * 3000
                except grpc.RpcError as error:
                    failed.append(error)
                counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_replaced_under_load(make: Callable[..., Relay]) -> None:
    """No call of a busy gRPC client fails while its proxy is replaced."""
    failed: list[grpc.RpcError] = []
    with contextlib.ExitStack() as stack:
        relay = first = stack.enter_context(make())
        with calling(first.path, failed) as counts:
            for _ in range(5):
                before = list(counts)
                wait_until(
                    lambda before=before: all(map(int.__gt__, counts, before)), "calls of each"
                )
                successor = stack.enter_context(make(first))
                assert relay.drain().result(LIMIT_SECONDS).cut == 0
                relay.recorder.all_closed()
                relay = successor
    assert [error.details() for error in failed] == []


def test_call_in_flight(make: Callable[..., Relay], peer: Peer) -> None:
    """A call that began before the drain ends on its connection; the next is made on another."""
    with make() as relay, make(relay) as successor, channel(relay.path) as one:
        relay.call(relay.listener._resume_accepting)
        successor.call(successor.listener._pause_accepting)
        hanging = start(one, "unary_stream", "Hang", b"")
        assert next(hanging) == b"hanging"
        successor.call(successor.listener._resume_accepting)
        draining = relay.drain()
        wait_until(lambda: not relay.listener.is_accepting, "drain")
        assert one.unary_unary(f"/{SERVICE}/Unary")(b"new", timeout=LIMIT_SECONDS) == b"new"
        assert not draining.done()
        peer.proceed.set()
        assert hanging.outcome().messages == (b"done",)
        assert draining.result(LIMIT_SECONDS).cut == 0


def test_stream_of_events(make: Callable[..., Relay], peer: Peer) -> None:
    """An endless stream ends with UNAVAILABLE for the client and is cancelled at the runtime."""
    with make() as relay, channel(relay.path) as one:
        events = start(one, "unary_stream", "GetContainerEvents", b"")
        assert next(events) == b"hanging"
        assert relay.drain().result(LIMIT_SECONDS) == DrainResult(finished=1, cut=0)
        outcome = events.outcome()
        assert (outcome.code, outcome.details) == (grpc.StatusCode.UNAVAILABLE, STOPPING)
        assert outcome.messages == ()
        assert peer.over.acquire(timeout=LIMIT_SECONDS)
        (call,) = relay.recorder.ended
        assert (call.code, call.message.decode()) == (StatusCode.UNAVAILABLE, STOPPING)


def test_call_that_does_not_end(make: Callable[..., Relay], peer: Peer) -> None:
    """A call in flight when the time is over is cut and counted."""
    with make() as relay, channel(relay.path) as one:
        hanging = start(one, "unary_stream", "Hang", b"")
        assert next(hanging) == b"hanging"
        assert relay.drain(within=0.3).result(LIMIT_SECONDS) == DrainResult(finished=0, cut=1)
        assert hanging.outcome().code == grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def ends(short_dir: Path, loop: str) -> Iterator["Ends"]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(short_dir / "runtime.sock"))
        relay = stack.enter_context(Relay(short_dir, short_dir / "runtime.sock", loop=loop))
        client = stack.enter_context(dial(relay.path))
        yield Ends(relay, client, stack.enter_context(accept(listener)))


class Ends:
    """A relay with plain sockets at both ends."""

    def __init__(self, relay: Relay, client: socket.socket, runtime: socket.socket) -> None:
        self.relay, self.client, self.runtime = relay, client, runtime

    def from_client(self, data: bytes) -> None:
        """Send, and wait until it has arrived."""
        self.client.sendall(data)
        assert receive(self.runtime, len(data)) == data

    def from_runtime(self, data: bytes) -> None:
        self.runtime.sendall(data)
        assert receive(self.client, len(data)) == data


REQUEST: list[Header] = wire.request_fields(b"/test.Peer/Hang")
EVENTS_REQUEST: list[Header] = wire.request_fields(b"/test.Peer/GetContainerEvents")
END_OF_EVENTS = trailers(StatusCode.UNAVAILABLE, STOPPING, False)
OPENING = PREFACE + wire.settings() + wire.headers(1, wire.block(*REQUEST), end=True)
RESPONSE = b"".join(
    (
        wire.settings(),
        wire.headers(1, wire.block((b":status", b"200"), (b"x", b"y" * 40)), fragments=3),
        wire.data(1, wire.message(b"m" * 50)),
        wire.window_update(0, 1000),
        wire.trailers(1),
    )
)


def boundaries(stream: bytes) -> set[int]:
    """The offsets at which a frame may be inserted: behind SETTINGS, in no header block."""
    found, position = set(), 0
    while position < len(stream):
        position += 9 + int.from_bytes(stream[position : position + 3], "big")
        following = stream[position + 3 : position + 4]
        if following != b"\x09":  # CONTINUATION
            found.add(position)
    return found


@pytest.mark.parametrize("cut", range(0, len(RESPONSE) + 1, 3))
def test_goaway_stands_between_frames(ends: Ends, cut: int) -> None:
    """Wherever the runtime's bytes are cut, our frames stand at a frame boundary behind that."""
    ends.from_client(OPENING)
    ends.from_runtime(RESPONSE[:cut])
    draining = ends.relay.drain()
    wait_until(lambda: not ends.relay.listener.is_accepting, "drain")
    ends.runtime.sendall(RESPONSE[cut:])
    got = RESPONSE[:cut] + receive(ends.client, len(RESPONSE) - cut + len(GOAWAY + PING))
    at = got.index(GOAWAY + PING)
    assert at >= cut
    assert at in boundaries(RESPONSE)
    assert got == RESPONSE[:at] + GOAWAY + PING + RESPONSE[at:]
    ends.client.sendall(PING_ACK)
    assert receive_all(ends.client) == wire.goaway(1)
    assert receive_all(ends.runtime) == b""
    assert draining.result(LIMIT_SECONDS).cut == 0


@pytest.mark.parametrize("cut", range(1, 17))
def test_acknowledgement_is_not_forwarded(ends: Ends, cut: int) -> None:
    """The runtime gets the client's bytes without the ACK of our PING, however they are cut."""
    ends.from_client(OPENING)
    ends.from_runtime(wire.settings())
    draining = ends.relay.drain()
    assert receive(ends.client, len(GOAWAY + PING)) == GOAWAY + PING
    other = wire.ping(ack=True) + wire.ping()
    late = wire.headers(3, wire.block(*REQUEST), end=True)
    before = other + wire.data(1, PING_ACK) + late
    ends.client.sendall(before + PING_ACK[:cut])
    assert receive(ends.runtime, len(before)) == before
    ends.client.sendall(PING_ACK[cut:] + other)
    assert receive(ends.runtime, len(other)) == other
    ends.runtime.sendall(RESPONSE[len(wire.settings()) :] + wire.trailers_only(3, 0))
    receive(ends.client, len(RESPONSE) - len(wire.settings()) + len(wire.trailers_only(3, 0)))
    assert receive_all(ends.client) == wire.goaway(3)
    assert draining.result(LIMIT_SECONDS) == DrainResult(finished=2, cut=0)


def test_client_in_its_handshake(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GOAWAY comes with the handshake, in which gRPC C-core does not see it: it comes behind the
    first call, which is served."""
    monkeypatch.setattr("criproxy.relay.connections.drain._FIRST_CALL", NEVER)
    ends.from_client(PREFACE + wire.settings())
    draining = ends.relay.drain()
    wait_until(lambda: not ends.relay.listener.is_accepting, "drain")
    for frame in (wire.settings(), wire.settings(ack=True), wire.ping()):
        ends.from_runtime(frame)
    ends.from_client(wire.headers(1, wire.block(*REQUEST), end=True))
    assert receive(ends.client, len(GOAWAY + PING)) == GOAWAY + PING
    ends.from_runtime(wire.trailers_only(1, 0))
    ends.client.sendall(PING_ACK)
    assert receive_all(ends.client) == wire.goaway(1)
    assert draining.result(LIMIT_SECONDS) == DrainResult(finished=1, cut=0)


def test_client_that_does_not_acknowledge(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a call that does not answer the PING is closed: gRPC C-core waits for that
    to connect again, where it has not seen the GOAWAY."""
    monkeypatch.setattr("criproxy.relay.connections.drain._ANSWER", 0.1)
    ends.from_client(PREFACE + wire.settings())
    ends.from_runtime(wire.settings())
    draining = ends.relay.drain()
    assert receive_all(ends.client) == GOAWAY + PING + wire.goaway(0)
    assert draining.result(LIMIT_SECONDS) == DrainResult(finished=0, cut=0)


def test_client_that_acknowledges_late(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a call stays until its client has seen the GOAWAY: the call that it has
    sent meanwhile is served."""
    monkeypatch.setattr("criproxy.relay.connections.drain._ANSWER", NEVER)
    ends.from_client(PREFACE + wire.settings())
    ends.from_runtime(wire.settings())
    draining = ends.relay.drain()
    assert receive(ends.client, len(GOAWAY + PING)) == GOAWAY + PING
    ends.from_client(wire.headers(1, wire.block(*REQUEST), end=True))
    ends.client.sendall(PING_ACK)
    answer = wire.trailers_only(1, 0)
    ends.from_runtime(answer)
    assert receive_all(ends.client) == wire.goaway(1)
    assert draining.result(LIMIT_SECONDS) == DrainResult(finished=1, cut=0)


def test_client_that_has_sent_nothing(ends: Ends) -> None:
    """A client without a preface is closed after a moment of silence."""
    ends.from_runtime(wire.settings())
    draining = ends.relay.drain()
    assert receive_all(ends.client) == GOAWAY + PING + wire.goaway(0)
    assert draining.result(LIMIT_SECONDS) == DrainResult(finished=0, cut=0)


def test_runtime_that_has_sent_nothing(ends: Ends) -> None:
    """Before the runtime's first SETTINGS nothing is inserted; the connection goes on until it is
    cut."""
    ends.from_client(OPENING)
    assert ends.relay.drain(within=0.3).result(LIMIT_SECONDS).cut == 1
    assert receive_all(ends.client) == b""


def test_connection_that_is_not_read(ends: Ends) -> None:
    """What is no HTTP/2 is relayed until it is silent, then closed."""
    ends.from_client(b"no HTTP/2")
    draining = ends.relay.drain()
    wait_until(lambda: not ends.relay.listener.is_accepting, "drain")
    ends.from_runtime(b"nor this")
    assert receive_all(ends.client) == b""
    assert draining.result(LIMIT_SECONDS) == DrainResult(finished=0, cut=0)


def test_goaway_of_the_runtime_stays_in_force(ends: Ends) -> None:
    """A GOAWAY of ours never names a higher stream than the runtime's own."""
    ends.from_client(OPENING)
    ends.from_runtime(wire.settings() + wire.goaway(1))
    draining = ends.relay.drain()
    assert receive(ends.client, len(PING)) == PING
    ends.client.sendall(PING_ACK)
    rest = RESPONSE[len(wire.settings()) :]
    ends.from_runtime(rest)
    assert receive_all(ends.client) == wire.goaway(1)
    assert draining.result(LIMIT_SECONDS).cut == 0


def test_client_that_waits_for_its_runtime(short_dir: Path, loop: str) -> None:
    """A client whose runtime is absent gets a GOAWAY at once: none of its calls was processed."""
    absent = short_dir / "absent.sock"
    with Relay(short_dir, absent, loop=loop) as relay, dial(relay.path) as client:
        client.sendall(OPENING)
        wait_until(lambda: relay.recorder.opened, "connection")
        draining = relay.drain()
        assert receive_all(client) == wire.settings() + wire.goaway(0)
        assert draining.result(LIMIT_SECONDS) == DrainResult(finished=0, cut=0)
        assert relay.recorder.unreachable == []


def test_call_that_waits_for_its_runtime(short_dir: Path, peer: Peer, loop: str) -> None:
    """A call that no runtime has seen is served by the next process."""
    absent = short_dir / "absent.sock"
    with Relay(short_dir, absent, loop=loop) as relay, channel(relay.path, RETRIES) as one:
        call = one.unary_unary(f"/{SERVICE}/Unary").future(b"x", timeout=LIMIT_SECONDS)
        wait_until(lambda: relay.recorder.opened, "connection")
        with Relay(short_dir, peer.path, loop=loop, shared=relay.socket):
            draining = relay.drain()
            assert call.result() == b"x"
            assert draining.result(LIMIT_SECONDS).cut == 0


def test_client_that_writes_before_it_reads(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may still write when its connection has been drained: gRPC's C-core fails a call
    whose end it has not read yet if it cannot."""
    monkeypatch.setattr("criproxy.relay.connections.drain.SILENCE", LIMIT_SECONDS)
    ends.from_client(OPENING)
    draining = ends.relay.drain()
    wait_until(lambda: not ends.relay.listener.is_accepting, "drain")
    ends.runtime.sendall(RESPONSE)
    ends.client.sendall(PING_ACK)
    assert receive_all(ends.runtime) == b""  # the relay has ended both connections
    ends.client.sendall(wire.ping())
    assert receive_all(ends.client).endswith(wire.goaway(1))
    ends.client.close()
    assert draining.result(LIMIT_SECONDS).cut == 0


class CountingSet(frozenset[bytes]):
    """Methods that count how often one was looked for."""

    lookups = 0

    def __contains__(self, method: object) -> bool:
        self.lookups += 1
        return super().__contains__(method)


def test_call_is_looked_at_once(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pieces a client's bytes come in, a drain looks at each of its calls once."""
    endless = CountingSet(ENDLESS)
    monkeypatch.setattr("criproxy.relay.connections.drain.ENDLESS", endless)
    streams = range(1, 201, 2)
    calls = [wire.headers(stream, wire.block(*REQUEST), end=True) for stream in streams]
    ends.from_client(PREFACE + wire.settings() + b"".join(calls[:-1]))
    ends.from_runtime(wire.settings())
    ends.relay.drain()
    assert receive(ends.client, len(GOAWAY + PING)) == GOAWAY + PING
    for piece in (*[wire.ping()] * 50, calls[-1], *[wire.ping()] * 50):
        ends.from_client(piece)
    wait_until(lambda: endless.lookups >= len(streams), "a look at the last call")
    assert endless.lookups == len(streams)


@pytest.mark.parametrize("cut", range(1, len(RESPONSE), 7))
def test_endless_call_that_has_to_wait(ends: Ends, cut: int) -> None:
    """While the runtime is within a frame, an endless call is not ended; then it is."""
    events = wire.headers(3, wire.block(*EVENTS_REQUEST), end=True)
    ends.from_client(OPENING + events)
    ends.from_runtime(RESPONSE[:cut])
    ends.relay.drain()
    wait_until(lambda: not ends.relay.listener.is_accepting, "drain")
    ends.runtime.sendall(RESPONSE[cut:])
    ended = wire.reset(3)
    assert receive(ends.runtime, len(ended)) == ended
    inserted = (GOAWAY + PING, literal_headers(3, END_OF_EVENTS, ended=True))
    size = len(RESPONSE) + len(b"".join(inserted))
    got = RESPONSE[:cut] + receive(ends.client, size - cut)
    for frames in inserted:
        at = got.index(frames)
        got = got[:at] + got[at + len(frames) :]
        assert at >= cut
    assert got == RESPONSE
    assert at in boundaries(RESPONSE)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "kubelet-01"])
def test_recorded_connections(ends: Ends, name: str) -> None:
    """A drain adds its frames between whole ones of a recorded runtime, and changes nothing else.

    kubelet-01 has a stream of events, which a drain ends.
    """
    sent = [each for each in capture(name) if each.data]
    settled = next(at for at, each in enumerate(sent) if each.side is Side.RUNTIME)
    got = bytearray()
    expected = bytearray()
    for number, (side, data, _) in enumerate(sent):
        if number == (settled + len(sent)) // 2 + 1:
            ends.relay.drain()
            wait_until(lambda: not ends.relay.listener.is_accepting, "drain")
        if side is Side.CLIENT:
            ends.from_client(data)
            continue
        expected += data
        ends.runtime.sendall(data)
        while len(got) < len(expected) or bytes(got).replace(GOAWAY + PING, b"") != expected:
            part = ends.client.recv(1 << 16)
            assert part
            got += part
    at = bytes(got).find(GOAWAY + PING)
    assert at == -1 or at in boundaries(bytes(expected))
