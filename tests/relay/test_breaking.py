"""Peers that crash, disconnect, reset and ping: the client's results are as without a relay."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from criproxy.wire.reading.connection import ConnectionReader, Event, Side
from tests.support.grpc_peers import Peer, channel, command, environment, start, through
from tests.support.process import Process
from tests.support.relaying import Relay, Seen, read_with
from tests.support.scripted import ScriptedServer
from tests.support.waiting import LIMIT_SECONDS, wait_until

RESPONSE = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def test_client_killed_within_a_stream(relay: Relay, peer: Peer, short_dir: Path) -> None:
    """A client that is killed ends its call at the server too, as CANCELLED."""
    client = Process(command("stream", relay.path), output=short_dir / "client", env=environment())
    with client:
        wait_until(lambda: client.stdout, "first message", report=lambda: client.stderr)
        pid = client.pid
        client.kill()
    assert peer.over.acquire(timeout=LIMIT_SECONDS)
    ((method, code, end, request, (messages, _)),) = relay.recorder.calls(1)
    assert (method, code, end, request) == ("Flood", "CANCELLED", "client_gone", (1, 0))
    assert messages > 0
    relay.recorder.all_closed()
    assert relay.recorder.opened[0].peer.pid == pid


def test_server_killed_within_a_stream(short_dir: Path, loop: str) -> None:
    """A server that is killed is UNAVAILABLE to the client, with and without a relay."""
    path = short_dir / "peer.sock"
    server = Process(command("serve", path), output=short_dir / "server", env=environment())
    with server, Relay(short_dir, path, loop=loop) as relay:
        wait_until(lambda: server.stdout, "server", report=lambda: server.stderr)
        with channel(path) as direct, channel(relay.path) as relayed:
            calls = [start(one, "unary_stream", "Hang", b"") for one in (direct, relayed)]
            for call in calls:
                assert next(call) == b"hanging"
            server.kill()
            codes = [call.outcome().code for call in calls]
        assert codes == [grpc.StatusCode.UNAVAILABLE] * 2
        assert relay.recorder.calls(1) == [
            Seen("Hang", "UNAVAILABLE", "runtime_gone", (1, 0), (1, 7))
        ]
        relay.recorder.all_closed()


def test_graceful_stop(relay: Relay, peer: Peer) -> None:
    """A server that stops gracefully finishes its calls: its GOAWAY does not end them."""
    with channel(relay.path) as one:
        call = start(one, "unary_stream", "Hang", b"")
        assert next(call) == b"hanging"
        stopped = peer.stop(grace=30)
        peer.proceed.set()
        rest = call.outcome()
        stopped.wait()
    assert (rest.code, rest.messages) == (grpc.StatusCode.OK, (b"done",))
    assert relay.recorder.calls(1) == [Seen("Hang", "OK", "status", (1, 0), (2, 11))]


def test_next_connection_finds_the_restarted_server(short_dir: Path, loop: str) -> None:
    """After the runtime's restart the same client's next call works."""
    path = short_dir / "peer.sock"
    with Relay(short_dir, path, loop=loop) as relay, channel(relay.path) as one:
        for _ in range(2):
            with Peer(path):
                assert start(one, "unary_unary", "Unary", b"x").outcome().messages == (b"x",)
        assert relay.recorder.calls(2) == [Seen("Unary", "OK", "status", (1, 1), (1, 1))] * 2


def test_relay_cut_off_within_a_stream(relay: Relay, peer: Peer) -> None:
    """A call that the relay cuts off itself is UNAVAILABLE to the client, and in the record."""
    with channel(relay.path) as one:
        call = start(one, "unary_stream", "Hang", b"")
        assert next(call) == b"hanging"
        relay.stop()
        assert call.outcome().code is grpc.StatusCode.UNAVAILABLE
    assert peer.over.acquire(timeout=LIMIT_SECONDS)
    assert relay.recorder.calls(1) == [Seen("Hang", "UNAVAILABLE", "runtime_gone", (1, 0), (1, 7))]
    assert relay.recorder.closed == relay.recorder.opened


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[bytearray, bytearray]]:
    """All bytes that the relay's readers are shown, by the side that sent them."""
    passed = bytearray(), bytearray()

    class Tapped(ConnectionReader):
        def receive(self, side: Side, data: bytes, now: float) -> list[Event]:
            passed[side].extend(data)
            return super().receive(side, data, now)

    read_with(monkeypatch, Tapped)
    return passed


