"""The errors for endpoints that do not answer: one line for each kind of failure."""

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from criproxy.client.failures import ask_version
from criproxy.cri.pb import runtime_v1alpha2_pb2
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import EndpointError, UnavailableError
from criproxy.relay.endpoints import Endpoint

NOBODY = 65534


@pytest.fixture
def endpoint(short_dir: Path) -> Endpoint:
    return Endpoint(str(short_dir / "cri.sock"))


def said(endpoint: Endpoint, timeout: float = 20.0, version: str = "v1") -> str:
    """Return the error's text, which must be one line that names the endpoint."""
    with pytest.raises(UnavailableError) as raised:
        ask_version(endpoint, version, timeout)
    text = str(raised.value)
    assert text.startswith(f"{endpoint}: ")
    assert "\n" not in text
    return text


@contextmanager
def listening(endpoint: Endpoint) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(endpoint.path)
        listener.listen()
        yield listener


@contextmanager
def grpc_server(endpoint: Endpoint, *handlers: grpc.GenericRpcHandler) -> Iterator[None]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=handlers)
        server.add_insecure_port(f"unix:{endpoint.path}")
        server.start()
        yield
        server.stop(0).wait()


def test_answer(endpoint: Endpoint) -> None:
    """A runtime's answer is returned as it is."""
    with EmbeddedRuntime(endpoint):
        assert ask_version(endpoint, "v1", 20.0).runtime_name == "criproxy-embedded"


def test_no_such_file(endpoint: Endpoint) -> None:
    """A path where nothing is."""
    assert "no such file" in said(endpoint)


def test_no_socket(endpoint: Endpoint) -> None:
    """A path where something else is than a socket is the user's mistake."""
    Path(endpoint.path).touch()
    with pytest.raises(EndpointError, match="not a socket"):
        ask_version(endpoint, "v1", 20.0)


def test_nobody_listens(endpoint: Endpoint) -> None:
    """A socket file that a process has left behind."""
    with listening(endpoint):
        pass
    assert "nobody listens" in said(endpoint)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without access")
def test_no_permission(endpoint: Endpoint) -> None:
    """A socket that this user may not open."""
    with listening(endpoint):
        os.chmod(endpoint.path, 0o600)
        os.chmod(Path(endpoint.path).parent, 0o755)
        os.seteuid(NOBODY)
        try:
            assert "permission denied" in said(endpoint)
        finally:
            os.seteuid(0)


def test_silence(endpoint: Endpoint) -> None:
    """A listener that never answers."""
    with listening(endpoint):
        assert "no answer within 0.2s" in said(endpoint, timeout=0.2)


def test_another_protocol(endpoint: Endpoint) -> None:
    """A listener that speaks something else than gRPC."""
    with listening(endpoint) as listener:

        def serve() -> None:
            # The first connection is the look whether anybody listens.
            for _ in range(2):
                connection, _ = listener.accept()
                with connection, suppress(BrokenPipeError):
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        text = said(endpoint)
        thread.join()
    assert "no CRI service there; something listens" in text


def test_no_cri_service(endpoint: Endpoint) -> None:
    """A gRPC server without the CRI."""
    with grpc_server(endpoint):
        assert "implements neither v1 nor v1alpha2" in said(endpoint)


def test_another_version(endpoint: Endpoint) -> None:
    """A runtime that speaks only the other version of the API, which is named."""
    version = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: runtime_v1alpha2_pb2.VersionResponse(version="0.1.0"),
        response_serializer=runtime_v1alpha2_pb2.VersionResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(
        "runtime.v1alpha2.RuntimeService", {"Version": version}
    )
    with grpc_server(endpoint, handlers):
        assert "does not speak CRI v1, but v1alpha2: use --api-version v1alpha2" in said(endpoint)
        assert ask_version(endpoint, "v1alpha2", 20.0).version == "0.1.0"


def test_another_code(endpoint: Endpoint) -> None:
    """Whatever else a peer answers is given with its code and text."""

    def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNKNOWN, "server is not initialized yet")
        return b""

    handlers = grpc.method_handlers_generic_handler(
        "runtime.v1.RuntimeService", {"Version": grpc.unary_unary_rpc_method_handler(refuse)}
    )
    with grpc_server(endpoint, handlers):
        assert said(endpoint).endswith("failed with UNKNOWN: server is not initialized yet")
