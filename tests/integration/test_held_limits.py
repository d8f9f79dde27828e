"""Limits on held bytes, and connections that cannot be read."""

import contextlib
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.wire.constants import PREFACE
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from tests.support import wire
from tests.support.cri_peers import CriPeer, execute, pull, start_call, stream
from tests.support.grpc_peers import Outcome, channel
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.rule_relay import GateHook, Rule, RuleRelay, gate_rule
from tests.support.waiting import wait_until

CODE = grpc.StatusCode
LIMIT = 100_000
GARBAGE = b"SETUP / RTSP/2.0\r\nHost: nobody\r\n\r\n" * 10
ON_ERROR = pytest.mark.parametrize("on_error", ["pass", "fail"])


def rule(on_error: str, **action: Any) -> Rule:
    where = 'request.cmd[0] == "match"'
    match = {"methods": ["ExecSync"], "where": where}
    return {"name": "it", "match": match, "on_error": on_error, **action}


def ask(path: Path, sent: int, size: int = 10) -> Outcome:
    with channel(path) as one:
        return start_call(one, execute("match", "c" * sent, size=size)).outcome()


@ON_ERROR
def test_request_too_large(short_dir: Path, peer: CriPeer, loop: str, on_error: str) -> None:
    """A request over the limit passes unchanged or fails with the rule's name, by ``on_error``."""
    with RuleRelay(
        short_dir, peer.path, loop=loop, budget=HeldBytesBudget(LIMIT, 1 << 30)
    ) as relay:
        without = ask(relay.path, 300_000)
        received = dict(peer.received)
        peer.clear()
        relay.load(rule(on_error, rewrite={"request": {"cmd[1]": '"x"'}}))
        outcome = ask(relay.path, 300_000)
        if on_error == "pass":
            assert outcome == without
            assert peer.received == received
        else:
            message = f"criproxy: rule it: more than {LIMIT} bytes would be held"
            assert outcome == Outcome(CODE.INTERNAL, message, (), (), ())
            assert not peer.received
        assert relay.counts.errors == {("it", "held_limit"): 1}
        assert ask(relay.path, 90_000).code is CODE.OK
        assert len(peer.received["0"].requests[0]) < 1000
        relay.assert_nothing_held()


@ON_ERROR
def test_response_too_large(short_dir: Path, peer: CriPeer, loop: str, on_error: str) -> None:
    """A response over the limit does the same, after its headers have been forwarded."""
    with RuleRelay(
        short_dir, peer.path, loop=loop, budget=HeldBytesBudget(LIMIT, 1 << 30)
    ) as relay:
        without = ask(relay.path, 10, 300_000)
        relay.load(rule(on_error, rewrite={"response": {"stdout": 'b"x"'}}))
        outcome = ask(relay.path, 10, 300_000)
        if on_error == "pass":
            assert outcome == without
        else:
            message = f"criproxy: rule it: more than {LIMIT} bytes would be held"
            assert outcome == Outcome(CODE.INTERNAL, message, (), without.initial, ())
        assert relay.counts.errors == {("it", "held_limit"): 1}
        assert len(ask(relay.path, 10, 90_000).messages[0]) < 100
        relay.assert_nothing_held()


