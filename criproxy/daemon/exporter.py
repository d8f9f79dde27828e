"""The exporter process: makes and sends the spans of traces.

Imported only if the configuration has traces, since protobuf costs memory.
"""

import socket

from criproxy.observe.metrics import TraceMetrics
from criproxy.observe.metrics_merge import ProcessMetrics
from criproxy.traces.exporter.server import serve_exporter


def run_exporter(control: int) -> int:
    """Serve until the supervisor closes its end of ``control``; return the exit status."""
    metrics = ProcessMetrics()
    return serve_exporter(
        socket.socket(fileno=control), lambda counts: metrics.snapshot(TraceMetrics(counts))
    )
