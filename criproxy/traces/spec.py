"""The configuration's section ``traces``."""

from typing import Literal

from msgspec import field

from criproxy.configtypes.section import Section
from criproxy.configtypes.values import Duration, Size


class TracesOtlpSpec(Section, frozen=True):
    """Where spans are sent, and how."""

    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    """The protocol below OTLP, as OpenTelemetry names it."""
    endpoint: str = "http://127.0.0.1:4318/v1/traces"
    """The URL of the traces endpoint of an OpenTelemetry Collector, of Tempo or of Jaeger. With
    `grpc` it has no path: `http://127.0.0.1:4317`. `https` is HTTP over TLS."""
    headers: dict[str, str] = field(default_factory=dict)
    """HTTP headers that are sent with each request, with `grpc` its metadata."""
    timeout: Duration = Duration(10)
    """The time that one request may take."""
    retry_for: Duration = Duration(60)
    """The time for which spans that could not be sent are tried again before they are dropped."""


class SamplingSpec(Section, frozen=True):
    """Which calls have a span. One condition that holds is enough."""

    ratio: float = 0.1
    """The part of the traces that is sampled, from 0 to 1. It is decided by the trace's id, so that
    all calls of a trace have spans or none."""
    parent: Literal["follow", "ignore"] = "follow"
    """Which calls with a `traceparent` are sampled. `follow`: those that the caller samples.
    `ignore`: those that `ratio` selects by the caller's trace."""
    errors: bool = True
    """`true`: every call that ends with another code than OK has a span."""
    slower_than: Duration | None = Duration(1)
    """Every call that lasts as long has a span. Streams are exempt. null: the duration does not
    count."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError("ratio has to be from 0 to 1")


class PodStartsSpec(Section, frozen=True):
    """The spans of pods' starts, each over the calls of one: sandbox, pulls, containers."""

    settle: Duration = Duration(30)
    """The time without a further call after which a pod has started, once all containers that were
    created have. Then its span is sent."""


class SpanQueueSpec(Section, frozen=True):
    """The limits of the queue of spans. Spans are dropped and counted when it is full."""

    spans: int = 10_000
    """Spans that may wait to be sent."""
    bytes: Size = Size(16 << 20)
    """Bytes of spans that may wait to be sent."""

    def __post_init__(self) -> None:
        if self.spans < 1 or self.bytes < 1:
            raise ValueError("spans and bytes have to be at least 1")


class TracesSpec(Section, frozen=True):
    """The traces."""

    otlp: TracesOtlpSpec = TracesOtlpSpec()
    sampling: SamplingSpec = SamplingSpec()
    pod_starts: PodStartsSpec | None = PodStartsSpec()
    """The spans of pods' starts, each over the calls of one. A start is sampled if one of its calls
    is, or if it lasts as long as `sampling.slower_than`; then all its calls have spans. null: calls
    only."""
    queue: SpanQueueSpec = SpanQueueSpec()
    node: str | None = None
    """The name of this node in spans. null: the host name."""
