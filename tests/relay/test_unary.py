"""The daemon's own calls: the health probe, and the listing of pods and containers."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from criproxy.embedded.background import EmbeddedRuntime
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.unary import MAX_RESPONSE_BYTES, Service, UnaryResponse, call, probe
from criproxy.wire.grpc import StatusCode
from tests.support.raw_sockets import accept, listening
from tests.support.scripted import ScriptedServer
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture
def path(short_dir: Path) -> Path:
    return short_dir / "runtime.sock"


def ask(
    path: Path, within: float = LIMIT_SECONDS, service: Service = Service.RUNTIME
) -> str | None:
    return asyncio.run(probe(Endpoint(str(path)), within, service)).problem


@pytest.fixture
def server() -> Iterator[grpc.Server]:
    with ThreadPoolExecutor(1) as workers:
        server = grpc.server(workers)
        yield server
        server.stop(None).wait()


def serve(
    server: grpc.Server, path: Path, service: str, behaviour: Any, method: str = "Version"
) -> None:
    methods = {method: grpc.unary_unary_rpc_method_handler(behaviour)}
    handler = grpc.method_handlers_generic_handler(service, methods)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix://{path}")
    server.start()


def test_healthy(path: Path) -> None:
    """A runtime that answers Version with OK is ready."""
    with EmbeddedRuntime(f"unix://{path}"):
        assert ask(path) is None


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_either_version(path: Path, server: grpc.Server, version: str) -> None:
    """A runtime that serves only one of the API's versions is ready, whichever it is."""
    requests = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        requests.append((request, dict(context.invocation_metadata()).get("user-agent")))
        return b""

    serve(server, path, f"runtime.{version}.RuntimeService", answer)
    assert ask(path) is None
    assert requests == [(b"", "criproxy")]


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_image_service_alone(path: Path, server: grpc.Server, version: str) -> None:
    """An image service that has no RuntimeService is asked a method of its own."""
    serve(
        server, path, f"runtime.{version}.ImageService", lambda request, context: b"", "ImageFsInfo"
    )
    assert ask(path, service=Service.IMAGE) is None
    assert ask(path) == "Version failed: UNIMPLEMENTED"


def test_image_service_that_fails(path: Path, server: grpc.Server) -> None:
    """A socket without an image service is not ready to be one."""
    serve(server, path, "runtime.v1.RuntimeService", lambda request, context: b"")
    assert ask(path, service=Service.IMAGE) == "ImageFsInfo failed: UNIMPLEMENTED"


def test_failing(path: Path, server: grpc.Server) -> None:
    """A runtime that answers with an error is not ready, and the code is the reason."""
    serve(
        server,
        path,
        "runtime.v1.RuntimeService",
        lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "starting"),
    )
    assert ask(path) == "Version failed: UNAVAILABLE"


def test_no_cri(path: Path, server: grpc.Server) -> None:
    """A gRPC server without the CRI is no runtime."""
    serve(server, path, "some.Other", lambda request, context: b"")
    assert ask(path) == "Version failed: UNIMPLEMENTED"


def test_resetting(path: Path) -> None:
    """If the server resets the call, the reason is the code that the reset maps to."""

    def reset(h2: H2Connection, stream: int) -> None:
        h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)

    with ScriptedServer(path, reset):
        assert ask(path) == "Version failed: UNAVAILABLE"


def test_silent(path: Path) -> None:
    """A socket without an answer is distinguished from one that nobody listens at."""
    with listening(path):
        assert ask(path, within=0.05) == "no answer within 0.05 s"


def test_not_http2(path: Path) -> None:
    """Bytes that are not HTTP/2 are no answer."""
    with listening(path) as listener, ThreadPoolExecutor(1) as other:

        def greet() -> None:
            with accept(listener) as client:
                client.sendall(b"220 mail.example ESMTP ready, and more than a frame header\r\n")
                client.recv(1 << 16)

        greeted = other.submit(greet)
        assert ask(path) == "Version failed: unreadable answer"
        greeted.result()


def test_hanging_up(path: Path) -> None:
    """A server that closes the connection at once has not answered."""
    with listening(path) as listener, ThreadPoolExecutor(1) as other:

        def hang_up() -> None:
            with accept(listener) as client:
                client.recv(1 << 16)

        gone = other.submit(hang_up)
        assert ask(path) == "the connection was closed without an answer"
        gone.result()


def test_nobody_there(path: Path) -> None:
    """The reason for an absent or stale socket is the system's error message."""
    assert ask(path) == "No such file or directory"
    with listening(path):
        pass
    assert ask(path) == "Connection refused"


def get(path: Path, method: str, request: bytes = b"") -> UnaryResponse:
    return asyncio.run(call(Endpoint(str(path)), method.encode(), request))


def test_message_there_and_back(path: Path, server: grpc.Server) -> None:
    """A request's bytes reach the runtime, and its response's come back, whatever they are."""
    requests = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        requests.append(request)
        return b"\0" + request[::-1]

    serve(server, path, "some.Service", answer)
    assert get(path, "/some.Service/Version", b"abc") == UnaryResponse(StatusCode.OK, "", b"\0cba")
    assert requests == [b"abc"]


def test_large_response(path: Path, server: grpc.Server) -> None:
    """A response of many megabytes comes whole: the runtime need not wait for a window."""
    content = bytes(range(256)) * (12 << 12)
    assert 1 << 23 < len(content) < MAX_RESPONSE_BYTES
    serve(server, path, "some.Service", lambda request, context: content)
    assert get(path, "/some.Service/Version").response == content


def test_failed_call(path: Path, server: grpc.Server) -> None:
    """A status other than OK comes with its message."""
    serve(
        server,
        path,
        "some.Service",
        lambda request, context: context.abort(grpc.StatusCode.NOT_FOUND, "keine Hülle"),
    )
    assert get(path, "/some.Service/Version") == UnaryResponse(
        StatusCode.NOT_FOUND, "keine Hülle", b""
    )


def test_response_without_a_message(path: Path) -> None:
    """OK without a message is no answer."""

    def end(h2: H2Connection, stream: int) -> None:
        h2.send_headers(stream, [(":status", "200"), ("grpc-status", "0")], end_stream=True)

    with ScriptedServer(path, end):
        assert get(path, "/some.Service/Version").code is StatusCode.INTERNAL


@pytest.mark.parametrize(("status", "code"), [("200", "INTERNAL"), ("503", "UNAVAILABLE")])
def test_no_grpc(path: Path, status: str, code: str) -> None:
    """A plain HTTP answer is mapped as gRPC maps it."""

    def refuse(h2: H2Connection, stream: int) -> None:
        if status == "200":
            h2.send_headers(stream, [(":status", status)])
            h2.send_data(stream, b"hello", end_stream=True)
        else:
            h2.send_headers(stream, [(":status", status)], end_stream=True)

    with ScriptedServer(path, refuse):
        answer = get(path, "/some.Service/Version")
    assert answer.code is StatusCode[code]


def test_going_away(path: Path) -> None:
    """A server whose GOAWAY excludes the call is unavailable."""

    def go(h2: H2Connection, stream: int) -> None:
        h2.close_connection(last_stream_id=0)

    with ScriptedServer(path, go):
        assert get(path, "/some.Service/Version").code is StatusCode.UNAVAILABLE
