"""Rules that are added, changed and removed while connections are open and calls in flight."""

import threading
from collections.abc import Iterator

import grpc
import pytest

from tests.support.call_batches import BATCH, MATCHED, Case, run_batch
from tests.support.cri_peers import ECHO, CriPeer, execute, pull, start_call, start_stream, stream
from tests.support.grpc_peers import channel
from tests.support.rule_relay import GateHook, Rule, RuleRelay, gate_rule
from tests.support.waiting import wait_until

CODE = grpc.StatusCode
DENY: Rule = {"name": "deny", "match": {"methods": ["PullImage"]}, "deny": {"message": "no"}}


@pytest.mark.parametrize("phase", ["request", "response"])
@pytest.mark.parametrize("then", [(), (DENY,)], ids=["removed", "changed"])
def test_calls_end_under_their_rules(
    relay: RuleRelay, peer: CriPeer, phase: str, then: tuple[Rule, ...]
) -> None:
    """Waiting calls continue under their rules; new calls get the new ones."""
    gate = GateHook(phase)
    relay.load(gate_rule("PullImage"), hooks={"gate": gate})
    with channel(relay.path) as one:
        held = [start_call(one, pull("a", size=80_000), number) for number in range(5)]
        relay.wait_for_waiting_calls(5)
        relay.load(*then)
        new = start_call(one, pull("b"), "b").outcome()
        assert new.code is (CODE.PERMISSION_DENIED if then else CODE.OK)
        assert not any(call.call.done() for call in held)
        relay.call(gate.opened.set)
        assert {call.outcome().code for call in held} == {CODE.OK}
        relay.assert_restored(relay.pairs[0])
        assert len(relay.pairs) == 1


def test_slots_are_kept(relay: RuleRelay, peer: CriPeer) -> None:
    """A reload that leaves a limit unchanged keeps its slots and its queue."""
    limit: Rule = {"name": "l", "match": {"methods": ["PullImage"]}, "limit": {"in_flight": 2}}
    relay.load(limit)
    peer.gate.clear()
    with channel(relay.path) as one:
        first = [start_call(one, pull("a"), number) for number in range(4)]
        relay.wait_for_waiting_calls(2)
        relay.load(DENY | {"match": {"methods": ["StopContainer"]}}, limit)
        more = [start_call(one, pull("a"), f"b{number}") for number in range(4)]
        relay.wait_for_waiting_calls(6)
        wait_until(lambda: len(peer.received) == 2, "two calls at the server")
        peer.gate.set()
        assert {call.outcome().code for call in first + more} == {CODE.OK}
        assert peer.peak_in_flight[""] == 2
        relay.assert_restored(relay.pairs[0])


class _Messages:
    """An iterator of messages that the test sends one by one."""

    def __init__(self) -> None:
        self._more = threading.Semaphore(0)
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self._more.acquire()
            if self._ended:
                return
            yield b"m" * 50_000

    def send(self) -> None:
        self._more.release()

    def end(self) -> None:
        self._ended = True
        self.send()


def test_rules_for_a_busy_connection(relay: RuleRelay, peer: CriPeer) -> None:
    """Rules that are added or removed apply to the next calls of an open connection."""
    streams = [_Messages() for _ in range(5)]
    peer.gate.clear()
    with channel(relay.path) as one:
        calls = [start_stream(one, ECHO, iter(stream_)) for stream_ in streams]
        batch = [start_call(one, stream("s", size=30_000, messages=30), n) for n in range(10)]
        batch += [
            start_call(one, execute("e", "c" * 90_000, size=90_000), f"e{n}") for n in range(10)
        ]
        for turn in range(6):
            for stream_ in streams:
                stream_.send()
            if turn % 2:
                relay.load()
            else:
                relay.load(
                    DENY, gate_rule("ExecSync", name="unused", mode="dry-run"), hooks=_unused()
                )
            pulls = [start_call(one, pull("a"), f"p{turn}-{n}") for n in range(10)]
            if turn % 2:
                peer.gate.set()
            codes = {call.outcome().code for call in pulls}
            assert codes == {CODE.OK if turn % 2 else CODE.PERMISSION_DENIED}
        for stream_ in streams:
            stream_.end()
        assert [len(call.outcome().messages) for call in calls] == [6] * 5
        assert {call.outcome().code for call in batch} == {CODE.OK}
        relay.assert_restored(relay.pairs[0])
        assert len(relay.pairs) == 1
    assert not relay.recorder.stopped


def _unused() -> dict[str, GateHook]:
    return {"unused": GateHook("request")}


def test_action_on_an_open_connection(relay: RuleRelay, peer: CriPeer) -> None:
    """Rules act on a connection that was used before there were rules as on a new one."""
    case = Case({"rewrite": {"response": {"image_ref": 'response.image_ref + "#"'}}}, size=70_000)
    batch = case.batch()
    with channel(relay.path) as one:
        without = run_batch(one, peer, batch, BATCH)
        for matched_by in ("request", "metadata"):
            relay.load(case.rule(matched_by))
            ended = run_batch(one, peer, batch, BATCH)
            for number in range(BATCH):
                if number in MATCHED:
                    (message,) = ended[number].outcome.messages
                    assert b"@#" in message
                else:
                    assert ended[number] == without[number]
            relay.load()
            assert run_batch(one, peer, batch, BATCH) == without
        relay.assert_restored(relay.pairs[0])
        assert len(relay.pairs) == 1
