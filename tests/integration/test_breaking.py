"""Calls that end while rules have them waiting: by their client, by their server, by the clock."""

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
from criproxy.wire.http2 import frame_builder as building
from tests.support.cri_peers import (
    ECHO,
    PULL,
    CriPeer,
    command,
    execute,
    make,
    pull,
    start,
    stream,
)
from tests.support.grpc_peers import Outcome, channel, environment
from tests.support.process import Process
from tests.support.ruled import Gate, RuledRelay, gated, is_going
from tests.support.scripted import ScriptedServer
from tests.support.waiting import LIMIT_SECONDS, wait_until

CODE = grpc.StatusCode
ENVIRONMENT = environment()
HALVES = pytest.mark.parametrize("half", ["request", "response"])


def _gate(relay: RuledRelay, half: str, *methods: str) -> Callable[[], None]:
    """Have calls wait; return what lets them go."""
    gate = Gate(half)
    relay.load(gated(*methods or ("PullImage",)), hooks={"gate": gate})
    return lambda: relay.call(gate.opened.set)


@HALVES
def test_deadline(relay: RuledRelay, peer: CriPeer, half: str) -> None:
    """A call that waits keeps its deadline, and leaves nothing behind at its server."""
    _gate(relay, half)
    with channel(relay.path) as one:
        calls = [make(one, pull("a", timeout=0.3), number) for number in range(10)]
        others = [make(one, execute("b"), f"b{number}") for number in range(10)]
        assert {call.outcome().code for call in calls} == {CODE.DEADLINE_EXCEEDED}
        assert {call.outcome().code for call in others} == {CODE.OK}
        relay.is_as_it_was(relay.pairs[0])
        assert relay.pairs[0].reader.calls == ()
        if half == "request":
            assert not [asked for asked in peer.asked.values() if asked.path == PULL]
        assert peer.stop(60.0).wait(LIMIT_SECONDS)  # it does not wait for any


def test_pings_of_the_client(relay: RuledRelay, peer: CriPeer) -> None:
    """A client pings for what we send on late; a server that counts pings is not bothered."""

    class Slow(Gate):
        async def response(self, message: Message, facts: Facts) -> Message:
            await asyncio.sleep(0.1)  # a client pings no sooner than that after its last
            return message

    relay.load(gated("StreamContainers"), hooks={"gate": Slow("response")})
    with channel(relay.path) as one:
        call = make(one, stream("a", size=60_000, messages=20))
        outcome = call.outcome()
        assert (outcome.code, len(outcome.messages)) == (CODE.OK, 20)
        relay.is_as_it_was(relay.pairs[0])
        assert make(one, pull("a")).outcome().code is CODE.OK
        assert len(relay.pairs) == 1


@HALVES
def test_cancelled(relay: RuledRelay, peer: CriPeer, half: str) -> None:
    """A call that is cancelled while it waits is over at once, at its server too."""
    _gate(relay, half)
    with channel(relay.path) as one:
        calls = [make(one, pull("a", size=100_000), number) for number in range(10)]
        relay.waiting(10)
        for call in calls:
            call.call.cancel()
        assert {call.call.code() for call in calls} == {CODE.CANCELLED}
        relay.is_as_it_was(relay.pairs[0])
        assert make(one, execute("b"), "b").outcome().code is CODE.OK
        assert set(peer.asked) == {"b"} if half == "request" else len(peer.asked) == 11
        assert [call.code.name for call in relay.recorder.ended[:10] if call.code] == [
            "CANCELLED"
        ] * 10
        assert peer.stop(60.0).wait(LIMIT_SECONDS)


@HALVES
def test_client_killed(relay: RuledRelay, peer: CriPeer, short_dir: Path, half: str) -> None:
    """With a client that is killed all that it had waiting is given up, its places too."""
    gate = Gate(half)
    limit = {"in_flight": 1}
    rules = {"name": "limit", "match": {"methods": ["PullImage"]}, "limit": limit, "continue": True}
    relay.load(rules, gated("PullImage"), hooks={"gate": gate})
    client = Process(command("pull", relay.path), output=short_dir / "client", env=ENVIRONMENT)
    with client, channel(relay.path) as one:
        relay.waiting(1)
        call = make(one, pull("mine"), "mine")
        relay.holds(2)
        client.kill()
        wait_until(lambda: len(relay.recorder.closed) == 1, "end of the killed client")
        relay.call(gate.opened.set)
        assert call.outcome().code is CODE.OK  # the other's place has become its own
        relay.is_as_it_was(relay.pairs[-1])


