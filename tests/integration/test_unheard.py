"""Denied calls of which the runtime hears nothing: no path, no metadata, no message."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from h2.connection import H2Connection

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.enforce.policies.deny_policy import DenyAllPolicy
from criproxy.peers.peer import Connection
from criproxy.relay.audit_gate import AuditGate, AuditLog, GatedPolicy
from criproxy.wire.reading.calls import Call
from tests.integration.test_scopes import empty, scope
from tests.support import wire
from tests.support.cri_peers import ECHO, Ask, CriPeer, make
from tests.support.grpc_peers import channel
from tests.support.raw_sockets import accept, dial, listening, receive_all
from tests.support.ruled import Rule, RuledRelay
from tests.support.scripted import ScriptedServer
from tests.support.waiting import LIMIT_SECONDS, wait_until

SECRET: Final = "for-the-runtime-alone"
STOP: Final = b"/runtime.v1.RuntimeService/StopContainer"
VERSION: Final = b"/runtime.v1.RuntimeService/Version"
CALLS: Final = 20

_RULE: Final[Rule] = {"name": "deny", "match": {"methods": ["*"]}, "deny": {"message": "no"}}

Deny = Callable[[RuledRelay], None]


def _refuse(relay: RuledRelay) -> None:
    policy = DenyAllPolicy("callers with uid 12", relay.counts)
    relay.call(lambda: setattr(relay.active_policy, "policy", policy))


class _Log:
    """An audit log in which each call is to be before the runtime hears of it."""

    synced, full, max_wait = True, False, LIMIT_SECONDS

    def records(self, connection: Connection, path: bytes) -> bool:
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        raise AssertionError("there is room")

    def received(self, connection: Connection, call: Call, done: Callable[[bool], None]) -> None:
        done(True)

    def refused(self, call: Call | None) -> None: ...


class _FullLog(_Log):
    """An audit log that has no room for a record of what is not a read."""

    synced, full = False, True

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def records(self, connection: Connection, path: bytes) -> bool:
        return path != VERSION

    def when_room(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)


def _behind_the_gate(relay: RuledRelay, log: AuditLog | None = None) -> None:
    scope(relay, "read-only")
    scoped = relay.active_policy.policy
    gate = AuditGate(log or _Log(), time.perf_counter)
    relay.call(lambda: setattr(relay.active_policy, "policy", GatedPolicy(gate, scoped)))


DENY: Final[dict[str, Deny]] = {
    "profile": lambda relay: scope(relay, "read-only"),
    "caller": _refuse,
    "rule": lambda relay: relay.load(_RULE),
    "profile, on record before": _behind_the_gate,
}
DENIALS = pytest.mark.parametrize("deny", DENY.values(), ids=DENY.keys())


class _Eager(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Has every method, each of which acts before it has read a message."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        self.heard.append(repr((details.method, details.invocation_metadata)))

        def act(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            yield b""

        return grpc.stream_stream_rpc_method_handler(act)


@contextmanager
def _eager(path: Path) -> Iterator[_Eager]:
    methods = _Eager()
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((methods,))
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield methods
    finally:
        server.stop(None).wait()


@DENIALS
def test_methods_that_need_no_message(short_dir: Path, loop: str, deny: Deny) -> None:
    """A method that acts on a call's headers alone is not asked to: neither the path nor the
    metadata of a denied call gets to the runtime."""
    runtime = short_dir / "eager.sock"
    with _eager(runtime) as methods, RuledRelay(short_dir, runtime, loop=loop) as relay:
        deny(relay)
        with channel(relay.path) as one:
            for number in range(CALLS):
                path = f"/test.Other/{SECRET}{number}"
                call = one.stream_stream(path)(
                    iter(()),
                    timeout=LIMIT_SECONDS,
                    metadata=(("do", SECRET), (f"{SECRET}-bin", b"\0")),
                )
                with pytest.raises(grpc.RpcError):
                    list(call)
                assert call.code() is grpc.StatusCode.PERMISSION_DENIED
        relay.nothing_is_held()
        with channel(runtime) as one:  # it is behind all that the relay has sent
            assert list(one.stream_stream("/last")(iter(()), timeout=LIMIT_SECONDS)) == [b""]
    assert "/last" in methods.heard[-1]
    assert not [heard for heard in methods.heard if SECRET in heard]


@contextmanager
def _taking(path: Path) -> Iterator[bytearray]:
    """A runtime that says its SETTINGS; what it is sent by one client."""
    got = bytearray()
    with listening(path) as socket:

        def take() -> None:
            with accept(socket) as client, suppress(ConnectionError):
                client.sendall(wire.settings())
                while data := client.recv(1 << 16):
                    got.extend(data)

        thread = threading.Thread(target=take)
        thread.start()
        yield got
        thread.join()


def _request(path: bytes, stream: int = 1, fragments: int = 1) -> bytes:
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"l"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"secret", SECRET.encode()),
    )
    return wire.headers(stream, wire.block(*fields), fragments=fragments)


MESSAGE: Final = wire.data(1, b"\0\0\0\0\x07message", end=True)


@DENIALS
@pytest.mark.parametrize("fragments", [1, 5])
def test_nothing_of_it_goes_on(short_dir: Path, loop: str, deny: Deny, fragments: int) -> None:
    """A denied call is a blank one to the runtime, reset at once."""
    runtime = short_dir / "taking.sock"
    with _taking(runtime) as got, RuledRelay(short_dir, runtime, loop=loop) as relay:
        deny(relay)
        with dial(relay.path) as client:
            client.sendall(wire.PREFACE + wire.settings())
            client.sendall(_request(STOP, fragments=fragments) + MESSAGE)
            relay.recorder.calls(1)
            wait_until(lambda: wire.reset(1) in got, "reset of the blank call")
    assert got.count(b"/criproxy/denied") == 1
    for part in (STOP, SECRET.encode(), b"message"):
        assert part not in got


@pytest.mark.parametrize(
    "first",
    [
        b"GET /pause/a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + wire.PREFACE,
        bytes.fromhex("00000010000000010100") + b"ttrpc" * 4,
    ],
    ids=["http/1.1", "h2c", "ttrpc"],
)
@DENIALS
def test_other_protocols(short_dir: Path, loop: str, deny: Deny, first: bytes) -> None:
    """What is not HTTP/2 cannot be kept from harm: the runtime gets no byte of it."""
    runtime = short_dir / "taking.sock"
    with _taking(runtime) as got, RuledRelay(short_dir, runtime, loop=loop) as relay:
        deny(relay)
        with dial(relay.path) as client:
            client.sendall(first)
            receive_all(client)
        relay.recorder.all_closed()
    assert got == b""
    assert [reason for reason, _ in relay.recorder.refused] == ["not_http2"]


def test_lower_streams(short_dir: Path, loop: str) -> None:
    """A call on a stream that is lower than a denied one's is none: the runtime knows better."""
    began: list[int] = []

    def begin(h2: H2Connection, stream: int) -> None:
        began.append(stream)

    def answer(h2: H2Connection, stream: int) -> None:
        h2.send_headers(stream, [(":status", "200")], end_stream=True)

    with (
        ScriptedServer(short_dir / "runtime.sock", answer, begin) as server,
        RuledRelay(short_dir, server.path, loop=loop) as relay,
    ):
        scope(relay, "read-only")
        with dial(relay.path) as client:
            client.sendall(wire.PREFACE + wire.settings())
            client.sendall(_request(VERSION, 1) + wire.data(1, b"\0\0\0\0\0", end=True))
            client.sendall(_request(STOP, 7))
            wait_until(lambda: began == [1, 7], "two streams at the runtime")
            client.sendall(_request(STOP, 5) + wire.data(5, b"\0\0\0\0\0", end=True))
            receive_all(client)
        relay.recorder.all_closed()
    assert began == [1, 7]


