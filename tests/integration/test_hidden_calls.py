"""Denied calls are hidden from the runtime: it gets no path, no metadata and no message."""

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
from tests.integration.test_profiles import empty_call, use_profile
from tests.support import wire
from tests.support.cri_peers import ECHO, CallSpec, CriPeer, start_call
from tests.support.grpc_peers import channel
from tests.support.raw_sockets import accept, dial, listening, receive_all
from tests.support.rule_relay import Rule, RuleRelay
from tests.support.scripted import ScriptedServer
from tests.support.waiting import LIMIT_SECONDS, wait_until

SECRET: Final = "for-the-runtime-alone"
STOP: Final = b"/runtime.v1.RuntimeService/StopContainer"
VERSION: Final = b"/runtime.v1.RuntimeService/Version"
CALLS: Final = 20

_RULE: Final[Rule] = {"name": "deny", "match": {"methods": ["*"]}, "deny": {"message": "no"}}

Deny = Callable[[RuleRelay], None]


def _refuse(relay: RuleRelay) -> None:
    policy = DenyAllPolicy("callers with uid 12", relay.counts)
    relay.active_policy.http1_refusal = policy.message
    relay.call(lambda: setattr(relay.active_policy, "policy", policy))


class _Log:
    """An audit log that must have a record of each call before the runtime gets it."""

    synced, full, max_wait = True, False, LIMIT_SECONDS

    def records(self, connection: Connection, path: bytes) -> bool:
        return True

    def is_full(self, listener: str) -> bool:
        return self.full

    def when_room(self, listener: str, callback: Callable[[], None]) -> None:
        raise AssertionError("there is room")

    def received(self, connection: Connection, call: Call, done: Callable[[bool], None]) -> None:
        done(True)

    def refused(self, call: Call | None) -> None: ...


class _FullLog(_Log):
    """An audit log whose queue is full for calls other than reads."""

    synced, full = False, True

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def records(self, connection: Connection, path: bytes) -> bool:
        return path != VERSION

    def when_room(self, listener: str, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)


def _behind_the_gate(relay: RuleRelay, log: AuditLog | None = None) -> None:
    use_profile(relay, "read-only")
    scoped = relay.active_policy.policy
    gate = AuditGate(log or _Log(), time.perf_counter)
    relay.call(lambda: setattr(relay.active_policy, "policy", GatedPolicy(gate, scoped)))


DENIED: Final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
"""The codes of denials; the second one where the CRI does not contain the method."""

DENY: Final[dict[str, Deny]] = {
    "profile": lambda relay: use_profile(relay, "read-only"),
    "caller": _refuse,
    "rule": lambda relay: relay.load(_RULE),
    "profile, on record before": _behind_the_gate,
}
DENIALS = pytest.mark.parametrize("deny", DENY.values(), ids=DENY.keys())


