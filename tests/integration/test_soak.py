"""Two thousand calls of all kinds under random rules: each ends as its rule requires."""

import random
from collections import Counter, deque
from dataclasses import replace

import grpc
import pytest

from tests.integration.test_actions import CASES
from tests.support.call_batches import Case, Ended, assert_expected, assert_unchanged, others
from tests.support.cri_peers import CallSpec, CriPeer, start_call
from tests.support.grpc_peers import Outcome, Started, channel
from tests.support.rule_relay import RuleRelay
from tests.support.waiting import LIMIT_SECONDS

CALLS = 2000
AT_ONCE = 60
RULES = 16
LOADED_EVERY = 250
LARGE = {"response of 4 MiB", "response to 4 MiB", "request over 1 MiB"}
OTHERWISE = {"limit by caller", "hang after"}
"""Cases with a queue as long as the run, and with a deadline to reach the server by."""

NEVER = 0.2
"""The deadline, in seconds, of a call that hangs before it reaches the server."""

SIZES = (0, 10, 1000, 70_000)
PADS = (1, 10, 3000, 70_000)


class Soak:
    """Random rules, each for the group of calls with its name, and calls of all groups."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        names = dice.sample(sorted(CASES.keys() - LARGE - OTHERWISE), RULES)
        self.cases = {name: CASES[name] for name in names}
        self.rules = [
            case.rule(dice.choice(case.matched_by), name, name) for name, case in self.cases.items()
        ]
        self.kinds: list[tuple[Case | None, CallSpec]] = [(None, ask) for ask in others()]
        for name, case in self.cases.items():
            timeout = NEVER if case.hangs else LIMIT_SECONDS
            self.kinds += [(case, self._ask(case, name, timeout)) for _ in range(3)]
            self.kinds += [(None, self._ask(case, f"not {name}", LIMIT_SECONDS))]

    def _ask(self, case: Case, group: str, timeout: float) -> CallSpec:
        size, pad = self.dice.choice(SIZES), self.dice.choice(PADS)
        return case.ask(group, size=size, pad=pad, timeout=timeout)


@pytest.mark.parametrize(("seed", "loop"), [(1, "uvloop"), (2, "asyncio")])
def test_soak(relay: RuleRelay, peer: CriPeer, seed: int) -> None:
    """Each call ends as its rule requires or as without rules, and leaves nothing behind."""
    soak = Soak(seed)
    with channel(relay.path) as one:
        plain = [start_call(one, ask, n).outcome() for n, (_, ask) in enumerate(soak.kinds)]
        without = [Ended(outcome, peer.received.get(str(n))) for n, outcome in enumerate(plain)]
    peer.clear()
    ended: list[tuple[int, Outcome]] = []
    waiting: deque[tuple[int, Started]] = deque()
    with channel(relay.path) as one:
        for number in range(CALLS):
            if number % LOADED_EVERY == 0:
                soak.dice.shuffle(soak.rules)
                relay.load(*soak.rules)
            if len(waiting) == AT_ONCE:
                kind, call = waiting.popleft()
                ended.append((kind, call.outcome()))
            kind = soak.dice.randrange(len(soak.kinds))
            waiting.append((kind, start_call(one, soak.kinds[kind][1], kind)))
        ended += [(kind, call.outcome()) for kind, call in waiting]
        relay.assert_restored(relay.pairs[1])
    for kind, outcome in ended:
        case, _ = soak.kinds[kind]
        got = Ended(outcome, peer.received.get(str(kind)))
        if case is None:
            assert_unchanged(got, without[kind])
        elif case.hangs:
            late = replace(case, code=grpc.StatusCode.DEADLINE_EXCEEDED)
            assert_expected(late, got, without[kind])
        else:
            assert_expected(case, got, without[kind])
    relay.recorder.all_closed()
    assert len(relay.pairs) == 2
    assert not relay.log
    matches = Counter[str]()
    for (rule, _, _), count in relay.counts.matches.items():
        matches[rule] += count
    expected = Counter(soak.kinds[kind][1].group for kind, _ in ended if soak.kinds[kind][0])
    # A call whose deadline ends it on its way may have reached the rules or not, and may have been
    # over when its rule acted.
    seen = Counter(rule for call in relay.recorder.ended for rule in call.rules)
    for name, case in soak.cases.items():
        if case.hangs:
            assert seen[name] <= matches[name] <= expected[name]
            expected[name] = matches[name]
    assert matches == expected