def test_large_requests(relay: RuledRelay, peer: CriPeer) -> None:
    """What comes of denied calls takes nothing of the connection's windows for good: fifty of a
    megabyte each, and reads among them that are answered."""
    scope(relay, "read-only")
    request = v1.ExecSyncRequest(container_id="c", cmd=["x" * (1 << 20)]).SerializeToString()
    execute = Ask("/runtime.v1.RuntimeService/ExecSync", (request,))
    version = empty("/runtime.v1.RuntimeService/Version")
    with channel(relay.path) as one:
        calls = [
            (make(one, execute, f"e{number}"), make(one, version, f"v{number}"))
            for number in range(50)
        ]
        for denied, answered in calls:
            assert denied.outcome().code is grpc.StatusCode.PERMISSION_DENIED
            assert answered.outcome().code is grpc.StatusCode.OK
        relay.is_as_it_was(relay.pairs[0])
        assert len(relay.pairs) == 1
    assert set(peer.asked) == {f"v{number}" for number in range(50)}


def test_client_streams(relay: RuledRelay, peer: CriPeer) -> None:
    """A client that still sends is answered and told to stop."""
    scope(relay, "read-only")
    go_on = threading.Event()

    def endless() -> Iterator[bytes]:
        yield b"m" * 100_000
        go_on.wait(LIMIT_SECONDS)

    with channel(relay.path) as one:
        calls = [one.stream_stream(ECHO)(endless(), timeout=LIMIT_SECONDS) for _ in range(5)]
        for call in calls:
            assert call.code() is grpc.StatusCode.PERMISSION_DENIED
        go_on.set()
        relay.is_as_it_was(relay.pairs[0])
        outcome = make(one, empty("/runtime.v1.RuntimeService/Version"), "v").outcome()
        assert outcome.code is grpc.StatusCode.OK
    assert set(peer.asked) == {"v"}


@pytest.mark.parametrize("cancelled", [False, True])
def test_late_denial(short_dir: Path, loop: str, cancelled: bool) -> None:
    """What a runtime says to the blank call is not said to a client that waits for its denial; a
    client that waits no longer leaves nothing behind."""
    log = _FullLog()
    runtime = short_dir / "eager.sock"
    with _eager(runtime), RuledRelay(short_dir, runtime, loop=loop) as relay:
        _behind_the_gate(relay, log)
        with channel(relay.path) as one:
            call = one.stream_stream("/test.Other/Act")(iter(()), timeout=LIMIT_SECONDS)
            wait_until(lambda: bool(log.waiting), "a call that waits for room")
            answered = one.unary_stream(VERSION.decode())(b"", timeout=LIMIT_SECONDS)
            assert list(answered) == [b""]  # behind what the runtime has said to the blank call
            if cancelled:
                call.cancel()
            else:
                log.full = False
                log.waiting.pop()()
                with pytest.raises(grpc.RpcError):
                    list(call)
                assert call.code() is grpc.StatusCode.PERMISSION_DENIED
            relay.is_as_it_was(relay.pairs[0])
