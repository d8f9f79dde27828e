"""The OTLP outlet, with a real HTTP server that decodes requests with the same package."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from criproxy.audit.counts import SinkCounts
from criproxy.audit.sinks.otlp import OtlpOutlet
from criproxy.audit.spec import OtlpSpec
from criproxy.configtypes.values import Duration
from criproxy.errors import UsageError
from tests.support.audit_lines import Pipeline, item, numbers, record, reported, sink
from tests.support.http_server import Handler, HttpServer, Response
from tests.support.waiting import wait_until

_NOW = 1_795_429_900_000_000_000


class Collector:
    """Receives logs; ``answers`` are the statuses, headers and bodies of the next responses."""

    def __init__(self) -> None:
        self.requests: list[ExportLogsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.hold = threading.Event()
        self.hold.set()
        self._server = HttpServer(self._respond)
        self._server.start()
        self.url = f"{self._server.url}/v1/logs"

    def close(self) -> None:
        self.hold.set()
        self._server.close()

    @property
    def records(self) -> list[LogRecord]:
        """All accepted records."""
        return [
            found
            for request in self.requests
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for found in scope.log_records
        ]

    @property
    def lines(self) -> list[bytes]:
        return [found.body.string_value.encode() for found in self.records]

    def _respond(self, received: Handler, body: bytes) -> Response:
        self.hold.wait()
        request = ExportLogsServiceRequest.FromString(body)
        status, headers, answer = self.answers.pop(0) if self.answers else (200, {}, b"")
        if status == 200:
            self.requests.append(request)
            self.headers.append({k.lower(): v for k, v in received.headers.items()})
        return Response(answer, status, headers)


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture
def outlet(collector: Collector) -> Iterator[Callable[..., OtlpOutlet]]:
    opened: list[OtlpOutlet] = []

    def open_one(**given: Any) -> OtlpOutlet:
        spec = OtlpSpec(endpoint=collector.url, **given)
        opened.append(OtlpOutlet(spec, "node-1", wall_ns=lambda: _NOW))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def attributes(of: Any) -> dict[str, str | int]:
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in of.attributes
    }


def test_a_record_has_its_json_for_a_body_and_attributes_by_convention(
    collector: Collector, outlet: Callable[..., OtlpOutlet]
) -> None:
    """The body is the record's line, and attributes have OpenTelemetry's names."""
    line = (
        b'{"kind":"Event","auditID":"a-1","stage":"ResponseComplete","level":"Request",'
        b'"stageTimestamp":"2026-11-23T10:30:00.123456789Z","listener":"unix:///l",'
        b'"service":"runtime.v1.RuntimeService","method":"ExecSync","code":"PERMISSION_DENIED",'
        b'"denied":"no","caller":{"pid":7,"uid":0,"executable":"/usr/bin/crictl"},'
        b'"pod":{"id":"p1","namespace":"default","name":"web","uid":"u1"},'
        b'"container":{"id":"c1","name":"app"}}'
    )
    assert outlet(headers={"x-scope-orgid": "team"}).write([line]).done == 1

    (resource,) = collector.requests[0].resource_logs
    method_name = attributes(resource.resource)
    assert (method_name["service.name"], method_name["host.name"]) == ("criproxy", "node-1")
    (found,) = collector.records
    assert found.body.string_value.encode() == line
    assert found.time_unix_nano == 1_795_429_800_123_456_789
    assert found.observed_time_unix_nano == _NOW
    assert (found.severity_text, found.event_name) == ("INFO2", "criproxy.audit.Event")
    assert attributes(found) == {
        "criproxy.audit.id": "a-1",
        "criproxy.audit.stage": "ResponseComplete",
        "criproxy.audit.level": "Request",
        "criproxy.audit.denied": "no",
        "criproxy.listener": "unix:///l",
        "rpc.system": "grpc",
        "rpc.service": "runtime.v1.RuntimeService",
        "rpc.method": "ExecSync",
        "rpc.response.status_code": "PERMISSION_DENIED",
        "rpc.grpc.status_code": 7,
        "k8s.pod.name": "web",
        "k8s.pod.uid": "u1",
        "k8s.namespace.name": "default",
        "criproxy.pod.id": "p1",
        "k8s.container.name": "app",
        "container.id": "c1",
        "criproxy.caller.executable": "/usr/bin/crictl",
        "criproxy.caller.pid": 7,
        "criproxy.caller.uid": 0,
    }
    headers = collector.headers[0]
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["x-scope-orgid"] == "team"


def test_a_batch_is_one_request(collector: Collector, outlet: Callable[..., OtlpOutlet]) -> None:
    """A batch is one request, in order."""
    lines = [record(number) for number in range(100)]
    assert outlet().write(lines).done == 100

    assert len(collector.requests) == 1
    assert collector.lines == lines


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_tried_again(
    collector: Collector, outlet: Callable[..., OtlpOutlet], status: int
) -> None:
    """A busy Collector gets the same records again, with growing waits."""
    collector.answers = [(status, {}, b"busy")] * 7
    one = outlet()
    tries = [one.write([record(0)]) for _ in range(7)]

    assert [progress.retry for progress in tries] == [1, 2, 4, 8, 16, 30, 30]
    assert {progress.done for progress in tries} == {0}
    assert str(status) in tries[0].trouble
    assert one.write([record(0)]).done == 1
    collector.answers = [(status, {}, b"")]
    assert one.write([record(1)]).retry == 1


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("17", 17.0),
        (format_datetime(datetime.fromtimestamp(_NOW // 10**9 + 40, UTC), usegmt=True), 40.0),
        ("soon", 1.0),
    ],
)
def test_retry_after_is_heeded(
    collector: Collector, outlet: Callable[..., OtlpOutlet], after: str, seconds: float
) -> None:
    """Retry-After, in seconds or as a date, determines the wait."""
    collector.answers = [(503, {"retry-after": after}, b"")]

    assert outlet().write([record(0)]).retry == seconds


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500])
def test_what_does_not_pass_is_dropped_and_counted(
    collector: Collector, outlet: Callable[..., OtlpOutlet], status: int
) -> None:
    """Any other status rejects the records, which are dropped."""
    collector.answers = [(status, {}, b"no")]
    progress = outlet().write([record(0), record(1)])

    assert (progress.done, progress.lost, progress.reason) == (2, 2, "rejected")
    assert str(status) in progress.trouble


def test_partial_rejections_are_counted(
    collector: Collector, outlet: Callable[..., OtlpOutlet]
) -> None:
    """Records rejected by partial_success are counted and reported as dropped."""
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = 3
    answer.partial_success.error_message = "too old"
    collector.answers = [(200, {}, answer.SerializeToString())]
    counts = SinkCounts()
    errors: list[str] = []
    one = sink(outlet(), counts, log_error=errors.append)
    one.queue.put([record(number) for number in range(10)])
    one.start()
    wait_until(lambda: len(collector.requests) == 2, "the report of the rejection")
    one.stop_by(0)
    one.join()

    assert counts.dropped == {"rejected": 3}
    assert counts.written == 7
    assert reported(collector.lines) == 3
    assert "too old" in errors[0]


def test_another_kind_of_answer_is_no_trouble(
    collector: Collector, outlet: Callable[..., OtlpOutlet]
) -> None:
    """A 200 with an undecodable body accepts the records."""
    collector.answers = [(200, {}, b"\xff\xff\xff")]

    assert outlet().write([record(0)]) == outlet().write([record(1)])


def test_a_collector_that_is_not_there_gets_what_waited() -> None:
    """Records wait until the Collector is reachable."""
    gone = Collector()
    gone.close()
    counts = SinkCounts()
    errors: list[str] = []
    one = OtlpOutlet(OtlpSpec(endpoint=gone.url), "node")
    running = Pipeline(sink(one, counts, blocking=True, log_error=errors.append))
    running.submit(item(0))
    wait_until(lambda: counts.errors, "a failure to post")
    running.close(within=0)

    assert f"cannot post to {gone.url}" in errors[0]
    assert counts.dropped == {"closing": 1}


def test_a_pipeline_posts_all(collector: Collector, outlet: Callable[..., OtlpOutlet]) -> None:
    """With a busy Collector every record arrives once and in order."""
    collector.answers = [(200, {}, b""), (503, {"retry-after": "0"}, b"")]
    counts = SinkCounts()
    running = Pipeline(sink(outlet(), counts, blocking=True))
    for number in range(3000):
        running.submit(item(number))
    running.close(within=30)

    assert numbers(collector.lines) == list(range(3000))
    assert counts.written == 3000


def test_a_collector_that_hangs_is_left_in_time(
    collector: Collector, outlet: Callable[..., OtlpOutlet]
) -> None:
    """Closing aborts a request that waits for its response."""
    collector.hold.clear()
    counts = SinkCounts()
    one = sink(outlet(timeout=Duration(3600)), counts)
    one.queue.put([record(0)])
    one.start()
    client = one._outlet._client  # type: ignore[attr-defined]
    wait_until(lambda: client._socket is not None, "a request")
    one.stop_by(0)
    one.join()

    assert "audit test" not in {thread.name for thread in threading.enumerate()}
    assert counts.dropped == {"closing": 1}


@pytest.mark.parametrize("endpoint", ["", "collector:4318", "ftp://host/", "http://"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    """A bad endpoint is an error with an example of a good one."""
    with pytest.raises(UsageError, match="write it like"):
        OtlpOutlet(OtlpSpec(endpoint=endpoint), "node")
