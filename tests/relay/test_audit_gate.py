"""The audit gate: the calls that wait, their time limits, and their order."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from criproxy.enforce.counts import Counts
from criproxy.enforce.policies.deny_policy import CALLER, DenyAllPolicy
from criproxy.peers.peer import Connection
from criproxy.relay.audit_gate import AuditGate, GatedPolicy
from criproxy.relay.policy import Policy
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import Side
from tests.support.grpc_peers import Peer, channel, start
from tests.support.handlers import EachCall, Handler
from tests.support.held import CLIENT, RUNTIME, V1, Rules, Scripted
from tests.support.relaying import Relay
from tests.support.virtual_time import passed, run, settle
from tests.support.waiting import wait_until

PASSED = [("send", CLIENT, b"one"), ("end", CLIENT)]
"""What becomes of a call of one message that nothing else acts on."""


class Log:
    """An audit log that is full, and knows what is durable, as the test has it."""

    blocking = True
    max_wait = 10.0

    def __init__(self, *, full: bool = False, synced: bool = False, records: bool = True) -> None:
        self.full = full
        self.synced = synced
        self.will_record = records
        self.begun: list[tuple[Call, Callable[[bool], None]]] = []
        self.refusals: list[Call | None] = []
        self._waiting: list[Callable[[], None]] = []

    def records(self, connection: Connection, path: bytes) -> bool:
        return self.will_record

    def is_full(self, listener: str) -> bool:
        return self.full

    def when_room(self, listener: str, callback: Callable[[], None]) -> None:
        if self.full:
            self._waiting.append(callback)
        else:
            callback()

    def received(self, connection: Connection, call: Call, done: Callable[[bool], None]) -> None:
        self.begun.append((call, done))

    def refused(self, call: Call | None) -> None:
        self.refusals.append(call)

    def has_room(self) -> None:
        """There is room, if only for a moment."""
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    @property
    def asked(self) -> int:
        """The number of callbacks that wait for room."""
        return len(self._waiting)


class Gated:
    """A gate before an audit log, and before ``inner``. To be made on a loop."""

    def __init__(self, log: Log, inner: Policy | None = None) -> None:
        self.log = log
        self.gate = AuditGate(log, asyncio.get_running_loop().time)
        self.policy = GatedPolicy(self.gate, inner)

    def call(self, path: str = "StopContainer", **more: Any) -> Scripted:
        rules: Any = self
        return Scripted(rules, f"/{V1}/{path}".encode(), **more)


def test_with_room_nothing_is_held() -> None:
    """As long as there is room no call is even looked at; what else acts on calls does as ever."""

    async def test() -> None:
        gated = Gated(Log())
        assert not gated.policy.wanted(b"/x")
        assert gated.call().hold is None
        inner = EachCall(Handler)
        hold = Gated(Log(), inner).call().hold
        assert hold is not None
        assert hold.handler is inner.handlers[0]
        assert gated.policy.enforcing

    run(test)


def test_a_call_that_is_denied_waits_for_no_record() -> None:
    """Of what the runtime does not hear of nothing has to be on record before; there has to be
    room for its record, though."""

    async def test() -> None:
        denying = DenyAllPolicy("this caller", Counts())
        call = Gated(Log(synced=True), denying).call()
        assert [done[:2] for done in call.done] == [("answer", StatusCode.PERMISSION_DENIED)]
        assert Gated(Log(synced=True, full=True), denying).call().done == []

    run(test)


def test_a_call_waits_for_room() -> None:
    """Without room a call waits, and proceeds when there is; its log line has the time."""

    async def test() -> None:
        gated = Gated(Log(full=True))
        call = gated.call()
        call.asks(b"one")
        await passed(3.0)
        assert not call.done
        assert gated.gate.waiting == 1
        assert call.call.waiting_since == 0.0
        gated.log.full = False
        gated.log.has_room()
        await settle()
        assert call.done == PASSED
        assert gated.gate.waiting == 0
        assert call.call.held == 3.0
        assert call.call.waiting_since is None
        await passed(60.0)
        assert call.done == PASSED
        assert not gated.log.refusals

    run(test)


def test_a_stream_that_has_not_ended_is_passed_on() -> None:
    """A request that is still coming goes on as it is when there is room."""

    async def test() -> None:
        gated = Gated(Log(full=True))
        call = gated.call("Exec")
        call.says(CLIENT, b"one", b"two", end=False)
        gated.log.full = False
        gated.log.has_room()
        await settle()
        assert call.done == [
            ("send", CLIENT, b"one"),
            ("send", CLIENT, b"two"),
            ("pass on", CLIENT),
        ]

    run(test)


def test_room_that_is_gone_again() -> None:
    """A call waits on if the room was taken meanwhile; one callback serves all calls."""

    async def test() -> None:
        gated = Gated(Log(full=True))
        calls = [gated.call() for _ in range(5)]
        assert gated.log.asked == 1
        gated.log.has_room()  # and full again before anybody could go on
        await settle()
        assert gated.gate.waiting == 5
        assert gated.log.asked == 1
        gated.log.full = False
        gated.log.has_room()
        await settle()
        assert gated.gate.waiting == 0
        assert all(call.done for call in calls)

    run(test)


def test_a_call_that_has_waited_for_too_long() -> None:
    """After the longest wait a call is refused and counted, once, and the runtime not asked."""

    async def test() -> None:
        gated = Gated(Log(full=True))
        call = gated.call()
        call.asks(b"one")
        await passed(9.9)
        assert not call.done
        await passed(0.2)
        ((what, code, message),) = call.done
        assert (what, code) == ("answer", StatusCode.UNAVAILABLE)
        assert "audit log" in message
        assert gated.log.refusals == [call.call]
        assert gated.gate.waiting == 0
        gated.log.full = False
        gated.log.has_room()
        await settle()
        assert len(call.done) == 1

    run(test)


def test_the_client_s_deadline() -> None:
    """A deadline that is before the longest wait ends the call, which is not refused then."""

    async def test() -> None:
        gated = Gated(Log(full=True))
        call = gated.call(timeout=b"2S")
        await passed(2.1)
        ((what, code, _),) = call.done
        assert (what, code) == ("answer", StatusCode.DEADLINE_EXCEEDED)
        assert not gated.log.refusals
        assert gated.gate.waiting == 0

    run(test)


def test_a_call_that_is_given_up() -> None:
    """A call that is reset while it waits waits no longer, and nothing is done to it later on."""

    async def test() -> None:
        inner = EachCall(Handler)
        gated = Gated(Log(full=True), inner)
        call = gated.call()
        call.asks(b"one")
        call.close()
        assert gated.gate.waiting == 0
        assert call.call.waiting_since is None
        gated.log.full = False
        gated.log.has_room()
        await passed(60.0)
        assert not call.done
        assert not gated.log.refusals
        assert inner.handlers[0].reported == ["closed"]

    run(test)


def test_what_is_not_recorded_does_not_wait() -> None:
    """A call that is not to be recorded passes whatever the log's state."""

    async def test() -> None:
        for synced in (False, True):
            assert Gated(Log(full=True, synced=synced, records=False)).call().hold is None

    run(test)