class _Eager(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Serves every method; each acts before it has read a message."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        self.calls.append(repr((details.method, details.invocation_metadata)))

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
    """A method that acts on the headers alone is not called: neither path nor metadata of a
    denied call reach the runtime."""
    runtime = short_dir / "eager.sock"
    with _eager(runtime) as methods, RuleRelay(short_dir, runtime, loop=loop) as relay:
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
                assert call.code() in DENIED
        relay.assert_nothing_held()
        with channel(runtime) as one:  # it follows everything that the relay has sent
            assert list(one.stream_stream("/last")(iter(()), timeout=LIMIT_SECONDS)) == [b""]
    assert "/last" in methods.calls[-1]
    assert not [call for call in methods.calls if SECRET in call]


@contextmanager
def _taking(path: Path) -> Iterator[bytearray]:
    """Serve one client with SETTINGS; yield the bytes that it sends."""
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
    """The runtime gets a blank call in place of a denied one, which is reset at once."""
    runtime = short_dir / "taking.sock"
    with _taking(runtime) as got, RuleRelay(short_dir, runtime, loop=loop) as relay:
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
    ("first", "reason"),
    [
        (b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n" + wire.PREFACE, "http1"),
        (bytes.fromhex("00000010000000010100") + b"ttrpc" * 4, "not_http2"),
    ],
    ids=["h2c", "ttrpc"],
)
@DENIALS
def test_other_protocols(short_dir: Path, loop: str, deny: Deny, first: bytes, reason: str) -> None:
    """No byte of a connection that may carry other calls reaches the runtime where calls are
    denied."""
    runtime = short_dir / "taking.sock"
    with _taking(runtime) as got, RuleRelay(short_dir, runtime, loop=loop) as relay:
        deny(relay)
        with dial(relay.path) as client:
            client.sendall(first)
            receive_all(client)
        relay.recorder.all_closed()
        dial(runtime).close()  # where it was not connected to
    assert got == b""
    assert [each for each, _ in relay.recorder.refused] == [reason]


def test_lower_streams(short_dir: Path, loop: str) -> None:
    """A stream with a lower number than a denied one is a connection error, as at the runtime."""
    began: list[int] = []

    def begin(h2: H2Connection, stream: int) -> None:
        began.append(stream)

    def answer(h2: H2Connection, stream: int) -> None:
        h2.send_headers(stream, [(":status", "200")], end_stream=True)

    with (
        ScriptedServer(short_dir / "runtime.sock", answer, begin) as server,
        RuleRelay(short_dir, server.path, loop=loop) as relay,
    ):
        use_profile(relay, "read-only")
        with dial(relay.path) as client:
            client.sendall(wire.PREFACE + wire.settings())
            client.sendall(_request(VERSION, 1) + wire.data(1, b"\0\0\0\0\0", end=True))
            client.sendall(_request(STOP, 7))
            wait_until(lambda: began == [1, 7], "two streams at the runtime")
            client.sendall(_request(STOP, 5) + wire.data(5, b"\0\0\0\0\0", end=True))
            receive_all(client)
        relay.recorder.all_closed()
    assert began == [1, 7]


def test_large_requests(relay: RuleRelay, peer: CriPeer) -> None:
    """Denied calls keep nothing of the connection's windows: fifty of one megabyte each, and
    reads among them that are answered."""
    use_profile(relay, "read-only")
    request = v1.ExecSyncRequest(container_id="c", cmd=["x" * (1 << 20)]).SerializeToString()
    execute = CallSpec("/runtime.v1.RuntimeService/ExecSync", (request,))
    version = empty_call("/runtime.v1.RuntimeService/Version")
    with channel(relay.path) as one:
        calls = [
            (start_call(one, execute, f"e{number}"), start_call(one, version, f"v{number}"))
            for number in range(50)
        ]
        for denied, answered in calls:
            assert denied.outcome().code is grpc.StatusCode.PERMISSION_DENIED
            assert answered.outcome().code is grpc.StatusCode.OK
        relay.assert_restored(relay.pairs[0])
        assert len(relay.pairs) == 1
    assert set(peer.received) == {f"v{number}" for number in range(50)}


def test_client_streams(relay: RuleRelay, peer: CriPeer) -> None:
    """A client that is still sending gets the reply and stops."""
    use_profile(relay, "read-only")
    go_on = threading.Event()

    def endless() -> Iterator[bytes]:
        yield b"m" * 100_000
        go_on.wait(LIMIT_SECONDS)

    with channel(relay.path) as one:
        calls = [one.stream_stream(ECHO)(endless(), timeout=LIMIT_SECONDS) for _ in range(5)]
        for call in calls:
            assert call.code() in DENIED
        go_on.set()
        relay.assert_restored(relay.pairs[0])
        outcome = start_call(one, empty_call("/runtime.v1.RuntimeService/Version"), "v").outcome()
        assert outcome.code is grpc.StatusCode.OK
    assert set(peer.received) == {"v"}


@pytest.mark.parametrize("cancelled", [False, True])
def test_late_denial(short_dir: Path, loop: str, cancelled: bool) -> None:
    """The runtime's response to the blank call does not reach a client that waits for its denial; a
    client that stops waiting leaves nothing behind."""
    log = _FullLog()
    runtime = short_dir / "eager.sock"
    with _eager(runtime), RuleRelay(short_dir, runtime, loop=loop) as relay:
        _behind_the_gate(relay, log)
        with channel(relay.path) as one:
            call = one.stream_stream("/test.Other/Act")(iter(()), timeout=LIMIT_SECONDS)
            wait_until(lambda: bool(log.waiting), "a call that waits for room")
            answered = one.unary_stream(VERSION.decode())(b"", timeout=LIMIT_SECONDS)
            assert list(answered) == [b""]  # after the runtime's response to the blank call
            if cancelled:
                call.cancel()
            else:
                log.full = False
                log.waiting.pop()()
                with pytest.raises(grpc.RpcError):
                    list(call)
                assert call.code() in DENIED
            relay.assert_restored(relay.pairs[0])
