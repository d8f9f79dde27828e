"""Real gRPC peers with a relay between them: the client's results are as without one."""

import threading
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import grpc
import pytest

from criproxy.wire.grpc import StatusCode
from tests.support.grpc_peers import SERVICE, Peer, channel, start, through
from tests.support.handlers import POLICIES
from tests.support.relaying import Relay, Seen
from tests.support.waiting import LIMIT_SECONDS

MEBIBYTE = 1 << 20


@pytest.fixture(params=sorted(POLICIES))
def policy(request: pytest.FixtureRequest) -> str:
    """Each test runs under every policy that lets all calls pass."""
    name: str = request.param
    return name


@pytest.mark.parametrize(
    ("kind", "method", "requests", "sent", "answered"),
    [
        ("unary_unary", "Unary", [b"hello"], (1, 5), (1, 5)),
        ("unary_unary", "Unary", [b""], (1, 0), (1, 0)),
        ("unary_stream", "Split", [b"7 1000"], (1, 6), (7, 7000)),
        ("unary_stream", "Split", [b"0 0"], (1, 3), (0, 0)),
        ("stream_unary", "Join", [b"a", b"", b"bc"], (3, 3), (1, 3)),
        ("stream_unary", "Join", [], (0, 0), (1, 0)),
        ("stream_stream", "Echo", [b"x" * 100] * 50, (50, 5000), (50, 5000)),
    ],
)
def test_each_kind_of_call(
    relay: Relay,
    peer: Peer,
    kind: str,
    method: str,
    requests: list[bytes],
    sent: tuple[int, int],
    answered: tuple[int, int],
) -> None:
    """Unary and streaming calls, in both directions, pass unchanged and are counted exactly."""
    direct = through(peer.path, kind, method, *requests)
    assert direct.code is grpc.StatusCode.OK
    assert through(relay.path, kind, method, *requests) == direct
    assert relay.recorder.calls(1) == [Seen(method, "OK", "status", sent, answered)]


