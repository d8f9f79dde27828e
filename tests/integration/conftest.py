from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cri_peers import CriPeer
from tests.support.relaying import LOOPS
from tests.support.rule_relay import RuleRelay


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop of the relay: each test runs on all of them."""
    name: str = request.param
    return name


@pytest.fixture
def peer(short_dir: Path) -> Iterator[CriPeer]:
    """A grpcio server that speaks the CRI."""
    with CriPeer(short_dir / "peer.sock") as peer:
        yield peer


@pytest.fixture
def relay(short_dir: Path, peer: CriPeer, loop: str) -> Iterator[RuleRelay]:
    """A relay in front of the server, without rules. Asserts at the end that nothing is held."""
    with RuleRelay(short_dir, peer.path, loop=loop) as relay:
        yield relay
        relay.assert_nothing_held()
