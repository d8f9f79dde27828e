"""Sends records to an OpenTelemetry Collector as OTLP logs over HTTP with protobuf.

A log record's body is the audit record's JSON as a string: Loki, ClickHouse and Elasticsearch show
the line that a file would have and can parse it, whereas each treats structured bodies in its own
way. Common filters are attributes, with OpenTelemetry's names where there are some. Records that
the Collector rejects (``partial_success``, and any status that OTLP does not retry) are dropped and
counted, whatever ``on_full`` is, since it would never accept them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from criproxy.audit.sinks.record_head import RecordHead, read_head
from criproxy.audit.sinks.sink import Outlet, Progress
from criproxy.audit.spec import OtlpSpec
from criproxy.errors import UnavailableError
from criproxy.otlp.answer import LONGEST_WAIT, Outcome
from criproxy.otlp.http_client import HttpClient
from criproxy.otlp.resource import resource_attributes
from criproxy.wire.grpc import StatusCode

try:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
    )
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
except ImportError as error:
    raise UnavailableError(
        "the audit sink otlp needs the package opentelemetry-proto: pip install 'criproxy[otlp]'"
    ) from error

_SEVERITIES: Final = {4: (13, "WARN"), 5: (10, "INFO2"), 6: (9, "INFO")}


class OtlpOutlet(Outlet):
    """Posts batches to one endpoint."""

    def __init__(
        self,
        spec: OtlpSpec,
        node: str,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Raises UsageError for an endpoint that is not an HTTP URL."""
        self._client = HttpClient(
            spec.endpoint,
            spec.headers,
            float(spec.timeout),
            example="http://127.0.0.1:4318/v1/logs",
            wall_ns=wall_ns,
        )
        self._endpoint = spec.endpoint
        self._node = node
        self._wall_ns = wall_ns

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Post lines in one request."""
        body = request(lines, self._node, self._wall_ns()).SerializeToString()
        answer = self._client.post(body)
        if answer.outcome is Outcome.ACCEPTED:
            return self._accepted(len(lines), answer.body)
        if answer.outcome is Outcome.UNAVAILABLE:
            return Progress(
                0,
                trouble=f"cannot post to {self._endpoint}: {answer.because}; it is tried again, "
                f"at least each {LONGEST_WAIT:g} s unless it asks for later",
                retry=answer.retry,
            )
        return Progress(
            len(lines),
            lost=len(lines),
            reason="rejected",
            trouble=f"{self._endpoint}: {answer.because}, which trying again does not mend: "
            "see its log; the records are dropped",
        )

    def abort(self) -> None:
        """Make a waiting request fail."""
        self._client.abort()

    def close(self) -> str:
        """Close the connection."""
        self._client.close()
        return ""

    def _accepted(self, count: int, answer: bytes) -> Progress:
        response = ExportLogsServiceResponse()
        try:
            response.ParseFromString(answer)
        except DecodeError:  # a 2xx status accepts the records whatever the body
            return Progress(count)
        rejected = response.partial_success.rejected_log_records
        if rejected <= 0:
            return Progress(count)
        return Progress(
            count,
            lost=min(rejected, count),
            reason="rejected",
            trouble=f"{self._endpoint} rejected {rejected} records: "
            f"{response.partial_success.error_message or 'it does not say why'}",
        )


def request(lines: Sequence[bytes], node: str, wall_ns: int) -> ExportLogsServiceRequest:
    """Return the export request for lines. ``wall_ns``: now, in nanoseconds since the epoch."""
    message = ExportLogsServiceRequest()
    resource = message.resource_logs.add()
    for key, value in resource_attributes(node).items():
        resource.resource.attributes.add(key=key).value.string_value = value
    scope = resource.scope_logs.add()
    scope.scope.name = "criproxy.audit"
    for line in lines:
        _fill(scope.log_records.add(), line, wall_ns)
    return message


def _fill(record: LogRecord, line: bytes, wall_ns: int) -> None:
    try:
        head = read_head(line)
    except msgspec.DecodeError:
        head = RecordHead(kind="Unreadable")
    record.time_unix_nano = head.wall_ns(wall_ns)
    record.observed_time_unix_nano = wall_ns
    number, record.severity_text = _SEVERITIES[head.severity]
    record.severity_number = number  # type: ignore[assignment]  # an enum that is an int
    record.event_name = f"criproxy.audit.{head.kind}"
    record.body.string_value = line.decode("utf-8", "replace")
    for key, value in _attributes(head):
        target = record.attributes.add(key=key).value
        if isinstance(value, int):
            target.int_value = value
        else:
            target.string_value = value


def _attributes(head: RecordHead) -> Iterator[tuple[str, str | int]]:
    texts = {
        "criproxy.audit.id": head.audit_id,
        "criproxy.audit.stage": head.stage,
        "criproxy.audit.level": head.level,
        "criproxy.audit.denied": head.denied,
        "criproxy.listener": head.listener,
        "rpc.system": "grpc" if head.method else "",
        "rpc.service": head.service,
        "rpc.method": head.method,
        "rpc.response.status_code": head.code,
    }
    if pod := head.pod:
        texts["k8s.pod.name"], texts["k8s.pod.uid"] = pod.name, pod.uid
        texts["k8s.namespace.name"], texts["criproxy.pod.id"] = pod.namespace, pod.id
    if container := head.container:
        texts["k8s.container.name"], texts["container.id"] = container.name, container.id
    numbers: dict[str, int | None] = {}
    if head.code in StatusCode.__members__:
        numbers["rpc.grpc.status_code"] = int(StatusCode[head.code])
    if caller := head.caller:
        texts["criproxy.caller.executable"] = caller.executable or ""
        numbers["criproxy.caller.pid"], numbers["criproxy.caller.uid"] = caller.pid, caller.uid
    yield from ((key, value) for key, value in texts.items() if value)
    yield from ((key, number) for key, number in numbers.items() if number is not None)
