"""Sends records to an OpenTelemetry Collector as OTLP logs over HTTP with protobuf.

A log record's body is the audit record's JSON as a string: Loki, ClickHouse and Elasticsearch show
the line that a file would have and can parse it, whereas each treats structured bodies in its own
way. Common filters are attributes, with OpenTelemetry's names where there are some. Records that
the Collector rejects (``partial_success``, and any status that OTLP does not retry) are dropped and
counted, whatever ``on_full`` is, since it would never accept them.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpcore
import msgspec

from criproxy import __version__
from criproxy.audit.sinks.record_head import RecordHead, read_head
from criproxy.audit.sinks.sink import Outlet, Progress
from criproxy.audit.spec import OtlpSpec
from criproxy.errors import UnavailableError, UsageError
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

_AGAIN: Final = (429, 502, 503, 504)
"""The statuses after which the same request is sent again (OTLP/HTTP, "Failures")."""
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 30.0
"""Seconds until the next try, doubled after each failure up to the longest."""
_LARGEST_ANSWER: Final = 1 << 16
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
        try:
            self._url = httpcore.URL(spec.endpoint)
        except Exception as error:  # httpcore raises various exceptions for bad URLs
            raise UsageError(f"otlp endpoint {spec.endpoint!r}: {error}") from error
        if self._url.scheme not in (b"http", b"https") or not self._url.host:
            raise UsageError(
                f"{spec.endpoint!r} is no URL; write it like http://127.0.0.1:4318/v1/logs"
            )
        self._endpoint = spec.endpoint
        self._node = node
        self._wall_ns = wall_ns
        self._headers = {
            "host": self._url.origin.host.decode()
            + (f":{self._url.port}" if self._url.port else ""),
            "user-agent": f"criproxy/{__version__}",
            **spec.headers,
            "content-type": "application/x-protobuf",
        }
        limits = dict.fromkeys(("connect", "read", "write", "pool"), float(spec.timeout))
        self._extensions: dict[str, Any] = {"timeout": limits, "trace": self._trace}
        self._pool = httpcore.ConnectionPool(max_connections=1)
        self._socket: socket.socket | None = None
        self._wait = _FIRST_WAIT
        self._aborted = False

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Post lines in one request."""
        body = request(lines, self._node, self._wall_ns()).SerializeToString()
        try:
            status, headers, answer = self._post(body)
        except Exception as error:  # httpcore's have no common base class, and OSErrors pass it
            return self._again(str(error) or type(error).__name__)
        if status in _AGAIN:
            return self._again(f"it answered {status}", _retry_after(headers, self._wall_ns()))
        self._wait = _FIRST_WAIT
        if not 200 <= status < 300:
            return Progress(
                len(lines),
                lost=len(lines),
                reason="rejected",
                trouble=f"{self._endpoint} answered {status}, which trying again does not mend: "
                "see its log; the records are dropped",
            )
        return self._accepted(len(lines), answer)

    def abort(self) -> None:
        """Make a waiting request fail."""
        self._aborted = True
        connection = self._socket
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> str:
        """Close the connection."""
        self._pool.close()
        return ""

    def _post(self, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        answer = b""
        with self._pool.stream(
            "POST",
            self._url,
            headers=[*self._headers.items(), ("content-length", str(len(body)))],
            content=body,
            extensions=self._extensions,
        ) as response:
            for chunk in response.iter_stream():
                answer = (answer + chunk)[:_LARGEST_ANSWER]
        return response.status, response.headers, answer

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

    def _again(self, because: str, after: float | None = None) -> Progress:
        wait = self._wait if after is None else after
        self._wait = min(self._wait * 2, _LONGEST_WAIT)
        return Progress(
            0,
            trouble=f"cannot post to {self._endpoint}: {because}; it is tried again, "
            f"at least each {_LONGEST_WAIT:g} s unless it asks for later",
            retry=wait,
        )

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        """Keep the connection's socket, so that ``abort`` can shut it down."""
        if name == "connection.connect_tcp.complete":
            self._socket = info["return_value"].get_extra_info("socket")
        if self._aborted:
            raise ConnectionAbortedError("it was broken off")


def request(lines: Sequence[bytes], node: str, wall_ns: int) -> ExportLogsServiceRequest:
    """Return the export request for lines. ``wall_ns``: now, in nanoseconds since the epoch."""
    message = ExportLogsServiceRequest()
    resource = message.resource_logs.add()
    for key, value in (
        ("service.name", "criproxy"),
        ("service.version", __version__),
        ("host.name", node),
        ("k8s.node.name", node),
    ):
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


def _retry_after(headers: Sequence[tuple[bytes, bytes]], wall_ns: int) -> float | None:
    """Return Retry-After (RFC 9110 section 10.2.3) as seconds from now; None without one."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            text = value.decode("latin-1").strip()
            if text.isdigit():
                return float(text)
            with suppress(ValueError):
                at = parsedate_to_datetime(text)
                return max(0.0, at.replace(tzinfo=at.tzinfo or UTC).timestamp() - wall_ns / 1e9)
    return None
