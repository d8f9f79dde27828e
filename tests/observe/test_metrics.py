"""The metrics that are exported to a scraper."""

from collections import Counter
from collections.abc import Callable

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from criproxy.audit.counts import SinkCounts
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.exemplars import SpanReference
from criproxy.observe.metrics import DaemonMetrics, Metrics
from criproxy.observe.metrics_merge import snapshot
from criproxy.peers.peer import Connection
from criproxy.wire.errors import REASONS
from criproxy.wire.grpc import StatusCode
from tests.support.calls import CONNECTION, ended, running

SERVICE = "runtime.v1.RuntimeService"
VERSION = {"service": SERVICE, "method": "Version"}
OTHER = {"service": "other", "method": "other"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def in_flight() -> CallsInFlight:
    return CallsInFlight(SlowCalls(30, {}))


@pytest.fixture
def metrics(in_flight: CallsInFlight, clock: Clock) -> Metrics:
    return Metrics(in_flight, clock)


@pytest.fixture
def value(metrics: Metrics) -> Callable[..., float | None]:
    return lambda name, **labels: metrics.registry.get_sample_value(name, labels)


Value = Callable[..., float | None]


def test_calls_by_code(metrics: Metrics, value: Value) -> None:
    """Calls are counted by listener, service, method and the code's name."""
    elsewhere = Connection("unix:///run/other.sock", CONNECTION.peer, 0.0)
    for connection, code in (
        (CONNECTION, StatusCode.OK),
        (CONNECTION, StatusCode.OK),
        (CONNECTION, StatusCode.NOT_FOUND),
        (elsewhere, StatusCode.OK),
    ):
        metrics.calls.ended(connection, ended(b"Version", code))
    name = "criproxy_calls_total"
    ours = {"listener": CONNECTION.listener, **VERSION}
    assert value(name, **ours, code="OK") == 2
    assert value(name, **ours, code="NOT_FOUND") == 1
    assert value(name, listener=elsewhere.listener, **VERSION, code="OK") == 1


def test_versions_are_distinguished(metrics: Metrics, value: Value) -> None:
    """The service label includes the API version."""
    metrics.calls.ended(CONNECTION, ended(b"/runtime.v1alpha2.ImageService/ListImages"))
    assert (
        value(
            "criproxy_calls_total",
            listener=CONNECTION.listener,
            service="runtime.v1alpha2.ImageService",
            method="ListImages",
            code="OK",
        )
        == 1
    )


@pytest.mark.parametrize(
    "path",
    [
        b"/runtime.v1.RuntimeService/Invented",
        b"/containerd.services.tasks.v1.Tasks/List",
        b"/grpc.health.v1.Health/Check",
        b"/",
        b"",
        b"\xff\xfe",
        b'/a/b"} 1\ncriproxy_forged 1',
    ],
)
def test_what_is_not_in_the_cri_is_other(metrics: Metrics, value: Value, path: bytes) -> None:
    """Methods outside the CRI are labelled ``other``, so clients cannot add labels."""
    call = ended(b"Version")
    call.path = path
    metrics.calls.ended(CONNECTION, call)
    assert value("criproxy_calls_total", listener=CONNECTION.listener, **OTHER, code="OK") == 1
    assert value("criproxy_call_duration_seconds_count", **OTHER) == 1


def test_calls_whose_end_was_not_seen(metrics: Metrics, value: Value) -> None:
    """A call on a connection that is no longer parsed counts as UNREAD."""
    metrics.calls.ended(CONNECTION, ended(b"Version", None))
    labels = {"listener": CONNECTION.listener, **VERSION, "code": "UNREAD"}
    assert value("criproxy_calls_total", **labels) == 1


def test_histograms_are_cumulative(metrics: Metrics, value: Value) -> None:
    """A bucket counts values up to its bound; sum and count are exact."""
    for seconds in (0.0005, 0.0006, 0.02, 700.0):
        metrics.calls.ended(CONNECTION, ended(b"Version", took=seconds))
    name = "criproxy_call_duration_seconds"
    rows = {"0.0005": 1, "0.001": 2, "0.01": 2, "0.025": 3, "600.0": 3, "+Inf": 4}
    assert {le: value(f"{name}_bucket", **VERSION, le=le) for le in rows} == rows
    assert value(f"{name}_count", **VERSION) == 4
    assert value(f"{name}_sum", **VERSION) == pytest.approx(700.0211)


def test_time_to_first_byte(metrics: Metrics, value: Value) -> None:
    """Only calls with a response have a time to the first byte."""
    metrics.calls.ended(CONNECTION, ended(b"Version", took=2, first_byte=0.5))
    metrics.calls.ended(CONNECTION, ended(b"Version", StatusCode.CANCELLED, took=2))
    name = "criproxy_time_to_first_byte_seconds"
    assert (value(f"{name}_count", **VERSION), value(f"{name}_sum", **VERSION)) == (1, 0.5)
    assert value("criproxy_call_duration_seconds_count", **VERSION) == 2


def test_sizes_and_overhead(metrics: Metrics, value: Value) -> None:
    """Bytes are counted by direction and method, overhead over all methods."""
    call = ended(b"Version", request=(1, 64), response=(3, 70_000), overhead=0.0003)
    metrics.calls.ended(CONNECTION, call)
    assert value("criproxy_request_bytes_sum", **VERSION) == 64
    assert value("criproxy_request_bytes_bucket", **VERSION, le="64.0") == 1
    assert value("criproxy_response_bytes_sum", **VERSION) == 70_000
    assert value("criproxy_response_bytes_bucket", **VERSION, le="65536.0") == 0
    assert value("criproxy_response_bytes_bucket", **VERSION, le="262144.0") == 1
    assert value("criproxy_overhead_seconds_sum") == 0.0003
    assert value("criproxy_overhead_seconds_bucket", le="0.0005") == 1


def test_calls_in_flight(
    metrics: Metrics, in_flight: CallsInFlight, clock: Clock, value: Value
) -> None:
    """Calls in flight are exported with their number and the age of the oldest."""
    first, second = running(b"Version", 1000.0), running(b"Version", 1005.0)
    for call in (first, second, running(b"/some.Thing/Else", 1006.0)):
        in_flight.began(CONNECTION, call)
    clock.now = 1010.0
    count, age = "criproxy_calls_in_flight", "criproxy_oldest_call_age_seconds"
    assert (value(count, **VERSION), value(age, **VERSION)) == (2, 10.0)
    assert (value(count, **OTHER), value(age, **OTHER)) == (1, 4.0)
    in_flight.ended(first)
    assert (value(count, **VERSION), value(age, **VERSION)) == (1, 5.0)
    in_flight.ended(second)
    metrics.calls.ended(CONNECTION, ended(b"Version"))
    assert (value(count, **VERSION), value(age, **VERSION)) == (0, 0.0)


def test_reasons_are_there_from_the_start(metrics: Metrics, value: Value) -> None:
    """Every reason of unread connections is exported from 0 on, so that rates work."""
    rows = {reason: value("criproxy_unread_connections_total", reason=reason) for reason in REASONS}
    assert rows == dict.fromkeys(REASONS, 0)


class Held:
    streams = 0
    bytes = 0


class Counts:
    def __init__(self) -> None:
        self.matches = Counter({("first", "deny", "enforce"): 0})
        self.errors: Counter[tuple[str, str]] = Counter()
        self.denied: Counter[tuple[str, str, str]] = Counter()


def test_rules(metrics: Metrics, value: Value) -> None:
    """Counters of rules and held streams are read during a scrape."""
    counts, held = Counts(), Held()
    metrics.add_rules(counts, held)
    labels = {"rule": "first", "action": "deny", "mode": "enforce"}
    assert value("criproxy_rule_matches_total", **labels) == 0
    counts.matches["first", "deny", "enforce"] += 2
    counts.matches["first", "deny", "dry-run"] += 1
    counts.errors["first", "cel"] += 3
    held.streams, held.bytes = 4, 5
    assert value("criproxy_rule_matches_total", **labels) == 2
    assert value("criproxy_rule_matches_total", **labels | {"mode": "dry-run"}) == 1
    assert value("criproxy_rule_errors_total", rule="first", reason="cel") == 3
    counts.denied["a.sock", "ExecSync", "method"] += 6
    denied = {"listener": "a.sock", "method": "ExecSync", "reason": "method"}
    assert value("criproxy_denied_total", **denied) == 6
    assert value("criproxy_held_streams") == 4
    assert value("criproxy_held_bytes") == 5


class AuditNumbers:
    def __init__(self) -> None:
        self.sinks = {"file": SinkCounts(written=7, errors=2, backlog=3, backlog_bytes=400)}
        self.waiting, self.refused_calls = 4, 5


def test_audit(metrics: Metrics, value: Value) -> None:
    """Counters of audit records by sink, and of waiting calls, are exported."""
    counts = AuditNumbers()
    counts.sinks["file"].dropped["queue_full"] += 6
    metrics.add_audit(counts)
    assert value("criproxy_audit_records_total", sink="file") == 7
    assert value("criproxy_audit_dropped_total", sink="file", reason="queue_full") == 6
    assert value("criproxy_audit_errors_total", sink="file") == 2
    assert value("criproxy_audit_queue_records", sink="file") == 3
    assert value("criproxy_audit_queue_bytes", sink="file") == 400
    assert value("criproxy_audit_waiting_calls") == 4
    assert value("criproxy_audit_refused_total") == 5


def test_exported_text(metrics: Metrics) -> None:
    """Prometheus' parser accepts the exposition, which has the documented names."""
    metrics.calls.ended(CONNECTION, ended(b"Version"))
    metrics.connections.labels(CONNECTION.listener).inc()
    metrics.add_rules(Counts(), Held())
    daemon = DaemonMetrics("1.2.3", lambda: [snapshot(metrics.registry)])
    daemon.runtime_up.set(True)
    text = generate_latest(daemon.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {
        "criproxy_calls",
        "criproxy_call_duration_seconds",
        "criproxy_time_to_first_byte_seconds",
        "criproxy_overhead_seconds",
        "criproxy_request_bytes",
        "criproxy_response_bytes",
        "criproxy_calls_in_flight",
        "criproxy_oldest_call_age_seconds",
        "criproxy_connections",
        "criproxy_runtime_up",
        "criproxy_unread_connections",
        "criproxy_log_lines_dropped",
        "criproxy_rule_matches",
        "criproxy_rule_errors",
        "criproxy_held_streams",
        "criproxy_held_bytes",
        "criproxy_config_reload_success",
        "criproxy_config_reload_timestamp_seconds",
        "criproxy_worker_up",
        "criproxy_worker_restarts",
        "criproxy_build_info",
        "process_resident_memory_bytes",
    } <= set(families)
    assert families["criproxy_build_info"].samples[0].labels["version"] == "1.2.3"
    assert families["criproxy_runtime_up"].samples[0].value == 1


def test_exemplars() -> None:
    """A bucket has the last of its calls that have a span for an exemplar, in OpenMetrics only."""
    metrics = Metrics(CallsInFlight(SlowCalls(0, {})), lambda: 0.0)
    spans = [SpanReference("a" * 32, "1" * 16, 5.5), SpanReference("b" * 32, "2" * 16, 6.5), None]
    for span in spans:
        metrics.calls.ended(CONNECTION, ended(b"Version", took=0.003), span)
    families = parse_openmetrics(openmetrics(metrics.registry).decode())
    exemplars = {
        (sample.name, sample.labels.get("le")): sample.exemplar
        for family in families
        for sample in family.samples
        if sample.exemplar is not None
    }
    found = exemplars["criproxy_call_duration_seconds_bucket", "0.005"]
    assert found.labels == {"trace_id": "b" * 32, "span_id": "2" * 16}
    assert (found.value, float(found.timestamp)) == (0.003, 6.5)
    assert ("criproxy_call_duration_seconds_bucket", "0.01") not in exemplars
    assert "a" * 32 not in generate_latest(metrics.registry).decode()
    assert "b" * 32 not in generate_latest(metrics.registry).decode()
