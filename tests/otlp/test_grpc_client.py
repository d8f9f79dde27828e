"""GrpcClient against grpcio's server with the protocol's own service, and against other peers."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from criproxy.errors import UsageError
from criproxy.otlp.answer import Outcome
from criproxy.otlp.grpc_client import GrpcClient
from tests.support.certificate import make_certificate
from tests.support.http_server import HttpServer, Response
from tests.support.trace_receiver import GrpcTraceReceiver
from tests.support.waiting import LIMIT_SECONDS

EXPORT = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_TYPE = b"type.googleapis.com/google.rpc.RetryInfo"
_ANY = b"\x0a" + bytes([len(_TYPE)]) + _TYPE
RETRY_INFO = b"\x08\x08\x1a" + bytes([len(_ANY)]) + _ANY
"""A google.rpc.Status with the code RESOURCE_EXHAUSTED and a RetryInfo among its details."""


def request(names: list[str]) -> bytes:
    message = ExportTraceServiceRequest()
    for name in names:
        message.resource_spans.add().scope_spans.add().spans.add().name = name
    return message.SerializeToString()


def client(url: str, timeout: float = LIMIT_SECONDS, **headers: str) -> GrpcClient:
    return GrpcClient(EXPORT, url, headers, timeout)


@pytest.fixture
def receiver() -> Iterator[GrpcTraceReceiver]:
    with GrpcTraceReceiver() as receiver:
        yield receiver


def test_requests_are_accepted(receiver: GrpcTraceReceiver) -> None:
    """Requests arrive as they are, with their metadata, and the answer's message is returned."""
    receiver.response.partial_success.rejected_spans = 3
    one = client(receiver.url, **{"X-Scope-OrgID": "team"})
    for name in ("a", "b"):
        answer = one.post(request([name]))
        assert answer.outcome is Outcome.ACCEPTED
        assert ExportTraceServiceResponse.FromString(answer.body) == receiver.response
    assert [span.name for span in receiver.spans] == ["a", "b"]
    assert receiver.metadata[0]["x-scope-orgid"] == "team"
    assert str(receiver.metadata[0]["user-agent"]).startswith("criproxy/")


def test_a_request_larger_than_the_windows(receiver: GrpcTraceReceiver) -> None:
    """A request of more bytes than the receiver's windows is sent as these open."""
    names = [f"{number:01000}" for number in range(2000)]
    assert client(receiver.url).post(request(names)).outcome is Outcome.ACCEPTED
    assert [span.name for span in receiver.spans] == names


@pytest.mark.parametrize(
    ("code", "details", "outcome"),
    [
        (grpc.StatusCode.UNAVAILABLE, b"", Outcome.UNAVAILABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, b"", Outcome.UNAVAILABLE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, b"", Outcome.REJECTED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RETRY_INFO, Outcome.UNAVAILABLE),
        (grpc.StatusCode.INVALID_ARGUMENT, b"", Outcome.REJECTED),
        (grpc.StatusCode.UNAUTHENTICATED, b"", Outcome.REJECTED),
    ],
)
def test_codes(
    receiver: GrpcTraceReceiver, code: grpc.StatusCode, details: bytes, outcome: Outcome
) -> None:
    """The codes that OTLP retries ask for another try, and others reject; the reason is told."""
    trailing = (("grpc-status-details-bin", details),) if details else ()
    receiver.answers = [(code, "näh", trailing)]
    answer = client(receiver.url).post(request(["a"]))
    assert answer.outcome is outcome
    assert answer.because == f"it answered {code.name}: näh"
    assert receiver.spans == []


def test_pauses_grow_until_an_answer(receiver: GrpcTraceReceiver) -> None:
    """The pauses between tries double, and begin anew when a request was accepted."""
    unavailable = (grpc.StatusCode.UNAVAILABLE, "", ())
    receiver.answers = [unavailable] * 3
    one = client(receiver.url)
    assert [one.post(b"").retry for _ in range(3)] == [1, 2, 4]
    assert one.post(b"").outcome is Outcome.ACCEPTED
    receiver.answers = [unavailable]
    assert one.post(b"").retry == 1


def test_a_peer_that_speaks_http1() -> None:
    """An endpoint that does not speak HTTP/2 is unavailable, and no exception leaves the client."""
    with HttpServer(lambda handler, body: Response()) as server:
        answer = client(server.url).post(request(["a"]))
    assert answer.outcome is Outcome.UNAVAILABLE
    assert answer.because


def test_a_peer_that_is_absent() -> None:
    """So is one that does not listen."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    answer = client(f"http://127.0.0.1:{port}").post(request(["a"]))
    assert answer.outcome is Outcome.UNAVAILABLE
    assert "refused" in answer.because


def test_a_peer_that_hangs() -> None:
    """A call without an answer ends with the timeout, or when it is broken off."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        answer = client(url, timeout=0.1).post(request(["a"]))
        assert (answer.outcome, answer.because) == (Outcome.UNAVAILABLE, "timed out")
        silent.accept()[0].close()
        one = client(url)
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(one.post(request(["a"]))))
        waiting.start()
        with silent.accept()[0] as accepted:
            assert accepted.recv(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            one.abort()
            waiting.join()
        assert answers[0].outcome is Outcome.UNAVAILABLE
        assert "broken off" in one.post(request(["a"])).because


def test_a_peer_that_hangs_before_tls() -> None:
    """A call that waits for TLS to begin ends when it is broken off."""
    answers = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = client(f"https://127.0.0.1:{silent.getsockname()[1]}", timeout=3600)
        waiting = threading.Thread(target=lambda: answers.append(one.post(b"x")), daemon=True)
        waiting.start()
        with silent.accept()[0] as accepted:
            assert accepted.recv(1) == b"\x16"  # a record of TLS's handshake
            one.abort()
            waiting.join()
    assert answers[0].outcome is Outcome.UNAVAILABLE


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint with https is called over TLS, if its certificate is one that is trusted."""
    key, certificate = make_certificate(tmp_path)
    pair = key.read_bytes(), certificate.read_bytes()
    with GrpcTraceReceiver(grpc.ssl_server_credentials([pair])) as receiver:
        answer = client(receiver.url).post(request(["a"]))
        assert answer.outcome is Outcome.UNAVAILABLE
        assert "certificate verify failed" in answer.because
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert client(receiver.url).post(request(["a"])).outcome is Outcome.ACCEPTED
    assert [span.name for span in receiver.spans] == ["a"]


@pytest.mark.parametrize("url", ["collector:4317", "http://127.0.0.1:4317/v1/traces", "http://"])
def test_an_endpoint_that_is_none(url: str) -> None:
    """A bad endpoint, or one with the path of OTLP over HTTP, is an error with a good example."""
    with pytest.raises(UsageError, match=r"write it like http://127.0.0.1:4317$"):
        client(url)
