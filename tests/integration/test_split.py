"""Rules where the image service is another process than the runtime."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from tests.integration.test_actions import CASES
from tests.integration.test_hidden_calls import (  # noqa: F401
    test_client_streams,
    test_large_requests,
)
from tests.integration.test_interrupted_calls import (  # noqa: F401  (they are run here as well)
    test_cancelled,
    test_client_killed,
    test_deadline,
)
from tests.integration.test_reloads import (  # noqa: F401
    test_calls_end_under_their_rules,
    test_rules_for_a_busy_connection,
)
from tests.support.call_batches import check_action
from tests.support.cri_peers import CriPeer
from tests.support.rule_relay import RuleRelay


@pytest.fixture
def relay(short_dir: Path, peer: CriPeer, loop: str) -> Iterator[RuleRelay]:
    """A relay that treats the server as two."""
    with RuleRelay(short_dir, peer.path, image=peer.second, loop=loop) as relay:
        yield relay
        relay.assert_nothing_held()


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
def test_action(relay: RuleRelay, peer: CriPeer, name: str) -> None:
    """Matching calls get exactly the action; the others are unchanged in every byte."""
    case = CASES[name]
    check_action(relay, peer, case, case.matched_by[0])
    assert not relay.log.of("rule failed")
