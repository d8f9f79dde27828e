"""The choices made once for each accepted client: its policy and its captured messages."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from criproxy.peers.peer import Connection
from criproxy.relay.policy import ActivePolicy
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import Side
from criproxy.wire.reading.message_capture import CaptureLimits, SelectCapture
from tests.support.grpc_peers import Peer, through
from tests.support.handlers import EachCall, Handler
from tests.support.relaying import Relay

EACH = 1 << 20


class Refusing(Handler):
    """Answers each call when its request is complete; nothing of it is forwarded."""

    def message(self, side: Side, payload: bytes, compressed: bool) -> None: ...

    def ended(self, side: Side, trailers: list[Header]) -> None:
        if side is Side.CLIENT:
            self.stream.reply(StatusCode.PERMISSION_DENIED, "not you")


class Replacing(Handler):
    """Replaces each response."""

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        self.stream.send(side, payload if side is Side.CLIENT else b"another", compressed)


def ended(relay: Relay, count: int = 1) -> list[Call]:
    relay.recorder.calls(count)
    return sorted(relay.recorder.ended, key=lambda call: call.began)


def kept(call: Call) -> tuple[list[bytes], list[bytes]]:
    assert call.capture is not None
    assert call.capture.request is not None
    assert call.capture.response is not None
    request, response = call.capture.request, call.capture.response
    assert not request.cut
    assert not response.cut
    return [each for each, _ in request.messages], [each for each, _ in response.messages]


@pytest.fixture(params=["one process", "two processes"])
def image(request: pytest.FixtureRequest, short_dir: Path) -> Path | None:
    """Each test runs also where the image service is another process."""
    return short_dir / "images.sock" if request.param == "two processes" else None


@pytest.fixture(params=["no rules", "replaced", "refused"])
def policy_name(request: pytest.FixtureRequest) -> str:
    """The policy in force."""
    name: str = request.param
    return name


@pytest.fixture
def keeping(
    short_dir: Path, peer: Peer, loop: str, image: Path | None, policy_name: str
) -> Iterator[Relay]:
    """A relay that captures all messages of each call."""
    policy = {"no rules": None, "replaced": EachCall(Replacing), "refused": EachCall(Refusing)}
    with Relay(
        short_dir,
        peer.path,
        image=image,
        loop=loop,
        policy=policy[policy_name],
        budget=HeldBytesBudget(1 << 30, 1 << 30),
        capture_for=lambda connection: lambda path: CaptureLimits(EACH, EACH),
    ) as relay:
        yield relay


def test_kept(keeping: Relay, policy_name: str) -> None:
    """The captured messages are those that the client sent and received, under rules as well."""
    requests = [b"a" * 100_000, b"", b"c"]
    outcome = through(keeping.path, "stream_stream", "Echo", *requests)
    (call,) = ended(keeping)
    if policy_name == "refused":
        assert (outcome.code, outcome.messages) == (grpc.StatusCode.PERMISSION_DENIED, ())
        assert kept(call) == (requests, [])
    else:
        expected = requests if policy_name == "no rules" else [b"another"] * 3
        assert outcome.messages == tuple(expected)
        assert kept(call) == (requests, expected)


def test_asked_once_for_each_client(short_dir: Path, peer: Peer, loop: str) -> None:
    """Policy and capture are selected once for each client, after the observer knows of it."""
    asked: list[tuple[str, Connection, int]] = []
    refusing = ActivePolicy(HeldBytesBudget(), EachCall(Refusing))

    def policy_of(connection: Connection) -> ActivePolicy:
        asked.append(("rules", connection, len(relay.recorder.opened)))
        return refusing if len(relay.recorder.opened) == 2 else relay.active_policy

    def capture_for(connection: Connection) -> SelectCapture | None:
        asked.append(("keep", connection, len(relay.recorder.opened)))
        return (lambda path: CaptureLimits(EACH, EACH)) if len(relay.recorder.opened) == 1 else None

    with Relay(
        short_dir, peer.path, loop=loop, policy_of=policy_of, capture_for=capture_for
    ) as relay:
        first = through(relay.path, "unary_unary", "Unary", b"one")
        second = through(relay.path, "unary_unary", "Unary", b"two")
        one, two = ended(relay, 2)
        opened = relay.recorder.opened
    assert (first.code, first.messages) == (grpc.StatusCode.OK, (b"one",))
    assert (second.code, second.details) == (grpc.StatusCode.PERMISSION_DENIED, "not you")
    assert kept(one) == ([b"one"], [b"one"])
    assert two.capture is None
    assert sorted(asked, key=lambda each: (each[2], each[0])) == [
        (what, connection, number)
        for number, connection in enumerate(opened, 1)
        for what in ("keep", "rules")
    ]
