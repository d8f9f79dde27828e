"""Real receivers of OTLP traces, over HTTP and over gRPC, with the protocol's own messages."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.grpc_peers import Metadata
from tests.support.http_server import Handler, HttpServer, Response
from tests.support.waiting import wait_until


class Received:
    """What a receiver has accepted."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Span]:
        """All accepted spans."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        """The accepted spans whose name ends with a text."""
        return [span for span in self.spans if span.name.endswith(name)]

    def wait_for(self, name: str, count: int = 1) -> list[Span]:
        """Wait for spans whose name ends with a text, and return them."""
        wait_until(
            lambda: len(self.named(name)) >= count,
            f"{count} spans of {name}",
            report=lambda: str([span.name for span in self.spans]),
        )
        return self.named(name)


class TraceReceiver(Received):
    """Receives spans at ``url``; a context manager.

    ``answers`` are the statuses, headers and bodies of the next responses; after them every request
    is accepted. While ``hold`` is cleared, requests are not answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked = threading.Semaphore(0)
        """Released at each request."""
        self.hold = threading.Event()
        self.hold.set()
        self._server = HttpServer(self._respond)
        self.url = f"{self._server.url}/v1/traces"

    def _respond(self, received: Handler, body: bytes) -> Response:
        self.asked.release()
        self.hold.wait()
        request = ExportTraceServiceRequest.FromString(body)
        success = ExportTraceServiceResponse().SerializeToString()
        status, headers, answer = self.answers.pop(0) if self.answers else (200, {}, success)
        if status == 200:
            self.requests.append(request)
            self.headers.append({key.lower(): text for key, text in received.headers.items()})
        return Response(answer, status, headers)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._server.close()


class GrpcTraceReceiver(Received, TraceServiceServicer):
    """The protocol's service on grpcio, at ``url``; a context manager.

    ``answers`` are the codes, messages and trailing metadata with which the next calls end; after
    them every request is accepted, and answered with ``response``.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        super().__init__()
        self.metadata: list[dict[str, str | bytes]] = []
        self.answers: list[tuple[grpc.StatusCode, str, Metadata]] = []
        self.response = ExportTraceServiceResponse()
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.url = f"{'http' if credentials is None else 'https'}://127.0.0.1:{port}"

    def Export(  # noqa: N802  # the service's name
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        if self.answers:
            code, message, trailing = self.answers.pop(0)
            context.set_trailing_metadata(trailing)
            context.abort(code, message)
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return self.response

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()


def attributes(of: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource as plain values."""
    found: dict[str, Any] = {}
    for each in of.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [one.string_value for one in value.values] if "array" in kind else value
    return found
