"""The daemon's Prometheus metrics.

Calls are counted in plain numbers, which costs well under a microsecond each; metric families are
made during a scrape. Label values come from the CRI's method table, the configured listeners and
gRPC's codes, never from a client.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from criproxy.cri.naming import resolve
from criproxy.observe.call_counts import CallCounts, Histogram
from criproxy.observe.calls_in_flight import CallsInFlight
from criproxy.observe.metrics_merge import MergedCollector, Snapshot, snapshot
from criproxy.wire.errors import REASONS

DURATION_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""Seconds, from a Version call to the longest image pull."""

OVERHEAD_BUCKETS: Final = (
    *(10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6),
    *(0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0),
)
"""Seconds that the proxy adds, from idle to starved for CPU."""

SIZE_BUCKETS: Final = tuple(float(4**power) for power in range(3, 13))
"""Bytes: 64 to 16 MiB, the kubelet's largest message."""


def _bound_label(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # it has no annotations


def _buckets(
    histogram: Histogram,
) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    rows: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for bound, count, exemplar in histogram.cumulative():
        row = _bound_label(bound), float(count)
        rows.append(row if exemplar is None else (*row, exemplar))
    return rows


_METHOD: Final = ("service", "method")

_METHOD_HISTOGRAMS: Final = (
    ("duration", "criproxy_call_duration_seconds", "Seconds from a call's first byte to its end."),
    (
        "time_to_first_byte",
        "criproxy_time_to_first_byte_seconds",
        "Seconds from a call's first byte to the first byte of its response.",
    ),
    ("request_bytes", "criproxy_request_bytes", "Message bytes of a call's request."),
    ("response_bytes", "criproxy_response_bytes", "Message bytes of a call's response."),
)


class CallMetrics(Collector):
    """The metrics of calls; those in flight are examined during a scrape."""

    def __init__(
        self, counts: CallCounts, in_flight: CallsInFlight, clock: Callable[[], float]
    ) -> None:
        """``clock`` is the calls' clock, in seconds."""
        self._counts = counts
        self._in_flight = in_flight
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Make the metric families (prometheus_client calls this on its own thread)."""
        calls = CounterMetricFamily(
            "criproxy_calls",
            "Calls that ended, by the gRPC code that the client reports.",
            labels=("listener", *_METHOD, "code"),
        )
        methods = sorted(self._counts.methods.copy().items())
        ended = [
            ((listener, *labels, code), count)
            for labels, counts in methods
            for (listener, code), count in counts.ended.copy().items()
        ]
        for call_labels, count in sorted(ended):
            calls.add_metric(call_labels, count)
        yield calls
        for attribute, name, documentation in _METHOD_HISTOGRAMS:
            family = HistogramMetricFamily(name, documentation, labels=_METHOD)
            for labels, counts in methods:
                histogram: Histogram = getattr(counts, attribute)
                family.add_metric(labels, _buckets(histogram), histogram.total)
            yield family
        overhead = HistogramMetricFamily(
            "criproxy_overhead_seconds", "Seconds that the proxy added to a call."
        )
        histogram = self._counts.overhead
        overhead.add_metric((), _buckets(histogram), histogram.total)
        yield overhead
        yield from self._in_flight_metrics({labels for labels, _ in methods})

    def _in_flight_metrics(self, seen: set[tuple[str, str]]) -> Iterator[Metric]:
        """Yield the families of calls in flight; 0 for known methods without one."""
        now = self._clock()
        counts = dict.fromkeys(seen, 0)
        oldest = dict.fromkeys(seen, 0.0)
        for call, _ in self._in_flight.snapshot():
            method_name = resolve(call.path)
            labels = (method_name.service_label, method_name.method_label)
            counts[labels] = counts.get(labels, 0) + 1
            oldest[labels] = max(oldest.get(labels, 0.0), now - call.began)
        in_flight = GaugeMetricFamily(
            "criproxy_calls_in_flight", "Calls that have begun and not ended.", labels=_METHOD
        )
        ages = GaugeMetricFamily(
            "criproxy_oldest_call_age_seconds",
            "Seconds since the oldest call in flight began; 0 without one.",
            labels=_METHOD,
        )
        for labels in sorted(counts):
            in_flight.add_metric(labels, counts[labels])
            ages.add_metric(labels, oldest[labels])
        yield in_flight
        yield ages


class RuleCounts(Protocol):
    """Counters of rule matches, rule errors and denied calls."""

    @property
    def matches(self) -> Mapping[tuple[str, str, str], int]:
        """By rule, action and mode."""

    @property
    def errors(self) -> Mapping[tuple[str, str], int]:
        """By rule and reason."""

    @property
    def denied(self) -> Mapping[tuple[str, str, str], int]:
        """By listener, method and reason."""


class Held(Protocol):
    """The numbers of calls, streams and bytes that rules hold."""

    @property
    def streams(self) -> int:
        """Held streams."""

    @property
    def bytes(self) -> int:
        """Held message bytes."""


class RuleMetrics(Collector):
    """The metrics of rules and held streams."""

    def __init__(self, counts: RuleCounts, held: Held) -> None:
        self._counts = counts
        self._held = held

    def collect(self) -> Iterator[Metric]:
        """Make the metric families (prometheus_client calls this on its own thread)."""
        matches = CounterMetricFamily(
            "criproxy_rule_matches",
            "Calls that a rule matched, whether or not a percentage let it act.",
            labels=("rule", "action", "mode"),
        )
        for match_labels, count in sorted(dict(self._counts.matches).items()):
            matches.add_metric(match_labels, count)
        yield matches
        errors = CounterMetricFamily(
            "criproxy_rule_errors",
            "Times that a rule could not be evaluated or applied, and why.",
            labels=("rule", "reason"),
        )
        for error_labels, count in sorted(dict(self._counts.errors).items()):
            errors.add_metric(error_labels, count)
        yield errors
        denied = CounterMetricFamily(
            "criproxy_denied",
            "Calls that the proxy denied, and why.",
            labels=("listener", "method", "reason"),
        )
        for denied_labels, count in sorted(dict(self._counts.denied).items()):
            denied.add_metric(denied_labels, count)
        yield denied
        streams = GaugeMetricFamily("criproxy_held_streams", "Streams that rules hold.")
        streams.add_metric((), self._held.streams)
        yield streams
        held = GaugeMetricFamily("criproxy_held_bytes", "Message bytes that rules hold.")
        held.add_metric((), self._held.bytes)
        yield held


class SinkCounts(Protocol):
    """The counters of one sink; see criproxy.audit.counts."""

    written: int

    @property
    def dropped(self) -> Mapping[str, int]:
        """By reason."""

    errors: int
    backlog: int
    backlog_bytes: int


class AuditCounts(Protocol):
    """The counters of all sinks, and of calls that wait for the audit log."""

    @property
    def sinks(self) -> Mapping[str, SinkCounts]:
        """By the sink's name."""

    @property
    def waiting(self) -> int:
        """Calls that wait for the audit log."""

    @property
    def refused_calls(self) -> int:
        """Calls that were refused because they could not be recorded."""


class SinkMetrics(Collector):
    """The metrics of the audit log's sinks."""

    def __init__(self, sinks: Mapping[str, SinkCounts]) -> None:
        self._sinks = sinks

    def collect(self) -> Iterator[Metric]:
        """Make the metric families (prometheus_client calls this on its own thread)."""
        records = CounterMetricFamily(
            "criproxy_audit_records", "Audit records that were written.", labels=("sink",)
        )
        dropped = CounterMetricFamily(
            "criproxy_audit_dropped",
            "Audit records that were dropped, and why.",
            labels=("sink", "reason"),
        )
        errors = CounterMetricFamily(
            "criproxy_audit_errors", "Failed attempts to write audit records.", labels=("sink",)
        )
        backlog = GaugeMetricFamily(
            "criproxy_audit_queue_records",
            "Audit records that wait for their sink.",
            labels=("sink",),
        )
        size = GaugeMetricFamily(
            "criproxy_audit_queue_bytes",
            "Bytes of audit records that wait for their sink.",
            labels=("sink",),
        )
        for name, counts in sorted(self._sinks.items()):
            records.add_metric((name,), counts.written)
            for reason, count in sorted(dict(counts.dropped).items()):
                dropped.add_metric((name, reason), count)
            errors.add_metric((name,), counts.errors)
            backlog.add_metric((name,), counts.backlog)
            size.add_metric((name,), counts.backlog_bytes)
        yield from (records, dropped, errors, backlog, size)


class AuditMetrics(Collector):
    """The metrics of the audit log in a worker: what it drops, and calls that wait."""

    def __init__(self, counts: AuditCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Make the metric families (prometheus_client calls this on its own thread)."""
        yield from SinkMetrics(self._counts.sinks).collect()
        waiting = GaugeMetricFamily(
            "criproxy_audit_waiting_calls",
            "Calls that wait until they can be recorded (on_full: block).",
        )
        waiting.add_metric((), self._counts.waiting)
        yield waiting
        refused = CounterMetricFamily(
            "criproxy_audit_refused", "Calls that were refused because they could not be recorded."
        )
        refused.add_metric((), self._counts.refused_calls)
        yield refused


class TraceCounts(Protocol):
    """The counters of spans; see criproxy.traces.counts."""

    exported: int

    @property
    def dropped(self) -> Mapping[str, int]:
        """By reason."""

    errors: int
    queue_spans: int
    queue_bytes: int


class TraceMetrics(Collector):
    """The metrics of traces."""

    def __init__(self, counts: TraceCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Make the metric families (prometheus_client calls this on its own thread)."""
        counts = self._counts
        exported = CounterMetricFamily(
            "criproxy_traces_exported", "Spans that the endpoint of the traces has accepted."
        )
        exported.add_metric((), counts.exported)
        yield exported
        dropped = CounterMetricFamily(
            "criproxy_traces_dropped", "Spans that were dropped, and why.", labels=("reason",)
        )
        for reason, count in sorted(dict(counts.dropped).items()):
            dropped.add_metric((reason,), count)
        yield dropped
        errors = CounterMetricFamily(
            "criproxy_traces_errors", "Failed requests to the endpoint of the traces."
        )
        errors.add_metric((), counts.errors)
        yield errors
        waiting = GaugeMetricFamily("criproxy_traces_queue_spans", "Spans that wait to be sent.")
        waiting.add_metric((), counts.queue_spans)
        yield waiting
        size = GaugeMetricFamily(
            "criproxy_traces_queue_bytes", "Bytes of spans that wait to be sent."
        )
        size.add_metric((), counts.queue_bytes)
        yield size


class CaptureCounts(Protocol):
    """The counters of captures; see criproxy.capture.counts."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """By reason."""

    @property
    def cassettes(self) -> Mapping[str, int]:
        """By what they were begun for."""

    suppressed: int
    removed: int
    errors: int
    ring_bytes: int


class CaptureMetrics(Collector):
    """The metrics of captures."""

    def __init__(self, counts: CaptureCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Make the metric families (prometheus_client calls this on its own thread)."""
        counts = self._counts
        cassettes = CounterMetricFamily(
            "criproxy_capture_cassettes",
            "Cassettes that were begun, and what for: a trigger or a command.",
            labels=("reason",),
        )
        for reason, count in sorted(dict(counts.cassettes).items()):
            cassettes.add_metric((reason,), count)
        yield cassettes
        dropped = CounterMetricFamily(
            "criproxy_capture_dropped",
            "Records of calls that were not captured, and why.",
            labels=("reason",),
        )
        for reason, count in sorted(dict(counts.dropped).items()):
            dropped.add_metric((reason,), count)
        yield dropped
        for name, text, value in (
            (
                "criproxy_capture_suppressed",
                "Triggers for which no cassette was begun, because one had been shortly before.",
                counts.suppressed,
            ),
            (
                "criproxy_capture_removed",
                "Cassettes that were removed to make room for others.",
                counts.removed,
            ),
            (
                "criproxy_capture_errors",
                "Cassettes that could not be written, or not to their end.",
                counts.errors,
            ),
        ):
            family = CounterMetricFamily(name, text)
            family.add_metric((), value)
            yield family
        ring = GaugeMetricFamily(
            "criproxy_capture_ring_bytes", "Bytes of the last calls that are kept in memory."
        )
        ring.add_metric((), counts.ring_bytes)
        yield ring


DIRECT_CLIENTS: Final = 8
"""Names of processes that have series of their own in `criproxy_direct_connections`."""


def log_lines_dropped(registry: CollectorRegistry) -> Counter:
    """Register the counter of lost log lines, which every process has."""
    return Counter(
        "criproxy_log_lines_dropped_total",
        "Log lines that were lost because the log could not be written.",
        registry=registry,
    )


class Metrics:
    """All metrics of a worker, in a registry of their own."""

    def __init__(self, in_flight: CallsInFlight, clock: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        self.calls = CallCounts(DURATION_BUCKETS, OVERHEAD_BUCKETS, SIZE_BUCKETS)
        registry.register(CallMetrics(self.calls, in_flight, clock))
        ProcessCollector(registry=registry)
        self.connections = Gauge(
            "criproxy_connections",
            "Clients that are connected.",
            ("listener",),
            registry=registry,
        )
        self.unread = Counter(
            "criproxy_unread_connections_total",
            "Connections that are relayed without being parsed any further, and why.",
            ("reason",),
            registry=registry,
        )
        for reason in REASONS:
            self.unread.labels(reason)
        self.refused = Counter(
            "criproxy_refused_connections_total",
            "Connections that were closed because rules could not be enforced on them, or because "
            "they were HTTP/1 where that is not served, and why.",
            ("listener", "reason"),
            registry=registry,
        )
        self.rate_exceeded = Counter(
            "criproxy_rate_exceeded_connections_total",
            "Connections that were ended because their clients sent too many frames that carry "
            "nothing (`limits.frame_rate`).",
            ("listener",),
            registry=registry,
        )
        self.log_lines_dropped = log_lines_dropped(registry)

    def add_rules(self, counts: RuleCounts, held: Held) -> None:
        """Export what is counted of rules, too."""
        self.registry.register(RuleMetrics(counts, held))

    def add_audit(self, counts: AuditCounts) -> None:
        """Export what is counted of the audit log, too."""
        self.registry.register(AuditMetrics(counts))

    def add_traces(self, counts: TraceCounts) -> None:
        """Export what is counted of traces, too."""
        self.registry.register(TraceMetrics(counts))

    def add_capture(self, counts: CaptureCounts) -> None:
        """Export what is counted of captures, too."""
        self.registry.register(CaptureMetrics(counts))


class DaemonMetrics:
    """The exported metrics: those of all processes, merged, and the supervisor's own."""

    def __init__(self, version: str, workers: Callable[[], Iterable[Snapshot]]) -> None:
        """``version`` is criproxy's own; ``workers`` is called for each scrape, on its thread."""
        own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.log_lines_dropped = log_lines_dropped(own)
        self.registry = registry = CollectorRegistry()
        # First: asking the workers tells whether they are up.
        registry.register(MergedCollector(lambda: [*workers(), snapshot(own)]))
        self.runtime_up = Gauge(
            "criproxy_runtime_up",
            "1 if every configured runtime and image service answered its last probe, else 0.",
            registry=registry,
        )
        self._reload_success = Gauge(
            "criproxy_config_reload_success",
            "1 if the last loading of the configuration succeeded, else 0.",
            registry=registry,
        )
        self._reload_timestamp = Gauge(
            "criproxy_config_reload_timestamp_seconds",
            "When the configuration was last loaded successfully, in seconds since the epoch.",
            registry=registry,
        )
        self._worker_up = Gauge(
            "criproxy_worker_up",
            "1 if the worker answered when it was asked for its metrics, else 0.",
            ("worker",),
            registry=registry,
        )
        self._worker_restarts = Counter(
            "criproxy_worker_restarts_total",
            "How often a worker that had ended by itself was started anew.",
            ("worker",),
            registry=registry,
        )
        self.bypassed = Gauge(
            "criproxy_listener_bypassed",
            "1 if the listener's path leads to the runtime's socket (`criproxy bypass`), else 0.",
            ("listener",),
            registry=registry,
        )
        self.direct_connections = Gauge(
            "criproxy_direct_connections",
            "Connections to the runtime's socket that are not criproxy's, by the name of the "
            "process's executable; `kubelet` for the node's, `other` after the first "
            f"{DIRECT_CLIENTS} names, `unknown` where the process is not seen "
            "(`probe.direct_clients`).",
            ("runtime", "process"),
            registry=registry,
        )
        self._direct: set[tuple[str, str]] = set()
        build = Info("criproxy_build", "The running version; the value is 1.", registry=registry)
        build.info(
            {
                "version": version,
                "python": platform.python_version(),
                "implementation": platform.python_implementation(),
            }
        )

    def direct_connected(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Note who is connected past criproxy: connections by path of the runtime and name."""
        for path, process in self._direct - counts.keys():
            self.direct_connections.remove(f"unix://{path}", process)
        for (path, process), count in counts.items():
            self.direct_connections.labels(f"unix://{path}", process).set(count)
        self._direct = set(counts)

    def reloaded(self, success: bool) -> None:
        """Note how a loading of the configuration has ended."""
        self._reload_success.set(success)
        if success:
            self._reload_timestamp.set(time.time())

    def worker_restarted(self, name: str) -> None:
        """Count a worker that was started anew."""
        self._worker_restarts.labels(name).inc()

    def worker_up(self, name: str, up: bool) -> None:
        """Note whether a worker has answered. Its restarts are exported from then on."""
        self._worker_restarts.labels(name)
        self._worker_up.labels(name).set(up)
