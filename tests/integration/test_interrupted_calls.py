"""Calls that end while rules keep them waiting: by the client, the server or the deadline."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from criproxy.rules.facts import Facts
from criproxy.wire.constants import ErrorCode
from criproxy.wire.http2 import frame_builder
from tests.support.cri_peers import (
    ECHO,
    PULL,
    CriPeer,
    command,
    execute,
    pull,
    start_call,
    start_stream,
    stream,
)
from tests.support.grpc_peers import Outcome, channel, environment
from tests.support.process import Process
from tests.support.rule_relay import GateHook, RuleRelay, gate_rule, goaway_received
from tests.support.scripted import ScriptedServer
from tests.support.waiting import LIMIT_SECONDS, wait_until

CODE = grpc.StatusCode
ENVIRONMENT = environment()
PHASES = pytest.mark.parametrize("phase", ["request", "response"])


def _gate(relay: RuleRelay, phase: str, *methods: str) -> Callable[[], None]:
    """Keep calls waiting; return a function that lets them go on."""
    gate = GateHook(phase)
    relay.load(gate_rule(*methods or ("PullImage",)), hooks={"gate": gate})
    return lambda: relay.call(gate.opened.set)


@PHASES
def test_deadline(relay: RuleRelay, peer: CriPeer, phase: str) -> None:
    """A waiting call keeps its deadline, and leaves nothing behind at the server."""
    _gate(relay, phase)
    with channel(relay.path) as one:
        calls = [start_call(one, pull("a", timeout=0.3), number) for number in range(10)]
        others = [start_call(one, execute("b"), f"b{number}") for number in range(10)]
        # A server whose deadline passes first resets with CANCEL, which may reach its client.
        codes = {call.outcome().code for call in calls}
        assert codes <= {CODE.DEADLINE_EXCEEDED, CODE.CANCELLED}
        assert {call.outcome().code for call in others} == {CODE.OK}
        relay.assert_restored(relay.pairs[0])
        assert relay.pairs[0].reader.calls == ()
        if phase == "request":
            assert not [received for received in peer.received.values() if received.path == PULL]
        assert peer.stop(60.0).wait(LIMIT_SECONDS)  # it does not wait for any


def test_pings_of_the_client(relay: RuleRelay, peer: CriPeer) -> None:
    """PINGs for DATA that was forwarded late do not reach a server that limits PINGs."""

    class Slow(GateHook):
        async def response(self, message: Message, facts: Facts) -> Message:
            await asyncio.sleep(0.1)  # a client pings no sooner than that after its last
            return message

    relay.load(gate_rule("StreamContainers"), hooks={"gate": Slow("response")})
    with channel(relay.path) as one:
        call = start_call(one, stream("a", size=60_000, messages=20))
        outcome = call.outcome()
        assert (outcome.code, len(outcome.messages)) == (CODE.OK, 20)
        relay.assert_restored(relay.pairs[0])
        assert start_call(one, pull("a")).outcome().code is CODE.OK
        assert len(relay.pairs) == 1


@PHASES
def test_cancelled(relay: RuleRelay, peer: CriPeer, phase: str) -> None:
    """A waiting call that is cancelled ends at once, at the server too."""
    _gate(relay, phase)
    with channel(relay.path) as one:
        calls = [start_call(one, pull("a", size=100_000), number) for number in range(10)]
        relay.wait_for_waiting_calls(10)
        for call in calls:
            call.call.cancel()
        assert {call.call.code() for call in calls} == {CODE.CANCELLED}
        relay.assert_restored(relay.pairs[0])
        assert start_call(one, execute("b"), "b").outcome().code is CODE.OK
        assert set(peer.received) == {"b"} if phase == "request" else len(peer.received) == 11
        assert [call.code.name for call in relay.recorder.ended[:10] if call.code] == [
            "CANCELLED"
        ] * 10
        assert peer.stop(60.0).wait(LIMIT_SECONDS)


@PHASES
def test_client_killed(relay: RuleRelay, peer: CriPeer, short_dir: Path, phase: str) -> None:
    """The waiting calls of a killed client are discarded, and their slots released."""
    gate = GateHook(phase)
    limit = {"in_flight": 1}
    rules = {"name": "limit", "match": {"methods": ["PullImage"]}, "limit": limit, "continue": True}
    relay.load(rules, gate_rule("PullImage"), hooks={"gate": gate})
    client = Process(command("pull", relay.path), output=short_dir / "client", env=ENVIRONMENT)
    with client, channel(relay.path) as one:
        relay.wait_for_waiting_calls(1)
        call = start_call(one, pull("mine"), "mine")
        relay.wait_for_held_streams(2)
        client.kill()
        wait_until(lambda: len(relay.recorder.closed) == 1, "end of the killed client")
        relay.call(gate.opened.set)
        assert call.outcome().code is CODE.OK  # the other's place has become its own
        relay.assert_restored(relay.pairs[-1])


@PHASES
def test_graceful_stop(relay: RuleRelay, peer: CriPeer, phase: str) -> None:
    """A server that stops gracefully still gets and answers the waiting calls."""
    go = _gate(relay, phase)
    with channel(relay.path) as one:
        calls = [start_call(one, pull("a", size=100_000), number) for number in range(5)]
        relay.wait_for_waiting_calls(5)
        stopped = peer.stop(60.0)
        wait_until(lambda: relay.evaluate(lambda: goaway_received(relay.pairs[0])), "GOAWAY")
        go()
        assert [call.outcome().code for call in calls] == [CODE.OK] * 5
        assert stopped.wait(LIMIT_SECONDS)
        relay.recorder.all_closed()
    relay.assert_nothing_held()


@pytest.mark.parametrize("split", [False, True], ids=["one", "two"])
def test_server_killed(short_dir: Path, loop: str, split: bool) -> None:
    """Complete responses of a killed server are delivered; other calls are UNAVAILABLE."""
    path = short_dir / "peer.sock"
    server = Process(command("serve", path), output=short_dir / "server", env=ENVIRONMENT)
    gates = {"request": GateHook("request"), "response": GateHook("response")}
    never = threading.Event()

    def endless() -> Iterator[bytes]:
        yield b"first"
        never.wait(LIMIT_SECONDS)

    image = path.with_name("second-peer.sock") if split else None
    with server, RuleRelay(short_dir, path, image=image, loop=loop) as relay:
        wait_until(lambda: "serving" in server.stdout, "server")
        relay.load(
            gate_rule("PullImage", name="request"),
            gate_rule("ExecSync", name="response"),
            hooks=gates,
        )
        with channel(relay.path) as one:
            answered = [start_call(one, execute("a", size=50_000 * n), n) for n in range(5)]
            unasked = [start_call(one, pull("b"), f"b{number}") for number in range(5)]
            relay.wait_for_waiting_calls(10)
            streaming = start_stream(one, ECHO, endless())
            wait_until(lambda: len(relay.recorder.begun) == 11, "all calls")
            server.kill()
            codes = [call.outcome().code for call in (*unasked, streaming)]
            assert codes == [CODE.UNAVAILABLE] * 6
            assert not any(call.call.done() for call in answered)
            relay.call(gates["response"].opened.set)
            for number, call in enumerate(answered):
                outcome = call.outcome()
                assert (outcome.code, outcome.details) == (CODE.OK, "")
                assert len(outcome.messages[0]) > 50_000 * number
            if not split:  # two processes: the other may still be there
                relay.recorder.all_closed()
        never.set()
        relay.assert_nothing_held()


Act = Callable[[H2Connection, int], None]


def _resets(code: ErrorCodes) -> Act:
    return lambda h2, stream: h2.reset_stream(stream, code)


def _refuses(h2: H2Connection, stream: int) -> None:
    fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "9")]
    h2.send_headers(stream, fields, end_stream=True)


def _begins(h2: H2Connection, stream: int) -> None:
    h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
    h2.send_data(stream, b"\0\0\0\0\x03\x0a\x01x")


def _begins_and_resets(h2: H2Connection, stream: int) -> None:
    _begins(h2, stream)
    h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)


def _ends_and_resets(h2: H2Connection, stream: int) -> None:
    _begins(h2, stream)
    h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
    h2._data_to_send += frame_builder.reset(stream, ErrorCode.NO_ERROR)  # h2 would not, servers do


def _nothing(h2: H2Connection, stream: int) -> None:
    pass


def _ended(path: Path) -> Outcome:
    with channel(path) as one:
        return start_call(one, pull("a", timeout=20.0)).outcome()


@pytest.mark.parametrize(
    "began",
    [
        _resets(ErrorCodes.REFUSED_STREAM),
        _resets(ErrorCodes.CANCEL),
        _resets(ErrorCodes.INTERNAL_ERROR),
        _resets(ErrorCodes.ENHANCE_YOUR_CALM),
        _refuses,
        _begins_and_resets,
    ],
    ids=["refused", "cancel", "internal", "calm", "trailers", "begun"],
)
def test_server_does_not_wait_for_the_request(short_dir: Path, loop: str, began: Act) -> None:
    """A server that ends a call whose request is held ends it as without rules."""
    with (
        ScriptedServer(short_dir / "peer.sock", _nothing, began) as server,
        RuleRelay(short_dir, server.path, loop=loop) as relay,
    ):
        _gate(relay, "request")
        assert _ended(relay.path) == _ended(server.path)
        relay.assert_nothing_held()


@pytest.mark.parametrize(
    "answer", [_begins_and_resets, _ends_and_resets], ids=["within", "behind the end"]
)
def test_server_resets_what_waits(short_dir: Path, loop: str, answer: Act) -> None:
    """A reset of a held response ends it as without rules: a complete one is delivered."""
    with (
        ScriptedServer(short_dir / "peer.sock", answer) as server,
        RuleRelay(short_dir, server.path, loop=loop) as relay,
        channel(relay.path) as one,
    ):
        go = _gate(relay, "response")
        call = start_call(one, pull("a", timeout=20.0))
        if answer is _ends_and_resets:
            relay.wait_for_waiting_calls(1)
            assert not call.call.done()
            go()
        assert call.outcome() == _ended(server.path)
        relay.assert_restored(relay.pairs[0])


def _answers(h2: H2Connection, stream: int) -> None:
    _begins(h2, stream)
    h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)


@pytest.mark.parametrize("when", ["before", "after"])
def test_answered_in_its_place(short_dir: Path, loop: str, when: str) -> None:
    """A call that rules answer ends at the server too, which allows three streams at a time."""
    fault = {"code": "ABORTED", "when": when}
    with (
        ScriptedServer(short_dir / "peer.sock", _answers, streams=3) as server,
        RuleRelay(short_dir, server.path, loop=loop) as relay,
        channel(relay.path) as one,
    ):
        relay.load({"name": "it", "match": {"methods": ["PullImage"]}, "fault": fault})
        calls = [start_call(one, pull("a"), number) for number in range(50)]
        assert {call.outcome().code for call in calls} == {CODE.ABORTED}
        assert start_call(one, execute("b")).outcome().code is CODE.OK
        relay.assert_restored(relay.pairs[0])
        assert len(relay.pairs) == 1