@HALVES
def test_graceful_stop(relay: RuledRelay, peer: CriPeer, half: str) -> None:
    """A server that goes once its calls are done still gets and answers those that wait."""
    go = _gate(relay, half)
    with channel(relay.path) as one:
        calls = [make(one, pull("a", size=100_000), number) for number in range(5)]
        relay.waiting(5)
        stopped = peer.stop(60.0)
        wait_until(lambda: relay.on_loop(lambda: is_going(relay.pairs[0])), "GOAWAY")
        go()
        assert [call.outcome().code for call in calls] == [CODE.OK] * 5
        assert stopped.wait(LIMIT_SECONDS)
        relay.recorder.all_closed()
    relay.nothing_is_held()


@pytest.mark.parametrize("split", [False, True], ids=["one", "two"])
def test_server_killed(short_dir: Path, loop: str, split: bool) -> None:
    """What a killed server has answered in full is delivered; the rest is UNAVAILABLE."""
    path = short_dir / "peer.sock"
    server = Process(command("serve", path), output=short_dir / "server", env=ENVIRONMENT)
    gates = {"request": Gate("request"), "response": Gate("response")}
    never = threading.Event()

    def endless() -> Iterator[bytes]:
        yield b"first"
        never.wait(LIMIT_SECONDS)

    image = path.with_name("second-peer.sock") if split else None
    with server, RuledRelay(short_dir, path, image=image, loop=loop) as relay:
        wait_until(lambda: "serving" in server.stdout, "server")
        relay.load(
            gated("PullImage", name="request"), gated("ExecSync", name="response"), hooks=gates
        )
        with channel(relay.path) as one:
            answered = [make(one, execute("a", size=50_000 * n), n) for n in range(5)]
            unasked = [make(one, pull("b"), f"b{number}") for number in range(5)]
            relay.waiting(10)
            streaming = start(one, ECHO, endless())
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
        relay.nothing_is_held()


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
    h2._data_to_send += building.reset(stream, ErrorCode.NO_ERROR)  # h2 would not, servers do


def _nothing(h2: H2Connection, stream: int) -> None:
    pass


def _ended(path: Path) -> Outcome:
    with channel(path) as one:
        return make(one, pull("a")).outcome()


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
    """A server that ends a call whose request is held ends it for the client as without rules."""
    with (
        ScriptedServer(short_dir / "peer.sock", _nothing, began) as server,
        RuledRelay(short_dir, server.path, loop=loop) as relay,
    ):
        _gate(relay, "request")
        assert _ended(relay.path) == _ended(server.path)
        relay.nothing_is_held()


@pytest.mark.parametrize(
    "answer", [_begins_and_resets, _ends_and_resets], ids=["within", "behind the end"]
)
def test_server_resets_what_waits(short_dir: Path, loop: str, answer: Act) -> None:
    """A reset of a response that is held ends it as without rules: a complete one is delivered."""
    with (
        ScriptedServer(short_dir / "peer.sock", answer) as server,
        RuledRelay(short_dir, server.path, loop=loop) as relay,
        channel(relay.path) as one,
    ):
        go = _gate(relay, "response")
        call = make(one, pull("a"))
        if answer is _ends_and_resets:
            relay.waiting(1)
            assert not call.call.done()
            go()
        assert call.outcome() == _ended(server.path)
        relay.is_as_it_was(relay.pairs[0])


def _answers(h2: H2Connection, stream: int) -> None:
    _begins(h2, stream)
    h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)


@pytest.mark.parametrize("when", ["before", "after"])
def test_answered_in_its_place(short_dir: Path, loop: str, when: str) -> None:
    """A call that rules answer is over at its server too, which takes but three at a time."""
    fault = {"code": "ABORTED", "when": when}
    with (
        ScriptedServer(short_dir / "peer.sock", _answers, streams=3) as server,
        RuledRelay(short_dir, server.path, loop=loop) as relay,
        channel(relay.path) as one,
    ):
        relay.load({"name": "it", "match": {"methods": ["PullImage"]}, "fault": fault})
        calls = [make(one, pull("a"), number) for number in range(50)]
        assert {call.outcome().code for call in calls} == {CODE.ABORTED}
        assert make(one, execute("b")).outcome().code is CODE.OK
        relay.is_as_it_was(relay.pairs[0])
        assert len(relay.pairs) == 1
