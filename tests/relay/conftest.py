from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.grpc_peers import Peer
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
def relay(short_dir: Path, peer: Peer, loop: str) -> Iterator[Relay]:
    """A relay in front of it."""
    with Relay(short_dir, peer.path, loop=loop) as relay:
        yield relay