@ON_ERROR
def test_client_that_does_not_read(
    short_dir: Path, peer: CriPeer, loop: str, on_error: str
) -> None:
    """Bytes that a client does not read count; past the limit its stream passes unchanged or fails.

    Messages rewritten before that come first, and no message is lost.
    """
    budget = HeldBytesBudget(1 << 20, 1 << 30)
    with RuleRelay(short_dir, peer.path, loop=loop, budget=budget) as relay:
        where = 'request.filter.id == "match"'
        relay.load(
            {
                "name": "it",
                "match": {"methods": ["StreamContainers"], "where": where},
                "on_error": on_error,
                "rewrite": {
                    "response": {
                        "containers[0].image_ref": '"seen" + response.containers[0].image_ref'
                    }
                },
            }
        )
        with channel(relay.path) as one:
            call = start_call(one, stream("match", size=30_000, messages=400))
            wait_until(lambda: relay.counts.errors["it", "held_limit"] > 0, "limit")
            assert (
                start_call(one, execute("other", "c" * 90_000, size=90_000)).outcome().code
                is CODE.OK
            )
            outcome = call.outcome()
            got = [v1.StreamContainersResponse.FromString(each) for each in outcome.messages]
            changed = [each.containers[0].image_ref.startswith("seen") for each in got]
            assert [each.containers[0].id for each in got] == [str(n) for n in range(len(got))]
            assert changed == sorted(changed, reverse=True)
            assert changed[0]
            if on_error == "pass":
                assert outcome.code is CODE.OK
                assert len(got) == 400
                assert not changed[-1]
            else:
                assert outcome.code is CODE.INTERNAL
                assert all(changed)
                assert len(got) < 400
            relay.assert_restored(relay.pairs[0])


@ON_ERROR
@pytest.mark.parametrize("phase", ["request", "response"])
def test_too_much_in_all(
    short_dir: Path, peer: CriPeer, loop: str, phase: str, on_error: str
) -> None:
    """With the total budget used up, a call passes without being held or fails, by ``on_error``."""
    sizes = (90_000, 10) if phase == "request" else (10, 90_000)
    gate = GateHook(phase)
    with RuleRelay(
        short_dir, peer.path, loop=loop, budget=HeldBytesBudget(1 << 30, 200_000)
    ) as relay:
        relay.load(gate_rule("ExecSync", on_error=on_error), hooks={"gate": gate})
        with channel(relay.path) as one, channel(relay.path) as other:
            command = execute("match", "c" * sizes[0], size=sizes[1])
            held = [start_call(one, command, number) for number in range(2)]
            relay.wait_for_waiting_calls(2)
            late = [start_call(other, command, f"late{number}") for number in range(3)]
            codes = {call.outcome().code for call in late}
            assert codes == {CODE.OK if on_error == "pass" else CODE.INTERNAL}
            assert relay.counts.errors == {("gate", "held_limit"): 3}
            assert not any(call.call.done() for call in held)
            relay.call(gate.opened.set)
            assert {call.outcome().code for call in held} == {CODE.OK}
            assert {start_call(other, command, "last").outcome().code} == {CODE.OK}
            assert relay.counts.errors == {("gate", "held_limit"): 3}
            for pair in relay.pairs:
                relay.assert_restored(pair)


def test_garbage_under_rules_that_must_be_kept(relay: RuleRelay, peer: CriPeer) -> None:
    """A connection that is not HTTP/2 is closed and reported where a rule must be enforced."""
    relay.load(rule("fail", deny={}))
    with dial(relay.path) as client:
        client.sendall(GARBAGE)
        assert receive_all(client).find(b"RTSP") < 0
    wait_until(lambda: len(relay.recorder.refused) == 1, "notice")
    ((reason, _),) = relay.recorder.refused
    assert reason == "not_http2"
    relay.recorder.all_closed()


def test_garbage_under_other_rules(short_dir: Path, loop: str) -> None:
    """It passes where rules let pass what they cannot read."""
    path = short_dir / "runtime.sock"
    with listening(path) as runtime, RuleRelay(short_dir, path, loop=loop) as relay:
        relay.load(rule("pass", delay={"fixed": "1s"}))
        with dial(relay.path) as client:
            client.sendall(GARBAGE)
            with accept(runtime) as served:
                assert receive(served, len(GARBAGE)) == GARBAGE
                served.sendall(b"HTTP/1.1 400\r\n\r\n")
                assert receive(client, 16) == b"HTTP/1.1 400\r\n\r\n"
                client.sendall(b"more")
                assert receive(served, 4) == b"more"
        relay.recorder.all_closed()
        assert not relay.recorder.refused


