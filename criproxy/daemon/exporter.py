"""The exporter process: makes and sends the spans of traces.

Imported only if the configuration has traces, since protobuf costs memory.
"""

import socket

from prometheus_client import CollectorRegistry, ProcessCollector

from criproxy.observe.metrics import TraceMetrics
from criproxy.observe.metrics_merge import Snapshot, snapshot
from criproxy.traces.counts import TraceCounts
from criproxy.traces.exporter.server import serve_exporter


def run_exporter(control: int) -> int:
    """Serve until the supervisor closes its end of ``control``; return the exit status."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    def describe(counts: TraceCounts) -> Snapshot:
        metrics = TraceMetrics(counts)
        registry.register(metrics)
        try:
            return snapshot(registry)
        finally:
            registry.unregister(metrics)

    return serve_exporter(socket.socket(fileno=control), describe)
