from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from tests.support.grpc_peers import Peer
from tests.support.handlers import POLICIES
from tests.support.relaying import LOOPS, Relay


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop to relay on: each test runs on every one."""
    name: str = request.param
    return name


@pytest.fixture
def peer(short_dir: Path) -> Iterator[Peer]:
    """A grpcio server."""
    with Peer(short_dir / "peer.sock") as peer:
        yield peer


@pytest.fixture
def policy() -> str:
    """The name of the relay's policy; a module may have more than this one."""
    return "no rules"


@pytest.fixture
def relay(short_dir: Path, peer: Peer, loop: str, policy: str) -> Iterator[Relay]:
    """A relay in front of it. At its end nothing is held."""
    budget = HeldBytesBudget(1 << 30, 1 << 30)
    with Relay(short_dir, peer.path, loop=loop, policy=POLICIES[policy](), budget=budget) as relay:
        yield relay
    assert (relay.active_policy.budget.streams, relay.active_policy.budget.bytes) == (0, 0)