@pytest.mark.parametrize("on_error", ["fail", "pass"])
def test_garbage_behind_frames(short_dir: Path, loop: str, on_error: str) -> None:
    """The same holds for bytes after readable frames."""
    path = short_dir / "runtime.sock"
    begins = PREFACE + b"\0\0\0\x04\0\0\0\0\0"
    wrong = b"\xff" * 100
    with listening(path) as runtime, RuleRelay(short_dir, path, loop=loop) as relay:
        relay.load(rule(on_error, delay={"fixed": "1s"}))
        with dial(relay.path) as client:
            client.sendall(begins)
            with accept(runtime) as served:
                assert receive(served, len(begins)) == begins
                client.sendall(wrong)
                if on_error == "pass":
                    assert receive(served, len(wrong)) == wrong
                else:
                    assert receive_all(served) == b""
                    assert receive_all(client) == b""
        relay.recorder.all_closed()
        assert len(relay.recorder.refused) == (on_error == "fail")


def test_calls_of_a_connection_that_is_closed(relay: RuleRelay, peer: CriPeer) -> None:
    """Waiting calls end with their connection; the runtime does not get them."""
    gate = GateHook()
    relay.load(gate_rule("PullImage", on_error="fail"), hooks={"gate": gate})
    with channel(relay.path) as one:
        call = start_call(one, pull("a"))
        relay.wait_for_waiting_calls(1)
        relay.call(relay.pairs[0].close)
        assert call.outcome().code is CODE.UNAVAILABLE
    relay.recorder.all_closed()
    relay.assert_nothing_held()
    assert not peer.received


def _inserted(*fields: tuple[bytes, bytes]) -> bytes:
    """Encode fields that are inserted into the HPACK table."""
    return b"".join(b"\x40" + wire.string(name) + wire.string(value) for name, value in fields)


def _opens(stream: int, block: bytes, fragments: int = 1) -> bytes:
    rest = [(b":method", b"POST"), (b":scheme", b"http"), (b"content-type", b"application/grpc")]
    return wire.headers(stream, block + wire.block(*rest), fragments=fragments)


@ON_ERROR
def test_reading_that_has_stopped(short_dir: Path, loop: str, on_error: str) -> None:
    """Where header blocks are no longer decoded, no call passes whose path is uncertain."""
    path = short_dir / "runtime.sock"
    denied, other = b"/runtime.v1.RuntimeService/ExecSync", (b":path", b"/a.B/C")
    with listening(path) as runtime, RuleRelay(short_dir, path, loop=loop, streams=3) as relay:
        relay.load({**rule(on_error, deny={}), "match": {"methods": ["ExecSync"]}})
        with dial(relay.path) as client, accept(runtime) as served:
            served.sendall(wire.settings())
            table = _inserted((b"x", b"1"), (b":path", denied)) + wire.block(other)
            client.sendall(PREFACE + wire.settings() + _opens(1, table))
            for stream in range(3, 11, 2):
                client.sendall(_opens(stream, wire.block(other)))
            wait_until(lambda: bool(relay.recorder.stopped), "end of reading")
            moves = _opens(11, _inserted((b"x", b"2")) + wire.block(other))
            guessed = _opens(13, b"\xbf")  # the 63rd field is the path; before, it was (x, 1)
            with contextlib.suppress(BrokenPipeError):  # closed already
                client.sendall(moves)
            passed = b""
            while moves not in passed and (more := served.recv(1 << 16)):
                passed += more
            with contextlib.suppress(BrokenPipeError):
                client.sendall(guessed)
                client.shutdown(socket.SHUT_WR)
            assert (guessed in receive_all(served)) == (on_error == "pass")
        assert len(relay.recorder.refused) == (on_error == "fail")


