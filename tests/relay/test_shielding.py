"""Shielding: reads that a restarting runtime has not answered are sent again, changes never."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support import wire
from tests.support.endpoints import Block
from tests.support.grpc_peers import channel
from tests.support.played import RESPONSE, played_runtime
from tests.support.raw_sockets import listening
from tests.support.relaying import Relay
from tests.support.waiting import LIMIT_SECONDS

SERVICE = "/runtime.v1.RuntimeService/"


@pytest.fixture
def listener(short_dir: Path) -> Iterator[socket.socket]:
    with listening(short_dir / "runtime.sock") as sock:
        yield sock


@pytest.fixture
def one(short_dir: Path, listener: socket.socket, loop: str) -> Iterator[grpc.Channel]:
    """A client of a relay that shields reads."""
    runtime = short_dir / "runtime.sock"
    with (
        Relay(short_dir, runtime, loop=loop, shields_reads=True) as relay,
        channel(relay.path) as one,
    ):
        yield one


def begin(one: grpc.Channel, method: str, request: bytes = b"") -> Any:
    return one.unary_unary(SERVICE + method).future(request, timeout=LIMIT_SECONDS)


def test_read_is_made_again(one: grpc.Channel, listener: socket.socket) -> None:
    """A read without an answer is made again, as it was, on the next connection."""
    call = begin(one, "ContainerStatus", b"which")
    with played_runtime(listener) as runtime:
        first = runtime.call()
        runtime.go()
    with played_runtime(listener) as runtime:
        again = runtime.call()
        assert again.received.headers == first.received.headers
        assert bytes(again.received.data) == bytes(first.received.data) == wire.message(b"which")
        runtime.answer(again, b"answer")
        assert call.result() == b"answer"


@pytest.mark.parametrize("method", ["StopContainer", "CreateContainer", "ExecSync", "NewMethod"])
def test_change_is_not_made_again(one: grpc.Channel, listener: socket.socket, method: str) -> None:
    """A call that may change something, or is not known, ends with the runtime's connection."""
    call = begin(one, method)
    with played_runtime(listener) as runtime:
        runtime.call()
        runtime.go()
    assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
    call = begin(one, "Version")
    with played_runtime(listener) as runtime:
        stream = runtime.call()
        assert stream.received.fields[b":path"] == f"{SERVICE}Version".encode()
        runtime.answer(stream, b"1")
        assert call.result() == b"1"


def test_read_that_is_answered_in_part(one: grpc.Channel, listener: socket.socket) -> None:
    """A response that has begun ends with the connection: its rest could be another's."""
    containers = one.unary_stream(SERVICE + "StreamContainers")(b"", timeout=LIMIT_SECONDS)
    with played_runtime(listener) as runtime:
        runtime.send(runtime.call(), Block(RESPONSE), bytearray(wire.message(b"first")))
        assert next(containers) == b"first"
        runtime.go()
        with pytest.raises(grpc.RpcError) as raised:
            next(containers)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_read_is_made_again_once(one: grpc.Channel, listener: socket.socket) -> None:
    """A read during which a second runtime is lost is given up: the read may be the reason."""
    call = begin(one, "Status")
    for _ in range(2):
        with played_runtime(listener) as runtime:
            runtime.call()
            runtime.go()
    assert call.exception().code() is grpc.StatusCode.UNAVAILABLE


def test_read_that_a_goaway_leaves_out(one: grpc.Channel, listener: socket.socket) -> None:
    """A read that a stopping runtime did not process is made on the next connection."""
    call = begin(one, "Version")
    with played_runtime(listener) as stopping:
        stopping.call()
        stopping.end.go_away(0)
        stopping.flush()
        with played_runtime(listener) as runtime:
            runtime.answer(runtime.call(), b"1")
            assert call.result() == b"1"


def test_events_go_on(one: grpc.Channel, listener: socket.socket) -> None:
    """A stream of events goes on with those of the next runtime."""
    events = one.unary_stream(SERVICE + "GetContainerEvents")(b"", timeout=LIMIT_SECONDS)
    with played_runtime(listener) as runtime:
        runtime.send(runtime.call(), Block(RESPONSE), bytearray(wire.message(b"first")))
        assert next(events) == b"first"
        runtime.go()
    with played_runtime(listener) as runtime:
        runtime.send(runtime.call(), Block(RESPONSE), bytearray(wire.message(b"second")))
        assert next(events) == b"second"
        runtime.go()
    with played_runtime(listener) as runtime:
        fields = [*RESPONSE, (b"grpc-status", b"12"), (b"grpc-message", b"not any more")]
        runtime.send(runtime.call(), Block(fields, end=True))
        with pytest.raises(grpc.RpcError) as raised:
            next(events)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert raised.value.details() == "not any more"


def test_event_that_came_in_part(one: grpc.Channel, listener: socket.socket) -> None:
    """A stream that ends within a message ends for the client."""
    events = one.unary_stream(SERVICE + "GetContainerEvents")(b"", timeout=LIMIT_SECONDS)
    with played_runtime(listener) as runtime:
        half = bytearray(wire.message(b"first") + wire.message(b"second")[:-1])
        runtime.send(runtime.call(), Block(RESPONSE), half)
        assert next(events) == b"first"
        runtime.go()
        with pytest.raises(grpc.RpcError) as raised:
            next(events)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_runtime_that_stays_away(short_dir: Path, loop: str) -> None:
    """A read is given up after the time for which clients wait for a runtime."""
    path = short_dir / "runtime.sock"
    relaying = Relay(short_dir, path, loop=loop, shields_reads=True, runtime_wait=0.2)
    with relaying as relay, channel(relay.path) as one:
        with listening(path) as listener:
            call = begin(one, "Version")
            with played_runtime(listener) as runtime:
                runtime.call()
                listener.close()
                runtime.go()
        assert call.exception().code() is grpc.StatusCode.UNAVAILABLE


def test_large_request_is_not_kept(one: grpc.Channel, listener: socket.socket) -> None:
    """A request that is larger than those of reads are is not made again."""
    call = begin(one, "ListContainers", bytes(65_400))
    with played_runtime(listener) as runtime:
        runtime.call()
        runtime.go()
    assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