def test_64_mebibytes_each_way(relay: Relay) -> None:
    """A message of 64 MiB passes in each direction, whole and counted."""
    payload = bytes(range(256)) * (64 * MEBIBYTE // 256)
    assert through(relay.path, "unary_unary", "Unary", payload).messages == (payload,)
    size = len(payload)
    assert relay.recorder.calls(1) == [Seen("Unary", "OK", "status", (1, size), (1, size))]


@pytest.mark.parametrize(
    "metadata",
    [
        (("x-text", "plain"), ("x-more", "a"), ("x-more", "b")),
        (("x-raw-bin", bytes(range(256))), ("x-empty-bin", b"")),
        (("x-large", "v" * 6144),),
        tuple((f"x-{number}", str(number)) for number in range(60)),
    ],
    ids=["text", "binary", "large", "many"],
)
def test_metadata(relay: Relay, peer: Peer, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    """Metadata reaches the server, and its headers and trailers the client, byte for byte."""
    direct = through(peer.path, "unary_unary", "Unary", b"", metadata=metadata)
    assert set(metadata) <= set(direct.initial)
    for _ in range(2):  # on the second call HPACK's tables are in use
        assert through(relay.path, "unary_unary", "Unary", b"", metadata=metadata) == direct
    relay.recorder.calls(2)


def test_metadata_over_one_connection(relay: Relay) -> None:
    """Headers that refer to those of earlier calls are understood at both ends."""
    with channel(relay.path) as one:
        for number in range(100):
            metadata = (("x-same", "value"), ("x-new", str(number)), ("x-raw-bin", b"\0\xff"))
            seen = start(one, "unary_unary", "Unary", b"", metadata=metadata).outcome()
            assert set(metadata) <= set(seen.initial)
    assert relay.recorder.calls(100) == [Seen("Unary", "OK", "status", (1, 0), (1, 0))] * 100
    assert not relay.recorder.stopped


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
def test_failures(relay: Relay, peer: Peer, code: grpc.StatusCode) -> None:
    """A failed call's code, message and error details are the server's own."""
    direct = through(peer.path, "unary_unary", "Fail", code.name.encode())
    assert (direct.code, ("grpc-status-details-bin", bytes(range(256))) in direct.trailing) == (
        code,
        True,
    )
    assert through(relay.path, "unary_unary", "Fail", code.name.encode()) == direct
    size = len(code.name)
    assert relay.recorder.calls(1) == [Seen("Fail", code.name, "status", (1, size), (0, 0))]


def test_failure_within_a_stream(relay: Relay, peer: Peer) -> None:
    """Messages that precede a failure arrive, and the failure after them."""
    direct = through(peer.path, "unary_stream", "Break", b"")
    assert direct.messages == (b"one", b"two")
    assert through(relay.path, "unary_stream", "Break", b"") == direct
    assert relay.recorder.calls(1) == [Seen("Break", "DATA_LOSS", "status", (1, 0), (2, 6))]


def test_unknown_method_is_a_trailers_only_response(relay: Relay, peer: Peer) -> None:
    """A method that the server does not know ends with the server's own UNIMPLEMENTED."""
    direct = through(peer.path, "unary_unary", "Nothing", b"")
    assert direct.code is grpc.StatusCode.UNIMPLEMENTED
    assert through(relay.path, "unary_unary", "Nothing", b"") == direct
    (call,) = relay.recorder.calls(1)
    assert call[:3] == ("Nothing", "UNIMPLEMENTED", "status")


def test_gzip(relay: Relay, peer: Peer) -> None:
    """A compressed message passes compressed, and is counted as it is on the wire."""
    payload = b"compress me " * 10_000
    options = {"compression": grpc.Compression.Gzip}
    direct = through(peer.path, "unary_unary", "Unary", payload, **options)
    assert through(relay.path, "unary_unary", "Unary", payload, **options) == direct
    ((_, code, end, (messages, size), answer),) = relay.recorder.calls(1)
    assert (code, end, messages) == ("OK", "status", 1)
    assert 0 < size < len(payload) // 10
    assert answer == (1, len(payload))


@pytest.mark.parametrize("timeout", [0.02, 0.1])
def test_deadlines(relay: Relay, timeout: float) -> None:
    """A call past its deadline is recorded as DEADLINE_EXCEEDED, not as CANCELLED."""
    with channel(relay.path) as one:
        calls = [start(one, "unary_stream", "Hang", b"", timeout=timeout) for _ in range(8)]
        codes = {call.outcome().code.name for call in calls}
    # A server whose deadline is first resets with CANCEL, which its client may get in time.
    assert codes <= {"DEADLINE_EXCEEDED", "CANCELLED"}
    # One that was over before its first byte could be sent is none that we have seen.
    relay.recorder.all_closed()
    for call in relay.recorder.ended:
        assert call.ended is not None
        in_time = () if call.past_deadline(call.ended) else (StatusCode.CANCELLED,)
        assert call.code in (StatusCode.DEADLINE_EXCEEDED, *in_time)


def test_client_cancels(relay: Relay, peer: Peer) -> None:
    """A client's cancellation reaches the server at once, and is CANCELLED for all."""
    with channel(relay.path) as one:
        call = start(one, "unary_stream", "Hang", b"")
        assert next(call) == b"hanging"
        call.call.cancel()
        assert peer.over.acquire(timeout=LIMIT_SECONDS)
        assert call.call.code() is grpc.StatusCode.CANCELLED
        assert relay.recorder.calls(1) == [
            Seen("Hang", "CANCELLED", "client_reset", (1, 0), (1, 7))
        ]
        assert start(one, "unary_unary", "Unary", b"").outcome().code is grpc.StatusCode.OK


def test_server_cancels(relay: Relay, peer: Peer) -> None:
    """A server that cancels its calls looks the same to the client as without a relay."""
    with channel(peer.path) as direct, channel(relay.path) as relayed:
        calls = [start(one, "unary_stream", "Hang", b"") for one in (direct, relayed)]
        for call in calls:
            assert next(call) == b"hanging"
        peer.stop().wait()
        without, with_relay = (call.outcome() for call in calls)
    assert (with_relay.code, with_relay.messages) == (without.code, without.messages)
    ((_, code, _, request, response),) = relay.recorder.calls(1)
    assert (code, request, response) == (without.code.name, (1, 0), (1, 7))


def test_200_streams_on_one_connection(short_dir: Path, loop: str) -> None:
    """Two hundred calls at once share a connection, and none is mixed up with another."""
    all_begun = threading.Event()

    def requests(number: int) -> Iterator[bytes]:
        yield b"%d" % number
        all_begun.wait(LIMIT_SECONDS)
        yield from repeat(b"%d" % number * 100, 10)

    with (
        Peer(short_dir / "peer.sock", workers=200) as peer,
        Relay(short_dir, peer.path, loop=loop) as relay,
        channel(relay.path) as one,
    ):
        echo = one.stream_stream(f"/{SERVICE}/Echo")
        calls = [echo(requests(number), timeout=LIMIT_SECONDS) for number in range(200)]
        assert [next(call) for call in calls] == [b"%d" % number for number in range(200)]
        assert relay.recorder.ended == []
        all_begun.set()
        for number, call in enumerate(calls):
            assert list(call) == [b"%d" % number * 100] * 10
        recorded = relay.recorder.calls(200)
        assert {call[:3] for call in recorded} == {("Echo", "OK", "status")}
        assert {call.request for call in recorded} == {(11, 1001 * size) for size in (1, 2, 3)}
        assert all(call.request == call.response for call in recorded)
        assert len(relay.recorder.opened) == 1


def test_many_connections(relay: Relay, peer: Peer) -> None:
    """Each client connection has one of its own to the runtime."""
    channels = [channel(relay.path) for _ in range(50)]
    calls = [start(one, "unary_unary", "Unary", b"abc") for one in channels for _ in range(4)]
    assert {call.outcome().messages for call in calls} == {(b"abc",)}
    assert relay.recorder.calls(200) == [Seen("Unary", "OK", "status", (1, 3), (1, 3))] * 200
    assert len(relay.recorder.opened) == 50
    for one in channels:
        one.close()
    relay.recorder.all_closed()
