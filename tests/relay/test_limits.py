"""A message over limits.message ends its call and no other."""

from pathlib import Path

import grpc
import pytest

from tests.support.grpc_peers import Peer, channel, start
from tests.support.handlers import POLICIES
from tests.support.raw_sockets import accept, dial, listening, receive
from tests.support.relaying import Relay
from tests.support.waiting import wait_until
from tests.support.wire import PING, PREFACE, RST_STREAM, data, frame, headers, settings

LIMIT = 10_000
OVER = b"x" * (LIMIT + 1)

REQUEST = (
    b"\x83\x86"  # :method POST, :scheme http
    b"\x04\x06/a.B/C"  # :path
    b"\x0f\x10\x10application/grpc"  # content-type
)


@pytest.mark.parametrize("policy", ["no rules", "rules for none", "held and sent on"])
@pytest.mark.parametrize(
    ("kind", "method", "request_", "allowed"),
    [
        ("unary_unary", "Unary", OVER[1:], True),
        ("unary_unary", "Unary", OVER, False),
        ("unary_unary", "Unary", OVER * 500, False),
        ("unary_stream", "Split", b"3 %d" % LIMIT, True),
        # More than the client's window: the end cannot come in the same chunk as the beginning.
        ("unary_stream", "Split", b"200 %d" % (LIMIT + 1), False),
        ("unary_stream", "Split", b"1 %d" % (LIMIT * 500), False),
    ],
)
def test_large_messages(
    short_dir: Path,
    loop: str,
    policy: str,
    kind: str,
    method: str,
    request_: bytes,
    allowed: bool,
) -> None:
    """A message of the limit passes; one byte more, either way, is RESOURCE_EXHAUSTED to all, while
    other calls on the connection go on."""
    with (
        Peer(short_dir / "peer.sock") as peer,
        Relay(short_dir, peer.path, loop=loop, policy=POLICIES[policy](), message=LIMIT) as relay,
        channel(relay.path) as one,
    ):
        other = start(one, "unary_stream", "Hang", b"")
        assert next(other) == b"hanging"
        code = start(one, kind, method, request_).outcome().code
        expected = grpc.StatusCode.OK if allowed else grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code is expected
        assert relay.recorder.calls(1)[0][:2] == (method, expected.name)
        assert start(one, "unary_unary", "Unary", b"y").outcome().messages == (b"y",)
        peer.proceed.set()
        assert other.outcome().messages == (b"done",)
        assert len(relay.recorder.opened) == 1


def frames(stream: bytes) -> list[bytes]:
    """Split a side's bytes into frames."""
    found = []
    while stream:
        size = 9 + int.from_bytes(stream[:3], "big")
        found.append(stream[:size])
        stream = stream[size:]
    return found


@pytest.mark.parametrize("rest", [0, 1, 5, 9, 12, 16])
def test_reset_never_within_a_frame(short_dir: Path, loop: str, rest: int) -> None:
    """The reset is written between two frames, also if one was incomplete before."""
    path = short_dir / "runtime.sock"
    opening = PREFACE + settings() + headers(1, REQUEST)
    large = data(1, b"\0" + (1 << 20).to_bytes(4, "big") + b"z" * 100)
    ping = frame(PING, payload=b"12345678")
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop, message=LIMIT) as relay,
        dial(relay.path) as client,
        accept(listener) as runtime,
    ):
        runtime.sendall(settings())
        got = b""
        for piece in (opening, large, ping[:rest]):
            client.sendall(piece)
            got += receive(runtime, len(piece))
        wait_until(lambda: relay.recorder.ended, "end of the call")
        client.sendall(ping[rest:] + ping)
        got += receive(runtime, len(ping) - rest + len(ping) + 13)
    (reset,) = [each for each in frames(got[len(PREFACE) :]) if each[3] == RST_STREAM]
    assert reset[5:9] == b"\0\0\0\1"
    assert got.replace(reset, b"", 1) == opening + large + ping + ping
