"""Clients that have as much held as they can: only their own calls fail."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket
from typing import Final

import grpc
import pytest

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.wire.constants import PREFACE
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from tests.integration.test_profiles import use_profile
from tests.support import wire
from tests.support.cri_peers import PULL, CallSpec, CriPeer, encode, execute, pull, start_call
from tests.support.grpc_peers import channel
from tests.support.raw_sockets import dial
from tests.support.rule_relay import Rule, RuleRelay
from tests.support.waiting import wait_until

CODE = grpc.StatusCode
STREAM: Final = 2 << 20
"""The limit of a stream, in bytes; as by default, all may hold four times as much."""
SIZE: Final = STREAM - 100
"""Bytes of a message that fits within it."""

STATUS: Final = "/runtime.{}.RuntimeService/ContainerStatus"
CREATE: Final = CallSpec(
    "/runtime.v1.RuntimeService/CreateContainer",
    (encode(v1.CreateContainerRequest(pod_sandbox_id="x" * 10_000)),),
)

RULES: Final[tuple[Rule, ...]] = (
    {
        "name": "status",
        "match": {"methods": ["ContainerStatus"], "where": 'request.container_id == "none"'},
        "deny": {},
    },
    {
        "name": "create",
        "match": {"methods": ["CreateContainer"], "where": 'request.pod_sandbox_id == "none"'},
        "deny": {},
        "on_error": "fail",
    },
    {
        "name": "pull",
        "match": {"methods": ["PullImage"]},
        "rewrite": {"request": {"image.image": '"mirror/" + request.image.image'}},
        "on_error": "pass",
    },
)


def _message(size: int, sent: int) -> bytes:
    return b"\0" + size.to_bytes(4, "big") + b"\x0a" * sent


def _endless(
    client: socket, streams: range, sent: int, size: int = SIZE, path: str = STATUS.format("v1")
) -> None:
    """Open calls on a connection, and send a part of a message of ``size`` bytes of each."""
    for stream in streams:
        client.sendall(wire.request(stream, path=path.encode()))
        left = _message(size, sent)
        while left:
            client.sendall(wire.data(stream, left[:16_384]))
            left = left[16_384:]


@contextmanager
def _attackers(relay: RuleRelay, count: int) -> Iterator[list[socket]]:
    """Connections to the relay that have sent their preface."""
    with ExitStack() as stack:
        clients = [stack.enter_context(dial(relay.path)) for _ in range(count)]
        for client in clients:
            client.sendall(PREFACE + wire.settings())
        yield clients


def _assert_others_are_served(relay: RuleRelay, peer: CriPeer) -> None:
    """Assert that the rules are applied to another client's calls."""
    peer.clear()
    with channel(relay.path) as one:
        for number in range(5):
            assert start_call(one, CREATE, f"c{number}").outcome().code is CODE.OK
            assert start_call(one, pull("nginx"), f"p{number}").outcome().code is CODE.OK
    images = [
        v1.PullImageRequest.FromString(call.requests[0]).image.image
        for call in peer.received.values()
        if call.path == PULL
    ]
    assert images == ["mirror/nginx"] * 5
    assert not [rule for rule, _ in relay.counts.errors if rule != "status"]


def _held(relay: RuleRelay) -> int:
    return relay.evaluate(lambda: relay.active_policy.budget.bytes)


