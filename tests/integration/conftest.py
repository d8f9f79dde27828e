from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cri_peers import CriPeer
from tests.support.relaying import LOOPS
from tests.support.ruled import RuledRelay


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop to relay on: each test runs on every one."""
    name: str = request.param
    return name


@pytest.fixture
def peer(short_dir: Path) -> Iterator[CriPeer]:
    """A grpcio server that speaks the CRI."""
    with CriPeer(short_dir / "peer.sock") as peer:
        yield peer


@pytest.fixture
def relay(short_dir: Path, peer: CriPeer, loop: str) -> Iterator[RuledRelay]:
    """A relay in front of it, without rules yet. At its end nothing is held."""
    with RuledRelay(short_dir, peer.path, loop=loop) as relay:
        yield relay
        relay.nothing_is_held()
