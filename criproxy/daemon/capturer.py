"""The capturer process: keeps the last calls with their messages, and writes cassettes.

Imported only if the configuration has captures, since protobuf costs memory.
"""

import socket

from criproxy.capture.capturer.server import serve_capturer
from criproxy.observe.metrics import CaptureMetrics
from criproxy.observe.metrics_merge import ProcessMetrics


def run_capturer(control: int) -> int:
    """Serve until the supervisor closes its end of ``control``; return the exit status."""
    metrics = ProcessMetrics()
    return serve_capturer(
        socket.socket(fileno=control), lambda counts: metrics.snapshot(CaptureMetrics(counts))
    )