class _Always:
    """Asks a policy about each call."""

    def __init__(self, policy: Policy) -> None:
        self.begin = policy.begin

    def wanted(self, path: bytes) -> bool:
        return True


@pytest.mark.parametrize("synced", [False, True])
def test_a_call_that_cannot_be_read(synced: bool) -> None:
    """A call of which nothing is known has no record, so it is refused, be there room or not."""

    async def test() -> None:
        for records in (True, False):
            log = Log(synced=synced, records=records)
            gate = Gated(log).policy
            asked: Any = SimpleNamespace(policy=_Always(gate))  # others are held on its connection
            call = Scripted(asked, f"/{V1}/StopContainer".encode(), followed=False)
            if records:
                assert [done[:2] for done in call.done] == [("answer", StatusCode.UNAVAILABLE)]
                assert log.refusals == [None]
            else:
                assert call.hold is None

    run(test)


@pytest.mark.parametrize("request_held", [True, False])
def test_what_else_acts_on_the_call(request_held: bool) -> None:
    """Behind the gate a handler is given all that came, and has its way with what still comes."""

    async def test() -> None:
        match = {"methods": ["StopContainer"]}
        rule: dict[str, Any] = {"match": match, "delay": {"fixed": "1s"}}
        if request_held:
            where = {"where": 'request.container_id == "x"'}
            rule = {"match": match | where, "deny": {"message": "no"}}
        rules = Rules(rule)
        gated = Gated(Log(full=True), rules.policy)
        call = gated.call()
        call.asks(b"\n\x01x" if request_held else b"")
        await passed(5.0)
        assert not call.done
        gated.log.full = False
        gated.log.has_room()
        await passed(0.9)
        if request_held:
            assert call.done == [("answer", StatusCode.PERMISSION_DENIED, "no")]
            return
        assert not call.done
        await passed(0.2)
        assert call.done[:2] == [("send", CLIENT, b""), ("end", CLIENT)]

    run(test)


def test_who_is_refused_anyway() -> None:
    """A denial that is behind the gate waits as well, since it is recorded, and comes then."""

    async def test() -> None:
        counts = Rules().counts
        gated = Gated(Log(full=True), DenyAllPolicy("you", counts))
        call = gated.call()
        call.asks(b"one")
        assert not call.done
        assert call.call.denied == CALLER
        gated.log.full = False
        gated.log.has_room()
        await settle()
        assert call.done == [
            ("answer", StatusCode.PERMISSION_DENIED, "criproxy: this listener is not for you")
        ]

    run(test)


