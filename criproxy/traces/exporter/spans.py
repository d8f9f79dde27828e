"""Makes spans of OTLP, with the names of OpenTelemetry's conventions for RPC, Kubernetes and CRI.

A call's span is one of a server: its parent, if it has one, is the span of the caller's client.
What makes such a span an error is the conventions' for gRPC: a client's mistake does not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from criproxy import __version__
from criproxy.otlp.resource import resource_attributes
from criproxy.timeline.pod_start import CREATE, PULL, SANDBOX, START, WAITS, PodStart
from criproxy.traces.channel import TracedCall
from criproxy.traces.context import SAMPLED
from criproxy.wire.grpc import StatusCode

POD_START: Final = "pod start"
"""The name of the span of a pod's start."""

Value = str | int | float | Sequence[str] | None

SUBJECT_ATTRIBUTES: Final[Mapping[str, str]] = {
    "namespace": "k8s.namespace.name",
    "pod": "k8s.pod.name",
    "pod_uid": "k8s.pod.uid",
    "pod_id": "criproxy.pod.id",
    "container": "k8s.container.name",
    "container_id": "container.id",
    "image": "criproxy.image",
}
"""The attributes of the fields that name what a call is about."""

_SERVER_ERRORS: Final = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
"""The codes with which a server's span is an error (OpenTelemetry's conventions for gRPC)."""

_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
"""Bits of Span.flags: whether the parent is of another process is known, and whether it is."""


class StartContext(NamedTuple):
    """The ids of the span of a pod's start."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    """The parent of its first call, which is its own, too; or empty."""
    in_head: bool
    """Whether its trace is sampled."""


def call_span(call: TracedCall, start: StartContext | None = None) -> Span:
    """Return the span of a call. Without a caller's span, its parent is the pod's ``start``."""
    parent = call.parent_id
    if not parent and start is not None and start.trace_id == call.trace_id:
        parent = start.span_id
    span = Span(
        trace_id=call.trace_id,
        span_id=call.span_id,
        parent_span_id=parent,
        flags=_flags(call.in_head, parent, remote=bool(call.parent_id)),
        name=f"{call.service}/{call.method}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=call.began,
        end_time_unix_nano=max(call.began, call.ended),
    )
    code = StatusCode[call.code] if call.code else None
    values: dict[str, Value] = {
        "rpc.system": "grpc",
        "rpc.service": call.service,
        "rpc.method": call.method,
        "rpc.grpc.status_code": None if code is None else int(code),
        "rpc.response.status_code": call.code,
        **subject_attributes(call.subject),
        "criproxy.listener": call.listener,
        "criproxy.caller.pid": call.pid,
        "criproxy.caller.uid": call.uid,
        "criproxy.caller.executable": call.executable,
        "criproxy.end": call.end,
        "criproxy.denied": call.denied,
        "criproxy.rules": call.rules,
        "criproxy.held": call.held or None,
        "criproxy.time_to_first_byte": call.first_byte,
        "criproxy.overhead": call.overhead,
        "criproxy.request.bytes": call.request_bytes,
        "criproxy.response.bytes": call.response_bytes,
    }
    span.attributes.extend(attributes_of(values))
    if code in _SERVER_ERRORS:
        span.status.code = Status.STATUS_CODE_ERROR
        span.status.message = call.message
    elif call.message:
        span.attributes.extend(attributes_of({"criproxy.message": call.message}))
    return span


def subject_attributes(subject: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes of a call's subject."""
    return {
        attribute: subject[field]
        for field, attribute in SUBJECT_ATTRIBUTES.items()
        if subject.get(field)
    }


def pod_start_span(start: PodStart, calls: Sequence[TracedCall], context: StartContext) -> Span:
    """Return the span of a pod's start, with its cause, and links to calls that are not below it.

    ``calls`` are those of the start, in any order.
    """
    span = Span(
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_span_id=context.parent_id,
        flags=_flags(context.in_head, context.parent_id, remote=True),
        name=POD_START,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=min(call.began for call in calls),
        end_time_unix_nano=max(call.ended for call in calls),
    )
    pod, cause = start.pod, start.cause
    subject = {
        "namespace": pod.namespace,
        "pod": pod.pod,
        "pod_uid": pod.pod_uid,
        "pod_id": start.pod_id,
    }
    values: dict[str, Value] = {
        **subject_attributes(subject),
        "criproxy.pod_start.state": start.state,
        "criproxy.pod_start.cause.text": cause.text,
        "criproxy.pod_start.cause.kind": cause.kind,
        "criproxy.pod_start.cause.subject": cause.subject,
        "criproxy.pod_start.cause.seconds": cause.seconds,
        "criproxy.pod_start.sandbox": start.seconds_of(SANDBOX),
        "criproxy.pod_start.pull": start.seconds_of(PULL),
        "criproxy.pod_start.create": start.seconds_of(CREATE),
        "criproxy.pod_start.start": start.seconds_of(START),
        "criproxy.pod_start.waits": start.seconds_of(*WAITS),
    }
    span.attributes.extend(attributes_of(values))
    if start.state == "failing":
        span.status.code = Status.STATUS_CODE_ERROR
        span.status.message = cause.text
    for call in calls:
        if call.parent_id or call.trace_id != context.trace_id:
            span.links.add(trace_id=call.trace_id, span_id=call.span_id)
    return span


def _flags(sampled: bool, parent: bytes, *, remote: bool) -> int:
    flags = SAMPLED if sampled else 0
    if parent:
        flags |= _HAS_IS_REMOTE | (_IS_REMOTE if remote else 0)
    return flags


def attributes_of(values: Mapping[str, Value]) -> Iterator[KeyValue]:
    """Yield attributes of what is known: empty texts and lists, and None, are left out."""
    for key, value in values.items():
        if value is None or value == "" or value == ():
            continue
        attribute = KeyValue(key=key)
        if isinstance(value, str):
            attribute.value.string_value = value
        elif isinstance(value, int):
            attribute.value.int_value = value
        elif isinstance(value, float):
            attribute.value.double_value = value
        else:
            for each in value:
                attribute.value.array_value.values.add(string_value=each)
        yield attribute


def export_request(spans: Iterable[Span], node: str) -> ExportTraceServiceRequest:
    """Return the export request for spans."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.extend(attributes_of(resource_attributes(node)))
    scope = resource.scope_spans.add()
    scope.scope.name = "criproxy.traces"
    scope.scope.version = __version__
    scope.spans.extend(spans)
    return request
