"""Rules where the image service is another process than the runtime: they hold all the same."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from tests.integration.test_actions import CASES
from tests.integration.test_breaking import (  # noqa: F401  (they are run here as well)
    test_cancelled,
    test_client_killed,
    test_deadline,
)
from tests.integration.test_reloads import (  # noqa: F401
    test_calls_end_under_their_rules,
    test_rules_for_a_busy_connection,
)
from tests.integration.test_unheard import (  # noqa: F401
    test_client_streams,
    test_large_requests,
)
from tests.support.cri_peers import CriPeer
from tests.support.crowds import check
from tests.support.ruled import RuledRelay


@pytest.fixture
def relay(short_dir: Path, peer: CriPeer, loop: str) -> Iterator[RuledRelay]:
    """A relay that takes the server for two."""
    with RuledRelay(short_dir, peer.path, image=peer.second, loop=loop) as relay:
        yield relay
        relay.nothing_is_held()


NAMES = (
    "deny",
    "deny a stream",
    "delay after",
    "fault before",
    "fault after",
    "hang after",
    "cut",
    "drop",
    "request over 64 KiB",
    "request over 1 MiB",
    "response longer",
    "response to 4 MiB",
    "response of a stream",
    "metadata",
    "limit",
)
EACH = list(zip(NAMES, cycle(("uvloop", "asyncio")), strict=False))


@pytest.mark.parametrize(("name", "loop"), EACH)
def test_action(relay: RuledRelay, peer: CriPeer, name: str) -> None:
    """Those that match get exactly the action; the others are as without rules, in every byte."""
    case = CASES[name]
    check(relay, peer, case, case.matched_by[0])
    assert not relay.log.of("rule failed")
