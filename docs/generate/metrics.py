"""The reference of metrics, from the registry that the daemon exports."""

from typing import ClassVar, Final

from prometheus_client.metrics_core import Metric

from criproxy.audit.counts import DROPS, SinkCounts
from criproxy.capture.counts import DROPS as CAPTURE_DROPS
from criproxy.capture.counts import CaptureCounts
from criproxy.enforce.counts import DENIALS, Counts
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.metrics import DaemonMetrics, Metrics
from criproxy.observe.metrics_merge import snapshot
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.errors import REASONS as RULE_REASONS
from criproxy.traces.counts import DROPS as SPAN_DROPS
from criproxy.traces.counts import TraceCounts
from criproxy.wire.errors import INTERNAL_ERROR, WireError
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.reading.calls import Call
from docs.generate.descriptions import summary
from docs.generate.markdown import code, meanings, table

_INTRODUCTION: Final = """\
# Metrics

`/metrics` serves these in the Prometheus exposition format, together with `process_*` (memory, CPU,
file descriptors) of the daemon and `*_created` timestamps. CPU time and memory are sums over the
daemon's processes: `process_resident_memory_bytes` counts pages that these share in each of them.
`process_open_fds` and `process_max_fds` are those of the process that is nearest to its limit.

`service` and `method` are those of the CRI (`runtime.v1.RuntimeService`, `CreateContainer`), and
`other` for everything else. `code` is the name of the gRPC code (`OK`, `NOT_FOUND`), or `UNREAD`.

A scraper that accepts `application/openmetrics-text` is given OpenMetrics, in which a bucket of the
histograms of calls has an exemplar: `trace_id` and `span_id` of the last call in it that has a span
([traces](../how-to/traces.md)).

"""

_SUFFIXES: Final = {"counter": "_total", "info": "_info"}


class _NoRecords:
    """The counts of an audit log with one sink that has dropped one record."""

    sinks: ClassVar[dict[str, SinkCounts]] = {"": SinkCounts()}
    waiting = refused_calls = 0


def families() -> str:
    """Return the page of metrics."""
    rows = [
        (code(name), family.type, ", ".join(map(code, _labels(family))), family.documentation)
        for name, family in exported().items()
    ]
    return (
        _INTRODUCTION
        + table(("Name", "Type", "Labels", "Meaning"), rows)
        + "\n## Reasons of unread connections\n\n"
        + meanings(("`reason` of `criproxy_unread_connections_total`", "Meaning"), _unread())
        + "\n## Reasons of denied calls\n\n"
        + meanings(("`reason` of `criproxy_denied_total`", "Meaning"), DENIALS.items())
        + "\n## Reasons of rule errors\n\n"
        + meanings(("`reason` of `criproxy_rule_errors_total`", "Meaning"), RULE_REASONS.items())
        + "\n## Reasons of dropped audit records\n\n"
        + meanings(("`reason` of `criproxy_audit_dropped_total`", "Meaning"), DROPS.items())
        + "\n## Reasons of dropped spans\n\n"
        + meanings(("`reason` of `criproxy_traces_dropped_total`", "Meaning"), SPAN_DROPS.items())
        + "\n## Reasons of records that are not captured\n\n"
        + meanings(
            ("`reason` of `criproxy_capture_dropped_total`", "Meaning"), CAPTURE_DROPS.items()
        )
    )


def exported() -> dict[str, Metric]:
    """Return the daemon's own metric families by the name under which Prometheus stores them."""
    counts = Counts()
    counts.count_match("", "", dry_run=False)
    counts.count_failure("", "")
    counts.count_denial("", "", "")
    _NoRecords.sinks[""].dropped[""] = 1
    metrics = Metrics(CallsInFlight(SlowCalls(0, {})), lambda: 0.0)
    metrics.connections.labels("")
    metrics.refused.labels("", "")
    metrics.rate_exceeded.labels("")
    metrics.calls.ended(Connection("", Peer(0, 0, 0, None), 0.0), Call(1, b"", b"", True, 0.0))
    metrics.add_rules(counts, HeldBytesBudget())
    metrics.add_audit(_NoRecords())
    traces = TraceCounts()
    traces.dropped[""] = 1
    metrics.add_traces(traces)
    captures = CaptureCounts()
    captures.dropped[""] = captures.cassettes[""] = 1
    metrics.add_capture(captures)
    daemon = DaemonMetrics("0", lambda: [snapshot(metrics.registry)])
    daemon.worker_up("", up=True)
    daemon.worker_restarted("")
    daemon.bypassed.labels("")
    daemon.direct_connected({("", ""): 1})
    return {
        family.name + _SUFFIXES.get(family.type, ""): family
        for family in daemon.registry.collect()
        if family.name.startswith("criproxy_")
    }


def _labels(family: Metric) -> list[str]:
    """Return the names of a family's labels, those of buckets excepted."""
    declared = [name for sample in family.samples for name in sample.labels]
    return [name for name in dict.fromkeys(declared) if name != "le"]


def _unread() -> list[tuple[str, str]]:
    kinds = [(kind.reason, summary(kind)) for kind in WireError.__subclasses__()]
    return [*kinds, (INTERNAL_ERROR, "An error in criproxy; the log contains the traceback.")]