class _Adding(EachCall):
    """Adds metadata to each call, and holds its response."""

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold | None:
        super().begin(connection, call, stream, headers)
        return Hold(self.handlers[-1], False, True, [(b"added", b"1")])


def test_metadata_is_added_at_once() -> None:
    """Headers go on before a call waits, so what is added to them is added before, too; what the
    runtime answers to them alone is handed on as its."""

    async def test() -> None:
        inner = _Adding(Handler)
        gated = Gated(Log(full=True), inner)
        call = gated.call()
        assert call.hold is not None
        assert call.hold.metadata == [(b"added", b"1")]
        assert (call.hold.request, call.hold.response) == (True, True)
        call.answers(b"early", status=StatusCode.UNIMPLEMENTED)
        assert not call.done
        gated.log.full = False
        gated.log.has_room()
        await settle()
        assert inner.handlers[0].reported == ["opened", "RUNTIME ended", "closed"]
        assert call.done == [("send", RUNTIME, b"early"), ("end", RUNTIME)]

    run(test)


def test_nothing_goes_on_before_it_is_on_record() -> None:
    """Where records have to be durable a call waits for that, with its request recorded."""

    async def test() -> None:
        gated = Gated(Log(synced=True))
        assert gated.policy.wanted(b"/x")
        call = gated.call()
        assert not gated.log.begun
        call.asks(b"one")
        ((begun, done),) = gated.log.begun
        assert begun is call.call
        await passed(3.0)
        assert not call.done
        done(True)
        await settle()
        assert call.done == PASSED
        assert call.call.held == 3.0

    run(test)


def test_what_cannot_be_made_durable() -> None:
    """A call whose record could not be made durable is refused, at once."""

    async def test() -> None:
        gated = Gated(Log(synced=True))
        call = gated.call()
        call.asks(b"one")
        gated.log.begun[0][1](False)
        await settle()
        assert call.done[0][:2] == ("answer", StatusCode.UNAVAILABLE)
        assert gated.log.refusals == [call.call]

    run(test)


def test_a_record_that_comes_too_late() -> None:
    """A record that is durable after the longest wait finds its call refused."""

    async def test() -> None:
        gated = Gated(Log(synced=True))
        call = gated.call()
        call.asks(b"one")
        await passed(10.1)
        assert call.done[0][:2] == ("answer", StatusCode.UNAVAILABLE)
        gated.log.begun[0][1](True)
        await settle()
        assert len(call.done) == 1

    run(test)


def test_room_first_then_the_record() -> None:
    """Without room no record is made either: calls that wait do not fill the log any further."""

    async def test() -> None:
        gated = Gated(Log(full=True, synced=True))
        call = gated.call()
        call.asks(b"one")
        await settle()
        assert not gated.log.begun
        gated.log.full = False
        gated.log.has_room()
        await settle()
        ((_, done),) = gated.log.begun
        done(True)
        await settle()
        assert call.done == PASSED

    run(test)


def test_a_request_that_is_too_large_to_wait() -> None:
    """While it waits a call does nothing about a request that is too large: it is refused for
    that; behind the gate that is for the handler."""

    async def test() -> None:
        inner = EachCall(Handler)
        gated = Gated(Log(full=True), inner)
        call = gated.call()
        call.limit_exceeded(CLIENT)
        assert not call.done
        assert not inner.handlers[0].reported
        gated.log.full = False
        gated.log.has_room()
        await settle()
        call.limit_exceeded(CLIENT)
        assert inner.handlers[0].reported[:1] == ["opened"]
        assert inner.handlers[0].reported[1].startswith("CLIENT held_limit")

    run(test)


class _Keeping(Handler):
    """Lets nothing of a call go on."""

    def message(self, side: Side, payload: bytes, compressed: bool) -> None: ...

    def ended(self, side: Side, trailers: list[Header]) -> None: ...


class _KeepsOne(EachCall):
    """Keeps the calls of one method."""

    def wanted(self, path: bytes) -> bool:
        return path.endswith(b"/Hang")


def test_calls_of_a_connection_that_is_not_read_any_more(
    short_dir: Path, peer: Peer, loop: str
) -> None:
    """While others are held on it a connection stays that cannot be read; its next calls, which
    would have no record, are refused."""
    policy = GatedPolicy(AuditGate(Log(), time.perf_counter), _KeepsOne(_Keeping))
    with (
        Relay(short_dir, peer.path, loop=loop, policy=policy, streams=1) as relay,
        channel(relay.path) as one,
    ):
        kept = start(one, "unary_stream", "Hang", b"")
        wait_until(lambda: relay.recorder.begun, "begun call")
        refused = start(one, "unary_unary", "Unary", b"x").outcome()
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert relay.recorder.stopped
        assert "audit log" in refused.details
        kept.call.cancel()
