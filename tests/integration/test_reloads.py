"""Rules that come, change and go while connections are open and calls under way."""

import threading
from collections.abc import Iterator

import grpc
import pytest

from tests.support.cri_peers import ECHO, CriPeer, execute, make, pull, start, stream
from tests.support.crowds import CROWD, MATCHED, Case, run
from tests.support.grpc_peers import channel
from tests.support.ruled import Gate, Rule, RuledRelay, gated
from tests.support.waiting import wait_until

CODE = grpc.StatusCode
DENY: Rule = {"name": "deny", "match": {"methods": ["PullImage"]}, "deny": {"message": "no"}}


@pytest.mark.parametrize("half", ["request", "response"])
@pytest.mark.parametrize("then", [(), (DENY,)], ids=["removed", "changed"])
def test_calls_end_under_their_rules(
    relay: RuledRelay, peer: CriPeer, half: str, then: tuple[Rule, ...]
) -> None:
    """Calls that wait go on as their rules had it; those that begin have the new ones."""
    gate = Gate(half)
    relay.load(gated("PullImage"), hooks={"gate": gate})
    with channel(relay.path) as one:
        held = [make(one, pull("a", size=80_000), number) for number in range(5)]
        relay.waiting(5)
        relay.load(*then)
        new = make(one, pull("b"), "b").outcome()
        assert new.code is (CODE.PERMISSION_DENIED if then else CODE.OK)
        assert not any(call.call.done() for call in held)
        relay.call(gate.opened.set)
        assert {call.outcome().code for call in held} == {CODE.OK}
        relay.is_as_it_was(relay.pairs[0])
        assert len(relay.pairs) == 1


def test_places_are_kept(relay: RuledRelay, peer: CriPeer) -> None:
    """A reload that leaves a limit as it was gives no place anew, and forgets nobody who waits."""
    limit: Rule = {"name": "l", "match": {"methods": ["PullImage"]}, "limit": {"in_flight": 2}}
    relay.load(limit)
    peer.gate.clear()
    with channel(relay.path) as one:
        first = [make(one, pull("a"), number) for number in range(4)]
        relay.waiting(2)
        relay.load(DENY | {"match": {"methods": ["StopContainer"]}}, limit)
        more = [make(one, pull("a"), f"b{number}") for number in range(4)]
        relay.waiting(6)
        wait_until(lambda: len(peer.asked) == 2, "two calls at the server")
        peer.gate.set()
        assert {call.outcome().code for call in first + more} == {CODE.OK}
        assert peer.most[""] == 2
        relay.is_as_it_was(relay.pairs[0])


class _Talk:
    """Messages that are sent one by one."""

    def __init__(self) -> None:
        self._more = threading.Semaphore(0)
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self._more.acquire()
            if self._over:
                return
            yield b"m" * 50_000

    def say(self) -> None:
        self._more.release()

    def end(self) -> None:
        self._over = True
        self.say()


def test_rules_for_a_busy_connection(relay: RuledRelay, peer: CriPeer) -> None:
    """Rules hold from the next call on where a connection is open; they go as easily, and again."""
    talks = [_Talk() for _ in range(5)]
    peer.gate.clear()
    with channel(relay.path) as one:
        calls = [start(one, ECHO, iter(talk)) for talk in talks]
        crowd = [make(one, stream("s", size=30_000, messages=30), n) for n in range(10)]
        crowd += [make(one, execute("e", "c" * 90_000, size=90_000), f"e{n}") for n in range(10)]
        for turn in range(6):
            for talk in talks:
                talk.say()
            if turn % 2:
                relay.load()
            else:
                relay.load(DENY, gated("ExecSync", name="unused", mode="dry-run"), hooks=_unused())
            pulls = [make(one, pull("a"), f"p{turn}-{n}") for n in range(10)]
            if turn % 2:
                peer.gate.set()
            codes = {call.outcome().code for call in pulls}
            assert codes == {CODE.OK if turn % 2 else CODE.PERMISSION_DENIED}
        for talk in talks:
            talk.end()
        assert [len(call.outcome().messages) for call in calls] == [6] * 5
        assert {call.outcome().code for call in crowd} == {CODE.OK}
        relay.is_as_it_was(relay.pairs[0])
        assert len(relay.pairs) == 1
    assert not relay.recorder.stopped


def _unused() -> dict[str, Gate]:
    return {"unused": Gate("request")}


def test_action_on_an_open_connection(relay: RuledRelay, peer: CriPeer) -> None:
    """On a connection that was in use before there were rules they act as on a new one."""
    case = Case({"rewrite": {"response": {"image_ref": 'response.image_ref + "#"'}}}, size=70_000)
    crowd = case.crowd()
    with channel(relay.path) as one:
        without = run(one, peer, crowd, CROWD)
        for matched_by in ("request", "metadata"):
            relay.load(case.rule(matched_by))
            ended = run(one, peer, crowd, CROWD)
            for number in range(CROWD):
                if number in MATCHED:
                    (message,) = ended[number].outcome.messages
                    assert b"@#" in message
                else:
                    assert ended[number] == without[number]
            relay.load()
            assert run(one, peer, crowd, CROWD) == without
        relay.is_as_it_was(relay.pairs[0])
        assert len(relay.pairs) == 1