@pytest.fixture
def relay(short_dir: Path, peer: CriPeer, loop: str) -> Iterator[RuleRelay]:
    """A relay with limits, under rules that read requests."""
    budget = HeldBytesBudget(STREAM, 4 * STREAM)
    with RuleRelay(short_dir, peer.path, loop=loop, budget=budget) as relay:
        relay.load(*RULES)
        yield relay
        relay.assert_nothing_held()


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
@pytest.mark.parametrize("connections", [1, 4])
def test_messages_that_never_end(
    relay: RuleRelay, peer: CriPeer, connections: int, version: str
) -> None:
    """Four requests as large as they may be that never end, on one connection or on four."""
    with _attackers(relay, connections) as clients:
        for number, client in enumerate(clients):
            streams = range(1, 1 + 2 * (4 // connections), 2)
            _endless(client, streams, SIZE - 1000, path=STATUS.format(version))
            wait_until(lambda least=number + 1: _held(relay) > least * STREAM // 3, "held bytes")  # type: ignore[misc]
        _assert_others_are_served(relay, peer)
        if connections == 1:
            assert _held(relay) < 2 * STREAM


def test_many_connections(relay: RuleRelay, peer: CriPeer) -> None:
    """Twelve connections that hold all they may: requests of usual size of others are served."""
    with _attackers(relay, 12) as clients:
        for number, client in enumerate(clients):
            size = STREAM >> (2 if number < 4 else number // 2)
            _endless(client, range(1, 9, 2), size - 1000, size)
        wait_until(lambda: _held(relay) > 3 * STREAM, "held bytes")
        _assert_others_are_served(relay, peer)


def test_streams_without_messages(relay: RuleRelay, peer: CriPeer) -> None:
    """Calls that send no message at all are limited by the share of their connection too."""
    relay.active_policy.budget.connection_limit = 100_000
    with _attackers(relay, 1) as (client,):
        request = wire.request(1, path=STATUS.format("v1").encode())[9:]
        for stream in range(1, 101, 2):
            client.sendall(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, request))
        wait_until(lambda: relay.counts.errors["status", "held_limit"] > 0, "the limit")
        _assert_others_are_served(relay, peer)
        assert _held(relay) < 110_000


def test_empty_messages(relay: RuleRelay, peer: CriPeer) -> None:
    """Messages of no bytes count for what they take."""
    with _attackers(relay, 1) as (client,):
        client.sendall(wire.request(1, path=STATUS.format("v1").encode()))
        for _ in range(4):
            client.sendall(wire.data(1, bytes(5) * 3_000))
        wait_until(lambda: relay.counts.errors["status", "held_limit"] > 0, "the limit")
        _assert_others_are_served(relay, peer)


@pytest.mark.parametrize("ends", ["within", "without the end"])
def test_message_past_its_time(relay: RuleRelay, peer: CriPeer, ends: str) -> None:
    """A request that is not complete in time ends as its own rule has it, and no other."""
    message = _message(SIZE, 1000) if ends == "within" else _message(3, 3)
    with _attackers(relay, 1) as (client,), channel(relay.path) as one:
        client.sendall(wire.request(1, path=STATUS.format("v1").encode()) + wire.data(1, message))
        relay.wait_for_held_streams(1)
        peer.gate.clear()
        other = start_call(one, pull("nginx"), "slow")
        wait_until(lambda: "slow" in peer.received, "a call at the server")
        budget = relay.active_policy.budget
        relay.call(lambda: budget.tick(relay.recorder.begun[0].began + 59.0))
        assert not relay.counts.errors
        relay.call(lambda: budget.tick(relay.recorder.begun[-1].began + 61.0))
        assert relay.counts.errors == {("status", "held_time"): 1}
        peer.gate.set()
        assert other.outcome().code is CODE.OK
        _assert_others_are_served(relay, peer)


def test_at_a_listener_with_a_profile(relay: RuleRelay, peer: CriPeer) -> None:
    """Where a profile has to see a request that is not complete in time, the call is answered."""
    use_profile(relay, "mine", namespaces=["shop"])
    with _attackers(relay, 1) as (client,):
        client.sendall(wire.request(1, path=STATUS.format("v1").encode()))
        client.sendall(wire.data(1, _message(SIZE, 1000)))
        relay.wait_for_held_streams(1)
        began = relay.recorder.begun[0].began
        relay.call(lambda: relay.active_policy.budget.tick(began + 61.0))
        received = b""
        while b"grpc-status" not in received:
            received += client.recv(1 << 16)
        assert b"no complete message in 60 s" in received
    assert not [call for call in peer.received.values() if call.requests]


def test_rules_that_wait(relay: RuleRelay, peer: CriPeer) -> None:
    """A call that a rule delays is not limited in time: its request is complete."""
    relay.load({"name": "slow", "match": {"methods": ["ExecSync"]}, "delay": {"fixed": "1h"}})
    with channel(relay.path) as one:
        call = start_call(one, execute("a"))
        relay.wait_for_waiting_calls(1)
        relay.call(lambda: relay.active_policy.budget.tick(relay.recorder.begun[0].began + 3000.0))
        assert not call.call.done()
        assert not relay.counts.errors
        call.call.cancel()