@pytest.mark.parametrize("stopped", [1, 5, 12, 40])
def test_client_that_stops_within_frames(short_dir: Path, loop: str, stopped: int) -> None:
    """Rules apply to the first call behind them, wherever the client's chunks end."""
    path = short_dir / "runtime.sock"
    fields = wire.block((b":path", b"/runtime.v1.RuntimeService/ExecSync"))
    call = _opens(1, fields)
    start = PREFACE + wire.settings() + call[:stopped]
    with listening(path) as runtime, RuleRelay(short_dir, path, loop=loop) as relay:
        with dial(relay.path) as client, accept(runtime) as served:
            client.sendall(start)
            assert receive(served, len(start)) == start
            served.sendall(wire.settings())
            assert receive(client, 9) == wire.settings()
            relay.load({**rule("fail", deny={}), "match": {"methods": ["ExecSync"]}})
            begun = call[stopped:] + wire.ping()[:5]
            for position in range(0, len(begun), 7):
                client.sendall(begun[position : position + 7])
            rest = call[stopped:]  # of a call that began without rules
            assert receive(served, len(rest)) == rest
            again = _opens(3, fields) + wire.data(3, end=True)
            client.sendall(wire.ping()[5:] + again + wire.ping()[:5])
            _receive_denied(client)
            client.sendall(wire.ping()[5:])
            client.shutdown(socket.SHUT_WR)
            passed = receive_all(served)
            assert passed.startswith(wire.ping())
            assert fields not in passed
        relay.recorder.all_closed()
        assert not relay.recorder.refused


@pytest.mark.parametrize("stopped", [1, 5, 12, 40])
def test_split_client_that_stops_within_frames(short_dir: Path, loop: str, stopped: int) -> None:
    """The same where runtime and image calls go to two sockets."""
    path = short_dir / "runtime.sock"
    fields = wire.block((b":path", b"/runtime.v1.RuntimeService/ExecSync"))
    call = _opens(1, fields)
    with (
        listening(path),
        RuleRelay(short_dir, path, image=short_dir / "images.sock", loop=loop) as relay,
    ):
        with dial(relay.path) as client:
            client.sendall(PREFACE + wire.settings() + wire.ping() + call[:stopped])
            _receive_until(client, wire.ping(ack=True))
            relay.load({**rule("fail", deny={}), "match": {"methods": ["ExecSync"]}})
            begun = call[stopped:] + wire.ping()[:5]
            for position in range(0, len(begun), 7):
                client.sendall(begun[position : position + 7])
            again = _opens(3, fields) + wire.data(3, end=True)
            client.sendall(wire.ping()[5:] + again + wire.ping()[:5])
            _receive_denied(client)
            assert [call.stream for call in relay.recorder.begun] == [1, 3]
        relay.recorder.all_closed()
        assert not relay.recorder.refused


@pytest.mark.parametrize(("split", "frames"), [(False, 129), (True, 64)], ids=["one", "two"])
def test_client_that_stops_within_a_block_of_many_frames(
    short_dir: Path, loop: str, split: bool, frames: int
) -> None:
    """Rules apply to the first call behind a header block of as many frames as are allowed."""
    path = short_dir / "runtime.sock"
    fields = wire.block((b":path", b"/runtime.v1.RuntimeService/ExecSync"))
    call = _opens(3, fields) + wire.data(3, end=True)
    image = short_dir / "images.sock" if split else None
    with listening(path) as runtime, RuleRelay(short_dir, path, image=image, loop=loop) as relay:
        with dial(relay.path) as client, contextlib.ExitStack() as ends:
            begun = _opens(1, fields, fragments=frames)
            client.sendall(PREFACE + wire.settings() + wire.ping() + begun[:12])
            if not split:
                ends.enter_context(accept(runtime)).sendall(wire.settings() + wire.ping(ack=True))
            _receive_until(client, wire.ping(ack=True))
            relay.load({**rule("fail", deny={}), "match": {"methods": ["ExecSync"]}})
            client.sendall(begun[12:] + call)
            _receive_denied(client)
        relay.recorder.all_closed()
        assert not relay.recorder.refused


def _receive_denied(client: socket.socket) -> None:
    _receive_until(client, b"denied by rule it")


def _receive_until(client: socket.socket, expected: bytes) -> None:
    received = b""
    while expected not in received:
        more = client.recv(1 << 16)
        assert more
        received += more