PING = b"\x00\x00\x08\x06"


def test_keepalive_pings(passed: tuple[bytearray, bytearray], short_dir: Path, loop: str) -> None:
    """Pings pass and are answered by the other side, and keep an idle call alive."""
    permitted = [
        ("grpc.http2.min_ping_interval_without_data_ms", 10),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10),
        ("grpc.http2.max_ping_strikes", 0),
    ]
    pinging = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with (
        Peer(short_dir / "peer.sock", options=permitted) as peer,
        Relay(short_dir, peer.path, loop=loop) as relay,
        channel(relay.path, pinging) as one,
    ):
        call = start(one, "unary_stream", "Hang", b"")
        assert next(call) == b"hanging"
        wait_until(lambda: passed[Side.CLIENT].count(PING + b"\x00") > 3, "pings")
        wait_until(lambda: passed[Side.RUNTIME].count(PING + b"\x01") > 3, "answers")
        peer.proceed.set()
        assert call.outcome().code is grpc.StatusCode.OK
        assert relay.recorder.calls(1) == [Seen("Hang", "OK", "status", (1, 0), (2, 11))]


@pytest.mark.parametrize(
    "error",
    [
        ErrorCodes.NO_ERROR,
        ErrorCodes.PROTOCOL_ERROR,
        ErrorCodes.INTERNAL_ERROR,
        ErrorCodes.REFUSED_STREAM,
        ErrorCodes.CANCEL,
        ErrorCodes.ENHANCE_YOUR_CALM,
        ErrorCodes.INADEQUATE_SECURITY,
    ],
)
@pytest.mark.parametrize("begun", [False, True], ids=["at once", "after headers"])
def test_server_resets(short_dir: Path, error: ErrorCodes, begun: bool) -> None:
    """A reset stream has the code that the client gives it, with and without a relay."""

    def reset(h2: H2Connection, stream: int) -> None:
        if begun:
            h2.send_headers(stream, RESPONSE)
            h2.send_data(stream, b"\0\0\0\0\3abc")
        h2.reset_stream(stream, error)

    with (
        ScriptedServer(short_dir / "peer.sock", reset) as server,
        Relay(short_dir, server.path) as relay,
    ):
        direct = through(server.path, "unary_stream", "Any", b"")
        # Whether a message in front of a reset still arrives is chance, direct too.
        assert through(relay.path, "unary_stream", "Any", b"").code is direct.code
        answer = (1, 3) if begun else (0, 0)
        assert relay.recorder.calls(1) == [
            Seen("Any", direct.code.name, "runtime_reset", (1, 0), answer)
        ]


@pytest.mark.parametrize("status", [b"400", b"401", b"403", b"404", b"418", b"429", b"500", b"503"])
def test_plain_http_answers(short_dir: Path, status: bytes) -> None:
    """An HTTP error without a grpc-status has the code that the client gives it."""

    def refuse(h2: H2Connection, stream: int) -> None:
        h2.send_headers(stream, [(b":status", status)], end_stream=True)

    with (
        ScriptedServer(short_dir / "peer.sock", refuse) as server,
        Relay(short_dir, server.path) as relay,
    ):
        direct = through(server.path, "unary_stream", "Any", b"")
        assert through(relay.path, "unary_stream", "Any", b"") == direct
        assert relay.recorder.calls(1) == [Seen("Any", direct.code.name, "status", (1, 0), (0, 0))]


def test_goaway_that_leaves_a_call_out(short_dir: Path) -> None:
    """A call on a stream beyond a GOAWAY's last one is UNAVAILABLE, with and without a relay."""

    def leave(h2: H2Connection, stream: int) -> None:
        h2.close_connection(ErrorCodes.NO_ERROR, last_stream_id=0)

    with (
        ScriptedServer(short_dir / "peer.sock", leave) as server,
        Relay(short_dir, server.path) as relay,
    ):
        direct = through(server.path, "unary_stream", "Any", b"")
        assert through(relay.path, "unary_stream", "Any", b"").code is direct.code
        (call,) = relay.recorder.calls(1)
        assert call == Seen("Any", direct.code.name, "goaway", (1, 0), (0, 0))
